"""A recipe with the stage sft, run whole on a tiny model: evidence on held-out conversations, gates, what is refused
before training, and a plan that shows what is learned."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_templates import SMOLLM, assistant, chat_tokenizer, user
from fakes import HashingEmbedder
from tiny_models import llama, save
from transformers import AutoTokenizer

from adapt.planning import plan
from adapt.recipe import Method, Recipe, Sft
from adapt.recipe_file import load_recipe
from adapt.registry import find
from adapt.running import RunResult, run
from app.engines.local import LocalModel, open_local
from app.engines.speaker import Manners
from retrieval.errors import FathomError, UsageError

torch.set_num_threads(1)
WORDS = ("cat", "dog", "log", "mat", "tea", "绿茶", "水温", "kettle")
STAGE = "{method: full, block: 160, batch_tokens: 320, lr: 1e-2, precision: fp32, epochs: 8"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a template of its own that ends documents with another token than turns."""
    tokenizer = chat_tokenizer(SMOLLM)
    model = llama(tokenizer, tie_word_embeddings=True)
    model.config.max_position_embeddings = 512
    return save(tmp_path_factory.mktemp("base") / "tiny", model, tokenizer)


class Place:
    """A folder with examples, a recipe and a workspace."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base
        rows: list[dict[str, Any]] = [
            {"messages": [user(f"Is the {word} on the {other}?"), assistant(f"The {word} is on the {other}.")]}
            for word in WORDS
            for other in WORDS
        ]
        self.examples(rows)
        texts = [json.dumps({"text": f"the {word} sat on the mat and the dog. " * 8}) for word in WORDS]
        (folder / "general.jsonl").write_text("\n".join(texts), encoding="utf-8")

    def examples(self, rows: list[dict[str, Any]]) -> None:
        named = [{"id": f"x{number}", **row} for number, row in enumerate(rows, 1)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in named)
        (self.folder / "chats.jsonl").write_text(lines, encoding="utf-8")

    def recipe(
        self, stages: str = f"[sft: {STAGE}, mix: {{chat: 0.9, general: rest}}}}]", *, gates: str = "{}", more: str = ""
    ) -> Recipe:
        file = self.folder / "small.yaml"
        file.write_text(
            f"base: {json.dumps(str(self.base))}\n"
            "data:\n"
            "  chat: {path: chats.jsonl, chat: true, held_out: 0.2}\n"
            "  general: {path: general.jsonl, held_out: 0.2, quality: false, near_duplicates: null}\n"
            f"{more}gates: {gates}\nstages: {stages}\n",
            encoding="utf-8",
        )
        return load_recipe(file)

    def run(self, recipe: Recipe, **options: Any) -> RunResult:
        return run(
            recipe,
            workspace=self.folder / "workspace",
            embedder=HashingEmbedder,  # type: ignore[arg-type]
            **{"progress": lambda *_: None, **options},
        )

    def planned(self, recipe: Recipe) -> Any:
        return plan(recipe, cache=self.folder / "cache", workspace=self.folder / "workspace")


@pytest.fixture
def place(tmp_path: Path, base: Path) -> Place:
    return Place(tmp_path, base)


def test_a_run_measures_held_out_conversations_before_and_after(place: Place) -> None:
    recipe = place.recipe(gates='{sft: ["chat chat_loss <= -10%", "general bits_per_byte <= +900%"]}')
    stopped = threading.Event()

    def stopping(stage: str, done: int, total: int) -> None:
        if stage == "training" and done > total / 2:
            stopped.set()

    assert place.run(recipe, progress=stopping, stop=stopped).status == "stopped"
    result = place.run(recipe)
    assert result.status == "finished" and result.base is not None and not result.failed
    (stage,) = result.stages
    assert stage.measured is not None
    before, after = (found.figures["chat chat_loss"] for found in (result.base, stage.measured))
    assert before.value is not None and after.value is not None and after.value < 0.9 * before.value
    assert before.low is not None and before.low < before.value and before.n == after.n >= 8
    kept = [gate.said for gate in stage.gates]
    assert kept[0].startswith("chat chat_loss fell by ") and all(gate.passed for gate in stage.gates)
    asked = dict(stage.measured.samples)
    assert len(asked) == 3 and all(question.startswith("Is the") for question in asked)
    assert any("The " in answer for answer in asked.values()), asked
    blocks = stage.facts["blocks"]["chat"]
    assert 0 < blocks["learned"] < blocks["tokens"] and blocks["too_long"]["count"] == 0
    assert result.report is not None and "chat_loss" in result.report.read_text("utf-8")
    again = place.run(recipe)
    assert again.stages[0].skipped

    # What is served: the same words that were trained, to the end of the turn.
    entry = find(place.folder / "workspace" / "models", result.name)
    assert result.model is not None and entry is not None
    speaker = open_local(LocalModel(str(result.model.folder)), Manners(max_new_tokens=40, repetition_penalty=1.0))
    pieces = list(speaker.pieces([user("Is the cat on the mat?")], {}))
    assert pieces[-1].finish == "stop" and "".join(piece.text for piece in pieces).startswith("The ")
    tokenizer = AutoTokenizer.from_pretrained(result.model.folder)
    assert tokenizer.chat_template == SMOLLM and tokenizer.eos_token == "<|im_end|>"


def test_a_gate_on_conversations_stops_the_chain(place: Place) -> None:
    recipe = place.recipe(f"[sft: {STAGE.replace('1e-2', '1e-5')}}}]", gates='{sft: ["chat chat_loss <= -50%"]}')
    result = place.run(recipe)
    assert result.status == "stopped at a gate" and "chat chat_loss" in result.failed[0].said


def test_replay_may_stay_near_the_older_model_while_conversations_are_learned(place: Place) -> None:
    stage = f"[sft: {STAGE}, mix: {{chat: 0.5, general: rest}}, keep: {{kl: {{weight: 0.3}}}}}}]"
    result = place.run(place.recipe(stage.replace("epochs: 8", "epochs: 2")))
    lines = [json.loads(line) for line in (result.stages[0].folder / "metrics.jsonl").read_text().splitlines()]
    mixed = [line for line in lines if line["shares"]["general"] > 0]
    assert mixed and all(line["kl"] is not None and line["kl"] >= 0 for line in mixed)
    assert all(line["kl"] is None for line in lines if not line["shares"]["general"])
    assert mixed[-1]["kl"] > 0


@pytest.fixture
def plain(place: Place, tmp_path: Path) -> Place:
    """The base has no chat template."""
    tokenizer = chat_tokenizer(None)
    model = llama(tokenizer)
    model.config.max_position_embeddings = 512
    place.base = save(tmp_path / "plain", model, tokenizer)
    return place


def test_a_base_without_a_template_needs_one(plain: Place) -> None:
    with pytest.raises(UsageError, match="has no chat template; name one"):
        plain.run(plain.recipe())
    assert any("has no chat template" in said for said in plain.planned(plain.recipe()).refusals)


def test_a_base_without_a_template_learns_one_of_ours(plain: Place) -> None:
    place = plain
    lora = STAGE.replace("epochs: 8", "epochs: 2").replace("method: full", "method: {lora: {r: 4}}")
    result = place.run(place.recipe(f"[sft: {lora}, template: chatml, system: Be brief.}}]"))
    assert result.status == "finished" and result.base is not None and result.model is not None
    assert (result.stages[0].folder / "adapter" / "adapter_model.safetensors").is_file()
    assert "chat chat_loss" in result.base.figures
    made = AutoTokenizer.from_pretrained(result.model.folder)
    assert made.apply_chat_template([user("a")], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_plan_shows_what_is_learned_and_counts_it(place: Place) -> None:
    found = place.planned(place.recipe())
    assert found.refusals == ()
    (stage,) = found.stages
    (sample,) = stage.samples
    texts = [text for text, learned in sample.spans if learned]
    assert texts == ["The cat is on the cat.<|im_end|>"]
    assert "".join(text for text, _ in sample.spans).startswith("<|im_start|>system\nYou are small.")
    assert 0.1 < stage.learned < 0.6 and stage.steps and stage.seconds
    told = found.as_json()["stages"][0]
    assert [span["text"] for span in told["samples"][0]["spans"] if span["learned"]] == texts
    result = place.run(place.recipe())
    assert stage.tokens == pytest.approx(result.stages[0].facts["training"]["tokens"], rel=0.25)


BAD: dict[str, tuple[Any, str]] = {
    "wrong roles": ([assistant("a")], "chats.jsonl: line 2 has the role 'assistant' in message 1"),
    "an empty answer": ([user("a"), assistant("")], "chats.jsonl: line 2 has nothing in what the assistant says"),
    "no assistant": ([user("a")], "chats.jsonl: line 2 ends with the user"),
    "a control token": ([user("a"), assistant("<|im_end|>")], "'chat', line 2 ('x2')"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_example_is_named_before_training(place: Place, case: str) -> None:
    messages, said = BAD[case]
    place.examples([{"messages": [user("x"), assistant("y")]}, {"messages": messages}])
    recipe = place.recipe()
    assert any(said in refusal for refusal in place.planned(recipe).refusals), place.planned(recipe).refusals
    with pytest.raises(FathomError) as error:
        place.run(recipe)
    assert said in str(error.value)


def test_examples_that_are_too_long_are_told_in_the_plan(place: Place) -> None:
    long = {"messages": [user("Is it?"), assistant("the cat sat on the mat. " * 40)], "id": "long"}
    place.examples([long, *({"messages": [user(word), assistant(word)]} for word in WORDS * 2)])
    dropped = place.planned(place.recipe())
    assert any("1 example is longer than 160 tokens" in remark and "'long'" in remark for remark in dropped.remarks)
    refused = place.planned(place.recipe(f"[sft: {STAGE}, too_long: refuse}}]"))
    assert any("longer than 160 tokens" in said and "line 1 ('long')" in said for said in refused.refusals)


RULES = {
    "no conversations": ("[sft: {mix: {general: rest}}]", "", "no source of the mixture holds conversations"),
    "conversations in dapt": ("[dapt: {mix: {chat: rest}}]", "", "'chat' holds conversations, which are read by sft"),
    "a vocabulary of conversations": ("[vocabulary: {source: chat}]", "", "'chat' holds conversations"),
    "reading": ("[sft: {reading: {}}]", "", "reading exercises are made of raw text"),
    "dapt after sft": ("[sft: {}, dapt: {mix: {general: rest}}]", "", "dapt comes after sft"),
    "an unknown template": (
        "[sft: {template: chatlm}]",
        "",
        "no chat template 'chatlm' (line 6); did you mean 'chatml'",
    ),
    "an empty system": ('[sft: {system: " "}]', "", "sft.system: is empty"),
    "no such learning": ("[sft: {learn: everything}]", "", "expected 'assistant', 'last' or 'all'"),
    "a selection": ("[sft: {select: {near: chat}}]", "", "unknown key 'select'"),
    "a field of conversations": (
        "[sft: {}]",
        "  other: {path: x.jsonl, chat: true, field: q}\n",
        "'field' is of raw text, and conversations are taken as they are",
    ),
    "conversations in a folder": ("[sft: {}]", "  other: {path: x, chat: true}\n", "is no file of conversations"),
    "bits of conversations": (
        "[sft: {}]",
        'gates: {sft: ["chat bits_per_byte <= +1%"]}\n',
        "holds conversations, of which chat_loss is measured",
    ),
    "chat loss of texts": (
        "[sft: {}]",
        'gates: {sft: ["general chat_loss <= +1%"]}\n',
        "holds no conversations, so that bits_per_byte, tokens_per_byte is measured",
    ),
}


@pytest.mark.parametrize("case", RULES)
def test_what_contradicts_itself_is_refused(tmp_path: Path, case: str) -> None:
    stages, more, said = RULES[case]
    file = tmp_path / "recipe.yaml"
    data = "data:\n  chat: {path: c.jsonl, chat: true}\n  general: g\n"
    text = f"{data}{more}seed: 0\nname: x\nstages: {stages}\n"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        load_recipe(file)
    assert said.partition(" (line")[0] in str(error.value)


def test_adapters_learn_faster_than_all_weights_unless_the_recipe_says_otherwise() -> None:
    assert Sft().lr.peak == Sft(method=Method(kind="qlora")).lr.peak == 2e-4
    assert Sft.model_validate({"method": "full"}).lr.peak == Sft(method=Method()).lr.peak == 2e-5
    assert Sft.model_validate({"method": "full", "lr": 1e-4}).lr.peak == 1e-4
    assert Sft.model_validate({"method": {"lora": {"r": 4}}, "lr": {"warm_up": 0.1}}).lr.peak == 2e-4
