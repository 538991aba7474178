"""Word files (docx) in, paragraphs, headings, lists, Markdown tables and notes out, straight from the XML.

Reads the XML itself because python-docx passes over content controls, tracked insertions and text boxes: text that a
person sees. Deleted and hidden text is left out. Knows nothing of pages: Word makes them when it draws.
"""

import re
import zipfile

from lxml import etree

from retrieval.reading.archive import (
    core_properties,
    main_part,
    open_archive,
    parse_xml,
    read_member,
    relationships,
)
from retrieval.reading.building import Builder, Parsed
from retrieval.reading.limits import ArchiveLimits
from retrieval.reading.refusal import Refusal

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT = b"http://purl.oclc.org/ooxml/wordprocessingml/main"
_TRANSITIONAL = b"http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_M_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_CONTAINERS = {_W + name for name in ("sdt", "sdtContent", "customXml", "smartTag", "ins", "moveTo")} | {
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}AlternateContent",
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Choice",
}
_LEFT_OUT = {_W + name for name in ("del", "moveFrom", "pPr", "instrText", "delText", "rPr", "tblPr", "sdtPr")} | {
    _FALLBACK
}
_HEADING_NAME = re.compile(r"heading (\d)", re.IGNORECASE)
_MAX_SPAN = 60  # columns; Word allows 63


def parse_docx(data: bytes, limits: ArchiveLimits) -> Parsed:
    """A Word document. Raises Refusal: "corrupt", "bomb", "encrypted", "no-text"."""
    with open_archive(data, limits) as archive:
        part = main_part(archive, "word/document.xml")
        body = read_member(archive, part)
        if body is None:
            raise Refusal("corrupt", f"is no Word document (it has no part {part[:80]}); save it again.")
        root = parse_xml(body.replace(_STRICT, _TRANSITIONAL), part)
        links = {kind: target for kind, target in relationships(archive, part).values()}
        reader = _Reader(_Styles(archive, links.get("styles", "word/styles.xml")))
        for child in root.iterchildren(_W + "body"):
            reader.blocks(child)
        for kind in ("footnotes", "endnotes"):
            reader.notes(archive, links.get(kind, f"word/{kind}.xml"))
        if reader.hidden:
            reader.out.warnings.append(f"left out {reader.hidden:,} stretches of hidden text")
        metadata = core_properties(archive)
        title = str(metadata.pop("title", "")) or reader.title
        parsed = reader.out.build("docx", title, metadata)
    if not parsed.text:
        raise Refusal("no-text", "has no text, only pictures or nothing; run OCR on it if it should be found.")
    return parsed


class _Styles:
    """Paragraph styles: which are headings of what level, and which are list items."""

    def __init__(self, archive: zipfile.ZipFile, part: str) -> None:
        self._parent: dict[str, str] = {}
        self._level: dict[str, int] = {}
        self._lists: set[str] = set()
        self.titles: set[str] = set()
        data = read_member(archive, part)
        if data is None:
            return
        for style in parse_xml(data.replace(_STRICT, _TRANSITIONAL), part).iterchildren(_W + "style"):
            key = style.get(_W + "styleId", "")
            name = _value(style, "name") or ""
            level = _HEADING_NAME.fullmatch(name)
            outline = style.find(f"{_W}pPr/{_W}outlineLvl")
            if level:
                self._level[key] = int(level[1])
            elif name.lower() == "title":
                self._level[key] = 1
                self.titles.add(key)
            elif outline is not None and (outline.get(_W + "val") or "").isdecimal():
                self._level[key] = int(outline.get(_W + "val", "9")) + 1
            if style.find(f"{_W}pPr/{_W}numPr") is not None or name.lower().startswith("list "):
                self._lists.add(key)
            self._parent[key] = _value(style, "basedOn") or ""

    def level(self, style: str) -> int | None:
        return next((self._level[name] for name in self._chain(style) if name in self._level), None)

    def is_list(self, style: str) -> bool:
        return any(name in self._lists for name in self._chain(style))

    def _chain(self, style: str) -> list[str]:
        chain: list[str] = []
        while style and style not in chain and len(chain) < 20:
            chain.append(style)
            style = self._parent.get(style, "")
        return chain


class _Reader:
    def __init__(self, styles: _Styles) -> None:
        self.out = Builder()
        self.styles = styles
        self.title = ""
        self.hidden = 0
        self._in_list = False

    def blocks(self, parent: etree._Element) -> None:
        """Paragraphs and tables in order. Recursion is safe: the XML parser refuses more than 256 levels."""
        for child in parent.iterchildren():
            if child.tag == _W + "p":
                self.paragraph(child)
            elif child.tag == _W + "tbl":
                self.table(child)
            elif child.tag in _CONTAINERS:
                self.blocks(child)

    def paragraph(self, paragraph: etree._Element) -> None:
        boxes: list[etree._Element] = []
        text = self.text(paragraph, boxes).strip(" \n")
        properties = paragraph.find(_W + "pPr")
        style = (_value(properties, "pStyle") if properties is not None else None) or ""
        level = self.level(properties, style)
        if text and level is not None and level <= 9:
            if style in self.styles.titles and not self.title:
                self.title = " ".join(text.split())
            self.out.block(text, heading=min(level, 6))
            self._in_list = False
        elif text:
            bullet = self.bullet(properties, style)
            self.out.block(bullet + text, tight=bool(bullet) and self._in_list)
            self._in_list = bool(bullet)
        for box in boxes:
            self.blocks(box)

    def level(self, properties: etree._Element | None, style: str) -> int | None:
        own = _value(properties, "outlineLvl") if properties is not None else None
        if own is not None and own.isdecimal():
            return int(own) + 1 if int(own) < 9 else None
        level = self.styles.level(style)
        if level is None and not style:
            return None
        return level

    def bullet(self, properties: etree._Element | None, style: str) -> str:
        number = properties.find(_W + "numPr") if properties is not None else None
        if number is None and not self.styles.is_list(style):
            return ""
        if number is not None and _value(number, "numId") == "0":  # a list style switched off for this paragraph
            return ""
        depth = (_value(number, "ilvl") if number is not None else None) or "0"
        return "  " * (min(int(depth), 8) if depth.isdecimal() else 0) + "- "

    def text(self, element: etree._Element, boxes: list[etree._Element]) -> str:
        """The visible text of a paragraph; text boxes anchored in it are put into `boxes`."""
        parts: list[str] = []
        for child in element.iterchildren():
            tag = child.tag
            if tag == _W + "t" or tag == _M_TEXT:
                parts.append(child.text or "")
            elif tag == _W + "tab":
                parts.append("\t")
            elif tag in (_W + "br", _W + "cr"):
                parts.append("\n")
            elif tag == _W + "noBreakHyphen":
                parts.append("-")
            elif tag == _W + "txbxContent":
                boxes.append(child)
            elif tag in _LEFT_OUT:
                continue
            elif tag == _W + "r" and _is_hidden(child):
                if any((t.text or "").strip() for t in child.iterchildren(_W + "t")):
                    self.hidden += 1
            else:
                parts.append(self.text(child, boxes))
        return "".join(parts)

    def table(self, table: etree._Element) -> None:
        rows = [self.row(row) for row in _below(table, "tr")]
        rows = [row for row in rows if any(row)]
        self._in_list = False
        if rows and max(len(row) for row in rows) >= 2:
            self.out.table(rows)
            return
        for row in _below(table, "tr"):  # one column: a frame around text
            for cell in _below(row, "tc"):
                self.blocks(cell)

    def row(self, row: etree._Element) -> list[str]:
        cells: list[str] = []
        for cell in _below(row, "tc"):
            properties = cell.find(_W + "tcPr")
            merge = properties.find(_W + "vMerge") if properties is not None else None
            span = (_value(properties, "gridSpan") if properties is not None else None) or "1"
            continued = merge is not None and merge.get(_W + "val", "continue") == "continue"
            cells.append("" if continued else self.cell(cell))
            cells += [""] * (min(int(span), _MAX_SPAN) - 1 if span.isdecimal() else 0)
        return cells

    def cell(self, cell: etree._Element) -> str:
        """All paragraphs of a cell, those of nested tables and text boxes included, one per line."""
        lines = []
        for paragraph in cell.iter(_W + "p"):
            boxes: list[etree._Element] = []
            if next(paragraph.iterancestors(_FALLBACK, _W + "del"), None) is None:
                lines.append(self.text(paragraph, boxes).strip())
        return "\n".join(filter(None, lines))

    def notes(self, archive: zipfile.ZipFile, part: str) -> None:
        """Foot- and endnotes, after the body; Word marks its separators by a type."""
        data = read_member(archive, part)
        if data is None:
            return
        for note in parse_xml(data.replace(_STRICT, _TRANSITIONAL), part).iterchildren():
            if note.get(_W + "type") in (None, "normal"):
                self.blocks(note)


def _below(parent: etree._Element, name: str) -> list[etree._Element]:
    """Rows of a table, cells of a row: also inside content controls, never those of a nested table."""
    found: list[etree._Element] = []
    for child in parent.iterchildren():
        if child.tag == _W + name:
            found.append(child)
        elif child.tag in _CONTAINERS:
            found += _below(child, name)
    return found


def _value(element: etree._Element | None, name: str) -> str | None:
    child = element.find(_W + name) if element is not None else None
    return child.get(_W + "val") if child is not None else None


def _is_hidden(run: etree._Element) -> bool:
    mark = run.find(f"{_W}rPr/{_W}vanish")
    return mark is not None and mark.get(_W + "val", "1") not in ("0", "false", "off")
