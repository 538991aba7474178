"""What settings name as a model's file → the file: a path, or OWNER/REPOSITORY/FILE.gguf of the Hugging Face hub, if it
lies in that one's cache. It downloads nothing.
"""

import os
import re
from pathlib import Path

from retrieval.errors import MissingError

_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w.-]+\.gguf)")


def resolved(model: Path) -> Path:
    """The path that is meant. Raises MissingError that says how to get a file of the hub."""
    path = model.expanduser()
    match = _HUB_FILE.fullmatch(model.as_posix())
    if path.exists() or match is None:
        return path
    repository, file = match[1], match[2]
    snapshots = cache_folder() / f"models--{repository.replace('/', '--')}" / "snapshots"
    for found in sorted(snapshots.glob(f"*/{file}"), key=lambda entry: entry.stat().st_mtime, reverse=True):
        return found
    raise MissingError(
        f"the model {model} is neither a file here nor in Hugging Face's cache; get it: hf download {repository} {file}"
    )


def cache_folder() -> Path:
    """Hugging Face's cache of repositories, found as huggingface_hub finds it; importing that takes 0.3 seconds."""
    if place := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(os.path.expanduser(place))
    home = os.environ.get("HF_HOME")
    if not home:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expanduser(home)) / "hub"
