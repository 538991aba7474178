"""A workspace → a running `fathom chat` over a scripted engine, both in processes of their own, and their end.

The chat is an application of the floor above: it is started as the command that it is, and nothing of it is imported.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.runs.parts import Progress
from eval.speed.measuring import BENCH, free_threads
from retrieval.errors import FathomError

STARTING_SECONDS = 120.0
ENDING_SECONDS = 20.0
PRECISION = "bf16"
"""Of the shelves that are measured on (eval.speed.searching)."""


@dataclass(frozen=True)
class Scripted:
    """How the engine behaves: seconds to its first token, how many there are, and seconds between them."""

    first: float = 1.0
    tokens: int = 20
    gap: float = 0.02


@dataclass(frozen=True)
class Chatting:
    """Addresses of both servers, without a slash at their end."""

    page: str
    engine: str


def workspace_with(passages: int, progress: Progress | None = None) -> tuple[Path, str]:
    """A workspace whose collection has so many passages (see eval.speed.shelves), and that collection's name.

    The shelf is copied: what is kept for other measurements must not be written to, and links are not followed there.
    """
    from eval.speed.searching import built

    source = built(passages, progress)
    workspace = (BENCH / f"chat-{passages}").absolute()
    target = workspace / "collections" / source.name
    if not target.is_dir():
        building = target.with_name(f"{source.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        shutil.copytree(source, building)
        building.rename(target)
    return workspace, source.name


def questions_for(workspace: Path, collection: str, count: int) -> list[str]:
    """Sentences of the collection's own documents: each has an answer there."""
    from eval.speed.own_data import questions_of
    from retrieval.collection import Collection

    with Collection.open(workspace / "collections" / collection) as opened:
        return questions_of(None, opened, count)


@contextmanager
def chatting(workspace: Path, script: Scripted, *, precision: str | None = PRECISION) -> Iterator[Chatting]:
    """`fathom chat` on a free port, its engine loaded. Raises FathomError with the last words of what did not start."""
    engine_port, page_port = free_port(), free_port()
    engine, page = (f"http://127.0.0.1:{port}" for port in (engine_port, page_port))
    how = ["--first", str(script.first), "--tokens", str(script.tokens), "--gap", str(script.gap)]
    told = {"FATHOM_ENGINE_URL": f"{engine}/v1"}
    # What the script says is to be shown, whatever the passages say.
    told |= {"FATHOM_ANSWER_LEAST_CONFIDENCE": "0", "FATHOM_ANSWER_LEAST_SUPPORT": "0"}
    if precision is not None:
        told |= {"FATHOM_EMBEDDING_PRECISION": precision, "FATHOM_EMBEDDING_DEVICE": "cpu"}
    chat = ["app", "chat", "--port", str(page_port), "--workspace", str(workspace), "--json"]
    with ExitStack() as stack:
        stack.enter_context(started(["eval.speed.scripted_engine", str(engine_port), *how], f"{engine}/v1/models", {}))
        stack.enter_context(started(chat, f"{page}/health", told, ready={"engine": "ready"}))
        yield Chatting(page, engine)


@contextmanager
def started(
    words: Sequence[str], url: str, variables: Mapping[str, str], *, ready: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """`python -m` with these words, waited for until `url` answers with JSON that has what `ready` says; then ended."""
    clean = {name: value for name, value in free_threads().items() if not name.startswith("FATHOM_")}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            env={**clean, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_for(url, process, ready or {}, log, words[0])
            yield
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(ENDING_SECONDS)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def _wait_for(url: str, process: "subprocess.Popen[bytes]", ready: Mapping[str, Any], log: Any, name: str) -> None:
    import httpx

    began = time.monotonic()
    # No proxy of the environment stands between this machine and itself.
    with httpx.Client(trust_env=False, timeout=5) as client:
        while True:
            try:
                said = client.get(url).json()
                if ready.items() <= said.items():
                    return
            except (httpx.HTTPError, ValueError) as error:
                said = error
            late = time.monotonic() - began > STARTING_SECONDS
            if process.poll() is not None or late:
                log.seek(0)
                end = log.read().decode("utf-8", "replace").strip()[-1500:]
                why = f"did not get ready within {STARTING_SECONDS:.0f} s ({said})" if late else "ended"
                raise FathomError(f"{name} {why}; its last words: {end}")
            time.sleep(0.1)


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
