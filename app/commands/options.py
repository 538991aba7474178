"""The options that commands share, each written once, and what a command starts with: settings and terminal."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from app.settings import Settings
    from app.terminal import Terminal

Workspace = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        metavar="DIR",
        help="Folder of collections, caches and fathom.toml (else $FATHOM_HOME, else data/workspace).",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value for programs.")]
CollectionName = Annotated[
    str | None,
    typer.Option("--collection", "-c", metavar="NAME", help="Collection to use.", show_default="default"),
]
Wait = Annotated[
    float,
    typer.Option("--wait", metavar="SECONDS", min=0.0, help="Wait this long while another process is writing."),
]
Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        "-f",
        metavar="KEY=VALUE",
        help="Only documents that satisfy this; = != >= <= > < ~ (glob); may be repeated.",
        show_default=False,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="Which models: embedded, laptop or gpu; 'fathom doctor' recommends one.",
        show_default=False,
    ),
]
Hits = Annotated[
    int | None,
    typer.Option("--k", "-k", metavar="N", min=1, max=1000, help="Passages to find.", show_default=False),
]
Rewrite = Annotated[
    str | None,
    typer.Option(
        "--rewrite",
        metavar="NAME",
        help="What makes the query: none, previous, auto, model, plan, or an engine.",
        show_default="of the settings",
    ),
]
Rerank = Annotated[
    str | None,
    typer.Option(
        "--rerank",
        metavar="NAME",
        help="What reorders the hits: none, packaged, llm, or another reranker.",
        show_default="of the settings",
    ),
]
History = Annotated[
    Path | None,
    typer.Option(
        "--history",
        metavar="FILE",
        help='Conversation so far: JSON [{"role": "user" | "assistant", "content": "…"}, …].',
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Run:
    """What every command works with."""

    settings: "Settings"
    terminal: "Terminal"


def begin(
    workspace: Path | None,
    as_json: bool,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    profile: str | None = None,
) -> Run:
    """Resolve the settings and open the terminal. Imports here keep `fathom --help` free of what it does not show."""
    from app.settings import load_settings
    from app.terminal import Terminal

    terminal = Terminal(as_json=as_json)
    return Run(load_settings(workspace, flags=flags, profile=profile), terminal)
