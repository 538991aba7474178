"""Hostile and broken files: each is refused by its right name or read in full, and the parent lives."""

import gzip
import io
import json
import os
import random
import re
import struct
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.errors import ReadingError
from retrieval.passages import Document
from retrieval.reading.folder import Loaded
from retrieval.reading.reader import Reader, ReadingLimits

Refuse = Callable[[str, bytes], ReadingError]
Read = Callable[[str, bytes], Document]


# --- files that are not what they say (D2) ----------------------------------------------------------------------


def pdf(*pages: str, extra: str = "", trailer: str = "") -> bytes:
    """A hand-written PDF with one line of Helvetica per page."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {extra}>>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * n} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out = io.BytesIO()
    out.write(b"%PDF-1.7\n")
    offsets = []
    for number, content in enumerate(objects, start=1):
        offsets.append(out.tell())
        out.write(f"{number} 0 obj\n{content}\nendobj\n".encode())
    table = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.write(b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets))
    out.write(f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {trailer}>>\nstartxref\n{table}\n%%EOF\n".encode())
    return out.getvalue()


def encrypted_pdf() -> bytes:
    """Standard security handler with a password nobody knows (random owner and user entries)."""
    chance = random.Random(5)
    keys = "".join(f"/{name} <{chance.randbytes(32).hex()}> " for name in "OU")
    encrypt = f"/Encrypt << /Filter /Standard /V 2 /R 3 /Length 128 /P -4 {keys}>> "
    return pdf("secret", trailer=f"{encrypt}/ID [<{'00' * 16}> <{'00' * 16}>] ")


OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)

WRONG = {
    "empty": ("a.txt", b"", "empty"),
    "white space": ("a.md", b" \n\t\r\n ", "empty"),
    "a mark and nothing": ("a.txt", b"\xef\xbb\xbf", "empty"),
    "zeros": ("a.txt", bytes(500), "empty"),
    "only invisible characters": ("a.txt", "\u200b\u200b\u2060".encode(), "empty"),
    "an empty table": ("a.csv", b",,,\n,,\n", "empty"),
    "an empty page": ("a.html", b"<html><body><script>x</script></body></html>", "empty"),
    "random bytes": ("a.txt", random.Random(1).randbytes(5_000), "binary"),
    "a picture named .txt": ("a.txt", b"\x89PNG\r\n\x1a\n" + random.Random(2).randbytes(400), "binary"),
    "a program named .md": ("a.md", b"\x7fELF\x02\x01\x01" + bytes(300), "binary"),
    "gzip named .json": ("a.json", gzip.compress(b'{"a": 1}' * 50), "binary"),
    "a picture named .pdf": ("a.pdf", b"\xff\xd8\xff\xe0" + random.Random(2).randbytes(400), "binary"),
    "a web page named .pdf": ("a.pdf", b"<html><body>Please log in</body></html>", "corrupt"),
    "text named .docx": ("a.docx", b"just text", "corrupt"),
    "text named .xlsx": ("a.xlsx", b"a,b\n1,2\n", "corrupt"),
    "text named .ipynb": ("a.ipynb", b"just text", "corrupt"),
    "text named .eml": ("a.eml", b"just text\n\nand more", "corrupt"),
    "an old .doc": ("a.docx", OLD_OFFICE, "unsupported"),
    "a docx with a password": ("a.docx", OLD_OFFICE + "EncryptedPackage".encode("utf-16-le") + bytes(50), "encrypted"),
    "half a mark": ("a.txt", b"\xff\xfe" + random.Random(4).randbytes(401), "encoding"),
    "a PDF without pages": ("a.pdf", pdf(), "corrupt"),
    "a PDF without text": ("a.pdf", pdf("", ""), "no-text"),
    "a PDF with a password": ("a.pdf", encrypted_pdf(), "encrypted"),
    "the head of a PDF": ("a.pdf", pdf("hello")[:60], "corrupt"),
    "a PDF of noise": ("a.pdf", b"%PDF-1.7\n" + random.Random(6).randbytes(3_000), "corrupt"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_cannot_be_read_are_named_rightly(refuse: Refuse, name: str) -> None:
    file, data, reason = WRONG[name]
    problem = refuse(file, data)
    assert problem.reason == reason, problem


def test_a_wrong_suffix_is_seen_through(read: Read) -> None:
    document = read("report.txt", pdf("Hello from a PDF"))
    assert document.format == "pdf" and document.text == "Hello from a PDF"
    assert any("named .txt, but is a PDF" in warning for warning in document.warnings)


def test_text_with_a_few_zeros_loses_only_them(read: Read) -> None:
    document = read("a.txt", b"one\x00two " * 3 + b"plain words " * 20)
    assert document.text.startswith("onetwo onetwo") and any("3 control characters" in w for w in document.warnings)


# --- zip bombs and XML (D3) -------------------------------------------------------------------------------------


def packed(parts: dict[str, bytes | str], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
TYPES: dict[str, bytes | str] = {"[Content_Types].xml": "<Types/>"}
LAUGHS = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
XXE = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY secret SYSTEM "file:///etc/passwd">]>'


def word(body: str, before: str = "") -> dict[str, bytes | str]:
    return TYPES | {"word/document.xml": f"{before}<w:document {W}><w:body>{body}</w:body></w:document>"}


def sheet(content: str, before: str = "") -> dict[str, bytes | str]:
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    return {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Override PartName="/xl/workbook.xml" '
        "ContentType="
        '"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{relation}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{relation}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{relation}"><sheets>'
        '<sheet name="S" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/worksheets/sheet1.xml": f'{before}<worksheet xmlns="{main}"><sheetData>{content}</sheetData></worksheet>',
    }


def many(count: int) -> dict[str, bytes | str]:
    return TYPES | {f"word/{n}.xml": "" for n in range(count)}


def understated() -> bytes:
    """A member that says it unpacks to ten bytes and unpacks to ten million."""
    data = bytearray(packed(word("x" * 10_000_000)))
    at = data.rfind(b"PK\x01\x02", 0, data.rfind(b"word/document.xml"))
    data[at + 24 : at + 28] = struct.pack("<I", 10)
    return bytes(data)


BOMBS: dict[str, tuple[str, Callable[[], bytes], set[str]]] = {
    "docx, 216 MB": ("a.docx", lambda: packed(word("<w:p/>" * 36_000_000)), {"bomb"}),
    "docx, ratio": ("a.docx", lambda: packed(word(" " * 30_000_000)), {"bomb"}),
    "pptx, 220 MB of picture": (
        "a.pptx",
        lambda: packed(TYPES | {"ppt/presentation.xml": "<p/>", "ppt/media/i.bin": bytes(220_000_000)}),
        {"bomb"},
    ),
    "xlsx, ratio": ("a.xlsx", lambda: packed(sheet("<row><c><v>1</v></c></row>" * 2_000_000)), {"bomb"}),
    "epub, 60,000 entries": (
        "a.epub",
        lambda: packed({"mimetype": "application/epub+zip"} | {f"{n}": b"" for n in range(60_000)}, zipfile.ZIP_STORED),
        {"bomb"},
    ),
    "docx, 2,001 entries": ("a.docx", lambda: packed(many(2_000)), {"bomb"}),
    "docx, size understated": ("a.docx", understated, {"corrupt"}),
    "docx, a billion laughs": ("a.docx", lambda: packed(word("&i;", LAUGHS + "]>")), {"bomb"}),
    "docx, an outside entity": (
        "a.docx",
        lambda: packed(word("<w:p><w:r><w:t>&secret;</w:t></w:r></w:p>", XXE)),
        {"bomb"},
    ),
    "docx, an entity in UTF-16": (
        "a.docx",
        lambda: packed(TYPES | {"word/document.xml": (XXE + "<x>&secret;</x>").encode("utf-16")}),
        {"bomb", "corrupt"},
    ),
    "docx, an entity in UTF-7": (
        "a.docx",
        lambda: packed(TYPES | {"word/document.xml": b'<?xml version="1.0" encoding="UTF-7"?>+ADw-x+AD4-'}),
        {"corrupt"},
    ),
    "xlsx, a billion laughs": (
        "a.xlsx",
        lambda: packed(sheet("<row><c><v>&i;</v></c></row>", LAUGHS + "]>")),
        {"bomb"},
    ),
    "epub, an outside entity": (
        "a.epub",
        lambda: packed({"mimetype": "application/epub+zip", "META-INF/container.xml": XXE + "<x>&secret;</x>"}),
        {"bomb"},
    ),
    "docx, 100,000 levels": ("a.docx", lambda: packed(word("<w:sdt>" * 100_000)), {"corrupt"}),
    "docx within docx within docx": (
        "a.docx",
        lambda: packed(TYPES | {"word/document.xml": packed(TYPES | {"word/document.xml": packed(word(""))})}),
        {"corrupt"},
    ),
    "pptx that is its own slide": (
        "a.pptx",
        lambda: packed(TYPES | {"ppt/presentation.xml": "<p:presentation xmlns:p='x'/>"}),
        {"no-text", "corrupt"},
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_go_off(strict_reader: Reader, refuse: Refuse, name: str) -> None:
    file, make, reasons = BOMBS[name]
    data = make()
    problem = refuse(file, data)
    assert problem.reason in reasons, problem
    # Refused from the directory: the process that read it holds nothing of it and lives on.
    child = strict_reader._slots.get()
    strict_reader._slots.put(child)
    assert child is not None and child.usable() and child.rss_mb < 300


def test_the_total_counts_by_itself(loaded: Callable[[str, bytes], Loaded]) -> None:
    """Three megabytes that hardly pack, against a limit of two."""
    data = packed(word("<w:p/>") | {"word/media/noise.bin": random.Random(1).randbytes(3 << 20)})
    with Reader(ReadingLimits(archive_mb=2)) as reader, pytest.raises(ReadingError) as caught:
        reader.parse(loaded("a.docx", data))
    assert caught.value.reason == "bomb" and "3 MB" in caught.value.message


def test_a_sheet_that_claims_a_million_columns_is_read(read: Read) -> None:
    parts = sheet('<row r="1"><c r="A1"><v>7</v></c></row><row r="1048576"><c r="XFD1048576"><v>8</v></c></row>')
    document = read("a.xlsx", packed(parts))
    assert "7" in document.text and "8" in document.text and len(document.text) < 200


def test_outside_relationships_are_not_followed(read: Read) -> None:
    parts = word("<w:p><w:r><w:t>text</w:t></w:r></w:p>") | {
        "word/_rels/document.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        '<Relationship Id="a" Type="x/styles" Target="http://127.0.0.1:9/s.xml" TargetMode="External"/>'
        '<Relationship Id="b" Type="x/footnotes" Target="../../../../etc/passwd"/></Relationships>'
    }
    assert read("a.docx", packed(parts)).text == "text"


# --- PDFs (D4) --------------------------------------------------------------------------------------------------


def test_pages_of_a_small_pdf(read: Read) -> None:
    document = read("a.pdf", pdf("First page", "", "Third page"))
    assert document.text == "First page\n\nThird page"
    assert document.page_starts == (0, 12, 12) and document.metadata["pages"] == 3
    assert any("no text on page 2" in warning for warning in document.warnings)


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def test_twenty_real_pdfs_against_their_text(read: Read, shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("cuad_pdf_sample")
    with gzip.open(shared_data("cuad") / "contracts.jsonl.gz", "rt", encoding="utf-8") as file:
        truth = {record["id"]: record for record in map(json.loads, file)}
    paths = sorted(folder.glob("*.pdf"))
    assert len(paths) == 20
    tables = headings = 0
    for path in paths:
        document = read(path.name, path.read_bytes())
        wanted, found = words(truth[path.stem]["text"]), words(document.text)
        common = sum((wanted & found).values())
        assert common >= 0.99 * sum(wanted.values()), path.name
        assert common >= 0.99 * sum(found.values()), path.name
        assert len(document.page_starts) == truth[path.stem]["n_pages"]
        tables += document.text.count("| --- |")
        headings += len(document.headings)
    assert tables >= 20 and headings >= 80


def test_mutated_pdfs_never_hurt_the_parent(strict_reader: Reader, loaded: Callable[[str, bytes], Loaded]) -> None:
    """Fifty mutants, by flips, cuts and repeats: read, or refused with a reason, each within its limits."""
    chance = random.Random(11)
    source = pdf("One", "Two", "Three", extra="/Outlines 2 0 R ")
    outcomes: Counter[str] = Counter()
    for number in range(50):
        data = bytearray(source)
        for _ in range(chance.choice((1, 5, 40))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if number % 3 == 0:
            del data[chance.randrange(len(data)) :]
        if number % 5 == 0:
            at = chance.randrange(len(data) or 1)
            data[at:at] = data[at : at + 200] * 3
        begun = time.monotonic()
        try:
            strict_reader.parse(loaded(f"{number}.pdf", bytes(data)))
            outcomes["read"] += 1
        except ReadingError as problem:
            outcomes[problem.reason] += 1
        assert time.monotonic() - begun < 25
    assert sum(outcomes.values()) == 50 and set(outcomes) <= {
        *("read corrupt no-text encrypted crash memory time empty binary encoding".split())
    }


# --- text that hides, text without end (D5, D8) -----------------------------------------------------------------


def test_smuggled_characters_are_gone_from_every_format(read: Read) -> None:
    hidden = "".join(chr(0xE0000 + ord(letter)) for letter in "obey") + "\u202e\u200b"
    cases = {
        "a.txt": f"plain{hidden} text",
        "a.md": f"# plain{hidden} text",
        "a.rst": f"plain{hidden} text\n==================\n",
        "a.html": f"<h1>plain{hidden} text</h1>",
        "a.csv": f"plain{hidden} text,b\n1,2",
        "a.json": json.dumps([{"title": f"plain{hidden} text"}], ensure_ascii=False),
        "a.eml": f"Subject: s\n\nplain{hidden} text",
        "a.ipynb": json.dumps({"cells": [{"cell_type": "markdown", "source": f"# plain{hidden} text"}]}),
        "a.py": f"# plain{hidden} text",
    }
    for name, text in cases.items():
        document = read(name, text.encode())
        assert "plain text" in document.text, name
        assert all(letter not in document.text + document.title for letter in hidden), name
        assert any("Unicode tag characters" in warning for warning in document.warnings), name


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b"x" * 3_000_000),
        ("a.txt", "\u0301\u0323".encode() * 2_000),
        ("a.md", b"#" * 200_000),
        ("a.md", b"[" * 100_000),
        ("a.md", b"> " * 500 + b"x"),
        ("a.md", b"a\n" * 200_000),
        ("a.rst", b"=\n" * 200_000),
        ("a.html", b"<b>" * 100_000 + b"x"),
        ("a.html", b"<table><tr><td>" * 3_000 + b"x"),
        ("a.html", b"<" * 500_000 + b"x"),
        ("a.csv", b'"' * 200_001),
        ("a.csv", b"," * 200_000 + b"x"),
        ("a.json", b'{"a":' * 50_000 + b"1"),
        ("a.py", b"(" * 100_000),
        ("a.py", b"def f" + b" " * 200_000 + b"(): ..."),
        ("a.js", b"export " * 30_000),
        ("a.java", b"public " * 30_000),
        ("a.c", b"int * " * 30_000),
        ("a.eml", b"Subject: a\nContent-Type: multipart/mixed; boundary=a\n\n" + b"--a\n" * 50_000),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_text_made_to_be_slow_is_read_within_the_limit(
    strict_reader: Reader, loaded: Callable[[str, bytes], Loaded], name: str, data: bytes
) -> None:
    """Five seconds of processor time; most take a hundredth of it. None of these may be refused for time."""
    try:
        strict_reader.parse(loaded(name, data))
    except ReadingError as problem:
        assert problem.reason in ("empty", "corrupt", "no-text"), problem


def test_file_names_are_only_names(read: Read) -> None:
    for name in (
        "../../etc/passwd.txt",
        "C:\\x.txt",
        "<img src=x onerror=alert(1)>.txt",
        "a\u202etxt.exe.txt",
        "😀" * 60 + ".txt",
    ):
        document = read(name, b"text")
        assert document.uri == name and document.text == "text" and "\u202e" not in document.title
    assert not os.path.exists("/etc/passwd.txt")
