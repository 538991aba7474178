"""`fathom model export`: a registered model or adapter in the form that another program serves. Only words; adapt
writes it.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import AsJson, Run, Workspace, begin
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.registry import Entry
    from app.terminal import Progress

FORMS = ("hf", "gguf", "vllm", "openvino")
_OPENVINO_KINDS = ("f16", "f32")
_MAX_README = 64 << 10


@dataclass
class _Export:
    """What was written. `serve` is a command; `not_embedded` why the embedded engine must not run it."""

    form: str
    place: Path
    kind: str | None = None
    serve: str | None = None
    not_embedded: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        files = [self.place] if self.place.is_file() else [file for file in self.place.rglob("*") if file.is_file()]
        return sum(file.stat().st_size for file in files)


def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registered model or adapter.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORM",
            help="gguf (the embedded engine, llama.cpp), openvino (the embedded engine, with adapters), hf "
            "(transformers) or vllm.",
        ),
    ] = "gguf",
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="For gguf q8_0 (8 bits a weight), f16, q4_0 or q4_1; for openvino f16 or f32.",
            show_default="q8_0, f16",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Write here: a new folder; for gguf a folder or a file.",
            show_default="exports/NAME-FORM in the workspace; a GGUF file into the model's own folder",
        ),
    ] = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Write a model where it is served: merged, with tokenizer, chat template and a model card.

    A GGUF file in the model's own folder is what the embedded engine runs from then on.
    """
    run = begin(workspace, as_json)
    from adapt.export.new_folder import require_place
    from adapt.registry import find

    entry = find(run.settings.models, name)
    if to not in FORMS:
        raise UsageError(f"--to is one of {', '.join(FORMS)}; '{to[:40]}' was given")
    if out is not None:
        require_place(out.expanduser().absolute())
    with run.terminal.progress() as progress:
        if to == "gguf":
            done = _gguf(run, entry, kind or "q8_0", out, progress)
        else:
            folder = out.expanduser().absolute() if out else run.settings.workspace / "exports" / f"{entry.name}-{to}"
            if to == "openvino":
                done = _openvino(run, entry, kind or "f16", folder, progress)
            elif kind is not None:
                raise UsageError(f"--kind is for gguf and openvino; {to} keeps the weights as they are stored")
            else:
                done = _vllm(run, entry, folder, progress) if to == "vllm" else _hf(run, entry, folder, progress)
    if as_json:
        run.terminal.json(
            {
                "to": done.form,
                "out": str(done.place),
                "bytes": done.bytes,
                "kind": done.kind,
                "not_embedded": done.not_embedded,
                "serve": done.serve,
                "notes": done.notes,
            }
        )
        return
    run.terminal.line(str(done.place))
    if done.serve:
        run.terminal.line(done.serve)
    for note in done.notes:
        run.terminal.note(note, style="yellow")
    size = f"{done.bytes / 1e9:.2f} GB" if done.bytes >= 1e9 else f"{done.bytes / 1e6:.1f} MB"
    run.terminal.done(f"'{entry.name}' was written for {done.form}{f' as {done.kind}' if done.kind else ''} ({size})")


def _gguf(run: Run, entry: "Entry", word: str, out: Path | None, progress: "Progress") -> _Export:
    from adapt.export.gguf_file import KINDS, export_gguf
    from adapt.registry import add_export

    kind = next((one for one in KINDS if one == word.lower()), None)
    if kind is None:
        raise UsageError(f"--kind of a GGUF file is one of {', '.join(KINDS)}; '{word[:40]}' was given")
    file = entry.folder / f"{entry.name}.{kind.upper()}.gguf"
    if out is not None:
        place = out.expanduser().absolute()
        file = place if place.suffix == ".gguf" else place / file.name
        if file.is_dir() or (place.exists() and not place.is_dir() and place != file):
            raise UsageError(f"'{out}' cannot be written; name a folder, or a file that ends in .gguf")
    with _whole(run, entry, progress) as folder:
        refused = export_gguf(folder, file, kind=kind, name=entry.name, progress=progress)
    if out is None:
        add_export(entry, file, not_embedded=refused)
    done = _Export("gguf", file, kind, not_embedded=refused)
    if refused:
        done.notes.append(f"llama.cpp runs it; the embedded engine refuses it: {refused}")
    return done


def _openvino(run: Run, entry: "Entry", word: str, out: Path, progress: "Progress") -> _Export:
    from adapt.export.hf_folder import write_card
    from adapt.export.model_card import model_card
    from adapt.export.new_folder import new_folder
    from adapt.export.openvino_folder import export_openvino

    if word not in _OPENVINO_KINDS:
        raise UsageError(
            f"--kind of an OpenVINO folder is one of {', '.join(_OPENVINO_KINDS)}; '{word[:40]}' was given"
        )
    with new_folder(out) as made, _whole(run, entry, progress) as folder:
        export_openvino(folder, made, cache=run.settings.cache, halves=word == "f16", progress=progress)
        card = model_card(
            entry.manifest,
            use=[f"fathom ask QUESTION --model {out.name}"],
            notes=[f"For OpenVINO GenAI: the graph of the model, weights in {word}", *_merging(entry)],
            licence=_licence(run, entry),
        )
        write_card(made, card)
    return _Export("openvino", out, word)


def _hf(run: Run, entry: "Entry", out: Path, progress: "Progress") -> _Export:
    from adapt.export.new_folder import new_folder

    with new_folder(out) as made:
        _copy(run, entry, made, out, progress)
    return _Export("hf", out)


def _vllm(run: Run, entry: "Entry", out: Path, progress: "Progress") -> _Export:
    """A whole model as for transformers; an adapter as it is, for its base."""
    import shlex

    from adapt.export.hf_folder import copy_adapter
    from adapt.export.model_card import model_card
    from adapt.export.new_folder import new_folder
    from adapt.export.vllm_command import plan_serving

    if not entry.is_adapter:
        with new_folder(out) as made:
            _copy(run, entry, made, out, progress)
        return _Export("vllm", out, serve=shlex.join(["vllm", "serve", str(out), "--served-model-name", entry.name]))
    plan = plan_serving(run.settings.models, entry.name, cache=run.settings.cache)
    flags = plan.on(entry.name, out).flags()
    serve = shlex.join(["vllm", "serve", str(plan.model), *flags])
    with new_folder(out) as made:
        card = model_card(
            entry.manifest,
            use=[shlex.join(["vllm", "serve", plan.name, *plan.on(entry.name, Path(out.name)).flags()])],
            notes=["A LoRA adapter; it changes its base and nothing else", *plan.notes],
            licence=_licence(run, entry),
        )
        copy_adapter(entry.folder, made, base=plan.name, card=card)
    return _Export("vllm", out, serve=serve, notes=list(plan.notes))


def _copy(run: Run, entry: "Entry", made: Path, out: Path, progress: "Progress") -> None:
    from adapt.adapters import base_of, held
    from adapt.export.hf_folder import copy_model, merge, write_card
    from adapt.export.model_card import model_card

    card = model_card(
        entry.manifest,
        use=[f"vllm serve {out.name}", f"fathom ask QUESTION --model local:{out.name}"],
        notes=_merging(entry),
        licence=_licence(run, entry),
    )
    if entry.is_adapter:
        progress("merging", 0, 0)
        _, base = base_of(run.settings.models, entry, cache=run.settings.cache)
        merge(base, entry.folder, made, held=held(entry), cache=run.settings.cache)
        write_card(made, card)
    else:
        copy_model(entry.folder, made, card=card, progress=progress)


@contextmanager
def _whole(run: Run, entry: "Entry", progress: "Progress") -> Iterator[Path]:
    """A folder with the full model: of an adapter, what it makes of its base, for as long as it is needed."""
    if not entry.is_adapter:
        yield entry.folder
        return
    from adapt.adapters import base_of, held
    from adapt.export.hf_folder import merge

    _, base = base_of(run.settings.models, entry, cache=run.settings.cache)
    run.settings.cache.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=run.settings.cache, prefix="merging-"))
    try:
        progress("merging", 0, 0)
        merge(base, entry.folder, made, held=held(entry), cache=run.settings.cache)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _merging(entry: "Entry") -> list[str]:
    from adapt.adapters import held

    if not entry.is_adapter:
        return []
    on = "the base as its 4-bit weights dequantise" if held(entry) == "nf4" else "the base's weights"
    return [f"The adapter was merged into {on}"]


def _licence(run: Run, entry: "Entry") -> str:
    """The base's licence where its own files say it; "" else."""
    from adapt.registry import find, is_registered
    from eval.models.packaged import packaged_model

    said: Any = entry.manifest
    for _ in range(20):  # a model of a model of …
        name = str((said.get("base") or {}).get("name") or "")
        if not is_registered(run.settings.models, name):
            break
        said = find(run.settings.models, name).manifest
    if name == "packaged":
        from app.engines.gguf import read_header

        return str(read_header(packaged_model()).metadata.get("general.license", ""))
    card = Path(name).expanduser() / "README.md"
    if not name or not card.is_file():
        return ""
    with card.open("rb") as stream:
        text = stream.read(_MAX_README).decode("utf-8", "replace")
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*['\"]?([\w.+-]+)['\"]?\s*$", head[1], re.MULTILINE) if head else None
    return found[1] if found else ""
