"""A model folder and a method → a model ready to be trained; and the trained one → a model folder or an adapter's.

What each method adds to a model is in adapt/training/adapters. It knows no rows, no loss and no loop.
"""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapt.recipe import BOTTLENECKS, LOW_RANK, PROMPTS, Method, Training
from adapt.training.adapters.adalora import under_adalora
from adapt.training.adapters.bottlenecks import shape_for, under_bottleneck
from adapt.training.adapters.low_rank import prepare_four_bits, under_low_rank
from adapt.training.adapters.own_weights import biases_alone, under_ia3
from adapt.training.adapters.pissa import save_pissa, under_pissa
from adapt.training.adapters.prompts import under_prompt
from adapt.training.adapters.rounding_error import begin_as_error
from adapt.training.arguments import attention
from eval.models.adapter_base import FourBits
from eval.models.language_models import load_parts, locate
from retrieval.errors import UsageError

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

    Training of the model's own weights keeps them in fp32 whatever it computes in: a step of 1e-5 is lost in bf16,
    which has 8 bits. Weights that an adapter leaves alone are held in what is computed with, or in 4 bits. Raises
    MissingError, UsageError or DamagedError.
    """
    method = settings.method
    held = "nf4" if method.kind == "qlora" else precision if method.leaves_adapter else "fp32"
    model, tokenizer, _ = load_parts(
        locate(str(folder), download=False),
        cache=cache,
        device=device(),
        precision=held,
        four_bits=four_bits_of(method, precision),
    )
    wish = attention(settings.trainer)
    if wish is not None:
        try:
            model.set_attn_implementation(wish)
        except (ImportError, ValueError) as error:
            raise UsageError(f"attention '{wish}' does not run here: {str(error).splitlines()[0][:200]}") from error
    model.requires_grad_(method.kind == "full")
    return model, tokenizer


def four_bits_of(method: Method, precision: str) -> FourBits | None:
    """How a method holds weights in 4 bits, where it does."""
    if method.kind != "qlora":
        return None
    compute = precision if method.compute == "auto" else method.compute
    return FourBits(method.double_quantisation, compute, method.wide)


def is_flat(model: Any) -> bool:
    """Whether the model's attention wants all rows behind one another, with the places where documents begin."""
    return str(model.config._attn_implementation).startswith("flash_attention")


def under_adapter(
    model: Any,
    method: Method,
    *,
    activation_checkpointing: bool,
    steps: int = 1,
    tokenizer: Any = None,
    rows: Iterable[Any] = (),
    folder: Path | None = None,
) -> Any:
    """The model with what a method adds to it, untrained and alone trainable; with bitfit its biases.

    `steps` (of the optimizer) are adalora's, the model's `tokenizer` is for virtual tokens; `rows` of token ids and the
    model's own `folder` are for adapters that begin as the error of 4 bits. Raises UsageError where the method does not
    fit the model, DamagedError where the folder has no such weights.
    """
    kind = method.kind
    if kind == "qlora":
        model = prepare_four_bits(model, activation_checkpointing=activation_checkpointing)
    if kind in LOW_RANK and not isinstance(method.targets, str):
        if any(name.split(".")[-1] == "lm_head" for name in method.targets):
            raise UsageError("an adapter on lm_head is not trained by a loss that reads its weights; leave it out")
    try:
        if kind in ("lora", "qlora"):
            made = under_pissa(model, method) if method.init == "pissa" else under_low_rank(model, method)
            if method.init == "error" and folder is not None:
                begin_as_error(made, rows, folder)
            return made
        if kind == "adalora":
            return under_adalora(model, method, steps=steps)
        if kind == "ia3":
            return under_ia3(model)
        if kind in PROMPTS:
            return under_prompt(model, method, tokenizer)
    except ValueError as error:
        raise UsageError(f"the adapter does not fit the model: {str(error).splitlines()[0][:300]}") from error
    if kind in BOTTLENECKS:
        return under_bottleneck(model, method)
    return biases_alone(model) if kind == "bitfit" else model


def save_model(model: Any, folder: Path, *, like: Path, state: Mapping[str, Any] | None = None) -> None:
    """Weights and config of a model into a folder, with tokenizer, chat template and generation settings as they are in
    the model folder `like`. `state` are whole weights where the model's are sharded. Raises OSError."""
    model.save_pretrained(folder, safe_serialization=True, **({} if state is None else {"state_dict": dict(state)}))
    _copy_words(folder, like)


def save_adapter(
    model: Any,
    folder: Path,
    method: Method,
    *,
    like: Path,
    state: Mapping[str, Any] | None = None,
) -> None:
    """What `under_adapter` put on the model `like` into a folder, with that one's tokenizer. `state` is as for
    `save_model`. Raises OSError."""
    if method.kind in BOTTLENECKS:
        from eval.models import bottleneck

        networks = (state if state is not None else model.state_dict()).items()
        inside = f"{bottleneck.ATTRIBUTE}."
        weights = {name.removeprefix(inside): value for name, value in networks if name.startswith(inside)}
        bottleneck.save(folder, shape_for(model, method), weights, base=str(like))
    elif method.init == "pissa":
        save_pissa(model, folder)
    else:
        model.save_pretrained(folder, safe_serialization=True, **({} if state is None else {"state_dict": dict(state)}))
        (folder / "README.md").unlink(missing_ok=True)  # peft's, all blanks
    _copy_words(folder, like)


def _copy_words(folder: Path, like: Path) -> None:
    for file in sorted(like.iterdir()):
        if file.is_file() and _BESIDE.fullmatch(file.name):
            shutil.copyfile(file, folder / file.name)


def merged(adapter: Path, model: Path, settings: Training, *, precision: str, cache: Path) -> Any:
    """The full model that the adapter in a folder makes of the model folder it was trained on.

    QLoRA: of the dequantised base, for which it was trained. KL(trained ‖ merged) was -4e-8 so, 1e-4 on the original
    weights. All others: on the weights as they are stored, in fp32.
    """
    from peft import PeftModel

    place = locate(str(model), download=False)
    if settings.method.kind == "qlora":
        # The model in training cannot be dequantised itself: peft's layers would still look for 4 bits (0.21).
        fresh, _, _ = load_parts(
            place, cache=cache, device=device(), precision="nf4", four_bits=four_bits_of(settings.method, precision)
        )
        fresh = fresh.dequantize().float().cpu()
    else:
        fresh, _, _ = load_parts(place, cache=cache, device="cpu", precision="fp32")
    return PeftModel.from_pretrained(fresh, str(adapter), use_safetensors=True).merge_and_unload()


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
