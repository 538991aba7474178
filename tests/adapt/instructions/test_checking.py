"""Examples are checked in one pass: what is dropped or masked is counted, shown, explained; the rest is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import HashingEmbedder

from adapt.instructions.checking import Checks, check, checked_before, described, report_of
from adapt.instructions.example import Example, Message, Review, read_examples, write_examples
from adapt.instructions.filters import Limits, fault
from adapt.instructions.likeness import asked, sampled, window
from retrieval.errors import FathomError, UsageError
from retrieval.passages import Hit, Passage, Scores, Source
from retrieval.prompts import answer_messages

PLAIN = Checks(near=None, similar=None, mask=False)


def example(question: str, answer: str, **more: Any) -> Example:
    return Example.of([Message("user", question), Message("assistant", answer)], **more)


def run(folder: Path, examples: list[Example], checks: Checks, name: str = "in.jsonl") -> tuple[list[Example], Any]:
    write_examples(folder / name, examples)
    return of_file(folder / name, checks)


def of_file(path: Path, checks: Checks) -> tuple[list[Example], Any]:
    out = path.parent / "out.jsonl"
    report = check(
        path, checks, out=out, embedder=lambda: HashingEmbedder(), cache=path.parent / "c", progress=lambda *_: None
    )
    assert json.loads(report_of(out).read_text()) == report
    found = list(read_examples(out))
    dropped = sum(entry["count"] for entry in report["dropped"].values())
    assert len(found) == report["kept"] == report["read"]["rows"] - dropped
    return found, report


def reasons(report: Any) -> dict[str, int]:
    return {reason: entry["count"] for reason, entry in report["dropped"].items()}


LOOP = "the pump is closed and " * 60


@pytest.mark.parametrize(
    ("bad", "limits", "reason"),
    [
        (example("q", "a", review=Review("rejected", "wrong")), Limits(), "rejected"),
        (example("q", "no"), Limits(least_answer=3), "too-short"),
        (example("q" * 90, "a" * 20), Limits(most_characters=100), "too-long"),
        (example("Draw a Picture of it", "a"), Limits(without=("picture",)), "word"),
        (example("画一张图", "好"), Limits(without=("图",)), "word"),
        (example("q", "a", checks={"support": 0.4}), Limits(scores=(("support", 0.5),)), "score"),
        (example("q", "This is certainly written in English."), Limits(languages=("zh",)), "language"),
        (example("What is  it?", "what is it?"), Limits(), "echo"),
        (example("q", "As an AI language model, I cannot."), Limits(), "boilerplate"),
        (example("q", "抱歉，作为一个人工智能语言模型，我不能。"), Limits(), "boilerplate"),
        (example("q", LOOP), Limits(), "repetition"),
        (example("q", "enough letters to be told by, and more than that " + "\ufffd" * 30), Limits(), "garbled"),
    ],
)
def test_each_rule_drops_what_it_names(tmp_path: Path, bad: Example, limits: Limits, reason: str) -> None:
    good = example("What is a valve and what is it good for?", "它控制流体的流量和方向。")
    found, report = run(tmp_path, [good, bad], Checks(limits=limits, near=None, similar=None, mask=False))
    assert [one.id for one in found] == [good.id] and reasons(report) == {reason: 1}
    assert report["dropped"][reason]["examples"][0]["row"] == 2


@pytest.mark.parametrize(
    "good",
    [
        example("Who are you?", "Ask me about AI assistants and language models; they are a subject like others."),
        example("画一张图", "不行", checks={"support": 0.5}),
        example("Name a pictures gallery", "Uffizi"),
        example("q", "4"),
    ],
)
def test_rules_leave_what_they_do_not_name(good: Example) -> None:
    assert fault(good, Limits(without=("picture",), scores=(("support", 0.5), ("judge", 4)), languages=("en",))) is None


def test_rules_can_be_left_out() -> None:
    bad = example("q", "As an AI language model, I cannot.")
    assert fault(bad, Limits(skip=frozenset({"boilerplate"}))) is None


def test_lines_that_are_no_examples_are_dropped_and_named(tmp_path: Path) -> None:
    good = json.dumps(example("q", "a").as_json())
    (tmp_path / "in.jsonl").write_text(f'{good}\nnot json\n{{"id": "x", "messages": []}}\n{good}\n')
    found, report = of_file(tmp_path / "in.jsonl", PLAIN)
    assert len(found) == 1 and reasons(report) == {"form": 2, "exact": 1}
    assert [entry["row"] for entry in report["dropped"]["form"]["examples"]] == [2, 3]


LONG = " ".join(f"word{number}" for number in range(200))


def test_near_repetition_needs_a_near_answer_too(tmp_path: Path) -> None:
    examples = [
        example(f"{LONG} What turns?", "The rotor turns in the casing."),
        example(f"{LONG} What turns ?", "The rotor turns in the casing !"),
        example(f"{LONG} What cools?", "The oil cooler does."),
    ]
    found, report = run(tmp_path, examples, Checks(similar=None))
    assert [one.messages[1].content for one in found] == ["The rotor turns in the casing.", "The oil cooler does."]
    assert reasons(report) == {"near": 1} and "of row 1" in report["dropped"]["near"]["examples"][0]["detail"]


def test_similar_meaning_needs_both_question_and_answer(tmp_path: Path) -> None:
    examples = [
        example("what does the valve do", "it lets steam in"),
        example("what does the valve do ?", "it lets steam in"),  # the fake's vectors know words, not signs
        example("what does the valve do", "nothing at all today"),
        example("where is the pump", "it lets steam in"),
    ]
    found, report = run(tmp_path, examples, Checks(near=None, similar=0.9))
    assert reasons(report) == {"similar": 1} and len(found) == 3
    assert report["dropped"]["similar"]["examples"][0]["row"] == 2
    assert report["embedder"]["model"] == "hashing"


def test_passages_are_no_part_of_what_is_asked() -> None:
    passage = Passage(1, 1, 0, 0, 540, None, (), "steam " * 90, 90)
    hit = Hit(1, 1.0, passage, Source(1, "t.md", "Turbine", "md", "", {}), Scores())
    prompt = answer_messages("Why does it turn?", [hit, hit])[-1].text
    text = asked(example(prompt, "It must [1]."))
    assert "Why does it turn?" in text and "steam" not in text and "<passage" not in text


def test_what_holds_a_question_of_an_evaluation_is_dropped(tmp_path: Path) -> None:
    question = "Which pump feeds the boiler of the second unit in winter when the river is low?"
    (tmp_path / "qa.jsonl").write_text(json.dumps({"id": "q7", "question": question}) + "\n")
    examples = [example("Tell me: " + question, "the third"), example("Which pump is red?", "none")]
    found, report = run(tmp_path, examples, Checks(against=(tmp_path / "qa.jsonl",), near=None, similar=None))
    assert [one.id for one in found] == [examples[1].id]
    assert "qa.jsonl, q7" in report["dropped"]["evaluation"]["examples"][0]["detail"]
    assert report["evaluations"] == {"files": ["qa.jsonl"], "texts": 1}


def test_masks_are_made_before_repetitions_are_looked_for_and_nothing_private_is_in_the_report(tmp_path: Path) -> None:
    examples = [
        example("write to a@qq.com please", "done"),
        example("write to b@qq.com please", "done"),
        example("c@qq.com", "As an AI language model, I"),
    ]
    found, report = run(tmp_path, examples, Checks(near=None, similar=None))
    assert [one.messages[0].content for one in found] == ["write to [EMAIL_1] please"]
    assert found[0].checks == {"masked": {"EMAIL": 1}} and found[0].id != examples[0].id
    assert reasons(report) == {"boilerplate": 1, "exact": 1}
    assert report["masked"]["places"] == {"EMAIL": 2}
    assert "qq.com" not in report_of(tmp_path / "out.jsonl").read_text()
    assert any("Masked 2 EMAIL" in line for line in described(report))


def test_a_stale_id_becomes_that_of_the_messages(tmp_path: Path) -> None:
    one = example("q", "a")
    (tmp_path / "in.jsonl").write_text(json.dumps({**one.as_json(), "id": "mine"}) + "\n")
    found, _ = of_file(tmp_path / "in.jsonl", PLAIN)
    assert found[0].id == one.id


@pytest.mark.parametrize("by", ["clusters", "k-centre"])
def test_a_sample_covers_every_subject(tmp_path: Path, by: Any) -> None:
    subjects = ["steam turbine rotor", "bread flour yeast", "moon tide sea"]
    sizes = (40, 3, 3)
    examples = [
        example(f"{subject} {number}", f"answer {number} {subject}")
        for subject, size in zip(subjects, sizes, strict=True)
        for number in range(size)
    ]
    found, report = run(tmp_path, examples, Checks(near=None, similar=None, sample=6, by=by))
    again, _ = run(tmp_path, examples, Checks(near=None, similar=None, sample=6, by=by))
    assert len(found) == 6 and found == again and reasons(report) == {"sample": 40}
    assert {one.messages[0].content.split()[0] for one in found} == {"steam", "bread", "moon"}


def test_k_centre_takes_the_farthest_each_time() -> None:
    vectors = np.array([[1, 0], [0.98, 0.2], [0, 1], [-1, 0]], dtype=np.float32)
    assert sampled(vectors, 3, "k-centre", lambda *_: None) in ([0, 2, 3], [1, 2, 3])
    assert sampled(vectors, 9, "k-centre", lambda *_: None) == [0, 1, 2, 3]


def test_a_long_question_is_embedded_by_its_end() -> None:
    embedder = HashingEmbedder(max_tokens=10)
    text = " ".join(f"w{n}" for n in range(50))
    assert window(text, embedder, from_end=True) == " ".join(f"w{n}" for n in range(42, 50))
    assert window(text, embedder) == " ".join(f"w{n}" for n in range(8))
    assert window("short", embedder) == "short"


def test_what_was_done_is_known_until_something_changes(tmp_path: Path) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    _, report = run(tmp_path, [example("q", "a")], PLAIN)
    assert checked_before(path, out, PLAIN) == report
    assert checked_before(path, out, Checks(near=None, similar=None)) is None
    out.write_text(out.read_text() + "\n")
    assert checked_before(path, out, PLAIN) is None
    write_examples(path, [example("q", "b")])
    assert checked_before(path, out, PLAIN) is None


def test_vectors_are_kept_for_a_run_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    write_examples(path, [example(f"q{n}", f"a{n}") for n in range(9)])
    embedder = HashingEmbedder()

    def killed(stage: str, done: int, total: int) -> None:
        if stage == "similar":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(path, Checks(), out=tmp_path / "o.jsonl", embedder=lambda: embedder, cache=tmp_path, progress=killed)
    assert embedder.embedded == 18 and not (tmp_path / "o.jsonl").exists()
    check(path, Checks(), out=tmp_path / "o.jsonl", embedder=lambda: embedder, cache=tmp_path, progress=lambda *_: None)
    assert embedder.embedded == 18


def test_nothing_left_and_settings_that_cannot_be_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FathomError, match="none of 1 examples is left; 1 of them: answers with the question.*row 1"):
        run(tmp_path, [example("q", "q")], PLAIN)
    assert not (tmp_path / "out.jsonl").exists()
    for wrong in (
        {"similar": 0.2}, {"near": 2}, {"by": "luck"}, {"sample": 0}, {"limits": Limits(skip=frozenset({"x"}))},
        {"limits": Limits(languages=("klingon",))}, {"regions": ("Mars",)},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            Checks(**wrong)  # type: ignore[arg-type]
