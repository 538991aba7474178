"""A source of a recipe → questions, the texts that answer them and the others, as one test collection.

Whatever form it comes in, it becomes what `eval.data.datasets` makes of a judged collection, so that one search and one
way of mining serve all. It knows no index and no model.
"""

import hashlib
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from adapt.encoders.pair_recipe import PairSource
from eval.data.corpora import CorpusDocument, find_jsonl, numbered_jsonl, words
from eval.data.datasets import RetrievalDataset, load_dataset
from eval.data.hashes import hashes_of
from retrieval.errors import ReadingError, UsageError

LEAST_BODY = 200
"""Characters that a text must have to stand for what its title asks."""
LEAST_TITLE_WORDS = 3


def load_questions(name: str, source: PairSource, root: Path, seed: int) -> RetrievalDataset:
    """The source as a collection called `name`, cut to `limit` questions and their texts with `distractors` others.

    Raises UsageError, ReadingError.
    """
    path = root / Path(source.path).expanduser()
    if not path.exists():
        raise UsageError(f"data: {name}: there is no '{path}'; correct the path or give it with --data {name}=PATH")
    if source.kind == "titles":
        whole = _titles(path)
    elif source.kind == "pairs":
        whole = _pairs(path)
    else:
        whole = load_dataset(path, split=source.split)
    if not whole.queries:
        raise UsageError(f"data: {name}: '{path}' holds no question with a text that answers it; name another source")
    whole = _cut(replace(whole, name=name), source, seed)
    if source.characters is not None:
        kept = (_shortened(document, source.characters) for document in whole.documents)
        whole = replace(whole, documents=tuple(kept))
    return whole


def cluster(dataset: RetrievalDataset, question: str) -> str:
    """What a question shares with those that must not be torn from it: the first of the texts that answer it."""
    return min(document for document, grade in dataset.qrels[question].items() if grade > 0)


def is_held_out(dataset: RetrievalDataset, question: str, share: float) -> bool:
    """By the hash of the text that answers it, so that a text is never both learned from and measured on."""
    said = hashlib.blake2b(cluster(dataset, question).encode(), digest_size=8).digest()
    return int.from_bytes(said, "big") / 2**64 < share


def _cut(dataset: RetrievalDataset, source: PairSource, seed: int) -> RetrievalDataset:
    """Fewer questions and fewer texts. All questions of a text come together or not at all."""
    chooser = random.Random(seed)
    names = sorted(dataset.queries)
    if source.limit is not None and source.limit < len(names):
        groups: dict[str, list[str]] = {}
        for question in names:
            groups.setdefault(cluster(dataset, question), []).append(question)
        order = sorted(groups)
        chooser.shuffle(order)
        names = []
        for group in order:
            if len(names) >= source.limit:
                break
            names += groups[group]
        names = names[: source.limit]
    judged = {document for question in names for document in dataset.qrels[question]}
    kept = judged
    if source.distractors is not None:
        others = sorted(document.id for document in dataset.documents if document.id not in judged)
        kept = judged | set(chooser.sample(others, min(source.distractors, len(others))))
    else:
        kept = {document.id for document in dataset.documents}
    return replace(
        dataset,
        documents=tuple(document for document in dataset.documents if document.id in kept),
        queries={question: dataset.queries[question] for question in names},
        qrels={question: dataset.qrels[question] for question in names},
    )


def _shortened(document: CorpusDocument, characters: int) -> CorpusDocument:
    if len(document.text) <= characters:
        return document
    cut = document.text[:characters]
    return replace(document, text=cut[: max(cut.rfind(" "), characters // 2)], read=None)


def _titles(path: Path) -> RetrievalDataset:
    """Each text's title as a question for its body. The title leaves the text, or the answer would begin with it."""
    file = path if path.is_file() else _only_lines(path)
    documents: dict[str, CorpusDocument] = {}
    queries: dict[str, str] = {}
    seen: set[str] = set()
    for line, row in numbered_jsonl(file):
        if row.get("title") is None:
            continue
        title, body = words(row, "title", file, line).strip(), words(row, "text", file, line)
        body = body.replace(title, "").strip() if title else body
        key = f"t{line}"
        documents[key] = CorpusDocument(key, "", body)
        if len(title.split()) >= LEAST_TITLE_WORDS and len(body) >= LEAST_BODY and title not in seen:
            seen.add(title)
            queries[key] = title
    return _collection("titles", documents.values(), queries, {key: {key: 1} for key in queries}, file)


def _only_lines(folder: Path) -> Path:
    """The corpus of a folder, or its one file of JSON lines."""
    if (found := find_jsonl(folder, "corpus")) is not None:
        return found
    files = sorted(file for file in folder.iterdir() if file.name.endswith((".jsonl", ".jsonl.gz")))
    if len(files) != 1:
        there = ", ".join(file.name for file in files) or "none"
        raise UsageError(f"{folder} needs corpus.jsonl or one other file of JSON lines (found: {there}); name the file")
    return files[0]


def _pairs(path: Path) -> RetrievalDataset:
    """{query, positive, negatives?} a line. Equal texts are one document, a query's own negatives are judged 0."""
    documents: dict[str, CorpusDocument] = {}
    queries: dict[str, str] = {}
    ids: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}

    def document(text: str) -> str:
        key = hashlib.blake2b(text.strip().encode("utf-8", "replace"), digest_size=8).hexdigest()
        documents.setdefault(key, CorpusDocument(key, "", text))
        return key

    for line, row in numbered_jsonl(path):
        question = words(row, "query", path, line).strip()
        positive = words(row, "positive", path, line)
        negatives = row.get("negatives") or []
        if not isinstance(negatives, list) or not all(isinstance(text, str) for text in negatives):
            raise ReadingError(str(path), "field", f"line {line}: 'negatives' is no list of texts.")
        if not question or not positive.strip():
            continue
        name = ids.setdefault(question, f"q{line}")
        queries[name] = question
        judged = qrels.setdefault(name, {})
        for text in negatives:
            if text.strip():
                judged.setdefault(document(text), 0)
        judged[document(positive)] = 1
    return _collection("pairs", documents.values(), queries, qrels, path)


def _collection(
    form: str,
    documents: Iterable[CorpusDocument],
    queries: dict[str, str],
    qrels: dict[str, dict[str, int]],
    file: Path,
) -> RetrievalDataset:
    return RetrievalDataset("", form, "all", tuple(documents), queries, qrels, data=hashes_of(file))
