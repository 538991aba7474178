"""A run of answers, a ragas file or claims with evidence → samples: a question, what was shown, what was answered.

What a judge reads and what an export writes. It knows no judge and no metric.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.data.claim_pairs import read_pairs
from eval.data.corpora import find_jsonl, identifier, numbered_jsonl, read_corpus, words
from eval.runs.parts import Record, read_records
from retrieval.citing import strip_markers
from retrieval.errors import ReadingError, UsageError
from retrieval.sentences import sentence_spans

RECORDS = "records.jsonl"


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to be judged. `passages` are those that were shown to what answered, in their order.

    `refused` is true where nothing was answered. `reference` is the known answer, None where there is none. Ids are of
    documents. `claims` are the answer's statements where somebody else has cut it, else None.
    """

    id: str
    question: str
    answer: str
    passages: tuple[str, ...]
    passage_ids: tuple[str, ...] = ()
    refused: bool = False
    reference: str | None = None
    reference_passages: tuple[str, ...] = ()
    reference_ids: tuple[str, ...] = ()
    cluster: str | None = None
    claims: tuple[str, ...] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def statements(self) -> tuple[str, ...]:
        """The answer sentence by sentence, without citation marks; nothing of a refusal."""
        if self.claims is not None:
            return self.claims
        return () if self.refused else statements(self.answer)


def statements(text: str) -> tuple[str, ...]:
    """Sentences of a text, by the splitter that answers are checked with: cheaper than asking a model to take it apart,
    and the same every time."""
    plain = strip_markers(text)[0]
    return tuple(plain[start:end] for start, end in sentence_spans(plain))


def answers_file(path: Path, part: str | None = None) -> Path:
    """The file of answers behind a path: a run folder (its part of answers, or the one named), a part's folder, or the
    file itself. Raises UsageError that says which parts there are."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"'{path}' is not there; give the folder of a run, or a .jsonl file of samples")
    if (path / RECORDS).is_file():
        return path / RECORDS
    found = {file.parent.name: file for file in sorted(path.glob(f"parts/*/{RECORDS}"))}
    if part is not None:
        if part not in found:
            there = f"; it has {', '.join(found)}" if found else ""
            raise UsageError(f"the run {path} has no part '{part}'{there}")
        return found[part]
    answered = {name: file for name, file in found.items() if _holds_answers(file)}
    if len(answered) == 1:
        return next(iter(answered.values()))
    if answered:
        raise UsageError(f"the run {path} has several parts with answers ({', '.join(answered)}); name one of them")
    there = f"its parts are {', '.join(found)}" if found else "it has no parts at all"
    raise UsageError(f"the run {path} holds no answers: {there}; make some with 'fathom eval answers QUESTIONS'")


def _holds_answers(file: Path) -> bool:
    return any("answer" in record and "passages" in record for record in read_records(file.parent).values())


def read_samples(file: Path) -> tuple[list[Sample], int]:
    """(samples, how many items have none since they failed) of a part's records.jsonl or of a ragas jsonl.

    Raises UsageError for a file without samples, ReadingError that names the line that is not one.
    """
    if file.name == RECORDS:
        records = read_records(file.parent)
        samples = [_of_record(file, record) for record in records.values() if not record.get("error")]
        failed = len(records) - len(samples)
    else:
        samples, failed = list(_of_ragas(file)), 0
    if not samples:
        raise UsageError(f"{file} holds no answers to judge" + (f"; {failed} items failed" if failed else ""))
    return samples, failed


def _of_record(file: Path, record: Record) -> Sample:
    key = str(record["id"])
    passages = [item for item in record.get("passages") or [] if not isinstance(item, dict) or item.get("shown", True)]
    answer = record.get("answer")
    if "answer" not in record or not all(
        isinstance(item, dict) and isinstance(item.get("text"), str) for item in passages
    ):
        raise ReadingError(
            str(file),
            "field",
            f"record {key!r} has no answer with passages; name a part that 'fathom eval answers' made.",
        )
    references = [*(record.get("references") or []), *(record.get("golds") or [])]
    refused = bool(record.get("refused")) or not str(answer or "").strip()
    evidence = [span for alternatives in record.get("evidence") or [] for span in alternatives]
    kept = ("kind", "language", "group", "answerable", "answered_by", "citations")
    return Sample(
        id=key,
        question=str(record.get("text") or ""),
        answer=str(answer or ""),
        passages=tuple(item["text"] for item in passages),
        passage_ids=tuple(str(item.get("document", item.get("id", n))) for n, item in enumerate(passages, 1)),
        refused=refused,
        reference=str(references[0]) if references else None,
        reference_ids=tuple(dict.fromkeys(str(span["document"]) for span in evidence)),
        cluster=record.get("cluster"),
        metadata={name: record[name] for name in kept if name in record},
    )


def _of_ragas(file: Path) -> Iterator[Sample]:
    """Lines with ragas' names: user_input, retrieved_contexts, response, reference … Others may be there too."""
    seen: set[str] = set()
    for line, row in numbered_jsonl(file):
        metadata = row.get("metadata")
        more = metadata if isinstance(metadata, dict) else {}
        key = identifier(row, "id", file, line) if "id" in row else str(more.get("id", line))
        if key in seen:
            raise ReadingError(str(file), "duplicate-id", f"line {line}: the id {key!r} occurs twice.")
        seen.add(key)
        question, answer = words(row, "user_input", file, line), words(row, "response", file, line)
        cluster = row.get("cluster", more.get("cluster"))
        yield Sample(
            id=key,
            question=question,
            answer=answer,
            passages=_texts(row, "retrieved_contexts", file, line),
            passage_ids=_texts(row, "retrieved_context_ids", file, line),
            refused=bool(more.get("refused")) or not answer.strip(),
            reference=words(row, "reference", file, line) if row.get("reference") is not None else None,
            reference_passages=_texts(row, "reference_contexts", file, line),
            reference_ids=_texts(row, "reference_context_ids", file, line),
            cluster=str(cluster) if cluster is not None else None,
        )


def _texts(row: Mapping[str, Any], name: str, file: Path, line: int) -> tuple[str, ...]:
    value = row.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
        raise ReadingError(str(file), "field", f"line {line}: {name!r} is not a list of texts.")
    return tuple(str(item) for item in value)


def read_claims(folder: Path, split: str | None = None) -> tuple[list[Sample], dict[str, int]]:
    """Claims that people have held against an abstract, as answers of one statement, and what the people said.

    The form of SciFact (Wadden et al. 2020): `claims_evidence.jsonl` with claim, label, evidence_doc_id and
    cited_doc_ids, beside `corpus.jsonl`. SUPPORT is 1; CONTRADICT and NOT_ENOUGH_INFO, which is held against the first
    cited abstract, are 0. Each pair of claim and abstract counts once.

    Or the pairs of a .jsonl file, as `fathom data claims` writes them; what is not supported is 0. It has no splits.

    Raises UsageError, ReadingError.
    """
    if folder.is_file():
        return _of_pairs(folder)
    path = find_jsonl(folder, "claims_evidence")
    if path is None:
        raise UsageError(f"{folder} lacks claims_evidence.jsonl; give a folder in the form of SciFact, or .jsonl pairs")
    documents = {document.id: document for document in read_corpus(folder).documents}
    samples: dict[str, Sample] = {}
    labels: dict[str, int] = {}
    splits: set[str] = set()
    for line, row in numbered_jsonl(path):
        splits.add(str(row.get("split", "")))
        if split is not None and row.get("split") != split:
            continue
        label = row.get("label")
        if label not in ("SUPPORT", "CONTRADICT", "NOT_ENOUGH_INFO"):
            raise ReadingError(str(path), "field", f"line {line}: the label is {str(label)[:40]!r}.")
        cited = row.get("cited_doc_ids") or [""]
        document = documents.get(str(row.get("evidence_doc_id") or cited[0]))
        if document is None:
            raise ReadingError(str(path), "unknown-document", f"line {line}: its abstract is not in the corpus.")
        claim, number = words(row, "claim", path, line), identifier(row, "id", path, line)
        key = f"{number}-{document.id}"
        if labels.setdefault(key, int(label == "SUPPORT")) != int(label == "SUPPORT"):
            raise ReadingError(str(path), "label", f"line {line}: claim {number} has two labels for one abstract.")
        text = f"{document.title}\n{document.text}".strip()
        samples[key] = Sample(key, "", claim, (text,), (document.id,), cluster=number, claims=(claim,))
    if not samples:
        raise UsageError(f"{path} has no split '{split}'; it has {', '.join(sorted(splits)) or 'nothing'}")
    return list(samples.values()), labels


def _of_pairs(file: Path) -> tuple[list[Sample], dict[str, int]]:
    samples: list[Sample] = []
    labels: dict[str, int] = {}
    for number, pair in enumerate(read_pairs(file), 1):
        key = f"{number}-{pair.label}"
        more = {"label": pair.label, "made": pair.made}
        cluster = pair.document or pair.passage[:80]
        samples.append(
            Sample(
                key,
                "",
                pair.claim,
                (pair.passage,),
                (pair.document,),
                cluster=cluster,
                claims=(pair.claim,),
                metadata=more,
            )
        )
        labels[key] = int(pair.label == "supported")
    return samples, labels


def read_labels(path: Path, samples: Sequence[Sample], metrics: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """What people said, `[metric][sample]`, one entry per rater: lines {"id", "metric", "label": 0 or 1}.

    Raises ReadingError for an unknown id or metric, or a label that is neither.
    """
    known = {sample.id for sample in samples}
    found: dict[str, dict[str, list[int]]] = {}
    for line, row in numbered_jsonl(path):
        key, metric = identifier(row, "id", path, line), words(row, "metric", path, line)
        label = row.get("label")
        if key not in known:
            raise ReadingError(str(path), "unknown-id", f"line {line}: no sample is called {key[:80]!r}.")
        if metric not in metrics:
            raise ReadingError(
                str(path), "field", f"line {line}: {metric[:40]!r} is not judged here; judged are {', '.join(metrics)}."
            )
        if isinstance(label, bool) or label not in (0, 1):
            raise ReadingError(str(path), "field", f"line {line}: the label is {json.dumps(label)[:40]}, not 0 or 1.")
        found.setdefault(metric, {}).setdefault(key, []).append(int(label))
    if not found:
        raise UsageError(f'{path} holds no labels; its lines are {{"id", "metric", "label"}}')
    return found
