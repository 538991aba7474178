"""Duplicates: exactly one of each group stays, what merely resembles stays too."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.corpus.duplicates import SHINGLE, NearDuplicates, bands, content_key, jaccard
from adapt.corpus.units import Hashing, growing_runs, runs, units
from retrieval.errors import UsageError

WORDS = [f"{first}{second}" for first in "ba de fi go lu ma no pe ri su".split() for second in "ta ke li mo ru".split()]


def text(seed: int, length: int = 200, letters: str = "") -> str:
    drawn = random.Random(seed)
    return ("" if letters else " ").join(drawn.choice(letters or WORDS) for _ in range(length))


def repeats(texts: list[str], folder: Path, threshold: float = 0.8) -> dict[int, int]:
    near = NearDuplicates(threshold, folder)
    for one in texts:
        near.add(one)
    found = near.find(lambda number: texts[number], lambda stage, done, total: None)
    near.close()
    assert not list(folder.iterdir())
    return {number: first for number, (first, _) in found.items()}


def test_units_are_words_and_chinese_characters() -> None:
    assert units("The ＶＡＬＶＥ's open。") == ["the", "valve", "s", "open"]
    assert units("阀门open了") == ["阀", "门", "open", "了"]


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 8))
def test_runs_are_equal_exactly_where_the_units_are(values: list[int], length: int) -> None:
    hashes = Hashing().of(" ".join("abcd"[value] for value in values))
    found = runs(hashes, length)
    size = min(length, len(values))
    expected = [tuple(values[start : start + size]) for start in range(len(values) - size + 1)] if values else []
    assert len(found) == len(expected)
    assert len(set(found.tolist())) == len(set(expected))
    assert all(len(part) == len(values) - size + 1 for size, part in growing_runs(hashes, length))


def test_content_keys_ignore_spaces_and_composition_and_nothing_else() -> None:
    assert content_key("a  b\n\nc\u0301 ") == content_key("a b ć")
    assert content_key("a b") != content_key("A b") != content_key("a, b")


def test_a_repetition_with_a_few_words_changed_is_found_and_the_first_is_kept(tmp_path: Path) -> None:
    base = text(1)
    changed = base.split()
    changed[50] = "other"
    texts = [text(2), base, text(3), " ".join(changed), base.upper() + " once more", text(4)]
    assert repeats(texts, tmp_path) == {3: 1, 4: 1}


def test_chinese_is_compared_by_its_characters(tmp_path: Path) -> None:
    letters = "阀门每九十天检查一次报告随后交给工程师数据模型训练语料库评测问题答案"
    base = text(1, 300, letters)
    assert repeats([base, text(2, 300, letters), base[:150] + "新" + base[151:]], tmp_path) == {2: 0}


def test_half_of_a_text_is_no_repetition(tmp_path: Path) -> None:
    base = text(1)
    assert repeats([base, base[: len(base) // 2] + text(2, 100)], tmp_path) == {}


def test_texts_without_a_word_are_like_no_other(tmp_path: Path) -> None:
    assert repeats(["+++", "---", "+++", ""], tmp_path) == {}


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=12), drawn=st.randoms(use_true_random=False))
def test_exactly_one_of_each_group_is_kept_and_it_is_the_first(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], drawn: random.Random
) -> None:
    """Groups of the same text, each copy with another last word: similarity 191 / 201 or more."""
    copies = [(group, copy) for group, size in enumerate(sizes) for copy in range(size)]
    drawn.shuffle(copies)
    texts = [f"{text(1000 + group)} copy{copy}" for group, copy in copies]
    found = repeats(texts, tmp_path_factory.mktemp("near"))
    firsts: dict[int, int] = {}
    for number, (group, _) in enumerate(copies):
        firsts.setdefault(group, number)
    assert found == {n: firsts[group] for n, (group, _) in enumerate(copies) if firsts[group] != n}


def test_every_pair_above_the_threshold_is_met_with_95_percent_and_none_below_is_dropped(tmp_path: Path) -> None:
    """120 pairs whose real similarity is just above 0.8 and 120 just below it."""
    hashing = Hashing()
    texts: list[str] = []
    wanted = {True: 0, False: 0}
    for seed in range(240):
        above = seed % 2 == 0
        words = text(seed, 400).split()
        for place in range(7 if above else 11):
            words[20 + place * 30] = f"new{seed}x{place}"
        texts += [text(seed, 400), " ".join(words)]
        one, other = (np.unique(runs(hashing.of(texts[at]), SHINGLE)) for at in (-2, -1))
        assert (jaccard(one, other) >= 0.8) is above
        wanted[above] += 1
    found = repeats(texts, tmp_path)
    assert all(number == first + 1 and (first // 2) % 2 == 0 for number, first in found.items())
    assert len(found) >= 0.95 * wanted[True]


def test_the_bands_reach_the_threshold_and_no_threshold_is_taken_at_which_a_subject_would_do(tmp_path: Path) -> None:
    for threshold in (0.3, 0.5, 0.8, 0.95, 1.0):
        count, rows = bands(threshold)
        assert count * rows <= 128 and 1 - (1 - threshold**rows) ** count >= 0.95
    with pytest.raises(UsageError, match="between 0.3 and 1"):
        NearDuplicates(0.1, tmp_path)
