"""The commands of `fathom eval` → measured parts: which class stands behind which word, the run's folder, the table.

It measures nothing itself and knows no kind of part.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.build import adapters_of, embedder, engine_settings, open_collection, roles_wanted, search_settings
from app.commands.evaluation.options import Ended
from app.commands.options import Run
from app.failures import DONE_WITH_ERRORS
from app.settings import EngineSettings, Settings
from app.terminal import count, seconds
from retrieval.errors import FathomError, UsageError
from retrieval.roles import RERANKER

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from eval.models.language_models import LanguageModel
    from eval.runs.executing import PartResult, RunResult
    from eval.runs.parts import Part, Tools
    from eval.runs.plans import Plan
    from eval.runs.suites import Suite
    from retrieval.collection import Collection
    from retrieval.reranking.load import Reranker
    from retrieval.rewriting.plans import Planner
    from retrieval.rewriting.rules import Rewriter
    from retrieval.supporting.checker import SupportChecker


@dataclass(frozen=True)
class RunOptions:
    """What every measuring command may be told about its run; see app/commands/evaluation/options.py."""

    run: str | None = None
    fresh: bool = False
    dry_run: bool = False
    seed: int = 0


def runs_folder(settings: Settings) -> Path:
    """Where the runs of the workspace lie."""
    return settings.workspace / "runs"


def run_folder(settings: Settings, word: str) -> Path:
    """The folder of a run: its name in the workspace, a path to it, or `latest`. Raises UsageError."""
    from eval.runs.plans import manifests
    from eval.runs.run_folder import MANIFEST

    runs = runs_folder(settings)
    found = [folder for folder, _ in manifests(runs)]
    if word == "latest" and found:
        return found[0]
    for folder in (runs / word, Path(word).expanduser()):
        if (folder / MANIFEST).is_file():
            return folder
    some = ", ".join(folder.name for folder in found[:5]) + (" …" if len(found) > 5 else "")
    there = f"the newest are {some}" if found else f"there is none in {runs} yet"
    raise UsageError(f"no run '{word[:200]}': give a name, a folder, or 'latest' ({there})")


def tools(settings: Settings) -> "Tools":
    """Everything a part may ask for, as the settings say; each thing is loaded at its first use and once."""
    from eval.runs.parts import Tools

    load = embedder(settings)

    @cache
    def llm(name: str | None) -> "LLM":
        from app.build import engine_named

        return engine_named(settings, name)

    @cache
    def judge(name: str | None) -> "LLM":
        from app.build import engine_named

        wanting = judging(settings)
        return llm(name) if wanting == settings else engine_named(wanting, name)

    @cache
    def reranker(name: str | None) -> "Reranker":
        from app.rerankers import reranker_named

        found = reranker_named(settings, name or "none", judge, counting=True)
        if found is None:
            raise UsageError("no reranker is named; give 'packaged', a cross-encoder's name or folder, or 'llm'")
        return found

    @cache
    def rewriter(name: str | None) -> "Rewriter":
        from retrieval.rewriting.naming import rewriter_named

        return rewriter_named(name, llm)

    def planner(word: str, answering: "LLM | None") -> "Planner":
        from retrieval.rewriting.naming import planner_named

        def engine(name: str | None) -> "LLM":
            return answering if name is None and answering is not None else llm(name)

        return planner_named(word, engine, passage=settings.assist.passage)

    @cache
    def checker(word: str, name: str | None = None) -> "SupportChecker":
        from retrieval.supporting.load import load_checker

        return load_checker(word, llm=lambda: llm(name), cache=settings.embedding.cache_folder())

    @cache
    def language_model(name: str | None) -> "LanguageModel":
        from eval.models.language_models import load_language_model

        return load_language_model(name, cache=settings.cache / "evaluation")

    @cache
    def collection(name: str) -> "Collection":
        return open_collection(settings, name, load=load)

    from app.adapted_engines import adapted, adapters_there

    return Tools(
        cache=settings.cache / "evaluation",
        adapters=lambda: adapters_there(settings),
        adapted=lambda word, roles: adapted(settings, word, roles),
        embedder=load,
        llm=llm,
        language_model=language_model,
        reranker=reranker,
        rewriter=rewriter,
        planner=planner,
        checker=checker,
        collection=collection,
        search=search_settings(settings),
        splitting=settings.splitting,
        answer=settings.answer,
        assist=settings.assist,
        identity=_identity(settings),
    )


def judging(settings: Settings) -> Settings:
    """The settings with engines that take the adapter for reranking, where a flag asks for what they do not."""
    if RERANKER in roles_wanted(settings):
        return settings
    return replace(settings, assist=replace(settings.assist, reranker="llm"))


def _identity(settings: Settings) -> Callable[..., Any]:
    """See `Tools.identity`. Threads, devices and time limits are left out: they change figures by rounding at most."""
    from retrieval.finding import as_tuned
    from retrieval.rewriting.naming import RULES, engine_word

    def embedding() -> dict[str, Any]:
        names = ("model", "precision", "query_prefix", "passage_prefix")
        found = {name: getattr(settings.embedding, name) for name in names}
        return found | {"weights": model_weights(settings.embedding.model)}

    def model_weights(name: str) -> str:
        from retrieval.embedding.model_files import find_model, weights_hash

        return weights_hash(find_model(name, download=settings.embedding.download), settings.embedding.cache_folder())

    def splitting() -> dict[str, Any]:
        from retrieval.splitting import SPLITTER_VERSION

        return asdict(settings.splitting) | {"version": SPLITTER_VERSION}

    def search() -> dict[str, Any]:
        from retrieval.tokenising import TOKENISER_VERSION

        return asdict(search_settings(settings)) | settings.search.per_query() | {"tokeniser": TOKENISER_VERSION}

    def engine(*words: str | None, on: Settings = settings) -> dict[str, Any]:
        word = next((word for word in words if word), None)
        ours = engine_settings(settings, word)
        names = ("max_new_tokens", "temperature", "repetition_penalty")  # the key is none of them
        found: dict[str, Any] = {name: getattr(ours, name) for name in names}
        if ours.name == "server":
            by_word = word is not None and "://" in word
            if by_word:
                return found | {"url": word, "model": None}
            served = {role: name.as_posix() for role, name in (ours.adapters or {}).items()}
            return found | {"url": ours.url, "model": _model_word(ours)} | ({"adapters": served} if served else {})
        if roles := adapters_of(ours, roles_wanted(on)):
            found["adapters"] = {role: model_hash(folder) for role, folder in roles.items()}
        if ours.name == "local":
            base = language_model(_model_word(ours), ours.adapter)
            return found | base | {"engine": "local", "precision": ours.precision}
        from app.engines.hub_file import resolved
        from eval.models.packaged import packaged_model

        found["weights"] = model_hash(resolved(ours.model) if ours.model else packaged_model())
        return found | ({"adapter": model_hash(ours.adapter.expanduser())} if ours.adapter else {})

    def rewriter(word: str | None = None) -> dict[str, Any] | None:
        return None if word in (None, *RULES) else engine(engine_word(str(word))) | {"asked_as": word}

    def assist(planner: str | None = None, named: str | None = None) -> dict[str, Any]:
        names = ("expand", "passage", "rerank_depth", "least_relevance")
        ours = settings.assist
        word = planner or ours.rewriter
        other = engine_word(word) if word not in RULES else None
        return {name: getattr(ours, name) for name in names} | {
            "rewriter": word,
            "rewritten_by": engine(other) if other else None,
            "reranker": reranker(named or as_tuned(ours, None).reranker),
        }

    def answer() -> dict[str, Any]:
        from retrieval.reranking.sentences import reader_identity

        ours = settings.answer
        return asdict(ours) | {"reader": reader_identity(ours.quote_by, cache=settings.embedding.cache_folder())}

    def reranker(name: str | None = None) -> Any:
        from app.rerankers import reranker_identity

        return None if name is None else reranker_identity(settings, name, partial(engine, on=judging(settings)))

    def language_model(name: str | None = None, adapter: Path | None = None) -> dict[str, Any]:
        from eval.models.language_models import locate
        from retrieval.embedding.model_files import ModelFiles, weights_hash

        place = locate(name, adapter)
        weights = weights_hash(ModelFiles(place.name, place.folder, place.files), settings.embedding.cache_folder())
        return {"weights": weights, "adapter": model_hash(place.adapter) if place.adapter else None}

    def checker(*words: str | None) -> dict[str, Any] | None:
        from eval.checking import checker_words, names_checker
        from retrieval.supporting.asking import SUPPORT_VERSION
        from retrieval.supporting.load import LLM_WORD, checker_identity

        word = next((word for word in reversed(words) if word), settings.answer.support)
        kind, name = checker_words(word) if names_checker(word) else (word, None)
        if kind == LLM_WORD:
            return {"checker": LLM_WORD, "prompt_version": SUPPORT_VERSION, "engine": engine(name)}
        return checker_identity(kind, cache=settings.embedding.cache_folder())

    def collection(name: str | None = None) -> dict[str, object]:
        with open_collection(settings, name) as opened:
            return opened.set_here()

    topics: dict[str, Callable[..., Any]] = {
        "embedding": embedding,
        "splitting": splitting,
        "search": search,
        "answer": answer,
        "assist": assist,
        "engine": engine,
        "rewriter": rewriter,
        "reranker": reranker,
        "checker": checker,
        "language_model": language_model,
        "collection": collection,
    }

    @cache
    def identity(topic: str, *words: str | None) -> Any:
        return topics[topic](*words)

    return identity


def _model_word(ours: EngineSettings) -> str | None:
    return ours.model.as_posix() if ours.model else None


def model_hash(path: Path) -> str:
    """SHA-256 (hex) of a model's file, or over the names and hashes of the files in its folder. Raises UsageError."""
    import hashlib

    from retrieval.embedding.stored import file_hash

    try:
        if path.is_file():
            return file_hash(path)
        whole = hashlib.sha256()
        for file in sorted(path.iterdir()):
            if file.is_file():
                whole.update(f"{file.name}\0{file_hash(file)}\n".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()
    except OSError as error:
        raise UsageError(f"the model {path} cannot be read: {error.strerror}") from error


def measure(run: Run, kind: str, name: str, part: "Part", options: RunOptions) -> "PartResult | None":
    """Measure one part in a run of its own and return its result; None after a dry run, which is printed here.

    Raises FathomError where the part gave up; what it finished is kept and the same command goes on with it.
    """
    from eval.runs.suites import suite_of_one

    suite = suite_of_one(kind, name, part, seed=options.seed)
    result = measure_suite(run, suite, options, label=f"{kind}-{suite.name}")
    if result is None:
        return None
    (outcome,) = result.parts.values()
    if outcome.error:
        raise FathomError(outcome.error)
    return outcome


def measure_suite(run: Run, suite: "Suite", options: RunOptions, *, label: str) -> "RunResult | None":
    """Run what is not done yet of a suite; None after a dry run. A run that is finished is read and not repeated."""
    from eval.runs.executing import execute, read_run
    from eval.runs.plans import choose_place, make_plan
    from eval.runs.run_folder import read_manifest

    suite = _with_models_found(suite, run.settings.models)
    at_hand = tools(run.settings)
    with run.terminal.progress() as show:
        show("checking", 0, 0)
        plan = make_plan(suite, at_hand)
        place = choose_place(plan, runs_folder(run.settings), label=label, run=options.run, fresh=options.fresh)
        if not options.dry_run and place.found != "finished":
            if place.found == "unfinished":
                run.terminal.note(f"going on with {place.folder}; what is finished there is kept (--fresh begins anew)")
            return execute(suite, place.folder, at_hand, show, plan=plan, replace=place.found == "replaced")
    if options.dry_run:
        _print_plan(run, plan, place.folder, place.found)
        return None
    measured = read_manifest(place.folder)["finished"]
    run.terminal.note(f"measured already on {measured}; --fresh measures again")
    return read_run(place.folder)


def _with_models_found(suite: "Suite", registry: Path) -> "Suite":
    """The suite with the folders of registered models in place of their names, and whole paths of all others."""
    from adapt.registry import find, is_registered
    from eval.runs.suites import KINDS

    parts = dict(suite.parts)
    for name, part in parts.items():
        word = getattr(part, "model", None)
        if not word or "language_model" not in KINDS[suite.kinds[name]].relies_on:
            continue
        if is_registered(registry, word):
            parts[name] = replace(part, model=str(find(registry, word).folder))  # type: ignore[type-var]
        elif Path(word).expanduser().exists():
            parts[name] = replace(part, model=str(Path(word).expanduser().absolute()))  # type: ignore[type-var]
    return replace(suite, parts=parts)


def _print_plan(run: Run, plan: "Plan", folder: Path, found: str) -> None:
    if run.terminal.as_json:
        run.terminal.json(
            {
                "folder": str(folder),
                "found": found,
                "config_hash": plan.config_hash,
                "seed": plan.suite.seed,
                "parts": plan.facts,
                "skipped": plan.skipped,
            }
        )
        return
    rows = [[name, fact["kind"], f"{fact['items']:,}", fact["described"]] for name, fact in plan.facts.items()]
    rows += [[name, plan.suite.kinds[name], "–", f"skipped: {why}"] for name, why in plan.skipped.items()]
    run.terminal.table(("part", "kind", "items", "what would be done"), rows, right=(2,))
    run.terminal.line()
    files = {file: digest for fact in plan.facts.values() for file, digest in fact["data"].items()}
    run.terminal.table(("SHA-256", "data"), [[digest[:16], file] for file, digest in files.items()])
    words = {"new": "would be made", "replaced": "would be replaced", "finished": "is finished already"}
    run.terminal.note(f"{folder} {words.get(found, 'would be continued')}; nothing was written")


def show(run: Run, result: "PartResult", *, extra_json: Mapping[str, Any] | None = None) -> None:
    """Print a part's result: measure, value, 95 % interval, n; then where the run lies. Or the same as JSON.

    When items ended in errors the command exits with 3, after everything else that it prints.
    """
    folder = result.folder.parent.parent
    if result.errors:
        Ended.code = DONE_WITH_ERRORS
    if run.terminal.as_json:
        run.terminal.json(result_json(result) | dict(extra_json or {}))
        return
    from eval.figures.measures import format_value, in_order

    rows = []
    for metric in in_order(result.kind, tuple(result.estimates)):
        estimate = result.estimates[metric]
        rows.append(
            [
                metric,
                format_value(metric, estimate.value),
                interval(metric, estimate.low, estimate.high),
                f"{estimate.n:,}",
                f"{estimate.missing:,}" if estimate.missing else "",
            ]
        )
    missing = any(row[-1] for row in rows)
    headings = ("measure", "value", "95 % interval", "n", "missing")
    width = len(headings) if missing else len(headings) - 1
    run.terminal.table(headings[:width], [row[:width] for row in rows], right=(1, 2, 3, 4))
    if result.timings:
        run.terminal.line()
        timed = [
            [stage, *(f"{figures[name]:,.1f}" for name in ("p50", "p90", "p99", "mean"))]
            for stage, figures in result.timings.items()
        ]
        run.terminal.table(("time, ms", "p50", "p90", "p99", "mean"), timed, right=(1, 2, 3, 4))
    if result.errors:
        first = next(record for record in result.records.values() if record.get("error"))
        run.terminal.note(
            f"{result.errors:,} of {count(result.items, 'item')} ended in an error and will be tried again by the same "
            f"command; the first, {first['id']}: {first['error']}"
        )
    run.terminal.note(f"run: {folder}")
    # Not the time of this command, which may only have read what is measured already.
    done = count(len(result.records) - result.errors, "item")
    run.terminal.note(f"{done} of {result.name} measured in {seconds(result.seconds)}", style="dim")


def result_json(result: "PartResult") -> dict[str, Any]:
    """What `--json` of a command that measures one thing prints."""
    from eval.runs.run_folder import read_manifest

    folder = result.folder.parent.parent
    manifest = read_manifest(folder)
    figures = result.figures()
    figures.pop("kind")
    return {
        **figures,
        "run": {
            "folder": str(folder),
            "kind": result.kind,
            "name": result.name,
            "settings": result.settings,
            "data": result.data,
            "seed": manifest["seed"],
            "config_hash": manifest["config_hash"],
            "environment": manifest["environment"],
            "started": manifest["started"],
            "finished": manifest["finished"],
        },
    }


def interval(metric: str, low: float | None, high: float | None) -> str:
    """ "0.612–0.689", or "–" where there is none."""
    from eval.figures.measures import format_value

    return "–" if low is None or high is None else f"{format_value(metric, low)}–{format_value(metric, high)}"
