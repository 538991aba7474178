"""`fathom data …`: which command stands behind which word. Only names; every command has a file of its own."""

import typer

from app.commands.data import (
    card,
    check,
    claims,
    cloze,
    evolve,
    importing,
    judgements,
    queries,
    questions,
    reviewing,
    rewrites,
    rows,
    sample,
    score,
    self_instruct,
    write,
)

app = typer.Typer(help="Chat examples to tune on: make, check, describe, review.", no_args_is_help=True)
app.command("import")(importing.command)
app.command("rows")(rows.command)
app.command("cloze")(cloze.command)
app.command("claims")(claims.command)
app.command("write")(write.command)
app.command("questions")(questions.command)
app.command("rewrites")(rewrites.command)
app.command("judgements")(judgements.command)
app.command("queries")(queries.command)
app.command("self-instruct")(self_instruct.command)
app.command("evolve")(evolve.command)
app.command("score")(score.command)
app.command("sample")(sample.command)
app.command("check")(check.command)
app.command("review")(reviewing.review)
app.command("reviewed")(reviewing.reviewed)
app.command("card")(card.command)
