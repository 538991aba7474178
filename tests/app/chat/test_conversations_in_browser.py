"""Conversations in a real Chromium: reloaded, edited, shared by tabs, and cut by a server that ends."""

import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from browsed_page import MARKS, NICE, PATIENCE, Server, serve

pytestmark = MARKS


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
