"""Settings of a search, tried on development questions and confirmed on others → what to write into fathom.toml.

Candidates are drawn at random and thinned by successive halving; the winner and what is in use now then answer
questions that neither was chosen on, and only a difference whose interval lies above 0 is advised.
"""

import json
import os
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.data.datasets import RetrievalDataset, available_splits, load_dataset
from eval.data.gold import span_ranking
from eval.figures.citation_metrics import overlaps
from eval.figures.metrics import figures
from eval.figures.statistics import Table, clusters_of, paired, table_of
from eval.retrieval import RetrievalPart
from eval.runs.parts import PartFolder, Prepared, Progress, Record, Tools
from eval.runs.running import run_items
from eval.search.halving import Trial, evaluations, successive_halving
from eval.search.indexed import indexed
from eval.search.pipelines import Pipeline, Searched, Searcher, without_itself
from eval.search.refusals import RefusalQuestions
from retrieval.answering import PASSAGES
from retrieval.collection import Collection, SearchSettings
from retrieval.embedding.embedder import Embedder
from retrieval.errors import UsageError
from retrieval.passages import Hit
from retrieval.splitting import SplitSettings

RANKING = 100
"""Documents of a ranking while tuning: no objective looks deeper."""
TOLERANCE = 0.01
"""Recall that fewer passages in the prompt may cost: a passage less is some 200 tokens less to read for the model."""
TRIALS = "trials.jsonl"
NOW = "now"
"""Before a measure: with the settings in use now."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to set everything that is tuned."""

    passage_tokens: int
    dense_weight: float
    depth: int
    rerank_depth: int


@dataclass(frozen=True)
class TunePart:
    """Tunes the pipeline on one set. An empty tuple leaves a setting as it is.

    Development and test questions are two splits of the set (`dev`, `split`), or parts of one split: questions that
    share their one relevant document stay together.
    """

    dataset: Path
    pipeline: str = "hybrid"
    objective: str = "nDCG@10"
    dev: str | None = None
    split: str | None = None
    share: float = 0.5
    """Of the questions that are tuned on, where there is no split for that."""
    trials: int = 27
    """Candidates, the settings in use now included."""
    passage_tokens: tuple[int, ...] = (96, 144, 192)
    dense_weight: tuple[float, ...] = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
    depth: tuple[int, ...] = (50, 100, 200)
    rerank_depth: tuple[int, ...] = (20, 50, 100)
    k: tuple[int, ...] = (3, 4, 6, 8, 12, 16)
    """Numbers of passages for an answer; the fewest that find nearly as much as the most are advised."""
    refusals: Path | None = None
    """A question file with unanswerable questions: the thresholds of refusal are fitted on it."""
    limit: int | None = None
    """As many questions of each split."""
    reranker: str | None = None
    rewriter: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        Pipeline.parse(self.pipeline)
        try:
            figures([], {}, (self.objective.removeprefix("span:"),))
        except ValueError as error:
            raise UsageError(f"the objective '{self.objective}' cannot be tuned for: {error}") from error
        for name, least in (("trials", 2), ("limit", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} is at least {least}; {value} was given")
        if not 0 < self.share < 1:
            raise UsageError(f"share lies between 0 and 1; {self.share} was given")
        for weight in self.dense_weight:
            if not 0 <= weight <= 1:
                raise UsageError(f"dense_weight is a share from 0 to 1; {weight} was given")
        for name in ("depth", "rerank_depth", "k", "passage_tokens"):
            if any(value < 1 for value in getattr(self, name)):
                raise UsageError(f"{name} holds a number below 1")
        for tokens in self.passage_tokens:
            SplitSettings(passage_tokens=tokens, overlap_tokens=0)

    def prepare(self, tools: Tools) -> Prepared:
        """Reads and checks the set. Raises UsageError, ReadingError, MissingError."""
        test = load_dataset(self.dataset, split=self.split)
        splits = available_splits(self.dataset) if self.dataset.is_dir() else []
        other = self.dev or next((name for name in ("dev", "validation", "train") if name in splits), None)
        if other is not None and other != test.split:
            tuned = load_dataset(self.dataset, split=other)
            dev, rest = _drawn(list(tuned.queries), self.limit, self.seed), list(test.queries)
        else:
            tuned = test
            dev, rest = _parted(test, self.share, self.seed)
            dev = _drawn(dev, self.limit, self.seed)
        rest = _drawn(rest, self.limit, self.seed)
        if min(len(dev), len(rest)) < 2:
            raise UsageError(
                f"{self.dataset} leaves {len(dev)} questions to tune on and {len(rest)} to confirm with; use a larger "
                "set, or another share"
            )
        questions = RefusalQuestions.read(self.refusals, self.share, self.seed) if self.refusals else None
        candidates = self.candidates(tools)
        pipeline = Pipeline.parse(self.pipeline)
        tools_used = (("reranker", pipeline.rerank), ("rewriter", pipeline.rewrite))
        work = evaluations(len(candidates), len(dev))
        where = f"split '{tuned.split}'" if tuned is not test else f"{self.share:.0%} of the questions"
        return Prepared(
            items=len(rest),
            data={**tuned.data, **test.data, **(questions.data if questions else {})},
            described=f"{len(candidates)} candidates on {len(dev):,} questions ({where}), {work:,} searches; "
            f"{len(rest):,} questions to confirm with",
            run=lambda folder, progress: _Tuning(self, tools, tuned, test, dev, rest, candidates, questions).run(
                folder, progress
            ),
            relies_on=(
                *("embedding", "splitting", "search", "answer"),
                *(name for name, used in tools_used if used),
            ),
        )

    def candidates(self, tools: Tools) -> list[Choice]:
        """What is tried, the settings in use now first; at most `trials`, drawn without repetition."""
        search, split = tools.search or SearchSettings(), tools.splitting or SplitSettings()
        now = Choice(split.passage_tokens, search.dense_weight, search.depth, RetrievalPart.rerank_depth)
        pipeline = Pipeline.parse(self.pipeline)
        hybrid = pipeline.search == "hybrid"
        every = [
            Choice(tokens, weight, depth, reranked)
            for tokens in self.passage_tokens or (now.passage_tokens,)
            for weight in (self.dense_weight if hybrid else ()) or (now.dense_weight,)
            for depth in (self.depth if hybrid else ()) or (now.depth,)
            for reranked in (self.rerank_depth if pipeline.rerank else ()) or (now.rerank_depth,)
        ]
        others = [choice for choice in dict.fromkeys(every) if choice != now]
        drawn = random.Random(self.seed).sample(others, min(self.trials - 1, len(others)))
        return [now, *sorted(drawn, key=lambda choice: (choice.passage_tokens, others.index(choice)))]


def _drawn(names: Sequence[str], limit: int | None, seed: int) -> list[str]:
    if limit is None or limit >= len(names):
        return list(names)
    drawn = set(random.Random(seed).sample(sorted(names), limit))
    return [name for name in names if name in drawn]


def _parted(dataset: RetrievalDataset, share: float, seed: int) -> tuple[list[str], list[str]]:
    """(to tune on, to confirm with): whole clusters, so that no document's questions are on both sides."""
    clusters: dict[str, list[str]] = {}
    for query in dataset.queries:
        clusters.setdefault(dataset.cluster(query) or f"\0{query}", []).append(query)
    order = sorted(clusters)
    random.Random(seed).shuffle(order)
    dev: list[str] = []
    for name in order:
        if len(dev) < share * len(dataset.queries):
            dev.extend(clusters[name])
    chosen = set(dev)
    return dev, [query for query in dataset.queries if query not in chosen]


class Remembering:
    """An embedder that embeds each question once: every candidate asks the same ones."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: dict[str, np.ndarray] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dimension) float32, as the embedder's own."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._embedder.embed_queries(new), strict=True))
        return np.stack([self._known[text] for text in texts])


class _Tuning:
    """One tuning over sets that have been checked."""

    def __init__(
        self,
        part: TunePart,
        tools: Tools,
        tuned: RetrievalDataset,
        test: RetrievalDataset,
        dev: Sequence[str],
        rest: Sequence[str],
        candidates: Sequence[Choice],
        questions: RefusalQuestions | None,
    ) -> None:
        self.part, self.tools, self.tuned, self.test = part, tools, tuned, test
        self.dev, self.rest, self.candidates, self.questions = dev, rest, candidates, questions
        self.pipeline = Pipeline.parse(part.pipeline)
        self.embedder: Any = Remembering(tools.embedder())
        self._stack = ExitStack()
        self._open: dict[int, Collection] = {}
        self._searchers: dict[Choice, Searcher] = {}
        self._texts = {document.id: document for document in test.documents}
        self._indexing: Progress = lambda stage, done, total: None

    def run(self, folder: PartFolder, progress: Progress) -> Mapping[str, Any]:
        """Halving on the development questions, then both settings on the test questions."""
        self._indexing = progress
        with self._stack:
            trials = self._trials(folder.path / TRIALS, progress)
            now, best = self.candidates[0], trials[0].candidate
            run_items(
                folder,
                self.rest,
                lambda query: self._record(query, now, best),
                identify=str,
                describe=lambda query: self.test.queries[query],
                total=len(self.rest),
                what="confirming",
                progress=progress,
            )
            return self._summary(trials, now, best, folder, progress)

    def _trials(self, file: Path, progress: Progress) -> list[Trial[Choice]]:
        """The halving; every score is kept in `file`, so that a resumed run goes on where it was stopped."""
        known = _kept(file)
        total, done = evaluations(len(self.candidates), len(self.dev)), 0

        with file.open("a", encoding="utf-8") as lines:

            def score(choice: Choice, queries: Sequence[str]) -> dict[str, float]:
                nonlocal done
                found: dict[str, float] = {}
                for query in queries:
                    if (choice, query) not in known:
                        known[choice, query] = self._score(
                            self.tuned, query, choice, self._search(choice, self.tuned, query)
                        )
                        row = {"choice": asdict(choice), "query": query, "score": known[choice, query]}
                        lines.write(json.dumps(row) + "\n")
                    found[query] = known[choice, query]
                    done += 1
                    progress("tuning", done, total)
                lines.flush()
                return found

            return successive_halving(self.candidates, self.dev, score, seed=self.part.seed)

    def _collection(self, passage_tokens: int) -> Collection:
        """The set's index with passages of this size, kept open."""
        if passage_tokens not in self._open:
            split = self.tools.splitting or SplitSettings()
            overlap = min(split.overlap_tokens, passage_tokens // 2)
            made = indexed(
                self.test,
                self.embedder,
                self.tools.cache,
                splitting=replace(split, passage_tokens=passage_tokens, overlap_tokens=overlap),
                progress=self._indexing,
            )
            self._open[passage_tokens] = self._stack.enter_context(made)
        return self._open[passage_tokens]

    def _search(self, choice: Choice, dataset: RetrievalDataset, query: str) -> Searched:
        collection = self._collection(choice.passage_tokens)
        collection.settings = SearchSettings(choice.dense_weight, choice.depth)
        if choice not in self._searchers:
            self._searchers[choice] = Searcher(
                collection,
                self.pipeline,
                k=RANKING,
                rerank_depth=choice.rerank_depth if self.pipeline.rerank else 1,
                reranker=self.tools.reranker(self.part.reranker) if self.pipeline.rerank else None,
                rewriter=self.tools.rewriter(self.part.rewriter) if self.pipeline.rewrite else None,
            )
        return self._searchers[choice](dataset.queries[query], dataset.histories.get(query, ()))

    def _score(self, dataset: RetrievalDataset, query: str, choice: Choice, searched: Searched) -> float:
        """The objective of one query."""
        searcher = self._searchers[choice]
        stage, objective = self.pipeline.stages[-1], self.part.objective
        if objective.startswith("span:"):
            gold = dataset.spans.get(query, ())
            found = span_ranking(searcher.places(searched.stages[stage]), gold)
            grades = {span.name: 1 for span in gold}
        else:
            documents = without_itself(searched.documents[stage], query, dataset.queries[query], self._texts)
            found, grades = [document for document, _ in documents], dict(dataset.qrels[query])
        measure = objective.removeprefix("span:")
        return figures(found, grades, (measure,))[measure]

    def _record(self, query: str, now: Choice, best: Choice) -> Record:
        metrics: dict[str, float] = {}
        timings: dict[str, float] = {}
        for before, choice in (("", best), (f"{NOW}:", now)):
            searched = self._search(choice, self.test, query)
            metrics[f"{before}{self.part.objective}"] = self._score(self.test, query, choice, searched)
            timings[f"{before}total"] = searched.timings["total"]
            for k in self.part.k:
                metrics[f"{before}found@{k}"] = float(any(_is_gold(hit, self.test, query) for hit in searched.hits[:k]))
        return {
            "id": query,
            "text": self.test.queries[query],
            "cluster": self.test.cluster(query),
            "metrics": metrics,
            "timings": timings,
        }

    def _summary(
        self, trials: Sequence[Trial[Choice]], now: Choice, best: Choice, folder: PartFolder, progress: Progress
    ) -> dict[str, Any]:
        objective = self.part.objective
        table = table_of(folder.done())
        clusters = clusters_of(folder.done())
        sides = {objective: table[f"{NOW}:{objective}"]}, {objective: table[objective]}
        found = paired(*sides, clusters=clusters, seed=self.part.seed)[objective]
        better = found.difference.low is not None and found.difference.low > 0
        summary: dict[str, Any] = {
            "objective": objective,
            "trials": [
                {**asdict(trial.candidate), "score": trial.mean, "questions": len(trial.scores), "rung": trial.rung}
                for trial in trials
            ],
            "now": asdict(now),
            "best": asdict(best),
            "tuned_on": len(self.dev),
            "difference": {
                "now": found.a,
                "best": found.b,
                "value": found.difference.value,
                "low": found.difference.low,
                "high": found.difference.high,
                "p": found.p,
                "detectable": found.detectable,
            },
            "adopt": bool(better and best != now),
            "passages": self._passages(best if better else now, "" if better else f"{NOW}:", table, clusters),
        }
        if self.questions is not None:
            collection = self._collection_of_questions(best if better else now)
            summary["refusal"] = self.questions.tune(collection, self.tools.answer, self.part.seed, progress)
        summary["toml"] = self._toml(summary, now, best)
        return summary

    def _passages(self, choice: Choice, before: str, table: Table, clusters: Mapping[str, str]) -> dict[str, Any]:
        """Share of development questions whose gold is among the first k passages, and the fewest that are enough.

        They are advised where the test questions do not show that more is lost than TOLERANCE.
        """
        if not self.part.k:
            return {}
        found = dict.fromkeys(self.part.k, 0)
        for query in self.dev:
            hits = self._search(choice, self.tuned, query).hits
            for k in found:
                found[k] += any(_is_gold(hit, self.tuned, query) for hit in hits[:k])
        shares = {k: number / len(self.dev) for k, number in found.items()}
        enough = min(k for k, share in shares.items() if share >= max(shares.values()) - TOLERANCE)
        few, most = (table[f"{before}found@{k}"] for k in (enough, max(shares)))
        loss = paired({"": most}, {"": few}, clusters=clusters, seed=self.part.seed)[""].difference
        return {
            "found": {str(k): share for k, share in shares.items()},
            "k": enough,
            "loss": {"value": loss.value, "low": loss.low, "high": loss.high},
            "adopt": enough != PASSAGES and loss.low is not None and loss.low >= -2 * TOLERANCE,
        }

    def _collection_of_questions(self, choice: Choice) -> Collection:
        assert self.questions is not None
        split = replace(self.tools.splitting or SplitSettings(), passage_tokens=choice.passage_tokens)
        opened = indexed(
            self.questions.dataset,
            self.embedder,
            self.tools.cache,
            splitting=split,
            settings=SearchSettings(choice.dense_weight, choice.depth),
            progress=self._indexing,
        )
        return self._stack.enter_context(opened)

    def _toml(self, summary: Mapping[str, Any], now: Choice, best: Choice) -> str:
        """Lines for fathom.toml: only what was found better."""
        sections: dict[str, dict[str, Any]] = {"splitting": {}, "search": {}, "answer": {}}
        if summary["adopt"]:
            changed = {name: value for name, value in asdict(best).items() if value != getattr(now, name)}
            for name, value in changed.items():
                if name != "rerank_depth":  # not a setting of fathom.toml
                    sections["splitting" if name == "passage_tokens" else "search"][name] = value
        if summary["passages"].get("adopt"):
            sections["search"]["k"] = summary["passages"]["k"]
        if summary.get("refusal", {}).get("adopt"):
            sections["answer"]["least_confidence"] = summary["refusal"]["best"]
        return "\n".join(
            "\n".join([f"[{section}]", *(f"{name} = {value}" for name, value in values.items()), ""])
            for section, values in sections.items()
            if values
        )


def _kept(file: Path) -> dict[tuple[Choice, str], float]:
    """Scores of an earlier attempt; half a line at the end, which a kill leaves, is cut off."""
    known: dict[tuple[Choice, str], float] = {}
    if not file.is_file():
        return known
    data = file.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(file, whole)
    for line in data[:whole].splitlines():
        row = json.loads(line)
        known[Choice(**row["choice"]), row["query"]] = row["score"]
    return known


def _is_gold(hit: Hit, dataset: RetrievalDataset, query: str) -> bool:
    """Whether a passage holds a gold span; where none are known, whether it is of a relevant document."""
    spans = dataset.spans.get(query)
    if spans:
        passage = hit.passage
        return any(overlaps(hit.source.uri, passage.start, passage.end, span) for span in spans)
    return dataset.qrels[query].get(hit.source.uri, 0) > 0
