"""A model built from a config alone → tokens a second, peak memory and utilisation of full training, LoRA and QLoRA.

Random weights: speed and memory do not depend on what the numbers are, so nothing is fetched. A step is Fathom's own:
rows with document borders, head and loss in chunks, autocast in bf16, clipping, AdamW. It reads no text.
"""

import gc
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from adapt.recipe import Method
from eval.runs.parts import Progress
from retrieval.errors import MissingError, UsageError

QWEN3: dict[str, Any] = {
    "model_type": "qwen3", "vocab_size": 151_936, "head_dim": 128, "num_key_value_heads": 8, "rope_theta": 1_000_000,
    "max_position_embeddings": 40_960, "rms_norm_eps": 1e-6,
}  # fmt: skip
MODELS: Mapping[str, Mapping[str, Any]] = {
    "qwen3-0.6b": QWEN3
    | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    | {"tie_word_embeddings": True},
    "qwen3-4b": QWEN3
    | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
    | {"tie_word_embeddings": True},
    "qwen3-8b": QWEN3
    | {"hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32}
    | {"tie_word_embeddings": False},
    "tiny": QWEN3
    | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"vocab_size": 512, "head_dim": 32, "num_key_value_heads": 1, "tie_word_embeddings": True},
}
"""The sizes of published models, as their config.json says, and one for tests."""
PEAKS = {"H200": 989.0, "H100": 989.0, "H800": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "4090": 165.2}
"""Dense bf16 TFLOP/s by the makers' sheets (SXM forms), by a word in the card's name."""
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
METHODS: tuple[Literal["full", "lora", "qlora"], ...] = ("full", "lora", "qlora")
DOCUMENT = 512
"""Tokens of a document in the rows made up here: several in a block, as in a real corpus."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What is done at each method."""

    block: int = 4096
    micro_tokens: int = 16_384
    """Tokens of a step; one micro-batch each."""
    steps: int = 10
    warm_up: int = 3
    rank: int = 64
    checkpointing: bool = False
    attention: str = "sdpa"


@dataclass(frozen=True)
class _Row:
    """See adapt/corpus/packing.py."""

    ids: np.ndarray
    pieces: np.ndarray
    source: int = 0
    learned: np.ndarray | None = None


def measure_rows(
    models: Sequence[str],
    methods: Sequence[str],
    work: Work,
    *,
    peak: float | None = None,
    device: str | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Every method on every model, one after the other. Ready for JSON:

        {"device", "torch", "peak_tflops", "work", "rows": [{"model", "method", "error", "parameters", "trained",
         "tokens_per_second", "step_seconds", "peak_memory_bytes", "mfu", "mfu_causal", "first_loss", "attention"}]}

    MFU (Chowdhery et al. 2022, arXiv:2204.02311, appendix B) is tokens a second · FLOPs a token / peak, FLOPs as TRL's
    `compute_flops_per_token` counts them: three times the forward pass's 2 · weights + 4 · layers · heads · width ·
    block, for every method alike, so that methods compare: LoRA and QLoRA do less than that (no gradients of frozen
    weights), and QLoRA also unpacks its weights. `mfu_causal` counts only the half of the attention that a causal mask
    leaves. The count takes a block as one document; rows here have several. `step_seconds` is the median. A row that
    does not fit has its `error`. Raises UsageError for a model, a method or a block that cannot be.
    """
    import torch

    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if work.micro_tokens < work.block or work.block < 2:
        raise UsageError(f"a step of {work.micro_tokens:,} tokens holds no block of {work.block:,}")
    name = torch.cuda.get_device_name() if where.startswith("cuda") else "cpu"
    known = peak if peak is not None else next((value for word, value in PEAKS.items() if word in name), None)
    configs = {model: _config(model) for model in models}
    odd = [method for method in methods if method not in METHODS]
    if odd or work.attention not in ATTENTION:
        raise UsageError(f"methods are {', '.join(METHODS)} and attention {', '.join(ATTENTION)}; {odd} was given")
    rows = []
    for number, (model, method) in enumerate((model, method) for model in configs for method in methods):
        progress(f"{model}, {method}", number, len(configs) * len(methods))
        row: dict[str, Any] = {"model": model, "method": method, "error": None}
        try:
            row |= _measured(configs[model], method, work, where, known)
        except torch.OutOfMemoryError:
            row["error"] = "does not fit into the memory of the device"
        except MissingError as error:
            row["error"] = str(error)
        rows.append(row)
        gc.collect()
        if where.startswith("cuda"):
            torch.cuda.empty_cache()
    return {
        "device": name,
        "torch": torch.__version__,
        "peak_tflops": known,
        "work": asdict(work),
        "rows": rows,
    }


def _config(model: str) -> Any:
    """A name of MODELS or the path of a config.json. Raises UsageError."""
    from transformers import AutoConfig

    if model in MODELS:
        facts = dict(MODELS[model])
        return AutoConfig.for_model(facts.pop("model_type"), **facts)
    path = Path(model)
    if not path.exists():
        raise UsageError(f"there is no model '{model}'; there are {', '.join(MODELS)}, or give a config.json")
    try:
        return AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"'{path}' is no config of a model: {str(error).splitlines()[0][:200]}") from error


def _measured(config: Any, method: str, work: Work, where: str, peak: float | None) -> dict[str, Any]:
    """One row of the table. Raises torch.OutOfMemoryError, MissingError."""
    import torch
    from trl.trainer.utils import adjusted_mfu, compute_flops_per_token

    from adapt.training.methods import is_flat

    cuda = where.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    model = _built(config, method, work, where)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=cuda)
    rows = max(1, work.micro_tokens // work.block)
    inputs = _batch(config.vocab_size, rows, work.block, is_flat(model), where)
    tokens = rows * work.block
    seconds, losses = [], []
    for _ in range(work.warm_up + work.steps):
        _wait(cuda)
        began = time.perf_counter()
        with torch.autocast(where.split(":")[0], torch.bfloat16):
            loss = model(**inputs, factor=1.0 / int((inputs["targets"] >= 0).sum()))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _wait(cuda)
        seconds.append(time.perf_counter() - began)
        losses.append(float(loss.detach()))
    step = sorted(seconds[work.warm_up :])[work.steps // 2]
    speed = tokens / step
    mfu = speed * compute_flops_per_token(config, work.block) / (peak * 1e12) if peak else None
    return {
        "parameters": sum(weight.numel() for weight in _plain_parameters(model)),
        "trained": sum(weight.numel() for weight in trained),
        "tokens_per_second": speed,
        "step_seconds": step,
        "peak_memory_bytes": torch.cuda.max_memory_reserved() if cuda else None,
        "mfu": mfu,
        "mfu_causal": adjusted_mfu(mfu, config, work.block) if mfu is not None else None,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "attention": str(model.config._attn_implementation),
    }


def _built(config: Any, method: str, work: Work, where: str) -> Any:
    """Weights made where they are used: fp32 for full training (as Fathom holds them), bf16 under LoRA, NF4 under
    QLoRA."""
    import torch
    from transformers import AutoModelForCausalLM

    from adapt.training.loss import attach
    from adapt.training.methods import under_adapter

    with torch.device(where):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32 if method == "full" else torch.bfloat16, attn_implementation=work.attention
        )
    model.config.use_cache = False
    model.train()
    if method == "qlora":
        _pack(model, where)
    model.requires_grad_(method == "full")
    if work.checkpointing and method != "qlora":
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    attach(model)
    if method == "full":
        return model
    kind: Literal["lora", "qlora"] = "qlora" if method == "qlora" else "lora"
    return under_adapter(model, Method(kind=kind, r=work.rank), activation_checkpointing=work.checkpointing)


def _pack(model: Any, where: str) -> None:
    """Every linear layer but the head → 4 bits (NF4). Layer by layer: the whole is never held twice."""
    import importlib.util

    import torch

    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingError("4-bit weights need the package bitsandbytes: pip install -c constraints.txt -e '.[nf4]'")
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, torch.nn.Linear) or name.split(".")[-1] == "lm_head":
            continue
        with torch.device("meta"):
            packed = Linear4bit(
                layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=torch.bfloat16,
                quant_type="nf4",
            )  # fmt: skip
        packed.weight = Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4").to(where)
        packed.bias = layer.bias
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, packed)
    model.is_loaded_in_4bit = True


def _batch(vocabulary: int, rows: int, block: int, flat: bool, where: str) -> dict[str, Any]:
    """Packed rows of random tokens as the trainer sees them, several documents in each."""
    import torch

    from adapt.training.rows import Collator

    drawn = np.random.default_rng(0)
    whole, rest = divmod(block, DOCUMENT)
    pieces = np.array([DOCUMENT] * whole + [rest] * bool(rest), dtype=np.int32)
    made = [_Row(drawn.integers(0, vocabulary, block, dtype=np.int32), pieces) for _ in range(rows)]
    batch = Collator(flat=flat)(list(enumerate(made)))
    del batch["rows"], batch["sources"]
    return {name: value.to(where) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def _plain_parameters(model: Any) -> Iterator[Any]:
    """The model's own weights at their real sizes: 4-bit ones are stored two in a byte."""
    import torch

    for name, weight in model.named_parameters():
        if "lora_" in name:
            continue
        state = getattr(weight, "quant_state", None)
        yield torch.empty(state.shape, device="meta") if state is not None else weight


def _wait(cuda: bool) -> None:
    if cuda:
        import torch

        torch.cuda.synchronize()
