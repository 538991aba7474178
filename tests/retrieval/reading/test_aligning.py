"""Stored text found again on its page: everything that reading changed is forgiven, nothing else is."""

import pytest

from retrieval.reading.aligning import align


def place(page: str, text: str, quote: str, *, nth: int = 0) -> str | None:
    """What stands on the page where `quote` was placed; `nth` picks the occurrence in the stored text."""
    start = -1
    for _ in range(nth + 1):
        start = text.index(quote, start + 1)
    (found,) = align(enumerate(page), text, [(start, start + len(quote))])
    return None if found is None else page[found[0] : found[1] + 1]


@pytest.mark.parametrize(
    ("page", "text", "quote", "shown"),
    [
        ("one two\r\nthree", "one two three", "two three", "two\r\nthree"),
        ("exam\ufffe\nple of it", "example of it", "example", "exam\ufffe\nple"),
        ("well\ufffe\nknown fact", "well-known fact", "well-known", "well\ufffe\nknown"),
        ("the o\ufb03ce is open", "the office is open", "office is", "o\ufb03ce is"),
        ("the office is open", "the o\ufb03ce is open", "o\ufb03ce", "office"),
        ("cafe\u0301 au lait", "caf\u00e9 au lait", "caf\u00e9 au", "cafe\u0301 au"),
        ("a  b\u00a0c", "a b c", "a b c", "a  b\u00a0c"),
        ("x\u200by visible", "xy visible", "xy", "x\u200by"),
        ("Name Size\nbolt 3", "| Name | Size |\n| --- | --- |\n| bolt | 3 |", "| bolt | 3 |", "bolt 3"),
        ("长城位于\n中国北方。", "长城位于中国北方。", "位于中国", "位于\n中国"),
        ("\U0001d4d0\U0001d4d1 letters", "\U0001d4d0\U0001d4d1 letters", "\U0001d4d1 letters", "\U0001d4d1 letters"),
    ],
)
def test_what_reading_changes_is_forgiven(page: str, text: str, quote: str, shown: str) -> None:
    assert place(page, text, quote) == shown


@pytest.mark.parametrize(
    ("page", "text", "quote"),
    [
        ("the limit is 15 days", "the limit is 16 days", "16 days"),
        ("the limit is 15 days", "the limit is 15 days, surely", "15 days, surely"),
        ("nothing of it", "other words", "other words"),
        ("", "words", "words"),
        ("a page", "a - page", " - "),
    ],
)
def test_other_words_are_never_marked(page: str, text: str, quote: str) -> None:
    assert place(page, text, quote) is None


def test_of_equal_stretches_the_right_one_is_marked() -> None:
    text = "first: 12 euro. second: 12 euro. third: 12 euro."
    numbers = [align(enumerate(text), text, [(i, i + 7)])[0] for i in (7, 24, 40)]
    assert numbers == [(7, 13), (24, 30), (40, 46)]


def test_on_a_page_that_differs_elsewhere_the_surroundings_decide() -> None:
    page = "HEAD first: 12 euro. second: 12 euro. third: 12 euro."
    text = "first: 12 euro. second: 12 euro. third: 12 euro."
    assert align(enumerate(page), text, [(24, 31)]) == [(29, 35)]


def test_equal_stretches_in_equal_surroundings_are_not_marked_by_chance() -> None:
    page = "HEAD " + "again and again " * 40
    text = "again and again " * 40
    assert align(enumerate(page), text, [(320, 325)]) == [None]
