"""Answers with what was shown → faithfulness, relevance and context figures, by a language model or by shared words.

The measures are those of ragas (Es et al. 2024) from yes-or-no verdicts, one per call. A reply that is no verdict is
asked for again and then counts as unknown, never as a guess. It knows no engine by name.
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eval.checking import CheckerJudge, checker_words, names_checker, right, scores_of, told_apart
from eval.data.hashes import hashes_of
from eval.data.samples import RECORDS, Sample, answers_file, read_claims, read_labels, read_samples, statements
from eval.figures.agreement import agreement, corrected_mean, majority
from eval.judge_prompts import JUDGE_VERSION, Asked, judge_messages, parsed_verdict, prompts_hash
from eval.runs.parts import PartFolder, Prepared, Progress, Record, Tools
from eval.runs.running import run_items
from retrieval.errors import UsageError
from retrieval.support import best_evidence
from retrieval.supporting.lexical import odds

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from retrieval.supporting.checker import SupportChecker

METRICS = ("faithfulness", "answer_relevance", "context_precision", "context_recall")
LEXICAL = "lexical"
"""The judge without a model: what a model's agreement with people has to be compared with."""
RETRY_TEMPERATURE = 0.7
"""A model that writes prose at temperature 0 writes it again; another draw needs some."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verdict: None where no try gave one. `tries` are the raw replies with how they were asked for; `score` is how
    sure the judge is of a yes, where it can tell."""

    value: bool | None
    why: str = ""
    tries: tuple[Mapping[str, Any], ...] = ()
    score: float | None = None


class Judge(Protocol):
    """Whatever says yes or no; `identity` is what a record keeps of it."""

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def __call__(self, asked: Asked) -> Verdict: ...


class LexicalJudge:
    """Verdicts by shared words: no model, the same every time, and no sense for what words mean.

    It judges no relevance: a right answer ("the Denver Broncos") need not share a word with its question.
    """

    identity: Mapping[str, Any] = {"judge": LEXICAL}

    def __call__(self, asked: Asked) -> Verdict:
        claims = (asked.statement,) if asked.kind == "supported" else statements(asked.answer)
        found = [best_evidence(claim, passage) for claim in claims for passage in asked.passages]
        best = max(found, key=lambda one: (("no", "partly", "yes").index(one.verdict), one.share), default=None)
        if best is None:
            return Verdict(False)
        why = f"{best.verdict}, {best.share:.2f} of the claim's words"
        return Verdict(best.verdict != "no", why, score=round(odds(best).supported, 4))


class _ByChecker:
    """A support checker's verdicts."""

    def __init__(self, checker: "SupportChecker") -> None:
        self._judge = CheckerJudge(checker)
        self.identity = self._judge.identity

    def __call__(self, asked: Asked) -> Verdict:
        value, score, why = self._judge.scored(asked)
        return Verdict(value, why, score=round(score, 4))


class ModelJudge:
    """Verdicts of a language model: a strict form, `retries` further tries with a sharper reminder and another seed."""

    def __init__(
        self, llm: "LLM", *, retries: int = 2, temperature: float = 0.0, max_tokens: int = 200, seed: int = 0
    ) -> None:
        self.llm = llm
        self.retries, self.temperature, self.max_tokens, self.seed = retries, temperature, max_tokens, seed

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, prompts and how it was asked."""
        return {
            "judge": self.llm.metadata.model_name,
            "prompt": JUDGE_VERSION,
            "prompt_sha256": prompts_hash(),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "retries": self.retries,
            "seed": self.seed,
        }

    def __call__(self, asked: Asked) -> Verdict:
        """Raises what the engine raises."""
        from llama_index.core.base.llms.types import ChatMessage, MessageRole

        tries: list[Mapping[str, Any]] = []
        for attempt in range(self.retries + 1):
            options: dict[str, Any] = {"temperature": self.temperature, "max_tokens": self.max_tokens}
            if attempt:
                options["temperature"] = max(self.temperature, RETRY_TEMPERATURE)
            if options["temperature"] > 0:  # engines that know no seed are not bothered with one at temperature 0
                options["seed"] = self.seed + attempt
            chat = [
                ChatMessage(role=MessageRole(message.role), content=message.text)
                for message in judge_messages(asked, again=attempt > 0)
            ]
            reply = str(self.llm.chat(chat, **options).message.content or "")
            tries.append({"reply": reply, **options})
            value, why = parsed_verdict(reply)
            if value is not None:
                return Verdict(value, why, tuple(tries))
        return Verdict(None, "", tuple(tries))


# --- measures from verdicts -------------------------------------------------------------------------------------------


def share(verdicts: Sequence[bool | None]) -> float | None:
    """Share of yes. None where there is nothing to share, or a verdict is unknown: leaving it out would say that the
    statements a judge stumbles over are like the others."""
    if not verdicts or None in verdicts:
        return None
    return sum(map(bool, verdicts)) / len(verdicts)


def ranked_precision(verdicts: Sequence[bool | None]) -> float | None:
    """ragas' context precision: precision at k averaged over the ranks k of useful passages; 0 where none is useful.

    A rank nobody can tell makes the whole unknown.
    """
    if not verdicts or None in verdicts:
        return None
    useful, total = 0, 0.0
    for rank, verdict in enumerate(verdicts, 1):
        if verdict:
            useful += 1
            total += useful / rank
    return total / useful if useful else 0.0


def questions_to_ask(sample: Sample, metrics: Sequence[str]) -> dict[str, list[Asked]]:
    """The verdicts each metric of a sample needs, `[metric]`; a metric that does not apply to it is absent.

    faithfulness       every statement of the answer against all passages; of a refusal, which claims nothing, none
    answer_relevance   every statement against the question
    context_precision  every passage by itself, in its rank, against the reference
    context_recall     every statement of the reference against all passages
    """
    asked: dict[str, list[Asked]] = {}
    said = sample.statements()
    question, passages, reference = sample.question, sample.passages, sample.reference
    if "faithfulness" in metrics and said:
        asked["faithfulness"] = [Asked("supported", question, one, sample.answer, passages) for one in said]
    if "answer_relevance" in metrics and question and (said or sample.refused):
        asked["answer_relevance"] = [Asked("relevant", question, one, sample.answer) for one in said]
    if reference and question:
        if "context_precision" in metrics:
            asked["context_precision"] = [Asked("useful", question, "", reference, (one,)) for one in passages]
        if "context_recall" in metrics:
            claims = statements(reference) or (reference,)
            asked["context_recall"] = [Asked("supported", question, one, reference, passages) for one in claims]
    return asked


def judged(sample: Sample, judge: Judge, metrics: Sequence[str]) -> Record:
    """The record of one sample: its metrics, the share of verdicts that could be read, and every raw verdict."""
    began = time.perf_counter()
    values: dict[str, Any] = {}
    verdicts: list[dict[str, Any]] = []
    read = 0
    for metric, asked in questions_to_ask(sample, metrics).items():
        given = []
        for one in asked:
            # Nothing shown supports nothing: no judge is needed, and a model might say yes from what it knows.
            empty = one.kind != "relevant" and not one.passages
            verdict = Verdict(False, "nothing was shown") if empty else judge(one)
            given.append(verdict.value)
            verdicts.append(
                {
                    "metric": metric,
                    "of": one.passages[0] if one.kind == "useful" else one.statement,
                    "verdict": None if verdict.value is None else ("yes" if verdict.value else "no"),
                    "why": verdict.why,
                    "tries": list(verdict.tries),
                    **({} if verdict.score is None else {"score": verdict.score}),
                }
            )
        read += len(given) - given.count(None)
        # Without statements or passages the answer is not to the point (ragas: noncommittal is 0), the context useless.
        values[metric] = (ranked_precision if metric == "context_precision" else share)(given) if given else 0.0
    if verdicts:
        values["parsed"] = [read, len(verdicts)]
    return {
        "id": sample.id,
        "text": sample.question or sample.answer,
        "cluster": sample.cluster,
        "metrics": values,
        "timings": {"judge": round((time.perf_counter() - began) * 1e3, 3)},
        "error": None,
        "answer": sample.answer,
        "refused": sample.refused,
        "reference": sample.reference,
        "verdicts": verdicts,
        "judge": dict(judge.identity),
    }


# --- the part ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgePart:
    """A judge over the answers of a run, over a ragas file, or over claims that people have judged before."""

    run: Path | None = None
    """Folder of a run or part with answers, or a ragas-style jsonl."""
    part: str | None = None
    """Which part of the run; needed where several have answers. Without `run`, an earlier part of this very run."""
    claims: Path | None = None
    """Instead of a run: a folder in the form of SciFact, or a .jsonl of `fathom data claims`, to measure the judge."""
    split: str | None = "validation"
    """Which claims."""
    engine: str | None = None
    """The judging engine; "lexical" judges by shared words, without a model; "encoder", "encoder:FOLDER", "llm" and
    "llm:ENGINE" by the probabilities of a support checker."""
    metrics: tuple[str, ...] = METRICS
    retries: int = 2
    """Further tries after a reply that is no verdict."""
    labels: Path | None = None
    """What people said: lines {"id", "metric", "label"}."""
    threshold: float = 1.0
    """From which value of a metric on the judge counts as having said yes, where people said 1 or 0."""
    temperature: float = 0.0
    max_tokens: int = 200
    """Longest reply."""
    concurrency: int = 1
    limit: int | None = None
    """As many samples, drawn at random by `seed`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.run is None and self.part is None) == (self.claims is None):
            raise UsageError("a judge needs either a run (or file) of answers, or claims: give one of them")
        if self.run is None and self.labels is not None:
            raise UsageError("labels belong to answers that are there: name their run")
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown or not self.metrics:
            raise UsageError(f"no judge gives {unknown[0] if unknown else 'nothing'!r}; choose of {', '.join(METRICS)}")
        for name, value, least in (("retries", self.retries, 0), ("max_tokens", self.max_tokens, 8)):
            if value < least:
                raise UsageError(f"{name} is a number from {least}; {value} was given")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is a number of samples from 1; {self.limit} was given")
        if self.claims is not None and self.labels is not None:
            raise UsageError("claims bring their labels along; leave the labels out")

    def prepare(self, tools: Tools) -> Prepared:
        """Reads samples and labels; the judging model is loaded by the run only."""
        judge = f"engine {self.engine or 'of the settings'}"
        relies_on: tuple[str, ...] = ("engine",)
        if self._by_support:
            judge, relies_on = f"the checker {self.engine}", ("checker",)
        if self.engine == LEXICAL:
            judge, relies_on = "the lexical judge", ()
        if self.run is None and self.part is not None:
            return Prepared(
                items=0,
                data={},
                described=f"the answers of part '{self.part}' by {judge}",
                run=lambda folder, progress: self._run_after(folder, progress, tools),
                relies_on=relies_on,
                follows=self.part,
                most=self.limit,
            )
        labels: dict[str, dict[str, list[int]]] = {}
        metrics: Sequence[str] = self.metrics
        failed = 0
        if self.claims is not None:
            samples, truth = read_claims(self.claims, self.split)
            labels, metrics = {"faithfulness": {key: [label] for key, label in truth.items()}}, ("faithfulness",)
            files = [self.claims] if self.claims.is_file() else sorted(self.claims.glob("claims_evidence.jsonl*"))
            data, where = hashes_of(*files), self.claims.name
            data |= hashes_of(*(self.claims.glob("corpus.jsonl*")))
        else:
            assert self.run is not None
            file = answers_file(self.run, self.part)
            samples, failed = read_samples(file)
            if self.labels is not None and not self.labels.is_file():
                raise UsageError(f"'{self.labels}' is not a file of labels")
            data, where = hashes_of(file, self.labels), file.parent.name if file.name == RECORDS else file.name
            if self.labels is not None:
                labels = read_labels(self.labels, samples, metrics)
        samples = self._drawn(samples)
        if self._by_support:
            metrics = _without_model(metrics)
        needed = [questions_to_ask(sample, metrics) for sample in samples]
        counts = {metric: sum(metric in one for one in needed) for metric in metrics}
        if not any(counts.values()):
            raise UsageError(
                f"{where} has nothing that {', '.join(self.metrics)} could be judged by: context_precision and "
                "context_recall need a reference, faithfulness an answer that is no refusal, answer_relevance a model"
            )
        calls = sum(len(asked) for one in needed for asked in one.values())
        described = f"{len(samples)} answers of {where} by {judge}, {calls} verdicts: "
        described += ", ".join(f"{metric} of {count}" for metric, count in counts.items())
        if failed:
            described += f"; {failed} items without an answer are left out"
        return Prepared(
            items=len(samples),
            data=data,
            described=described,
            run=lambda folder, progress: self._run(folder, progress, tools, samples, metrics, labels),
            relies_on=relies_on,
        )

    @property
    def _by_support(self) -> bool:
        """It tells support and nothing else: no relevance, and no text of its own."""
        return self.engine == LEXICAL or names_checker(self.engine)

    def _drawn(self, samples: list[Sample]) -> list[Sample]:
        if self.limit is None or self.limit >= len(samples):
            return samples
        kept = set(random.Random(self.seed).sample(range(len(samples)), self.limit))
        return [sample for place, sample in enumerate(samples) if place in kept]

    def _run_after(self, folder: PartFolder, progress: Progress, tools: Tools) -> Mapping[str, Any]:
        assert self.part is not None
        samples = self._drawn(read_samples(folder.path.parent / self.part / RECORDS)[0])
        metrics = _without_model(self.metrics) if self._by_support else self.metrics
        return self._run(folder, progress, tools, samples, metrics, {})

    def _run(
        self,
        folder: PartFolder,
        progress: Progress,
        tools: Tools,
        samples: Sequence[Sample],
        metrics: Sequence[str],
        labels: Mapping[str, Mapping[str, Sequence[int]]],
    ) -> Mapping[str, Any]:
        people = labels.get("faithfulness", {})
        truth = {key: majority(said) for key, said in people.items()} if self.claims is not None else {}
        if len(folder.done()) < len(samples):
            judge = self._judge(tools)
            run_items(
                folder,
                samples,
                lambda sample: _against_label(judged(sample, judge, metrics), truth),
                identify=lambda sample: sample.id,
                total=len(samples),
                what="judging",
                progress=progress,
                concurrency=self.concurrency,
                describe=lambda sample: sample.question or sample.answer,
            )
        records = folder.done()
        identity: Mapping[str, Any] = next((record["judge"] for record in records.values()), {})
        verdicts = [verdict for record in records.values() for verdict in record["verdicts"]]
        unread = sum(verdict["verdict"] is None for verdict in verdicts)
        extras: dict[str, Any] = {
            # The settings' engine is known by the hash of its weights; one that was named, by its name.
            "judge": {**identity, "engine": self.engine or tools.identity("engine")},
            "verdicts": len(verdicts),
            "unparsed": unread,
            "retried": sum(len(verdict["tries"]) > 1 for verdict in verdicts),
        }
        if truth:
            clusters = {key: record_cluster(record) for key, record in records.items()}
            apart = told_apart(scores_of(records, "faithfulness"), truth, clusters, seed=self.seed)
            extras |= {"told_apart": apart} if apart else {}
        return extras | against_people(records, labels, threshold=self.threshold, seed=self.seed)

    def _judge(self, tools: Tools) -> Judge:
        if self.engine == LEXICAL:
            return LexicalJudge()
        if names_checker(self.engine):
            return _ByChecker(tools.checker(*checker_words(str(self.engine))))
        return ModelJudge(
            tools.llm(self.engine),
            retries=self.retries,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )


def _against_label(record: Record, truth: Mapping[str, int]) -> Record:
    """With `accuracy`, whether the judge says of the claim what people said, so that judges can be compared."""
    if record["id"] in truth:
        said = record["metrics"].get("faithfulness")
        record["metrics"]["accuracy"] = right(None if said is None else bool(said), truth[record["id"]])
    return record


def _without_model(metrics: Sequence[str]) -> tuple[str, ...]:
    """What can be judged by shared words alone."""
    return tuple(metric for metric in metrics if metric != "answer_relevance")


def against_people(
    records: Mapping[str, Record],
    labels: Mapping[str, Mapping[str, Sequence[int]]],
    *,
    threshold: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """`{"agreement": {metric: …}, "corrected": {metric: …}}` where people have labelled samples, else {}.

    agreement  κ and its relatives over the samples that both could tell; `unknown` counts those the judge could not
    corrected  the mean that people would have given of all samples (prediction-powered), where only some are labelled
    """
    agreements: dict[str, Any] = {}
    corrected: dict[str, Any] = {}
    for metric, by_people in labels.items():
        said = {
            key: int(value >= threshold)
            for key, record in records.items()
            if (value := record["metrics"].get(metric)) is not None
        }
        both = [key for key in said if key in by_people]
        unknown = sum(key in records and key not in said for key in by_people)
        if not both:
            agreements[metric] = {"n": 0, "kappa": None, "unknown": unknown}
            continue
        people = [majority(by_people[key]) for key in both]
        clusters = [record_cluster(records[key]) for key in both]
        found = agreement(people, [said[key] for key in both], classes=(0, 1), clusters=clusters, seed=seed)
        agreements[metric] = {**found.to_json(), "unknown": unknown, "threshold": threshold}
        rest = [float(value) for key, value in said.items() if key not in by_people]
        if rest and len(both) > 1:
            mean = corrected_mean(people, [said[key] for key in both], rest)
            corrected[metric] = {
                "mean": round(mean.mean, 4),
                "interval": [round(mean.low, 4), round(mean.high, 4)],
                "judged": round(mean.judged, 4),
                "bias": round(mean.bias, 4),
                "labelled": mean.labelled,
                "n": mean.n,
            }
    return {key: value for key, value in (("agreement", agreements), ("corrected", corrected)) if value}


def record_cluster(record: Record) -> str:
    """The cluster of a record, its own id where it has none."""
    return str(record.get("cluster") or record["id"])
