"""A model folder, or an adapter on its base → a clean folder as the Hugging Face hub has it: safetensors, config,
tokenizer, chat template, generation settings, a model card, and nothing else.
"""

import re
import shutil
from pathlib import Path

from adapt.export.model_folder import read_json_file
from eval.models.adapter_base import FILE as BASE_FACTS
from eval.models.adapter_base import adapter_base, require_base
from eval.runs.parts import Progress
from eval.runs.run_folder import write_json
from retrieval.errors import UsageError
from retrieval.storage.durable import sync_to_disk

_PARTS = re.compile(
    r"config\.json|generation_config\.json|[\w.-]+\.safetensors(\.index\.json)?|tokenizer(_config)?\.json|vocab\.(json|txt)"
    r"|merges\.txt|special_tokens_map\.json|added_tokens\.json|[\w.-]+\.model|chat_template\.jinja"
)
"""What a model is made of; notes and exports that lie beside it stay where they are."""
CARD = "README.md"
MERGEABLE = ("LORA", "ADALORA", "IA3")
"""Kinds of adapters (as peft calls them) whose change is a change of the base's weights."""


def copy_model(folder: Path, out: Path, *, card: str, progress: Progress = lambda *_: None) -> None:
    """The parts of the model in `folder` into the folder `out`, bit for bit, with its card. Raises OSError."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and _PARTS.fullmatch(file.name)]
    for number, file in enumerate(files):
        progress("copying", number, len(files))
        shutil.copyfile(file, out / file.name)
    write_card(out, card)


def copy_adapter(folder: Path, out: Path, *, base: str, card: str) -> None:
    """An adapter into the folder `out`: its weights bit for bit, its settings with `base` as its base's name in place
    of the folder on this machine where it was trained. Raises DamagedError, OSError."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and (_PARTS.fullmatch(file.name) or file.name == BASE_FACTS):
            shutil.copyfile(file, out / file.name)
    config = read_json_file(folder / "adapter_config.json")
    write_json(out / "adapter_config.json", {**config, "base_model_name_or_path": base})
    facts = read_json_file(folder / BASE_FACTS, missing={})
    write_json(out / BASE_FACTS, {**facts, "base": base})
    write_card(out, card)


def write_card(out: Path, card: str) -> None:
    """Raises OSError."""
    (out / CARD).write_text(card, encoding="utf-8")
    sync_to_disk(out / CARD)


def merge(base: Path, adapter: Path, out: Path, *, held: str | None, cache: Path) -> None:
    """The full model that an adapter makes of its base, into the folder `out`, in the precision of the base's files,
    with the tokenizer, template and generation settings that the adapter was trained with.

    `held` "nf4": the adapter learnt (QLoRA) on a base in 4 bits and is merged with what these dequantise to. Merged
    with the original weights, KL(trained ‖ merged) was 1e-4 in place of -4e-8. Raises UsageError for an adapter
    that cannot be merged or belongs to another base, MissingError, DamagedError, OSError.
    """
    from peft import PeftModel

    from adapt.training.bases import weights_hash
    from adapt.training.methods import narrowed, save_model
    from eval.models.language_models import load_parts, locate

    require_base(adapter, weights_hash(base, cache=cache), base.name)
    kind = str(read_json_file(adapter / "adapter_config.json").get("peft_type"))
    if kind not in MERGEABLE:
        raise UsageError(
            f"an adapter of the kind {kind[:40]} cannot be merged into weights; run it with the local engine"
        )
    place = locate(str(base), adapter if held != "nf4" else None, download=False)
    if held == "nf4":
        told = adapter_base(adapter)
        bits = told.four_bits if told is not None else None
        fresh, _, _ = load_parts(place, cache=cache, device="cpu", precision="nf4", four_bits=bits)
        fresh = fresh.dequantize().float()
        under = PeftModel.from_pretrained(fresh, str(adapter), use_safetensors=True)
    else:
        under, _, _ = load_parts(place, cache=cache, device="cpu", precision="fp32")
    like = adapter if (adapter / "tokenizer.json").is_file() else base
    save_model(narrowed(under.merge_and_unload(), base), out, like=like)
