"""A model's tokenizer folder → the same with the chat template that is trained, ending where a turn ends: what the
tuned model's folder will hold and serving will read. It knows no conversation and trains nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

from adapt.chat.templates import require, without_marks
from adapt.chat.writing import Writer
from adapt.vocabulary.tokenizer_file import load
from eval.runs.run_folder import write_json
from retrieval.errors import DamagedError, FathomError

GENERATION_CONFIG = "generation_config.json"
_BESIDE = (
    *("tokenizer", "vocab", "merges", "special_tokens_map", "added_tokens", "spiece"),
    *("chat_template", "generation_config"),
)
"""What the names of files begin with that a tokenizer and its template are in."""


def dressed(model: Path, name: str | None, folder: Path) -> Path:
    """Make `folder` the tokenizer of `model` as its successor will have it: with the template that is trained, ending
    at the end of a turn. Token numbers stay. Raises UsageError, FathomError, OSError."""
    tokenizer = load(model)
    template = require(tokenizer, name)
    end, number = Writer(tokenizer, template=template).end_of_turn()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in sorted(model.iterdir()):
        if file.is_file() and file.name.startswith(_BESIDE):
            shutil.copyfile(file, folder / file.name)
    if name is not None or tokenizer.eos_token_id != number:
        before = tokenizer.backend_tokenizer.to_str()
        tokenizer.eos_token = end
        if name is not None:
            tokenizer.chat_template = without_marks(template)
            for file in folder.glob("chat_template*"):
                file.unlink()
        tokenizer.save_pretrained(folder)
        again = load(folder)
        ends = Writer(again, template=require(again, name)).end_of_turn()
        if again.backend_tokenizer.to_str() != before or ends != (end, number):
            raise FathomError(
                "the tokenizer is not what it was after its template was changed; this base cannot be tuned"
            )
    write_json(folder / GENERATION_CONFIG, _generation(model, number))
    return folder


def _generation(model: Path, end: int) -> dict[str, Any]:
    """Settings of generation with the end of a turn among what ends it."""
    file = model / GENERATION_CONFIG
    known: dict[str, Any] = {}
    try:
        if file.is_file():
            known = json.loads(file.read_bytes())
        elif (model / "config.json").is_file():
            said = json.loads((model / "config.json").read_bytes())
            known = {key: said[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in said}
        ends = known.get("eos_token_id")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{file} cannot be read ({error}); fetch the model again") from error
    others = [one for one in (ends if isinstance(ends, list) else [ends]) if isinstance(one, int) and one != end]
    return {**known, "eos_token_id": [end, *others] if others else end}
