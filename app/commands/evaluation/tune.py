"""`fathom eval tune …`: a set with known answers → the settings that find more, confirmed. Only words and tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.evaluation.options import DryRun, Fresh, RunName, Seed
from app.commands.evaluation.self_check import check_collection, refusal_line, signed
from app.commands.options import AsJson, Run, Workspace, begin
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from eval.runs.executing import PartResult

TUNED = ("passage_tokens", "dense_weight", "depth", "rerank_depth", "k")


def command(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="Folder of corpus, queries and judgements, or a question file.")
    ],
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", "-p", metavar="NAME", help="What is tuned.", show_default="hybrid")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            metavar="METRIC",
            help="What is to grow; span:nDCG@10 for gold spans.",
            show_default="nDCG@10",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", metavar="N", help="Candidates, at most.", show_default="27")
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="NAME=V,V,…",
            help=f"Values to try of {', '.join(TUNED)}; 'NAME=' leaves it as it is.",
            show_default=False,
        ),
    ] = None,
    dev: Annotated[
        str | None,
        typer.Option("--dev", metavar="NAME", help="Split to tune on.", show_default="dev or train, or a share"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="Split to confirm with.", show_default="test, or the only ones"),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option("--share", metavar="S", help="Of the questions to tune on, without a split.", show_default="0.5"),
    ] = None,
    refusals: Annotated[
        Path | None,
        typer.Option(
            "--refusals",
            metavar="FILE",
            help="Questions with and without an answer: tune when to refuse.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Questions of each side.", show_default="all")
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option("--reranker", metavar="NAME", help="packaged, a cross-encoder, or llm.", show_default=False),
    ] = None,
    rewriter: Annotated[
        str | None, typer.Option("--rewriter", metavar="NAME", help="What rewrites queries.", show_default=False)
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(
            "--collection",
            "-c",
            metavar="NAME",
            help="Check this collection with a handful of questions to it: reranking, least relevance, refusal.",
            show_default=False,
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="With --collection: keep there what was found; else nothing is changed.")
    ] = False,
    run_name: RunName = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    seed: Seed = 0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Try settings on some questions by successive halving, confirm the best on others, and say what to write down.

    Nothing is changed: the lines for fathom.toml are printed, and only for what was found better than now. With
    --collection a handful of your own questions says what is worth setting for that collection; --write sets it.
    """
    run = begin(workspace, as_json)
    given: dict[str, Any] = {
        "pipeline": pipeline,
        "objective": objective,
        "trials": trials,
        "dev": dev,
        "split": split,
        "share": share,
        "refusals": refusals and refusals.absolute(),
        "limit": limit,
        "reranker": reranker,
        "rewriter": rewriter,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if collection is not None:
        others = chosen.keys() - {"reranker", "refusals"}
        others |= {name for name, value in (("over", over), ("run", run_name), ("fresh", fresh)) if value}
        if others:
            raise UsageError(f"--{sorted(others)[0]} is not for --collection, which tries no candidates; leave it out")
        if write and dry_run:
            raise UsageError("--write and --dry-run exclude each other; give one of them")
        check_collection(run, dataset, collection, reranker=reranker, refusals=refusals, write=write, seed=seed)
        return
    if write:
        raise UsageError("--write keeps what was found for a collection; name it with --collection")
    from app.evaluation import RunOptions, measure
    from eval.tuning import TunePart

    part = TunePart(dataset=dataset.absolute(), seed=seed, **chosen, **_over(over or []))
    options = RunOptions(run=run_name, fresh=fresh, dry_run=dry_run, seed=seed)
    result = measure(run, "tune", dataset.resolve().name.partition(".")[0] or "tune", part, options)
    if result is not None:
        _show(run, result)


def _over(words: list[str]) -> dict[str, Any]:
    chosen: dict[str, tuple[float, ...]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if name not in TUNED or not equals:
            raise UsageError(f"'{word[:80]}' is no setting to try; write NAME=V,V,… with one of {', '.join(TUNED)}")
        kind = float if name == "dense_weight" else int
        try:
            chosen[name] = tuple(kind(value) for value in values.split(",") if value.strip())
        except ValueError as error:
            raise UsageError(f"'{word[:80]}' holds something that is not a number; write {name}=1,2,3") from error
    return chosen


def _show(run: Run, result: "PartResult") -> None:
    from app.evaluation import show

    show(run, result)
    found = result.extras
    if run.terminal.as_json or not found:
        return
    terminal = run.terminal
    names = [name for name in found["now"] if len({trial[name] for trial in found["trials"]}) > 1]
    rows = [
        [
            "now" if trial | found["now"] == trial else "",
            *(f"{trial[name]}" for name in names),
            f"{trial['score']:.3f}",
            f"{trial['questions']:,}",
        ]
        for trial in found["trials"]
    ]
    terminal.line()
    heading = ("", *names, f"{found['objective']}, tuning", "questions")
    terminal.table(heading, rows, right=tuple(range(1, len(heading))))
    difference = found["difference"]
    terminal.line()
    if found["now"] == found["best"]:
        terminal.line("Nothing that was tried did better than the settings in use now.")
    else:
        verdict = "better" if found["adopt"] else "not shown to be better"
        terminal.line(
            f"On questions it was not chosen on, the best one is {verdict}: {found['objective']} "
            f"{difference['now']:.3f} → {difference['best']:.3f}, {signed(difference)}, p = {difference['p']:.3f}."
        )
    if found["passages"]:
        shares = ", ".join(f"{share:.3f} ({k})" for k, share in found["passages"]["found"].items())
        terminal.line(
            f"Questions whose gold is among the first passages: {shares}; {found['passages']['k']} are enough."
        )
    if refusal := found.get("refusal"):
        terminal.line(refusal_line(refusal))
    terminal.line()
    if found["toml"]:
        terminal.line("For fathom.toml:\n")
        terminal.line(found["toml"])
        if "passage_tokens" in found["toml"]:
            terminal.note("a new passage size holds for collections made after it; sync into a new one")
    else:
        terminal.line("fathom.toml can stay as it is.")
