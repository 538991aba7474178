"""`fathom data claims SOURCE… --out FILE`: sources → claims to train and measure support checkers on. Only words."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from app.commands.data.options import DrawSeed, DryRun, Licence, Replace, require_new, tell_left_out
from app.commands.options import AsJson, Workspace, begin

_SHOWN = 3


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A folder in the form of SciFact, a question set, or documents (PATH, PATH#FIELD).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the pairs go: .jsonl or .jsonl.gz.")],
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Claims of each source.", show_default="all")
    ] = None,
    hold_out: Annotated[
        float, typer.Option("--hold-out", metavar="SHARE", min=0.0, max=0.99, help="Of the documents, the last.")
    ] = 0.0,
    held_out_to: Annotated[
        Path | None, typer.Option("--held-out-to", metavar="FILE", help="Write the pairs of those documents there.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="Of claims that people judged.", show_default="train"),
    ] = None,
    seed: DrawSeed = None,
    licence: Licence = "",
    replace: Replace = False,
    dry_run: DryRun = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Make claims beside passages that support them, contradict them or say nothing of them: by rules, no model."""
    from adapt.claims.making import ClaimMaking, make_claims
    from adapt.claims.pair_file import write_pairs
    from retrieval.errors import UsageError

    run = begin(workspace, as_json)
    given = {"limit": limit, "hold_out": hold_out, "split": split, "seed": seed}
    making = ClaimMaking(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    if held_out_to is not None and not making.hold_out:
        raise UsageError("--held-out-to needs --hold-out, the share of the documents that is held out")
    for file in (out, held_out_to):
        if file is not None:
            require_new(file, replace=replace, sources=tuple(Path(source) for source in sources))
    with run.terminal.progress() as progress:
        made = make_claims(sources, making, licence=licence, progress=progress)
    if not dry_run:
        write_pairs(out, made.learned)
        if held_out_to is not None:
            write_pairs(held_out_to, made.held_out)
    counts = made.counts()
    if run.terminal.as_json:
        run.terminal.json(
            {
                "sources": made.forms,
                "labels": counts["learned"],
                "held_out": counts["held_out"],
                "left_out": made.left_out.counts,
                "written": None if dry_run else str(out),
                "first": [pair.as_json() for pair in made.learned[:_SHOWN]],
            }
        )
        return
    for name, form in made.forms.items():
        run.terminal.note(f"{name}: {form}", style="dim")
    tell_left_out(run, "left out", made.left_out)
    ways = Counter((pair.label, pair.made) for pair in made.learned)
    rows = [[label, how, f"{count:,}"] for (label, how), count in sorted(ways.items())]
    run.terminal.table(("label", "made", "pairs"), rows, right=(2,))
    if dry_run:
        run.terminal.table(
            ("label", "claim", "passage"), [[p.label, p.claim, p.passage[:200]] for p in made.learned[:_SHOWN]]
        )
    what = "would be written" if dry_run else f"in {out}"
    held = f", {len(made.held_out):,} held out" if made.held_out else ""
    run.terminal.done(f"{len(made.learned):,} pairs {what}{held}")
