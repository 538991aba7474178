"""Hostile text in, HTML that cannot do anything out: what messages.py, sources.py and surroundings.py are built with.

Everything is escaped first and marked up second; nh3 with a short list of tags stands behind it as a second layer.
It knows nothing of Gradio. The page shows this HTML as it is, so Gradio's own Markdown and mermaid never see the text.
"""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

from app.chat.turns import MAX_ANSWER_CHARACTERS
from app.chat.words import Words
from retrieval.passages import Support

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
_CITATION = re.compile(r"\[(\d{1,3})\]")
# Two characters for private use stand around a marked stretch while Markdown is made into HTML.
_MARK, _MARK_END = "\ue000", "\ue001"
_PRIVATE = re.compile(f"[{_MARK}{_MARK_END}]")
_MARKED = re.compile(f"{_MARK}(number|name);")

_TAGS = set(
    "a article bdi blockquote br button code details div em h1 h2 h3 h4 h5 h6 header hr kbd li mark nav ol p pre s "
    "section span strong summary sup table tbody td th thead tr ul".split()
)
_CLASSES = set(
    "answer question note error cut waiting footer copy cite yes partly no sources turn empty source head number title "
    "where passage excerpt full more score unit quoted status dot idle loading ready failed teach hint exchange asked "
    "tools tool edit again nearest how facts flag chats day chat current running open rename delete keep sure when "
    "notice editing cancel chips chip remove keys key examples example trouble help close name here labels".split()
)
# What may stand in an attribute, by its name. Everything that the page's script acts on is a word, a number or an id.
_WORD, _NUMBER, _CHAT = r"[a-z-]{1,20}", r"\d{1,12}", r"[A-Za-z0-9_-]{1,40}"
_VALUES = {
    "href": re.compile(rf"#source-\d{{1,9}}-\d{{1,3}}|\?chat={_CHAT}"),
    "id": re.compile(r"source-\d{1,9}-\d{1,3}|turn-\d{1,9}|how-\d{1,9}"),
    "data-do": re.compile(_WORD),
    "data-here": re.compile(_WORD),
    "data-turn": re.compile(_NUMBER),
    "data-n": re.compile(_NUMBER),
    "data-chat": re.compile(f"(?:{_CHAT})?"),
    "data-document": re.compile(_NUMBER),
    "data-start": re.compile(_NUMBER),
    "data-end": re.compile(_NUMBER),
    "data-quotes": re.compile(r"(?:\d{1,12}-\d{1,12}(?:,|$))*"),
    "data-collection": re.compile(r"[^\x00-\x1f<>\"'&]{0,120}"),
    "role": re.compile("status|alert|dialog|group"),
}
_EVERYWHERE = {"class", "dir", "role", "title", "aria-label", "aria-current", "lang"}
_ATTRIBUTES = {
    "a": {"href", "data-turn"},
    "article": {"id", "data-collection", "data-document", "data-start", "data-end", "data-quotes"},
    "button": {"type", "data-do", "data-turn", "data-n", "data-chat"},
    "details": {"open", "id"},
    "div": {"data-chat", "data-here", "id"},
    "li": {"data-chat"},
    "ol": {"start"},
    "section": {"id", "data-turn"},
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
    turn = env["turn"]
    return f'<sup><a class="cite{kind}" href="#source-{turn}-{n}" data-turn="{turn}" title="{title}">{n}</a></sup>'


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
    if attribute == "class":
        kept = [word for word in value.split() if word in _CLASSES]
        return " ".join(kept) or None
    pattern = _VALUES.get(attribute)
    return value if pattern is None or pattern.fullmatch(value) else None


def sealed(markup: str) -> str:
    """Second layer: only listed tags, attributes, classes and in-page anchors pass. One line, as Gradio wants it.

    A line break is written as `&#10;` and a tab as `&#9;`: Gradio runs `inspect.cleandoc` over messages, which
    would strip the indentation of code, and a blank line would hand the rest to its own Markdown parser.
    """
    clean = nh3.clean(
        _SURROGATE.sub("\ufffd", markup),
        tags=_TAGS,
        attributes={tag: _ATTRIBUTES.get(tag, set()) | _EVERYWHERE for tag in _TAGS},
        attribute_filter=_allowed,
        url_schemes=set(),
        link_rel=None,
        strip_comments=True,
    )
    return clean.replace("\n", "&#10;").replace("\t", "&#9;")


def answer_markup(
    text: str,
    cited: Mapping[int, Support | None],
    turn: int,
    words: Words,
    marks: Sequence[tuple[int, int, str]] = (),
) -> str:
    """Model output as harmless HTML: Markdown's basics, code and tables; links and images stay as written.

    `cited` maps each number that may be linked to what the check found (None: not checked yet); `turn` tells the
    sources of one question from those of another. `marks` are stretches of `text` (start, end, "number" or "name")
    to underline, since no passage has them.
    """
    text = plain(_with_marks(text, marks), MAX_ANSWER_CHARACTERS)
    markup = _PARSER.render(text, {"cited": cited, "turn": turn, "words": words})
    if not marks:
        return markup
    titles = {"number": words.flag_number, "name": words.flag_name}

    def opening(match: re.Match[str]) -> str:
        return f'<span class="flag" title="{html.escape(titles[match[1]])}">'

    return _MARKED.sub(opening, markup).replace(_MARK_END, "</span>")


def _with_marks(text: str, marks: Sequence[tuple[int, int, str]]) -> str:
    """`text` with its marked stretches between private characters, of which it has none of its own afterwards."""
    text = _PRIVATE.sub("\ufffd", text)
    parts, position = [], 0
    for start, end, kind in sorted(marks):
        if position <= start < end <= len(text) and kind in ("number", "name"):
            parts += [text[position:start], f"{_MARK}{kind};", text[start:end], _MARK_END]
            position = end
    return "".join(parts) + text[position:]


def render_safe(
    text: str, cited: Mapping[int, Support | None] | None = None, turn: int = 0, words: Words | None = None
) -> str:
    """`answer_markup`, sealed and ready to show."""
    return sealed(f'<div class="answer" dir="auto">{answer_markup(text, cited or {}, turn, words or Words())}</div>')


def icon_button(do: str, kind: str, label: str, **data: str | int) -> str:
    """A button that page.js turns into the command `do`; its picture comes from the style sheet's class `kind`."""
    more = "".join(f' data-{name}="{html.escape(str(value))}"' for name, value in data.items())
    said = html.escape(label)
    return (
        f'<button type="button" class="tool {kind}" data-do="{do}"{more} title="{said}" aria-label="{said}"></button>'
    )
