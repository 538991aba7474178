"""Three ready-made choices of models: a name → the defaults it sets, what of it is on this machine, the command that
gets the rest. It loads no model and downloads nothing; settings.py puts the defaults under what a person chose.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

from retrieval.errors import FathomError

if TYPE_CHECKING:
    from app.settings import Settings

ProfileName = Literal["embedded", "laptop", "gpu"]
NAMES: tuple[ProfileName, ...] = get_args(ProfileName)
CONNECT_SECONDS = 0.3
"""For the look whether a server is there."""


@dataclass(frozen=True)
class HubModel:
    """Something of the Hugging Face hub: one file of a repository, or what transformers needs of all of it."""

    repository: str
    file: str | None
    gigabytes: float

    @property
    def fetch(self) -> str:
        """The command that gets it."""
        return " ".join(filter(None, ("hf download", self.repository, self.file)))


@dataclass(frozen=True)
class Profile:
    """`engine`, `embedding` and `assist` are defaults of those sections; a file, a variable or a flag goes first.

    `models` is what this machine must have, `serve` the command of a server that must run. The other figures are what
    is comfortable: cores, GiB of memory and of GPU memory.
    """

    name: ProfileName
    summary: str
    summary_zh: str
    engine: Mapping[str, Any] = field(default_factory=dict)
    embedding: Mapping[str, Any] = field(default_factory=dict)
    assist: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[HubModel, ...] = ()
    serve: str = ""
    reranker: str = ""
    """A cross-encoder of the hub that suits it, to compare with by `fathom eval`."""
    cores: int = 2
    memory: float = 2.0
    gpu_memory: float = 0.0

    @property
    def gigabytes(self) -> float:
        """What has to be fetched, all in all."""
        return sum(model.gigabytes for model in self.models)


_SMALL = HubModel("Qwen/Qwen2.5-1.5B-Instruct-GGUF", "qwen2.5-1.5b-instruct-q4_k_m.gguf", 1.1)
_E5 = HubModel("intfloat/multilingual-e5-small", None, 0.5)
_LARGE = HubModel("Qwen/Qwen3-8B", None, 16.4)
_QWEN_EMBEDDING = HubModel("Qwen/Qwen3-Embedding-0.6B", None, 1.2)

PROFILES: Mapping[ProfileName, Profile] = {
    "embedded": Profile(
        name="embedded",
        summary="The two small models that come with Fathom; offline, starts in seconds, answers in simple words",
        summary_zh="随 Fathom 提供的两个小模型：完全离线，几秒启动，回答简单",
        memory=2.0,
    ),
    "laptop": Profile(
        name="laptop",
        summary="A 1.5 B model on the CPU and a multilingual embedding model; offline once they are fetched",
        summary_zh="在 CPU 上运行的 1.5 B 模型，加多语言嵌入模型；下载一次后离线使用",
        # A GGUF that OpenVINO's reader is validated with, and under a free licence, unlike Qwen 2.5's 3 B.
        engine={"name": "embedded", "model": Path(f"{_SMALL.repository}/{_SMALL.file}")},
        embedding={"model": _E5.repository, "download": False},
        models=(_SMALL, _E5),
        cores=4,
        memory=6.0,
    ),
    "gpu": Profile(
        name="gpu",
        summary="An 8 B model behind vLLM and an embedding model of its generation, on a GPU of 24 GB or more",
        summary_zh="由 vLLM 提供的 8 B 模型，加同代嵌入模型；需要 24 GB 以上显存的 GPU",
        engine={"name": "server", "url": "http://127.0.0.1:8000/v1", "model": Path(_LARGE.repository)},
        embedding={"model": _QWEN_EMBEDDING.repository, "download": False},
        # One forward pass a passage, which a GPU has to spare; a small encoder knows less than a model of this size.
        assist={"reranker": "llm"},
        models=(_LARGE, _QWEN_EMBEDDING),
        # 16.4 GB of weights and 1.2 GB of keys and values for 8,192 tokens; what is left of 24 GB is for the embedding
        # model. Without the last flag Qwen3 thinks aloud before every answer.
        serve=(
            f"vllm serve {_LARGE.repository} --host 127.0.0.1 --port 8000 --max-model-len 8192 --max-num-seqs 16 "
            "--gpu-memory-utilization 0.85 --default-chat-template-kwargs '{\"enable_thinking\": false}'"
        ),
        reranker="BAAI/bge-reranker-v2-m3",
        cores=8,
        memory=16.0,
        gpu_memory=23.0,
    ),
}


@dataclass(frozen=True)
class ProfileState:
    """A profile as a picker shows it. `missing` says in one or two sentences what is not here and the commands that get
    it; empty where nothing is. `writes` is whether its language model is here: documents that are indexed already
    need no more."""

    name: ProfileName
    summary: str
    summary_zh: str
    available: bool
    missing: str = ""
    writes: bool = True


def profiles_here(settings: "Settings") -> tuple[ProfileState, ...]:
    """Every profile under these settings, with whether it would work now. A few looks at the disk and one at a port:
    nothing is loaded."""
    from app.settings import with_profile

    states = []
    for profile in PROFILES.values():
        chosen = with_profile(settings, profile.name)
        engine = {"name": chosen.engine.name, "model": chosen.engine.model, "url": chosen.engine.url}
        states.append(_state(profile, engine, chosen.embedding.model))
    return tuple(states)


def profiles_as_they_come() -> tuple[ProfileState, ...]:
    """The same without anybody's settings, which may be broken."""
    return tuple(_state(profile, profile.engine, str(profile.embedding.get("model"))) for profile in PROFILES.values())


def _state(profile: Profile, engine: Mapping[str, Any], embedder: str) -> ProfileState:
    lacks = []
    if engine.get("name") == "server":
        if not _answers(str(engine["url"])):
            how = f"; start it: {profile.serve}" if profile.serve else ""
            lacks.append(f"no server answers at {engine['url']}{how}")
    elif engine.get("name") != "local":  # whose models are too many kinds of thing for a quick look
        lacks += _lacks_model(engine.get("model"), profile)
    writes = not lacks
    embedding = next((model for model in profile.models if model.repository == embedder), None)
    if embedding is not None and not _has_weights(embedding.repository):
        lacks.append(f"the embedding model is not on this machine; get it: {embedding.fetch}")
    return ProfileState(profile.name, profile.summary, profile.summary_zh, not lacks, "; and ".join(lacks), writes)


def _lacks_model(model: Path | None, profile: Profile) -> list[str]:
    """What keeps the embedded engine from its model, if anything."""
    from app.engines.hub_file import resolved
    from eval.models.packaged import packaged_model

    try:
        found = packaged_model() if model is None else resolved(model)
    except FathomError as error:
        ours = next((hub for hub in profile.models if hub.file and str(model).endswith(hub.file)), None)
        return [f"the language model is not on this machine; get it: {ours.fetch}" if ours else str(error)]
    return [] if found.exists() else [f"there is no model {found}"]


def _has_weights(repository: str) -> bool:
    """Whether safetensors of a repository lie in Hugging Face's cache."""
    from app.engines.hub_file import cache_folder

    snapshots = cache_folder() / f"models--{repository.replace('/', '--')}" / "snapshots"
    return any(snapshots.glob("*/*.safetensors"))


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class Machine:
    """What decides between the profiles. Memory in GiB; `gpu_memory` is that of the largest GPU."""

    cores: int
    memory: float
    gpu_memory: float
    disk: float


def recommended(machine: Machine) -> Profile:
    """The largest profile that the machine carries with ease."""
    for name in reversed(NAMES):
        profile = PROFILES[name]
        if (
            machine.cores >= profile.cores
            and machine.memory >= profile.memory
            and machine.gpu_memory >= profile.gpu_memory
            and machine.disk >= 1.2 * profile.gigabytes + 1.0
        ):
            return profile
    return PROFILES["embedded"]


def needs(profile: Profile) -> str:
    """What a profile needs, in words: to fetch, to run."""
    if not profile.models:
        return "nothing else"
    commands = "; ".join(model.fetch for model in profile.models)
    serve = f"; {profile.serve}" if profile.serve else ""
    return f"{profile.gigabytes:.1f} GB to fetch ({commands}){serve}"


def home_of_models() -> Path:
    """Where Hugging Face's cache lies, for a look at the disk that is to hold the models."""
    from app.engines.hub_file import cache_folder

    place = cache_folder()
    while not place.exists() and place != place.parent:
        place = place.parent
    return Path(os.path.realpath(place))
