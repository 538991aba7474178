"""Power loss at any system call: what was not fsynced is dropped, kept or torn at random, directory entries too.

A writer runs under strace; its writes are replayed up to a random call into a fresh folder, as a disk might hold them
after the power went. Nothing that was acknowledged before that call may be missing. Run with synchronous=NORMAL, the
same test must find losses: that shows it can.
"""

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from torture.workload import check, create, state_after

WRITING = "write,pwrite64,writev,lseek,fsync,fdatasync,ftruncate"
NAMING = "openat,rename,renameat,renameat2,unlink,unlinkat,mkdir,rmdir"
SECTOR = 512


@dataclass
class Event:
    """One system call of the writer, as far as the disk is concerned."""

    call: str
    path: str = ""
    other: str = ""
    data: bytes = b""
    offset: int = -1
    inode: "Inode | None" = None


@dataclass
class Inode:
    """A file's bytes: what is surely on disk, and the changes since the last fsync."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)  # (offset, data); offset −n−1: truncate to n

    def now(self) -> bytearray:
        content = bytearray(self.durable)
        for offset, data in self.pending:
            apply(content, offset, data)
        return content


def apply(content: bytearray, offset: int, data: bytes) -> None:
    """One write, or one truncation where the offset is negative."""
    if offset < 0:
        size = -offset - 1
        del content[size:]
        content.extend(bytes(size - len(content)))
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def available() -> bool:
    """Whether strace is here and may trace."""
    return shutil.which("strace") is not None and (
        subprocess.run(["strace", "-e", "trace=none", "true"], capture_output=True, check=False).returncode == 0
    )


def trace(folder: Path, seed: int, steps: int, synchronous: str | None) -> list[Event]:
    """Run the writer under strace and parse what it did."""
    log = folder / "strace.log"
    script = Path(__file__).with_name("workload.py")
    root = script.parents[2]
    command = ["strace", "-f", "-y", "-xx", "-s", "4000000", "-e", f"trace={WRITING},{NAMING}", "-o", str(log)]
    command += [sys.executable, str(script), str(folder / "torture"), str(seed), str(steps)]
    command += [synchronous] if synchronous else []
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{root}:{root / 'tests'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the traced writer failed: {done.stderr[-2000:]}")
    return parse(log.read_text("latin-1"), str((folder / "torture").resolve()))


LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)")
UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)")


def parse(text: str, base: str) -> list[Event]:
    """Events below `base`, and announcements on standard output, in order. Calls of threads that overlap are joined."""
    events: list[Event] = []
    waiting: dict[str, str] = {}
    offsets: dict[tuple[str, str], int] = {}
    for raw in text.splitlines():
        line = raw
        started = UNFINISHED.match(line)
        if started:
            waiting[started[1]] = f"{started[1]} {started[2]}({started[3]}"
            continue
        resumed = RESUMED.match(line)
        if resumed:
            line = waiting.pop(resumed[1], "") + resumed[3]
        match = LINE.match(line)
        if match is None or match[4] in ("?",) or int(match[4]) < 0:
            continue
        events += _events(match[2], match[3], int(match[4]), base, offsets)
    return events


def _text(hexed: str) -> bytes:
    return bytes.fromhex(hexed.replace("\\x", ""))


def _events(call: str, arguments: str, result: int, base: str, offsets: dict[tuple[str, str], int]) -> list[Event]:
    strings = [_text(s) for s in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
    descriptor = re.match(r"(\d+)<((?:\\x[0-9a-f]{2})*|[^>]*)>", arguments)
    path = _path(descriptor[2]) if descriptor else ""
    if call == "openat":
        target = strings[0].decode()
        key = (target, "")
        if not target.startswith(base):
            return []
        offsets[key] = 0
        made = [Event("create", target)] if "O_CREAT" in arguments else []
        return made + ([Event("truncate", target, offset=0)] if "O_TRUNC" in arguments else [])
    if call in ("rename", "renameat", "renameat2"):
        old, new = strings[0].decode(), strings[1].decode()
        return [Event("rename", old, new)] if new.startswith(base) else []
    if call in ("unlink", "unlinkat", "rmdir", "mkdir"):
        target = strings[0].decode()
        if not target.startswith("/"):
            # shutil.rmtree walks with directory descriptors.
            holder = re.match(r"\d+<([^>]*)>", arguments)
            target = f"{_path(holder[1])}/{target}" if holder else target
        kind = "mkdir" if call == "mkdir" else "unlink"
        return [Event(kind, target)] if target.startswith(base) else []
    if descriptor is None:
        return []
    if call in ("write", "writev") and descriptor[1] == "1":
        return [Event("said", data=b"".join(strings))]
    if not path.startswith(base):
        return []
    key = (path, "")
    if call == "lseek":
        offsets[key] = result
        return []
    if call in ("write", "writev"):
        data = b"".join(strings)[:result]
        position = offsets.get(key, 0)
        offsets[key] = position + len(data)
        return [Event("write", path, data=data, offset=position)]
    if call == "pwrite64":
        position = int(arguments.rsplit(",", 1)[1])
        return [Event("write", path, data=strings[0][:result], offset=position)]
    if call == "ftruncate":
        return [Event("truncate", path, offset=int(arguments.rsplit(",", 1)[1]))]
    return [Event("fsync", path)]


def _path(shown: str) -> str:
    return _text(shown).decode() if shown.startswith("\\x") else shown


class Disk:
    """Replays events and makes the states a crash may leave.

    As on ext4 and xfs: fsync of a file makes its data and its own new name durable; fsync of a folder makes the
    changes to its entries durable, in order.
    """

    def __init__(self, base: Path) -> None:
        self.base = str(base.resolve())
        self.durable: dict[str, Inode] = {}
        self.entries: list[Event] = []
        self.now: dict[str, Inode] = {}
        self.folders: set[str] = set()
        for path in sorted(base.rglob("*")):
            if path.is_dir():
                self.folders.add(str(path.resolve()))
            else:
                self.durable[str(path.resolve())] = Inode(bytearray(path.read_bytes()))
        self.now = dict(self.durable)

    def play(self, event: Event) -> None:
        if event.call == "mkdir":
            self.folders.add(event.path)
        elif event.call in ("create", "rename", "unlink"):
            if event.call == "create" and event.path in self.now:
                return
            inode = Inode() if event.call == "create" else self.now.get(event.path, Inode())
            self._enter(self.now, event, inode)
            self.entries.append(Event(event.call, event.path, event.other, inode=inode))
        elif event.call in ("write", "truncate") and event.path in self.now:
            offset = event.offset if event.call == "write" else -event.offset - 1
            self.now[event.path].pending.append((offset, event.data))
        elif event.call == "fsync":
            if event.path in self.now:
                inode = self.now[event.path]
                inode.durable, inode.pending = inode.now(), []
                self._settle(lambda e: e.inode is inode and e.call == "create")
            else:
                self._settle(lambda e: str(Path(e.other or e.path).parent) == event.path)

    def _enter(self, names: dict[str, Inode], event: Event, inode: Inode) -> None:
        if event.call == "create":
            names.setdefault(event.path, inode)
        elif event.call == "unlink":
            names.pop(event.path, None)
            for path in [p for p in names if p.startswith(event.path + "/")]:
                names.pop(path)
        else:
            moved = {p: i for p, i in names.items() if p == event.path or p.startswith(event.path + "/")}
            for path, item in moved.items():
                names.pop(path)
                names[event.other + path[len(event.path) :]] = item

    def _settle(self, chosen) -> None:  # type: ignore[no-untyped-def]
        """Entries that an fsync makes durable, with every earlier one: journals keep order."""
        last = max((i for i, e in enumerate(self.entries) if chosen(e)), default=-1)
        for event in self.entries[: last + 1]:
            self._enter(self.durable, event, event.inode or Inode())
        del self.entries[: last + 1]

    def crash(self, target: Path, chance: random.Random) -> None:
        """Write one possible state of the disk below `target`."""
        shutil.rmtree(target, ignore_errors=True)
        names = dict(self.durable)
        for event in self.entries[: chance.randint(0, len(self.entries))]:
            self._enter(names, event, event.inode or Inode())
        for folder in [self.base, *sorted(self.folders)]:
            (target / folder[len(self.base) :].lstrip("/")).mkdir(parents=True, exist_ok=True)
        habit = chance.choice(["none", "all", "some", "torn"])
        for path, inode in names.items():
            place = target / path[len(self.base) :].lstrip("/")
            # SQLite's shared memory is rebuilt at the first opening.
            if place.name.endswith("-shm"):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(self._survivors(inode, habit, chance))

    def _survivors(self, inode: Inode, habit: str, chance: random.Random) -> bytes:
        content = bytearray(inode.durable)
        for offset, data in inode.pending:
            if habit == "none" or (habit in ("some", "torn") and chance.random() < 0.5):
                continue
            if habit == "torn" and offset >= 0 and len(data) > SECTOR:
                data = data[: SECTOR * chance.randint(0, len(data) // SECTOR)]
            apply(content, offset, data)
        return bytes(content)


def power_losses(
    folder: Path, states: int, *, seed: int = 1, steps: int = 25, synchronous: str | None = None
) -> dict[str, object]:
    """`states` possible disks after power losses at random calls of one run; each is opened and checked."""
    create(folder / "torture")
    start = Path(tempfile.mkdtemp(dir=folder)) / "start"
    shutil.copytree(folder / "torture", start)
    events = trace(folder, seed, steps, synchronous)
    chance = random.Random(seed)
    points = sorted(chance.randint(1, len(events)) for _ in range(states))
    # The replay names files as the traced run did, but starts from the copy made before it.
    disk = Disk(start)
    disk.base, real = str((folder / "torture").resolve()), str(start.resolve())
    disk.durable = {p.replace(real, disk.base, 1): inode for p, inode in disk.durable.items()}
    disk.folders = {p.replace(real, disk.base, 1) for p in disk.folders}
    disk.now = dict(disk.durable)
    said: list[dict[str, object]] = []
    problems: list[str] = []
    played = 0
    for number, point in enumerate(points):
        for event in events[played:point]:
            if event.call == "said":
                said += [json.loads(line) for line in event.data.splitlines()]
            else:
                disk.play(event)
        played = point
        state, under_way = state_after(said, {})
        target = folder / "crashed"
        disk.crash(target, chance)
        try:
            found, _ = check(target, state, under_way)
        except Exception as error:
            found = [f"{type(error).__name__}: {error}"]
        problems += [f"state {number} (call {point} of {len(events)}): {problem}" for problem in found]
    return {"states": states, "calls": len(events), "acknowledged": len(said) // 2, "problems": problems}
