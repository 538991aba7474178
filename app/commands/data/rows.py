"""`fathom data rows FILE --mapping MAPPING.yaml`: a table's columns → examples by templates. Only words."""

from pathlib import Path
from typing import Annotated

import typer

from app.commands.data.options import DryRun, Licence, Out, Replace, finish, require_new
from app.commands.options import AsJson, Workspace, begin


def command(
    out: Out,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A table: .csv, .tsv, .jsonl (also .gz), .json, .parquet.", show_default=False
        ),
    ],
    mapping: Annotated[
        Path, typer.Option("--mapping", "-m", metavar="MAPPING", help="YAML that says which column is what.")
    ],
    licence: Licence = "",
    replace: Replace = False,
    dry_run: DryRun = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Turn rows of questions and answers into examples, by several wordings, also turned round."""
    from adapt.instructions.from_rows import examples_from_rows
    from adapt.instructions.importing import Imported
    from adapt.instructions.mapping import load_mapping

    run = begin(workspace, as_json)
    loaded = load_mapping(mapping)
    require_new(out, replace=replace, sources=(file, mapping))
    into = Imported()
    with run.terminal.progress() as progress:
        examples = examples_from_rows(file, loaded, into, licence=licence, progress=progress)
        finish(run, examples, into, out, dry_run=dry_run)
