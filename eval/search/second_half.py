"""Long documents in, known-item questions about their second halves out: does an index keep what comes late?

A pipeline that cuts passages longer than its embedding model reads finds the beginning of every passage and little
else; ordinary test collections of short abstracts never show it.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from eval.data.corpora import CorpusDocument
from eval.data.datasets import RetrievalDataset
from retrieval.passages import Document

MIN_CHARACTERS = 4_000
"""About 900 WordPieces: a document that needs at least four passages of 256 tokens."""
MIN_WORDS, MAX_WORDS = 8, 30


def second_half_questions(
    documents: Sequence[CorpusDocument], *, name: str, seed: int = 0, limit: int | None = None
) -> RetrievalDataset:
    """One question a document: a random sentence of its second half that occurs in no other document.

    Documents shorter than MIN_CHARACTERS, or without such a sentence, are left out; `limit` keeps a seeded sample.
    """
    chooser = random.Random(seed)
    long = [document for document in documents if len(document.text) >= MIN_CHARACTERS]
    candidates = {document.id: list(_sentences(document.text[len(document.text) // 2 :])) for document in long}
    owners: dict[str, int] = {}
    for document in long:
        for sentence in set(_sentences(document.text)):
            owners[sentence] = owners.get(sentence, 0) + 1
    chosen: dict[str, str] = {}
    for document in long:
        own = sorted({sentence for sentence in candidates[document.id] if owners.get(sentence, 1) == 1})
        if own:
            chosen[document.id] = chooser.choice(own)
    kept = sorted(chosen)
    if limit is not None and limit < len(kept):
        kept = sorted(chooser.sample(kept, limit))
    return RetrievalDataset(
        name=name,
        form="second-half",
        split="all",
        documents=tuple(document for document in long if document.id in set(kept)),
        queries={f"q-{identifier}": chosen[identifier] for identifier in kept},
        qrels={f"q-{identifier}": {identifier: 1} for identifier in kept},
    )


def docstring_documents(modules: Iterable[Document]) -> Iterator[CorpusDocument]:
    """The long docstrings of `retrieval.library_docs`, one document each, with no title."""
    for module in modules:
        bounds = [*(heading.start for heading in module.headings), len(module.text)]
        for number, (start, end) in enumerate(pairwise(bounds)):
            if end - start >= MIN_CHARACTERS:
                yield CorpusDocument(f"{module.title}-{number}", "", module.text[start:end].strip())


def _sentences(text: str) -> Iterator[str]:
    """Plain sentences of MIN_WORDS to MAX_WORDS words; code, tables and lists of names are no questions."""
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
            words = sentence.split()
            if not MIN_WORDS <= len(words) <= MAX_WORDS or not (sentence[0].isupper() and sentence[-1] in ".!?"):
                continue
            if sum(word.strip(".,;:()").isalpha() for word in words) >= 0.8 * len(words):
                yield sentence
