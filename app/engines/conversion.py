"""A GGUF file → its folder for OpenVINO in the cache, made once by a child process (converter.py).

It knows which files OpenVINO would compute otherwise than they say, and nothing of pipelines.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from app.engines.gguf import GgufHeader
from eval.models.language_models import UNPACK_UP_TO
from retrieval import errors
from retrieval.embedding.stored import file_hash, is_whole

EXACT = frozenset({0, 1, 2, 8, 14})
"""Forms of weights (ggml_type) that OpenVINO GenAI 2026.4 computes as they are: F32 (norms and biases), F16, Q4_0,
Q8_0, Q6_K. Q4_1 and Q4_K have a lowest value of their own for each block, which it keeps as a whole number of steps
(logits of the packaged model come out up to 16 off), and the others (BF16, Q5_K …) it does not load."""
_ROOT = Path(__file__).resolve().parents[2]
_FORM = "1"
"""Raise it when the folder comes out otherwise: those there are made again then."""


def is_exact(header: GgufHeader) -> bool:
    """Whether OpenVINO computes a file with this header as the file says. It loads none that is all F32."""
    return header.kinds <= EXACT and header.kinds != {0}


def is_convertible(gguf: Path) -> bool:
    """Whether a file is small enough: it is unpacked to fp32 in memory for it, seven times a 4-bit file's size."""
    return gguf.stat().st_size <= UNPACK_UP_TO


def converted_folder(gguf: Path, cache: Path) -> Path:
    """Where the folder of a file lies in the cache, or will."""
    made_by = f"{version('openvino-genai')}-{version('transformers')}-{_FORM}"
    return cache / "engines" / f"{file_hash(gguf)[:32]}-f16-{made_by}"


def converted(
    gguf: Path, cache: Path, tell: Callable[[str], None] = lambda _: None, *, temporary: bool = False
) -> Path:
    """The folder of a file, made where it is not there: 15 CPU seconds for the packaged model, 0.3 to check it later.
    `tell` gets a sentence for people before the long work; a `temporary` cache goes with this process, if it is killed.

    Raises what keeps it from being made: DamagedError or UsageError for what is no such model, MissingError where there
    is no room for it.
    """
    folder = converted_folder(gguf, cache)
    if not is_whole(folder):
        tell(f"making {gguf.name} ready for this machine, once (about half a minute for a small model)")
        asked = {"gguf": str(gguf), "folder": str(folder), "cache": str(cache)}
        _convert(asked | ({"temporary": str(cache)} if temporary else {}))
    return folder


def _convert(asked: dict[str, str]) -> None:
    before = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{before}" if before else str(_ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "app.engines.converter"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        try:
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            said = process.stdout.read()
        except OSError:
            said = ""  # it ended before it was asked
        finally:
            process.stdin.close()
    if process.returncode == 0:
        return
    try:
        told = json.loads(said.strip().splitlines()[-1])
        kind, message = str(told["error"]), str(told["message"])
    except (IndexError, ValueError, KeyError, TypeError):
        kind, message = "", f"its process ended with status {process.returncode}"
    kinds = {one.__name__: one for one in (errors.DamagedError, errors.UsageError, errors.MissingError)}
    raise kinds.get(kind, errors.FathomError)(f"the model {asked['gguf']} cannot be made ready for OpenVINO: {message}")
