"""The pool finds what comparing with every text would find, and only that."""

import random

import pytest

from adapt.instructions.writing.pool import Pool
from eval.figures.answer_metrics import rouge_l


def pool_of(*texts: str) -> Pool:
    pool = Pool()
    for text in texts:
        pool.add(text)
    return pool


def test_an_instruction_that_shares_seven_tenths_in_order_is_near() -> None:
    pool = pool_of("Name the capital of France", "Write a short poem about the rain in May")
    # 7 of 9 and 9 words in common, in order: 2 * 7 / 18
    near = pool.nearest("Write a long poem about the snow in May")
    assert near is not None and near[0] == 1 and near[1] == pytest.approx(14 / 18)
    assert pool.nearest("May the rain about poem short a write in") is None  # the same words in another order
    assert pool.nearest("Explain why the sky is blue") is None


def test_chinese_instructions_are_compared_by_characters() -> None:
    pool = pool_of("写一首关于春雨的短诗")
    near = pool.nearest("写一首关于秋雨的短诗")
    assert near is not None and near[1] == pytest.approx(0.9)
    assert pool.nearest("解释天空为什么是蓝色的") is None


@pytest.mark.parametrize("least", [0.3, 0.5, 0.7])
def test_it_finds_the_first_of_the_nearest_as_comparing_with_all_does(least: float) -> None:
    draw = random.Random(3)
    words = [f"w{n}" for n in range(40)]
    texts = [" ".join(draw.choices(words, [1 / (n + 1) for n in range(40)], k=draw.randint(1, 14))) for _ in range(240)]
    pool = pool_of(*texts[:160])
    found = 0
    for text in texts[160:]:
        likeness = [rouge_l(text, [other]) for other in pool.texts]
        best = max(likeness)
        expected = (likeness.index(best), best) if best >= least else None
        assert pool.nearest(text, least) == expected
        found += expected is not None
    assert 0 < found


def test_texts_without_a_word_are_alike_and_an_empty_pool_has_nothing() -> None:
    assert Pool().nearest("anything") is None
    assert pool_of("a b", "?!").nearest("...") == (1, 1.0)
    assert pool_of("a b").nearest("...") is None
