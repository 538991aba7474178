"""The process that conversion.py starts: a GGUF file and a place on stdin → a folder for OpenVINO, or, on stdout, a
JSON object with what went wrong. The gigabyte that torch takes for it goes with the process.
"""

import json
import os
import shutil
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

from adapt.export.gguf_to_openvino import convert
from retrieval.errors import FathomError, MissingError

CLEARINGS, BETWEEN_SECONDS = 5, 0.1
"""How often a temporary folder is cleared away: until the process has ended the conversion may make it anew."""


def main() -> None:
    """Convert what the first line of stdin names: gguf, folder, cache and the temporary folder they are in, if any."""
    warnings.simplefilter("ignore")  # torch's tracer doubts every condition in transformers' attention
    asked = json.loads(sys.stdin.readline())
    alone = threading.Event()
    threading.Thread(target=_end_with_parent, args=[asked.get("temporary"), alone], daemon=True).start()
    try:
        convert(Path(asked["gguf"]), Path(asked["folder"]), cache=Path(asked["cache"]))
    except FathomError as error:
        told = {"error": type(error).__name__, "message": str(error)}
    except OSError as error:
        told = {"error": MissingError.__name__, "message": f"no room for it ({error})"}
    except Exception as error:  # safetensors has an error of its own for a full disk
        traceback.print_exception(error)  # to the log
        words = str(error).strip().splitlines()
        kind = MissingError if "No space left" in str(error) else FathomError
        told = {"error": kind.__name__, "message": words[-1][:300] if words else type(error).__name__}
    else:
        return
    if alone.is_set():  # nobody listens, and what failed is that its folder is being cleared away
        threading.Event().wait()
    print(json.dumps(told))
    sys.exit(1)


def _end_with_parent(temporary: str | None, alone: threading.Event) -> None:
    """Whoever asked keeps stdin open for as long as it lives; nobody else would clear a temporary folder away."""
    sys.stdin.read()
    alone.set()
    for _ in range(CLEARINGS if temporary else 0):
        time.sleep(BETWEEN_SECONDS)
        shutil.rmtree(str(temporary), ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main()
