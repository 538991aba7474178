"""A plan says what a recipe takes on a machine, and refuses what cannot be there, with the reason and a way out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_tokenizer, llama, save

from adapt.corpus.preparing import prepare
from adapt.machine import GIB, Gpu, Machine
from adapt.planning import base_of, plan
from adapt.plans import Plan
from adapt.recipe_file import load_recipe
from retrieval.errors import MissingError, UsageError

LAPTOP = Machine(cores=4, memory=16 * GIB, free=8 * GIB, bf16=False)
STATION = replace(LAPTOP, gpus=(Gpu("H", 80 * GIB, 79 * GIB, True),))
SENTENCE = "the cat sat on the mat and the dog sat on the log number {}. "


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = byte_tokenizer()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny = llama(tokenizer)
    tiny.config.max_position_embeddings = 256
    return save(folder, tiny, tokenizer)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A domain of 200 documents, general text of 40, questions of 10."""
    for name, documents in (("domain", 200), ("general", 40), ("task", 10)):
        lines = [json.dumps({"text": SENTENCE.format(name) * 8 + str(number)}) for number in range(documents)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def planned(
    texts: Path, model: Path | str, stages: str, *, machine: Machine = LAPTOP, more: str = "", **options: Any
) -> Plan:
    file = texts / "recipe.yaml"
    sources = "".join(
        f"  {name}: {{path: {name}.jsonl, held_out: 0, quality: false, near_duplicates: null}}\n"
        for name in ("domain", "general", "task")
    )
    text = f"base: {json.dumps(str(model))}\n{more}data:\n{sources}stages: [{stages}]\n"
    file.write_text(text, encoding="utf-8")
    return plan(load_recipe(file), cache=texts / "cache", workspace=texts / "w", machine=machine, **options)


SMALL = "block: 64, batch_tokens: 256"
HALVES = "mix: {domain: 0.5, general: rest}"


def test_the_scarcest_source_decides_how_long_a_stage_is(texts: Path, model: Path) -> None:
    found = planned(texts, model, f"dapt: {{{SMALL}, mix: {{domain: 0.75, general: rest}}}}")
    assert found.refusals == ()
    domain, general = found.amounts["domain"], found.amounts["general"]
    assert domain is not None and general is not None and domain.tokens == pytest.approx(5 * general.tokens, rel=0.05)
    (stage,) = found.stages
    assert stage.tokens == pytest.approx(4 * general.tokens, rel=0.01), "the general text is a quarter of all"
    assert stage.about and stage.sources is not None
    assert stage.sources["domain"] == pytest.approx(3 * stage.sources["general"], rel=0.01)
    assert stage.rows == stage.tokens // 64 and stage.steps == -(-stage.rows // 4)
    assert stage.seconds == pytest.approx(stage.tokens / stage.tokens_per_second)
    assert "GFLOP/s" in stage.basis and stage.memory and stage.disk
    assert found.seconds is not None and found.seconds >= stage.seconds
    twice = planned(texts, model, f"dapt: {{{SMALL}, epochs: 2, mix: {{domain: 0.75, general: rest}}}}").stages[0]
    assert twice.tokens == pytest.approx(2 * stage.tokens, rel=0.01)


def test_a_schedule_that_the_texts_do_not_last_for_is_refused_with_what_is_possible(texts: Path, model: Path) -> None:
    possible = planned(texts, model, f"dapt: {{{SMALL}, {HALVES}}}").stages[0].tokens
    assert possible is not None
    assert planned(texts, model, f"dapt: {{{SMALL}, tokens: {possible}, {HALVES}}}").refusals == ()
    found = planned(texts, model, f"dapt: {{{SMALL}, tokens: {3 * possible}, {HALVES}}}")
    (said,) = found.refusals
    assert f"{3 * possible:,} tokens with 50% of 'general' on average" in said
    assert f"possible are at most {possible:,} tokens, or 3 epochs" in said
    with pytest.raises(UsageError, match="possible are at most"):
        found.require()
    assert planned(texts, model, f"dapt: {{{SMALL}, tokens: {3 * possible}, epochs: 3, {HALVES}}}").refusals == ()


def test_a_corpus_that_is_prepared_is_counted_exactly(texts: Path, model: Path) -> None:
    recipe = planned(texts, model, f"dapt: {{{SMALL}}}").recipe
    for name in ("domain", "general"):
        prepare(
            name,
            recipe.data[name],
            root=recipe.root,
            decontaminate=recipe.decontaminate,
            seed=recipe.seed,
            cache=texts / "cache",
            progress=lambda *_: None,
        )
    found = planned(texts, model, f"dapt: {{{SMALL}}}")
    exact = found.amounts["general"]
    assert exact is not None and exact.exact and found.amounts["task"] is not None and not found.amounts["task"].exact
    assert not found.stages[0].about
    needed = found.stages[0].tokens
    assert needed is not None
    assert planned(texts, model, f"dapt: {{{SMALL}, tokens: {needed + 64}}}").refusals, "nothing is 'about' any more"


def test_stages_build_on_each_other(texts: Path, model: Path) -> None:
    stages = (
        "vocabulary: {tokens: 5, warm: {tokens: 1000}, block: 64, batch_tokens: 256}, "
        f"dapt: {{{SMALL}, expand: {{layers: 2, only_new: false}}}}, "
        f"tapt: {{{SMALL}, select: {{near: task, tokens: 500}}, mix: {{selected: 0.5, general: rest}}}}"
    )
    found = planned(texts, model, stages)
    assert found.refusals == () and [stage.name for stage in found.stages] == ["vocabulary", "dapt", "tapt"]
    vocabulary, dapt, tapt = found.stages
    assert (vocabulary.tokens, vocabulary.steps) == (1000, 4)
    assert found.base is not None and "2 new layers and all others" in dapt.described
    weights = next(need.bytes for need in tapt.memory if need.what == "weights")
    assert weights == 4 * found.base.grown(layers=2, rows=5).parameters
    assert tapt.tokens == pytest.approx(3 * 500 / 0.5, rel=0.01), "three epochs of what is selected"
    said = json.loads(json.dumps(found.as_json()))
    assert said["stages"][1]["memory"]["bytes"] > 0 and said["refusals"] == []


def test_work_against_forgetting_takes_time(texts: Path, model: Path) -> None:
    plain, kept = (
        planned(texts, model, f"dapt: {{{SMALL}, tokens: 2000, {HALVES}{keep}}}").stages[0]
        for keep in ("", ", keep: {kl: {}, ewc: {weight: 1, tokens: 50000}}")
    )
    assert plain.seconds is not None and kept.seconds is not None and kept.seconds > plain.seconds
    assert "kl + ewc" in kept.described and any(need.what == "teacher" for need in kept.disk)


REFUSED = {
    "a block larger than a corpus": (
        "dapt: {block: 200, batch_tokens: 800, mix: {task: rest}}",
        "less than one block of 200",
    ),
    "a block beyond the positions": (
        f"dapt: {{block: 512, batch_tokens: 512, {HALVES}}}",
        "longer than the 256 positions",
    ),
    "a paged optimizer without a GPU": (f"dapt: {{{SMALL}, optimizer: paged_adamw_8bit}}", "needs a CUDA GPU"),
    "an 8-bit optimizer without a GPU": (
        f"dapt: {{{SMALL}, optimizer: adamw_8bit}}",
        "needs a CUDA GPU, and there is none",
    ),
    "more frozen layers than there are": (
        f"dapt: {{{SMALL}, freeze: {{layers: 9}}}}",
        "freezes 9 layers, and the model has 2",
    ),
    "an adapter on no layer": (
        f"dapt: {{{SMALL}, method: {{lora: {{targets: [q_prj]}}}}}}",
        "no layer 'q_prj' for an adapter; it has down_proj, gate_proj",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_here_is_refused(texts: Path, model: Path, case: str) -> None:
    stages, said = REFUSED[case]
    if "corpus" in case:
        (texts / "task.jsonl").write_text('{"text": "the cat sat"}', encoding="utf-8")
    assert any(said in refusal for refusal in planned(texts, model, stages).refusals)


def test_what_needs_a_gpu_is_let_through_with_one(texts: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapt.planning.matmul_rate", lambda *_, **__: 1e14)
    stage = f"dapt: {{{SMALL}, optimizer: paged_adamw_8bit, method: qlora, tokens: 2000, {HALVES}}}"
    found = planned(texts, model, stage, machine=STATION)
    assert found.refusals == () and "in bf16" in found.stages[0].basis


def test_bitsandbytes_is_asked_for_before_anything_runs(
    texts: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapt.planning.importlib.util.find_spec", lambda name: None)
    said = planned(texts, model, f"dapt: {{{SMALL}, method: qlora}}").refusals
    assert any("qlora needs the package bitsandbytes: pip install" in refusal for refusal in said)


def test_memory_that_is_not_there_is_refused_with_what_would_need_less(texts: Path, model: Path) -> None:
    tight = replace(LAPTOP, free=500 << 20)
    (said,) = planned(texts, model, f"dapt: {{{SMALL}}}", machine=tight).refusals
    assert "dapt: needs about 6" in said and "500 MiB are free" in said
    assert "set micro_tokens to 64, or set activation_checkpointing, or use lora or qlora" in said
    nearly = replace(LAPTOP, free=680 << 20)
    found = planned(texts, model, f"dapt: {{{SMALL}}}", machine=nearly)
    assert found.refusals == () and any("which is tight" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("keep: {l2sp: {weight: 0.1}}", True),
        ("keep: {ewc: {weight: 10, on: domain}}", True),
        ("keep: {l2sp: {weight: 0.1}}, weight_decay: 0", False),
        ("weight_decay: 0.1", False),
    ],
)
def test_weights_that_are_pulled_two_ways_are_told(texts: Path, model: Path, words: str, told: bool) -> None:
    found = planned(texts, model, f"dapt: {{{SMALL}, {words}}}")
    assert found.refusals == ()
    assert any("set weight_decay: 0" in remark for remark in found.remarks) is told


def test_a_full_disk_is_told_before(texts: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr("adapt.planning.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    (said,) = planned(texts, model, f"dapt: {{{SMALL}}}").refusals
    assert said.startswith("disk: the stages write about") and "--workspace" in said


def test_everything_that_is_missing_is_told_together(texts: Path, model: Path) -> None:
    more = "measure: {texts: {news: n.txt}, choices: q.jsonl}\ndecontaminate: {against: [e.jsonl]}\n"
    (texts / "general.jsonl").unlink()
    (texts / "domain.jsonl").write_text('{"body": "x"}\n', encoding="utf-8")
    said = planned(texts, "nobody/knows-this", f"dapt: {{{SMALL}}}", more=more).refusals
    assert len(said) == 6
    assert said[0].startswith("base: ") and "hf download nobody/knows-this" in said[0]
    assert "data.domain: " in said[1] and "no column 'text'" in said[1]
    assert "data.general: there is no file or folder" in said[2]
    assert {line.partition(":")[0] for line in said[3:]} == {
        "measure.texts.news",
        "measure.choices",
        "decontaminate.against[0]",
    }


def test_a_root_that_is_not_there_is_told_once(texts: Path, model: Path) -> None:
    (said,) = planned(texts, model, f"dapt: {{{SMALL}}}", more="root: nowhere\n").refusals
    assert said.startswith("root: there is no folder") and "--root" in said


def test_text_of_the_hub_is_not_fetched_by_a_plan(texts: Path, model: Path) -> None:
    file = texts / "hub.yaml"
    file.write_text(
        f"base: {json.dumps(str(model))}\ndata: {{domain: domain.jsonl, general: 'hub:some/thing'}}\n"
        f"stages: [dapt: {{{SMALL}, tokens: 2000}}, dapt: {{{SMALL}}}]\n",
        encoding="utf-8",
    )
    found = plan(load_recipe(file), cache=texts / "cache", workspace=texts, machine=LAPTOP)
    assert found.refusals == () and any("is known when it is fetched" in remark for remark in found.remarks)
    assert [stage.tokens for stage in found.stages] == [2000, None] and found.seconds is None


def test_a_tokenizer_of_another_model_is_refused(texts: Path, model: Path, tmp_path: Path) -> None:
    large = byte_tokenizer()
    large.add_tokens([f"<{number}>" for number in range(50)])
    small = byte_tokenizer()
    mixed = save(tmp_path / "mixed", llama(small), small)
    large.save_pretrained(mixed)
    said = planned(texts, mixed, f"dapt: {{{SMALL}}}").refusals
    assert any("its tokenizer has" in refusal and "do not belong together" in refusal for refusal in said)


def test_pickled_weights_are_refused(texts: Path, model: Path, tmp_path: Path) -> None:
    import shutil

    pickled = tmp_path / "pickled"
    shutil.copytree(model, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (said,) = planned(texts, pickled, f"dapt: {{{SMALL}}}").refusals
    assert said.startswith("base: ") and "may run code" in said


def test_a_base_must_be_on_this_machine(tmp_path: Path, model: Path) -> None:
    with pytest.raises(MissingError, match="hf download"):
        base_of("nobody/knows-this", cache=tmp_path, models=tmp_path)
    with pytest.raises(MissingError):
        base_of("../../etc", cache=tmp_path, models=tmp_path)
    assert base_of(str(model), cache=tmp_path, models=None) == model


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "{lora: {r: 4}}"])
def test_a_probe_runs_real_steps(texts: Path, model: Path, method: str) -> None:
    stage = f"dapt: {{{SMALL}, tokens: 2000, precision: fp32, {HALVES}, method: {method}}}"
    (found,) = planned(texts, model, stage, probe=True).stages
    assert found.basis.startswith("measured on") and found.tokens_per_second is not None
    assert found.tokens_per_second > 0
