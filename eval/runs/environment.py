"""This machine → what a figure has to be read with: processor, versions, commit. It measures nothing."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "faiss-cpu",
    "ir-measures",
    "jieba",
    "llama-index-core",
    "numpy",
    "openvino",
    "openvino-genai",
    "scipy",
    "tantivy",
    "tokenizers",
    "torch",
    "transformers",
)
_ROOT = Path(__file__).resolve().parents[2]
_HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def environment() -> dict[str, Any]:
    """Machine, versions and commit, ready for JSON. No name of host or user: run folders are handed around."""
    return {"machine": machine(), "versions": versions(), "commit": commit(_ROOT)}


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GiB, accelerators that a driver names."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _first(Path("/proc/cpuinfo"), "model name") or platform.processor() or "unknown",
        "cores": cores,
    }
    if memory := _first(Path("/proc/meminfo"), "MemTotal"):
        found["memory_gib"] = round(int(memory.split()[0]) / 2**20, 1)
    accelerators = [_first(file, "Model") for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    if accelerators:
        found["accelerators"] = [name or "unknown" for name in accelerators]
    return found


def versions() -> dict[str, str]:
    """Versions of Python, of Fathom and of the packages that results rest on, by their metadata: nothing is loaded."""
    found = {"python": platform.python_version()}
    for name in ("fathom-stack", *PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(root: Path) -> str | None:
    """The commit that the checkout at `root` stands on; None where there is no checkout. Read without running git."""
    try:
        git = root / ".git"
        if git.is_file():  # a worktree: its file names the folder
            git = root / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return head if _HASH.fullmatch(head) else None
        name = head.removeprefix("ref:").strip()
        shared = git / "commondir"
        common = git / shared.read_text(encoding="utf-8").strip() if shared.is_file() else git
        for file in (git / name, common / name):
            if file.is_file():
                found = file.read_text(encoding="utf-8").strip()
                return found if _HASH.fullmatch(found) else None
        for line in (common / "packed-refs").read_text(encoding="utf-8").splitlines():
            found, _, ref = line.partition(" ")
            if ref == name and _HASH.fullmatch(found):
                return found
    except (OSError, UnicodeDecodeError):
        return None
    return None


def _first(file: Path, key: str) -> str | None:
    """Value of the first line "key : value"."""
    try:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    except OSError:
        return None
    return None
