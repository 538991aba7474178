"""A document's own words as queries: each kind by hand, in English and Chinese, and the drawing."""

import json
from pathlib import Path

import pytest
from fakes import HashingEmbedder

from adapt.queries.document_pairs import DOCUMENT_KINDS, document_pairs, drawn
from adapt.queries.pair_file import QueryPair
from adapt.queries.pieces import Paper, of_files
from retrieval.splitting import SplitSettings

NOTES = """# Harbour notes

## Tides

Spring tides follow the full moon. They flood the lower quay twice a month. The harbour master closes the gate before
noon on those days. Boats without a pilot wait outside the mole until the water has fallen again.

## Who may use the crane?

Only members with a licence may use the crane. The licence is given by the harbour office after a short examination
about ropes, hooks, weights and signals.
"""
CHINESE = """# 港口手册

## 大潮

大潮出现在满月之后。每个月有两次海水会淹没下层码头。港口管理员会在那几天的中午之前关闭闸门。没有领航员的船只必须在防波堤外面等待潮水退去。
"""
CODE = '''def tide(day):
    """Height of the water at the lower quay."""
    moon = phase(day)
    return average_height + amplitude * cosine(moon) + wind_surge(day)
'''


def papers(tmp_path: Path, **files: str) -> list[Paper]:
    for name, text in files.items():
        (tmp_path / name.replace("_", ".")).write_text(text, "utf-8")
    splitting = SplitSettings(passage_tokens=90, overlap_tokens=8, context_tokens=16)
    return of_files([str(tmp_path)], HashingEmbedder(), splitting, lambda *_: None).papers


def of_kind(found: list[Paper], kind: str) -> list[QueryPair]:
    return [pair for _, pairs in document_pairs(found, [kind], 0) for pair in pairs]


def test_a_heading_asks_for_what_stands_below_it_without_it(tmp_path: Path) -> None:
    (pair,) = of_kind(papers(tmp_path, notes_md=NOTES), "heading")
    assert pair.query == "Harbour notes: Tides", "one word alone does not say which tides"
    assert "Spring tides follow" in pair.positive and "## Tides" not in pair.positive


def test_a_chinese_heading_too(tmp_path: Path) -> None:
    (pair,) = of_kind(papers(tmp_path, 手册_md=CHINESE), "heading")
    assert pair.query in ("大潮", "港口手册: 大潮") and "大潮出现在满月之后" in pair.positive


def test_a_heading_that_asks_is_answered_by_its_text(tmp_path: Path) -> None:
    (pair,) = of_kind(papers(tmp_path, notes_md=NOTES), "faq")
    assert pair.query == "Who may use the crane?"
    assert pair.positive.startswith("Only members") and "?" not in pair.positive


def test_questions_on_lines_of_their_own_are_found_too(tmp_path: Path) -> None:
    text = (
        "Q: How high is the water at spring tide?\nA: It reaches the third step of the lower quay, about two metres "
        "above the mean level.\n\n问：满月之后多久出现大潮？\n"
        "答：大潮出现在满月之后一到两天，海水会淹没下层码头的台阶和仓库的地面。\n"
    )
    pairs = of_kind(papers(tmp_path, faq_txt=text), "faq")
    assert [pair.query for pair in pairs] == ["How high is the water at spring tide?", "满月之后多久出现大潮？"]
    assert pairs[0].positive.startswith("It reaches") and "问" not in pairs[0].positive
    assert pairs[1].positive.startswith("大潮出现在满月之后一到两天")


@pytest.mark.parametrize("kind", ["half", "cloze"])
@pytest.mark.parametrize(("name", "text"), [("notes_md", NOTES), ("手册_md", CHINESE)])
def test_halves_and_sentences_ask_for_the_rest_without_them(kind: str, name: str, text: str, tmp_path: Path) -> None:
    found = papers(tmp_path, **{name: text})
    pairs = [pair for seed in range(8) for _, pairs in document_pairs(found, [kind], seed) for pair in pairs]
    assert pairs
    for pair in pairs:
        assert pair.query not in " ".join(pair.positive.split())
        assert " ".join(text.split()).count(pair.query) == 1, "the query is the document's own words"


def test_a_title_asks_for_the_beginning(tmp_path: Path) -> None:
    text = "大潮出现在满月之后。每个月有两次海水会淹没下层码头。港口管理员会关闭闸门。"
    rows = json.dumps({"id": "a", "title": "潮汐手册", "text": text}) + "\n"
    (tmp_path / "rows.jsonl").write_text(rows, "utf-8")
    splitting = SplitSettings(passage_tokens=90, overlap_tokens=8)
    found = of_files([str(tmp_path / "rows.jsonl")], HashingEmbedder(), splitting, lambda *_: None).papers
    (pair,) = of_kind(found, "title")
    assert (pair.query, pair.document) == ("潮汐手册", "a")
    assert pair.positive.startswith("大潮出现") and "手册" not in pair.positive


def test_a_title_of_several_documents_asks_for_none_of_them(tmp_path: Path) -> None:
    rows = [
        {
            "id": name,
            "title": "Spring tides",
            "text": f"{name}. They follow the full moon and flood the lower quay twice.",
        }
        for name in ("causes", "dates")
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    splitting = SplitSettings(passage_tokens=90, overlap_tokens=8)
    found = of_files([str(tmp_path / "rows.jsonl")], HashingEmbedder(), splitting, lambda *_: None).papers
    assert len(found) == 2 and of_kind(found, "title") == []


@pytest.mark.parametrize("kind", ["half", "cloze"])
def test_the_title_that_opens_a_passage_is_no_sentence_of_it(kind: str, tmp_path: Path) -> None:
    text = "They follow the full moon. The lower quay is flooded. The gate closes at noon. "
    text += "Boats without a pilot wait far outside the mole."
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "a", "title": "Spring tides", "text": text}), "utf-8")
    splitting = SplitSettings(passage_tokens=90, overlap_tokens=8)
    found = of_files([str(tmp_path / "rows.jsonl")], HashingEmbedder(), splitting, lambda *_: None).papers
    pairs = [pair for seed in range(9) for _, made in document_pairs(found, [kind], seed) for pair in made]
    assert pairs and not any("Spring" in pair.query for pair in pairs)


def test_code_is_asked_for_by_what_it_says_of_itself(tmp_path: Path) -> None:
    (pair,) = of_kind(papers(tmp_path, tide_py=CODE), "code")
    assert pair.query == "Height of the water at the lower quay."
    assert (
        pair.positive.startswith("def tide(day):") and "Height" not in pair.positive and "wind_surge" in pair.positive
    )


def test_code_that_no_parser_takes_gives_nothing_and_no_error(tmp_path: Path) -> None:
    for text in ("def x(:\n    pass " * 9, "class " + "(" * 5000, "def f():\n    '''\0'''"):
        paper = Paper("x.py", "", text, ())
        assert of_kind([paper], "code") == []


def test_documents_are_drawn_evenly_and_kinds_in_turn() -> None:
    def pair(document: str, kind: str, number: int) -> QueryPair:
        return QueryPair(f"{document} {kind} {number}", "text", document, kind)

    long = [pair("long", "cloze", number) for number in range(50)] + [pair("long", "title", 0)]
    short = [[pair(f"short{number}", "title", 0)] for number in range(5)]
    found = drawn([long, *short], per_document=3, count=None, seed=1)
    assert len(found) == 8
    assert [one.document for one in found].count("long") == 3
    assert {one.kind for one in found if one.document == "long"} == {"cloze", "title"}
    six = drawn([long, *short], per_document=3, count=6, seed=1)
    assert sorted({one.document for one in six}) == ["long", *(f"short{number}" for number in range(5))]


def test_equal_pairs_are_drawn_once() -> None:
    same = QueryPair("tides", "text", "a", "title")
    assert drawn([[same], [QueryPair("tides", "text", "b", "title")]], 3, None, 0) in ([same], [
        QueryPair("tides", "text", "b", "title")
    ])  # fmt: skip


def test_every_kind_has_a_maker(tmp_path: Path) -> None:
    found = papers(tmp_path, notes_md=NOTES, tide_py=CODE)
    made = {
        pair.kind for seed in range(8) for _, pairs in document_pairs(found, DOCUMENT_KINDS, seed) for pair in pairs
    }
    assert made >= {"heading", "faq", "cloze", "code", "half"}
