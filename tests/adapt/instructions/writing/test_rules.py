"""Each rule about what a model wrote has a name, fires on what it is for, and leaves good texts alone."""

import pytest

from adapt.instructions.example import Example, Message
from adapt.instructions.filters import Limits
from adapt.instructions.writing.rules import KEYWORDS, REASONS, answer_fault, instruction_fault


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        ("  ", "en", "empty"),
        ("Go on.", "en", "too-short"),
        ("翻译它", "zh", "too-short"),
        ("Describe every single thing " * 40, "en", "too-long"),
        ("用一句话介绍你最喜欢的书", "en", "language"),
        ("Describe the picture in one sentence.", "en", "word"),
        ("Open the file and count its lines.", "en", "word"),
        ("根据图片写一段描述", "zh", "word"),
        (", and then summarise the article", "en", "form"),
        ("Write a letter to [your name here] about it.", "en", "placeholder"),
        ("请为【插入主题】写一段介绍文字", "zh", "placeholder"),
        ("List the list of the list of the list of the list of the list", "en", "repetition"),
    ],
)
def test_an_instruction_that_cannot_be_followed_is_named(text: str, language: str, reason: str) -> None:
    broken = instruction_fault(text, language)  # type: ignore[arg-type]
    assert broken is not None and broken[0] == reason and reason in REASONS


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Rewrite the paragraph in the past tense.", "en"),
        ("`sum(x)` fails on an empty list: why?", "en"),
        ("What is the profile of a good manager?", "en"),  # "file" inside a word
        ("给下面的段落起一个标题。", "zh"),
        ("用 Python 写一个函数计算阶乘", "zh"),
    ],
)
def test_a_good_instruction_passes(text: str, language: str) -> None:
    assert instruction_fault(text, language) is None  # type: ignore[arg-type]


def test_words_can_be_added_and_length_be_left_alone() -> None:
    assert instruction_fault("Cook a soup of red beets.", "en", (*KEYWORDS, "soup")) == ("word", "soup")
    long = " ".join(f"word{n}" for n in range(400))
    assert instruction_fault(long, "en", ()) == ("too-long", "400 words")
    assert instruction_fault(long, "en", (), any_length=True) is None


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Who was the first?", "I'm sorry, but I do not know that.", "sorry"),
        ("谁是第一个？", "很抱歉，我无法回答这个问题。", "sorry"),
        ("Who was it?", "... !!", "signs"),
        ("Who was it?", "and the of it", "signs"),
        ("Write a line.", "[Insert a line here]", "placeholder"),
        ("Who was it?", "As an AI language model, I know of nobody.", "boilerplate"),
        ("Who leads it?", "who  leads it?", "echo"),
        ("Say more.", "It is very good and " * 60, "repetition"),
        ("Say more.", "abc " * 2_001, "too-long"),
    ],
)
def test_an_answer_that_teaches_nothing_is_named(question: str, answer: str, reason: str) -> None:
    example = Example.of([Message("user", question), Message("assistant", answer)])
    broken = answer_fault(example, Limits())
    assert broken is not None and broken[0] == reason and reason in REASONS


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Does it recommend it? yes or no", "yes"),
        ("Which letter is it?", "A"),
        ("这样对吗？", "是的"),
        ("Write an apology for a late parcel.", "We are sorry that your parcel is late."),
        ("Solve 2x = 4.", "x = 2"),
        ("What is a list in Python?", "A list such as [1, 2, 3] holds values in order."),
    ],
)
def test_short_and_apologising_answers_may_be_right(question: str, answer: str) -> None:
    assert answer_fault(Example.of([Message("user", question), Message("assistant", answer)]), Limits()) is None
