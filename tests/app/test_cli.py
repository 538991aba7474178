"""The frame of the command line: help without heavy libraries, exit codes, one sentence per error, nothing lost."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.failures import describe, option_of
from retrieval.errors import BusyError, ReadingError, UsageError

ROOT = Path(__file__).resolve().parents[2]


def fathom(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=120,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["index", "--help"], ["index", "sync", "--help"], ["ask", "-h"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom app.cli import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = {'torch', 'openvino', 'transformers', 'gradio', 'llama_index', 'faiss', 'tantivy', 'numpy'}\n"
        "print(f'code {code}', *sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stderr.strip() == "code 0"
    assert "Usage: fathom" in done.stdout


def test_every_command_takes_a_workspace_and_json() -> None:
    from typer.main import get_command

    def leaves(command: object) -> list[object]:
        children = getattr(command, "commands", None)
        return [leaf for child in children.values() for leaf in leaves(child)] if children else [command]

    found = leaves(get_command(app))
    assert len(found) >= 17
    for leaf in found:
        options = {option for parameter in leaf.params for option in parameter.opts}  # type: ignore[attr-defined]
        assert {"--workspace", "--json"} <= options, leaf.name  # type: ignore[attr-defined]
        assert leaf.help, leaf.name  # type: ignore[attr-defined]


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("fathom")


WRONG_USAGE = {
    "no command": [],
    "unknown command": ["serch"],
    "unknown sub-command": ["index", "syn"],
    "unknown option": ["doctor", "--jsn"],
    "no question": ["search"],
    "empty question": ["search", "  "],
    "unknown mode": ["search", "x", "--mode", "fuzzy"],
    "k of nought": ["search", "x", "--k", "0"],
    "k that is a word": ["search", "x", "--k", "ten"],
    "malformed filter": ["search", "x", "--filter", "year"],
    "collection that is a path": ["search", "x", "--collection", "../../etc"],
    "huge question": ["search", "x" * 30_000],
    "folder that is not there": ["index", "sync", "/no/such/folder"],
    "file as a folder": ["index", "sync", __file__],
    "folder as a file": ["index", "add", str(ROOT)],
    "file that is not there": ["index", "add", "/no/such/file.txt"],
    "watching a dry run": ["index", "sync", ".", "--dry-run", "--watch"],
    "malformed metadata": ["index", "sync", str(Path(__file__).parent), "--meta", "year"],
    "metadata that is a comparison": ["index", "sync", str(Path(__file__).parent), "--meta", "year>=3"],
    "metadata every document has": ["index", "sync", str(Path(__file__).parent), "--meta", "title=x"],
    "negative waiting": ["index", "optimise", "--wait", "-1"],
    "export onto a file": ["index", "export", __file__],
    "export into no folder": ["index", "export", "/no/such/folder/file"],
    "import of nothing": ["index", "import", "/no/such/file"],
    "chat for everybody": ["chat", "--host", "0.0.0.0"],
    "chat for a name": ["chat", "--host", "example.com"],
    "port out of range": ["chat", "--port", "70000"],
}


@pytest.mark.parametrize("case", WRONG_USAGE)
def test_wrong_usage_is_one_sentence_and_exit_2(case: str, tmp_path: Path) -> None:
    arguments = WRONG_USAGE[case]
    if len(arguments) > 1 or case in ("no question",):
        arguments = [*arguments, "--workspace", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    if arguments:
        assert result.stderr.startswith("fathom: ")
        assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir()), "wrong usage leaves nothing behind"


@pytest.mark.parametrize("case", ["unknown option", "empty question", "k of nought", "folder that is not there"])
def test_errors_are_json_too(case: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*WRONG_USAGE[case], "--json", "--workspace", str(tmp_path)])
    said = json.loads(result.stdout)
    assert said["exit_code"] == result.exit_code == 2
    assert said["error"] in result.stderr


def test_a_missing_collection_names_those_there_are(tmp_path: Path) -> None:
    for name in ("law", "法律", ".hidden", "not a name"):
        (tmp_path / "collections" / name).mkdir(parents=True)
    result = CliRunner().invoke(app, ["search", "x", "--workspace", str(tmp_path)])
    assert result.exit_code == 1
    assert "no collection 'default'" in result.stderr
    assert "(there are law, 法律)" in result.stderr
    assert "fathom index sync" in result.stderr


def test_a_wrong_settings_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "fathom.toml").write_text("[search]\nkk = 1\n")
    result = CliRunner().invoke(app, ["search", "x", "--workspace", str(tmp_path)])
    assert result.exit_code == 2
    assert str(tmp_path / "fathom.toml") in result.stderr
    assert "'kk'" in result.stderr


def test_an_unforeseen_error_is_one_sentence_and_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("app.build.open_collection", broken)
    result = CliRunner().invoke(app, ["index", "list", "--workspace", str(tmp_path)])
    assert result.exit_code == 1
    assert "ZeroDivisionError" in result.stderr
    assert "Traceback" not in result.output
    (log,) = (tmp_path / "logs").iterdir()
    assert str(log) in result.stderr
    assert "Traceback" in log.read_text() and "secret detail" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    sentence, code = describe(ZeroDivisionError("x"), tmp_path)
    assert code == 1
    assert "could not be written" in sentence


def test_what_the_system_refuses_is_said_in_words(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    assert "a file of weights is damaged (cut off)" in describe(SafetensorError("cut off"), tmp_path)[0]
    assert "the disk is full" in describe(OSError(errno.ENOSPC, "No space", "/x/y"), tmp_path)[0]
    assert "permission is denied (/x)" in describe(PermissionError(errno.EACCES, "no", "/x"), tmp_path)[0]
    missing = ModuleNotFoundError("No module named 'gradio'", name="gradio.themes")
    assert "'gradio' is not installed" in describe(missing, tmp_path)[0]
    assert describe(BusyError("busy"), tmp_path) == ("busy", 75)
    assert describe(UsageError("wrong"), tmp_path) == ("wrong", 2)
    assert describe(ReadingError("a.pdf", "encrypted", "has a password."), tmp_path)[1] == 1
    assert not (tmp_path / "logs").exists()


def test_options_are_found_in_raw_arguments() -> None:
    assert option_of(["x", "--workspace", "w"], "--workspace") == "w"
    assert option_of(["--workspace=w=v"], "--workspace") == "w=v"
    assert option_of(["--json"], "--json") == ""
    assert option_of(["search", "--", "--json"], "--json") is None


def test_a_port_in_use_is_named_with_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["chat", "--port", str(port), "--workspace", str(tmp_path)])
    assert result.exit_code == 75
    assert f"port {port}" in result.stderr
    assert "--port" in result.stderr


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "doctor", "--workspace", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_text_that_the_terminal_cannot_show_does_not_end_a_command(tmp_path: Path) -> None:
    for name in ("法律",):
        (tmp_path / "collections" / name).mkdir(parents=True)
    done = fathom("search", "x", "--json", "--workspace", str(tmp_path), PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert "法律" in json.loads(done.stdout)["error"]
    assert "\\u6cd5" in done.stderr


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_is_said_in_one_sentence(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # The history is a pipe nobody writes to: the command hangs at a known place, as on a slow disk.
    command = [sys.executable, "-m", "app", "ask", "x", "--history", str(fifo), "--workspace", str(tmp_path / "w")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    deadline = time.monotonic() + 60
    writer = -1
    while writer < 0 and time.monotonic() < deadline:
        try:
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)  # succeeds once the command has opened it
        except OSError:
            time.sleep(0.05)
    try:
        process.send_signal(sent)
        time.sleep(0.5)
    finally:
        # A signal that comes just before the blocking read is noticed only after it: the end of the pipe ends the read.
        os.close(writer)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == "fathom: stopped; everything finished so far is kept\n"
    assert out == ""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_chat_is_served_until_it_is_stopped(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "app", "chat", "--port", str(port), "--workspace", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    deadline = time.monotonic() + 250
    try:
        while True:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert json.load(answer)["ok"] is True
                    break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err  # how a chat is meant to end
    assert f"http://127.0.0.1:{port}" in err
    assert "Traceback" not in err
    assert "the chat has ended after" in err
