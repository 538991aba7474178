"""The short tier of `make torture`, in a process of its own: it forks, and this one may hold threads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torture import power


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    sizes = ["--kills", "12", "--power-states", "60", "--flips", "60", "--pairs", "3", "--disks", "2", "--faults", "8"]
    command = [sys.executable, str(Path(__file__).with_name("run.py")), "--json", "--seed", "7", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("loop", ["kills", "bit flips", "rival writers"])
def test_nothing_is_lost_doubled_or_silent(results: dict[str, dict], loop: str) -> None:
    assert results[loop]["problems"] == []


def test_the_loops_did_something(results: dict[str, dict]) -> None:
    assert results["kills"]["kills"] == 12 and results["bit flips"]["reported"] > 5
    assert results["rival writers"]["refused"] == 3


@pytest.mark.skipif(not power.available(), reason="needs strace (apt-get install strace)")
def test_power_losses_and_failing_calls(results: dict[str, dict]) -> None:
    assert results["power losses"]["problems"] == [] and results["power losses"]["acknowledged"] > 5
    assert results["failing calls"]["problems"] == [] and results["failing calls"]["failed as they should"] > 0


@pytest.mark.skipif(not power.available(), reason="needs strace (apt-get install strace)")
def test_the_power_test_has_teeth(results: dict[str, dict]) -> None:
    """With synchronous=NORMAL acknowledged documents are lost, and the same check says so."""
    assert results["power losses, synchronous=NORMAL (must lose)"]["problems"] != []


def test_full_disks(results: dict[str, dict]) -> None:
    if "full disks" not in results:
        pytest.skip("needs the right to mount a tmpfs")
    assert results["full disks"]["problems"] == []
    assert any("disk is full" in sentence for sentence in results["full disks"]["sentences"])
