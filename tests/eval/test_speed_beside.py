"""Two commands in turns: what they cost with everything they start, how they fail, and the ratio of their medians."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eval.runs.parts import PartFolder
from eval.speed.beside import compared, last_figures, measure, run_timed, side
from retrieval.errors import FathomError, MissingError, UsageError

SPIN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n"


def script(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_cpu_time_of_children_and_orphans_is_counted(tmp_path: Path) -> None:
    inner = script(tmp_path, "inner.py", SPIN.format(seconds=0.3))
    waits = f"import subprocess, sys\nsubprocess.run([sys.executable, {inner!r}])\nprint('done')"
    run = run_timed(side("ours", script(tmp_path, "waits.py", waits)), 60)
    assert run.error is None and run.exit_code == 0 and run.left_behind == 0
    assert 0.3 <= run.cpu_s and run.cpu_s == run.user_s + run.system_s <= run.wall_s + 0.1
    # The grandchild loses its parent at once and spins on; it is ended with the command and its time is counted.
    leaves = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, {inner!r}], start_new_session=True)\n"
    run = run_timed(side("ours", script(tmp_path, "leaves.py", leaves + "time.sleep(0.5)")), 60)
    assert run.error is None and run.left_behind + (run.cpu_s >= 0.3) >= 1


def test_the_memory_is_that_of_the_command_and_not_of_this_process(tmp_path: Path) -> None:
    ballast = bytearray(300_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    small = run_timed(side("ours", script(tmp_path, "small.py", "pass")), 60)
    large = run_timed(
        side("ours", script(tmp_path, "large.py", "x = bytearray(200_000_000)\nx[::4096] = x[::4096]")), 60
    )
    assert small.peak_mb < 100 < 200 < large.peak_mb < 290
    del ballast


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    text = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "print('loading', file=sys.stderr, flush=True)\ntime.sleep(600)"
    )
    run = run_timed(side("the peer", script(tmp_path, "hangs.py", text)), 2)
    assert run.error is not None and "still running after 2 s" in run.error and run.error.endswith("loading")
    assert run.exit_code is None and 2 <= run.wall_s < 60
    end = time.monotonic() + 10
    while alive(int(note.read_text())):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise SystemExit('no such model')", "exit code 1; the end of its stderr: no such model"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11; it wrote nothing to stderr"),
        ("import sys\nsys.stderr.write('x' * 10_000_000 + 'the end')\nsys.exit(3)", "xxxthe end"),
    ],
)
def test_a_command_that_fails_is_reported_with_its_last_words(tmp_path: Path, text: str, words: str) -> None:
    run = run_timed(side("ours", script(tmp_path, "fails.py", text)), 60)
    assert run.error is not None and words in run.error and len(run.error) < 1000 and not run.figures


def test_turns_alternate_and_become_records(tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = "open({log!r}, 'a').write({letter!r})\nprint('talk')\nprint('{{\"figures\": {{\"n\": {n}}}}}')"
    ours = side("ours", script(tmp_path, "a.py", text.format(log=str(log), letter="A", n=2)))
    peer = side("the peer", script(tmp_path, "b.py", text.format(log=str(log), letter="B", n=6)))
    folder = PartFolder(tmp_path / "part")
    extras = measure(ours, peer, folder, quiet, repeats=3, timeout=60)
    assert log.read_text() == "ABABAB"
    assert extras["compared"]["n"] == {"ours": 2, "peer": 6, "ratio": 3.0, "low": 3.0, "high": 3.0}
    assert {"wall_s", "cpu_s", "peak_mb"} < set(extras["compared"])
    assert [(run["turn"], run["side"]) for run in extras["runs"]] == [
        (n, s) for n in (1, 2, 3) for s in ("ours", "peer")
    ]
    records = folder.done()
    assert list(records) == ["turn-1", "turn-2", "turn-3"]
    runs = records["turn-2"]["runs"]
    assert records["turn-2"]["metrics"]["wall_ratio"] == [runs["peer"]["wall_s"], runs["ours"]["wall_s"]]
    measure(ours, peer, folder, quiet, repeats=3, timeout=60)
    assert log.read_text() == "ABABAB"  # finished turns are not repeated


def test_two_failed_turns_end_the_measurement(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ours = side("ours", script(tmp_path, "a.py", f"open({str(log)!r}, 'a').write('A')"))
    peer = side("the peer", script(tmp_path, "b.py", "raise SystemExit('broken')"))
    folder = PartFolder(tmp_path / "part")
    with pytest.raises(FathomError, match="2 items in a row failed.*the peer ended with exit code 1.*broken"):
        measure(ours, peer, folder, quiet, repeats=5, timeout=60)
    assert log.read_text() == "AA" and len(folder.all()) == 2 and not folder.done()


def test_ratios_are_those_of_medians_with_an_interval() -> None:
    ours = [{"t": value, "own": 1.0} for value in (1.0, 2.0, 3.0, 2.0, 2.0)]
    peer = [{"t": value} for value in (8.0, 8.0, 8.0, 8.0, 100.0)]
    found = compared(ours, peer)
    assert list(found) == ["t"]
    assert (found["t"]["ours"], found["t"]["peer"], found["t"]["ratio"]) == (2.0, 8.0, 4.0)
    assert found["t"]["low"] <= 4.0 <= found["t"]["high"] <= 100
    assert compared(ours[:2], peer[:2])["t"]["low"] is None
    assert compared([{"t": 0.0}] * 3, peer[:3])["t"]["ratio"] is None
    assert compared([], []) == {}


def test_only_a_last_line_of_json_has_figures() -> None:
    assert last_figures('x\n{"figures": {"a": 1, "b": "two", "c": true, "d": 1e999}}\n') == {"a": 1.0}
    assert last_figures('{"passages": 5, "cpu_s": {"embed": 2.5, "store": {"deep": {"deeper": 1}}}}') == {
        "passages": 5.0,
        "cpu_s.embed": 2.5,
    }
    assert last_figures("") == last_figures("done") == last_figures("[1]") == last_figures('{"a": 1}\nbye') == {}


def test_command_lines_are_words_and_never_a_shell(tmp_path: Path) -> None:
    note = tmp_path / "note"
    path = script(tmp_path, "says.py", f"import sys\nopen({str(note)!r}, 'w').write(repr(sys.argv[1:]))")
    which = side("ours", f"python {path} 'a b' $HOME ; echo | x > y")
    assert which.command[0] == os.path.abspath(sys.executable)
    run_timed(which, 60)
    assert note.read_text() == repr(["a b", "$HOME", ";", "echo", "|", "x", ">", "y"])
    for line, kind, words in (
        ("python 'x", UsageError, "cannot be split"),
        ("  ", UsageError, "is empty"),
        ("no-such-program --x", MissingError, "'no-such-program' of ours is not there"),
        ("absent.py --x", MissingError, "script 'absent.py' of ours is not there"),
    ):
        with pytest.raises(kind, match=words):
            side("ours", line)
    with pytest.raises(MissingError, match="interpreter .* of the peer is not there"):
        side("the peer", "x.py", tmp_path / "bin" / "python")


def test_a_peer_runs_in_its_own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    own = tmp_path / "venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    which: Any = side("the peer", "python -c pass", own)
    assert which.command == (str(own), "-c", "pass")
    assert which.environment["PATH"].startswith(f"{own.parent}{os.pathsep}")
    assert "PYTHONPATH" not in which.environment and which.environment["VIRTUAL_ENV"] == str(tmp_path / "venv")
    assert which.environment["OMP_NUM_THREADS"] == "1" and which.environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert side("ours", "python -c pass").environment["PYTHONPATH"] == str(tmp_path)
