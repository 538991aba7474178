"""`fathom data …` as commands: on the screen and as JSON, dry runs, exit codes, refusals in a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapt.instructions.example import Example, Message, read_examples, write_examples
from adapt.instructions.reviews import Reviews
from app.cli import app
from eval.data.questions import read_questions

Fathom = Callable[..., Any]
QUIET = ("--skip", "near", "--skip", "similar")


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    rows = [
        {"conversations": [{"from": "human", "value": f"what is {n}?"}, {"from": "gpt", "value": f"it is {n}"}]}
        for n in range(3)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"conversations": [{"from": "gpt"}]}, rows[0]]))
    return path


def examples(path: Path, count: int = 3) -> Path:
    write_examples(
        path, [Example.of([Message("user", f"q{n} a@b.cn"), Message("assistant", f"a{n}")]) for n in range(count)]
    )
    return path


def test_conversations_are_imported_and_what_does_not_fit_is_listed(
    fathom: Fathom, chats: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e.jsonl"
    dry = fathom("data", "import", str(chats), "--out", str(out), "--dry-run", code=3)
    assert not out.exists() and "what is 0?" in dry.stdout and "would be written" in dry.stderr
    done = fathom("data", "import", str(chats), "--out", str(out), "--licence", "MIT", code=3)
    assert "form\t1\tchats.jsonl row 4" in done.stdout and "4 examples of 5 rows in" in done.stderr
    found = list(read_examples(out))
    assert len(found) == 4 and found[0].origin and found[0].origin.licence == "MIT"
    again = fathom("data", "import", str(chats), "--out", str(out), code=2)
    assert "is there already" in again.stderr
    told = json.loads(fathom("data", "import", str(chats), "--out", str(out), "--replace", "--json", code=3).stdout)
    assert told["examples"] == 4 and told["left_out"]["form"]["count"] == 1 and told["written"] == str(out)


def test_rows_become_examples_by_a_mapping(fathom: Fathom, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Question,Answer\nq?,a\n")
    mapping, out = tmp_path / "m.yaml", str(tmp_path / "e.jsonl.gz")
    mapping.write_text("question: Qestion\nanswer: Answer\n")
    wrong = fathom("data", "rows", str(tmp_path / "t.csv"), "-m", str(mapping), "--out", out, code=2)
    assert "did you mean 'Question'" in wrong.stderr
    mapping.write_text("question: Question\nanswer: Answer\ndirection: both\n")
    fathom("data", "rows", str(tmp_path / "t.csv"), "-m", str(mapping), "--out", out)
    assert len(list(read_examples(Path(out)))) == 2


def test_examples_are_checked_once_and_described(fathom: Fathom, tmp_path: Path) -> None:
    path, out = examples(tmp_path / "e.jsonl"), tmp_path / "ok.jsonl"
    with path.open("a") as file:
        file.write("no json\n")
    dry = fathom("data", "check", str(path), "--out", str(out), *QUIET, "--dry-run", code=3)
    assert not out.exists() and "would be kept" in dry.stderr
    done = fathom("data", "check", str(path), "--out", str(out), *QUIET, code=3)
    assert "form\t1\tit is no example\trow 4" in done.stdout and "EMAIL\t3" in done.stdout
    again = fathom("data", "check", str(path), "--out", str(out), *QUIET)
    assert "by an earlier run" in again.stderr and "EMAIL\t3" in again.stdout
    other = fathom("data", "check", str(path), "--out", str(out), *QUIET, "--min-answer", "2", code=2)
    assert "is there already" in other.stderr
    report = json.loads(
        fathom("data", "check", str(path), "--out", str(out), *QUIET, "--replace", "--skip", "mask", "--json",
               code=3).stdout
    )  # fmt: skip
    assert report["kept"] == 3 and report["masked"]["places"] == {}
    for words, said in (
        (("--skip", "nothing"), "no check 'nothing'"), (("--least", "support"), "CHECK=VALUE"),
        (("--similar", "0.1"), "give a cosine"), (("--against", str(tmp_path / "gone")), "there is no file"),
        (("--by", "luck"), "'clusters' or 'k-centre'"),
    ):  # fmt: skip
        assert said in fathom("data", "check", str(path), "--out", str(tmp_path / "x.jsonl"), *words, code=2).stderr


def test_decisions_are_written_out(fathom: Fathom, tmp_path: Path) -> None:
    path, out = examples(tmp_path / "e.jsonl"), tmp_path / "reviewed.jsonl"
    reviews = Reviews(path)
    for name, decision in zip(reviews.order, ("accepted", "rejected"), strict=False):
        reviews.decide(name, decision, seen=0)
    told = json.loads(fathom("data", "reviewed", str(path), "--out", str(out), "--dry-run", "--json").stdout)
    assert told == {"examples": 3, "written": None, "open": 1, "accepted": 1, "edited": 0, "rejected": 1}
    fathom("data", "reviewed", str(path), "--out", str(out), "--only", "accepted", "--only", "rejected")
    assert [one.review.decision for one in read_examples(out) if one.review] == ["accepted", "rejected"]
    nothing = fathom("data", "reviewed", str(path), "--out", str(tmp_path / "x.jsonl"), "--only", "edited", code=1)
    assert "no example of" in nothing.stderr
    wrong = fathom("data", "reviewed", str(path), "--out", str(tmp_path / "x.jsonl"), "--only", "liked", code=2)
    assert "'liked' is no state" in wrong.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("import", "gone.jsonl", "--out", "x.jsonl"), "there is no file"),
        (("import", "--out", "x.jsonl"), "there are no chats"),
        (("import", "a.docx", "--out", "x.jsonl"), "no table"),
        (("import", "a.jsonl", "--out", "x.csv"), "not named like a file of examples"),
        (("import", "a.jsonl", "--out", "none/x.jsonl"), "there is no folder"),
        (("import", "a.jsonl", "--out", "x.jsonl", "--format", "share"), "there is no form 'share'"),
        (("import", "a.jsonl", "--out", "x.jsonl", "--paths", "worst"), "'best' or 'all'"),
        (("rows", "a.csv", "--mapping", "gone.yaml", "--out", "x.jsonl"), "there is no file 'gone.yaml'"),
        (("review", "gone.jsonl", "--host", "0.0.0.0"), "this machine only"),
        (("reviewed", "e.txt", "--out", "x.jsonl"), "not named like"),
    ],
)
def test_bad_requests_are_one_sentence(
    fathom: Fathom, tmp_path: Path, monkeypatch: Any, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = fathom("data", *words, code=2)
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("x.*"))


def test_data_stands_in_help_before_adapt() -> None:
    groups = [group.name for group in app.registered_groups]
    assert groups.index("data") < groups.index("adapt")


def test_documents_are_asked_by_rules_and_give_a_question_set(fathom: Fathom, tmp_path: Path) -> None:
    text = "The harbour of Port Lorne was opened in 1876. It is old. The engineer bought twelve cranes for the harbour."
    (tmp_path / "a.txt").write_text(text)
    out = tmp_path / "set"
    words = ("data", "cloze", str(tmp_path / "a.txt"), "--out", str(out), "--every", "30")
    dry = fathom(*words, "--dry-run")
    assert not out.exists() and "would be written" in dry.stderr and "how many cranes" in dry.stdout
    told = json.loads(fathom(*words, "--json").stdout)
    found = read_questions(out)
    assert told["questions"] == len(found.questions) >= 2 and told["written"] == str(out)
    for question in found.questions:
        (span,) = question.spans
        assert found.documents[0].text[span.start : span.end] == question.answers[0]
    assert "is there already" in fathom(*words, code=2).stderr
    (tmp_path / "b.txt").write_text("It is. Yes. No.")
    empty = fathom("data", "cloze", str(tmp_path / "b.txt"), "--out", str(tmp_path / "none"), code=1)
    assert "no question came of 1 documents" in empty.stderr and not (tmp_path / "none").exists()
    assert "there is no file" in fathom("data", "cloze", "absent.txt", "--out", str(tmp_path / "n"), code=2).stderr


def test_judged_queries_become_examples_of_judging(fathom: Fathom, tmp_path: Path) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "judged.jsonl"
    rows: list[dict[str, object]] = [
        {
            "query": "how high is the fern",
            "positive": "The fern is two metres high.",
            "negatives": ["Ferns are green."],
        },
        {"query": "绿茶的水温是多少", "positive": "水温应该在八十度左右。", "negatives": ["绿茶不经过发酵。"]},
    ]
    pairs.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    asked = ("data", "judgements", str(pairs), "--share", "0.5", "--out", str(out))
    assert "4 examples of 2 rows would be written" in fathom(*asked, "--dry-run").output and not out.exists()
    told = json.loads(fathom(*asked, "--json", "--licence", "ours").stdout)
    assert told["examples"] == 4 and told["forms"] == {str(pairs): "pairs, 2 queries to learn from"}
    made = list(read_examples(out))
    assert [example.messages[-1].content for example in made].count("yes") == 2
    assert {example.origin.by for example in made if example.origin} == {"judge-1"}
    for wrong in (("--share", "1"), ("--hold-out", "1"), ("--held-out-to", "x")):
        fathom(*asked[:3], "--out", str(tmp_path / "new.jsonl"), *wrong, code=2)
    fathom("data", "judgements", str(tmp_path / "none"), "--out", str(tmp_path / "new.jsonl"), code=2)
    assert "is there already" in fathom(*asked, code=2).output
