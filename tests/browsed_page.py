"""A served chat page, and a tab in Chromium that witnesses what happens in it, for the tests in tests/app/chat.

Screenshots go to build/screenshots/, for people to look at.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import TimeoutError as TookTooLong

CHROMIUM = Path("/usr/bin/chromium")
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM} (apt-get install chromium)"),
]

ROOT = Path(__file__).parents[1]
HERE = ROOT / "tests" / "app" / "chat"
SCREENSHOTS = ROOT / "build" / "screenshots"
PAYLOADS: dict[str, str] = {
    item["name"]: item["text"] for item in json.loads((HERE / "hostile.json").read_text(encoding="utf-8"))
}
PATIENCE = 30_000  # milliseconds: the machine may be busy with other work

STYLE_GUIDE = """No line of code is longer than 79 characters.

Text that flows, such as a docstring or a comment, is set narrower: 72 characters, so that it can be read at a glance \
beside the code it belongs to.

Short lines leave room for several files next to each other, and for a reviewer who compares two versions column by \
column. A team may agree on more, as long as all of it agrees."""
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
             "text": "A docstring is the string that a module or a function begins with."},
            {"uri": "指南/代码风格.md", "title": "代码风格指南", "headings": ["行长度"],
             "text": "每行最多 79 个字符。文档字符串或注释每行应限制在 72 个字符以内。"},
        ],
        "answer": ANSWER,
        "citations": [
            [1, "No line of code is longer than 79 characters.", "yes"],
            [1, "is set narrower: 72 characters", "yes"],
            [3, "文档字符串或注释每行应限制在 72 个字符以内", "partly"],
            [2, "A docstring is the string", "no"],
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
        answered = self.page.locator("#messages .footer").nth(before)
        try:
            answered.wait_for(timeout=PATIENCE // 3)
        except TookTooLong:
            # Gradio lost the key once in some hundred times, when a value of the box's came from the server at the same
            # moment; the question was still there, and a person would press it again.
            if self.page.input_value("#question textarea") == question:
                self.page.press("#question textarea", "Enter")
            answered.wait_for(timeout=PATIENCE)

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
