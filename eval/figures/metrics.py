"""Turns rankings and relevance judgements into per-query figures in the papers' notation; knows no search engine.

`per_query` computes with `ir_measures`; `figures` gives the same numbers for one query at a time, ten times as fast.
Two rules decide what an average means and are kept here: a judged query for which a system returned nothing counts 0
(averaging only over answered queries turned .5 into 1.0 in a two-query test), and every rank has its own score, so no
tie is broken by document id behind our back.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import ir_measures

from eval.figures.statistics import Interval, bootstrap

MEASURES = ("nDCG@10", "R@10", "R@100", "RR@10", "AP@100", "Success@1", "Success@5", "Success@10", "Judged@10")
STAGE_MEASURES = ("nDCG@10", "R@10", "R@100", "RR@10", "AP@100")
"""What is reported of the stages before the last."""
SAME = {"Recall@10": "R@10", "Recall@100": "R@100", "MRR@10": "RR@10", "judged@10": "Judged@10"}
"""Other names in use → ir_measures' own."""

Qrels = Mapping[str, Mapping[str, int]]
PerQuery = dict[str, dict[str, float]]

T = TypeVar("T")
_MEASURE = re.compile(r"(nDCG|R|RR|AP|P|Success|Judged)(?:@([1-9]\d*))?")


def measures_at(k: int, measures: Sequence[str] = MEASURES) -> tuple[str, ...]:
    """Those of `measures` that a ranking of `k` can tell: R@100 of ten documents would be R@10 under a wrong name.

    Where AP@100 is not the average precision of the whole ranking, AP is added.
    """
    told = tuple(name for name in measures if _parsed(name)[1] <= k)
    return told if k == 100 or "AP@100" not in measures else (*told, "AP")


def aliases(found: Mapping[str, T]) -> dict[str, T]:
    """`found` by measure, under the other names in use as well: Recall@10, Recall@100, MRR@10, MAP, judged@10."""
    same = SAME | {"MAP": "AP" if "AP" in found else "AP@100"}
    return dict(found) | {alias: found[name] for alias, name in same.items() if name in found}


def figures(ranking: Sequence[str], grades: Mapping[str, int], measures: Sequence[str] = MEASURES) -> dict[str, float]:
    """Figures of one query by measure, each in [0, 1]: what `per_query` gives, without ir_measures' half millisecond.

    nDCG has trec_eval's linear gain (Järvelin & Kekäläinen 2002); grades of 1 and more are relevant, negative ones gain
    nothing. Raises ValueError for a document ranked twice or a measure that is not nDCG, R, RR, AP, P, Success, Judged.
    """
    if len(set(ranking)) != len(ranking):
        raise ValueError("the ranking names a document twice")
    gains = [max(grades.get(document, 0), 0) for document in ranking]
    ranks = [rank for rank, gain in enumerate(gains, 1) if gain > 0]
    best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
    found: dict[str, float] = {}
    for name in measures:
        kind, limit = _parsed(name)
        k = int(min(limit, max(len(gains), len(best), 1)))
        hits = [rank for rank in ranks if rank <= k]
        if kind == "nDCG":
            found[name] = _discounted(gains[:k]) / _discounted(best[:k]) if best else 0.0
        elif kind == "R":
            found[name] = len(hits) / len(best) if best else 0.0
        elif kind == "RR":
            found[name] = 1 / hits[0] if hits else 0.0
        elif kind == "AP":
            found[name] = sum(number / rank for number, rank in enumerate(hits, 1)) / len(best) if best else 0.0
        elif kind == "P":
            found[name] = len(hits) / limit if math.isfinite(limit) else len(hits) / max(len(gains), 1)
        elif kind == "Success":
            found[name] = 1.0 if hits else 0.0
        else:
            judged = [document in grades for document in ranking[:k]]
            found[name] = sum(judged) / len(judged) if judged else 0.0
    return found


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1) if gain)


def _parsed(measure: str) -> tuple[str, float]:
    """ "nDCG@10" → ("nDCG", 10); without a cutoff it is infinite."""
    matched = _MEASURE.fullmatch(measure)
    if matched is None:
        raise ValueError(f"no measure {measure!r} is computed here")
    return matched[1], float(matched[2] or math.inf)


def per_query(rankings: Mapping[str, Sequence[str]], qrels: Qrels, measures: Sequence[str] = MEASURES) -> PerQuery:
    """Figures `[measure][query]` for every query of `qrels`, each in [0, 1].

    `rankings[query]` holds document ids, best first; queries that `qrels` does not judge are ignored. Raises ValueError
    when a ranking names a document twice (its gain would count twice).
    """
    scores: dict[str, dict[str, float]] = {}
    for query in qrels:
        ranking = rankings.get(query, ())
        if len(set(ranking)) != len(ranking):
            raise ValueError(f"the ranking of query {query!r} names a document twice")
        scores[query] = {document: float(len(ranking) - rank) for rank, document in enumerate(ranking)}
    parsed = {name: ir_measures.parse_measure(name) for name in measures}
    found: PerQuery = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    judgements = [
        ir_measures.Qrel(query, document, grade)
        for query, grades in qrels.items()
        for document, grade in grades.items()
    ]
    run = [
        ir_measures.ScoredDoc(query, document, score)
        for query, documents in scores.items()
        for document, score in documents.items()
    ]
    if run:
        names = {measure: name for name, measure in parsed.items()}
        for metric in ir_measures.iter_calc(list(parsed.values()), judgements, run):
            found[names[metric.measure]][metric.query_id] = float(metric.value)
    return found


def intervals(figures: PerQuery, *, resamples: int = 1_000, seed: int = 0) -> dict[str, Interval]:
    """Mean and 95 % bootstrap interval of each measure over its queries."""
    return {name: bootstrap(list(values.values()), resamples=resamples, seed=seed) for name, values in figures.items()}
