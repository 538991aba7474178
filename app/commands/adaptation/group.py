"""`fathom adapt …`: which command stands behind which word. Only names; every command has a file of its own."""

import typer

from app.commands.adaptation import plan, run, runs, terms

app = typer.Typer(help="From domain texts to a domain model: plan and run recipes.", no_args_is_help=True)
app.command("plan")(plan.command)
app.command("run")(run.command)
app.command("terms")(terms.command)
app.command("runs")(runs.list_runs)
app.command("report")(runs.report)
