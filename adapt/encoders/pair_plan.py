"""A recipe for a pair encoder → what its training takes on this machine, and what stands in its way."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from adapt.encoders.claims import load_claims
from adapt.encoders.pair_recipe import PACKAGED, SUPPORT, PairRecipe
from adapt.encoders.questions import is_held_out, load_questions
from retrieval.errors import FathomError
from retrieval.reranking.pair_folder import PACKAGED_BASE

Progress = Callable[[str, int, int], None]
FILLED = 0.75
"""Of `max_tokens`, what a pair has on average; passages have about 112 tokens, questions 10 to 30."""
EFFICIENCY = {"lora": 0.3, "full": 0.3}
"""Share of the speed of one large product in bf16 that training reached; measured with all-MiniLM-L6-v2 on one core."""


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """Questions or claims of a source, and the texts they are searched in."""

    name: str
    kind: str
    path: str
    learned: int
    held_out: int
    texts: int


@dataclass(frozen=True, slots=True)
class PairPlan:
    """`refusals` say why it cannot run; `tokens` and `seconds` are estimates, None where something is missing."""

    name: str
    described: str
    sources: tuple[SourcePlan, ...]
    steps: int
    tokens: int
    seconds: float | None
    basis: str
    refusals: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan_pairs(recipe: PairRecipe, *, progress: Progress) -> PairPlan:
    """Read the sources and reckon. What a recipe lacks is told in `refusals`, all together."""
    from adapt.encoders.pair_training import TrainingSettings, steps_of
    from retrieval.embedding.model_files import find_model

    refusals: list[str] = []
    sources: list[SourcePlan] = []
    for number, name in enumerate(recipe.data, 1):
        progress("reading the sources", number, len(recipe.data))
        try:
            sources.append(_source(recipe, name))
        except FathomError as error:
            refusals.append(str(error))
    try:
        base = find_model(PACKAGED_BASE if recipe.base == PACKAGED else recipe.base)
    except FathomError as error:
        refusals.append(str(error))
    examples = sum(one.learned for one in sources)
    each = 1 if recipe.encoder == SUPPORT else 1 + recipe.negatives.each
    settings = TrainingSettings(recipe.lr, recipe.head_lr, recipe.epochs, recipe.batch, each - 1, recipe.seed, 1)
    steps = steps_of(examples, settings)
    tokens = round(steps * recipe.batch * each * FILLED * recipe.max_tokens)
    seconds, basis = None, ""
    if not refusals:
        progress("measuring the speed", 0, 0)
        seconds, basis = _seconds(base.folder, recipe.method.kind, tokens)
    method = f"LoRA r {recipe.method.r}" if recipe.method.kind == "lora" else "all weights"
    return PairPlan(
        recipe.name,
        f"a {recipe.encoder} on {recipe.base}, {method}",
        tuple(sources),
        steps,
        tokens,
        seconds,
        basis,
        tuple(refusals),
    )


def _source(recipe: PairRecipe, name: str) -> SourcePlan:
    source = recipe.data[name]
    if recipe.encoder == SUPPORT:
        learned, held = load_claims(name, source, recipe.root, recipe.held_out, recipe.seed)
        return SourcePlan(name, source.kind, source.path, len(learned), len(held), len(learned) + len(held))
    dataset = load_questions(name, source, recipe.root, recipe.seed)
    held_out = sum(is_held_out(dataset, question, recipe.held_out) for question in dataset.queries)
    learned_from = len(dataset.queries) - held_out
    return SourcePlan(name, source.kind, source.path, learned_from, held_out, len(dataset.documents))


def _seconds(folder: Any, method: str, tokens: int) -> tuple[float, str]:
    """Forward and backward cost 2 + 2 floating-point operations a weight and token with frozen weights, 6 with all."""
    import json

    from adapt.machine import matmul_rate

    config = json.loads((folder / "config.json").read_text("utf-8"))
    width, inner = int(config.get("hidden_size", 384)), int(config.get("intermediate_size", 1536))
    weights = int(config.get("num_hidden_layers", 6)) * (4 * width * width + 2 * width * inner)
    rate = matmul_rate("cpu", bf16=True, rows=2048, width=width, out=inner) * EFFICIENCY[method]
    work = (4 if method == "lora" else 6) * weights * tokens
    return work / rate, f"reckoned with {EFFICIENCY[method]:.0%} of {rate / EFFICIENCY[method] / 1e9:,.0f} GFLOP/s"
