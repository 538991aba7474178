"""`fathom serve-model`: the command that is printed, the server that is started, and its end without an orphan.

The server here is a script that answers as a healthy vLLM does; tests/app/test_serving_vllm.py has the real one.
"""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_exports import made_adapter, made_model, tokenizer_of

from adapt.adapters import register_adapter
from adapt.registry import register
from app.engines.vllm_process import find_vllm, last_line, reason
from retrieval.errors import MissingError

Fathom = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]
SERVER = """#!{python}
# Answers /health as vLLM does, with a worker of its own; writes down how it was called; ends as vLLM on SIGINT.
import http.server, json, os, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
seen = {{"argv": sys.argv[1:], "key": os.environ.get("VLLM_API_KEY"), "pid": os.getpid(), "worker": worker.pid}}
seen["offline"] = os.environ.get("HF_HUB_OFFLINE")
open({seen!r}, "w").write(json.dumps(seen))
print("loading weights", flush=True)
if "--fail" in sys.argv:
    print("ValueError: no room for the weights", flush=True)
    sys.exit(3)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
try:
    port = int(sys.argv[sys.argv.index("--port") + 1])
    http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("made")
    base = made_model(place / "base", "llama", tokenizer_of("smollm"))
    return {"base": base, "legal": made_adapter(base, place / "legal")}


@pytest.fixture
def workspace(tmp_path: Path, made: dict[str, Path]) -> Path:
    models = tmp_path / "w" / "models"
    register(models, "base", made["base"], {})
    register_adapter(models, "legal", made["legal"], base="base", held=None, manifest={})
    return tmp_path / "w"


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """An executable called vllm; what it saw is in seen.json beside it."""
    file = tmp_path / "bin" / "vllm"
    file.parent.mkdir()
    file.write_text(SERVER.format(python=sys.executable, seen=str(tmp_path / "bin" / "seen.json")))
    file.chmod(0o755)
    return file


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(*pids: int) -> bool:
    end = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(map(alive, pids))


@pytest.fixture
def started(workspace: Path, server: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The real command in a process of its own, once it has said where it serves, and what the server saw."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "app", "serve-model", "base", "--adapters", "legal", "--port", str(port)),
            *("--vllm", str(server), "--api-key-env", "MY_KEY", "--workspace", str(workspace)),
            *("--", "--dtype", "float32"),
        ],
        cwd=ROOT,
        env={**os.environ, "MY_KEY": "secret-word"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"http://127.0.0.1:{port}/v1 serves base, legal\n", process.communicate()
        yield process, json.loads((server.parent / "seen.json").read_text())
    finally:
        process.kill()
        process.communicate()
        seen = server.parent / "seen.json"
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.killpg(json.loads(seen.read_text())["pid"], signal.SIGKILL)  # where a test has failed


def test_the_server_gets_the_model_the_adapter_and_the_key_and_ctrl_c_leaves_nobody(
    started: tuple[subprocess.Popen[str], dict[str, Any]], workspace: Path, port: int
) -> None:
    process, seen = started
    assert seen["argv"][:2] == ["serve", str(workspace / "models" / "base")]
    assert seen["argv"][-2:] == ["--dtype", "float32"]
    assert f"legal={workspace / 'models' / 'legal'}" in seen["argv"]
    assert seen["key"] == "secret-word" and "secret-word" not in " ".join(seen["argv"]) and seen["offline"] == "1"
    assert alive(seen["pid"]) and alive(seen["worker"])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert gone(seen["pid"], seen["worker"])
    assert "loading weights" in (workspace / "logs" / f"vllm-{port}.log").read_text()


def test_a_killed_command_takes_the_server_with_it(started: tuple[subprocess.Popen[str], dict[str, Any]]) -> None:
    process, seen = started
    process.kill()
    assert gone(seen["pid"])
    os.kill(seen["worker"], signal.SIGKILL)  # the script's own, which vLLM would have ended


def test_a_server_that_ends_by_itself_is_a_failure(started: tuple[subprocess.Popen[str], dict[str, Any]]) -> None:
    process, seen = started
    os.kill(seen["pid"], signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "vLLM ended by itself" in err and gone(seen["worker"])


def test_the_command_is_printed_for_a_shell(fathom: Fathom, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-word")
    monkeypatch.setenv("PATH", "/nowhere")
    odd = workspace / "models" / "a b'c"
    register(workspace / "models", "quoted", workspace / "models" / "base", {})
    arguments = ("--adapters", "legal", "--api-key-env", "MY_KEY", "--max-model-len", "64", "--print")
    here = ("--workspace", str(workspace))  # what the fixture adds comes after "--", and so to vLLM
    line = fathom("serve-model", "base", *arguments, *here, "--", "--chat-template", str(odd)).stdout.strip()
    assert line.startswith('VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 VLLM_API_KEY="$MY_KEY" vllm serve ')
    assert "secret-word" not in line
    assert shlex.split(line)[-4:-2] == ["--chat-template", str(odd)], "quoted"
    told = json.loads(fathom("serve-model", "legal", "--print", "--json").stdout)
    assert told["model"] == "base" and told["adapters"] == ["legal"] and "--enable-lora" in told["words"]


def test_what_is_missing_or_taken_is_said_in_words(
    fathom: Fathom, workspace: Path, server: Path, port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "pip install vllm" in fathom("serve-model", "base", code=1).output
    assert "there is no vLLM in" in fathom("serve-model", "base", "--vllm", str(tmp_path), code=1).output
    vllm = ("--vllm", str(server), "--port", str(port))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert f"port {port} on 127.0.0.1 is taken" in fathom("serve-model", "base", *vllm, code=75).output
    assert "no address of this machine" in fathom("serve-model", "base", *vllm, "--host", "192.0.2.1", code=2).output
    said = fathom("serve-model", "base", *vllm, "--workspace", str(workspace), "--", "--fail", code=1).output
    assert "vLLM ended; ValueError: no room for the weights; all that it said stands in" in said
    monkeypatch.delenv("MY_KEY", raising=False)
    assert "MY_KEY holds no key" in fathom("serve-model", "base", "--api-key-env", "MY_KEY", code=2).output
    assert "not a key" in fathom("serve-model", "base", "--api-key-env", "sk-abc", code=2).output
    assert "names no adapter" in fathom("serve-model", "base", "--adapters", ",", code=2).output
    assert "is a whole model" in fathom("serve-model", "base", "--adapters", "base", code=2).output


def test_the_settings_may_say_where_vllm_is_and_where_it_listens(fathom: Fathom, workspace: Path, server: Path) -> None:
    (workspace / "fathom.toml").write_text(f'[serving]\nvllm = "{server}"\nport = 8123\n')
    line = fathom("serve-model", "base", "--print").stdout
    assert f"{server} serve" in line and "--port 8123" in line
    assert "--port 8200" in fathom("serve-model", "base", "--port", "8200", "--print").stdout


def test_an_environment_is_called_through_its_python(tmp_path: Path) -> None:
    """The CPU build has no metadata of the name vllm, without which `vllm serve` ends at once."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("")
    with pytest.raises(MissingError, match="there is no vLLM"):
        find_vllm(tmp_path)
    (tmp_path / "lib" / "python3.11" / "site-packages" / "vllm").mkdir(parents=True)
    command = find_vllm(tmp_path).command(Path("/m"), ["--port", "1"])
    assert command[1:] == ["-m", "vllm.entrypoints.openai.api_server", "--model", "/m", "--port", "1"]


def test_the_log_gives_the_last_error_and_the_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("INFO one\nValueError: the reason\n  at line 3\n\n")
    assert last_line(log) == "at line 3" and reason(log) == "ValueError: the reason"
    worker = "(VllmWorker-0 pid=782) ERROR 11-28 14:56:56 [multiproc_executor.py:953]"
    log.write_text(
        f"{worker}     raise ValueError(\n{worker} ValueError: Available memory is too little\n"
        + "  at line\n" * 2000
        + "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
    )
    assert reason(log) == "ValueError: Available memory is too little"
    log.write_text("")
    assert last_line(log) == "" and reason(log) == "it said nothing"
