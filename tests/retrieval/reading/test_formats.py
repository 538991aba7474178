"""Every format: text, headings, tables, pages and metadata as a person sees them, with exact offsets."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest

from retrieval.passages import Document

Read = Callable[[str, bytes], Document]


def outline(document: Document) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in document.headings]


# --- text, Markdown, reStructuredText, HTML ---------------------------------------------------------------------


def test_plain_text(read: Read) -> None:
    document = read("notes/My file.txt", b"First line\r\n\r\nSecond  line\t\r\n")
    assert document.text == "First line\n\nSecond  line\t\n"
    assert (document.uri, document.title, document.format) == ("notes/My file.txt", "My file", "txt")
    assert document.page_starts == () and document.warnings == ()
    assert len(document.content_hash) == 32


def test_form_feeds_are_pages(read: Read) -> None:
    document = read("rfc.txt", b"page one\n\f\npage two\n\n\x0cpage three")
    assert document.text == "page one\npage two\n\npage three"
    assert [document.text[start:].split("\n")[0] for start in document.page_starts] == [
        "page one",
        "page two",
        "page three",
    ]
    assert read("a.txt", b"\fonly one page").page_starts == ()


def test_markdown(read: Read) -> None:
    source = (
        "---\ntitle: 'The \"Plan\"'\ndate: 2024-05-01\ntags: [a, b]\nkeywords:\n  - x\n  - y\n---\n\n"
        "# Über **bold** [link](http://x)\n\ntext\n\n```python\n# no heading\n```\n\n"
        "Second `code`\n------\n\n    # nor this\n\n### 中文标题 ###\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    document = read("a.md", source.encode())
    assert outline(document) == [(1, "Über bold link"), (2, "Second code"), (3, "中文标题")]
    assert document.title == 'The "Plan"'
    assert dict(document.metadata) == {
        "title": 'The "Plan"',
        "date": "2024-05-01",
        "tags": "a, b",
        "keywords": "x, y",
    }
    assert document.text.startswith("# Über") and "| 1 | 2 |" in document.text


def test_front_matter_that_is_more_than_flat_stays_in_the_text(read: Read) -> None:
    for front in ("a: &x [1]\nb: *x", "a:\n  b: c", "a: !!python/object:os.system x", "text: |\n  many\n  lines"):
        document = read("a.md", f"---\n{front}\n---\n\n# T\n".encode())
        assert front in document.text and not document.metadata
    assert read("a.md", b"---\nno: no\nwhen: 12:30\n---\nx").metadata == {"no": "no", "when": "12:30"}


def test_restructured_text(read: Read) -> None:
    source = (
        "PEP: 9999\nTitle: A title\nAuthor: A. Writer,\n        B. Writer\nStatus: Draft\n\n\n"
        "====\nBook\n====\n\nPart ``one``\n========\n\ntext\n\n"
        "=====  =====\nA      B\n=====  =====\n1      2\n=====  =====\n\n"
        "Deeper :pep:`8`\n---------------\n\n::\n\n    Not\n    ===\n\n中文\n====\n\nend\n"
    )
    document = read("pep.rst", source.encode())
    assert outline(document) == [(1, "Book"), (2, "Part one"), (3, "Deeper 8"), (2, "中文")]
    assert document.title == "A title"
    assert document.metadata["author"] == "A. Writer, B. Writer" and document.metadata["status"] == "Draft"


def test_all_peps_have_their_sections(read: Read, shared_data: Callable[[str], Path]) -> None:
    with gzip.open(shared_data("corpus_peps") / "peps.jsonl.gz", "rt", encoding="utf-8") as file:
        peps = [json.loads(line) for line in file]
    for pep in peps[::12]:
        document = read(f"{pep['id']}.rst", pep["text"].encode())
        assert document.title == pep["title"].strip()
        assert len(document.headings) >= 3, pep["id"]
        assert "abstract" in {h.title.lower() for h in document.headings} or pep["text"].count("\nAbstract\n") == 0


def test_html(read: Read) -> None:
    source = (
        "<!doctype html><html lang='en'><head><title>My &amp; page</title><meta name=author content='A. B.'>"
        "<style>p {}</style></head><body><nav>menu</nav><h1>Top <a href='#top'>¶</a></h1>"
        "<p>Hello <b>bo</b>ld\ntext<br>line two</p><ul><li>one<ul><li>sub</ul><li>two</ul><ol start=3><li>three</ol>"
        "<pre>  a = 1\n    b</pre><p>中文\n换行</p>"
        "<table><caption>Cap</caption><tr><th>A<th>B|x</tr><tr><td rowspan=2>1<td>2<br>two</tr><tr><td>3</table>"
        "<table><tr><td>around <table><tr><td>i<td>j</table></table><h2>Second</h2>end<script>alert(1)</script>"
    )
    document = read("a.html", source.encode())
    assert outline(document) == [(1, "Top"), (2, "Second")]
    assert (document.title, document.metadata["author"], document.metadata["language"]) == ("My & page", "A. B.", "en")
    text = document.text
    assert "Hello bold text\nline two" in text and "- one\n  - sub\n- two" in text and "3. three" in text
    assert "  a = 1\n    b" in text and "中文换行" in text
    assert "| A | B\\|x |\n| --- | --- |\n| 1 | 2<br>two |\n|  | 3 |" in text
    assert "around" in text and "| i | j |" in text
    assert "menu" not in text and "alert" not in text


def test_html_in_its_declared_encoding(read: Read) -> None:
    page = "<html><head><meta charset='gb2312'><title>合同</title></head><body><h1>第一条</h1>甲方</body></html>"
    document = read("a.htm", page.encode("gbk"))
    assert document.title == "合同" and outline(document) == [(1, "第一条")]


def test_html_that_hides_text_says_so(read: Read) -> None:
    document = read(
        "a.html",
        b"<p>seen</p><div style='display: none'>secret <ul><li>x</ul></div><span hidden>two</span>"
        b"<p style='font-size:0px'>tiny</p><p style='position:absolute;left:-9999px'>away</p>"
        b"<p style='opacity:0.5'>half</p>",
    )
    assert document.text == "seen\n\nhalf"
    assert any("left out 4 elements" in warning for warning in document.warnings)


# --- office -----------------------------------------------------------------------------------------------------


def test_docx(read: Read) -> None:
    docx = pytest.importorskip("docx")
    new = docx.Document()
    new.core_properties.title, new.core_properties.author = "Lease", "A. Writer"
    new.add_heading("Top 标题", level=1)
    new.add_paragraph("First paragraph.")
    new.add_paragraph("one", style="List Bullet")
    new.add_paragraph("two", style="List Bullet")
    new.add_heading("Rates", level=2)
    table = new.add_table(rows=2, cols=3)
    for row, values in zip(table.rows, (("Year", "Rate|pct", ""), ("2024", "5", "x\ny")), strict=True):
        for cell, value in zip(row.cells, values, strict=True):
            cell.text = value
    merged = new.add_table(rows=2, cols=2)
    merged.cell(0, 0).merge(merged.cell(0, 1)).text = "wide"
    merged.cell(1, 0).text, merged.cell(1, 1).text = "a", "b"
    hidden = new.add_paragraph("seen ").add_run("hidden order")
    hidden.font.hidden = True
    new.add_paragraph("Last.")
    buffer = io.BytesIO()
    new.save(buffer)
    document = read("a.docx", buffer.getvalue())
    assert outline(document) == [(1, "Top 标题"), (2, "Rates")]
    assert (document.title, document.metadata["author"], document.format) == ("Lease", "A. Writer", "docx")
    assert "- one\n- two" in document.text
    assert "| Year | Rate\\|pct |  |\n| --- | --- | --- |\n| 2024 | 5 | x<br>y |" in document.text
    assert "| wide |  |\n| --- | --- |\n| a | b |" in document.text
    assert document.text.endswith("Last.") and "hidden order" not in document.text
    assert any("hidden text" in warning for warning in document.warnings)


W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def word_file(body: str) -> bytes:
    """The smallest docx around a body of WordprocessingML."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", f'<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>')
    return buffer.getvalue()


def test_docx_text_that_python_docx_passes_over(read: Read) -> None:
    """Content controls, tracked insertions, text boxes and hyperlinks stay; deleted text goes."""
    run = "<w:r><w:t>{}</w:t></w:r>"
    body = (
        f"<w:sdt><w:sdtContent><w:p>{run.format('in a control')}</w:p></w:sdtContent></w:sdt>"
        f"<w:p><w:ins>{run.format('inserted')}</w:ins><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del></w:p>"
        f"<w:p><w:hyperlink>{run.format('a link')}</w:hyperlink><w:r><w:tab/><w:t>after</w:t></w:r>"
        f"<w:r><w:pict><w:txbxContent><w:p>{run.format('in a box')}</w:p></w:txbxContent></w:pict></w:r></w:p>"
        f"<w:tbl><w:sdt><w:sdtContent><w:tr><w:tc><w:p>{run.format('c1')}</w:p></w:tc>"
        f"<w:tc><w:tbl><w:tr><w:tc><w:p>{run.format('nested')}</w:p></w:tc></w:tr></w:tbl></w:tc></w:tr></w:sdtContent></w:sdt></w:tbl>"
    )
    again = run.format("drawn once")
    body = (
        '<w:p xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        f"<w:moveFrom>{run.format('was here')}</w:moveFrom>"
        f"<mc:AlternateContent><mc:Choice>{again}</mc:Choice><mc:Fallback>{again}</mc:Fallback>"
        "</mc:AlternateContent></w:p>" + body
    )
    text = read("a.docx", word_file(body)).text
    assert text.startswith("drawn once\n\nin a control")
    text = text.removeprefix("drawn once\n\n")
    assert text == "in a control\n\ninserted\n\na link\tafter\n\nin a box\n\n|  |  |\n| --- | --- |\n| c1 | nested |"


def test_pptx(read: Read) -> None:
    pptx = pytest.importorskip("pptx")
    deck = pptx.Presentation()
    deck.core_properties.title = "Quarter"
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Results"
    slide.placeholders[1].text = "up\ndown"
    slide.notes_slide.notes_text_frame.text = "say it slowly"
    deck.slides.add_slide(deck.slide_layouts[6])
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "表格"
    inches = pptx.util.Inches(1)
    table = slide.shapes.add_table(2, 2, inches, inches, inches, inches).table
    for index, value in enumerate(("k", "v", "1", "2")):
        table.cell(index // 2, index % 2).text = value
    group = slide.shapes.add_group_shape()
    group.shapes.add_textbox(inches, inches, inches, inches).text_frame.text = "in a group"
    buffer = io.BytesIO()
    deck.save(buffer)
    document = read("deck.pptx", buffer.getvalue())
    assert outline(document) == [(1, "Results"), (1, "表格")]
    assert document.title == "Quarter" and document.metadata["pages"] == 3
    assert "- up\n- down" in document.text and "Notes: say it slowly" in document.text
    assert "| k | v |\n| --- | --- |\n| 1 | 2 |" in document.text and "in a group" in document.text
    first, second, third = document.page_starts
    assert first == 0 and second == third and document.text[third:].startswith("表格")


def test_xlsx(read: Read) -> None:
    import datetime

    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Sales"
    sheet.append(["Region", "Day", "Share", "Sum"])
    sheet.append(["North", datetime.datetime(2024, 5, 1), 0.25, 1000.0])
    sheet.append(["南", datetime.datetime(2024, 5, 1, 12, 30), True, "=A1+1"])
    sheet["C2"].number_format = "0%"
    sheet.append([])
    sheet.append(["other", "table"])
    sheet.append(["x", 3.14159])
    book.create_sheet("Empty")
    book.create_sheet("第二").append(["a|b", "c\nd"])
    buffer = io.BytesIO()
    book.save(buffer)
    document = read("a.xlsx", buffer.getvalue())
    assert outline(document) == [(1, "Sales"), (1, "第二")]
    assert "| North | 2024-05-01 | 25% | 1000 |" in document.text
    assert "| 南 | 2024-05-01 12:30:00 | TRUE | =A1+1 |" in document.text
    assert "| other | table |\n| --- | --- |\n| x | 3.14159 |" in document.text
    assert "| a\\|b | c<br>d |" in document.text
    assert document.title == "a"


# --- tables and records -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_of_every_delimiter(read: Read, delimiter: str) -> None:
    buffer = io.StringIO()
    rows = [["name", "price"], ["a, b; c", '1"2'], ["多\n行", "3|4"]]
    csv.writer(buffer, delimiter=delimiter).writerows(rows)
    document = read("a.csv", buffer.getvalue().encode("utf-8-sig"))
    assert document.text == '| name | price |\n| --- | --- |\n| a, b; c | 1"2 |\n| 多<br>行 | 3\\|4 |'
    assert document.metadata["rows"] == 2 and document.title == "a"


def test_csv_with_ragged_rows_and_an_open_quotation_mark(read: Read) -> None:
    assert read("a.csv", b"a,b,c\n1\n1,2,3,4\n").text.endswith("| 1 |  |  |  |\n| 1 | 2 | 3 | 4 |")
    lines = b"id,text\n" + b'1,"open\n' + b"".join(b"%d,row %d\n" % (i, i) for i in range(2, 900))
    document = read("b.csv", lines)
    assert "| 899 | row 899 |" in document.text and any("never closed" in w for w in document.warnings)


def test_tsv(read: Read) -> None:
    document = read("a.tsv", "城市\t人口\n北京\t2,189\n".encode("gbk"))
    assert document.text == "| 城市 | 人口 |\n| --- | --- |\n| 北京 | 2,189 |" and document.format == "tsv"
    assert document.metadata["encoding"] == "gb18030"


def test_json_records_are_sections(read: Read) -> None:
    records = [
        {"title": "First", "n": 1, "tags": ["a", "b"], "in": {"deep": None, "er": True}},
        {"id": "x2", "text": "l1\nl2"},
    ]
    document = read("a.json", json.dumps(records).encode())
    assert outline(document) == [(1, "Record 1: First"), (1, "Record 2: x2")]
    assert "n: 1\ntags: a, b\nin.er: true" in document.text and "text:\nl1\nl2" in document.text
    assert document.metadata["records"] == 2 and document.title == "a"
    wrapped = read("b.json", json.dumps({"version": 2, "data": records}).encode())
    assert wrapped.text.startswith("version: 2\n\nRecord 1: First")


def test_json_keeps_digits_doubled_keys_and_what_is_no_json(read: Read) -> None:
    digits = "1" * 5_000
    document = read("a.json", f'{{"n": {digits}, "f": 1.10, "k": 1, "k": 2, "x": NaN}}'.encode())
    assert f"n: {digits}" in document.text and "f: 1.10\nk: 1\nk: 2\nx: NaN" in document.text
    broken = read("b.json", b'{"a": 1,\n oops')
    assert broken.text == '{"a": 1,\n oops' and any("not valid JSON" in w for w in broken.warnings)
    deep = read("c.json", b"[" * 200_000)
    assert deep.text == "[" * 200_000 and any("JSON" in w for w in deep.warnings)


def test_jsonl(read: Read) -> None:
    lines = '{"question": "Why?", "a": 1}\nnot json\n\n{"title": "T\\ud800"}\n'
    document = read("a.jsonl", lines.encode())
    assert outline(document) == [(1, "Record 1: Why?"), (1, "Record 3: T\ufffd")]
    assert "not json" in document.text and any("1 lines are not valid JSON" in w for w in document.warnings)


# --- mail, books, notebooks, source -----------------------------------------------------------------------------


def test_eml(read: Read) -> None:
    message = EmailMessage()
    message["Subject"] = "会议 on Monday"
    message["From"] = "Ana Müller <ana@example.org>"
    message["To"] = "bob@example.org"
    message["Date"] = "Mon, 06 May 2024 10:00:00 +0200"
    message.set_content("Hello Bob,\n\nsee you.\n")
    message.add_alternative("<p>Hello <b>Bob</b>, html</p>", subtype="html")
    message.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="Größe.pdf")
    document = read("a.eml", message.as_bytes())
    assert document.title == "会议 on Monday" and outline(document) == [(1, "会议 on Monday")]
    assert document.metadata["from"] == "Ana Müller <ana@example.org>"
    assert document.metadata["date"] == "2024-05-06T10:00:00+02:00"
    assert "From: Ana Müller" in document.text and "Hello Bob,\n\nsee you." in document.text
    assert "html" not in document.text and document.text.endswith("Attachments: Größe.pdf")


def test_eml_with_only_html_in_gbk_and_a_raw_header(read: Read) -> None:
    raw = "From: 张三 <z@example.org>\r\nSubject: =?gb2312?B?u+HS6Q==?=\r\n"
    raw += "Content-Type: text/html; charset=gb2312\r\n\r\n"
    document = read("a.eml", (raw + "<h1>通知</h1><p>甲方</p>").encode("gbk"))
    assert document.title == "会议" and "张三" in str(document.metadata["from"])
    assert outline(document) == [(1, "会议"), (1, "通知")] and "甲方" in document.text


def book(chapters: dict[str, str], extra: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/p.opf"/></rootfiles></container>',
        )
        items = "".join(
            f'<item id="i{n}" href="{name}" media-type="application/xhtml+xml"/>' for n, name in enumerate(chapters)
        )
        spine = "".join(f'<itemref idref="i{n}"/>' for n in range(len(chapters)))
        archive.writestr(
            "OEBPS/p.opf",
            '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
            "<dc:title>The Book</dc:title><dc:creator>A</dc:creator><dc:creator>B</dc:creator>"
            "<dc:language>en</dc:language>"
            f"</metadata><manifest>{items}</manifest><spine>{spine}</spine></package>",
        )
        for name, content in {**chapters, **(extra or {})}.items():
            archive.writestr(name if "/" in name else f"OEBPS/{name}", content)
    return buffer.getvalue()


def test_epub(read: Read) -> None:
    document = read("a.epub", book({"two.xhtml": "<h1>Two</h1><p>zwei</p>", "a%20b.xhtml": "<h1>One</h1><p>eins</p>"}))
    assert any("missing" in warning for warning in document.warnings), "a%20b.xhtml means 'a b.xhtml'"
    document = read("a.epub", book({"two.xhtml": "<h1>Two</h1><p>zwei</p>", "one.xhtml": "<h1>第一章</h1><p>eins</p>"}))
    assert outline(document) == [(1, "Two"), (1, "第一章")] and document.text == "Two\n\nzwei\n\n第一章\n\neins"
    assert (document.title, document.metadata["author"], document.metadata["language"]) == ("The Book", "A, B", "en")


def test_ipynb(read: Read) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Study\n", "\n", "text ", "here\n"]},
        {
            "cell_type": "code",
            "source": "print('hi')\nx",
            "outputs": [
                {"output_type": "stream", "text": ["hi\n"]},
                {"output_type": "execute_result", "data": {"text/plain": ["42"], "image/png": "AAAA"}},
                {"output_type": "error", "ename": "ValueError", "evalue": "bad", "traceback": ["\x1b[31mred"]},
            ],
        },
        {"cell_type": "markdown", "source": "text\n\n## Next"},
    ]
    notebook = {"nbformat": 4, "metadata": {"language_info": {"name": "python"}}, "cells": cells}
    document = read("a.ipynb", json.dumps(notebook).encode())
    assert outline(document) == [(1, "Study"), (2, "Next")] and document.title == "Study"
    assert (
        "```python\nprint('hi')\nx\n```" in document.text and "```text\nhi\n42\nValueError: bad\n```" in document.text
    )
    assert "AAAA" not in document.text


def test_python_source(read: Read) -> None:
    source = (
        "# -*- coding: gbk -*-\n'''说明文字说明'''\n\n@wrap\nclass A(B):\n    def method(self):\n"
        "        async def inner(): ...\n\n"
        "if True:\n    def top(): ...\n"
    )
    document = read("pkg/a.py", source.encode("gbk"))
    assert outline(document) == [(1, "class A"), (2, "def method"), (3, "def inner"), (1, "def top")]
    assert document.format == "python" and "说明文字" in document.text and document.title == "a"
    broken = read("b.py", b"print 'two'\ndef f(x):\n    class G: pass\n")
    assert outline(broken) == [(1, "def f"), (2, "class G")]


@pytest.mark.parametrize(
    ("name", "source", "titles"),
    [
        (
            "a.js",
            "export class A {}\nasync function go() {}\nconst add = (a, b) => a\n",
            ["class A", "function go", "const add"],
        ),
        ("a.ts", "export interface I {}\n  function f() {}\n", ["interface I", "function f"]),
        ("a.go", "type T struct{}\nfunc (t *T) Run() error {\n", ["type T", "func (t *T) Run"]),
        ("a.rs", "pub struct S;\nimpl S {\n    pub async fn go() {}\n", ["struct S", "impl S", "fn go"]),
        ("A.java", "public class A {\n    public static void main(String[] a) {\n", ["class A", "main"]),
        ("a.cpp", "class A {\nint add(int a, int b) {\n  return f(x);\n", ["class A", "add"]),
        ("a.sh", "go() {\nfunction stop {\n", ["go()", "function stop"]),
        ("a.sql", "create table t (\n", ["create table t"]),
        ("a.tex", "\\section{One}\n\\subsection{Two}\n", ["One", "Two"]),
        ("a.yaml", "a: 1\n", []),
    ],
)
def test_other_source(read: Read, name: str, source: str, titles: list[str]) -> None:
    document = read(name, source.encode())
    assert [h.title for h in document.headings] == titles and document.text == source
