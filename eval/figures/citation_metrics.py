"""An answer's citations and the gold spans → precision, recall, support, links. Pure functions; they know no model.

Figures are (numerator, denominator) pairs to be summed over answers before they are divided, so that an answer with ten
citations weighs ten times one with one.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from eval.data.gold import GoldSpan
from retrieval.citing import strip_markers
from retrieval.errors import MissingError
from retrieval.passages import Answer, Citation, Passage
from retrieval.sentences import sentence_spans
from retrieval.support import MARKER, content_tokens

Pair = tuple[float, float]


def overlaps(document: str, start: int, end: int, span: GoldSpan) -> bool:
    """Whether [start, end) shares at least one character with the gold span."""
    return document == span.document and start < span.end and span.start < end


def gold_figures(citations: Sequence[Citation], evidence: Sequence[Sequence[GoldSpan]]) -> dict[str, Pair | float]:
    """`citation_precision`, `citation_recall` (pairs) and `citation_F1` against gold spans.

    Each entry of `evidence` is one thing to be found, and citing any of its spans finds it. A citation is right if it
    overlaps any gold span. That is the precision and recall of ALCE (Gao et al. 2023) with the overlap of spans in
    place of an entailment model. F1 is of this answer alone, to be averaged over answers as QASPER does with its
    evidence F1 (Dasigi et al. 2021); an answer that cites nothing has 0.
    """

    def hits(alternatives: Iterable[GoldSpan], cited: Iterable[Citation]) -> bool:
        spans = list(alternatives)
        return any(overlaps(c.document, c.start, c.end, span) for c in cited for span in spans)

    everything = [span for alternatives in evidence for span in alternatives]
    right = sum(hits(everything, [citation]) for citation in citations)
    found = sum(hits(alternatives, citations) for alternatives in evidence)
    precision = right / len(citations) if citations else 0.0
    recall = found / len(evidence) if evidence else 0.0
    return {
        "citation_precision": (right, len(citations)),
        "citation_recall": (found, len(evidence)),
        "citation_F1": 2 * precision * recall / (precision + recall) if right else 0.0,
    }


_WRITTEN_MARK = re.compile(r"[ \t]*\(\d{1,3}(?:\s?[,，、;\-–]\s?\d{1,3})*\)")


def own_figures(
    answer: Answer, document_text: Callable[[str], str], passages: Sequence[Passage]
) -> dict[str, Pair | float]:
    """What an answer's citations are worth without any gold.

    citation_support    citations that the support checker calls "yes", of all
    link_rate           citations whose quote is exactly the document's [start, end), of all: 1 or something is broken
    quote_rate          sentences that stand in a cited passage word for word (white space and final stop aside), of all
    uncited             sentences that claim something and carry no citation, of those that claim something
    citations           how many
    """
    plain, marks = strip_markers(answer.text)
    cited = {passage.id: _folded(passage.text) for passage in passages}
    sources = [cited[c.passage_id] for c in answer.citations if c.passage_id in cited]
    spans = sentence_spans(plain)
    claims = verbatim = uncited = 0
    for index, (start, end) in enumerate(spans):
        sentence = plain[start:end]
        if not content_tokens(sentence):
            continue
        claims += 1
        # As check_citations puts them: behind the sentence, before the next one begins.
        following = spans[index + 1][0] if index + 1 < len(spans) else len(plain) + 1
        uncited += not any(start < at <= following - (following <= len(plain)) for at, _ in marks)
        verbatim += any(_folded(sentence).rstrip(" .。!！?？;；") in source for source in sources)
    return {
        "citation_support": (sum(c.supported == "yes" for c in answer.citations), len(answer.citations)),
        "link_rate": (sum(_stands(c, document_text) for c in answer.citations), len(answer.citations)),
        "quote_rate": (verbatim, claims),
        "uncited": (uncited, claims),
        "citations": float(len(answer.citations)),
    }


def _stands(citation: Citation, document_text: Callable[[str], str]) -> bool:
    try:
        text = document_text(citation.document)
    except MissingError:
        return False
    return bool(citation.quote) and text[citation.start : citation.end] == citation.quote


def _folded(text: str) -> str:
    # Quotes in an answer stand on one line, and a bracketed number of the source is written (3) there.
    return " ".join(_WRITTEN_MARK.sub("", MARKER.sub("", text)).split())
