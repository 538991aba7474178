"""`fathom adapt plan` of a recipe that learns from conversations: what is learned is shown, in colour for people."""

import json
from pathlib import Path

import pytest
from chat_templates import SMOLLM, assistant, chat_tokenizer, user
from tiny_models import llama, save
from typer.testing import CliRunner

from app.cli import app


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    tokenizer = chat_tokenizer(SMOLLM)
    model = llama(tokenizer)
    model.config.max_position_embeddings = 512
    save(tmp_path / "base", model, tokenizer)
    talk = {"id": "a", "messages": [user("Is \x1b[31mit? " + "the cat " * 200), assistant("It is. 是的。")]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(talk) + "\n" + json.dumps(talk | {"id": "b"}), encoding="utf-8")
    file = tmp_path / "r.yaml"
    file.write_text(
        f"base: {tmp_path}/base\ndata: {{chat: {{path: chats.jsonl, chat: true, held_out: 0}}}}\n"
        "measure: {choices: chats.jsonl}\nstages: [sft: {block: 512, batch_tokens: 512, method: full}]\n",
        encoding="utf-8",
    )
    return file


def planned(recipe: Path, *words: str, colour: bool = False) -> str:
    environment = {"FORCE_COLOR": "1"} if colour else {}
    done = CliRunner().invoke(
        app, ["adapt", "plan", str(recipe), *words, "--workspace", str(recipe.parent / "w")], env=environment
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_plan_shows_an_example_with_what_is_learned(recipe: Path) -> None:
    text = planned(recipe)
    assert "⟦It is. 是的。<|im_end|>⟧" in text and "<|im_start|>user\nIs it? the cat" in text
    assert " … " in text and text.count("the cat") < 150, "what is not learned is shown from both ends"
    told = json.loads(planned(recipe, "--json"))
    (sample,) = told["stages"][0]["samples"]
    assert [span["text"] for span in sample["spans"] if span["learned"]] == ["It is. 是的。<|im_end|>"]
    assert sample["spans"][0]["text"].count("the cat") == 200


def test_people_see_it_in_colour_and_nothing_of_the_example_colours_anything(recipe: Path) -> None:
    text = planned(recipe, colour=True)
    assert "\x1b[1;32mIt is. 是的。<|im_end|>\x1b[0m" in text
    assert "\x1b[31m" not in text
