"""`fathom eval compare`: what people read, what programs read, how it exits."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from eval.runs.executing import execute
from eval.runs.parts import Prepared, Tools
from eval.runs.suites import Suite

HOSTILE = "why \x1b[31mred\x1b]8;;http://evil\x07?\u202e"


@dataclass(frozen=True)
class Given:
    """A part whose items have the answers and F1 that they are given: no engine, no data."""

    values: tuple[tuple[str, float], ...]
    data: str = "a" * 64

    def prepare(self, tools: Tools) -> Prepared:
        return Prepared(len(self.values), {"qa.jsonl": self.data}, "given figures", self._run)

    def _run(self, folder, progress):
        for item, value in self.values:
            folder.append(
                {
                    "id": item,
                    "text": f"{HOSTILE} {item}",
                    "answer": f"answer worth {value} " + "and so on " * 60,
                    "metrics": {"F1": value, "EM": float(value == 1)},
                    "timings": {"generate": 100.0 * value},
                }
            )
        return {}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Two finished runs: in `after`, ten of twelve questions are answered worse."""
    before = tuple((f"q{number}", 1.0) for number in range(12))
    after = tuple((f"q{number}", 0.5 if number < 10 else 1.0) for number in range(12))
    runs = {
        "before": {"squad": Given(before), "old": Given(before)},
        "after": {"squad": Given(after), "new": Given(after)},
        "other": {"squad": Given(before, data="b" * 64)},
    }
    for name, parts in runs.items():
        suite = Suite(name, 0, parts, dict.fromkeys(parts, "answers"))
        execute(suite, tmp_path / "runs" / name, Tools(cache=tmp_path), lambda *_: None)
    return tmp_path


def fathom(workspace: Path, *words: str):
    return CliRunner().invoke(app, ["eval", "compare", *words, "--workspace", str(workspace)])


def test_people_read_a_table_the_losses_and_why_the_gate_failed(workspace):
    done = fathom(workspace, "before", "after", "--gate", "F1>=-0.01", "--gate", "EM>=-1", "--worst", "2")
    assert done.exit_code == 1
    assert "squad (answers, 12 items)" in done.stdout
    assert "F1\t1.000\t0.583\t-0.417\t" in done.stdout
    assert "0/2/10" in done.stdout
    assert "lost most in F1" in done.stdout and "gained" not in done.stdout
    assert done.stdout.count("1.000 → 0.500") == 2
    assert "answer worth 0.5" in done.stdout and "…" in done.stdout
    assert "FAIL  F1>=-0.01  squad: the difference in F1 is -0.417" in done.stdout
    assert "pass  EM>=-1" in done.stdout
    assert "only in before: old" in done.stderr and "only in after: new" in done.stderr
    assert "1 of 2 gates failed" in done.stderr


def test_nothing_in_a_record_acts_on_the_terminal(workspace):
    shown = fathom(workspace, "before", "after").stdout
    assert "why red" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown) and "evil" not in shown


def test_programs_read_everything(workspace):
    done = fathom(workspace, "before", "after", "--json", "--gate", "F1>=0@95", "--worst", "3")
    value = json.loads(done.stdout)
    assert done.exit_code == 1 and value["passed"] is False
    (part,) = value["parts"]
    row = next(row for row in part["rows"] if row["metric"] == "F1")
    assert row["main"] and (row["wins"], row["ties"], row["losses"]) == (0, 2, 10)
    assert row["difference"]["value"] == pytest.approx(-5 / 12)
    assert row["difference"]["low"] < -5 / 12 < row["difference"]["high"]
    assert row["p"] == 2 / 1024
    assert len(part["regressions"]) == 3
    assert part["regressions"][0]["text"].startswith(HOSTILE)
    assert value["gates"][0]["value"] == row["difference"]["low"]
    assert value["only_a"] == ["old"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("before", "after"), 0),
        (("before", "after", "--gate", "F1>=-0.5"), 0),
        (("before", "after", "--gate", "F1>0"), 1),
        (("before", "before", "--gate", "F1>=0@95"), 0),
        (("before", "after", "--gate", "abs:F1>=0.5"), 0),
        (("after", "before", "--gate", "squad/F1>0.1@95"), 0),
        (("before", "after", "--gate", "generate.p50<=0"), 0),
        (("before", "after", "--gate", "F1=>0"), 2),
        (("before", "after", "--gate", "ROUGE-L>=0"), 2),
        (("before", "other"), 2),
        (("before", "nothing"), 2),
        (("before:old", "after:new"), 0),
        (("before:squad", "before:old", "--gate", "F1>=0"), 0),
        (("before", "after", "--parts", "old=new"), 0),
        (("before", "after", "--parts", "old"), 2),
        (("before", "after", "--parts", "=new"), 2),
        (("before:old", "after:new", "--parts", "squad"), 2),
    ],
)
def test_the_exit_code_tells_a_program(workspace, words, code):
    done = fathom(workspace, *words)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    assert code != 2 or done.stderr.count("\n") <= 3


def test_how_many_are_shown_beside_each_other_needs_a_file(workspace):
    assert "name the file with --beside FILE" in fathom(workspace, "a", "b", "--drawn", "3").output


def test_runs_on_other_data_are_refused_by_the_name_of_the_file(workspace):
    done = fathom(workspace, "before", "other")
    assert "qa.jsonl was not the same for 'before' and 'other'" in done.stderr


def test_a_folder_names_a_run_and_a_part_of_it(workspace):
    runs = workspace / "runs"
    done = fathom(workspace, str(runs / "before"), f"{runs / 'after'}:new", "--parts", "x")
    assert done.exit_code == 2
    done = fathom(workspace, f"{runs / 'before'}:old", f"{runs / 'after'}:new")
    assert done.exit_code == 0 and "old → new (answers, 12 items)" in done.stdout


def test_a_damaged_run_is_named(workspace):
    (workspace / "runs" / "after" / "parts" / "squad" / "records.jsonl").write_text("no record\n")
    done = fathom(workspace, "before", "after")
    assert done.exit_code == 1 and "records.jsonl" in done.stderr and "Traceback" not in done.output
