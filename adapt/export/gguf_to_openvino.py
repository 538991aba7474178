"""A GGUF file → the same model as a folder for OpenVINO GenAI, its weights in fp16: computed as the file says, its text
split as the model's own tokenizer does, and with the names of layers that adapters need.
"""

import tempfile
from pathlib import Path

from eval.models.language_models import locate, quiet, unpacked, unpacked_folder
from retrieval.embedding.stored import is_whole, keep, make_folder


def convert(gguf: Path, folder: Path, *, cache: Path) -> None:
    """Make `folder` of the file, whole or not at all, sealed with hashes. `cache` is where the file may lie unpacked
    already, as training and the local engine leave it.

    Raises MissingError, DamagedError or UsageError for what is no model, OSError where there is no room.
    """
    from adapt.export.openvino_folder import export_openvino

    place = locate(str(gguf), download=False)
    make_folder(folder.parent)
    # So named, it goes with what `keep` sweeps up behind a process that was killed.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as room:
        there = cache if is_whole(unpacked_folder(place, cache)) else Path(room)
        with quiet():
            model = unpacked(place, there)
        if model.gguf is not None:
            raise OSError(f"{gguf} cannot be unpacked in {there}, which must be writable and have room")
        keep(folder, lambda new: export_openvino(model.folder, new, cache=there))
