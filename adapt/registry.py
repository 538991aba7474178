"""A stage's result → a named model in the workspace, with where it comes from and what was measured of it.

`models/NAME/` holds safetensors, tokenizer and manifest.json, whole or not at all; an adapter, which belongs to a base
by hash (adapters.py), is such a folder too. It loads no model.
"""

import difflib
import hashlib
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eval.models.language_models import judge_adapter
from eval.runs.run_folder import now, read_json, write_json
from retrieval.embedding.model_files import judge
from retrieval.embedding.stored import LEFTOVER_SECONDS, file_hash
from retrieval.errors import DamagedError, MissingError, UsageError
from retrieval.storage.durable import sync_to_disk

MANIFEST = "manifest.json"
FORMAT = 1
KEPT = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""Kinds of files that a model is made of; others in a stage's folder (logs, notes) stay there."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TAKEN = ("packaged", "embedded", "local", "server", "quote", "none", "previous")
"""Words that name engines and models already."""
_NAME = re.compile(r"\w[\w.\-]{0,59}")
ADAPTER = "adapter"
"""What `kind` says in the manifest of an adapter."""
_OWN = ("format", "name", "created", "fathom", "files", "sha256", "exports", "not_embedded", "kind")


@dataclass(frozen=True)
class Entry:
    """A registered model. `manifest` has, beside what `register` writes itself (name, created, fathom, files with
    SHA-256, sha256 over all of them), what the caller said: base, recipe, data, stages, metrics, gates, prompts; and
    `exports`, files made of the model later, with SHA-256 too; `not_embedded` has why the embedded engine must not run
    one of them. `kind` is "adapter" for an adapter.

    `damage` says why the manifest cannot be believed; it is empty then.
    """

    name: str
    folder: Path
    manifest: Mapping[str, Any]
    damage: str | None = None

    @property
    def sha256(self) -> str:
        return str(self.manifest.get("sha256", ""))

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter, which runs on its base alone."""
        return self.manifest.get("kind") == ADAPTER

    @property
    def gguf(self) -> Path | None:
        """The model as a GGUF file that the embedded engine may run, if it was exported; the newest of several."""
        exports, refused = self.manifest.get("exports"), self.manifest.get("not_embedded") or {}
        names = [name for name in exports if name.endswith(".gguf")] if isinstance(exports, Mapping) else []
        names = [name for name in names if name not in refused]
        return self.folder / names[-1] if names and (self.folder / names[-1]).is_file() else None

    @property
    def bytes(self) -> int:
        """On disk."""
        return sum(file.stat().st_size for file in self.folder.iterdir() if file.is_file())


def model_name(text: str) -> str:
    """The name in composed form (NFC). Raises UsageError if it cannot name a model."""
    name = unicodedata.normalize("NFC", text)
    if not _NAME.fullmatch(name) or name.endswith((".", ".gguf")):
        raise UsageError(
            f"{text[:80]!r} cannot name a model; use up to 60 letters (of any script), digits, '-', '_' and '.', "
            "beginning with a letter or digit and not ending in '.' or '.gguf'"
        )
    if name in TAKEN:
        raise UsageError(f"'{name}' is the name of an engine or of a model that comes with Fathom; use another")
    return name


def register(models: Path, name: str, folder: Path, manifest: Mapping[str, Any]) -> Entry:
    """Copy the model in `folder` to `models/NAME`, whole or not at all.

    Where NAME is another model already, it becomes NAME-2, NAME-3 …: hours of training are not to end in a refusal, and
    nothing that is in use is replaced. The same files again are no new model; its manifest stays.

    Copied, not linked: whoever writes a checkpoint into `folder` again would write through a hard link.

    Raises UsageError for a name that is none, for pickled weights and for a model's own code, MissingError or
    DamagedError where `folder` holds no whole model, OSError where it cannot be written (a full disk).
    """
    name = model_name(name)
    files = _files(folder)
    hashes = {file.name: file_hash(file) for file in files}
    content = _content(hashes)
    models.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(models)
    staged: Path | None = None
    try:
        for number in range(1, 1_000):
            target = models / (name if number == 1 else f"{name}-{number}")
            if target.exists() or target.is_symlink():
                there = _entry(target)
                if there.damage is None and there.sha256 == content and not verify(there):
                    return there
                continue
            if staged is None:
                staged = _staged(models, files, hashes)
            written = {
                **{key: value for key, value in manifest.items() if key not in _OWN},
                "format": FORMAT,
                "name": target.name,
                "created": now(),
                "fathom": fathom_version(),
                "files": hashes,
                "sha256": content,
                **({"kind": ADAPTER} if is_adapter_folder(folder) else {}),
            }
            write_json(staged / MANIFEST, written)
            try:
                os.rename(staged, target)
            except OSError:
                if target.exists():  # another process was quicker
                    continue
                raise
            sync_to_disk(models)
            return _entry(target)
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
    raise UsageError(f"there are a thousand models called '{name}'; remove some, or give another name")


def registered(models: Path) -> list[Entry]:
    """All of them by name, those that are damaged with the reason; other folders there are left out."""
    if not models.is_dir():
        return []
    return [
        _entry(folder)
        for folder in sorted(models.iterdir(), key=lambda folder: folder.name)
        if folder.is_dir() and not folder.is_symlink() and _NAME.fullmatch(folder.name)
    ]


def is_registered(models: Path, name: str) -> bool:
    """Whether a word is the name of a registered model. It may be any text: a path, an address."""
    name = unicodedata.normalize("NFC", name)
    folder = models / name
    return bool(_NAME.fullmatch(name)) and (folder / MANIFEST).is_file() and not folder.is_symlink()


def find(models: Path, name: str) -> Entry:
    """The registered model. Raises MissingError that names those there are, DamagedError."""
    if not is_registered(models, name):
        known = [entry.name for entry in registered(models)]
        near = difflib.get_close_matches(name, known, n=1)
        there = f"there are {', '.join(known[:12])}" if known else "there is none yet: 'fathom adapt run' makes them"
        meant = f"; did you mean '{near[0]}'?" if near else ""
        raise MissingError(f"no model '{name[:80]}' is registered in {models} ({there}){meant}")
    entry = _entry(models / unicodedata.normalize("NFC", name))
    if entry.damage is not None:
        raise DamagedError(entry.damage)
    return entry


def verify(entry: Entry) -> list[str]:
    """What of a model's files is not what was registered, in words; reads them all."""
    files = entry.manifest.get("files")
    if entry.damage is not None or not isinstance(files, Mapping):
        return [entry.damage or "the manifest names no files"]
    known = {**files, **entry.manifest.get("exports", {})}
    there = {file.name for file in entry.folder.iterdir()} - {MANIFEST}
    problems = [f"{name} is missing" for name in sorted(known.keys() - there)]
    problems += [f"{name} was not registered" for name in sorted(there - known.keys())]
    for name in sorted(known.keys() & there):
        path = entry.folder / name
        if path.is_symlink() or not path.is_file():
            problems.append(f"{name} is no plain file")
        elif file_hash(path) != known[name]:
            problems.append(f"{name} is not what was registered")
    if not problems and _content(files) != entry.sha256:
        problems.append("the manifest's own hash does not fit its files")
    return problems


def add_export(entry: Entry, file: Path, *, not_embedded: str | None = None) -> Entry:
    """Note a file that was made of a model and lies in its folder, and why the embedded engine must not run it, if
    anything forbids it. The model's own hash stays what it was. Raises OSError."""
    exports = {name: digest for name, digest in entry.manifest.get("exports", {}).items() if name != file.name}
    refused = {name: why for name, why in entry.manifest.get("not_embedded", {}).items() if name != file.name}
    if not_embedded:
        refused[file.name] = not_embedded
    noted = {"exports": {**exports, file.name: file_hash(file)}, "not_embedded": refused}
    write_json(entry.folder / MANIFEST, {**entry.manifest, **noted})
    return _entry(entry.folder)


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def remove(models: Path, name: str) -> Entry:
    """Take a model out of the registry, its files with it. Raises MissingError, OSError.

    A damaged one can be removed too. It is gone from the list in one step, whatever happens then.
    """
    wanted = unicodedata.normalize("NFC", name)
    entry = next((entry for entry in registered(models) if entry.name == wanted), None) or find(models, name)
    aside = Path(tempfile.mkdtemp(dir=models, prefix=".removing-"))
    os.rename(entry.folder, aside / "model")
    sync_to_disk(models)
    shutil.rmtree(aside)
    return entry


def fathom_version() -> str:
    """That of the installed package, or "source"."""
    try:
        return version("fathom-stack")
    except PackageNotFoundError:
        return "source"


def _files(folder: Path) -> list[Path]:
    """What the model in a folder is made of. Raises UsageError, MissingError or DamagedError."""
    if not folder.is_dir():
        raise MissingError(f"there is no folder '{folder}' to register as a model")
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in PICKLED)
    if pickled:
        raise UsageError(
            f"'{folder}' has {', '.join(pickled[:5])}, and pickled files may run code when they are read; save the "
            "model as safetensors alone"
        )
    adapter = is_adapter_folder(folder)
    if adapter:
        judge_adapter(folder)
    else:
        judge(folder.resolve(), name=folder.name, roots=(folder.resolve(),))
    files = [file for file in sorted(folder.iterdir()) if file.suffix in KEPT and file.is_file()]
    files = [file for file in files if file.name != MANIFEST]
    if not adapter and not any(file.name in ("tokenizer.json", "tokenizer.model", "vocab.json") for file in files):
        raise MissingError(f"the model in '{folder}' has no tokenizer (tokenizer.json); save it beside the weights")
    for file in files:
        if file.suffix == ".safetensors":
            _require_whole(file)
    return files


def _require_whole(file: Path) -> None:
    """Raises DamagedError for a safetensors file whose header and length do not fit each other."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            empty = not list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{file} is no whole safetensors file ({error}); save the model again") from error
    if empty:
        raise DamagedError(f"{file} holds no weights; save the model again")


def _content(hashes: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the names and hashes of a model's files."""
    return hashlib.sha256("".join(f"{name}\0{hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()


def _staged(models: Path, files: list[Path], hashes: Mapping[str, str]) -> Path:
    """Copies of the files in a new folder beside the models. Raises OSError, DamagedError where they changed."""
    staged = Path(tempfile.mkdtemp(dir=models, prefix=".making-"))
    try:
        for file in files:
            copy = staged / file.name
            shutil.copyfile(file, copy)
            if file_hash(copy) != hashes[file.name]:
                raise DamagedError(f"{file} changed while it was copied; register the model when it is finished")
            sync_to_disk(copy)
        staged.chmod(0o755)
        sync_to_disk(staged)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return staged


def _entry(folder: Path) -> Entry:
    """A folder of the registry, read with suspicion."""
    damage = (
        f"the model '{folder.name}' has no {MANIFEST} as 'fathom adapt run' writes it; remove it and register again"
    )
    try:
        manifest = read_json(folder / MANIFEST)
    except DamagedError:
        return Entry(folder.name, folder, {}, damage)
    sound = (
        manifest.get("format") == FORMAT
        and isinstance(manifest.get("sha256"), str)
        and _lists_files(manifest.get("files"))
        and _lists_files(manifest.get("exports", {}))
        and _lists_files(manifest.get("not_embedded", {}))
    )
    return Entry(folder.name, folder, manifest) if sound else Entry(folder.name, folder, {}, damage)


def _lists_files(said: Any) -> bool:
    """Whether it maps plain names of files to hashes."""
    return isinstance(said, dict) and all(
        isinstance(digest, str) and Path(name).name == name for name, digest in said.items()
    )


def _clear_leftovers(models: Path) -> None:
    """Remove what killed processes left; a day old, since another process may be at it now."""
    for pattern in (".making-*", ".removing-*"):
        for entry in models.glob(pattern):
            if time.time() - entry.lstat().st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)
