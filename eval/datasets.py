"""Turns a folder of a public test collection into documents, queries and relevance judgements; knows no search engine.

Three forms are read: BEIR (`corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`), question answering with contexts
(`corpus.jsonl`, `qa.jsonl`; the question's own context is the one relevant document: known-item retrieval), and
question answering without contexts (`qa.jsonl` alone; the answers are the documents). Any `.jsonl` may be gzipped.
"""

import gzip
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retrieval.errors import ReadingError, UsageError


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """One document as the test collection gives it."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class RetrievalDataset:
    """A test collection. `qrels[query][document]` is the relevance grade; only judged queries are in `queries`.

    `form` is "beir", "contexts" or "answers". `queries_without_relevant` counts queries left out because their
    judgements name no relevant document (no system can score on them).
    """

    name: str
    form: str
    split: str
    documents: tuple[CorpusDocument, ...]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    queries_without_relevant: int = 0


def find_jsonl(folder: Path, stem: str) -> Path | None:
    """`folder/stem.jsonl` or its gzipped form, whichever is there."""
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file. Raises ReadingError naming the line that is not one."""
    number = 0
    try:
        opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
        with opened as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ReadingError(str(path), "json", f"line {number} is not JSON ({error.msg}).") from error
                if not isinstance(value, dict):
                    found = type(value).__name__
                    raise ReadingError(str(path), "json", f"line {number} holds a {found}, not an object.")
                yield value
    except UnicodeDecodeError as error:
        raise ReadingError(str(path), "encoding", f"after line {number}: not UTF-8 ({error.reason}).") from error
    except (EOFError, gzip.BadGzipFile) as error:
        raise ReadingError(str(path), "gzip", f"after line {number}: the gzip stream is damaged ({error}).") from error
    except OSError as error:
        raise ReadingError(str(path), "unreadable", f"cannot be read: {error.strerror or error}.") from error


def available_splits(folder: Path) -> list[str]:
    """Names of the judgement files under `folder/qrels`, sorted."""
    return sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))


def load_dataset(folder: Path, *, split: str | None = None) -> RetrievalDataset:
    """Reads a test collection in whichever of the three forms it has.

    `split` None takes "test" where there is one, else the only split there is. Raises UsageError when the folder is
    none of the forms or the split is not there, ReadingError when a file is malformed.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give one with corpus.jsonl, queries.jsonl and qrels/*.tsv.")
    if (folder / "qrels").is_dir():
        return _load_beir(folder, split)
    questions = find_jsonl(folder, "qa")
    if questions is None:
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise UsageError(
            f"{folder} is no test collection: expected qrels/*.tsv (BEIR) or qa.jsonl (question answering), "
            f"found {names}."
        )
    if find_jsonl(folder, "corpus") is not None:
        return _load_contexts(folder, questions, split)
    return _load_answers(folder, questions, split)


def sample(dataset: RetrievalDataset, *, queries: int, distractors: int, seed: int = 0) -> RetrievalDataset:
    """A smaller collection: `queries` random queries, every document judged for them, `distractors` random others."""
    chooser = random.Random(seed)
    names = sorted(dataset.queries)
    chosen = sorted(chooser.sample(names, min(queries, len(names))))
    judged = {document for query in chosen for document in dataset.qrels[query]}
    others = [document.id for document in dataset.documents if document.id not in judged]
    kept = judged | set(chooser.sample(others, min(distractors, len(others))))
    return replace(
        dataset,
        documents=tuple(document for document in dataset.documents if document.id in kept),
        queries={query: dataset.queries[query] for query in chosen},
        qrels={query: dataset.qrels[query] for query in chosen},
    )


def _load_beir(folder: Path, split: str | None) -> RetrievalDataset:
    splits = available_splits(folder)
    if split is None:
        if "test" not in splits and len(splits) != 1:
            raise UsageError(f"{folder}/qrels holds the splits {', '.join(splits) or '(none)'}; name one of them.")
        split = "test" if "test" in splits else splits[0]
    if split not in splits:
        raise UsageError(f"{folder}/qrels has no split {split!r}; it holds {', '.join(splits) or 'none'}.")
    documents = _read_corpus(_required(folder, "corpus"))
    qrels = _read_qrels(folder / "qrels" / f"{split}.tsv")
    known = {document.id for document in documents}
    strangers = sorted({document for grades in qrels.values() for document in grades} - known)
    if strangers:
        raise ReadingError(
            str(folder / "qrels" / f"{split}.tsv"),
            "unknown-document",
            f"{len(strangers)} judged documents are not in the corpus, for example {strangers[0]!r}.",
        )
    texts = {str(_field(row, "_id", path)): str(_field(row, "text", path)) for path, row in _rows(folder, "queries")}
    missing = sorted(set(qrels) - set(texts))
    if missing:
        raise ReadingError(
            str(folder), "unknown-query", f"{len(missing)} judged queries have no text, for example {missing[0]!r}."
        )
    return _judged(folder.name, "beir", split, documents, texts, qrels)


def _load_contexts(folder: Path, questions: Path, split: str | None) -> RetrievalDataset:
    documents = _read_corpus(_required(folder, "corpus"))
    known = {document.id for document in documents}
    texts: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    splits = set()
    for row in read_jsonl(questions):
        splits.add(str(row.get("split", "")))
        if split is not None and row.get("split") != split:
            continue
        if not row.get("answerable", True):
            continue
        query, context = str(_field(row, "id", questions)), str(_field(row, "context_id", questions))
        if context not in known:
            message = f"question {query!r} names context {context!r}, which the corpus lacks."
            raise ReadingError(str(questions), "unknown-document", message)
        texts[query] = str(_field(row, "question", questions))
        qrels[query] = {context: 1}
    if not texts:
        raise UsageError(f"{questions} has no split {split!r}; it holds {', '.join(sorted(splits))}.")
    return _judged(folder.name, "contexts", split or "all", documents, texts, qrels)


def _load_answers(folder: Path, questions: Path, split: str | None) -> RetrievalDataset:
    """Each distinct answer is a document, titled with its page's `focus`; equal questions share their judgements."""
    if split is not None:
        raise UsageError(f"{questions} has no splits; leave the split out.")
    documents: dict[str, CorpusDocument] = {}
    query_of: dict[str, str] = {}
    texts: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for row in read_jsonl(questions):
        question = str(_field(row, "question", questions)).strip()
        identifier = query_of.setdefault(question, str(_field(row, "id", questions)))
        texts[identifier] = question
        for number, answer in enumerate(_field(row, "answers", questions)):
            document = documents.setdefault(
                str(answer).strip(),
                CorpusDocument(f"{row['id']}-a{number}", str(row.get("focus", "")), str(answer)),
            )
            qrels.setdefault(identifier, {})[document.id] = 1
    return _judged(folder.name, "answers", "all", tuple(documents.values()), texts, qrels)


def _judged(
    name: str,
    form: str,
    split: str,
    documents: tuple[CorpusDocument, ...],
    texts: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
) -> RetrievalDataset:
    usable = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    queries = {query: texts[query] for query in usable}
    return RetrievalDataset(name, form, split, documents, queries, usable, len(qrels) - len(usable))


def _read_corpus(path: Path) -> tuple[CorpusDocument, ...]:
    documents: dict[str, CorpusDocument] = {}
    for row in read_jsonl(path):
        identifier = str(_field(row, "_id", path))
        if identifier in documents:
            raise ReadingError(str(path), "duplicate-id", f"the document id {identifier!r} occurs twice.")
        documents[identifier] = CorpusDocument(identifier, str(row.get("title") or ""), str(_field(row, "text", path)))
    return tuple(documents.values())


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """BEIR's three columns under a header, or TREC's four (query, 0, document, grade) without one."""
    qrels: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            cells = line.split()
            if not cells or (number == 1 and cells[0] == "query-id"):
                continue
            try:
                query, document, grade = cells[0], cells[-2], int(cells[-1])
                if len(cells) not in (3, 4):
                    raise ValueError
            except (ValueError, IndexError):
                raise ReadingError(
                    str(path), "qrels", f"line {number} is not 'query-id corpus-id score': {line.strip()!r}."
                ) from None
            qrels.setdefault(query, {})[document] = grade
    return qrels


def _rows(folder: Path, stem: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    path = _required(folder, stem)
    return ((path, row) for row in read_jsonl(path))


def _required(folder: Path, stem: str) -> Path:
    path = find_jsonl(folder, stem)
    if path is None:
        raise UsageError(f"{folder} lacks {stem}.jsonl (or {stem}.jsonl.gz), which its form needs.")
    return path


def _field(row: Mapping[str, Any], name: str, path: Path) -> Any:
    if name not in row:
        raise ReadingError(str(path), "field", f"a line lacks {name!r}; it has {', '.join(sorted(row))}.")
    return row[name]
