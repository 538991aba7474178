"""PowerPoint files (pptx) in, one page per slide with title, text, Markdown tables, diagrams and notes out."""

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

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_R_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
# ISO 29500 "strict" files use other names for the same elements.
_STRICT = {
    b"http://purl.oclc.org/ooxml/drawingml/main": b"http://schemas.openxmlformats.org/drawingml/2006/main",
    b"http://purl.oclc.org/ooxml/presentationml/main": b"http://schemas.openxmlformats.org/presentationml/2006/main",
    b"http://purl.oclc.org/ooxml/officeDocument/relationships": b"http://schemas.openxmlformats.org/officeDocument/2006/relationships",
}
_TITLES = ("title", "ctrTitle")
_NOT_CONTENT = ("sldNum", "dt", "ftr", "hdr", "sldImg")


def parse_pptx(data: bytes, limits: ArchiveLimits) -> Parsed:
    """A presentation; slide n is page n. Raises Refusal: "corrupt", "bomb", "encrypted", "no-text"."""
    with open_archive(data, limits) as archive:
        part = main_part(archive, "ppt/presentation.xml")
        root = _part(archive, part)
        if root is None:
            raise Refusal("corrupt", f"is no presentation (it has no part {part[:80]}); save it again.")
        links = relationships(archive, part)
        out = Builder()
        slides = 0
        for entry in root.iterfind(f"{_P}sldIdLst/{_P}sldId"):
            _, target = links.get(entry.get(_R_ID, ""), ("", ""))
            slides += 1
            out.page()
            slide = _part(archive, target) if target else None
            if slide is None:
                out.warnings.append(f"slide {slides} is missing from the file")
                continue
            _slide(archive, target, slide, out)
        metadata = core_properties(archive)
        title = str(metadata.pop("title", ""))
        if title.lower() in ("powerpoint presentation", "presentation"):  # the program's own words
            title = ""
        parsed = out.build("pptx", title, metadata | {"pages": slides})
    if not parsed.text:
        raise Refusal("no-text", f"has no text on its {slides:,} slides, only pictures; run OCR on it.")
    return parsed


def _part(archive: zipfile.ZipFile, name: str) -> etree._Element | None:
    data = read_member(archive, name)
    if data is None:
        return None
    for strict, transitional in _STRICT.items():
        data = data.replace(strict, transitional)
    return parse_xml(data, name)


def _slide(archive: zipfile.ZipFile, part: str, slide: etree._Element, out: Builder) -> None:
    tree = slide.find(f"{_P}cSld/{_P}spTree")
    if tree is not None:
        shapes = list(_shapes(tree))
        for shape in sorted(shapes, key=lambda shape: _placeholder(shape) not in _TITLES):  # stable: the title first
            _shape(shape, out)
    for kind, target in relationships(archive, part).values():
        if kind == "diagramData":
            diagram = _part(archive, target)
            for paragraph in diagram.iter(_A + "p") if diagram is not None else ():
                out.block(_text(paragraph))
        elif kind == "notesSlide":
            notes = _part(archive, target)
            shapes = list(_shapes(notes.find(f"{_P}cSld/{_P}spTree"))) if notes is not None else []
            lines = [_text(p) for s in shapes if _placeholder(s) == "body" for p in s.iter(_A + "p")]
            spoken = "\n".join(filter(None, lines))
            if spoken:
                out.block("Notes: " + spoken)


def _shapes(tree: etree._Element | None) -> list[etree._Element]:
    """Shapes and frames in drawing order, groups opened."""
    found: list[etree._Element] = []
    for child in tree.iterchildren() if tree is not None else ():
        name = etree.QName(child).localname
        if name in ("grpSp", "AlternateContent", "Choice"):
            found += _shapes(child)
        elif name in ("sp", "graphicFrame", "cxnSp"):
            found.append(child)
    return found


def _placeholder(shape: etree._Element) -> str:
    """The kind of placeholder a shape fills; "" for a free shape. Without a type it is the body ("obj")."""
    mark = shape.find(f"{_P}nvSpPr/{_P}nvPr/{_P}ph")
    return mark.get("type", "obj") if mark is not None else ""


def _shape(shape: etree._Element, out: Builder) -> None:
    kind = _placeholder(shape)
    if kind in _NOT_CONTENT:
        return
    for table in shape.iter(_A + "tbl"):
        rows = [[_cell(cell) for cell in row.iterchildren(_A + "tc")] for row in table.iterchildren(_A + "tr")]
        out.table(rows)
    body = shape.find(_P + "txBody")
    if body is None:
        return
    if kind in _TITLES:
        out.block(" ".join(_text(p) for p in body.iterchildren(_A + "p")), heading=1)
        return
    lines = []
    for paragraph in body.iterchildren(_A + "p"):
        text = _text(paragraph)
        properties = paragraph.find(_A + "pPr")
        depth = properties.get("lvl", "0") if properties is not None else "0"
        if text:
            lines.append(("  " * int(depth) if depth.isdecimal() and int(depth) < 9 else "") + _bullet(kind) + text)
    out.block("\n".join(lines))


def _bullet(kind: str) -> str:
    return "- " if kind in ("obj", "body") else ""


def _cell(cell: etree._Element) -> str:
    return "\n".join(filter(None, (_text(paragraph) for paragraph in cell.iter(_A + "p"))))


def _text(paragraph: etree._Element) -> str:
    parts: list[str] = []
    for element in paragraph.iter(_A + "t", _A + "br"):
        if element.tag == _A + "br":
            parts.append("\n")
        elif next(element.iterancestors(_FALLBACK), None) is None:
            parts.append(element.text or "")
    return "".join(parts).strip()
