"""Reading sources: every form, every kind of bad input, nothing left out without a word."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from adapt.corpus import opening, rows
from adapt.corpus.sources import OpenSource
from adapt.corpus.texts import TrainingText
from adapt.recipe import Source
from retrieval.errors import MissingError, ReadingError, UsageError

PROSE = "Valves are inspected every ninety days, and the report is filed."


def read(root: Path, path: str, **settings: object) -> tuple[list[TrainingText], OpenSource]:
    opened = OpenSource(Source(path=path, **settings), root)  # type: ignore[arg-type]
    return list(opened.texts(lambda stage, done, total: None)), opened


def jsonl(path: Path, *values: object) -> Path:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return path


# --- rows ------------------------------------------------------------------------------------------------------------


def test_rows_have_their_id_text_and_title(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", {"_id": "d1", "text": "一段文字", "title": "题目\n二"}, {"text": "two"})
    found, _ = read(tmp_path, "a.jsonl", title="title")
    assert found == [TrainingText("d1", "一段文字", "题目 二"), TrainingText("2", "two")]


def test_columns_are_joined_by_blank_lines_and_reach_inside(tmp_path: Path) -> None:
    row = {
        "question": "Why?",
        "answers": ["One.", "Two."],
        "meta": {"note": "N"},
        "turns": [{"say": "a"}, {"say": "b"}],
    }
    jsonl(tmp_path / "a.jsonl", row)
    for field, text in {
        "question+answers": "Why?\n\nOne.\n\nTwo.",
        "meta.note": "N",
        "turns.say": "a\n\nb",
        "question+nothing": "Why?",
    }.items():
        assert [text_.text for text_ in read(tmp_path, "a.jsonl", field=field)[0]] == [text]


def test_an_id_used_twice_is_made_unique(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", *({"id": "same", "text": f"text {n}"} for n in range(3)))
    assert [text.id for text in read(tmp_path, "a.jsonl")[0]] == ["same", "same~2", "same~3"]


def test_rows_that_are_none_are_left_out_and_counted_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "good"}\nnot json\n[1]\n{"other": "x"}\n{"text": 7}\n{"text": " "}\n\n{"text": "last"}', "utf-8"
    )
    found, opened = read(tmp_path, "a.jsonl")
    assert [text.text for text in found] == ["good", "last"]
    assert opened.left_out.counts == {"json": 2, "field": 2, "empty": 1}
    assert "line 2: is not JSON" in opened.left_out.examples["json"][0]
    assert "it has other" in opened.left_out.examples["field"][0]


def test_half_a_character_and_hidden_ones_are_made_storable(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b\\u200bc\\r\\nd"}\n', "utf-8")
    assert read(tmp_path, "a.jsonl")[0][0].text == "a\ufffdbc\nd"


def test_a_line_longer_than_is_held_is_left_out_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "LONGEST_LINE", 1_000)
    monkeypatch.setattr(rows, "LONGEST_LINE", 1_000)
    jsonl(tmp_path / "a.jsonl", {"text": "x" * 5_000}, {"text": "short"}, {"text": "y" * 985}, {"text": "z" * 3_000})
    found, opened = read(tmp_path, "a.jsonl")
    assert [text.text[0] for text in found] == ["s", "y"]
    assert opened.left_out.counts == {"too-large": 2}


def test_gzip_is_read_and_a_bomb_or_a_broken_stream_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gzip.compress(b"".join(b'{"text": "row %d"}\n' % n for n in range(2_000)))
    (tmp_path / "good.jsonl.gz").write_bytes(whole)
    assert len(read(tmp_path, "good.jsonl.gz")[0]) == 2_000
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReadingError, match="gzip stream is damaged"):
        read(tmp_path, "cut.jsonl.gz")
    monkeypatch.setattr(opening, "RATIO_FROM", 1 << 20)
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 500_000))
    with pytest.raises(ReadingError, match="unpacks to more than 200 times") as caught:
        read(tmp_path, "bomb.jsonl.gz")
    assert caught.value.reason == "bomb"


def test_parquet_is_read_by_columns_with_lists_and_damage_is_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"text": ["one", None, "三"] * 50, "n": [1, 2, 3] * 50, "parts": [["a", "b"], [], None] * 50})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=40)
    found, opened = read(tmp_path, "a.parquet")
    assert [text.text for text in found] == ["one", "三"] * 50 and found[1].id == "3"
    assert opened.left_out.counts == {"field": 50}
    assert [text.text for text in read(tmp_path, "a.parquet", field="parts")[0]] == ["a\n\nb"] * 50
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:500])
    with pytest.raises(ReadingError, match="no Parquet file"):
        read(tmp_path, "b.parquet")


def test_a_cell_that_a_parquet_file_repeats_a_million_times_is_not_unpacked_at_once(tmp_path: Path) -> None:
    """A gigabyte of the same hundred kilobytes in a file of a few: held once, read row by row."""
    import pyarrow
    from pyarrow import parquet

    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 10_000, pyarrow.int32()), ["x" * 100_000])
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 300_000
    opened = OpenSource(Source(path="a.parquet"), tmp_path)
    stream = opened.texts(lambda stage, done, total: None)
    assert len(next(stream).text) == 100_000 and next(stream).id == "2"


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_folder_gives_a_document_a_file_and_rows_of_row_files(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.md").write_text(f"# Title\n\n{PROSE}", "utf-8")
    (folder / "sub/b.html").write_text(f"<html><head><title>T</title></head><body><p>{PROSE}</p></body></html>")
    (folder / "c.py").write_text("def answer() -> int:\n    return 42\n")
    jsonl(folder / "rows.jsonl", {"id": "r", "text": "a row"})
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    found, opened = read(tmp_path, "docs")
    assert {text.id for text in found} == {"a.md", "sub/b.html", "c.py", "rows.jsonl#r"}
    assert next(text for text in found if text.id == "a.md").text.startswith("# Title")
    assert all(not text.title for text in found)
    assert opened.left_out.counts == {"unsupported": 1}
    titled, _ = read(tmp_path, "docs", title="title")
    assert next(text for text in titled if text.id == "a.md") == TrainingText("a.md", PROSE, "Title")


def test_bad_files_of_a_folder_are_left_out_with_their_reasons(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "good.txt").write_text(PROSE)
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 20)
    (folder / "empty.txt").write_bytes(b"")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    (folder / "bad.jsonl.gz").write_bytes(b"\x1f\x8bnothing")
    (tmp_path / "secret.txt").write_text("outside")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "link.jsonl").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(folder / "pipe.txt")
    found, opened = read(tmp_path, "docs")
    assert [text.id for text in found] == ["good.txt"]
    assert opened.left_out.counts == {
        "binary": 1, "empty": 1, "corrupt": 1, "gzip": 1, "symlink": 2, "not-a-file": 1
    }  # fmt: skip


def test_hostile_file_names_are_ids_like_others(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ["a\nb.txt", "$(reboot).txt", "..hidden..txt", "语料库.txt", "a#1.jsonl"]:
        (folder / name).write_text(PROSE if name.endswith("txt") else json.dumps({"text": PROSE}))
    with open(os.fsencode(folder) + b"/\xff\xfe.txt", "w") as odd:
        odd.write(PROSE)
    with open(os.fsencode(folder) + b"/\xff.jsonl.gz", "wb") as odd_rows:
        odd_rows.write(gzip.compress(b'{"text": "x"}\n'))
    found, opened = read(tmp_path, "docs")
    # "..hidden..txt" is hidden; rows in a file whose name is no text are left out.
    assert {text.id for text in found} == {"a\\nb.txt", "$(reboot).txt", "语料库.txt", "a#1.jsonl#1", "\\xff\\xfe.txt"}
    assert opened.left_out.total == 1


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gb18030", "阀门每九十天检查一次，报告随后归档。" * 20),
        ("utf-16", PROSE),
        ("cp1252", "Größe und Maß sind zu prüfen. " * 20),
    ],
)
def test_a_text_in_another_encoding_is_told(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read(tmp_path, "a.txt")[0][0].text == text
    row = json.dumps({"text": text}, ensure_ascii=False) + "\n"
    (tmp_path / "a.jsonl").write_bytes((row * 3).encode(encoding))
    assert [found.text for found in read(tmp_path, "a.jsonl")[0]] == [text] * 3


def test_places_that_are_no_characters_are_replaced_and_reported(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(("Größe " * 200).encode() + b"\xff\xfe" + b" end")
    found, opened = read(tmp_path, "a.txt")
    assert found[0].text.endswith("\ufffd end")
    assert opened.warnings.counts == {"lossy": 1} and "1 place was" in opened.warnings.examples["lossy"][0]


def test_a_binary_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(ReadingError, match="is no text") as caught:
        read(tmp_path, "a.txt")
    assert caught.value.reason == "binary"


def test_what_is_not_there_or_holds_nothing_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere.txt")
    for path, error, words in [
        ("nowhere", UsageError, "there is no file or folder"),
        ("", UsageError, "empty path"),
        ("empty", ReadingError, "holds no file that Fathom reads"),
        ("link", ReadingError, "symbolic link"),
        ("hub:nonsense", UsageError, "names no data set"),
    ]:
        with pytest.raises(error, match=words):
            read(tmp_path, path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"row {n}"} for n in range(10)))
    stream = OpenSource(Source(path="a.jsonl"), tmp_path).texts(lambda stage, done, total: None)
    next(stream)
    with path.open("a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(ReadingError, match="was changed"):
        list(stream)


def test_the_hash_is_of_names_and_bytes_and_is_remembered(tmp_path: Path) -> None:
    folder, cache = tmp_path / "docs", tmp_path / "cache"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.txt").write_text(name)

    def sha256() -> str:
        return OpenSource(Source(path="docs"), tmp_path).sha256(cache)

    first = sha256()
    assert sha256() == first and len(list((cache / "hashes").iterdir())) == 1
    (folder / "a.txt").write_text("c")
    changed = sha256()
    (folder / "a.txt").write_text("a")
    assert changed != first and sha256() == first
    (folder / "a.txt").rename(folder / "z.txt")
    assert sha256() != first


# --- the hub ---------------------------------------------------------------------------------------------------------


def test_a_data_set_of_the_hub_that_cannot_be_reached_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingError, match="hf download --repo-type dataset nobody/nothing-here"):
        OpenSource(Source(path="hub:nobody/nothing-here"), tmp_path)


@pytest.mark.slow
def test_a_folder_laid_out_like_a_data_set_is_read_and_known_by_its_content(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    seen = []
    for text in ("one", "two"):
        table = pyarrow.table({"text": [text, "中文"], "more": [1, 2]})
        parquet.write_table(table, folder / f"train-{text}.parquet")
        found, opened = read(tmp_path, "hub:set")
        identity = opened.sha256(tmp_path / "cache")
        seen.append((identity, sorted(text.text for text in found)))
    assert [texts for _, texts in seen] == [["one", "中文"], ["one", "two", "中文", "中文"]]
    assert seen[0][0] != seen[1][0] == OpenSource(Source(path="hub:set"), tmp_path).sha256(tmp_path / "cache")
    with pytest.raises(UsageError, match="no split 'nonsense'; it has train"):
        OpenSource(Source(path="hub:set", split="nonsense"), tmp_path)


@pytest.mark.parametrize("name", ["code/code.py", "packed/a.tar"])
def test_a_data_set_that_brings_code_or_archives_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("raise SystemExit('ran')")
    with pytest.raises((MissingError, UsageError), match="scripts are no longer supported|kind 'webdataset'"):
        OpenSource(Source(path=f"hub:{Path(name).parent}"), tmp_path)


# --- the real ones ---------------------------------------------------------------------------------------------------


def test_the_sixty_articles_of_wikitext_are_found(shared_data: Callable[[str], Path]) -> None:
    found, _ = read(shared_data("wikitext2"), "valid.txt", title="title")
    assert len(found) == 60 and found[0].title == "Homarus gammarus" and not found[0].text.startswith(" =")
    whole, _ = read(shared_data("wikitext2"), "valid.txt")
    text = shared_data("wikitext2/valid.txt").read_text("utf-8")
    assert "".join(part.text for part in whole).split() == text.split()
