"""The review page as the command serves it, and tabs of a real Chromium, shared by the tests of this folder."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browsed_page import CHROMIUM, PATIENCE, ROOT, Server, Witness

from adapt.instructions.example import Example, write_examples


@dataclass
class Reviewer(Witness):
    """One tab of the review page, and everything bad that happened in it."""

    def ready(self) -> "Reviewer":
        self.page.wait_for_selector("#card .example, #card .nothing", timeout=PATIENCE)
        return self

    def press(self, key: str) -> None:
        """Press a key and wait until the page was answered."""
        before = self.serial()
        self.page.keyboard.press(key)
        self.until(f"JSON.parse(document.querySelector('#place textarea').value).serial !== {before}")
        self.page.wait_for_timeout(120)  # the page looks at the answer every 40 ms

    def serial(self) -> int:
        return int(self.page.evaluate("JSON.parse(document.querySelector('#place textarea').value).serial"))

    def shown(self) -> str:
        """What the user says in the example on the page."""
        return str(self.page.locator("#card .message.user .said").first.inner_text())


def served(path: Path) -> Iterator[Server]:
    """`fathom data review` over a file of examples, until the test ends."""
    port = _free_port()
    errors = path.with_name("stderr").open("wb")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    words = ["data", "review", str(path), "--port", str(port), "--workspace", str(path.parent / "workspace")]
    process = subprocess.Popen([sys.executable, "-m", "app", *words], env=environment, stdout=errors, stderr=errors)
    try:
        _wait(port, lambda: process.poll() is None)
        yield Server(f"http://127.0.0.1:{port}", path, process, path.with_name("stderr"))
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        finally:
            process.kill()
            errors.close()


def served_here(path: Path) -> Iterator[Server]:
    """The same page from a thread of this process, which imports Gradio once for all tests."""
    import uvicorn

    from adapt.instructions.reviews import Reviews
    from app.review.server import build_app

    port = _free_port()
    app = build_app(Reviews(path))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        _wait(port, thread.is_alive)
        yield Server(f"http://127.0.0.1:{port}", path, None, path)  # type: ignore[arg-type]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, alive: Callable[[], bool]) -> None:
    for _ in range(400):
        assert alive(), "the page did not start"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.1)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install -e '.[dev]')")
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=quiet)
        yield browser
        browser.close()


def _starting(serve: Callable[[Path], Iterator[Server]], chromium: Any, folder: Path) -> Iterator[Any]:
    """A function from examples to a function that opens tabs on their review."""
    running: list[Iterator[Server]] = []
    contexts: list[Any] = []

    def start(examples: list[Example]) -> Any:
        write_examples(folder / "e.jsonl", examples)
        running.append(serve(folder / "e.jsonl"))
        server = next(running[-1])

        def tab(address: str = "", **options: Any) -> Reviewer:
            options = {"viewport": {"width": 1280, "height": 800}, "locale": "en-US"} | options
            contexts.append(chromium.new_context(**options))
            return Reviewer(contexts[-1].new_page(), server).open(address)  # type: ignore[return-value]

        return tab

    yield start
    for context in contexts:
        context.close()
    for server in running:
        next(server, None)


@pytest.fixture
def review(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    yield from _starting(served_here, chromium, tmp_path)


@pytest.fixture
def command(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    yield from _starting(served, chromium, tmp_path)
