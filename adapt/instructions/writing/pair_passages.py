"""Files, folders, rows, or the documents of a collection → documents with names of their own, and the passages of these
that are worth asking about. It knows no model but the tokenizer that passages are measured with."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.corpus.cutting import without_heading
from adapt.corpus.sources import LeftOut, OpenSource
from adapt.recipe import Source
from eval.data.corpora import CorpusDocument, as_document
from eval.runs.parts import Progress
from retrieval.passages import Hit, Passage, Scores
from retrieval.passages import Source as Home
from retrieval.splitting import SplitSettings, TokenCounter, split
from retrieval.support import content_tokens

if TYPE_CHECKING:
    from retrieval.collection import Collection

LEAST_WORDS = 12
"""Different telling words of a passage that is asked about: fewer are a title, a list of links or a signature."""
TOO_SHORT, REPEATED = "too short to ask about", "repeats another passage"


@dataclass
class Gathered:
    """Documents by name, and what was left out or read with losses, and why."""

    documents: list[CorpusDocument] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    warnings: LeftOut = field(default_factory=LeftOut)


def gather(places: Sequence[str], progress: Progress, *, text: str | None = None, title: str | None = None) -> Gathered:
    """The documents of files and folders of any format; of rows, `text` and `title` name the columns.

    A document is named by its path in its folder, or its row; of several places the place's own name stands before it.
    Raises UsageError, ReadingError where nothing can be read of a place.
    """
    found = Gathered()
    used: set[str] = set()
    for place in places:
        source = Source(path=place, field=text or "text", title=title or "title")
        opened = OpenSource(source, Path.cwd())
        for one in opened.texts(progress):
            name = f"{Path(place).name}/{one.id}" if len(places) > 1 else one.id
            found.documents.append(CorpusDocument(_unused(name, used), one.title, one.text))
        for kept, more in ((found.left_out, opened.left_out), (found.warnings, opened.warnings)):
            kept.counts.update(more.counts)
            for reason, lines in more.examples.items():
                kept.examples.setdefault(reason, []).extend(lines)
    return found


def gather_collection(collection: "Collection", progress: Progress) -> Gathered:
    """The documents of a collection, by their names there."""
    found = Gathered()
    used: set[str] = set()
    rows = collection.documents()
    for number, row in enumerate(rows, 1):
        document = collection.document(row.source.id)
        text = without_heading(document.title, document.text) if document.title else document.text
        if text.strip():
            found.documents.append(CorpusDocument(_unused(row.source.uri, used), document.title, text))
        else:
            found.left_out.add("empty", row.source.uri, "holds no text")
        progress("reading", number, len(rows))
    return found


def passages_of(
    documents: Sequence[CorpusDocument],
    counter: TokenCounter,
    skipped: LeftOut,
    progress: Progress,
    *,
    splitting: SplitSettings | None = None,
) -> Iterator[Hit]:
    """The passages worth asking about, as a search would give them, document by document. Their offsets count in the
    text that is indexed."""
    seen: set[bytes] = set()
    for number, document in enumerate(documents, 1):
        whole = as_document(document)
        home = Home(number, document.id, document.title, whole.format, "", {})
        for ordinal, span in enumerate(split(whole, counter, splitting or SplitSettings())):
            text = whole.text[span.start : span.end]
            key = hashlib.blake2b(" ".join(text.split()).casefold().encode("utf-8", "replace"), digest_size=8).digest()
            if len(content_tokens(text)) < LEAST_WORDS:
                skipped.add(TOO_SHORT, f"{document.id}#{ordinal}", " ".join(text.split())[:120])
            elif key in seen:
                skipped.add(REPEATED, f"{document.id}#{ordinal}", " ".join(text.split())[:120])
            else:
                seen.add(key)
                passage = Passage(
                    len(seen), number, ordinal, span.start, span.end, span.page, span.headings, text, span.tokens
                )
                yield Hit(1, 0.0, passage, home, Scores())
        progress("splitting", number, len(documents))


def in_order(passages: Sequence[Hit], seed: int) -> list[Hit]:
    """All passages in an order drawn with the seed: whoever stops early has asked about all documents alike."""
    drawn = list(passages)
    random.Random(seed).shuffle(drawn)
    return drawn


def _unused(name: str, used: set[str]) -> str:
    found, again = name, 1
    while found in used:
        again += 1
        found = f"{name}~{again}"
    used.add(found)
    return found
