"""Pairs of texts as token ids: their sides, what is cut, and how they are put together."""

import numpy as np
import pytest
from tiny_encoders import save_encoder

from retrieval.embedding.model_files import find_model
from retrieval.reranking.cross_encoder import network_facts
from retrieval.reranking.pairs import PairTokenizer, batches, padded


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> PairTokenizer:
    folder = save_encoder(tmp_path_factory.mktemp("base") / "tiny-encoder")
    return network_facts(find_model(str(folder)), 16).tokens()


def test_each_token_has_its_side_and_separators_that_of_the_text_before(tokens: PairTokenizer) -> None:
    (pair,) = tokens("the moon", ["bread 潮 汐"])
    assert len(pair.ids) == 2 + 3 + 3
    assert pair.sides == [0, 0, 0, 0, 1, 1, 1, 1]


def test_what_is_too_long_is_cut_on_the_longer_side(tokens: PairTokenizer) -> None:
    (long_passage,) = tokens("the moon", ["bread " * 1000])
    assert (len(long_passage.ids), long_passage.sides.count(0)) == (16, 4)
    (long_question,) = tokens("moon " * 10_000, ["bread flour"])
    assert (len(long_question.ids), long_question.sides.count(1)) == (16, 3)
    (both,) = tokens("moon " * 10_000, ["bread " * 10_000])
    assert abs(both.sides.count(0) - both.sides.count(1)) <= 2


def test_half_characters_do_no_harm(tokens: PairTokenizer) -> None:
    assert tokens("the \ud800 moon", ["bread \udfff"]) == tokens("the moon", ["bread"])


def test_batches_hold_pairs_of_like_length_and_every_pair_once(tokens: PairTokenizer) -> None:
    texts = [" ".join(["bread"] * number) for number in (1, 9, 2, 10, 3, 8)]
    pairs = tokens("moon", texts)
    found = list(batches(pairs, 0, tokens_per_batch=32))
    assert sorted(place for places, _ in found for place in places) == list(range(6))
    assert [places for places, _ in found] == [[3, 1], [5, 4], [2, 0]]
    for places, (ids, mask, sides) in found:
        assert ids.shape == mask.shape == sides.shape
        assert ids.shape[1] % 16 == 0
        assert mask.sum(1).tolist() == [len(pairs[place].ids) for place in places]
        assert np.all(sides <= mask)
    assert padded(pairs[:1], 7)[0].shape == (1, len(pairs[0].ids))
