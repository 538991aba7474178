"""The writer lock across processes: who holds it is said, and a killed holder never blocks."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrieval.errors import BusyError
from retrieval.storage.locking import WriterLock

HOLD = """
import sys, time, pathlib
from retrieval.storage.locking import WriterLock
lock = WriterLock(pathlib.Path(sys.argv[1]), doing="holding on")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):  # type: ignore[no-untyped-def]
    path = tmp_path / "writer.lock"
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    yield path, process
    process.kill()
    process.wait()


def test_the_second_writer_learns_who_holds_it(holder) -> None:  # type: ignore[no-untyped-def]
    path, process = holder
    with pytest.raises(BusyError, match=rf"process {process.pid} \(holding on\) since \d{{4}}-"):
        WriterLock(path, doing="second")


def test_a_killed_holder_never_blocks(holder) -> None:  # type: ignore[no-untyped-def]
    path, process = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    WriterLock(path, doing="next").release()


def test_waiting_gets_the_lock_when_it_is_free(holder) -> None:  # type: ignore[no-untyped-def]
    path, process = holder
    started = time.monotonic()
    with pytest.raises(BusyError):
        WriterLock(path, doing="next", wait=0.2)
    assert time.monotonic() - started >= 0.2
    process.terminate()
    with WriterLock(path, doing="next", wait=20):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "writer.lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic|loop|Too many"):
        WriterLock(tmp_path / "writer.lock", doing="x")
    assert victim.read_text() == "precious"
