"""The recipes of encoders in data/recipes can be read and explain themselves; the shipped reranker is what it says."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_encoders import hit

from adapt.encoders.pair_plan import plan_pairs
from adapt.encoders.pair_recipe import ENCODERS, encoder_of, load_pair_recipe
from retrieval.passages import Scores
from retrieval.reranking.load import SHIPPED, load_reranker
from retrieval.reranking.sentences import SENTENCES

ROOT = Path(__file__).resolve().parents[3]
PAIRS = [path for path in sorted((ROOT / "data" / "recipes").glob("*.yaml")) if encoder_of(path) in ENCODERS]
MEASURED = ("cranfield", "cosqa")
"""Sets on which rerankers are measured and which none may be trained on; of SciFact that is the test split."""


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.stem)
def test_every_recipe_can_be_read_explains_itself_and_leaves_alone_what_is_measured(path: Path) -> None:
    recipe = load_pair_recipe(path)
    text = path.read_text("utf-8")
    assert recipe.name == path.stem
    assert f"fathom adapt run data/recipes/{path.name}" in text
    assert text.count("#") >= 6, "comments teach why the numbers are what they are"
    assert recipe.gates
    for source in recipe.data.values():
        assert not any(name in source.path for name in MEASURED)
        assert source.licence
        if "scifact" in source.path and source.kind != "titles":
            assert source.split == "train"


def test_the_plan_of_the_shipped_reranker_counts_what_there_is(shared_data: Callable[[str], Path]) -> None:
    shared_data("scifact")
    recipe = load_pair_recipe(ROOT / "data" / "recipes" / "encoder-reranker.yaml", root=shared_data("."))
    plan = plan_pairs(recipe, progress=lambda what, done, total: None)
    assert plan.refusals == ()
    assert plan.seconds is not None and plan.seconds > 60
    scifact = next(source for source in plan.sources if source.name == "scifact")
    assert scifact.learned + scifact.held_out == 809
    assert json.dumps(plan.as_json())


def test_a_plan_names_everything_that_is_missing(tmp_path: Path) -> None:
    recipe = load_pair_recipe(ROOT / "data" / "recipes" / "encoder-reranker.yaml", root=tmp_path)
    plan = plan_pairs(recipe, progress=lambda what, done, total: None)
    assert len(plan.refusals) == len(recipe.data)
    assert plan.seconds is None


@pytest.mark.parametrize(("folder", "licences"), [(SHIPPED, ("CC BY 4.0", "ODC-By")), (SENTENCES, ("Apache-2.0",))])
def test_a_shipped_encoder_is_small_and_says_where_it_comes_from(folder: Path, licences: tuple[str, ...]) -> None:
    facts = json.loads((folder / "fathom.json").read_text("utf-8"))
    assert facts["role"] == "encoder-reranker"
    assert facts["base"] == "all-MiniLM-L6-v2"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6 << 20
    card = (folder / "README.md").read_text("utf-8")
    for licence in licences:
        assert licence in card


@pytest.mark.slow
def test_the_shipped_reranker_tells_an_answer_from_what_only_shares_its_words(tmp_path: Path) -> None:
    reranker = load_reranker("packaged", device="cpu", cache=tmp_path)
    assert reranker is not None and getattr(reranker, "calibrated", False)
    found = Scores(dense=0.5, lexical=5.0, fused=0.8)
    texts = [
        "The city of Paris has three airports. Paris is served by many trains and a metro.",
        "Vitamin C deficiency causes scurvy, with bleeding gums and slow healing of wounds.",
        "Vitamin C is sold in most pharmacies, as tablets and as powder.",
    ]
    scores = reranker("Which disease is caused by a lack of vitamin C?", [hit(text, scores=found) for text in texts])
    assert scores[1] == max(scores)
    assert scores[0] == min(scores)
    assert all(0.0 <= score <= 1.0 for score in scores)
