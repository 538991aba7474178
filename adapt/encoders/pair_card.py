"""What a run of an encoder recipe knows of itself → the card that lies beside the result."""

from collections.abc import Mapping
from typing import Any

from eval.figures.statistics import Interval


def card(facts: Mapping[str, Any], figures: Mapping[str, Interval]) -> str:
    """Markdown: base, method, data with its counts and licences, figures on held-out questions."""
    recipe, base = facts["recipe"], facts.get("base", {})
    kind = "reranker" if recipe["encoder"] == "reranker" else "support checker"
    method = recipe["method"]
    how = f"LoRA, r {method['r']}" if method["kind"] == "lora" else "all weights"
    lines = [
        f"# {facts['name']}: a {kind} of Fathom",
        "",
        f"{how} on `{base.get('name', '')}` (SHA-256 `{str(base.get('sha256', ''))[:16]}…`), with a head of its own.",
        f"Reads two texts together, {recipe['max_tokens']} tokens. Made by `fathom adapt run`.",
        "",
        "| data | kind | learned from | held out | licence |",
        "|---|---|---|---|---|",
    ]
    for name, counts in facts.get("data", {}).items():
        source = recipe["data"][name]
        licence = source.get("licence") or "not stated in the recipe"
        lines.append(f"| {name} | {source['kind']} | {counts['questions']:,} | {counts['held_out']:,} | {licence} |")
    if figures:
        lines += ["", "| held-out questions | mean | 95 % interval | n |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {found.mean:.3f} | [{found.low:.3f}, {found.high:.3f}] | {found.n:,} |"
            for name, found in figures.items()
        ]
    training = facts.get("training") or {}
    lines += [
        "",
        f"Learning rate {recipe['lr']:g} (head {recipe['head_lr']:g}), {recipe['batch']} examples a step, "
        f"{training.get('steps', '?')} steps, seed {recipe['seed']}.",
        "",
    ]
    return "\n".join(lines)
