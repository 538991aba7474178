"""Adapters as entries of the registry: on their own base, found by its hash, and on no other."""

import json
import shutil
from pathlib import Path

import pytest
from made_exports import greedy, made_adapter, made_model, tokenizer_of

from adapt.adapters import adapters_on, base_of, held, register_adapter, require_base_of
from adapt.registry import Entry, find, register, registered, remove, verify
from eval.models.language_models import load_parts, locate
from retrieval.errors import DamagedError, MissingError, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, another model of the same sizes, and an adapter of the first."""
    place = tmp_path_factory.mktemp("made")
    tokenizer = tokenizer_of("smollm")
    base = made_model(place / "base", "llama", tokenizer)
    other = made_model(place / "other", "llama", tokenizer, seed=4)
    return {"base": base, "other": other, "lora": made_adapter(base, place / "lora")}


@pytest.fixture
def models(tmp_path: Path, made: dict[str, Path]) -> Path:
    models = tmp_path / "models"
    register(models, "base", made["base"], {"base": {"name": "scratch"}})
    return models


def adapter(models: Path, made: dict[str, Path], *, kept: str | None = None) -> Entry:
    return register_adapter(models, "legal", made["lora"], base="base", held=kept, manifest={"prompts": {"answer": 3}})


def test_an_adapter_is_an_entry_that_knows_its_base(models: Path, made: dict[str, Path], tmp_path: Path) -> None:
    entry = adapter(models, made, kept="nf4")
    assert entry.is_adapter and not find(models, "base").is_adapter
    assert entry.manifest["base"]["name"] == "base" and len(entry.manifest["base"]["sha256"]) == 64
    assert entry.manifest["prompts"] == {"answer": 3} and held(entry) == "nf4"
    assert verify(entry) == [] and [one.name for one in registered(models)] == ["base", "legal"]
    assert base_of(models, entry, cache=tmp_path / "c") == ("base", models / "base")
    assert [one.name for one in adapters_on(models, "base")] == ["legal"]
    assert adapter(models, made, kept="nf4").name == "legal", "the same files again are no new entry"


def test_the_base_is_found_by_its_hash_whatever_it_is_called(
    models: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    entry = adapter(models, made)
    remove(models, "base")
    with pytest.raises(MissingError, match="'legal' belongs to 'base' .* which is not here"):
        base_of(models, entry, cache=tmp_path / "c")
    register(models, "renamed", made["base"], {})
    assert base_of(models, entry, cache=tmp_path / "c")[0] == "renamed"
    remove(models, "renamed")
    register(models, "base", made["other"], {})
    with pytest.raises(UsageError, match="the model of that name has other weights"):
        base_of(models, entry, cache=tmp_path / "c")


def test_an_adapter_is_refused_on_a_model_of_the_same_sizes(
    models: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    entry = adapter(models, made)
    require_base_of(entry, made["base"], "base", cache=tmp_path / "c")
    with pytest.raises(UsageError, match="'legal' was trained on .* run it on its own base"):
        require_base_of(entry, made["other"], "other", cache=tmp_path / "c")
    with pytest.raises(UsageError, match="was trained on .* and 'other' has other weights"):
        load_parts(locate(str(made["other"]), entry.folder), cache=tmp_path / "c")
    ids = [30, 31, 32, 33]
    plain, _, _ = load_parts(locate(str(made["base"])), cache=tmp_path / "c")
    under, _, _ = load_parts(locate(str(made["base"]), entry.folder), cache=tmp_path / "c")
    assert greedy(plain, ids, 8) != greedy(under, ids, 8)


def test_a_folder_that_names_no_base_is_not_registered(models: Path, made: dict[str, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(made["lora"], bare)
    (bare / "fathom.json").unlink()
    with pytest.raises(UsageError, match="names its base by hash"):
        register_adapter(models, "bare", bare, base="base", held=None, manifest={})
    (bare / "fathom.json").write_text(json.dumps({"base_sha256": 3}))
    with pytest.raises(DamagedError, match="does not say which base"):
        register_adapter(models, "bare", bare, base="base", held=None, manifest={})
    with pytest.raises(UsageError, match="names its base by hash"):
        register_adapter(models, "whole", made["base"], base="base", held=None, manifest={})
    assert [one.name for one in registered(models)] == ["base"]
