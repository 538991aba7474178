"""The table of remedies on a real recipe: texts from files, a base from a folder, the stage that `adapt run` runs."""

import random
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_tokenizer, llama, save

from adapt.experiments.forgetting_rows import PLAIN, rows_of
from adapt.experiments.forgetting_table import fill_table
from adapt.experiments.recipe_stages import RecipeStages
from adapt.recipe import Dapt
from adapt.recipe_file import load_recipe
from retrieval.errors import UsageError

RECIPE = """
name: tiny
base: {base}
data:
  domain: {{path: domain.jsonl, held_out: 0.3, quality: false, near_duplicates: null}}
  general: {{path: general.jsonl, held_out: 0.3, quality: false, near_duplicates: null}}
stages:
  - dapt:
      tokens: 2000
      epochs: 50
      block: 32
      batch_tokens: 128
      lr: 2e-3
      precision: fp32
      mix: {{domain: 0.5, general: rest}}
"""
ANIMALS = "cat dog log mat sat the and on".split()
TEA = "绿茶 不 经过 发酵 水温 应该 在 八十度 左右".split()


def silent(*_: object) -> None: ...


def sentences(words: list[str], space: str) -> str:
    import json

    drawn = random.Random(0)
    rows = (space.join(drawn.choices(words, k=12)) for _ in range(60))
    return "\n".join(json.dumps({"text": row}) for row in rows) + "\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    tokenizer = byte_tokenizer()
    base = save(tmp_path / "base", llama(tokenizer), tokenizer)
    (tmp_path / "domain.jsonl").write_text(sentences(TEA, ""), encoding="utf-8")
    (tmp_path / "general.jsonl").write_text(sentences(ANIMALS, " "), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(base=base), encoding="utf-8")
    return load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.slow
def test_every_remedy_runs_and_replay_forgets_least(recipe: Any, tmp_path: Path) -> None:
    stages = RecipeStages(recipe, cache=tmp_path / "cache", progress=silent)
    assert stages.layers == 2
    rows = rows_of(recipe.stages[0].settings, tokens=2000, layers=stages.layers)
    found = fill_table(rows, [0], stages, out=tmp_path / "out", cache=tmp_path / "cache", progress=silent)
    told = {row["name"]: row for row in found["rows"]}
    assert {name: row["errors"] for name, row in told.items()} == dict.fromkeys(told, {})
    general = {name: row["general"]["value"] for name, row in told.items()}
    assert all(row["domain"]["value"] < 0 for row in told.values())
    assert general["replay"] < general[PLAIN] and general["replay + KL"] < general[PLAIN]
    assert all(1900 <= row["tokens"] <= 2000 for row in told.values())


def test_a_recipe_without_general_text_is_refused(recipe: Any, tmp_path: Path) -> None:
    poor = recipe.model_copy(update={"data": {"domain": recipe.data["domain"]}})
    with pytest.raises(UsageError, match="'general'"):
        RecipeStages(poor, cache=tmp_path / "cache", progress=silent)
    kept = {name: source.model_copy(update={"held_out": 0.0}) for name, source in recipe.data.items()}
    with pytest.raises(UsageError, match="held_out"):
        RecipeStages(recipe.model_copy(update={"data": kept}), cache=tmp_path / "cache", progress=silent)
    assert isinstance(recipe.stages[0].settings, Dapt)
