"""Zip-packed documents in, their XML parts as trees out, after a look at the directory that stops zip bombs.

Also reads what Word, Excel and PowerPoint files share: relationships and core properties. Knows no single format.
"""

import io
import posixpath
import re
import zipfile
from urllib.parse import unquote

from lxml import etree

from retrieval.passages import Scalar
from retrieval.reading.limits import MIB, ArchiveLimits
from retrieval.reading.normalising import one_line
from retrieval.reading.refusal import Refusal


def open_archive(data: bytes, limits: ArchiveLimits) -> zipfile.ZipFile:
    """The archive, if its directory promises nothing outrageous. Raises Refusal: "corrupt", "bomb", "encrypted"."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError) as problem:
        raise Refusal("corrupt", "is a damaged archive that cannot be opened; download or save it again.") from problem
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if len(members) > limits.entries:
        raise _bomb(f"holds {len(members):,} packed files, more than {limits.entries:,}")
    if total > limits.total_mb * MIB:
        raise _bomb(f"unpacks to {total / MIB:,.0f} MB, more than {limits.total_mb:,} MB")
    # Overlapping members are counted once per name in `packed`; the file itself is the honest measure.
    packed = min(packed, len(data))
    if total > limits.ratio_from_mb * MIB and total > packed * limits.ratio:
        raise _bomb(
            f"unpacks to {total / MIB:,.0f} MB from {packed / MIB:,.2f} MB, more than {limits.ratio} times its size"
        )
    for member in members:
        if member.flag_bits & 0x1:
            raise Refusal("encrypted", "is protected by a password; save a copy without one.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refusal("corrupt", "is packed in a way no such document is; save it again with its own program.")
    return archive


def _bomb(found: str) -> Refusal:
    return Refusal("bomb", f"was not unpacked: it {found}; if it is genuine, split it or raise the limit.")


def read_member(archive: zipfile.ZipFile, name: str) -> bytes | None:
    """A member's bytes, or None if there is no such member. Raises Refusal("corrupt")."""
    try:
        return archive.read(name)
    except KeyError:
        return None
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as problem:
        raise _damaged_part(name) from problem
    except Exception as problem:  # zlib.error has no public base of its own
        if type(problem).__name__ != "error":
            raise
        raise _damaged_part(name) from problem


def _damaged_part(name: str) -> Refusal:
    return Refusal("corrupt", f"is damaged (its part {one_line(name, 80)} cannot be read); save it again.")


_DECLARED = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})""")


def parse_xml(data: bytes, part: str = "XML") -> etree._Element:
    """XML as a tree: no document type, no entities, no network, no huge nodes. Raises Refusal: "bomb", "corrupt"."""
    refuse_doctype(data, part)
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, huge_tree=False, load_dtd=False, remove_comments=True
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as problem:
        raise _damaged_part(part) from problem
    if root is None:
        raise _damaged_part(part)
    return root


def refuse_doctype(data: bytes, part: str) -> None:
    """Office parts may not have one (ECMA-376 part 2, 8.2.5), and it is the door to entity bombs and file reading."""
    declared = _DECLARED.match(data.removeprefix(b"\xef\xbb\xbf"))
    if declared and declared[1].lower() not in (b"utf-8", b"utf-16", b"us-ascii", b"utf8", b"utf16", b"iso-8859-1"):
        raise Refusal("corrupt", f"its part {one_line(part, 80)} is in an encoding that is not allowed; save it again.")
    for mark in ("<!DOCTYPE", "<!ENTITY"):
        if any(mark.encode(encoding) in data for encoding in ("utf-8", "utf-16-le", "utf-16-be")):
            raise Refusal(
                "bomb", f"its part {one_line(part, 80)} declares XML entities, which genuine documents do not."
            )


def check_all_xml(archive: zipfile.ZipFile) -> None:
    """refuse_doctype on every XML part, before a library that parses them its own way. Raises Refusal."""
    for name in archive.namelist():
        if name.lower().endswith((".xml", ".rels", ".vml")):
            refuse_doctype(read_member(archive, name) or b"", name)


def relationships(archive: zipfile.ZipFile, part: str) -> dict[str, tuple[str, str]]:
    """A part's internal relationships: id -> (last word of the type, target part). External targets are left out:
    nothing is ever fetched."""
    folder, name = posixpath.split(part)
    data = read_member(archive, posixpath.join(folder, "_rels", name + ".rels"))
    if data is None:
        return {}
    found = {}
    for relation in parse_xml(data, part).iterchildren("{*}Relationship"):
        if relation.get("TargetMode") == "External":
            continue
        target = unquote(relation.get("Target", ""))
        target = target[1:] if target.startswith("/") else posixpath.normpath(posixpath.join(folder, target))
        found[relation.get("Id", "")] = (relation.get("Type", "").rsplit("/", 1)[-1], target)
    return found


def main_part(archive: zipfile.ZipFile, usual: str) -> str:
    """The part that holds the document, by the package's relationships; `usual` where they do not say."""
    for kind, target in relationships(archive, "").values():
        if kind == "officeDocument":
            return target
    return usual


_CORE = {"title": "title", "creator": "author", "subject": "subject", "keywords": "keywords", "language": "language"}


def core_properties(archive: zipfile.ZipFile) -> dict[str, Scalar]:
    """title, author, subject, keywords, language and date of an Office file, where it has them."""
    part = next((target for kind, target in relationships(archive, "").values() if kind == "core-properties"), None)
    data = read_member(archive, part or "docProps/core.xml")
    if data is None:
        return {}
    values: dict[str, Scalar] = {}
    for element in parse_xml(data, "core.xml"):
        name = etree.QName(element).localname
        text = one_line(element.text or "")
        if text and name in _CORE:
            values[_CORE[name]] = text
        elif text and name in ("modified", "created") and re.match(r"\d{4}-\d\d-\d\d", text):
            if name == "modified" or "date" not in values:
                values["date"] = text[:10]
    return values
