"""`fathom eval retrieval …`: a test collection → figures on the screen. Only the words of the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.evaluation.options import DryRun, Fresh, RunName, Seed
from app.commands.options import AsJson, Run, Workspace, begin

if TYPE_CHECKING:
    from eval.figures.statistics import Estimate
    from eval.runs.executing import PartResult
    from eval.runs.parts import Part


def command(
    dataset: Annotated[
        Path,
        typer.Argument(metavar="DATASET", help="Folder of corpus, queries and judgements, or a question file."),
    ],
    pipeline: Annotated[
        str | None,
        typer.Option(
            "--pipeline",
            "-p",
            metavar="NAME",
            help="lexical, dense or hybrid; with 'rewrite+' before it and '+rerank' after it if wanted.",
            show_default="hybrid",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="Which judgements to use.", show_default="test, or the only ones"),
    ] = None,
    whole_documents: Annotated[
        bool | None,
        typer.Option(
            "--whole-documents",
            help="One passage per document, as published figures have it; ordinary passages beside it.",
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", "-k", metavar="N", help="Documents of a ranking.", show_default="100")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Only so many queries.", show_default="all")
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth", metavar="N", help="Candidates of each leg before fusion.", show_default="of the settings"
        ),
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(
            "--reranker",
            metavar="NAME",
            help="Cross-encoder: a folder or a name; llm[:listwise|:pairwise][:ENGINE]; score:ADDRESS[#MODEL].",
            show_default=False,
        ),
    ] = None,
    rerank_depth: Annotated[
        int | None,
        typer.Option("--rerank-depth", metavar="N", help="Passages the reranker reads.", show_default="50"),
    ] = None,
    rewriter: Annotated[
        str | None,
        typer.Option("--rewriter", metavar="NAME", help="What rewrites the queries.", show_default=False),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(
            "--collection",
            "-c",
            metavar="NAME",
            help="Ask this collection the questions of a question file.",
            show_default=False,
        ),
    ] = None,
    topics: Annotated[
        Path | None,
        typer.Option("--topics", metavar="FILE", help="TREC topics outside the folder.", show_default=False),
    ] = None,
    qrels: Annotated[
        Path | None,
        typer.Option("--qrels", metavar="FILE", help="TREC judgements outside the folder.", show_default=False),
    ] = None,
    fields: Annotated[
        str | None,
        typer.Option("--fields", metavar="NAMES", help="Fields of a topic, as title+desc.", show_default="title"),
    ] = None,
    run_name: RunName = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    seed: Seed = 0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well a search finds what a test collection judges relevant, stage by stage, with 95 % intervals.

    The corpus goes through an index of its own, made as your documents' is.
    """
    run = begin(workspace, as_json)
    from app.evaluation import RunOptions, measure
    from eval.retrieval import RetrievalPart

    given = {
        "pipeline": pipeline,
        "split": split,
        "whole_documents": whole_documents,
        "k": k,
        "limit": limit,
        "depth": depth,
        "reranker": reranker,
        "rerank_depth": rerank_depth,
        "rewriter": rewriter,
        "collection": collection,
        "topics": topics and topics.absolute(),
        "qrels": qrels and qrels.absolute(),
        "fields": fields,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    part: Part = RetrievalPart(dataset=dataset.absolute(), **chosen)
    options = RunOptions(run=run_name, fresh=fresh, dry_run=dry_run, seed=seed)
    result = measure(run, "retrieval", _name(dataset), part, options)
    if result is not None:
        _show(run, result)


def _name(dataset: Path) -> str:
    """The folder's name, or the file's without its ending."""
    return dataset.resolve().name.partition(".")[0] or "retrieval"


def _show(run: Run, result: "PartResult") -> None:
    from app.evaluation import show
    from eval.figures.metrics import aliases
    from eval.retrieval import PASSAGES

    if run.terminal.as_json:
        figures = result.figures()
        passages = {
            name.removeprefix(f"{PASSAGES}:"): name for name in figures["metrics"] if name.startswith(f"{PASSAGES}:")
        }
        extra = {key: aliases(figures[key]) for key in ("metrics", "intervals")}
        if passages:
            extra["passages"] = {
                key: aliases({plain: figures[key][name] for plain, name in passages.items()})
                for key in ("metrics", "intervals")
            }
        show(run, result, extra_json=extra)
        return
    final = {name: estimate for name, estimate in result.estimates.items() if ":" not in name.removeprefix("span:")}
    show(run, replace(result, estimates=final))
    if cost := result.extras.get("reranking"):
        run.terminal.note(_said_cost(cost))
    earlier = [stage for stage in result.extras["stages"][:-1] if f"{stage}:nDCG@10" in result.estimates]
    _stages(run, "before the last stage", result.estimates, earlier)
    if f"{PASSAGES}:nDCG@10" in result.estimates:
        _stages(run, "in ordinary passages", result.estimates, [PASSAGES])


def _said_cost(cost: "Mapping[str, Any]") -> str:
    """What reranking cost a query, in words."""
    mean = cost["a_query"]
    said = [f"{mean.get('passages', 0):,.1f} passages", f"{mean.get('calls', 0):,.1f} calls"]
    for name, word in (("prompt_tokens", "read"), ("completion_tokens", "written")):
        if name in mean:
            said.append(f"{mean[name]:,.0f} tokens {word}")
    whole = f"reranking, a query: {', '.join(said)}, {mean.get('seconds', 0):.2f} s"
    notes = cost["with_notes"]
    return (
        f"{whole}; {notes:,} of {cost['queries']:,} with something left out, as {cost['first_note']}"
        if notes
        else whole
    )


def _stages(run: Run, heading: str, estimates: "Mapping[str, Estimate]", stages: Sequence[str]) -> None:
    """One column a stage, so that one sees what each adds."""
    if not stages:
        return
    from app.evaluation import interval
    from eval.figures.measures import format_value

    measures = list(dict.fromkeys(name.partition(":")[2] for name in estimates if name.partition(":")[0] in stages))
    rows = []
    for measure in measures:
        cells = []
        for stage in stages:
            estimate = estimates.get(f"{stage}:{measure}")
            if estimate is None:
                cells.append("")
                continue
            bounds = interval(measure, estimate.low, estimate.high)
            cells.append(f"{format_value(measure, estimate.value)} ({bounds})")
        rows.append([measure, *cells])
    run.terminal.line()
    run.terminal.table((heading, *stages), rows)
