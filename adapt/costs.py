"""A model folder and a stage's settings → parameters, floating-point operations, memory and disk, each with its reason.

Only headers and configs are read, no weight is loaded. It knows no text and measures nothing.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapt.amounts import json_file
from adapt.forgetting.stored_teacher import bytes_needed
from adapt.recipe import BOTTLENECKS, LOW_RANK, PROMPTS, Method, Training, Vocabulary
from retrieval.errors import DamagedError, UsageError

LOGIT_PLACES = 512
"""Places whose logits exist at once; the loss is taken in chunks."""
RUNTIME = 600 << 20
"""Bytes of Python, torch and its libraries before any weight; with CUDA as much again on the GPU."""
NF4_BYTES = 0.5 + 4 / 64
"""Bytes of a weight in NF4: half a byte, and a scale in fp32 for each 64 (arXiv:2305.14314)."""
NF4_DOUBLE_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""The same with scales in 8 bits, and one in fp32 for each 256 of those."""
CHECKPOINTS = 3
"""Two are kept, one is in the making."""
MOST_LAYERS, MOST_WIDTH = 1_000, 1 << 17
"""A config beyond these is no model."""


@dataclass(frozen=True)
class ModelFacts:
    """Shapes of a causal language model. `linear` are the matrices of its layers by name as (inputs, outputs), `active`
    the share of their weights that one token passes through: 1, or less in a mixture of experts."""

    parameters: int
    rows: int
    width: int
    layers: int
    tied: bool
    heads_width: int
    """Width of all query heads together."""
    keys_width: int
    inner: int
    """Width between the two halves of an MLP."""
    linear: Mapping[str, tuple[int, int]]
    active: float = 1.0
    biases: int = 0
    """Parameters of all biases."""
    window: int = 0
    """Tokens that the model's positions reach; 0 is not told."""

    @property
    def table(self) -> int:
        """Parameters of one table of embeddings."""
        return self.rows * self.width

    @property
    def multiplied(self) -> float:
        """Parameters that each token is multiplied with: all matrices and the head."""
        return self.active * self.packed + self.table

    @property
    def packed(self) -> int:
        """Parameters of all matrices of the layers, which QLoRA holds in 4 bits."""
        return sum(a * b for a, b in self.linear.values())

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        return (self.parameters - self.table * (1 if self.tied else 2)) // max(1, self.layers)

    def adapter(self, method: Method) -> int:
        """Parameters that a method adds, at their most; of bitfit the biases."""
        count = method.virtual_tokens
        match method.kind:
            case "lora" | "qlora" | "adalora":
                shapes = {name: self.linear[name] for name in self.targeted(method.targets)}
                per_rank = 1 if method.kind == "adalora" else 0
                low = sum(method.rank_of(name) * (sum(shape) + per_rank) for name, shape in shapes.items())
                return low + (sum(out for _, out in shapes.values()) if method.dora else 0)
            case "houlsby" | "pfeiffer":
                inner = max(1, self.width // method.reduction)
                one = 2 * self.width * inner + self.width + inner
                return self.layers * one * (2 if method.kind == "houlsby" else 1)
            case "prefix":
                return count * self.layers * 2 * self.keys_width
            case "prompt":
                return count * self.width
            case "p_tuning":
                network = method.hidden * (2 * self.width + method.hidden + 2) + self.width
                return count * self.width + network
            case "ia3":
                return self.layers * (2 * self.keys_width + self.inner)
            case "bitfit":
                return self.biases
        return self.parameters

    def targeted(self, targets: tuple[str, ...] | str) -> list[str]:
        """Names of the matrices that an adapter on `targets` changes: those that end with one."""
        if isinstance(targets, str):
            return list(self.linear)
        return [name for name in self.linear if any(f".{name}".endswith(f".{target}") for target in targets)]

    def held_wide(self, method: Method) -> list[str]:
        """Matrices that QLoRA leaves out of its 4 bits."""
        return [name for name in self.linear if any(f".{part}." in f".{name}." for part in method.wide)]

    def grown(self, layers: int = 0, rows: int = 0) -> "ModelFacts":
        """With so many layers and tokens more."""
        first = next(iter(self.linear), "").split(".layers.")[0]
        one = {name: shape for name, shape in self.linear.items() if name.startswith(f"{first}.layers.0.")}
        new = {f"new.{number}.{name}": shape for number in range(layers) for name, shape in one.items()}
        tables = 1 if self.tied else 2
        return replace(
            self,
            parameters=self.parameters + layers * self.layer + rows * self.width * tables,
            rows=self.rows + rows,
            layers=self.layers + layers,
            linear={**self.linear, **new},
        )


def facts_of(folder: Path) -> ModelFacts:
    """Read shapes from the safetensors' headers and config.json. Raises DamagedError, or UsageError (quantised)."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as stored:
                for name in stored.keys():  # noqa: SIM118 - no dict
                    shapes[name] = tuple(stored.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise DamagedError(f"{file} is damaged ({str(error)[:120]}); fetch the model again") from error
    config = json_file(folder / "config.json")
    if "quantization_config" in config:
        raise UsageError(
            f"the weights of '{folder.name}' are quantised already and cannot be trained; use the model from before"
        )
    if isinstance(config.get("text_config"), dict):
        config = config["text_config"]

    def size(name: str, default: int = 0, most: int = MOST_WIDTH) -> int:
        value = config.get(name, default)
        value = default if value is None else value
        if not isinstance(value, int) or not 0 < value <= most:
            raise DamagedError(f"{folder / 'config.json'} has {name} = {str(value)[:40]}, which no model has")
        return value

    width, layers = size("hidden_size"), size("num_hidden_layers", most=MOST_LAYERS)
    heads = size("num_attention_heads")
    head = size("head_dim", max(1, width // heads))
    tables = {name: shape for name, shape in shapes.items() if len(shape) == 2 and _is_table(name)}
    rows = next((shape[0] for name, shape in tables.items() if "embed_tokens" in name or "wte" in name), 0)
    if not rows:
        raise DamagedError(f"the model '{folder.name}' has no table of embeddings among its {len(shapes)} tensors")
    linear = {
        name.removesuffix(".weight"): (shape[-1], math.prod(shape[:-1]))
        for name, shape in shapes.items()
        if len(shape) > 1 and name not in tables
    }
    experts = sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name and len(shape) > 1)
    passed = 1.0
    if experts:
        there = next(
            (config[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if key in config), 1
        )
        chosen = config.get("num_experts_per_tok", 1)
        if isinstance(there, int) and isinstance(chosen, int) and there > 0:
            whole = sum(a * b for a, b in linear.values())
            passed = (whole - experts + experts * min(1.0, chosen / there)) / whole
    return ModelFacts(
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        rows=rows,
        width=width,
        layers=layers,
        tied=not any("lm_head" in name for name in shapes),
        heads_width=heads * head,
        keys_width=size("num_key_value_heads", heads) * head,
        inner=size("intermediate_size", 4 * width),
        linear=linear,
        active=passed,
        biases=sum(shape[0] for name, shape in shapes.items() if name.endswith(".bias") and len(shape) == 1),
        window=size("max_position_embeddings", 1 << 20, most=1 << 30),
    )


def _is_table(name: str) -> bool:
    return any(word in name for word in ("embed_tokens", "lm_head", "wte", "wpe", "embed_positions"))


# --- work ------------------------------------------------------------------------------------------------------------


def forward_work(model: ModelFacts, block: int) -> float:
    """Floating-point operations of one token's forward pass: 2 for each weight, and attention to half a block."""
    return 2 * model.multiplied + 2 * model.layers * model.heads_width * block


def training_work(model: ModelFacts, settings: Training) -> float:
    """Floating-point operations a token: forward, backward through the activations, and to the weights that learn
    (Kaplan et al. 2020, arXiv:2001.08361: 6 N for all of them)."""
    forward = forward_work(model, settings.block)
    method = settings.method
    passes = 1.0 + 1.0 + (method.kind == "full") * trained_share(model, settings)
    if settings.activation_checkpointing:
        passes += 1
    work = passes * forward
    if method.kind in (*LOW_RANK, *BOTTLENECKS):  # each of its weights is a product with every token; others are few
        work += 6 * model.adapter(method)
    return work


def trained_share(model: ModelFacts, settings: Training) -> float:
    """Share of the weights that learn when all may: less where layers are frozen or only new ones trained."""
    return trained_parameters(model, settings) / model.parameters


def trained_parameters(model: ModelFacts, settings: Training) -> int:
    """Weights that have gradients. `model` has the new layers already."""
    if settings.method.kind != "full":
        return model.adapter(settings.method)
    if settings.expand is not None and settings.expand.only_new:
        return settings.expand.layers * model.layer
    frozen = 0
    if not settings.freeze.unfreeze:  # those thaw, so that in the end all have gradients
        frozen += min(settings.freeze.layers, model.layers) * model.layer
    if settings.freeze.embeddings:
        frozen += model.table
    return model.parameters - frozen


# --- memory and disk -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes for one purpose, and why so many. `paged` may lie in main memory."""

    what: str
    bytes: int
    why: str

    def as_json(self) -> dict[str, Any]:
        return {"what": self.what, "bytes": self.bytes, "why": self.why}


def memory_of(model: ModelFacts, settings: Training, *, micro: int, bf16: bool, gpu: bool) -> list[Need]:
    """What one process holds at its fullest. `model` has the new layers already; `micro` tokens go through at once."""
    kind, total = settings.method.kind, model.parameters
    trained = trained_parameters(model, settings)
    method = settings.method
    needs = [Need("libraries", RUNTIME, "Python, torch" + (" and CUDA" if gpu else ""))]
    if kind == "qlora":
        each = NF4_DOUBLE_BYTES if method.double_quantisation else NF4_BYTES
        wide = 2 if method.compute in ("bf16", "fp16") or (method.compute == "auto" and bf16) else 4
        packed = model.packed - sum(math.prod(model.linear[name]) for name in model.held_wide(method))
        weights = round(packed * each) + wide * (total - packed)
        scale = "8 bits" if method.double_quantisation else "fp32"
        why = f"NF4 with a scale in {scale} for each 64 weights, the rest in {'16 bits' if wide == 2 else 'fp32'}"
        needs.append(Need("weights", weights, why))
    elif method.leaves_adapter and bf16:
        needs.append(Need("weights", 2 * total, "bf16, for they do not change"))
    else:
        needs.append(Need("weights", 4 * total, "fp32"))
        if bf16:
            needs.append(Need("weights in bf16", 2 * (model.packed + model.table), "copies that are computed with"))
    if method.leaves_adapter:
        twice = 2 if method.init == "pissa" else 1  # what it began as stays beside it
        needs.append(Need("adapter", 4 * trained * twice, f"{kind_in_words(method)}, fp32"))
    needs.append(Need("gradients", 4 * trained, f"fp32, of {trained / 1e6:,.1f} M weights that learn"))
    needs.append(_optimizer(settings, trained))
    needs.append(_activations(model, settings, micro, bf16))
    needs.append(
        Need(
            "logits", 2 * 4 * LOGIT_PLACES * model.rows, f"{LOGIT_PLACES} places × {model.rows:,} tokens, and gradients"
        )
    )
    keep = settings.keep
    if keep.l2sp is not None or keep.ewc is not None:
        needs.append(Need("old weights", 4 * trained, "what l2sp and ewc pull back to"))
    if keep.ewc is not None:
        needs.append(Need("Fisher", 4 * trained, "how much each weight matters"))
    if keep.kl is not None and keep.kl.live:
        needs.append(Need("teacher", (2 if bf16 else 4) * total, "the older model beside"))
    return needs


def warming_memory(model: ModelFacts, settings: Vocabulary) -> list[Need]:
    """What one process holds while the new rows alone are trained, in fp32. `model` has them already."""
    of_layer = 6 * model.width + 2 * model.heads_width + 2 * model.keys_width + 4 * model.inner
    table = model.table * (1 if model.tied else 2)
    return [
        Need("libraries", RUNTIME, "Python, torch"),
        Need("weights", 4 * model.parameters, "fp32"),
        Need("gradients", 4 * table, "fp32, of the tables that hold the new rows"),
        Need("optimizer", 8 * table, "two moments in fp32"),
        Need("activations", 4 * settings.block * model.layers * of_layer, f"{settings.block:,} tokens"),
        Need("logits", 2 * 4 * LOGIT_PLACES * model.rows, f"{LOGIT_PLACES} places × {model.rows:,} tokens"),
    ]


def kind_in_words(method: Method) -> str:
    """ "lora of rank 64", "prompt of 20 virtual tokens", "ia3"."""
    if method.kind in LOW_RANK:
        more = [
            word
            for word, on in (("DoRA", method.dora), ("PiSSA", method.init == "pissa"), ("QERA", method.init == "error"))
            if on
        ]
        return f"{method.kind} of rank {method.r}" + (f" ({', '.join(more)})" if more else "")
    if method.kind in PROMPTS:
        return f"{method.kind} of {method.virtual_tokens} virtual tokens"
    return {"full": "all weights", "bitfit": "biases"}.get(method.kind, method.kind)


def _optimizer(settings: Training, trained: int) -> Need:
    name = settings.optimizer
    if name in ("adamw_8bit", "paged_adamw_8bit"):
        return Need("optimizer", round(2.05 * trained), "two moments in 8 bits")
    paged = ", in pages that may lie in main memory" if name.startswith("paged") else ""
    return Need("optimizer", 8 * trained, f"two moments in fp32{paged}")


def _activations(model: ModelFacts, settings: Training, micro: int, bf16: bool) -> Need:
    """What the backward pass needs again of each layer: two norms, queries, keys, values, the attention's output, the
    MLP's inner activations (gate, up, their product, the non-linearity's input)."""
    a_number = 2 if bf16 else 4
    of_layer = 6 * model.width + 2 * model.heads_width + 2 * model.keys_width + 4 * model.inner
    if settings.activation_checkpointing:
        numbers = micro * (model.layers * model.width + of_layer)
        return Need(
            "activations", numbers * a_number, f"{micro:,} tokens, one layer's at a time and each layer's input"
        )
    return Need("activations", micro * model.layers * of_layer * a_number, f"{micro:,} tokens × {model.layers} layers")


def disk_of(model: ModelFacts, settings: Training, tokens: int, kept_tokens: int) -> list[Need]:
    """What a stage writes at most, besides the corpus. `kept_tokens` are those whose teacher's word is stored."""
    trained = trained_parameters(model, settings)
    moments = 2.05 if "8bit" in settings.optimizer else 8
    method = settings.method
    weights = 4 * (model.parameters if method.kind == "full" else trained)
    one = round(weights + moments * trained)
    needs = [
        Need("checkpoints", CHECKPOINTS * one, f"{CHECKPOINTS} of {said_bytes(one)}: two kept, one in the making"),
        Need("result", 4 * model.parameters, "the whole model in fp32")
        if method.merges
        else Need("result", 4 * trained, "the adapter alone"),
        Need("rows", 4 * tokens, "blocks of token numbers"),
    ]
    if kept_tokens and settings.keep.kl is not None and not settings.keep.kl.live:
        top = settings.keep.kl.top
        size = bytes_needed(kept_tokens, top)
        needs.append(Need("teacher", size, f"the {top} likeliest tokens at {kept_tokens:,} places"))
    return needs


def total(needs: list[Need]) -> int:
    """Bytes of all."""
    return sum(need.bytes for need in needs)


def said_bytes(number: float) -> str:
    """1.2 GiB, 340 MiB."""
    return f"{number / 1024**3:,.1f} GiB" if number >= 1024**3 else f"{math.ceil(number / 1024**2):,} MiB"


def as_json(needs: list[Need]) -> list[Mapping[str, Any]]:
    """Ready for JSON."""
    return [need.as_json() for need in needs]


def less_memory(settings: Training, micro: int) -> str:
    """What would take less memory, the cheapest first."""

    def ways() -> Iterator[str]:
        if micro > settings.block:
            yield f"set micro_tokens to {settings.block:,}"
        if not settings.activation_checkpointing:
            yield "set activation_checkpointing"
        if not settings.method.leaves_adapter:
            yield "use lora or qlora"
        elif settings.method.kind != "qlora":
            yield "use qlora"
        yield "choose a smaller base"

    return f"to need less, {', or '.join(ways())}"
