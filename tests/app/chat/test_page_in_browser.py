"""The real page in a real Chromium: answers, conversations, keys, phones, and an engine that obeys every attack.

Screenshots go to build/screenshots/, for people to look at.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

CHROMIUM = Path("/usr/bin/chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install -e '.[dev]')")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM} (apt-get install chromium)"),
]

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
PAYLOADS: dict[str, str] = {
    item["name"]: item["text"] for item in json.loads((HERE / "hostile.json").read_text(encoding="utf-8"))
}
PATIENCE = 30_000  # milliseconds: the machine may be busy with other work

STYLE_GUIDE = """Limit all lines to a maximum of 79 characters.

For flowing long blocks of text with fewer structural restrictions (docstrings or comments), the line length should be \
limited to 72 characters.

A narrow window makes it possible to have several files open side by side, and works well when using code review tools \
that present the two versions in adjacent columns. Some teams strongly prefer a longer line length."""
ANSWER = """A line of code has **at most 79 characters** [1]. Flowing text is shorter:

- docstrings and comments: 72 characters [1]
- the Chinese guide says the same [3]

```python
def fits(line: str) -> bool:
    return len(line) <= 79
```

Docstrings come last in a module [2], and [7] does not exist."""
LONG = {"answer": "word ", "repeat": 5000, "token_seconds": 0.02}
HERE_STILL = [{"uri": "a.txt", "text": "Still here."}]
NICE: dict[str, Any] = {
    "collections": ["default", "中文资料"],
    "titles": ["Style guide for code", "Docstring conventions", "代码风格指南"],
    "keys": ["document", "title", "format", "year", "author"],
    "engines": {"large": "", "gpu": "no GPU was found"},
    "default": {
        "search_seconds": 0.05,
        "timings": {"search.embed": 8.0, "search": 14.0, "first_token": 820.0, "generate": 2400.0,
                    "prompt_tokens": 1320.0, "completion_tokens": 112.0, "tokens_per_second": 46.0},
        "sources": [
            {"uri": "guides/style.md", "title": "Style guide for code", "page": 3, "text": STYLE_GUIDE,
             "headings": ["Lay-out", "Line length"]},
            {"uri": "guides/docstrings.md", "title": "Docstring conventions", "headings": ["What is a docstring?"],
             "text": "A docstring is a string literal that occurs as the first statement in a module or function."},
            {"uri": "指南/代码风格.md", "title": "代码风格指南", "headings": ["行长度"],
             "text": "每行最多 79 个字符。文档字符串或注释每行应限制在 72 个字符以内。"},
        ],
        "answer": ANSWER,
        "citations": [
            [1, "Limit all lines to a maximum of 79 characters.", "yes"],
            [1, "the line length should be limited to 72 characters", "yes"],
            [3, "文档字符串或注释每行应限制在 72 个字符以内", "partly"],
            [2, "A docstring is a string literal", "no"],
        ],
    },
    "answers": {
        "long": {"sources": HERE_STILL, **LONG},
        "slow": {"sources": HERE_STILL, "answer": "slow word ", "repeat": 60, "token_seconds": 0.02},
        "error": {"sources": HERE_STILL, "error": "the engine lost its model; start it again"},
        "crash": {"sources": HERE_STILL, "crash": "secret-detail-of-the-crash"},
        "refused": {"sources": [{"uri": "a.txt", "text": "Nearest."}], "answer": "NO ANSWER", "refused": True},
        "nothing": {"sources": [], "answer": "NO ANSWER", "refused": True},
    },
}  # fmt: skip


def hostile_groups() -> list[list[str]]:
    """Payload names in groups of eight; one that could swallow its neighbours (a fence, an open tag) stands alone."""
    alone = [name for name, text in PAYLOADS.items() if "```" in text or text.count("`") % 2 or "unclosed" in name]
    rest = [name for name in PAYLOADS if name not in alone]
    return [rest[i : i + 8] for i in range(0, len(rest), 8)] + [[name] for name in alone]


def hostile_scripts() -> dict[str, Any]:
    answers = {}
    for number, names in enumerate(hostile_groups()):
        texts = [PAYLOADS[name] for name in names]
        sources = [{"uri": text, "title": text, "headings": [text, text], "text": text} for text in texts]
        citations = [[n, text[: max(1, len(text) // 2)], "yes"] for n, text in enumerate(texts, start=1)]
        answers[f"attack {number}"] = {
            "sources": sources, "answer": "\n\n".join(texts) + " [1]", "citations": citations, "token_seconds": 0.0,
        }  # fmt: skip
    answers["said by an error"] = {
        "sources": [],
        "error": " ".join(PAYLOADS[name] for name in ("img-onerror", "overlay")),
    }
    titles = [
        PAYLOADS[name] for name in ("img-onerror", "markdown-image", "overlay", "template-handlebars", "svg-image")
    ]
    default = {"sources": [{"uri": "a", "text": "b"}], "answer": "Yes [1]."}
    return {"collections": ["default"], "titles": titles, "default": default, "answers": answers, "load_seconds": 3600}


@dataclass
class Server:
    url: str
    log: Path
    process: subprocess.Popen[bytes]
    errors: Path

    def ended(self) -> list[str]:
        """How each stream so far ended, as the scripted engine saw it."""
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []


def serve(folder: Path, scripts: dict[str, Any], port: int = 0) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        port = probe.getsockname()[1]
    file = folder / "scripts.json"
    file.write_text(json.dumps(scripts), encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    errors = (folder / "stderr").open("wb")
    process = subprocess.Popen(
        [sys.executable, str(HERE / "scripted_page.py"), str(port), str(file)],
        env={**os.environ, "PYTHONPATH": path}, stdout=errors, stderr=errors,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            if process.poll() is not None:
                pytest.fail("the page did not start: " + (folder / "stderr").read_text(encoding="utf-8")[-2000:])
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                    assert json.load(answer)["ok"] is True
                break
            except OSError:
                time.sleep(0.25)
        yield Server(url, file.with_suffix(".log"), process, folder / "stderr")
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            errors.close()


@pytest.fixture(scope="module")
def nice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serve(tmp_path_factory.mktemp("nice"), NICE)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serve(tmp_path_factory.mktemp("hostile"), hostile_scripts())


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=quiet)
        yield browser
        browser.close()


@dataclass
class Witness:
    """One tab and everything bad that happened in it."""

    page: Any
    server: Server
    foreign: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        def request(seen: Any) -> None:
            if not seen.url.startswith((self.server.url, "data:", "blob:")):
                self.foreign.append(seen.url)

        def dialog(seen: Any) -> None:
            self.dialogs.append(seen.message)
            seen.dismiss()

        self.page.on("request", request)
        self.page.on("dialog", dialog)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self.errors.append(line.text))

    def open(self, address: str = "") -> "Witness":
        self.page.goto(f"{self.server.url}/{address}")
        return self.ready()

    def ready(self) -> "Witness":
        """Wait until the page has been drawn."""
        self.page.wait_for_selector("#question textarea", timeout=PATIENCE)
        self.page.wait_for_selector("#status .status", timeout=PATIENCE)
        self.page.wait_for_selector("#past .teach, #messages .exchange, #notice .notice", timeout=PATIENCE)
        return self

    def reload(self) -> "Witness":
        self.errors.clear()
        self.page.reload()
        self.ready()
        # Gradio's script tells of the streams that a reload cuts off.
        self.errors = [text for text in self.errors if "aborted" not in text and "Connection errored out" not in text]
        return self

    def until(self, condition: str) -> None:
        """Wait for an expression of the page's to be true (Playwright's own way needs the forbidden `eval`)."""
        for _ in range(PATIENCE // 50):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"not true in {PATIENCE} ms: {condition}")

    @property
    def turn(self) -> str:
        """The id of the newest turn on the page."""
        return str(self.page.locator(".exchange").last.get_attribute("data-turn"))

    def questions(self) -> list[str]:
        return [text.strip() for text in self.page.locator("#messages .question").all_inner_texts()]

    def ask(self, question: str) -> None:
        before = self.page.locator(".footer").count()
        self.start(question)
        self.page.locator("#messages .footer").nth(before).wait_for(timeout=PATIENCE)

    def start(self, question: str) -> None:
        self.page.fill("#question textarea", question)
        self.page.press("#question textarea", "Enter")

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).last.inner_text())

    def shot(self, name: str, **options: Any) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=str(SCREENSHOTS / f"{name}.png"), **options)

    def assert_innocent(self) -> None:
        assert self.foreign == [], "requests to other machines"
        assert self.dialogs == [], "dialogs"
        assert self.errors == [], "errors in the console (a CSP violation is one)"
        assert self.page.evaluate("window.pwned") is None, "a script ran"


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    contexts = []

    def make(server: Server, **options: Any) -> Witness:
        options = {"viewport": {"width": 1280, "height": 800}, "locale": "en-US"} | options
        contexts.append(chromium.new_context(**options))
        return Witness(contexts[-1].new_page(), server).open()

    yield make
    for context in contexts:
        context.close()


def test_a_question_is_answered_with_its_sources(nice: Server, tab: Any) -> None:
    seen = tab(nice)
    seen.page.wait_for_selector(".status.ready", timeout=PATIENCE)
    assert "Ask your documents" in seen.page.locator("#messages").inner_text()
    assert "What is “Style guide for code” about?" in seen.page.locator("#messages").inner_text()
    seen.shot("desktop-empty")
    seen.ask("How long may a line be?")
    assert "at most 79 characters" in seen.text(".answer")
    assert "[7] does not exist" in seen.text(".answer")
    assert [link.inner_text() for link in seen.page.locator(".answer a.cite").all()] == ["1", "1", "3", "2"]
    assert seen.page.locator(".answer a.cite.no").count() == 1
    assert seen.page.locator(".source").count() == 3
    marks = [mark.inner_text() for mark in seen.page.locator(".source mark").all()]
    assert "Limit all lines to a maximum of 79 characters." in marks
    assert not any("docstring is a string" in mark for mark in marks), "an unsupported quote must not be marked"
    assert "return len(line) <= 79" in seen.text(".answer pre")
    assert "done in" in seen.text(".how summary") and not seen.page.locator(".facts").is_visible()
    seen.page.click(".how summary")
    told = seen.text(".facts").replace("\n", " ")
    assert re.search(
        r"3 found.*1,320 read · 112 written · 46 tokens/s.*searched in .* first word after .*reading 820 ms", told
    )
    assert seen.page.locator(".cut").count() == 0, "nobody stopped this answer"
    seen.page.locator(".answer a.cite").nth(2).click()
    seen.page.wait_for_selector(f"#source-{seen.turn}-3.flash", timeout=PATIENCE)
    card = seen.page.locator(f"#source-{seen.turn}-1")
    assert [card.get_attribute(f"data-{name}") for name in ("collection", "document", "start")] == [
        "default",
        "1",
        "1000",
    ]
    assert card.get_attribute("data-quotes").startswith("1000-1046,")
    seen.shot("desktop-answer")
    seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    seen.page.click(".footer .copy")
    seen.page.wait_for_selector(".copy.copied", timeout=PATIENCE)
    assert seen.page.evaluate("navigator.clipboard.readText()").startswith("A line of code has at most 79 characters")
    assert seen.page.evaluate("document.documentElement.scrollHeight <= innerHeight"), (
        "columns scroll, the page does not"
    )
    seen.page.click("#theme")
    assert seen.page.evaluate("document.body.classList.contains('dark')")
    seen.shot("desktop-dark")
    seen.ask("And in Chinese?")
    assert seen.page.locator(".how[open]").count() == 1, "what was unfolded stays so"
    assert seen.page.locator(".turn").count() == 2 and seen.page.locator(".turn[open]").count() == 1
    seen.page.locator(".answer a.cite").first.click()  # an older answer: its folded sources open
    seen.until("document.querySelectorAll('.turn[open]').length === 2")
    seen.page.click("#new")
    seen.page.wait_for_selector("#past .teach", timeout=PATIENCE)
    seen.until("document.querySelectorAll('.source').length === 0")
    seen.page.reload()
    seen.ready()
    assert seen.page.evaluate("document.body.classList.contains('dark')"), "the choice is remembered"
    seen.page.click("#theme")
    seen.assert_innocent()


def test_the_page_fits_a_phone(nice: Server, tab: Any) -> None:
    seen = tab(nice, viewport={"width": 390, "height": 844}, has_touch=True)
    seen.shot("phone-empty")
    seen.ask("How long may a line be?")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
    seen.shot("phone-answer")
    assert not seen.page.locator("#sources").is_visible()
    seen.page.locator(".answer a.cite").first.click()
    source = f"#source-{seen.turn}-1"
    seen.until(f"document.querySelector('{source}').getBoundingClientRect().top < innerHeight - 100")
    seen.page.wait_for_timeout(700)
    seen.shot("phone-sources")
    seen.page.mouse.click(200, 30)  # beside the sheet
    seen.page.locator("#sources").wait_for(state="hidden", timeout=PATIENCE)
    seen.page.click("#show-sources")
    seen.page.locator("#sources").wait_for(state="visible", timeout=PATIENCE)
    seen.page.keyboard.press("Escape")
    seen.page.click("#show-chats")
    seen.page.locator(".chat.current").wait_for(state="visible", timeout=PATIENCE)
    seen.page.wait_for_timeout(300)
    seen.shot("phone-conversations")
    seen.page.click("#new")
    seen.page.wait_for_selector("#past .teach", timeout=PATIENCE)
    seen.page.locator("#new").wait_for(state="hidden", timeout=PATIENCE)
    seen.page.click("#show-options")
    for part in ("#condition", "#k", "#mode", "#collection", "#engine", "#theme", "#show-help"):
        box = seen.page.locator(part).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 844, part
    seen.shot("phone-options")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
    seen.assert_innocent()


def test_the_page_speaks_chinese_to_a_chinese_browser(nice: Server, tab: Any) -> None:
    seen = tab(nice, locale="zh-CN", color_scheme="dark")
    seen.ask("每行最多多少个字符？")
    seen.page.click(".how summary")
    assert "出处" in seen.text("#sources") and "检索" in seen.text(".facts") and "今天" in seen.text("#chats")
    assert seen.page.locator("#question button").inner_text() == "提问"
    assert seen.page.get_attribute("#question textarea", "placeholder") == "就这些文档提问"
    assert seen.page.get_attribute("#theme", "aria-label") == "浅色或深色"
    seen.shot("desktop-chinese-dark")
    seen.assert_innocent()


def test_stop_ends_a_long_answer_and_the_engine(nice: Server, tab: Any) -> None:
    seen = tab(nice)
    before = len(nice.ended())
    seen.start("long")
    seen.page.locator(".answer", has_text=re.compile(r"(word\s+){8}")).wait_for(timeout=PATIENCE)
    assert seen.page.locator(".source").count() == 1, "sources stand there while the answer is written"
    seen.shot("desktop-streaming")
    seen.page.get_by_role("button", name="Stop", exact=True).click()
    seen.page.wait_for_selector(".cut", timeout=PATIENCE)
    assert "Stopped" in seen.text(".cut")
    length = len(seen.text(".answer"))
    for _ in range(100):
        if len(nice.ended()) > before:
            break
        time.sleep(0.1)
    assert nice.ended()[before:] == ["closed stop=True"], "the engine's generator must be closed"
    seen.page.wait_for_timeout(400)
    assert len(seen.text(".answer")) == length
    seen.ask("How long may a line be?")  # the page is free again
    assert "79" in seen.text(".answer")
    seen.assert_innocent()


def test_an_answer_goes_on_when_its_tab_is_closed(nice: Server, tab: Any) -> None:
    seen = tab(nice)
    before = len(nice.ended())
    seen.start("slow")
    seen.page.wait_for_selector("#live .answer", timeout=PATIENCE)
    address = seen.page.evaluate("location.search")
    seen.page.close()
    for _ in range(300):
        if len(nice.ended()) > before:
            break
        time.sleep(0.1)
    assert nice.ended()[before:] == ["finished stop=False"]
    again = tab(nice).open(address)
    assert again.text(".answer").split() == ["slow", "word"] and again.page.locator(".cut").count() == 0
    again.assert_innocent()


@pytest.mark.parametrize(
    ("width", "locale", "stopped", "refused"),
    [(1280, "en-US", "Stopped", "still being written"), (390, "zh-CN", "已停止", "仍在撰写")],
)
def test_ask_stop_reload_edit_regenerate_rename_delete(
    nice: Server, tab: Any, width: int, locale: str, stopped: str, refused: str
) -> None:
    seen = tab(nice, viewport={"width": width, "height": 800}, locale=locale)
    page = seen.page
    seen.ask("How long may a line be?")
    seen.start("long")
    page.locator("#live .answer", has_text=re.compile(r"(word\s+){8}")).wait_for(timeout=PATIENCE)
    address = page.url
    assert "?chat=" in address
    seen.reload()  # in the middle of the answer: it goes on and is followed
    assert page.url == address and seen.questions() == ["How long may a line be?", "long"]
    length = len(seen.text("#live .answer"))
    seen.until(f"document.querySelector('#live .answer').innerText.length > {length + 50}")
    seen.start("meanwhile")
    page.locator("#notice", has_text=refused).wait_for(timeout=PATIENCE)
    assert page.input_value("#question textarea") == "meanwhile"
    page.keyboard.press("Escape")
    page.wait_for_selector("#past .cut", timeout=PATIENCE)
    assert stopped in seen.text(".cut") and page.locator("#notice .notice").count() == 0
    kept = seen.text(".answer")
    seen.reload()
    assert seen.text(".answer") == kept and stopped in seen.text(".cut")

    page.locator(".exchange").first.hover()
    page.locator(".exchange .edit").first.click()
    page.wait_for_selector("#notice .editing", timeout=PATIENCE)
    assert page.input_value("#question textarea") == "How long may a line be?"
    page.fill("#question textarea", "How long may a docstring be?")
    page.press("#question textarea", "Enter")
    seen.until("document.querySelectorAll('#past .exchange').length === 1")
    assert seen.questions() == ["How long may a docstring be?"] and "79" in seen.text(".answer")

    turn = seen.turn
    page.click(".exchange .again")
    page.wait_for_selector(f"#past .exchange:not(#turn-{turn}) .footer", timeout=PATIENCE)
    assert seen.questions() == ["How long may a docstring be?"]

    if width < 500:
        page.click("#show-chats")
    page.hover(".chat.current")
    page.click(".chat.current .rename")
    page.fill(".renaming", "行 <b>length</b>")
    page.keyboard.press("Enter")
    page.locator(".chat.current .name", has_text="行 <b>length</b>").wait_for(timeout=PATIENCE)
    assert "行 <b>length</b>" in page.title()
    page.hover(".chat.current")
    page.click(".chat.current .tool.delete")
    page.click(".chat.current .sure .keep")
    page.hover(".chat.current")
    page.click(".chat.current .tool.delete")
    page.click(".chat.current .sure .delete")
    page.wait_for_selector("#past .teach", timeout=PATIENCE)
    seen.until("location.search === ''")
    assert "length" not in page.locator("#chats").inner_text()
    seen.assert_innocent()
    seen.open(address.removeprefix(nice.url + "/"))
    assert page.locator("#notice .notice").count() == 1 and page.locator("#past .teach").count() == 1


def test_two_tabs_share_a_conversation_and_lose_nothing(nice: Server, tab: Any) -> None:
    one = tab(nice)
    one.ask("first")
    two = tab(nice).open(one.page.evaluate("location.search"))
    assert two.questions() == ["first"]
    two.ask("second")
    one.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    one.until("document.querySelectorAll('.exchange').length === 2")
    one.start("slow")
    one.page.wait_for_selector("#live .answer", timeout=PATIENCE)
    two.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    two.page.wait_for_selector("#live .answer", timeout=PATIENCE)
    two.page.get_by_role("button", name="Stop", exact=True).click()
    for seen in (one, two):
        seen.page.wait_for_selector("#past .cut", timeout=PATIENCE)
        assert seen.questions() == ["first", "second", "slow"]
        seen.assert_innocent()


def test_the_page_can_be_used_with_the_keyboard_alone(nice: Server, tab: Any) -> None:
    seen = tab(nice)
    page = seen.page
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.locator(".help").wait_for(state="visible", timeout=PATIENCE)
    seen.shot("desktop-keys")
    page.keyboard.press("Escape")
    page.locator(".help").wait_for(state="hidden", timeout=PATIENCE)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and /two?")
    assert page.input_value("#question textarea") == "one\nand /two?" and not page.locator(".help").is_visible()
    page.keyboard.press("Enter")
    page.wait_for_selector("#past .footer", timeout=PATIENCE)
    page.focus("#question textarea")
    page.keyboard.press("ArrowUp")
    page.wait_for_selector("#notice .editing", timeout=PATIENCE)
    assert page.input_value("#question textarea") == "one\nand /two?"
    page.keyboard.press("Escape")
    page.wait_for_selector("#notice .editing", state="detached", timeout=PATIENCE)
    assert page.input_value("#question textarea") == ""
    page.keyboard.press("Control+k")
    page.wait_for_selector("#past .teach", timeout=PATIENCE)
    page.focus("#show-chats")
    order = [["show-chats", True]]
    while order[-1][0] != "condition" and len(order) < 120:
        page.keyboard.press("Tab")
        order.append(
            page.evaluate(
                """() => { const e = document.activeElement, r = getComputedStyle(e);
                return [e.closest('[id]').id, r.outlineStyle !== 'none' || r.boxShadow !== 'none'] }"""
            )
        )
    places = list(dict.fromkeys(place for place, _ in order))
    wanted = ["show-chats", "collection", "engine", "show-help", "theme", "new", "chats", "past", "question", "mode"]
    assert [place for place in places if place in wanted] == wanted and places[-1] == "condition"
    assert all(visible for place, visible in order if place in ("new", "chats", "past", "theme")), order
    seen.assert_innocent()


def test_filters_and_models_are_picked(nice: Server, tab: Any) -> None:
    seen = tab(nice)
    page = seen.page
    field = "#condition textarea, #condition input"
    page.focus(field)
    page.get_by_role("button", name="year", exact=True).click()
    assert page.input_value(field) == "year="
    page.fill(field, "year>=2020")
    page.press(field, "Enter")
    page.locator(".chip", has_text="year>=2020").wait_for(timeout=PATIENCE)
    page.fill(field, "nonsense")
    page.press(field, "Enter")
    page.locator("#notice", has_text="not of the form key=value").wait_for(timeout=PATIENCE)
    page.click("#engine input")
    page.get_by_role("option", name="Gpu — not available").click()
    page.locator("#notice", has_text="no GPU was found").wait_for(timeout=PATIENCE)
    seen.until("document.querySelector('#engine input').value === 'Scripted'")
    page.click("#engine input")
    page.get_by_role("option", name="Large").click()
    page.wait_for_selector(".status.ready", timeout=PATIENCE)
    seen.ask("With a filter?")
    seen.page.click(".how summary")
    assert "year>=2020" in seen.text(".facts")
    seen.reload()
    assert page.locator(".chip").count() == 1 and page.input_value("#engine input") == "Large"
    page.click(".chip .remove")
    page.wait_for_selector(".chip", state="detached", timeout=PATIENCE)
    seen.assert_innocent()


def test_a_server_that_was_killed_in_the_middle_shows_what_there_was(tmp_path: Path, tab: Any) -> None:
    serving = serve(tmp_path, NICE)
    server = next(serving)
    seen = tab(server)
    seen.ask("How long may a line be?")
    seen.start("long")
    seen.page.locator("#live .answer", has_text=re.compile(r"(word\s+){40}")).wait_for(timeout=PATIENCE)
    time.sleep(1.2)
    server.process.kill()
    server.process.wait()
    serving.close()
    shown = len(seen.text("#live .answer"))
    serving = serve(tmp_path, NICE, int(server.url.rsplit(":", 1)[1]))
    next(serving)
    # The page that stayed open goes on, as does one that is loaded anew.
    again = tab(server).open(seen.page.evaluate("location.search"))
    assert "The server ended while this was being written" in again.text(".cut")
    assert 0.4 * shown < len(again.text(".answer")) and again.questions()[0] == "How long may a line be?"
    again.ask("And then?")
    assert again.questions() == ["How long may a line be?", "long", "And then?"]
    again.assert_innocent()
    serving.close()


def test_errors_are_sentences_and_the_sources_stay(nice: Server, tab: Any) -> None:
    seen = tab(nice)
    seen.ask("error")
    assert seen.text(".error") == "the engine lost its model; start it again"
    assert "Still here." in seen.text(".source")
    seen.ask("crash")
    assert "Something went wrong while answering (RuntimeError)" in seen.text(".error")
    assert "secret-detail" not in seen.page.content() and "Traceback" not in seen.page.content()
    assert seen.page.locator(f"#source-{seen.turn}-1").count() == 1
    seen.ask("refused")
    assert "do not answer this" in seen.text(".note") and "NO ANSWER" not in seen.page.content()
    assert seen.text(".nearest li").split() == ["1", "a.txt"]
    seen.ask("nothing")
    assert "No passage matches" in seen.text(".turn .empty")
    seen.assert_innocent()


def test_an_example_asks_itself(nice: Server, tab: Any) -> None:
    seen = tab(nice)
    seen.page.get_by_text("What is “Docstring conventions” about?").click()
    seen.page.wait_for_selector(".footer .copy", timeout=PATIENCE)
    assert seen.text(".question") == "What is “Docstring conventions” about?"
    seen.assert_innocent()


JUDGE = """() => {
  const bad = [];
  const tags = 'IMG SVG IFRAME OBJECT EMBED VIDEO AUDIO SOURCE PICTURE LINK STYLE SCRIPT FORM INPUT BASE META DIALOG MATH TEMPLATE CANVAS'.split(' ');
  const ours = /^data-(do|here|turn|n|chat|document|start|end|quotes|collection)$/;
  const roots = '#messages .exchange, #messages .teach, #sources .sources, .status, #chats .chats, #notice .notice, .chips';
  for (const root of document.querySelectorAll(roots)) {
    for (const node of root.querySelectorAll('*')) {
      if (tags.includes(node.tagName.toUpperCase()) || node.tagName.includes('-')) bad.push(node.outerHTML.slice(0, 200));
      for (const attribute of node.attributes)
        if (/^on|^style$|^src|^srcset$|^action$|^data-/.test(attribute.name) && !ours.test(attribute.name)) bad.push(node.outerHTML.slice(0, 200));
      if (node.tagName === 'A' && !/^(#source-\\d+-\\d+|\\?chat=[\\w-]+)$/.test(node.getAttribute('href') || '')) bad.push(node.outerHTML.slice(0, 200));
      if (['fixed', 'absolute', 'sticky'].includes(getComputedStyle(node).position) && !node.matches('.chat > .sure')) bad.push('floats: ' + node.outerHTML.slice(0, 200));
      if (node.classList.contains('mermaid') || node.classList.contains('katex')) bad.push(node.outerHTML.slice(0, 200));
    }
  }
  const loaders = 'IMG IFRAME OBJECT EMBED VIDEO AUDIO SOURCE PICTURE LINK SCRIPT FORM BASE META DIALOG'.split(' ');
  for (const node of document.querySelectorAll('#messages *')) if (loaders.includes(node.tagName)) bad.push(node.outerHTML.slice(0, 200));
  const button = document.querySelector('#question button').getBoundingClientRect();
  const top = document.elementFromPoint(button.x + button.width / 2, button.y + button.height / 2);
  if (!top || !top.closest('#question')) bad.push('the question box is covered by ' + (top && top.outerHTML.slice(0, 200)));
  return bad;
}"""  # noqa: E501


def test_an_engine_that_obeys_every_attack_does_nothing_to_the_page(hostile: Server, tab: Any) -> None:
    assert sum(len(group) for group in hostile_groups()) == len(PAYLOADS) >= 80
    seen = tab(hostile)
    assert seen.page.evaluate(JUDGE) == [], "the examples of the empty page"
    for number in range(len(hostile_groups())):
        seen.ask(f"attack {number}")
        assert seen.page.evaluate(JUDGE) == [], f"attack {number}: {hostile_groups()[number]}"
        assert seen.page.locator(".turn[open] .source").count() == len(hostile_groups()[number])
        if number == 1:
            seen.shot("desktop-hostile")
    for name in ("img-onerror", "markdown-image", "overlay", "mermaid", "template-handlebars", "style-body"):
        seen.ask(PAYLOADS[name])
        assert seen.page.evaluate(JUDGE) == [], f"asked: {name}"
    seen.ask("said by an error")
    assert seen.page.evaluate(JUDGE) == []
    seen.reload()  # the whole history, from the database
    assert seen.page.locator(".exchange").count() == len(hostile_groups()) + 7
    assert seen.page.evaluate(JUDGE) == []
    for name in ("script", "img-onerror", "overlay", "bidi-override", "template-handlebars"):  # titles of conversations
        seen.page.click("#new")
        seen.page.wait_for_selector("#past .teach", timeout=PATIENCE)
        seen.ask(PAYLOADS.get(name, PAYLOADS["svg-onload"]))
        assert seen.page.evaluate(JUDGE) == [], f"title: {name}"
    seen.shot("desktop-hostile-titles")
    seen.page.wait_for_timeout(500)
    seen.assert_innocent()
    peers = {c.raddr.ip for c in psutil.Process(hostile.process.pid).net_connections() if c.raddr}
    assert peers <= {"127.0.0.1"}, "the server talks to this machine alone"


def test_quotes_answer_while_the_model_loads(hostile: Server, tab: Any) -> None:
    seen = tab(hostile)
    assert "loading" in seen.text("#status")
    seen.ask("anything")
    assert "still loading, so these are quotes" in seen.text(".note")
    seen.assert_innocent()


def test_ctrl_c_ends_the_page_in_the_middle_of_an_answer(tmp_path: Path, tab: Any) -> None:
    serving = serve(tmp_path, NICE)
    server = next(serving)
    seen = tab(server)
    seen.start("long")
    seen.page.wait_for_selector(".answer", timeout=PATIENCE)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0
    assert "Traceback" not in server.errors.read_text(encoding="utf-8")
    assert server.ended() == ["closed stop=True"]
    serving.close()
