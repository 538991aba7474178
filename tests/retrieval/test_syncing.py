"""A folder and its collection: after any history, the index is what the folder holds."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import HashingEmbedder
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from retrieval.collection import Collection
from retrieval.errors import UsageError
from retrieval.filters import parse_filter
from retrieval.reading.reader import Reader
from retrieval.syncing import SyncReport, add_files, plan_sync, sync
from retrieval.verifying import verify

LONG_AGO = 1_500_000_000


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader() as one:
        yield one


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    (folder / "sub").mkdir(parents=True)
    write(folder / "a.txt", "Alpha is the first letter.")
    write(folder / "sub" / "b.md", "# Beta\n\nBeta is the second letter.")
    write(folder / "c.txt", "Gamma rays are energetic.")
    return folder


def write(path: Path, text: str) -> None:
    """With an old time, so that "just changed" plays no part unless a test wants it to."""
    path.write_text(text, encoding="utf-8")
    os.utime(path, (LONG_AGO, LONG_AGO))


def names(collection: Collection) -> list[str]:
    return [row.source.uri for row in collection.documents()]


def test_first_and_second_sync(
    collection: Collection, shelf: Path, reader: Reader, hashing_embedder: HashingEmbedder
) -> None:
    first = sync(collection, shelf, reader)
    assert sorted(first.added) == ["a.txt", "c.txt", "sub/b.md"] == names(collection)
    embedded = hashing_embedder.embedded
    again = sync(collection, shelf, reader)
    assert (again.added, again.updated, again.removed, again.unchanged) == ([], [], [], 3)
    assert hashing_embedder.embedded == embedded and again.passages == 0


def test_edit_add_remove_rename_touch(
    collection: Collection, shelf: Path, reader: Reader, hashing_embedder: HashingEmbedder
) -> None:
    sync(collection, shelf, reader)
    embedded = hashing_embedder.embedded
    write(shelf / "a.txt", "Alpha now speaks of zebras.")
    (shelf / "c.txt").unlink()
    (shelf / "sub" / "b.md").rename(shelf / "renamed.md")
    write(shelf / "new.txt", "Delta is new.")
    plan = plan_sync(collection, shelf, max_bytes=10**8)
    assert (plan.add, plan.update, plan.remove) == (("new.txt", "renamed.md"), ("a.txt",), ("c.txt", "sub/b.md"))
    assert names(collection) == ["a.txt", "c.txt", "sub/b.md"], "a plan changes nothing"
    report = sync(collection, shelf, reader)
    assert sorted(report.added) == ["new.txt", "renamed.md"]
    assert (report.updated, report.removed) == (["a.txt"], ["c.txt", "sub/b.md"])
    assert names(collection) == ["a.txt", "new.txt", "renamed.md"]
    assert hashing_embedder.embedded - embedded <= 3
    os.utime(shelf / "new.txt", (LONG_AGO + 5, LONG_AGO + 5))
    touched = sync(collection, shelf, reader)
    assert (touched.updated, touched.unchanged, touched.embedded) == ([], 3, 0)
    assert [h.source.uri for h in collection.search("zebras", mode="lexical").hits] == ["a.txt"]


def test_a_change_that_keeps_size_and_time_of_a_fresh_file_is_seen(
    collection: Collection, shelf: Path, reader: Reader
) -> None:
    """Times with a coarse clock cannot show it; a file as young as the sync is hashed again."""
    (shelf / "a.txt").write_text("one aaa")
    stamp = os.stat(shelf / "a.txt").st_mtime_ns
    sync(collection, shelf, reader)
    (shelf / "a.txt").write_text("two bbb")
    os.utime(shelf / "a.txt", ns=(stamp, stamp))
    assert sync(collection, shelf, reader).updated == ["a.txt"]


def test_failures_are_listed_remembered_and_never_stop_the_others(
    collection: Collection, shelf: Path, reader: Reader
) -> None:
    (shelf / "broken.pdf").write_bytes(b"%PDF-1.7 broken beyond repair")
    (shelf / "noise.txt").write_bytes(bytes(range(256)) * 20)
    for path in (shelf / "broken.pdf", shelf / "noise.txt"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    for _ in range(2):
        report = sync(collection, shelf, reader)
        assert {error.path for error in report.failed} == {"broken.pdf", "noise.txt"}
        assert {error.reason for error in report.failed} <= {"corrupt", "binary"}
    assert names(collection) == ["a.txt", "c.txt", "sub/b.md"]
    write(shelf / "noise.txt", "Now it is text.")
    assert sync(collection, shelf, reader).added == ["noise.txt"]


def test_a_file_that_turns_unreadable_keeps_its_last_good_version(
    collection: Collection, shelf: Path, reader: Reader
) -> None:
    sync(collection, shelf, reader)
    (shelf / "a.txt").write_bytes(bytes(range(256)) * 20)
    for _ in range(2):
        report = sync(collection, shelf, reader)
        assert report.kept == ["a.txt"] and report.removed == []
    assert collection.document_by_uri("a.txt").text == "Alpha is the first letter."


def test_two_folders_in_one_collection_do_not_collide(collection: Collection, tmp_path: Path, reader: Reader) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "readme.txt", f"This is folder {name}.")
        sync(collection, tmp_path / name, reader)
    assert names(collection) == ["readme.txt", "two/readme.txt"]
    (tmp_path / "one" / "readme.txt").unlink()
    assert sync(collection, tmp_path / "one", reader).removed == ["readme.txt"]
    assert names(collection) == ["two/readme.txt"]


def test_single_files_and_folders_do_not_collide(collection: Collection, shelf: Path, reader: Reader) -> None:
    other = shelf.parent / "a.txt"
    write(other, "Another alpha entirely.")
    assert add_files(collection, [other], reader).added == ["a.txt"]
    sync(collection, shelf, reader)
    assert names(collection) == ["a.txt", "papers/a.txt", "papers/c.txt", "papers/sub/b.md"]
    assert add_files(collection, [other], reader).unchanged == 1
    write(other, "Another alpha, revised.")
    assert add_files(collection, [other], reader).updated == ["a.txt"]


def test_metadata_of_a_folder_can_be_searched_and_changed(collection: Collection, shelf: Path, reader: Reader) -> None:
    sync(collection, shelf, reader, metadata={"team": "blue"})
    assert len(collection.documents([parse_filter("team=blue")])) == 3
    report = sync(collection, shelf, reader, metadata={"team": "red"})
    assert len(report.updated) == 3 and report.embedded == 0
    assert len(collection.documents([parse_filter("team=red")])) == 3


def test_symbolic_links_are_not_followed(collection: Collection, shelf: Path, reader: Reader, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    write(secret, "the password is swordfish")
    (shelf / "link.txt").symlink_to(secret)
    (shelf / "loop").symlink_to(shelf)
    report = sync(collection, shelf, reader)
    assert {error.reason for error in report.failed} == {"symlink"}
    assert collection.search("password swordfish", mode="lexical").hits == ()


def test_not_a_folder(collection: Collection, tmp_path: Path, reader: Reader) -> None:
    with pytest.raises(UsageError, match="found nothing"):
        sync(collection, tmp_path / "nowhere", reader)
    with pytest.raises(UsageError, match="found a file"):
        write(tmp_path / "x.txt", "x")
        sync(collection, tmp_path / "x.txt", reader)


def test_a_stopped_sync_keeps_what_was_saved_and_goes_on(
    tmp_path: Path, hashing_embedder: HashingEmbedder, reader: Reader
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(600):
        write(folder / f"{i:03}.txt", f"Document number {i}.")

    class Stopped(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "documents" and done >= 256:
            raise Stopped

    with Collection.create(tmp_path / "c", name="c", embedder=lambda: hashing_embedder) as collection:
        with pytest.raises(Stopped):
            sync(collection, folder, reader, progress=stop)
        saved = len(collection.documents())
        assert 0 < saved < 600
        report = sync(collection, folder, reader)
        assert len(report.added) == 600 - saved and report.unchanged == saved
        assert verify(collection).problems == []


class FolderMachine(RuleBasedStateMachine):
    """Random histories of a folder, with the collection closed, reopened and optimised in between."""

    files = st.sampled_from(["a.txt", "b.md", "d/c.txt", "d/e/f.txt", "茶.txt"])
    texts = st.sampled_from(["red apples", "green pears", "blue plums in a long sentence. And more.", "绿茶很好", "x"])
    reader: Reader

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.base = Path(tempfile.mkdtemp())
        self.folder = self.base / "folder"
        self.folder.mkdir()
        self.expected: dict[str, str] = {}
        self.synced: dict[str, str] = {}
        self.embedder = HashingEmbedder()
        self.collection = Collection.create(self.base / "c", name="c", embedder=lambda: self.embedder)
        self.clock = LONG_AGO

    @rule(name=files, text=texts)
    def write_file(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.clock += 10
        os.utime(path, (self.clock, self.clock))
        self.expected[name] = text

    @rule(name=files)
    def delete_file(self, name: str) -> None:
        if self.expected.pop(name, None) is not None:
            (self.folder / name).unlink()

    @rule(one=files, other=files)
    def move_file(self, one: str, other: str) -> None:
        if one in self.expected and one != other:
            (self.folder / other).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / one).rename(self.folder / other)
            self.expected[other] = self.expected.pop(one)

    @rule()
    def do_sync(self) -> None:
        report: SyncReport = sync(self.collection, self.folder, self.reader)
        assert report.failed == []
        changed = {n for n in self.expected if self.synced.get(n) != self.expected[n]}
        assert set(report.added) | set(report.updated) == changed
        assert set(report.removed) == self.synced.keys() - self.expected.keys()
        self.synced = dict(self.expected)

    @rule()
    def reopen(self) -> None:
        self.collection.close()
        self.collection = Collection.open(self.base / "c", embedder=lambda: self.embedder, write=True)

    @rule()
    def optimise(self) -> None:
        self.collection.optimise()

    @invariant()
    def index_is_the_folder_at_the_last_sync(self) -> None:
        found = {row.source.uri: self.collection.document(row.source.id).text for row in self.collection.documents()}
        assert found == self.synced
        for mode in ("lexical", "dense"):
            hits = self.collection.search("red apples", mode=mode, k=20).hits  # type: ignore[arg-type]
            with_words = {n for n, text in self.synced.items() if text == "red apples"}
            assert with_words <= {h.source.uri for h in hits} <= self.synced.keys()

    def teardown(self) -> None:
        assert verify(self.collection).problems == []
        self.collection.close()
        shutil.rmtree(self.base)


def test_any_history_ends_in_the_folder(reader: Reader) -> None:
    FolderMachine.reader = reader
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        FolderMachine,
        settings=settings(
            max_examples=int(os.environ.get("FATHOM_EXAMPLES", "15")),
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
