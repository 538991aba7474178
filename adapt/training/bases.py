"""The name of a model in any form → a folder of safetensors with tokenizer and chat template that training can start
from, and a hash of what lies in it. It trains nothing."""

from dataclasses import replace
from pathlib import Path

from eval.models.language_models import UNPACK_UP_TO, locate, quiet, unpacked
from retrieval.errors import UsageError


def base_folder(name: str, *, cache: Path) -> Path:
    """The folder of a model: a folder is itself, a model of the hub lies in its cache, a GGUF file is dequantised to
    fp32 once and kept in `cache`. "packaged" is the model that comes with Fathom.

    Raises MissingError, UsageError or DamagedError where it is not there or must not be loaded.
    """
    place = locate(name)
    if place.gguf is None:
        return place.folder
    size = (place.folder / place.gguf).stat().st_size
    if size > UNPACK_UP_TO:
        raise UsageError(
            f"'{place.gguf}' has {size >> 20} MiB of quantised weights, and training on up to {UNPACK_UP_TO >> 20} MiB "
            "unpacked is what is offered; give the model's own folder with safetensors (OWNER/NAME of the hub)"
        )
    with quiet():
        there = unpacked(replace(place, adapter=None), cache)
    if there.gguf is not None:
        raise UsageError(f"'{place.gguf}' cannot be unpacked into '{cache}', which must be writable and have room")
    return there.folder


def base_of(name: str, *, cache: Path, models: Path | None) -> Path:
    """The folder of a recipe's base, which must be on this machine: a registered model first, else as everywhere.

    Raises MissingError, UsageError or DamagedError.
    """
    from adapt.registry import is_registered

    if models is not None and is_registered(models, name):
        name = str(models / name)
    locate(name, download=False)  # nobody expects a plan to fetch gigabytes
    return base_folder(name, cache=cache)


def weights_hash(folder: Path, *, cache: Path | None = None) -> str:
    """SHA-256 (hex) over weights, config and tokenizer of a model folder; large files' hashes are remembered in `cache`
    (None: the user's). Raises MissingError, UsageError or DamagedError."""
    from retrieval.embedding.load import EmbeddingSettings
    from retrieval.embedding.model_files import find_model
    from retrieval.embedding.model_files import weights_hash as hash_of_files

    return hash_of_files(find_model(str(folder), download=False), cache or EmbeddingSettings().cache_folder())
