"""A recipe for an embedding adapter → what its training takes on this machine, and what stands in its way."""

from adapt.encoders.embedder import PACKAGED_EMBEDDER, read_sources
from adapt.encoders.embedder_recipe import EmbedderRecipe
from adapt.encoders.pair_plan import PairPlan, Progress, SourcePlan, seconds_of
from adapt.encoders.pair_recipe import PACKAGED
from retrieval.errors import FathomError

QUERY_TOKENS = 16
"""Of a title or sentence, on average."""
FORWARD = 0.4
"""Of a training step's cost, what encoding the same texts without learning takes."""


def plan_embedder(recipe: EmbedderRecipe, *, progress: Progress) -> PairPlan:
    """Read the pairs and reckon. What a recipe lacks is told in `refusals`, all together."""
    from retrieval.embedding.model_files import find_model

    refusals: list[str] = []
    sources: list[SourcePlan] = []
    progress("reading pairs", 0, 0)
    try:
        _, _, facts = read_sources(recipe)
        sources = [
            SourcePlan(name, "pairs", recipe.data[name].path, found["pairs"], found["held_out"], found["pairs"])
            for name, found in facts.items()
        ]
    except FathomError as error:
        refusals.append(str(error))
    try:
        base = find_model(PACKAGED_EMBEDDER if recipe.base == PACKAGED else recipe.base, download=False)
    except FathomError as error:
        refusals.append(str(error))
    each = QUERY_TOKENS + recipe.max_tokens * (1 + recipe.negatives)
    tokens = recipe.steps * recipe.batch * each
    held_out = (2 + recipe.distractors) * sum(one.held_out for one in sources)
    measured = held_out * (1 + len(recipe.shares)) * (QUERY_TOKENS + recipe.max_tokens)
    seconds, basis = None, ""
    if not refusals:
        progress("measuring the speed", 0, 0)
        seconds, basis = seconds_of(base.folder, "lora", tokens + round(FORWARD * measured))
    described = f"an embedding adapter on {recipe.base}, LoRA r {recipe.r}"
    return PairPlan(recipe.name, described, tuple(sources), recipe.steps, tokens, seconds, basis, tuple(refusals))
