"""Roles → a fresh engine with just their adapters on one base, for measuring: embedded, local, or a vLLM server.

build.py opens engines to answer with; here one is opened to be weighed, so that its processes are told too.
"""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app import build
from app.settings import Settings
from retrieval.errors import FathomError, UsageError

if TYPE_CHECKING:
    from eval.speed.adapters import Adapted

VLLM = "vllm"
"""The word for a server of `fathom serve-model` that is started for the measurement."""
_VLLM_FLAGS = ("--dtype", "bfloat16", "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "4")
_VLLM_VARIABLES = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""On a CPU a GiB for the states of prompts in place of half the memory, and no core taken from others."""


def adapters_there(settings: Settings) -> dict[str, Path]:
    """Folders of adapters by role: those that the settings name, else all that come with Fathom."""
    from eval.models.packaged import packaged_adapters

    named = settings.engine.adapters
    return dict(named) if named is not None else packaged_adapters()


@contextmanager
def adapted(settings: Settings, word: str | None, roles: Sequence[str]) -> Iterator["Adapted"]:
    """The engine behind a word ("vllm", or as `build.engine_named` takes it) with the adapters of these roles.

    Raises UsageError for a server, whose processes nobody knows here, MissingError, DamagedError, FathomError.
    """
    there = adapters_there(settings)
    chosen = {role: there[role] for role in roles}
    if word == VLLM:
        with _served(settings, chosen) as engine:
            yield engine
        return
    from app.engines.isolated import IsolatedLLM
    from eval.speed.adapters import Adapted

    ours = build.engine_settings(settings, word)
    if ours.name == "server":
        raise UsageError("memory is measured of engines on this machine; give --engine embedded, local or vllm")
    llm = build.engine(replace(settings, engine=replace(ours, adapter=None, adapters=chosen)))
    assert isinstance(llm, IsolatedLLM), "engines on this machine have a process of their own"
    try:
        yield Adapted(llm, lambda: [llm.pid])
    finally:
        llm.close()


@contextmanager
def _served(settings: Settings, chosen: Mapping[str, Path]) -> Iterator["Adapted"]:
    from adapt.export.vllm_command import plan_serving
    from app.engines import vllm_process
    from app.engines.server import load_server
    from eval.speed.adapters import Adapted

    ours, serving = settings.engine, settings.serving
    name = ours.model.as_posix() if ours.model else "packaged"
    names = {role: folder.name for role, folder in chosen.items()}
    if len(set(names.values())) < len(names):
        raise UsageError("two adapters' folders have one name, which a server calls them by; rename one")
    plan = plan_serving(settings.models, name, [str(folder) for folder in chosen.values()], cache=settings.cache)
    port = _free_port()
    environment = {**os.environ, **vllm_process.QUIET, **_VLLM_VARIABLES}
    environment.pop("PYTHONPATH", None)
    running = vllm_process.start(
        vllm_process.find_vllm(serving.vllm).command(
            plan.model, [*plan.flags(host="127.0.0.1", port=port), *_VLLM_FLAGS]
        ),
        name=plan.name,
        host="127.0.0.1",
        port=port,
        log=settings.logs / "vllm-measured.log",
        environment=environment,
    )
    try:
        vllm_process.wait(running, tell=lambda seconds, said: None)
        llm = load_server(running.url, model=plan.name, adapters=names)
        yield Adapted(llm, lambda: group_of(running.process.pid))
    finally:
        running.end()


def group_of(leader: int) -> list[int]:
    """Processes of a group, by id: a server, its engine, its workers. Linux only."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold blanks and brackets itself.
            state, _, group = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:3]
        except OSError:  # it ended meanwhile
            continue
        if int(group) == leader and state not in "ZX":
            found.append(int(file.parent.name))
    if not found:
        raise FathomError(f"no process of the group {leader} runs any more; look at its log")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
