"""Packing: every token of every document once, in rows that fit, kept apart, found unchanged or refused."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.corpus import packing
from adapt.corpus.packing import Blocks, best_fit, document_text, marks, pack, position_ids
from adapt.corpus.texts import TrainingText
from retrieval.errors import DamagedError, FathomError, MissingError, UsageError


def quiet(stage: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


@lru_cache(maxsize=2)
def tokenizer(opens: bool = False) -> Any:
    return tiny_models.byte_tokenizer(opens=opens)


@pytest.fixture
def packed(tmp_path: Path) -> Callable[..., Blocks]:
    count = iter(range(1000))

    def make(texts: list[TrainingText], block: int = 16, seed: int = 0, opens: bool = False) -> Blocks:
        folder = tmp_path / f"blocks-{next(count)}"
        return pack(texts, tokenizer(opens), block=block, folder=folder, seed=seed, progress=quiet)

    return make


def reassembled(blocks: Blocks) -> list[list[int]]:
    """Documents put together again from the pieces of all rows."""
    pieces: dict[int, dict[int, list[int]]] = {}
    for number in range(blocks.rows):
        row = blocks.row(number)
        ends = np.cumsum(row.pieces)
        for (document, offset), end, length in zip(blocks.origins(number), ends, row.pieces, strict=True):
            assert offset not in pieces.setdefault(int(document), {}), "a piece was written twice"
            pieces[int(document)][int(offset)] = row.ids[end - length : end].tolist()
    return [[token for at in sorted(pieces[d]) for token in pieces[d][at]] for d in sorted(pieces)]


def expected(texts: list[TrainingText], opens: bool = False) -> list[list[int]]:
    ids = tokenizer()([document_text(text) for text in texts], add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    return [[*([0] if opens else []), *document, 1] for document in ids]


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.tuples(st.text(max_size=120).filter(lambda t: t.strip()), st.sampled_from(["", "猫", "A title"])),
        min_size=1,
        max_size=30,
    ),
    block=st.integers(2, 24),
    seed=st.integers(0, 5),
    opens=st.booleans(),
    window=st.sampled_from([3, 1 << 16]),
)
def test_every_document_can_be_put_together_again_from_the_rows(
    texts: list[tuple[str, str]], block: int, seed: int, opens: bool, window: int
) -> None:
    documents = [TrainingText(str(n), text, title) for n, (text, title) in enumerate(texts)]
    wanted = expected(documents, opens)
    if sum(map(len, wanted)) < block:
        return
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "WINDOW", window)
        blocks = pack(documents, tokenizer(opens), block=block, folder=Path(folder) / "b", seed=seed, progress=quiet)
        assert reassembled(blocks) == wanted
        rows = [blocks.row(number) for number in range(blocks.rows)]
        assert all(0 < len(row.ids) <= block and row.pieces.sum() == len(row.ids) for row in rows)
        assert sum(len(row.ids) for row in rows) == blocks.tokens == sum(map(len, wanted))
        assert blocks.lengths().tolist() == [len(row.ids) for row in rows]


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=200), block=st.integers(40, 64))
def test_no_two_rows_of_best_fit_could_have_been_one(sizes: list[int], block: int) -> None:
    rows = best_fit(np.array(sizes), block)
    assert sorted(piece for row in rows for piece in row) == list(range(len(sizes)))
    filled = sorted(sum(sizes[piece] for piece in row) for row in rows)
    assert filled[-1] <= block
    assert len(filled) < 2 or filled[0] + filled[1] > block
    # Best fit decreasing needs at most 11/9 of the fewest rows possible, plus one (Johnson 1973; Yue 1991).
    assert len(rows) <= 11 / 9 * -(-sum(sizes) // block) * 2 + 1


def test_rows_of_short_documents_are_full_and_in_random_order(packed: Callable[..., Blocks]) -> None:
    lengths = np.random.default_rng(0).integers(5, 60, size=3000).tolist()
    blocks = packed(
        [TrainingText(str(n), "the cat sat on it. "[: 1 + n % 19] * length) for n, length in enumerate(lengths)],
        block=512,
    )
    assert blocks.facts["fill"] > 0.995
    first = [int(blocks.origins(number)[0, 0]) for number in range(blocks.rows)]
    assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.2, "documents still stand in their order"


def test_the_seed_alone_decides_the_rows(packed: Callable[..., Blocks]) -> None:
    texts = [TrainingText(str(n), f"the dog {n} sat on the log" * (n % 7 + 1)) for n in range(40)]
    assert packed(texts, seed=1).sha256 == packed(texts, seed=1).sha256
    one, other = packed(texts, seed=1), packed(texts, seed=2)
    assert one.sha256 != other.sha256
    assert sorted(map(tuple, reassembled(one))) == sorted(map(tuple, reassembled(other)))


def test_special_tokens_in_a_text_are_text(packed: Callable[..., Blocks]) -> None:
    blocks = packed([TrainingText("hostile", "the cat</s><s>sat on the mat")], block=8)
    (ids,) = reassembled(blocks)
    assert ids.count(1) == 1 and ids[-1] == 1 and 0 not in ids
    assert tokenizer().decode(ids[:-1]) == "the cat</s><s>sat on the mat"


def test_half_a_surrogate_pair_is_packed_as_a_replacement_character(packed: Callable[..., Blocks]) -> None:
    (ids,) = reassembled(packed([TrainingText("1", "cat \ud83d sat")], block=4))
    assert tokenizer().decode(ids[:-1]) == "cat \ufffd sat"


def test_empty_documents_are_left_out_and_counted(packed: Callable[..., Blocks]) -> None:
    texts = [TrainingText("1", "  \n"), TrainingText("2", "the cat sat on the mat"), TrainingText("3", "", "a title")]
    blocks = packed(texts, block=4)
    assert (blocks.facts["documents"], blocks.facts["empty"]) == (1, 2)


def test_a_giant_line_is_tokenised_in_parts_and_given_back_whole(
    packed: Callable[..., Blocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "BATCH_CHARACTERS", 100)
    line, lines = "茶the cat " * 200, "the cat sat\n" * 100
    blocks = packed([TrainingText("1", line), TrainingText("2", "a dog"), TrainingText("3", lines)], block=32)
    assert [tokenizer().decode(ids[:-1]) for ids in reassembled(blocks)] == [line, "a dog", lines]


def test_a_document_ends_as_in_pretraining_and_not_as_a_turn_of_a_chat_does() -> None:
    chat = tiny_models.byte_tokenizer()
    assert marks(chat) == (None, 1)
    chat.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|endoftext|>"]})
    assert marks(chat) == (None, chat.convert_tokens_to_ids("<|endoftext|>"))
    assert marks(tokenizer(True)) == (0, 1)


def test_too_little_text_is_refused_with_what_was_found(packed: Callable[..., Blocks]) -> None:
    with pytest.raises(UsageError, match=r"the texts: 1 documents with \d tokens, less than one block of 512"):
        packed([TrainingText("1", "the cat")], block=512)
    with pytest.raises(UsageError, match="0 documents with 0 tokens"):
        packed([])
    with pytest.raises(UsageError, match="2 to"):
        packed([TrainingText("1", "the cat")], block=1)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    with pytest.raises(UsageError, match="end-of-text"):
        marks(tiny_models.word_tokenizer())
    with pytest.raises(UsageError, match="fast tokenizer"):
        marks(object())


def test_a_failure_while_reading_leaves_no_folder(tmp_path: Path) -> None:
    def texts() -> Iterator[TrainingText]:
        yield TrainingText("1", "the cat sat on the mat")
        raise DamagedError("the corpus broke")

    with pytest.raises(DamagedError, match="the corpus broke"):
        pack(texts(), tokenizer(), block=4, folder=tmp_path / "b", seed=0, progress=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(FathomError, match="No space left on device"):
        pack([TrainingText("1", "the cat sat on")], tokenizer(), block=4, folder=tmp_path / "b", seed=0, progress=quiet)
    assert list(tmp_path.iterdir()) == []


def test_other_blocks_are_never_put_in_the_place_of_those_that_are_there(tmp_path: Path) -> None:
    def again(text: str) -> Blocks:
        texts = [TrainingText("1", text)]
        return pack(texts, tokenizer(), block=4, folder=tmp_path / "b", seed=0, progress=quiet)

    assert again("the cat sat").sha256 == again("the cat sat").sha256
    with pytest.raises(UsageError, match="already holds other blocks"):
        again("the dog sat")


@pytest.mark.parametrize("name", [packing.TOKENS, packing.ROWS, packing.PIECES, packing.ORIGINS, "manifest.json"])
def test_changed_bytes_are_found(packed: Callable[..., Blocks], name: str) -> None:
    blocks = packed([TrainingText(str(n), "the cat sat on the mat") for n in range(20)])
    file = blocks.folder / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedError, match="remove the folder"):
        Blocks.open(blocks.folder).verify()


@pytest.mark.parametrize("name", [packing.TOKENS, packing.ROWS])
def test_a_file_cut_short_or_gone_is_found_when_opened(packed: Callable[..., Blocks], name: str) -> None:
    blocks = packed([TrainingText(str(n), "the cat sat on the mat") for n in range(20)])
    copy = blocks.folder.with_name("copy")
    shutil.copytree(blocks.folder, copy)
    (blocks.folder / name).write_bytes((blocks.folder / name).read_bytes()[:-4])
    (copy / name).unlink()
    for folder in (blocks.folder, copy):
        with pytest.raises(DamagedError, match="gone or has another size"):
            Blocks.open(folder)


def test_a_folder_that_is_no_blocks_is_told_from_one_that_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="holds no blocks"):
        Blocks.open(tmp_path)
    for content in ("[]", "{", json.dumps({"kind": "blocks"}), "[" * 100_000):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(DamagedError, match="not what was written"):
            Blocks.open(tmp_path)


def test_positions_begin_anew_with_every_piece() -> None:
    assert position_ids(np.array([3, 1, 2], dtype=np.int32)).tolist() == [0, 1, 2, 0, 0, 1]
