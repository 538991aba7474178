"""Which engine stands behind which word, and who gets to see the key."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.build import adapters_of, engine_named, engine_settings, roles_wanted, writes
from app.engines.embedded import EmbeddedModel
from app.engines.generating import TimeLimits
from app.engines.local import LocalModel
from app.engines.speaker import Manners
from app.settings import EngineSettings, Settings, load_settings
from retrieval.errors import MissingError, UsageError

URL = "http://127.0.0.1:8000/v1"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """What the loaders of the engines were called with, (first argument, the others); no model is loaded."""
    calls: list[tuple[Any, dict[str, Any]]] = []

    def note(first: Any = None, **others: Any) -> str:
        calls.append((first, others))
        return "engine"

    def note_isolated(engine: str, chosen: Any, *, manners: Manners, log: Path, **_: Any) -> str:
        calls.append((engine, {"chosen": chosen, "manners": manners, "log": log}))
        return "engine"

    monkeypatch.setattr("app.engines.server.load_server", note)
    monkeypatch.setattr("app.engines.isolated.load_isolated", note_isolated)
    for place in ("app.engines.embedded.require_loadable", "app.engines.local.locate"):
        monkeypatch.setattr(place, lambda *_, **__: None)
    return calls


def settings(workspace: Path, **variables: str) -> Settings:
    return load_settings(
        workspace, environment={f"FATHOM_ENGINE_{name.upper()}": text for name, text in variables.items()}
    )


SHIPPED = adapters_of(EngineSettings(), roles_wanted(load_settings(Path("none"), environment={})))
"""What the packaged model is loaded with, where nobody says otherwise."""


def test_every_model_writes_but_the_packaged_one_as_it_came_and_a_person_decides(tmp_path: Path) -> None:
    def ours(**sections: dict[str, Any]) -> Settings:
        return load_settings(tmp_path, environment={}, flags=sections)

    assert not writes(ours()) and not writes(ours(engine={"name": "local"}))
    assert writes(ours(answer={"mode": "generate"})) and writes(ours(answer={"answerer": True}))
    server = ours(engine={"url": URL})
    assert writes(server) and not writes(ours(engine={"url": URL}, answer={"mode": "quote"}))
    assert writes(replace(server, engine=engine_settings(server, str(tmp_path))))
    assert not writes(replace(server, engine=engine_settings(server, "embedded")))
    assert writes(ours(engine={"adapter": tmp_path}))


def test_no_word_is_the_engine_of_the_settings(asked: list[Any], tmp_path: Path) -> None:
    engine_named(settings(tmp_path, threads="2", max_new_tokens="9", total_seconds="7"), None)
    first, others = asked.pop()
    assert (first, others["chosen"]) == (
        "embedded",
        EmbeddedModel(cache=tmp_path / "cache", threads=2, adapters=SHIPPED),
    )
    assert others["manners"] == Manners(max_new_tokens=9, limits=TimeLimits(total=7.0))
    assert others["log"] == tmp_path / "logs" / "engine.log"
    ours = settings(tmp_path, url=URL, model="org/base", api_key="sk-1", max_new_tokens="9", concurrency="3")
    for word in (None, "server"):
        engine_named(ours, word)
        assert asked.pop() == (URL, {"model": "org/base", "api_key": "sk-1", "max_new_tokens": 9, "concurrency": 3})


def test_a_word_replaces_the_model_and_leaves_the_rest(asked: list[Any], tmp_path: Path) -> None:
    ours = settings(tmp_path, url=URL, model="base", max_new_tokens="9", threads="2")
    engine_named(ours, "embedded")
    first, others = asked.pop()
    assert (first, others["chosen"]) == (
        "embedded",
        EmbeddedModel(cache=tmp_path / "cache", threads=2, adapters=SHIPPED),
    )
    assert others["manners"] == Manners(max_new_tokens=9)
    for path in (tmp_path, tmp_path / "m.gguf"):
        engine_named(ours, str(path))
        first, others = asked.pop()
        assert (first, others["chosen"].model) == ("embedded", path)
    (tmp_path / "config.json").touch()
    for word, model in ((str(tmp_path), str(tmp_path)), ("local:org/base", "org/base"), ("local", None)):
        engine_named(ours, word)
        first, others = asked.pop()
        assert (first, others["chosen"].model, others["chosen"].threads) == ("local", model, 2)
    engine_named(ours, f"{URL}#tides-v1")
    assert asked.pop() == (URL, {"model": "tides-v1", "api_key": None, "max_new_tokens": 9})
    engine_named(settings(tmp_path, model="/m.gguf"), "embedded")
    assert asked.pop()[1]["chosen"].model == Path("/m.gguf")


def test_the_local_engine_gets_its_device_precision_and_adapter(asked: list[Any], tmp_path: Path) -> None:
    chosen = settings(
        tmp_path, name="local", model="org/m", adapter="a", device="cpu", precision="nf4", download="true"
    )
    engine_named(chosen, None)
    first, others = asked.pop()
    assert (first, others["chosen"]) == (
        "local",
        LocalModel(
            "org/m",
            adapter=Path("a").absolute(),
            cache=tmp_path / "cache" / "evaluation",
            device="cpu",
            precision="nf4",
            download=True,
        ),
    )
    engine_named(chosen, "embedded")
    assert asked.pop()[1]["chosen"] == EmbeddedModel(
        Path("org/m"), adapter=Path("a").absolute(), cache=tmp_path / "cache"
    )


@pytest.mark.parametrize(
    ("word", "key"),
    [
        (f"{URL}#x", "sk-1"),
        ("http://127.0.0.1:8000/other", "sk-1"),
        ("http://127.0.0.1:8001/v1", None),
        ("https://127.0.0.1:8000/v1", None),
        ("http://evil.example/v1", None),
    ],
)
def test_the_key_is_for_one_server(asked: list[Any], tmp_path: Path, word: str, key: str | None) -> None:
    engine_named(settings(tmp_path, url=URL, api_key="sk-1"), word)
    assert asked.pop()[1]["api_key"] == key
    engine_named(settings(tmp_path, api_key="sk-1"), word)
    assert asked.pop()[1]["api_key"] == "sk-1"


def test_words_that_are_no_engine(tmp_path: Path) -> None:
    for word in ("gpt", "", "local:", "ftp://host/v1", str(tmp_path / "nowhere")):
        with pytest.raises(UsageError, match="no engine"):
            engine_named(settings(tmp_path), word)
    with pytest.raises(UsageError, match="no engine 'server'"):
        engine_named(settings(tmp_path), "server")
    with pytest.raises(UsageError, match="holds no name, password or key"):
        engine_named(settings(tmp_path), "http://me:secret@host/v1")
    with pytest.raises(MissingError, match="cannot be opened"):
        engine_named(settings(tmp_path), str(tmp_path / "absent.gguf"))
    with pytest.raises(MissingError, match=r"openvino_model\.xml"):
        engine_named(settings(tmp_path), str(tmp_path))
    with pytest.raises(MissingError, match=r"get it: hf download org/repo-GGUF model-q4\.gguf"):
        engine_named(settings(tmp_path), "org/repo-GGUF/model-q4.gguf")
    with pytest.raises(MissingError, match="there is no model 'nowhere'"):
        engine_named(settings(tmp_path), "local:nowhere")
    with pytest.raises(MissingError, match="is no adapter: it has no adapter_config.json"):
        engine_named(settings(tmp_path, adapter=str(tmp_path)), "embedded")
