"""A model in shards over two processes is pulled as a whole one is."""

import json
import os
from pathlib import Path

import pytest
from forked_processes import forked

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_anchors_on_the_shards_of_two_processes_pull_as_on_the_whole_model(tmp_path: Path) -> None:
    command = [str(ROOT / "tests" / "sharded_anchors.py"), str(tmp_path / "found.json")]
    processes = forked(command, 2, os.environ)
    for process in processes:
        process.join(240)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == {"as it is", "copies of shards", "new rows", "adapter"}
    for case, result in found.items():
        sharded, whole = result["penalty"]
        assert sharded == pytest.approx(whole, rel=1e-5), case
        assert result["difference"] < 1e-6, case
