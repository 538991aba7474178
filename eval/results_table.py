"""Turns the result files of measurements into Markdown tables; knows nothing of how they were made."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def markdown(results: Iterable[Mapping[str, Any]]) -> str:
    """One row a figure: what, measured, target, reached, command."""
    lines = ["| what | measured | reach | reached | command |", "|---|---|---|---|---|"]
    for result in results:
        for figure in result["figures"]:
            target = ""
            if figure["target"] is not None:
                sign = "≤" if figure["better"] == "lower" else "≥"
                target = f"{sign} {number(figure['target'])} {figure['unit']}".rstrip()
            reached = {None: "", True: "yes", False: "**no**"}[figure["reached"]]
            measured = f"{number(figure['value'])} {figure['unit']}".rstrip()
            lines.append(f"| {figure['what']} | {measured} | {target} | {reached} | `{result['command']}` |")
    return "\n".join(lines)


def number(value: float) -> str:
    """Three significant digits or four decimals: enough to compare, not more than was measured."""
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    decimals = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 4
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every result file of `folder`, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
