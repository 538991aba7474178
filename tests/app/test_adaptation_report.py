"""The report of a run of a recipe in a real Chromium: light, dark, on a telephone, printed; deaf to hostile texts.

Screenshots go to build/screenshots/, for people to look at.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_adaptations import adapted

from adapt.evidence.report import write_report

CHROMIUM = Path("/usr/bin/chromium")
HERE = Path(__file__).parent
SCREENSHOTS = HERE.parents[1] / "build" / "screenshots"
PAYLOADS = [item["text"] for item in json.loads((HERE / "chat" / "hostile.json").read_text(encoding="utf-8"))]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM} (apt-get install chromium)"),
]
Visit = Callable[..., tuple[Any, list[str]]]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install -e '.[dev]')")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Visit]:
    """Opens a report; gives the page and everything it did that a report must not do."""
    contexts = []

    def opened(file: Path, **options: Any) -> tuple[Any, list[str]]:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        deeds: list[str] = []
        page.on("request", lambda asked: None if asked.url.startswith("file:") else deeds.append(asked.url))
        page.on("dialog", lambda dialog: (deeds.append("dialog"), dialog.dismiss()))
        page.on("pageerror", lambda error: deeds.append(f"error {error}"))
        page.on("console", lambda message: deeds.append(f"console {message.text}"))
        context.on("page", lambda other: deeds.append("window") if other != page else None)
        page.goto(f"file://{file}")
        return page, deeds

    yield opened
    for context in contexts:
        context.close()


def shot(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"adaptation-{name}.png", full_page=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}),
        ("narrow", {"viewport": {"width": 320, "height": 700}}),
    ],
)
def test_it_can_be_read_everywhere(visit: Visit, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    adapted(tmp_path)
    page, deeds = visit(write_report(tmp_path), **options)
    assert deeds == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    assert page.locator("svg.curves").count() == 6
    assert page.locator(".gates .crossed").count() == 2  # in the summary and at its stage
    assert page.locator(".sides > div").count() == 3
    shot(page, name)


def test_the_theme_can_be_changed_and_a_faint_curve_stays_visible(visit: Visit, tmp_path: Path) -> None:
    adapted(tmp_path)
    page, deeds = visit(write_report(tmp_path))
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.click("#theme")
    assert page.evaluate(colour) != before
    assert page.evaluate("getComputedStyle(document.querySelector('.curves .line.s1')).strokeDasharray") == "none"
    alone = "[...document.querySelectorAll('.curves')].find(s => !s.querySelector('.s1')).querySelector('.s0')"
    assert page.evaluate(f"getComputedStyle({alone}).strokeOpacity") == "1", "a curve without a trend is bold itself"
    assert deeds == []


def test_it_prints_on_paper(visit: Visit, tmp_path: Path) -> None:
    adapted(tmp_path)
    page, _ = visit(write_report(tmp_path))
    paper = page.pdf(format="A4")
    assert paper.startswith(b"%PDF") and len(paper) > 20_000


def test_hostile_texts_do_nothing(visit: Visit, tmp_path: Path) -> None:
    adapted(tmp_path, lambda text: f"{text} {' '.join(PAYLOADS)}")
    page, deeds = visit(write_report(tmp_path))
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.wait_for_timeout(300)
    assert deeds == []
    assert page.evaluate("window.pwned") is None
    assert page.locator("img, iframe, object, embed, form, a[href^='http']").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
