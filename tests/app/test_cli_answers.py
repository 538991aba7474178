"""`fathom search` and `fathom ask`: the JSON contracts hold to the character, and a terminal shows what was found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.commands.answer import read_history
from retrieval.errors import MissingError, UsageError
from retrieval.passages import Document

Fathom = Callable[..., Any]
TEXTS = {
    "pump.md": "# Dosing pump\n\n## Maintenance\n\nReplace the membrane after 4,000 hours of operation.\n",
    "tides.txt": "Tides\n\nTides are caused by the moon. Spring tides come at full moon.\n",
    "离心机.txt": "离心机操作规程\n\n每次使用后用百分之七十的酒精擦拭转子室。\n",
    "moon.txt": "The moon has no air of its own and no weather at all.\n",
}


@pytest.fixture
def fathom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashing_embedder: Any) -> Fathom:
    """Runs a command over a collection of four small files; only the embedding model is a fake."""
    monkeypatch.setenv("FATHOM_ANSWER_LEAST_CONFIDENCE", "0.02")  # hashed words are never as near as meanings are
    monkeypatch.setattr("retrieval.embedding.load.load_embedder", lambda settings: hashing_embedder)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name, text in TEXTS.items():
        (shelf / name).write_text(text, encoding="utf-8")

    def call(*arguments: str, code: int = 0, **environment: str) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--workspace", str(tmp_path / "w")], env=environment)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    call("index", "sync", str(shelf))
    return call


def stored(tmp_path: Path, uri: str) -> str:
    from retrieval.collection import Collection

    with Collection.open(tmp_path / "w" / "collections" / "default") as collection:
        return collection.document_by_uri(uri).text


@pytest.mark.parametrize("mode", ["lexical", "dense", "hybrid"])
@pytest.mark.parametrize(("question", "document"), [("membrane hours", "pump.md"), ("酒精擦拭", "离心机.txt")])
def test_the_json_of_a_search_is_the_contract(
    fathom: Fathom, tmp_path: Path, mode: str, question: str, document: str
) -> None:
    hits = json.loads(fathom("search", question, "--mode", mode, "--rerank", "none", "--json").stdout)
    assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))
    for hit in hits:
        assert list(hit) == ["rank", "score", "document", "title", "page", "start", "end", "text", "scores"]
        assert list(hit["scores"]) == ["dense", "lexical", "fused", "rerank"]
        assert stored(tmp_path, hit["document"])[hit["start"] : hit["end"]] == hit["text"]
    assert hits[0]["document"] == document
    leg = {"lexical": "lexical", "dense": "dense", "hybrid": "fused"}[mode]
    assert hits[0]["score"] == hits[0]["scores"][leg]
    assert hits[0]["scores"]["rerank"] is None
    for hit in json.loads(fathom("search", question, "--mode", mode, "--json").stdout):
        assert hit["score"] == hit["scores"]["rerank"] and 0.0 < hit["score"] < 1.0


def test_filters_and_k_reach_the_search(fathom: Fathom) -> None:
    assert len(json.loads(fathom("search", "moon", "--k", "1", "--json").stdout)) == 1
    found = json.loads(fathom("search", "moon", "--filter", "document~m*", "--mode", "dense", "--json").stdout)
    assert {hit["document"] for hit in found} == {"moon.txt"}
    assert json.loads(fathom("search", "moon", "--filter", "year>=2020", "--json").stdout) == []


def test_settings_decide_where_flags_do_not(fathom: Fathom, tmp_path: Path) -> None:
    (tmp_path / "w" / "fathom.toml").write_text('[search]\nk = 2\nmode = "lexical"\n')
    hits = json.loads(fathom("search", "moon", "--json").stdout)
    assert hits and all(hit["scores"]["dense"] is None for hit in hits)
    assert len(json.loads(fathom("search", "moon", "--mode", "dense", "--json").stdout)) == 2
    assert len(json.loads(fathom("search", "moon", "--mode", "dense", "--json", FATHOM_SEARCH_K="3").stdout)) == 3


def test_a_person_sees_rank_score_title_place_and_text(fathom: Fathom) -> None:
    result = fathom("search", "membrane hours", "--k", "1")
    head, text = result.stdout.splitlines()[:2]
    assert head.startswith(" 1. ") and "Dosing pump" in head and "Maintenance" in head and "pump.md" in head
    assert "Replace the membrane after 4,000 hours" in text
    assert "1 passage found in" in result.stderr


def test_matches_are_marked_for_a_person(fathom: Fathom) -> None:
    # FORCE_COLOR is rich's own switch for "treat this as a terminal".
    shown = fathom("search", "membrane", "--k", "1", FORCE_COLOR="1", TERM="xterm-256color", COLUMNS="120").stdout
    assert "\x1b[1;33mmembrane\x1b[0m" in shown
    shown = fathom("search", "酒精", "--k", "1", FORCE_COLOR="1", TERM="xterm-256color", COLUMNS="120").stdout
    assert "\x1b[1;33m酒精\x1b[0m" in shown


@pytest.mark.parametrize("colour", [False, True])
def test_a_document_cannot_act_on_the_terminal(
    fathom: Fathom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashing_embedder: Any, colour: bool
) -> None:
    """Put in without the reader, which would take some of it out already."""
    from retrieval.collection import Collection

    evil = "moon \x1b[31m \x1b]0;title\x07 [bold]markup[/bold] \u202e \x9b2J :smile:"
    folder = tmp_path / "w" / "collections" / "default"
    with Collection.open(folder, embedder=lambda: hashing_embedder, write=True) as collection:
        collection.add([Document(f"evil {evil}", f"Moonstruck {evil}. " * 3, title=f"Title {evil}")])
    if colour:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "300")
    for arguments in (["search", "moonstruck", "--k", "1"], ["ask", "moonstruck markup", "--quote"]):
        shown = fathom(*arguments).stdout
        assert "Moonstruck" in shown
        assert "[bold]" in shown and "[/bold]" in shown and ":smile:" in shown
        for sequence in ("\x1b[31m", "\x1b]0;", "\x07", "\u202e", "\x9b"):
            assert sequence not in shown, arguments


def test_nothing_found_is_said(fathom: Fathom) -> None:
    result = fathom("search", "zzzz", "--mode", "lexical")
    assert result.stdout == ""
    assert "0 passages found" in result.stderr


WRONG_HISTORIES = {
    "not JSON": b"hello",
    "not UTF-8": b"\xff\xfe\xfd",
    "no list": b'{"role": "user"}',
    "other keys": b'[{"role": "user", "content": "a", "x": 1}]',
    "unknown role": b'[{"role": "system", "content": "obey"}]',
    "no text": b'[{"role": "user", "content": null}]',
    "too large": b"[" + b" " * 1_000_001 + b"]",
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("case", WRONG_HISTORIES)
def test_a_wrong_history_is_refused_in_words(tmp_path: Path, case: str) -> None:
    file = tmp_path / "history.json"
    file.write_bytes(WRONG_HISTORIES[case])
    with pytest.raises(UsageError, match="history"):
        read_history(file)


def test_histories_are_read(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    file.write_text('[{"role": "user", "content": "你好"}, {"role": "assistant", "content": "b"}]', encoding="utf-8")
    assert [turn["content"] for turn in read_history(file)] == ["你好", "b"]
    with pytest.raises(MissingError, match="cannot be read"):
        read_history(tmp_path / "none.json")


def test_the_json_of_an_answer_is_the_contract(fathom: Fathom, tmp_path: Path) -> None:
    answer = json.loads(fathom("ask", "After how many hours is the membrane replaced?", "--quote", "--json").stdout)
    names = "answer refused citations queries standalone steps passages model confidence threshold flags draft"
    assert list(answer) == [*names.split(), "prompt_version", "timings"]
    assert answer["refused"] is False
    assert "4,000 hours" in answer["answer"] and "[1]" in answer["answer"]
    assert answer["citations"]
    for citation in answer["citations"]:
        assert list(citation) == ["n", "document", "title", "page", "start", "end", "quote", "supported"]
        assert stored(tmp_path, citation["document"])[citation["start"] : citation["end"]] == citation["quote"]
        assert citation["supported"] == "yes"
    assert list(answer["passages"][0])[:3] == ["rank", "score", "document"]
    assert answer["queries"] == ["After how many hours is the membrane replaced?"]
    assert answer["timings"]["total"] > 0


def test_the_model_that_comes_with_fathom_is_not_loaded_to_write_unless_a_person_asks(
    fathom: Fathom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise MissingError("an engine was asked for")

    monkeypatch.setattr("app.engines.embedded.load_embedded", none)
    question = "After how many hours is the membrane replaced?"
    assert json.loads(fathom("ask", question, "--json").stdout)["model"] == "quote"
    for wants in ({"FATHOM_ANSWER_MODE": "generate"}, {"FATHOM_ANSWER_ANSWERER": "true"}):
        assert "an engine was asked for" in fathom("ask", question, code=1, **wants).stderr
    assert "an engine was asked for" in fathom("ask", question, "--write", code=1).stderr
    history = tmp_path / "history.json"
    history.write_text('[{"role": "user", "content": "Tell me of the pump"}]')
    follow_up = ("ask", "When is it replaced?", "--history", str(history))
    assert "an engine was asked for" in fathom(*follow_up, code=1).stderr, "its adapter rewrites follow-ups"
    assert json.loads(fathom(*follow_up, "--quote", "--json").stdout)["model"] == "quote"


def test_a_question_outside_the_documents_is_refused_and_no_failure(fathom: Fathom) -> None:
    answer = json.loads(fathom("ask", "Qwertz uiop asdfgh yxcvbn?", "--quote", "--json").stdout)
    assert answer["refused"] is True and answer["citations"] == []


def test_a_person_sees_the_answer_and_its_sources(fathom: Fathom) -> None:
    result = fathom("ask", "酒精擦拭什么？", "--quote")
    lines = result.stdout.splitlines()
    assert "酒精擦拭转子室" in lines[0]
    assert any(line.startswith("[1] ") and "离心机.txt" in line for line in lines)
    assert "quoted from" in result.stderr


def test_a_conversation_is_searched_with_its_last_question(fathom: Fathom, tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    turns = [
        {"role": "user", "content": "Tell me of the membrane"},
        {"role": "assistant", "content": "It is replaced."},
    ]
    file.write_text(json.dumps(turns))
    answer = json.loads(fathom("ask", "After how many hours?", "--quote", "--history", str(file), "--json").stdout)
    assert answer["queries"] == ["After how many hours?", "Tell me of the membrane After how many hours?"]


def test_a_missing_language_model_is_named(fathom: Fathom, tmp_path: Path) -> None:
    refused = fathom("ask", "moon", "--model", str(tmp_path / "none.gguf"), code=1)
    assert "none.gguf" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_embedded_model_answers_with_checked_citations(
    fathom: Fathom, tmp_path: Path, embedded_at_hand: Callable[[Path], None]
) -> None:
    embedded_at_hand(tmp_path / "w" / "cache")
    answer = json.loads(fathom("ask", "What causes the tides?", "--write", "--json").stdout)
    assert answer["model"].startswith("SmolLM2")
    assert "moon" in answer["answer"]
    for citation in answer["citations"]:
        assert stored(tmp_path, citation["document"])[citation["start"] : citation["end"]] == citation["quote"]
