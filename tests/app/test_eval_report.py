"""`fathom eval report` as a command, and its page in a real Chromium: quick, keyboard-ready, deaf to hostile runs.

Screenshots go to build/screenshots/, for people to look at.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from made_runs import answers, every_kind, hostile_parts, retrieval, write_run
from typer.testing import CliRunner

from app.cli import app

CHROMIUM = Path("/usr/bin/chromium")
HERE = Path(__file__).parent
SCREENSHOTS = HERE.parents[1] / "build" / "screenshots"
PAYLOADS = [item["text"] for item in json.loads((HERE / "chat" / "hostile.json").read_text(encoding="utf-8"))]
browser = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM} (apt-get install chromium)"),
]


def fathom(workspace: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["eval", "report", *words, "--workspace", str(workspace)])


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Two runs on the same data, the second one better at searching and worse at answering."""
    old = {**every_kind(), "scifact": retrieval(skill=0.02), "问答": answers(30, right=0.9, seed=3)}
    write_run(tmp_path / "runs" / "old", old, started="2026-11-21T04:00:00Z")
    write_run(tmp_path / "runs" / "new", {**every_kind(), "问答": answers(30, right=0.5, seed=4)})
    return tmp_path


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_report_lies_in_the_runs_folder(workspace: Path) -> None:
    done = fathom(workspace, "latest")
    assert done.exit_code == 0, done.output
    file = workspace / "runs" / "new" / "report.html"
    assert str(file) in done.stdout.replace("\n", "") and file.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_comparison_is_a_file_of_its_own_and_json_says_where(workspace: Path) -> None:
    done = fathom(workspace, "new", "--against", "old", "--json")
    told = json.loads(done.stdout)
    file = Path(told["file"])
    assert file.name == "report-against-old.html" and told["bytes"] == file.stat().st_size
    assert (told["run"], told["against"], told["format"]) == ("new", "old", "html")
    assert not (workspace / "runs" / "new" / "report.html").exists()


def test_markdown_goes_to_the_screen_or_into_a_file(workspace: Path) -> None:
    done = fathom(workspace, "new", "--markdown", "--against", "old")
    assert done.exit_code == 0 and done.stdout.startswith("# new\n") and "## Changed: 问答" in done.stdout
    fathom(workspace, "new", "--markdown", "--to", str(workspace / "r.md"))
    assert (workspace / "r.md").read_text(encoding="utf-8").startswith("# new\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "no run 'nothing'"),
        (["new", "--against", "nothing"], "no run 'nothing'"),
        (["new", "--to", "/"], "is a folder"),
        (["new", "--to", "missing/report.html"], "does not exist"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(workspace: Path, words: list[str], said: str) -> None:
    done = fathom(workspace, *words)
    assert done.exit_code == 2 and said in done.stderr and "Traceback" not in done.output


def test_runs_on_other_data_are_not_compared(workspace: Path) -> None:
    write_run(workspace / "runs" / "other", {"scifact": {**retrieval(), "data": {"corpus.jsonl": "ee" * 32}}})
    done = fathom(workspace, "new", "--against", "other")
    assert done.exit_code == 2 and "different data cannot be compared" in done.stderr


# --- in Chromium -----------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """A page in a browser, and everything it did that a report must not do."""

    page: Any
    deeds: list[str] = field(default_factory=list)

    def shot(self, name: str, **options: Any) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"report-{name}.png", **options)

    def rows(self) -> int:
        return self.page.locator("#list > li").count()

    def count(self) -> str:
        return self.page.locator("#count").inner_text()

    def search(self, words: str, rows: int) -> None:
        """Type, and wait for so many rows. The page's policy forbids Playwright's own waiting for a condition."""
        self.page.fill("#words", words)
        for _ in range(200):
            if self.rows() == rows:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{self.rows()} rows for {words!r}, not {rows}")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install -e '.[dev]')")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Seen]]:
    contexts = []

    def opened(file: Path, anchor: str = "", **options: Any) -> Seen:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        seen = Seen(context.new_page())
        page = seen.page
        page.on("request", lambda request: None if request.url.startswith("file:") else seen.deeds.append(request.url))
        page.on("dialog", lambda dialog: (seen.deeds.append("dialog"), dialog.dismiss()))
        page.on("pageerror", lambda error: seen.deeds.append(f"error {error}"))
        page.on("console", lambda message: seen.deeds.append(f"console {message.text}"))
        context.on("page", lambda other: seen.deeds.append("window") if other != page else None)
        page.goto(f"file://{file}{anchor}")
        return seen

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def made(workspace: Path) -> Path:
    assert fathom(workspace, "new", "--against", "old").exit_code == 0
    return workspace / "runs" / "new" / "report-against-old.html"


class TestPage:
    """One page, every way of looking at it."""

    pytestmark = browser

    def test_questions_are_found_filtered_sorted_and_opened(self, made: Path, visit: Callable[..., Seen]) -> None:
        seen = visit(made)
        page = seen.page
        whole = seen.count()
        assert seen.rows() == 40 and re.fullmatch(r"(\d+) of \1 questions", whole)
        page.select_option("#part", label="问答")
        assert seen.count().startswith("30 of ")
        page.select_option("#show", "poor")
        poor = seen.rows()
        assert 0 < poor < 30 and page.locator("#list .state.poor").count() == poor
        page.select_option("#show", "error")
        assert seen.rows() == 1 and page.locator("#list .state.error").inner_text() == "!"
        page.select_option("#show", "worse")
        page.select_option("#sort", "change")
        changes = [float(t.replace("−", "-")) for t in page.locator("#list .score small.down").all_inner_texts()]
        assert changes == sorted(changes) and changes[0] < -0.5
        page.select_option("#show", "all")
        seen.search("文档字符串 #11", 1)
        assert seen.count().startswith("1 of ")
        seen.search("no such words", 0)
        assert seen.count().startswith("0 of ") and seen.deeds == []

    def test_a_citation_leads_to_its_words_in_the_passage(self, made: Path, visit: Callable[..., Seen]) -> None:
        seen = visit(made)
        seen.page.select_option("#part", label="问答")
        seen.search("HOW are functions", 8)
        seen.page.locator("#list summary").first.press("Enter")
        body = seen.page.locator("#list .body").first
        answered = body.locator(".answer")
        assert answered.inner_text().startswith("In lowercase, with underscores")
        assert body.locator("mark").all_inner_texts() == ["lowercase"]
        answered.locator("button.badge").first.press("Enter")
        focused = seen.page.evaluate("document.activeElement.textContent")
        assert focused.startswith("2Names") and "Function names should be lowercase" in focused
        seen.shot("question")
        assert seen.deeds == []

    def test_a_regression_in_the_table_opens_its_question(self, made: Path, visit: Callable[..., Seen]) -> None:
        seen = visit(made)
        link = seen.page.locator(".regressions a").first
        text = link.inner_text()
        link.click()
        opened = seen.page.locator("#list details[open]")
        opened.first.wait_for()
        assert opened.count() == 1 and opened.locator(".question").inner_text() == text
        assert "Answer before" in opened.inner_text()
        assert seen.deeds == []

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_both_themes_are_readable(self, made: Path, visit: Callable[..., Seen], scheme: str) -> None:
        seen = visit(made, color_scheme=scheme)
        assert seen.page.evaluate(CONTRAST) == []
        seen.shot(f"desktop-{scheme}")
        seen.page.click("#theme")
        assert seen.page.evaluate(CONTRAST) == [], "after the toggle"
        assert seen.page.evaluate("document.documentElement.dataset.theme") != scheme
        assert seen.deeds == []

    def test_a_phone_shows_it_without_moving_sideways(self, made: Path, visit: Callable[..., Seen]) -> None:
        seen = visit(made, viewport={"width": 360, "height": 760}, is_mobile=True, has_touch=True)
        assert seen.page.evaluate("document.documentElement.scrollWidth") == 360
        seen.page.locator("#list summary").first.click()
        assert seen.page.evaluate("document.documentElement.scrollWidth") == 360
        seen.shot("phone")
        assert seen.deeds == []

    def test_without_javascript_figures_and_drawings_are_there(self, made: Path, visit: Callable[..., Seen]) -> None:
        seen = visit(made, java_script_enabled=False)
        page = seen.page
        assert page.locator("svg.curves").first.is_visible() and page.locator("table.headline").is_visible()
        assert page.get_by_text("The list of questions needs JavaScript").is_visible()
        assert not page.locator("#browser").is_visible() and not page.locator("#theme").is_visible()
        assert seen.deeds == []

    def test_in_print_nothing_scrolls_and_opened_questions_stay(
        self, workspace: Path, visit: Callable[..., Seen]
    ) -> None:
        assert fathom(workspace, "new", "--open-items", "2").exit_code == 0
        seen = visit(workspace / "runs" / "new" / "report.html", color_scheme="dark")
        seen.page.emulate_media(media="print")
        scrolls = "[...document.querySelectorAll('.scroll, pre')].map(e => getComputedStyle(e).overflowX)"
        assert set(seen.page.evaluate(scrolls)) == {"visible"}
        assert seen.page.evaluate("getComputedStyle(document.body).color") == "rgb(17, 17, 17)", "light, on paper"
        assert seen.page.locator("#list > li:visible").count() == 2 and not seen.page.locator("#controls").is_visible()
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        pdf = seen.page.pdf(path=SCREENSHOTS / "report-print.pdf", format="A4")
        assert pdf.startswith(b"%PDF") and seen.deeds == []

    @pytest.mark.slow
    def test_five_thousand_questions_answer_at_once(self, tmp_path: Path, visit: Callable[..., Seen]) -> None:
        write_run(tmp_path / "runs" / "big", {"big": retrieval(5000, stages=())})
        assert fathom(tmp_path, "big").exit_code == 0
        seen = visit(tmp_path / "runs" / "big" / "report.html")
        assert seen.rows() == 40, "only what is looked at is made"
        seen.page.click("#more")
        assert seen.rows() == 80
        seen.search("(4999)", 1)
        seen.search("", 40)
        seen.page.select_option("#sort", "m:RR@10")
        values = [float(text) for text in seen.page.locator("#list .score > span").all_inner_texts()]
        assert len(values) == 40 and max(values) < 0.3
        assert seen.deeds == []

    def test_hostile_runs_do_nothing(self, tmp_path: Path, visit: Callable[..., Seen]) -> None:
        more = [
            "</script><script>window.pwned=1</script>",
            "<!--<script>",
            "javascript:window.pwned=1",
            "__proto__",
            "constructor",
        ]
        parts = hostile_parts([*PAYLOADS, *more])
        write_run(tmp_path / "runs" / "old", parts, suite={"name": PAYLOADS[0]})
        write_run(tmp_path / "runs" / "bad", parts, suite={"name": PAYLOADS[0]}, environment={PAYLOADS[0]: PAYLOADS[5]})
        assert fathom(tmp_path, "bad", "--against", "old", "--open-items", "1000").exit_code == 0
        seen = visit(tmp_path / "runs" / "bad" / "report-against-old.html")
        page = seen.page
        while page.locator("#more").is_visible():
            page.click("#more")
        page.evaluate("document.querySelectorAll('#list details').forEach(one => one.open = true)")
        page.wait_for_timeout(300)
        assert page.locator("#list .body").count() == len(PAYLOADS) + len(more)
        for name in page.evaluate("[...document.querySelectorAll('#sort option')].slice(0, 8).map(one => one.value)"):
            page.select_option("#sort", name)
        assert page.evaluate("window.pwned") is None and page.evaluate("({}).polluted") is None
        assert page.evaluate(JUDGE) == []
        seen.shot("hostile")
        assert seen.deeds == []


JUDGE = """() => {
  const bad = [];
  const loaders = 'IMG IFRAME OBJECT EMBED VIDEO AUDIO SOURCE PICTURE LINK BASE DIALOG MATH TEMPLATE CANVAS'.split(' ');
  for (const node of document.body.querySelectorAll('*')) {
    const tag = node.tagName.toUpperCase();
    let wrong = loaders.includes(tag) || tag.includes('-') || getComputedStyle(node).position === 'fixed';
    for (const a of node.attributes) wrong ||= /^on|^style$|^src|^srcset$|^action$/.test(a.name);
    if (tag === 'A') wrong ||= !/^#[a-z]+(-\\d+)?$/.test(node.getAttribute('href') || '');
    if (wrong) bad.push(node.outerHTML.slice(0, 200));
  }
  if (document.querySelectorAll('script').length !== 2) bad.push('scripts');
  scrollTo(0, 0);
  const theme = document.querySelector('#theme').getBoundingClientRect();
  const top = document.elementFromPoint(theme.x + 4, theme.y + 4);
  if (!top || top.id !== 'theme') bad.push('the page is covered by ' + (top && top.outerHTML.slice(0, 200)));
  if (document.documentElement.scrollWidth > innerWidth) bad.push('wider than the window');
  return bad;
}"""

CONTRAST = """() => {
  // WCAG 2.2 contrast of every text against the first background behind it; AA asks 4.5, of drawings' text too.
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const bad = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.textContent.trim() || parent.closest('script, style, title, desc, [hidden]')) continue;
    let behind = parent, color = parse(getComputedStyle(behind).backgroundColor);
    while (color.length === 4 && color[3] === 0 && (behind = behind.parentElement))
      color = parse(getComputedStyle(behind).backgroundColor);
    const style = getComputedStyle(parent);
    const text = parse(parent.namespaceURI.endsWith('svg') ? style.fill : style.color);
    const [a, b] = [light(text), light(color)].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.add(`${parent.tagName}.${parent.getAttribute('class')} ${node.textContent}`);
  }
  return [...bad];
}"""
