"""EPUB books in, their chapters in reading order as one text out. Reads the package itself; fetches nothing."""

import posixpath
import zipfile
from urllib.parse import unquote

from lxml import etree

from retrieval.passages import Scalar
from retrieval.reading.archive import open_archive, parse_xml, read_member
from retrieval.reading.building import Builder, Parsed
from retrieval.reading.limits import ArchiveLimits
from retrieval.reading.markup import parse_html
from retrieval.reading.normalising import one_line
from retrieval.reading.refusal import Refusal

_FONT_OBFUSCATION = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
_METADATA = {
    "creator": "author",
    "language": "language",
    "publisher": "publisher",
    "date": "date",
    "subject": "keywords",
}


def parse_epub(data: bytes, limits: ArchiveLimits) -> Parsed:
    """A book: the spine's documents one after the other, headings as in each, Dublin Core metadata.

    Raises Refusal: "corrupt", "bomb", "encrypted", "no-text".
    """
    with open_archive(data, limits) as archive:
        _refuse_encrypted(archive)
        package_name = _package_name(archive)
        raw = read_member(archive, package_name)
        if raw is None:
            raise Refusal("corrupt", "is no readable book: its package file is missing; download it again.")
        package = parse_xml(raw, package_name)
        title, metadata = _describe(package)
        out = Builder()
        missing = 0
        for name in _spine(package, posixpath.dirname(package_name)):
            chapter = read_member(archive, name)
            if chapter is None:
                missing += 1
            elif chapter.strip():
                out.include(parse_html(chapter))
        if missing:
            out.warnings.append(f"{missing:,} chapters named in the book's spine are missing from the file")
        parsed = out.build("epub", title, metadata)
    if not parsed.text.strip():
        raise Refusal("no-text", "is a book without text, only pictures; run OCR on it first.")
    return parsed


def _refuse_encrypted(archive: zipfile.ZipFile) -> None:
    raw = read_member(archive, "META-INF/encryption.xml")
    if raw is None:
        return
    for method in parse_xml(raw, "encryption.xml").iter("{*}EncryptionMethod"):
        if method.get("Algorithm") not in _FONT_OBFUSCATION:
            raise Refusal("encrypted", "is protected by its seller (DRM); only a copy without it can be read.")


def _package_name(archive: zipfile.ZipFile) -> str:
    raw = read_member(archive, "META-INF/container.xml")
    if raw is not None:
        for root in parse_xml(raw, "container.xml").iter("{*}rootfile"):
            return unquote(root.get("full-path", ""))
    return next((name for name in archive.namelist() if name.endswith(".opf")), "")


def _describe(package: etree._Element) -> tuple[str, dict[str, Scalar]]:
    title = ""
    metadata: dict[str, Scalar] = {}
    for element in package.iterfind("{*}metadata/{http://purl.org/dc/elements/1.1/}*"):
        name = etree.QName(element).localname
        text = one_line("".join(element.itertext()))
        if name == "title" and not title:
            title = text
        elif text and name in _METADATA:
            key = _METADATA[name]
            metadata[key] = one_line(f"{metadata[key]}, {text}") if key in metadata and key != "date" else text
    return title, metadata


def _spine(package: etree._Element, folder: str) -> list[str]:
    """The archive names of the documents in reading order, each once."""
    items = {item.get("id"): item for item in package.iterfind("{*}manifest/{*}item")}
    names = []
    for reference in package.iterfind("{*}spine/{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None or "html" not in item.get("media-type", "html"):
            continue
        path = unquote(item.get("href", "").split("#")[0])
        names.append(posixpath.normpath(posixpath.join(folder, path)))
    return list(dict.fromkeys(names))
