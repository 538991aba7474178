"""Measurements of several models before and after training, under several seeds → the table of remedies against
forgetting: changes with intervals, the share of the gain that is kept, as numbers and as Markdown. It trains nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapt.experiments.forgetting_rows import PLAIN, Row
from eval.figures.statistics import Seeded, Table, clusters_of, over_seeds, table_of
from eval.report.markdown import table as markdown_table
from eval.runs.parts import Record
from retrieval.errors import UsageError

DOMAIN, GENERAL = "domain", "general"


@dataclass(frozen=True)
class Cell:
    """One row under one seed. `records` are those of its measurement; `error` says why there is none."""

    row: Row
    seed: int
    tokens: int = 0
    seconds: float = 0.0
    records: Mapping[str, Record] | None = None
    error: str | None = None


def figures(before: Mapping[str, Record], cells: Sequence[Cell]) -> dict[str, Any]:
    """The table as numbers, by row in the order of the cells.

    `domain` and `general` are relative changes of bits per byte, after all seeds of the row: Σ (bits after − bits
    before) / Σ bits before over the documents, the mean of the seeds, with a 95 % interval that holds both the choice
    of documents and the spread of seeds (`eval.figures.statistics.over_seeds`). `general_against_plain` is the
    difference of that change to the plain row's, paired by document, with p. `kept` is the domain gain by the plain
    row's, seed by seed: Σ (before − after) / Σ (before − after of the plain row); absent where the plain row gained
    nothing.
    """
    start = table_of(before)
    clusters = clusters_of(before)
    names = list(dict.fromkeys(cell.row.name for cell in cells))
    by_row = {name: [cell for cell in cells if cell.row.name == name] for name in names}
    plain = {cell.seed: cell for cell in by_row.get(PLAIN, []) if cell.records is not None}
    rows: list[dict[str, Any]] = []
    for name in names:
        whole = by_row[name]
        done = [cell for cell in whole if cell.records is not None]
        changes = [_changes(start, cell) for cell in done]
        told = over_seeds(changes, clusters=clusters) if changes else {}
        paired = [cell for cell in done if cell.seed in plain]
        against = (
            over_seeds(
                [_changes(start, cell) for cell in paired],
                [_changes(start, plain[cell.seed]) for cell in paired],
                clusters=clusters,
            )
            if paired and name != PLAIN
            else {}
        )
        kept = (
            over_seeds([_gains(start, cell, plain[cell.seed]) for cell in paired], clusters=clusters) if paired else {}
        )
        gained = all(_gained(start, plain[cell.seed]) for cell in paired)
        rows.append(
            {
                "name": name,
                "described": whole[0].row.described,
                "seeds": [cell.seed for cell in done],
                DOMAIN: _told(told.get(DOMAIN)),
                GENERAL: _told(told.get(GENERAL)),
                "general_against_plain": _told(against.get(GENERAL)),
                "kept": _told(kept.get(DOMAIN)) if gained and name != PLAIN else None,
                "tokens": _mean([cell.tokens for cell in done]),
                "seconds": _mean([cell.seconds for cell in done]),
                "errors": {str(cell.seed): cell.error for cell in whole if cell.error},
            }
        )
    base = {label: _ratio(start.get(f"bits_per_byte_{label}", {})) for label in (DOMAIN, GENERAL)}
    documents = {label: len(start.get(f"bits_per_byte_{label}", {})) for label in (DOMAIN, GENERAL)}
    return {"base_bits_per_byte": base, "documents": documents, "rows": rows}


def _changes(start: Table, cell: Cell) -> Table:
    """(bits after − bits before, bits before) of each document, by label. Raises UsageError where texts differ."""
    after = table_of(cell.records or {})
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for label in (DOMAIN, GENERAL):
        metric = f"bits_per_byte_{label}"
        one, other = start.get(metric, {}), after.get(metric, {})
        if one.keys() != other.keys():
            raise UsageError(
                f"'{label}' was measured on other documents after '{cell.row.name}' than before; remove the table's "
                "folder and run again"
            )
        found[label] = {item: (_bits(other[item]) - _bits(one[item]), _bits(one[item])) for item in one}
    return found


def _gains(start: Table, cell: Cell, plain: Cell) -> Table:
    """(bits gained, bits that the plain row gained) of each document of the domain."""
    own, other = _changes(start, cell)[DOMAIN], _changes(start, plain)[DOMAIN]
    return {DOMAIN: {item: (-_bits(own[item]), -_bits(other[item])) for item in own}}


def _gained(start: Table, plain: Cell) -> bool:
    return sum(_bits(pair) for pair in _changes(start, plain)[DOMAIN].values()) < 0


def _bits(value: Any) -> float:
    """The numerator of a figure."""
    return float(value[0] if isinstance(value, tuple | list) else value)


def _ratio(values: Mapping[str, Any]) -> float | None:
    above, below = sum(value[0] for value in values.values()), sum(value[1] for value in values.values())
    return above / below if below else None


def _told(found: Seeded | None) -> dict[str, Any] | None:
    if found is None or found.estimate.value is None:
        return None
    estimate = found.estimate
    by_seed = list(found.by_seed)
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "by_seed": by_seed, "p": found.p}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


# --- as text ---------------------------------------------------------------------------------------------------------


def to_markdown(found: Mapping[str, Any]) -> str:
    """The table and what its columns are."""
    head = ("", "domain", "95 %", "general", "95 %", "gain kept", "p", "tokens", "s")
    rows = []
    for row in found["rows"]:
        against = row["general_against_plain"]
        rows.append(
            (
                row["name"],
                *_percent(row[DOMAIN]),
                *_percent(row[GENERAL]),
                "–" if row["kept"] is None else f"{row['kept']['value']:.0%}",
                "–" if against is None or against["p"] is None else f"{against['p']:.3f}",
                "–" if row["tokens"] is None else f"{row['tokens']:,.0f}",
                "–" if row["seconds"] is None else f"{row['seconds']:,.0f}",
            )
        )
    base, documents = found["base_bits_per_byte"], found["documents"]
    seeds = max((len(row["seeds"]) for row in found["rows"]), default=0)
    lines = markdown_table(head, rows, right=tuple(range(1, len(head))))
    lines += [
        f"Change of bits per byte against the base ({DOMAIN} {_bare(base[DOMAIN])}, {GENERAL} {_bare(base[GENERAL])} "
        f"bits per byte; {documents[DOMAIN]:,} and {documents[GENERAL]:,} held-out pieces), mean of {seeds} seeds; "
        "less is better. Intervals hold the choice of pieces and the spread of seeds. Gain kept: the domain's gain by "
        f"that without replay. p: of the difference in the general change to '{PLAIN}'. Tokens and seconds are those "
        "of a training.",
        "",
        *(f"- {row['name']}: {row['described']}" for row in found["rows"]),
        "",
    ]
    for row in found["rows"]:
        lines += [f"- {row['name']}, seed {seed}, failed: {error}" for seed, error in row["errors"].items()]
    return "\n".join(lines).rstrip() + "\n"


def _percent(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "–", ""
    interval = "" if found["low"] is None else f"{found['low']:+.1%} … {found['high']:+.1%}"
    return f"{found['value']:+.1%}", interval


def _bare(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
