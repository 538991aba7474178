"""`fathom data …`: which command stands behind which word. Only names; every command has a file of its own."""

import typer

from app.commands.data import card, check, cloze, importing, questions, reviewing, rows, write

app = typer.Typer(help="Chat examples to tune on: make, check, describe, review.", no_args_is_help=True)
app.command("import")(importing.command)
app.command("rows")(rows.command)
app.command("write")(write.command)
app.command("questions")(questions.command)
app.command("check")(check.command)
app.command("cloze")(cloze.command)
app.command("review")(reviewing.review)
app.command("reviewed")(reviewing.reviewed)
app.command("card")(card.command)
