"""The child process that parses: one request (a name and bytes) in on stdin, one answer (a document or a reason) out.
A request with a page number gets that page's pixels instead of a document.

Run as `python -m retrieval.reading.worker LIMITS` by child.py; ends when stdin does. Frames in both directions are a
4-byte length, a JSON header, and as many raw bytes as the header says. Parsers are imported when their format comes.
"""

import json
import os
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from retrieval.passages import Heading, Scalar
from retrieval.reading.building import Parsed
from retrieval.reading.formats import format_of, sniff, suffix_of
from retrieval.reading.limits import MIB, ReadingLimits
from retrieval.reading.normalising import one_line, warnings_for
from retrieval.reading.refusal import Refusal
from retrieval.reading.sandbox import allow_cpu, confine, resident_mb

_PACKED = ("pdf", "docx", "pptx", "xlsx", "epub")
_IN_WORDS = {
    "pdf": "a PDF",
    "docx": "a Word document",
    "pptx": "a presentation",
    "xlsx": "an Excel workbook",
    "epub": "an EPUB book",
}
_MAX_METADATA = 50


def parse(data: bytes, name: str, limits: ReadingLimits) -> Parsed:
    """Bytes as a document; the suffix of `name` picks the parser unless the first bytes know better.

    Raises Refusal, or whatever a parser raises on damage it did not foresee.
    """
    if not data.strip(b" \t\r\n\x0b\x0c\x00\xef\xbb\xbf\xff\xfe"):
        raise Refusal("empty", "is empty; nothing to index.")
    wanted = format_of(name) or "txt"
    kind, warnings = _decide(data, name, wanted)
    parsed = _parser(kind, name, limits)(data)
    if not parsed.text.strip():
        raise Refusal("empty", "has no visible text; nothing to index.")
    parsed.warnings = list(dict.fromkeys(warnings + parsed.warnings + warnings_for(parsed.removed, parsed.text)))
    return parsed


def _decide(data: bytes, name: str, wanted: str) -> tuple[str, list[str]]:
    """The format to parse as, and a warning where it is not what the name says. Raises Refusal."""
    found = sniff(data)
    suffix = suffix_of(name)
    if found == "encrypted-office":
        raise Refusal("encrypted", "is protected by a password; save a copy without one.")
    if found == "old-office":
        raise Refusal("unsupported", "is in the old binary Office format; save it as .docx, .xlsx or .pptx.")
    if found in _PACKED:
        if found == wanted:
            return wanted, []
        named = f"named .{suffix}" if suffix else "without a suffix"
        return found, [f"is {named}, but is {_IN_WORDS[found]}; read as such"]
    if found == "zip" and wanted not in _PACKED:
        raise Refusal("binary", "is a zip archive, not a text; unpack it, or correct its suffix.")
    if found is not None and found.startswith("binary: "):
        raise Refusal("binary", f"is {found[8:]}, not what its name says; correct its suffix or leave it out.")
    if wanted == "pdf" and b"%PDF-" not in data[:1024]:
        what = "a web page" if data[:200].lstrip()[:1] == b"<" else "something else"
        raise Refusal("corrupt", f"is no PDF but {what}; download it again.")
    if wanted in _PACKED and wanted != "pdf" and found != "zip":
        raise Refusal("corrupt", f"is not {_IN_WORDS[wanted]} (no zip archive); download or save it again.")
    return wanted, []


def _parser(kind: str, name: str, limits: ReadingLimits) -> Callable[[bytes], Parsed]:
    """The parser of a format; its library is imported here and not before."""
    if kind == "txt":
        from retrieval.reading.plain import parse_txt

        return parse_txt
    if kind == "md":
        from retrieval.reading.plain import parse_markdown

        return parse_markdown
    if kind == "rst":
        from retrieval.reading.plain import parse_rst

        return parse_rst
    if kind == "html":
        from retrieval.reading.markup import parse_html

        return parse_html
    if kind == "pdf":
        from retrieval.reading.pdf import parse_pdf

        return parse_pdf
    if kind == "docx":
        from retrieval.reading.word import parse_docx

        return lambda data: parse_docx(data, limits.archive)
    if kind == "pptx":
        from retrieval.reading.slides import parse_pptx

        return lambda data: parse_pptx(data, limits.archive)
    if kind == "xlsx":
        from retrieval.reading.sheets import parse_xlsx

        return lambda data: parse_xlsx(data, limits.archive)
    if kind == "epub":
        from retrieval.reading.epub import parse_epub

        return lambda data: parse_epub(data, limits.archive)
    if kind in ("csv", "tsv"):
        from retrieval.reading.tables import parse_csv, parse_tsv

        return parse_csv if kind == "csv" else parse_tsv
    if kind in ("json", "jsonl"):
        from retrieval.reading.records import parse_json, parse_jsonl

        return parse_json if kind == "json" else parse_jsonl
    if kind == "eml":
        from retrieval.reading.mail import parse_eml

        return parse_eml
    if kind == "ipynb":
        from retrieval.reading.notebook import parse_ipynb

        return parse_ipynb
    from retrieval.reading.source import parse_code

    return lambda data: parse_code(data, name)


def answer(
    data: bytes, name: str, limits: ReadingLimits, page: dict[str, Any] | None = None
) -> tuple[dict[str, Any], bytes]:
    """The header and the text (of a `page`: the pixels) of the answer to one request; never raises."""
    try:
        if page is not None:
            from retrieval.reading.page_image import page_image

            return page_image(data, page)
        parsed = parse(data, name, limits)
        text = parsed.text.encode("utf-8")
        if len(text) > limits.max_text_mb * MIB:
            size = len(text) / MIB
            raise Refusal("too-large", f"holds {size:,.0f} MB of text, more than {limits.max_text_mb:,} MB; split it.")
        return _described(parsed, name), text
    except Refusal as refusal:
        return {"reason": refusal.reason, "message": refusal.message}, b""
    except MemoryError:
        needs = f"needs more than {limits.memory_mb:,} MB of memory to read"
        return {"reason": "memory", "message": f"{needs}; split it or raise the limit.", "spent": True}, b""
    except RecursionError:
        return {"reason": "corrupt", "message": "is nested more deeply than any genuine file; save it again."}, b""
    except Exception as problem:  # whatever a parser does on a hostile file is that file's error, not the reader's
        kind = type(problem).__name__
        return {
            "reason": "corrupt",
            "message": f"is damaged in a way its parser did not expect ({kind}); save it again.",
        }, b""


def _described(parsed: Parsed, name: str) -> dict[str, Any]:
    title = one_line(parsed.title) or one_line(_stem(name))
    return {
        "title": title,
        "format": parsed.format,
        "page_starts": parsed.page_starts,
        "headings": [[heading.start, heading.level, heading.title] for heading in _in_order(parsed.headings)],
        "metadata": _plain_metadata(parsed.metadata),
        "warnings": [one_line(warning, 500) for warning in parsed.warnings[:50]],
    }


def _stem(name: str) -> str:
    base = name.rsplit("/", 1)[-1]
    stem, dot, _ = base.rpartition(".")
    return stem if dot and stem else base


def _in_order(headings: list[Heading]) -> list[Heading]:
    """Sorted by place, one per place."""
    first: dict[int, Heading] = {}
    for heading in headings:
        if heading.title:
            first.setdefault(heading.start, heading)
    return [first[start] for start in sorted(first)]


def _plain_metadata(metadata: dict[str, Scalar]) -> dict[str, Scalar]:
    kept: dict[str, Scalar] = {}
    for key, value in list(metadata.items())[:_MAX_METADATA]:
        kept[one_line(str(key), 60)] = one_line(value, 1000) if isinstance(value, str) else value
    return kept


def write_frame(stream: BinaryIO, header: dict[str, Any], body: bytes = b"") -> None:
    """One frame; `header` gains the body's size."""
    packed = json.dumps({**header, "size": len(body)}).encode("ascii")
    stream.write(struct.pack(">I", len(packed)))
    stream.write(packed)
    stream.write(body)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next frame, or None at the end of the stream."""
    length = stream.read(4)
    if len(length) < 4:
        return None
    header = json.loads(stream.read(struct.unpack(">I", length)[0]))
    body = stream.read(header["size"])
    return (header, body) if len(body) == header["size"] else None


def main() -> None:
    """Serve requests until stdin ends."""
    limits = ReadingLimits(**json.loads(sys.argv[1]))
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not speak in the middle of a frame
    network = confine(limits)
    write_frame(answers, {"ready": True, "network": network, "rss_mb": resident_mb()})
    while True:
        frame = read_frame(requests)
        if frame is None:
            return
        header, data = frame
        allow_cpu(limits.cpu_seconds)
        reply, text = answer(data, header["name"], limits, header.get("page"))
        del data, frame
        write_frame(answers, {**reply, "rss_mb": resident_mb()}, text)


if __name__ == "__main__":
    main()
