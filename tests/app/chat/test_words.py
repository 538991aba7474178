"""The page's sentences: both languages say everything, and the browser chooses between them."""

import re
from typing import Any

import pytest

from app.chat.words import CHINESE, ENGLISH, duration, words_for


@pytest.mark.parametrize(
    ("header", "language"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-US,en;q=0.9,zh;q=0.5", "en"), ("de,fr", "en"), ("", "en"), (";;,", "en")],
)
def test_the_browser_chooses_the_language(header: str, language: str) -> None:
    assert words_for(header).language == language


def shape(value: Any) -> Any:
    """What two translations must share: the gaps of a sentence, the keys of a table, the length of a list."""
    if isinstance(value, str):
        return set(re.findall(r"{\w+}", value))
    if isinstance(value, tuple):
        return [shape(item) for item in value]
    return {key: shape(item) for key, item in value.items()}


def test_both_languages_have_the_same_gaps_to_fill() -> None:
    for name in ENGLISH.__slots__:
        ours, theirs = getattr(ENGLISH, name), getattr(CHINESE, name)
        assert shape(ours) == shape(theirs), name
        assert ours != theirs, name


def test_times_are_short() -> None:
    assert [duration(s, ENGLISH) for s in (0.0, 0.0124, 0.9996, 1.06, 130.2)] == [
        "1 ms",
        "12 ms",
        "1.0 s",
        "1.1 s",
        "130 s",
    ]
    assert duration(2, CHINESE) == "2.0 秒"


def test_no_sentence_was_left_in_english() -> None:
    def sentences(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        return [text for item in (value.values() if hasattr(value, "values") else value) for text in sentences(item)]

    keys = {key for key, _ in CHINESE.keys}
    for name in CHINESE.__slots__:
        for text in sentences(getattr(CHINESE, name)):
            if name != "language" and text not in keys:
                assert re.search("[\u4e00-\u9fff]", text), (name, text)
