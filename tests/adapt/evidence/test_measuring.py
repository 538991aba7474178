"""A tiny model and texts on disk → figures, samples, and what is kept when it is measured again."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_tokenizer, llama, plain_logprobs, save

from adapt.evidence.changes import compare
from adapt.evidence.measuring import SAMPLE_TOKENS, Measurement, measure
from adapt.recipe import Measure
from eval.models import likelihood
from retrieval.errors import DamagedError, MissingError, UsageError

DOMAIN = ["绿茶不经过发酵。", "the cat sat on the log.", "a dog and a cat"]
GENERAL = ["the dog sat.", "on the mat sat the cat", "水温应该在八十度左右。", "and the log"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokenizer = byte_tokenizer()
    return save(tmp_path / "model", llama(tokenizer), tokenizer)


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for label, documents in (("domain", DOMAIN), ("general", GENERAL)):
        found[label] = tmp_path / f"{label}.jsonl"
        rows = [json.dumps({"id": str(n), "title": "", "text": text}) for n, text in enumerate(documents)]
        found[label].write_text("\n".join(rows) + "\n")
    return found


@pytest.fixture
def choices(tmp_path: Path) -> Path:
    file = tmp_path / "choices.jsonl"
    rows = [
        {"id": str(n), "question": f"which {word}?", "choices": ["cat", "the log", "mat"], "answer": n % 3}
        for n, word in enumerate(("one", "two", "three", "four"))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on two, far slower where others work too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def measured(model: Path | str, on: dict[str, Path], folder: Path, label: str = "base", **wanted: Any) -> Measurement:
    return measure(
        model,
        label=label,
        texts=on,
        measure=Measure(**wanted),
        folder=folder,
        cache=folder.parent / "cache",
        seed=0,
        progress=lambda *_: None,
        precision="fp32",
        root=folder.parent,
    )


def values(found: Measurement) -> dict[str, Any]:
    """To be equal up to rounding: what shares a batch decides the last bits."""
    return {name: pytest.approx(figure.value, rel=1e-5) for name, figure in found.figures.items()}


def figures(found: Measurement) -> dict[str, float | None]:
    return {name: figure.value for name, figure in found.figures.items()}


def test_figures_are_those_of_the_definition(model: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = measured(model, texts, tmp_path / "m")
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    bits = size = tokens = 0.0
    for text in GENERAL:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        bits -= sum(plain_logprobs(plain, [tokenizer.bos_token_id, *ids])) / math.log(2)
        size, tokens = size + len(text.encode()), tokens + len(ids)
    assert found.figures["general bits_per_byte"].value == pytest.approx(bits / size, rel=1e-4)
    assert found.figures["general tokens_per_byte"].value == pytest.approx(tokens / size)
    assert set(found.figures) == {
        f"{label} {metric}" for label in texts for metric in ("bits_per_byte", "tokens_per_byte")
    }
    assert found.precision == "fp32"


def test_questions_and_samples_are_measured_with_one_load(
    model: Path, texts: dict[str, Path], choices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    first = likelihood.TransformersModel.__init__

    def counted(self: Any, *a: Any, **named: Any) -> None:
        made.append(named["name"])
        first(self, *a, **named)

    monkeypatch.setattr(likelihood.TransformersModel, "__init__", counted)
    wanted = {"choices": choices.name, "prompts": ("the cat", "", "绿茶" * 3000), "texts": {"also": "general.jsonl"}}
    found = measured(model, texts, tmp_path / "m", **wanted)
    assert len(made) == 1
    assert {"choices choice_accuracy", "also bits_per_byte"} <= set(found.figures)
    assert found.figures["also bits_per_byte"].value == found.figures["general bits_per_byte"].value
    assert [prompt for prompt, _ in found.samples] == ["the cat", "", "绿茶" * 3000]
    assert all(len(sample) <= 8 * SAMPLE_TOKENS for _, sample in found.samples)
    assert found.samples[0][1]
    again = measured(model, texts, tmp_path / "m", **wanted)
    assert len(made) == 1, "what was measured already costs no load"
    assert again.figures == found.figures and again.samples == found.samples


def test_samples_are_the_likeliest_tokens(model: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # What a model's own file asks for must not make samples differ from run to run.
    (model / "generation_config.json").write_text('{"do_sample": true, "temperature": 3.0, "eos_token_id": 1}')
    found = measured(model, texts, tmp_path / "m", prompts=("the cat sat",))
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    ids = tokenizer("the cat sat")["input_ids"]
    written: list[int] = []
    with torch.no_grad():
        for _ in range(24):  # half the window
            token = int(plain(torch.tensor([ids + written])).logits[0, -1].argmax())
            if token == 1:
                break
            written.append(token)
    assert found.samples[0][1] == tokenizer.decode(written, skip_special_tokens=True)


def test_a_killed_measurement_goes_on_and_another_model_begins_anew(
    model: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    whole = measured(model, texts, folder)
    records = folder / "texts" / "records.jsonl"
    (folder / "measurement.json").unlink()
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    kept = [json.loads(line)["id"] for line in lines[:2]]
    assert figures(measured(model, texts, folder)) == values(whole)
    assert [json.loads(line)["id"] for line in records.read_bytes().splitlines()][:2] == kept
    tokenizer = byte_tokenizer()
    save(model, llama(tokenizer, seed=1), tokenizer)
    other = measured(model, texts, folder)
    assert other.sha256 != whole.sha256
    assert other.figures["general bits_per_byte"].value != whole.figures["general bits_per_byte"].value
    texts["domain"].write_text(json.dumps({"id": "0", "text": "another text"}) + "\n")
    assert measured(model, texts, folder).data["domain"] != other.data["domain"]


def test_two_models_are_compared_on_the_same_texts(model: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    other = save(tmp_path / "other", llama(tokenizer, seed=1), tokenizer)
    base, after = measured(model, texts, tmp_path / "a"), measured(other, texts, tmp_path / "b", label="dapt")
    change = compare(base, after)["domain bits_per_byte"]
    before, now = (one.figures["domain bits_per_byte"].value for one in (base, after))
    assert before is not None and now is not None
    assert change.change.value == pytest.approx(now / before - 1)


def test_a_damaged_measurement_is_measured_again(model: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "m"
    whole = measured(model, texts, folder)
    records = folder / "texts" / "records.jsonl"
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(DamagedError, match="records where"):
        Measurement.open(folder)
    assert figures(measured(model, texts, folder)) == values(whole)
    (folder / "measurement.json").write_text('{"records": 3}')
    with pytest.raises(DamagedError):
        Measurement.open(folder)
    assert figures(measured(model, texts, folder)) == values(whole)
    with pytest.raises(UsageError, match="no finished measurement"):
        Measurement.open(tmp_path / "nowhere")


def test_what_cannot_be_measured_is_refused_before_a_model_is_loaded(
    model: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    with pytest.raises(UsageError, match="nothing to measure on"):
        measured(model, {}, folder)
    with pytest.raises(UsageError, match="'choices' is what"):
        measured(model, {"choices": texts["domain"]}, folder)
    with pytest.raises(UsageError, match="cannot be a label"):
        measured(model, {"my domain": texts["domain"]}, folder)
    with pytest.raises(UsageError, match="is a source already"):
        measured(model, texts, folder, texts={"domain": "general.jsonl"})
    with pytest.raises(UsageError, match="there is no file"):
        measured(model, texts, folder, choices="nowhere.jsonl")
    with pytest.raises(MissingError):
        measured(tmp_path / "nowhere", texts, folder)
    assert not folder.exists()
