"""How fast something is, as a part of a run: the settings of all six measurements, checked, and which one is meant."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from eval.runs.parts import PartFolder, Prepared, Progress, Tools
from retrieval.answering import PASSAGES
from retrieval.errors import UsageError
from retrieval.passages import Mode

if TYPE_CHECKING:
    from retrieval.collection import Collection

What = Literal["indexing", "search", "generation", "serving", "beside", "adapters"]
_LEASTS = {"k": 1, "limit": 1, "new_tokens": 2, "rounds": 1, "repeats": 1}
MOST_USERS = 1000


@dataclass(frozen=True)
class SpeedPart:
    """Every field but `what` concerns some of the measurements only; the others leave it alone."""

    what: What
    engine: str | None = None
    """Which engine answers (generation, serving, adapters); None is that of the settings."""
    collection: str | None = None
    """What is searched; with it, serving measures search and answer together."""
    questions: Path | None = None
    """A question file or lines of text (search, serving); else sentences of the collection, or made-up prompts."""
    limit: int = 200
    """Questions taken of those."""
    mode: Mode = "hybrid"
    k: int = PASSAGES
    folder: Path | None = None
    """What is indexed."""
    prompt_tokens: tuple[int, ...] = (200, 1500)
    """Lengths of made-up prompts; serving and adapters take the first."""
    new_tokens: int = 100
    """Longest answer to a made-up prompt."""
    users: tuple[int, ...] = (1, 2, 4, 8)
    rounds: int = 4
    """Requests of each user at each number of users."""
    repeats: int = 5
    """How often each thing is measured (not serving)."""
    ours: str | None = None
    """Command line of our side (beside)."""
    peer: str | None = None
    """Command line of the other side."""
    peer_python: Path | None = None
    """Interpreter of the peer's own environment."""
    timeout: float = 600.0
    """Seconds after which a command is ended."""
    seed: int = 0

    def prepare(self, tools: Tools) -> Prepared:
        """Raises UsageError for settings that cannot be, MissingError and ReadingError for what is not there."""
        if self.what not in get_args(What):
            raise UsageError(f"nothing to measure is called '{self.what}'; known are {', '.join(get_args(What))}")
        for name, least in _LEASTS.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} is at least {least}; {getattr(self, name)} was given")
        if not self.users or not all(1 <= level <= MOST_USERS for level in self.users):
            raise UsageError(f"users are numbers from 1 to {MOST_USERS:,}; {list(self.users)} was given")
        if len(set(self.users)) < len(self.users) or len(set(self.prompt_tokens)) < len(self.prompt_tokens):
            raise UsageError("a number of users or of prompt tokens is given twice; keep one")
        if not self.prompt_tokens or min(self.prompt_tokens) < 40:
            raise UsageError(f"a prompt has 40 tokens or more; {list(self.prompt_tokens)} was given")
        if not 0 < self.timeout < float("inf"):
            raise UsageError(f"timeout is a number of seconds above 0; {self.timeout} was given")
        prepare: Callable[[Tools], Prepared] = getattr(self, f"_{self.what}")
        return prepare(tools)

    def _needed(self, name: str) -> Any:
        value = getattr(self, name)
        if value is None:
            raise UsageError(f"to measure {self.what}, give {name}")
        return value

    def _generation(self, tools: Tools) -> Prepared:
        from eval.speed.generation import measure

        llm = tools.llm(self.engine)
        window = llm.metadata.context_window
        if max(self.prompt_tokens) + self.new_tokens + 100 > window:
            raise UsageError(
                f"{llm.metadata.model_name} reads {window:,} tokens, too few for a prompt of "
                f"{max(self.prompt_tokens):,} and {self.new_tokens:,} new ones; give fewer"
            )
        lengths = " and ".join(f"{length:,}" for length in self.prompt_tokens)
        return Prepared(
            items=len(self.prompt_tokens) * self.repeats,
            data=_engine_data(self.engine),
            described=f"{llm.metadata.model_name}: prompts of {lengths} tokens, {self.new_tokens} new, "
            f"{self.repeats} times",
            run=lambda folder, progress: measure(
                llm,
                folder,
                progress,
                prompt_tokens=self.prompt_tokens,
                new_tokens=self.new_tokens,
                repeats=self.repeats,
                seed=self.seed,
            ),
            relies_on=("engine",),
        )

    def _serving(self, tools: Tools) -> Prepared:
        from eval.speed.asking import of_collection, of_engine
        from eval.speed.prompts import counter, prompt
        from eval.speed.serving import measure

        llm = tools.llm(self.engine)
        opened = None if self.collection is None else tools.collection(self.collection)
        requests = sum(self.users) * self.rounds
        if self.questions is None and opened is None:
            count = counter(llm)
            length = self.prompt_tokens[0]
            # One for each request and one to warm up: none is asked twice.
            questions = [prompt(length, count, seed=self.seed * 1_000_003 + number) for number in range(requests + 1)]
            asked = f"prompts of {length:,} tokens"
        else:
            questions = self._questions(opened)
            asked = f"{len(questions):,} questions"

        def run(folder: PartFolder, progress: Progress) -> Mapping[str, Any]:
            if opened is None:
                ask = of_engine(llm, self.new_tokens)
            else:
                ask = of_collection(llm, opened, tools.answer, mode=self.mode, k=self.k)
            found = measure(ask, questions, folder, progress, users=self.users, rounds=self.rounds)
            return {"model": llm.metadata.model_name, **found}

        data = _engine_data(self.engine) | self._question_data(opened)
        topics = ("engine",) if opened is None else ("engine", "embedding", "search", "answer")
        who = llm.metadata.model_name if opened is None else f"{llm.metadata.model_name} over '{self.collection}'"
        levels = ", ".join(map(str, self.users))
        return Prepared(requests, data, f"{who}: {levels} users, {asked}", run, relies_on=topics)

    def _search(self, tools: Tools) -> Prepared:
        from eval.speed.own_data import measure_search

        opened = tools.collection(self._needed("collection"))
        questions = self._questions(opened)
        return Prepared(
            items=len(questions),
            data=self._question_data(opened),
            described=f"{self.mode} search for {self.k} of '{self.collection}': {len(questions):,} questions, "
            f"{self.repeats} times",
            run=lambda folder, progress: measure_search(
                opened, questions, folder, progress, mode=self.mode, k=self.k, repeats=self.repeats
            ),
            relies_on=("embedding", "search"),
        )

    def _indexing(self, tools: Tools) -> Prepared:
        from eval.data.hashes import hashes_of
        from eval.speed.own_data import measure_indexing

        source: Path = self._needed("folder")
        if not source.is_dir():
            raise UsageError(f"'{source}' is not a folder; name one with files to index")
        files = sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink())
        if not files:
            raise UsageError(f"'{source}' has no files to index")
        return Prepared(
            items=self.repeats,
            data=hashes_of(*files),
            described=f"{len(files):,} files of {source} indexed {self.repeats} times",
            run=lambda folder, progress: measure_indexing(
                source,
                tools.embedder,
                folder,
                progress,
                repeats=self.repeats,
                splitting=tools.splitting,
                search=tools.search,
            ),
            relies_on=("embedding", "splitting"),
        )

    def _beside(self, tools: Tools) -> Prepared:
        from eval.speed.beside import measure, side

        ours = side("ours", self._needed("ours"))
        peer = side("the peer", self._needed("peer"), self.peer_python)
        return Prepared(
            items=self.repeats,
            data={f"command of {which.name}": _hash(list(which.command)) for which in (ours, peer)},
            described=f"{self.repeats} turns of each: {self.ours} | {self.peer}",
            run=lambda folder, progress: measure(
                ours, peer, folder, progress, repeats=self.repeats, timeout=self.timeout, seed=self.seed
            ),
            relies_on=(),
        )

    def _adapters(self, tools: Tools) -> Prepared:
        from eval.data.hashes import hashes_of
        from eval.speed.adapters import measure

        there = tools.adapters()
        if not there:
            raise UsageError("there is no adapter to measure; name some by role with [engine] adapters in fathom.toml")
        roles = list(there)
        # A server takes a minute to start, and its memory for one or two adapters lies between.
        counts = [0, len(roles)] if self.engine == "vllm" else list(range(len(roles) + 1))
        return Prepared(
            items=len(counts) * self.repeats,
            data=hashes_of(*(folder / "adapter_model.safetensors" for folder in there.values())),
            described=f"{self.engine or 'the engine'} with {', '.join(map(str, counts))} of the adapters "
            f"{', '.join(roles)}: a prompt of {self.prompt_tokens[0]:,} tokens, {self.new_tokens} new, {self.repeats} "
            "times",
            run=lambda folder, progress: measure(
                lambda some: tools.adapted(self.engine, some),
                roles,
                folder,
                progress,
                counts=counts,
                prompt_tokens=self.prompt_tokens[0],
                new_tokens=self.new_tokens,
                repeats=self.repeats,
                seed=self.seed,
            ),
            relies_on=(),
        )

    def _questions(self, opened: "Collection | None") -> list[str]:
        from eval.speed.own_data import questions_of

        return questions_of(self.questions, opened, self.limit)

    def _question_data(self, opened: "Collection | None") -> dict[str, str]:
        from eval.data.hashes import hashes_of

        found = hashes_of(self.questions) if self.questions is not None else {}
        if opened is not None:
            documents = sorted((row.source.uri, row.content_hash) for row in opened.documents())
            found[f"collection {self.collection}"] = _hash(documents)
        return found


def _engine_data(engine: str | None) -> dict[str, str]:
    """The file of a model that is named by its path; what the settings name is for `Tools.identity` to tell."""
    from eval.data.hashes import hashes_of

    path = Path(engine).expanduser() if engine and engine.endswith(".gguf") else None
    return hashes_of(path)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
