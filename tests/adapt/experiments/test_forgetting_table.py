"""Remedies against forgetting side by side: the rows, the cells that are kept, and figures checked by hand."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_tokenizer, llama, save

from adapt.experiments.__main__ import forgetting_of, options_of
from adapt.experiments.__main__ import main as run_command
from adapt.experiments.forgetting_figures import Cell, figures, to_markdown
from adapt.experiments.forgetting_rows import PLAIN, Row, Weights, rows_of
from adapt.experiments.forgetting_table import Trained, fill_table
from adapt.recipe import Dapt, Recipe, Source, Stage, Vocabulary
from eval.runs.parts import Progress, Record
from retrieval.errors import DamagedError, FathomError, UsageError

NAMES = (PLAIN, "replay", "replay + KL", "L2-SP", "EWC", "expansion", "LoRA", "frozen layers")
ENGLISH = ["the cat sat on the mat and the dog sat on the log. " * 2, "the dog sat and the cat sat. " * 3] * 12
CHINESE = ["绿茶不经过发酵。水温应该在八十度左右。" * 2, "水温不应该发酵。绿茶左右。" * 2] * 12


def silent(*_: object) -> None: ...


# --- rows ------------------------------------------------------------------------------------------------------------


def test_every_remedy_is_a_row_that_changes_one_thing() -> None:
    rows = {row.name: row.settings for row in rows_of(Dapt(), tokens=5_000, layers=30)}
    assert tuple(rows) == NAMES
    assert {settings.tokens for settings in rows.values()} == {5_000}
    plain = rows[PLAIN]
    assert list(plain.mix) == ["domain"] and list(rows["replay"].mix) == ["domain", "general"]
    changed = {
        name: {key for key in plain.model_dump() if getattr(settings, key) != getattr(plain, key)}
        for name, settings in rows.items()
    }
    assert changed == {
        PLAIN: set(),
        "replay": {"mix"},
        "replay + KL": {"mix", "keep"},
        "L2-SP": {"keep"},
        "EWC": {"keep", "mix"},  # the Fisher pass reads a source that no token is trained on
        "expansion": {"expand"},
        "LoRA": {"method", "lr"},
        "frozen layers": {"freeze"},
    }
    assert rows["EWC"].mix["general"].end == 0.0  # type: ignore[union-attr]
    assert rows["frozen layers"].freeze.layers == 15


def test_what_the_recipe_says_of_a_remedy_is_used_and_its_other_remedies_are_left_out() -> None:
    base = Dapt.model_validate({"keep": {"l2sp": {"weight": 7}, "kl": {"weight": 2}}, "freeze": {"layers": 3}})
    rows = {row.name: row.settings for row in rows_of(base, tokens=10, layers=4, weights=Weights(ewc=3.0))}
    l2sp, ewc, kl = rows["L2-SP"].keep, rows["EWC"].keep, rows["replay + KL"].keep
    assert l2sp.l2sp is not None and l2sp.l2sp.weight == 7 and l2sp.kl is None
    assert ewc.ewc is not None and ewc.ewc.weight == 3
    assert kl.kl is not None and kl.kl.weight == 2 and kl.l2sp is None
    assert rows["replay"].freeze.layers == 0


def test_the_plain_row_is_always_there_and_unknown_rows_are_refused() -> None:
    assert [row.name for row in rows_of(Dapt(), tokens=10, layers=2, only=("EWC",))] == [PLAIN, "EWC"]
    with pytest.raises(UsageError, match="no row 'DANN'"):
        rows_of(Dapt(), tokens=10, layers=2, only=("DANN",))
    with pytest.raises(UsageError, match="general"):
        rows_of(Dapt.model_validate({"mix": {"domain": "rest"}}), tokens=10, layers=2)


# --- figures ---------------------------------------------------------------------------------------------------------


def records(domain: float, general: float, documents: int = 6) -> dict[str, Record]:
    """Documents of 100 bytes; document i has 10 i bits more than the mean, in all records alike."""
    return {
        f"{label}:{number}": {
            "id": f"{label}:{number}",
            "cluster": f"{label}:{number}",
            "metrics": {f"bits_per_byte_{label}": [bits + 10 * (number - (documents - 1) / 2), 100]},
        }
        for label, bits in (("domain", domain), ("general", general))
        for number in range(documents)
    }


def cell(name: str, seed: int, domain: float, general: float) -> Cell:
    return Cell(Row(name, f"what {name} is", Dapt()), seed, 1_000, 2.0, records(domain, general))


def test_changes_and_the_gain_kept_are_those_a_reader_can_check() -> None:
    """Base 100 bits a document, both. Without replay the domain falls to 80 and 84, the rest rises to 110; with replay
    they are 82 and 84, and 101."""
    cells = [cell(PLAIN, 0, 80, 110), cell("replay", 0, 82, 101), cell(PLAIN, 1, 84, 110), cell("replay", 1, 84, 101)]
    plain, replay = figures(records(100, 100), cells)["rows"]
    assert plain["domain"]["by_seed"] == pytest.approx([-0.20, -0.16])
    assert plain["domain"]["value"] == pytest.approx(-0.18)
    assert plain["general"]["value"] == pytest.approx(0.10)
    assert plain["kept"] is None and plain["general_against_plain"] is None
    assert replay["domain"]["value"] == pytest.approx(-0.17)
    assert replay["kept"]["by_seed"] == pytest.approx([18 / 20, 1.0])
    assert replay["general_against_plain"]["value"] == pytest.approx(-0.09)
    assert replay["domain"]["low"] < -0.17 < replay["domain"]["high"]
    assert (replay["tokens"], replay["seconds"], replay["seeds"]) == (1_000, 2.0, [0, 1])


def test_the_spread_of_seeds_widens_the_interval() -> None:
    near = [cell(PLAIN, seed, 80 + seed * 0.1, 110) for seed in range(3)]
    far = [cell(PLAIN, seed, 80 + seed * 5, 110) for seed in range(3)]
    widths = [
        told["high"] - told["low"]
        for told in (figures(records(100, 100), side)["rows"][0]["domain"] for side in (near, far))
    ]
    assert widths[1] > 2 * widths[0]


def test_without_a_gain_nothing_is_said_to_be_kept() -> None:
    told = figures(records(100, 100), [cell(PLAIN, 0, 101, 110), cell("replay", 0, 99, 101)])
    assert told["rows"][1]["kept"] is None
    assert "–" in to_markdown(told)


def test_a_failed_cell_is_named_and_the_others_stay() -> None:
    failed = Cell(Row("EWC", "", Dapt()), 1, error="the Fisher pass found no row")
    text = to_markdown(figures(records(100, 100), [cell(PLAIN, 0, 80, 110), cell("EWC", 0, 90, 101), failed]))
    assert "EWC, seed 1, failed: the Fisher pass found no row" in text
    assert "-10.0%" in text and "50%" in text


def test_other_documents_than_before_are_refused() -> None:
    odd = Cell(Row(PLAIN, "", Dapt()), 0, records=records(90, 100, documents=5))
    with pytest.raises(UsageError, match="other documents"):
        figures(records(100, 100), [odd])


# --- cells -----------------------------------------------------------------------------------------------------------


@dataclass
class TinyStages:
    """Trains a model of two layers for a few real steps of AdamW, on the domain and, where the mixture has it, on
    general text too; everything else in the settings is not heeded."""

    folder: Path
    asked: list[tuple[str, int]] = field(default_factory=list)
    fails: bool = False
    key: str = "texts"
    layers: int = 2

    @property
    def base(self) -> Path:
        place = self.folder / "base"
        if not place.exists():
            tokenizer = byte_tokenizer()
            save(place, llama(tokenizer), tokenizer)
        return place

    @property
    def held_out(self) -> Mapping[str, Path]:
        made = {}
        for label, texts in (("domain", CHINESE), ("general", ENGLISH)):
            made[label] = self.folder / f"{label}.jsonl"
            made[label].write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")
        return made

    def train(
        self, settings: Dapt, *, seed: int, folder: Path, progress: Progress, stop: threading.Event | None
    ) -> Trained:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.asked.append((",".join(settings.mix), seed))
        if self.fails and "general" in settings.mix:
            raise FathomError("there is no room for replay")
        tokenizer = AutoTokenizer.from_pretrained(self.base)
        model = AutoModelForCausalLM.from_pretrained(self.base)
        torch.manual_seed(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        texts = [CHINESE[:2], ENGLISH[:2] if "general" in settings.mix else CHINESE[:2]]
        for step in range(10):
            ids = torch.tensor([tokenizer(text)["input_ids"][:24] for text in texts[step % 2]])
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return Trained(save(folder / "model", model, tokenizer), 480, 0.5)


def some_rows() -> list[Row]:
    return rows_of(Dapt(), tokens=480, layers=2, only=("replay",))


def filled(stages: TinyStages, out: Path, seeds: tuple[int, ...] = (0,), **options: Any) -> dict[str, Any]:
    whole = {"progress": silent, "cache": out / "cache", "device": "cpu"} | options
    return fill_table(some_rows(), seeds, stages, out=out, **whole)


def test_a_table_is_trained_measured_and_written(tmp_path: Path) -> None:
    stages = TinyStages(tmp_path)
    found = filled(stages, tmp_path / "out", (0, 1))
    plain, replay = found["rows"]
    assert stages.asked == [("domain", 0), ("domain,general", 0), ("domain", 1), ("domain,general", 1)]
    assert plain["domain"]["value"] < -0.05 and replay["domain"]["value"] < -0.05
    assert replay["general"]["value"] < plain["general"]["value"]
    assert json.loads((tmp_path / "out" / "forgetting.json").read_text())["rows"] == json.loads(
        json.dumps(found["rows"])
    )
    text = (tmp_path / "out" / "forgetting.md").read_text("utf-8")
    assert "| replay" in text and "2 seeds" in text and "24 held-out pieces" in text
    assert not list((tmp_path / "out" / "cells").rglob("*.safetensors")), "measured models take no room"


def test_finished_cells_are_kept_and_failed_ones_tried_again(tmp_path: Path) -> None:
    stages = TinyStages(tmp_path, fails=True)
    assert filled(stages, tmp_path / "out")["rows"][1]["errors"] == {"0": "there is no room for replay"}
    stages.fails = False
    stages.asked.clear()
    found = filled(stages, tmp_path / "out")
    assert stages.asked == [("domain,general", 0)]
    assert found["rows"][1]["errors"] == {} and found["rows"][1]["kept"] is not None
    stages.asked.clear()
    assert filled(stages, tmp_path / "out")["rows"] == found["rows"] and not stages.asked
    stages.key = "other texts"
    filled(stages, tmp_path / "out")
    assert len(stages.asked) == 2
    result = next((tmp_path / "out" / "cells").glob("*/result.json"))
    result.write_text("{}")
    with pytest.raises(DamagedError, match="remove"):
        stages.key = "texts"
        filled(stages, tmp_path / "out")
        stages.key = "other texts"
        filled(stages, tmp_path / "out")


def test_a_stopped_table_goes_on_with_the_next_cell(tmp_path: Path) -> None:
    stages, stop = TinyStages(tmp_path), threading.Event()

    def stop_after_one(stage: str, done: int, total: int) -> None:
        if stage == "cells of the table" and done == 1:
            stop.set()

    with pytest.raises(KeyboardInterrupt):
        filled(stages, tmp_path / "out", progress=stop_after_one, stop=stop)
    filled(stages, tmp_path / "out")
    assert stages.asked == [("domain", 0), ("domain,general", 0)]


def test_the_command_takes_the_stage_of_a_recipe(tmp_path: Path) -> None:
    stages, cache = TinyStages(tmp_path), tmp_path / "cache"
    kinds = (Stage(kind="vocabulary", settings=Vocabulary()), Stage(kind="dapt", settings=Dapt()))
    recipe = Recipe(name="r", root=tmp_path, seed=5, data={"domain": Source(path="x")}, stages=kinds)
    words = ["forgetting", "--recipe", "r.yaml", "--out", str(tmp_path / "out"), "--tokens", "480", "--seeds", "1"]
    options = options_of([*words, "--rows", "replay"])
    text = forgetting_of(recipe, stages, options, cache)
    assert "replay" in text.read_text("utf-8") and stages.asked == [("domain", 5), ("domain,general", 5)]
    with pytest.raises(UsageError, match="no dapt stage"):
        forgetting_of(recipe.model_copy(update={"stages": kinds[:1]}), stages, options, cache)
    for wrong in (["--l2sp", "-1"], ["--seeds", "0"], ["--tokens", "many"]):
        with pytest.raises(SystemExit):
            options_of([*words, *wrong])


def test_the_command_says_what_is_wrong_in_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run_command(["forgetting", "--recipe", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "none.yaml" in caplog.text


def test_the_same_seed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="different"):
        filled(TinyStages(tmp_path), tmp_path / "out", (1, 1))
