"""Every form of data becomes questions with the texts that answer them."""

import json
from pathlib import Path

import pytest

from adapt.encoders.claims import load_claims
from adapt.encoders.pair_recipe import PairSource
from adapt.encoders.questions import is_held_out, load_questions
from retrieval.errors import ReadingError, UsageError


def lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_a_title_asks_for_its_body_and_leaves_it(tmp_path: Path) -> None:
    body = "The moon pulls the sea towards itself. " * 8
    lines(
        tmp_path / "texts.jsonl",
        {"id": 1, "title": "Why there are tides", "text": f"Why there are tides\n{body}"},
        {"id": 2, "title": "月亮 与 潮汐", "text": "潮汐是由月亮引起的。" * 40},
        {"id": 3, "title": "Short text here", "text": "Too little to answer."},
        {"id": 4, "title": "Tides", "text": body},
    )
    found = load_questions("titles", PairSource(path="texts.jsonl", kind="titles"), tmp_path, 0)
    assert list(found.queries.values()) == ["Why there are tides", "月亮 与 潮汐"]
    assert len(found.documents) == 4  # the others are there to be told from
    assert not any("Why there are tides" in document.text for document in found.documents)


def test_pairs_join_equal_questions_and_keep_what_was_judged_wrong(tmp_path: Path) -> None:
    lines(
        tmp_path / "pairs.jsonl",
        {"query": "what makes tides", "positive": "The moon.", "negatives": ["The wind."]},
        {"query": "what makes tides", "positive": "The sun, a little."},
        {"query": "what raises dough", "positive": "Yeast.", "negatives": []},
    )
    found = load_questions("pairs", PairSource(path="pairs.jsonl", kind="pairs"), tmp_path, 0)
    assert sorted(found.queries.values()) == ["what makes tides", "what raises dough"]
    texts = {document.id: document.text for document in found.documents}
    (tides,) = (question for question, text in found.queries.items() if "tides" in text)
    assert {texts[key]: grade for key, grade in found.qrels[tides].items()} == {
        "The moon.": 1,
        "The wind.": 0,
        "The sun, a little.": 1,
    }


def test_a_limit_keeps_the_questions_of_a_text_together_and_only_its_distractors(tmp_path: Path) -> None:
    rows = [{"query": f"question {n} of text {n // 2}", "positive": f"text {n // 2}"} for n in range(40)]
    lines(tmp_path / "pairs.jsonl", *rows)
    source = PairSource(path="pairs.jsonl", kind="pairs", limit=10, distractors=3)
    found = load_questions("pairs", source, tmp_path, 0)
    assert (len(found.queries), len(found.documents)) == (10, 5 + 3)
    assert found.queries == load_questions("pairs", source, tmp_path, 0).queries
    by_text: dict[str, set[bool]] = {}
    for question, text in found.queries.items():
        by_text.setdefault(text.split()[-1], set()).add(is_held_out(found, question, 0.5))
    assert all(len(sides) == 1 for sides in by_text.values())  # never learned from and measured on
    assert {side for sides in by_text.values() for side in sides} == {True, False}


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data shelf="):
        load_questions("shelf", PairSource(path="none"), tmp_path, 0)
    lines(tmp_path / "pairs.jsonl", {"query": "why", "positive": "so", "negatives": "no list"})
    with pytest.raises(ReadingError, match="line 1: 'negatives'"):
        load_questions("pairs", PairSource(path="pairs.jsonl", kind="pairs"), tmp_path, 0)
    lines(tmp_path / "empty.jsonl", {"query": " ", "positive": "so"})
    with pytest.raises(UsageError, match="no question"):
        load_questions("pairs", PairSource(path="empty.jsonl", kind="pairs"), tmp_path, 0)


def test_a_claim_comes_with_the_sentences_that_decide_it(tmp_path: Path) -> None:
    text = "Tides are high. The moon causes tides. The wind is weak. Bread needs salt. Flour is dry. Yeast is alive."
    lines(tmp_path / "corpus.jsonl", {"_id": "7", "title": "On tides", "text": text})
    claim = {"id": "1", "claim": "The moon causes tides.", "evidence_doc_id": "7", "evidence_sentences": [1]}
    neutral = {"claim": "Salt is blue.", "label": "NOT_ENOUGH_INFO", "evidence_sentences": [], "cited_doc_ids": ["7"]}
    lines(
        tmp_path / "claims_evidence.jsonl",
        *(claim | {"label": label} for label in ("SUPPORT", "CONTRADICT")),
        neutral,
    )
    source = PairSource(path=".", kind="claims")
    learned, held = load_claims("claims", source, tmp_path, 1e-9, 0)
    assert held == []
    first = learned[0]
    assert (first.label, first.passage) == (
        0,
        "On tides\nTides are high. The moon causes tides. The wind is weak.",
    )
    assert {one.label for one in learned} == {0, 1, 2}
    neutrals = [one for one in learned if one.label == 2 and one.claim == claim["claim"]]
    assert all("moon" not in one.passage for one in neutrals)
