"""A recipe: which model, which texts, which stages, which limits. One YAML file → one checked, frozen object.

It knows the names of everything that can be asked for and the rules between them; it reads no text and loads no model.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0)]


FULL_SFT_PEAK, ADAPTER_SFT_PEAK = 2e-5, 2e-4


class Settings(BaseModel):
    """What every part of a recipe is: frozen, and deaf to words it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- texts -----------------------------------------------------------------------------------------------------------


class Source(Settings):
    """Where texts come from: a folder of files Fathom reads, a .txt, .jsonl(.gz) or .parquet file, `hub:OWNER/NAME`."""

    path: str
    """Relative paths begin at the recipe's `root`."""
    field: str = "text"
    """Column of the text, for rows."""
    title: str | None = None
    """Column of the title, which stands before the text on a line of its own; None for none."""
    split: str = "train"
    """Split of a data set of the hub."""
    held_out: Share = 0.05
    """Share of the documents (chosen by their hash) that are never trained on and measured instead."""
    limit: Count | None = None
    """Documents at most, drawn with the seed."""
    languages: tuple[str, ...] = ()
    """Keep documents in these languages only (ISO 639-1); none named: all."""
    quality: bool = True
    """Drop what is no prose or code: mostly symbols, one line repeated, a list of numbers, binary."""
    near_duplicates: Share | None = 0.8
    """Jaccard similarity of word 5-grams from which on the later document is dropped (MinHash); None keeps them."""
    synthetic: "Synthetic | None" = None
    """Instead of `path`: text written by the base model itself."""
    chat: bool = False
    """The file holds conversations (see adapt/instructions/example.py), for `sft`; they are neither cut nor filtered,
    only repetitions and questions of evaluations are dropped."""


class Synthetic(Settings):
    """Replay text that the base model writes (Huang et al. 2024, arXiv:2403.01244: self-synthesised rehearsal)."""

    tokens: Count = 200_000
    temperature: Positive = 1.0
    top_p: Positive = 0.95
    length: Count = 256
    """Tokens of one text."""


class Decontamination(Settings):
    """Documents that hold a question of an evaluation are dropped before training."""

    against: tuple[str, ...] = ()
    """Files of questions (JSON lines: every string counts that is no id, context, evidence or history) or texts."""
    words: Count = 13
    """Length of the word n-gram that must be shared (Brown et al. 2020, appendix C)."""


# --- stages ----------------------------------------------------------------------------------------------------------


class Mixture(Settings):
    """The share of the tokens that one source has along the training: from → to, over the whole stage."""

    start: Share
    """`from` in the file."""
    end: Share
    """`to` in the file."""
    curve: Literal["linear", "cosine", "step"] = "linear"
    steps: Count = 4
    """Stairs of the curve "step"."""
    hold: Share = 0.0
    """Last part of the stage during which the share stays at `to`."""

    @model_validator(mode="before")
    @classmethod
    def _python_names(cls, value: Any) -> Any:
        names = {"from": "start", "to": "end"}
        return {names.get(key, key): item for key, item in value.items()} if isinstance(value, dict) else value


def _as_mixture(value: Any) -> Any:
    """A number is a share that stays."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"start": value, "end": value}
    return value


Mixtures = dict[str, Annotated[Mixture | Literal["rest"], BeforeValidator(_as_mixture)]]


def _as_method(value: Any) -> Any:
    """`full`, `lora`, `{lora: {r: 64}}` and `{kind: lora, r: 64}` are all understood."""
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, dict) and len(value) == 1 and "kind" not in value:
        (kind, rest), *_ = value.items()
        if rest is None or isinstance(rest, dict):
            return {"kind": kind, **(rest or {})}
    return value


MethodKind = Literal[
    "full", "bitfit", "lora", "qlora", "adalora", "houlsby", "pfeiffer", "prefix", "prompt", "p_tuning", "ia3"
]
LOW_RANK: tuple[MethodKind, ...] = ("lora", "qlora", "adalora")
BOTTLENECKS: tuple[MethodKind, ...] = ("houlsby", "pfeiffer")
PROMPTS: tuple[MethodKind, ...] = ("prefix", "prompt", "p_tuning")
WHOLE: tuple[MethodKind, ...] = ("full", "bitfit")
"""Methods that train the model's own weights, so that no adapter is left."""
_PLAIN: tuple[MethodKind, ...] = ("lora", "qlora")
METHOD_FIELDS: dict[str, tuple[MethodKind, ...]] = {
    **dict.fromkeys(("r", "alpha", "targets"), LOW_RANK),
    "dropout": (*LOW_RANK, *BOTTLENECKS),
    **dict.fromkeys(("rslora", "dora", "ranks", "alphas"), _PLAIN),
    "init": _PLAIN,
    **dict.fromkeys(("double_quantisation", "compute", "wide"), ("qlora",)),
    **dict.fromkeys(("start_r", "begin", "settle", "every", "orthogonal"), ("adalora",)),
    **dict.fromkeys(("reduction", "activation"), BOTTLENECKS),
    "virtual_tokens": PROMPTS,
    "text": ("prefix", "prompt"),
    "hidden": ("p_tuning",),
}
"""Which kinds of `Method` have a field."""


class Method(Settings):
    """Which weights are trained, by one word; each field belongs to some kinds (`METHOD_FIELDS`).

    full; bitfit: biases alone (Ben Zaken et al. 2021, arXiv:2106.10199); lora: low-rank adapters (Hu et al. 2021,
    arXiv:2106.09685); qlora: those on 4 bits (Dettmers et al. 2023, arXiv:2305.14314); adalora: ranks that go where
    they matter (Zhang et al. 2023, arXiv:2303.10512); houlsby, pfeiffer: bottleneck adapters (Houlsby et al. 2019,
    arXiv:1902.00751; Pfeiffer et al. 2020, arXiv:2005.00247); prefix (Li & Liang 2021, arXiv:2101.00190); prompt
    (Lester et al. 2021, arXiv:2104.08691); p_tuning (Liu et al. 2021, arXiv:2103.10385); ia3 (Liu et al. 2022,
    arXiv:2205.05638).
    """

    kind: MethodKind = "full"
    r: Count = 128
    """Rank; of adalora the mean rank at the end."""
    alpha: Positive | None = None
    """The adapter counts alpha / r times; None is 2 r, or r with rsLoRA."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    dropout: Share = 0.0
    rslora: bool = False
    """Counts alpha / √r times, so that large ranks learn (Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Directions and magnitudes apart (Liu et al. 2024, arXiv:2402.09353)."""
    ranks: dict[str, Count] = {}
    """Other ranks by the end of a layer's name: {q_proj: 16, "layers.0.mlp.up_proj": 8}."""
    alphas: dict[str, Positive] = {}
    """Other alphas in the same way."""
    init: Literal["zero", "pissa", "error"] = "zero"
    """pissa, of lora: begun as largest singular vectors (arXiv:2404.02948); error, of qlora: as what 4 bits lose."""
    double_quantisation: bool = True
    """Scales of the 4-bit weights in 8 bits: 0.37 bits a weight less."""
    compute: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """What 4-bit weights are multiplied in; auto is the stage's precision."""
    wide: tuple[str, ...] = ()
    """Layers not held in 4 bits, by the end or a part of their names: v_proj, layers.29. What they take and what they
    give back differs (docs/methods.md)."""
    start_r: Count | None = None
    """Rank at the beginning, which is pruned to `r`; None is half as much again."""
    begin: Share = 0.1
    """Share of the steps before pruning begins."""
    settle: Share = 0.3
    """Share of the steps after pruning has ended."""
    every: Count = 1
    """Steps between two prunings."""
    orthogonal: Annotated[float, Field(ge=0.0)] = 0.5
    """Weight of the pull that keeps singular vectors orthogonal."""
    reduction: Count = 16
    """The model's width over the bottleneck's."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    virtual_tokens: Count = 20
    text: str | None = None
    """What virtual tokens begin as: so many tokens of this text, over and over; None is words drawn at random."""
    hidden: Count = 128
    """Width of the network that makes the virtual tokens."""

    @property
    def leaves_adapter(self) -> bool:
        """Whether the result has an adapter: of peft, or of ours for bottlenecks."""
        return self.kind not in WHOLE

    @property
    def merges(self) -> bool:
        """Whether the result is one plain model; otherwise it is the model it began from and the adapter beside it."""
        return self.kind not in (*BOTTLENECKS, *PROMPTS)

    def rank_of(self, name: str) -> int:
        """The rank of a layer's adapter while it is trained."""
        if self.kind == "adalora":
            return self.start_r if self.start_r is not None else -(-3 * self.r // 2)
        return next((rank for end, rank in self.ranks.items() if f".{name}".endswith(f".{end}")), self.r)

    def foreign(self) -> list[str]:
        """Fields that were set and belong to other kinds."""
        return [name for name in METHOD_FIELDS if name in self.model_fields_set and not self.has(name)]

    def has(self, name: str) -> bool:
        """Whether a field belongs to this kind."""
        return self.kind in METHOD_FIELDS[name]

    @model_serializer(mode="wrap")
    def _own_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What belongs to the kind: the rest decides nothing."""
        old = ("init", "qlora", "zero")  # of stages that were finished before there was a choice: their hashes stay
        out = [name for name in METHOD_FIELDS if not self.has(name) or (name, self.kind, self.init) == old]
        return {name: value for name, value in serialise(self).items() if name not in out}


class Warming(Settings):
    """Training of the new rows alone, after a vocabulary was extended."""

    tokens: Count = 60_000
    lr: Positive = 5e-3
    replay: str | None = None
    """Source of general text in which the new rows are shown too, for phrases stand in every kind of text."""
    replay_share: Share = 0.3
    """Of the tokens."""


class Vocabulary(Settings):
    """New tokens by continued BPE; the extended tokenizer never makes a text longer."""

    tokens: Count = 250
    """At most so many."""
    words_at_most: Annotated[int, Field(ge=1, le=20)] = 1
    """Words of one token: from 2 on, phrases compete with single words for the same rows. With 5 and 250 rows MedQuAD
    is 16.5 % fewer tokens (with 1, 2.4 %) and SmolLM2-135M's bits per byte there fall by 10.8 %, but those of wikitext
    rise by 9.4 % until it reads general text again: " of the" stands in every text. With 40 % of the warm-up on general
    text (`warm.replay`) it is 7.8 % down and 4.9 % up."""
    source: str = "domain"
    min_frequency: Count = 8
    min_documents: Count = 3
    least_saving: float = 2e-5
    """A token that saves a smaller share of the source's tokens is not worth its row."""
    initialise: Literal["mean", "distil"] = "mean"
    """Mean of the sub-tokens' rows, or that and then token distillation (Dobler et al. 2025, arXiv:2505.20133)."""
    warm: Warming | None = Warming()
    block: Count = 96
    """Tokens of a window around new ones. Many small steps on short windows taught 250 rows of SmolLM2-135M more than
    few large ones on long stretches."""
    batch_tokens: Count = 256


class LearningRate(Settings):
    """Re-warming and re-decaying (Ibrahim et al. 2024, arXiv:2403.08763)."""

    peak: Positive = 1e-4
    curve: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """wsd: warm up, stay, decay (Hu et al. 2024)."""
    warm_up: Share = 0.03
    """Share of the steps."""
    floor: Share = 0.1
    """Share of the peak at the end."""
    decay: Share = 0.2
    """Share of the steps that decay, for wsd."""


class Distance(Settings):
    """KL from the older checkpoint's distribution, on rows of these sources: loss = CE + weight · KL(old ‖ new)."""

    weight: Positive = 0.3
    on: tuple[str, ...] = ("general",)
    teacher: Literal["base", "before"] = "base"
    """"base" is the recipe's base, "before" the model this stage begins with."""
    live: bool = False
    """Run the teacher beside the student; otherwise its likeliest tokens are computed once before training."""
    top: Count = 64
    """Tokens kept of the teacher's distribution at each place; the rest is one bucket."""
    temperature: Positive = 1.0


class Anchor(Settings):
    """L2-SP (Li et al. 2018, arXiv:1802.01483) or EWC (Kirkpatrick et al. 2017): a pull back to the old weights."""

    weight: Positive
    on: str = "general"
    """Source whose loss tells how much each weight matters (EWC only)."""
    tokens: Count = 50_000
    """Tokens of that source that the Fisher pass reads (EWC only)."""


class Keep(Settings):
    """Against forgetting, beside replay (which is a source in the mixture). All of them combine."""

    kl: Distance | None = None
    l2sp: Anchor | None = None
    ewc: Anchor | None = None


class Expansion(Settings):
    """New decoder layers that begin as the identity (LLaMA-Pro, Wu et al. 2024, arXiv:2401.02415)."""

    layers: Count = 4
    where: Literal["spread", "top"] = "spread"
    only_new: bool = True
    """Train the new layers alone."""


class Freezing(Settings):
    """Layers that stay as they are, from the bottom; `unfreeze` lets them join one after the other from the top."""

    layers: Annotated[int, Field(ge=0)] = 0
    embeddings: bool = False
    unfreeze: bool = False
    """Gradual unfreezing (Howard & Ruder 2018): evenly over the first half of the stage."""


class Reading(Settings):
    """Raw text turned into reading comprehension (AdaptLLM, arXiv:2309.09530), for a share of the documents."""

    share: Share = 0.3
    tasks: tuple[Literal["comprehension", "title", "halves"], ...] = ("comprehension", "title", "halves")
    on: tuple[str, ...] = ("domain", "selected")
    """Sources of the mixture whose documents are transformed."""


class Selection(Settings):
    """Text of the corpus nearest to gold sentences of the task (Gururangan et al. 2020, kNN-TAPT)."""

    near: str
    """Source with the gold sentences."""
    source: str = "domain"
    neighbours: Count = 50
    """Of each gold sentence."""
    clusters: Annotated[int, Field(ge=0)] = 20
    """Clusters that share the quota, so that no one topic takes it all; 0 for none."""
    tokens: Count | None = None
    """At most so many; None is all that was found."""


class Training(Settings):
    """What every stage that trains a causal language model on raw text has."""

    method: Annotated[Method, BeforeValidator(_as_method)] = Method()
    tokens: Count | None = None
    """Tokens to train on; None is all of the text once (`epochs` times)."""
    epochs: Positive = 1.0
    """How often a source's text may be read, at most."""
    block: Count = 512
    """Tokens that see each other at most; documents in one block do not."""
    batch_tokens: Count = 8192
    """Tokens of one step of the optimizer, over all processes."""
    micro_tokens: Count | None = None
    """Tokens that go through the model at once on one device; None is what suits the device."""
    lr: Annotated[LearningRate, BeforeValidator(lambda v: {"peak": v} if isinstance(v, int | float) else v)] = (
        LearningRate()
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    clip: Positive = 1.0
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"] = "adamw"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is computed in bf16 with weights kept in fp32; auto is bf16 where the machine computes it."""
    activation_checkpointing: bool = False
    checkpoint_minutes: Positive = 10.0
    checkpoint_steps: Count | None = None
    """Also after every so many steps."""
    keep: Keep = Keep()
    expand: Expansion | None = None
    freeze: Freezing = Freezing()
    reading: Reading | None = None
    trainer: dict[str, Any] = {}
    """Fields of transformers' TrainingArguments, passed through as they are; what Fathom sets itself is refused."""


class Dapt(Training):
    """Domain-adaptive continual pretraining: the whole corpus, mixed with replay."""

    mix: Mixtures = {"domain": Mixture(start=0.25, end=0.8), "general": "rest"}
    """Shares of the tokens by source; exactly one source may say "rest"."""


class Tapt(Training):
    """Task-adaptive continual pretraining: the part of the corpus that is nearest to the task."""

    epochs: Positive = 3.0
    select: Selection
    mix: Mixtures = {"selected": "rest"}
    """As for `dapt`; "selected" is what was selected."""


class Sft(Training):
    """Supervised fine-tuning on conversations: the model learns what the assistant says and nothing else, unless
    `learn` says so. Sources of raw text may be mixed in, of which every token is learned."""

    method: Annotated[Method, BeforeValidator(_as_method)] = Method(kind="lora", r=32)
    epochs: Positive = 2.0
    block: Count = 1024
    """Tokens of a row; a conversation is never cut, so none may be longer."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    mix: Mixtures = {"chat": "rest"}
    """As for `dapt`; at least one source has `chat: true`."""
    template: str | None = None
    """The chat template that is trained and that the result has; None is the model's own."""
    system: str | None = None
    """System message of conversations that have none; None leaves them to the template."""
    learn: Literal["assistant", "last", "all"] = "assistant"
    """All answers, the last one of each conversation, or every token of it."""
    neftune: Positive | None = None
    """Noise on the embeddings while training (NEFTune, Jain et al. 2023, arXiv:2310.05914); 5 is usual."""
    too_long: Literal["drop", "refuse"] = "drop"
    """What happens to conversations longer than `block`; either way they are named."""

    @model_validator(mode="before")
    @classmethod
    def _peak_of_the_method(cls, value: Any) -> Any:
        """Adapters take ten times the learning rate of all weights (Schulman et al. 2025, "LoRA without regret")."""
        if not isinstance(value, dict):
            return value
        method = _as_method(value.get("method"))
        kind = method.get("kind") if isinstance(method, dict) else getattr(method, "kind", None)
        lr = value.get("lr", {})
        if isinstance(lr, dict) and "peak" not in lr:
            value = {**value, "lr": {**lr, "peak": FULL_SFT_PEAK if kind == "full" else ADAPTER_SFT_PEAK}}
        return value


# --- evidence --------------------------------------------------------------------------------------------------------


class Measure(Settings):
    """What is measured of the base and after each stage."""

    on: tuple[str, ...] | None = None
    """Sources whose held-out documents are measured; None is all that have some."""
    texts: dict[str, str] = {}
    """Other texts by label: a file, a folder, rows.jsonl.gz#field."""
    choices: str | None = None
    """Multiple-choice questions answered by likelihood."""
    choices_limit: Count | None = 200
    limit_bytes: Count | None = 200_000
    """Of each text, about."""
    prompts: tuple[str, ...] = ()
    """Texts that the model goes on from, shown before and after."""


class Gates(Settings):
    """Limits that a stage's result must keep, or the chain stops: "general bits_per_byte <= +1%"."""

    dapt: tuple[str, ...] = ()
    tapt: tuple[str, ...] = ()
    sft: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()


class Recipe(Settings):
    """The whole of it. `stages` are in the order they run."""

    name: Annotated[str, Field(pattern=r"^[\w][\w.\-]{0,59}$")]
    base: str = "packaged"
    """GGUF file, folder with safetensors, OWNER/NAME of the hub, or a model of the registry."""
    seed: int = 0
    serve: Literal["vllm", "vllm-adapter"] | None = None
    """Where the result will run, so that the plan refuses what would be refused there: vllm serves a whole model,
    vllm-adapter an adapter by name on the base that many share."""
    root: Path
    """Where relative paths begin; in the file relative to the file, here absolute."""
    data: dict[str, Source]
    decontaminate: Decontamination = Decontamination()
    measure: Measure = Measure()
    gates: Gates = Gates()
    stages: tuple["Stage", ...]


class Stage(Settings):
    """One entry of `stages`: its kind and its settings."""

    kind: str
    settings: Vocabulary | Dapt | Tapt | Sft


Recipe.model_rebuild()
Source.model_rebuild()
