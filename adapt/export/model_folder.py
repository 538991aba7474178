"""The JSON files of a model folder, read with suspicion. It knows no form that a model is written in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.errors import DamagedError


def read_json_file(file: Path, *, missing: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The object in a file; `missing` where there is no file. Raises DamagedError."""
    if missing is not None and not file.is_file():
        return dict(missing)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{file} cannot be read ({error}); save the model again") from error
    if not isinstance(found, dict):
        raise DamagedError(f"{file} is not what a model has; save the model again")
    return found


def template_of(folder: Path) -> str:
    """The chat template of a model or adapter folder, "" where it has none. Raises DamagedError."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DamagedError(f"{file} cannot be read ({error}); save the model again") from error
    said = read_json_file(folder / "tokenizer_config.json", missing={}).get("chat_template")
    return said if isinstance(said, str) else ""


def ends_of(folder: Path) -> tuple[int, ...]:
    """Ids of the tokens that end an answer, as generation_config.json says; none where it says nothing."""
    said = read_json_file(folder / "generation_config.json", missing={}).get("eos_token_id")
    found = said if isinstance(said, list) else [said]
    return tuple(one for one in found if isinstance(one, int) and not isinstance(one, bool))
