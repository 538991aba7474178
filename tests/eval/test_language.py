"""Bits per byte are those of a plain token-by-token computation, over every byte of every document."""

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import WINDOW, byte_tokenizer, llama, save, word_tokenizer

from eval.data.texts import FEW, block_ends, labelled, read_texts
from eval.figures.statistics import estimates, table_of
from eval.forgetting import forgetting_table
from eval.language import LanguagePart, windows
from eval.models.language_models import load_language_model
from eval.models.likelihood import TransformersModel
from eval.runs.parts import PartFolder, Record, Tools
from eval.runs.suites import load_suite
from retrieval.errors import FathomError, ReadingError, UsageError

ENGLISH = "The cat sat on the mat. The dog did not.\n\n"
CHINESE = "绿茶不经过发酵。水温应该在八十度左右。\n\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def _loaded(folder: Path, cache: Path, tokenizer: Any, **options: Any) -> TransformersModel:
    return load_language_model(str(save(folder, llama(tokenizer, **options), tokenizer)), cache=cache)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> TransformersModel:
    return _loaded(tmp_path_factory.mktemp("tiny"), cache, byte_tokenizer())


@pytest.fixture(scope="module")
def opening(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> TransformersModel:
    return _loaded(tmp_path_factory.mktemp("opening"), cache, byte_tokenizer(opens=True))


class Measured:
    """A part measured with a model at hand: its records and what it said beside them."""

    def __init__(self, part: LanguagePart, model: Any, folder: Path) -> None:
        self.folder = PartFolder(folder)
        self.steps: list[tuple[str, int, int]] = []
        tools = Tools(cache=folder / "cache", language_model=lambda name: model)
        self.prepared = part.prepare(tools)
        self.extras = self.prepared.run(self.folder, lambda *step: self.steps.append(step))
        self.records: dict[str, Record] = self.folder.done()

    def figure(self, metric: str) -> float:
        value = estimates(table_of(self.records))[metric].value
        assert value is not None
        return value


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "long.txt").write_text(ENGLISH + CHINESE + ENGLISH, encoding="utf-8")
    (folder / "short.md").write_text("# 茶\n\nA </s> dog.\n", encoding="utf-8")
    (folder / "one.txt").write_text("x", encoding="utf-8")
    return folder


def plain_nats(model: TransformersModel, text: str, window: int, stride: int) -> float:
    """Cost of a text, one token at a time: token i sees what the window that scores it begins with."""
    import torch

    ids = [model.bos, *model.encode(text)]
    total = 0.0
    for place in range(1, len(ids)):
        number = max(0, math.ceil((place - window + 1) / stride))
        seen = ids[number * stride : place]
        if number and model.opens:
            seen = [model.bos, *seen[1:]]
        with torch.no_grad():
            told = model._model(input_ids=torch.tensor([seen])).logits[0, -1].log_softmax(-1)
        total -= float(told[ids[place]])
    return total


@pytest.mark.parametrize("which", ["model", "opening"])
@pytest.mark.parametrize(("window", "stride"), [(None, None), (33, 7), (2, 1)])
def test_bits_per_byte_are_those_of_a_plain_loop(
    which: str, window: int | None, stride: int | None, texts: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(which)
    part = LanguagePart(texts=(texts,), window=window, stride=stride)
    records = Measured(part, model, tmp_path / "run").records
    assert records["texts:long.txt#1"]["tokens"] > WINDOW
    for name in ("long.txt", "short.md", "one.txt"):
        text = (texts / name).read_text(encoding="utf-8")
        size = len(text.encode())
        plain = plain_nats(model, text, window or WINDOW, stride or WINDOW // 2) / math.log(2)
        bits, length = records[f"texts:{name}#1"]["metrics"]["bits_per_byte"]
        assert length == size
        assert bits / size == pytest.approx(plain / size, abs=1e-4)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(2, 64), st.data())
def test_windows_score_every_token_once_with_enough_before_it(length: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window - 1))
    scored = []
    for one in windows(length, window, stride):
        assert one.end - one.start <= window
        for place in range(one.first, one.end):
            assert place - one.start >= min(place, window - stride)
            scored.append(place)
    assert scored == list(range(1, length))


def test_batches_change_nothing(model: TransformersModel, texts: Path, tmp_path: Path) -> None:
    one = Measured(LanguagePart(texts=(texts,), batch_tokens=1), model, tmp_path / "one").records
    many = Measured(LanguagePart(texts=(texts,), batch_tokens=500), model, tmp_path / "many").records
    assert one.keys() == many.keys()
    for key in one:
        assert one[key]["nats"] == pytest.approx(many[key]["nats"], rel=1e-5)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of 300 characters instead of 4,000: short texts then have several."""
    monkeypatch.setattr("eval.data.texts.BLOCK", 300)
    return 300


def test_every_byte_of_a_long_document_is_in_one_block(
    model: TransformersModel, tmp_path: Path, small_blocks: int
) -> None:
    text = "".join(f"Paragraph {number} of the report.\n \n{ENGLISH}{CHINESE}" for number in range(12))
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    part = LanguagePart(texts=(tmp_path / "long.txt",), stride=WINDOW - 1)
    measured = Measured(part, model, tmp_path / "run")
    records = measured.records
    assert len(records) == measured.prepared.items == len(block_ends(text)) > 3
    assert sum(record["bytes"] for record in records.values()) == len(text.encode())
    assert sum(record["tokens"] for record in records.values()) == len(model.encode(text))
    ends = block_ends(text)
    assert all(text[end - 1] == "\n" and text[end - 3 : end - 1].strip() in ("", "。", ".") for end in ends)
    assert all(small_blocks // 2 <= b - a <= small_blocks * 3 // 2 for a, b in zip((0, *ends), ends, strict=False))
    # Cut or not, the context ran on: the whole costs what one sequence of windows does.
    whole = model.encode(text)
    nats = -sum(
        float(np.nansum(model.logprobs([_tokens(model, whole, one)], since=[one.first - one.start])[0]))
        for one in windows(len(whole) + 1, WINDOW, WINDOW - 1)
    )
    assert sum(record["nats"] for record in records.values()) == pytest.approx(nats, rel=1e-5)
    assert measured.extras["texts"]["long"]["unit"] == "block"
    assert all(record["cluster"] is None for record in records.values())


def _tokens(model: TransformersModel, ids: Sequence[int], window: Any) -> list[int]:
    return [model.bos, *ids][window.start : window.end]  # type: ignore[list-item]


def test_many_documents_are_one_record_each(model: TransformersModel, tmp_path: Path) -> None:
    rows = [{"id": f"d{number}", "text": f"{number} {ENGLISH * (number % 5 + 1)}"} for number in range(FEW)]
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    measured = Measured(
        LanguagePart(texts={"domain": tmp_path / "rows.jsonl.gz", "general": tmp_path / "rows.jsonl.gz"}),
        model,
        tmp_path / "run",
    )
    record = measured.records["domain:d3"]
    assert len(measured.records) == 2 * FEW and record["cluster"] == "domain:d3"
    assert set(record["metrics"]) == {"bits_per_byte_domain", "tokens_per_byte_domain"}
    facts = measured.extras["texts"]["domain"]
    assert facts["unit"] == "document" and facts["tokens"] == sum(len(model.encode(row["text"])) for row in rows)
    bits = measured.figure("bits_per_byte_domain") * facts["bytes"]
    assert facts["perplexity"] == pytest.approx(2 ** (bits / facts["tokens"]), rel=1e-6)
    stage, done, total = measured.steps[-1]
    assert stage == "bytes scored" and done == total == 2 * facts["bytes"]


class Dying:
    """A model that is killed after a number of batches; it notes how many tokens it was asked to score."""

    def __init__(self, model: TransformersModel, batches: int) -> None:
        self._model, self._left, self.scored = model, batches, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logprobs(self, batch: Sequence[Sequence[int]], *, since: Sequence[int]) -> list[np.ndarray]:
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        self.scored += sum(len(ids) - start for ids, start in zip(batch, since, strict=True))
        return self._model.logprobs(batch, since=since)


@pytest.mark.usefixtures("small_blocks")
def test_a_run_that_was_killed_goes_on_where_it_was(model: TransformersModel, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text((ENGLISH + CHINESE) * 25, encoding="utf-8")
    part = LanguagePart(texts=(tmp_path / "long.txt",), batch_tokens=2 * WINDOW)
    whole = Measured(part, model, tmp_path / "whole").records
    first = Dying(model, 13)
    with pytest.raises(KeyboardInterrupt):
        Measured(part, first, tmp_path / "run")
    kept = PartFolder(tmp_path / "run").done()
    assert 0 < len(kept) < len(whole)
    second = Dying(model, 10_000)
    again = Measured(part, second, tmp_path / "run")
    assert again.records.keys() == whole.keys()
    for key, record in again.records.items():
        assert record["nats"] == pytest.approx(whole[key]["nats"], rel=1e-5)
    # What has a record is not scored again, but for the block in the making and the edges of the windows.
    assert second.scored < sum(record["tokens"] for record in whole.values()) - first.scored * 0.5
    assert again.steps[-1][1] == again.steps[-1][2]
    third = Dying(model, 0)
    assert Measured(part, third, tmp_path / "run").records == again.records


def test_figures_of_another_model_are_not_mixed_in(
    model: TransformersModel, opening: TransformersModel, texts: Path, tmp_path: Path
) -> None:
    part = LanguagePart(texts=(texts,))
    Measured(part, model, tmp_path / "run")
    with pytest.raises(UsageError, match="figures of another model.*--fresh"):
        Measured(part, opening, tmp_path / "run")


def test_a_tokenizer_that_loses_text_is_told_of(cache: Path, texts: Path, tmp_path: Path) -> None:
    words = _loaded(tmp_path / "words", cache, word_tokenizer())
    measured = Measured(LanguagePart(texts={"tea": texts}), words, tmp_path / "run")
    facts = measured.extras["texts"]["tea"]
    assert facts["unknown_tokens"] > 0 and facts["lossy_documents"] == 3
    assert "lower than the truth" in measured.extras["warnings"][0]
    # Every byte still counts, also where no token stands for it.
    assert facts["bytes"] == sum(len((texts / name).read_bytes()) for name in ("long.txt", "short.md", "one.txt"))


def test_a_model_without_a_first_token_is_refused(cache: Path, texts: Path, tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.bos_token = None
    without = _loaded(tmp_path / "words", cache, tokenizer)
    with pytest.raises(UsageError, match="neither a BOS nor an EOS"):
        Measured(LanguagePart(texts=(texts,)), without, tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": 1}, "window is at least 2"),
        ({"stride": 0}, "stride is at least 1"),
        ({"window": 8, "stride": 8}, "smaller than the window"),
        ({"limit_bytes": 0}, "limit_bytes is at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(options: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        LanguagePart(texts=(Path("x"),), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("window", "stride"), [(WINDOW + 1, None), (None, WINDOW)])
def test_windows_the_model_cannot_take_are_refused(
    model: TransformersModel, texts: Path, tmp_path: Path, window: int | None, stride: int | None
) -> None:
    with pytest.raises(UsageError, match="window"):
        Measured(LanguagePart(texts=(texts,), window=window, stride=stride), model, tmp_path / "run")


# --- texts ------------------------------------------------------------------------------------------------------------


def test_a_field_of_rows_is_named_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"id": 1, "answers": ["one", "two"]}, {"id": 1, "answers": ["\ud800 half"]}, {"id": 3, "answers": [" "]}]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    found = read_texts(tmp_path / "rows.jsonl#answers").documents
    assert [(text.id, text.text) for text in found] == [("1", "one\n\ntwo"), ("1:2", "\ufffd half")]
    with pytest.raises(ReadingError, match=r"line 1 has no field 'text'; it has answers.*rows\.jsonl#answers"):
        read_texts(file)
    file.write_text('{"text": 5}', encoding="utf-8")
    with pytest.raises(ReadingError, match="line 1: 'text' holds a int"):
        read_texts(file)


def test_what_cannot_be_read_is_named(tmp_path: Path, texts: Path) -> None:
    with pytest.raises(UsageError, match="no file or folder"):
        read_texts(tmp_path / "gone.txt")
    with pytest.raises(UsageError, match="names a field"):
        read_texts(Path(f"{texts}/one.txt#text"))
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 20)
    for name in ("empty.txt", "binary.txt"):
        with pytest.raises(ReadingError, match=name):
            read_texts(tmp_path / name)
    (tmp_path / "none").mkdir()
    with pytest.raises(ReadingError, match="holds no file"):
        read_texts(tmp_path / "none")
    (texts / "bad.txt").write_bytes(bytes(range(256)) * 20)
    found = read_texts(texts)
    assert [text.id for text in found.documents] == ["long.txt", "one.txt", "short.md"]
    assert len(found.left_out) == 1 and "bad.txt" in found.left_out[0]


def test_a_limit_takes_beginnings_drawn_with_the_seed(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "\n".join(json.dumps({"id": f"d{n:03}", "text": f"{n}\n\n" + CHINESE * 300}) for n in range(60)), "utf-8"
    )
    one, two = (read_texts(file, limit_bytes=100_000, seed=seed) for seed in (0, 1))
    for found in (one, two):
        assert 90_000 < found.bytes <= 100_000
        assert len(found.documents) >= FEW and all(text.text.endswith("\n\n") for text in found.documents)
        assert [text.id for text in found.documents] == sorted(text.id for text in found.documents)
    assert one != two and one.sha256 == two.sha256
    assert one == read_texts(file, limit_bytes=100_000, seed=0)
    (tmp_path / "long.txt").write_text(CHINESE * 3000, encoding="utf-8")
    single = read_texts(tmp_path / "long.txt", limit_bytes=50_000)
    assert 49_000 < single.bytes <= 50_000 and len(single.documents[0].ends) > 1


def test_labels_are_given_or_made() -> None:
    assert labelled((Path("a/wiki.txt"), Path("b/wiki.jsonl.gz"), Path("文档"))).keys() == {"wiki", "wiki-2", "文档"}
    assert labelled({"domain": Path("x")}) == {"domain": Path("x")}
    with pytest.raises(UsageError, match="cannot be a label"):
        labelled({"a b": Path("x")})
    with pytest.raises(UsageError, match="no text"):
        labelled(())


def test_a_suite_names_texts_by_label_or_in_a_list(tmp_path: Path, texts: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "parts:\n  both: {kind: language, texts: {domain: texts, general: texts/one.txt}, window: 32}\n"
        "  list: {kind: language, texts: [texts]}\n"
    )
    parts = load_suite(suite).parts
    both, listed = parts["both"], parts["list"]
    assert isinstance(both, LanguagePart) and isinstance(listed, LanguagePart)
    assert labelled(both.texts) == {"domain": texts, "general": texts / "one.txt"} and both.window == 32
    assert labelled(listed.texts) == {"texts": texts}


# --- forgetting -------------------------------------------------------------------------------------------------------


def _records(bits: Sequence[float], right: Sequence[float]) -> dict[str, Record]:
    """Documents of 100 bytes with these bits, and questions that were answered right (1) or wrong (0)."""
    texts = {f"d{n}": {"metrics": {"bits_per_byte_domain": [cost, 100]}} for n, cost in enumerate(bits)}
    return texts | {f"q{n}": {"metrics": {"choice_accuracy": value}} for n, value in enumerate(right)}


def test_forgetting_is_the_relative_change_of_the_sums() -> None:
    a = _records([100.0] * 10 + [200.0] * 10, [1.0] * 15 + [0.0] * 5)
    b = _records([110.0] * 10 + [220.0] * 10, [1.0] * 14 + [0.0] * 6)
    bits, accuracy = forgetting_table(a, b, resamples=1000)
    assert (bits.metric, bits.relative, bits.worse) == ("bits_per_byte_domain", True, True)
    assert (bits.a, bits.b) == (pytest.approx(1.5), pytest.approx(1.65))
    # Each document costs a tenth more, so every resample says the same although documents differ twofold.
    assert (bits.change.value, bits.change.low, bits.change.high) == tuple(pytest.approx(x) for x in (0.1, 0.1, 0.1))
    assert bits.p is not None and bits.p < 0.01
    assert (accuracy.relative, accuracy.worse) == (False, False)
    assert accuracy.change.value == pytest.approx(-0.05) and accuracy.p == pytest.approx(1.0)
    better, _ = forgetting_table(b, a, resamples=1000)
    assert not better.worse and better.change.value == pytest.approx(-1 / 11)


def test_what_did_not_change_has_an_interval_of_nothing() -> None:
    a = _records([100.0, 120.0, 130.0], [])
    (same,) = forgetting_table(a, a, resamples=1000)
    assert (same.change.value, same.change.low, same.change.high, same.worse) == (0.0, 0.0, 0.0, False)


def test_forgetting_needs_the_same_texts_under_both_models() -> None:
    a = _records([100.0, 120.0], [])
    with pytest.raises(UsageError, match="1 differ, for example 'd1'"):
        forgetting_table(a, _records([100.0], []))
    with pytest.raises(UsageError, match="not the same text"):
        forgetting_table(a, a | {"d1": {"metrics": {"bits_per_byte_domain": [120.0, 99]}}})
    with pytest.raises(UsageError, match="there are none"):
        forgetting_table({}, {})


def test_a_failure_of_the_model_is_no_record(model: TransformersModel, texts: Path, tmp_path: Path) -> None:
    class Broken(Dying):
        def logprobs(self, batch: Sequence[Sequence[int]], *, since: Sequence[int]) -> list[np.ndarray]:
            raise FathomError("out of memory")

    with pytest.raises(FathomError, match="out of memory"):
        Measured(replace(LanguagePart(texts=(texts,)), seed=3), Broken(model, 1), tmp_path / "run")
    assert not PartFolder(tmp_path / "run").all()
