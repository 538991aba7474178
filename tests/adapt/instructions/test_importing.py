"""Conversations of known forms become examples; what does not fit is counted by reason and row, nothing is guessed."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from adapt.instructions.example import Example, Message, Review, write_examples
from adapt.instructions.importing import Form, Imported, import_conversations
from adapt.instructions.oasst import Paths
from retrieval.errors import ReadingError, UsageError


def imported(
    folder: Path, rows: list[Any], *, form: Form | None = None, paths: Paths = "best", name: str = "chats.jsonl"
) -> tuple[list[list[tuple[str, str]]], Imported]:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples, into = read([path], form, paths)
    return [[(message.role, message.content) for message in example.messages] for example in examples], into


def read(paths: list[Path], form: Form | None = None, along: Paths = "best") -> tuple[list[Example], Imported]:
    into = Imported()
    found = list(import_conversations(paths, into, form=form, paths=along, licence="MIT", progress=lambda *_: None))
    assert into.examples == len(found)
    return found, into


def shares(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": said} for who, said in turns], **more}


def test_each_form_is_told_by_its_shape(tmp_path: Path) -> None:
    expected = [("user", "q"), ("assistant", "a")]
    row: Any
    for row, form in (
        (shares(("human", "q"), ("gpt", "a")), "sharegpt"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "openai"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]},
                       {"role": "assistant", "content": "a"}]}, "openai"),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"instruction": "q", "instances": [{"input": "", "output": "a"}]}, "alpaca"),
        ({"message_tree_id": "1", "prompt": {"text": "q", "role": "prompter",
                                             "replies": [{"text": "a", "role": "assistant"}]}}, "oasst"),
        (Example.of([Message("user", "q"), Message("assistant", "a")]).as_json(), "examples"),
    ):  # fmt: skip
        found, into = imported(tmp_path, [row])
        assert found == [expected], form
        assert into.forms == {"chats.jsonl": form}
        assert into.left_out.total == into.mended.total == 0


def test_an_example_says_where_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([{"instruction": "q", "output": ""}, {"instruction": "q", "output": "a", "name": "t"}]))
    (example,), into = read([path])
    assert example.origin is not None
    assert (example.origin.kind, example.origin.source) == ("conversations", "chats.json#2")
    assert (example.origin.by, example.origin.licence) == ("alpaca", "MIT")
    assert example.labels == {"task": "t"}
    assert into.as_json()["left_out"] == {
        "empty": {"count": 1, "examples": ["chats.json row 1: has nothing in what the assistant says"]}
    }


def test_alpaca_keeps_input_history_and_system(tmp_path: Path) -> None:
    row = {"instruction": "翻译", "input": "阀门", "output": "valve", "history": [["你好", "您好"]], "system": "s"}
    (found,), _ = imported(tmp_path, [row])
    assert found == [("system", "s"), ("user", "你好"), ("assistant", "您好"), ("user", "翻译\n\n阀门"),
                     ("assistant", "valve")]  # fmt: skip


def test_roles_are_mended_only_where_there_is_one_way_to_read_them(tmp_path: Path) -> None:
    found, into = imported(
        tmp_path,
        [
            shares(("system", " "), ("Human", "one"), ("human", "two"), ("gpt", "a"), ("human", "thanks")),
            shares(("human", "q"), ("gpt", "a"), ("gpt", "another")),
            shares(("gpt", "welcome"), ("human", "q"), ("gpt", "a")),
            shares(("human", "q"), ("function_call", "{}"), ("gpt", "a")),
            shares(("human", "q"), ("system", "be brief"), ("gpt", "a")),
            shares(("human", "q")),
            shares(("human", "q"), ("gpt", "")),
            {"conversations": [{"from": "human", "value": None}, {"from": "gpt", "value": "a"}]},
            {"other": 1},
        ],
    )
    assert found == [[("user", "one\n\ntwo"), ("assistant", "a")]]
    assert into.rows == 9
    assert dict(into.mended.counts) == {"blank-system": 1, "joined": 1, "open-end": 1}
    assert dict(into.left_out.counts) == {"roles": 5, "empty": 1, "form": 2}
    assert "row 4: has the role 'function_call' in message 2" in into.left_out.examples["roles"][2]


def test_tools_pictures_and_weights_of_zero_are_reported(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "a"}
    user = {"role": "user", "content": "q"}
    found, into = imported(
        tmp_path,
        [
            {"messages": [user, answer]},
            {"messages": [user, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
            {"messages": [user, answer], "tools": [{"type": "function"}]},
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, answer]},
            {"messages": [user, {**answer, "weight": 0}]},
        ],
    )
    assert len(found) == 1
    assert dict(into.left_out.counts) == {"tools": 2, "not-text": 1, "weight": 1}


TREE = {
    "message_tree_id": "1",
    "prompt": {
        "text": "q",
        "role": "prompter",
        "replies": [
            {"text": "worse", "role": "assistant", "rank": 1},
            {"text": "deleted", "role": "assistant", "rank": 0, "deleted": True},
            {"text": "best", "role": "assistant", "rank": 0, "replies": [
                {"text": "more?", "role": "prompter", "replies": [
                    {"text": "yes", "role": "assistant", "rank": 0}, {"text": "no", "role": "assistant", "rank": 1}]},
                {"text": "unanswered", "role": "prompter"},
            ]},
        ],
    },
}  # fmt: skip


def flat(node: dict[str, Any], name: str, parent: str | None) -> list[dict[str, Any]]:
    rows = [{**{k: v for k, v in node.items() if k != "replies"}, "message_id": name, "parent_id": parent}]
    for place, reply in enumerate(node.get("replies", [])):
        rows += flat(reply, f"{name}.{place}", name)
    return rows


@pytest.mark.parametrize("one_message_a_row", [False, True])
def test_a_tree_gives_its_best_path_or_all_by_rank(tmp_path: Path, one_message_a_row: bool) -> None:
    rows: list[Any] = flat(TREE["prompt"], "m", None)[::-1] if one_message_a_row else [TREE]  # type: ignore[arg-type]
    best, _ = imported(tmp_path, rows)
    assert best == [[("user", "q"), ("assistant", "best"), ("user", "more?"), ("assistant", "yes")]]
    found, into = imported(tmp_path, rows, paths="all")
    answers = [[content for role, content in path if role == "assistant"] for path in found]
    assert answers == [["best", "yes"], ["best", "no"], ["best"], ["worse"]]
    assert into.mended.counts == {"open-end": 1}


def test_messages_without_a_way_to_a_first_one_are_reported(tmp_path: Path) -> None:
    rows = [
        {"message_id": "a", "parent_id": "b", "text": "x", "role": "prompter"},
        {"message_id": "b", "parent_id": "a", "text": "y", "role": "assistant"},
        {"message_id": "c", "parent_id": "gone", "text": "z", "role": "assistant"},
        {"message_id": "c", "parent_id": None, "text": "again", "role": "prompter"},
        {"message_id": "d", "parent_id": None, "text": "q", "role": "prompter", "deleted": True},
    ]
    found, into = imported(tmp_path, rows)
    assert not found
    assert dict(into.left_out.counts) == {"orphan": 3, "form": 1, "deleted": 1}


def test_a_deep_tree_costs_nothing(tmp_path: Path) -> None:
    rows = [
        {"message_id": str(n), "parent_id": str(n - 1) if n else None, "text": "t",
         "role": "assistant" if n % 2 else "prompter"} for n in range(3_000)
    ]  # fmt: skip
    found, into = imported(tmp_path, rows)
    assert not found and into.left_out.counts == {"too-large": 1}


def test_a_file_that_is_no_table_of_conversations_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"of no form that is known \(question, answer\).*data rows"):
        imported(tmp_path, [{"question": "q", "answer": "a"}])
    with pytest.raises(UsageError, match="there is no file"):
        read([tmp_path / "none.jsonl"])
    with pytest.raises(UsageError, match="no table"):
        read([tmp_path / "a.docx"])
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"instruction": "q", "output": "a"}\n' * 99)[:-9])
    with pytest.raises(ReadingError, match="damaged"):
        read([tmp_path / "cut.jsonl.gz"])
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ReadingError, match="not JSON"):
        read([tmp_path / "deep.json"])


def test_lines_that_are_no_json_are_counted(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"instruction": "q", "output": "a"}\nnot json\n[1]\n')
    found, into = read([tmp_path / "c.jsonl"])
    assert len(found) == 1 and into.rows == 3 and into.left_out.counts == {"json": 2}


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    good = b'{"instruction": "q", "output": "' + "阀".encode() * 400_000 + b'"}\n'
    (tmp_path / "c.jsonl").write_bytes(good + b'{"instruction": "\xff\xfe", "output": "a"}\n')
    found, into = read([tmp_path / "c.jsonl"])
    assert len(found) == 2 and found[1].messages[0].content == "\ufffd" and into.mended.counts == {"lossy": 1}


def test_files_of_examples_are_put_together_without_their_reviews(tmp_path: Path) -> None:
    example = Example.of([Message("user", "q"), Message("assistant", "a")], review=Review("accepted"), labels={"x": 1})
    write_examples(tmp_path / "a.jsonl", [example])
    found, into = read([tmp_path / "a.jsonl", tmp_path / "a.jsonl"])
    assert [one.id for one in found] == [example.id] * 2
    assert found[0].labels == {"x": 1} and found[0].review is None


def test_the_real_sets_are_read_whole(shared_data: Any) -> None:
    seeds, zh = shared_data("instructions/self_instruct_seed175.jsonl"), shared_data("instructions/oasst_sft_zh.jsonl")
    found, into = read([seeds, zh])
    assert into.rows == len(found) == 864 and into.left_out.total == 0
    assert sum(example.labels.get("classification", False) for example in found) == 26
    assert max(len(example.messages) for example in found) == 6
