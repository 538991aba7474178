"""Folders of safetensors → named models that are whole or not there, and never something else than what was said."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapt import registry
from adapt.registry import Entry, add_export, find, is_registered, model_name, register, registered, remove, verify
from retrieval.errors import DamagedError, FathomError, MissingError, UsageError

MANIFEST: dict[str, Any] = {
    "base": {"name": "packaged", "sha256": "b" * 64},
    "recipe": {"name": "smoke", "sha256": "r" * 64},
    "stages": [{"name": "dapt", "sha256": "s" * 64}],
}


def made(folder: Path, weight: float = 1.0, **files: str) -> Path:
    folder.mkdir(parents=True)
    save_file({"weight": np.full((2, 2), weight, dtype=np.float32)}, folder / "model.safetensors")
    for name, text in {"config.json": "{}", "tokenizer.json": "{}", **files}.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def names(models: Path) -> list[str]:
    return [entry.name for entry in registered(models)]


def test_a_model_is_registered_with_where_it_comes_from_and_the_hash_of_each_file(models: Path, tmp_path: Path) -> None:
    source = made(tmp_path / "result", **{"chat_template.jinja": "x", "trainer.log": "kept out", "notes.md": "too"})
    entry = register(models, "medical", source, {**MANIFEST, "name": "another", "files": {"evil": "x"}})
    assert entry.folder == models / "medical"
    assert set(entry.manifest["files"]) == {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"}
    assert {file.name for file in entry.folder.iterdir()} == {*entry.manifest["files"], "manifest.json"}
    assert entry.manifest["base"] == MANIFEST["base"] and entry.manifest["name"] == "medical"
    assert entry.manifest["created"] and entry.manifest["fathom"]
    assert find(models, "medical") == entry == registered(models)[0]
    assert verify(entry) == [] and is_registered(models, "medical")
    assert entry.bytes > 100


def test_what_is_written_to_the_source_later_does_not_reach_the_registered_model(models: Path, tmp_path: Path) -> None:
    source = made(tmp_path / "result")
    entry = register(models, "medical", source, MANIFEST)
    with (source / "model.safetensors").open("r+b") as file:  # as a resumed stage that saves in place
        file.truncate(3)
    assert verify(entry) == []


def test_the_same_model_again_is_no_new_one_and_another_gets_a_number(models: Path, tmp_path: Path) -> None:
    first = register(models, "medical", made(tmp_path / "a"), MANIFEST)
    assert register(models, "medical", made(tmp_path / "b"), {**MANIFEST, "metrics": 1}) == first
    second = register(models, "medical", made(tmp_path / "c", 2.0), MANIFEST)
    third = register(models, "medical", made(tmp_path / "d", 3.0), MANIFEST)
    assert (second.name, third.name) == ("medical-2", "medical-3")
    assert second.manifest["name"] == "medical-2"
    assert register(models, "medical", tmp_path / "c", MANIFEST).name == "medical-2"
    assert names(models) == ["medical", "medical-2", "medical-3"]
    remove(models, "medical-2")
    assert register(models, "medical", tmp_path / "c", MANIFEST).name == "medical-2", "a free number is used again"


def test_a_damaged_namesake_does_not_stand_for_the_model(models: Path, tmp_path: Path) -> None:
    source = made(tmp_path / "a")
    entry = register(models, "medical", source, MANIFEST)
    (entry.folder / "config.json").write_text('{"changed": true}')
    assert register(models, "medical", source, MANIFEST).name == "medical-2"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../up",
        "a/b",
        "/abs",
        "a\\b",
        ".hidden",
        "a\0b",
        "a b",
        "x" * 61,
        "m.gguf",
        "end.",
        "-v",
        "local",
    ],
)
def test_a_name_that_is_a_path_or_a_word_of_fathom_is_refused(models: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        register(models, name, made(tmp_path / "a"), MANIFEST)
    with pytest.raises(FathomError):
        find(models, name)
    assert not models.exists() and not is_registered(models, name)


def test_a_name_may_be_chinese_and_is_one_in_either_spelling(models: Path, tmp_path: Path) -> None:
    register(models, "医学-模型", made(tmp_path / "a"), MANIFEST)
    register(models, "cafe\u0301", made(tmp_path / "b", 2.0), MANIFEST)
    assert names(models) == ["café", "医学-模型"]
    assert find(models, "cafe\u0301").name == find(models, "café").name == model_name("cafe\u0301")


@pytest.mark.parametrize("extra", ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "x.pkl"])
def test_nothing_that_is_registered_is_a_pickle(models: Path, tmp_path: Path, extra: str) -> None:
    with pytest.raises(UsageError, match="may run code"):
        register(models, "medical", made(tmp_path / "a", **{extra: "cos\nsystem"}), MANIFEST)
    assert names(models) == []


def test_a_folder_that_is_no_whole_model_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no folder"):
        register(models, "m", tmp_path / "nowhere", MANIFEST)
    half = made(tmp_path / "half")
    (half / "model.safetensors").write_bytes((half / "model.safetensors").read_bytes()[:-4])
    with pytest.raises(DamagedError, match="no whole safetensors"):
        register(models, "m", half, MANIFEST)
    mute = made(tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    with pytest.raises(MissingError, match="no tokenizer"):
        register(models, "m", mute, MANIFEST)
    coded = made(tmp_path / "coded", **{"config.json": '{"auto_map": {"AutoModel": "evil.Model"}}'})
    with pytest.raises(UsageError, match="its own code"):
        register(models, "m", coded, MANIFEST)
    linked = made(tmp_path / "linked")
    (tmp_path / "outside.json").write_text("{}")
    (linked / "config.json").unlink()
    (linked / "config.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(UsageError, match="link out of its folder"):
        register(models, "m", linked, MANIFEST)
    assert names(models) == []


def test_a_full_disk_leaves_nothing_half_registered(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made(tmp_path / "a")
    copy = shutil.copyfile

    def full(one: Any, other: Any) -> Any:
        if Path(one).name == "tokenizer.json":
            raise OSError(28, "No space left on device")
        return copy(one, other)

    monkeypatch.setattr(registry.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        register(models, "medical", source, MANIFEST)
    assert list(models.iterdir()) == []


def test_a_kill_before_the_last_step_leaves_no_model_and_its_rest_is_cleared_later(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made(tmp_path / "a")
    with monkeypatch.context() as patched:
        patched.setattr(registry.os, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patched.setattr(registry.shutil, "rmtree", lambda *_, **__: None)  # a kill cleans nothing
        with pytest.raises(KeyboardInterrupt):
            register(models, "medical", source, MANIFEST)
    (left,) = models.iterdir()
    assert names(models) == []
    os.utime(left, (0, 0))
    register(models, "medical", source, MANIFEST)
    assert [entry.name for entry in models.iterdir()] == ["medical"]


def test_what_was_changed_after_it_was_registered_is_told(models: Path, tmp_path: Path) -> None:
    def broken(number: int) -> Entry:
        return register(models, "m", made(tmp_path / f"{number}", float(number)), MANIFEST)

    first, second, third, fourth = map(broken, range(4))
    with (first.folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    (second.folder / "tokenizer.json").unlink()
    (third.folder / "extra.bin").write_text("x")
    said = json.loads((fourth.folder / "manifest.json").read_text())
    said["files"]["config.json"] = "0" * 64
    (fourth.folder / "manifest.json").write_text(json.dumps(said))
    assert verify(first) == ["model.safetensors is not what was registered"]
    assert verify(second) == ["tokenizer.json is missing"]
    assert verify(third) == ["extra.bin was not registered"]
    assert verify(find(models, fourth.name)) == ["config.json is not what was registered"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"format": 99}', '{"format": 1, "sha256": "x", "files": {"../a": "x"}}', "[" * 100_000]
)
def test_a_manifest_that_is_none_is_listed_as_damaged_and_can_be_removed(
    models: Path, tmp_path: Path, text: str
) -> None:
    register(models, "good", made(tmp_path / "a"), MANIFEST)
    bad = register(models, "bad", made(tmp_path / "b", 2.0), MANIFEST)
    (bad.folder / "manifest.json").write_text(text)
    assert [(entry.name, entry.damage is None) for entry in registered(models)] == [("bad", False), ("good", True)]
    with pytest.raises(DamagedError, match="register again"):
        find(models, "bad")
    remove(models, "bad")
    assert names(models) == ["good"] and [entry.name for entry in models.iterdir()] == ["good"]


def test_a_model_that_is_not_there_is_asked_for_by_the_nearest_name(models: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="there is none yet"):
        find(models, "medical")
    register(models, "medical", made(tmp_path / "a"), MANIFEST)
    with pytest.raises(MissingError, match="did you mean 'medical'"):
        find(models, "medcal")
    with pytest.raises(MissingError):
        remove(models, "medcal")
    (models / "link").symlink_to(models / "medical")
    assert names(models) == ["medical"] and not is_registered(models, "link")


def test_an_export_belongs_to_the_model_without_changing_what_it_is(models: Path, tmp_path: Path) -> None:
    source = made(tmp_path / "a")
    entry = register(models, "medical", source, {**MANIFEST, "exports": {"../evil": "x"}})
    assert entry.gguf is None and "exports" not in entry.manifest
    for name in ("medical.Q8_0.gguf", "medical.F16.gguf"):
        (entry.folder / name).write_bytes(b"GGUF" + name.encode())
        assert verify(find(models, "medical")) == [f"{name} was not registered"]
        add_export(find(models, "medical"), entry.folder / name)
    found = find(models, "medical")
    assert found.gguf == entry.folder / "medical.F16.gguf" and found.sha256 == entry.sha256
    assert verify(found) == [] and register(models, "medical", source, MANIFEST) == found
    (entry.folder / "medical.F16.gguf").write_bytes(b"GGUF!")
    assert verify(found) == ["medical.F16.gguf is not what was registered"]
