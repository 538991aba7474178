"""Hostile text in, HTML that cannot do anything out: model output, document text, titles, questions, errors.

Everything is escaped first and marked up second; nh3 with a short list of tags stands behind it as a second layer.
It knows nothing of Gradio. The page shows this HTML as it is, so Gradio's own Markdown and mermaid never see the text.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

from app.chat.words import Words
from retrieval.passages import Citation, Hit, Support

MAX_ANSWER_CHARACTERS = 60_000
"""A longer answer is cut for display: no model of ours writes this much, and one that does must not fill the page."""
LONG_PASSAGE_CHARACTERS = 420
"""Passages above this are shown as an excerpt that opens."""

# Controls, embedding/override/isolate marks (they reorder what stands around them), zero-width characters without a
# use in any script, interlinear marks, and Unicode tags (an alphabet no reader sees). Joiners (U+200C, U+200D) and the
# plain direction marks (U+200E, U+200F) stay: Persian, Indic scripts, emoji, Arabic and Hebrew need them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u180e\u200b\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
# Stacked combining marks paint over the lines around them; three are more than any living spelling needs.
_STACKED = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{3})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)
# A line of 45 characters or more that breaks between two words was wrapped by a width, not by its author.
_WRAPPED = re.compile(r"(?<=[^\n]{45})(?<![\s\u2e80-\u9fff\uff00-\uffef])\n(?=[^\W\d_\u2e80-\u9fff])")
_CITATION = re.compile(r"\[(\d{1,3})\]")
_ANCHOR = re.compile(r"#source-\d{1,6}-\d{1,3}")
_SOURCE_ID = re.compile(r"source-\d{1,6}-\d{1,3}")

_TAGS = set(
    "a article bdi blockquote br button code details div em h1 h2 h3 h4 h5 h6 header hr li mark ol p pre s span "
    "strong summary sup table tbody td th thead tr ul".split()
)
_CLASSES = set(
    "answer question note error cut waiting footer copy cite yes partly no dead sources turn empty source head number "
    "title where passage excerpt full more score unit quoted status dot ready loading failed teach hint".split()
)
_ATTRIBUTES = {
    "a": {"href", "title", "aria-label"},
    "article": {"id"},
    "button": {"type", "title"},
    "details": {"open"},
    "div": {"dir", "role"},
    "ol": {"start"},
    "span": {"title"},
    "p": {"dir"},
}


def plain(text: str, limit: int | None = None) -> str:
    """`text` without characters that hide, reorder or overpaint; cut to `limit` characters with an ellipsis."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    text = _STACKED.sub(r"\1", _UNSEEN.sub("", _SURROGATE.sub("\ufffd", text)))
    if limit is not None and len(text) > limit:
        text = text[: limit - 1].rstrip() + "…"
    return text


def escaped(text: str, limit: int | None = None) -> str:
    """`plain` text as HTML text."""
    return html.escape(plain(text, limit))


def name_html(text: str, limit: int = 120) -> str:
    """A title, path or heading in one line, unable to change the direction of the text around it."""
    return f"<bdi>{escaped(' '.join(text.split()), limit)}</bdi>"


def _citation_rule(state: StateInline, silent: bool) -> bool:
    """`[n]` becomes a citation only where n is a source this answer was given; any other bracket stays text."""
    match = _CITATION.match(state.src, state.pos)
    if match is None or int(match[1]) not in state.env["cited"]:
        return False
    if not silent:
        token = state.push("citation", "", 0)
        token.meta = {"n": int(match[1])}
    state.pos = match.end()
    return True


def _render_citation(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Mapping[str, Any]
) -> str:
    n = int(tokens[index].meta["n"])
    support: Support | None = env["cited"][n]
    words: Words = env["words"]
    title = html.escape(words.support[support] if support else words.open_source.format(n=n))
    kind = f" {support}" if support else ""
    return f'<sup><a class="cite{kind}" href="#source-{env["turn"]}-{n}" title="{title}">{n}</a></sup>'


def _render_fence(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Mapping[str, Any]
) -> str:
    """A fence is only ever text: its language word (mermaid, html") names no class."""
    return f"<pre><code>{html.escape(tokens[index].content)}</code></pre>\n"


def _markdown() -> MarkdownIt:
    """CommonMark plus tables, less everything that can point outside: HTML, links, images, references."""
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True})
    parser.enable(["table", "strikethrough"])
    parser.disable(["link", "image", "autolink", "reference", "html_block", "html_inline"])
    parser.inline.ruler.before("link", "citation", _citation_rule)
    parser.add_render_rule("citation", _render_citation)
    parser.add_render_rule("fence", _render_fence)
    return parser


_PARSER = _markdown()


def _allowed(tag: str, attribute: str, value: str) -> str | None:
    if attribute == "href":
        return value if _ANCHOR.fullmatch(value) else None
    if attribute == "id":
        return value if _SOURCE_ID.fullmatch(value) else None
    if attribute == "class":
        kept = [word for word in value.split() if word in _CLASSES]
        return " ".join(kept) or None
    return value


def sealed(markup: str) -> str:
    """Second layer: only listed tags, attributes, classes and in-page anchors pass. One line, as Gradio wants it.

    A line break is written as `&#10;` and a tab as `&#9;`: Gradio runs `inspect.cleandoc` over messages, which
    would strip the indentation of code, and a blank line would hand the rest to its own Markdown parser.
    """
    clean = nh3.clean(
        _SURROGATE.sub("\ufffd", markup),
        tags=_TAGS,
        attributes={tag: _ATTRIBUTES.get(tag, set()) | {"class"} for tag in _TAGS},
        attribute_filter=_allowed,
        url_schemes=set(),
        link_rel=None,
        strip_comments=True,
    )
    return clean.replace("\n", "&#10;").replace("\t", "&#9;")


def answer_markup(text: str, cited: Mapping[int, Support | None], turn: int, words: Words) -> str:
    """Model output as harmless HTML: Markdown's basics, code and tables; links and images stay as written.

    `cited` maps each number that may be linked to what the check found (None: not checked yet); `turn` tells the
    sources of one question from those of another.
    """
    text = plain(text, MAX_ANSWER_CHARACTERS)
    return _PARSER.render(text, {"cited": cited, "turn": turn, "words": words})


def render_safe(
    text: str, cited: Mapping[int, Support | None] | None = None, turn: int = 0, words: Words | None = None
) -> str:
    """`answer_markup`, sealed and ready to show."""
    return sealed(f'<div class="answer" dir="auto">{answer_markup(text, cited or {}, turn, words or Words())}</div>')


def question_html(text: str) -> str:
    """What the person typed: text, nothing else."""
    lines = escaped(text).split("\n")
    return sealed(f'<div class="question" dir="auto">{"<br>".join(lines)}</div>')


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as the page shows it. `notes` are sentences under it: (kind, text), kind one of note, error, cut."""

    turn: int
    text: str = ""
    cited: Mapping[int, Support | None] | None = None
    waiting: str = ""
    notes: tuple[tuple[str, str], ...] = ()
    timings: tuple[str, ...] = ()
    done: bool = False


def reply_html(reply: Reply, words: Words) -> str:
    """The message of the answering side: text, notes, and a footer with timings and a copy button when it is done."""
    parts = []
    if reply.text:
        parts.append(
            f'<div class="answer" dir="auto">{answer_markup(reply.text, reply.cited or {}, reply.turn, words)}</div>'
        )
    if reply.waiting:
        parts.append(f'<div class="waiting" role="status">{escaped(reply.waiting)}</div>')
    parts += [f'<div class="{kind}" dir="auto">{escaped(text, 600)}</div>' for kind, text in reply.notes]
    if reply.done:
        copy = f'<button class="copy" type="button">{html.escape(words.copy)}</button>' if reply.text else ""
        timings = "".join(f'<span class="unit">{escaped(part)}</span>' for part in reply.timings)
        parts.append(f'<div class="footer">{timings}{copy}</div>')
    return sealed("".join(parts))


@dataclass(frozen=True, slots=True)
class TurnSources:
    """The hits of one question, in the order of their numbers, and the citations once the answer is checked."""

    turn: int
    question: str
    hits: tuple[Hit, ...]
    citations: tuple[Citation, ...] = ()
    checked: bool = False


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
    text = _WRAPPED.sub(" ", hit.passage.text)  # one character for one: the offsets stay right
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


def source_markup(turn: int, n: int, hit: Hit, citations: Sequence[Citation], words: Words) -> str:
    """One numbered source: title, where it stands, the passage with the quoted span marked, the score."""
    spans = quoted_spans(hit, citations)
    source, passage = hit.source, hit.passage
    title = source.title or source.uri
    where = [name_html(source.uri, 90)] if source.title and source.title != source.uri else []
    if passage.page is not None:
        where.append(html.escape(words.page.format(page=passage.page)))
    # A document whose first heading is its title would say it twice.
    headings = [heading for heading in passage.headings if heading.strip() != title.strip()]
    if headings:
        where.append(name_html(" › ".join(headings[-2:]), 110))
    state = checked_numbers(citations, {n}).get(n) or ""
    return (
        f'<article class="source {"quoted" if spans else ""}" id="source-{turn}-{n}">'
        f'<header class="head"><span class="number {state}">{n}</span>'
        f'<span class="title">{name_html(title)}</span>{_scores(hit, words)}</header>'
        f'<div class="where">{" · ".join(where)}</div>{_passage_markup(hit, spans, words)}</article>'
    )


def sources_html(turns: Sequence[TurnSources], words: Words) -> str:
    """The panel beside the chat: the newest question's sources open, older ones folded under their question."""
    parts = [f'<div class="head">{html.escape(words.sources)}</div>']
    if not turns:
        parts.append(f'<div class="empty">{html.escape(words.no_sources_yet)}</div>')
    for position, turn in enumerate(reversed(turns)):
        used = {citation.n for citation in turn.citations}
        count = words.sources_found.format(n=len(turn.hits))
        if turn.checked and used:
            count += f" · {words.sources_cited.format(n=len(used))}"
        body = "".join(
            source_markup(turn.turn, n, hit, turn.citations, words) for n, hit in enumerate(turn.hits, start=1)
        )
        if not turn.hits:
            body = f'<div class="empty">{html.escape(words.nothing_found)}</div>'
        parts.append(
            f'<details class="turn"{" open" if position == 0 else ""}><summary>{name_html(turn.question, 90)}'
            f'<span class="hint">{html.escape(count)}</span></summary>{body}</details>'
        )
    return sealed(f'<div class="sources">{"".join(parts)}</div>')


def status_html(state: str, text: str) -> str:
    """The line in the header: `state` is ready, loading or failed."""
    return sealed(f'<div class="status {state}" role="status"><span class="dot"></span>{escaped(text, 400)}</div>')


def teaching_html(sentences: Sequence[str], words: Words) -> str:
    """What an empty chat says: how to use it, or what is missing."""
    items = "".join(f"<p>{escaped(sentence, 400)}</p>" for sentence in sentences)
    return sealed(f'<div class="teach"><h2>{html.escape(words.teach_title)}</h2>{items}</div>')


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
