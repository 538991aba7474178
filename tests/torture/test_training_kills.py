"""A few kills of a training, in a process of its own: it forks, and this one may hold threads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_training_that_was_killed_ends_with_the_same_weights_and_figures() -> None:
    command = [sys.executable, str(Path(__file__).with_name("training_kills.py")), "--kills", "4", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["problems"] == [] and told["kills"] == 4 and told["steps"] > 20
