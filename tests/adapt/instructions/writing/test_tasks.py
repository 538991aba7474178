"""Seeds are read in the classical form, which keeps instruction and input apart, and in all that can be imported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapt.instructions.example import Example, Message, write_examples
from adapt.instructions.importing import Imported
from adapt.instructions.writing.tasks import Task, read_tasks
from retrieval.errors import UsageError


def read(path: Path) -> tuple[list[Task], Imported]:
    into = Imported()
    return read_tasks(path, into, lambda *_: None), into


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(n: int, **more: Any) -> dict[str, Any]:
    return {"instruction": f"Do thing {n}.", "instances": [{"input": f"in {n}", "output": f"out {n}"}], **more}


def test_the_classical_form_keeps_inputs_and_kinds_and_names_what_is_unsound(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "seeds.jsonl",
        row(1, is_classification=True),
        {"instruction": "Sing."},
        *(row(n) for n in (2, 3, 4)),
        {"instruction": "Nothing", "instances": []},
        {"instruction": "Blank", "instances": [{"input": "", "output": " "}]},
        row(2),
    )
    tasks, into = read(path)
    assert tasks[0] == Task("Do thing 1.", "in 1", "out 1", True)
    assert [task.instruction for task in tasks] == [f"Do thing {n}." for n in (1, 2, 3, 4)]
    assert into.left_out.counts == {"form": 2, "empty": 1} and into.rows == 8
    assert tasks[0].question == "Do thing 1.\n\nin 1"


def test_examples_serve_as_seeds_but_for_conversations_and_passages(tmp_path: Path) -> None:
    def example(*texts: str) -> Example:
        roles = ("user", "assistant") * 2
        return Example.of([Message(role, text) for role, text in zip(roles, texts, strict=False)])  # type: ignore[arg-type]

    passages = '<passage number="1" title="t">\nx\n</passage 1>\nWhat?'
    found = [example(f"q{n}?", f"a{n}") for n in range(4)] + [example("a", "b", "c", "d"), example(passages, "x")]
    path = tmp_path / "e.jsonl"
    write_examples(path, found)
    tasks, into = read(path)
    assert [task.question for task in tasks] == ["q0?", "q1?", "q2?", "q3?"] and tasks[0].classification is None
    assert into.left_out.counts == {"no task": 2}


def test_too_few_seeds_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "seeds.jsonl", row(1), {"instruction": "x", "instances": []})
    with pytest.raises(
        UsageError, match=r"has 1 tasks \(such as seeds.jsonl row 2: has no instance\); give at least 4"
    ):
        read(path)


def test_the_175_seeds_are_all_read(shared_data: Callable[[str], Path]) -> None:
    tasks, into = read(shared_data("instructions/self_instruct_seed175.jsonl"))
    assert len(tasks) == 175 and not into.left_out.total
    assert 20 < sum(task.classification is True for task in tasks) < 30
    assert sum(bool(task.input) for task in tasks) > 100
