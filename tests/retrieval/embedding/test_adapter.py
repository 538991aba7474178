"""An adapter on an embedding model: the vectors are peft's own, and what is no adapter of this model is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_embedders import save_adapter

from retrieval.embedding import conversion
from retrieval.embedding.adapter import keep_copy, kept_in, read_adapter
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.load import EmbeddingSettings, load_embedder
from retrieval.embedding.loader import EmbedderLoader
from retrieval.embedding.probes import least_cosine
from retrieval.errors import DamagedError, MismatchError, MissingError, UsageError

TEXTS = ["tides are caused by the moon", "潮汐 由 月亮 引起", "bread needs flour , water and salt"]


def settings(model: Path, cache: Path, adapter: Path | None = None, **more: Any) -> EmbeddingSettings:
    return EmbeddingSettings(
        model=str(model), adapter=adapter, device="cpu", precision="fp32", threads=1, cache=cache, **more
    )


@pytest.fixture(scope="module")
def adapter(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapters") / "one", small_model)


@pytest.fixture(scope="module")
def tuned(small_model: Path, adapter: Path, cache: Path) -> Embedder:
    return load_embedder(settings(small_model, cache, adapter))


def test_its_vectors_are_those_of_peft_on_the_same_model(small_model: Path, adapter: Path, tuned: Embedder) -> None:
    from peft import PeftModel
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(small_model), device="cpu")
    stock = reference.encode(TEXTS, prompt="passage : ", normalize_embeddings=True, show_progress_bar=False)
    PeftModel.from_pretrained(reference[0].auto_model, str(adapter))
    expected = reference.encode(TEXTS, prompt="passage : ", normalize_embeddings=True, show_progress_bar=False)
    found = tuned.embed_passages(TEXTS)
    assert least_cosine(found, np.asarray(expected)) > 0.99999
    assert least_cosine(found, np.asarray(stock)) < 0.99, "the adapter must change something here"


def test_torch_and_openvino_give_the_same(small_model: Path, adapter: Path, tuned: Embedder, cache: Path) -> None:
    other = load_embedder(settings(small_model, cache, adapter, backend="torch"))
    assert (tuned.backend, other.backend) == ("openvino-fp32", "torch-cpu-fp32")
    assert least_cosine(tuned.embed_passages(TEXTS), other.embed_passages(TEXTS)) > 0.99999


def test_the_fingerprint_tells_the_model_under_each_adapter(
    small_model: Path, adapter: Path, tuned: Embedder, cache: Path, tmp_path: Path
) -> None:
    stock = load_embedder(settings(small_model, cache))
    other = load_embedder(settings(small_model, cache, save_adapter(tmp_path / "two", small_model, seed=1)))
    copy = shutil.copytree(adapter, tmp_path / "copy")
    again = load_embedder(settings(small_model, cache, copy))
    weights = [one.fingerprint.weights for one in (stock, tuned, other)]
    assert len(set(weights)) == 3
    assert again.fingerprint == tuned.fingerprint, "the same adapter elsewhere is the same"
    assert "adapter" in tuned.fingerprint.model


def test_it_is_converted_once(
    small_model: Path, adapter: Path, tuned: Embedder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(conversion, "_convert", never)
    again = load_embedder(settings(small_model, cache, adapter))
    assert np.allclose(again.embed_passages(TEXTS), tuned.embed_passages(TEXTS))


def test_one_loader_holds_a_model_for_each_adapter(
    small_model: Path, adapter: Path, tuned: Embedder, cache: Path, tmp_path: Path
) -> None:
    loader = EmbedderLoader(settings(small_model, cache))
    copy = shutil.copytree(adapter, tmp_path / "copy")
    assert loader() is loader() is loader.under(None)()
    assert loader.under(adapter)() is loader.under(copy)(), "copies of one adapter share a model"
    assert loader.under(adapter)().fingerprint.weights == tuned.fingerprint.weights != loader().fingerprint.weights


def test_an_adapter_of_another_model_is_refused_by_hash(
    adapter: Path, save_model: Any, tmp_path: Path, cache: Path
) -> None:
    other = save_model(tmp_path, "bert", pooling="cls")
    with pytest.raises(MismatchError, match="was trained on 'small'.*reembed --adapter none"):
        load_embedder(settings(other, cache, adapter))


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        ({"use_dora": True}, UsageError, "use_dora"),
        ({"use_rslora": True}, UsageError, "use_rslora"),
        ({"peft_type": "IA3"}, UsageError, "peft_type"),
        ({"rank_pattern": {"query": 4}}, UsageError, "rank_pattern"),
        ({"megatron_config": {"x": 1}}, UsageError, "megatron_config"),
        ({"r": 0}, DamagedError, "rank"),
        ({"lora_alpha": float("nan")}, DamagedError, "lora_alpha"),
        ({"role": "reranker"}, UsageError, "another purpose"),
    ],
)
def test_what_is_not_plain_lora_for_embedding_is_refused(
    config: dict[str, Any], error: type[Exception], said: str, small_model: Path, tmp_path: Path
) -> None:
    folder = save_adapter(tmp_path / "bad", small_model, **config)
    with pytest.raises(error, match=said):
        read_adapter(folder)


def test_a_folder_that_is_none_is_told(small_model: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="fathom adapt run"):
        read_adapter(tmp_path / "nothing")
    for name in ("adapter_model.safetensors", "adapter_config.json", "fathom.json"):
        copy = shutil.copytree(adapter, tmp_path / name)
        (copy / name).unlink()
        with pytest.raises(MissingError, match=name):
            read_adapter(copy)
        (copy / name).write_bytes(b"\x80\x04 no")
        with pytest.raises(DamagedError):
            load_embedder(settings(small_model, tmp_path / "cache", copy))


@pytest.mark.parametrize("change", ["shape", "name", "half", "infinite"])
def test_matrices_that_do_not_fit_are_refused(change: str, small_model: Path, adapter: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(adapter, tmp_path / "copy")
    tensors = load_file(copy / "adapter_model.safetensors")
    key = next(key for key in tensors if "lora_A" in key)
    if change == "shape":
        tensors[key] = torch.ones(2, 31)
    elif change == "infinite":
        tensors[key] = tensors[key] * float("inf")
    else:
        value = tensors.pop(key)
        if change == "name":
            tensors[key.replace("layer.0", "layer.7")] = value
            other = key.replace("lora_A", "lora_B")
            tensors[other.replace("layer.0", "layer.7")] = tensors.pop(other)
    save_file(tensors, copy / "adapter_model.safetensors")
    with pytest.raises(DamagedError, match=r"fit|does not have|half|finite"):
        load_embedder(settings(small_model, tmp_path / "cache", copy, backend="torch"))


def test_a_kept_copy_that_changed_is_told(adapter: Path, tmp_path: Path) -> None:
    assert kept_in(tmp_path) is None
    keep_copy(adapter, tmp_path)
    kept = kept_in(tmp_path)
    assert kept is not None and read_adapter(kept).sha256 == read_adapter(adapter).sha256
    about = json.loads((kept / "fathom.json").read_text())
    (kept / "fathom.json").write_text(json.dumps({**about, "base": "other"}))
    with pytest.raises(DamagedError, match="not what was stored"):
        kept_in(tmp_path)


def test_the_setting_is_one_of_the_embedding_section(adapter: Path) -> None:
    assert replace(EmbeddingSettings(), adapter=adapter).adapter == adapter
