"""The `fathom` command: words of the shell → calls of the parts. It turns every error into a sentence and a code."""

import logging
import os
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from app.commands import answer, index, machine, model, page
from app.commands.adaptation import group as adaptation
from app.commands.evaluation import group as evaluation
from app.failures import CLOSED_PIPE, STOPPED, TERMINATED, describe, option_of
from app.workspace import default_workspace


class Fathom(TyperGroup):
    """The root command. `main` is overridden so that tests and the console script meet the same error handling."""

    # Remembered here, for libraries turn the exception of a signal handler into a KeyboardInterrupt of their own.
    terminated = False

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of use, which help prints; typer would put the groups last."""
        order = ["index", "search", "ask", "chat", "adapt", "model", "eval", "doctor"]
        return sorted(super().list_commands(ctx), key=lambda name: (*order, name).index(name))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C and a reader that left become exits of their own kind."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError as error:
            if not _nobody_reads():  # a child's pipe, not ours: typer would end silently on any broken pipe
                raise RuntimeError("the pipe to another process broke") from error
            # `fathom … | head` is no error; stdout points away so that the interpreter's last flush is quiet.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(CLOSED_PIPE) from error
        except KeyboardInterrupt as error:
            # A second Ctrl-C during clean-up ends the process at once, without a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise typer.Exit(TERMINATED if Fathom.terminated else STOPPED) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit: 0 done, 1 failed, 2 wrong usage, 3 done with listed errors, 75 busy, 130 stopped."""
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(arguments, prog_name or "fathom", complete_var, standalone_mode=False, **extra)
        except typer.TyperException as error:
            at = getattr(getattr(error, "ctx", None), "command_path", "fathom")
            sys.exit(_fail(arguments, f"{error.format_message().rstrip('.')}; see '{at} --help'", error.exit_code))
        except Exception as error:
            sys.exit(_fail(arguments, *describe(error, _workspace(arguments))))
        if code in (STOPPED, TERMINATED):
            _fail(arguments, "stopped; everything finished so far is kept", code)
        sys.exit(code if isinstance(code, int) else 0)


def _nobody_reads() -> bool:
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _workspace(arguments: Sequence[str]) -> Path:
    return Path(option_of(arguments, "--workspace") or default_workspace(os.environ)).absolute()


def _fail(arguments: Sequence[str], sentence: str, code: int) -> int:
    from app.terminal import Terminal

    terminal = Terminal(as_json=option_of(arguments, "--json") is not None)
    if not sentence:  # the help that a group prints when it is called without a command
        return code
    if terminal.as_json:
        terminal.json({"error": sentence, "exit_code": code})
    terminal.note(f"fathom: {sentence}")
    return code


app = typer.Typer(
    name="fathom",
    cls=Fathom,
    help="Index documents, search them, and ask with citations. 索引文档，检索，带引文地回答。",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"fathom {version('fathom-stack')}")
        except PackageNotFoundError:
            print("fathom (not installed; running from the source)")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.add_typer(index.app, name="index")
app.command("search")(answer.search)
app.command("ask")(answer.ask)
app.command("chat")(page.chat)
app.add_typer(adaptation.app, name="adapt")
app.add_typer(model.app, name="model")
app.add_typer(evaluation.app, name="eval")
app.command("doctor")(machine.doctor)


def _stop(number: int, frame: object) -> None:
    # As Ctrl-C: child processes are ended and locks released on the way out.
    Fathom.terminated = True
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of the console script."""
    from app.terminal import LogNotes

    signal.signal(signal.SIGTERM, _stop)
    logging.captureWarnings(True)
    logging.getLogger().addHandler(LogNotes())
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character must not end a command.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app()
