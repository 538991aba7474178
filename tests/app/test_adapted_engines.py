"""Engines that are opened to be weighed: with just the adapters asked for, their own processes told, and closed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from made_exports import made_adapter, made_model, tokenizer_of

from app.adapted_engines import adapted, adapters_there, group_of
from app.settings import load_settings
from retrieval.errors import FathomError, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the environment says of a tiny model and two adapters on it."""
    place = tmp_path_factory.mktemp("made")
    base = made_model(place / "base", "llama", tokenizer_of("smollm"), max_position_embeddings=2048)
    roles = {role: str(made_adapter(base, place / role, seed=n)) for n, role in enumerate(("rewriter", "answerer"))}
    named = {"FATHOM_ENGINE_NAME": "local", "FATHOM_ENGINE_MODEL": str(base), "FATHOM_ENGINE_DEVICE": "cpu"}
    return named | {"FATHOM_ENGINE_ADAPTERS": json.dumps(roles)}


@pytest.mark.slow
def test_an_engine_has_the_adapters_asked_for_and_its_process_is_told(made: dict[str, str], tmp_path: Path) -> None:
    settings = load_settings(tmp_path, environment=made)
    assert list(adapters_there(settings)) == ["rewriter", "answerer"]
    with adapted(settings, None, ["answerer"]) as engine:
        assert engine.llm.roles == ("answerer",)  # type: ignore[attr-defined]
        engine.llm.chat([ChatMessage(role="user", content="the cat")], max_new_tokens=2)
        (pid,) = engine.processes()
        assert pid != os.getpid() and b"app.engines.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    with pytest.raises(FathomError, match="was closed"):
        engine.processes()
    server = load_settings(tmp_path, environment={"FATHOM_ENGINE_URL": "http://127.0.0.1:9/v1"})
    with pytest.raises(UsageError, match="engines on this machine"), adapted(server, None, []):
        pass


@pytest.mark.slow
def test_the_command_shows_memory_and_answers_of_each_number_of_adapters(
    made: dict[str, str], fathom: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"rewriter": json.loads(made["FATHOM_ENGINE_ADAPTERS"])["rewriter"]}
    for name, value in (made | {"FATHOM_ENGINE_ADAPTERS": json.dumps(one)}).items():
        monkeypatch.setenv(name, value)
    words = (
        "eval",
        "speed",
        "adapters",
        "--repeats",
        "1",
        "--prompt-tokens",
        "300",
        "--new-tokens",
        "3",
        "--run",
        "one",
    )
    told = json.loads(fathom(*words, "--json").stdout)
    bare, whole = told["extras"]["adapted"]
    assert (bare["adapters"], whole["adapters"]) == ([], ["rewriter"]) and bare["pss_mb"] > 50
    assert list(whole["asked"]) == ["base", "rewriter"] and whole["asked"]["rewriter"]["completion_tokens"] > 0
    shown = fathom(*words).stdout
    assert "answered by" in shown and "rewriter" in shown and "PSS" in shown


def test_a_group_is_all_processes_that_a_server_started() -> None:
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    process = subprocess.Popen(
        [sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None and process.stdin is not None
    with process:
        process.stdout.readline()
        found = group_of(process.pid)
        assert process.pid in found and len(found) == 2
        process.stdin.close()
    with pytest.raises(FathomError, match="no process of the group"):
        group_of(process.pid)
