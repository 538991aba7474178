"""`fathom data sample EXAMPLES`: many examples → a few that cover what is asked. Only words."""

from typing import Annotated

import typer

from app.commands.data.options import DryRun, Examples, Out, Replace, require_new
from app.commands.options import AsJson, Workspace, begin
from retrieval.errors import UsageError


def command(
    examples: Examples,
    out: Out,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="Examples to draw.", show_default=False)],
    by: Annotated[
        str, typer.Option("--by", metavar="WORD", help="Draw them by 'clusters', or 'k-centre' (rare ones too).")
    ] = "k-centre",
    replace: Replace = False,
    dry_run: DryRun = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Draw examples that differ as far as may be in what they ask, by the embedding model."""
    from adapt.instructions.example import read_examples, write_examples
    from adapt.instructions.likeness import coverage, sampled, vectors_of
    from app.build import embedder

    run = begin(workspace, as_json)
    if by not in ("clusters", "k-centre"):
        raise UsageError(f"a sample is drawn by 'clusters' or 'k-centre', not by '{by[:40]}'")
    require_new(out, replace=replace, sources=(examples,))
    found = [example for example in read_examples(examples) if not example.rejected]
    if not found:
        raise UsageError(f"'{examples}' holds no example to draw")
    with run.terminal.progress() as progress:
        vectors = vectors_of(found, embedder(run.settings)(), run.settings.cache / "passages", progress).asked
        drawn = sampled(vectors, count, by, progress)  # type: ignore[arg-type]
    mean, worst = coverage(vectors, drawn)
    if not dry_run:
        write_examples(out, (found[number] for number in drawn))
    if as_json:
        run.terminal.json(
            {
                "examples": len(found),
                "drawn": len(drawn),
                "by": by,
                "nearest_drawn_cosine": {"mean": mean, "least": worst},
                "written": None if dry_run else str(out),
            }
        )
        return
    run.terminal.line(
        f"likeness of each question to the nearest one drawn: {mean:.2f} on average, {worst:.2f} at least"
    )
    where = "would be drawn" if dry_run else f"in {out}"
    run.terminal.done(f"{len(drawn):,} of {len(found):,} examples {where}")
