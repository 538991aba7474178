"""`fathom model calibrate NAME EXAMPLES`: a reranker and judged passages → its calibration, kept beside it. Only
words."""

from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import AsJson, Workspace, begin


def calibrate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registered model or adapter, or an adapter's folder.")],
    examples: Annotated[
        Path,
        typer.Argument(metavar="EXAMPLES", help="Of 'fathom data judgements', none that it was trained on."),
    ],
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=40, help="Examples, the first.", show_default="all")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fit and show, keep nothing.")] = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Fit the two numbers that turn a reranker's verdicts into probabilities, so that one threshold means relevant."""
    run = begin(workspace, as_json)
    from itertools import islice

    from adapt.calibrating import calibrated
    from adapt.instructions.example import read_examples
    from adapt.registry import add_export, find, is_adapter_folder, is_registered
    from app.build import engine, engine_settings
    from retrieval.errors import UsageError
    from retrieval.llm_reranking.calibration import write_calibration

    models = run.settings.models
    if is_registered(models, name):
        folder = find(models, name).folder
        chosen = engine_settings(run.settings, f"local:{name}")
    else:
        folder = Path(name).expanduser().resolve()
        if not is_adapter_folder(folder):
            raise UsageError(f"'{name[:80]}' is neither a registered model nor the folder of an adapter")
        chosen = replace(engine_settings(run.settings, "local"), model=None, adapter=folder, adapters=None)
    found = list(islice((one for one in read_examples(examples) if not one.rejected), limit))
    with (
        run.terminal.progress() as progress,
        closing(engine(replace(run.settings, engine=chosen))) as llm,  # type: ignore[type-var]
    ):
        fitted = calibrated(llm, found, progress=progress)
    place = None if dry_run else write_calibration(folder, fitted.platt)
    if place is not None and is_registered(models, name):
        add_export(find(models, name), place)
    if as_json:
        run.terminal.json({**asdict(fitted), "written": str(place) if place else None})
        return
    platt = fitted.platt
    run.terminal.line(f"slope {platt.slope:.3f}, offset {platt.offset:.3f}, of {platt.pairs:,} judged passages")
    run.terminal.line(f"a relevant passage is thought better of than another in {fitted.auc:.1%} of the pairs")
    run.terminal.line(f"loss {fitted.loss_before:.3f} before, {fitted.loss_after:.3f} after (nats a passage)")
    run.terminal.done(f"kept in {place}" if place else "nothing was written")
