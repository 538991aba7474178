"""The document viewer and the upload in a real Chromium: what is marked, what is refused, keyboard, phone, Chinese.

Screenshots go to build/screenshots/, for people to look at.
"""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes import HashingEmbedder
from made_pdfs import lines_of, pdf_of

from app import build
from app.settings import Settings, load_settings
from retrieval.passages import Passage
from retrieval.reading.reader import Reader
from retrieval.syncing import sync

CHROMIUM = Path("/usr/bin/chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install -e '.[dev]')")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM} (apt-get install chromium)"),
]

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
PATIENCE = 30_000
PHONE = {"viewport": {"width": 390, "height": 800}, "has_touch": True}

HOSTILE = "<img src=x onerror=window.pwned=1><script>window.pwned=1</script>{{7*7}}"
GUIDE = "# Style guide\n\n" + "".join(
    f"## Part {n}\n\n" + ("A window that is narrow leaves room for another beside it. " * 5).strip() + "\n\n"
    for n in range(120)
).replace("## Part 60\n\n", f"## Part 60\n\n😀 No line is over 79 characters. {HOSTILE} ")
FILLER = [f"Clause {n} says what clause {n + 1} leaves open to the parties." for n in range(20)]
CONTRACT = pdf_of(
    lines_of("Agreement", *FILLER),
    lines_of(
        *FILLER[:15], "The term is 42 months from the date of signature and", "ends without notice.", *FILLER[15:]
    ),
)
QUOTES = {"guide.md": "No line is over 79 characters.", "contract.pdf": "42 months from the date of signature"}


@dataclass
class House:
    """A server, its workspace and what was indexed there: name → (id, offset of the quote, its passage)."""

    url: str
    settings: Settings
    folder: Path
    places: dict[str, tuple[int, int, Passage]] = field(default_factory=dict)


def serve(folder: Path, kind: str) -> Iterator[House]:
    settings = load_settings(folder / "w", environment={})
    docs = folder / "docs"
    docs.mkdir()
    (docs / "guide.md").write_text(GUIDE, encoding="utf-8")
    (docs / "contract.pdf").write_bytes(CONTRACT)
    (docs / "lost.pdf").write_bytes(CONTRACT.replace(b"42 months", b"24 months"))
    embedder = HashingEmbedder()
    with (
        build.open_or_create(settings, "default", wait=0, doing="testing", load=lambda: embedder) as opened,
        Reader() as reader,
    ):
        sync(opened, docs, reader)
        places = {}
        for row in opened.documents():
            text = opened.document(row.source.id).text
            start = text.index(QUOTES.get(row.source.uri, "24 months from the date of signature"))
            (passage,) = [p for p in opened.passages_of(row.source.id) if p.start <= start < p.end][:1]
            places[row.source.uri] = (row.source.id, start, passage)
    (docs / "lost.pdf").unlink()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [sys.executable, str(HERE / "documents_page.py"), str(port), str(settings.workspace), kind],
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            assert process.poll() is None, "the server did not start"
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.25)
        yield House(url, settings, docs, places)
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from serve(tmp_path_factory.mktemp("plain"), "plain")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from serve(tmp_path_factory.mktemp("whole"), "whole")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=quiet)
        yield browser
        browser.close()


@dataclass
class Tab:
    """One tab; what went wrong in it."""

    page: Any
    house: House
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda seen: self._note(seen.url))
        self.page.goto(self.house.url)

    def _note(self, url: str) -> None:
        if not url.startswith((self.house.url, "blob:", "data:")):
            self.foreign.append(url)

    def cite(self, name: str, *, quoted: bool = True, n: int = 1) -> None:
        """Give the bare page an answer that cites the quote of a document."""
        number, start, passage = self.house.places[name]
        quotes = f"{start}-{start + len(QUOTES.get(name, QUOTES['contract.pdf']))}" if quoted else ""
        self.page.evaluate(
            """([n, id, start, end, quotes]) => document.getElementById("answers").insertAdjacentHTML("beforeend", `
            <p>It says so <a class="cite" href="#source-1-${n}">${n}</a></p><article class="source" id="source-1-${n}"
            data-collection="default" data-document="${id}" data-start="${start}" data-end="${end}"
            data-quotes="${quotes}"><span class="title">Source ${n}</span></article>`)""",
            [n, number, passage.start, passage.end, quotes],
        )

    def shot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(350)
        self.page.screenshot(path=str(SCREENSHOTS / f"{name}.png"))

    def drop(self, files: dict[str, bytes], target: str = "body") -> None:
        """Drag files over the page and let them go."""
        packed = [[name, base64.b64encode(data).decode()] for name, data in files.items()]
        transfer = self.page.evaluate_handle(
            """(files) => { const transfer = new DataTransfer(); for (const [name, data] of files) {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            transfer.items.add(new File([bytes], name)); } return transfer; }""",
            packed,
        )
        self.page.dispatch_event(target, "dragover", {"dataTransfer": transfer})
        assert self.page.is_visible(".upload-overlay")
        self.page.dispatch_event(target, "drop", {"dataTransfer": transfer})
        assert self.page.is_hidden(".upload-overlay")

    def until(self, expression: str) -> None:
        """Wait until this is true (the page's policy forbids Playwright's own way, which evaluates a string in it)."""
        for _ in range(PATIENCE // 100):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"never true: {expression}; {self.page.inner_text('body')[-1000:]}")

    def states(self) -> dict[str, tuple[str, str]]:
        rows = self.page.locator(".upload-file").all()
        return {
            row.locator(".upload-filename").inner_text(): (
                str(row.get_attribute("data-state")),
                row.locator(".upload-state").inner_text(),
            )
            for row in rows
        }

    def assert_innocent(self) -> None:
        assert self.errors == [] and self.foreign == []
        assert self.page.evaluate("window.pwned") is None, "a script ran"


@pytest.fixture
def tab(chromium: Any) -> Iterator[Callable[..., Tab]]:
    contexts = []

    def make(house: House, **options: Any) -> Tab:
        options = {"viewport": {"width": 1280, "height": 800}, "locale": "en-US"} | options
        contexts.append(chromium.new_context(**options))
        return Tab(contexts[-1].new_page(), house)

    yield make
    for context in contexts:
        context.close()


# --- the viewer -------------------------------------------------------------------------------------------------------


def test_a_click_on_a_citation_opens_its_passage_in_the_text(plain: House, tab: Callable[..., Tab]) -> None:
    seen = tab(plain)
    seen.cite("guide.md")
    seen.page.click("a.cite")
    mark = seen.page.locator(".viewer mark")
    mark.wait_for(timeout=PATIENCE)
    assert mark.inner_text() == QUOTES["guide.md"]
    inside = mark.bounding_box()
    assert 100 < inside["y"] < 700, "the mark is scrolled into view"
    passage = "".join(seen.page.locator(".viewer .viewer-passage").all_text_contents())
    assert passage == plain.places["guide.md"][2].text
    assert HOSTILE in seen.page.locator(".viewer-text").inner_text(), "markup of a document is text"
    assert seen.page.inner_text(".viewer-title") == "Style guide"
    assert "Part 60" in seen.page.inner_text(".viewer-where")
    assert seen.page.is_hidden(".viewer-tools")
    seen.shot("viewer-text")
    seen.page.keyboard.press("Escape")
    assert seen.page.is_hidden(".viewer")
    assert seen.page.evaluate("document.activeElement.className") == "cite", "the focus is back where it was"
    seen.assert_innocent()


def test_more_text_comes_while_scrolling_in_both_directions(plain: House, tab: Callable[..., Tab]) -> None:
    seen = tab(plain)
    seen.cite("guide.md")
    seen.page.click("a.cite")
    seen.page.wait_for_selector(".viewer mark", timeout=PATIENCE)
    text = ""
    for _ in range(60):
        text = seen.page.locator(".viewer-text").evaluate("(sheet) => sheet.textContent")
        if text.strip() == GUIDE.strip():
            break
        seen.page.evaluate("document.querySelector('.viewer-body').scrollTop = 0")
        seen.page.wait_for_timeout(80)
        seen.page.evaluate(
            "{ const body = document.querySelector('.viewer-body'); body.scrollTop = body.scrollHeight; }"
        )
        seen.page.wait_for_timeout(80)
    assert text.strip() == GUIDE.strip(), "all of it, once and in order"
    assert seen.page.locator(".viewer mark").inner_text() == QUOTES["guide.md"]
    seen.assert_innocent()


def test_a_quote_is_marked_on_the_page_of_its_pdf(plain: House, tab: Callable[..., Tab]) -> None:
    seen = tab(plain)
    seen.cite("contract.pdf")
    seen.page.wait_for_selector(".open-document")
    seen.page.focus("a.cite")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector(".viewer-mark", timeout=PATIENCE)
    assert seen.page.inner_text(".viewer-number") == "Page 2 of 2"
    seen.until("document.querySelector('.viewer-page img').naturalWidth > 0")
    assert seen.page.locator(".viewer-mark").count() == 1
    box = seen.page.locator(".viewer-mark").bounding_box()
    assert 60 < box["y"] < 760
    # The ink of the page under the mark, and beside it, as the browser draws it.
    dark = seen.page.evaluate(
        """() => { const image = document.querySelector(".viewer-page img");
        const mark = document.querySelector(".viewer-mark"), canvas = document.createElement("canvas");
        canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
        const context = canvas.getContext("2d"); context.drawImage(image, 0, 0);
        const part = (name) => parseFloat(mark.style[name]) / 100;
        const share = (left, top, width, height) => { const data = context.getImageData(left * canvas.width,
          top * canvas.height, Math.ceil(width * canvas.width), Math.ceil(height * canvas.height)).data; let dark = 0;
          for (let i = 0; i < data.length; i += 4) dark += data[i] < 128; return dark / (data.length / 4); };
        return { under: share(part("left"), part("top"), part("width"), part("height")),
          above: share(part("left"), part("top") - 0.004, part("width"), 0.002),
          image: canvas.width, wide: part("width") }; }"""
    )
    assert dark["under"] > 0.08 and dark["above"] < 0.02 and 0.2 < dark["wide"] < 0.45
    assert dark["image"] >= 800
    seen.shot("viewer-page")
    seen.page.keyboard.press("ArrowLeft")
    seen.until("document.querySelector('.viewer-number').textContent === 'Page 1 of 2'")
    seen.until("document.querySelectorAll('.viewer-mark').length === 0")
    assert seen.page.is_disabled(".viewer-step >> nth=0")
    seen.page.click(".viewer-switch >> nth=1")
    assert seen.page.locator(".viewer mark").inner_text().replace("\n", " ") == QUOTES["contract.pdf"]
    seen.assert_innocent()


def test_a_source_without_a_quote_shows_its_passage_on_the_page(plain: House, tab: Callable[..., Tab]) -> None:
    seen = tab(plain)
    seen.cite("contract.pdf", quoted=False)
    seen.page.click(".open-document")
    seen.page.wait_for_selector(".viewer-shade", timeout=PATIENCE)
    assert seen.page.locator(".viewer-mark").count() == 0
    seen.page.click(".viewer-close")
    seen.page.click(".source .title")
    seen.page.wait_for_selector(".viewer-shade", timeout=PATIENCE)
    seen.assert_innocent()


def test_a_file_that_is_gone_leaves_its_text_and_a_sentence(plain: House, tab: Callable[..., Tab]) -> None:
    seen = tab(plain)
    seen.cite("lost.pdf")
    seen.page.click("a.cite")
    seen.page.wait_for_selector(".viewer mark", timeout=PATIENCE)
    assert "not where it was" in seen.page.inner_text(".viewer-note")
    assert "24 months" in seen.page.inner_text(".viewer mark") and seen.page.is_hidden(".viewer-tools")
    seen.page.evaluate("document.querySelector('.source').dataset.document = '987654'")
    seen.page.keyboard.press("Escape")
    seen.page.click("a.cite")
    seen.until("document.querySelector('.viewer-note').textContent.includes('ask again')")
    seen.assert_innocent()


def test_the_viewer_on_a_phone_in_chinese_and_dark(plain: House, tab: Callable[..., Tab]) -> None:
    seen = tab(plain, locale="zh-CN", **PHONE)
    seen.page.evaluate("document.body.classList.add('dark')")
    seen.cite("contract.pdf")
    seen.cite("guide.md", n=2)
    seen.page.click("a.cite >> nth=0")
    seen.page.wait_for_selector(".viewer-mark", timeout=PATIENCE)
    assert seen.page.inner_text(".viewer-number") == "第 2 页，共 2 页"
    size = seen.page.locator(".viewer").bounding_box()
    assert (size["x"], size["y"], size["width"], size["height"]) == (0, 0, 390, 800)
    assert 0 <= seen.page.locator(".viewer-mark").bounding_box()["x"] < 390
    seen.shot("viewer-phone-page")
    seen.page.click(".viewer-close")
    seen.page.click("a.cite >> nth=1")
    seen.page.wait_for_selector(".viewer mark", timeout=PATIENCE)
    assert seen.page.evaluate("document.querySelector('.viewer-body').scrollWidth") <= 390
    seen.shot("viewer-phone-text")
    assert seen.page.inner_text(".open-document >> nth=0") == "在文档中查看"
    seen.assert_innocent()


# --- adding documents -------------------------------------------------------------------------------------------------

NEW = b"# Tides\n\nThe highest tides of the year come with the equinox in March and September.\n"
MIXED = {
    "tides.md": NEW,
    "rules.pdf": pdf_of(lines_of("A membership costs 15 euro per year.", *FILLER)),
    "empty.txt": b"",
    "picture.md": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "film.mp4": b"frames",
    HOSTILE.replace("/", "") + ".md": b"# Harmless\n\nOnly the name of this file is hostile.\n",
}


def test_files_are_dropped_indexed_asked_about_and_looked_into(whole: House, tab: Callable[..., Tab]) -> None:
    seen = tab(whole)
    page = seen.page
    page.wait_for_selector("#question textarea", timeout=PATIENCE)
    page.wait_for_selector("#add-documents", timeout=PATIENCE)
    seen.drop(MIXED, "#question textarea")
    page.wait_for_selector(".upload-file", timeout=PATIENCE)
    assert page.input_value(".upload-collection") == "default"
    assert page.inner_text(".upload-start") == "Add 6 files"
    seen.shot("upload-chosen")
    page.click(".upload-start")
    seen.until("document.querySelector('.upload-note').textContent.includes('added')")
    states = seen.states()
    assert {name: state for name, (state, _) in states.items()} == {
        name: "refused" if name in ("empty.txt", "picture.md", "film.mp4") else "indexed" for name in MIXED
    }
    assert "is empty" in states["empty.txt"][1] and "PNG image" in states["picture.md"][1]
    assert ".mp4 are not read" in states["film.mp4"][1] and states["tides.md"][1].endswith("indexed, 1 passage")
    assert page.inner_text(".upload-note") == "3 added, 3 refused"
    seen.shot("upload-done")
    page.keyboard.press("Escape")
    assert page.is_hidden(".upload")

    page.fill("#question textarea", QUESTIONS[0])
    page.press("#question textarea", "Enter")
    page.wait_for_selector("#messages .footer", timeout=PATIENCE)
    assert "equinox" in page.locator(".answer").last.inner_text()
    attributes = articles(whole, "The highest tides")
    page.evaluate(GIVE, attributes)
    page.locator(f"a.cite[href='#{attributes[0]}']").first.click()
    page.wait_for_selector(".viewer mark", timeout=PATIENCE)
    assert "equinox" in page.inner_text(".viewer mark")
    seen.shot("viewer-over-the-page")
    page.keyboard.press("Escape")

    page.fill("#question textarea", QUESTIONS[1])
    page.press("#question textarea", "Enter")
    seen.until("document.querySelectorAll('#messages .footer').length === 2")
    attributes = articles(whole, "A membership costs", turn=2)
    page.evaluate(GIVE, attributes)
    page.locator(f"#{attributes[0]} .open-document").click()
    page.wait_for_selector(".viewer-mark", timeout=PATIENCE)
    seen.shot("viewer-page-over-the-page")
    seen.assert_innocent()


QUESTIONS = ("When do the highest tides of the year come?", "How much does a membership cost per year in euro?")
GIVE = """([id, document, start, end, quotes]) => Object.assign(window.document.getElementById(id).dataset,
    { collection: "default", document, start, end, quotes })"""


def articles(house: House, quote: str, turn: int = 1) -> list[str]:
    """What the page will say of the source that holds `quote`: id, document, passage, quoted place."""
    with build.open_collection(house.settings, "default", load=HashingEmbedder) as opened:
        for row in opened.documents():
            text = opened.document(row.source.id).text
            if quote in text:
                start = text.index(quote)
                end = text.index(".", start) + 1
                passage = next(p for p in opened.passages_of(row.source.id) if p.start <= start < p.end)
                found = opened.search(QUESTIONS[turn - 1], k=8)
                n = next(hit.rank for hit in found.hits if hit.passage.id == passage.id)
                return [
                    f"source-{turn}-{n}",
                    str(row.source.id),
                    str(passage.start),
                    str(passage.end),
                    f"{start}-{end}",
                ]
    raise AssertionError("not indexed")


def test_a_new_collection_is_named_filled_and_announced(plain: House, tab: Callable[..., Tab]) -> None:
    seen = tab(plain, locale="zh-CN", **PHONE)
    page = seen.page
    page.evaluate("document.addEventListener('fathom:collections', (event) => { window.heard = event.detail; })")
    page.click("#add-documents")
    page.wait_for_selector(".upload[open]")
    assert page.is_disabled(".upload-start")
    page.set_input_files(
        ".upload-input", [{"name": "潮汐.md", "mimeType": "", "buffer": "# 潮汐\n\n大潮出现在满月。".encode()}]
    )
    page.select_option(".upload-collection", "")
    page.fill(".upload-name", "../x")
    page.click(".upload-start")
    seen.until("document.querySelector('.upload-note').textContent.includes('文档集名称')")
    page.fill(".upload-name", "新资料")
    seen.shot("upload-phone-chosen")
    page.click(".upload-start")
    page.wait_for_selector(".upload-reload:visible", timeout=PATIENCE)
    assert "已添加 1 个" in page.inner_text(".upload-note") and "新资料" in page.inner_text(".upload-note")
    assert page.evaluate("window.heard") == {"collection": "新资料", "new": True}
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    seen.shot("upload-phone-done")
    assert "新资料" in build.collection_names(plain.settings)
    seen.assert_innocent()


def test_a_busy_collection_can_be_tried_again_and_a_file_taken_off_the_list(
    plain: House, tab: Callable[..., Tab]
) -> None:
    seen = tab(plain)
    page = seen.page
    seen.drop({"one.md": b"# One\n\nfirst text", "two.md": b"# Two\n\nsecond text"})
    page.wait_for_selector(".upload-file")
    page.click(".upload-file:has-text('two.md') .upload-remove")
    assert list(seen.states()) == ["one.md"]
    with build.open_collection(plain.settings, "default", write=True, doing="other work"):
        page.click(".upload-start")
        page.wait_for_selector(".upload-retry:visible", timeout=PATIENCE)
        assert "try again" in page.inner_text(".upload-note")
    page.click(".upload-retry")
    seen.until("document.querySelector('.upload-note').textContent === '1 added, 0 refused'")
    page.click(".upload-more")
    assert page.is_visible(".upload-zone") and seen.states() == {}
    seen.assert_innocent()


def test_a_server_that_ends_in_the_middle_is_said_in_words(plain: House, tab: Callable[..., Tab]) -> None:
    seen = tab(plain)
    page = seen.page
    seen.drop({"late.md": b"# Late\n\ntext"})
    page.wait_for_selector(".upload-file")
    page.route("**/uploads/jobs/*", lambda route: route.fulfill(status=404, body=json.dumps({"error": "gone"})))
    page.click(".upload-start")
    seen.until("document.querySelector('.upload-note').textContent.includes('restarted')")
    page.unroute("**/uploads/jobs/*")
    page.click(".upload-done")
    seen.drop({"later.md": b"# Later\n\ntext"})
    page.wait_for_selector(".upload-file")
    page.route("**/uploads/**", lambda route: route.abort())
    page.route("**/health", lambda route: route.abort())
    page.click(".upload-start")
    seen.until("document.querySelector('.upload-note').textContent.includes('connection')")
    assert seen.errors == []
