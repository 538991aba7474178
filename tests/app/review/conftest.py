"""The review page as the command serves it, and tabs of a real Chromium, shared by the tests of this folder."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    errors = path.with_name("stderr").open("wb")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    words = ["data", "review", str(path), "--port", str(port), "--workspace", str(path.parent / "workspace")]
    process = subprocess.Popen([sys.executable, "-m", "app", *words], env=environment, stdout=errors, stderr=errors)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(400):
            if process.poll() is not None:
                pytest.fail("the page did not start: " + path.with_name("stderr").read_text()[-2000:])
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.25)
        yield Server(url, path, process, path.with_name("stderr"))
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        finally:
            process.kill()
            errors.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install -e '.[dev]')")
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def review(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    """A function from examples to a function that opens tabs on their review."""
    running: list[Iterator[Server]] = []
    contexts: list[Any] = []

    def start(examples: list[Example]) -> Any:
        write_examples(tmp_path / "e.jsonl", examples)
        running.append(served(tmp_path / "e.jsonl"))
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
