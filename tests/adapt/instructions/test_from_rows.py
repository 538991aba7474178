"""Tables become examples by a mapping that is checked before anything is made; the same seed draws the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapt.instructions.example import Example
from adapt.instructions.from_rows import examples_from_rows
from adapt.instructions.importing import Imported
from adapt.instructions.mapping import load_mapping
from adapt.instructions.templates import OWN, Template, fields_of
from retrieval.errors import ReadingError, UsageError

PLAIN = "question: Question\nanswer: Answer\n"


def made(folder: Path, table: str, mapping: str = PLAIN, name: str = "t.csv") -> tuple[list[Example], Imported]:
    (folder / name).write_text(table)
    return of_file(folder / name, mapping)


def of_file(path: Path, mapping: str) -> tuple[list[Example], Imported]:
    file = path.parent / "mapping.yaml"
    file.write_text(mapping)
    into = Imported()
    return list(examples_from_rows(path, load_mapping(file), into, progress=lambda *_: None)), into


CSV = 'Question,Answer,Topic\n"What is\na valve?",It controls flow.,pipes\n什么是阀门？,控制流量。,管道\n'


def test_a_csv_becomes_questions_and_answers_in_their_language(tmp_path: Path) -> None:
    found, into = made(tmp_path, CSV)
    assert [example.messages[1].content for example in found] == ["It controls flow.", "控制流量。"]
    assert "What is\na valve?" in found[0].messages[0].content and "什么是阀门？" in found[1].messages[0].content
    origins = [example.origin for example in found if example.origin]
    assert [origin.source for origin in origins] == ["t.csv#1", "t.csv#2"]
    assert [origin.by[-2:] for origin in origins] == ["en", "zh"] and origins[0].kind == "rows"
    assert into.rows == into.examples == 2


def test_inverted_examples_ask_for_the_question(tmp_path: Path) -> None:
    found, _ = made(tmp_path, CSV, PLAIN + "direction: inverted\n")
    assert [example.messages[1].content for example in found] == ["What is\na valve?", "什么是阀门？"]
    assert "It controls flow." in found[0].messages[0].content
    both, _ = made(tmp_path, CSV, PLAIN + "direction: both\nper_row: 2\n")
    assert len(both) == 8 and len({example.id for example in both}) == 8


def test_a_context_is_always_shown(tmp_path: Path) -> None:
    table = "".join(json.dumps({"q": f"q{n}?", "a": f"a{n}", "p": {"text": f"passage {n}"}}) + "\n" for n in range(40))
    found, _ = made(tmp_path, table, "question: q\nanswer: a\ncontext: p.text\ndirection: both\n", "t.jsonl")
    assert len(found) == 80
    assert all("passage" in example.messages[0].content for example in found)
    assert len({example.origin.by for example in found if example.origin}) == 5


def test_the_seed_alone_decides_what_is_drawn(tmp_path: Path) -> None:
    table = "Question,Answer\n" + "".join(f"what is {n}?,it is {n}\n" for n in range(30))
    first, _ = made(tmp_path, table)
    again, _ = made(tmp_path, table + "one more?,yes\n")
    other, _ = made(tmp_path, table, PLAIN + "seed: 1\n")
    assert again[:30] == first and other != first
    assert len({example.origin.by for example in first if example.origin}) == 3


def test_own_templates_take_further_columns_and_never_look_into_values(tmp_path: Path) -> None:
    mapping = PLAIN + (
        "columns: {topic: Topic}\nlabels: {task: pipes}\nlicence: CC0\n"
        'templates: [{name: mine, user: "{question} ({topic}) {\\"a\\": 1}", assistant: "{answer}", system: Short}]\n'
    )
    (example,), _ = made(tmp_path, "Question,Answer,Topic\n{answer}?,{question},{0.__class__}\n", mapping)
    assert [message.content for message in example.messages] == [
        "Short", '{answer}? ({0.__class__}) {"a": 1}', "{question}"
    ]  # fmt: skip
    assert example.labels == {"task": "pipes"} and example.origin and example.origin.licence == "CC0"
    assert example.origin.by == "mine"


def test_rows_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    table = "Question,Answer,split\nq,a,train\nq,a,test\nq,,train\nq\n,,\n"
    found, into = made(tmp_path, table, PLAIN + "where: {split: [train, dev]}\n")
    assert len(found) == 1 and into.rows == 4
    assert dict(into.left_out.counts) == {"where": 1, "empty": 1, "columns": 1}
    table = '{"Question": 3, "Answer": ["a", "b"]}\n{"Question": {"x": 1}, "Answer": true}\n{"Question": "q"}\n'
    found, into = made(tmp_path, table, PLAIN, "t.jsonl")
    assert [message.content for message in found[0].messages][1] == "a" and "3" in found[0].messages[0].content
    assert dict(into.left_out.counts) == {"form": 1, "empty": 1}


def test_parquet_and_semicolons_are_read(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"Question": ["q?"], "Answer": ["a"]}), tmp_path / "t.parquet")
    found, _ = of_file(tmp_path / "t.parquet", PLAIN)
    assert found[0].messages[1].content == "a"
    found, _ = made(tmp_path, "\ufeffQuestion;Answer\nq, r?;a\n")
    assert "q, r?" in found[0].messages[0].content


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ("question: Qestion\nanswer: Answer\n", r"no column 'Qestion'; did you mean 'Question'"),
        ("qustion: Question\nanswer: Answer\n", r"line 1: 'qustion'.*did you mean 'question'"),
        ("question: Question\n", "'answer:' must name a column"),
        (PLAIN + "direction: backwards\n", "line 3: 'direction: backwards'"),
        (PLAIN + "per_row: 0\n", "'per_row:' must be a whole number from 1"),
        (PLAIN + "per_row: true\n", "'per_row:'"),
        (PLAIN + "where: {spilt: train}\n", "no column 'spilt'"),
        (PLAIN + "where: [train]\n", "'where:' must be keys"),
        (PLAIN + "columns: {'a b': Topic}\n", "'a b' cannot be a field"),
        (PLAIN + 'templates: [{user: "{qestion}", assistant: x}]\n', "'{qestion}' is no field; did you mean"),
        (PLAIN + 'templates: [{user: "{question}"}]\n', "lacks 'assistant'"),
        (PLAIN + 'templates: [{user: q, asistant: "a", assistant: a}]\n', "did you mean 'assistant'"),
        (PLAIN + "templates: hello\n", "must be a list"),
        (PLAIN + 'direction: both\ntemplates: [{user: "{question}", assistant: a}]\n', "for the direction 'inverted'"),
        (PLAIN + "labels: {x: [1]}\n", "the label 'x'"),
        ("- a\n", "keys with values"),
        ("", "is empty"),
        ("question: !!python/object:os.system {}\nanswer: a\n", "tag"),
    ],
)  # fmt: skip
def test_a_mapping_is_checked_before_anything_is_made(tmp_path: Path, mapping: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made(tmp_path, "Question,Answer,split\nq,a,train\n", mapping)


def test_all_problems_of_a_mapping_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        made(tmp_path, CSV, "qestion: Q\nseed: x\n")
    assert len(str(caught.value).splitlines()) == 4


def test_tables_that_are_none_say_so(tmp_path: Path) -> None:
    for table, words in (("", "names its columns"), ("a,a\n1,2\n", "each once"), ('a,b\n"open', "no CSV")):
        with pytest.raises(ReadingError, match=words):
            made(tmp_path, table)
    with pytest.raises(UsageError, match="no row"):
        made(tmp_path, "Question,Answer\n")


def test_every_wording_of_ours_is_in_both_languages_and_uses_known_fields() -> None:
    assert len(OWN) == 22
    by_language: dict[Any, set[str]] = {}
    for template in OWN:
        by_language.setdefault(template.language, set()).add(template.name[:-3])
        assert (
            set(fields_of(template.user)) <= {"question", "answer", "context"} and template.user != template.assistant
        )
    assert by_language["en"] == by_language["zh"]
    assert Template("t", "{a} {a}", "{b}").fill({"a": "{b}", "b": "x"})[0].content == "{b} {b}"


def test_a_real_set_of_questions_gives_both_directions(shared_data: Any, tmp_path: Path) -> None:
    (tmp_path / "qa.jsonl").symlink_to(shared_data("xquad_zh/qa.jsonl"))
    mapping = "question: question\nanswer: answers\nwhere: {answerable: true}\ndirection: both\nlicence: CC BY-SA 4.0\n"
    found, into = of_file(tmp_path / "qa.jsonl", mapping)
    assert into.rows == 1190 and len(found) == 2380 and into.left_out.total == 0
    assert len({example.id for example in found}) > 2370
