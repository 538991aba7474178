"""A registered model's manifest → a model card (README.md) with what is known of it and no word more."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from eval.figures.measures import format_value

_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,39}")


def model_card(manifest: Mapping[str, Any], *, use: Sequence[str], notes: Sequence[str] = (), licence: str = "") -> str:
    """Markdown, with the head that the Hugging Face hub reads. `use` are commands that run it, `notes` what this form
    differs in, `licence` the base's where it is known. What the manifest says is a stranger's text and stays plain."""
    name = _plain(manifest.get("name")) or "model"
    base = _mapping(manifest.get("base"))
    recipe = _mapping(manifest.get("recipe"))
    licence = licence if _LICENCE.fullmatch(licence) else ""
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if licence:
        head.append(f"license: {licence}")
    lines = [*head, "---", "", f"# {name}", ""]
    lines.append(f"Made by Fathom {_plain(manifest.get('fathom'))} on {_plain(manifest.get('created'))}.")
    lines += ["", "## Where it comes from", ""]
    lines.append(f"- Base: {_code(base.get('name'))}, SHA-256 {_code(base.get('sha256'))}")
    if base.get("held") == "nf4":
        lines.append("- The base was held in 4 bits (NF4) while the adapter was trained (QLoRA)")
    lines.append(f"- Licence of the base: {licence or 'not known to Fathom; ask its publisher'}")
    if recipe:
        lines.append(f"- Recipe: {_code(recipe.get('name'))}, SHA-256 {_code(recipe.get('sha256'))}")
    for number, stage in enumerate(_listed(manifest.get("stages")), 1):
        lines.append(
            f"- Stage {number}: {_code(stage.get('name'))} ({_plain(stage.get('kind'))}), result SHA-256 "
            f"{_code(stage.get('sha256'))}"
        )
    lines.append(f"- Content of this model, SHA-256: {_code(manifest.get('sha256'))}")
    data = _mapping(manifest.get("data"))
    if data:
        lines += ["", "## Texts", "", "| source | SHA-256 of the cleaned texts |", "|---|---|"]
        lines += [f"| {_plain(source)} | {_code(digest)} |" for source, digest in data.items()]
    lines += _figures(_mapping(manifest.get("metrics")))
    gates = _listed(manifest.get("gates"))
    if gates:
        lines += ["", "## Gates", ""]
        lines += [
            f"- {'kept' if gate.get('passed') is True else 'crossed'}: {_plain(gate.get('said'))}" for gate in gates
        ]
    prompts = _mapping(manifest.get("prompts"))
    if prompts:
        lines += ["", "## Prompts it was trained on", ""]
        lines += [f"- {_plain(which)}: version {_plain(version)}" for which, version in prompts.items()]
    if notes:
        lines += ["", "## This form", "", *(f"- {_plain(note)}" for note in notes)]
    if use:
        lines += ["", "## How to run it", "", "```sh", *use, "```"]
    return "\n".join(lines) + "\n"


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, one in metrics.items():
        one = _mapping(one)
        value = _number(one.get("value"))
        if value is None:
            continue
        metric = str(name).rpartition(" ")[2]

        def said(key: str, one: Mapping[str, Any] = one, metric: str = metric) -> str:
            return format_value(metric, _number(one.get(key)))

        change = _number(one.get("change"))
        changed = "–" if change is None else f"{change:+.2%}" if one.get("relative") is True else f"{change:+.3f}"
        rows.append(
            f"| {_plain(name)} | {said('base')} | {said('value')} | {said('low')} … {said('high')} | {changed} |"
        )
    if not rows:
        return []
    heading = ["", "## Figures", "", "Measured on texts that were held out; the interval is of 95 %.", ""]
    return [*heading, "| measure | base | this model | interval | change |", "|---|---|---|---|---|", *rows]


def _plain(value: Any) -> str:
    """One line of text that neither Markdown nor HTML acts on."""
    text = " ".join(str(value if value is not None else "").split())[:300]
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", "".join(c for c in text if c.isprintable()))


def _code(value: Any) -> str:
    text = "".join(
        c for c in " ".join(str(value if value is not None else "").split()) if c.isprintable() and c not in "`|"
    )
    return f"`{text[:200]}`" if text else "unknown"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
