"""A suite file: typed by the dataclass of each kind, every problem with its line, nothing in YAML that could hurt."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from counted_part import CountedPart

from eval.runs import suites
from eval.runs.suites import KINDS, Kind, load_suite, part_class, settings_of, suite_of_one
from retrieval.errors import UsageError


@dataclass(frozen=True)
class TypedPart:
    """One field of every sort that parts have."""

    on: Path
    pipeline: Literal["lexical", "dense"] = "lexical"
    files: tuple[Path, ...] = ()
    weight: float = 0.5
    limit: int | None = None
    whole: bool = False
    word: str | None = None

    def __post_init__(self) -> None:
        if self.weight > 1:
            raise UsageError(f"weight is a share; {self.weight} was given")

    def prepare(self, tools: Any) -> Any:
        raise AssertionError("reading a suite prepares nothing")


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suites.KINDS, "counted", Kind("counted_part", "CountedPart"))  # type: ignore[arg-type]
    monkeypatch.setitem(suites.KINDS, "typed", Kind("typed_part_of_this_test", "TypedPart"))  # type: ignore[arg-type]
    real = suites.part_class
    monkeypatch.setattr(suites, "part_class", lambda kind: TypedPart if kind == "typed" else real(kind))


def written(tmp_path: Path, text: str | bytes, name: str = "small.yaml") -> Path:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


GOOD = """\
name: small
description: what it is for
data: sets
seed: 3
defaults:
  typed: {pipeline: dense, weight: 1e-3}
parts:
  one:
    kind: typed
    on: beir/scifact
    files: [a.txt, /absolute/b.txt]
    limit: 10
  二:
    kind: typed
    optional: true
    on: x
    weight: 1
    word: "2020"
  three: {kind: counted, journal: j}
"""


def test_a_suite_becomes_typed_parts_in_order(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, GOOD))
    root = tmp_path / "sets"
    assert (suite.name, suite.seed, list(suite.parts)) == ("small", 3, ["one", "二", "three"])
    assert suite.parts["one"] == TypedPart(
        on=root / "beir/scifact",
        pipeline="dense",
        files=(root / "a.txt", Path("/absolute/b.txt")),
        weight=0.001,
        limit=10,
    )
    assert suite.parts["二"] == TypedPart(on=root / "x", pipeline="dense", weight=1.0, word="2020")
    assert suite.parts["three"] == CountedPart(journal=root / "j", seed=3)
    assert suite.kinds == {"one": "typed", "二": "typed", "three": "counted"}
    assert suite.optional == {"二"}
    assert suite.places["one"] == f"{tmp_path / 'small.yaml'}, line 8"


def test_what_is_resolved_is_json_with_every_setting(tmp_path: Path) -> None:
    resolved = load_suite(written(tmp_path, GOOD)).resolved()
    assert json.loads(json.dumps(resolved)) == resolved
    assert resolved["parts"]["one"] == {
        "kind": "typed",
        "on": str(tmp_path / "sets/beir/scifact"),
        "pipeline": "dense",
        "files": [str(tmp_path / "sets/a.txt"), "/absolute/b.txt"],
        "weight": 0.001,
        "limit": 10,
        "whole": False,
        "word": None,
    }


def test_paths_begin_at_the_data_root_or_at_the_file(tmp_path: Path) -> None:
    text = "parts:\n  a: {kind: typed, on: x}\n"
    assert load_suite(written(tmp_path, text)).parts["a"] == TypedPart(tmp_path / "x")
    elsewhere = load_suite(written(tmp_path, "data: /far\n" + text), data=tmp_path / "near")
    assert elsewhere.parts["a"] == TypedPart(tmp_path / "near" / "x")
    assert load_suite(written(tmp_path, "data: /far\n" + text)).parts["a"] == TypedPart(Path("/far/x"))
    assert load_suite(written(tmp_path, text)).name == "small", "the file's name where none is given"


def test_several_seeds_make_a_part_of_each(tmp_path: Path) -> None:
    text = "seeds: [0, 1, 2]\nparts:\n  a: {kind: counted, journal: j}\n  b: {kind: typed, on: x}\n"
    text += "  c: {kind: counted, journal: j, seed: 9}\n"
    suite = load_suite(written(tmp_path, text))
    assert list(suite.parts) == ["a@0", "a@1", "a@2", "b", "c"]
    assert [getattr(part, "seed", None) for part in suite.parts.values()] == [0, 1, 2, None, 9]
    assert suite.seed == 0
    assert list(load_suite(written(tmp_path, text), seed=5).parts) == ["a", "b", "c"]
    assert list(suite.only(["a"]).parts) == ["a@0", "a@1", "a@2"]
    assert list(suite.only(["b", "a@1"]).parts) == ["a@1", "b"]
    assert set(suite.only(["b"]).kinds) == {"b"}
    with pytest.raises(UsageError, match="no part 'bb'; did you mean 'b'"):
        suite.only(["bb"])


PART = "parts:\n  a:\n    kind: typed\n    on: x\n"
A = "parts:\n  a: {kind: typed, on: x}\n"
WRONG = {
    "unknown key of the suite": ("part:\n  a: 1\n", 1, "unknown key 'part'; did you mean 'parts'?"),
    "unknown key of a part": (PART + "    pipline: dense\n", 5, "did you mean 'pipeline'"),
    "unknown kind": ("parts:\n  a: {kind: retreival, on: x}\n", 2, "did you mean 'retrieval'"),
    "no kind": ("parts:\n  a: {on: x}\n", 2, "part 'a' has no kind"),
    "no parts": ("name: x\n", 1, "no parts"),
    "empty parts": ("name: x\nparts:\n", 2, "no parts"),
    "a missing key": ("parts:\n  a:\n    kind: typed\n", 2, "needs the key 'on'"),
    "a wrong type": (
        PART + "    limit: ten\n",
        5,
        "part 'a', limit = 'ten' is not valid: input should be a valid integer",
    ),
    "a number for a text": ("parts:\n  a: {kind: typed, on: x,\n    word: 2020}\n", 3, "word = '2020'"),
    "a word out of a list": (PART + "    pipeline: hybird\n", 5, "'lexical' or 'dense'"),
    "a date": (PART + "    word: 2020-01-01\n", 5, "put a text into quotes"),
    "infinity": (PART + "    weight: .inf\n", 5, "weight = 'inf'"),
    "what the dataclass refuses": (PART + "    weight: 7\n", 2, "weight is a share; 7.0"),
    "a wrong default": ("defaults:\n  typed:\n    weight: x\n" + A, 3, "weight = 'x'"),
    "defaults of no kind": ("defaults:\n  typd: {weight: 1}\n" + A, 2, "did you mean 'typed'"),
    "a part that is a list": ("parts:\n  a: [1, 2]\n", 2, "must be keys with values"),
    "parts that are a list": ("parts:\n  - a\n", 1, "'parts' must be keys with values"),
    "a list at the top": ("- a\n", 1, "the file must be keys with values"),
    "a part named like a path": ("parts:\n  ../a: {kind: typed, on: x}\n", 2, "needs a name"),
    "a part named like a seed": ("parts:\n  a@1: {kind: typed, on: x}\n", 2, "needs a name"),
    "a suite named like a path": ("name: a/b\n" + A, 1, "cannot name a suite"),
    "a seed that is a word": ("seed: x\n" + A, 1, "seed = 'x'"),
    "seed and seeds": ("seed: 1\nseeds: [1]\n" + A, 2, "keep one"),
    "a seed twice": ("seeds: [1, 1]\n" + A, 1, "each only once"),
    "a key twice": ("parts:\n  a: {kind: typed, on: x}\n  a: {kind: typed, on: y}\n", 3, "given twice"),
    "a key that is a list": ("parts:\n  [a, b]: {kind: typed}\n", 2, "a key must be a word"),
    "an alias": ("a: &x [1]\nparts: *x\n", 2, "aliases"),
    "a merge": ("parts:\n  a:\n    <<: {kind: typed}\n    on: x\n", 3, "a key must be a word"),
    "a tag that makes an object": ("parts: !!python/object/apply:os.system [ls]\n", 1, "has no place in a suite"),
    "a torn file": ("parts:\n  a: {kind: typed, on: x\n", 3, "not valid YAML"),
    "a tab": ("parts:\n\ta: 1\n", 2, "not valid YAML"),
    "depth": ("parts: " + "[" * 5000 + "]" * 5000, 1, "nested deeper"),
    "depth of lines": ("parts:\n" + "".join(" " * i + "a:\n" for i in range(1, 60)), 13, "nested deeper"),
    "two documents": ("parts: {}\n---\nparts: {}\n", 2, "not valid YAML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, case: str) -> None:
    text, line, said = WRONG[case]
    file = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_suite(file)
    assert said in str(caught.value)
    assert f"{file}, line {line}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"# only a remark\n", "is empty"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"a: \x00\n", "not valid YAML"),
        (b"x" * 300_000, "larger than 256 KB"),
        ("parts: {a: {kind: typed, on: x, word: \U0001f600}}".encode("utf-16"), "not UTF-8"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_suite(written(tmp_path, content))


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UsageError, match="there is no file|is a folder; give the path of a suite"):
            load_suite(path)


def test_all_problems_of_a_file_are_said_together(tmp_path: Path) -> None:
    text = "parts:\n  a: {kind: typed, on: x, limt: 1}\n  b: {kind: typd}\n  c: {kind: typed, weight: x}\n"
    with pytest.raises(UsageError) as caught:
        load_suite(written(tmp_path, text))
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0].rpartition(" ")[2] for line in lines] == ["2", "3", "4", "4"]
    assert "'limt'" in lines[0] and "'typd'" in lines[1] and "weight" in lines[2] and "'on'" in lines[3]


def test_a_byte_order_mark_and_a_key_on_do_no_harm(tmp_path: Path) -> None:
    """YAML 1.1 reads a bare `on` as true; a field of that name must still be reachable."""
    suite = load_suite(written(tmp_path, b"\xef\xbb\xbfparts:\n  a:\n    kind: typed\n    on: yes.txt\n"))
    assert suite.parts["a"] == TypedPart(tmp_path / "yes.txt")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("counted", "typed")])
def test_every_kind_stands_where_the_table_says_and_has_typed_fields(kind: str) -> None:
    import dataclasses
    import typing

    made = part_class(kind)
    assert dataclasses.is_dataclass(made) and made.__dataclass_params__.frozen
    hints = typing.get_type_hints(made)
    assert {field.name for field in dataclasses.fields(made)} <= set(hints)
    assert not {"kind", "optional"} & set(hints), "these words of a suite are taken"
    assert callable(made.prepare)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("scifact", "scifact"),
        ("../../etc/x", "etc-x"),
        ("a b\n", "a-b"),
        ("问答集", "问答集"),
        ("///", "typed"),
        ("x" * 99, "x" * 60),
    ],
)
def test_a_suite_of_one_is_named_safely(given: str, name: str, tmp_path: Path) -> None:
    suite = suite_of_one("typed", given, TypedPart(tmp_path), seed=4)
    assert (list(suite.parts), suite.name, suite.seed) == ([name], name, 4)


def test_settings_are_plain(tmp_path: Path) -> None:
    assert settings_of(TypedPart(tmp_path, files=(tmp_path,)))["files"] == [str(tmp_path)]
