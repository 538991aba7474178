"""`fathom eval language …`: models and texts → bits per byte, accuracy and forgetting on the screen. Only words."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.evaluation.options import DryRun, Fresh, RunName, Seed
from app.commands.options import AsJson, Run, Workspace, begin
from retrieval.errors import FathomError, UsageError

if TYPE_CHECKING:
    from eval.forgetting import Change
    from eval.runs.executing import PartResult
    from eval.runs.parts import Part

AGAINST = "-against"
"""Ends the names of the parts that measure the other model."""


def command(
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="[LABEL=]TEXT",
            help="Text to predict: a file, a folder, rows.jsonl.gz#field; may be repeated (domain=…, general=…).",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Registered model, GGUF file, folder with safetensors, or OWNER/NAME of the hub.",
            show_default="the packaged model",
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option("--adapter", metavar="DIR", help="Adapter (peft) on the model.", show_default=False),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="Measure this model too, as the state before ('packaged': the one that comes with Fathom), and show "
            "what MODEL gained and forgot.",
            show_default=False,
        ),
    ] = None,
    choices: Annotated[
        Path | None,
        typer.Option(
            "--choices", metavar="FILE", help="Multiple-choice questions (JSON lines) to answer by likelihood."
        ),
    ] = None,
    pmi: Annotated[
        bool, typer.Option("--pmi", help="Correct choices for how likely each is without a question.")
    ] = False,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="TEXT",
            help="Prompt of the choices, with {question} and {context}.",
            show_default=False,
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option("--window", metavar="N", help="Tokens seen at once.", show_default="the model's, at most 2,048"),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option("--stride", metavar="N", help="Tokens from window to window.", show_default="half a window"),
    ] = None,
    limit_bytes: Annotated[
        int | None,
        typer.Option("--limit-bytes", metavar="N", help="About so many bytes of each text.", show_default="all"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Only so many of the choices.", show_default="all")
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", metavar="NAME", help="auto, fp32, bf16 or fp16.")] = "auto",
    run_name: RunName = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    seed: Seed = 0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """How well a language model predicts texts (bits per byte) and picks answers; what adapting it cost."""
    run = begin(workspace, as_json)
    if not on and choices is None:
        raise UsageError("nothing to measure on; give --on TEXT, or --choices FILE, or both")
    from app.evaluation import RunOptions, measure_suite, result_json, show
    from eval.choices import ChoicesPart
    from eval.language import LanguagePart
    from eval.runs.suites import Suite

    texts = _texts(on or [])
    models = {"": (model, adapter)}
    models |= {AGAINST: (against, None)} if against else {}
    parts: dict[str, Part] = {}
    kinds: dict[str, str] = {}
    for ending, (name, on_it) in models.items():
        same: dict[str, Any] = {
            "model": name,
            "adapter": on_it.expanduser().absolute() if on_it else None,
            "device": device,
            "precision": precision,
            "seed": seed,
        }
        if texts:
            kinds[f"language{ending}"] = "language"
            parts[f"language{ending}"] = LanguagePart(
                texts=texts, window=window, stride=stride, limit_bytes=limit_bytes, **same
            )
        if choices is not None:
            kinds[f"choices{ending}"] = "choices"
            parts[f"choices{ending}"] = ChoicesPart(
                questions=choices.expanduser().absolute(), template=template, pmi=pmi, limit=limit, **same
            )
    options = RunOptions(run=run_name, fresh=fresh, dry_run=dry_run, seed=seed)
    suite = Suite(name="language", seed=seed, parts=parts, kinds=kinds)
    measured = measure_suite(run, suite, options, label=f"language-{_short(adapter or model or 'packaged')}")
    if measured is None:
        return
    results = measured.parts
    for result in results.values():
        if result.error:
            raise FathomError(result.error)
    changes = _forgetting(results, seed) if against else {}
    main, *others = results
    if as_json:
        extra: dict[str, Any] = {name: result_json(results[name]) for name in others}
        if against:
            extra["forgetting"] = [
                {"part": part, **asdict(change)} for part, table in changes.items() for change in table
            ]
        show(run, results[main], extra_json=extra)
        return
    for name, result in results.items():
        run.terminal.line(f"{name}: {_model_of(result)}", style="bold")
        show(run, result)
        _print_details(run, result)
        run.terminal.line()
    if against:
        _print_forgetting(run, results, changes)


def _texts(on: list[str]) -> dict[str, Path] | tuple[Path, ...]:
    """`label=PATH` for all, or paths alone. Raises UsageError for a mixture or a label used twice."""
    split = [_labelled(word) for word in on]
    labels = [label for label, _ in split if label]
    paths = [Path(path).expanduser().absolute() for _, path in split]
    if not labels:
        return tuple(paths)
    if len(labels) < len(split):
        raise UsageError("give every --on a label (--on domain=PATH --on general=PATH) or none of them")
    if len(set(labels)) < len(labels):
        raise UsageError(f"two texts are labelled '{max(labels, key=labels.count)}'; give each a label of its own")
    return dict(zip(labels, paths, strict=True))


def _labelled(word: str) -> tuple[str, str]:
    """A path that holds a '=' and is there is a path."""
    label, cut, path = word.partition("=")
    if cut and re.fullmatch(r"[\w.\-]{1,40}", label) and not Path(word).expanduser().exists():
        return label, path
    return "", word


def _short(model: str | Path) -> str:
    return re.sub(r"[^\w.\-]+", "-", Path(model).name)[:40].strip("-.") or "model"


def _model_of(result: "PartResult") -> str:
    return str(result.extras.get("model", {}).get("name", ""))


def _forgetting(results: "Mapping[str, PartResult]", seed: int) -> "dict[str, list[Change]]":
    from eval.forgetting import forgetting_table

    return {
        name: forgetting_table(results[name + AGAINST].records, result.records, seed=seed)
        for name, result in results.items()
        if not name.endswith(AGAINST)
    }


def _print_details(run: Run, result: "PartResult") -> None:
    extras = result.extras
    for label, facts in extras.get("texts", {}).items():
        perplexity = facts["perplexity"]
        said = f"{perplexity:,.2f} per token of this tokenizer" if perplexity else "not finite"
        run.terminal.note(
            f"{label}: {facts['documents']:,} documents, {facts['bytes']:,} bytes, {facts['tokens']:,} tokens; "
            f"perplexity {said}; intervals over {facts['unit']}s"
        )
    if "chance" in extras:
        always = extras.get("always")
        same = f"; always '{always['answer']}' gets {always['accuracy']:.3f}" if always else ""
        run.terminal.note(f"guessing gets {extras['chance']:.3f}{same}")
    if extras.get("tokens_per_second"):
        run.terminal.note(f"{extras['tokens_per_second']:,.0f} tokens scored a second")
    for warning in extras.get("warnings", []):
        run.terminal.note(warning, style="yellow")


def _print_forgetting(run: Run, results: "Mapping[str, PartResult]", changes: "Mapping[str, list[Change]]") -> None:
    from eval.figures.measures import format_value

    name = next(iter(changes))
    rows = []
    for table in changes.values():
        for change in table:
            figures = [format_value(change.metric, value) for value in (change.a, change.b)]
            estimate = change.change
            rows.append(
                [
                    change.metric,
                    *figures,
                    _signed(estimate.value, change.relative),
                    f"{_signed(estimate.low, change.relative)} … {_signed(estimate.high, change.relative)}",
                    "–" if change.p is None else f"{change.p:.3g}",
                    "worse" if change.worse else "",
                ]
            )
    before, after = (_model_of(results[name + ending])[:32] or "?" for ending in (AGAINST, ""))
    headings = ("measure", f"before: {before}", f"after: {after}", "change", "95 % interval", "p", "")
    run.terminal.table(headings, rows, right=(1, 2, 3, 4, 5))


def _signed(value: float | None, relative: bool) -> str:
    if value is None:
        return "–"
    return f"{value:+.2%}" if relative else f"{value:+.3f}"
