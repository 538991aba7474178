"""A model, or an adapter merged into its base → a folder as the hub has it, with a card that says what is known."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_exports import TEMPLATE, made_adapter, made_model, tokenizer_of

from adapt.export.hf_folder import copy_adapter, copy_model, merge
from adapt.export.model_card import model_card
from adapt.export.new_folder import new_folder
from retrieval.errors import UsageError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_model(tmp_path_factory.mktemp("base") / "base", "llama", tokenizer_of("smollm"))


def logprobs(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.tensor([[30, 31, 32, 33, 34]])).logits[0].float().log_softmax(-1)


def divergence(one: Any, other: Any) -> float:
    """KL, on average over the places, in nats."""
    return float((one.exp() * (one - other)).sum(-1).mean())


@pytest.mark.parametrize("held", [None, "nf4"])
def test_the_merged_model_is_the_base_under_its_adapter(base: Path, tmp_path: Path, held: str | None) -> None:
    """QLoRA: of the dequantised base. On the original weights the same adapter makes another model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from eval.models.language_models import load_parts, locate

    adapter = made_adapter(base, tmp_path / "lora")
    out = tmp_path / "out"
    out.mkdir()
    merge(base, adapter, out, held=held, cache=tmp_path / "cache")
    found = logprobs(AutoModelForCausalLM.from_pretrained(out))
    if held:
        trained, _, _ = load_parts(locate(str(base)), cache=tmp_path / "cache", precision="nf4")
        trained = trained.dequantize().float()
    else:
        trained = AutoModelForCausalLM.from_pretrained(base)
    wanted = logprobs(PeftModel.from_pretrained(trained, str(adapter)))
    assert abs(divergence(wanted, found)) < 1e-5
    plain = logprobs(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)))
    assert (divergence(plain, found) > 1e-4) == (held is not None)
    assert divergence(logprobs(AutoModelForCausalLM.from_pretrained(base)), found) > 1e-2
    assert AutoTokenizer.from_pretrained(out).chat_template == TEMPLATE


def test_an_adapter_of_another_base_or_kind_is_not_merged(base: Path, tmp_path: Path) -> None:
    other = made_model(tmp_path / "other", "llama", tokenizer_of("smollm"), seed=5)
    adapter = made_adapter(base, tmp_path / "lora")
    with pytest.raises(UsageError, match="was trained on .* has other weights"):
        merge(other, adapter, tmp_path, held=None, cache=tmp_path / "cache")
    said = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(said | {"peft_type": "PREFIX_TUNING"}))
    with pytest.raises(UsageError, match="PREFIX_TUNING cannot be merged"):
        merge(base, adapter, tmp_path, held=None, cache=tmp_path / "cache")


def test_a_copied_model_is_the_same_bit_for_bit_and_clean(base: Path, tmp_path: Path) -> None:
    (base / "trainer.log").write_text("x")
    (base / "manifest.json").write_text("{}")
    (base / "base.F16.gguf").write_text("x")
    with new_folder(tmp_path / "out") as made:
        copy_model(base, made, card="card")
    found = {file.name for file in (tmp_path / "out").iterdir()}
    assert found == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    for name in found - {"README.md"}:
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()


def test_a_folder_that_holds_something_is_not_written_over_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(UsageError, match="is there already"), new_folder(tmp_path / "full"):
        raise AssertionError("it must not come here")
    with pytest.raises(OSError, match="full disk"), new_folder(tmp_path / "out") as made:
        (made / "half").write_text("x")
        raise OSError("full disk")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_copied_adapter_names_its_base_and_no_folder_of_this_machine(base: Path, tmp_path: Path) -> None:
    adapter = made_adapter(base, tmp_path / "lora")
    with new_folder(tmp_path / "out") as made:
        copy_adapter(adapter, made, base="owner/base", card="card")
    said = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == "owner/base" and said["r"] == 4
    for file in (tmp_path / "out").glob("*.json"):
        assert str(base) not in file.read_text(), file.name
    weights = "adapter_model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (adapter / weights).read_bytes()


def test_the_card_says_what_is_known_and_nothing_that_a_stranger_wrote_acts() -> None:
    manifest = {
        "name": "medical",
        "created": "2026-01-02",
        "fathom": "0.1.0",
        "sha256": "c0" * 32,
        "base": {"name": "packaged", "sha256": "ba5e" * 16, "held": "nf4"},
        "stages": [{"name": "dapt", "kind": "dapt", "sha256": "57a6e" * 12}],
        "data": {"domain|x": "da7a" * 16},
        "metrics": {
            "domain bits_per_byte": {
                "value": 1.0123, "low": 0.9, "high": 1.1, "base": 1.1, "change": -0.0797, "relative": True,
            },
            "nothing": {"value": None},
        },
        "gates": [{"passed": False, "said": "it <script>rose</script>\n# head"}],
        "prompts": {"answer": 2},
    }  # fmt: skip
    card = model_card(manifest, use=["vllm serve medical"], notes=["merged"], licence="apache-2.0")
    for words in (
        "license: apache-2.0",
        "# medical",
        "`packaged`, SHA-256 `ba5eba5e",
        "NF4",
        "| domain bits\\_per\\_byte | 1.1000 | 1.0123 | 0.9000 … 1.1000 | -7.97% |",
        "| domain\\|x | `da7a",
        "crossed: it \\<script\\>rose\\</script\\> \\# head",
        "answer: version 2",
        "vllm serve medical",
    ):
        assert words in card, words
    assert "\n# head" not in card and "nothing" not in card
    bare = model_card({"name": "x", "base": {"name": "y"}}, use=[], licence="evil\nlibrary_name: z")
    assert "license:" not in bare and "evil" not in bare and "not known to Fathom" in bare
    for absent in ("## Figures", "## Gates", "## Texts", "## How to run it"):
        assert absent not in bare
