"""A run → one self-contained HTML file: template, style sheet and script beside this file, filled with its figures.

Nothing of a record becomes markup: every expression of the template is cleaned, then escaped; questions travel as JSON
that the script shows as text. The policy in the file's head lets only this very style and script run, and asks for
nothing else.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.comparison.comparing import ERRORS, Change, Comparison, PartComparison, Row
from eval.figures.measures import HEADLINE, better, describe
from eval.report import plots
from eval.report.blocks import blocks
from eval.report.filling import PACKAGE, filled, packaged
from eval.report.findings import findings, signed
from eval.report.items import GOLD, Selection, answer_of, select, short_id
from eval.report.shape import Figure, Shaped, compared, direction, figure_of, shape, split_stage
from eval.report.text import as_json, count, duration, line, mapping, milliseconds, moment, number, plain, tick_time

if TYPE_CHECKING:
    from eval.runs.executing import RunResult

MANY, FEW = 10, 3
"""Parts above which each is folded, with so many main measures in the summary: 35 parts would be a hundred screens."""
MOST_HEADLINE = 5
"""Measures of a part in the table at the top."""
MOST_CONFIGURATION = 40_000
MOST_DETAILS = 80


def to_html(
    run: "RunResult", against: "RunResult | None" = None, comparison: Comparison | None = None, *, open_items: int = 0
) -> str:
    """The report of `run`; with `comparison`, that of `against` (a) with it (b). The first `open_items` questions stand
    open, which is what a printout shows of them."""
    parts = shape(run)
    changes = compared(run, against, comparison) if against is not None and comparison is not None else []
    selection = _selection(parts, against, comparison)
    positions = {(shown["p"], shown["i"]): at for at, shown in enumerate(selection.items)}
    values: dict[str, Any] = {
        "name": line(run.name, 120),
        "against": line(against.name, 120) if against is not None else "",
        "parts": parts,
        "compared": changes,
        "facts": facts(run, parts),
        "notices": notices(run, parts, comparison),
        "findings": findings(parts, changes),
        "headline": [(part, headline(part)[: FEW if len(parts) > MANY else None]) for part in parts if part.figures],
        "many": len(parts) > MANY,
        "embedded": _embedded(selection),
        "meanings": meanings(parts),
        "seed": run.manifest.get("seed"),
        "repeat": repeat(run, against),
        "details": details(run, parts),
        "configuration": plain(as_json(run.manifest.get("suite"), indent=1), MOST_CONFIGURATION),
        "made": _version(run.manifest),
        "data": {
            "open": open_items,
            "items": selection.items,
            "parts": [_part_facts(part) for part in parts],
        },
        "place_of": lambda part, change: positions.get((part.place, short_id(change.id))),
        **_TOOLS,
    }
    return filled(
        PACKAGE, "page.html", values, style=packaged(PACKAGE, "page.css"), script=packaged(PACKAGE, "page.js")
    )


# --- the words at the top --------------------------------------------------------------------------------------------


def facts(run: "RunResult", parts: Sequence[Shaped]) -> list[tuple[str, str, str]]:
    """(label, value, "good" or "warn" or "") of the run as a whole."""
    done, wanted = sum(part.done for part in parts), sum(part.wanted for part in parts)
    errors = sum(part.errors for part in parts)
    status = str(run.manifest.get("status") or "unknown")
    if done + errors < wanted:
        status, tone = f"unfinished, {done + errors:,} of {wanted:,} done", "warn"
    elif errors or any(part.result.error for part in parts):
        status, tone = "finished with errors", "warn"
    else:
        tone = "good" if status == "finished" else "warn"
    machine = mapping(mapping(run.manifest.get("environment")).get("machine"))
    cores = number(machine.get("cores"))
    told = [
        ("Status", status[:1].upper() + line(status[1:], 60), tone),
        ("Questions", f"{done:,}" + (f" and {count(errors, 'error')}" if errors else ""), ""),
        ("Measured", moment(run.manifest.get("finished") or run.manifest.get("started")), ""),
        ("Took", duration(sum(number(part.result.seconds) or 0.0 for part in parts)), ""),
    ]
    if machine.get("processor"):
        on = line(machine["processor"], 60) + (f", {cores:.0f} cores" if cores else "")
        told.append(("On", on, ""))
    return told


def notices(run: "RunResult", parts: Sequence[Shaped], comparison: Comparison | None) -> list[str]:
    """What a reader must know before believing the figures."""
    told = []
    for part in parts:
        if part.result.error:
            told.append(f"{part.name} could not be finished: {plain(part.result.error, GOLD)}")
        missing = [figure for figure in part.whole if figure.estimate.missing > figure.estimate.n]
        if missing:
            told.append(f"{part.name}: {missing[0].name} is known for fewer than half of the items; do not rely on it.")
    for name, why in mapping(run.manifest.get("skipped")).items():
        told.append(f"{line(name, 80)} was skipped: {plain(why, GOLD)}")
    if comparison is not None:
        for names, where in ((comparison.only_a, comparison.a), (comparison.only_b, comparison.b)):
            if names:
                told.append(f"Only {line(where, 80)} has {', '.join(line(name, 80) for name in names)}.")
    return told


def headline(part: Shaped) -> list[Figure]:
    """The main measures of a part: those of its kind's headline, else the first ones."""
    whole = part.whole or part.figures
    wanted = HEADLINE.get(part.result.kind, ())
    return [*([figure for figure in whole if figure.measure in wanted] or whole)][:MOST_HEADLINE]


def described(part: Shaped) -> str:
    """What was done, and how much of it."""
    told = [plain(part.result.described, 400).rstrip(".")] if part.result.described else []
    told.append(f"{part.done:,} of {count(part.wanted, 'item')} done in {duration(number(part.result.seconds) or 0.0)}")
    if part.errors:
        told.append(count(part.errors, "item") + " ended in an error")
    return ". ".join(told) + "."


# --- tables ----------------------------------------------------------------------------------------------------------


def stage_rows(part: Shaped) -> list[tuple[str, list[Figure]]]:
    """Measure by measure the stages in their order, the whole pipeline last."""
    measures = list(dict.fromkeys(figure.measure for figure in part.figures if figure.stage))
    by = {(figure.stage, figure.measure): figure for figure in part.figures}
    return [
        (line(measure, 40), [by[stage, measure] for stage in (*part.stages, "") if (stage, measure) in by])
        for measure in measures
    ]


def whole_name(part: Shaped) -> str:
    """What the whole pipeline is called."""
    named = part.result.settings.get("pipeline")
    return f"{line(named, 40)} (whole)" if isinstance(named, str) and named else "whole"


def meanings(parts: Sequence[Shaped]) -> list[tuple[str, str]]:
    """Each measure of the report with what it means, once."""
    measures = dict.fromkeys(figure.measure for part in parts for figure in part.figures)
    return [(line(measure, 60), describe(measure)) for measure in measures if describe(measure)]


def details(run: "RunResult", parts: Sequence[Shaped]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titled tables of what was run, on what and where."""
    tables = [
        (f"Settings of {part.name}", [(key, value) for key, value in part.result.settings.items() if value is not None])
        for part in parts
    ]
    tables += [(f"Data of {part.name} (SHA-256)", list(part.result.data.items())) for part in parts]
    flat: list[tuple[str, Any]] = []
    for key, value in mapping(run.manifest.get("environment")).items():
        flat += (
            [(f"{key} {inner}", entry) for inner, entry in value.items()]
            if isinstance(value, Mapping)
            else [(key, value)]
        )
    tables.append(("Environment", flat))
    marks = [(key, run.manifest.get(key)) for key in ("config_hash", "seed", "started", "finished", "status")]
    tables.append(("Run", [(key.replace("_", " "), value) for key, value in marks if value is not None]))
    return [
        (title, [(line(key, 100), line(value, 400)) for key, value in rows[:MOST_DETAILS]]) for title, rows in tables
    ]


def repeat(run: "RunResult", against: "RunResult | None") -> str:
    """Commands that measure and report this again."""
    name = shlex.quote(line(run.name, 120))
    other = f" --against {shlex.quote(line(against.name, 120))}" if against is not None else ""
    suite = mapping(run.manifest.get("suite"))
    seed = number(run.manifest.get("seed"))
    told = [f"# the configuration below, as {line(suite.get('name') or run.name, 60)}.yaml"]
    file = shlex.quote(f"{line(suite.get('name') or run.name, 60)}.yaml")
    told.append(f"fathom eval run {file} --run {name}" + (f" --seed {seed:.0f}" if seed is not None else ""))
    told.append(f"fathom eval report {name}{other}")
    return "\n".join(told)


def _version(manifest: Mapping[str, Any]) -> str:
    versions = mapping(mapping(manifest.get("environment")).get("versions"))
    return line(versions.get("fathom-stack"), 30)


# --- comparison ------------------------------------------------------------------------------------------------------


def _scale_of_rows(rows: Sequence[Any]) -> tuple[float, float]:
    """One scale for differences whose measures share a unit (shares); each other measure is drawn on none."""
    told = [
        end for row in rows if _on_scale(row) for end in (row.difference.value, row.difference.low, row.difference.high)
    ]
    return plots.scale_of(told, through_zero=True)


def named_rows(part: PartComparison) -> list[tuple[str, Row]]:
    """Of a pipeline's stages only the main measure: what they are and where they changed shows in it."""
    main = split_stage(part.metric or "")[1]
    return [
        (line(row.metric, 60), row)
        for row in part.rows
        if not split_stage(row.metric)[0] or split_stage(row.metric)[1] == main
        if row.metric != ERRORS or row.a.value or row.b.value
    ]


def _on_scale(row: Any) -> bool:
    return Figure(row.metric, *split_stage(row.metric), row.a).is_share


def _answers(change: Change) -> tuple[str, str] | None:
    before, now = answer_of(change.before), answer_of(change.after)
    return (line(before, 240), line(now, 240)) if before is not None and now is not None and before != now else None


# --- questions -------------------------------------------------------------------------------------------------------


def _selection(parts: Sequence[Shaped], against: "RunResult | None", comparison: Comparison | None) -> Selection:
    pairs = {part.b: part.a for part in comparison.parts} if comparison is not None else {}
    entries = []
    for part in parts:
        earlier = against.parts.get(pairs.get(part.result.name, "")) if against is not None else None
        entries.append(
            (part.main.metric if part.main else None, part.result.records, earlier.records if earlier else {})
        )
    return select(entries)


def _embedded(selection: Selection) -> str:
    if not selection.total:
        return "There is none yet."
    told = f"{count(selection.total, 'question')} with answer, passages and figures, as far as the parts have them."
    if selection.left_out:
        told += (
            f" {selection.left_out:,} are left out to keep this file small: errors, the worst, those that lost most "
            "and the best are in it; all are in the run's records."
        )
    return told


def _part_facts(part: Shaped) -> dict[str, Any]:
    main = part.main
    # Over one half or under it means something only for shares of which more is better.
    share = main is not None and not main.lower_is_better and main.is_share
    names = [figure.name for figure in part.figures]
    return {
        "name": part.name,
        "main": main.name if main else None,
        "share": share,
        # Whether an answer is right is told by the question's own rule where there is one.
        "right": "accuracy" if part.result.kind == "answers" and "accuracy" in names else main.name if main else None,
        "metrics": names,
        "lower": [name for name in names if better(split_stage(name)[1]) == "lower"],
    }


_TOOLS: dict[str, Any] = {
    "plots": plots,
    "figure_of": figure_of,
    "direction": direction,
    "signed": signed,
    "described": described,
    "stage_rows": stage_rows,
    "whole_name": whole_name,
    "scale_of_rows": _scale_of_rows,
    "on_scale": _on_scale,
    "scale_of_figures": lambda figures: plots.scale_of(
        [end for figure in figures for end in (figure.estimate.value, figure.estimate.low, figure.estimate.high)]
    ),
    "named_rows": named_rows,
    "named_steps": lambda steps: [(step.stage, step.row) for step in steps],
    "answers": _answers,
    "short": line,
    "milliseconds": milliseconds,
    "tick_time": tick_time,
    "blocks": lambda part: blocks(part.result.extras),
    "lower_is_better": lambda metric: better(split_stage(metric or "")[1]) == "lower",
}
