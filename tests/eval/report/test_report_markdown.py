"""Markdown for a terminal: columns that stand under each other, and text of records that stays text."""

import json
import re
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import answers, every_kind, hostile_parts, retrieval, write_run
from markdown_it import MarkdownIt

from eval.comparison.comparing import compare
from eval.report.markdown import WIDTH, columns, escape, table, to_markdown
from eval.runs.executing import read_run

PAYLOADS = [
    item["text"]
    for item in json.loads((Path(__file__).parents[2] / "app/chat/hostile.json").read_text(encoding="utf-8"))
]


def rendered(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)


def test_a_run_of_every_kind_reads_well(tmp_path: Path) -> None:
    text = to_markdown(read_run(write_run(tmp_path / "smoke", every_kind())))
    assert text.startswith("# smoke\n")
    assert re.search(r"\| scifact +\| nDCG@10 +\| +0\.\d{3} \| +\[0\.\d{3}, 0\.\d{3}\] \| +40 \|", text)
    assert "- **问答**: The answerer" in text and "### Risk–coverage curve" in text and "bits_per_byte ↓" in text
    assert [line for line in text.splitlines() if columns(line) > WIDTH] == []


def test_columns_stand_under_each_other_in_chinese_too() -> None:
    lines = table(("词", "n"), [("每行最多", "1"), ("ascii", "12,345")], right=(1,))
    assert {columns(line) for line in lines if line} == {columns(lines[0])}


def test_a_comparison_names_what_changed_and_what_lost_most(tmp_path: Path) -> None:
    before = read_run(write_run(tmp_path / "old", {"qa": answers(40, right=0.9), "r": retrieval(skill=0.02)}))
    now = read_run(write_run(tmp_path / "new", {"qa": answers(40, right=0.3, seed=9), "r": retrieval(skill=0.12)}))
    text = to_markdown(now, before, compare(before, now))
    assert "Compared with **old**." in text and "## Changed: qa" in text and "### What lost most" in text
    assert re.search(r"\| nDCG@10 .*\+0\.1\d\d \\\* .*\| +<\.001 \|", text)


MARKUP = ["a | b", "`code`", "*bold*", "_i_", "~~no~~", "<script>x</script>", "[a](http://e.example)", "![a](x)"]


@pytest.mark.parametrize("text", [*MARKUP, "\\| \\", "&lt;", "<http://e.example>", "a\\"])
def test_markup_of_data_is_text_in_a_cell(text: str) -> None:
    html = rendered("\n".join(table(("h", "n"), [(text, "1")])))
    shown = re.findall(r"<td>(.*?)</td>", html)
    assert len(shown) == 2 and not re.search(r"<[a-z]", shown[0])
    assert unescape(shown[0]) == text


@given(st.text(alphabet="ab |\\`*_~[](){}<>!&#:/.@-+=1", max_size=30))
def test_no_text_leaves_its_cell(text: str) -> None:
    html = rendered("\n".join(table(("h", "n"), [(text, "1")])))
    assert html.count("<td") == 2 and not re.search(r"<(a|img|code|em|strong|s|script)\b", html)


def test_bare_addresses_are_no_links() -> None:
    for text in ("see http://e.example/x", "www.e.example", "a@e.example"):
        html = MarkdownIt("commonmark", {"linkify": False}).render(escape(text))
        assert escape(text) != text and "<a" not in html
    assert escape("nDCG@10 of snake_case is 0.5 [0.4, 0.6]") == "nDCG@10 of snake_case is 0.5 [0.4, 0.6]"


def test_hostile_runs_make_harmless_markdown(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "r", hostile_parts(PAYLOADS), suite={"name": PAYLOADS[0]}))
    text = to_markdown(run, run, compare(run, run))
    html = rendered(text)
    assert not re.search(r"<(script|img|svg|iframe|a|style|form|input|math|object|embed|meta|base|link)\b", html)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


def test_a_run_without_anything_makes_a_page(tmp_path: Path) -> None:
    assert "## Again" in to_markdown(read_run(write_run(tmp_path / "empty", {})))
