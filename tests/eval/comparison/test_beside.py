"""Answers of two runs side by side, as Markdown that nothing in them can break out of."""

from pathlib import Path

import pytest

from eval.comparison.beside import side_by_side
from eval.runs.executing import PartResult, RunResult
from retrieval.errors import UsageError


def run(name: str, **answers: str) -> RunResult:
    records = {
        key: {
            "id": key,
            "text": f"What is {key}?",
            "answerable": key != "q3",
            "golds": [] if key == "q3" else [f"gold of {key}"],
            "answer": text,
            "refused": text == "no",
            "metrics": {"F1": 0.25},
        }
        for key, text in answers.items()
    }
    part = PartResult("set", "answers", {}, {}, records, {}, {}, {}, 1.0, len(records))
    return RunResult(Path(name), name, {}, {"set": part})


def beside(a: RunResult, b: RunResult, **more: int) -> str:
    return side_by_side(a, b, part_a="set", part_b="set", **more)


def test_each_question_shows_what_was_expected_and_what_either_said() -> None:
    text = beside(run("old", q1="one [1]", q2="two", q3="three"), run("new", q1="eins [2]", q2="zwei", q3="no"))
    assert text.startswith("# old beside new\n\n3 of 3 questions")
    first = text.split("\n## ")[1]
    assert first.startswith("What is q1?\n\n- Expected: gold of q1\n- **old**: one [1] (F1 0.25)\n- **new**: eins [2]")
    assert "- Expected: *no answer: the documents hold none*" in text and "*refused* no" in text


def test_some_are_drawn_by_the_seed_and_stay_in_the_order_of_the_file() -> None:
    answers = {f"q{number}": f"answer {number}" for number in range(10, 60)}
    a, b = run("old", **answers), run("new", **answers)
    few = beside(a, b, drawn=5, seed=3)
    asked = [line for line in few.splitlines() if line.startswith("## ")]
    assert few == beside(a, b, drawn=5, seed=3) and len(asked) == 5 and asked == sorted(asked)
    assert beside(a, b, drawn=5, seed=4) != few


def test_what_a_model_wrote_is_no_markup() -> None:
    hostile = "# big\n\n<script>x</script> [1](http://evil) ![i](http://evil/i.png) `code` **b** | cell & &lt;"
    text = beside(run("old", q1=hostile), run("new", q1="fine [1], [2]"))
    said = next(line for line in text.splitlines() if line.startswith("- **old**"))
    assert "<" not in said and "](" not in said.replace("\\](", "") and "`code`" not in said.replace("\\`", "")
    assert "&lt;script&gt;" in said and "&amp;lt;" in said and "\n# big" not in text
    assert "fine [1], [2]" in text


def test_without_answers_in_common_there_is_nothing_to_show() -> None:
    with pytest.raises(UsageError, match="no answers to the same questions"):
        beside(run("old", q1="one"), run("new", q2="two"))
