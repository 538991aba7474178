"""A folder in, its readable files and a reason for every other one out; a file in, its bytes and hash out.

Follows no symbolic link and opens nothing but regular files. Knows no parser and starts no process.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import ReadingError
from retrieval.reading.formats import format_of, suffix_of
from retrieval.reading.limits import MIB, ReadingLimits

_MAX_BYTES = ReadingLimits().max_file_mb * MIB

# Skipped without a word: nobody means these when they say "my documents".
_JUNK_FOLDERS = {"__pycache__", "node_modules", "__macosx", "$recycle.bin", "system volume information"}
_JUNK_FILES = {"thumbs.db", "desktop.ini", "icon\r"}
_JUNK_SUFFIXES = {"pyc", "pyo", "tmp", "swp", "part", "crdownload"}

# Kernel interfaces: "files" without an end, or whose reading does something.
_KERNEL_FILESYSTEMS = {
    *"proc sysfs devtmpfs devpts cgroup cgroup2 debugfs tracefs securityfs configfs fusectl bpf mqueue".split(),
    *"pstore autofs efivarfs binfmt_misc hugetlbfs nsfs rpc_pipefs".split(),
}

_OLD_OFFICE = {"doc": "docx", "xls": "xlsx", "ppt": "pptx", "rtf": "docx", "odt": "docx", "ods": "xlsx", "odp": "pptx"}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file as it was when listed. `path` is absolute and no part of it is a symbolic link.

    `uri` is its name in a collection; sizes in bytes, times in ns since the epoch.
    """

    path: Path
    uri: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file's bytes, read in one piece while it did not change. `content_hash` is their hex BLAKE2b-128."""

    file: SourceFile
    data: bytes
    content_hash: str


def walk(folder: Path) -> Iterator[SourceFile | ReadingError]:
    """Every file below `folder`, sorted by uri (its path relative to `folder`, in POSIX form).

    Readable ones come as SourceFile; symbolic links, devices, pipes, kernel file systems, unreadable folders and
    formats Fathom does not read come as ReadingError, in place. Hidden files and known junk are passed over. A hard
    link is a file like any other: nothing tells which of its names came first.

    Raises ReadingError if `folder` itself cannot be listed.
    """
    root = Path(os.path.realpath(folder))
    try:
        device = os.stat(root).st_dev
        first = _entries(str(root))
    except OSError as problem:
        raise _os_error(str(folder), problem, "folder") from problem
    kernel = _kernel_mounts() if device not in _kernel_devices() else frozenset()
    stack: list[tuple[str, Iterator[os.DirEntry[str]]]] = [("", iter(first))]
    while stack:
        prefix, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        uri = prefix + shown(entry.name)
        try:
            kind = entry.stat(follow_symlinks=False)
            if not stat.S_ISDIR(kind.st_mode):
                yield _judge(entry, uri, kind)
                continue
            if _is_environment(entry.path):
                continue
            if entry.path in kernel:
                yield ReadingError(
                    uri, "not-a-file", "is an interface of the kernel, not a folder of documents; skipped."
                )
                continue
            below = _entries(entry.path)
        except OSError as problem:
            yield _os_error(uri, problem, "folder" if entry.is_dir(follow_symlinks=False) else "file")
            continue
        stack.append((uri + "/", iter(below)))


def source_file(path: Path, uri: str | None = None) -> SourceFile:
    """Describe one file that a person named. `uri` defaults to its absolute path in POSIX form.

    Links in the folders above it are followed (the person typed them); the file itself must not be a link.

    Raises ReadingError: "vanished", "symlink", "not-a-file", "permission", "unsupported".
    """
    name = shown(path.name)
    try:
        parent = os.path.realpath(path.parent)
        full = Path(parent, path.name)
        found = os.lstat(full)
    except (OSError, ValueError) as problem:
        raise _os_error(shown(str(path)), problem, "file") from problem
    _refuse_other_than_regular(shown(str(path)), found)
    if format_of(name) is None:
        raise unsupported(shown(str(path)), name)
    return _described(full, uri if uri is not None else shown(full.as_posix()), found)


def load(file: SourceFile, max_bytes: int = _MAX_BYTES) -> Loaded:
    """Read a listed file whole. The returned SourceFile tells how the file stood when it was read.

    A file that changes under the reader is read once more.

    Raises ReadingError: "vanished", "permission", "symlink", "not-a-file", "too-large", "changed", "io".
    """
    for _ in range(2):
        loaded = _load_once(file, max_bytes)
        if loaded is not None:
            return loaded
    raise ReadingError(
        file.uri, "changed", "was changed by another program each time it was read; sync again when that is done."
    )


def shown(name: str) -> str:
    r"""A file name as text that any store takes: bytes that are no UTF-8 become `\xNN`, line breaks `\n` and `\r`."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace") if not _is_text(name) else name
    return text.replace("\n", "\\n").replace("\r", "\\r")


def _is_text(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def _entries(path: str) -> list[os.DirEntry[str]]:
    """A folder's entries in the order that makes the whole walk sorted by uri; closes the folder at once, so that
    depth costs no file handles."""
    with os.scandir(path) as listing:
        entries = [entry for entry in listing if not _is_junk(entry)]
    return sorted(entries, key=lambda entry: shown(entry.name) + ("/" if entry.is_dir(follow_symlinks=False) else ""))


def _is_junk(entry: os.DirEntry[str]) -> bool:
    name = entry.name.lower()
    if name.startswith((".", "~$")) or name in _JUNK_FILES or name in _JUNK_FOLDERS:
        return True
    return name.endswith(("~", ".egg-info", ".dist-info")) or suffix_of(name) in _JUNK_SUFFIXES


def _is_environment(path: str) -> bool:
    """A Python virtual environment: thousands of other people's files."""
    return os.path.exists(os.path.join(path, "pyvenv.cfg"))


def _judge(entry: os.DirEntry[str], uri: str, found: os.stat_result) -> SourceFile | ReadingError:
    try:
        _refuse_other_than_regular(uri, found)
    except ReadingError as refusal:
        return refusal
    if "\\x" in uri and "\\x" not in entry.path and os.path.lexists(os.path.join(os.path.dirname(entry.path), uri)):
        # Two files whose shown names are equal would be one document to the index.
        return ReadingError(
            uri, "name", "has the same name as another file once its odd bytes are shown; rename one of them."
        )
    if format_of(shown(entry.name)) is None:
        return unsupported(uri, entry.name)
    return _described(Path(entry.path), uri, found)


def _described(path: Path, uri: str, found: os.stat_result) -> SourceFile:
    return SourceFile(path, uri, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def _refuse_other_than_regular(uri: str, found: os.stat_result) -> None:
    mode = found.st_mode
    if stat.S_ISREG(mode):
        return
    if stat.S_ISLNK(mode):
        raise ReadingError(uri, "symlink", "is a symbolic link, which is not followed; add the file it points to.")
    for test, what in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            raise ReadingError(uri, "not-a-file", f"is {what}, not a file; give a regular file.")
    raise ReadingError(uri, "not-a-file", "is not a regular file.")


def unsupported(uri: str, name: str) -> ReadingError:
    """The refusal of a file by its name, with what to do instead."""
    suffix = suffix_of(name)
    if suffix in _OLD_OFFICE:
        advice = f"save it as .{_OLD_OFFICE[suffix]}"
    else:
        advice = "convert it to text, HTML or PDF if it should be indexed"
    kind = f"files ending in .{suffix} are" if suffix else "files of this name are"
    return ReadingError(uri, "unsupported", f"{kind} not read; {advice}.")


def _load_once(file: SourceFile, max_bytes: int) -> Loaded | None:
    """The file's bytes, or None if it changed meanwhile."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        handle = os.open(file.path, flags)
    except (OSError, ValueError) as problem:
        raise _os_error(file.uri, problem, "file") from problem
    try:
        before = os.fstat(handle)
        _refuse_other_than_regular(file.uri, before)
        if _came_through_link(handle, file.path):
            raise ReadingError(
                file.uri, "symlink", "lies behind a symbolic link that appeared after listing; not read."
            )
        if before.st_size > max_bytes:
            raise ReadingError(
                file.uri,
                "too-large",
                f"is {before.st_size / MIB:,.0f} MB, more than the limit of {max_bytes / MIB:,.0f} MB; "
                "split it or raise the limit.",
            )
        data = _read_all(handle, before.st_size)
        after = os.fstat(handle)
        now = os.lstat(file.path)
    except OSError as problem:
        raise _os_error(file.uri, problem, "file") from problem
    finally:
        os.close(handle)
    if data is None or _state(before) != _state(after) or _state(after) != _state(now):
        return None
    content_hash = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Loaded(_described(file.path, file.uri, after), data, content_hash)


def _read_all(handle: int, size: int) -> bytes | None:
    """Exactly `size` bytes and then the end, or None: the file grew or shrank."""
    data = bytearray()
    while len(data) <= size:
        piece = os.read(handle, min(8 * MIB, size + 1 - len(data)))
        if not piece:
            break
        data += piece
    return bytes(data) if len(data) == size else None


def _state(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _came_through_link(handle: int, path: Path) -> bool:
    """O_NOFOLLOW guards only the last name: a folder above may have been swapped for a link since the listing."""
    try:
        real = os.readlink(f"/proc/self/fd/{handle}")
    except OSError:  # no /proc (macOS, some containers): the check is an extra there
        return False
    return real != str(path) and not real.endswith(" (deleted)")


def _kernel_mounts() -> frozenset[str]:
    return frozenset(point for point, _ in _kernel_mount_table())


def _kernel_devices() -> frozenset[int]:
    return frozenset(device for _, device in _kernel_mount_table())


def _kernel_mount_table() -> list[tuple[str, int]]:
    """(mount point, device) of proc, sysfs and the like; empty where /proc is missing."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            lines = table.readlines()
    except OSError:
        return []
    found = []
    for line in lines:
        fields = line.split()
        kind = fields[fields.index("-") + 1] if "-" in fields else ""
        if kind in _KERNEL_FILESYSTEMS:
            major, minor = fields[2].split(":")
            point = fields[4].replace("\\040", " ")  # proc(5): a space in a mount point is \040
            found.append((point, os.makedev(int(major), int(minor))))
    return found


def _os_error(uri: str, problem: OSError | ValueError, what: str) -> ReadingError:
    """The operating system's refusal, in words."""
    number = problem.errno if isinstance(problem, OSError) else errno.EINVAL
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        return ReadingError(uri, "vanished", f"no such {what}; it was moved, deleted or misspelt.")
    if number in (errno.EACCES, errno.EPERM):
        return ReadingError(uri, "permission", f"this {what} may not be read by this user; change its permissions.")
    if number == errno.ELOOP:
        return ReadingError(uri, "symlink", "is a symbolic link, which is not followed; add the file it points to.")
    if number == errno.ENAMETOOLONG:
        return ReadingError(uri, "name", "its path is longer than the system can open (4,096 bytes); move it up.")
    if number in (errno.ENXIO, errno.ENODEV):
        return ReadingError(uri, "not-a-file", "is a socket or device, not a file.")
    if isinstance(problem, ValueError):
        return ReadingError(uri, "name", "is not a possible file name; check it.")
    return ReadingError(uri, "io", f"this {what} could not be read ({os.strerror(number or 0)}); check the disk.")
