"""The doctor names what is there and, for whatever is not, how to get it; it loads nothing heavy to do so."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app import doctor

ROOT = Path(__file__).resolve().parents[2]


def test_every_lack_comes_with_a_remedy(tmp_path: Path) -> None:
    checks = doctor.examine(tmp_path / "not" / "yet")
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    for wanted in ("Python", "SQLite", "CPU cores", "memory", "workspace", "torch", "openvino", "faiss", "GPU"):
        assert wanted in names
    for check in checks:
        assert check.found
        if check.state == "missing":
            assert check.remedy, check


def test_a_missing_package_is_needed_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    lacking = {check.name for check in doctor.examine(tmp_path) if check.state == "missing" and check.needed}
    assert {*doctor.NEEDED_PACKAGES, "faiss", "embedding model", "language model"} <= lacking


def test_nothing_on_the_path_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {check.name: check for check in doctor.examine(tmp_path)}
    assert found["GPU"].state == "note"
    assert found["Chromium (tests)"].remedy


def test_a_broken_driver_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = {check.name: check for check in doctor.examine(tmp_path)}
    assert "does not answer" in found["GPU"].found


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA X, 1000 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = {check.name: check for check in doctor.examine(tmp_path)}
    assert "NVIDIA X, 1000 MiB" in found["GPU"].found


@pytest.mark.parametrize(
    ("version", "sound"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
    ],
)
def test_sqlite_versions_with_the_wal_bug_are_known(version: tuple[int, int, int], sound: bool) -> None:
    assert doctor.sqlite_is_sound(version) is sound


def test_the_report_loads_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys, json, io, contextlib\n"
        "from app.cli import app\n"
        "out = io.StringIO()\n"
        "with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):\n"
        f"    app(['doctor', '--json', '--workspace', {str(tmp_path)!r}])\n"
        "heavy = {'torch', 'openvino', 'transformers', 'gradio', 'llama_index', 'faiss', 'tantivy', 'numpy'}\n"
        "print(json.dumps([json.loads(out.getvalue()), sorted(heavy & set(sys.modules))]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    report, heavy = json.loads(done.stdout)
    assert heavy == []
    assert report["recommended_profile"] in ("embedded", "laptop", "gpu")
    assert report["healthy"] == all(c["state"] != "missing" or not c["needed"] for c in report["checks"])
    assert set(report["checks"][0]) == {"name", "state", "found", "remedy", "needed"}


def test_a_profile_is_recommended_for_what_the_machine_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA S, 8192 MiB'\necho 'NVIDIA L, 81559 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(doctor, "cores", lambda: 16)
    monkeypatch.setattr(doctor, "memory_total", lambda: 64 * doctor.GIB)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, 10**12))
    found = {check.name: check for check in doctor.examine(tmp_path)}
    assert found["recommended profile"].found.startswith("gpu (comfortable from 8 CPU cores")
    assert "hf download Qwen/Qwen3-8B" in found["recommended profile"].found
    assert 'profile = "gpu"' in found["recommended profile"].remedy
    assert found["profile embedded"].state == "ok" and found["profile laptop"].state == "note"
    monkeypatch.setattr(doctor, "memory_total", lambda: 8 * doctor.GIB)
    assert {check.name: check for check in doctor.examine(tmp_path)}["recommended profile"].found.startswith("laptop")
