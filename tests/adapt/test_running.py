"""A recipe run whole, on a tiny model: what is kept, what is done again, where it stops and that it goes on."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from domain_words import Domain
from domain_words import tokenizer as family_tokenizer
from fakes import HashingEmbedder
from tiny_models import llama, save
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt.recipe import Recipe
from adapt.recipe_file import load_recipe
from adapt.registry import find, registered, verify
from adapt.running import RunResult, run
from retrieval.errors import BusyError, UsageError
from retrieval.storage.locking import WriterLock

torch.set_num_threads(1)
STAGES = """
stages:
  - vocabulary: {tokens: 8, min_frequency: 4, block: 32, batch_tokens: 128,
                 warm: {tokens: 256, lr: 1e-2, replay: general}}
  - dapt: {block: 32, batch_tokens: 128, tokens: 512, precision: fp32, lr: 1e-2, checkpoint_steps: 1,
           mix: {domain: {from: 0.4, to: 0.8}, general: rest}}
  - tapt: {block: 32, batch_tokens: 128, tokens: 256, precision: fp32, lr: 1e-2,
           select: {near: task, neighbours: 3, clusters: 0}, mix: {selected: rest}}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = family_tokenizer("gpt2")
    model = llama(tokenizer)
    model.config.max_position_embeddings = 128
    return save(tmp_path_factory.mktemp("base") / "tiny", model, tokenizer)


@dataclass
class Place:
    """A folder with texts, a recipe and a workspace."""

    folder: Path
    base: Path

    def recipe(self, *, gates: str = "{}", settings: dict[str, str] | None = None, stages: str = STAGES) -> Recipe:
        file = self.folder / "small.yaml"
        file.write_text(
            f"base: {json.dumps(str(self.base))}\n"
            "data:\n"
            "  domain: {path: domain.jsonl, held_out: 0.2, title: title, quality: false, near_duplicates: null}\n"
            "  general: {path: general.jsonl, held_out: 0.2, quality: false, near_duplicates: null}\n"
            "  task: {path: task.jsonl, held_out: 0, quality: false, near_duplicates: null}\n"
            f"measure: {{prompts: [the klystron]}}\ngates: {gates}\n{stages}",
            encoding="utf-8",
        )
        return load_recipe(file, settings=settings)

    def run(
        self,
        recipe: Recipe | None = None,
        progress: Callable[[str, int, int], None] = lambda *_: None,
        stop: threading.Event | None = None,
        **options: Any,
    ) -> RunResult:
        return run(
            recipe or self.recipe(),
            workspace=self.folder / "workspace",
            embedder=HashingEmbedder,  # type: ignore[arg-type]
            progress=progress,
            stop=stop,
            **options,
        )


@pytest.fixture
def place(tmp_path: Path, base: Path) -> Place:
    def write(name: str, rows: list[dict[str, str]]) -> None:
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    write("domain", [{"title": text.title, "text": text.text} for text in Domain().texts()])
    write(
        "general", [{"text": f"the cat sat on the mat and the dog sat on the log number {n}. " * 6} for n in range(40)]
    )
    write("task", [{"text": f"what is the klystron of the {word} for?"} for word in ("waveguide", "magnetron")])
    return Place(tmp_path, base)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


def equal(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_chain_leaves_a_registered_model_with_its_evidence(place: Place) -> None:
    result = place.run()
    assert result.status == "finished" and [stage.kind for stage in result.stages] == ["vocabulary", "dapt", "tapt"]
    assert not any(stage.skipped for stage in result.stages)
    assert result.model is not None and result.model.name == "small" and not verify(result.model)
    assert equal(result.model.folder, result.stages[-1].model)
    assert len(AutoTokenizer.from_pretrained(result.model.folder)) > len(AutoTokenizer.from_pretrained(place.base))
    base, dapt = result.base, result.stages[1].measured
    assert base is not None and dapt is not None
    for label in ("domain", "general"):
        assert dapt.figures[f"{label} bits_per_byte"].value < base.figures[f"{label} bits_per_byte"].value
    said = result.model.manifest
    assert [stage["kind"] for stage in said["stages"]] == ["vocabulary", "dapt", "tapt"]
    assert said["base"]["name"] == str(place.base) and set(said["data"]) == {"domain", "general", "task"}
    assert result.report is not None and "domain" in result.report.read_text("utf-8")


def test_the_adapter_of_the_last_stage_is_registered_with_the_base_it_belongs_to(place: Place) -> None:
    from adapt.adapters import base_of

    models = place.folder / "workspace" / "models"
    lora = (
        "  - dapt: {block: 32, batch_tokens: 128, tokens: 256, precision: fp32, lr: 1e-2, mix: {domain: rest},\n"
        "           method: {kind: lora, r: 4}}\n"
    )
    result = place.run(place.recipe(stages="stages:\n" + lora))
    assert result.model is not None and not result.model.is_adapter
    adapter = find(models, "small-adapter")
    assert adapter.is_adapter and verify(adapter) == []
    assert adapter.manifest["base"] == {"name": str(place.base), "sha256": result.model.manifest["base"]["sha256"]} | {
        "held": None
    }
    assert base_of(models, adapter, cache=place.folder / "c")[1] == place.base
    vocabulary = "\n".join(STAGES.splitlines()[2:4])
    two = place.run(place.recipe(stages=f"stages:\n{vocabulary}\n{lora}"), run="two")
    assert two.model is not None
    base, folder = base_of(models, find(models, "two-adapter"), cache=place.folder / "c")
    assert base == "two-base" and equal(folder, two.stages[0].model)
    assert [stage["name"] for stage in find(models, "two-base").manifest["stages"]] == ["vocabulary"]


def test_what_is_finished_is_not_done_again_and_what_depends_on_a_change_is(place: Place) -> None:
    first = place.run()
    again = place.run()
    assert [stage.skipped for stage in again.stages] == [True, True, True]
    assert len(registered(place.folder / "workspace" / "models")) == 1
    changed = place.run(place.recipe(settings={"stages.dapt.lr": "0.005"}))
    assert [stage.skipped for stage in changed.stages] == [True, False, False]
    assert not equal(first.model.folder, changed.model.folder) and changed.model.name == "small-2"  # type: ignore[union-attr]
    text = place.folder / "task.jsonl"
    text.write_text(text.read_text("utf-8") + '\n{"text": "is the thyratron a waveguide?"}\n', encoding="utf-8")
    other = place.run(place.recipe(settings={"stages.dapt.lr": "0.005"}))
    assert [stage.skipped for stage in other.stages] == [True, True, False]


def test_a_stage_can_be_asked_for_again_and_the_chain_can_end_early(place: Place) -> None:
    early = place.run(to_stage="dapt")
    assert [stage.kind for stage in early.stages] == ["vocabulary", "dapt"] and early.model is not None
    rest = place.run()
    assert [stage.skipped for stage in rest.stages] == [True, True, False]
    again = place.run(from_stage="dapt")
    assert [stage.skipped for stage in again.stages] == [True, False, False]
    # The same texts, settings and seed: the same model, to the bit.
    assert equal(find(place.folder / "workspace" / "models", "small").folder, early.stages[-1].model)
    assert equal(again.stages[-1].model, rest.model.folder)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="--from names the stage 'sft'; the recipe has vocabulary, dapt, tapt"):
        place.run(from_stage="sft")


def test_a_run_that_is_stopped_anywhere_goes_on_and_ends_as_if_it_had_not_been(place: Place) -> None:
    whole = place.run(run="whole")
    sessions = 0
    for limit in range(1, 200):
        stop = threading.Event()
        seen = 0

        def count(stage: str, done: int, total: int, stop: threading.Event = stop, limit: int = limit) -> None:
            nonlocal seen
            seen += 1
            if seen >= 50 * limit:  # later each time: what is cheap is done again, what is dear goes on
                stop.set()

        result = place.run(progress=count, stop=stop, run="pieces")
        sessions = limit
        if result.status == "finished":
            break
        assert result.status == "stopped" and result.model is None
    assert sessions > 2, "it was never stopped"
    assert result.status == "finished"
    assert equal(whole.stages[-1].model, result.stages[-1].model)


def test_a_gate_that_is_crossed_stops_the_chain_and_registers_nothing(place: Place) -> None:
    result = place.run(place.recipe(gates='{dapt: ["domain bits_per_byte <= -99%"]}'))
    assert result.status == "stopped at a gate" and [stage.kind for stage in result.stages] == ["vocabulary", "dapt"]
    assert len(result.failed) == 1 and "domain bits_per_byte" in result.failed[0].said
    assert result.model is None and not registered(place.folder / "workspace" / "models")
    assert result.report is not None
    # A gate is no setting of the stage: with another limit the finished stages stand.
    passed = place.run(place.recipe(gates='{dapt: ["domain bits_per_byte <= +50%"]}'))
    assert [stage.skipped for stage in passed.stages] == [True, True, False] and passed.model is not None


def test_a_result_that_is_not_what_was_written_is_made_again(place: Place) -> None:
    first = place.run(to_stage="dapt")
    weights_file = first.stages[1].model / "model.safetensors"
    whole = weights_file.read_bytes()
    weights_file.write_bytes(whole[:-4] + b"oops")
    (first.stages[0].folder / "stage.json").write_text("{oops", encoding="utf-8")
    (first.folder / "adaptation.json").write_text("{oops", encoding="utf-8")
    again = place.run(to_stage="dapt")
    assert [stage.skipped for stage in again.stages] == [False, False]
    assert weights_file.read_bytes() == whole


def test_two_cannot_run_at_once_and_measurements_are_not_overwritten(place: Place) -> None:
    folder = place.folder / "workspace" / "runs" / "small"
    folder.mkdir(parents=True)
    with WriterLock(folder / ".lock", doing="adapting"), pytest.raises(BusyError, match="the run 'small'"):
        place.run()
    other = folder.with_name("figures")
    other.mkdir()
    (other / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="holds measurements of 'fathom eval'"):
        place.run(run="figures")


def test_fresh_forgets_what_was_there(place: Place) -> None:
    place.run(to_stage="vocabulary")
    result = place.run(to_stage="vocabulary", fresh=True)
    assert [stage.skipped for stage in result.stages] == [False]


def test_a_chain_that_ends_with_an_adapter_measures_it_and_registers_it_under_its_own_name(place: Place) -> None:
    stages = """
stages:
  - dapt: {block: 32, batch_tokens: 128, tokens: 512, precision: fp32, lr: 5e-2, mix: {domain: rest},
           method: {prompt: {virtual_tokens: 4, text: the klystron}}}
"""
    recipe = place.recipe(stages=stages)
    first = place.run(recipe)
    assert first.status == "finished" and first.model is not None
    assert first.model.is_adapter and first.model.name == "small"
    (stage,) = first.stages
    assert stage.adapter is not None and stage.adapter.name == "adapter" and stage.model == place.base
    assert first.base is not None and stage.measured is not None
    figure = "domain bits_per_byte"
    assert stage.measured.figures[figure].value != first.base.figures[figure].value
    assert [one.skipped for one in place.run(recipe).stages] == [True]
    weights = stage.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert [one.skipped for one in place.run(recipe).stages] == [False]
