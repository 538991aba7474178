"""`fathom eval …`: a dataset → figures on the screen. Only the words of the command line; measuring is eval/'s."""

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from app.commands.options import AsJson, Workspace, begin
from retrieval.errors import UsageError
from retrieval.passages import Mode


def command(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="Folder of corpus, queries and relevance judgements.")
    ],
    mode: Annotated[
        Mode | None, typer.Option("--mode", "-m", help="Which search to measure.", show_default="all three")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Which judgements to use.", show_default=False)
    ] = None,
    whole_documents: Annotated[
        bool, typer.Option("--whole-documents", help="One passage per document, as published figures have it.")
    ] = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Index a dataset apart and report nDCG, recall and MRR of each search, with 95 % intervals."""
    run = begin(workspace, as_json)
    if not dataset.is_dir():
        raise UsageError(f"'{dataset}' is not a folder; name one that holds a corpus with queries and judgements")
    from app.build import embedder, search_settings
    from app.terminal import count
    from eval.retrieval import evaluate_folder

    chosen: tuple[Mode, ...] = (mode,) if mode else get_args(Mode)
    # One model for all: the lexical figures then come from the same index.
    load = None if chosen == ("lexical",) else embedder(run.settings)
    reports = []
    with run.terminal.progress() as show:
        for pipeline in chosen:
            show(f"opening ({pipeline})", 0, 0)
            report = evaluate_folder(
                dataset,
                pipeline=pipeline,
                split=split,
                whole_documents=whole_documents,
                cache=run.settings.cache / "evaluation",
                embedder=load,
                settings=search_settings(run.settings),
                progress=show,
            )
            reports.append(report.to_json())
    if as_json:
        run.terminal.json(reports)
        return
    rows = [[name, *(_figure(report, name) for report in reports)] for name in reports[0]["metrics"]]
    for name in ("p50", "p99"):
        rows.append([f"{name} ms", *(f"{report['timings'][f'query_{name}_ms']:.1f}" for report in reports)])
    run.terminal.table(("measure", *chosen), rows, right=tuple(range(1, len(chosen) + 1)))
    run.terminal.done(f"{count(int(reports[0]['queries']), 'query', 'queries')} of {dataset.name} measured")


def _figure(report: dict[str, Any], name: str) -> str:
    low, high = report["intervals"][name]
    return f"{report['metrics'][name]:.3f} ({low:.3f}–{high:.3f})"
