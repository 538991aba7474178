"""Question and history → plan → searches → one list → reranked hits, with what each step did and why it did less.

Every step after the first search has a time limit and may fail: then the search results stand. It knows no engine, no
model and no words for people.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Protocol

from retrieval.answerability import MeaningScale, confidence
from retrieval.errors import FathomError, MissingError, UsageError
from retrieval.filters import Filter
from retrieval.fusion import ranked, reciprocal_rank
from retrieval.limited import NotDone, Stop, limited
from retrieval.llm_reranking.outcome import Reranked, outcome_of
from retrieval.passages import Hit, Mode
from retrieval.prompts import Message, language_of
from retrieval.reranking.load import NONE, PACKAGED, Reranker
from retrieval.rewriting.expansion import in_other_form, other_forms, short_forms
from retrieval.rewriting.need import NoNeed, no_need
from retrieval.rewriting.plans import About, Plan, Planner, WithPrevious, plan_as_asked, plan_with_previous
from retrieval.roles import origin_of
from retrieval.steps import Did, Skipped, Step
from retrieval.tuned import Tuned

if TYPE_CHECKING:
    from retrieval.collection import SearchResult

HITS = 10
"""Hits of a search where nobody says otherwise."""
FORMS_FROM = 50
"""Passages that are read for short and long forms: the best by words for the question and for each short form in it."""


class Findable(Protocol):
    """A Collection, or whatever searches like one."""

    def search(
        self, query: str, *, mode: Mode, k: int, filters: Sequence[Filter], owners: frozenset[str] | None
    ) -> "SearchResult": ...

    @property
    def meaning_scale(self) -> MeaningScale | None: ...


@dataclass(frozen=True, slots=True)
class FindSettings:
    """What helps a search, and how long it may take."""

    rewriter: str = "auto"
    """"none", "previous" (the question, and it together with the one before), "auto" (the adapter for rewriting that
    the answering engine has, else "previous"), "model" (that adapter, else a plan by that engine), "plan" or
    "plan:ENGINE" (a plan by it), or an engine that condenses."""
    expand: bool = False
    """Whether a question with a short or long form that the documents define ("QR", "Query Rewriting") is searched for
    in its other form too."""
    passage: bool = False
    """Whether a plan imagines a passage with the answer, to search by its meaning (HyDE)."""
    reranker: str | None = None
    """"none", "packaged" (the one that comes with Fathom), or another: a folder or a name. None is "packaged", unless
    the collection was found to be better without."""
    rerank_depth: int = 20
    """Hits that a reranker reads."""
    least_relevance: float | None = None
    """Probability of relevance from which a reranked hit is kept, where the reranker gives probabilities; the best one
    always is. None is what was found best for the collection with this reranker, and keeps all where nothing was."""
    rewrite_seconds: float = 2.0
    """Longest time for a model to say what to search for. Condensing takes the embedded model 0.7 s on two quiet cores,
    so that a machine with other work still makes it; people wait for the first word after that."""
    rerank_seconds: float = 2.0
    """Longest time for a reranker. 20 passages take a small encoder 0.3 to 1.3 s on two cores."""

    def __post_init__(self) -> None:
        if not self.rewriter.strip() or (self.reranker is not None and not self.reranker.strip()):
            raise UsageError("a rewriter or reranker without a name; write 'none' for none")
        if not 1 <= self.rerank_depth <= 1000:
            raise UsageError(f"rerank_depth is a number of hits from 1 to 1000; {self.rerank_depth} was given")
        if self.least_relevance is not None and not 0.0 <= self.least_relevance <= 1.0:
            raise UsageError(f"least_relevance is a probability from 0 to 1; {self.least_relevance} was given")
        for name in ("rewrite_seconds", "rerank_seconds"):
            if not 0.0 < getattr(self, name) < 600.0:
                raise UsageError(f"{name} is a time above 0 and below 600 s; {getattr(self, name)} was given")


def as_tuned(settings: FindSettings, tuned: Tuned | None) -> FindSettings:
    """The settings, with what they leave open as it was found best for a collection; `reranker` is a word then.

    Collections come from elsewhere too, and a word may name a model to fetch or a server to send passages to: of itself
    one switches nothing but the reranker that comes with Fathom.
    """
    word = settings.reranker
    if word is None:
        word = NONE if tuned is not None and tuned.rerank is False and tuned.reranker == PACKAGED else PACKAGED
    least = settings.least_relevance
    if least is None and tuned is not None and tuned.reranker == word:
        least = tuned.least_relevance
    return replace(settings, reranker=word, least_relevance=least)


@dataclass(frozen=True, slots=True)
class Found:
    """`hits`, best first, and how they came to be. `standalone` is the question that stands alone. `evidence` are the
    queries whose hits tell how sure an answer is, each with its own best hits; `timings` are milliseconds."""

    queries: tuple[str, ...]
    standalone: str
    hits: tuple[Hit, ...]
    steps: tuple[Step, ...]
    timings: dict[str, float]
    evidence: tuple[tuple[str, tuple[Hit, ...]], ...]
    plan: Plan


def find(
    question: str,
    history: Sequence[Message] = (),
    *,
    collection: Findable,
    k: int = HITS,
    mode: Mode = "hybrid",
    filters: Sequence[Filter] = (),
    owners: frozenset[str] | None = None,
    planner: Planner | None = None,
    reranker: Reranker | None = None,
    settings: FindSettings | None = None,
    stop: Stop | None = None,
) -> Found:
    """The k best hits for a question in a conversation, whose messages come oldest first.

    Without a `planner` it is the question, and it together with the one before. `stop` ends the waiting for a model.
    Raises UsageError for an empty question, and what the search itself raises; whatever a planner or reranker raises,
    or how long it takes, is in `steps` instead.
    """
    if not question.strip():
        raise UsageError("the question is empty; write what you want to know")
    settings = settings or FindSettings()
    planner = planner or WithPrevious()
    history = [message for message in history if message.text.strip()]
    depth = max(settings.rerank_depth, k) if settings.least_relevance is not None else settings.rerank_depth
    pool = max(k, depth) if reranker is not None else k
    searches = _Searches(collection, mode, pool, filters, owners)
    steps: list[Step] = []
    plan = _plan(question.strip(), history, planner, searches, k, settings, stop, steps)
    forms = _forms(plan.standalone, searches, steps) if settings.expand else ()
    queries, hits = _search(plan, forms, searches, pool, steps)
    timings = searches.timings | {step.name: round(step.milliseconds, 2) for step in steps if _timed(step)}
    if reranker is not None:
        hits, scored = _rerank(plan.standalone, hits, reranker, depth, settings, stop, steps)
        timings["rerank"] = round(steps[-1].milliseconds, 2)
        if settings.least_relevance is not None and scored:
            hits = _cut(hits, reranker, settings.least_relevance, steps)
    evidence = tuple((query, searches.result(query).hits[:k]) for query in plan.sure_by)
    return Found(queries, plan.standalone, tuple(hits[:k]), tuple(steps), timings, evidence, plan)


class _Searches:
    """Searches of one question, none of them done twice."""

    def __init__(
        self,
        collection: Findable,
        mode: Mode,
        k: int,
        filters: Sequence[Filter],
        owners: frozenset[str] | None,
    ) -> None:
        self._collection, self._mode, self._k = collection, mode, k
        self._filters, self._owners = filters, owners
        self._results: dict[tuple[str, Mode], SearchResult] = {}
        self.timings: dict[str, float] = {}
        self.spent = 0.0
        """Milliseconds of all searches."""
        self.mode = mode
        self.scale = collection.meaning_scale

    def result(self, query: str, mode: Mode | None = None) -> "SearchResult":
        """What a query finds. Raises what the search raises."""
        key = (query, mode or self._mode)
        if key not in self._results:
            began = time.perf_counter()
            found = self._collection.search(query, mode=key[1], k=self._k, filters=self._filters, owners=self._owners)
            for name, value in found.timings.items():
                self.timings[f"search.{name}"] = self.timings.get(f"search.{name}", 0.0) + value
            self._results[key] = found
            self.spent += (time.perf_counter() - began) * 1000
        return self._results[key]

    def by_words(self, query: str) -> list[str]:
        """Texts of the passages that are best by words."""
        found = self._collection.search(query, mode="lexical", k=FORMS_FROM, filters=self._filters, owners=self._owners)
        return [hit.passage.text for hit in found.hits]


# --- what to search for ----------------------------------------------------------------------------------------------


def _plan(
    question: str,
    history: Sequence[Message],
    planner: Planner,
    searches: _Searches,
    k: int,
    settings: FindSettings,
    stop: Stop | None,
    steps: list[Step],
) -> Plan:
    """The planner's plan, or one without a model and the reason."""
    began = time.perf_counter()

    def told(plan: Plan, skipped: Skipped = "", **values: str | int | float) -> Plan:
        did: dict[str, Did] = {"condense": "condensed", "plan": "planned", "none": "as_asked"}
        with_previous: Did = "with_previous" if len(plan.queries) > 1 else "as_asked"
        took = (time.perf_counter() - began) * 1000 - searches.spent  # a first search is told of as a search
        steps.append(Step("rewrite", took, did.get(plan.way, with_previous), skipped, values))
        return plan

    if planner.way in ("none", "previous"):
        return told(planner(question, history, About()))

    # The first search is the one that counts in any case; what it found says whether more is needed.
    @cache
    def known() -> About:
        return _about(question, searches, k)

    reason: NoNeed | None = no_need(
        planner.way,
        question,
        history,
        known,
        lambda: confidence(question, searches.result(question).hits[:k], searches.scale),
    )
    if reason is not None:
        return told(plan_with_previous(question, history) if reason == "long" else plan_as_asked(question), reason)
    about = known() if planner.way == "plan" else About()
    try:
        plan = limited(
            _asked(planner),
            lambda flag: planner(question, history, about, stop=flag),
            settings.rewrite_seconds,
            stop=stop,
        )
    except NotDone as trouble:
        why, values = _trouble(trouble, settings.rewrite_seconds)
        return told(plan_with_previous(question, history), why, **values)
    return told(plan, "unusable", why=plan.note) if plan.note else told(plan, queries=len(plan.queries))


def _about(question: str, searches: _Searches, k: int) -> About:
    hits = searches.result(question).hits[:k]
    languages = Counter(language_of(hit.passage.text) for hit in hits)
    return About(tuple(language for language, _ in languages.most_common()), _mined(question, searches))


def _mined(question: str, searches: _Searches) -> tuple[tuple[str, str], ...]:
    """Short and long forms of what the question names, from passages that the search by words finds: nothing is kept
    that could be out of date, and a large collection is not read."""
    texts = searches.by_words(question)
    for short in short_forms(question):
        texts += searches.by_words(short)
    return other_forms(question, dict.fromkeys(texts))


def _forms(question: str, searches: _Searches, steps: list[Step]) -> tuple[tuple[str, str], ...]:
    began = time.perf_counter()
    forms = _mined(question, searches)
    took = (time.perf_counter() - began) * 1000
    said = "; ".join(f"{short} = {long}" for short, long in forms)
    steps.append(Step("expand", took, "expanded" if forms else "kept", values={"forms": said} if forms else {}))
    return forms


# --- searching -------------------------------------------------------------------------------------------------------


def _search(
    plan: Plan, forms: Sequence[tuple[str, str]], searches: _Searches, pool: int, steps: list[Step]
) -> tuple[tuple[str, ...], list[Hit]]:
    """(what was searched for, the best of all searches)."""
    wanted: list[tuple[str, Mode | None]] = [(query, None) for query in plan.queries]
    if forms:
        wanted.append((in_other_form(plan.standalone, forms), None))
    if plan.passage and searches.mode != "lexical":
        wanted.append((plan.passage, "dense"))
    wanted = list(dict.fromkeys(wanted))
    results, failed = [], ""
    for place, (query, mode) in enumerate(wanted):
        try:
            results.append((query, searches.result(query, mode)))
        except FathomError as error:
            # What a model wrote may be nothing to search for; the first query must be.
            if place == 0 or plan.way not in ("plan", "condense"):
                raise
            failed = str(error)
    began = time.perf_counter()
    hits = joined([result for _, result in results], pool)
    queries = tuple(dict.fromkeys(query for query, _ in results))
    values: dict[str, str | int | float] = {"queries": len(queries), "hits": len(hits)}
    if failed:
        values["failed"] = failed
    steps.append(Step("search", searches.spent + (time.perf_counter() - began) * 1000, "searched", values=values))
    return queries, hits


def joined(results: Sequence["SearchResult"], k: int) -> list[Hit]:
    """The k best of several searches, by reciprocal rank; those of one as they are."""
    if len(results) == 1:
        return list(results[0].hits)
    hits = {hit.passage.id: hit for result in reversed(results) for hit in result.hits}
    fused = reciprocal_rank([[hit.passage.id for hit in result.hits] for result in results])
    return [hits[key] for key, _ in ranked(fused, k)]


# --- reranking -------------------------------------------------------------------------------------------------------


def _rerank(
    query: str,
    hits: list[Hit],
    reranker: Reranker,
    depth: int,
    settings: FindSettings,
    stop: Stop | None,
    steps: list[Step],
) -> tuple[list[Hit], bool]:
    """(hits in the reranker's order, whether they are)."""
    began = time.perf_counter()

    def told(hits: list[Hit], skipped: Skipped = "", **values: str | int | float) -> tuple[list[Hit], bool]:
        took = (time.perf_counter() - began) * 1000
        steps.append(Step("rerank", took, "skipped" if skipped else "reranked", skipped, values))
        return hits, not skipped

    if not hits:
        return told(hits, "no_hits")
    try:
        ordered, outcome = limited(
            _asked(reranker),
            lambda _: reranked(query, hits, reranker, depth),
            settings.rerank_seconds,
            stop=stop,
        )
    except NotDone as trouble:
        why, values = _trouble(trouble, settings.rerank_seconds)
        return told(hits, why, **values)
    said: dict[str, str | int | float] = {"depth": sum(outcome.judged)}
    if outcome.note:
        said["note"] = outcome.note
    return told(list(ordered), "", **said)


def _asked(part: Planner | Reranker) -> object:
    """What is busy while `part` works: its engine, where it has one. Planners and views of an engine are made anew for
    each question, so that nobody could tell of them that they still are."""
    llm = getattr(part, "llm", None)
    return origin_of(llm) if llm is not None else part


class BadScores(FathomError):
    """A reranker gave scores that cannot order the hits."""


def reranked(query: str, hits: Sequence[Hit], reranker: Reranker, depth: int) -> tuple[tuple[Hit, ...], Reranked]:
    """The first `depth` hits in the order of the reranker's scores (ties as they stood), then the others as they were;
    and what the reranker tells of it. A hit that it did not read has no score of its (`scores.rerank` is None).

    Raises BadScores where there is another number of scores than of hits, or one that is not finite, and what the
    reranker raises.
    """
    read = list(hits[:depth])
    outcome = outcome_of(reranker, query, read) if read else Reranked((), ())
    scores = outcome.scores
    if not len(scores) == len(outcome.judged) == len(read):
        raise BadScores(f"the reranker gave {len(scores)} scores for {len(read)} passages")
    if not all(math.isfinite(score) for score in scores):
        raise BadScores("the reranker gave a score that is not finite (rerank)")
    scored = [
        replace(hit, score=score, scores=replace(hit.scores, rerank=score if judged else None))
        for hit, score, judged in zip(read, scores, outcome.judged, strict=True)
    ]
    first = sorted(scored, key=lambda hit: -hit.score)
    return tuple(replace(hit, rank=rank) for rank, hit in enumerate([*first, *hits[depth:]], 1)), outcome


def _cut(hits: list[Hit], reranker: Reranker, least: float, steps: list[Step]) -> list[Hit]:
    """Hits that are relevant by a calibrated reranker; never none."""
    if not getattr(reranker, "calibrated", False):
        steps.append(Step("cut", 0.0, "skipped", "not_calibrated"))
        return hits
    kept = [hit for hit in hits if hit.scores.rerank is None or hit.scores.rerank >= least] or hits[:1]
    values = {"kept": len(kept), "dropped": len(hits) - len(kept), "least": least}
    steps.append(Step("cut", 0.0, "cut", values=values))
    return kept


def _trouble(trouble: NotDone, limit: float) -> tuple[Skipped, dict[str, str | int | float]]:
    """Why a step did not do what it was asked, and what to say it with."""
    if trouble.why == "too_slow":
        return "too_slow", {"limit": limit}
    if trouble.error is None:
        return trouble.why, {}
    said = " ".join(str(trouble.error).split())[:300] or type(trouble.error).__name__
    if isinstance(trouble.error, BadScores):
        return "bad_scores", {"error": said}
    if isinstance(trouble.error, MissingError):
        return "no_engine", {"error": said}
    return ("cannot" if isinstance(trouble.error, UsageError) else "failed"), {"error": said}


def _timed(step: Step) -> bool:
    """Steps whose time the interfaces show beside the search's own, where it was any."""
    return step.name in ("rewrite", "expand") and step.milliseconds >= 0.1
