"""A GGUF file → the same model as a folder for OpenVINO GenAI, its weights in fp16: computed as the file says, its text
split as the model's own tokenizer does, and with the names of layers that adapters need.

Run as `python -m adapt.export.gguf_to_openvino`: the gigabyte that torch takes for it goes with the process.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import warnings
from pathlib import Path

from eval.models.language_models import locate, quiet, unpacked, unpacked_folder
from retrieval.embedding.stored import is_whole, keep, make_folder
from retrieval.errors import FathomError, MissingError


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


def main() -> None:
    """Convert what the first line of stdin names: gguf, folder, cache and the temporary folder they are in, if any.

    Says nothing, or a JSON object with `error` and `message`."""
    warnings.simplefilter("ignore")  # torch's tracer doubts every condition in transformers' attention
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, args=[asked.get("temporary")], daemon=True).start()
    try:
        convert(Path(asked["gguf"]), Path(asked["folder"]), cache=Path(asked["cache"]))
    except FathomError as error:
        told = {"error": type(error).__name__, "message": str(error)}
    except OSError as error:
        told = {"error": MissingError.__name__, "message": f"no room for it ({error})"}
    else:
        return
    print(json.dumps(told))
    sys.exit(1)


def _end_with_parent(temporary: str | None) -> None:
    """Whoever asked keeps stdin open for as long as it lives; nobody else would clear a temporary folder away."""
    sys.stdin.read()
    if temporary:
        shutil.rmtree(temporary, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main()
