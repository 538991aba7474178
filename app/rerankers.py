"""The word for a reranker → the reranker, and what decides its scores. It knows no search.

none, packaged               no reranker, the one that comes with Fathom
NAME                         a cross-encoder: its folder or its name on the hub
llm[:KIND][:ENGINE]          a language model; KIND is pointwise (where none is named), pairwise or listwise, and
                             ENGINE a word of `engine_named`, where none is named the settings' own engine
score:http://HOST:PORT/v1[#MODEL]   a server that serves a reranker
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from app.settings import EngineSettings, Settings
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from retrieval.llm_reranking.calibration import Platt
    from retrieval.reranking.load import Reranker

Kind = Literal["pointwise", "pairwise", "listwise"]
SCORE = "score:"


@dataclass(frozen=True, slots=True)
class LanguageModelWord:
    """What `llm[:KIND][:ENGINE]` says."""

    kind: Kind
    engine: str | None


def language_model_word(word: str) -> LanguageModelWord | None:
    """What the word says of a language model; None where it names no one. Raises UsageError for an empty part."""
    if word != "llm" and not word.startswith("llm:"):
        return None
    rest = word.removeprefix("llm").removeprefix(":")
    kind, _, engine = rest.partition(":")
    if kind in get_args(Kind):
        found = LanguageModelWord(cast(Kind, kind), engine or None)
    else:
        found = LanguageModelWord("pointwise", rest or None)
    if word.endswith(":"):
        raise UsageError(f"the reranker '{word[:80]}' ends in a colon; write llm, llm:listwise or llm:pairwise:ENGINE")
    return found


def reranker_named(
    settings: Settings,
    word: str,
    llm: "Callable[[str | None], LLM]",
    *,
    seconds: float | None = None,
    counting: bool = False,
) -> "Reranker | None":
    """The reranker behind a word, None behind "none"; `llm` gives the engine behind one. A language model reads no
    further passages after `seconds`, and the rest keep their order. `counting`: its tokens too.

    Raises UsageError for a word that means nothing and for an engine that cannot do it, and what loading raises.
    """
    if word.startswith(SCORE):
        from app.engines.score_server import load_score_server

        server = _score_server(settings, word)
        key = server.api_key.get_secret_value() if server.api_key else None
        return load_score_server(str(server.url), model=_model(server), api_key=key)
    said = language_model_word(word)
    if said is None:
        from retrieval.reranking.load import load_reranker

        ours = settings.embedding
        return load_reranker(word, threads=ours.threads, cache=ours.cache, download=ours.download)
    if said.kind == "listwise":
        from retrieval.llm_reranking.listwise import ListwiseReranker

        return ListwiseReranker(llm(said.engine), seconds=seconds)
    from retrieval.llm_reranking.pointwise import PointwiseReranker

    engine = llm(said.engine)
    fitted = calibration_of(settings, said.engine)
    pointwise = PointwiseReranker(engine, calibration=fitted, seconds=seconds, counting=counting)
    if said.kind == "pointwise":
        return pointwise
    from retrieval.llm_reranking.pairwise import PairwiseReranker

    return PairwiseReranker(engine, pointwise, seconds=seconds, counting=counting)


def reranker_identity(settings: Settings, word: str, engine: Callable[[str | None], Any]) -> Any:
    """What decides a reranker's scores, ready for JSON; None for "none". `engine` says it of an engine's word."""
    if word.startswith(SCORE):
        server = _score_server(settings, word)
        return {"server": server.url, "model": _model(server)}
    said = language_model_word(word)
    if said is None:
        from retrieval.reranking.load import reranker_identity as of_files

        return of_files(word, cache=settings.embedding.cache_folder(), download=settings.embedding.download)
    from dataclasses import asdict

    from retrieval.llm_reranking.judging import JUDGE_VERSION
    from retrieval.llm_reranking.listwise import LISTWISE_VERSION
    from retrieval.llm_reranking.pairwise import PAIRWISE_VERSION

    versions = {
        "pointwise": JUDGE_VERSION,
        "pairwise": f"{JUDGE_VERSION} {PAIRWISE_VERSION}",
        "listwise": LISTWISE_VERSION,
    }
    fitted = calibration_of(settings, said.engine) if said.kind != "listwise" else None
    return {
        "kind": said.kind,
        "engine": engine(said.engine),
        "prompt_version": versions[said.kind],
        "calibration": asdict(fitted) if fitted is not None else None,
    }


def calibration_of(settings: Settings, engine: str | None) -> "Platt | None":
    """What lies beside the engine's adapter for reranking, else beside the adapter or the model that its word names.
    Raises DamagedError."""
    from app.build import adapters_of, engine_settings
    from retrieval.llm_reranking.calibration import read_calibration
    from retrieval.roles import RERANKER

    ours = engine_settings(settings, engine)
    if ours.name == "server":
        return None
    role = adapters_of(ours, frozenset([RERANKER])).get(RERANKER)
    for place in (role,) if role is not None else (ours.adapter, ours.model):
        folder = Path(place).expanduser() if place else None
        if folder is not None and folder.is_dir() and (found := read_calibration(folder)) is not None:
            return found
    return None


def _score_server(settings: Settings, word: str) -> EngineSettings:
    from app.build import engine_settings

    url = word.removeprefix(SCORE)
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"'{word[:80]}' names no server; write score:http://127.0.0.1:8000/v1#MODEL")
    return engine_settings(settings, url)


def _model(server: EngineSettings) -> str | None:
    return server.model.as_posix() if server.model else None
