"""A run's facts → its report: everything that was measured stands in it, nothing of a document becomes markup."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_adaptations import adapted, metrics

from adapt.evidence.curves import MOST_POINTS, read_metrics, schedule, smoothed, training_curves
from adapt.evidence.report import to_html, write_report
from adapt.evidence.run_facts import RunFacts, StageFacts
from eval.runs.run_folder import write_json
from retrieval.errors import DamagedError, UsageError

PAYLOADS = [
    item["text"]
    for item in json.loads((Path(__file__).parents[2] / "app" / "chat" / "hostile.json").read_text(encoding="utf-8"))
]


def words_of(html: str) -> str:
    """What a reader sees, roughly: the text between tags."""
    body = re.sub(r"<(style|script)[^>]*>.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", body))


def test_the_report_says_what_was_run_on_what_and_what_came_of_it(tmp_path: Path) -> None:
    adapted(tmp_path)
    place = write_report(tmp_path)
    assert place == tmp_path / "report.html" and [file.name for file in tmp_path.glob(".*")] == []
    words = words_of(place.read_text(encoding="utf-8"))
    for said in (
        "Stopped at a gate",
        "1 of 3 crossed",
        "9.30% fewer bits per byte than the base needs (0.7800 for 0.8600)",
        "6.67% fewer tokens",
        "The chain stopped at a gate.",
        "general bits_per_byte rose by 1.20 %",
        "near-duplicate",
        "736 documents, 15.0 MB",
        "200 texts of evaluations were looked for; 1 document held one",
        "Ġdecorator",
        "400 steps over 3,276,800 tokens",
        "Python functions are",
        "first-class objects;",
        "the functions of Python.",
        "1 h 08 min",
        "c" * 64,
        "trend",
        "Schedule: domain",
        "Off the plan by 0.20% at most",
        "million tokens",
        "peps",
    ):
        assert said in words, said


def test_the_facts_of_a_run_come_back_as_they_were(tmp_path: Path) -> None:
    facts = adapted(tmp_path)
    read = RunFacts.read(tmp_path)
    assert dataclasses.asdict(read) == json.loads(json.dumps(dataclasses.asdict(facts)))
    assert to_html(tmp_path, read) == to_html(tmp_path, facts)


def test_facts_that_are_none_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run of a recipe"):
        write_report(tmp_path)
    for wrong in ({}, {"name": 3}, {"name": "x", "stages": [{"kind": "dapt"}]}):
        write_json(tmp_path / "facts.json", wrong)
        with pytest.raises(DamagedError, match="not what was written"):
            write_report(tmp_path)


def test_a_run_that_has_only_begun_has_a_report_too(tmp_path: Path) -> None:
    bare = RunFacts(name="new", started="2026-11-28T04:00:00Z", state="running", recipe={}, recipe_sha256="", base={})
    assert "No stage has run yet." in to_html(tmp_path, bare)
    waiting = dataclasses.replace(bare, stages=[StageFacts("dapt", metrics="missing.jsonl", state="waiting")])
    assert "Waiting" in to_html(tmp_path, waiting)


def test_a_file_outside_the_run_is_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    metrics(tmp_path / "outside.jsonl")
    facts = adapted(tmp_path / "run")
    stage = dataclasses.replace(facts.stages[1], metrics="../outside.jsonl")
    assert "Loss" in words_of(to_html(tmp_path / "run", facts))
    assert "Norm of the gradient" not in to_html(tmp_path / "run", dataclasses.replace(facts, stages=[stage]))


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_nothing_hostile_becomes_markup(tmp_path: Path, payload: str) -> None:
    plain_tags = _tags(to_html(tmp_path, adapted(tmp_path)))
    html = to_html(tmp_path, adapted(tmp_path, lambda text: f"{text} {payload}"))
    assert _tags(html) <= plain_tags, _tags(html) - plain_tags
    assert html.count("<script") == 2 and html.count("</script>") == 2
    for hidden in "\x00\x1b\u202e\u2066":
        assert hidden not in html


def _tags(html: str) -> set[tuple[str, tuple[str, ...]]]:
    """Every tag with its attributes' names, as a browser's parser would see them."""
    from html.parser import HTMLParser

    found: set[tuple[str, tuple[str, ...]]] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            found.add((tag, tuple(sorted(name for name, _ in attrs))))

    Reader().feed(html)
    return found


def test_the_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    html = to_html(tmp_path, adapted(tmp_path))
    assert "default-src 'none'" in html
    assert not re.findall(r"(?:src|href)=\"(?!#)[^\"]*\"", html)
    assert not re.findall(r"url\(|@import| style=\"", html)


# --- curves ----------------------------------------------------------------------------------------------------------


def test_lines_that_a_kill_or_a_fool_left_are_not_drawn(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(
        b'{"step": 1, "loss": 2.0}\n[1]\n\xff\xfe\n{"step": "x"}\n' + b"[" * 9000 + b'\n{"step": 2, "loss": null}\n{"st'
    )
    assert [line["step"] for line in read_metrics(file)] == [1, 2]
    assert training_curves(read_metrics(file)) == []


def test_long_trainings_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    lines = [{"step": step, "tokens": step * 1000, "loss": 1 / step} for step in range(1, 5001)]
    (loss,) = training_curves(lines)
    path = re.search(r'd="M([^"]*)" class="line s0"', str(loss.drawing))
    assert path is not None and len(path[1].split("L")) == MOST_POINTS
    assert loss.rows[0][1] == "1" and loss.rows[-1][1] == "0.0002"
    assert len(loss.rows) <= 14


def test_figures_that_are_no_number_leave_gaps_and_no_error() -> None:
    lines: list[dict[str, Any]] = [
        {"step": n, "loss": None if n % 3 else 2.0, "lr": float("nan"), "grad_norm": "high", "kl": 0.0}
        for n in range(1, 30)
    ]
    assert [block.title for block in training_curves(lines)] == ["Loss"]


def test_a_smoothed_curve_begins_at_its_first_value_and_follows_a_step() -> None:
    values = [1.0] * 5 + [2.0] * 400
    trend = smoothed(values, 10)
    assert trend[0] == 1.0 and trend[4] == pytest.approx(1.0)
    assert trend[5] == pytest.approx(1 + 0.1 / (1 - 0.9**6))
    assert trend[-1] == pytest.approx(2.0)


def test_three_sources_have_a_schedule_each_and_two_have_one() -> None:
    two = [{"domain": 0.5, "general": 0.5}] * 10
    three = [{"a": 0.2, "b": 0.3, "c": 0.5}] * 10
    assert [block.title for block in schedule(two, two)] == ["Schedule: domain"]
    assert [block.title for block in schedule(three, three)] == ["Schedule: a", "Schedule: b", "Schedule: c"]
    assert schedule([], []) == []
