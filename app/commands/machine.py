"""`fathom doctor`: the report of what this machine has, as lines or JSON."""

import typer

from app.commands.options import AsJson, Workspace
from app.failures import FAILED

_STYLES = {"ok": "green", "note": "yellow", "missing": "bold red"}


def doctor(workspace: Workspace = None, as_json: AsJson = False) -> None:
    """Say what this machine has, what is missing, and how to get it."""
    import os

    from app.doctor import examine
    from app.terminal import Terminal
    from app.workspace import default_workspace

    # Not through the settings: a broken fathom.toml or package must not stop the doctor.
    terminal = Terminal(as_json=as_json)
    checks = examine((workspace or default_workspace(os.environ)).expanduser().absolute())
    lacking = [check for check in checks if check.state == "missing" and check.needed]
    if as_json:
        best = next(check.found.split()[0] for check in checks if check.name == "recommended profile")
        terminal.json(
            {"healthy": not lacking, "recommended_profile": best, "checks": [check.as_dict() for check in checks]}
        )
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            terminal.line(f"{check.state:<8} {check.name:<{width}}  {check.found}", style=_STYLES[check.state])
            if check.remedy:
                terminal.line(f"{'':<8} {'':<{width}}  → {check.remedy}")
        terminal.done(f"{len(lacking)} needed things are missing" if lacking else "everything needed is here; looked")
    if lacking:
        raise typer.Exit(FAILED)
