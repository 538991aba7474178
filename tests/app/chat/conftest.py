"""Served pages and tabs of a real Chromium, shared by the tests of one file."""

from collections.abc import Iterator
from typing import Any

import pytest
from browsed_page import CHROMIUM, NICE, Server, Witness, hostile_scripts, serve


@pytest.fixture(scope="module")
def nice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serve(tmp_path_factory.mktemp("nice"), NICE)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serve(tmp_path_factory.mktemp("hostile"), hostile_scripts())


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install -e '.[dev]')")
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=quiet)
        yield browser
        browser.close()


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
