"""Numbers → drawings in SVG: interval whiskers, curves, latencies, scatter and difference plots. Knows no record.

Built as an element tree, so that every text is escaped by construction; colours are classes that the page's style sheet
fills for both themes. Each drawing carries a title and a description for screen readers.
"""

import math
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 40
MOST_BARS = 240
"""Bars of a difference plot; more questions share one (their mean), which a screen could not tell apart anyway."""
MOST_SERIES = 4

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """A named line of points, in the order of x. `band` holds (x, low, high)."""

    name: str
    points: Sequence[Point]
    dots: bool = False


def _element(parent: ET.Element | None, tag: str, text: str = "", **attributes: Any) -> ET.Element:
    named = {
        key.rstrip("_").replace("_", "-"): f"{value:.2f}".rstrip("0").rstrip(".")
        if isinstance(value, float)
        else str(value)
        for key, value in attributes.items()
    }
    new = ET.Element(tag, named) if parent is None else ET.SubElement(parent, tag, named)
    if text:
        new.text = text
    return new


def _drawing(width: int, height: int, kind: str, title: str, description: str = "") -> ET.Element:
    root = _element(None, "svg", viewBox=f"0 0 {width} {height}", class_=f"plot {kind}", role="img")
    _element(root, "title", title)
    if description:
        _element(root, "desc", description)
    return root


def _markup(root: ET.Element) -> Markup:
    """The tree as HTML. Safe by construction: the serialiser escapes every text and attribute."""
    return Markup(ET.tostring(root, encoding="unicode"))


def short(value: float) -> str:
    """A tick label: 0.25 → ".25", 12000 → "12k"."""
    if value and abs(value) < 1:
        return f"{value:.4f}".rstrip("0").replace("0.", ".").replace("-", "−")
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k".replace("-", "−")
    return f"{value:g}".replace("-", "−")


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that span [low, high]: steps of 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def whisker(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    scale: tuple[float, float] = (0.0, 1.0),
    label: str = "",
    kind: str = "",
    width: int = 160,
) -> Markup:
    """A dot with its interval on `scale`, 18 units high, for a table's cell. Without a value, the empty scale.

    The scale's own zero is marked where it lies inside: differences then show at once whether they exclude it.
    """
    root = _drawing(width, 18, "whisker", label)
    pad, (bottom, top) = 6.0, scale
    span = (top - bottom) or 1.0

    def x(number: float) -> float:
        return pad + (width - 2 * pad) * min(1.0, max(0.0, (number - bottom) / span))

    _element(root, "line", x1=pad, x2=width - pad, y1=9, y2=9, class_="rail")
    if bottom < 0 < top:
        _element(root, "line", x1=x(0), x2=x(0), y1=1, y2=17, class_="zero")
    if value is not None:
        if low is not None and high is not None:
            _element(root, "line", x1=x(low), x2=x(high), y1=9, y2=9, class_=f"range {kind}".strip())
            for end in (low, high):
                _element(root, "line", x1=x(end), x2=x(end), y1=6, y2=12, class_=f"range cap {kind}".strip())
        _element(root, "circle", cx=x(value), cy=9, r=4, class_=f"dot {kind}".strip())
    return _markup(root)


def bar(share: float, *, label: str = "", width: int = 160) -> Markup:
    """A bar over `share` (0 to 1) of the width, for a table's cell."""
    root = _drawing(width, 18, "share", label)
    _element(root, "rect", x=0, y=5, width=max(1.0, width * min(1.0, max(0.0, share))), height=8, rx=2, class_="bar")
    return _markup(root)


def scale_of(numbers: Sequence[float | None], *, through_zero: bool = False) -> tuple[float, float]:
    """A round scale for whiskers that share it: [0, 1] where all are shares, symmetric where they are differences."""
    known = [n for n in numbers if n is not None]
    if not known:
        return (-1.0, 1.0) if through_zero else (0.0, 1.0)
    if through_zero:
        reach = ticks(0, max(map(abs, known)) or 0.01, 4)[-1]
        return -reach, reach
    if min(known) >= 0 and max(known) <= 1:
        return 0.0, 1.0
    found = ticks(min(0.0, *known), max(known), 4)
    return found[0], found[-1]


def scale_axis(scale: tuple[float, float], width: int = 160) -> Markup:
    """The scale's ends and middle as a head for a column of whiskers."""
    root = _drawing(width, 14, "whisker axis", f"scale from {short(scale[0])} to {short(scale[1])}")
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        text = short(scale[0] + share * (scale[1] - scale[0]))
        _element(root, "text", text, x=1 + (width - 2) * share, y=11, text_anchor=anchor)
    return _markup(root)


class _Axes:
    """A frame with round ticks and the two functions that place numbers in it."""

    def __init__(self, root: ET.Element, xs: list[float], ys: list[float], x_label: str) -> None:
        self.root = root
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        x0, x1, y0, y1 = xs[0], xs[-1], ys[0], ys[-1]
        self.x: Callable[[float], float] = lambda v: _LEFT + (right - _LEFT) * (v - x0) / ((x1 - x0) or 1)
        self.y: Callable[[float], float] = lambda v: bottom - (bottom - _TOP) * (v - y0) / ((y1 - y0) or 1)
        for tick in ys:
            at = self.y(tick)
            _element(root, "line", x1=_LEFT, x2=right, y1=at, y2=at, class_="zero" if tick == 0 else "grid")
            _element(root, "text", short(tick), x=_LEFT - 7, y=at + 4, text_anchor="end", class_="tick")
        for tick in xs:
            _element(root, "text", short(tick), x=self.x(tick), y=bottom + 16, text_anchor="middle", class_="tick")
        _element(root, "text", x_label, x=right, y=HEIGHT - 5, text_anchor="end", class_="label")

    def path(self, points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{self.x(px):.1f} {self.y(py):.1f}" for px, py in points)


def curves(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    description: str = "",
    from_zero: bool = True,
) -> Markup:
    """Lines over a common x axis, each named at its end; the y axis begins at 0 where `from_zero`, else near the lowest
    point. At most four are told apart."""
    shown = [line for line in series if line.points][:MOST_SERIES]
    root = _drawing(WIDTH, HEIGHT, "curves", title, description or f"{y_label} over {x_label}")
    xs = [x for line in shown for x, _ in line.points] or [0.0, 1.0]
    ys = [y for line in shown for _, y in line.points] or [0.0, 1.0]
    lowest = min(0.0, *ys) if from_zero else min(ys)
    axes = _Axes(root, ticks(min(0.0, *xs), max(xs)), ticks(lowest, max(ys) or 1.0, 5), x_label)
    taken: list[float] = []
    for place, line in enumerate(shown):
        _element(root, "path", d=axes.path(line.points), class_=f"line s{place}")
        if line.dots:
            for px, py in line.points:
                _element(root, "circle", cx=axes.x(px), cy=axes.y(py), r=3.2, class_=f"dot s{place}")
        if len(shown) > 1:
            px, py = line.points[-1]
            at = axes.y(py) - 8
            while any(abs(at - other) < 13 for other in taken):
                at += 13 if at < HEIGHT / 2 else -13
            taken.append(at)
            _element(root, "text", line.name, x=axes.x(px), y=at, text_anchor="end", class_=f"name s{place}")
    return _markup(root)


def latencies(rows: Sequence[tuple[str, float, float, float]], *, title: str, text: Callable[[float], str]) -> Markup:
    """Rows of (stage, p50, p90, p99) in milliseconds on one logarithmic axis: a dot, a tick, a ring."""
    height = 30 * len(rows) + 44
    root = _drawing(
        WIDTH,
        height,
        "latency",
        title,
        "; ".join(f"{name}: p50 {text(a)}, p90 {text(b)}, p99 {text(c)}" for name, a, b, c in rows),
    )
    known = [max(value, 0.001) for _, *values in rows for value in values]
    first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    last = max(last, first + 1)
    left, right, bottom = 24 + 7 * max(len(name) for name, *_ in rows), WIDTH - 22, height - 30

    def x(value: float) -> float:
        return left + (right - left) * (math.log10(max(value, 0.001)) - first) / (last - first)

    every = max(1, math.ceil((last - first) / 5))
    for power in range(first, last + 1, every):
        at = x(10.0**power)
        _element(root, "line", x1=at, x2=at, y1=4, y2=bottom, class_="grid")
        _element(root, "text", text(10.0**power), x=at, y=bottom + 16, text_anchor="middle", class_="tick")
    for place, (name, p50, p90, p99) in enumerate(rows):
        at = 18 + 30 * place
        _element(root, "text", name, x=left - 12, y=at + 4, text_anchor="end", class_="stage")
        _element(root, "line", x1=x(p50), x2=x(p99), y1=at, y2=at, class_="range")
        _element(root, "line", x1=x(p90), x2=x(p90), y1=at - 5, y2=at + 5, class_="range")
        _element(root, "circle", cx=x(p99), cy=at, r=4, class_="ring")
        _element(root, "circle", cx=x(p50), cy=at, r=4.5, class_="dot")
    return _markup(root)


def scatter(points: Sequence[Point], *, title: str, x_label: str, lower_is_better: bool = False) -> Markup:
    """One dot a question: x before, y now. Equal questions share a dot whose area is their number."""
    above, below = ("worse now", "better now") if lower_is_better else ("better now", "worse now")
    root = _drawing(WIDTH, HEIGHT, "scatter", title, f"{len(points)} questions; above the diagonal: {above}")
    both = [number for point in points for number in point] or [0.0, 1.0]
    ends = [0.0, 0.25, 0.5, 0.75, 1.0] if min(both) >= 0 and max(both) <= 1 else ticks(min(both), max(both), 5)
    axes = _Axes(root, ends, ends, x_label)
    reach = (ends[-1] - ends[0]) / 48 or 1.0
    first = (ends[0], ends[0])
    _element(root, "path", d=axes.path([first, (ends[-1], ends[-1])]), class_="diagonal")
    grid = Counter((round((x - ends[0]) / reach), round((y - ends[0]) / reach)) for x, y in points)
    most = max(grid.values(), default=1)
    for (column, row), number in sorted(grid.items()):
        kind = "tie" if row == column else "win" if (row > column) is not lower_is_better else "loss"
        radius = 2.6 + 8.4 * math.sqrt((number - 1) / max(1, most - 1)) if most > 1 else 3.4
        cx, cy = axes.x(ends[0] + column * reach), axes.y(ends[0] + row * reach)
        _element(root, "circle", r=radius, class_=f"point {kind}", cx=cx, cy=cy)
    low, high = axes.x(ends[0]) + 10, axes.x(ends[-1]) - 6
    kinds = ("loss", "win") if lower_is_better else ("win", "loss")
    _element(root, "text", above, x=low, y=_TOP + 14, class_=f"name {kinds[0]}")
    _element(root, "text", below, x=high, y=HEIGHT - _BOTTOM - 10, text_anchor="end", class_=f"name {kinds[1]}")
    return _markup(root)


def differences(values: Sequence[float], *, title: str, x_label: str) -> Markup:
    """Each question's difference, largest gain first: how many win, tie and lose, and by how much."""
    ordered = sorted(values, reverse=True)
    root = _drawing(WIDTH, HEIGHT, "differences", title, f"{len(ordered)} differences, sorted")
    reach = ticks(0, max((abs(v) for v in ordered), default=1.0) or 1.0, 3)
    axes = _Axes(root, [0.0, float(len(ordered) or 1)], [-r for r in reversed(reach[1:])] + reach, x_label)
    bars = min(MOST_BARS, len(ordered))
    zero = axes.y(0)
    for kind, wanted in (("win", 1), ("loss", -1)):
        path = []
        for bar in range(bars):
            begin, end = bar * len(ordered) // bars, (bar + 1) * len(ordered) // bars
            mean = sum(ordered[begin:end]) / (end - begin)
            if mean * wanted > 0:
                gap = 0.15 * (axes.x(end) - axes.x(begin)) if bars < 120 else 0.0
                path.append(
                    f"M{axes.x(begin) + gap:.2f} {zero:.2f}V{axes.y(mean):.2f}H{axes.x(end) - gap:.2f}V{zero:.2f}Z"
                )
        if path:
            _element(root, "path", d="".join(path), class_=f"bars {kind}")
    return _markup(root)
