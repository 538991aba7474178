"""Names and bytes from elsewhere: nothing is written outside the job's folder, nothing more than allowed."""

import os
from pathlib import Path

import pytest

from app.chat.upload_area import MAX_NAME, UploadArea, clean_name
from app.upload_limits import UploadLimits
from retrieval.errors import ReadingError, UsageError
from retrieval.reading.formats import suffix_of

NAMES = {
    "../../etc/passwd": "etc/passwd",
    "..\\..\\windows\\win.ini": "windows/win.ini",
    "/etc/passwd": "etc/passwd",
    "//host/share/a.md": "host/share/a.md",
    "C:\\Users\\a.txt": "C:/Users/a.txt",
    "a/../../b.md": "a/b.md",
    "./././a.md": "a.md",
    "....//....//a.md": "a.md",
    "%2e%2e%2fa.md": "%2e%2e%2fa.md",
    "a.md\x00.png": "a.md.png",
    "in\nvoice\r\n.md": "in voice .md",
    "exe\u202egpj.md": "exegpj.md",
    "a\u200bb\u2060.md": "ab.md",
    "<img src=x onerror=alert(1)>.md": "<img src=x onerror=alert(1)>.md",
    "\"quoted' name`.md": "\"quoted' name`.md",
    "CON": "CON",
    "指南 😀.md": "指南 😀.md",
    "\ud800half.md": "\ufffdhalf.md",
    "~/a.md": "~/a.md",
    "-rf.md": "-rf.md",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_becomes_harmless_text(name: str) -> None:
    assert clean_name(name) == NAMES[name]


@pytest.mark.parametrize("name", ["", ".", "..", "/", "../..", "\\", " ", "\u202e", "\x00", "....", "./ /."])
def test_a_name_of_which_nothing_is_left_is_refused(name: str) -> None:
    with pytest.raises(ReadingError, match="rename"):
        clean_name(name)


def test_a_long_name_keeps_its_end() -> None:
    short = clean_name("长" * 4_000 + ".pdf")
    assert len(short) == MAX_NAME and suffix_of(short) == "pdf" and "…" in short
    deep = clean_name("/".join(["f" * 300] * 50) + "/a.md")
    assert len(deep) < 500 and deep.endswith("/a.md")


def area(folder: Path, **limits: int) -> UploadArea:
    return UploadArea(folder / "uploads", UploadLimits(**{"free_mb": 1, **limits}))


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    job = area(tmp_path).open("default")
    arriving = job.create(clean_name(name))
    arriving.write(b"text")
    arriving.finish()
    assert arriving.path.parent == job.path and arriving.path.read_bytes() == b"text"
    assert arriving.path.name.isascii() and oct(arriving.path.stat().st_mode & 0o777) == "0o600"
    assert sorted(os.listdir(tmp_path)) == ["uploads"]
    job.close(set())
    assert not job.path.exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", ".hidden", "a" * 61, "a\x00b", "x\n"])
def test_a_collection_that_cannot_be_one_gets_no_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        area(tmp_path).open(name)
    assert not (tmp_path / "uploads").exists()


def test_a_link_in_the_place_of_a_folder_or_file_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    made = area(tmp_path)
    made.open("first").close(set())
    (tmp_path / "uploads" / "linked").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="symbolic link"):
        made.open("linked")
    job = made.open("first")
    (elsewhere / "secret").write_text("secret")
    (job.path / "00001.md").symlink_to(elsewhere / "secret")
    with pytest.raises(FileExistsError):
        job.create("a.md")
    job.close(set())
    made.clean(lambda name: set())
    assert (elsewhere / "secret").read_text() == "secret"


def test_a_file_grows_to_its_limit_and_all_together_to_theirs(tmp_path: Path) -> None:
    made = area(tmp_path, file_mb=2, total_mb=3)
    job = made.open("default")
    first = job.create("a.md")
    first.write(bytes(2 << 20))
    with pytest.raises(ReadingError) as caught:
        first.write(b"x")
    assert caught.value.reason == "too-large"
    second = job.create("b.md")
    with pytest.raises(ReadingError) as caught:
        second.write(bytes((1 << 20) + 1))
    assert caught.value.reason == "quota"
    first.discard()
    second.write(bytes(1 << 20))
    second.finish()
    job.close({str(second.path)})
    assert [path.name for path in made.folder.rglob("*.md")] == ["00002.md"]
    other = made.open("other")
    other.create("c.md").write(bytes(2 << 20))
    with pytest.raises(ReadingError, match="remove documents"):
        other.create("d.md").write(b"x")


def test_a_disk_that_is_nearly_full_takes_nothing(tmp_path: Path) -> None:
    job = area(tmp_path, free_mb=10**9).open("default")
    with pytest.raises(ReadingError) as caught:
        job.create("a.md").write(b"x")
    assert caught.value.reason == "disk"


def test_cleaning_deletes_what_nothing_points_to_and_leaves_what_is_in_use(tmp_path: Path) -> None:
    made = area(tmp_path)
    paths = {}
    for collection in ("kept", "gone", "unsure"):
        job = made.open(collection)
        for name in ("a.md", "b.md"):
            arriving = job.create(name)
            arriving.write(b"x")
            arriving.finish()
            paths[collection, name] = arriving.path
        job._lock.release()  # as if the process had been killed
    used = made.open("gone")
    used.create("c.md").finish()
    wanted = {"kept": {str(paths["kept", "a.md"])}, "gone": set(), "unsure": None}
    area(tmp_path).clean(lambda name: wanted[name])
    left = {path.relative_to(made.folder).parts[0] + path.name for path in made.folder.rglob("*.md")}
    assert left == {"kept00001.md", "unsure00001.md", "unsure00002.md", "gone00001.md"}
    assert used.path.exists() and not paths["gone", "a.md"].parent.exists()


def test_limits_are_more_than_nothing() -> None:
    with pytest.raises(UsageError, match="file_mb"):
        UploadLimits(file_mb=0)
