"""What a part measured beside its items (curves, agreement, forgetting, load) → tables and drawings of a report.

Extras are JSON of whatever form a kind of part chose. Forms are told by their shape; what has none of the known ones is
shown as a table or as it is, so nothing that was measured stays unseen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from eval.figures.measures import format_value
from eval.report import plots
from eval.report.text import as_json, line, listed, mapping, number, plain

MOST_ROWS, MOST_COLUMNS, MOST_POINTS, MOST_TEXT = 60, 9, 400, 3_000
_CURVES = {"coverage": ("coverage: share of questions answered", "risk: share of those that are wrong")}
_TITLES = {
    "risk_coverage": "Risk–coverage curve",
    "agreement": "Agreement with people",
    "forgetting": "Forgetting",
    "load": "Under load",
}
_USERS = ("users", "concurrency", "clients")


@dataclass(frozen=True, slots=True)
class Block:
    """A captioned table, drawing or text. The first cell of each row names the row; the others are set right."""

    title: str
    note: str = ""
    drawing: Markup | None = None
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    text: str = ""
    y_label: str = ""
    wide: bool = False
    folded: bool = False


def blocks(extras: Mapping[str, Any]) -> list[Block]:
    """Every entry of `extras` in its order; what only says how it was measured comes last, in one folded table."""
    found: list[Block] = []
    said: list[tuple[str, str]] = []
    for key, value in mapping(extras).items():
        if value is None or value in ("", [], {}):
            continue
        if _only_says(value):
            said.extend(_said(line(str(key).replace("_", " "), 60), str(key), value))
        else:
            found.extend(_blocks(_TITLES.get(key) or line(str(key).replace("_", " "), 60), str(key), value))
    if said:
        found.append(Block("Also recorded", head=("", "value"), rows=said[:MOST_ROWS], wide=True, folded=True))
    return found


def _only_says(value: Any, depth: int = 0) -> bool:
    """Whether a value is settings and versions, not a curve or a table: values, lists of values, mappings of these."""
    if isinstance(value, Mapping):
        whole = mapping(value)
        if _risk_coverage(whole) is not None or _is_confusion(whole) or depth > 4:
            return False
        return all(_only_says(inner, depth + 1) for inner in value.values())
    return not isinstance(value, list) or not any(isinstance(inner, Mapping | list) for inner in value)


def _said(title: str, key: str, value: Any) -> Iterator[tuple[str, str]]:
    """The values of nested settings, each by the names that lead to it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _said(f"{title}: {line(str(name).replace('_', ' '), 40)}", str(name), inner)
    elif value not in (None, "", []):
        yield (
            title,
            ", ".join(_cell(key, inner) for inner in value[:20]) if isinstance(value, list) else _cell(key, value),
        )


def _blocks(title: str, key: str, value: Any, depth: int = 0) -> Iterator[Block]:
    whole = mapping(value)
    curve = _risk_coverage(whole if whole else {"points": value})
    if curve is not None:
        yield _risk_block(title, whole, curve)
        if (thresholds := _same_rows(whole.get("thresholds"))) is not None:
            note = "Fitted on these very answers: confirm a threshold on other questions before relying on it."
            yield from _table("Thresholds of confidence that keep the risk", thresholds, note)
    elif _is_confusion(whole):
        yield _confusion(title, whole)
    elif (rows := _same_rows(value)) is not None:
        yield from _table(title, rows)
    elif whole and depth < 2 and all(isinstance(inner, Mapping | list) for inner in whole.values()):
        if (rows := _same_rows(list(whole.values()))) is not None and not any(
            _risk_coverage(row) or _is_confusion(row) for row in rows
        ):
            yield from _table(title, [{"": name, **row} for name, row in zip(whole, rows, strict=True)])
        else:
            for name, inner in list(whole.items())[:12]:
                yield from _blocks(f"{title}: {line(str(name).replace('_', ' '), 40)}", str(name), inner, depth + 1)
    elif whole and all(not isinstance(inner, Mapping | list) for inner in whole.values()):
        kept = list(whole.items())[:MOST_ROWS]
        yield Block(
            title, head=("", "value"), rows=[(line(name, 60).replace("_", " "), _cell(name, v)) for name, v in kept]
        )
    else:
        yield Block(title, text=plain(as_json(value, indent=1), MOST_TEXT))


# --- risk and coverage ----------------------------------------------------------------------------------------------


def _risk_coverage(value: Mapping[str, Any]) -> list[tuple[float, float]] | None:
    """(coverage, risk) points from two lists, from a list of pairs, or from a list of rows; None for anything else."""
    coverage, risk = value.get("coverage"), value.get("risk")
    entries: list[Any]
    if isinstance(coverage, list) and isinstance(risk, list):
        entries = list(zip(coverage, risk, strict=False))
    else:
        entries = listed(value.get("curve") or value.get("points"))
        if entries and isinstance(entries[0], Mapping):
            entries = [(mapping(entry).get("coverage"), mapping(entry).get("risk")) for entry in entries]
        elif not any(word in str(value.keys()) for word in ("AURC", "aurc", "curve")):
            return None
    points = [
        (x, y)
        for entry in entries
        if isinstance(entry, list | tuple) and len(entry) >= 2
        if (x := number(entry[0])) is not None and (y := number(entry[1])) is not None
    ]
    return _thinned(sorted(points)) if len(points) >= 2 else None


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    step = max(1, len(points) // MOST_POINTS)
    return [point for place, point in enumerate(points) if place % step == 0 or place == len(points) - 1]


def _risk_block(title: str, whole: Mapping[str, Any], points: list[tuple[float, float]]) -> Block:
    area = next((found for key in ("AURC", "aurc", "area") if (found := number(whole.get(key))) is not None), None)
    last = points[-1]
    note = (
        f"The surest answers stand at the left. Answering {last[0]:.0%} of the questions, {last[1]:.0%} of the "
        "answers are wrong; a curve that stays low to the right knows what it does not know."
    )
    if area is not None:
        ends = [number(end) for end in listed(whole.get("AURC_interval"))]
        between = f" [{ends[0]:.3f}, {ends[1]:.3f}]" if len(ends) == 2 and None not in ends else ""
        note = f"Area under the curve (AURC) {format_value('AURC', area)}{between}; lower is better. " + note
    x_label, y_label = _CURVES["coverage"]
    drawing = plots.curves(
        [plots.Series("risk", points)], title=title, x_label=x_label, y_label=y_label, description=note
    )
    every = max(1, len(points) // 10)
    rows = [
        (f"{x:.0%}", f"{y:.3f}")
        for place, (x, y) in enumerate(points)
        if place % every == 0 or place == len(points) - 1
    ]
    return Block(title[:1].upper() + title[1:], note, drawing, ("coverage", "risk"), rows, y_label=y_label)


# --- agreement ------------------------------------------------------------------------------------------------------


def _is_confusion(whole: Mapping[str, Any]) -> bool:
    classes, table = whole.get("classes"), whole.get("table")
    return (
        isinstance(classes, list)
        and isinstance(table, list)
        and len(classes) == len(table) > 0
        and all(isinstance(row, list) and len(row) == len(classes) for row in table)
    )


def _confusion(title: str, whole: Mapping[str, Any]) -> Block:
    names = [line(name, 30) for name in whole["classes"]]
    ends = [number(end) for end in listed(whole.get("interval"))]
    kappa = number(whole.get("kappa"))
    said = "Cohen's κ cannot be told" if kappa is None else f"Cohen's κ {kappa:.2f}"
    if kappa is not None and len(ends) == 2 and ends[0] is not None and ends[1] is not None:
        said += f" [{ends[0]:.2f}, {ends[1]:.2f}]"
    if (n := number(whole.get("n"))) is not None:
        said += f" over {n:,.0f} items that people have labelled too"
    if (same := number(whole.get("agreement"))) is not None:
        said += f"; {same:.0%} get the same label"
    rows = [
        (f"people: {name}", *(_cell("n", count) for count in row))
        for name, row in zip(names, whole["table"], strict=True)
    ]
    return Block(title[:1].upper() + title[1:], said + ".", head=("", *(f"judge: {name}" for name in names)), rows=rows)


# --- tables, and the curves over the number of users -----------------------------------------------------------------


def _same_rows(value: Any) -> list[Mapping[str, Any]] | None:
    """A list of flat mappings, else None."""
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(row, Mapping) and row for row in value):
        return None
    shared = set.intersection(*(set(row) for row in value))
    return [*value] if shared else None


def _table(title: str, rows: Sequence[Mapping[str, Any]], note: str = "") -> Iterator[Block]:
    columns = [
        column
        for column in dict.fromkeys(column for row in rows for column in row)
        if not any(isinstance(row.get(column), Mapping) for row in rows)
    ][:MOST_COLUMNS]
    kept = rows[:MOST_ROWS]
    if len(kept) < len(rows):
        note = f"{note} The first {len(kept)} of {len(rows):,} rows.".strip()
    title = title[:1].upper() + title[1:]
    users = next((name for name in _USERS if name in columns), None)
    drawings = list(_load_curves(users, rows)) if users else []
    for name, y_label, drawing in drawings:
        yield Block(f"{title}: {name}", drawing=drawing, y_label=y_label)
    head = [line(column, 40).replace("_", " ") for column in columns]
    yield Block(
        title,
        note,
        None,
        head,
        [[_cell(column, row.get(column)) for column in columns] for row in kept],
        wide=len(head) > 4,
    )


def _load_curves(users: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, Markup]]:
    """Latency percentiles, and throughput, over the number of users at the same time."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    groups = (
        ("milliseconds", [c for c in columns if str(c).endswith("_ms")]),
        ("per second", [c for c in columns if str(c).endswith("_per_second")]),
    )
    for y_label, names in groups:
        series = []
        for name in names:
            points = [
                (x, y)
                for row in rows
                if (x := number(row.get(users))) is not None
                if (y := number(row.get(name))) is not None
            ]
            if len(points) >= 2:
                label = line(name, 40).removesuffix("_ms").removesuffix("_per_second").replace("_", " ")
                series.append(plots.Series(label, sorted(points), dots=True))
        if series:
            title = "latency" if y_label == "milliseconds" else "throughput"
            yield (
                title,
                y_label,
                plots.curves(series, title=title, x_label=f"{users} at the same time", y_label=y_label),
            )


def _cell(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    found = number(value)
    if found is not None:
        return f"{found:,.0f}" if found == int(found) and abs(found) < 1e15 else format_value(line(name, 60), found)
    if value is None:
        return "–"
    pair = [number(end) for end in value] if isinstance(value, list) else []
    if len(pair) == 2 and all(end is not None for end in pair):
        return f"[{format_value(name, pair[0])}, {format_value(name, pair[1])}]"
    return line(value, 160)
