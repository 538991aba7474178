"""The review page in a real Chromium: keys, edits, filters, two tabs, hostile examples, phones, a server that ends."""

from pathlib import Path
from typing import Any

import pytest
from browsed_page import MARKS, PATIENCE, PAYLOADS

from adapt.instructions.example import Example, Message, Origin, read_examples
from adapt.instructions.reviews import Reviews

pytestmark = MARKS


def example(number: int, **more: Any) -> Example:
    return Example.of(
        [Message("user", f"question {number}"), Message("assistant", f"answer {number}\n  indented")], **more
    )


def test_keys_decide_edit_and_go_and_two_tabs_lose_nothing(review: Any, tmp_path: Path) -> None:
    kinds: list[Any] = ["rows", "rows", "grounded", "raft", "rows"]
    tab = review([example(n, origin=Origin(kind), checks={"support": n / 10}) for n, kind in enumerate(kinds)])
    seen = tab()
    page = seen.page
    assert seen.shown() == "question 0" and "1 of 5" in seen.text(".at")
    seen.press("a")
    assert seen.shown() == "question 1" and "1 of 5 decided" in seen.text(".done")
    page.keyboard.press("n")
    page.keyboard.type("are you sure?")  # no letter of a note is a key
    page.keyboard.press("Enter")
    seen.press("r")
    assert seen.shown() == "question 2"

    page.keyboard.press("e")
    assert page.input_value("#card .assistant textarea") == "answer 2\n  indented"
    page.keyboard.type(" and more")
    page.keyboard.press("Escape")
    assert page.locator("#card textarea").count() == 0 and "and more" not in seen.text("#card .assistant .said")
    page.keyboard.press("e")
    page.fill("#card .assistant textarea", "更好的回答\n<b>ear</b>")
    seen.press("Control+Enter")
    assert seen.shown() == "question 3"

    other = tab(page.url.partition("/?")[2] and "?" + page.url.partition("/?")[2])
    assert other.shown() == "question 3"
    other.press("a")
    seen.press("r")  # not having seen it
    assert seen.shown() == "question 3" and "another tab" in seen.text("#notice .notice")
    page.keyboard.press("e")
    page.fill("#card .assistant textarea", "mine")
    other.page.goto(other.page.url.replace("state=open", "state=accepted"))
    other.ready()
    other.press("ArrowRight")
    other.press("u")
    seen.press("Control+Enter")  # overtaken again: what was written stays
    assert page.input_value("#card .assistant textarea") == "mine"
    seen.press("Control+Enter")
    assert seen.shown() == "question 4" and "3 of 5 decided" not in seen.text(".done")

    reviews = Reviews(tmp_path / "e.jsonl")
    states = [reviews.state(name) for name in reviews.order]
    assert states == ["accepted", "rejected", "edited", "edited", "open"]
    assert reviews.note(reviews.order[1]) == "are you sure?"
    assert reviews.messages(reviews.order[2])[1].content == "更好的回答\n<b>ear</b>"
    assert reviews.messages(reviews.order[3])[1].content == "mine"

    page.select_option("[data-filter=state]", "")
    seen.until("document.querySelector('.at').textContent.includes('5 of 5')")
    page.select_option("[data-filter=origin]", "rows")
    seen.until("document.querySelector('.at').textContent.includes('3 of 3')")
    page.select_option("[data-filter=score]", "support")
    page.wait_for_selector("[data-filter=below]", timeout=PATIENCE)
    seen.until("location.search.includes('score=support')")  # drawn to the end: what is typed meanwhile would be lost
    page.fill("[data-filter=below]", "0.15")
    page.press("[data-filter=below]", "Enter")
    seen.until("document.querySelector('.at').textContent.includes('of 2')")
    seen.until("location.search.includes('below=0.15')")  # the address follows what is shown
    address = page.url
    seen.reload()
    assert page.url == address and "of 2" in seen.text(".at")
    seen.press("ArrowLeft")
    assert "last" in seen.text("#notice .notice")
    seen.shot("review")
    seen.assert_innocent()
    other.assert_innocent()


def test_hostile_examples_are_shown_as_text_and_edits_keep_what_cannot_be_seen(review: Any, tmp_path: Path) -> None:
    names = sorted(PAYLOADS)
    groups = [names[at : at + 8] for at in range(0, len(names), 8)]
    examples = [
        Example.of(
            [Message("user", "\n\n".join(PAYLOADS[name] for name in group).encode("utf-8", "replace").decode()),
             Message("assistant", "hid\u200bden\u202e\r\nlines")],
            origin=Origin("rows", PAYLOADS[group[0]][:200], PAYLOADS[group[-1]][:200], "<script>pwned=1</script>"),
            labels={"<img src=x onerror=pwned=1>": "<b>"}, checks={"<i>": 1.0},
        ) for group in groups
    ]  # fmt: skip
    seen = review(examples)()
    for number in range(len(groups)):
        assert f"{number + 1} of {len(groups)}" in seen.text(".at")
        assert "cannot be seen" in seen.text("#card .assistant .hidden")
        seen.press("ArrowRight")
    seen.page.keyboard.press("e")
    seen.page.fill("#card .user textarea", "mended")
    seen.press("Control+Enter")
    reviews = Reviews(tmp_path / "e.jsonl")
    assert [message.content for message in reviews.messages(reviews.order[0])] == [
        "mended",
        "hid\u200bden\u202e\r\nlines",
    ]
    assert seen.page.locator("#card img, #card script, #card a, #card iframe, #card b").count() == 0
    seen.assert_innocent()


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_in_chinese_shows_everything_within_its_width(review: Any, tmp_path: Path, dark: bool) -> None:
    long = Example.of([Message("user", "长" * 30_000), Message("assistant", "word" * 500)], checks={"support": 0.5})
    other = example(1, origin=Origin("rows"))
    seen = review([long, other])(viewport={"width": 390, "height": 800}, locale="zh-CN")
    if dark:
        seen.page.click("#theme")
    assert "待审" in seen.text(".state") and "修改时全部显示" in seen.text("#card .cut")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("accept", "edit", "reject"):
        box = seen.page.locator(f"#actions button.{name}").bounding_box()
        assert (
            box["height"] >= 40 and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 800
        )
    seen.page.click("#actions .edit")
    assert len(seen.page.input_value("#card .user textarea")) == 30_000
    seen.page.click("#actions .ui-cancel, #actions .cancel")
    for name in ("accept", "reject"):
        before = seen.serial()
        seen.page.click(f"#actions button.{name}")
        seen.until(f"JSON.parse(document.querySelector('#place textarea').value).serial !== {before}")
        seen.page.wait_for_timeout(120)
    assert "fathom data reviewed" in seen.text("#card .nothing")
    seen.shot(f"review-phone{'-dark' if dark else ''}")
    found = [one.review.decision if one.review else "" for one in Reviews(tmp_path / "e.jsonl").reviewed()]
    assert found == ["accepted", "rejected"]
    assert len(list(read_examples(tmp_path / "e.jsonl"))) == 2
    seen.assert_innocent()


def test_a_server_that_is_gone_is_told_and_nothing_typed_is_lost(command: Any, tmp_path: Path) -> None:
    seen = command([example(0), example(1)])()
    seen.press("a")
    seen.page.keyboard.press("e")
    seen.page.fill("#card .assistant textarea", "typed")
    seen.server.process.kill()
    seen.server.process.wait()
    seen.page.keyboard.press("Control+Enter")
    seen.page.wait_for_selector(".stalled", state="visible", timeout=PATIENCE)
    assert seen.page.input_value("#card .assistant textarea") == "typed"
    assert Reviews(tmp_path / "e.jsonl").counts()["accepted"] == 1
