"""Signals of a search → the probability that the documents answer. Vectors here are written by hand."""

import numpy as np
import pytest

from retrieval.answerability import WITH_MEANING, WORDS_ALONE, MeaningScale, Signals, confidence, signals
from retrieval.embedding.probes import PROBES
from retrieval.passages import Hit, Passage, Scores, Source

SCALE = MeaningScale({"en": 0.0, "zh": 0.6}, chinese=0.0)


def hit(text: str, dense: float | None, title: str = "") -> Hit:
    passage = Passage(1, 1, 0, 0, len(text), None, (), text, 0)
    return Hit(1, 1.0, passage, Source(1, "a.md", title, "md", "", {}), Scores(dense=dense))


def probes(english: float, chinese: float, translation: float) -> np.ndarray:
    """Vectors with these cosines: of unrelated English and Chinese texts, and of a sentence and its translation."""
    count = len(PROBES)
    gram = np.eye(count)
    for i in range(count):
        for j in range(count):
            if i != j:
                same = (i < 5) == (j < 5)
                gram[i, j] = (english if i < 5 else chinese) if same else 0.0
    for n in range(2):
        gram[n, 5 + n] = gram[5 + n, n] = translation
    values, vectors = np.linalg.eigh(gram)
    assert values.min() > -1e-9
    rows = vectors * np.sqrt(np.clip(values, 0, None))
    return np.concatenate([rows, rows])


def test_the_scale_is_read_off_the_probes() -> None:
    scale = MeaningScale.of(probes(english=0.1, chinese=0.4, translation=0.1))
    assert scale.unrelated == pytest.approx({"en": 0.1, "zh": 0.4})
    assert scale.chinese == pytest.approx(0.0, abs=1e-9)
    assert MeaningScale.of(probes(english=0.0, chinese=0.0, translation=0.8)).chinese == pytest.approx(0.8)
    assert scale.meaning(0.1, "en") == pytest.approx(0) and scale.meaning(1.0, "zh") == pytest.approx(1)
    assert scale.meaning(0.0, "zh") == 0 and scale.trust("en") == 1


def test_an_embedder_that_gathers_all_texts_in_one_corner_is_no_surer_than_another() -> None:
    spread = MeaningScale({"en": 0.0, "zh": 0.0}, 1.0)
    gathered = MeaningScale({"en": 0.7, "zh": 0.7}, 1.0)
    question = "When do spring tides come?"
    sure = confidence(question, [hit("Tides come.", 0.5)], spread)
    assert confidence(question, [hit("Tides come.", 0.85)], gathered) == pytest.approx(sure)
    assert confidence(question, [hit("Tides come.", 0.7)], gathered) < sure


def test_meaning_words_and_names_each_count() -> None:
    asked = "When do spring tides come to Brest?"
    best = signals(asked, [hit("Spring tides come to Brest at full moon.", 0.8)], SCALE)
    assert best == Signals(pytest.approx(0.8), 1.0, False, 1.0)
    assert signals(asked, [hit("Spring tides come at full moon.", 0.8)], SCALE).missing
    for worse in (Signals(0.4, 1.0, False, 1.0), Signals(0.8, 0.2, False, 1.0), Signals(0.8, 1.0, True, 1.0)):
        assert worse.confidence < best.confidence
    assert WITH_MEANING.meaning > 0 and WITH_MEANING.words > 0 > WITH_MEANING.missing
    assert WORDS_ALONE.words > 0 > WORDS_ALONE.missing


def test_cosines_of_a_language_that_the_embedder_does_not_read_count_for_nothing() -> None:
    asked = "绿茶的水温应该是多少？"
    near, far = (signals(asked, [hit("绿茶的水温应该在八十度左右。", dense)], SCALE) for dense in (0.95, 0.6))
    assert near.confidence == pytest.approx(far.confidence) and near.confidence > 0.5
    alone = signals(asked, [hit("绿茶的水温应该在八十度左右。", None)], None)
    assert alone.confidence == pytest.approx(near.confidence)
    off = signals(asked, [hit("长城位于中国北方。", 0.7)], SCALE)
    assert off.confidence < 0.2


def test_where_nothing_was_found_nothing_is_answered() -> None:
    assert confidence("anything", [], SCALE) == 0
