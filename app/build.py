"""The one page that says which class stands behind which word: embedder, reader, engine, collection. Imports happen
inside, so that a command loads only what it uses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from app.settings import EngineSettings, Settings, on_registered_model
from app.workspace import DEFAULT_COLLECTION, collection_name
from retrieval.errors import MissingError, UsageError

if TYPE_CHECKING:
    import threading

    from llama_index.core.llms import LLM

    from app.assistance import Assistance
    from retrieval.answering import AnswerEvent
    from retrieval.collection import Collection, SearchSettings
    from retrieval.embedding.embedder import Embedder
    from retrieval.embedding.loader import EmbedderLoader
    from retrieval.filters import Filter
    from retrieval.finding import Found
    from retrieval.prompts import Message
    from retrieval.reading.reader import Reader
    from retrieval.reranking.sentences import SentenceReader
    from retrieval.rewriting.plans import Planner
    from retrieval.supporting.checker import SupportChecker


def search_settings(settings: Settings) -> "SearchSettings":
    """How collections fuse, where the settings say so."""
    from retrieval.collection import SearchSettings

    return SearchSettings(**settings.search.per_collection())


def embedder(settings: Settings) -> "EmbedderLoader":
    """Loads the embedding model at its first call and gives the same one ever after; a collection that holds an adapter
    of its own takes the model under that."""
    from retrieval.embedding.loader import EmbedderLoader

    return EmbedderLoader(settings.embedding)


def reader(settings: Settings) -> "Reader":
    """Files → documents, in limited child processes. Close it."""
    from retrieval.reading.reader import Reader

    return Reader(settings.reading)


def engine(settings: Settings, tell: Callable[[str], None] = lambda _: None) -> "LLM":
    """The language model that writes answers. One on this machine loads in the background, in a process of its own: its
    files have been looked at, and what else may be wrong with it the first call says. `tell` gets a sentence for people
    where that call waits long: a model is made ready for this machine the first time.

    Close it. Raises UsageError, MissingError, DamagedError.
    """
    ours = settings.engine
    manners, loading = ours.chosen_manners(), ours.chosen_loading()
    if limits := ours.chosen_limits():
        from app.engines.generating import TimeLimits

        manners["limits"] = TimeLimits(**limits)
    if ours.name == "server":
        from app.engines.server import load_server

        if ours.adapters:
            loading["adapters"] = {role: name.as_posix() for role, name in ours.adapters.items()}
        return load_server(
            str(ours.url),
            model=ours.model.as_posix() if ours.model else None,
            api_key=ours.api_key.get_secret_value() if ours.api_key else None,
            **manners,
            **loading,
        )
    from app.engines.hub_file import resolved

    model = resolved(ours.model) if ours.model else None
    if ours.adapter:
        loading["adapter"] = ours.adapter.expanduser().absolute()
    loading["adapters"] = adapters_of(ours, roles_wanted(settings))
    loading["log"] = settings.logs / "engine.log"
    if ours.name == "local":
        from app.engines.local import load_local

        name = model.as_posix() if model else None
        return load_local(name, cache=settings.cache / "evaluation", **loading, **manners)
    from app.engines.embedded import load_embedded

    return load_embedded(model, cache=settings.cache, tell=tell, **loading, **manners)


def adapters_of(engine: EngineSettings, roles: frozenset[str]) -> dict[str, Path]:
    """Folders of the adapters that an engine on this machine has, by role: those that were named, else, on the model
    that comes with Fathom, its adapters for `roles`."""
    from eval.models.packaged import packaged_adapters

    if engine.adapters is not None:
        return dict(engine.adapters)
    if engine.model is not None or engine.adapter is not None:
        return {}
    return {role: folder for role, folder in packaged_adapters().items() if role in roles}


def roles_wanted(settings: Settings) -> frozenset[str]:
    """The roles that the settings use. An adapter that nobody asks for costs speed all the same: a graph that can take
    one writes 47 tokens/s in place of 88."""
    from retrieval.rewriting.naming import AUTO
    from retrieval.roles import ANSWERER, RERANKER, REWRITER

    used = {
        ANSWERER: settings.answer.answerer,
        REWRITER: settings.assist.rewriter in (AUTO, "model"),
        RERANKER: (settings.assist.reranker or "").partition(":")[0] == "llm",
    }
    return frozenset(role for role, is_used in used.items() if is_used)


def engine_named(settings: Settings, name: str | None) -> "LLM":
    """The engine behind a word; everything that the word leaves open is as the settings say. See `engine`.

    None is the settings' own engine, "embedded" and "local" those engines, "local:MODEL" that one on a model, the name
    of a registered model the embedded engine on its export, else the local one on it, a GGUF file or OpenVINO folder
    the embedded engine on it, a folder with safetensors the local one on it, `http://host:port/v1` a server,
    `http://host:port/v1#name` a model or adapter on it. The folder of an adapter is the model that comes with Fathom
    under it, by the settings' own kind of engine; "local:FOLDER" and "embedded:FOLDER" say which. The key is shown to
    the server of the settings only (to any if they name none). Raises UsageError, MissingError, DamagedError.
    """
    return engine(replace(settings, engine=engine_settings(settings, name)))


def engine_settings(settings: Settings, name: str | None) -> EngineSettings:
    """What `engine_named` takes a word for. Raises UsageError."""
    ours = settings.engine
    if name is None or (name == "server" and ours.name == "server"):
        return ours
    if name.startswith(("http://", "https://")):
        from app.engines.endpoint import address, origin

        url, _, model = name.partition("#")
        trusted = ours.url is None or origin(address(ours.url)) == origin(address(url))
        return replace(
            ours,
            name="server",
            url=url,
            model=Path(model) if model else None,
            adapter=None,
            adapters=None,
            api_key=ours.api_key if trusted else None,
        )
    # What the settings name is the model of this engine, unless they speak of a server's.
    kept = {} if ours.name != "server" else {"model": None, "adapter": None, "adapters": None}
    if name == "embedded":
        return replace(ours, name="embedded", url=None, **kept)
    if name == "local":
        return replace(ours, name="local", url=None, **kept)
    from adapt.registry import is_adapter_folder, is_registered

    kind, _, place = name.rpartition(":")
    if kind in ("", "local", "embedded") and place and is_adapter_folder(Path(place).expanduser()):
        on: Literal["local", "embedded"] = "local" if (kind or ours.name) == "local" else "embedded"
        return replace(ours, name=on, url=None, model=None, adapter=Path(place), adapters=None)
    if name.startswith("local:") and len(name) > len("local:"):
        base = Path(name.removeprefix("local:"))
        chosen = replace(ours, name="local", url=None, model=base, adapter=None, adapters=None)
        return on_registered_model(chosen, settings.models)
    if is_registered(settings.models, name):
        chosen = replace(ours, name="embedded", url=None, model=Path(name), adapter=None, adapters=None)
        return on_registered_model(chosen, settings.models)
    folder = Path(name).expanduser()
    if name.endswith(".gguf") or (name and folder.is_dir()):
        bare = (folder / "config.json").is_file() and not (folder / "openvino_model.xml").is_file()
        chosen = replace(ours, name="local" if bare else "embedded", url=None, model=Path(name))
        return replace(chosen, adapter=None, adapters=None)
    raise UsageError(
        f"no engine '{name[:80]}'; write 'embedded', 'local', 'local:MODEL', the name of a registered model, the path "
        "of a .gguf file or of a model's folder, or the address of a server, as in http://127.0.0.1:8000/v1#model"
    )


def collection_names(settings: Settings) -> list[str]:
    """Names of the collections in the workspace, sorted; other folders there are left out."""
    names = []
    if settings.collections.is_dir():
        for folder in settings.collections.iterdir():
            try:
                if folder.is_dir() and not folder.is_symlink() and collection_name(folder.name) == folder.name:
                    names.append(folder.name)
            except UsageError:
                continue  # not made by Fathom
    return sorted(names)


def collection_exists(settings: Settings, name: str | None) -> bool:
    """Whether the collection (None: the default one) is there. An empty folder is none."""
    folder = settings.collection_folder(name or DEFAULT_COLLECTION)
    return folder.is_dir() and any(folder.iterdir())


def open_collection(
    settings: Settings,
    name: str | None,
    *,
    write: bool = False,
    wait: float = 0.0,
    doing: str = "",
    load: "Callable[[], Embedder] | None" = None,
) -> "Collection":
    """An existing collection (None: the default one). Raises MissingError that names those there are."""
    name = collection_name(name or DEFAULT_COLLECTION)
    if not collection_exists(settings, name):
        known = collection_names(settings)
        there = f"there are {', '.join(known)}" if known else "there is none yet"
        raise MissingError(
            f"no collection '{name}' in {settings.workspace} ({there}); make it with "
            f"'fathom index sync FOLDER{'' if name == DEFAULT_COLLECTION else f' --collection {name}'}'"
        )
    from retrieval.collection import Collection

    return Collection.open(
        settings.collection_folder(name),
        embedder=load or embedder(settings),
        write=write,
        wait=wait,
        doing=doing,
        settings=search_settings(settings),
    )


def open_or_create(
    settings: Settings,
    name: str | None,
    *,
    wait: float,
    doing: str,
    load: "Callable[[], Embedder] | None" = None,
) -> "Collection":
    """The collection opened for writing; made first where it is not there."""
    name = collection_name(name or DEFAULT_COLLECTION)
    load = load or embedder(settings)
    if collection_exists(settings, name):
        return open_collection(settings, name, write=True, wait=wait, doing=doing, load=load)
    from retrieval.collection import Collection

    settings.collections.mkdir(parents=True, exist_ok=True)
    return Collection.create(
        settings.collection_folder(name),
        name=name,
        embedder=load,
        split=settings.splitting,
        settings=search_settings(settings),
        doing=doing,
        adapter=settings.embedding.adapter,
    )


def found(
    settings: Settings,
    collection: "Collection",
    question: str,
    *,
    assistance: "Assistance",
    planner: "Planner",
    filters: "Sequence[Filter]" = (),
    history: "Sequence[Message]" = (),
) -> "Found":
    """What is found for a question, with the help that the settings say."""
    from retrieval.finding import find

    finding = assistance.finding_in(collection)
    return find(
        question,
        history,
        collection=collection,
        filters=filters,
        planner=planner,
        reranker=assistance.reranker(finding=finding),
        settings=finding,
        **settings.search.per_query(),
    )


def writes(settings: Settings) -> bool:
    """Whether the engine of the settings writes answers where nobody says otherwise, or their sources are quoted."""
    ours = settings.engine
    if settings.answer.mode != "auto":
        return settings.answer.mode == "generate"
    as_it_came = ours.name != "server" and ours.model is None and ours.adapter is None
    return not as_it_came or settings.answer.answerer


def answer_events(
    settings: Settings,
    collection: "Collection",
    question: str,
    *,
    llm: "LLM | None",
    quote: bool = False,
    assistance: "Assistance | None" = None,
    planner: "Planner | None" = None,
    k: int | None = None,
    filters: "Sequence[Filter]" = (),
    history: "Sequence[Message | Mapping[str, str]]" = (),
    stop: "threading.Event | None" = None,
) -> "Iterator[AnswerEvent]":
    """The events of one answer. With `quote`, or without `llm`, it quotes; an `llm` rewrites follow-ups all the same.
    `k` None is as many as the settings say. `assistance` is kept from question to question by whoever answers several.
    """
    from app.assistance import Assistance
    from retrieval.answering import answer_stream

    assistance = assistance or Assistance(settings)
    finding = assistance.finding_in(collection)
    chosen = settings.search.per_query()
    mode = chosen.pop("mode", None)
    if k is not None:
        chosen["k"] = k
    if mode is not None:
        chosen["search_mode"] = mode
    return answer_stream(
        question,
        collection=collection,
        llm=llm,
        mode="quote" if quote or llm is None else "generate",
        filters=filters,
        history=history,
        # The search has loaded it already; a lexical one must not for the quotes' sake.
        embedder=None if mode == "lexical" else collection.embedder(),
        settings=settings.answer,
        checker=None if quote else support_checker(settings, llm),
        reader=sentence_reader(settings),
        planner=planner or assistance.planner(llm),
        reranker=assistance.reranker(llm, finding=finding),
        finding=finding,
        stop=stop,
        **chosen,
    )


def sentence_reader(settings: Settings) -> "SentenceReader | None":
    """What helps to choose quotations, made once and loaded at its first use; None where nothing does."""
    ours = settings.embedding
    return _sentence_reader(settings.answer.quote_by, ours.threads, ours.cache)


@cache
def _sentence_reader(word: str, threads: int, folder: Path | None) -> "SentenceReader | None":
    from retrieval.reranking.sentences import reader_named

    return reader_named(word, threads=threads, cache=folder)


def support_checker(settings: Settings, llm: "LLM | None") -> "SupportChecker | None":
    """What tells whether passages bear an answer out, None where shared words do. A trained one is loaded once.

    Raises UsageError, MissingError, MismatchError, DamagedError.
    """
    word = settings.answer.support
    if llm is None or word == "lexical":
        return None
    if word == "llm":
        from retrieval.supporting.load import load_checker

        return load_checker(word, llm=lambda: llm)
    return _trained_checker(word, settings.embedding.cache_folder())


@cache
def _trained_checker(word: str, folder: Path) -> "SupportChecker":
    from retrieval.supporting.load import load_checker

    return load_checker(word, cache=folder)
