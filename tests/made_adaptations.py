"""A run of a recipe as its folder would hold it: two stages, two sources, curves; or the same full of hostile text."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapt.evidence.run_facts import RunFacts, StageFacts

SHARES = [0.25 + 0.55 * (tenth + 0.5) / 10 for tenth in range(10)]


def figure(value: float, base: float, spread: float = 0.01, *, relative: bool = True) -> dict[str, Any]:
    change = value / base - 1 if relative else value - base
    return {
        "value": value,
        "low": value - spread,
        "high": value + spread,
        "n": 40,
        "base": base,
        "base_low": base - spread,
        "base_high": base + spread,
        "change": change,
        "change_low": change - spread / 2,
        "change_high": change + spread / 2,
        "relative": relative,
        "p": 0.0004 if abs(change) > spread else 0.31,
        "worse": change > spread,
    }


def figures(domain: float, general: float, tokens: float, accuracy: float) -> dict[str, Any]:
    return {
        "domain bits_per_byte": figure(domain, 0.86),
        "domain tokens_per_byte": figure(tokens, 0.24, 0.0004),
        "general bits_per_byte": figure(general, 0.98, 0.004),
        "general tokens_per_byte": figure(0.263, 0.263, 0.0),
        "choices choice_accuracy": figure(accuracy, 0.46, 0.05, relative=False),
    }


def measurement(label: str, changes: dict[str, Any], samples: list[tuple[str, str]], side: str = "value") -> Any:
    return {
        "label": label,
        "model": label,
        "sha256": label[:1] * 64,
        "precision": "bf16",
        "data": {"domain": "d" * 64, "general": "e" * 64},
        "figures": {name: {"value": one[side], "low": None, "high": None, "n": 40} for name, one in changes.items()},
        "facts": {"texts": {"texts": {"domain": {"documents": 31, "bytes": 198_204}}}, "choices": {"chance": 0.33}},
        "samples": [list(pair) for pair in samples],
    }


def metrics(file: Path, steps: int = 400) -> None:
    """A loss that falls with noise, a rate that warms up and decays, one line cut off by a kill."""
    draw = random.Random(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(1, steps + 1):
        done = step / steps
        rate = 1e-4 * (step / 12 if step < 12 else 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
        lines.append(
            {
                "step": step,
                "tokens": step * 8192,
                "loss": 2.9 + 0.5 * math.exp(-4 * done) + draw.gauss(0, 0.08),
                "kl": 0.04 * done + abs(draw.gauss(0, 0.004)),
                "penalty": 0.0,
                "lr": rate,
                "grad_norm": 0.8 + abs(draw.gauss(0, 0.2)),
                "seconds": 9.0 * step,
                "tokens_per_second": 900 + draw.gauss(0, 40),
                "shares": {"domain": 0.25 + 0.55 * done},
            }
        )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 401, "lo')


def corpus(name: str, say: Callable[[str], str] = str) -> dict[str, Any]:
    """As a corpus reports itself."""
    return {
        "name": name,
        "place": say(f"data/{name}"),
        "sha256": name[:1] * 64,
        "settings": {},
        "read": {"documents": 736, "texts": 740, "bytes": 15_000_000, "packed": 15_400_000},
        "left_out": {"documents": 0, "reasons": {}},
        "warnings": {},
        "kept": {"texts": 702, "bytes": 13_900_000},
        "dropped": {
            "texts": 38,
            "reasons": {
                say("near-duplicate"): {
                    "documents": 30,
                    "bytes": 90_000,
                    "why": say("is nearly the same as an earlier one"),
                    "examples": [{"id": say("pep-0001.txt"), "detail": "", "text": say("PEP: 1 Title: purpose")}],
                },
                "symbols": {"documents": 8, "bytes": 9_000, "why": "is mostly symbols", "examples": []},
            },
        },
        "train": {"documents": 665, "bytes": 13_100_000},
        "held_out": {"documents": 37, "bytes": 800_000},
        "split": {"by": "document", "note": ""},
        "languages": {"sample": 500, "documents": {"en": 498, "?": 2}},
        "overlaps": {
            "questions": 200,
            "too_short": 3,
            "found": 1,
            "list": [{"document": say("pep-0020.txt"), "file": say("choices.jsonl"), "item": "7", "text": say("zen")}],
        },
    }


def adapted(folder: Path, say: Callable[[str], str] = str) -> RunFacts:
    """Write the run's files into `folder`; `say` may turn every free text into something else."""
    prompt = say("Python functions are")
    first, last = figures(0.858, 0.982, 0.224, 0.45), figures(0.78, 0.985, 0.224, 0.47)
    metrics(folder / "2-dapt" / "metrics.jsonl")
    vocabulary = StageFacts(
        name="vocabulary",
        kind="vocabulary",
        sha256="a" * 64,
        settings={"tokens": 250, "warm": {"lr": 0.002}},
        times={"preparing": 21.0, "training": 340.0, "measuring": 170.0},
        measurement=measurement("vocabulary", first, [(prompt, say("a way to write code."))]),
        changes=first,
        gates=[{"gate": "g", "passed": True, "value": -0.07, "said": say("domain tokens_per_byte fell by 6.67 %")}],
        report={
            "new_tokens": 212,
            "tokens": [{"token": say("Ġdecorator"), "saved": 1201}, {"token": "协程", "saved": 90}],
        },
    )
    dapt = StageFacts(
        name="dapt",
        kind="dapt",
        sha256="b" * 64,
        state="stopped",
        settings={"tokens": 3_000_000, "lr": {"peak": 1e-4}},
        times={"training": 4100.0, "measuring": 171.0},
        metrics="2-dapt/metrics.jsonl",
        planned=[{"domain": share, "general": 1 - share} for share in SHARES],
        realised=[{"domain": share + 0.002, "general": 0.998 - share} for share in SHARES],
        measurement=measurement("dapt", last, [(prompt, say("first-class objects;\n\nthey can be passed."))]),
        changes=last,
        gates=[
            {
                "gate": "g",
                "passed": True,
                "value": -0.09,
                "said": "domain bits_per_byte fell by 9.30 %, and the gate allows at most -8.00 %",
            },
            {
                "gate": "g",
                "passed": False,
                "value": 0.012,
                "said": say("general bits_per_byte rose by 1.20 %: too much"),
            },
        ],
        error=say("a gate was crossed"),
    )
    facts = RunFacts(
        name=say("embedded-python"),
        started="2026-11-28T04:00:00Z",
        finished="2026-11-28T05:24:00Z",
        state="stopped at a gate",
        recipe={"name": "embedded-python", "seed": 0, "data": {"domain": {"path": say("peps")}}},
        recipe_sha256="c" * 64,
        base={"name": say("packaged"), "sha256": "0" * 64},
        stages=[vocabulary, dapt],
        corpora={"domain": corpus("domain", say), "general": corpus("general", say)},
        base_measurement=measurement("base", last, [(prompt, say("the functions of Python."))], "base"),
        fathom="0.1.0",
        environment={"machine": {"processor": say("AMD EPYC"), "cores": 2}},
        notices=[say("The chain stopped at a gate.")],
        times={"corpora": 44.0, "measuring the base": 166.0},
    )
    facts.write(folder)
    return facts
