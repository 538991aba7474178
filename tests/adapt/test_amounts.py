"""How much a source holds is told from a sample, about right, and mistakes in it are named before any training."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import byte_tokenizer, llama, save

from adapt.amounts import COUNTED_BYTES, Amount, amount_of, amount_of_prepared, rounded, tokenizer_of
from adapt.corpus.preparing import prepare
from adapt.recipe import Decontamination, Source, Synthetic
from retrieval.errors import DamagedError, FathomError, MissingError, ReadingError

WORDS = "the cat sat on the mat and the dog sat on the log. "


def by_bytes(texts: list[str]) -> int:
    """One token for each byte, which a reader can count."""
    return sum(len(text.encode()) for text in texts)


def rows(file: Path, texts: list[str], **more: str) -> Path:
    lines = "".join(json.dumps({"text": text, **more}) + "\n" for text in texts)
    file.write_bytes(gzip.compress(lines.encode()) if file.suffix == ".gz" else lines.encode())
    return file


def test_rows_are_all_counted(tmp_path: Path) -> None:
    rows(tmp_path / "a.jsonl.gz", [WORDS * 10] * 30, head="A cat")
    found = amount_of(Source(path="a.jsonl.gz", held_out=0), tmp_path, by_bytes)
    size = len((WORDS * 10).strip())
    assert found is not None and found.documents == 30 and found.bytes == pytest.approx(30 * size, rel=0.01)
    assert found.tokens == pytest.approx(found.bytes + 30), "a byte a token, and EOS after each document"
    titled = amount_of(Source(path="a.jsonl.gz", held_out=0, title="head"), tmp_path, by_bytes)
    assert titled is not None and titled.bytes == pytest.approx(found.bytes + 30 * len("A cat\n\n"))


def test_what_is_held_out_and_what_is_not_drawn_does_not_count(tmp_path: Path) -> None:
    rows(tmp_path / "a.jsonl", [WORDS * 4] * 100)
    whole = amount_of(Source(path="a.jsonl", held_out=0), tmp_path, by_bytes)
    some = amount_of(Source(path="a.jsonl", held_out=0.2, limit=50), tmp_path, by_bytes)
    assert whole is not None and some is not None
    assert some.documents == 40 and some.tokens == pytest.approx(whole.tokens * 0.4, rel=0.01)


def test_a_folder_is_told_from_some_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.md").write_text(WORDS * 50, encoding="utf-8")
    rows(folder / "more.jsonl", [WORDS * 50] * 10)
    found = amount_of(Source(path="texts", held_out=0), tmp_path, by_bytes)
    assert found is not None and found.documents == 50 and not found.exact
    assert found.bytes == pytest.approx(50 * len(WORDS * 50), rel=0.02)


def test_a_huge_file_is_counted_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapt.amounts.COUNTED_BYTES", 5_000)
    rows(tmp_path / "a.jsonl", [WORDS * 10] * 100)
    found = amount_of(Source(path="a.jsonl", held_out=0), tmp_path, by_bytes)
    assert found is not None and found.least and found.said().startswith("at least") and found.bytes < 6_000
    assert COUNTED_BYTES > 5_000


def test_text_the_model_writes_and_text_of_the_hub_are_not_looked_for(tmp_path: Path) -> None:
    written = amount_of(Source(path="", synthetic=Synthetic(tokens=1000, length=100)), tmp_path, by_bytes)
    assert written is not None and (written.tokens, written.documents) == (1000, 10)
    assert amount_of(Source(path="hub:a/b"), tmp_path, by_bytes) is None


Make = Callable[[Path], object]
BAD: dict[str, tuple[Make, str]] = {
    "not there": (lambda file: None, "there is no file or folder"),
    "an empty folder": (lambda file: file.mkdir(), "holds no file that Fathom reads"),
    "a folder of nothing to read": (
        lambda file: (file.mkdir(), (file / "a.exe").write_bytes(b"MZ")),
        "holds no file that Fathom reads",
    ),
    "empty rows": (lambda file: file.write_bytes(b""), "holds no text to train on"),
    "rows without the field": (lambda file: file.write_text('{"body": "x"}\n'), "has no column 'text'; it has body"),
    "rows that are none": (lambda file: file.write_bytes(b"\x89PNG\x00\x00"), ""),
}


@pytest.mark.parametrize("case", BAD)
def test_a_source_that_holds_nothing_is_refused(tmp_path: Path, case: str) -> None:
    make, said = BAD[case]
    make(tmp_path / "a.jsonl")
    with pytest.raises(FathomError) as caught:
        amount_of(Source(path="a.jsonl"), tmp_path, by_bytes)
    assert said in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(ReadingError):
        amount_of(Source(path="a.parquet"), tmp_path, by_bytes)


def test_a_prepared_corpus_is_counted_exactly_and_once(tmp_path: Path) -> None:
    texts = [f"{WORDS * 5}{number} lines of its own, {number * 7} more than before." for number in range(40)]
    rows(tmp_path / "a.jsonl", texts)
    source = Source(path="a.jsonl", held_out=0.1, near_duplicates=None)
    corpus = prepare(
        "domain",
        source,
        root=tmp_path,
        decontaminate=Decontamination(),
        seed=0,
        cache=tmp_path / "cache",
        progress=lambda *_: None,
    )
    found = amount_of_prepared(corpus, by_bytes, tokenizer="x", cache=tmp_path / "cache")
    whole = [text.whole for text in corpus.texts()]
    assert found == Amount(len(whole), corpus.bytes("train"), by_bytes(whole) + len(whole), exact=True)
    assert "about" not in found.said()

    def never(texts: list[str]) -> int:
        raise AssertionError("it was counted before")

    assert amount_of_prepared(corpus, never, tokenizer="x", cache=tmp_path / "cache") == found


@pytest.mark.parametrize(("number", "said"), [(0, 0), (7, 7), (999, 999), (12_345, 12_300), (3_476_781, 3_480_000)])
def test_estimates_have_three_figures(number: int, said: int) -> None:
    assert rounded(number) == said


def test_a_tokenizer_counts_as_transformers_does(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(opens=True)
    count, size = tokenizer_of(save(tmp_path / "m", llama(tokenizer), tokenizer))
    texts = [WORDS, "水温应该在八十度左右。", ""]
    assert count(texts) == sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    assert size == len(tokenizer)


def test_a_model_without_a_sound_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no tokenizer\.json"):
        tokenizer_of(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(DamagedError, match="is no tokenizer"):
        tokenizer_of(tmp_path)
