"""Public test collections → the weights of `retrieval.answerability`, and what they refuse on sets not fitted on.

    python -m eval.search.answerability --data FOLDER [SET …]

Every question is asked three times: of its own collection; of the same without the documents that answer it; and of the
other sets' collections. The second kind is left out where many documents answer a question (Cranfield, CosQA).
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from eval.data.datasets import RetrievalDataset, load_dataset
from eval.search.indexed import indexed
from retrieval.answerability import Signals, Weights, signals
from retrieval.collection import Collection
from retrieval.embedding.load import EmbeddingSettings, load_embedder
from retrieval.filters import Filter
from retrieval.packing import pack

SETS = ("xquad_en", "xquad_zh", "drcd", "cranfield", "medquad_qa", "cosqa")
SEVERAL = frozenset({"cranfield", "cosqa"})
"""Sets where many a document answers a question that is not judged for it."""
QUESTIONS, OTHERS, DOCUMENTS = 100, 25, 1500
"""Of each set: questions of its own, questions from each other set, and documents."""
SHARES = {"own": 0.5, "without": 0.25, "other": 0.25}
"""Weights of the three kinds within a set; all sets count the same."""
RIDGE = 0.1

Kind = Literal["own", "without", "other"]


@dataclass(frozen=True, slots=True)
class Case:
    """One question to one collection."""

    name: str
    kind: Kind
    signals: Signals


def cases(
    sets: Mapping[str, tuple[RetrievalDataset, Collection]], questions: int = QUESTIONS, others: int = OTHERS
) -> list[Case]:
    """Ask every set its own and the others' questions."""
    rng = random.Random(0)
    found: list[Case] = []
    for name, (dataset, collection) in sets.items():
        judged = sorted(query for query in dataset.queries if dataset.qrels.get(query))
        for query in rng.sample(judged, min(questions, len(judged))):
            text = dataset.queries[query]
            found.append(Case(name, "own", _signals(collection, text)))
            gold = [document for document, grade in dataset.qrels[query].items() if grade > 0]
            if name not in SEVERAL:
                without = [Filter("document", "!=", document) for document in gold]
                found.append(Case(name, "without", _signals(collection, text, without)))
        for other, (foreign, _) in sets.items():
            if other != name:
                asked = sorted(foreign.queries)
                for query in rng.sample(asked, min(others, len(asked))):
                    found.append(Case(name, "other", _signals(collection, foreign.queries[query])))
    return found


def _signals(collection: Collection, question: str, filters: Sequence[Filter] = ()) -> Signals:
    hits = pack(collection.search(question, k=8, filters=filters).hits, collection.document).hits
    return signals(question, hits, collection.meaning_scale)


def fit(found: Sequence[Case], *, meaning: bool) -> Weights:
    """Weighted logistic regression with a small ridge; `meaning` False leaves meaning out."""
    from scipy.optimize import minimize

    rows = np.array([_row(case.signals, meaning) for case in found])
    right = np.array([1.0 if case.kind == "own" else -1.0 for case in found])
    counts: dict[tuple[str, Kind], int] = {}
    for case in found:
        counts[case.name, case.kind] = counts.get((case.name, case.kind), 0) + 1
    weights = np.array([SHARES[case.kind] / counts[case.name, case.kind] for case in found]) * 100

    def loss(w: np.ndarray) -> float:
        return float(weights @ np.logaddexp(0, -right * (rows @ w)) + RIDGE * (w[1:] @ w[1:]) / 2)

    w = minimize(loss, np.zeros(rows.shape[1]), method="L-BFGS-B").x
    return Weights(*(round(float(value), 2) for value in w))


def _row(found: Signals, meaning: bool) -> list[float]:
    return [1.0, found.meaning if meaning else 0.0, found.words, float(found.missing)]


def refused(found: Sequence[Case], weights: Weights, threshold: float) -> dict[str, float]:
    """Share of each kind with a confidence below `threshold`."""
    shares: dict[str, list[bool]] = {}
    for case in found:
        odds = weights.odds(case.signals.meaning, case.signals.words, case.signals.missing)
        shares.setdefault(case.kind, []).append(bool(1 / (1 + np.exp(-odds)) < threshold))
    return {kind: float(np.mean(values)) for kind, values in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Fits the estimate of whether documents answer a question.")
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--data", type=Path, required=True, help="folder of the test collections")
    parser.add_argument("--cache", type=Path, default=Path("build/answerability"), help="where indexes are kept")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.15, 0.2, 0.25, 0.3])
    options = parser.parse_args()
    model = load_embedder(EmbeddingSettings())
    sets: dict[str, tuple[RetrievalDataset, Collection]] = {}
    for name in options.sets:
        dataset = _cut(load_dataset(options.data / name))
        sets[name] = (dataset, indexed(dataset, model, options.cache))
    found = cases(sets)
    for meaning in (True, False):
        used = [case for case in found if not meaning or case.signals.trust > 0.5]
        print(f"{'with meaning' if meaning else 'words alone'}: {fit(used, meaning=meaning)}")
        for name in dict.fromkeys(case.name for case in used):
            weights = fit([case for case in used if case.name != name], meaning=meaning)
            mine = [case for case in used if case.name == name]
            for threshold in options.thresholds:
                row = {kind: round(value, 3) for kind, value in refused(mine, weights, threshold).items()}
                print(f"  {name} (not fitted on it), below {threshold}: {json.dumps(row)}")
    for _, collection in sets.values():
        collection.close()


def _cut(dataset: RetrievalDataset) -> RetrievalDataset:
    """At most DOCUMENTS documents, with the questions that they answer."""
    if len(dataset.documents) <= DOCUMENTS:
        return dataset
    kept = dataset.documents[:DOCUMENTS]
    ids = {document.id for document in kept}
    queries = {q: text for q, text in dataset.queries.items() if dataset.qrels.get(q) and set(dataset.qrels[q]) <= ids}
    return replace(dataset, name=f"{dataset.name}-{DOCUMENTS}", documents=tuple(kept), queries=queries)


if __name__ == "__main__":
    main()
