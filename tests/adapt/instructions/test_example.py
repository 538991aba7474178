"""A file of examples is read strictly, with the row that is wrong named, and written whole or not at all."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapt.instructions.example import (
    Example,
    ExampleFault,
    Message,
    Origin,
    Review,
    messages_id,
    read_examples,
    write_examples,
)
from retrieval.errors import FathomError, ReadingError, UsageError

GOOD = [{"role": "user", "content": "什么是阀门？"}, {"role": "assistant", "content": "控制流量。"}]


def row(*roles: str, **more: Any) -> dict[str, Any]:
    return {"id": "a", "messages": [{"role": role, "content": role} for role in roles], **more}


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(found) + "\n" for found in rows))
    return path


@pytest.mark.parametrize("name", ["e.jsonl", "e.jsonl.gz"])
def test_examples_come_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    examples = [
        Example.of((Message("user", "a\u2028b"), Message("assistant", "阀\n\t"))),
        Example.of(
            (Message("system", "s"), Message("user", "q"), Message("assistant", "a")),
            origin=Origin("rows", "f.csv#3", "answer", "MIT"),
            labels={"unanswerable": False},
            checks={"support": 0.93},
            review=Review("rejected", "no", "2026-01-01T00:00:00Z"),
        ),
    ]
    assert write_examples(tmp_path / name, examples) == 2
    assert list(read_examples(tmp_path / name)) == examples
    assert [example.rejected for example in examples] == [False, True]
    first = (tmp_path / name).read_bytes()
    write_examples(tmp_path / name, read_examples(tmp_path / name))  # onto itself
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_id_changes_with_a_role_and_with_any_character() -> None:
    one = [Message("user", "q"), Message("assistant", "a")]
    others = [
        [Message("user", "q "), Message("assistant", "a")],
        [Message("user", "q"), Message("assistant", "a"), Message("user", "q"), Message("assistant", "a")],
        [Message("system", "q"), Message("assistant", "a")],
        [Message("user", "qa"), Message("assistant", "a")],
    ]
    assert len({messages_id(found) for found in [one, *others]}) == 5
    assert messages_id(one) == messages_id(list(one))


@pytest.mark.parametrize(
    ("bad", "reason", "words"),
    [
        (row("user"), "roles", "ends with the user"),
        (row("assistant", "user"), "roles", "message 1, where 'user' is due"),
        (row("user", "user", "assistant"), "roles", "message 2"),
        (row("user", "system", "assistant"), "roles", "message 2"),
        (row("system", "system", "user", "assistant"), "roles", "message 2"),
        (row("system"), "roles", "no question"),
        ({"id": "a", "messages": []}, "roles", "no question"),
        (row("user", "bot"), "roles", "'bot'"),
        ({"messages": GOOD}, "form", "lacks 'id'"),
        ({"id": "a"}, "form", "lacks 'messages'"),
        ({"id": 3, "messages": GOOD}, "form", "id"),
        ({"id": "a\nb", "messages": GOOD}, "form", "id"),
        ({"id": "a", "messages": "hello"}, "form", "a str for 'messages'"),
        ({"id": "a", "messages": [*GOOD, 3]}, "form", "message 3"),
        ({"id": "a", "messages": [{"role": "user", "content": " \n"}, GOOD[1]]}, "empty", "nothing in what the user"),
        ({"id": "a", "messages": [{"role": "user", "content": ["x"]}, GOOD[1]]}, "form", "a list"),
        ({"id": "a", "messages": [{"role": "user", "content": "\ud83d"}, GOOD[1]]}, "form", "half a character"),
        ({"id": "a", "messages": GOOD, "orgin": {}}, "form", "'orgin'"),
        ({"id": "a", "messages": GOOD, "origin": {"kind": "x"}}, "form", "origin.kind"),
        ({"id": "a", "messages": GOOD, "origin": {"source": "x"}}, "form", "lacks 'kind'"),
        ({"id": "a", "messages": GOOD, "review": {"decision": "maybe"}}, "form", "review.decision"),
        ({"id": "a", "messages": GOOD, "labels": [1]}, "form", "'labels'"),
        ({"id": "a", "messages": GOOD, "checks": {"s": float("nan")}}, "form", "'checks'"),
        ({"id": "a", "messages": GOOD, "checks": {"s": "x" * 200_000}}, "too-large", "'checks'"),
        ({"id": "a", "messages": [{"role": "user", "content": "x" * 1_000_001}, GOOD[1]]}, "too-large", "1,000,001"),
        ({"id": "a", "messages": GOOD * 501}, "too-large", "messages"),
        ([1], "json", "not an object"),
    ],
)
def test_a_row_that_is_no_example_is_named(tmp_path: Path, bad: Any, reason: str, words: str) -> None:
    path = written(tmp_path / "e.jsonl", {"id": "good", "messages": GOOD}, bad)
    examples = read_examples(path)
    assert next(examples).messages[0] == Message("user", "什么是阀门？")
    with pytest.raises(ReadingError) as caught:
        list(examples)
    assert caught.value.reason == reason
    assert words in str(caught.value) and "line 2 " in str(caught.value) and "e.jsonl" in str(caught.value)


def test_files_that_are_none_say_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="jsonl"):
        list(read_examples(tmp_path / "e.csv"))
    with pytest.raises(ReadingError, match="no such file"):
        list(read_examples(tmp_path / "e.jsonl"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(row("user", "assistant")).encode() * 99)[:-9])
    with pytest.raises(ReadingError, match="damaged"):
        list(read_examples(tmp_path / "cut.jsonl.gz"))
    good = json.dumps(row("user", "assistant")).encode() + b"\n"
    # Past the megabyte that is looked at to tell the encoding, so that the damage shows while rows are read.
    (tmp_path / "latin.jsonl").write_bytes(good * 12_000 + good.replace(b'"user"}', b'"us\xff\xfer"}'))
    with pytest.raises(ReadingError, match="UTF-8"):
        list(read_examples(tmp_path / "latin.jsonl"))


def test_a_failure_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = written(tmp_path / "e.jsonl", row("user", "assistant"))
    before = path.read_bytes()

    def failing() -> Iterator[Example]:
        yield from read_examples(path)
        raise RuntimeError("power")

    with pytest.raises(RuntimeError):
        write_examples(path, failing())
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FathomError, match="cannot be written"):
        write_examples(tmp_path / "none" / "e.jsonl", [])


def test_no_unsound_example_can_be_made() -> None:
    with pytest.raises(ExampleFault) as caught:
        Example.of((Message("user", "q"),))
    assert caught.value.reason == "roles"
