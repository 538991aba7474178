"""What is measured around a chat turn: both sides do the same work, the page's events are found. No clock is judged."""

import json
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import build
from app.commands.evaluation import turns
from app.settings import load_settings
from eval.speed import chat_turn, searching
from eval.speed.chat_clients import Tabs, client_of, events_of, inputs_of, through_api
from eval.speed.chat_server import Chatting, chatting, questions_for, started, workspace_with
from eval.speed.chat_turn import answer_of, same_work
from eval.speed.chat_users import bursts, figures_of
from eval.speed.scripted_engine import MARK, words_for
from eval.speed.turn_overhead import AT_ONCE, through_the_api
from retrieval.embedding.load import EmbeddingSettings
from retrieval.errors import FathomError, MissingError
from retrieval.passages import Document

NOTES = [
    Document(
        f"{name}.txt",
        f"The {name} engine needs {oil} of oil. Its filter is cleaned with hot water every {weeks} weeks.",
    )
    for name, oil, weeks in (("diesel", "nine litres", "six"), ("steam", "no drop", "two"), ("petrol", "a cup", "ten"))
]


def test_sides_that_read_or_wrote_differently_are_not_compared() -> None:
    same_work({"prompt_tokens": 150, "new_tokens": 8}, {"prompt_tokens": 150, "new_tokens": 8}, 8)
    with pytest.raises(FathomError, match="prompt_tokens is 150 here and 151 in llama.cpp"):
        same_work({"prompt_tokens": 150, "new_tokens": 8}, {"prompt_tokens": 151, "new_tokens": 8}, 8)
    with pytest.raises(FathomError, match="6 tokens were written instead of 8"):
        same_work({"prompt_tokens": 150, "new_tokens": 6}, {"prompt_tokens": 150, "new_tokens": 6}, 8)


def test_a_comparison_becomes_figures_with_their_targets() -> None:
    sides = {
        "first_token_ms": (600.0, 6000.0), "prompt_tokens_per_second": (2500.0, 250.0), "load_s": (3.0, 0.1),
        "decode_tokens_per_second": (80.0, 100.0), "total_ms": (2000.0, 7000.0), "peak_mb": (600.0, 300.0),
    }  # fmt: skip
    figures = chat_turn.figures_of({name: {"ours": ours, "peer": peer} for name, (ours, peer) in sides.items()}, "turn")
    by_name = {figure.what: figure for figure in figures}
    assert by_name["turn: whole turn, times as fast as llama.cpp"].value == 3.5
    assert by_name["turn: writing, share of llama.cpp's"].value == 0.8
    assert by_name["turn: writing, share of llama.cpp's"].reached is False
    assert by_name["turn: first token, embedded engine"].reached is True
    assert by_name["turn: first token, llama.cpp"].target is None


def test_without_llama_cpp_the_command_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match=r"eval\.baselines\.install llama-cpp"):
        chat_turn.measure(work=tmp_path)


def test_what_a_side_said_before_it_failed_is_told() -> None:
    with pytest.raises(FathomError, match="turns ended with exit code 2: (.|\n)*--workspace"):
        answer_of([chat_turn.OURS, "turns"])


@pytest.mark.slow
def test_prompts_are_answered_at_full_length_and_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded_at_hand: Callable[[Path], None]
) -> None:
    embedded_at_hand(tmp_path / "cache")
    llm: Any = build.engine(load_settings(tmp_path, environment={}))
    monkeypatch.setattr(turns, "engine_of", lambda options: llm)
    made = turns.prompts(Namespace(tokens=150, count=2, seed=0, new_tokens=6))["prompts"]
    assert len(made) == 2 and made[0] != made[1] and all("<|im_start|>assistant" in text for text in made)
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(made))
    found = turns.turns(Namespace(prompts=file, new_tokens=6))
    assert found["figures"]["new_tokens"] == 6 and 130 <= found["figures"]["prompt_tokens"] <= 170
    assert len(found["turns"]) == 1 and found["figures"]["total_ms"] > found["figures"]["first_token_ms"] > 0
    llm.close()


def test_the_scripted_engine_says_a_sentence_that_the_question_does_not_hold() -> None:
    prompt = (
        'Passages:\n\n<passage number="1" title="a">\n'
        "Tides come twice. The moon pulls at every single sea.\n</passage 1>"
        '\n\n<passage number="2" title="b">\n茶。\n</passage 2>\n\nQuestion: Tides come twice.\nAnswer.'
    )
    said = words_for(prompt, 9)
    assert "".join(said) == f"{MARK} The moon pulls at every single sea."
    assert words_for("no passage", 3) == [MARK, " nothing", "."]


def test_the_pages_events_are_found_as_the_browser_finds_them() -> None:
    page: dict[str, Any] = {
        "components": [
            {"id": 1, "type": "textbox", "props": {"elem_id": "question", "value": ""}},
            {"id": 2, "type": "dropdown", "props": {"elem_id": "collection", "value": None}},
            {"id": 3, "type": "dropdown", "props": {"elem_id": "k", "value": 8}},
            {"id": 4, "type": "state", "props": {"value": "secret"}},
            {"id": 5, "type": "textbox", "props": {"elem_id": "other"}},
        ],
        "dependencies": [
            {"id": 0, "targets": [[9, "load"]], "inputs": []},
            {"id": 1, "targets": [[5, "submit"]], "inputs": [5]},
            {"id": 2, "targets": [[1, "submit"]], "inputs": [1, 2, 3, 4]},
        ],
    }
    (submit,) = events_of(page, "question", "submit")
    assert submit["id"] == 2 and [event["id"] for event in events_of(page, None, "load")] == [0]
    assert inputs_of(page, submit, {"question": "Why?", "collection": "sea"}) == ["Why?", "sea", 8, None]


def test_what_does_not_start_is_told_with_its_last_words() -> None:
    with pytest.raises(FathomError, match=r"scripted_engine ended; its last words: (.|\n)*invalid int value: 'here'"):
        with started(["eval.speed.scripted_engine", "here"], "http://127.0.0.1:1/", {}):
            pass


def test_a_shelf_is_copied_into_a_workspace_once_and_the_shelf_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shelf = tmp_path / "shelf-3"
    shelf.mkdir()
    (shelf / "catalogue").write_text("three")
    monkeypatch.setattr(searching, "built", lambda size, progress: shelf)
    workspace, name = workspace_with(3)
    assert workspace.is_absolute() and build.collection_names(load_settings(workspace, environment={})) == [name]
    (workspace / "collections" / name / "catalogue").write_text("changed")
    assert workspace_with(3) == (workspace, name) and (shelf / "catalogue").read_text() == "three"
    assert (workspace / "collections" / name / "catalogue").read_text() == "changed"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    # The embedding model is converted once for all workspaces of the tests: another time would take ten seconds.
    (folder / "fathom.toml").write_text(f'[embedding]\ncache = "{EmbeddingSettings().cache_folder()}"\n')
    with build.open_or_create(load_settings(folder, environment={}), "notes", wait=0, doing="testing") as collection:
        collection.add(NOTES)
    return folder


@pytest.fixture(scope="module")
def running(workspace: Path) -> Iterator[Chatting]:
    with chatting(workspace, AT_ONCE, precision=None) as found:
        yield found


@pytest.mark.slow
def test_a_question_through_the_running_chat_has_its_times_whichever_way_it_is_asked(
    workspace: Path, running: Chatting
) -> None:
    questions = questions_for(workspace, "notes", 5)
    assert len(questions) == 3 and "litres" in " ".join(questions)
    with client_of(running.page) as client:
        tabs = Tabs(client, "notes", MARK)
        tabs.open(1)
        for ask in (through_api(client, "notes"), tabs.ask, tabs.ask):
            asked = ask(questions[0], threading.Event())
            assert asked.first is not None and 0 < asked.first <= asked.total
        with pytest.raises(FathomError, match="404"):
            through_api(client, "nowhere")(questions[0], threading.Event())
    rows = through_the_api(running.page, running.engine, "notes", [*questions, questions[0]])
    (row,) = rows  # the others warmed up
    assert row["overhead_ms"] == row["answer_ms"] - row["engine_ms"]
    assert httpx.get(f"{running.engine}/last").json()["messages"][-1]["role"] == "user"


@pytest.mark.slow
def test_an_answer_is_compared_with_its_engine_alone_on_the_same_messages(workspace: Path, running: Chatting) -> None:
    file = workspace / "asked.json"
    file.write_text(json.dumps(questions_for(workspace, "notes", 3)))
    engine = {"url": f"{running.engine}/v1", "threads": None, "model": None, "precision": None}
    options = Namespace(workspace=workspace, collection="notes", prompts=file, warm_up=1, **engine)
    found = turns.overhead(options)
    assert len(found["rows"]) == 2 and found["without_text"] == 0
    assert all(row["answer_ms"] > 0 and row["first_token"] > 0 for row in found["rows"])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["page", "api"])
def test_users_at_once_become_errors_and_percentiles(workspace: Path, running: Chatting, way: Any) -> None:
    rows = bursts(running, "notes", questions_for(workspace, "notes", 3), way, users=2, rounds=1, repeats=2)
    assert [(row["requests"], row["errors"], row["problems"]) for row in rows] == [(2, 0, [])] * 2
    figures = {figure.what: figure for figure in figures_of("two", rows)}
    assert figures["two, errors of 4"].value == 0 and figures["two, errors of 4"].reached is True
    first, total = figures["two, first token p95"], figures["two, whole answer p95"]
    assert 0 < first.value <= total.value and first.unit == "s" and first.target == 3.0
