"""The table of methods on a tiny model: every row is trained, measured and kept, and one that cannot be says why."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from domain_words import Domain
from domain_words import tokenizer as family_tokenizer
from tiny_models import llama, save

from adapt.experiments.methods_rows import method_rows
from adapt.experiments.methods_table import ACCURACY, BITS, choices_of, fill_methods
from adapt.recipe import Dapt
from adapt.recipe_file import load_recipe
from eval.choices import read_choices
from retrieval.errors import UsageError

torch.set_num_threads(1)
HANDBOOK = Path(__file__).parents[3] / "data" / "handbook" / "questions.jsonl"


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


def test_rows_are_refused_by_name_and_every_method_has_one() -> None:
    rows = method_rows(Dapt(), layers=30)
    assert {row.settings.method.kind for row in rows} == {
        "full", "bitfit", "lora", "qlora", "adalora", "houlsby", "pfeiffer", "prefix", "prompt", "p_tuning", "ia3"
    }  # fmt: skip
    assert all(not row.settings.method.foreign() for row in rows)
    with pytest.raises(UsageError, match="there is no row 'lorra'"):
        method_rows(Dapt(), layers=30, only=["lorra"])


def test_choices_are_the_right_answer_among_three_of_others(tmp_path: Path) -> None:
    made = read_choices(choices_of(HANDBOOK, tmp_path / "choices.jsonl", seed=0))
    rows = [json.loads(line) for line in HANDBOOK.read_text("utf-8").splitlines()]
    right = {row["question"]: row["answers"][0] for row in rows if row["answers"]}
    assert len(made) > 60 and all(len(set(one.options)) == 4 for one in made)
    assert all(one.options[one.answer] == right[one.question] for one in made)
    assert len({one.answer for one in made}) == 4


@pytest.mark.slow
def test_finished_rows_are_kept_and_what_a_method_refuses_is_said(tmp_path: Path) -> None:
    tokenizer = family_tokenizer("gpt2")
    model = llama(tokenizer)
    model.config.max_position_embeddings = 512
    base = save(tmp_path / "tiny", model, tokenizer)
    lines = [json.dumps({"title": text.title, "text": text.text}, ensure_ascii=False) for text in Domain().texts()]
    (tmp_path / "domain.jsonl").write_text("\n".join(lines), encoding="utf-8")
    file = tmp_path / "small.yaml"
    file.write_text(
        f"base: {json.dumps(str(base))}\n"
        "data:\n  domain: {path: domain.jsonl, held_out: 0.2, title: title, quality: false, near_duplicates: null}\n"
        "measure: {limit_bytes: 2000, choices_limit: 8}\n"
        "stages:\n  - dapt: {block: 32, batch_tokens: 128, tokens: 512, precision: fp32, lr: 1e-3,\n"
        "           mix: {domain: rest}}\n",
        encoding="utf-8",
    )
    recipe = load_recipe(file)
    settings = recipe.stages[0].settings
    assert isinstance(settings, Dapt)
    names = ["bitfit", "lora", "houlsby, half dropped", "prompts that vote"]
    rows = method_rows(settings, layers=2, only=names)
    rows[-1] = replace(rows[-1], seeds=2)

    def fill() -> dict[str, object]:
        return fill_methods(
            recipe, rows, questions=HANDBOOK, out=tmp_path / "out", cache=tmp_path / "cache", progress=quiet
        )

    found = fill()
    told = {row["name"]: row for row in found["rows"]}  # type: ignore[attr-defined]
    assert "has no biases" in told["bitfit"]["error"]
    for name in names[1:]:
        row = told[name]
        assert row["error"] is None and row["reload"] == 0 and {BITS, ACCURACY} <= row["figures"].keys()
    assert told["lora"]["merge_kl"] < 1e-5 and told["lora"]["trained"] * 4 < told["lora"]["disk"]
    assert len(told["prompts that vote"]["alone"]) == 2
    text = (tmp_path / "out" / "methods.md").read_text("utf-8")
    assert "| bitfit | biases alone | refused: the model has no biases" in text and "| equal |" in text
    assert not list((tmp_path / "out").rglob("seed-*"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "rows").rglob("result.json")}
    assert fill() == found
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "rows").rglob("result.json")}
