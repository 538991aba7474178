"""The recipes of data/recipes can be read, explain themselves, and can run where what they name is."""

from pathlib import Path

import pytest

from adapt.encoders.pair_recipe import encoder_of
from adapt.machine import GIB, Gpu, Machine
from adapt.planning import plan
from adapt.recipe import Dapt, Tapt, Vocabulary
from adapt.recipe_file import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "data" / "recipes"
SHARED = ROOT.parent / "shared" / "data"
STATION = Machine(16, 128 * GIB, 120 * GIB, True, (Gpu("NVIDIA H200", 139 * GIB, 138 * GIB, True),))
LAPTOP = Machine(2, 16 * GIB, 12 * GIB, False)


@pytest.fixture
def cache() -> Path:
    """The user's own, where the packaged model is unpacked once for all tests."""
    from retrieval.embedding.load import EmbeddingSettings

    return EmbeddingSettings().cache_folder()


STAGED = [path for path in sorted(RECIPES.glob("*.yaml")) if encoder_of(path) is None]
"""Those of encoders have tests of their own, tests/adapt/encoders."""


def test_the_recipes_are_there() -> None:
    assert {path.stem for path in STAGED} == {
        "smoke",
        "smoke-sft",
        "embedded-grounded",
        "embedded-medical",
        "embedded-python",
        "methods",
        "qwen3-4b-h200",
    }


@pytest.mark.parametrize("path", STAGED, ids=lambda path: path.stem)
def test_every_recipe_can_be_read_and_explains_itself(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem and recipe.stages
    text = path.read_text(encoding="utf-8")
    if path.stem == "methods":  # of an experiment, which changes its one stage and compares instead of gating
        assert f"python -m adapt.experiments methods --recipe data/recipes/{path.name}" in text
    else:
        assert recipe.gates.dapt or recipe.gates.sft
        assert f"fathom adapt run data/recipes/{path.name}" in text
    assert text.startswith("#")
    assert text.count("#") >= 8, "comments teach why the numbers are what they are"


def test_smoke_is_small_and_asks_nothing_of_other_folders() -> None:
    recipe = load_recipe(RECIPES / "smoke.yaml")
    assert recipe.base == "packaged" and recipe.root == ROOT / "data"
    assert [stage.kind for stage in recipe.stages] == ["vocabulary", "dapt", "tapt"], "all that there is, once"
    vocabulary, dapt, tapt = (stage.settings for stage in recipe.stages)
    assert isinstance(vocabulary, Vocabulary) and vocabulary.warm is not None
    assert isinstance(dapt, Dapt) and isinstance(tapt, Tapt)
    assert (vocabulary.warm.tokens or 0) + (dapt.tokens or 0) + (tapt.tokens or 0) <= 25_000


@pytest.mark.slow
def test_smoke_can_run_on_a_laptop(cache: Path, tmp_path: Path) -> None:
    found = plan(load_recipe(RECIPES / "smoke.yaml"), cache=cache, workspace=tmp_path, machine=LAPTOP)
    assert found.refusals == ()
    assert found.base is not None and found.base.parameters == 134_515_008
    assert all(stage.steps and stage.seconds for stage in found.stages)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embedded-medical", "embedded-python"])
def test_embedded_recipes_can_run_on_a_laptop(name: str, cache: Path, tmp_path: Path) -> None:
    if not (SHARED / "wikitext2").is_dir():
        pytest.skip(f"needs the public data sets at {SHARED}")
    found = plan(load_recipe(RECIPES / f"{name}.yaml", root=SHARED), cache=cache, workspace=tmp_path, machine=LAPTOP)
    assert found.refusals == ()
    domain, general = found.amounts["domain"], found.amounts["general"]
    assert domain is not None and domain.tokens > 3_000_000
    assert general is not None and 200_000 < general.tokens < 300_000
    assert all(stage.tokens and stage.steps and stage.seconds for stage in found.stages)


def test_qwen_is_refused_in_words_where_it_is_not(tmp_path: Path) -> None:
    if not (SHARED / "medquad_qa").is_dir():
        pytest.skip(f"needs the public data sets at {SHARED}")
    found = plan(
        load_recipe(RECIPES / "qwen3-4b-h200.yaml", root=SHARED), cache=tmp_path, workspace=tmp_path, machine=STATION
    )
    (said,) = found.refusals
    assert said.startswith("base: ") and "is on this machine" in said and "hf download Qwen/Qwen3-4B" in said
    assert all(stage.tokens and stage.tokens >= 1_000_000 for stage in found.stages)
    assert all(stage.seconds is None for stage in found.stages)


def test_qwen_fits_into_the_memory_that_its_recipe_names() -> None:
    """Shapes of Qwen3-4B's config: 36 layers of width 2,560, 32 heads of 128, 8 of them keys, MLP 9,728, tied."""
    from adapt.costs import ModelFacts, memory_of, total

    width, heads, keys, inner = 2560, 32 * 128, 8 * 128, 9728
    shapes = [
        (width, heads),
        (width, keys),
        (width, keys),
        (heads, width),
        (width, inner),
        (width, inner),
        (inner, width),
    ]
    linear = {f"model.layers.{layer}.{place}": shape for layer in range(36) for place, shape in enumerate(shapes)}
    rows = 151_936
    parameters = sum(a * b for a, b in linear.values()) + rows * width
    model = ModelFacts(parameters, rows, width, 36, True, heads, keys, inner, linear)
    stages = load_recipe(RECIPES / "qwen3-4b-h200.yaml").stages
    dapt = next(stage.settings for stage in stages if stage.kind == "dapt")
    assert isinstance(dapt, Dapt) and dapt.micro_tokens is not None
    needed = total(memory_of(model, dapt, micro=dapt.micro_tokens, bf16=True, gpu=True))
    assert 72 * GIB < needed < STATION.free_for_training, needed / GIB
