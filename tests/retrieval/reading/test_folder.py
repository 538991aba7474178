"""Walking and loading: traps are reported and never opened, everything else is found once, in order."""

import hashlib
import os
import socket
import threading
from pathlib import Path

import pytest

from retrieval.errors import ReadingError
from retrieval.reading import folder as folder_module
from retrieval.reading.folder import SourceFile, load, source_file, walk


def listed(root: Path) -> tuple[list[str], dict[str, str]]:
    """The uris found, and uri -> reason of what was not."""
    found, refused = [], {}
    for item in walk(root):
        if isinstance(item, SourceFile):
            found.append(item.uri)
        else:
            refused[item.path] = item.reason
    return found, refused


def test_files_come_sorted_with_their_relative_names(tmp_path: Path) -> None:
    names = ["a.txt", "a/b.md", "a/é.txt", "a-b/c.html", "z.pdf", "中文/文件.txt", "a/deep/er/x.py"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found, refused = listed(tmp_path)
    assert found == sorted(names) and not refused
    first = next(iter(walk(tmp_path)))
    assert isinstance(first, SourceFile)
    assert first.size == 1 and first.path.is_absolute() and first.mtime_ns > 0


def test_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    assert listed(tmp_path) == ([], {})


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ReadingError) as caught:
            list(walk(path))
        assert caught.value.reason == "vanished"


def test_traps_are_reported_and_never_opened(tmp_path: Path) -> None:
    """Symbolic links to a file outside, inside, to a folder, in a circle, to nothing; a pipe, a socket, a device."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    outside = tmp_path / "secret.txt"
    outside.write_text("secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "more.txt").write_text("secret")
    (root / "good.txt").write_text("good")
    (root / "out.txt").symlink_to(outside)
    (root / "in.txt").symlink_to(root / "good.txt")
    (root / "folder").symlink_to(tmp_path / "secrets")
    (root / "sub" / "circle").symlink_to(root)
    (root / "broken.txt").symlink_to("nowhere")
    (root / "passwd.txt").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "socket.txt"))
    expected = dict.fromkeys(["out.txt", "in.txt", "folder", "sub/circle", "broken.txt", "passwd.txt"], "symlink")
    expected |= {"pipe.txt": "not-a-file", "socket.txt": "not-a-file"}
    if os.geteuid() == 0:
        try:
            os.mknod(root / "zero.txt", 0o020666, os.makedev(1, 5))
            expected["zero.txt"] = "not-a-file"
        except PermissionError:
            pass
    found, refused = listed(root)
    assert found == ["good.txt"]
    assert refused == expected
    for name in expected:
        if name != "folder" and not name.endswith("circle"):
            with pytest.raises(ReadingError) as caught:
                load(SourceFile(root / name, name, 0, 0, 0, 0))
            assert caught.value.reason == expected[name]


def test_a_linked_root_is_what_the_person_asked_for(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert listed(tmp_path / "link")[0] == ["a.txt"]


def test_hidden_files_and_junk_are_passed_over(tmp_path: Path) -> None:
    for name in (
        ".git/config.txt",
        "__pycache__/x.py",
        "node_modules/a/b.js",
        ".venv/x.py",
        ".hidden.txt",
        "Thumbs.db",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    for name in ("~$letter.docx", "old.txt~", "m.pyc"):
        (tmp_path / name).write_text("x")
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pyvenv.cfg").write_text("x")
    (tmp_path / "env" / "six.py").write_text("x")
    (tmp_path / "README").write_text("x")
    assert listed(tmp_path) == (["README"], {})


def test_unknown_formats_are_listed_with_what_to_do(tmp_path: Path) -> None:
    for name in ("a.doc", "b.jpg", "c"):
        (tmp_path / name).write_text("x")
    found, refused = listed(tmp_path)
    assert not found and set(refused.values()) == {"unsupported"} and len(refused) == 3
    assert any("save it as .docx" in str(item) for item in walk(tmp_path))


def test_names_that_are_no_utf8_or_hold_line_breaks_are_shown_safely(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("coffee")
    except OSError:
        pytest.skip("needs a file system that takes any bytes as a name")
    (tmp_path / "two\nlines.txt").write_text("x")
    items = {item.uri: item for item in walk(tmp_path) if isinstance(item, SourceFile)}
    assert set(items) == {r"caf\xe9.txt", r"two\nlines.txt"}
    assert load(items[r"caf\xe9.txt"]).data == b"coffee"
    (tmp_path / r"caf\xe9.txt").write_text("another")
    found, refused = listed(tmp_path)
    assert len(found) == len(set(found)), "two files of one name would be one document"
    assert refused == {r"caf\xe9.txt": "name"}


def test_a_thousand_folders_deep(tmp_path: Path) -> None:
    path = tmp_path
    for _ in range(1_000):  # os.makedirs would recurse, and so would pytest's own clean-up
        path = path / "d"
        path.mkdir()
    (path / "bottom.txt").write_text("x")
    found, refused = listed(tmp_path)
    assert found == ["d/" * 1_000 + "bottom.txt"] and not refused
    for _ in range(1_000):
        for file in path.glob("*.txt"):
            file.unlink()
        path.rmdir()
        path = path.parent


def test_unreadable_folders_and_files_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "open.txt").write_text("x")
    (tmp_path / "locked.txt").write_text("x")
    if os.geteuid() == 0:  # root may read everything: let the system call say what it says to others
        real = os.scandir

        def scandir(path: str) -> object:
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(folder_module.os, "scandir", scandir)
    else:
        (tmp_path / "locked").chmod(0)
        (tmp_path / "locked.txt").chmod(0)
        with pytest.raises(ReadingError) as caught:
            load(source_file(tmp_path / "locked.txt"))
        assert caught.value.reason == "permission"
    found, refused = listed(tmp_path)
    assert "open.txt" in found and refused == {"locked": "permission"}


def test_a_kernel_file_system_below_the_folder_is_not_entered() -> None:
    if not Path("/proc/self/mountinfo").exists():
        pytest.skip("needs Linux")
    found = []
    for item in walk(Path("/")):
        name = item.uri if isinstance(item, SourceFile) else item.path
        if name > "proc0":
            break
        found.append(name)
    assert "proc" in found
    assert not [name for name in found if name.startswith("proc/")]


def test_one_named_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"hello")
    file = source_file(path, "my/uri")
    assert file.uri == "my/uri" and file.size == 5
    assert source_file(path).uri == str(path)
    got = load(file)
    assert got.data == b"hello" and got.content_hash == hashlib.blake2b(b"hello", digest_size=16).hexdigest()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.txt", "vanished"),
        ("sub", "not-a-file"),
        ("link.txt", "symlink"),
        ("a.xyz", "unsupported"),
        ("n\0.txt", "name"),
    ],
)
def test_named_files_that_cannot_be(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.xyz").write_text("x")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.xyz")
    with pytest.raises(ReadingError) as caught:
        source_file(tmp_path / name)
    assert caught.value.reason == reason


def test_a_file_that_vanishes_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    file = source_file(path)
    path.unlink()
    with pytest.raises(ReadingError) as caught:
        load(file)
    assert caught.value.reason == "vanished"


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(200 * 1024 * 1024)
    with pytest.raises(ReadingError) as caught:
        load(source_file(path))
    assert caught.value.reason == "too-large" and "200 MB" in caught.value.message


def test_a_file_that_changed_since_listing_is_read_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    file = source_file(path)
    path.write_text("newer")
    got = load(file)
    assert got.data == b"newer" and got.file.size == 5


def test_a_file_that_changes_while_read_is_read_again_then_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * 100)
    real = os.read
    changes = 1

    def read(handle: int, size: int) -> bytes:
        nonlocal changes
        if changes > 0:
            changes -= 1
            path.write_bytes(b"b" * (101 + changes))
        return real(handle, size)

    monkeypatch.setattr(folder_module.os, "read", read)
    assert load(source_file(path)).data == b"b" * 101
    changes = 99
    with pytest.raises(ReadingError) as caught:
        load(source_file(path))
    assert caught.value.reason == "changed"


def test_a_change_that_keeps_the_size_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * 100)
    os.utime(path, ns=(0, 0))
    real = os.read
    changes = 1

    def read(handle: int, size: int) -> bytes:
        nonlocal changes
        piece = real(handle, min(size, 50))
        if changes > 0:
            changes -= 1
            path.write_bytes(b"b" * 100)
        return piece

    monkeypatch.setattr(folder_module.os, "read", read)
    assert load(source_file(path)).data == b"b" * 100, "half of each would be neither"


def test_a_folder_swapped_for_a_link_after_listing_is_not_followed(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    (tmp_path / "root" / "sub").mkdir(parents=True)
    (tmp_path / "root" / "sub" / "a.txt").write_text("mine")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.txt").write_text("secret")
    (file,) = walk(tmp_path / "root")
    assert isinstance(file, SourceFile)
    (tmp_path / "root" / "sub" / "a.txt").unlink()
    (tmp_path / "root" / "sub").rmdir()
    (tmp_path / "root" / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(ReadingError) as caught:
        load(file)
    assert caught.value.reason == "symlink"


def test_a_pipe_that_replaces_a_file_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    file = source_file(path)
    path.unlink()
    os.mkfifo(path)
    caught: list[str] = []

    def attempt() -> None:
        try:
            load(file)
        except ReadingError as problem:
            caught.append(problem.reason)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(10)
    assert caught == ["not-a-file"]
