"""`fathom data self-instruct | evolve | score | sample` as commands, with a scripted engine behind them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import HashingEmbedder
from scripted_llm import ScriptedLLM

from adapt.instructions.example import Example, Message, read_examples, write_examples

Fathom = Callable[..., Any]


class ClosingLLM(ScriptedLLM):
    """Can be closed, as engines can."""

    def close(self) -> None:
        self.asked.clear()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], str]], ClosingLLM]:
    """Puts a scripted model behind every engine's name."""

    def put(say: Callable[[str], str]) -> ClosingLLM:
        llm = ClosingLLM(say=say)
        monkeypatch.setattr("app.build.engine_named", lambda settings, name: llm)
        return llm

    return put


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    questions = ["Name three uses of salt.", "What is a fjord?", "Explain the offside rule.", "Suggest a dish of rice."]
    rows = [{"instruction": text, "input": "", "output": f"answer {n}"} for n, text in enumerate(questions)]
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(path: Path, *questions: str) -> Path:
    write_examples(path, [Example.of([Message("user", q), Message("assistant", f"answer to {q}")]) for q in questions])
    return path


def writes(last: str) -> str:
    if "new tasks" in last:
        tasks = ("Describe how a lock lifts a ship.", "Draw a lock of stone.", "Compare tea and coffee as drinks.")
        return "\n".join(f"Task {number}: {text}" for number, text in enumerate(tasks, 5))
    return "No" if "Is this a classification?" in last else f"Input: none\nOutput: This is about it: {last}"


def test_new_examples_are_written_with_their_yields_and_a_plan_asks_nothing(
    fathom: Fathom, engine: Any, seeds: Path, tmp_path: Path
) -> None:
    llm = engine(writes)
    out = tmp_path / "new.jsonl"
    words = ("data", "self-instruct", str(seeds), "--out", str(out), "--count", "2")
    plan = fathom(*words, "--dry-run")
    assert "seed tasks: 4" in plan.stdout and "Task 4: " in plan.stdout and "[user]" in plan.stdout
    assert not llm.asked and list(tmp_path.glob("new*")) == []
    done = fathom(*words)
    assert "instructions\t1\t3\t2\t67%" in done.stdout and "instances\t2\t2\t2\t100%" in done.stdout
    assert "instructions\tword\t1\tit needs more than text" in done.stdout and "2 examples in" in done.stderr
    found = list(read_examples(out))
    assert [one.messages[0].content for one in found][0] == "Describe how a lock lifts a ship."
    assert found[0].origin and (found[0].origin.source, found[0].origin.by) == ("seeds.jsonl", "scripted")
    report = json.loads((tmp_path / "new.yield.json").read_text())
    assert report["examples"] == 2 and report["yields"]["instructions"]["rejected"]["word"]["count"] == 1
    assert "is there already" in fathom(*words, code=2).stderr
    again = json.loads(fathom(*words, "--replace", "--json").stdout)
    assert again["requests"] == {"asked": 0, "reused": 5} and again["sha256"] == report["sha256"]
    anew = json.loads(fathom(*words, "--replace", "--ask-again", "--json").stdout)
    assert anew["requests"] == {"asked": 5, "reused": 0}
    fewer = fathom(*words[:-1], "9", "--patience", "2", "--replace", code=3)
    assert "2 of 9 examples: 2 prompts in a row gave none" in fewer.stderr


def test_a_stopped_run_says_how_it_goes_on(fathom: Fathom, engine: Any, seeds: Path, tmp_path: Path) -> None:
    def stopped(last: str) -> str:
        if "Output" in writes(last):
            raise KeyboardInterrupt
        return writes(last)

    out = tmp_path / "new.jsonl"
    words = ("data", "self-instruct", str(seeds), "--out", str(out), "--count", "2")
    engine(stopped)
    said = fathom(*words, code=130)
    assert "the same command goes on" in said.stderr and not out.exists()
    engine(writes)
    assert json.loads(fathom(*words, "--json").stdout)["requests"] == {"asked": 2, "reused": 3}


def test_a_model_that_writes_nothing_of_use_leaves_a_report_and_a_sentence(
    fathom: Fathom, engine: Any, seeds: Path, tmp_path: Path
) -> None:
    engine(lambda last: "\x1b[31m...\x00")
    out = tmp_path / "new.jsonl"
    said = fathom("data", "self-instruct", str(seeds), "--out", str(out), "--patience", "3", code=1)
    assert "instructions\t3\t3\t0\t0%" in said.stdout and "unreadable\t3" in said.stdout
    assert "no example is left" in said.stderr and "not in the form that was asked for" in said.stderr
    assert not out.exists() and json.loads((tmp_path / "new.yield.json").read_text())["examples"] == 0
    assert "\x1b" not in said.output


def test_examples_are_evolved(fathom: Fathom, engine: Any, tmp_path: Path) -> None:
    def say(last: str) -> str:
        if "equal?" in last:
            return "Different" if "salt" in last else "Equal"
        if "<instruction>" in last:
            return last.partition("<instruction>\n")[2].partition("\n</")[0] + " Give two reasons for each of them."
        return "Because it tastes, and because it keeps."

    llm = engine(say)
    path, out = pairs(tmp_path / "e.jsonl", "Name three uses of salt.", "What is a fjord?"), tmp_path / "hard.jsonl"
    words = ("data", "evolve", str(path), "--out", str(out), "--rounds", "1", "--step", "constraints")
    assert "requests at most: 8" in fathom(*words, "--dry-run").stdout and not llm.asked
    report = json.loads(fathom(*words, "--json").stdout)
    assert report["examples"] == 1 and report["yields"]["gains"]["rejected"]["no-gain"]["count"] == 1
    assert [one.origin.kind for one in read_examples(out) if one.origin] == ["evolved"]
    assert "no step 'up'" in fathom(*words[:-1], "up", "--replace", code=2).stderr


def test_examples_are_scored_and_the_good_ones_kept(fathom: Fathom, engine: Any, tmp_path: Path) -> None:
    def say(last: str) -> str:
        return "A five." if "fjord" in last else f'{{"score": {5 if "salt" in last else 2}}}'

    engine(say)
    path, out = pairs(tmp_path / "e.jsonl", "salt?", "rice?"), tmp_path / "good.jsonl"
    done = fathom("data", "score", str(path), "--out", str(out), "--least", "4")
    assert "2\t1" in done.stdout and "scores\tscore\t1\tit has a lower score" in done.stdout
    assert [one.checks["score"] for one in read_examples(out)] == [5.0]
    pairs(path, "salt?", "rice?", "fjord?")
    told = fathom("data", "score", str(path), "--out", str(out), "--replace", code=3)
    assert "unreadable-verdict\t1\tit could not be judged" in told.stdout
    kept = fathom("data", "score", str(path), "--out", str(out), "--replace", "--keep-all", "--json", code=3)
    assert json.loads(kept.stdout)["scores"] == {"2": 1, "5": 1} and len(list(read_examples(out))) == 3
    both = fathom("data", "score", str(path), "--out", str(out), "--keep-all", "--least", "3", code=2)
    assert "leave one out" in both.stderr


def test_a_sample_covers_what_is_asked(fathom: Fathom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("app.build.embedder", lambda settings: lambda: HashingEmbedder())
    questions = [
        "salt in the sea",
        "salt in the sea here",
        "salt in the sea there",
        "a diesel engine",
        "rice with beans",
    ]
    path, out = pairs(tmp_path / "e.jsonl", *questions), tmp_path / "few.jsonl"
    dry = fathom("data", "sample", str(path), "--out", str(out), "--count", "3", "--dry-run")
    assert "would be drawn" in dry.stderr and not out.exists()
    told = json.loads(fathom("data", "sample", str(path), "--out", str(out), "--count", "3", "--json").stdout)
    drawn = [one.messages[0].content for one in read_examples(out)]
    assert told["drawn"] == 3 and sum("salt" in text for text in drawn) == 1 and set(questions[3:]) <= set(drawn)
    assert "not by 'luck'" in fathom("data", "sample", str(path), "--out", str(out), "--count", "1", "--by", "luck",
                                    "--replace", code=2).stderr  # fmt: skip


@pytest.mark.parametrize("command", ["self-instruct", "evolve", "score"])
def test_an_unknown_engine_is_refused_before_anything_is_read(fathom: Fathom, tmp_path: Path, command: str) -> None:
    said = fathom("data", command, "nowhere.jsonl", "--out", str(tmp_path / "o.jsonl"), "--engine", "gpt-9", code=2)
    assert "no engine 'gpt-9'" in said.stderr
