"""Mixing: the order keeps to the plan, reads rows as often as it may, and is the same whenever it is opened."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_blocks import made_blocks

from adapt.corpus.mixing import Order, mix
from adapt.corpus.packing import TOKENS
from adapt.corpus.shares import Shares
from adapt.recipe import Dapt, Mixture, Mixtures
from retrieval.errors import DamagedError, FathomError, MissingError, UsageError

RISING: Mixtures = {"domain": Mixture(start=0.25, end=0.8), "general": "rest"}


@pytest.fixture
def two(tmp_path: Path) -> Callable[..., Order]:
    """An order over 600 rows of domain text and 900 of general text, the last of each short."""
    count = iter(range(100))

    def make(shares: Mixtures = RISING, tokens: int | None = None, epochs: float = 1.0, seed: int = 0) -> Order:
        sources = {
            "domain": made_blocks(tmp_path / "domain", [8] * 599 + [3], 8),
            "general": made_blocks(tmp_path / "general", [8] * 899 + [5], 8),
        }
        folder = tmp_path / f"order-{next(count)}"
        return mix(sources, shares, tokens=tokens, epochs=epochs, seed=seed, folder=folder)

    return make


curves = st.fixed_dictionaries(
    {
        "from": st.floats(0, 1),
        "to": st.floats(0, 1),
        "curve": st.sampled_from(["linear", "cosine", "step"]),
        "steps": st.integers(1, 6),
        "hold": st.floats(0, 0.9),
    }
)


@settings(max_examples=40, deadline=None)
@given(
    curves=st.lists(curves, min_size=1, max_size=3),
    rows=st.lists(st.integers(40, 1500), min_size=4, max_size=4),
    shortest=st.integers(1, 8),
    epochs=st.sampled_from([0.5, 1.0, 2.7]),
    part=st.sampled_from([None, 0.3, 0.9]),
    seed=st.integers(0, 3),
)
def test_shares_of_every_tenth_keep_to_the_plan_as_closely_as_rows_allow(
    curves: list[dict], rows: list[int], shortest: int, epochs: float, part: float | None, seed: int
) -> None:
    together = len(curves)
    scaled = [{**curve, "from": curve["from"] / together, "to": curve["to"] / together} for curve in curves]
    shares = Dapt(mix={f"s{number}": curve for number, curve in enumerate(scaled)} | {"rest": "rest"}).mix
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as place:
        sources = {
            name: made_blocks(Path(place) / name, random.integers(shortest, 9, size=count).tolist(), 8)
            for name, count in zip(shares, rows, strict=False)
        }
        try:
            order = mix(sources, shares, tokens=None, epochs=epochs, seed=seed, folder=Path(place) / "whole")
        except UsageError as error:
            assert "less than one block" in str(error)
            return
        if part is not None and order.tokens * part > 80:
            tokens = int(order.tokens * part)
            order = mix(sources, shares, tokens=tokens, epochs=epochs, seed=seed, folder=Path(place) / "part")
        assert order.facts["wanted"] - 8 < order.tokens <= order.facts["wanted"]
        assert order.largest_error <= order.error_bound + 1e-9
        assert all(times <= epochs + 8 / sources[name].tokens for name, times in order.times_read.items())
        for reads in Counter(zip(order.row_sources().tolist(), order.row_numbers().tolist(), strict=True)).values():
            assert reads <= np.ceil(epochs)


def test_a_thousand_blocks_of_two_sources_are_within_one_percent(two: Callable[..., Order]) -> None:
    order = two()
    assert order.rows >= 1000 and order.error_bound <= 0.01
    assert order.largest_error <= 0.01
    assert [share["domain"] for share in order.planned] == pytest.approx(np.arange(10) * 0.055 + 0.2775, abs=1e-3)
    assert [share["domain"] for share in order.realised] == pytest.approx(np.arange(10) * 0.055 + 0.2775, abs=0.01)


def test_three_sources_are_within_one_percent_from_two_thousand_blocks_on(tmp_path: Path) -> None:
    sources = {name: made_blocks(tmp_path / name, [8] * 1500, 8) for name in ("a", "b", "c")}
    mixture = Dapt(mix={"a": {"from": 0.1, "to": 0.5, "curve": "cosine"}, "b": 0.3, "c": "rest"}).mix
    order = mix(sources, mixture, tokens=16_000, epochs=1.0, seed=0, folder=tmp_path / "order")
    assert order.rows == 2000 and order.error_bound == pytest.approx(0.01)
    assert order.largest_error <= 0.01


def test_the_curve_to_draw_has_tokens_plan_and_what_became_of_it(two: Callable[..., Order]) -> None:
    order = two()
    curve = order.curve(20)
    assert [point[0] for point in curve] == [round(order.tokens * n / 20) for n in range(1, 21)]
    for tokens, planned, realised in curve:
        assert sum(planned.values()) == pytest.approx(1) and sum(realised.values()) == pytest.approx(1)
        middle = (tokens - order.tokens / 40) / order.facts["wanted"]
        assert planned == pytest.approx(Shares(RISING).at(middle), abs=1e-3)


def test_one_source_alone_is_read_whole_as_often_as_asked_each_time_in_another_order(two: Callable[..., Order]) -> None:
    order = two({"domain": "rest", "general": Mixture(start=0, end=0)}, epochs=3.0)
    assert order.times_read == {"domain": 3.0, "general": 0.0}
    first, second, third = np.split(order.row_numbers(), 3)
    assert sorted(first) == sorted(second) == sorted(third) == list(range(600))
    assert not (first == second).all() and not (second == third).all()


def test_rows_come_from_their_source_with_their_tokens(two: Callable[..., Order]) -> None:
    order = two()
    for number in (0, 1, 500, order.rows - 1):
        row = order.row(number)
        source = order.blocks[order.sources[row.source]]
        original = source.row(int(order.row_numbers()[number]))
        assert row.ids.tolist() == original.ids.tolist() and row.pieces.tolist() == original.pieces.tolist()
        assert row.source == order.row_sources()[number] and len(row.ids) == order.lengths()[number]
    with pytest.raises(IndexError):
        order.row(order.rows)


def test_the_seed_alone_decides_the_order(two: Callable[..., Order]) -> None:
    one, same, other = two(seed=1), two(seed=1), two(seed=2)
    assert one.sha256 == same.sha256 != other.sha256
    for name, tokens in one.facts["tokens_by_source"].items():
        assert abs(tokens - other.facts["tokens_by_source"][name]) <= 8, "the plan is not the seed's affair"
    assert (one.row_numbers()[:1000] == other.row_numbers()[:1000]).mean() < 0.05


def test_tokens_asked_for_are_given_to_within_a_block(two: Callable[..., Order]) -> None:
    assert 4000 - 8 < two(tokens=4000).tokens <= 4000
    with pytest.raises(UsageError, match=r"'domain' has 4,795 tokens and, read 1 times, runs out after"):
        two(tokens=20_000)
    assert 20_000 - 8 < two(tokens=20_000, epochs=2.2).tokens <= 20_000
    with pytest.raises(UsageError, match="less than one block"):
        two(tokens=7)


def test_sources_in_blocks_of_two_sizes_are_refused(tmp_path: Path) -> None:
    sources = {"domain": made_blocks(tmp_path / "a", [8] * 9, 8), "general": made_blocks(tmp_path / "b", [4] * 9, 4)}
    with pytest.raises(UsageError, match=r"blocks of \[4, 8\] tokens"):
        mix(sources, RISING, tokens=None, epochs=1.0, seed=0, folder=tmp_path / "order")


def test_the_whole_workspace_may_be_moved(two: Callable[..., Order], tmp_path: Path) -> None:
    order = two()
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    for name in ("domain", "general"):
        shutil.rmtree(tmp_path / name)
    assert Order.open(tmp_path.with_name("moved") / order.folder.name).row(7).ids.tolist() == order.row(7).ids.tolist()
    with pytest.raises(MissingError, match="needs the blocks of 'domain'"):
        Order.open(order.folder)


def test_an_order_over_other_blocks_is_refused(two: Callable[..., Order], tmp_path: Path) -> None:
    order = two()
    shutil.rmtree(tmp_path / "domain")
    made_blocks(tmp_path / "domain", [8] * 700, 8)
    with pytest.raises(DamagedError, match="is not what the order"):
        Order.open(order.folder)


@pytest.mark.parametrize("name", ["sources.npy", "numbers.npy", "manifest.json"])
def test_changed_bytes_are_found(two: Callable[..., Order], name: str) -> None:
    file = two().folder / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(FathomError, match="remove the folder"):
        Order.open(file.parent)


def test_changed_tokens_are_found_on_demand(two: Callable[..., Order], tmp_path: Path) -> None:
    order = two()
    file = tmp_path / "general" / TOKENS
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedError, match="has changed"):
        Order.open(order.folder).verify()
