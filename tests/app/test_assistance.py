"""The words of [assist] and of --rewrite, --rerank, --history: what they reach, and what they say in JSON and words."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_llm import ScriptedLLM
from typer.testing import CliRunner

from app import build
from app.assistance import Assistance, LoadedLate
from app.cli import app
from app.settings import load_settings
from retrieval.answering import Finished
from retrieval.errors import MissingError, UsageError
from retrieval.finding import FindSettings
from retrieval.passages import Hit
from retrieval.rewriting.planning import Planning
from retrieval.rewriting.plans import Condensing, Unavailable, WithPrevious

Fathom = Callable[..., Any]
HISTORY = [{"role": "user", "content": "What are spring tides?"}, {"role": "assistant", "content": "High tides."}]
TEXTS = {
    "tides.txt": "Tides\n\nTides are caused by the moon. Spring tides come at full moon.\n",
    "pump.md": "# Dosing pump\n\nReplace the membrane after 4,000 hours of operation.\n",
    "茶.txt": "绿茶不经过发酵。水温应该在八十度左右。\n",
}


@pytest.fixture
def fathom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashing_embedder: Any) -> Fathom:
    """Runs a command over three small files; the embedding model, the engine and the reranker are fakes."""
    monkeypatch.setenv("FATHOM_ANSWER_LEAST_CONFIDENCE", "0.0")
    monkeypatch.setenv("FATHOM_ASSIST_REWRITE_SECONDS", "120")
    monkeypatch.setenv("FATHOM_ASSIST_RERANK_SECONDS", "120")
    monkeypatch.setattr("retrieval.embedding.load.load_embedder", lambda settings: hashing_embedder)
    llm = ScriptedLLM(say=lambda prompt: "And what causes spring tides?")
    monkeypatch.setattr(ScriptedLLM, "close", lambda self: None, raising=False)
    monkeypatch.setattr(build, "engine_named", lambda settings, name: llm)

    def shortest_name(query: str, hits: list[Hit]) -> list[float]:
        return [-float(len(hit.source.uri)) for hit in hits]

    def named(settings: Any, word: str, llm: Any, *, seconds: float) -> Any:
        assert 60.0 < seconds < 120.0, "it ends before nothing of it counts"
        return shortest_name

    monkeypatch.setattr("app.rerankers.reranker_named", named)
    (tmp_path / "shelf").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "shelf" / name).write_text(text, encoding="utf-8")
    (tmp_path / "history.json").write_text(json.dumps(HISTORY))

    def call(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--workspace", str(tmp_path / "w")])
        assert result.exit_code == code, result.output
        return result

    call("index", "sync", str(tmp_path / "shelf"))
    return call


def test_a_search_can_follow_a_conversation_and_tells_its_steps(fathom: Fathom, tmp_path: Path) -> None:
    asked = ("search", "And what causes them?", "--history", str(tmp_path / "history.json"))
    told = json.loads(fathom(*asked, "--steps", "--json").stdout)
    assert told["queries"] == ["And what causes them?", "What are spring tides? And what causes them?"]
    assert told["standalone"] == told["queries"][1]
    first = json.loads(fathom(*asked, "--rerank", "none", "--json").stdout)[0]
    assert first["document"] == "tides.txt"
    assert [(step["step"], step["did"]) for step in told["steps"]] == [
        ("rewrite", "with_previous"),
        ("search", "searched"),
        ("rerank", "reranked"),
    ]
    assert json.loads(fathom(*asked, "--json").stdout) == told["hits"]  # the bare list is what it always was
    shown = fathom(*asked, "--rewrite", "none").stderr
    assert "searched for" not in shown
    assert "searched for: And what causes them?  |  What are spring tides?" in fathom(*asked).stderr


def test_an_engine_rewords_and_a_reranker_reorders(fathom: Fathom, tmp_path: Path) -> None:
    asked = ("search", "And what causes them?", "--history", str(tmp_path / "history.json"), "--rewrite", "E")
    told = json.loads(fathom(*asked, "--rerank", "R", "--steps", "--json").stdout)
    assert told["queries"] == ["And what causes spring tides?"]
    assert [(step["step"], step["did"], step["skipped"]) for step in told["steps"]] == [
        ("rewrite", "condensed", ""),
        ("search", "searched", ""),
        ("rerank", "reranked", ""),
    ]
    assert [hit["document"] for hit in told["hits"]] == ["茶.txt", "pump.md", "tides.txt"]
    assert told["hits"][0]["scores"]["rerank"] == -5.0 and told["timings"]["rerank"] >= 0
    shown = fathom(*asked, "--rerank", "R").stderr
    assert "rewrite: reworded so that it stands alone" in shown and "rerank: reranked: 3 passages" in shown
    alone = fathom("search", "tides", "--rewrite", "E").stderr
    assert "rewrite: searched as asked — nothing was said before" in alone


def test_an_answer_tells_the_same_steps(fathom: Fathom, tmp_path: Path) -> None:
    asked = ("ask", "And what causes them?", "--quote", "--history", str(tmp_path / "history.json"))
    told = json.loads(fathom(*asked, "--rewrite", "E", "--rerank", "R", "--json").stdout)
    assert told["standalone"] == "And what causes spring tides?" and told["queries"] == [told["standalone"]]
    assert [step["step"] for step in told["steps"]] == ["rewrite", "search", "rerank"]
    assert {"search", "rerank", "total"} <= set(told["timings"])
    assert "Spring tides come at full moon." in told["answer"]
    without = json.loads(fathom(*asked, "--rewrite", "none", "--json").stdout)
    assert without["queries"] == ["And what causes them?"] == [without["standalone"]]


def test_a_rewriter_that_is_not_there_is_said_at_once_where_it_was_asked_for(
    fathom: Fathom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(settings: Any, name: str | None) -> Any:
        raise UsageError(f"no engine '{name}'")

    monkeypatch.setattr(build, "engine_named", missing)
    assert "no engine 'nonsense'" in fathom("search", "tides", "--rewrite", "nonsense", code=2).stderr
    assert "rerank_depth is a number" in fathom_with(monkeypatch, fathom, "FATHOM_ASSIST_RERANK_DEPTH", "0").stderr


def fathom_with(monkeypatch: pytest.MonkeyPatch, fathom: Fathom, name: str, value: str) -> Any:
    monkeypatch.setenv(name, value)
    return fathom("search", "tides", code=2)


def test_settings_are_the_dataclass_of_finding_and_a_file_may_choose(tmp_path: Path) -> None:
    assert load_settings(tmp_path).assist == FindSettings()
    (tmp_path / "fathom.toml").write_text('[assist]\nrewriter = "model"\nexpand = true\nleast_relevance = 0.3\n')
    assert load_settings(tmp_path).assist == FindSettings(rewriter="model", expand=True, least_relevance=0.3)


def test_without_an_engine_a_model_rewriter_says_so_and_with_one_it_plans(tmp_path: Path) -> None:
    settings = replace(load_settings(tmp_path), assist=FindSettings(rewriter="model", passage=True))
    lacking = Assistance(settings).planner(None)
    assert isinstance(lacking, Unavailable) and isinstance(lacking.error, MissingError)
    with pytest.raises(MissingError, match="no language model"):
        Assistance(settings).planner(None, strict=True)
    planning = Assistance(settings).planner(ScriptedLLM(say=lambda prompt: ""))
    assert isinstance(planning, Planning) and planning.passage
    assert isinstance(Assistance(load_settings(tmp_path)).planner(None), WithPrevious)
    plain = ScriptedLLM(say=lambda prompt: "")
    assert isinstance(Assistance(load_settings(tmp_path)).planner(plain), WithPrevious)
    off = replace(load_settings(tmp_path), assist=FindSettings(reranker="none"))
    assert Assistance(off).reranker() is None


def test_a_reranker_that_is_not_there_keeps_nobody_from_searching_unless_it_was_asked_for(
    fathom: Fathom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(settings: Any, word: str, llm: Any, *, seconds: float) -> Any:
        raise MissingError(f"the reranker '{word}' is not on this machine")

    monkeypatch.setattr("app.rerankers.reranker_named", missing)
    told = json.loads(fathom("search", "tides", "--steps", "--json").stdout)
    assert told["hits"][0]["document"] == "tides.txt"
    assert told["steps"][-1]["skipped"] == "no_engine" and "not on this machine" in str(told["steps"][-1])
    assert "not on this machine" in fathom("search", "tides", "--rerank", "R", code=1).stderr


def test_quotations_follow_a_conversation_by_the_engines_adapter(fathom: Fathom, tmp_path: Path) -> None:
    class Rewrites(ScriptedLLM):
        roles: tuple[str, ...] = ("rewriter",)

        def under(self, role: str) -> Any:
            return ScriptedLLM(say=lambda prompt: "What causes spring tides?")

    settings = load_settings(tmp_path / "w")
    llm = Rewrites(say=lambda prompt: "not asked")
    with build.open_collection(settings, None) as opened:
        events = build.answer_events(settings, opened, "And what causes them?", llm=llm, quote=True, history=HISTORY)
        *_, finished = events
    assert isinstance(finished, Finished) and finished.answer.model == "quote"
    assert finished.answer.queries == ("What causes spring tides?",) and not llm.asked


def test_another_engine_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str | None] = []

    def engine(settings: Any, name: str | None) -> Any:
        opened.append(name)
        return ScriptedLLM(say=lambda prompt: "")

    monkeypatch.setattr(build, "engine_named", engine)
    assistance = Assistance(replace(load_settings(tmp_path), assist=FindSettings(rewriter="http://h/v1#rewriter")))
    assert isinstance(assistance.planner(), Condensing) and isinstance(assistance.planner(), Condensing)
    assert opened == ["http://h/v1#rewriter"]


def test_a_reranker_is_loaded_at_its_first_use_and_tells_then_whether_it_is_calibrated() -> None:
    loads: list[int] = []

    class Calibrated:
        calibrated = True

        def __call__(self, query: str, hits: list[Hit]) -> list[float]:
            return [0.5] * len(hits)

    def load() -> Any:
        loads.append(1)
        return Calibrated()

    late = LoadedLate(load)
    assert not late.calibrated and not loads
    assert late("q", []) == [] and late("q", []) == [] and late.calibrated and len(loads) == 1


def test_the_folder_of_an_adapter_is_the_packaged_model_under_it(tmp_path: Path) -> None:
    folder = tmp_path / "rewriter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    settings = load_settings(tmp_path)
    for word, kind in ((str(folder), "embedded"), (f"local:{folder}", "local"), (f"embedded:{folder}", "embedded")):
        chosen = build.engine_settings(settings, word)
        assert (chosen.name, chosen.model, chosen.adapter) == (kind, None, folder)
    local = replace(settings, engine=replace(settings.engine, name="local"))
    assert build.engine_settings(local, str(folder)).name == "local"
