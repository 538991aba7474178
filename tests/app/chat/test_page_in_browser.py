"""The real page in a real Chromium: answers, keys, phones, languages, filters, models, errors."""

import re
import time
from typing import Any

from browsed_page import MARKS, PATIENCE, Server

pytestmark = MARKS


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
    assert "No line of code is longer than 79 characters." in marks
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
    assert card.get_attribute("data-quotes").startswith("1000-1045,")
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
    seen.page.locator(".source").wait_for(timeout=PATIENCE)  # while the answer is written, which ends with Stop alone
    assert seen.page.locator(".source").count() == 1
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
