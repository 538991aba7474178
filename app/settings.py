"""The only reader of configuration: fathom.toml in the workspace, FATHOM_* variables, flags → one typed object.

It names no default of a part below: those stand in the part's own dataclass. It knows nothing of what the values do.
"""

import dataclasses
import difflib
import json
import os
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, TypeAdapter, ValidationError

from app.profiles import NAMES, PROFILES, ProfileName
from app.upload_limits import UploadLimits
from app.workspace import collection_name, default_workspace
from retrieval.answering import AnswerSettings
from retrieval.embedding.load import EmbeddingSettings
from retrieval.errors import MissingError, UsageError
from retrieval.finding import FindSettings
from retrieval.passages import Mode
from retrieval.reading.limits import ReadingLimits
from retrieval.splitting import SplitSettings

if TYPE_CHECKING:
    from adapt.registry import Entry

FILE_NAME = "fathom.toml"
_ROLE = re.compile(r"[\w-]{1,40}")
MAX_FILE_BYTES = 256 * 1024


@dataclass(frozen=True)
class SearchChoices:
    """How a search runs. None leaves a choice to the collection's own default."""

    mode: Mode | None = None
    k: int | None = None
    """Hits returned."""
    dense_weight: float | None = None
    """Share of the dense leg in hybrid fusion, 0 to 1."""
    depth: int | None = None
    """Candidates of each leg before fusion."""

    def __post_init__(self) -> None:
        for name, most in (("k", 1000), ("depth", 10_000)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise UsageError(f"{name} is a number from 1 to {most}; {value} was given")
        if self.dense_weight is not None and not 0.0 <= self.dense_weight <= 1.0:
            raise UsageError(f"dense_weight is a share from 0 to 1; {self.dense_weight} was given")

    def per_query(self) -> dict[str, Any]:
        """What was chosen of the arguments of `Collection.search`."""
        return {name: value for name in ("mode", "k") if (value := getattr(self, name)) is not None}

    def per_collection(self) -> dict[str, Any]:
        """What was chosen of the fields of `retrieval.collection.SearchSettings`."""
        return {name: value for name in ("dense_weight", "depth") if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class EngineSettings:
    """Which model writes answers, and how. None leaves a choice to the engine's own default."""

    name: typing.Literal["embedded", "local", "server"] | None = None
    """"embedded" runs a GGUF with OpenVINO, "local" any model with transformers, each in a process of its own, and
    "server" asks the one at `url`. Where it is not given it becomes the first without a `url` and the last with one."""
    model: Path | None = None
    """The name of a registered model ('fathom model list'), which the local engine runs if it was not exported; a GGUF
    file (a path, or OWNER/REPOSITORY/FILE.gguf of the hub if it is on this machine), None being the model that comes
    with Fathom; for "embedded" also a folder exported for OpenVINO, for "local" a folder with safetensors or OWNER/NAME
    of the hub; for a server the name of a model or adapter, None being the one model that it has."""
    adapter: Path | None = None
    """A folder with a LoRA adapter that peft saved, for engines on this machine; a server has its own."""
    adapters: Mapping[str, Path] | None = None
    """LoRA adapters by role (rewriter, answerer, reranker …), of which one or none works at a time: folders or names of
    registered adapters; for a server its own names. None are those that come with Fathom, on its own model."""
    url: str | None = None
    """Address of an OpenAI-compatible server, as in http://127.0.0.1:8000/v1."""
    api_key: SecretStr | None = field(default=None, repr=False)
    """What the server wants to see; from FATHOM_ENGINE_API_KEY only, so that it stands in no file."""
    threads: int | None = None
    """CPU threads of an engine on this machine; 0 leaves it to the runtime."""
    device: str | None = None
    """auto, cpu, cuda, cuda:N or mps, for "local"."""
    precision: typing.Literal["auto", "fp32", "bf16", "fp16", "nf4"] | None = None
    """For "local": auto is fp32 on a CPU and bf16 on a GPU; nf4 are weights in 4 bits, by bitsandbytes."""
    download: bool | None = None
    """Whether "local" may fetch a model of the hub that is not on this machine."""
    max_new_tokens: int | None = None
    """Longest answer, in tokens of the model."""
    temperature: float | None = None
    """0 is greedy: the same prompt gives the same answer."""
    repetition_penalty: float | None = None
    """1 is none."""
    concurrency: int | None = None
    """Requests to a server at once; the embedded engine writes one answer at a time."""
    connect_seconds: float | None = None
    """Time limit for reaching a server."""
    queue_seconds: float | None = None
    """Time limit for waiting in line."""
    first_token_seconds: float | None = None
    """Time limit for reading the prompt."""
    total_seconds: float | None = None
    """Time limit for the whole answer."""

    def __post_init__(self) -> None:
        seconds = [(f"{name}_seconds", 0.1) for name in ("connect", "queue", "first_token", "total")]
        counts = [("threads", 0), ("max_new_tokens", 1), ("temperature", 0.0), ("repetition_penalty", 1.0)]
        for name, least in (*counts, ("concurrency", 1), *seconds):
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise UsageError(f"{name} is at least {least}; {value} was given")
        if self.name is None:
            object.__setattr__(self, "name", "server" if self.url else "embedded")
        if self.name == "server" and not self.url:
            raise UsageError("the engine 'server' needs an address; give url, as in http://127.0.0.1:8000/v1")
        if self.name != "server" and self.url:
            raise UsageError(f"url is the address of a server and the engine is '{self.name}'; take one of them out")
        for role in self.adapters or {}:
            if not _ROLE.fullmatch(role):
                raise UsageError(
                    f"adapters has the role '{role[:40]}'; a role is up to 40 letters, digits, '-' and '_'"
                )
        if self.adapter and self.adapters:
            raise UsageError("adapter always works, and adapters do by role; take one of them out")
        if self.name == "server" and self.adapter:
            raise UsageError(
                "adapter is for an engine on this machine; a server knows its adapters as models, give model"
            )

    def chosen_manners(self) -> dict[str, Any]:
        """What was chosen of the fields of `app.engines.speaker.Manners`, without the time limits."""
        return self._chosen("max_new_tokens", "temperature", "repetition_penalty")

    def chosen_loading(self) -> dict[str, Any]:
        """What was chosen of how the engine is loaded or reached, without the model."""
        if self.name == "server":
            return self._chosen("concurrency", "connect_seconds")
        return self._chosen(
            "adapter", "threads", *(("device", "precision", "download") if self.name == "local" else ())
        )

    def _chosen(self, *names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def chosen_limits(self) -> dict[str, float]:
        """What was chosen of the fields of `app.engines.generating.TimeLimits`."""
        names = ("queue", "first_token", "total")
        return {name: value for name in names if (value := getattr(self, f"{name}_seconds")) is not None}


@dataclass(frozen=True)
class ChatSettings:
    """Where the chat page listens."""

    host: str = "127.0.0.1"
    port: int = 7860
    api_key: SecretStr | None = field(default=None, repr=False)
    """What programs that ask through the API must show; from FATHOM_CHAT_API_KEY only, so that it stands in no file."""

    def __post_init__(self) -> None:
        if self.api_key is not None and not self.api_key.get_secret_value().strip():
            raise UsageError("api_key is empty, which would let everybody in; give a key, or unset it")
        if not 1 <= self.port <= 65535:
            raise UsageError(f"a port is a number from 1 to 65535; {self.port} was given")


@dataclass(frozen=True)
class ServingSettings:
    """Where `fathom serve-model` finds vLLM and where it lets it listen."""

    vllm: Path | None = None
    """The virtual environment, python or command of vLLM; None looks on PATH."""
    host: str = "127.0.0.1"
    port: int = 8000

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UsageError(f"a port is a number from 1 to 65535; {self.port} was given")


@dataclass(frozen=True)
class Settings:
    """Everything a run was told, resolved. Each field but the first and the last two is a section of fathom.toml."""

    workspace: Path
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    splitting: SplitSettings = field(default_factory=SplitSettings)
    reading: ReadingLimits = field(default_factory=ReadingLimits)
    search: SearchChoices = field(default_factory=SearchChoices)
    assist: FindSettings = field(default_factory=FindSettings)
    answer: AnswerSettings = field(default_factory=AnswerSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    chat: ChatSettings = field(default_factory=ChatSettings)
    serving: ServingSettings = field(default_factory=ServingSettings)
    uploads: UploadLimits = field(default_factory=UploadLimits)
    profile: ProfileName = "embedded"
    """The ready-made choice of models whose defaults stand under all others; see profiles.py."""
    chosen: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False, compare=False)
    """{section: {key: value}} that somebody chose, without the profile's defaults."""

    @property
    def collections(self) -> Path:
        """The folder whose sub-folders are the collections."""
        return self.workspace / "collections"

    @property
    def cache(self) -> Path:
        """Where models are kept in the form they run in; safe to delete."""
        return self.workspace / "cache"

    @property
    def models(self) -> Path:
        """The folder whose sub-folders are the registered models."""
        return self.workspace / "models"

    @property
    def logs(self) -> Path:
        """Where tracebacks of unexpected errors go."""
        return self.workspace / "logs"

    def collection_folder(self, name: str) -> Path:
        """Folder of the collection `name`. Raises UsageError for a name that cannot be one."""
        return self.collections / collection_name(name)


SECTIONS = tuple(
    item.name for item in dataclasses.fields(Settings) if item.name not in ("workspace", "profile", "chosen")
)
_OF_A_PROFILE = {
    "engine": ("name", "model", "adapter", "adapters", "url", "device", "precision", "download"),
    "embedding": ("model", "adapter", "download", "query_prefix", "passage_prefix"),
}
"""Keys that say which models run: with another profile they are its own."""


def load_settings(
    workspace: Path | None = None,
    *,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    profile: str | None = None,
) -> Settings:
    """Resolve the settings of one run; later sources win: profile, file, environment, flags (None in a flag means "not
    given"). `profile` is a flag too; it goes before FATHOM_PROFILE, and that before the file's `profile`.

    `flags` is {section: {key: value}}. Raises UsageError that names the file or variable, the key and what is expected.
    """
    environment = os.environ if environment is None else environment
    workspace = (workspace.expanduser() if workspace else default_workspace(environment)).absolute()
    if workspace.exists() and not workspace.is_dir():
        raise UsageError(f"the workspace {workspace} is a file; give a folder with --workspace")
    chosen: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    kinds = {name: kind for name, kind in typing.get_type_hints(Settings).items() if name in SECTIONS}
    file = workspace / FILE_NAME
    read = _read_file(file)
    word = profile or environment.get("FATHOM_PROFILE") or read.pop("profile", None)
    read.pop("profile", None)
    for section, table in read.items():
        _require_known(section, SECTIONS, f"{file}: unknown section")
        if not isinstance(table, dict):
            raise UsageError(f"{file}: '{section}' must be a section, written as [{section}]")
        for key, value in table.items():
            chosen[section][key] = _from_file(file, section, kinds[section], key, value)
    for name, text in sorted(environment.items()):
        section, _, key = name.removeprefix("FATHOM_").lower().partition("_")
        if name.startswith("FATHOM_") and section in SECTIONS and key:
            chosen[section][key] = _from_variable(name, kinds[section], key, text)
    for section, table in (flags or {}).items():
        chosen[section].update({key: value for key, value in table.items() if value is not None})
    if "cache" in _keys(kinds["embedding"]):
        chosen["embedding"].setdefault("cache", workspace / "cache")
    return _resolved(workspace, "embedded" if word is None else _profile(word), chosen)


def with_profile(settings: Settings, name: str) -> Settings:
    """The same settings under another profile. What was chosen of which models run belongs to the profile that the
    settings have, and goes with it; everything else that was chosen stays. Raises UsageError."""
    profile = _profile(name)
    if profile == settings.profile:
        return settings
    chosen = {
        section: {key: value for key, value in table.items() if key not in _OF_A_PROFILE.get(section, ())}
        for section, table in settings.chosen.items()
    }
    return _resolved(settings.workspace, profile, chosen)


def _profile(word: Any) -> ProfileName:
    for name in NAMES:
        if name == word:
            return name
    raise UsageError(f"there is no profile '{str(word)[:80]}'; known are {', '.join(NAMES)}")


def _resolved(workspace: Path, profile: ProfileName, chosen: Mapping[str, Mapping[str, Any]]) -> Settings:
    kinds = typing.get_type_hints(Settings)
    parts = {}
    for section in SECTIONS:
        own = dict(chosen.get(section, {}))
        defaults = getattr(PROFILES[profile], section, {})
        # A default that belongs to another engine or model than was chosen would say something that nobody meant.
        kind = own.get("name") or ("server" if "url" in own else defaults.get("name"))
        if section == "engine" and kind != defaults.get("name"):
            defaults = {}
        elif section == "engine" and "url" in own:
            defaults = {key: value for key, value in defaults.items() if key != "model"}
        elif (section == "embedding" and "model" in own) or (section == "assist" and chosen.get("engine")):
            defaults = {}
        parts[section] = _build(kinds[section], {**defaults, **own}, section)
    settings = Settings(workspace=workspace, profile=profile, chosen=chosen, **parts)
    embedding = settings.embedding
    if embedding.adapter is not None:
        folder = adapter_folder(embedding.adapter, settings.models).expanduser().absolute()
        embedding = dataclasses.replace(embedding, adapter=folder)
    engine = on_registered_model(settings.engine, settings.models)
    return dataclasses.replace(settings, engine=engine, embedding=embedding)


def adapter_folder(adapter: Path, models: Path) -> Path:
    """The folder of a registered adapter where `adapter` names one, else as it is. Raises UsageError, DamagedError."""
    from adapt.registry import find, is_registered

    if not is_registered(models, adapter.as_posix()):
        return adapter
    entry = find(models, adapter.as_posix())
    if not entry.is_adapter:
        raise UsageError(f"'{entry.name}' is a whole model and no adapter; name it as the model")
    return entry.folder


def on_registered_model(engine: EngineSettings, models: Path) -> EngineSettings:
    """The engine on a model of the registry where it names one; else as it is.

    The embedded engine runs what was exported for it, the local one the model's own files, in place of the embedded one
    too where nothing was exported; an adapter is the local engine on its base under it. A registered name goes before a
    file or folder of that name, which its whole path still means. Raises DamagedError, and for adapters UsageError and
    MissingError.
    """
    if engine.name == "server" or (engine.model is None and engine.adapter is None and not engine.adapters):
        return engine
    from adapt.registry import find, is_registered

    if engine.adapters:
        roles = {role: _adapter_folder(role, named, models) for role, named in engine.adapters.items()}
        engine = dataclasses.replace(engine, adapters=roles)
    if engine.adapter is not None and is_registered(models, engine.adapter.as_posix()):
        entry = find(models, engine.adapter.as_posix())
        if not entry.is_adapter:
            raise UsageError(f"'{entry.name}' is a whole model and no adapter; name it as the model")
        if engine.model is None:
            return _on_adapter(engine, entry, models)
        engine = dataclasses.replace(engine, name="local", adapter=entry.folder)
    if engine.model is None or not is_registered(models, engine.model.as_posix()):
        return engine
    entry = find(models, engine.model.as_posix())
    if engine.name == "embedded" and entry.gguf is not None and engine.adapter is None:
        return dataclasses.replace(engine, model=entry.gguf)
    if entry.is_adapter:
        if engine.adapter is not None:
            raise UsageError(f"'{entry.name}' is an adapter, and '{engine.adapter}' cannot go on top of it; name one")
        return _on_adapter(engine, entry, models)
    return dataclasses.replace(engine, name="local", model=entry.folder)


def _adapter_folder(role: str, named: Path, models: Path) -> Path:
    """The folder of an adapter that a role names. Raises UsageError, MissingError."""
    from adapt.registry import find, is_adapter_folder, is_registered

    folder = named.expanduser().absolute()
    if is_registered(models, named.as_posix()):
        folder = find(models, named.as_posix()).folder
    if not folder.is_dir():
        raise MissingError(
            f"[engine] adapters: {role} = '{named}' is neither a registered adapter nor a folder; 'fathom model list' "
            "names those there are"
        )
    if not is_adapter_folder(folder):
        raise UsageError(f"[engine] adapters: {role} = '{named}' is no adapter (no adapter_config.json); name one")
    return folder


def _on_adapter(engine: EngineSettings, adapter: "Entry", models: Path) -> EngineSettings:
    """The local engine on an adapter's base under it, held as it was when the adapter learnt."""
    from adapt.adapters import base_of, held

    _, base = base_of(models, adapter, cache=models.parent / "cache")
    precision = engine.precision or held(adapter)
    return dataclasses.replace(engine, name="local", model=base, adapter=adapter.folder, precision=precision)


def _read_file(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise MissingError(f"{file} cannot be read: {error.strerror}; mend or remove it") from error
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{file} is larger than {MAX_FILE_BYTES // 1024} KB, which no settings file needs; shorten it")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        # The message ends in "(at line 3, column 7)".
        raise UsageError(f"{file} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise UsageError(f"{file} is nested too deeply for a settings file; shorten it") from error


def _keys(kind: type) -> tuple[str, ...]:
    return tuple(item.name for item in dataclasses.fields(kind) if item.init)


def _require_known(word: str, known: tuple[str, ...], what: str) -> None:
    if word in known:
        return
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
    raise UsageError(f"{what} '{word[:80]}'; {hint}")


def _adapter(kind: type, key: str) -> TypeAdapter[Any]:
    return TypeAdapter(typing.get_type_hints(kind)[key])


def _from_file(file: Path, section: str, kind: type, key: str, value: Any) -> Any:
    where = f"{file}: [{section}]"
    _require_known(key, _keys(kind), f"{where} has an unknown key")
    if "SecretStr" in str(typing.get_type_hints(kind)[key]):
        raise UsageError(
            f"{where} {key} does not belong into a file; set FATHOM_{section.upper()}_{key.upper()} in the environment"
        )
    try:
        # Strict JSON: a string is a string and a number a number, yet paths and tuples can still be written.
        return _adapter(kind, key).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise UsageError(f"{where} {key} = {value!r:.80} is not valid: {_reason(error)}") from error
    except TypeError as error:
        raise UsageError(f"{where} {key} is a date or time, which no setting takes") from error


def _from_variable(name: str, kind: type, key: str, text: str) -> Any:
    _require_known(key, _keys(kind), f"the environment variable {name} names an unknown setting")
    try:
        if text.startswith("{"):  # a table, as in '{"rewriter": "FOLDER"}'
            return _adapter(kind, key).validate_json(text)
        return _adapter(kind, key).validate_strings(text)
    except ValidationError as error:
        raise UsageError(f"the environment variable {name}={text[:80]!r} is not valid: {_reason(error)}") from error


def _reason(error: ValidationError) -> str:
    return "; ".join(dict.fromkeys(item["msg"][:1].lower() + item["msg"][1:] for item in error.errors()))


def _build(kind: Any, values: dict[str, Any], section: str) -> Any:
    try:
        return kind(**values)
    except UsageError as error:
        raise UsageError(f"[{section}] {error}") from error
    except ValueError as error:
        raise UsageError(f"[{section}] {error}; correct it in {FILE_NAME} or its FATHOM_ variable") from error
