"""data/handbook against itself: its pages, links and figures are whole, and its questions point at what they quote.

`python tests/test_handbook.py` writes the offsets of all gold spans anew, from their quotes, after a page was edited.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from eval.data.questions import Question, QuestionSet, read_questions

ROOT = Path(__file__).resolve().parents[1]
HANDBOOK = ROOT / "data" / "handbook"
PAGES = HANDBOOK / "documents"
QUESTIONS = HANDBOOK / "questions.jsonl"

SVG = "{http://www.w3.org/2000/svg}"
DRAWING = frozenset(
    "svg title desc defs style marker g path rect circle ellipse line polyline polygon text tspan".split()
)
"""Elements that can only draw: nothing that runs, loads, links or holds HTML."""


def pages() -> list[Path]:
    return sorted(PAGES.rglob("*.md"))


def names() -> list[str]:
    return [path.relative_to(PAGES).as_posix() for path in pages()]


def without_code(text: str) -> str:
    """A page without its fenced blocks, in which # begins a comment."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


# --- pages -----------------------------------------------------------------------------------------------------------


def test_there_are_pages_enough_in_both_languages() -> None:
    chinese = [name for name in names() if name.startswith("zh/")]
    assert len(chinese) == 6 and len(names()) - len(chinese) >= 30


def test_the_folder_of_documents_holds_nothing_but_pages() -> None:
    # It is what `fathom index sync` makes the demo collection of: figures are not read, and questions would be found.
    others = [path.name for path in PAGES.rglob("*") if path.is_file() and path.suffix != ".md"]
    assert not others


@pytest.mark.parametrize("name", names())
def test_every_page_has_one_title_and_sections(name: str) -> None:
    text = without_code((PAGES / name).read_text(encoding="utf-8"))
    assert text.startswith("# ") and len(re.findall(r"^# .", text, flags=re.M)) == 1
    assert len(re.findall(r"^## .", text, flags=re.M)) >= 4


def links(page: Path) -> Iterator[tuple[str, Path]]:
    """What a page links to or shows, as it is written and as a path."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        yield target, page.parent / unquote(target.split("#")[0])


@pytest.mark.parametrize("page", [HANDBOOK / "README.md", *pages()], ids=lambda page: page.stem)
def test_links_and_figures_are_there(page: Path) -> None:
    missing = [target for target, path in links(page) if not path.is_file()]
    assert not missing


def test_the_contents_list_every_page_once() -> None:
    listed = Counter(path.resolve() for _, path in links(HANDBOOK / "README.md") if path.suffix == ".md")
    assert listed == Counter(path.resolve() for path in pages())


def test_every_figure_is_shown_on_a_page() -> None:
    shown = {path.resolve() for page in pages() for _, path in links(page) if path.suffix == ".svg"}
    assert shown == {path.resolve() for path in (HANDBOOK / "figures").iterdir()}


def unsafe(svg: str) -> Iterator[str]:
    """What a drawing may not hold: scripts, handlers, anything from elsewhere, entities, foreign elements."""
    if re.search(r"<!(DOCTYPE|ENTITY)|<\?xml-stylesheet", svg, flags=re.I):
        yield "declares a document type, entities or a style sheet"
        return
    for element in ElementTree.fromstring(svg).iter():
        if element.tag.removeprefix(SVG) not in DRAWING or not element.tag.startswith(SVG):
            yield f"<{element.tag}>"
        for name, value in element.attrib.items():
            local = name.rpartition("}")[2].lower()
            if local.startswith("on") or local in ("href", "src"):
                yield name
            if re.search(r"url\(\s*[^#\s]|script:", value, flags=re.I):
                yield f"{name}={value}"
        if element.tag == f"{SVG}style" and re.search(r"@import|url\(|\\", element.text or ""):
            yield "a style that loads something"


@pytest.mark.parametrize("figure", sorted((HANDBOOK / "figures").iterdir()), ids=lambda figure: figure.stem)
def test_figures_are_drawings_and_nothing_else(figure: Path) -> None:
    svg = figure.read_text(encoding="utf-8")
    assert not list(unsafe(svg))
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg" and root.findtext(f"{SVG}title") and root.findtext(f"{SVG}desc")


@pytest.mark.parametrize(
    "inside",
    [
        "<script/>",
        "<image href='https://example.org/a.png'/>",
        "<foreignObject/>",
        "<g onclick='a()'/>",
        "<a href='javascript:a()'/>",
        "<path fill='url(https://example.org/a)'/>",
        "<style>@import 'a.css';</style>",
        "<p xmlns='http://www.w3.org/1999/xhtml'/>",
    ],
)
def test_a_figure_that_does_more_is_noticed(inside: str) -> None:
    assert list(unsafe(f"<svg xmlns='http://www.w3.org/2000/svg'>{inside}</svg>"))
    assert not list(unsafe("<svg xmlns='http://www.w3.org/2000/svg'><path fill='url(#a)'/></svg>"))


# --- questions -------------------------------------------------------------------------------------------------------


@cache
def questions() -> QuestionSet:
    return read_questions(QUESTIONS)


@cache
def texts() -> dict[str, str]:
    """Every page as Fathom's reader has it."""
    return {document.id: document.text for document in questions().documents}


@cache
def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


def is_chinese(question: Question) -> bool:
    return re.search("[\u4e00-\u9fff]", question.text) is not None


def test_the_questions_are_as_many_and_of_the_kinds_that_were_meant() -> None:
    found = questions().questions
    assert len(found) == len({question.id for question in found}) == len({q.text for q in found if not q.history}) + 20
    assert sum(map(is_chinese, found)) == 20
    assert sum(not question.answerable for question in found) == 15
    followed = [question for question in found if question.history]
    assert len(followed) == 20 and all(question.answerable for question in followed)
    for question in followed:
        assert [message.role for message in question.history] == ["user", "assistant"] * (len(question.history) // 2)


def test_the_groups_say_what_a_question_is() -> None:
    for question in questions().questions:
        single = "chinese" if is_chinese(question) else "single"
        expected = "follow-up" if question.history else single if question.answerable else "unanswerable"
        assert question.group == expected, question.id


def test_the_documents_of_the_questions_are_the_pages() -> None:
    assert sorted(texts()) == names()


def test_every_answerable_question_has_an_answer_and_a_place_and_the_others_have_neither() -> None:
    for row in rows():
        assert bool(row["answers"]) == bool(row.get("spans")) == bool(row["documents"]) == row["answerable"], row["id"]
        assert list(dict.fromkeys(span["document"] for span in row.get("spans", []))) == row["documents"], row["id"]


def test_every_span_is_the_text_it_quotes() -> None:
    for row in rows():
        for span in row.get("spans", []):
            there = texts()[span["document"]][span["start"] : span["end"]]
            assert there == span["quote"], f"{row['id']}: run `python tests/test_handbook.py`"


def test_every_page_is_asked_about() -> None:
    asked = {uri for question in questions().questions for uri in question.documents}
    assert asked == set(texts())


def test_a_quote_is_found_again_where_a_page_was_edited_before_it() -> None:
    text = "# A\n\nIt has two\nparts. More."
    assert offsets("It has two parts.", text) == [(5, 22)]
    assert offsets("two", "two and two") == [(0, 3), (8, 11)] and offsets("three", text) == []


# --- offsets ---------------------------------------------------------------------------------------------------------


def offsets(quote: str, text: str) -> list[tuple[int, int]]:
    """Where a quote stands in a text, however the lines of either are broken."""
    pattern = r"\s+".join(re.escape(word) for word in quote.split())
    return [found.span() for found in re.finditer(pattern, text)]


def renewed(row: dict[str, Any], pages: dict[str, str]) -> dict[str, Any]:
    """A question with the offsets of its quotes. Exits with a sentence where one is not in its page, or twice."""
    for span in row.get("spans", []):
        text = pages.get(span["document"], "")
        places = offsets(span["quote"], text)
        if len(places) != 1:
            sys.exit(f"{row['id']}: {len(places)} places in {span['document']} for the quote: {span['quote']}")
        span["start"], span["end"] = places[0]
        span["quote"] = text[span["start"] : span["end"]]
    return row


def rewrite() -> None:
    """Write questions.jsonl with the offsets of its quotes in the pages as they are now."""
    from eval.data.corpora import read_corpus

    pages = {document.id: document.text for document in read_corpus(HANDBOOK).documents}
    lines = [json.dumps(renewed(row, pages), ensure_ascii=False) for row in rows()]
    QUESTIONS.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    rewrite()
