"""Plain text, Markdown and reStructuredText in, the same text with its headings, pages and metadata out.

The text stays the author's source, so that a quotation can be found in the file again. Knows no process limits.
"""

import re
import unicodedata
from collections import Counter

from retrieval.passages import Heading, Scalar
from retrieval.reading.building import Parsed
from retrieval.reading.encodings import Decoded, decode
from retrieval.reading.normalising import normalise, one_line


def source_text(data: bytes, declared: str | None = None) -> tuple[str, Decoded, Counter[str]]:
    """A text file's bytes as (normalised text, how it was decoded, what was removed). Raises Refusal."""
    decoded = decode(data, declared)
    removed: Counter[str] = Counter()
    text = normalise(decoded.text, removed)
    return text, decoded, removed


def encoding_note(decoded: Decoded) -> dict[str, Scalar]:
    """Metadata that says how a file was decoded, where it was not the plain case."""
    return {} if decoded.encoding == "utf-8" else {"encoding": decoded.encoding}


def parse_txt(data: bytes) -> Parsed:
    """Plain text. Form feeds are page breaks (RFCs, old reports) and become line breaks; pages begin after them."""
    decoded = decode(data)
    removed: Counter[str] = Counter()
    pages = [normalise(page, removed) for page in decoded.text.replace("\r\n", "\n").split("\f")]
    parts: list[str] = []
    starts: list[int] = []
    length = 0
    for page in pages:
        if parts:
            page = page.removeprefix("\n")
            if not parts[-1].endswith("\n") and length:
                parts.append("\n")
                length += 1
        starts.append(length)
        parts.append(page)
        length += len(page)
    paged = starts if sum(1 for page in pages if page.strip()) > 1 else []
    return Parsed("".join(parts), "txt", "", paged, [], encoding_note(decoded), decoded.warnings(), removed)


# --- Markdown ---------------------------------------------------------------------------------------------------

_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_LINE = re.compile(r"([A-Za-z_][\w .-]{0,60}?)[ \t]*:(?:[ \t]+(.*))?")
_INLINE = re.compile(r"!?\[([^\]\n]*)\]\([^)\n]*\)|`+([^`\n]*)`+|(\*\*|__|\*|(?<!\w)_|_(?!\w)|~~)|<[^>\n]{1,200}>")

_HEADING_OR_FENCE = re.compile(
    r"^ {0,3}(?:(?P<fence>`{3,}|~{3,})[^\n]*|(?P<level>\#{1,6})[ \t]+(?P<title>[^\n]{1,1000}?)[ \t#]*)$", re.MULTILINE
)
_MARKDOWN_IT_UP_TO = 2_000_000  # characters; the parser reads about 1 MB a second


def parse_markdown(data: bytes) -> Parsed:
    """CommonMark source. Headings by markdown-it's block parser, so that code blocks do not count; flat front matter
    becomes metadata and leaves the text, any other front matter stays in it."""
    text, decoded, removed = source_text(data)
    metadata = encoding_note(decoded)
    front = _FRONT_MATTER.match(text)
    if front:
        values = flat_front_matter(front[1])
        if values is not None:
            metadata |= values
            text = text[front.end() :].lstrip("\n")
    kept = front.end() if front and text.startswith(front[0]) else 0  # its last line would underline a heading
    headings = [heading for heading in markdown_headings(text) if heading.start >= kept]
    title = str(metadata.get("title", "")) or (headings[0].title if headings else "")
    return Parsed(text, "md", title, headings=headings, metadata=metadata, warnings=decoded.warnings(), removed=removed)


def flat_front_matter(block: str) -> dict[str, Scalar] | None:
    """`key: value` lines as strings, lists of words joined by ", "; None if a line is anything more than that.

    Not YAML on purpose: YAML turns `no` into False and 12:30 into 45000, and can be made to expand without end.
    """
    values: dict[str, Scalar] = {}
    key = ""
    for line in block.split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        item = re.fullmatch(r"[ \t]*-[ \t]+(\S.*)", line)
        if item and key and ": " not in item[1]:
            values[key] = ", ".join(filter(None, (str(values[key]), _unquoted(item[1]))))
            continue
        match = _FRONT_LINE.fullmatch(line)
        if not match or (match[2] or "").lstrip()[:1] in ("{", "&", "*", "!", "|", ">"):
            return None
        key = match[1].strip().lower()
        value = (match[2] or "").strip()
        if value.startswith("[") and value.endswith("]"):
            value = ", ".join(_unquoted(part) for part in value[1:-1].split(","))
        values[key] = _unquoted(value)
    return {name: one_line(str(value)) for name, value in values.items() if str(value).strip()}


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def markdown_headings(text: str) -> list[Heading]:
    """ATX and setext headings of CommonMark source, with the offset of the line each begins on."""
    from markdown_it import MarkdownIt

    if "#" not in text and "==" not in text and "--" not in text:
        return []
    if len(text) > _MARKDOWN_IT_UP_TO:
        return _headings_by_line(text)
    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    tokens = parser.parse(text)
    starts = line_starts(text)
    found = []
    for token, inline in zip(tokens, tokens[1:], strict=False):
        if token.type == "heading_open" and token.map and token.level == 0:
            title = one_line(_INLINE.sub(lambda match: match[1] or match[2] or "", inline.content))
            if title:
                found.append(Heading(starts[token.map[0]], int(token.tag[1]), title))
    return found


def _headings_by_line(text: str) -> list[Heading]:
    """ATX headings outside fenced code, for text so long that the block parser would take minutes."""
    found = []
    fence = ""
    for match in _HEADING_OR_FENCE.finditer(text):
        mark = match["fence"]
        if mark and not fence:
            fence = mark
        elif mark and mark[0] == fence[0] and len(mark) >= len(fence):
            fence = ""
        elif not mark and not fence:
            title = one_line(_INLINE.sub(lambda m: m[1] or m[2] or "", match["title"]))
            if title:
                found.append(Heading(match.start(), len(match["level"]), title))
    return found


def line_starts(text: str) -> list[int]:
    """The offset at which each line begins; lines end at "\\n" alone."""
    return [0, *(match.end() for match in re.finditer("\n", text))]


# --- reStructuredText -------------------------------------------------------------------------------------------

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1+[ \t]*")
_FIELD = re.compile(r":([A-Za-z][\w -]{0,40}):[ \t]+(\S.*)")
_HEADER = re.compile(r"([A-Z][A-Za-z-]{0,30}):(?:[ \t]+(.*))?")
_ROLE = re.compile(r":[\w:.+-]{1,40}:`([^`<]*?)(?: <[^`>]*>)?`|``([^`]*)``|`([^`<]*?)(?: <[^`>]*>)?`_{0,2}")


def parse_rst(data: bytes) -> Parsed:
    """reStructuredText source. Headings by their adornment lines, levels in order of appearance (docutils' rule);
    a header block as PEPs have it, or a field list at the top, becomes metadata and stays in the text."""
    text, decoded, removed = source_text(data)
    headings = rst_headings(text)
    metadata = encoding_note(decoded) | _rst_header(text)
    title = str(metadata.pop("title", "")) or (headings[0].title if headings else "")
    return Parsed(
        text, "rst", title, headings=headings, metadata=metadata, warnings=decoded.warnings(), removed=removed
    )


def rst_headings(text: str) -> list[Heading]:
    """Section titles, each with the offset of the title's own line (not of the line above it)."""
    lines = text.split("\n")
    starts = line_starts(text)
    styles: list[tuple[str, bool]] = []
    found = []
    row = 0
    while row < len(lines):
        step, title_row, style = _rst_title(lines, row)
        if step:
            if style not in styles:
                styles.append(style)
            title = one_line(_ROLE.sub(lambda match: match[1] or match[2] or match[3] or "", lines[title_row]))
            found.append(Heading(starts[title_row], styles.index(style) + 1, title))
        row += step or 1
    return found


def _rst_title(lines: list[str], row: int) -> tuple[int, int, tuple[str, bool]]:
    """(lines taken, row of the title, style) if a section title begins at `row`; taken is 0 if none does."""
    none = (0, 0, ("", False))
    before = lines[row - 1] if row else ""
    line = lines[row]
    if before.strip() and not before.startswith((".. ", " ")):
        return none  # inside a paragraph
    if _ADORNMENT.fullmatch(line) and row + 2 < len(lines):
        over, title, under = line.rstrip(), lines[row + 1], lines[row + 2].rstrip()
        if over == under and title.strip() and _width(title.rstrip()) <= len(over) and not _ADORNMENT.fullmatch(title):
            return 3, row + 1, (over[0], True)
        return none
    if not line.strip() or line[0] in " \t" or row + 1 >= len(lines) or _ADORNMENT.fullmatch(line):
        return none
    under = lines[row + 1].rstrip()
    if _ADORNMENT.fullmatch(under) and (len(under) >= _width(line.rstrip()) or len(under) >= 4):
        return 2, row, (under[0], False)
    return none


def _width(text: str) -> int:
    """Columns on a screen: ideographs take two, and docutils compares columns."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _rst_header(text: str) -> dict[str, Scalar]:
    """The RFC 822 header that PEPs begin with, or the field list at the top of other documents."""
    block = text.lstrip("\n").split("\n\n", 1)[0].split("\n")
    values: dict[str, str] = {}
    key = ""
    pattern = _HEADER if _HEADER.fullmatch(block[0]) else _FIELD
    for line in block:
        match = pattern.fullmatch(line)
        if match:
            key = match[1].strip().lower()
            values[key] = (match[2] or "").strip()
        elif key and line.startswith((" ", "\t")):
            values[key] += " " + line.strip()
        else:
            return {}
    if pattern is _HEADER and len(values) < 2:
        return {}
    return {name: one_line(value, 1000) for name, value in values.items() if value}
