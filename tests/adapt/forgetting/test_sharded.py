"""A model in shards over two processes is pulled as a whole one is."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_anchors_on_the_shards_of_two_processes_pull_as_on_the_whole_model(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / "tests" / "sharded_anchors.py", tmp_path / "found.json"],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=240)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said[0][-3000:] + said[1][-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == {"as it is", "copies of shards", "new rows", "adapter"}
    for case, result in found.items():
        sharded, whole = result["penalty"]
        assert sharded == pytest.approx(whole, rel=1e-5), case
        assert result["difference"] < 1e-6, case
