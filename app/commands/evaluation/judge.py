"""`fathom eval judge RUN`: answers of a run, a file of samples or labelled claims → judged figures on the screen."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.evaluation.options import DryRun, Fresh, RunName, Seed
from app.commands.options import AsJson, Workspace, begin
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from app.settings import Settings
    from app.terminal import Terminal


def command(
    answers: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="A run with answers (name, folder, 'latest'), or a jsonl as ragas reads."),
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", metavar="NAME", help="Part of the run with the answers.", show_default=False)
    ] = None,
    claims: Annotated[
        Path | None,
        typer.Option(
            "--claims",
            metavar="PLACE",
            help="Instead of a run: labelled claims (a folder as SciFact's, a .jsonl), to measure the judge itself.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Which claims.", show_default="validation")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="Engine that judges; 'lexical' (shared words), 'encoder[:FOLDER]', 'llm[:ENGINE]' (probabilities).",
            show_default="of the settings",
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="Judge this only; may be repeated.", show_default="all four"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help='What people said, lines {"id", "metric", "label": 0 or 1}: gives agreement and a corrected mean.',
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=0.0, max=1.0, help="From which value on the judge said yes.", show_default="1"),
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option("--retries", metavar="N", min=0, help="Tries after an unreadable reply.", show_default="2"),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0.0, help="Of the first try.", show_default="0")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", metavar="N", min=8, help="Longest reply.", show_default="200")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Judge N answers, drawn at random.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", metavar="N", min=1, max=256, help="Answers judged at once.", show_default="1"),
    ] = None,
    run_name: RunName = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    seed: Seed = 0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Judge answers: faithfulness, relevance, context precision and recall, one yes-or-no verdict a call."""
    run = begin(workspace, as_json)
    if (answers is None) == (claims is None):
        raise UsageError("give either a run (or file) of answers, or --claims with a folder of labelled claims")
    from app.evaluation import RunOptions, measure, show
    from eval.judge import JudgePart

    place = place_of_answers(run.settings, answers) if answers is not None else None
    chosen: dict[str, Any] = {
        "part": part,
        "split": split,
        "engine": engine,
        "metrics": tuple(dict.fromkeys(metrics)) if metrics else None,
        "labels": labels.absolute() if labels else None,
        "threshold": threshold,
        "retries": retries,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "limit": limit,
        "concurrency": concurrency,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    judge = JudgePart(run=place, claims=claims.absolute() if claims else None, seed=seed, **given)
    name = (place or claims or Path()).absolute().name.removesuffix(".jsonl")
    outcome = measure(run, "judge", name, judge, RunOptions(run_name, fresh, dry_run, seed))
    if outcome is None:
        return
    if not as_json:
        _print_agreement(run.terminal, outcome.extras)
    show(run, outcome)


def place_of_answers(settings: "Settings", word: str) -> Path:
    """A file, a folder with records or parts, or a run of the workspace by its name."""
    from app.evaluation import run_folder

    path = Path(word).expanduser()
    if path.is_file() or (path / "records.jsonl").is_file():
        return path.absolute()
    return run_folder(settings, word).absolute()


def _print_agreement(terminal: "Terminal", extras: Mapping[str, Any]) -> None:
    """What is special of a judge: how often it could not be read, how far it agrees with people."""
    if extras.get("unparsed"):
        terminal.note(
            f"{extras['unparsed']:,} of {extras['verdicts']:,} verdicts could not be read after all tries; answers "
            "with one of them count as missing"
        )
    apart = extras.get("told_apart")
    if apart:
        said = [f"{name} {apart[name]['value']:.3f} ({apart[name]['low']:.3f}–{apart[name]['high']:.3f})"
                for name in ("auc", "balanced_accuracy")]  # fmt: skip
        terminal.line(f"{said[0]}, {said[1]} at a score of {apart['threshold']:g}, of {apart['n']:,} claims")
    for metric, found in extras.get("agreement", {}).items():
        if found.get("kappa") is None:
            terminal.line(f"{metric}: agreement with people cannot be told from {found['n']} labelled answers")
            continue
        low, high = found["interval"]
        (no_no, no_yes), (yes_no, yes_yes) = found["table"]
        reach = f" (95 % interval {low:.2f}–{high:.2f})" if low is not None else ""
        terminal.line(
            f"{metric}: kappa {found['kappa']:.2f}{reach}, the same in {found['agreement']:.0%} of {found['n']:,}"
        )
        rows = [["people: no", f"{no_no:,}", f"{no_yes:,}"], ["people: yes", f"{yes_no:,}", f"{yes_yes:,}"]]
        terminal.table(("", "judge: no", "judge: yes"), rows, right=(1, 2))
        terminal.line()
    for metric, found in extras.get("corrected", {}).items():
        low, high = found["interval"]
        terminal.line(
            f"{metric}: {found['judged']:.3f} by the judge, {found['mean']:.3f} ({low:.3f}–{high:.3f}) as corrected by "
            f"the {found['labelled']:,} labels of people"
        )
