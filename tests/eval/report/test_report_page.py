"""The page as text: complete, self-contained, no record in its markup, small, honest about what is missing."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_runs import QUESTIONS, answers, every_kind, hostile_parts, retrieval, write_run

from eval.comparison.comparing import compare
from eval.report.page import to_html
from eval.runs.executing import read_run

PAYLOADS = [
    item["text"]
    for item in json.loads((Path(__file__).parents[2] / "app/chat/hostile.json").read_text(encoding="utf-8"))
]
LOADERS = {
    "img",
    "iframe",
    "object",
    "embed",
    "video",
    "audio",
    "source",
    "link",
    "base",
    "form",
    "picture",
    "image",
    "use",
}


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_data(self, data: str) -> None:
        tag = self.inside[-1] if self.inside else ""
        self.texts[tag] = self.texts.get(tag, "") + data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(folder: Path, parts: dict[str, Any], **manifest: Any) -> str:
    return to_html(read_run(write_run(folder / "run", parts, **manifest)))


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(tmp_path_factory.mktemp("page"), every_kind())


def test_the_policy_names_this_very_style_and_script_and_nothing_else(page: str) -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert style and script
    for found, directive in ((style[1], "style-src"), (script[1], "script-src")):
        digest = base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "innerHTML" not in script[1] and "insertAdjacentHTML" not in script[1] and "eval(" not in script[1]


def test_nothing_is_fetched_and_no_attribute_runs_or_styles(page: str) -> None:
    parsed = Page(page)
    for tag, attributes in parsed.tags:
        assert tag not in LOADERS - {"form"}
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("style", "src", "srcset", "action")
            assert name != "href" or re.fullmatch(r"#[a-z]+(-\d+)?", value or "")
    assert "http://" not in page and "https://" not in page and "url(" not in page


def test_every_part_measure_and_interval_is_there_without_javascript(page: str) -> None:
    static = page[: page.index('<script type="application/json"')]
    for word in ("scifact", "问答", "nDCG@10", "lexical", "dense", "hybrid (whole)", "Cohen&#39;s κ 0.73 [0.50, 0.93]"):
        assert word in static, word
    for word in ("Risk–coverage curve", "AURC", "Forgetting", "users at the same time", "people: no", "p99", "0.9200"):
        assert word in static, word
    assert static.count("<svg") > 30


def test_tables_have_captions_and_heads_with_a_scope(page: str) -> None:
    for table in re.findall(r"<table.*?</table>", page, re.DOTALL):
        assert "<caption" in table and len(re.findall("<th[ >]", table)) == len(
            re.findall(r'<th scope="(?:col|row|rowgroup)"', table)
        )
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert "<title" in drawing and 'role="img"' in drawing


def test_the_questions_travel_as_data(page: str) -> None:
    data = data_of(page)
    assert [part["name"] for part in data["parts"]] == list(every_kind())
    assert data["parts"][1]["main"] == "F1" and data["parts"][1]["share"] is True
    assert data["parts"][4]["lower"] == ["bits_per_byte", "tokens_per_byte", "perplexity"]
    texts = [item["q"] for item in data["items"] if item["p"] == 1]
    assert texts[:4] == [question[0] for question in QUESTIONS]


def test_the_status_says_what_is_unfinished_and_what_failed(tmp_path: Path) -> None:
    part = answers(12)
    html = report(
        tmp_path,
        {"a": {**part, "items": 40}, "b": {**retrieval(5), "error": "the engine died"}},
        skipped={"c": "no data"},
    )
    assert "Unfinished, 17 of 45 done" in html and "16 and 1 error" in html
    assert "1 of 40 ended in an error" in html and "b could not be finished: the engine died" in html
    assert "c was skipped: no data" in html


def test_figures_that_could_not_be_told_are_counted(page: str) -> None:
    assert "judged: context_recall is known for fewer than half of the items" in page


@pytest.mark.parametrize("n", [0, 1])
def test_no_item_and_one_item_make_a_page(tmp_path: Path, n: int) -> None:
    parts = {"a": {**answers(4), "items": n}, "r": retrieval(n)}
    parts["a"]["records"] = parts["a"]["records"][:n]
    html = report(tmp_path, parts)
    assert len(data_of(html)["items"]) == 2 * n
    run = read_run(tmp_path / "run")
    if n:
        assert "<h1" in to_html(run, run, compare(run, run))


def test_a_run_without_parts_says_so(tmp_path: Path) -> None:
    assert "This run holds no part yet" in report(tmp_path, {}, status="unfinished")


@pytest.mark.slow
def test_five_thousand_questions_stay_under_ten_megabytes(tmp_path: Path) -> None:
    part = retrieval(5000, stages=())
    for record in part["records"]:
        record["hits"] = [{"document": "d", "title": "T", "start": 0, "text": "一二三四五六七八九十" * 30}] * 3
    html = report(tmp_path, {"big": part})
    assert len(html.encode()) < 10_000_000
    items = data_of(html)["items"]
    assert 1000 < len(items) < 5000 and f"{5000 - len(items):,} are left out" in html


def test_against_another_run_the_differences_and_the_worst_losses_are_there(tmp_path: Path) -> None:
    before = read_run(write_run(tmp_path / "old", {"qa": answers(60, right=0.9, seed=3), "r": retrieval(skill=0.02)}))
    now = read_run(write_run(tmp_path / "new", {"qa": answers(60, right=0.4, seed=4), "r": retrieval(skill=0.12)}))
    html = to_html(now, before, compare(before, now))
    assert "compared with <strong><bdi>old</bdi></strong>" in html
    assert 'class="sure better"' in html and "better now" in html
    (worst,) = re.findall(r'<table class="plain regressions">.*?</table>', html, re.DOTALL)
    assert "<b>before</b>" in worst and "It is 100 [1]." in worst
    places = [int(place) for place in re.findall(r'href="#item-(\d+)"', worst)]
    items = data_of(html)["items"]
    assert len(places) == 10 and all(items[place]["d"] < 0 for place in places)
    changes = [items[place]["d"] for place in places]
    assert changes == sorted(changes), "the greatest loss first"
    assert any("b" in item for item in items), "the answer before is shown"


def test_an_equal_run_has_changed_nothing(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "same", {"r": retrieval(20)}))
    assert "Nothing changed: all 20 items are the same in both runs." in to_html(run, run, compare(run, run))


def test_hostile_text_everywhere_adds_no_tag_and_no_attribute(tmp_path: Path) -> None:
    texts = [
        *PAYLOADS,
        "</script><script>window.pwned=1</script>",
        "<!--",
        "]]>",
        "{{7*7}}",
        "{% raw %}",
        "\u202eabc\u2066",
        "\x00\x1b]8;;",
    ]
    name = "run <script>alert(1)</script>"
    run = read_run(
        write_run(
            tmp_path / "r",
            hostile_parts(texts),
            suite={"name": texts[0], "x": texts},
            environment={
                "machine": {"processor": texts[3], "cores": "x"},
                texts[5]: texts[6],
                "versions": {texts[7]: texts[8]},
            },
            skipped={texts[9]: texts[10]},
        )
    )
    object.__setattr__(run, "name", name)
    html = to_html(run)
    parsed = Page(html)
    assert len(parsed.of("script")) == 2 and not [tag for tag, _ in parsed.tags if tag in LOADERS - {"form"}]
    for tag, attributes in parsed.tags:
        assert not [key for key in attributes if key.startswith("on") or key in ("style", "src")], tag
        assert tag != "a" or re.fullmatch(r"#[a-z]+(-\d+)?", attributes.get("href") or "")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert "49" not in re.findall(r"\{\{7\*7\}\}|>49<", html)
    assert any("{{7*7}}" in item["q"] for item in data_of(html)["items"])
