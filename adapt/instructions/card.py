"""A file of examples → what it holds, counted, and the data card that says so (Markdown). It judges nothing.

After data statements (Bender & Friedman 2018, Q18-1041): where examples come from, by whose terms, in which languages,
how long they are, what was checked, and what a person has seen of them.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adapt.corpus.duplicates import content_key
from adapt.corpus.languages import language, languages_version
from adapt.instructions.checking import report_of
from adapt.instructions.example import Example, numbered_examples
from adapt.instructions.reviews import Reviews
from eval.report.markdown import escape, paragraph, table
from eval.report.text import line
from eval.runs.parts import Progress
from eval.runs.run_folder import now, read_json
from retrieval.embedding.stored import file_hash
from retrieval.errors import DamagedError, ReadingError

Count = Callable[[str], int]
"""A text → tokens of it for the model that will be trained."""
MOST_ROWS = 20
MOST_VALUES = 8
_LANGUAGE_SAMPLE = 4_000
_UNKNOWN = "not stated"


@dataclass
class _Lengths:
    values: list[int] = field(default_factory=list)

    def as_json(self) -> dict[str, int]:
        if not self.values:
            return {}
        found = np.quantile(np.array(self.values), (0, 0.05, 0.5, 0.95, 1))
        names = ("least", "p5", "median", "p95", "most")
        return {name: int(round(float(value))) for name, value in zip(names, found, strict=True)} | {
            "sum": sum(self.values)
        }


def facts_of(path: Path, count: Count, *, tokenizer: str, progress: Progress) -> dict[str, Any]:
    """All that the card says, as plain values. `tokenizer` is the name of what `count` counts with.

    Decisions of a review that lie beside the file count as in it. Raises ReadingError, UsageError, DamagedError.
    """
    sha256 = file_hash(path) if path.is_file() else ""
    decisions = Reviews.decisions_beside(path)
    counters: dict[str, Counter[str]] = {
        name: Counter() for name in ("kinds", "sources", "by", "licences", "languages", "messages", "review")
    }
    lengths = {name: _Lengths() for name in ("whole", "question", "answer")}
    scores: dict[str, list[float]] = {}
    labels: dict[str, Counter[str]] = {}
    masked: Counter[str] = Counter()
    seen: set[bytes] = set()
    repeated = system = told = total = 0
    for total, (_, example) in enumerate(numbered_examples(path), 1):
        if total % 64 == 1:
            progress("reading", total, 0)
        _count_origin(example, counters)
        counters["messages"][f"{len([m for m in example.messages if m.role != 'system'])}"] += 1
        decided = decisions.get(example.id)
        state = decided.decision if decided is not None else example.review.decision if example.review else "open"
        counters["review"][state] += 1
        system += example.messages[0].role == "system"
        sizes = [count(message.content) for message in example.messages]
        lengths["whole"].values.append(sum(sizes))
        roles = [message.role for message in example.messages]
        lengths["question"].values += [size for size, role in zip(sizes, roles, strict=True) if role == "user"]
        lengths["answer"].values += [size for size, role in zip(sizes, roles, strict=True) if role == "assistant"]
        key = content_key("\n".join(f"{message.role}: {message.content}" for message in example.messages))
        repeated += key in seen
        seen.add(key)
        if told < _LANGUAGE_SAMPLE:
            told += 1
            counters["languages"][language(example.messages[-1].content) or "too short to tell"] += 1
        for name, value in example.labels.items():
            if isinstance(value, bool | int | str):
                said = str(value).lower() if isinstance(value, bool) else line(value, 40)
                labels.setdefault(line(name, 40), Counter())[said] += 1
        for name, value in example.checks.items():
            if name == "masked" and isinstance(value, Mapping):
                masked.update({str(kind): n for kind, n in value.items() if isinstance(n, int)})
            elif isinstance(value, int | float) and not isinstance(value, bool):
                scores.setdefault(name, []).append(float(value))
    if not total:
        raise ReadingError(str(path), "empty", "holds no example.")
    return {
        "file": path.name,
        "sha256": sha256,
        "made": now(),
        "examples": total,
        "with_system": system,
        "repeated": repeated,
        **{name: dict(counter.most_common()) for name, counter in counters.items()},
        "labels": _labels(labels),
        "languages_by": f"{languages_version()}, the last answer of {told:,} examples",
        "tokenizer": tokenizer,
        "tokens": {name: found.as_json() for name, found in lengths.items()},
        "scores": {name: _score(values) for name, values in sorted(scores.items())},
        "masked": dict(masked),
        "checked": _checked(path, sha256),
    }


def _count_origin(example: Example, counters: Mapping[str, Counter[str]]) -> None:
    origin = example.origin
    counters["kinds"][origin.kind if origin else _UNKNOWN] += 1
    counters["sources"][(origin.source.rpartition("#")[0] or origin.source if origin else "") or _UNKNOWN] += 1
    counters["by"][(origin.by if origin else "") or _UNKNOWN] += 1
    counters["licences"][(origin.licence if origin else "") or _UNKNOWN] += 1


def _labels(labels: Mapping[str, Counter[str]]) -> dict[str, int]:
    """Name and value → examples; of a label with many values only how many they are."""
    found: dict[str, int] = {}
    for name, values in sorted(labels.items()):
        if len(values) > MOST_VALUES:
            found[f"{name} ({len(values):,} values)"] = sum(values.values())
        else:
            found |= {f"{name}: {value}": count for value, count in values.most_common()}
    return found


def _score(values: Sequence[float]) -> dict[str, float]:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return {"examples": 0}
    mean, least, most = float(np.mean(finite)), min(finite), max(finite)
    return {"examples": len(finite), "mean": round(mean, 4), "least": least, "most": most}


def _checked(path: Path, sha256: str) -> dict[str, Any] | None:
    """The report of the check that wrote this very file, if it lies beside it."""
    try:
        report = read_json(report_of(path))
    except DamagedError:
        return None
    if report.get("sha256") != sha256 or not isinstance(report.get("dropped"), dict):
        return None
    return {
        "at": str(report.get("checked", "")),
        "rows": report.get("read", {}).get("rows"),
        "dropped": {
            str(reason): {"count": entry.get("count"), "why": entry.get("why")}
            for reason, entry in report["dropped"].items()
            if isinstance(entry, dict)
        },
        "evaluations": (report.get("evaluations") or {}).get("files", []),
        "settings": report.get("settings", {}),
    }


def card_of(facts: Mapping[str, Any]) -> str:
    """The card. Whatever comes from the file is escaped."""
    told = [f"# {escape(line(facts['file'], 100))}", ""]
    tokens = facts["tokens"]["whole"].get("sum", 0)
    told += paragraph(
        f"{facts['examples']:,} chat examples to tune a language model on, {tokens:,} tokens as "
        f"{escape(line(facts['tokenizer'], 80))} counts them."
    )
    told += ["", f"SHA-256: `{facts['sha256']}`, described {facts['made']}.", ""]
    told += _section("Where they come from", ("kind", "examples"), facts["kinds"])
    told += _section("", ("source", "examples"), facts["sources"])
    told += _section("", ("form, template or model", "examples"), facts["by"])
    told += _section("Licences", ("licence", "examples"), facts["licences"])
    if _UNKNOWN in facts["licences"]:
        told += [*paragraph("Where no licence is stated, find it out before a model is passed on."), ""]
    told += _section("Languages", ("language", "examples"), facts["languages"])
    told += [*paragraph(escape(f"Told by {facts['languages_by']}.")), ""]
    told += _shape(facts)
    told += _section("Labels", ("label", "examples"), facts["labels"])
    told += _checks(facts)
    told += _section("Review", ("decision", "examples"), facts["review"])
    rejected = facts["review"].get("rejected", 0)
    told += (
        [*paragraph(f"{rejected:,} rejected examples are in the file and are not learnt from."), ""] if rejected else []
    )
    return re.sub(r"\n{3,}", "\n\n", "\n".join(told)).rstrip() + "\n"


def _section(title: str, heads: Sequence[str], counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    rows = [[line(name, 80), f"{count:,}"] for name, count in list(counts.items())[:MOST_ROWS]]
    rest = list(counts.values())[MOST_ROWS:]
    if rest:
        rows.append([f"{len(rest):,} others", f"{sum(rest):,}"])
    return [*([f"## {title}", ""] if title else []), *table(heads, rows, right=(1,)), ""]


def _shape(facts: Mapping[str, Any]) -> list[str]:
    told = ["## Lengths", ""]
    heads = ("tokens of", "least", "5 %", "median", "95 %", "most")
    rows = [
        [name, *(f"{found[key]:,}" for key in ("least", "p5", "median", "p95", "most"))]
        for name, found in facts["tokens"].items()
        if found
    ]
    told += [*table(heads, rows, right=tuple(range(1, 6))), ""]
    turns = {f"{name} messages": count for name, count in sorted(facts["messages"].items(), key=lambda kv: int(kv[0]))}
    told += _section("", ("conversation", "examples"), turns)
    return [*told, *paragraph(f"{facts['with_system']:,} begin with a system message."), ""]


def _checks(facts: Mapping[str, Any]) -> list[str]:
    told = ["## Checks", ""]
    if facts["repeated"]:
        told += [*paragraph(f"{facts['repeated']:,} are word for word an earlier one."), ""]
    checked = facts["checked"]
    if checked is None:
        told += [*paragraph("No check of Fathom wrote this file: run 'fathom data check'."), ""]
    else:
        told += [*paragraph(f"Written by 'fathom data check' ({escape(line(checked['at'], 40))})."), ""]
        rows = [[reason, f"{entry['count']:,}", f"it {entry['why']}"] for reason, entry in checked["dropped"].items()]
        told += [*table(("dropped", "examples", "because"), rows, right=(1,)), ""] if rows else []
        if checked["evaluations"]:
            files = ", ".join(escape(line(name, 60)) for name in checked["evaluations"])
            told += [*paragraph(f"Free of the questions of {files}."), ""]
    told += _section("", ("masked", "places"), facts["masked"])
    scores = [
        [line(name, 60), f"{found['examples']:,}", *(f"{found[key]:g}" for key in ("mean", "least", "most"))]
        for name, found in facts["scores"].items()
        if found["examples"]
    ]
    told += [*table(("score", "examples", "mean", "least", "most"), scores, right=(1, 2, 3, 4)), ""] if scores else []
    return told
