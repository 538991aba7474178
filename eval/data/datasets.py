"""Turns a public test collection into documents, queries and relevance judgements; knows no search engine.

Forms that are read, told apart by what lies in the folder (any `.jsonl` may be gzipped):
beir       corpus, `queries.jsonl`, `qrels/SPLIT.tsv`
trec       corpus, `topics*` (or `queries.tsv`), `qrels*`: eval/data/trec.py
questions  corpus or an existing collection, `questions.jsonl` with gold spans: eval/data/gold.py
contexts   `qa.jsonl` whose lines name (`context_id`, with `corpus.jsonl`) or hold (`contexts`) the one relevant
           document: known-item retrieval
answers    `qa.jsonl` alone: the answers are the documents
"""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.data.corpora import (
    Corpus,
    CorpusDocument,
    find_jsonl,
    has_corpus,
    identifier,
    numbered_jsonl,
    read_corpus,
    text_start,
    words,
)
from eval.data.gold import GoldQuestion, GoldSpan, check_gold, read_questions, units
from eval.data.hashes import hashes_of
from eval.data.trec import Judgement, read_qrels, read_topics
from retrieval.errors import ReadingError, UsageError
from retrieval.prompts import Message

if TYPE_CHECKING:
    from retrieval.collection import Collection

QRELS = (".tsv", ".txt", ".qrels", ".qrel", ".trec")
"""How the name of a file of judgements ends."""


@dataclass(frozen=True, slots=True)
class RetrievalDataset:
    """A test collection. `qrels[query][document]` is the relevance grade; only judged queries are in `queries`.

    `queries_without_relevant` counts queries left out because their judgements name no relevant document (no system
    can score on them), `queries_without_judgements` those that nobody judged. `spans[query]` are units of gold evidence
    in the text as it is indexed, none overlapping. `data` is the SHA-256 of each file; `unread` says of files of the
    corpus why they could not be read.
    """

    name: str
    form: str
    split: str
    documents: tuple[CorpusDocument, ...]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    queries_without_relevant: int = 0
    queries_without_judgements: int = 0
    spans: Mapping[str, tuple[GoldSpan, ...]] = field(default_factory=dict)
    histories: Mapping[str, tuple[Message, ...]] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)

    def cluster(self, query: str) -> str | None:
        """The one relevant document, which questions made from it share; None where several are relevant."""
        relevant = [document for document, grade in self.qrels[query].items() if grade > 0]
        return relevant[0] if len(relevant) == 1 else None


def available_splits(folder: Path) -> list[str]:
    """Names of the judgement files under `folder/qrels`, sorted."""
    return sorted({path.stem for path in (folder / "qrels").glob("*") if path.suffix in QRELS and path.is_file()})


def load_dataset(
    folder: Path,
    *,
    split: str | None = None,
    topics: Path | None = None,
    qrels: Path | None = None,
    fields: Sequence[str] = ("title",),
    collection: "Collection | None" = None,
) -> RetrievalDataset:
    """Reads a test collection in whichever form it has; a question file may be named itself.

    `split` None takes "test" where there is one, else the only split there is. `topics` and `qrels` are TREC files that
    lie elsewhere; `folder` may then be nothing but the documents. `fields` of a classic topic make the query. With
    `collection` the questions are about its documents. Raises UsageError when the folder is none of the forms or the
    split is not there, ReadingError with file and line when a file is malformed.
    """
    if folder.is_file() or collection is not None:
        return _load_questions(folder, split, collection)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give one with corpus.jsonl, queries.jsonl and qrels/*.tsv.")
    if topics is not None or qrels is not None:
        return _load_trec(folder, split, topics, qrels, fields)
    if (folder / "qrels").is_dir():
        return _load_beir(folder, split, fields)
    if find_jsonl(folder, "questions") is not None:
        return _load_questions(folder, split, None)
    if _lies_in(folder, "qrels") is not None:
        return _load_trec(folder, split, None, None, fields)
    questions = find_jsonl(folder, "qa")
    if questions is None:
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise UsageError(
            f"{folder} is no test collection: expected relevance judgements (qrels/*.tsv or a file qrels*), "
            f"questions.jsonl or qa.jsonl, found {names}."
        )
    if find_jsonl(folder, "corpus") is not None:
        return _load_contexts(folder, questions, split)
    return _load_qa(folder, questions, split)


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


# -- judged collections ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Query:
    text: str
    line: int


def _load_beir(folder: Path, split: str | None, fields: Sequence[str]) -> RetrievalDataset:
    splits = available_splits(folder)
    if not splits:
        raise UsageError(f"{folder}/qrels holds no judgements; put a test.tsv there (query-id, corpus-id, score).")
    if split is None:
        if "test" not in splits and len(splits) != 1:
            raise UsageError(f"{folder}/qrels holds the splits {', '.join(splits)}; name one of them.")
        split = "test" if "test" in splits else splits[0]
    if split not in splits:
        raise UsageError(f"{folder}/qrels has no split {split!r}; it holds {', '.join(splits) or 'none'}.")
    judged = next(path for end in QRELS if (path := folder / "qrels" / f"{split}{end}").is_file())
    lines = find_jsonl(folder, "queries") or _lies_in(folder, "topics") or _lies_in(folder, "queries")
    if lines is None:
        raise UsageError(f"{folder} lacks queries.jsonl (or queries.jsonl.gz), which its form needs.")
    return _judged_collection(folder, "beir", split, read_corpus(folder), lines, _read_queries(lines, fields), judged)


def _load_trec(
    folder: Path, split: str | None, topics: Path | None, qrels: Path | None, fields: Sequence[str]
) -> RetrievalDataset:
    if split is not None:
        raise UsageError(f"TREC judgements are one file and have no split {split!r}; name the file with --qrels.")
    for path, option in ((topics, "--topics"), (qrels, "--qrels")):
        if path is not None and not path.is_file():
            raise UsageError(f"{path} is not a file; {option} names one.")
    topics = topics or _lies_in(folder, "topics") or find_jsonl(folder, "queries") or _lies_in(folder, "queries")
    qrels = qrels or _lies_in(folder, "qrels")
    if topics is None or qrels is None:
        lacking = "topics (topics*, queries.tsv or queries.jsonl)" if topics is None else "judgements (qrels*)"
        raise UsageError(f"{folder} has no {lacking}; name the file with --{'topics' if topics is None else 'qrels'}.")
    apart = not has_corpus(folder) and not any(path.is_relative_to(folder) for path in (topics, qrels))
    corpus = read_corpus(folder, documents=folder if apart else None)
    return _judged_collection(folder, "trec", "all", corpus, topics, _read_queries(topics, fields), qrels)


def _lies_in(folder: Path, stem: str) -> Path | None:
    """The one file of the folder whose name begins (or, as an ending, ends) with `stem`."""
    found = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and (path.name.startswith(stem) or path.suffix == f".{stem}") and ".jsonl" not in path.name
    )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UsageError(f"{folder} holds several files of {stem}: {names}; name one of them.")
    return found[0] if found else None


def _read_queries(path: Path, fields: Sequence[str]) -> dict[str, _Query]:
    if ".jsonl" not in path.name:
        return {topic.id: _Query(topic.text, topic.line) for topic in read_topics(path, fields)}
    queries: dict[str, _Query] = {}
    for line, row in numbered_jsonl(path):
        key = identifier(row, "_id" if "_id" in row or "id" not in row else "id", path, line)
        if key in queries:
            message = f"line {line}: the query id {key!r} occurs twice (first in line {queries[key].line})."
            raise ReadingError(str(path), "duplicate-id", message)
        queries[key] = _Query(words(row, "text", path, line), line)
    return queries


def _judged_collection(
    folder: Path, form: str, split: str, corpus: Corpus, lines: Path, queries: Mapping[str, _Query], judged: Path
) -> RetrievalDataset:
    judgements = read_qrels(judged)
    known = {document.id for document in corpus.documents}
    _all_there(judged, judgements, "document", known, "in the corpus", corpus.unread)
    _all_there(judged, judgements, "query", queries.keys(), f"in {lines.name}", {})
    qrels: dict[str, dict[str, int]] = {}
    for found in judgements:
        qrels.setdefault(found.query, {})[found.document] = found.grade
    for query in qrels:
        if not queries[query].text.strip():
            message = f"line {queries[query].line}: the judged query {query!r} has no text."
            raise ReadingError(str(lines), "empty", message)
    dataset = _judged(folder, form, split, corpus, {key: query.text for key, query in queries.items()}, qrels)
    return replace(
        dataset,
        queries_without_judgements=len(queries.keys() - qrels.keys()),
        data={**corpus.data, **hashes_of(lines, judged)},
    )


def _all_there(
    path: Path, judgements: Iterable[Judgement], what: str, known: Iterable[str], where: str, unread: Mapping[str, str]
) -> None:
    """Every judged document is in the corpus, every judged query has a text."""
    there = set(known)
    strangers = {
        name: found.line for found in reversed(list(judgements)) if (name := getattr(found, what)) not in there
    }
    if strangers:
        name, line = min(strangers.items(), key=lambda item: item[1])
        because = f" ({name} could not be read: {unread[name]})" if name in unread else ""
        many = f"; {len(strangers)} are missing in all" if len(strangers) > 1 else ""
        raise ReadingError(
            str(path), f"unknown-{what}", f"line {line}: the judged {what} {name!r} is not {where}{because}{many}."
        )


def _judged(
    folder: Path,
    form: str,
    split: str,
    corpus: Corpus,
    texts: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
) -> RetrievalDataset:
    usable = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    if not usable:
        raise UsageError(f"{folder} has no query with a relevant document (split {split}); nothing can be measured.")
    return RetrievalDataset(
        folder.name,
        form,
        split,
        corpus.documents,
        {query: texts[query] for query in usable},
        usable,
        len(qrels) - len(usable),
        data=corpus.data,
        unread=corpus.unread,
    )


# -- question files ----------------------------------------------------------------------------------------------------


def _load_questions(place: Path, split: str | None, collection: "Collection | None") -> RetrievalDataset:
    path = find_jsonl(place, "questions") if place.is_dir() else place
    if path is None or not path.is_file():
        raise UsageError(f"{place} is no question file and holds no questions.jsonl.")
    if split is not None:
        raise UsageError(f"{path} has no splits; leave the split out.")
    questions = read_questions(path)
    if collection is not None:
        corpus = Corpus((), {f"collection {collection.name}": _hash_of(collection)})
        check_gold(path, questions, _lengths(collection, questions))
        starts: Mapping[str, int] = {}
    else:
        corpus = read_corpus(path.parent)
        check_gold(path, questions, {document.id: len(document.text) for document in corpus.documents})
        starts = {document.id: text_start(document) for document in corpus.documents}
    texts = {question.id: question.text for question in questions}
    dataset = _judged(
        path.parent if place.is_file() else place,
        "questions",
        "all",
        corpus,
        texts,
        {question.id: dict.fromkeys(question.documents, 1) for question in questions},
    )
    return replace(
        dataset,
        name=path.name.partition(".")[0] if place.is_file() else place.name,
        spans={question.id: _moved(question, starts) for question in questions if question.spans},
        histories={question.id: question.history for question in questions if question.history},
        data={**corpus.data, **hashes_of(path)},
    )


def _moved(question: GoldQuestion, starts: Mapping[str, int]) -> tuple[GoldSpan, ...]:
    """Spans where the indexed text has them: there a title stands before the text."""
    return tuple(
        GoldSpan(span.document, span.start + starts.get(span.document, 0), span.end + starts.get(span.document, 0))
        for span in units(question.spans)
    )


def _lengths(collection: "Collection", questions: Iterable[GoldQuestion]) -> dict[str, int]:
    there = {row.source.uri for row in collection.documents()}
    wanted = {document for question in questions for document in question.documents}
    return {document: len(collection.document_by_uri(document).text) for document in sorted(wanted & there)}


def _hash_of(collection: "Collection") -> str:
    rows = sorted((row.source.uri, row.content_hash) for row in collection.documents())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


# -- question answering as known-item retrieval ------------------------------------------------------------------------


def _load_contexts(folder: Path, questions: Path, split: str | None) -> RetrievalDataset:
    corpus = read_corpus(folder)
    known = {document.id for document in corpus.documents}
    texts: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for line, row in _of_split(questions, split):
        if not row.get("answerable", True):
            continue
        query, context = (identifier(row, name, questions, line) for name in ("id", "context_id"))
        if context not in known:
            message = f"line {line}: question {query!r} names context {context!r}, which the corpus lacks."
            raise ReadingError(str(questions), "unknown-document", message)
        _once(query, texts, questions, line)
        texts[query] = words(row, "question", questions, line)
        qrels[query] = {context: 1}
    dataset = _judged(folder, "contexts", split or "all", corpus, texts, qrels)
    return replace(dataset, data={**corpus.data, **hashes_of(questions)})


def _of_split(path: Path, split: str | None) -> list[tuple[int, dict[str, Any]]]:
    """The lines of one split. Raises UsageError where it is not there."""
    rows = list(numbered_jsonl(path))
    if not rows:
        raise ReadingError(str(path), "empty", "there is no question in it.")
    splits = sorted({str(row["split"]) for _, row in rows if "split" in row})
    if split is not None and split not in splits:
        raise UsageError(f"{path} has no split {split!r}; it holds {', '.join(splits) or 'no splits'}.")
    return [(line, row) for line, row in rows if split is None or row.get("split") == split]


def _once(query: str, known: Mapping[str, object], path: Path, line: int) -> None:
    if query in known:
        raise ReadingError(str(path), "duplicate-id", f"line {line}: the question id {query!r} occurs twice.")


def _load_qa(folder: Path, questions: Path, split: str | None) -> RetrievalDataset:
    """Each question's own contexts, joined, or else each of its answers, are a document.

    Equal texts are one document, equal questions share their judgements. An answer is titled with its page's `focus`.
    """
    documents: dict[str, CorpusDocument] = {}
    query_of: dict[str, str] = {}
    texts: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    rows = _of_split(questions, split)
    form = "contexts" if "contexts" in rows[0][1] else "answers"
    ids: dict[str, int] = {}
    for line, row in rows:
        if form == "answers" and ("context_id" in row or "doc_id" in row):
            raise UsageError(f"{questions} names contexts that lie elsewhere; put them into {folder}/corpus.jsonl.")
        key = identifier(row, "id", questions, line)
        _once(key, ids, questions, line)
        ids[key] = line
        question = words(row, "question", questions, line).strip()
        query = query_of.setdefault(question, key)
        texts[query] = question
        for name, title, text in _texts_of(row, form, questions, line):
            document = documents.setdefault(text.strip(), CorpusDocument(f"{key}-{name}", title, text))
            qrels.setdefault(query, {})[document.id] = 1
    corpus = Corpus(tuple(documents.values()), hashes_of(questions))
    return _judged(folder, form, split or "all", corpus, texts, qrels)


def _texts_of(row: Mapping[str, Any], form: str, path: Path, line: int) -> list[tuple[str, str, str]]:
    found = row.get(form)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ReadingError(str(path), "field", f"line {line} lacks {form!r}, a list of texts.")
    if form == "contexts":
        return [("context", "", "\n\n".join(found))] if found else []
    return [(f"a{number}", str(row.get("focus") or ""), text) for number, text in enumerate(found)]
