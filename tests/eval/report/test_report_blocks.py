"""Extras of any form → tables and drawings; findings in words that say what the figures say."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import answers, every_kind, retrieval, write_run

from eval.comparison.comparing import compare
from eval.report.blocks import blocks
from eval.report.findings import findings
from eval.report.shape import compared, shape
from eval.runs.executing import read_run


def test_a_risk_coverage_curve_is_drawn_with_its_area_and_thresholds() -> None:
    curve, thresholds = blocks(answers()["extras"])[:2]
    assert curve.title == "Risk–coverage curve" and "(AURC) 0.153 [0.110, 0.200]" in curve.note
    assert "Answering 100% of the questions, 35% of the answers are wrong" in curve.note
    assert curve.drawing is not None and "<path" in curve.drawing and curve.rows[-1] == ("100%", "0.350")
    assert list(thresholds.rows[0]) == ["0.100", "0.620", "0.400"]


def test_agreement_is_a_table_of_people_against_judge() -> None:
    (found, *_) = blocks(every_kind()["judged"]["extras"])
    assert (
        found.note == "Cohen's κ 0.73 [0.50, 0.93] over 40 items that people have labelled too; 88% get the same label."
    )
    assert [list(row) for row in found.rows] == [["people: no", "12", "3"], ["people: yes", "2", "23"]]
    assert list(found.head) == ["", "judge: no", "judge: yes"]


def test_load_is_drawn_over_the_users_and_told_in_numbers() -> None:
    latency, throughput, numbers = blocks(every_kind()["speed"]["extras"])
    assert latency.drawing is not None and latency.drawing.count('class="line') == 2
    assert throughput.drawing is not None and throughput.drawing.count("<circle") == 5
    assert list(numbers.rows[-1]) == ["50", "530", "1,620", "9.26", "0"]


def test_versions_and_settings_stand_in_one_folded_table() -> None:
    extras = {
        "index": {"documents": 1400, "model": {"name": "m", "prefix": ""}},
        "stages": ["lexical", "dense"],
        "n": 3,
    }
    (only,) = blocks(extras)
    assert only.folded and list(only.rows) == [
        ("index: documents", "1,400"), ("index: model: name", "m"), ("stages", "lexical, dense"), ("n", "3"),
    ]  # fmt: skip


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["coverage", "risk", "AURC", "classes", "table", "users", "a_ms", "curve", "kappa"]), inner
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["risk_coverage", "load", "x"]), ANY))
def test_no_form_of_extras_breaks_a_report(extras: dict[str, Any]) -> None:
    for block in blocks(extras):
        assert block.title and all(len(row) == len(block.head) for row in block.rows)


def told(folder: Path, now: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, str]:
    run = read_run(write_run(folder / "now", now))
    if before is None:
        return dict(findings(shape(run)))
    other = read_run(write_run(folder / "before", before))
    return dict(findings(shape(run), compared(run, other, compare(other, run))))


def test_a_clear_gain_is_said_to_be_no_chance(tmp_path: Path) -> None:
    said = told(tmp_path, {"r": retrieval(60, skill=0.15)}, {"r": retrieval(60, skill=0.0)})["r"]
    assert said.startswith("Hybrid ranks the relevant documents with nDCG@10 0.")
    assert "The difference to dense alone is +0." in said and "unlikely to be chance (p < .001)" in said
    assert "The difference to the run before is +0.1" in said and "worse on 0" in said


def test_a_doubtful_difference_is_said_to_be_one_with_what_would_show(tmp_path: Path) -> None:
    before, now = ({"c": {"kind": "choices", "records": records(wrong)}} for wrong in ({1, 2, 3}, {2, 3}))
    said = told(tmp_path, now, before)["c"]
    assert "+0.050" in said and "(better on 1, worse on 0, equal on 19)" in said
    assert "which may be chance (p = 1)" in said and "so many items reliably show only differences from 0." in said


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    failed = [{"id": "a", "text": "?", "metrics": {}, "timings": {}, "error": "the engine is gone"}]
    parts = {"e": {"kind": "answers", "records": failed, "error": "gave up"}, "n": {"kind": "answers", "records": []}}
    assert told(tmp_path, parts) == {"e": "Nothing could be measured: gave up", "n": "Nothing is measured yet."}


def records(wrong: set[int]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"c{i}",
            "text": "?",
            "metrics": {"choice_accuracy": float(i not in wrong)},
            "timings": {},
            "error": None,
        }
        for i in range(20)
    ]


@pytest.mark.parametrize("kind", list(every_kind()))
def test_every_kind_has_a_sentence(tmp_path: Path, kind: str) -> None:
    said = told(tmp_path, {kind: every_kind()[kind]})[kind]
    assert "over " in said and "[" in said or kind == "speed"
