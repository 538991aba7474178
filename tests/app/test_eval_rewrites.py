"""`fathom eval rewrites` from the command line, with rewriters that need no model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fathom = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Twenty-five conversations of three turns; the second question names nobody, its answer names the person."""
    rows: list[dict[str, Any]] = []
    for number in range(25):
        name = f"Anna{chr(97 + number)}{chr(97 + number)}"
        told = [
            {"role": "user", "text": f"Who is {name}?"},
            {"role": "assistant", "text": f"A person much admired, number {number}."},
        ]
        answer = [
            {"role": "user", "text": "What did she paint?"},
            {"role": "assistant", "text": f"{name} drew {number} boats."},
        ]
        second = {"history": told, "question": "What did she paint?", "rewrite": f"What did {name} paint?"}
        rows += [
            {"id": f"c{number}_q0", "history": [], "question": f"Who is {name}?", "rewrite": f"Who is {name}?"},
            {"id": f"c{number}_q1", **second},
            {"id": f"c{number}_q2", "history": told + answer, "question": "Why?", "rewrite": f"Why did {name} draw?"},
        ]
    path = tmp_path / "turns.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_what_rewriting_gains_is_printed_beside_what_a_person_gains(fathom: Fathom, file: Path) -> None:
    out = fathom("eval", "rewrites", str(file)).output
    assert "50 of 75 questions cannot be understood alone" in out
    line = next(line for line in out.splitlines() if line.startswith("nDCG@10, needed\t")).split("\t")
    as_asked, rewritten, person = map(float, line[1:4])
    assert as_asked < rewritten <= person == 1.0
    assert line[4].startswith("+")
    assert "rouge1_recall" in out and "left_alone" in out


def test_json_has_the_figures_and_the_effect_on_the_search(fathom: Fathom, file: Path) -> None:
    found = json.loads(fathom("eval", "rewrites", str(file), "--rewriter", "none", "--json").stdout)
    assert found["metrics"]["unchanged"] == 1.0
    assert found["metrics"]["left_alone"] == 1.0
    assert found["extras"]["search"]["nDCG@10_needed"]["gain"] == 0.0
    assert found["extras"]["rewriter"] == {"name": "none"}
    assert found["counts"]["n"]["nDCG@10_raw_needed"] == 25
    assert found["run"]["kind"] == "rewrites"


def test_searches_can_be_left_out(fathom: Fathom, file: Path) -> None:
    found = json.loads(fathom("eval", "rewrites", str(file), "--no-retrieval", "--json").stdout)
    assert not any("nDCG" in name for name in found["metrics"])
    assert "search" not in found["extras"]


def test_wrong_usage_is_a_sentence(fathom: Fathom, file: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.jsonl"
    given.write_text('{"id": "c0_q0", "rewrite": "x"}')
    both = ("eval", "rewrites", str(file), "--predictions", str(given))
    assert "leave --rewriter out" in fathom(*both, "--rewriter", "none", code=2).output
    assert "no rewrite for 74 of 75 turns" in fathom(*both, code=2).output
    assert "fast" in fathom("eval", "rewrites", str(file), "--pipeline", "fast", code=2).output
    assert fathom("eval", "rewrites", str(tmp_path / "nothing.jsonl"), code=2).output
    file.write_text('{"id": "a"}\n')
    assert "line 1 lacks 'question'" in fathom("eval", "rewrites", str(file), code=1).output
