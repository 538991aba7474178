"""The BM25 index: right scores, filters inside the search, one truth about what it holds, damage found."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.errors import BusyError, DamagedError, FathomError
from retrieval.storage.lexical import LexicalEntry, LexicalIndex
from retrieval.storage.lexical_files import file_problem, read_meta

ROOT = Path(__file__).resolve().parents[3]
WORDS = [f"word{i}" for i in range(200)]


def entries(count: int, *, start: int = 1, per_document: int = 4, seed: int = 0) -> list[LexicalEntry]:
    """Passages of words drawn with a long tail; passage i belongs to document i // per_document."""
    chance = random.Random(seed)
    weights = [1 / (i + 1) for i in range(len(WORDS))]
    return [
        LexicalEntry(i, i // per_document, " ".join(chance.choices(WORDS, weights, k=chance.randint(5, 60))))
        for i in range(start, start + count)
    ]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[LexicalIndex]:
    with LexicalIndex(tmp_path / "lexical", write=True) as made:
        yield made


def test_a_new_index_is_empty_and_good(index: LexicalIndex) -> None:
    assert index.watermark == 0
    assert index.passage_ids().tolist() == []
    assert index.search("anything", 5) == []
    assert index.score("anything", [1]) == {}
    assert index.check() == []


def test_scores_are_bm25(index: LexicalIndex) -> None:
    index.apply([LexicalEntry(1, 1, "cat dog"), LexicalEntry(2, 2, "cat cat bird"), LexicalEntry(3, 3, "fish")], [], 1)
    # Okapi BM25, k1 = 1.2, b = 0.75. Four entries: three passages and the marker, which has no words.
    count, mean = 4, 6 / 4

    def bm25(frequency: int, holding: int, length: int) -> float:
        rarity = np.log(1 + (count - holding + 0.5) / (holding + 0.5))
        return float(rarity * 2.2 * frequency / (frequency + 1.2 * (0.25 + 0.75 * length / mean)))

    expected = {2: bm25(2, 2, 3), 1: bm25(1, 2, 2)}
    found = index.search("cats", 5)
    assert [passage for passage, _ in found] == [2, 1]
    assert dict(found) == pytest.approx(expected, rel=1e-5)


def test_add_replace_remove(index: LexicalIndex, tmp_path: Path) -> None:
    index.apply(entries(100), [], 7)
    assert index.watermark == 7
    assert index.passage_ids().tolist() == list(range(1, 101))
    # Document 5 held passages 20 to 23. The same call brings its new ones.
    index.apply([LexicalEntry(500, 5, "zebra")], [5, 999], 8)
    assert index.search("zebra", 3)[0][0] == 500
    assert index.passage_ids().tolist() == [i for i in range(1, 101) if i not in range(20, 24)] + [500]
    index.apply([], [5], 9)
    assert index.search("zebra", 3) == []
    assert index.watermark == 9
    index.close()
    with LexicalIndex(tmp_path / "lexical", write=False) as again:
        assert again.watermark == 9
        assert len(again.passage_ids()) == 96
        with pytest.raises(FathomError, match="reading only"):
            again.apply([], [], 10)


def test_a_failing_source_leaves_nothing_behind(index: LexicalIndex) -> None:
    index.apply(entries(20), [], 1)

    def source() -> Iterator[LexicalEntry]:
        yield LexicalEntry(900, 900, "halfway")
        raise KeyError("the store went away")

    with pytest.raises(KeyError):
        index.apply(source(), [1, 2], 2)
    assert (index.watermark, len(index.passage_ids())) == (1, 20)
    index.apply([LexicalEntry(901, 901, "later")], [], 3)
    assert index.search("halfway", 3) == []
    assert (index.watermark, len(index.passage_ids())) == (3, 21)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LexicalIndex]:
    with LexicalIndex(tmp_path_factory.mktemp("filled") / "lexical", write=True) as made:
        made.apply(entries(300), [], 1)
        made.apply(entries(200, start=301, seed=1), [3, 40], 2)
        yield made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=6),
    documents=st.sets(st.integers(0, 130), max_size=60),
    exclude=st.booleans(),
    k=st.integers(1, 40),
)
def test_a_filter_is_inside_the_search_and_changes_no_score(
    filled: LexicalIndex, words: list[str], documents: set[int], exclude: bool, k: int
) -> None:
    query = " ".join(words)
    everything = filled.search(query, 1000)
    expected = [hit for hit in everything if ((hit[0] // 4) in documents) != exclude]
    found = filled.search(query, k, documents=documents, exclude=exclude)
    assert len(found) == min(k, len(expected))
    assert [score for _, score in found] == [score for _, score in expected[:k]]
    assert dict(found).items() <= dict(expected).items()


def test_scores_of_given_passages_are_those_of_the_search(filled: LexicalIndex) -> None:
    everything = dict(filled.search("word1 word7 word30", 1000))
    wanted = [5, 17, 160, 301, 302, 12, 13, 10**9, 5]  # 12 and 13 are deleted
    assert filled.score("word1 word7 word30", wanted) == {i: everything[i] for i in wanted if i in everything}


QUERIES = [
    "",
    "   ",
    '"',
    "(",
    "a AND",
    "NOT NOT",
    "word1 OR (word2",
    "body:word1",
    "word1^5",
    "*",
    "wo?d*",
    "[a TO b]",
]
QUERIES += ["\x00", "🔥", "\ud800", "word1\n\t word2", "x" * 10_000, "\\", "+-&&||!", "{}", "/re/", "~", "<>", "\u3000"]


@pytest.mark.parametrize("query", QUERIES)
def test_any_string_is_a_query(filled: LexicalIndex, query: str) -> None:
    found = filled.search(query, 5)
    assert bool(found) == ("word1" in query)
    assert filled.search(query, 0) == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40))
def test_any_unicode_is_a_query(filled: LexicalIndex, query: str) -> None:
    filled.search(query, 3)
    filled.score(query, [1, 2])


def test_a_long_query_is_searched_by_its_rarest_words(filled: LexicalIndex) -> None:
    noise = " ".join(f"absent{i}" for i in range(10_000))
    assert filled.search(f"{noise} word150", 5) == filled.search("word150", 5) != []


def test_repeating_a_word_of_the_query_changes_nothing(filled: LexicalIndex) -> None:
    assert filled.search("word3 word9 word3 Word3", 9) == filled.search("word3 word9", 9)


def test_a_second_writer_is_told(index: LexicalIndex, tmp_path: Path) -> None:
    unfinished = tmp_path / "lexical" / f"{'0' * 32}.term"
    unfinished.write_bytes(b"of the writer at work")
    with pytest.raises(BusyError, match="another process"):
        LexicalIndex(tmp_path / "lexical", write=True)
    assert unfinished.exists(), "the second writer took a file of the first away"
    index.close()
    LexicalIndex(tmp_path / "lexical", write=True).close()
    assert not unfinished.exists()


def test_a_reader_follows_the_writer_through_merges(index: LexicalIndex, tmp_path: Path) -> None:
    reader = LexicalIndex(tmp_path / "lexical", write=False)
    stop, wrong, rounds = threading.Event(), [], 0

    def follow() -> None:
        nonlocal rounds
        while not stop.is_set():
            try:
                reader.refresh()
                held, mark = len(reader.passage_ids()), reader.watermark
                found = len(reader.search("same", 1000))
                if not held == found == 3 * mark:
                    wrong.append((mark, held, found))
            except FathomError as error:
                wrong.append(error)
            rounds += 1

    thread = threading.Thread(target=follow)
    thread.start()
    # Each commit is a segment: tantivy merges and removes files every few of them.
    for mark in range(1, 41):
        index.apply([LexicalEntry(3 * mark + i, mark, "same text") for i in range(3)], [], mark)
    index.optimise()
    stop.set()
    thread.join()
    reader.refresh()
    assert not wrong
    assert rounds > 3
    assert reader.watermark == 40
    assert len(read_meta(tmp_path / "lexical")["segments"]) < 20, "merges did happen"
    assert reader.check() == []


def test_refresh_is_one_stat_where_nothing_changed(index: LexicalIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LexicalIndex, "_settle", lambda *_: pytest.fail("reloaded"))
    index.refresh()


def workers() -> set[str]:
    found = set()
    for task in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):
            if task.read_text().startswith(("merge_thread", "segment_updater")):
                found.add(task.parent.name)
    return found


def test_nothing_writes_to_the_folder_after_close(tmp_path: Path) -> None:
    before = workers()
    for _ in range(10):
        with LexicalIndex(tmp_path / "lexical", write=True) as made:
            for mark in range(9):  # the ninth commit starts a merge
                made.apply([LexicalEntry(mark, mark, "text")], [], mark)
        assert workers() <= before
        shutil.rmtree(tmp_path / "lexical")


def test_dead_fraction(index: LexicalIndex) -> None:
    index.apply(entries(100), [], 1)
    assert index.dead_fraction == 0
    index.apply([], list(range(13)), 2)
    assert 0.4 < index.dead_fraction < 0.6


# Damage


def answers(folder: Path) -> tuple[list[int], list[list[tuple[int, float]]], int]:
    with LexicalIndex(folder, write=False) as opened:
        return opened.passage_ids().tolist(), [opened.search(word, 50) for word in WORDS[:60:4]], opened.watermark


def grown(folder: Path) -> list[tuple[int, float]]:
    """What a writer makes of an index: a deletion and an addition on top."""
    with LexicalIndex(folder, write=True) as opened:
        opened.apply([LexicalEntry(9_000, 9_000, "word1 word2")], [2, 70], opened.watermark + 1)
        return opened.search("word1 word2 word9", 400)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "lexical"
    with LexicalIndex(folder, write=True) as made:
        made.apply(entries(250), [], 1)
        made.apply(entries(50, start=251, seed=1), [3, 4, 5], 2)
        made.apply([], [9], 3)
    return folder


def test_every_flipped_bit_is_found_or_changes_nothing(stored: Path, tmp_path: Path) -> None:
    good, better = answers(stored), grown(Path(shutil.copytree(stored, tmp_path / "grown")))
    chance = random.Random(5)
    files = sorted(path.name for path in stored.iterdir() if path.stat().st_size)
    # Half of the flips go to the two files without a checksum.
    weak = [name for name in files if name.endswith(".json")]
    assert {"meta.json", ".managed.json"} == set(weak)
    flips = [chance.choice(files) for _ in range(100)] + [chance.choice(weak) for _ in range(100)]
    found = 0
    for number, name in enumerate(flips):
        folder = tmp_path / f"flip{number}"
        shutil.copytree(stored, folder)
        path = folder / name
        data = bytearray(path.read_bytes())
        place = chance.randrange(len(data) * 8)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            assert answers(folder) == good, f"{name}: bit {place} changed the answers silently"
            assert grown(folder) == better, f"{name}: bit {place} changed what a writer made of it"
        except DamagedError as error:
            found += 1
            assert "fathom index verify --repair" in str(error)
        shutil.rmtree(folder)
    assert found > 120


@pytest.mark.parametrize(
    ("entry", "change"), [("max_doc", -1), ("max_doc", 1), ("num_deleted_docs", 1), ("num_deleted_docs", -1)]
)
def test_counts_that_disagree_are_found(stored: Path, tmp_path: Path, entry: str, change: int) -> None:
    folder = Path(shutil.copytree(stored, tmp_path / "lexical"))
    meta = json.loads((folder / "meta.json").read_text())
    segment = next(segment for segment in meta["segments"] if segment["deletes"])
    where = segment if entry == "max_doc" else segment["deletes"]
    where[entry] += change
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DamagedError):
        LexicalIndex(folder, write=False)


@pytest.mark.parametrize("stamp", [0, 10**9])
def test_an_operation_stamp_that_would_hide_deletions_is_found(stored: Path, tmp_path: Path, stamp: int) -> None:
    folder = Path(shutil.copytree(stored, tmp_path / "lexical"))
    meta = json.loads((folder / "meta.json").read_text())
    meta["opstamp"] = stamp
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DamagedError, match="operation stamp"):
        LexicalIndex(folder, write=False)


@pytest.mark.parametrize("changed_meanwhile", [True, False])
def test_a_file_taken_away_by_a_writer_is_no_damage(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed_meanwhile: bool
) -> None:
    folder = Path(shutil.copytree(stored, tmp_path / "lexical"))
    calls = 0

    def once_gone(path: Path) -> str | None:
        nonlocal calls
        calls += 1
        if calls > 1:
            return file_problem(path)
        if changed_meanwhile:
            os.utime(folder / "meta.json", ns=(1, 1))
        return f"{path.name} is missing"

    monkeypatch.setattr("retrieval.storage.lexical.file_problem", once_gone)
    if changed_meanwhile:
        assert LexicalIndex(folder, write=False).watermark == 3
    else:
        with pytest.raises(DamagedError, match="is missing"):
            LexicalIndex(folder, write=False)


@pytest.mark.parametrize("loss", ["cut", "empty", "gone"])
def test_every_cut_or_missing_file_is_found(stored: Path, tmp_path: Path, loss: str) -> None:
    good = answers(stored)
    for name in sorted(path.name for path in stored.iterdir() if path.stat().st_size):
        folder = Path(shutil.copytree(stored, tmp_path / name))
        path = folder / name
        if loss == "gone":
            path.unlink()
        else:
            with path.open("r+b") as file:
                file.truncate(0 if loss == "empty" else path.stat().st_size // 2)
        if name == ".managed.json":  # a list for clearing up: without it nothing is lost
            try:
                assert answers(folder) == good
            except DamagedError:
                pass
        else:
            with pytest.raises(DamagedError):
                LexicalIndex(folder, write=False)


def test_check_finds_damage_done_while_open(index: LexicalIndex, tmp_path: Path) -> None:
    index.apply(entries(50), [], 1)
    assert index.check() == []
    victim = next((tmp_path / "lexical").glob("*.idx"))
    with victim.open("r+b") as file:  # in place: a file that shrinks under a mapping kills the process that reads it
        file.seek(40)
        byte = file.read(1)[0]
        file.seek(40)
        file.write(bytes([byte ^ 4]))
    assert index.check() == [f"{victim.name} does not match its checksum"]


def test_a_folder_that_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="missing"):
        LexicalIndex(tmp_path / "nothing", write=False)
    (tmp_path / "stray").write_text("x")
    with pytest.raises(DamagedError):
        LexicalIndex(tmp_path, write=True)


WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from retrieval.storage.lexical import LexicalEntry, LexicalIndex
    with LexicalIndex(Path(sys.argv[1]), write=True) as index:
        mark = index.watermark
        while True:
            mark += 1
            # Document d holds two passages with word "mark<d>"; every third call also drops a document.
            gone = [mark - 2] if mark % 3 == 0 else []
            index.apply([LexicalEntry(2 * mark + i, mark, f"same mark{mark}") for i in range(2)], gone, mark)
            print(mark, flush=True)
    """
)


def test_a_kill_leaves_what_the_watermark_says(tmp_path: Path) -> None:
    folder, chance = tmp_path / "lexical", random.Random(3)
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            acknowledged = int(writer.stdout.readline())
            time.sleep(chance.uniform(0, 0.3))
            writer.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        # The lock of a killed writer is gone with it: opening for writing works at once.
        with LexicalIndex(folder, write=True) as left:
            mark = left.watermark
            assert mark in (acknowledged, acknowledged + 1)
            gone = {m - 2 for m in range(3, mark + 1, 3)}
            kept = [m for m in range(1, mark + 1) if m not in gone]
            assert left.passage_ids().tolist() == [2 * m + i for m in kept for i in range(2)]
            assert len(left.search("same", 10_000)) == 2 * len(kept)
            assert left.check() == []
