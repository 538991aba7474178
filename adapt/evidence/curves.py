"""Lines of a metrics.jsonl, and shares of an order → captioned drawings for a report. It knows no file's history."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.report.blocks import Block
from eval.report.plots import Point, Series, curves
from eval.report.text import line, mapping, number

MOST_LINES = 500_000
MOST_POINTS = 300
"""Of a curve: more than a drawing has pixels for."""
NUMBERS = 12
"""Rows of the table below a curve."""
SMOOTHED_OVER = 40
"""A curve is smoothed over such a part of its steps."""


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines in order; what a kill left half written, or is no line of a training, is left out. Raises OSError."""
    found: list[dict[str, Any]] = []
    with file.open("rb") as stream:
        for raw in stream:
            try:
                said = json.loads(raw)
            except (ValueError, RecursionError):
                continue
            if isinstance(said, dict) and number(said.get("step")) is not None:
                found.append(said)
            if len(found) >= MOST_LINES:
                break
    return found


def training_curves(lines: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Loss with its trend, learning rate, norm of the gradient, speed, and what pulls back to older weights."""
    by_tokens = sum(number(one.get("tokens")) is not None for one in lines) > len(lines) / 2
    x_name = "tokens" if by_tokens else "step"
    most = max((number(one.get(x_name)) or 0.0 for one in lines), default=0.0)
    x_scale, x_label = _scale(most, x_name if by_tokens else "steps")
    found = []
    for name, title, y_label, smooth, note in (
        ("loss", "Loss", "nats per token", True, "Faint: each step. Bold: the trend over the steps before."),
        ("lr", "Learning rate", "", False, ""),
        ("grad_norm", "Norm of the gradient", "before clipping", True, ""),
        ("tokens_per_second", "Speed", "tokens per second", True, ""),
        (
            "kl",
            "Distance from the older model",
            "KL, nats per token",
            True,
            "On the rows of the sources it is kept on.",
        ),
        ("penalty", "Pull back to the older weights", "added to the loss", True, ""),
    ):
        points = list(_points(lines, x_name, name, x_scale))
        if len(points) < 2 or (name in ("kl", "penalty") and not any(y for _, y in points)):
            continue
        if name == "lr":
            points, y_label = _in_powers(points)
        found.append(_curve(title, points, x_label, y_label, smooth, note, from_zero=name != "loss"))
    return found


def schedule(planned: Sequence[Mapping[str, float]], realised: Sequence[Mapping[str, float]]) -> list[Block]:
    """The planned share of each source along the tokens beside the realised one; of two sources the first says all."""
    rows = list(zip(planned, realised, strict=False))
    names = list(dict.fromkeys(name for plan, real in rows for name in (*plan, *real)))
    shown = names[:-1] if len(names) == 2 else names
    found = []
    for name in shown[:8]:
        both = [[(number(side.get(name)) or 0.0) for side in (mapping(plan), mapping(real))] for plan, real in rows]
        middles = [100 * (place + 0.5) / len(both) for place in range(len(both))]
        series = [
            Series("planned", [(x, 100 * plan) for x, (plan, _) in zip(middles, both, strict=True)]),
            Series("realised", [(x, 100 * real) for x, (_, real) in zip(middles, both, strict=True)], dots=True),
        ]
        said = line(name, 40)
        error = max((abs(plan - real) for plan, real in both), default=0.0)
        note = f"Share of the tokens that are {said}, by tenths of the training. Off the plan by {error:.2%} at most."
        drawing = curves(
            series, title=f"Share of {said}", x_label="% of the tokens", y_label="% of the tokens", description=note
        )
        table = [
            (f"{100 * place / len(both):.0f}–{100 * (place + 1) / len(both):.0f} %", f"{plan:.1%}", f"{real:.1%}")
            for place, (plan, real) in enumerate(both)
        ]
        head = ("tokens", "planned", "realised")
        found.append(Block(f"Schedule: {said}", note, drawing, head, table, y_label="% of the tokens"))
    return found


def smoothed(values: Sequence[float], over: float) -> list[float]:
    """Exponential moving average of about `over` values, without a pull towards 0 at its beginning (Kingma & Ba's
    correction), so that its first value is the first one."""
    keep = 1 - 1 / max(1.0, over)
    sum_, weight, found = 0.0, 0.0, []
    for value in values:
        sum_, weight = keep * sum_ + (1 - keep) * value, keep * weight + (1 - keep)
        found.append(sum_ / weight)
    return found


def _points(lines: Sequence[Mapping[str, Any]], x: str, y: str, scale: float) -> Iterator[Point]:
    for one in lines:
        at, value = number(one.get(x)), number(one.get(y))
        if at is not None and value is not None:
            yield at / scale, value


def _curve(
    title: str, points: list[Point], x_label: str, y_label: str, smooth: bool, note: str, *, from_zero: bool
) -> Block:
    series = [Series("each step", _thinned(points))]
    values = [y for _, y in points]
    trend = values
    if smooth and len(points) >= 8:
        trend = smoothed(values, len(points) / SMOOTHED_OVER)
        series.append(Series("trend", _thinned([(x, y) for (x, _), y in zip(points, trend, strict=True)])))
    said = f"{title}: from {_short(trend[0])} to {_short(trend[-1])}. {note}".strip()
    drawing = curves(series, title=title, x_label=x_label, y_label=y_label, description=said, from_zero=from_zero)
    every = max(1, math.ceil(len(points) / NUMBERS))
    places = [place for place in range(len(points)) if place % every == 0 or place == len(points) - 1]
    head = (x_label, "each step", "trend") if len(series) > 1 else (x_label, y_label or "value")
    rows = [
        (f"{points[place][0]:.4g}", _short(values[place]), *([_short(trend[place])] if len(series) > 1 else []))
        for place in places
    ]
    return Block(title, note, drawing, head, rows, y_label=y_label)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _thinned(points: list[Point]) -> list[Point]:
    """Evenly spaced ones, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return points
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(place * step)] for place in range(MOST_POINTS)]


def _scale(most: float, noun: str) -> tuple[float, str]:
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if most >= 2 * size:
            return size, f"{word} {noun}"
    return 1.0, noun


def _in_powers(points: list[Point]) -> tuple[list[Point], str]:
    """Learning rates as multiples of a power of ten, which ticks have room for."""
    most = max((abs(y) for _, y in points), default=0.0)
    power = math.floor(math.log10(most)) if most > 0 else 0
    raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    scaled: Callable[[float], float] = lambda y: y / 10.0**power  # noqa: E731
    return [(x, scaled(y)) for x, y in points], f"in 10{raised}" if power else ""
