"""A test collection in, retrieval figures out: its corpus goes through the same Collection as a user's documents."""

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.data.datasets import RetrievalDataset, load_dataset
from eval.data.gold import span_ranking
from eval.data.trec import qrels_lines, run_lines
from eval.figures.metrics import STAGE_MEASURES, figures, measures_at, per_query
from eval.runs.parts import PartFolder, Prepared, Progress, Record, Tools
from eval.runs.running import run_items
from eval.search.embedders import HashingEmbedder, WholeTexts, WordsOnly
from eval.search.indexed import described, indexed
from eval.search.pipelines import Pipeline, Searched, Searcher, without_itself
from retrieval.collection import Collection, SearchSettings
from retrieval.embedding.embedder import Embedder
from retrieval.errors import FathomError, MissingError, UsageError
from retrieval.passages import Hit

CHECKED = 50
"""Queries of a run whose figures are computed by ir_measures as well."""
SHOWN = 5
SHOWN_CHARACTERS = 300
"""Passages of a ranking that a record shows people, and how much of each."""
PASSAGES = "passages"
"""Before a measure of whole documents' run: the same pipeline on the passages a user's documents are cut into."""


@dataclass(frozen=True)
class RetrievalPart:
    """How well a pipeline finds what a test collection judges relevant.

    `pipeline` is `[rewrite+](lexical|dense|hybrid)[+rerank]`. Every query is searched once and every stage of the
    pipeline measured: the last one under the plain names, those before it as `lexical:nDCG@10`. With gold spans,
    `span:` figures count each span when the first passage overlaps it.
    """

    dataset: Path
    """Folder of a test collection, or a question file."""
    pipeline: str = "hybrid"
    split: str | None = None
    """Judgements to use; None is "test" or the only ones."""
    whole_documents: bool = False
    """One passage per document, as published figures have it; those of ordinary passages are reported beside."""
    k: int = 100
    """Documents of a ranking."""
    limit: int | None = None
    """As many queries, the same ones each time; the corpus stays whole."""
    depth: int | None = None
    """Candidates of each leg before fusion; None is what the settings say."""
    reranker: str | None = None
    rerank_depth: int = 50
    """Passages the reranker reads."""
    rewriter: str | None = None
    collection: str | None = None
    """Ask an existing collection the questions of a question file, instead of a corpus of its own."""
    topics: Path | None = None
    """TREC topics that lie elsewhere."""
    qrels: Path | None = None
    """TREC judgements that lie elsewhere."""
    fields: str = "title"
    """Fields of a TREC topic that make the query, such as title+desc."""

    def __post_init__(self) -> None:
        Pipeline.parse(self.pipeline)
        for name, least, most in (
            ("k", 1, 10_000),
            ("limit", 1, None),
            ("depth", 1, 10_000),
            ("rerank_depth", 1, 10_000),
        ):
            value = getattr(self, name)
            if value is not None and (value < least or (most is not None and value > most)):
                raise UsageError(
                    f"{name} is a number from {least}{f' to {most}' if most else ' on'}; {value} was given."
                )
        if self.collection is not None and self.whole_documents:
            raise UsageError("A collection keeps the passages it has: leave out --whole-documents or --collection.")

    def prepare(self, tools: Tools) -> Prepared:
        """Reads and checks the collection. Raises UsageError, ReadingError with file and line, MissingError."""
        # Not closed here: the tools keep it open for whoever asks next.
        found = tools.collection(self.collection) if self.collection is not None else None
        dataset = load_dataset(
            self.dataset,
            split=self.split,
            topics=self.topics,
            qrels=self.qrels,
            fields=tuple(self.fields.split("+")),
            collection=found,
        )
        pipeline = Pipeline.parse(self.pipeline)
        if pipeline.rerank:
            tools.reranker(self.reranker)
        if pipeline.rewrite:
            tools.rewriter(self.rewriter)
        queries = self._chosen(dataset)
        return Prepared(
            items=len(queries),
            data=dataset.data,
            described=self._described(dataset, len(queries)),
            run=lambda folder, progress: _Run(self, tools, dataset, queries).run(folder, progress),
        )

    def _chosen(self, dataset: RetrievalDataset) -> list[str]:
        names = list(dataset.queries)
        if self.limit is None or self.limit >= len(names):
            return names
        drawn = set(random.Random(0).sample(sorted(names), self.limit))
        return [name for name in names if name in drawn]

    def _described(self, dataset: RetrievalDataset, queries: int) -> str:
        left_out = [
            f"{number:,} {'query' if number == 1 else 'queries'} {why} left out"
            for number, why in (
                (dataset.queries_without_judgements, "without judgements"),
                (dataset.queries_without_relevant, "without a relevant document"),
                (len(dataset.queries) - queries, "beyond the limit"),
            )
            if number
        ]
        if dataset.unread:
            left_out.append(f"{len(dataset.unread):,} files of the corpus could not be read")
        where = f"the collection '{self.collection}'" if self.collection else f"{len(dataset.documents):,} documents"
        cut = ", whole and in passages" if self.whole_documents else ""
        return "; ".join([f"{queries:,} queries of {dataset.name} ({dataset.split}), {where}{cut}", *left_out])


class _Run:
    """One run of a part over a dataset that has been checked."""

    def __init__(self, part: RetrievalPart, tools: Tools, dataset: RetrievalDataset, queries: Sequence[str]) -> None:
        self.part = part
        self.tools = tools
        self.dataset = dataset
        self.queries = queries
        self.pipeline = Pipeline.parse(part.pipeline)
        self.measures = measures_at(part.k)
        self.stage_measures = measures_at(part.k, STAGE_MEASURES)
        given = tools.search or SearchSettings()
        self.search = given if part.depth is None else SearchSettings(given.dense_weight, part.depth)
        self.texts = {document.id: document for document in dataset.documents}

    def run(self, folder: PartFolder, progress: Progress) -> Mapping[str, Any]:
        """Index, search what is not done, write the run files."""
        with ExitStack() as stack:
            progress("opening", 0, 0)
            extras = self._measure(folder, progress, stack)
        records = {query: record for query, record in folder.done().items() if query in self.dataset.queries}
        self._write_runs(folder.path, records)
        return self._about() | extras | _reranking(records) | self._proof(records)

    def _measure(self, folder: PartFolder, progress: Progress, stack: ExitStack) -> dict[str, Any]:
        began = time.perf_counter()
        main = self._open(self.part.whole_documents, progress, stack)
        beside = self._open(False, progress, stack) if self.part.whole_documents else None
        built = time.perf_counter() - began
        searchers = [self._searcher(found) for found in (main, beside) if found is not None]
        for searcher in searchers:
            searcher.warm_up()
        run_items(
            folder,
            self.queries,
            lambda query: self._record(query, *searchers),
            identify=str,
            describe=lambda query: self.dataset.queries[query],
            total=len(self.queries),
            what="searching",
            progress=progress,
        )
        return {
            "index": {**described(main), "seconds": round(built, 3)},
            "backend": self._backend(main),
            **({"index_of_passages": described(beside)} if beside is not None else {}),
            **({"reranker": _versions(searchers[0].reranker)} if self.pipeline.rerank else {}),
            **({"rewriter": _versions(searchers[0].rewriter)} if self.pipeline.rewrite else {}),
        }

    def _open(self, whole: bool, progress: Progress, stack: ExitStack) -> Collection:
        if self.part.collection is not None:
            shared = self.tools.collection(self.part.collection)
            stack.callback(setattr, shared, "settings", shared.settings)
            shared.settings = self.search
            return shared
        made = indexed(
            self.dataset,
            self._embedder(whole),
            self.tools.cache,
            whole_documents=whole,
            splitting=self.tools.splitting,
            settings=self.search,
            progress=progress,
        )
        return stack.enter_context(made)

    def _embedder(self, whole: bool) -> Embedder:
        """The embedding model. Searching by words needs its way of counting only, a whole document not even that."""
        if self.pipeline.search != "lexical":
            return WholeTexts(self.tools.embedder()) if whole else self.tools.embedder()
        if whole:
            return WholeTexts(WordsOnly(HashingEmbedder()))
        try:
            return WordsOnly(self.tools.embedder())
        except MissingError:  # no model here: words are counted instead of its tokens
            return WordsOnly(HashingEmbedder())

    def _backend(self, collection: Collection) -> str:
        return "none" if self.pipeline.search == "lexical" else collection.embedder().backend

    def _searcher(self, collection: Collection) -> Searcher:
        return Searcher(
            collection,
            self.pipeline,
            k=self.part.k,
            rerank_depth=self.part.rerank_depth if self.pipeline.rerank else 1,
            reranker=self.tools.reranker(self.part.reranker) if self.pipeline.rerank else None,
            rewriter=self.tools.rewriter(self.part.rewriter) if self.pipeline.rewrite else None,
        )

    def _record(self, query: str, main: Searcher, beside: Searcher | None = None) -> Record:
        text = self.dataset.queries[query]
        history = self.dataset.histories.get(query, ())
        searched = main(text, history)
        metrics, rankings = self._figures(query, main, searched)
        record: Record = {
            "id": query,
            "text": text,
            "cluster": self.dataset.cluster(query),
            "metrics": metrics,
            "timings": searched.timings,
            "rankings": rankings,
            "relevant": dict(self.dataset.qrels[query]),
            "hits": [_shown(hit) for hit in searched.hits[:SHOWN]],
        }
        if searched.reranking:
            record["reranking"] = searched.reranking
        if self.pipeline.rewrite:
            record["rewritten"] = searched.query
        if query in self.dataset.spans:
            record["spans"] = [[span.document, span.start, span.end] for span in self.dataset.spans[query]]
        if beside is not None:
            of_passages, record["passages"] = self._figures(query, beside, beside(text, history))
            metrics.update({f"{PASSAGES}:{name}": value for name, value in of_passages.items() if ":" not in name})
        return record

    def _figures(self, query: str, searcher: Searcher, searched: Searched) -> tuple[dict[str, float], dict[str, Any]]:
        """Figures of every stage, and the rankings they come from."""
        grades = self.dataset.qrels[query]
        gold = self.dataset.spans.get(query)
        metrics: dict[str, float] = {}
        rankings: dict[str, Any] = {}
        final = self.pipeline.stages[-1]
        for stage in reversed(self.pipeline.stages):
            before = "" if stage == final else f"{stage}:"
            measures = self.measures if stage == final else self.stage_measures
            documents = without_itself(searched.documents[stage], query, self.dataset.queries[query], self.texts)
            rankings[stage] = documents
            found = figures([document for document, _ in documents], grades, measures)
            metrics.update({f"{before}{name}": value for name, value in found.items()})
            if gold is not None:
                spans = span_ranking(searcher.places(searched.stages[stage]), gold)
                rankings[f"{stage}.spans"] = [[name, None] for name in spans]
                judged = {span.name: 1 for span in gold}
                found = figures(spans, judged, self.stage_measures)
                metrics.update({f"{before}span:{name}": value for name, value in found.items()})
        return metrics, rankings

    def _write_runs(self, folder: Path, records: Mapping[str, Record]) -> None:
        """`STAGE.trec` and `STAGE.spans.trec` with the judgements they are measured by."""
        tag = f"fathom-{self.pipeline}"
        names = {name: "rankings" for record in records.values() for name in record["rankings"]}
        for name in names:
            _write(folder / f"{name}.trec", run_lines(_ids(records, "rankings", name), tag))
        if self.part.whole_documents:
            name = self.pipeline.stages[-1]
            _write(folder / f"{PASSAGES}.trec", run_lines(_ids(records, "passages", name), tag))
        _write(folder / "qrels.trec", qrels_lines({query: self.dataset.qrels[query] for query in self.queries}))
        spans = {query: self.dataset.spans[query] for query in self.queries if query in self.dataset.spans}
        if spans:
            judged = {query: {span.name: 1 for span in gold} for query, gold in spans.items()}
            _write(folder / "qrels.spans.trec", qrels_lines(judged))

    def _about(self) -> dict[str, Any]:
        dataset = self.dataset
        return {
            "dataset": dataset.name,
            "form": dataset.form,
            "split": dataset.split,
            "documents": len(dataset.documents),
            "queries_without_relevant": dataset.queries_without_relevant,
            "queries_without_judgements": dataset.queries_without_judgements,
            "unread": dict(list(dataset.unread.items())[:100]),
            "pipeline": str(self.pipeline),
            "stages": list(self.pipeline.stages),
            "search": asdict(self.search),
        }

    def _proof(self, records: Mapping[str, Record]) -> dict[str, Any]:
        """ir_measures' own figures of the first queries, beside ours. Raises FathomError where they differ."""
        import ir_measures

        first = list(records)[:CHECKED]
        final = self.pipeline.stages[-1]
        rankings = {query: [document for document, _ in records[query]["rankings"][final]] for query in first}
        qrels = {query: self.dataset.qrels[query] for query in first}
        theirs = per_query(rankings, qrels, self.measures) if first else {}
        largest = max(
            (
                abs(value - records[query]["metrics"][name])
                for name, by in theirs.items()
                for query, value in by.items()
            ),
            default=0.0,
        )
        if largest > 1e-6:
            raise FathomError(
                f"figures differ from those of ir_measures {ir_measures.__version__} by {largest:.2g}; the records "
                "were made by another version of Fathom or changed: measure again with --fresh"
            )
        version = ir_measures.__version__
        return {"checked": {"by": f"ir_measures {version}", "queries": len(first), "largest_difference": largest}}


def _ids(records: Mapping[str, Record], key: str, name: str) -> dict[str, list[str]]:
    return {query: [item[0] for item in record[key].get(name, [])] for query, record in records.items()}


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(lines)


def _shown(hit: Hit) -> dict[str, Any]:
    passage = hit.passage
    return {
        "document": hit.source.uri,
        "title": hit.source.title,
        "start": passage.start,
        "end": passage.end,
        "page": passage.page,
        "score": hit.score,
        "text": passage.text[:SHOWN_CHARACTERS],
    }


def _reranking(records: Mapping[str, Record]) -> dict[str, Any]:
    """What a reranker that tells its costs cost a query, on average, and how many queries it left something out of."""
    told = [record["reranking"] for record in records.values() if record.get("reranking")]
    if not told:
        return {}
    names = dict.fromkeys(name for one in told for name in one if name != "note")
    means = {name: sum(one.get(name, 0) for one in told) / len(told) for name in names}
    notes = [one["note"] for one in told if one.get("note")]
    cost: dict[str, Any] = {"queries": len(told), "a_query": means, "with_notes": len(notes)}
    return {"reranking": cost | ({"first_note": notes[0]} if notes else {})}


def _versions(tool: object) -> Any:
    """What a model or prompt says of itself."""
    return getattr(tool, "described", None) or type(tool).__name__
