"""The facts of a run → one self-contained HTML file in its folder: what was run, on what, what came of it.

Everything in it may be hostile (document names, examples, model output); `eval.report.filling` cleans and escapes it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from adapt.evidence.curves import read_metrics, schedule, training_curves
from adapt.evidence.run_facts import RunFacts, StageFacts
from adapt.evidence.stage_blocks import told
from eval.figures.measures import better, describe, format_value
from eval.report import plots
from eval.report.blocks import Block, blocks
from eval.report.filling import PACKAGE, filled, packaged
from eval.report.text import as_json, count, duration, line, listed, mapping, moment, number, plain, probability
from retrieval.storage.durable import sync_to_disk

FILE = "report.html"
MOST_EXAMPLES = 5
MOST_RECIPE = 40_000
MOST_SAMPLE = 2_000
MOST_SAMPLES = 24


def write_report(run_folder: Path, facts: RunFacts | None = None) -> Path:
    """report.html of a run, finished or not, whole or not at all. `facts` None are those that the folder holds.

    Raises UsageError, DamagedError, OSError.
    """
    text = to_html(run_folder, facts or RunFacts.read(run_folder))
    place, beside = run_folder / FILE, run_folder / f".{FILE}.new"
    try:
        beside.write_bytes(text.encode("utf-8", "replace"))
        sync_to_disk(beside)
        os.replace(beside, place)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    return place


def to_html(run_folder: Path, facts: RunFacts) -> str:
    """The page. Raises OSError where a metrics file that is there cannot be read."""
    stages = [_stage(run_folder, number, stage) for number, stage in enumerate(facts.stages, 1)]
    values = {
        "name": line(facts.name, 120),
        "facts": _facts(facts),
        "notices": [plain(notice, 600) for notice in facts.notices]
        + [f"{stage.name}: {stage.error}" for stage in stages if stage.error],
        "findings": _findings(facts),
        "gates": [(stage.name, gate) for stage in stages for gate in stage.gates],
        "figures": _figures(facts),
        "figure_heads": ["base", *(line(stage.name, 40) for stage in facts.stages if stage.measurement)],
        "corpora": [_corpus(name, report) for name, report in facts.corpora.items()],
        "decontamination": _decontamination(facts),
        "stages": stages,
        "samples": _samples(facts),
        "times": _times(facts),
        "lineage": _lineage(facts),
        "details": _details(facts),
        "recipe": plain(as_json(facts.recipe, indent=1), MOST_RECIPE),
        "meanings": [(metric, describe(metric)) for metric in _metrics(facts) if describe(metric)],
        "seed": line(mapping(facts.recipe).get("seed"), 20),
        "made": line(facts.fathom, 30),
        "plots": plots,
        "probability": probability,
        "data": {"parts": [], "items": [], "open": 0},
    }
    style = packaged(PACKAGE, "page.css") + packaged("adapt.evidence", "run.css")
    return filled("adapt.evidence", "run.html", values, style=style, script=packaged(PACKAGE, "page.js"))


# --- the top ---------------------------------------------------------------------------------------------------------


def _facts(facts: RunFacts) -> list[tuple[str, str, str]]:
    """(label, value, "good" or "warn" or "")."""
    crossed = [gate for stage in facts.stages for gate in stage.gates if gate.get("passed") is not True]
    state = line(facts.state, 60)
    tone = "good" if state == "finished" and not crossed else "warn"
    seconds = sum(_seconds(facts.times)) + sum(second for stage in facts.stages for second in _seconds(stage.times))
    rows = [
        ("Status", state[:1].upper() + state[1:], tone),
        ("Base", line(mapping(facts.base).get("name"), 60), ""),
        ("Stages", " → ".join(line(stage.name, 30) for stage in facts.stages) or "none", ""),
        ("Gates", _gates_said(facts, len(crossed)), "warn" if crossed else ""),
        ("Begun", moment(facts.started), ""),
        ("Took", duration(seconds) if seconds else "", ""),
        ("Registered as", line(facts.registered, 60), ""),
    ]
    return [(label, value, tone) for label, value, tone in rows if value]


def _gates_said(facts: RunFacts, crossed: int) -> str:
    every = sum(len(stage.gates) for stage in facts.stages)
    if not every:
        return ""
    return f"{crossed} of {every} crossed" if crossed else f"all {every} kept" if every > 1 else "kept"


def _seconds(times: Mapping[str, Any]) -> list[float]:
    return [found for value in mapping(times).values() if (found := number(value)) is not None and found >= 0]


def _last(facts: RunFacts) -> StageFacts | None:
    """The last stage that was measured."""
    measured = [stage for stage in facts.stages if stage.changes]
    return measured[-1] if measured else None


def _findings(facts: RunFacts) -> list[tuple[str, str]]:
    """A sentence for each text: what the last model measured costs there, beside the base."""
    last = _last(facts)
    found: list[tuple[str, str]] = []
    for name, one in last.changes.items() if last else ():
        label, _, metric = name.partition(" ")
        value, base, change = (number(one.get(key)) for key in ("value", "base", "change"))
        if value is None or base is None or change is None or metric not in ("bits_per_byte", "choice_accuracy"):
            continue
        ends = _between(one, "change_low", "change_high")
        low, high = number(one.get("change_low")), number(one.get("change_high"))
        sure = low is not None and high is not None and (low > 0 or high < 0)
        doubt = "" if sure else " Chance may explain it."
        if metric == "bits_per_byte":
            verb = "more" if change > 0 else "fewer"
            said = f"{abs(change):.2%} {verb} bits per byte than the base needs ({value:.4f} for {base:.4f}){ends}."
            tokens = number(mapping(last.changes.get(f"{label} tokens_per_byte")).get("change")) if last else None
            if tokens:
                said += f" The same text takes {abs(tokens):.2%} {'more' if tokens > 0 else 'fewer'} tokens."
        else:
            same = value == base
            said = f"{value:.1%} of the questions answered right, " + (
                "as many as by the base." if same else f"where the base gets {base:.1%}{ends}."
            )
            doubt = "" if same else doubt
        found.append((line(label, 40), said + doubt))
    return found


def _between(one: Mapping[str, Any], low: str, high: str) -> str:
    ends = [_change(one, key) for key in (low, high)]
    return f"; the change is {' to '.join(ends)} with 95 % confidence" if "–" not in ends else ""


def _change(one: Mapping[str, Any], key: str = "change") -> str:
    value = number(one.get(key))
    if value is None:
        return "–"
    said = f"{value:+.2%}" if one.get("relative") is True else f"{value:+.3f}"
    return said.replace("-", "−") if any(digit in said for digit in "123456789") else said[1:]


# --- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FigureRow:
    """A figure of the base and after each stage; `values` are as people read them."""

    name: str
    note: str
    values: list[str]


def _figures(facts: RunFacts) -> list[FigureRow]:
    every = [facts.base_measurement, *(stage.measurement for stage in facts.stages if stage.measurement)]
    tables = [mapping(mapping(one).get("figures")) for one in every]
    names = dict.fromkeys(name for table in tables for name in table)
    return [
        FigureRow(
            line(name, 80),
            "lower is better" if better(_metric(name)) == "lower" else "",
            [format_value(_metric(name), number(mapping(table.get(name)).get("value"))) for table in tables],
        )
        for name in names
    ]


def _metric(figure: str) -> str:
    return str(figure).rpartition(" ")[2]


def _metrics(facts: RunFacts) -> list[str]:
    return list(dict.fromkeys(_metric(row.name) for row in _figures(facts)))


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A figure of one stage beside the base's. `kind` is "better", "worse" or "unsure"."""

    name: str
    base: str
    value: str
    interval: str
    change: str
    between: str
    p: str
    kind: str
    drawn: Markup


def _changes(stage: StageFacts) -> tuple[list[ChangeRow], Markup]:
    """Rows, and the scale their whiskers share: percent of the base's figure, or points of a share."""
    ends = [number(one.get(key)) for one in stage.changes.values() for key in ("change", "change_low", "change_high")]
    scale = plots.scale_of([100 * end for end in ends if end is not None], through_zero=True)
    rows = []
    for name, one in stage.changes.items():
        metric = _metric(name)
        value, low, high = (number(one.get(key)) for key in ("change", "change_low", "change_high"))
        sure = value is not None and low is not None and high is not None and (low > 0 or high < 0)
        sure = sure and any(digit in _change(one) for digit in "123456789")
        good = value is not None and (value < 0) == (better(metric) == "lower")
        kind = "unsure" if not sure else "better" if good else "worse"
        percent = [None if number_ is None else 100 * number_ for number_ in (value, low, high)]
        between = f"{_change(one, 'change_low')} … {_change(one, 'change_high')}" if low is not None else ""
        own = [format_value(metric, number(one.get(key))) for key in ("low", "high")]
        p = number(one.get("p"))
        rows.append(
            ChangeRow(
                name=line(name, 80),
                base=format_value(metric, number(one.get("base"))),
                value=format_value(metric, number(one.get("value"))),
                interval=f"{own[0]} … {own[1]}" if "–" not in own else "",
                change=_change(one),
                between=between,
                p="–" if p is None else probability(p).removeprefix("p ").removeprefix("= "),
                kind=kind,
                drawn=plots.whisker(
                    *percent, scale=scale, label=f"{line(name, 60)} {_change(one)}", kind="" if good and sure else kind
                ),
            )
        )
    return rows, plots.scale_axis(scale)


# --- data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CorpusShown:
    """A source: what was read, kept and dropped, with examples of what was dropped."""

    name: str
    place: str
    rows: list[tuple[str, str]]
    dropped: list[tuple[str, str, str, list[tuple[str, str]]]]
    more: list[Block]


def _corpus(name: str, report: Mapping[str, Any]) -> CorpusShown:
    """In the words of `Corpus.report`; whatever else a report has is shown as tables."""
    known = {"name", "place", "sha256", "settings", "read", "kept", "train", "held_out", "dropped", "overlaps"}
    rows = []
    for key, label in (("read", "read"), ("kept", "kept"), ("train", "to train on"), ("held_out", "held out")):
        part = mapping(report.get(key))
        documents = number(part.get("documents")) if key != "kept" else number(part.get("texts"))
        size = number(part.get("bytes"))
        if documents is not None:
            said = count(documents, "text" if key == "kept" else "document")
            rows.append((label, said + (f", {_size(size)}" if size is not None else "")))
    if (sha256 := report.get("sha256")) is not None:
        rows.append(("SHA-256", line(sha256, 16)))
    dropped = []
    for reason, found in mapping(mapping(report.get("dropped")).get("reasons")).items():
        entry = mapping(found)
        examples = [
            (line(mapping(one).get("id"), 80), line(mapping(one).get("text"), 160))
            for one in listed(entry.get("examples"))[:MOST_EXAMPLES]
        ]
        number_ = number(entry.get("documents"))
        many = "" if number_ is None else f"{number_:,.0f}"
        dropped.append((line(reason, 60), many, line(entry.get("why"), 160), examples))
    rest = {key: value for key, value in report.items() if key not in known}
    return CorpusShown(line(name, 60), line(report.get("place"), 160), rows, dropped, blocks(rest))


def _decontamination(facts: RunFacts) -> list[tuple[str, str]]:
    """(source, what was looked for and found)."""
    rows = []
    for name, report in facts.corpora.items():
        overlaps = mapping(report.get("overlaps"))
        looked, found = number(overlaps.get("questions")), number(overlaps.get("found"))
        if not looked:
            continue
        said = f"{looked:,.0f} texts of evaluations were looked for; {count(found or 0, 'document')} held one"
        examples = [
            f"{line(mapping(one).get('document'), 60)} ({line(mapping(one).get('file'), 60)})"
            for one in listed(overlaps.get("list"))[:MOST_EXAMPLES]
        ]
        rows.append((line(name, 60), said + (f" and was dropped: {'; '.join(examples)}" if examples else "") + "."))
    return rows


def _size(size: float) -> str:
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size:,.0f} bytes"


# --- stages ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StageShown:
    place: int
    name: str
    kind: str
    state: str
    said: str
    error: str
    changes: list[ChangeRow]
    axis: Markup
    gates: list[Mapping[str, Any]]
    curves: list[Block]
    schedule: list[Block]
    told: list[Block]
    settings: list[tuple[str, str]]


def _stage(folder: Path, place: int, stage: StageFacts) -> StageShown:
    lines: list[dict[str, Any]] = []
    if stage.metrics is not None:
        file = (folder / stage.metrics).resolve()
        if file.is_relative_to(folder.resolve()) and file.is_file():
            lines = read_metrics(file)
    rows, axis = _changes(stage)
    return StageShown(
        place=place,
        name=line(stage.name, 60),
        kind=line(stage.kind, 40) if stage.kind != stage.name else "",
        state=line(stage.state, 40),
        said=_said(stage, lines),
        error=plain(stage.error, 600) if stage.error else "",
        changes=rows,
        axis=axis,
        gates=[{"passed": gate.get("passed") is True, "said": plain(gate.get("said"), 400)} for gate in stage.gates],
        curves=training_curves(lines),
        schedule=schedule(stage.planned, stage.realised),
        told=told(stage.report, stage.changes),
        settings=_flat(stage.settings),
    )


def _said(stage: StageFacts, lines: Sequence[Mapping[str, Any]]) -> str:
    parts = [line(stage.state[:1].upper() + stage.state[1:], 60)]
    if lines:
        steps, tokens = number(lines[-1].get("step")), number(lines[-1].get("tokens"))
        parts.append(count(steps or len(lines), "step") + (f" over {tokens:,.0f} tokens" if tokens else ""))
    for what, seconds in stage.times.items():
        if (known := number(seconds)) is not None:
            parts.append(duration(known) if what == "stage" else f"{line(what, 40)} {duration(known)}")
    if stage.sha256:
        parts.append(f"weights {stage.sha256[:16]}")
    return "; ".join(parts) + "."


def _flat(value: Any, name: str = "", depth: int = 0) -> list[tuple[str, str]]:
    """Nested settings as (path, value); what is not set is left out."""
    if isinstance(value, Mapping) and depth < 5:
        return [row for key, inner in value.items() for row in _flat(inner, f"{name}.{key}".strip("."), depth + 1)]
    if value is None or value in ("", [], (), {}):
        return []
    return [(line(name, 80), line(value, 300))]


# --- samples, times, lineage -----------------------------------------------------------------------------------------


def _samples(facts: RunFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    """(prompt, [(model, what it went on with)])."""
    found: dict[str, list[tuple[str, str]]] = {}
    sides = [("base", facts.base_measurement), *((stage.name, stage.measurement) for stage in facts.stages)]
    for name, measurement in sides:
        for pair in listed(mapping(measurement).get("samples")):
            if isinstance(pair, list | tuple) and len(pair) == 2:
                prompt = plain(pair[0], MOST_SAMPLE)
                found.setdefault(prompt, []).append((line(name, 40), plain(pair[1], MOST_SAMPLE)))
    return list(found.items())[:MOST_SAMPLES]


@dataclass(frozen=True, slots=True)
class TimeRow:
    what: str
    seconds: str
    percent: str
    bar: Markup
    """Beside the longest."""


def _times(facts: RunFacts) -> list[TimeRow]:
    """Where the time went, in the order of the run."""
    rows = [(line(what, 60), number(seconds)) for what, seconds in facts.times.items()]
    for stage in facts.stages:
        rows += [
            (line(stage.name, 40) + ("" if what == "stage" else f": {line(what, 40)}"), number(seconds))
            for what, seconds in stage.times.items()
        ]
    known = [(what, seconds) for what, seconds in rows if seconds is not None and seconds > 0]
    whole = sum(seconds for _, seconds in known)
    most = max((seconds for _, seconds in known), default=1.0)
    return [
        TimeRow(what, duration(seconds), f"{seconds / whole:.0%}", plots.bar(seconds / most, label=what))
        for what, seconds in known
    ]


def _lineage(facts: RunFacts) -> list[tuple[str, str, str]]:
    """(what, name, SHA-256) from the base to the last stage, and the recipe and texts that made it."""
    rows = [("base", line(mapping(facts.base).get("name"), 80), line(mapping(facts.base).get("sha256"), 70))]
    rows += [("stage", line(stage.name, 60), line(stage.sha256, 70)) for stage in facts.stages if stage.sha256]
    rows.append(("recipe", line(mapping(facts.recipe).get("name"), 60), line(facts.recipe_sha256, 70)))
    rows += [("text", line(name, 60), line(report.get("sha256"), 70)) for name, report in facts.corpora.items()]
    return rows


def _details(facts: RunFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    tables = [(f"Settings of {line(stage.name, 60)}", _flat(stage.settings)[:120]) for stage in facts.stages]
    tables.append(("Measured", _measured(facts)))
    tables.append(("Environment", _flat(facts.environment)[:80]))
    return [(title, rows) for title, rows in tables if rows]


def _measured(facts: RunFacts) -> list[tuple[str, str]]:
    said = mapping(facts.base_measurement)
    rows = [("precision", line(said.get("precision"), 20))] if said else []
    rows += [(f"data {line(label, 40)}", line(digest, 70)) for label, digest in mapping(said.get("data")).items()]
    for kind, entry in mapping(said.get("facts")).items():
        for name, one in mapping(mapping(entry).get("texts")).items():
            documents, size = (number(mapping(one).get(key)) for key in ("documents", "bytes"))
            if documents is not None and size is not None:
                rows.append((line(name, 40), f"{count(documents, 'document')}, {_size(size)}"))
        chance = number(mapping(entry).get("chance"))
        if chance is not None:
            rows.append((f"{line(kind, 40)}: guessing gets", f"{chance:.1%}"))
    return rows
