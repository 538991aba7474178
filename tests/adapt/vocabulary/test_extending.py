"""The stage: a model folder and a corpus in, a full base with domain tokens out, ordinary to whatever loads it next."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from domain_words import TERMS, Domain, tokenizer
from safetensors import safe_open
from tiny_models import save, sizes, word_tokenizer

from adapt.recipe import Vocabulary, Warming
from adapt.vocabulary import extending
from adapt.vocabulary.extending import extend
from adapt.vocabulary.terms import candidates
from adapt.vocabulary.tokenizer_file import compare, encode, load, require_same_special_tokens
from adapt.vocabulary.warming import StoppedError
from eval.models.language_models import load_language_model
from eval.models.packaged import packaged_model
from retrieval.embedding.stored import file_hash
from retrieval.errors import MissingError, UsageError

torch.set_num_threads(1)
SETTINGS = Vocabulary(
    tokens=40,
    least_saving=0.0,
    warm=Warming(tokens=4000, lr=1e-2),
    block=32,
    batch_tokens=256,
    initialise="distil",
    words_at_most=5,
)


@pytest.fixture(autouse=True)
def _few_strange_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real number takes most of a test's time; one test below has it."""
    monkeypatch.setattr(extending, "STRANGE", 200)


def quiet(stage: str, done: int, total: int) -> None:
    assert 0 <= done and stage


def base(folder: Path, family: str = "gpt2", *, ties: bool = True, dtype: str = "float32", spare: int = 0) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer(family) if family != "words" else word_tokenizer()
    torch.manual_seed(0)
    chosen = sizes(range(len(words) + spare))
    made = LlamaForCausalLM(LlamaConfig(**chosen, tie_word_embeddings=ties, eos_token_id=2))
    return save(folder, made.to(getattr(torch, dtype)), words)


def tensors(folder: Path) -> dict[str, Any]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    ("family", "ties", "dtype"), [("gpt2", True, "float32"), ("llama3", False, "bfloat16"), ("qwen", True, "float32")]
)
def test_a_folder_becomes_a_folder_with_domain_tokens(tmp_path: Path, family: str, ties: bool, dtype: str) -> None:
    start = base(tmp_path / "base", family, ties=ties, dtype=dtype, spare=7 if family == "qwen" else 0)
    result = extend(start, Domain(), SETTINGS, folder=tmp_path / "run", seed=1, progress=quiet)
    assert result == tmp_path / "run" / "model"
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    old, new = load(start), load(result)
    require_same_special_tokens(old, new)
    assert len(new) == len(old) + report["tokens_added"] and report["first_id"] == len(old)
    before, after = tensors(start), tensors(result)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        rows = len(old) if "embed_tokens" in name or "lm_head" in name else None
        assert after[name].dtype == tensor.dtype == getattr(torch, dtype)
        assert torch.equal(after[name][:rows], tensor[:rows])
    config = json.loads((result / "config.json").read_text())
    assert config["vocab_size"] == after["model.embed_tokens.weight"].shape[0] == report["rows"]
    assert config["tie_word_embeddings"] is ties is report["tied"]
    assert report["rows"] == len(old) + report["tokens_added"]
    assert {name: file_hash(result / name) for name in report["files"]} == report["files"]
    assert {"model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"} <= report["files"].keys()


def test_the_report_tells_what_was_added_saved_tried_and_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extending, "STRANGE", 10_000)
    start = base(tmp_path / "base")
    result = extend(start, Domain(), SETTINGS, folder=tmp_path / "run", seed=1, progress=quiet)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    strange = report["never_longer"]["strange"]
    assert strange["texts"] == 10_000 and strange["longer"] == 0 and strange["shorter"] > 1000
    check = compare(load(start), load(result), [f"{text.title}\n\n{text.text}" for text in Domain().texts("held_out")])
    assert report["saving"]["held_out"] == pytest.approx(check.saving) and check.saving > 0.2
    terms = report["found"]["terms"]
    assert all(any(term in found["text"] for found in terms) for term in TERMS)
    assert report["found"]["phrases"] > 0 and report["found"]["words_only"] is None
    assert all(term["frequency"] >= 8 and term["pieces"] for term in terms)
    refused = report["found"]["refused"]
    assert refused and all(facts["count"] and facts["examples"] for facts in refused.values())
    for stage, folder in (("distilled", "distilling"), ("warmed", ".")):
        lines = (tmp_path / "run" / folder / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == report[stage]["steps"]
        assert report[stage]["last_loss"] == json.loads(lines[-1])["loss"]
        if stage == "warmed":
            losses = [json.loads(line)["loss"] for line in lines]
            assert sum(losses[-5:]) < sum(losses[:5])


def test_what_is_done_is_not_done_again_and_what_was_changed_is(tmp_path: Path) -> None:
    start = base(tmp_path / "base")
    settings = SETTINGS.model_copy(update={"warm": None})

    def made(seed: int = 1) -> float:
        result = extend(start, Domain(), settings, folder=tmp_path / "run", seed=seed, progress=quiet)
        return (result / "model.safetensors").stat().st_mtime

    first = made()
    assert made() == first
    assert (second := made(seed=2)) != first
    with (tmp_path / "run" / "model" / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert made(seed=2) != second


def test_new_rows_are_shown_general_text_too_where_it_is_named(tmp_path: Path) -> None:
    """What a phrase of the domain means elsewhere: the rows are others, and a third of what they read is general."""
    start = base(tmp_path / "base")
    warm = Warming(tokens=3000, lr=1e-2, replay="general", replay_share=0.33)
    settings = SETTINGS.model_copy(update={"warm": warm, "initialise": "mean"})
    shown: list[Any] = []

    @dataclass(frozen=True)
    class Watched(Domain):
        """The same texts under another name, read or not."""

        def texts(self, part: Any = "train") -> Any:
            for document in super().texts(part):
                shown.append(document)
                yield document

    def made(folder: str, replay: Any) -> str:
        result = extend(start, Domain(), settings, folder=tmp_path / folder, seed=1, progress=quiet, replay=replay)
        report = json.loads((tmp_path / folder / "report.json").read_text())
        assert 2800 < report["warmed"]["tokens"] < 3400
        return file_hash(result / "model.safetensors")

    alone = made("alone", None)
    assert not shown
    general = Watched(name="general", sha256="1" * 64, size=30)
    assert made("with", general) != alone and shown
    assert made("alone", general) != alone  # what was done without it is not taken for it


def test_stopped_it_goes_on_to_the_same_model(tmp_path: Path) -> None:
    start = base(tmp_path / "base")
    once = extend(start, Domain(), SETTINGS, folder=tmp_path / "once", seed=1, progress=quiet)
    for stage, after in (("distilling new rows", 1000), ("warming up new rows", 2000)):
        stop = threading.Event()

        def watch(name: str, done: int, total: int, stage: str = stage, after: int = after, stop: Any = stop) -> None:
            if name == stage and done >= after:
                stop.set()

        with pytest.raises(StoppedError):
            extend(start, Domain(), SETTINGS, folder=tmp_path / "often", seed=1, progress=watch, stop=stop)
        assert not (tmp_path / "often" / "model").exists()
    often = extend(start, Domain(), SETTINGS, folder=tmp_path / "often", seed=1, progress=quiet)
    assert file_hash(once / "model.safetensors") == file_hash(often / "model.safetensors")


def test_an_adapter_made_afterwards_needs_no_embeddings(tmp_path: Path) -> None:
    """What fails elsewhere: LlamaFactory#5262 (size mismatch when merging), vllm#9280 (not served)."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = SETTINGS.model_copy(update={"warm": None})
    result = extend(base(tmp_path / "base"), Domain(), settings, folder=tmp_path / "run", seed=1, progress=quiet)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(result), LoraConfig(target_modules="all-linear", r=2))
    adapted.save_pretrained(tmp_path / "adapter")
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "embed" in name or "lm_head" in name]  # noqa: SIM118
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(result), str(tmp_path / "adapter"))
    merged = again.merge_and_unload()
    assert merged.get_input_embeddings().weight.shape[0] == len(load(result))


@dataclass(frozen=True)
class Plain(Domain):
    """A corpus of nothing but numbers."""

    def texts(self, part: Any = "train") -> Any:
        for document in super().texts(part):
            yield type(document)(document.id, "12 345 6789 " * 20)


def test_what_cannot_be_extended_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no token is worth adding"):
        extend(base(tmp_path / "a"), Plain(), SETTINGS, folder=tmp_path / "run", seed=1, progress=quiet)
    with pytest.raises(UsageError, match="WordLevel"):
        extend(base(tmp_path / "b", "words"), Domain(), SETTINGS, folder=tmp_path / "run", seed=1, progress=quiet)
    with pytest.raises(UsageError, match="do not belong together"):
        extend(base(tmp_path / "c", spare=-9), Domain(), SETTINGS, folder=tmp_path / "run", seed=1, progress=quiet)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.slow
def test_the_packaged_model_learns_words_of_the_enhancement_proposals(
    tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    """The real 49,152 tokens: it saves on held-out proposals, nothing gets longer, and it still speaks."""
    from eval.data.texts import read_texts

    texts = read_texts(shared_data("corpus_peps/peps.jsonl.gz")).documents

    @dataclass(frozen=True)
    class Proposals(Domain):
        def texts(self, part: Any = "train") -> Any:
            from domain_words import Document

            for number, text in enumerate(texts):
                if (number % 10 == 0) == (part == "held_out") and number % 3 == 0:
                    yield Document(text.id, text.text)

        def count(self, part: Any) -> int:
            return sum(1 for _ in self.texts(part))

    try:
        packaged = packaged_model()
    except MissingError as error:
        pytest.skip(str(error))
    from eval.models.language_models import load_parts, locate

    model, words, _ = load_parts(locate(str(packaged)), cache=tmp_path)
    start = save(tmp_path / "base", model, words)
    settings = Vocabulary(tokens=250, least_saving=0.0, warm=None, words_at_most=5)
    result = extend(start, Proposals(), settings, folder=tmp_path / "run", seed=1, progress=quiet)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["tokens_added"] == 250 and report["first_id"] == 49_152
    assert report["never_longer"]["strange"]["longer"] == 0
    assert 0.04 < report["saving"]["held_out"] < report["saving"]["train"] * 1.1
    assert {" CPython", " PEP", "typing", " this PEP", ", but"} <= {term["text"] for term in report["found"]["terms"]}
    new = load_language_model(str(result), cache=tmp_path)
    ids = new.encode("CPython, pip and typing. 中文")
    assert max(ids) >= 49_152 and len(new.logprobs([ids])[0]) == len(ids)
    assert encode(load(result), "<|im_start|>user") == encode(load(start), "<|im_start|>user")
    assert len(candidates(Proposals().texts(), load(result), settings).terms) > 0  # it can be extended once more
