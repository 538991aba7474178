"""Claims beside passages: both forms are read, and what is malformed is named by its line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.data.claim_pairs import LABELS, ClaimPair, read_pairs, scifact_documents
from retrieval.errors import ReadingError, UsageError


def lines(file: Path, *rows: object) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def test_pairs_are_read_as_they_were_written(tmp_path: Path) -> None:
    pair = ClaimPair("The wall is 4 m high.", "The wall rises 4 m.", "supported", "d1", "set#7", "by hand", "CC0")
    file = lines(tmp_path / "pairs.jsonl", pair.as_json(), {"claim": "是", "passage": "", "label": "neutral"})
    assert read_pairs(file) == [pair, ClaimPair("是", "", "neutral")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"claim": "a", "passage": "b", "label": "true"}, "line 1.*'true'.*supported, contradicted, neutral"),
        ({"claim": " ", "passage": "b", "label": "neutral"}, "line 1.*says nothing"),
        ({"passage": "b", "label": "neutral"}, "line 1"),
        ({"claim": 3, "passage": "b", "label": "neutral"}, "line 1.*not a text"),
    ],
)
def test_what_is_no_pair_is_named_by_its_line(tmp_path: Path, row: object, said: str) -> None:
    with pytest.raises(ReadingError, match=said):
        read_pairs(lines(tmp_path / "pairs.jsonl", row))


def test_a_place_without_claims_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(UsageError, match="holds no claims"):
            read_pairs(place)


def scifact(folder: Path) -> Path:
    text = " ".join(f"Sentence number {n} is about the {word}." for n, word in enumerate("abcdefgh"))
    lines(folder / "corpus.jsonl", {"_id": "d1", "title": "Title", "text": text})
    base = {"split": "train", "evidence_sentences": [], "cited_doc_ids": ["d1"]}
    lines(
        folder / "claims_evidence.jsonl",
        {**base, "id": 1, "claim": "A", "evidence_doc_id": "d1", "label": "SUPPORT", "evidence_sentences": [4]},
        {**base, "id": 2, "claim": "about the h", "evidence_doc_id": "", "label": "NOT_ENOUGH_INFO"},
        {**base, "id": 3, "claim": "C", "evidence_doc_id": "d1", "label": "CONTRADICT", "split": "validation"},
    )
    return folder


def test_a_claim_of_scifact_comes_with_the_sentences_around_its_evidence(tmp_path: Path) -> None:
    decided, nothing = read_pairs(scifact(tmp_path), "train")
    assert (decided.label, nothing.label) == ("supported", "neutral")
    assert decided.passage.startswith("Title\nSentence number 2 ") and decided.passage.endswith("about the g.")
    assert "number 7" in nothing.passage and "number 0" not in nothing.passage  # the nearest by its words
    assert decided.document == "d1" and decided.source.endswith("#1")
    assert [pair.label for pair in read_pairs(tmp_path, "validation")] == ["contradicted"]
    with pytest.raises(UsageError, match="no split 'test'.*train, validation"):
        read_pairs(tmp_path, "test")


def test_each_split_of_scifact_is_told_with_its_documents(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("scifact")
    found = read_pairs(folder, "validation")
    assert len(found) == 450 and {pair.label for pair in found} == set(LABELS)
    documents = scifact_documents(folder / "claims_evidence.jsonl")
    assert documents["validation"] == {pair.document for pair in found}
