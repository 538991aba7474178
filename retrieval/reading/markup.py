"""HTML in, its visible text with headings and Markdown tables out. Also used for mail bodies and book chapters.

Walks lexbor's tree (an HTML5 parser, no entities, no network) without recursion, so that nesting depth costs nothing.
What a browser would not show is left out and counted: hidden text is a way to smuggle instructions.
"""

import re
from collections import Counter

from selectolax.lexbor import LexborHTMLParser, LexborNode

from retrieval.passages import Scalar
from retrieval.reading.building import Builder, Parsed, flowing
from retrieval.reading.encodings import decode
from retrieval.reading.normalising import one_line
from retrieval.reading.plain import encoding_note

_DECLARED = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})|<\?xml[^>]{0,100}?encoding\s*=\s*["']([\w.:-]{1,40})""",
    re.IGNORECASE,
)
_LEFT_OUT = frozenset(
    "head script style template iframe object embed svg canvas audio video map nav select datalist button rp "
    "noframes applet".split()
)
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form header hgroup html legend li main menu ol p pre section summary table tbody td tfoot th thead tr ul "
    "hr h1 h2 h3 h4 h5 h6 optgroup search title".split()
)
_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|(?<![\w-])opacity\s*:\s*0(?:\.0*)?\s*(?:;|$)"
    r"|font-size\s*:\s*0*(?:\.0*)?(?:px|pt|em|rem|%)?\s*(?:;|!|$)|(?:left|top|text-indent)\s*:\s*-\d{4,}px",
    re.IGNORECASE,
)
_PERMALINK = re.compile(r"\s*[¶#§🔗]\s*$")
_META = {
    "author": "author",
    "dc.creator": "author",
    "article:author": "author",
    "description": "description",
    "og:description": "description",
    "keywords": "keywords",
    "date": "date",
    "dc.date": "date",
    "article:published_time": "date",
    "og:title": "og:title",
    "dc.title": "og:title",
}
_MAX_SPAN = 100  # cells; the HTML standard caps colspan at 1,000


def parse_html(data: bytes) -> Parsed:
    """A web page: visible text by blocks, h1–h6 as headings, data tables as Markdown, <title> and <meta>."""
    declared = _DECLARED.search(data[:4096])
    name = (declared[1] or declared[2]).decode("ascii", "replace") if declared else None
    decoded = decode(data, name)
    parsed = html_to_parsed(decoded.text)
    parsed.metadata |= encoding_note(decoded)
    parsed.warnings = decoded.warnings() + parsed.warnings
    return parsed


def html_to_parsed(html: str) -> Parsed:
    """As parse_html, of text that is already decoded."""
    tree = LexborHTMLParser(html)
    metadata: dict[str, Scalar] = {}
    for node in tree.css("meta[content]"):
        attributes = node.attributes
        key = _META.get((attributes.get("name") or attributes.get("property") or "").lower())
        value = one_line(attributes.get("content") or "")
        if key and value:
            metadata.setdefault(key, value)
    root = tree.root
    language = one_line((root.attributes.get("lang") or "") if root is not None else "", 20)
    if language:
        metadata["language"] = language
    title_node = tree.css_first("head > title")
    title = one_line(title_node.text()) if title_node is not None else ""
    title = title or str(metadata.pop("og:title", ""))
    metadata.pop("og:title", None)
    flow = _Flow()
    if root is not None:
        flow.run(root)
    if flow.hidden:
        flow.out.warnings.append(f"left out {flow.hidden:,} elements that the page hides from its readers")
    return flow.out.build("html", title, metadata)


class _Flow:
    """One pass over the tree in document order; `inline` gathers the text of the block being read."""

    def __init__(self, removed: Counter[str] | None = None) -> None:
        self.out = Builder(removed)
        self.hidden = 0
        self.inline: list[str] = []
        self.lists: list[int] = []  # per open list: the next number, or -1 for bullets
        self.bullet = ""
        self.tight = False
        self.heading: int | None = None
        self.pre = 0
        self.tables = 0  # open tables that only arrange the page

    def run(self, root: LexborNode) -> None:
        """Walk `root` and everything below it, in document order."""
        node = root
        while True:
            entered = self.enter(node)
            below = node.child if entered else None
            if below is not None:
                node = below
                continue
            if entered:
                self.leave(node)
            while node.mem_id != root.mem_id and node.next is None and node.parent is not None:
                node = node.parent
                self.leave(node)
            if node.mem_id == root.mem_id or node.next is None:
                break
            node = node.next
        self.flush()

    def enter(self, node: LexborNode) -> bool:
        """Take in a node; True if its children are to be visited."""
        tag = node.tag or ""
        if tag == "-text":
            self.inline.append(node.text_content or "")
            return False
        if tag in _LEFT_OUT or tag.startswith("-"):
            return tag in ("-document", "-undef")
        if self.is_hidden(node):
            return False
        if tag == "br":
            self.inline.append("\n" if self.pre else "\0")
        elif tag == "img":
            alternative = node.attributes.get("alt")
            if alternative and alternative.strip():
                self.inline.append(f" {alternative.strip()} ")
        elif tag == "table" and self.table(node):
            return False
        elif tag in _BLOCKS:
            self.open_block(tag, node)
        return True

    def open_block(self, tag: str, node: LexborNode) -> None:
        self.flush()
        if tag in _HEADINGS:
            self.heading = _HEADINGS[tag]
        elif tag in ("ul", "menu", "dir"):
            self.lists.append(-1)
        elif tag == "ol":
            start = node.attributes.get("start") or "1"
            self.lists.append(int(start) if start.isdecimal() and len(start) < 7 else 1)
        elif tag == "li":
            self.bullet = "- "
            if self.lists and self.lists[-1] >= 0:
                self.bullet = f"{self.lists[-1]}. "
                self.lists[-1] += 1
            self.bullet = "  " * min(len(self.lists) - 1, 10) + self.bullet
        elif tag == "pre":
            self.pre += 1
        elif tag == "table":
            self.tables += 1

    def leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag not in _BLOCKS or tag in _LEFT_OUT:
            return
        self.flush()
        if tag in _HEADINGS:
            self.heading = None
        elif tag in ("ul", "ol", "menu", "dir") and self.lists:
            self.lists.pop()
            self.tight = bool(self.lists)
        elif tag == "pre" and self.pre:
            self.pre -= 1
        elif tag == "table" and self.tables:
            self.tables -= 1

    def flush(self) -> None:
        if not self.inline:
            return
        raw = "".join(self.inline)
        self.inline = []
        if self.pre:
            text = raw.replace("\0", "\n")
        else:
            text = "\n".join(filter(None, (flowing(line) for line in raw.split("\0"))))
        if not text.strip():
            return
        if self.heading is not None:
            text = _PERMALINK.sub("", text)
        if self.bullet:
            text, tight = self.bullet + text, self.tight
            self.bullet, self.tight = "", True
        else:
            tight, self.tight = False, False
        self.out.block(text, heading=self.heading, tight=tight)

    def is_hidden(self, node: LexborNode) -> bool:
        attributes = node.attributes
        if not attributes:
            return False
        hidden = "hidden" in attributes or bool(_HIDING.search(attributes.get("style") or ""))
        if hidden and (node.text() or "").strip():
            self.hidden += 1
        return hidden

    def table(self, table: LexborNode) -> bool:
        """Write a table of data; False for one that only arranges the page (nested tables, headings, one column)."""
        # Beyond twenty levels nobody lays out data, and looking below each level again would take quadratic time.
        if self.tables > 20 or table.attributes.get("role") == "presentation":
            return False
        if len(table.css("table")) > 1 or table.css_first("h1, h2, h3, h4, pre") is not None:
            return False
        rows = self.rows(table)
        if not rows or max(len(row) for row in rows) < 2:
            return False
        self.flush()
        caption = table.css_first("caption")
        if caption is not None:
            self.out.block(flowing(caption.text()))
        self.out.table(rows)
        self.tight = False
        return True

    def rows(self, table: LexborNode) -> list[list[str]]:
        rows: list[list[str]] = []
        carried: dict[int, int] = {}  # column -> rows that a rowspan above still covers
        for line in table.css("tr"):
            if self.is_hidden(line):
                continue
            row: list[str] = []
            for cell in line.css("td, th"):
                while carried.get(len(row), 0) > 0:
                    carried[len(row)] -= 1
                    row.append("")
                if self.is_hidden(cell):
                    continue
                across, down = _span(cell, "colspan"), _span(cell, "rowspan")
                for column in range(len(row), len(row) + across):
                    if down > 1:
                        carried[column] = down - 1
                row += [self.cell(cell), *[""] * (across - 1)]
            rows.append(row)
        return [row for row in rows if any(row)]

    def cell(self, cell: LexborNode) -> str:
        inner = _Flow(self.out.removed)
        child = cell.child
        while child is not None:
            inner.run(child)
            child = child.next
        self.hidden += inner.hidden
        return inner.out.build("html").text.replace("\n\n", "\n")


def _span(cell: LexborNode, name: str) -> int:
    value = cell.attributes.get(name) or "1"
    return max(1, min(_MAX_SPAN, int(value))) if value.isdecimal() and len(value) < 6 else 1
