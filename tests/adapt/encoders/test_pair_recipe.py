"""What a recipe for an encoder may say, and the sentence for everything that it may not."""

from pathlib import Path

import pytest

from adapt.encoders.pair_recipe import encoder_of, load_pair_recipe
from retrieval.errors import UsageError

GOOD = """
encoder: reranker
root: data
data:
  shelf: {path: shelf, limit: 100}
  titles: {path: texts.jsonl, kind: titles}
negatives: {each: 3, last: 30}
method: {lora: {r: 8}}
lr: 1e-3
gates: ["nDCG@10 >= base"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text, "utf-8")
    return path


def test_a_recipe_is_read_with_its_defaults_and_what_the_command_line_changes(tmp_path: Path) -> None:
    recipe = load_pair_recipe(written(tmp_path, GOOD), settings={"epochs": "0.5", "method.lora.r": "4"})
    assert (recipe.name, recipe.root, recipe.encoder) == ("mine", tmp_path / "data", "reranker")
    assert (recipe.method.kind, recipe.method.r, recipe.lr, recipe.epochs) == ("lora", 4, 1e-3, 0.5)
    assert recipe.data["titles"].kind == "titles"
    elsewhere = load_pair_recipe(written(tmp_path, GOOD), data={"shelf": str(tmp_path)}, root=tmp_path)
    assert (elsewhere.root, elsewhere.data["shelf"].path, elsewhere.data["shelf"].limit) == (
        tmp_path,
        str(tmp_path),
        100,
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lr: 1e-3", "learning_rate: 1e-3", "unknown key 'learning_rate'"),
        ("lr: 1e-3", "lr: -1", "lr: '-1' is not valid"),
        ("kind: titles", "kind: title", "did you mean 'titles'"),
        ("kind: titles", "kind: claims", "'claims' does not train a reranker"),
        ("each: 3", "each: 3, first: 50", "negatives.first: is beyond 'last'"),
        ('"nDCG@10 >= base"', '"better"', "gates[0]: 'better' is no gate"),
        ("  shelf: {path: shelf, limit: 100}\n", "  shelf: {limit: 100}\n", "needs the key 'path'"),
        ("encoder: reranker", "encoder: ranker", "'ranker' is not valid"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        load_pair_recipe(written(tmp_path, GOOD.replace(old, new)))
    assert words in str(caught.value)
    assert "line " in str(caught.value)


def test_all_problems_are_told_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_pair_recipe(written(tmp_path, GOOD.replace("limit: 100", "limit: 0").replace("lr: 1e-3", "lr: fast")))
    first, second = str(caught.value).split("\n")
    assert "data.shelf.limit" in first
    assert "lr: 'fast'" in second


def test_recipes_of_other_kinds_are_none_of_an_encoder(tmp_path: Path) -> None:
    assert encoder_of(written(tmp_path, GOOD)) == "reranker"
    assert encoder_of(written(tmp_path, "stages: [sft]")) is None
    with pytest.raises(UsageError, match="there is no file"):
        encoder_of(tmp_path / "none.yaml")
