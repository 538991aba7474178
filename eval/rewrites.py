"""Rewritten questions against human ones, in words and in what they do to a search → one record per turn.

Measures as in the papers of CANARD (Elgohary et al. 2019) and TREC CAsT; Chinese counts by characters.
"""

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from eval.data.conversations import Turn, known_items, read_turns
from eval.data.corpora import identifier, numbered_jsonl, words
from eval.data.datasets import RetrievalDataset, load_dataset
from eval.data.hashes import hashes_of
from eval.figures.answer_metrics import exact_match, rouge_tokens, token_f1
from eval.runs.parts import PartFolder, Prepared, Progress, Record, Tools
from eval.runs.running import run_items
from retrieval.answerability import confidence
from retrieval.answering import PASSAGES
from retrieval.collection import Collection
from retrieval.errors import ReadingError, UsageError
from retrieval.finding import joined
from retrieval.passages import Mode
from retrieval.prompts import language_of
from retrieval.rewriting.condensing import REWRITE_VERSION, LanguageModelRewriter
from retrieval.rewriting.naming import RULES, PlannedQuestion, rewriter_named
from retrieval.rewriting.need import no_need
from retrieval.rewriting.planning import PLAN_VERSION, Planning
from retrieval.rewriting.plans import About, Way
from retrieval.rewriting.rules import Rewriter

MEASURES = ("nDCG@10", "RR@10")
DEPTH = 10
"""Documents of a ranking."""
HITS = 3 * DEPTH
"""Passages asked for: several may be of one document."""
_RULES = (None, *RULES)


@dataclass(frozen=True)
class RewritesPart:
    """How well a rewriter does on the turns of a file.

    With `predictions`, a file of {"id", "rewrite"}, those are measured instead of a rewriter of ours. Retrieval is
    measured on the collection `on` (its query ids are the file's), else on the conversations' own answers where they
    have some, and left out where neither is there.
    """

    file: Path
    """Lines {"id", "history": [{"role", "text"}], "question", "rewrite"}."""
    rewriter: str | None = "previous"
    """"none", "previous", "auto", "model", "plan", "plan:ENGINE" or the name of an engine; see
    `retrieval.rewriting.naming.planner_named`."""
    predictions: Path | None = None
    on: Path | None = None
    split: str | None = None
    """Judgements of `on` to use."""
    pipeline: Mode = "lexical"
    retrieval: bool = True
    """Whether searches are measured at all."""
    limit: int | None = None
    """As many turns, drawn at random by `seed`; the collection stays whole."""
    gate: bool = False
    """Whether a model is spared where serving would spare it (retrieval/rewriting/need.py); else it is asked for every
    turn with a history."""
    concurrency: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pipeline not in get_args(Mode):
            raise UsageError(f"there is no pipeline '{self.pipeline}'; choose from {', '.join(get_args(Mode))}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is a number of turns from 1; {self.limit} was given")

    def prepare(self, tools: Tools) -> Prepared:
        """Reads turns, predictions and the collection; a model is loaded by the run only."""
        for path in (self.file, self.predictions):
            if path is not None and not path.is_file():
                raise UsageError(f"'{path}' is not a file; give lines with id, history, question and rewrite")
        turns = read_turns(self.file)
        dataset = self._dataset(turns) if self.retrieval else None
        data = hashes_of(self.file, self.predictions, self.on if dataset is not None else None)
        given = None if self.predictions is None else _predictions(self.predictions, turns)
        if self.limit is not None and self.limit < len(turns):
            kept = set(random.Random(self.seed).sample(range(len(turns)), self.limit))
            turns = [turn for place, turn in enumerate(turns) if place in kept]
        by = f"rewrites of {self.predictions.name}" if self.predictions else f"rewriter {self.rewriter or 'previous'}"
        described = f"{len(turns)} turns of {self.file.name}, {by}"
        if dataset is not None:
            searched = sum(turn.id in dataset.queries for turn in turns)
            described += f"; {self.pipeline} search for {searched} of them among {len(dataset.documents)} documents"
        elif self.retrieval:
            described += "; no search: the conversations carry no answers to look for"
        by_model = self.predictions is None and self.rewriter not in _RULES
        relies: tuple[str, ...] = ("rewriter",) if by_model else ()
        if dataset is not None:
            relies += ("splitting", "search") if self.pipeline == "lexical" else ("embedding", "splitting", "search")
        return Prepared(
            items=len(turns),
            data=data,
            described=described,
            run=lambda folder, progress: self._run(folder, progress, tools, turns, given, dataset),
            relies_on=relies,
        )

    def _dataset(self, turns: Sequence[Turn]) -> RetrievalDataset | None:
        if self.on is None:
            return known_items(turns, self.file.stem.removesuffix(".jsonl"))
        dataset = load_dataset(self.on, split=self.split)
        if not any(turn.id in dataset.queries for turn in turns):
            raise UsageError(
                f"no turn of {self.file.name} is a query of {self.on}: its turns are called like '{turns[0].id}', the "
                f"queries like '{next(iter(dataset.queries))}'; leave --on out, or rename one of them"
            )
        return dataset

    def _run(
        self,
        folder: PartFolder,
        progress: Progress,
        tools: Tools,
        turns: Sequence[Turn],
        given: Mapping[str, str] | None,
        dataset: RetrievalDataset | None,
    ) -> Mapping[str, Any]:
        extras: dict[str, Any] = {"turns": len(turns), "needed": sum(turn.needed for turn in turns)}
        if len(folder.done()) < len(turns):
            self._measure(folder, progress, tools, turns, given, dataset)
        records = folder.done()
        identity: Mapping[str, Any] = next((record["rewriter"] for record in records.values()), {})
        return extras | {"rewriter": identity} | effect_on_search(records, seed=self.seed)

    def _measure(
        self,
        folder: PartFolder,
        progress: Progress,
        tools: Tools,
        turns: Sequence[Turn],
        given: Mapping[str, str] | None,
        dataset: RetrievalDataset | None,
    ) -> None:
        rewriter = None if given is not None else _rewriter(self.rewriter, tools)
        identity = self._identity(rewriter)
        with _opened(dataset, self.pipeline, tools, progress) as collection:

            def do(turn: Turn) -> Record:
                began = time.perf_counter()
                spared = _spared(turn, rewriter, collection, self.pipeline) if self.gate else None
                text, more = (turn.question, {"spared": spared}) if spared else _rewritten(turn, given, rewriter)
                took = (time.perf_counter() - began) * 1e3
                record: Record = {
                    "id": turn.id,
                    "text": turn.question,
                    "cluster": turn.cluster,
                    "metrics": text_metrics(turn, text),
                    "timings": {} if given is not None else {"rewrite": round(took, 3)},
                    "error": None,
                    "history": [{"role": message.role, "text": message.text} for message in turn.history],
                    "rewritten": text,
                    "human": turn.rewrite,
                    "needed": turn.needed,
                    "rewriter": identity,
                    **more,
                }
                if _by_model(rewriter):
                    record["metrics"]["asked_model"] = float(not spared and more.get("fallback") != "no history")
                if collection is not None and dataset is not None and turn.id in dataset.queries:
                    _search(record, collection, self.pipeline, dataset, turn, more.get("queries") or [text])
                return record

            run_items(
                folder,
                turns,
                do,
                identify=lambda turn: turn.id,
                total=len(turns),
                what="rewriting",
                progress=progress,
                concurrency=self.concurrency,
                describe=lambda turn: turn.question,
            )

    def _identity(self, rewriter: Rewriter | None) -> dict[str, Any]:
        """What wrote the rewrites."""
        if self.predictions is not None:
            return {"name": self.predictions.name}
        found: dict[str, Any] = {"name": self.rewriter or "previous"}
        if isinstance(rewriter, LanguageModelRewriter):
            found |= {"model": rewriter.llm.metadata.model_name, "prompt": REWRITE_VERSION}
        elif isinstance(rewriter, PlannedQuestion) and isinstance(rewriter.planner, Planning):
            found |= {"model": rewriter.planner.llm.metadata.model_name, "prompt": PLAN_VERSION}
        return found | ({"gate": True} if self.gate and _by_model(rewriter) else {})


def text_metrics(turn: Turn, text: str) -> dict[str, Any]:
    """How near `text` is to the human rewrite, in words; the same again over the turns that needed one (`_needed`).

    rouge1_recall, rouge1_F1  shared words over those of the human rewrite, and as F (Lin 2004), case and punctuation
                              aside, no stemming
    rewrite_F1, rewrite_EM    overlap and equality after SQuAD's normalising (articles and punctuation out); Chinese by
                              characters, CMRC's punctuation out
    unchanged                 the question was left as it is
    left_alone                of the turns that needed no rewrite, those left as they are: 1 − over-rewriting
    """
    human, mine = rouge_tokens(turn.rewrite), rouge_tokens(text)
    shared = sum((Counter(human) & Counter(mine)).values())
    overlap = 2 * shared / (len(human) + len(mine)) if human or mine else 1.0
    language = language_of(turn.rewrite)
    measures = {
        "rouge1_recall": shared / len(human) if human else float(not mine),
        "rouge1_F1": overlap,
        # In Chinese SQuAD's normalising changes nothing, and CMRC's F1 is of one run of characters, not of their bag.
        "rewrite_F1": token_f1(text, [turn.rewrite]) if language == "en" else overlap,
        "rewrite_EM": exact_match(text, [turn.rewrite], language),
    }
    same = float(mine == rouge_tokens(turn.question))
    metrics: dict[str, Any] = {**measures, "unchanged": same}
    if turn.needed:
        metrics |= {f"{name}_needed": value for name, value in measures.items()}
    else:
        metrics["left_alone"] = same
    return metrics


def _search(
    record: Record,
    collection: Collection,
    pipeline: Mode,
    dataset: RetrievalDataset,
    turn: Turn,
    rewritten: Sequence[str],
) -> None:
    """Adds nDCG@10 and RR@10 of the question as asked, as rewritten, and as a person rewrote it; several queries are
    joined as serving joins them."""
    from eval.figures.metrics import per_query

    queries = {"raw": (turn.question,), "rewritten": tuple(rewritten), "human": (turn.rewrite,)}
    began = time.perf_counter()
    rankings: dict[str, list[str]] = {}
    found: dict[tuple[str, ...], list[str]] = {}
    for name, asked in queries.items():
        if asked not in found:
            hits = joined([collection.search(query, mode=pipeline, k=HITS) for query in asked], HITS)
            found[asked] = list(dict.fromkeys(hit.source.uri for hit in hits))[:DEPTH]
        rankings[name] = found[asked]
    record["timings"]["search"] = round((time.perf_counter() - began) * 1e3 / len(found), 3)
    figures = per_query(rankings, dict.fromkeys(queries, dataset.qrels[turn.id]), MEASURES)
    for measure, values in figures.items():
        for name, value in values.items():
            record["metrics"][f"{measure}_{name}"] = value
            if turn.needed:
                record["metrics"][f"{measure}_{name}_needed"] = value
    record["rankings"] = rankings


def effect_on_search(records: Mapping[str, Record], *, seed: int = 0) -> dict[str, Any]:
    """`{"search": {measure: {"gain", "interval", "p", "possible", "possible_interval"}}}` where searches were measured.

    `gain` is what the rewrite adds to the question as asked, `possible` what the human rewrite adds, both paired by
    turn, with conversations resampled whole; `p` is of the randomisation test of `gain`.
    """
    from eval.figures.statistics import clusters_of, paired, table_of

    table = table_of(records)
    sides: dict[str, dict[str, Mapping[str, Any]]] = {"raw": {}, "rewritten": {}, "human": {}}
    for measure in MEASURES:
        for suffix in ("", "_needed"):
            for side, values in sides.items():
                if f"{measure}_{side}{suffix}" in table:
                    values[f"{measure}{suffix}"] = table[f"{measure}_{side}{suffix}"]
    if not sides["raw"]:
        return {}
    clusters = clusters_of(records)
    gained = paired(sides["raw"], sides["rewritten"], clusters=clusters, seed=seed)
    possible = paired(sides["raw"], sides["human"], clusters=clusters, seed=seed)
    return {
        "search": {
            measure: {
                "gain": one.difference.value,
                "interval": [one.difference.low, one.difference.high],
                "p": one.p,
                "possible": possible[measure].difference.value,
                "possible_interval": [possible[measure].difference.low, possible[measure].difference.high],
            }
            for measure, one in gained.items()
        }
    }


def _opened(dataset: RetrievalDataset | None, pipeline: Mode, tools: Tools, progress: Progress) -> Any:
    if dataset is None:
        return nullcontext()
    from eval.search.embedders import HashingEmbedder
    from eval.search.indexed import indexed

    # A lexical search needs the index only; a model's vectors would take the longest of all.
    model = HashingEmbedder() if pipeline == "lexical" else tools.embedder()
    return indexed(dataset, model, tools.cache, splitting=tools.splitting, settings=tools.search, progress=progress)


def _rewriter(name: str | None, tools: Tools) -> Rewriter:
    """Our own words work wherever a language model does; what else there is, the tools know."""
    if name in _RULES:
        return rewriter_named(name, tools.llm)
    return tools.rewriter(name)


def _rewritten(turn: Turn, given: Mapping[str, str] | None, rewriter: Rewriter | None) -> tuple[str, dict[str, Any]]:
    """The rewrite and, of a model's, what it wrote and why it was not taken."""
    if given is not None:
        return given[turn.id], {}
    assert rewriter is not None
    if isinstance(rewriter, PlannedQuestion):
        plan = rewriter.planner(turn.question, turn.history, About())
        text = turn.question if plan.note else plan.standalone
        return text, {"fallback": plan.note, "queries": list(plan.queries), "reply": plan.passage}
    if not isinstance(rewriter, LanguageModelRewriter):
        return rewriter(turn.question, list(turn.history)), {}
    # Not by calling it: an engine that dies would then be measured as a rewriter that leaves everything alone.
    result = rewriter.rewrite(turn.question, turn.history)
    return result.text, {"fallback": result.fallback, "reply": result.raw}


def _by_model(rewriter: Rewriter | None) -> bool:
    return isinstance(rewriter, LanguageModelRewriter | PlannedQuestion)


def _spared(turn: Turn, rewriter: Rewriter | None, collection: Collection | None, pipeline: Mode) -> str | None:
    """Why serving would not ask the model for this turn."""
    if not _by_model(rewriter):
        return None

    def sure() -> float:
        if collection is None:
            return 0.0
        hits = collection.search(turn.question, mode=pipeline, k=PASSAGES).hits
        return confidence(turn.question, hits, collection.meaning_scale)

    way: Way = "plan" if isinstance(rewriter, PlannedQuestion) else "condense"
    return no_need(way, turn.question, turn.history, About, sure)


def _predictions(path: Path, turns: Sequence[Turn]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line, row in numbered_jsonl(path):
        key = identifier(row, "id", path, line)
        if key in found:
            raise ReadingError(str(path), "duplicate-id", f"line {line}: the id {key!r} occurs twice.")
        found[key] = words(row, "rewrite", path, line)
    missing = [turn.id for turn in turns if turn.id not in found]
    if missing:
        raise UsageError(
            f"{path} has no rewrite for {len(missing)} of {len(turns)} turns, for example '{missing[0]}'; a rewriter "
            "is measured on all of them"
        )
    return found
