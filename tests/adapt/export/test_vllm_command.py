"""A registered model and its adapters → the flags of vLLM, or why they cannot be served so."""

import json
import shutil
from pathlib import Path

import pytest
from made_exports import made_adapter, made_model, tokenizer_of

from adapt.adapters import register_adapter
from adapt.export.vllm_command import plan_serving
from adapt.registry import register
from retrieval.errors import MissingError, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("made")
    tokenizer = tokenizer_of("smollm")
    base = made_model(place / "base", "llama", tokenizer)
    return {
        "base": base,
        "other": made_model(place / "other", "llama", tokenizer, seed=4),
        "legal": made_adapter(base, place / "legal", r=4),
        "medical": made_adapter(base, place / "medical", r=12, seed=5),
        "dora": made_adapter(base, place / "dora", use_dora=True),
    }


@pytest.fixture
def models(tmp_path: Path, made: dict[str, Path]) -> Path:
    models = tmp_path / "models"
    for name in ("base", "other"):
        register(models, name, made[name], {})
    for name in ("legal", "medical", "dora"):
        register_adapter(models, name, made[name], base="base", held=None, manifest={})
    return models


def taught(made: dict[str, Path], to: Path, template: str, eos: int | None = None) -> Path:
    """The adapter "legal" as if it had been trained with another chat template."""
    shutil.copytree(made["legal"], to)
    (to / "chat_template.jinja").write_text(template)
    if eos is not None:
        (to / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    return to


def test_a_model_is_served_under_its_name_and_adapters_under_theirs(models: Path, tmp_path: Path) -> None:
    plan = plan_serving(models, "base", ["legal", "medical"], cache=tmp_path / "c")
    assert plan.model == models / "base"
    words = plan.flags(host="127.0.0.1", port=8000, max_model_len=256)
    assert " ".join(words) == (
        "--served-model-name base --host 127.0.0.1 --port 8000 --max-model-len 256 --enable-lora --max-loras 3 "
        f"--max-lora-rank 16 --lora-modules legal={models / 'legal'} medical={models / 'medical'}"
    )
    assert "--enable-lora" not in plan_serving(models, "other", cache=tmp_path / "c").flags()


def test_an_adapter_may_be_a_folder_or_one_that_comes_with_the_model(
    models: Path, made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = made_adapter(made["base"], tmp_path / "rewriter", seed=6)
    monkeypatch.setattr("adapt.export.vllm_command.packaged_adapters", lambda: {"rewriter": shipped})
    plan = plan_serving(models, "base", ["rewriter", str(made["medical"]), "legal"], cache=tmp_path / "c")
    assert plan.adapters == {"rewriter": shipped, "medical": made["medical"], "legal": models / "legal"}
    assert plan_serving(models, "base", ["packaged", "legal"], cache=tmp_path / "c").adapters == {
        "rewriter": shipped,
        "legal": models / "legal",
    }
    with pytest.raises(UsageError, match="'rewriter' was trained on 'base'"):
        plan_serving(models, "other", ["rewriter"], cache=tmp_path / "c")


def test_an_adapter_is_served_on_its_base(models: Path, tmp_path: Path) -> None:
    plan = plan_serving(models, "medical", ["legal"], cache=tmp_path / "c")
    assert (plan.name, list(plan.adapters)) == ("base", ["medical", "legal"])


def test_what_cannot_be_served_is_refused_by_name(models: Path, tmp_path: Path) -> None:
    cache = tmp_path / "c"
    with pytest.raises(UsageError, match="'legal' was trained on .* and 'other' has other weights"):
        plan_serving(models, "other", ["legal"], cache=cache)
    with pytest.raises(UsageError, match="refuse the adapter 'dora': it is a DoRA adapter"):
        plan_serving(models, "base", ["dora"], cache=cache)
    with pytest.raises(UsageError, match="'other' is a whole model and no adapter"):
        plan_serving(models, "base", ["other"], cache=cache)
    with pytest.raises(MissingError, match="did you mean 'legal'"):
        plan_serving(models, "base", ["lega"], cache=cache)
    with pytest.raises(MissingError, match="no model 'nothing'"):
        plan_serving(models, "nothing", cache=cache)


def test_the_chat_template_that_was_trained_is_the_one_served(
    models: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    folder = taught(made, tmp_path / "taught", "{{ messages }}", eos=1)
    entry = register_adapter(models, "taught", folder, base="base", held=None, manifest={})
    plan = plan_serving(models, "base", ["taught"], cache=tmp_path / "c")
    assert plan.template == str(entry.folder / "chat_template.jinja") and plan.generation == entry.folder
    assert "the chat template is that of 'taught'" in plan.notes[0]
    moved = plan.on("taught", Path("/elsewhere"))
    assert moved.template == "/elsewhere/chat_template.jinja" and moved.generation == Path("/elsewhere")
    assert moved.adapters == {"taught": Path("/elsewhere")}
    with pytest.raises(UsageError, match="different chat templates"):
        plan_serving(models, "base", ["taught", "legal"], cache=tmp_path / "c")


def test_an_adapter_that_learnt_on_four_bits_is_served_with_a_remark(
    models: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(made["legal"], tmp_path / "q")
    (tmp_path / "q" / "special_tokens_map.json").write_text("{}")  # other files, or it would be "legal" again
    register_adapter(models, "qlora", tmp_path / "q", base="base", held="nf4", manifest={})
    (note,) = plan_serving(models, "base", ["qlora"], cache=tmp_path / "c").notes
    assert "learnt on 'base' in 4 bits" in note


def test_signs_in_a_path_do_not_become_other_flags(made: dict[str, Path], tmp_path: Path) -> None:
    models = tmp_path / "a=b,c" / "models"
    register(models, "base", made["base"], {})
    entry = register_adapter(models, "legal", made["legal"], base="base", held=None, manifest={})
    words = plan_serving(models, "base", ["legal"], cache=tmp_path / "c").flags()
    assert json.loads(words[-1]) == {"name": "legal", "path": str(entry.folder)}
