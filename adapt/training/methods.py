"""A model folder and a method (full, LoRA, QLoRA) → a model ready to be trained; and the trained one → a model folder.

It knows no rows, no loss and no loop.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapt.recipe import Method, Training
from adapt.training.arguments import attention
from eval.models.language_models import load_parts, locate
from eval.runs.run_folder import write_json
from retrieval.errors import UsageError

BASE_FACTS = "fathom.json"
"""In an adapter's folder: which base it was made on, by hash."""
_BESIDE = re.compile(
    r"(tokenizer.*|vocab\.(json|txt)|merges\.txt|special_tokens_map\.json|added_tokens\.json|spiece\.model"
    r"|chat_template.*|generation_config\.json)"
)


def device() -> str:
    """Where this process trains: its own CUDA device, or the CPU."""
    import os

    import torch

    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}" if torch.cuda.is_available() else "cpu"


def precision_of(settings: Training) -> str:
    """ "fp32" or "bf16": what was asked for; auto is bf16 where the machine computes in it (a CPU without such
    instructions is several times slower in bf16 than in fp32). Raises UsageError."""
    import torch

    if torch.cuda.is_available():
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    if settings.precision == "bf16" and not able and torch.cuda.is_available():
        raise UsageError("this GPU does not compute in bf16; set precision to fp32")
    return ("bf16" if able else "fp32") if settings.precision == "auto" else settings.precision


def load_model(folder: Path, settings: Training, *, precision: str, cache: Path) -> tuple[Any, Any]:
    """Model and tokenizer, weights not yet under an adapter.

    Full training keeps the weights in fp32 whatever it computes in: a step of 1e-5 is lost in bf16, which has 8 bits.
    Weights that an adapter leaves alone are held in what is computed with, or in 4 bits. Raises MissingError,
    UsageError or DamagedError.
    """
    held = {"full": "fp32", "lora": precision, "qlora": "nf4"}[settings.method.kind]
    model, tokenizer, _ = load_parts(locate(str(folder), download=False), cache=cache, device=device(), precision=held)
    wish = attention(settings.trainer)
    if wish is not None:
        try:
            model.set_attn_implementation(wish)
        except (ImportError, ValueError) as error:
            raise UsageError(f"attention '{wish}' does not run here: {str(error).splitlines()[0][:200]}") from error
    model.requires_grad_(settings.method.kind == "full")
    return model, tokenizer


def is_flat(model: Any) -> bool:
    """Whether the model's attention wants all rows behind one another, with the places where documents begin."""
    return str(model.config._attn_implementation).startswith("flash_attention")


def under_adapter(model: Any, method: Method, *, activation_checkpointing: bool) -> Any:
    """The model with an untrained adapter, alone trainable (QLoRA: Dettmers et al. 2023, arXiv:2305.14314).

    Raises UsageError for names of layers that are not there.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if method.kind == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=activation_checkpointing)
    alpha = method.alpha if method.alpha is not None else (1 if method.rslora else 2) * method.r
    if method.targets != "all-linear" and any(name.split(".")[-1] == "lm_head" for name in method.targets):
        raise UsageError("an adapter on lm_head is not trained by a loss that reads its weights; leave it out")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.r,
        lora_alpha=alpha,
        use_rslora=method.rslora,
        lora_dropout=method.dropout,
        target_modules=method.targets if isinstance(method.targets, str) else list(method.targets),
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UsageError(f"the adapter does not fit the model: {str(error).splitlines()[0][:300]}") from error


def save_model(model: Any, folder: Path, *, like: Path, state: Mapping[str, Any] | None = None) -> None:
    """Weights and config of a model (or of its adapter) into a folder, with tokenizer, chat template and generation
    settings as they are in the model folder `like`. `state` are whole weights where the model's are sharded. Raises
    OSError."""
    model.save_pretrained(folder, safe_serialization=True, **({} if state is None else {"state_dict": dict(state)}))
    (folder / "README.md").unlink(missing_ok=True)  # peft's, all blanks
    for file in sorted(like.iterdir()):
        if file.is_file() and _BESIDE.fullmatch(file.name):
            shutil.copyfile(file, folder / file.name)


def merged(
    model: Any, job_model: Path, settings: Training, *, cache: Path, state: Mapping[str, Any] | None = None
) -> Any:
    """The full model that an adapter makes of its base. `state` are whole weights where the model's are sharded.

    QLoRA: of the dequantised base, for which it was trained. KL(trained ‖ merged) was -4e-8 so, 1e-4 on the original
    weights. LoRA: on the weights as they are stored, in fp32.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    adapter = get_peft_model_state_dict(model, state_dict=None if state is None else dict(state))
    adapter = {name: value.cpu() for name, value in adapter.items()}
    place = locate(str(job_model), download=False)
    if settings.method.kind == "qlora":
        # The model in training cannot be dequantised itself: peft's layers would still look for 4 bits (0.21).
        fresh, _, _ = load_parts(place, cache=cache, device=device(), precision="nf4")
        fresh = fresh.dequantize().float().cpu()
    else:
        fresh, _, _ = load_parts(place, cache=cache, device="cpu", precision="fp32")
    plain = settings.method.model_copy(update={"kind": "lora"})
    again = under_adapter(fresh, plain, activation_checkpointing=False)
    set_peft_model_state_dict(again, adapter)
    return again.merge_and_unload()


def stored_dtype(folder: Path) -> str:
    """The precision that a model folder says its weights have."""
    config = json.loads((folder / "config.json").read_bytes())
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def narrowed(model: Any, like: Path) -> Any:
    """The result in the precision of the folder it began from, as models are published: half the disk and memory."""
    return model.to(_narrow(like))


def narrowed_state(state: Mapping[str, Any], like: Path) -> dict[str, Any]:
    """The same of whole weights by name; tied ones stay one tensor."""
    made = {id(value): value.to(_narrow(like)) for value in state.values()}
    return {name: made[id(value)] for name, value in state.items()}


def _narrow(like: Path) -> Any:
    import torch

    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(stored_dtype(like), torch.float32)


def write_base_facts(adapter: Path, *, base: Path, sha256: str) -> None:
    """Which base an adapter belongs to. Raises OSError."""
    write_json(adapter / BASE_FACTS, {"base": str(base), "base_sha256": sha256})
