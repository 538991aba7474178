"""Turns rankings and relevance judgements into per-query figures in the papers' notation; knows no search engine.

Computed by `ir_measures`. Two rules decide what an average means and are kept here: a judged query for which a system
returned nothing counts 0 (averaging only over answered queries turned .5 into 1.0 in a two-query test), and every rank
has its own score, so no tie is broken by document id behind our back.
"""

from collections.abc import Mapping, Sequence

import ir_measures

from eval.statistics import Interval, bootstrap

MEASURES = ("nDCG@10", "R@10", "R@100", "RR@10", "AP@100", "Success@1", "Success@5", "Success@10", "Judged@10")

Qrels = Mapping[str, Mapping[str, int]]
PerQuery = dict[str, dict[str, float]]


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
    figures: PerQuery = {name: dict.fromkeys(qrels, 0.0) for name in measures}
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
            figures[names[metric.measure]][metric.query_id] = float(metric.value)
    return figures


def intervals(figures: PerQuery, *, resamples: int = 1_000, seed: int = 0) -> dict[str, Interval]:
    """Mean and 95 % bootstrap interval of each measure over its queries."""
    return {name: bootstrap(list(values.values()), resamples=resamples, seed=seed) for name, values in figures.items()}
