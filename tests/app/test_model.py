"""`fathom model …`, and a registered model's name wherever an engine is named: it answers, once with real weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_exports import made_adapter, made_model, tokenizer_of
from tiny_models import byte_tokenizer, llama, save

from adapt.adapters import register_adapter
from adapt.registry import Entry, register
from app.build import engine_settings
from app.settings import load_settings
from retrieval.errors import UsageError

Fathom = Callable[..., Any]
FIGURE = {
    "value": 1.0123,
    "low": 0.9,
    "high": 1.1,
    "base": 1.1,
    "change": -0.0797,
    "change_low": -0.09,
    "change_high": -0.07,
    "relative": True,
    "worse": False,
}
MANIFEST: dict[str, Any] = {
    "base": {"name": "packaged", "sha256": "ba5e" * 16},
    "recipe": {"name": "smoke", "sha256": "4ec1" * 16},
    "data": {"domain": "da7a" * 16},
    "stages": [
        {"name": "vocabulary", "kind": "vocabulary", "sha256": "0123" * 16},
        {"name": "dapt", "kind": "dapt", "sha256": "4567" * 16},
    ],
    "metrics": {"domain bits_per_byte": FIGURE, "general bits_per_byte": {**FIGURE, "change": 0.02, "worse": True}},
    "gates": [
        {"gate": "g", "passed": True, "value": -0.08, "said": "domain bits_per_byte fell by 7.97 %"},
        {"gate": "g", "passed": False, "value": 0.02, "said": "general bits_per_byte rose \x1b[2J by 2.00 %"},
    ],
}


@pytest.fixture
def medical(tmp_path: Path) -> Entry:
    """A registered model that can chat, of a few thousand random weights."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.content }}{% endfor %}</s>"
    model = llama(tokenizer)
    model.config.max_position_embeddings = 4096  # positions are computed, not looked up
    folder = save(tmp_path / "made", model, tokenizer)
    return register(tmp_path / "w" / "models", "medical", folder, MANIFEST)


def test_models_are_listed_with_their_lineage_and_figures(fathom: Fathom, medical: Entry) -> None:
    (one,) = json.loads(fathom("model", "list", "--json").stdout)
    assert (one["name"], one["base"], one["stages"]) == ("medical", "packaged", ["vocabulary", "dapt"])
    assert one["metrics"] == MANIFEST["metrics"] and one["damage"] is None and one["bytes"] > 10_000
    heading, row = fathom("model", "list").stdout.splitlines()
    assert heading.split("\t")[:5] == ["name", "made", "base", "kind", "stages"]
    assert "vocabulary → dapt" in row and "domain bits_per_byte -7.97%" in row


def test_a_workspace_without_models_says_how_they_are_made(fathom: Fathom) -> None:
    assert "fathom adapt run" in fathom("model", "list").output
    assert json.loads(fathom("model", "list", "--json").stdout) == []
    assert "there is none yet" in fathom("model", "show", "medical", code=1).output


def test_a_model_is_shown_with_stages_figures_and_gates(fathom: Fathom, medical: Entry) -> None:
    said = fathom("model", "show", "medical").stdout
    for words in (
        "packaged ba5eba5eba5e",
        "smoke 4ec1",
        "data domain da7a",
        "1.0123",
        "-7.97%",
        "worse",
        "kept",
        "crossed",
    ):
        assert words in said, words
    assert "\x1b" not in said
    found = json.loads(fathom("model", "show", "medical", "--json").stdout)
    assert found["stages"] == MANIFEST["stages"] and found["files"] == dict(medical.manifest["files"])
    assert "did you mean 'medical'" in fathom("model", "show", "medcal", code=1).output


def test_a_manifest_that_anyone_could_have_written_is_shown_all_the_same(fathom: Fathom, medical: Entry) -> None:
    strange = {
        "base": 1,
        "recipe": [],
        "data": "x",
        "stages": [1, {"name": ["x"]}],
        "metrics": {"a": 1, "b": {"value": "x"}},
    }
    said = json.loads((medical.folder / "manifest.json").read_text())
    (medical.folder / "manifest.json").write_text(json.dumps(said | strange | {"gates": {"a": 1}}))
    for command in ("list", "show medical", "list --json", "show medical --json", "verify"):
        fathom("model", *command.split())


def test_a_changed_file_is_found_and_the_model_can_be_removed(fathom: Fathom, medical: Entry) -> None:
    assert "whole" in fathom("model", "verify").stdout
    (medical.folder / "config.json").write_text("{}")
    found = json.loads(fathom("model", "verify", "medical", "--json", code=1).stdout)
    assert found["models"] == {"medical": ["config.json is not what was registered"]}
    assert "--yes" in fathom("model", "remove", "medical", code=2).output
    assert medical.folder.is_dir()
    assert json.loads(fathom("model", "remove", "medical", "--yes", "--json").stdout) == {"removed": "medical"}
    assert not medical.folder.exists()
    assert fathom("model", "remove", "medical", "--yes", code=1)


def test_a_registered_name_is_the_local_engine_on_its_folder(
    medical: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = medical.folder.parents[1]
    plain = load_settings(workspace, environment={})
    for ours in (
        load_settings(workspace, environment={"FATHOM_ENGINE_MODEL": "medical"}).engine,
        load_settings(workspace, environment={}, flags={"engine": {"model": Path("medical")}}).engine,
        load_settings(workspace, environment={}, flags={"engine": {"model": Path("medical")}}, profile="laptop").engine,
        engine_settings(plain, "medical"),
        engine_settings(plain, "local:medical"),
    ):
        assert (ours.name, ours.model) == ("local", medical.folder)
    (tmp_path / "medical").mkdir()
    monkeypatch.chdir(tmp_path)
    assert engine_settings(plain, "medical").model == medical.folder, "a folder of that name here changes nothing"
    server = load_settings(
        workspace, environment={"FATHOM_ENGINE_URL": "http://127.0.0.1:1/v1", "FATHOM_ENGINE_MODEL": "medical"}
    )
    assert (server.engine.name, server.engine.model) == ("server", Path("medical")), "a server has names of its own"
    with pytest.raises(UsageError, match="the name of a registered model"):
        engine_settings(plain, "medcal")


def test_the_settings_file_may_name_a_registered_model(medical: Entry) -> None:
    workspace = medical.folder.parents[1]
    (workspace / "fathom.toml").write_text('[engine]\nmodel = "medical"\n')
    assert load_settings(workspace, environment={}).engine.model == medical.folder


def test_the_language_of_a_registered_model_is_measured_by_its_name(
    fathom: Fathom, medical: Entry, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat")
    arguments = ("eval", "language", "--on", str(tmp_path / "text.txt"), "--model", "medical", "--json")
    found = json.loads(fathom(*arguments).stdout)
    assert found["extras"]["model"]["name"] == "medical"


def test_a_suite_names_a_registered_model_too(fathom: Fathom, medical: Entry, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat")
    suite = tmp_path / "suite.yaml"
    suite.write_text("parts: {costs: {kind: language, texts: [text.txt], model: medical}}\n")
    found = json.loads(fathom("eval", "run", str(suite), "--json").stdout)
    assert found["run"]["suite"]["parts"]["costs"]["model"] == str(medical.folder)
    assert found["parts"]["costs"]["metrics"]["bits_per_byte"] > 0
    suite.write_text("parts: {costs: {kind: language, texts: [text.txt], model: medcal}}\n")
    assert "medcal" in fathom("eval", "run", str(suite), code=2).output


def test_an_exported_model_is_run_by_the_embedded_engine(fathom: Fathom, medical: Entry, tmp_path: Path) -> None:
    plain = load_settings(medical.folder.parents[1], environment={})
    assert "is one of q8_0, f16, q4_0, q4_1" in fathom("model", "export", "medical", "--kind", "q3", code=2).output
    (tmp_path / "taken").write_text("x")
    assert "cannot be written" in fathom("model", "export", "medical", "--out", str(tmp_path / "taken"), code=2).output
    aside = json.loads(fathom("model", "export", "medical", "--out", str(tmp_path / "m.gguf"), "--json").stdout)
    assert aside["bytes"] == (tmp_path / "m.gguf").stat().st_size and aside["not_embedded"] is None
    assert engine_settings(plain, "medical").name == "local", "an export elsewhere is not the model's"
    file = medical.folder / "medical.F16.gguf"
    assert str(file) in fathom("model", "export", "medical", "--kind", "F16").output
    assert "whole" in fathom("model", "verify").stdout
    ours = engine_settings(plain, "medical")
    assert (ours.name, ours.model) == ("embedded", file)
    ours = load_settings(medical.folder.parents[1], environment={"FATHOM_ENGINE_MODEL": "medical"}).engine
    assert (ours.name, ours.model) == ("embedded", file)
    ours = engine_settings(plain, "local:medical")
    assert (ours.name, ours.model) == ("local", medical.folder), "who asks for the local engine gets it"


def test_a_file_that_the_embedded_engine_must_not_run_is_not_what_it_gets(fathom: Fathom, tmp_path: Path) -> None:
    folder = made_model(tmp_path / "made", "llama", tokenizer_of("llama-bpe"))
    entry = register(tmp_path / "w" / "models", "three", folder, MANIFEST)
    told = json.loads(fathom("model", "export", "three", "--json").stdout)
    assert "splits text otherwise" in told["not_embedded"] and "llama.cpp runs it" in told["notes"][0]
    plain = load_settings(tmp_path / "w", environment={})
    assert engine_settings(plain, "three").name == "local"
    assert fathom("model", "verify", "three") and entry.folder.joinpath("three.Q8_0.gguf").is_file()


def test_a_model_is_exported_in_every_form_with_a_card(fathom: Fathom, medical: Entry, tmp_path: Path) -> None:
    exports = tmp_path / "w" / "exports"
    for form in ("hf", "vllm", "openvino"):
        told = json.loads(fathom("model", "export", "medical", "--to", form, "--json").stdout)
        assert Path(told["out"]) == exports / f"medical-{form}"
        card = (exports / f"medical-{form}" / "README.md").read_text()
        assert "# medical" in card and "license: apache-2.0" in card, "the packaged model's own"
    assert (exports / "medical-openvino" / "openvino_model.xml").is_file()
    assert (exports / "medical-hf" / "model.safetensors").read_bytes() == (
        medical.folder / "model.safetensors"
    ).read_bytes()
    assert f"vllm serve {exports / 'medical-vllm'} --served-model-name medical" == json.loads(
        fathom("model", "export", "medical", "--to", "vllm", "--out", str(tmp_path / "v"), "--json").stdout
    )["serve"].replace(str(tmp_path / "v"), str(exports / "medical-vllm"))
    assert "is there already" in fathom("model", "export", "medical", "--to", "hf", code=2).output
    nowhere = fathom("model", "export", "medical", "--to", "gguf", "--out", "/proc/none/m.gguf", code=2).output
    assert "nothing can be written in '/proc/none'" in nowhere
    assert "--to is one of hf, gguf" in fathom("model", "export", "medical", "--to", "onnx", code=2).output
    assert "--kind is for gguf" in fathom("model", "export", "medical", "--to", "hf", "--kind", "f16", code=2).output


def test_a_registered_adapter_is_listed_run_on_its_base_and_exported_merged(
    fathom: Fathom, medical: Entry, tmp_path: Path
) -> None:
    models = medical.folder.parent
    lora = made_adapter(medical.folder, tmp_path / "lora")
    adapter = register_adapter(models, "legal", lora, base="medical", held="nf4", manifest=MANIFEST)
    rows = {one["name"]: one for one in json.loads(fathom("model", "list", "--json").stdout)}
    assert (rows["legal"]["kind"], rows["legal"]["base"], rows["medical"]["kind"]) == ("adapter", "medical", "model")
    said = fathom("model", "show", "legal").stdout
    assert "adapter" in said and "held in 4 bits while the adapter learnt" in said
    assert "adapters on it: legal" in fathom("model", "show", "medical").stdout
    assert "whole" in fathom("model", "verify", "legal").stdout
    plain = load_settings(tmp_path / "w", environment={})
    for ours in (
        engine_settings(plain, "legal"),
        load_settings(tmp_path / "w", environment={"FATHOM_ENGINE_ADAPTER": "legal"}).engine,
    ):
        assert (ours.name, ours.model, ours.adapter) == ("local", medical.folder, adapter.folder)
        assert ours.precision == "nf4", "as it was when the adapter learnt"
    with pytest.raises(UsageError, match="cannot go on top of it"):
        load_settings(tmp_path / "w", environment={"FATHOM_ENGINE_MODEL": "legal", "FATHOM_ENGINE_ADAPTER": "legal"})
    told = json.loads(fathom("model", "export", "legal", "--to", "vllm", "--json").stdout)
    assert told["serve"].startswith(f"vllm serve {medical.folder} --served-model-name medical --enable-lora")
    assert told["serve"].endswith(f"--max-lora-rank 8 --lora-modules legal={told['out']}")
    assert "in 4 bits (QLoRA)" in told["notes"][0]
    config = json.loads((Path(told["out"]) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "medical"
    fathom("model", "remove", "medical", "--yes")
    assert "which is not here" in fathom("model", "export", "legal", "--to", "hf", code=1).output


@pytest.mark.slow
def test_a_registered_model_answers_by_its_name(
    fathom: Fathom, medical: Entry, tmp_path: Path, hashing_embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights write nonsense, which the passages do not bear out, so that the answer is a quotation in the end;
    that they wrote it is what the name of the model says."""
    monkeypatch.setenv("FATHOM_ANSWER_LEAST_CONFIDENCE", "0.02")
    monkeypatch.setenv("FATHOM_ENGINE_MAX_NEW_TOKENS", "8")
    monkeypatch.setattr("retrieval.embedding.load.load_embedder", lambda settings: hashing_embedder)
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "tides.txt").write_text("Tides\n\nTides are caused by the moon.\n")
    fathom("index", "sync", str(tmp_path / "shelf"))
    for engine in ("local", "embedded"):
        if engine == "embedded":
            fathom("model", "export", "medical", "--kind", "f16")
        answer = json.loads(fathom("ask", "What causes tides?", "--model", "medical", "--json").stdout)
        assert answer["model"].startswith("medical"), answer["model"]
        assert answer["timings"]["completion_tokens"] > 0, engine
