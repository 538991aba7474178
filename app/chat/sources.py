"""Hits and citations → the panel beside the chat: numbered cards with the quoted stretches marked."""

import html
import re
from collections.abc import Iterable, Sequence, Set

from app.chat.render import escaped, name_html, sealed
from app.chat.turns import Turn
from app.chat.words import Words
from retrieval.passages import Citation, Hit, Support

LONG_PASSAGE_CHARACTERS = 420
"""Passages above this are shown as an excerpt that opens."""
# A line of 45 characters or more that breaks between two words was wrapped by a width, not by its author.
_WRAPPED = re.compile(r"(?<=[^\n]{45})(?<![\s\u2e80-\u9fff\uff00-\uffef])\n(?=[^\W\d_\u2e80-\u9fff])")


def numbers_of(hits: Sequence[Hit]) -> dict[int, Support | None]:
    """The numbers an answer over these hits may link to, none of them checked yet."""
    return dict.fromkeys(range(1, len(hits) + 1))


def checked_numbers(citations: Iterable[Citation], known: Set[int]) -> dict[int, Support | None]:
    """Numbers of a finished answer with the verdict on each; a number without a source is left out.

    A number that stands behind several statements is "partly" where the verdicts differ.
    """
    numbers: dict[int, Support | None] = {}
    for citation in citations:
        if citation.n in known:
            before = numbers.get(citation.n, citation.supported)
            numbers[citation.n] = citation.supported if before == citation.supported else "partly"
    return numbers


def unwrapped(text: str) -> str:
    """Lines that a width has broken, as paragraphs; one character for one, so that every offset stays right."""
    return _WRAPPED.sub(" ", text)


def quoted_spans(hit: Hit, citations: Iterable[Citation]) -> list[tuple[int, int]]:
    """Quoted stretches as sorted, disjoint offsets into the passage's text; a citation of another place gives none.

    The offsets are believed only if the document's text there is the quote: a wrong mark would be a false citation.
    """
    passage = hit.passage
    found = []
    for citation in citations:
        if citation.passage_id != passage.id or citation.supported == "no":
            continue
        start, end = citation.start - passage.start, citation.end - passage.start
        if 0 <= start < end <= len(passage.text) and passage.text[start:end] == citation.quote:
            found.append((start, end))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def marked(text: str, spans: Sequence[tuple[int, int]], start: int = 0, end: int | None = None) -> str:
    """`text[start:end]` escaped piece by piece, with `<mark>` around the spans: no offset ever counts escaped text."""
    end = len(text) if end is None else end
    parts, position = [], start
    for left, right in spans:
        left, right = max(left, start), min(right, end)
        if left >= right:
            continue
        parts += [escaped(text[position:left]), "<mark>", escaped(text[left:right]), "</mark>"]
        position = right
    parts.append(escaped(text[position:end]))
    return "".join(parts)


def _passage_markup(hit: Hit, spans: Sequence[tuple[int, int]], words: Words) -> str:
    text = unwrapped(hit.passage.text)
    if len(text) <= LONG_PASSAGE_CHARACTERS:
        return f'<div class="passage" dir="auto">{marked(text, spans)}</div>'
    first = max(0, spans[0][0] - 60) if spans else 0
    if first:  # begin with a whole word where there is one
        first = text.find(" ", first, spans[0][0]) + 1 or first
    last = first + LONG_PASSAGE_CHARACTERS - 120
    last = max(text.rfind(" ", last - 30, last), last - 30) if last < len(text) else len(text)
    excerpt = f"{'… ' if first else ''}{marked(text, spans, first, last).strip()}{' …' if last < len(text) else ''}"
    return (
        f'<details class="passage"><summary><div class="excerpt" dir="auto">{excerpt}</div>'
        f'<span class="more">{html.escape(words.whole_passage)}</span></summary>'
        f'<div class="full" dir="auto">{marked(text, spans)}</div></details>'
    )


def _scores(hit: Hit, words: Words) -> str:
    scores = hit.scores
    named = {
        words.dense: scores.dense,
        words.lexical: scores.lexical,
        words.fused: scores.fused,
        words.rerank: scores.rerank,
    }
    detail = " · ".join(f"{name} {value:.3f}" for name, value in named.items() if value is not None)
    return f'<span class="score" title="{html.escape(detail)}">{hit.score:.2f}</span>'


def source_markup(turn: Turn, n: int, hit: Hit, words: Words) -> str:
    """One numbered source: title, where it stands, the passage with the quoted span marked, the score.

    The card says in `data-` attributes which stretch of which document it is, and which stretches of it are quoted
    (offsets into the document's text), for whatever opens the document.
    """
    spans = quoted_spans(hit, turn.citations)
    source, passage = hit.source, hit.passage
    title = source.title or source.uri
    where = [name_html(source.uri, 90)] if source.title and source.title != source.uri else []
    if passage.page is not None:
        where.append(html.escape(words.page.format(page=passage.page)))
    # A document whose first heading is its title would say it twice.
    headings = [heading for heading in passage.headings if heading.strip() != title.strip()]
    if headings:
        where.append(name_html(" › ".join(headings[-2:]), 110))
    state = checked_numbers(turn.citations, {n}).get(n) or ""
    quotes = ",".join(f"{passage.start + start}-{passage.start + end}" for start, end in spans)
    return (
        f'<article class="source {"quoted" if spans else ""}" id="source-{turn.id}-{n}" '
        f'data-collection="{html.escape(turn.asked.collection)}" data-document="{passage.document_id}" '
        f'data-start="{passage.start}" data-end="{passage.end}" data-quotes="{quotes}">'
        f'<header class="head"><span class="number {state}">{n}</span>'
        f'<span class="title">{name_html(title)}</span>{_scores(hit, words)}</header>'
        f'<div class="where">{" · ".join(where)}</div>{_passage_markup(hit, spans, words)}</article>'
    )


def sources_html(turns: Sequence[Turn], words: Words, shown: int | None = None) -> str:
    """The panel: the sources of the turn `shown` (None: the newest) open, the others' folded under their question."""
    parts = [f'<div class="head">{html.escape(words.sources)}</div>']
    if not turns:
        parts.append(f'<div class="empty">{html.escape(words.no_sources_yet)}</div>')
    shown = turns[-1].id if shown is None and turns else shown
    for turn in reversed(turns):
        used = {citation.n for citation in turn.citations}
        count = words.sources_found.format(n=len(turn.hits))
        if turn.checked and used:
            count += f" · {words.sources_cited.format(n=len(used))}"
        body = "".join(source_markup(turn, n, hit, words) for n, hit in enumerate(turn.hits, start=1))
        if not turn.hits:
            body = f'<div class="empty">{html.escape(words.nothing_found)}</div>'
        parts.append(
            f'<details class="turn"{" open" if turn.id == shown else ""}><summary>{name_html(turn.question, 90)}'
            f'<span class="hint">{html.escape(count)}</span></summary>{body}</details>'
        )
    return sealed(f'<div class="sources">{"".join(parts)}</div>')
