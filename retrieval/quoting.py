"""Question and hits → the best one to three sentences of the sources, word for word, with exact offsets.

No language model: a sentence is good if it has the question's telling words, means the same (where an embedder is at
hand) and comes from a good hit.
"""

import logging
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retrieval.limited import NotDone, limited
from retrieval.packing import DocumentOf
from retrieval.passages import Citation, Hit, Support
from retrieval.prompts import language_of
from retrieval.reranking.sentences import SentenceReader
from retrieval.sentences import MAX_SENTENCE, sentence_spans
from retrieval.support import HEADING, MARKER, content_tokens, coverage, inverse_frequencies

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder

_log = logging.getLogger(__name__)

WORDS, MEANING, RANK = 0.5, 0.35, 0.15
"""Shares of the three signals in a sentence's score; without an embedder its share goes to the words."""
READ, READ_SPREAD = 0.5, 3.0
"""Share of what an encoder makes of it, where one reads: exp((logit − best logit) / spread). Chosen on questions of
data/reading that it did not learn from and on XQuAD: more of what answers, in fewer sentences (docs/results.md)."""
NEAR, NEAR_READ = 0.75, 0.6
"""Share of the best sentence's score that a further one needs; the second where an encoder has read them."""
LEAST_COVERAGE = 0.2
"""Share of the question's telling words that at least one sentence must have where nothing is known of meaning."""
LEAST_MEANING = 0.45
"""Cosine that stands in for words in common."""
READ_SECONDS = 2.0
"""How long an encoder may read, where nobody says otherwise: a first question does not wait for it to be loaded."""
QUOTES = 3
"""Sentences of a quotation, where nobody says otherwise."""
_SHORTLIST = 24
"""Sentences that are embedded: the best by words, since embedding all of 10 passages takes half a second."""


@dataclass(frozen=True, slots=True)
class Quote:
    """Stretch [start, end) of the text of `hits[hit]`'s passage (offsets into the passage, not the document)."""

    hit: int
    start: int
    end: int
    text: str
    score: float


@dataclass(slots=True)
class Candidate:
    """Sentence [start, end) of the passage of `hits[hit]`; `covered` is the share of the question's telling words that
    it has or inherits, `score` how well it fits, 0 to 1, `cosine` its likeness in meaning and `read` what an encoder
    makes of it (0 where nobody looked)."""

    hit: int
    start: int
    end: int
    text: str
    covered: float
    score: float
    cosine: float = 0.0
    read: float = 0.0


def best_quotes(
    question: str,
    hits: Sequence[Hit],
    *,
    embedder: "Embedder | None" = None,
    reader: SentenceReader | None = None,
    seconds: float = READ_SECONDS,
    limit: int = QUOTES,
    sure: bool = False,
) -> list[Quote]:
    """Up to `limit` sentences, best first; none where no sentence has to do with the question, unless it is `sure` that
    the passages answer it: then the best one in any case.

    A further sentence is added only if it is nearly as good as the first and says something else. Where `reader` fails
    or takes longer than `seconds`, words and meaning choose alone.
    """
    candidates = scored_sentences(question, hits, embedder=embedder)[:_SHORTLIST]
    was_read = reader is not None and _read(question, hits, candidates, reader, seconds)
    if not candidates:
        return []
    relevant = [
        candidate
        for candidate in candidates
        if candidate.covered >= LEAST_COVERAGE or candidate.cosine >= LEAST_MEANING or (sure and was_read)
    ]
    if sure and not relevant:
        relevant = [max(candidates, key=lambda c: (c.score, -c.hit, -c.start))]
    relevant.sort(key=lambda c: (-c.score, c.hit, c.start))
    chosen: list[Candidate] = []
    near = NEAR_READ if was_read else NEAR
    for candidate in relevant:
        if len(chosen) == limit or (chosen and candidate.score < near * chosen[0].score):
            break
        if all(_says_else(candidate.text, other.text) for other in chosen):
            chosen.append(candidate)
    return [Quote(c.hit, c.start, c.end, c.text, c.score) for c in chosen]


def scored_sentences(
    question: str, hits: Sequence[Hit], *, embedder: "Embedder | None" = None, shortlist: int = _SHORTLIST
) -> list[Candidate]:
    """The sentences of all hits, those that were looked at best first: by words alone, or where an embedder is at hand
    the `shortlist` best of these by meaning too, and the others behind them."""
    candidates = _candidates(question, hits)
    candidates.sort(key=lambda c: (-c.score, c.hit, c.start))
    chosen = candidates[:shortlist]
    for candidate, cosine in zip(chosen, _meaning(question, chosen, embedder), strict=True):
        candidate.cosine = cosine
    words = WORDS if embedder is not None else WORDS + MEANING
    for candidate in candidates:
        prior = 1.0 / (1.0 + candidate.hit)
        candidate.score = words * candidate.score + MEANING * max(0.0, candidate.cosine) + RANK * prior
    return [*sorted(chosen, key=lambda c: (-c.score, c.hit, c.start)), *candidates[shortlist:]]


def _read(
    question: str, hits: Sequence[Hit], candidates: Sequence[Candidate], reader: SentenceReader, seconds: float
) -> bool:
    """Whether the encoder read the sentences in a language that it knows in time, each after its title and headings,
    and the scores say so; one that fails leaves them as they are."""
    if language_of(question) not in reader.languages:
        return False
    readable = [one for one in candidates if language_of(one.text) in reader.languages]
    if not readable:
        return False
    # A heading names what its sentences speak of: "The saving is 0.373 bits" stands under "Double quantisation".
    paths = [" › ".join(hit.names) for hit in hits]
    texts = [f"{paths[one.hit]}\n{one.text}".strip() for one in readable]
    try:
        found = limited(reader, lambda _: reader(question, texts), seconds)
    except NotDone as trouble:
        # While it is still being loaded, saying so once is enough.
        level = logging.INFO if trouble.why == "busy" else logging.WARNING
        _log.log(level, "quotations were chosen without the encoder (%s): %s", trouble.why, trouble.error or "too slow")
        return False
    if len(found) != len(texts) or not all(map(math.isfinite, found)):
        _log.warning("quotations were chosen without the encoder: it gave no score for some sentences")
        return False
    for candidate, logit in zip(readable, found, strict=True):
        candidate.read = math.exp((logit - max(found)) / READ_SPREAD)
    for candidate in candidates:
        candidate.score = (1.0 - READ) * candidate.score + READ * candidate.read
    return True


def _candidates(question: str, hits: Sequence[Hit]) -> list[Candidate]:
    spans = [sentences_of(hit.passage.text) for hit in hits]
    texts = [[hit.passage.text[a:b] for a, b in found] for hit, found in zip(hits, spans, strict=True)]
    weights = inverse_frequencies(text for found in texts for text in found)
    candidates: list[Candidate] = []
    for number, hit in enumerate(hits):
        titles = " ".join([hit.source.title, *hit.passage.headings])
        before = 0.0
        for (start, end), text in zip(spans[number], texts[number], strict=True):
            own = coverage(question, text, weights)
            # The heading names the subject for the sentences below it; it is worth half of saying it.
            covered = own + 0.5 * (coverage(question, f"{text} {titles}", weights) - own)
            if HEADING.match(text):  # it says what the next sentence is about, and nothing itself
                before = covered
                continue
            asks = text.rstrip().endswith(("?", "？"))
            bare = asks or len(content_tokens(text)) < 4
            # What follows a question or a heading answers it: it inherits, and they themselves say nothing.
            score = (covered * 0.4) if bare else max(covered, 0.6 * before)
            candidates.append(Candidate(number, start, end, text, max(covered, before if not bare else 0.0), score))
            before = covered if bare else 0.0
    return candidates


def sentences_of(text: str) -> list[tuple[int, int]]:
    """Sentences of which one that announces something ("… costs 8 bits:") reaches to the end of what follows it."""
    spans = sentence_spans(text)
    joined: list[tuple[int, int]] = []
    for index, (start, end) in enumerate(spans):
        following = spans[index + 1] if index + 1 < len(spans) else None
        announces = text[start:end].endswith((":", "：")) and not text.startswith("#", start)
        # A quote in prose cannot show a code block: its fences would stand in the sentence.
        if announces and following and following[1] - start <= MAX_SENTENCE and "```" not in text[end : following[1]]:
            end = following[1]
        joined.append((start, end))
    return joined


def _meaning(question: str, candidates: Sequence[Candidate], embedder: "Embedder | None") -> list[float]:
    """Cosine of question and sentence; 0 without an embedder or for a sentence longer than it reads."""
    cosines = [0.0] * len(candidates)
    if embedder is None:
        return cosines
    counts = embedder.count([candidate.text for candidate in candidates])
    fitting = [i for i, count in enumerate(counts) if count <= embedder.max_tokens]
    if fitting:
        query = embedder.embed_queries([question])[0]
        vectors = embedder.embed_passages([candidates[i].text for i in fitting])
        for i, cosine in zip(fitting, (vectors @ query).tolist(), strict=True):
            cosines[i] = float(cosine)
    return cosines


def _says_else(text: str, other: str) -> bool:
    one, two = content_tokens(text), content_tokens(other)
    return len(one & two) < 0.7 * min(len(one), len(two)) if one and two else text != other


def cite(n: int, hit: Hit, start: int, end: int, supported: Support, document: DocumentOf | None) -> Citation | None:
    """The citation of the stretch [start, end) of the hit's passage, with the page it begins on; None where the stored
    document does not have exactly this text there (it was changed meanwhile): no link may lead to text that is not in
    the source. Without `document` the passage is believed."""
    passage, source = hit.passage, hit.source
    quote = passage.text[start:end]
    first, last = passage.start + start, passage.start + end
    page = passage.page
    if not quote:
        return None
    if document is not None:
        stored = document(passage.document_id)
        if stored is None or stored.text[first:last] != quote:
            return None
        # A passage may run over a page's end, a joined one over several.
        page = max(1, bisect_right(stored.page_starts, first)) if stored.page_starts else page
    return Citation(n, source.uri, source.title, page, first, last, quote, supported, passage.id)


def quoted_answer(
    question: str,
    hits: Sequence[Hit],
    *,
    embedder: "Embedder | None" = None,
    reader: SentenceReader | None = None,
    seconds: float = READ_SECONDS,
    document: DocumentOf | None = None,
    limit: int = QUOTES,
    sure: bool = False,
) -> tuple[str, tuple[Citation, ...]]:
    """The quote mode's answer text and its citations; ("", ()) where nothing fits. Hit i has number i + 1.

    The text shows each sentence on one line, in the order of the sources' numbers; the citations' quotes are exact.
    """
    lines: list[str] = []
    citations: list[Citation] = []
    quotes = best_quotes(question, hits, embedder=embedder, reader=reader, seconds=seconds, limit=limit, sure=sure)
    best = quotes[0].hit if quotes else 0
    for quote in sorted(quotes, key=lambda q: (q.hit != best, q.hit, q.start)):
        n = quote.hit + 1
        citation = cite(n, hits[quote.hit], quote.start, quote.end, "yes", document)
        if citation is not None:
            citations.append(citation)
            # A bracketed number in the source (a bibliography) must not become a link of ours.
            shown = MARKER.sub(lambda match: f" ({match[1]})", " ".join(quote.text.split()))
            lines.append(f"{shown} [{n}]")
    return "\n\n".join(lines), tuple(citations)


def best_coverage(question: str, hits: Sequence[Hit]) -> float:
    """How much of the question's telling words the best single passage has, with its title and headings; 0 to 1."""
    texts = [" ".join([hit.source.title, *hit.passage.headings, hit.passage.text]) for hit in hits]
    weights: Mapping[str, float] = inverse_frequencies(texts)
    return max((coverage(question, text, weights) for text in texts), default=0.0)
