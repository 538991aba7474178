"""LoRA in the embedded engine: the same text as through transformers, or a sentence why not."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_tokenizer, llama, save

from adapt.export.openvino_folder import write_graph as export
from app.engines import loading
from app.engines.embedded import EmbeddedModel, open_embedded
from app.engines.local import LocalModel, open_local
from app.engines.openvino_adapter import strengths
from app.engines.speaker import Manners, Speaker
from retrieval.errors import DamagedError, MissingError, UsageError

PROMPTS = ("the cat sat", "水温", "dog sat on")
PLAIN = Manners(max_new_tokens=8, repetition_penalty=1.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny model for transformers ("tiny"), exported ("openvino"), and a LoRA adapter of strength 4 ("lora")."""
    place = tmp_path_factory.mktemp("models")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
    tiny = save(place / "tiny", llama(tokenizer), tokenizer)
    return {
        "tiny": tiny,
        "openvino": export(llama(tokenizer), tokenizer, place / "openvino"),
        "lora": adapter(tiny, place / "lora", r=4, lora_alpha=16),
    }


def adapter(base: Path, to: Path, **options: Any) -> Path:
    """An adapter with random numbers in it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(base))
    torch.manual_seed(3)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **options))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight += 0.15 * torch.randn_like(weight)
    adapted.save_pretrained(to)
    return to


def texts(speaker: Speaker) -> list[str]:
    """What it writes, without the half characters that random weights love."""
    return ["".join(piece.text for piece in speaker.pieces(prompt, {})).rstrip("\ufffd") for prompt in PROMPTS]


def test_an_adapter_does_in_openvino_what_it_does_in_transformers(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Random weights go another way after a few tokens in bf16, or with keys and values in 8 bits as they come.
    exact = partial(loading._pipeline, INFERENCE_PRECISION_HINT="f32", KV_CACHE_PRECISION="f32")
    monkeypatch.setattr(loading, "_pipeline", exact)
    found = {}
    for lora in (None, models["lora"]):
        theirs = open_local(LocalModel(str(models["tiny"]), adapter=lora, device="cpu"), PLAIN)
        ours = open_embedded(EmbeddedModel(models["openvino"], adapter=lora), PLAIN)
        assert ours.name == ("openvino + lora" if lora else "openvino") and ours.context_window == 48
        found[lora] = texts(ours)
        assert found[lora] == texts(theirs)
    assert found[None] != found[models["lora"]]


def test_an_adapter_that_would_do_something_else_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    def refusal(place: Path, **changed: Any) -> str:
        if changed:
            config = json.loads((place / "adapter_config.json").read_text())
            (place / "adapter_config.json").write_text(json.dumps(config | changed))
        with pytest.raises((UsageError, DamagedError, MissingError)) as caught:
            open_embedded(EmbeddedModel(models["openvino"], adapter=place), PLAIN)
        return str(caught.value)

    copy = shutil.copytree(models["lora"], tmp_path / "copy")
    assert "a strength of its own for each part" in refusal(copy, alpha_pattern={"q_proj": 3})
    assert "does not say r and lora_alpha" in refusal(copy, alpha_pattern={}, r=0)
    whole = adapter(models["tiny"], tmp_path / "whole", modules_to_save=["lm_head"])
    assert "LoRA matrices and nothing else" in refusal(whole)
    deep = llama(byte_tokenizer())
    deep.model.layers.append(llama(byte_tokenizer()).model.layers[0])
    deep.config.num_hidden_layers = 3
    deep.config.layer_types = None
    other = adapter(save(tmp_path / "deep", deep, byte_tokenizer()), tmp_path / "other")
    words = refusal(other)
    assert "would change nothing" in words and "7 of its 21 parts have no place there" in words
    assert "model.layers.2" in words and 'name = "local"' in words
    assert "is no adapter" in refusal(models["tiny"])
    (copy / "adapter_model.safetensors").write_bytes(b"no")
    assert "is no safetensors file" in refusal(copy)
    broken = shutil.copytree(models["openvino"], tmp_path / "broken")
    (broken / "openvino_model.xml").write_text("<net><layer")
    with pytest.raises(DamagedError, match="is not the graph of a model"):
        loading.require_loadable(broken, models["lora"])


def test_the_strength_follows_rank_stabilisation(models: dict[str, Path], tmp_path: Path) -> None:
    stable = adapter(models["tiny"], tmp_path / "stable", r=4, lora_alpha=16, use_rslora=True)
    assert strengths(models["openvino"], [models["lora"], stable]) == [4.0, 8.0]
