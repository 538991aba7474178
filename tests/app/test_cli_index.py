"""`fathom index …` over real files and a real collection (only the embedding model is a fake): diffs, codes, safety."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app

ROOT = Path(__file__).resolve().parents[2]
Fathom = Callable[..., Any]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def fathom(workspace: Path, monkeypatch: pytest.MonkeyPatch, hashing_embedder: Any) -> Fathom:
    """Runs a command; `code` is the exit code it must have."""
    monkeypatch.setattr("retrieval.embedding.load.load_embedder", lambda settings: hashing_embedder)

    def call(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--workspace", str(workspace)])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For commands in processes of their own: the real model, converted once for all tests."""
    return {**os.environ, "FATHOM_EMBEDDING_CACHE": str(tmp_path_factory.mktemp("models"))}


def said(result: Any) -> Any:
    return json.loads(result.stdout)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Twelve small files, one of them Chinese, one below a folder."""
    folder = tmp_path / "shelf"
    (folder / "deep").mkdir(parents=True)
    for number in range(10):
        (folder / f"note{number}.txt").write_text(
            f"Note {number}\n\nThe pump number {number} stands in hall {number}.\n"
        )
    (folder / "deep" / "离心机.txt").write_text("离心机\n\n每次使用后用酒精擦拭转子室。\n", encoding="utf-8")
    (folder / "tides.txt").write_text("Tides\n\nTides are caused by the moon.\n")
    return folder


def test_sync_says_what_it_did_and_again_does_nothing(fathom: Fathom, shelf: Path) -> None:
    first = fathom("index", "sync", str(shelf))
    assert first.stdout.splitlines()[0] == "+ deep/离心机.txt"
    assert len([line for line in first.stdout.splitlines() if line.startswith("+ ")]) == 12
    assert "12 added, 0 updated, 0 removed, 0 unchanged" in first.stderr
    assert first.stderr.count("\n") == 1
    again = said(fathom("index", "sync", str(shelf), "--json"))
    assert (again["added"], again["updated"], again["removed"], again["unchanged"]) == ([], [], [], 12)
    assert again["embedded"] == 0


def test_the_json_of_a_sync_has_every_part(fathom: Fathom, shelf: Path) -> None:
    report = said(fathom("index", "sync", str(shelf), "--json", "--collection", "法律"))
    assert set(report) == {
        *("collection", "folder", "dry_run", "added", "updated", "removed", "kept", "unchanged", "failed"),
        *("passages", "embedded", "seconds"),
    }
    assert report["collection"] == "法律"
    assert report["dry_run"] is False


def test_a_dry_run_shows_the_diff_and_changes_nothing(fathom: Fathom, shelf: Path, workspace: Path) -> None:
    plan = said(fathom("index", "sync", str(shelf), "--dry-run", "--json"))
    assert len(plan["added"]) == 12
    assert not (workspace / "collections").exists()
    fathom("index", "sync", str(shelf))
    (shelf / "new.txt").write_text("New one.")
    (shelf / "tides.txt").write_text("Tides\n\nNow the sun, too.\n")
    (shelf / "note3.txt").unlink()
    shown = fathom("index", "sync", str(shelf), "--dry-run").stdout.splitlines()
    assert shown == ["+ new.txt", "~ tides.txt", "- note3.txt", "= 10 documents unchanged"]
    done = said(fathom("index", "sync", str(shelf), "--json"))
    assert (done["added"], done["updated"], done["removed"]) == (["new.txt"], ["tides.txt"], ["note3.txt"])


def test_files_that_cannot_be_read_are_listed_and_the_rest_is_done(fathom: Fathom, shelf: Path) -> None:
    (shelf / "broken.pdf").write_bytes(b"%PDF-1.7 nothing more")
    (shelf / "link.txt").symlink_to("/etc/passwd")
    result = fathom("index", "sync", str(shelf), code=3)
    failures = [line for line in result.stdout.splitlines() if line.startswith("! ")]
    assert len(failures) == 2
    assert failures[0].startswith("! broken.pdf (")
    assert failures[1].startswith("! link.txt (symlink): ")
    assert "12 added" in result.stderr and "2 failed" in result.stderr
    report = said(fathom("index", "sync", str(shelf), "--json", code=3))
    assert {error["document"] for error in report["failed"]} == {"broken.pdf", "link.txt"}
    assert all(set(error) == {"document", "reason", "message"} for error in report["failed"])
    assert len(said(fathom("index", "list", "--json"))) == 12


def test_an_emptied_folder_does_not_empty_the_collection(fathom: Fathom, shelf: Path) -> None:
    fathom("index", "sync", str(shelf))
    for number in range(7):
        (shelf / f"note{number}.txt").unlink()
    refused = fathom("index", "sync", str(shelf), code=1)
    assert "7 of the 12 documents" in refused.stderr
    assert "--yes" in refused.stderr
    assert len(said(fathom("index", "list", "--json"))) == 12
    fathom("index", "sync", str(shelf), "--yes")
    assert len(said(fathom("index", "list", "--json"))) == 5
    # Below ten documents there is nothing to guard.
    (shelf / "tides.txt").unlink()
    shutil.rmtree(shelf / "deep")
    (shelf / "note7.txt").unlink()
    fathom("index", "sync", str(shelf))
    assert len(said(fathom("index", "list", "--json"))) == 2


def test_an_empty_folder_makes_no_collection(fathom: Fathom, tmp_path: Path, workspace: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused = fathom("index", "sync", str(tmp_path / "empty"), code=1)
    assert "holds no files" in refused.stderr
    assert not (workspace / "collections").exists()


def test_the_workspace_is_not_indexed_into_itself(fathom: Fathom, tmp_path: Path, workspace: Path) -> None:
    workspace.mkdir()
    refused = fathom("index", "sync", str(tmp_path), code=2)
    assert "index its own files" in refused.stderr


def test_single_files_with_metadata_can_be_filtered(fathom: Fathom, shelf: Path) -> None:
    fathom("index", "add", str(shelf / "tides.txt"), "--meta", "year=2024", "--meta", "site=Süd")
    fathom("index", "add", str(shelf / "note1.txt"), str(shelf / "note2.txt"))
    (row,) = said(fathom("index", "list", "--json", "--filter", "year>=2020"))
    assert row["document"] == "tides.txt"
    assert row["metadata"]["year"] == 2024 and row["metadata"]["site"] == "Süd"
    assert set(row) >= {"document", "title", "format", "passages", "metadata", "warnings"}
    assert said(fathom("index", "list", "--json", "--filter", "year>2024")) == []


def test_adding_reports_what_failed_and_adds_the_rest(fathom: Fathom, shelf: Path) -> None:
    missing = str(shelf / "none.txt")
    result = fathom("index", "add", str(shelf / "tides.txt"), missing, code=3)
    assert "+ tides.txt" in result.stdout and "none.txt" in result.stdout
    (shelf / "picture.bin").write_bytes(b"\x00\x01")
    fathom("index", "add", str(shelf / "picture.bin"), code=1)


def test_remove_says_what_was_not_there(fathom: Fathom, shelf: Path) -> None:
    fathom("index", "sync", str(shelf))
    fathom("index", "remove", "tides.txt")
    assert "no such" not in fathom("index", "list").stdout
    partly = fathom("index", "remove", "note1.txt", "none.txt", "--json", code=3)
    assert said(partly)["removed"] == ["note1.txt"] and said(partly)["missing"] == ["none.txt"]
    assert "none.txt" in fathom("index", "remove", "none.txt", code=1).stderr


def test_list_is_a_table_that_a_pipe_can_cut(fathom: Fathom, shelf: Path) -> None:
    fathom("index", "sync", str(shelf))
    lines = fathom("index", "list").stdout.splitlines()
    assert lines[0].split("\t") == ["document", "title", "format", "passages"]
    assert len(lines) == 13
    assert lines[1].split("\t")[0] == "deep/离心机.txt"


def test_a_file_name_cannot_act_on_the_terminal(fathom: Fathom, shelf: Path) -> None:
    (shelf / "\x1b[31mred\x1b[0m\nsecond.txt").write_text("Some text here.")
    result = fathom("index", "sync", str(shelf), "--json")
    assert "\x1b" not in result.stdout
    listed = fathom("index", "list").stdout
    assert "\x1b" not in listed
    assert len(listed.splitlines()) == 14


def test_collections_and_status(fathom: Fathom, shelf: Path, workspace: Path) -> None:
    assert said(fathom("index", "collections", "--json")) == []
    fathom("index", "sync", str(shelf))
    fathom("index", "add", str(shelf / "tides.txt"), "-c", "other")
    (workspace / "collections" / "broken").mkdir()
    (workspace / "collections" / "broken" / "catalogue.sqlite").write_bytes(b"no database")
    result = fathom("index", "collections", "--json", code=3)
    found = {item["name"]: item for item in said(result)}
    assert found["default"]["documents"] == 12 and found["other"]["documents"] == 1
    assert "error" in found["broken"]
    status = said(fathom("index", "status", "--json"))
    assert status["documents"] == 12 and status["fingerprint"]["model"] == "hashing"
    assert "documents" in fathom("index", "status").stdout


def test_verify_finds_and_repair_mends(fathom: Fathom, shelf: Path, workspace: Path) -> None:
    fathom("index", "sync", str(shelf))
    good = said(fathom("index", "verify", "--json"))
    assert good["problems"] == [] and good["checked"]["documents"] == 12
    lexical = workspace / "collections" / "default" / "lexical"
    shutil.rmtree(lexical)
    lexical.mkdir()
    found = fathom("index", "verify", code=3)
    assert "! " in found.stdout and "--repair" in found.stderr
    assert said(fathom("index", "verify", "--repair", "--json"))["repaired"]
    assert said(fathom("index", "verify", "--json"))["problems"] == []


def test_export_and_import_give_the_same_collection(fathom: Fathom, shelf: Path, tmp_path: Path) -> None:
    fathom("index", "sync", str(shelf))
    backup = tmp_path / "backup.fathom"
    written = said(fathom("index", "export", str(backup), "--json"))
    assert written["bytes"] == backup.stat().st_size > 0
    fathom("index", "export", str(backup), code=2)
    report = said(fathom("index", "import", str(backup), "-c", "copy", "--json"))
    assert (report["collection"], report["documents"]) == ("copy", 12)
    fathom("index", "import", str(backup), "-c", "copy", code=2)
    assert said(fathom("index", "list", "-c", "copy", "--json")) == said(fathom("index", "list", "--json"))
    backup.write_bytes(b"SQLite format 3\0 but not really")
    refused = fathom("index", "import", str(backup), "-c", "third", code=1)
    assert refused.stderr.count("\n") == 1


def test_optimise_and_reembed(fathom: Fathom, shelf: Path, workspace: Path) -> None:
    fathom("index", "sync", str(shelf))
    fathom("index", "remove", "tides.txt")
    assert said(fathom("index", "optimise", "--json"))["status"]["documents"] == 11
    fathom("index", "optimize")
    before = said(fathom("index", "list", "--json"))
    workspace.joinpath("fathom.toml").write_text("[splitting]\npassage_tokens = 100\n")
    assert said(fathom("index", "reembed", "--json"))["passages"] >= 11
    after = said(fathom("index", "list", "--json"))
    assert [row["document"] for row in after] == [row["document"] for row in before]
    assert said(fathom("index", "status", "--json"))["fingerprint"]["splitter"]["passage_tokens"] == 100
    assert "no collection 'none'" in fathom("index", "reembed", "-c", "none", code=1).stderr


def test_another_model_is_refused_with_the_command_that_helps(
    fathom: Fathom, shelf: Path, monkeypatch: pytest.MonkeyPatch, hashing_embedder: Any
) -> None:
    fathom("index", "sync", str(shelf))
    other = type(hashing_embedder)(salt="other")
    monkeypatch.setattr("retrieval.embedding.load.load_embedder", lambda settings: other)
    refused = fathom("search", "moon", code=1)
    assert "index reembed" in refused.stderr
    fathom("index", "list")
    fathom("search", "moon", "--mode", "lexical")
    fathom("index", "reembed")
    fathom("search", "moon")


def test_a_second_writer_hears_who_is_first(fathom: Fathom, shelf: Path, workspace: Path) -> None:
    fathom("index", "sync", str(shelf))
    from retrieval.storage.locking import WriterLock

    lock = WriterLock(workspace / "collections" / "default" / "writer.lock", doing="index sync /elsewhere")
    try:
        refused = fathom("index", "sync", str(shelf), "--json", code=75)
        assert f"process {os.getpid()}" in said(refused)["error"]
        assert "index sync /elsewhere" in said(refused)["error"]
        fathom("index", "list")
        fathom("search", "moon", "--mode", "lexical")
        threading.Timer(0.5, lock.release).start()
        fathom("index", "sync", str(shelf), "--wait", "30")
    finally:
        lock.release()


def test_library_docs_take_a_package(fathom: Fathom) -> None:
    report = said(fathom("index", "library-docs", "--package", "tantivy", "--limit", "3", "--json"))
    assert report["collection"] == "library-docs"
    assert 1 <= report["added"] <= 3 and report["passages"] >= 1
    assert "no_such_package" in fathom("index", "library-docs", "--package", "no_such_package", code=1).stderr
    fathom("index", "library-docs", "--package", "tantivy", "--all", code=2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_watching_follows_the_folder_until_stopped(shelf: Path, workspace: Path, environment: dict[str, str]) -> None:
    """The real command with the real model in a process of its own: a change is indexed, an error survived."""
    command = [sys.executable, "-m", "app", "index", "sync", str(shelf), "--watch", "--json"]
    process = subprocess.Popen(
        [*command, "--workspace", str(workspace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert process.stdout
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)  # type: ignore[arg-type]
    reading.start()

    def wait_for(wanted: Callable[[Any], bool]) -> None:
        deadline = time.monotonic() + 250
        while not any(wanted(json.loads(line)) for line in list(lines) if line.endswith("\n")):
            assert time.monotonic() < deadline and process.poll() is None, (lines, process.poll())
            time.sleep(0.1)

    try:
        wait_for(lambda report: len(report["added"]) == 12)
        (shelf / "later.txt").write_text("A later note about valves.")
        wait_for(lambda report: report["added"] == ["later.txt"])
        (shelf / "broken.pdf").write_bytes(b"%PDF-1.7 nothing more")
        wait_for(lambda report: [error["document"] for error in report["failed"]] == ["broken.pdf"])
        (shelf / "later.txt").unlink()
        wait_for(lambda report: report["removed"] == ["later.txt"])
    finally:
        process.terminate()
        assert process.wait(60) == 143


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_in_the_middle_keeps_what_is_finished(
    tmp_path: Path, workspace: Path, environment: dict[str, str]
) -> None:
    """As a terminal does it: the signal goes to the command and its child processes alike."""
    from retrieval.storage.catalogue import Catalogue

    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(700):
        (folder / f"{number:03}.txt").write_text(f"Report {number}\n\nValve {number} was opened at noon.\n" * 4)
    command = [sys.executable, "-m", "app", "index", "sync", str(folder), "--workspace", str(workspace)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    )
    catalogue = workspace / "collections" / "default" / "catalogue.sqlite"
    deadline = time.monotonic() + 250
    while True:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        if catalogue.exists():
            opened = Catalogue(catalogue)
            documents, _ = opened.counts()
            opened.close()
            if documents:
                break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == "fathom: stopped; everything finished so far is kept\n"
    opened = Catalogue(catalogue)
    kept, _ = opened.counts()
    opened.close()
    assert documents <= kept < 700
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=250)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["unchanged"] == kept and len(report["added"]) == 700 - kept
