"""The file of pairs: what is written is read, what is none is told with its line, documents are held out whole."""

import json
from pathlib import Path

import pytest

from adapt.queries.pair_file import QueryPair, read_pairs, split_by_document, write_pairs
from retrieval.errors import FathomError, ReadingError, UsageError

PAIRS = [
    QueryPair("tides?", "Tides are caused by the moon.", "a", "title", ("Bread needs flour.",)),
    QueryPair("大潮", "大潮出现在满月之后。", "b", "heading"),
]


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    assert write_pairs(tmp_path / name, PAIRS) == 2
    assert read_pairs(tmp_path / name) == PAIRS
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"query": "x", "positive": "y", "document": "d"}, "kind"),
        ({"query": " ", "positive": "y", "document": "d", "kind": "title"}, "query"),
        ({"query": "x", "positive": 3, "document": "d", "kind": "title"}, "positive"),
        ({"query": "x", "positive": "y", "document": "d", "kind": "title", "label": 1}, "label"),
        ({"query": "x", "positive": "y", "document": "d", "kind": "title", "negatives": "z"}, "negatives"),
        ({"query": "x", "positive": "y" * 30_000, "document": "d", "kind": "title"}, "30,000 characters"),
        ({"query": "\ud800", "positive": "y", "document": "d", "kind": "title"}, "lone surrogate"),
    ],
)
def test_a_line_that_is_no_pair_is_told(row: dict[str, object], said: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(PAIRS[0].as_json()) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ReadingError, match=f"line 2.*{said}"):
        read_pairs(file)


def test_no_file_and_no_pairs_say_how_to_make_some(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("none.jsonl", "empty.jsonl"):
        with pytest.raises(UsageError, match="fathom data queries"):
            read_pairs(tmp_path / name)


def test_a_stopped_writing_leaves_what_was_there(tmp_path: Path) -> None:
    def broken() -> object:
        yield PAIRS[0]
        raise OSError(28, "No space left on device")

    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    with pytest.raises(FathomError, match="No space left"):
        write_pairs(tmp_path / "pairs.jsonl", broken())  # type: ignore[arg-type]
    assert read_pairs(tmp_path / "pairs.jsonl") == PAIRS and len(list(tmp_path.iterdir())) == 1


def test_held_out_documents_share_nothing_with_what_is_trained_on() -> None:
    pairs = [QueryPair(f"q{n}", f"text {n % 30}", f"d{n % 20}", "cloze") for n in range(100)]
    learned, held = split_by_document(pairs, 0.2, 1000, 3)
    assert len(held) >= 20 and learned
    assert not {pair.document for pair in learned} & {pair.document for pair in held}
    assert not {pair.positive for pair in learned} & {pair.positive for pair in held}
    assert len(split_by_document(pairs, 0.5, 7, 3)[1]) == 7
    assert split_by_document(pairs, 0.2, 1000, 3) == (learned, held)
