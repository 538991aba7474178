"""The nouns of retrieval: Document, Passage, Hit, Citation, Answer. Every package speaks them; they know nothing else.

Offsets are always counts of Unicode code points (Python `str` indices) into `Document.text`, half-open `[start, end)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from retrieval.steps import Step

Scalar = str | int | float | bool
Mode = Literal["lexical", "dense", "hybrid"]


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a document's text. `start` is the offset of the heading's own line; `level` 1 is the top."""

    start: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Document:
    """One source as text. What a parser returns and an index stores.

    `uri` names it within a collection and never changes for the same source (a path relative to the synced folder, in
    POSIX form, or any id the caller chose). `page_starts[i]` is the offset at which page i+1 begins; empty where the
    format has no pages. `content_hash` is the hex BLAKE2b-128 of the source bytes. `warnings` say what a reader of the
    text should know (a lossy decode, removed invisible characters, a page without text).
    """

    uri: str
    text: str
    title: str = ""
    format: str = "txt"
    page_starts: tuple[int, ...] = ()
    headings: tuple[Heading, ...] = ()
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    content_hash: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a document that becomes one passage.

    `headings` is the path of titles above it, outermost first. `context` is the short line put before the text when
    it is embedded (title and headings, cut to a budget), and `tokens` counts context, text and special tokens exactly
    as the embedding model will see them.
    """

    start: int
    end: int
    page: int | None
    headings: tuple[str, ...]
    context: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Passage:
    """A stored span. `text` is exactly `document.text[start:end]`."""

    id: int
    document_id: int
    ordinal: int
    start: int
    end: int
    page: int | None
    headings: tuple[str, ...]
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Source:
    """What a hit says of the document it comes from (the text stays in the store)."""

    id: int
    uri: str
    title: str
    format: str
    owner: str
    metadata: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one hit per stage; higher is better; None where the stage did not score it.

    dense: cosine similarity. lexical: BM25. fused: convex combination in [0, 1]. rerank: the reranker's own scale.
    """

    dense: float | None = None
    lexical: float | None = None
    fused: float | None = None
    rerank: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that answers a query. `score` is the one the ranking went by."""

    rank: int
    score: float
    passage: Passage
    source: Source
    scores: Scores

    @property
    def names(self) -> tuple[str, ...]:
        """What the passage is part of, from its document's title down to its last heading, each once, on one line."""
        found = (" ".join(name.split()) for name in (self.source.title, *self.passage.headings))
        return tuple(dict.fromkeys(name for name in found if name))


Support = Literal["yes", "partly", "no"]


@dataclass(frozen=True, slots=True)
class Citation:
    """`[n]` in an answer. `quote` is exactly the document's text from `start` to `end`."""

    n: int
    document: str
    title: str
    page: int | None
    start: int
    end: int
    quote: str
    supported: Support
    passage_id: int


@dataclass(frozen=True, slots=True)
class Flag:
    """A number or name, `text[start:end]` of an answer, that stands in no passage the answer was written from."""

    start: int
    end: int
    text: str
    kind: Literal["number", "name"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer. `citations` holds only numbers that occur in `text`.

    `confidence` is the estimated probability that the documents answer the question; below `threshold` it is refused.
    `draft` is what the model wrote where quotations took its place. `prompt_version` is "" where no model was asked.
    `standalone` is the question as it stands alone, and `steps` are what each step of the search did.
    `checker` names what told the support of its citations, "" where nothing had to.
    """

    text: str
    refused: bool
    citations: tuple[Citation, ...]
    queries: tuple[str, ...]
    hits: tuple[Hit, ...]
    model: str
    timings: Mapping[str, float]
    flags: tuple[Flag, ...] = ()
    confidence: float | None = None
    threshold: float | None = None
    draft: str = ""
    prompt_version: str = ""
    standalone: str = ""
    steps: tuple[Step, ...] = ()
    checker: str = ""
