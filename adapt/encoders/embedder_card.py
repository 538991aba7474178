"""What a run of an embedder's recipe knows of itself → the card that lies beside the adapter."""

from collections.abc import Mapping
from typing import Any

from eval.figures.statistics import Interval


def card(facts: Mapping[str, Any], figures: Mapping[str, Interval]) -> str:
    """Markdown: base, data with its counts and licences, the share kept, figures on held-out pairs."""
    recipe, base, gain = facts["recipe"], facts["base"], facts["gain"]
    lines = [
        f"# {facts['name']}: an embedding adapter of Fathom",
        "",
        f"LoRA, r {recipe['r']}, on `{base['name']}` (SHA-256 `{base['sha256'][:16]}…`); {facts['share']:g} of what "
        "was learnt is kept. Made by `fathom adapt run`; use it with `fathom index reembed --adapter`.",
        "",
        "| pairs | learned from | held out | licence |",
        "|---|---|---|---|",
    ]
    for name, counts in facts["data"].items():
        licence = counts["licence"] or "not stated in the recipe"
        lines.append(f"| {name} | {counts['pairs']:,} | {counts['held_out']:,} | {licence} |")
    lines += ["", "| held out | mean | 95 % interval | n |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {found.mean:.3f} | [{found.low:.3f}, {found.high:.3f}] | {found.n:,} |"
        for name, found in figures.items()
    ]
    lines += [
        "",
        f"Tuned against stock on its own held-out pairs: {gain['difference']:+.3f} [{gain['low']:+.3f}, "
        f"{gain['high']:+.3f}], p {gain['p']:.3g}. These pairs chose the share, so the gain is an upper estimate; "
        "measure it with questions of your own (`fathom eval retrieval`).",
        "",
        f"Learning rate {recipe['lr']:g}, {recipe['steps']} steps of {recipe['batch']} pairs, seed {recipe['seed']}.",
        "",
    ]
    return "\n".join(lines)
