"""Packed rows through transformers: which form of input keeps documents apart, and which lets them see each other."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import tiny_models

from adapt.corpus.packing import position_ids

ROWS = ([9, 1, 14, 6], [30], [5, 20, 3])
"""Lengths of the pieces of three rows; the rows have 30, 30 and 28 tokens, so the last is padded."""
LENGTH = 30


@lru_cache(maxsize=1)
def model() -> Any:
    return tiny_models.llama(tiny_models.byte_tokenizer())


@pytest.fixture(params=["sdpa", "eager"])
def attention(request: pytest.FixtureRequest) -> Iterator[str]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for matrices this small, threads only wait for each other
    model().set_attn_implementation(request.param)
    yield request.param
    model().eval()
    torch.set_num_threads(threads)


def rows() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(2, 250, size=sum(pieces)) for pieces in ROWS]


def logprobs(logits: Any, ids: np.ndarray, pieces: list[int]) -> np.ndarray:
    """ln P of every token that is not the first of its piece."""
    told = logits.float().log_softmax(-1).detach().numpy()
    starts = set((np.cumsum(pieces) - pieces).tolist())
    return np.array([told[place - 1, ids[place]] for place in range(1, len(ids)) if place not in starts])


def separate() -> np.ndarray:
    """The definition: every piece through the model alone."""
    return np.array(
        [
            value
            for ids, pieces in zip(rows(), ROWS, strict=True)
            for piece in np.split(ids, np.cumsum(pieces)[:-1])
            for value in tiny_models.plain_logprobs(model(), piece.tolist())
        ]
    )


def padded() -> tuple[Any, Any]:
    """Rows side by side; the padding is one more piece, so positions begin anew there too."""
    import torch

    ids = np.stack([np.pad(row, (0, LENGTH - len(row))) for row in rows()])
    positions = [
        position_ids(np.array([*pieces, *([LENGTH - sum(pieces)] if sum(pieces) < LENGTH else [])])) for pieces in ROWS
    ]
    return torch.tensor(ids), torch.tensor(np.stack(positions))


def of_batch(logits: Any) -> np.ndarray:
    return np.concatenate(
        [logprobs(logits[n, : len(ids)], ids, pieces) for n, (ids, pieces) in enumerate(zip(rows(), ROWS, strict=True))]
    )


def flattened(**options: Any) -> np.ndarray:
    """All rows one after the other as a single row, as flash attention wants it."""
    import torch

    ids = np.concatenate(rows())
    pieces = [piece for row in ROWS for piece in row]
    out = model()(input_ids=torch.tensor(ids)[None], position_ids=torch.tensor(position_ids(np.array(pieces)))[None],
                  **options)  # fmt: skip
    return logprobs(out.logits[0], ids, pieces)


@pytest.mark.parametrize("training", [False, True])
def test_positions_without_a_mask_and_without_the_cache_keep_documents_apart(attention: str, training: bool) -> None:
    alone = separate()
    model().train(training)
    ids, positions = padded()
    batch = of_batch(model()(input_ids=ids, position_ids=positions, use_cache=False).logits)
    np.testing.assert_allclose(batch, alone, atol=2e-5)
    np.testing.assert_allclose(flattened(use_cache=False), alone, atol=2e-5)


def test_the_backbone_keeps_them_apart_on_the_same_terms(attention: str) -> None:
    ids, positions = padded()
    hidden = model().model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    np.testing.assert_allclose(of_batch(model().lm_head(hidden)), separate(), atol=2e-5)


def test_activation_checkpointing_changes_nothing_about_it(attention: str) -> None:
    alone = separate()
    model().train()
    model().activation_checkpointing_enable()
    try:
        ids, positions = padded()
        batch = of_batch(model()(input_ids=ids, position_ids=positions, use_cache=False).logits)
    finally:
        model().activation_checkpointing_disable()
    np.testing.assert_allclose(batch, alone, atol=2e-5)


def test_a_block_diagonal_mask_keeps_them_apart_even_with_the_cache(attention: str) -> None:
    import torch

    ids, positions = padded()
    piece = (positions == 0).cumsum(-1)
    allowed = (piece[:, :, None] == piece[:, None, :]) & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]
    for cache in (False, True):
        out = model()(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=cache)
        np.testing.assert_allclose(of_batch(out.logits), separate(), atol=2e-5)


@pytest.mark.parametrize("form", ["cache by default", "mask of ones"])
def test_what_lets_documents_see_each_other_still_does(attention: str, form: str) -> None:
    """Not wanted, but known: the day transformers mends this, the warning in `position_ids` can go."""
    import torch

    ids, positions = padded()
    options = {} if form == "cache by default" else {"attention_mask": torch.ones_like(ids), "use_cache": False}
    batch = of_batch(model()(input_ids=ids, position_ids=positions, **options).logits)
    assert np.abs(batch - separate()).max() > 0.1
