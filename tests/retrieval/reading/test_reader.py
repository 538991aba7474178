"""The process around the parsers: confined, replaceable, never an orphan, never in the way of Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.errors import FathomError, ReadingError
from retrieval.passages import Document
from retrieval.reading.child import Child
from retrieval.reading.folder import Loaded
from retrieval.reading.reader import Reader, ReadingLimits

ROOT = Path(__file__).resolve().parents[3]
Load = Callable[[str, bytes], Loaded]


def slow() -> bytes:
    """Text whose normalisation takes minutes: combining marks out of order are sorted in quadratic time."""
    return ("a" + "\u0301\u0323" * 1_000_000).encode()


def child_of(reader: Reader) -> Child:
    child = reader._slots.get()
    reader._slots.put(child)
    assert child is not None
    return child


def test_a_process_serves_many_files_and_is_then_replaced(loaded: Load) -> None:
    with Reader(ReadingLimits(files_per_process=3)) as reader:
        pids = []
        for number in range(7):
            assert reader.parse(loaded("a.txt", b"%d" % number)).text == str(number)
            pids.append(reader._slots.queue[-1]._process.pid if reader._slots.queue[-1] else 0)
        assert len(set(pids) - {0}) == 3


def test_too_much_processor_time_costs_one_file(loaded: Load) -> None:
    with Reader(ReadingLimits(cpu_seconds=1, wall_seconds=60)) as reader:
        with pytest.raises(ReadingError) as caught:
            reader.parse(loaded("a.txt", slow()))
        assert caught.value.reason == "time" and "processor" in caught.value.message
        assert reader.parse(loaded("b.txt", b"next")).text == "next"


def test_too_much_wall_time_costs_one_file(loaded: Load) -> None:
    with Reader(ReadingLimits(wall_seconds=1.5)) as reader:
        reader.parse(loaded("warm.txt", b"x"))
        begun = time.monotonic()
        with pytest.raises(ReadingError) as caught:
            reader.parse(loaded("a.txt", slow()))
        assert caught.value.reason == "time" and time.monotonic() - begun < 20
        assert reader.parse(loaded("b.txt", b"next")).text == "next"


def test_too_much_memory_costs_one_file(loaded: Load) -> None:
    with Reader(ReadingLimits(memory_mb=200)) as reader:
        with pytest.raises(ReadingError) as caught:
            reader.parse(loaded("a.json", b"[" + b'{"a":1},' * 3_000_000 + b"{}]"))
        assert caught.value.reason == "memory"
        assert reader.parse(loaded("b.txt", b"next")).text == "next"


def test_a_killed_process_costs_one_file(loaded: Load) -> None:
    with Reader() as reader:
        reader.parse(loaded("a.txt", b"x"))
        os.kill(child_of(reader)._process.pid, signal.SIGKILL)
        time.sleep(0.2)
        assert reader.parse(loaded("b.txt", b"idle death costs nothing")).text.startswith("idle")
        victim = child_of(reader)._process.pid
        timer = threading.Timer(1.0, os.kill, (victim, signal.SIGSEGV))
        timer.start()
        with pytest.raises(ReadingError) as caught:
            reader.parse(loaded("c.txt", slow()))
        assert caught.value.reason in ("crash", "memory")
        assert reader.parse(loaded("d.txt", b"next")).text == "next"


def test_the_process_is_confined(tmp_path: Path) -> None:
    """Asked from inside, through the same sandbox module the worker uses."""
    probe = """
import json, os, socket, subprocess, sys
from retrieval.reading.limits import ReadingLimits
from retrieval.reading.sandbox import confine
found = {"network": confine(ReadingLimits(memory_mb=512))}
def attempt(name, what):
    try:
        what()
        found[name] = "done"
    except BaseException as problem:
        found[name] = type(problem).__name__
attempt("socket", lambda: socket.socket())
attempt("lookup", lambda: socket.getaddrinfo("localhost", 80))
attempt("process", lambda: subprocess.run(["true"]))
attempt("system", lambda: os.system("true"))
attempt("fork", lambda: os.fork())
attempt("write", lambda: open(sys.argv[1], "w"))
attempt("os.open", lambda: os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT))
attempt("remove", lambda: os.remove(sys.argv[2]))
attempt("memory", lambda: bytearray(600 << 20))
attempt("read", lambda: open(sys.argv[2]).read())
print(json.dumps(found))
"""
    target, present = str(tmp_path / "written"), str(ROOT / "pyproject.toml")
    run = subprocess.run(
        [sys.executable, "-c", probe, target, present], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(run.stdout)
    assert found.pop("network") in ("namespace", "hook")
    assert found.pop("memory") == "MemoryError"
    assert found.pop("read") == "done"
    assert set(found.values()) == {"PermissionError"}, found
    assert not os.path.exists(target)


def test_nothing_of_the_parents_environment_reaches_the_process(monkeypatch: pytest.MonkeyPatch, loaded: Load) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with Reader() as reader:
        reader.parse(loaded("a.txt", b"x"))
        environment = Path(f"/proc/{child_of(reader)._process.pid}/environ")
        if environment.exists():
            assert b"secret" not in environment.read_bytes()


def test_plain_text_needs_no_parser_library(loaded: Load) -> None:
    with Reader() as reader:
        reader.parse(loaded("a.txt", b"x"))
        maps = Path(f"/proc/{child_of(reader)._process.pid}/maps")
        if not maps.exists():
            pytest.skip("needs /proc")
        libraries = maps.read_text()
        assert "pdfium" not in libraries and "lxml" not in libraries and "numpy" not in libraries
        assert child_of(reader).rss_mb < 60


def test_many_threads_share_a_reader(loaded: Load) -> None:
    with Reader(workers=2) as reader:
        results: dict[int, str] = {}

        def work(number: int) -> None:
            results[number] = reader.parse(loaded(f"{number}.txt", b"text %d" % number)).text

        threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == {number: f"text {number}" for number in range(24)}


def test_parse_many_keeps_the_order_and_reports_each_failure(loaded: Load) -> None:
    files = [loaded(f"{n}.txt", b"" if n % 3 == 0 else b"text %d" % n) for n in range(20)]
    with Reader(workers=2) as reader:
        results = list(reader.parse_many(iter(files)))
    assert [file.file.uri for file, _ in results] == [f"{n}.txt" for n in range(20)]
    for number, (_, outcome) in enumerate(results):
        if number % 3 == 0:
            assert isinstance(outcome, ReadingError) and outcome.reason == "empty"
        else:
            assert isinstance(outcome, Document) and outcome.text == f"text {number}"


def test_parse_many_reads_ahead_within_bounds(loaded: Load) -> None:
    taken = 0

    def files() -> object:
        nonlocal taken
        for number in range(1_000):
            taken += 1
            yield loaded(f"{number}.txt", b"x")

    with Reader() as reader:
        results = reader.parse_many(files())  # type: ignore[arg-type]
        next(results)
        assert taken <= 10
        results.close()


def test_leaving_parse_many_early_does_not_wait_for_slow_files(loaded: Load) -> None:
    with Reader() as reader:
        results = reader.parse_many(iter([loaded("a.txt", b"x"), loaded("slow.txt", slow()), loaded("c.txt", b"x")]))
        next(results)
        time.sleep(0.5)
        begun = time.monotonic()
        results.close()
        assert time.monotonic() - begun < 10


def test_a_closed_reader_says_so(loaded: Load) -> None:
    reader = Reader()
    reader.parse(loaded("a.txt", b"x"))
    pid = child_of(reader)._process.pid
    reader.close()
    reader.close()
    with pytest.raises(FathomError, match="closed"):
        reader.parse(loaded("a.txt", b"x"))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_limits_must_be_possible() -> None:
    with pytest.raises(ValueError, match="memory_mb"):
        ReadingLimits(memory_mb=0)
    with pytest.raises(ValueError, match="workers"):
        Reader(workers=0)


PARENT = """
import sys, hashlib
from pathlib import Path
from retrieval.reading.folder import Loaded, SourceFile
from retrieval.reading.reader import Reader
def loaded(name, data):
    return Loaded(SourceFile(Path("/x", name), name, len(data), 0, 0, 0), data, "00")
reader = Reader()
reader.parse(loaded("a.txt", b"x"))
print(reader._slots.queue[-1]._process.pid, flush=True)
slow = ("a" + "\\u0301\\u0323" * 1_000_000).encode()
try:
    if sys.argv[1] == "many":
        list(reader.parse_many(iter([loaded("s.txt", slow)])))
    elif sys.argv[1] == "one":
        reader.parse(loaded("s.txt", slow))
    else:
        sys.stdin.read()
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def gone(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":  # dead; its new parent has not asked yet
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("doing", "how"), [("one", signal.SIGINT), ("many", signal.SIGINT), ("nothing", signal.SIGKILL)]
)
def test_a_parent_that_ends_leaves_no_orphan(doing: str, how: signal.Signals) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, doing], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert os.getpgid(worker) == worker, "in the terminal's group, Ctrl-C would reach it"
    time.sleep(1.0)
    begun = time.monotonic()
    parent.send_signal(how)
    out, _ = parent.communicate(timeout=60)
    assert time.monotonic() - begun < 20
    if how == signal.SIGINT:
        assert "stopped" in out
    assert gone(worker, 10)
