"""`fathom model list|show|verify|export|calibrate|remove`: registered models on the screen. Only words."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.model_calibrate import calibrate
from app.commands.model_export import export
from app.commands.options import AsJson, Run, Workspace, begin
from app.failures import FAILED
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.registry import Entry

app = typer.Typer(
    help="The models that adaptation made: where they come from and what was measured of them.", no_args_is_help=True
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")]


@app.command("list")
def list_models(workspace: Workspace = None, as_json: AsJson = False) -> None:
    """All registered models."""
    run = begin(workspace, as_json)
    from adapt.registry import registered

    entries = registered(run.settings.models)
    if as_json:
        run.terminal.json([_brief(entry) for entry in entries])
        return
    rows = []
    for entry in entries:
        said = _brief(entry)
        if entry.damage is not None:
            rows.append([entry.name, "", "damaged", "", "", "", _size(said["bytes"])])
            continue
        rows.append(
            [
                entry.name,
                str(said["created"] or ""),
                str(said["base"] or ""),
                said["kind"],
                " → ".join(said["stages"]),
                "; ".join(f"{name} {_changed(figure)}" for name, figure in list(_figures(entry).items())[:3]),
                _size(said["bytes"]),
            ]
        )
    run.terminal.table(("name", "made", "base", "kind", "stages", "against the base", "size"), rows, right=(6,))
    for entry in entries:
        if entry.damage is not None:
            run.terminal.note(entry.damage, style="yellow")
    if not entries:
        run.terminal.note(f"no model is registered in {run.settings.models}; 'fathom adapt run RECIPE' makes them")


@app.command("show")
def show(name: Name, workspace: Workspace = None, as_json: AsJson = False) -> None:
    """Lineage, figures and gates of a model."""
    run = begin(workspace, as_json)
    from adapt.adapters import adapters_on
    from adapt.registry import find

    entry = find(run.settings.models, name)
    if as_json:
        run.terminal.json({"folder": str(entry.folder), "bytes": entry.bytes, **entry.manifest})
        return
    said = entry.manifest
    run.terminal.line(entry.name, style="bold")
    recipe = _mapping(said.get("recipe"))
    base = _mapping(said.get("base"))
    held = ", held in 4 bits while the adapter learnt" if base.get("held") == "nf4" else ""
    facts = [
        ("kind", "adapter" if entry.is_adapter else "model"),
        ("made", f"{said.get('created', '')} by fathom {said.get('fathom', '')}"),
        ("base", f"{_text(base.get('name'))} {_short(base.get('sha256'))}{held}"),
        ("recipe", f"{_text(recipe.get('name'))} {_short(recipe.get('sha256'))}"),
        ("content", _short(entry.sha256)),
        ("folder", f"{entry.folder} ({_size(entry.bytes)} in {len(said['files'])} files)"),
    ]
    facts += [(f"data {source}", _short(digest)) for source, digest in _mapping(said.get("data")).items()]
    for label, value in facts:
        run.terminal.line(f"  {label:<10} {value.strip()}")
    _print_stages(run, said)
    _print_figures(run, entry)
    _print_gates(run, said)
    adapters = [one.name for one in adapters_on(run.settings.models, entry.name)]
    if adapters:
        run.terminal.line(f"  adapters on it: {', '.join(adapters)}")
    run.terminal.note(f"answer with it: fathom ask QUESTION --model {entry.name}, or fathom chat --model {entry.name}")


@app.command("verify")
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME…]", help="Registered models; all if none is named.")
    ] = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Read all files of a model and compare them with what was registered."""
    run = begin(workspace, as_json)
    from adapt.registry import find, registered
    from adapt.registry import verify as problems_of

    models = run.settings.models
    entries = [find(models, name) for name in names] if names else registered(models)
    found: dict[str, list[str]] = {}
    with run.terminal.progress() as progress:
        for done, entry in enumerate(entries):
            progress("models read", done, len(entries))
            found[entry.name] = problems_of(entry)
    damaged = [name for name, problems in found.items() if problems]
    if as_json:
        run.terminal.json({"models": found, "damaged": damaged})
    else:
        for name, problems in found.items():
            run.terminal.line(f"{name}: {'; '.join(problems) or 'whole'}", style="bold red" if problems else "")
        if damaged:
            run.terminal.note("remove what is damaged ('fathom model remove NAME') and run its recipe again")
        run.terminal.done(f"{len(found) - len(damaged)} of {len(found)} models are whole; read")
    if damaged:
        raise typer.Exit(FAILED)


app.command("export")(export)
app.command("calibrate")(calibrate)


@app.command("remove")
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Delete a registered model with its files."""
    run = begin(workspace, as_json)
    from adapt.adapters import adapters_on
    from adapt.registry import registered
    from adapt.registry import remove as take_out

    models = run.settings.models
    if not yes and name in [entry.name for entry in registered(models)]:
        if not run.terminal.interactive:
            raise UsageError(f"removing '{name}' deletes its weights; say --yes")
        typer.confirm(f"Delete '{name}' and its weights?", abort=True, err=True)
    entry = take_out(models, name)
    left = [one.name for one in adapters_on(models, entry.name)]
    if left:
        run.terminal.note(f"without it {', '.join(left)} cannot run: they are adapters on it", style="yellow")
    if as_json:
        run.terminal.json({"removed": entry.name})
    else:
        run.terminal.done(f"'{entry.name}' was removed")


def _brief(entry: "Entry") -> dict[str, Any]:
    said = entry.manifest
    return {
        "name": entry.name,
        "folder": str(entry.folder),
        "created": said.get("created"),
        "base": _mapping(said.get("base")).get("name"),
        "kind": "adapter" if entry.is_adapter else "model",
        "recipe": _mapping(said.get("recipe")).get("name"),
        "stages": [_text(stage.get("name")) for stage in _listed(said.get("stages"))],
        "metrics": said.get("metrics", {}),
        "sha256": entry.sha256 or None,
        "bytes": entry.bytes,
        "damage": entry.damage,
    }


def _print_stages(run: Run, said: Mapping[str, Any]) -> None:
    stages = _listed(said.get("stages"))
    if stages:
        run.terminal.line()
        rows = [
            [str(n), _text(one.get("name")), _text(one.get("kind")), _short(one.get("sha256"))]
            for n, one in enumerate(stages, 1)
        ]
        run.terminal.table(("", "stage", "kind", "result"), rows)


def _figures(entry: "Entry") -> dict[str, Mapping[str, Any]]:
    return {str(name): _mapping(one) for name, one in _mapping(entry.manifest.get("metrics")).items()}


def _print_figures(run: Run, entry: "Entry") -> None:
    from eval.figures.measures import format_value

    rows = []
    for name, one in _figures(entry).items():
        metric = name.rpartition(" ")[2]
        low, high = (format_value(metric, _number(one.get(end))) for end in ("low", "high"))
        rows.append(
            [
                name,
                format_value(metric, _number(one.get("base"))),
                format_value(metric, _number(one.get("value"))),
                f"{low} … {high}",
                _changed(one),
                f"{_change(one, 'change_low')} … {_change(one, 'change_high')}",
                "worse" if one.get("worse") is True else "",
            ]
        )
    if rows:
        run.terminal.line()
        headings = ("measure", "base", "model", "95 % interval", "change", "95 % interval", "")
        run.terminal.table(headings, rows, right=(1, 2, 3, 4, 5))


def _print_gates(run: Run, said: Mapping[str, Any]) -> None:
    gates = _listed(said.get("gates"))
    if gates:
        run.terminal.line()
    for gate in gates:
        kept = gate.get("passed") is True
        run.terminal.line(f"{'kept   ' if kept else 'crossed'}  {_text(gate.get('said'))}", style="" if kept else "red")


def _changed(one: Mapping[str, Any]) -> str:
    return _change(one, "change")


def _change(one: Mapping[str, Any], key: str) -> str:
    value = _number(one.get(key))
    if value is None:
        return "–"
    return f"{value:+.2%}" if one.get("relative") is True else f"{value:+.3f}"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _short(digest: Any) -> str:
    return _text(digest)[:12]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(value: Any) -> Sequence[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
