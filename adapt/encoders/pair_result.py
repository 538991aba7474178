"""A trained network → the folder that `load_reranker` takes: LoRA matrices or a whole encoder, its head, what it is,
and a card. Written whole or not at all.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.runs.run_folder import write_json
from retrieval.embedding.stored import keep
from retrieval.reranking.pair_folder import FACTS, HEAD, PairFacts

if TYPE_CHECKING:
    import torch

CARD = "README.md"


def write_result(
    folder: Path, network: "torch.nn.Module", facts: PairFacts, *, base: Path, lora: bool, card: str
) -> None:
    """Replace `folder` by the result. Raises OSError (a full disk)."""
    from safetensors.torch import save_file

    def fill(place: Path) -> None:
        import torch

        trunk: Any = network.trunk
        if lora:
            trunk.save_pretrained(place)  # peft's own form, base and all settings in adapter_config.json
            _halve(place / "adapter_model.safetensors")
            _tidy(place / "adapter_config.json", facts.base)
            (place / CARD).unlink(missing_ok=True)
        else:
            trunk.to(torch.float32).save_pretrained(place)
            for file in sorted(base.iterdir()):
                if file.is_file() and file.name.startswith(("tokenizer", "vocab", "special_tokens", "merges")):
                    shutil.copyfile(file, place / file.name)
        head: Any = network.head
        save_file(
            {name: value.detach().float().contiguous() for name, value in head.state_dict().items()}, place / HEAD
        )
        write_json(place / FACTS, facts.to_json())
        (place / CARD).write_text(card, "utf-8")

    if folder.exists():
        shutil.rmtree(folder)
    keep(folder, fill)
    (folder / "hashes.json").unlink()


def set_calibration(folder: Path, facts: PairFacts, calibration: Mapping[str, Any] | None, card: str) -> PairFacts:
    """Write the calibration into a result (None takes it out), and its card anew. Raises OSError."""
    found = replace(facts, calibration=calibration)
    write_json(folder / FACTS, found.to_json())
    (folder / CARD).write_text(card, "utf-8")
    return found


def _halve(file: Path) -> None:
    """fp16, which holds 11 bits of a matrix where bf16 holds 8: half the file, and no logit moves by .01."""
    import torch
    from safetensors.torch import load_file, save_file

    save_file({name: value.to(torch.float16).contiguous() for name, value in load_file(file).items()}, file)


def _tidy(file: Path, base: str) -> None:
    """Where the base lay on the machine that trained is nobody's business; sets become sorted lists."""
    import json

    config = json.loads(file.read_text("utf-8"))
    config["base_model_name_or_path"] = base
    for key, value in config.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            config[key] = sorted(value)
    file.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")
