"""Drawings: numbers stand where they belong, text is escaped, nothing known breaks them."""

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.report import plots


def parsed(markup: str) -> ET.Element:
    return ET.fromstring(str(markup))


def test_ticks_are_round_and_span_the_values() -> None:
    assert plots.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert plots.ticks(0, 37) == [0, 10, 20, 30, 40]
    assert plots.ticks(3, 3)[0] <= 3 <= plots.ticks(3, 3)[-1]


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_of_any_range_are_few_and_rising(low: float, width: float) -> None:
    found = plots.ticks(low, low + width)
    assert 2 <= len(found) <= 12 or low + width == low
    assert all(a < b for a, b in zip(found, found[1:], strict=False))


def test_a_whisker_stands_at_its_value() -> None:
    root = parsed(plots.whisker(0.5, 0.25, 0.75, width=160))
    dot = root.find("circle")
    assert dot is not None and float(dot.attrib["cx"]) == 80
    ends = [float(line.attrib["x1"]) for line in root.iter("line") if line.attrib["class"] == "range cap"]
    assert ends == [43, 117]


def test_a_whisker_without_a_value_or_an_interval_is_drawn_too() -> None:
    assert parsed(plots.whisker(None, None, None)).find("circle") is None
    alone = parsed(plots.whisker(0.3, None, None))
    assert alone.find("circle") is not None and not [x for x in alone.iter("line") if "range" in x.attrib["class"]]


def test_differences_show_zero() -> None:
    scale = plots.scale_of([0.03, -0.01, None], through_zero=True)
    assert scale[0] == -scale[1] and scale[1] >= 0.03
    zero = [x for x in parsed(plots.whisker(0.02, 0.01, 0.03, scale=scale)).iter("line") if x.attrib["class"] == "zero"]
    assert float(zero[0].attrib["x1"]) == 80


def test_the_scatter_counts_equal_questions_and_knows_what_is_better() -> None:
    points = [(0.0, 1.0)] * 3 + [(1.0, 0.0), (0.5, 0.5)]
    kinds = [c.attrib["class"] for c in parsed(plots.scatter(points, title="t", x_label="x")).iter("circle")]
    assert sorted(kinds) == ["point loss", "point tie", "point win"]
    flipped = parsed(plots.scatter([(0.0, 1.0)], title="t", x_label="x", lower_is_better=True))
    assert [c.attrib["class"] for c in flipped.iter("circle")] == ["point loss"]


def test_five_thousand_questions_stay_a_small_drawing() -> None:
    points = [(math.sin(i) ** 2, math.cos(i * 7) ** 2) for i in range(5000)]
    assert len(plots.scatter(points, title="t", x_label="x")) < 400_000
    drawn = plots.differences([a - b for a, b in points], title="t", x_label="x")
    assert len(drawn) < 40_000 and drawn.count("M") <= plots.MOST_BARS + 1


def test_wins_stand_above_the_line_and_losses_below() -> None:
    root = parsed(plots.differences([0.5, 0.0, -0.25], title="t", x_label="x"))
    tops = {p.attrib["class"]: [float(y) for y in re.findall(r"V([\d.]+)", p.attrib["d"])] for p in root.iter("path")}
    assert min(tops["bars win"]) < tops["bars win"][-1] and max(tops["bars loss"]) > tops["bars loss"][-1]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_points_are_drawn(n: int) -> None:
    points = [(i / 2, i / 3) for i in range(n)]
    for drawing in (
        plots.scatter(points, title="t", x_label="x"),
        plots.differences([y for _, y in points], title="t", x_label="x"),
        plots.curves([plots.Series("a", points, dots=True)], title="t", x_label="x", y_label="y"),
    ):
        assert "nan" not in drawing and parsed(drawing).find("title") is not None


def test_hostile_names_are_text() -> None:
    name = "</svg><script>alert(1)</script>\"'&"
    drawn = [
        plots.latencies([(name, 1.0, 2.0, 3.0)], title=name, text=str),
        plots.curves([plots.Series(name, [(0, 1), (1, 2)])] * 2, title=name, x_label=name, y_label=name),
        plots.whisker(0.5, 0.4, 0.6, label=name),
        plots.scatter([(0, 1)], title=name, x_label=name),
    ]
    for drawing in drawn:
        assert "<script" not in drawing and name in "".join(parsed(drawing).itertext())


def test_latencies_are_placed_by_their_logarithm() -> None:
    root = parsed(plots.latencies([("a", 1.0, 10.0, 100.0)], title="t", text=str))
    ring, dot = (float(c.attrib["cx"]) for c in root.iter("circle"))
    tick = [float(x.attrib["x1"]) for x in root.iter("line") if x.attrib["class"] == "range"][-1]
    assert tick == pytest.approx((ring + dot) / 2, abs=0.02)
