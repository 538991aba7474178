"""Turns a folder into a virtual environment with the peers' exact versions; knows nothing of what they are used for.

    python -m eval.baselines.install [build/baseline-venv]

torch goes first: it decides whether the machine gets a CPU or a CUDA build, and the others then accept what is there.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

DEFAULT_FOLDER = Path("build/baseline-venv")
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


def baseline_python(folder: Path = DEFAULT_FOLDER) -> Path:
    """The interpreter of the peers' environment (it need not exist yet)."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def install(folder: Path = DEFAULT_FOLDER) -> Path:
    """Creates the environment and installs the pins; a second call only checks them. Returns its interpreter.

    Raises subprocess.CalledProcessError when pip fails (pip has then said why).
    """
    python = baseline_python(folder)
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, TORCH], check=True)
    subprocess.run([*pip, TORCH, *PINS], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description="Installs the peers that the measurements run beside Fathom.")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    install(parser.parse_args().folder)


if __name__ == "__main__":
    main()
