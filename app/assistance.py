"""The words of [assist] → the planner and the reranker that help a search, made at their first use and kept.

A model that is not there does not keep anybody from searching: that it is missing shows as the reason for a skipped
step. `load` is for commands, which would rather say so at once.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from app import build
from retrieval.errors import FathomError, MissingError
from retrieval.finding import FindSettings, as_tuned
from retrieval.late import Late
from retrieval.llm_reranking.outcome import Reranked, outcome_of
from retrieval.passages import Hit
from retrieval.reranking.load import NONE, Reranker
from retrieval.rewriting.naming import AUTO, planner_named
from retrieval.rewriting.plans import Planner, Unavailable, WithPrevious

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from app.settings import Settings
    from retrieval.collection import Collection


_log = logging.getLogger(__name__)
ENDS_BY_ITSELF = 0.8
"""Share of the time for reranking after which a language model reads no further, so that what it has read counts: when
all the time is over, nothing does."""


class Assistance:
    """What helps the searches of one process. Safe from any thread."""

    def __init__(self, settings: "Settings") -> None:
        self.settings = settings
        self.finding = settings.assist
        self._guard = threading.Lock()
        self._engines: dict[str | None, Late[LLM]] = {}
        self._rerankers: dict[str, LoadedLate] = {}

    def finding_in(self, collection: "Collection") -> FindSettings:
        """The settings, with what they leave open as it was found best for the collection."""
        return as_tuned(self.finding, collection.tuned)

    def planner(self, llm: "LLM | None" = None, *, strict: bool = False) -> Planner:
        """The planner of the settings; `llm` is the engine that answers, where there is one.

        What keeps it from being made is raised if `strict`, else told as the reason of each skipped step.
        """

        def engine(name: str | None) -> "LLM":
            if name is not None:
                return self._engine(name)
            if llm is None:
                raise MissingError("no language model is ready; name one with [engine], or take another rewriter")
            return llm

        if self.finding.rewriter == AUTO and llm is None:
            return WithPrevious()  # there is no engine whose adapter could be asked, and none is loaded for it
        try:
            return planner_named(self.finding.rewriter, engine, passage=self.finding.passage)
        except FathomError as error:
            if strict:
                raise
            return Unavailable(error)

    def reranker(self, llm: "LLM | None" = None, *, finding: FindSettings | None = None) -> "LoadedLate | None":
        """The reranker of `finding` (None: of the settings alone); None where there is to be none. `llm` is the engine
        that answers, and judges passages where the settings name no other."""
        from app.rerankers import language_model_word

        word = (finding or as_tuned(self.finding, None)).reranker
        if word in (None, NONE):
            return None
        said = language_model_word(word)
        if llm is not None and said is not None and said.engine is None:
            # Made anew for each question, as planners are: it loads nothing, and the engine may be another by then.
            return LoadedLate(partial(self._load_reranker, word, llm), llm)
        with self._guard:
            return self._rerankers.setdefault(word, LoadedLate(partial(self._load_reranker, word)))

    def _load_reranker(self, word: str, answering: "LLM | None" = None) -> Reranker:
        from app.rerankers import reranker_named

        def engine(name: str | None) -> "LLM":
            return answering if name is None and answering is not None else self._engine(name)

        found = reranker_named(self.settings, word, engine, seconds=ENDS_BY_ITSELF * self.finding.rerank_seconds)
        assert found is not None, "there is a reranker behind every word but none"
        return found

    def _engine(self, name: str | None) -> "LLM":
        """The engine behind a word, opened once. Whoever waits for a slow one keeps nobody else waiting."""
        with self._guard:
            opened = self._engines.setdefault(name, Late(partial(build.engine_named, self.settings, name)))
        return opened.load()

    def load(
        self,
        planner: Planner | None = None,
        finding: FindSettings | None = None,
        llm: "LLM | None" = None,
    ) -> None:
        """Wait until the planner's model and the reranker of `finding` are ready, so that no time limit is spent on it;
        `llm` is the engine that answers. Raises what keeps them from it; of a reranker that the settings do not name,
        its step tells that."""
        asked = getattr(planner, "llm", None)
        if asked is not None:
            asked.metadata  # noqa: B018  # an engine on this machine answers when its model is loaded
        reranker = self.reranker(llm, finding=finding)
        if reranker is None:
            return
        try:
            reranker.load()
        except FathomError as error:
            if self.finding.reranker is not None:
                raise
            _log.warning("hits will not be reranked: %s", error)


class LoadedLate(Late[Reranker]):
    """A reranker that is loaded at its first use. `llm` is the engine that judges, where that is the answering one."""

    def __init__(self, load: "Callable[[], Reranker]", llm: "LLM | None" = None) -> None:
        super().__init__(load)
        self.llm = llm

    @property
    def calibrated(self) -> bool:
        """Whether its scores are probabilities; False as long as it is not loaded."""
        return bool(getattr(self.loaded, "calibrated", False))

    def __call__(self, query: str, hits: Sequence[Hit]) -> list[float]:
        return self.load()(query, hits)

    def rerank(self, query: str, hits: Sequence[Hit]) -> Reranked:
        """The same with what is to be said of it."""
        return outcome_of(self.load(), query, hits)
