"""The encoder that chooses sentences: the shipped one, and what is said where there is none."""

from pathlib import Path

import pytest

from retrieval.errors import MissingError
from retrieval.reranking.sentences import reader_identity, reader_named


@pytest.mark.slow
def test_the_shipped_one_finds_the_sentence_that_answers_in_other_words(tmp_path: Path) -> None:
    reader = reader_named("packaged", cache=tmp_path)
    assert reader is not None
    told = reader(
        "My drill suddenly stops when I press harder. What is usually behind it?",
        [
            "Cordless drill\nThe drill has two speeds and a light.",
            "Cordless drill\nUnder heavy load the electronics switch the motor off to protect the battery.",
            "Cordless drill\nThe chuck takes drill bits from 1 to 13 mm.",
        ],
    )
    assert told[1] == max(told)
    assert reader_identity("packaged", cache=tmp_path) != reader_identity("words", cache=tmp_path) is None


def test_words_need_no_encoder_and_a_place_without_one_is_named(tmp_path: Path) -> None:
    assert reader_named("words") is None
    reader = reader_named(str(tmp_path / "nowhere"))
    assert reader is not None
    with pytest.raises(MissingError, match="nowhere; set .* quote_by"):
        reader("Why?", ["Because."])
    with pytest.raises(MissingError, match="nowhere"):
        reader_identity(str(tmp_path / "nowhere"), cache=tmp_path)
