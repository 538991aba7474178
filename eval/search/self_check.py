"""A handful of questions to one collection, and the documents that answer them → what is worth setting for it: whether
its hits are reranked, from which relevance on they are kept, from which confidence on a question is answered.

Nothing is changed unless it is sure. It knows neither where what is found is kept nor how it is shown.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.data.gold import GoldSpan, span_ranking
from eval.data.questions import Question, read_questions
from eval.figures.citation_metrics import overlaps
from eval.figures.metrics import figures
from eval.figures.statistics import estimates, paired
from eval.runs.parts import Progress
from eval.search.refusals import Signal, left_out, signal
from retrieval.collection import Collection
from retrieval.errors import UsageError
from retrieval.finding import FindSettings, as_tuned, find, reranked
from retrieval.passages import Hit, Mode
from retrieval.reranking.load import PACKAGED, Reranker
from retrieval.tuned import Tuned

LEAST_QUESTIONS = 5
"""With fewer no exact test can tell two orders apart, and one odd question would decide everything."""
MEASURE = "nDCG@10"
LEVEL = 0.05
MARGINS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""What is tried of how far the cut stays below the lowest passage that answers, as logits: 1 is a third of the odds."""
LEAST_DROPPED = 0.5
"""Passages a question: a cut that drops fewer is not worth a setting."""
_NEAREST = 1e-9
"""Probabilities are kept so far from 0 and 1: their logits stay finite."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An answerable question's hits, best first, as the search orders them and as the reranker does with its scores."""

    question: Question
    found: tuple[Hit, ...]
    reranked: tuple[Hit, ...]
    seconds: float

    def shown(self, k: int) -> tuple[float, ...]:
        """The reranker's scores of what would be read."""
        return tuple(hit.score for hit in self.reranked[:k])

    def lowest(self, k: int) -> float | None:
        """The lowest score that keeps all of its gold passages among the first k: of each thing to be found the best.
        None where none is there."""
        first = self.reranked[:k]
        best = [max((hit.score for hit in first if is_gold(hit)), default=None) for is_gold in _wanted(self.question)]
        return min((score for score in best if score is not None), default=None)


def self_check(
    path: Path,
    collection: Collection,
    *,
    finding: FindSettings,
    reranker: Reranker | None,
    word: str,
    threshold: float,
    k: int,
    mode: Mode = "hybrid",
    refusals: Path | None = None,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """What the questions of a file say of a collection's settings, ready for JSON: sections `rerank`,
    `least_relevance` and `refusal`, each None where nothing can be told, with the reason in `notes`.

    `finding` are the settings, and `threshold` the confidence that is in use for the collection; `word` names
    the `reranker` (None: leave it out), and `k` passages are read. Unanswerable questions are those of the file and of
    `refusals`. Raises UsageError for fewer than LEAST_QUESTIONS with a document that answers them, and what reading,
    searching and reranking raise.
    """
    questions = read_questions(path, collection=collection).questions
    extra = read_questions(refusals, collection=collection).questions if refusals is not None else ()
    known = {question.id for question in questions}
    every = [*questions, *(question for question in extra if question.id not in known)]
    gold = [question for question in every if question.answerable and question.documents]
    silent = [question for question in every if not question.answerable]
    if len(gold) < LEAST_QUESTIONS:
        raise UsageError(
            f"{path} has {len(gold)} questions with a document of '{collection.name}' that answers them, and a "
            f'self-check needs {LEAST_QUESTIONS} or more; write "documents": ["NAME"] (or spans) to more questions'
        )
    groups = _groups(gold)
    notes: list[str] = []
    found: dict[str, Any] = {
        "collection": collection.name,
        "questions": {"answerable": len(gold), "unanswerable": len(silent), "groups": len(set(groups.values()))},
        "rerank": None,
        "least_relevance": None,
        "refusal": None,
        "notes": notes,
    }
    if reranker is None:
        notes.append("no reranker was asked, so that neither reranking nor the least relevance was looked at")
    else:
        asked = []
        for number, question in enumerate(gold, 1):
            asked.append(ask(question, collection, reranker, depth=finding.rerank_depth, k=k, mode=mode))
            progress("reranking", number, len(gold))
        found["rerank"] = _rerank(asked, groups, as_tuned(finding, collection.tuned), word, seed, notes)
        if getattr(reranker, "calibrated", False):
            now = as_tuned(replace(finding, reranker=word), collection.tuned).least_relevance
            found["least_relevance"] = _least_relevance(asked, groups, now, word, k, seed, notes)
        else:
            notes.append(
                f"the reranker '{word}' gives scores that are no probabilities, so that no least relevance can be set "
                "for it; 'packaged' gives them, and a language model after 'fathom model calibrate'"
            )
    if min(len(gold), len(silent)) < 2:
        notes.append(
            "when to refuse was not looked at: that needs two questions or more that the documents do not answer "
            '("answerable": false)'
        )
    else:
        signals: list[Signal] = []
        for number, question in enumerate([*gold, *silent], 1):
            signals.append(signal(question, collection))
            progress("asking", number, len(gold) + len(silent))
        found["refusal"] = left_out([*gold, *silent], signals, threshold, seed)
    return found


def to_keep(found: Mapping[str, Any], word: str, before: Tuned | None) -> Tuned | None:
    """What is to be kept for the collection, as `self_check` found it: what is sure, and of the same reranker what was
    kept `before`. None where that is nothing."""
    kept = before if before is not None and before.reranker == word else Tuned(word)
    rerank, cut = found["rerank"], found["least_relevance"]
    # A collection may switch on no reranker but the one that comes with Fathom (`as_tuned`).
    sure = rerank and rerank["adopt"] and not (rerank["best"] and word != PACKAGED)
    best = Tuned(
        word,
        rerank["best"] if sure else kept.rerank,
        cut["best"] if cut and cut["adopt"] else kept.least_relevance,
    )
    if best == Tuned(word):
        return before
    return best


def ask(question: Question, collection: Collection, reranker: Reranker, *, depth: int, k: int, mode: Mode) -> Asked:
    """Search as the chat does without a reranker, then let it read all that was found."""
    depth = max(depth, k)
    found = find(question.text, question.history, collection=collection, k=depth, mode=mode)
    began = time.perf_counter()
    ordered, _ = reranked(found.standalone, found.hits, reranker, depth)
    return Asked(question, found.hits, ordered, time.perf_counter() - began)


def _groups(questions: Sequence[Question]) -> dict[str, str]:
    """question → what is left out or drawn together: its document, where there are enough of them to tell anything;
    else each question stands for itself, as to one long manual."""
    sources = {question.id: question.source or question.id for question in questions}
    return sources if len(set(sources.values())) >= LEAST_QUESTIONS else {name: name for name in sources}


def _wanted(question: Question) -> list[Callable[[Hit], bool]]:
    """A test of a hit for each thing to be found: an entry of the evidence, else a passage of one of its documents."""

    def shows(spans: Sequence[GoldSpan]) -> Callable[[Hit], bool]:
        return lambda hit: any(overlaps(hit.source.uri, hit.passage.start, hit.passage.end, span) for span in spans)

    if question.evidence:
        return [shows(spans) for spans in question.evidence]
    return [lambda hit: hit.source.uri in question.documents]


# --- whether reranking helps ------------------------------------------------------------------------------------------


def _rerank(
    asked: Sequence[Asked], groups: Mapping[str, str], finding: FindSettings, word: str, seed: int, notes: list[str]
) -> dict[str, Any]:
    tables = [
        {MEASURE: {one.question.id: _gain(hits, one.question) for one, hits in zip(asked, side, strict=True)}}
        for side in ([one.found for one in asked], [one.reranked for one in asked])
    ]
    test = paired(tables[0], tables[1], clusters=groups, seed=seed)[MEASURE]
    low, high = test.difference.low, test.difference.high
    # On a handful the bootstrap's interval is too narrow; the exact test is not.
    best = None
    if test.p is not None and test.p <= LEVEL and low is not None and high is not None:
        best = True if low > 0 else False if high < 0 else None
    now = finding.reranker == word
    seconds = float(np.median([one.seconds for one in asked]))
    adopt = best is not None and best != now
    if adopt and best and word != PACKAGED:
        notes.append(
            f"'{word}' is not the reranker that comes with Fathom, which alone a collection may switch on; write "
            f'[assist] reranker = "{word}" into fathom.toml'
        )
    if best and seconds > finding.rerank_seconds:
        adopt = False
        notes.append(
            f"reranking takes {seconds:.1f} s a question here and may take {finding.rerank_seconds:g} s, after which "
            "it is left out; give it more with [assist] rerank_seconds before it is switched on"
        )
    return {
        "reranker": word,
        "measure": MEASURE,
        "search": test.a,
        "reranked": test.b,
        "difference": {"value": test.difference.value, "low": low, "high": high, "p": test.p},
        "detectable": test.detectable,
        "seconds": round(seconds, 3),
        "now": now,
        "best": best,
        "adopt": adopt,
    }


def _gain(hits: Sequence[Hit], question: Question) -> float:
    if question.spans:
        places = [(hit.source.uri, hit.passage.start, hit.passage.end) for hit in hits]
        ranking, wanted = span_ranking(places, question.spans), [span.name for span in question.spans]
    else:
        ranking, wanted = list(dict.fromkeys(hit.source.uri for hit in hits)), list(question.documents)
    return figures(ranking, dict.fromkeys(wanted, 1), (MEASURE,))[MEASURE]


# --- from which relevance on a passage is read ------------------------------------------------------------------------


def _least_relevance(
    asked: Sequence[Asked],
    groups: Mapping[str, str],
    now: float | None,
    word: str,
    k: int,
    seed: int,
    notes: list[str],
) -> dict[str, Any] | None:
    lowest: dict[str, float] = {}
    for one in asked:
        score = one.lowest(k)
        if score is not None:
            group = groups[one.question.id]
            lowest[group] = min(score, lowest.get(group, 1.0))
    if len(lowest) < LEAST_QUESTIONS:
        notes.append(
            f"no least relevance: the passages that answer were among the first {k} for {len(lowest)} questions or "
            f"documents, and {LEAST_QUESTIONS} are needed"
        )
        return None
    best = cut_below(list(lowest.values()))
    if best is None:
        notes.append("no least relevance: the passages that answer are of so different relevance that none is safe")
        return None
    kept = {one.question.id: float(_kept(one.shown(k), best)) for one in asked}
    dropped = {one.question.id: len(one.shown(k)) - kept[one.question.id] for one in asked}
    table = estimates({"kept": kept, "dropped": dropped}, clusters=groups, seed=seed)
    return {
        "reranker": word,
        "now": now,
        "best": best,
        "lowest_gold": min(lowest.values()),
        "found": len(lowest),
        "read": float(np.mean([len(one.shown(k)) for one in asked])),
        **{
            name: {"value": estimate.value, "low": estimate.low, "high": estimate.high}
            for name, estimate in table.items()
        },
        # Of n + 1 alike the next one is as likely as any to be the lowest, and the cut lies below the lowest of n.
        "chance_of_loss": 1.0 / (len(lowest) + 1),
        "adopt": best != now and (table["dropped"].value or 0.0) >= LEAST_DROPPED,
    }


def cut_below(lowest: Sequence[float]) -> float | None:
    """The probability below which nothing is kept, from the lowest that must be of each document: it lies under all of
    them by the smallest of MARGINS with which, one document left out after the other, each is kept by the cut of the
    others. None where there is no such margin, or fewer than three."""
    if len(lowest) < 3:
        return None
    logits = sorted(_logit(value) for value in lowest)
    # Left out, any but the lowest is kept by the cut of the others, which lies under the lowest.
    margin = next((margin for margin in MARGINS if logits[0] >= logits[1] - margin), None)
    return None if margin is None else _rounded_down(1.0 / (1.0 + math.exp(margin - logits[0])))


def _logit(value: float) -> float:
    value = min(max(value, _NEAREST), 1.0 - _NEAREST)
    return math.log(value / (1.0 - value))


def _rounded_down(value: float) -> float:
    """To two significant digits: more would say that more is known."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.floor(value / unit) * unit, 12)


def _kept(scores: Sequence[float], least: float) -> int:
    """The best one always is."""
    return max(sum(score >= least for score in scores), min(1, len(scores)))
