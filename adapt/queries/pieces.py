"""A collection, or files and folders → their passages as the embedding model reads them, those worth asking about.

It knows no query and no model but the tokenizer that passages are measured with.
"""

import re
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from adapt.corpus.duplicates import content_key
from adapt.corpus.sources import LeftOut
from adapt.instructions.writing.pair_passages import LEAST_WORDS, REPEATED, TOO_SHORT, gather
from eval.data.corpora import CorpusDocument, as_document
from eval.runs.parts import Progress
from retrieval.passages import Document, Heading, Hit, Passage, Scores, Source
from retrieval.splitting import SplitSettings, TokenCounter, embedding_text, split
from retrieval.support import content_tokens

if TYPE_CHECKING:
    from retrieval.collection import Collection

_HEADING = re.compile(r"^(#{1,6})[ \t]+(\S[^\n]{0,200}?)[ \t#]*$", re.MULTILINE)
_FENCE = re.compile(r"^(?:```|~~~)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage, as a search would give it; `context` stands before its text when it is embedded."""

    hit: Hit
    context: str

    @property
    def document(self) -> str:
        return self.hit.source.uri

    @property
    def embedded(self) -> str:
        """What the embedding model reads of it."""
        return embedding_text(self.context, self.hit.passage.text)


@dataclass(frozen=True, slots=True)
class Paper:
    """A document with its pieces in order; `text` is what they were cut from, `headings` are offsets into it."""

    uri: str
    title: str
    text: str
    pieces: tuple[Piece, ...]
    headings: tuple[Heading, ...] = ()


@dataclass
class Papers:
    """All documents of the sources, what of them was left out, and `corpus`, the documents of files as a test
    collection has them, from which an index can be made; of a collection it is empty."""

    papers: list[Paper] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    corpus: tuple[CorpusDocument, ...] = ()

    @property
    def pieces(self) -> int:
        return sum(len(paper.pieces) for paper in self.papers)


def of_collection(collection: "Collection", progress: Progress) -> Papers:
    """The documents of a collection, in its own passages."""
    found = Papers()
    seen: set[bytes] = set()
    rows = collection.documents()
    for number, row in enumerate(rows, 1):
        document = collection.document(row.source.id)
        sql = "SELECT ordinal, context FROM passages WHERE document_id = ?"
        contexts = dict(collection.catalogue.select(sql, (row.source.id,)))
        pieces = (
            Piece(Hit(1, 0.0, passage, row.source, Scores()), str(contexts.get(passage.ordinal, "")))
            for passage in collection.passages_of(row.source.id)
        )
        kept = tuple(piece for piece in pieces if _worth(piece, seen, found.left_out))
        found.papers.append(Paper(row.source.uri, document.title, document.text, kept, document.headings))
        progress("reading", number, len(rows))
    return found


def of_files(places: Sequence[str], counter: TokenCounter, splitting: SplitSettings, progress: Progress) -> Papers:
    """The documents of files and folders of any format, cut as a collection would cut them.

    Raises UsageError, ReadingError where nothing can be read of a place.
    """
    gathered = gather(places, progress)
    found = Papers(left_out=gathered.left_out, corpus=tuple(gathered.documents))
    seen: set[bytes] = set()
    for number, document in enumerate(gathered.documents, 1):
        whole = _with_headings(as_document(document))
        pieces = _cut(number, whole, counter, splitting)
        kept = tuple(piece for piece in pieces if _worth(piece, seen, found.left_out))
        found.papers.append(Paper(document.id, document.title, whole.text, kept, whole.headings))
        progress("splitting", number, len(gathered.documents))
    return found


def _with_headings(document: Document) -> Document:
    """Rows, and files read as rows, come as text alone; the headings of Markdown still stand in it."""
    fences = [match.start() for match in _FENCE.finditer(document.text)]
    found = tuple(
        Heading(match.start(), len(match[1]), match[2].strip())
        for match in _HEADING.finditer(document.text)
        if bisect(fences, match.start()) % 2 == 0
    )
    return replace(document, headings=(*document.headings, *found))


def _cut(number: int, whole: Document, counter: TokenCounter, splitting: SplitSettings) -> Iterator[Piece]:
    home = Source(number, whole.uri, whole.title, whole.format, "", {})
    for ordinal, span in enumerate(split(whole, counter, splitting)):
        text = whole.text[span.start : span.end]
        passage = Passage(0, number, ordinal, span.start, span.end, span.page, span.headings, text, span.tokens)
        yield Piece(Hit(1, 0.0, passage, home, Scores()), span.context)


def _worth(piece: Piece, seen: set[bytes], left_out: LeftOut) -> bool:
    text = piece.hit.passage.text
    where, shown = f"{piece.document}#{piece.hit.passage.ordinal}", " ".join(text.split())[:120]
    key = content_key(text.encode("utf-8", "replace").decode("utf-8"))
    if len(content_tokens(text)) < LEAST_WORDS:
        left_out.add(TOO_SHORT, where, shown)
        return False
    if key in seen:
        left_out.add(REPEATED, where, shown)
        return False
    seen.add(key)
    return True
