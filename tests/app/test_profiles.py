"""Profiles: defaults under what a person chose, what is missing in words with its command, and nothing fetched."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from app.build import engine
from app.engines.hub_file import resolved
from app.profiles import NAMES, PROFILES, Machine, needs, profiles_as_they_come, profiles_here, recommended
from app.settings import Settings, load_settings, with_profile
from retrieval.embedding.load import EmbeddingSettings, load_embedder
from retrieval.errors import MissingError, UsageError

Fathom = Any
HUB_MODEL = Path("Qwen/Qwen2.5-1.5B-Instruct-GGUF/qwen2.5-1.5b-instruct-q4_k_m.gguf")


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub."""
    place = tmp_path / "hub"
    place.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(place))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place))
    return place


def resolve(workspace: Path, toml: str = "", profile: str | None = None, **environment: str) -> Settings:
    (workspace / "fathom.toml").write_text(toml)
    return load_settings(workspace, environment=environment, profile=profile)


def in_cache(hub: Path, repository: str, file: str) -> Path:
    path = hub / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_profile_comes_from_flag_variable_or_file(tmp_path: Path) -> None:
    assert resolve(tmp_path).profile == "embedded"
    assert resolve(tmp_path) == load_settings(tmp_path, environment={}, profile="embedded")
    laptop = resolve(tmp_path, 'profile = "laptop"\n[engine]\nthreads = 3')
    assert (laptop.profile, laptop.engine.name, laptop.engine.model) == ("laptop", "embedded", HUB_MODEL)
    assert (laptop.engine.threads, laptop.embedding.model) == (3, "intfloat/multilingual-e5-small")
    assert laptop.embedding.cache == tmp_path / "cache" and not laptop.embedding.download
    gpu = resolve(tmp_path, 'profile = "laptop"', FATHOM_PROFILE="gpu")
    assert (gpu.profile, gpu.engine.name, gpu.engine.url) == ("gpu", "server", "http://127.0.0.1:8000/v1")
    assert resolve(tmp_path, FATHOM_PROFILE="gpu", profile="laptop").profile == "laptop"
    for toml, environment in (('profile = "huge"', {}), ("profile = 3", {}), ("", {"FATHOM_PROFILE": "huge"})):
        with pytest.raises(UsageError, match="no profile '(huge|3)'; known are embedded, laptop, gpu"):
            resolve(tmp_path, toml, **environment)


@pytest.mark.parametrize(
    ("toml", "engine_of", "embedding"),
    [
        ('[engine]\nmodel = "/m.gguf"', ("embedded", Path("/m.gguf"), None), "intfloat/multilingual-e5-small"),
        ('[engine]\nname = "local"', ("local", None, None), "intfloat/multilingual-e5-small"),
        ('[engine]\nurl = "http://h/v1"', ("server", None, "http://h/v1"), "intfloat/multilingual-e5-small"),
        ('[embedding]\nmodel = "all-MiniLM-L6-v2"', ("embedded", HUB_MODEL, None), "all-MiniLM-L6-v2"),
    ],
)
def test_what_was_chosen_goes_before_the_profile(tmp_path: Path, toml: str, engine_of: Any, embedding: str) -> None:
    settings = resolve(tmp_path, f'profile = "laptop"\n{toml}')
    assert (settings.engine.name, settings.engine.model, settings.engine.url) == engine_of
    assert settings.embedding.model == embedding
    assert settings.embedding.download == (embedding == "all-MiniLM-L6-v2")


def test_the_address_of_a_server_brings_its_own_model(tmp_path: Path) -> None:
    settings = resolve(tmp_path, 'profile = "gpu"\n[engine]\nurl = "http://big:9/v1"')
    assert (settings.engine.url, settings.engine.model) == ("http://big:9/v1", None)
    settings = resolve(tmp_path, 'profile = "gpu"\n[engine]\nmodel = "tides-v1"')
    assert (settings.engine.url, settings.engine.model) == ("http://127.0.0.1:8000/v1", Path("tides-v1"))


def test_another_profile_brings_its_models_and_leaves_the_rest(tmp_path: Path) -> None:
    toml = '[engine]\nmodel = "/m.gguf"\ntemperature = 0.5\n[search]\nk = 3\n[embedding]\nthreads = 2'
    ours = resolve(tmp_path, toml, FATHOM_ENGINE_API_KEY="sk-1")
    assert with_profile(ours, "embedded") is ours
    gpu = with_profile(ours, "gpu")
    assert (gpu.profile, gpu.engine.name, gpu.engine.model) == ("gpu", "server", Path("Qwen/Qwen3-8B"))
    assert (gpu.engine.temperature, gpu.search.k, gpu.embedding.threads) == (0.5, 3, 2)
    assert gpu.engine.api_key is not None and gpu.embedding.model == "Qwen/Qwen3-Embedding-0.6B"
    back = with_profile(gpu, "embedded")
    assert (back.engine.name, back.engine.model, back.engine.temperature) == ("embedded", None, 0.5)
    assert back.embedding.model == EmbeddingSettings().model and back.workspace == ours.workspace
    with pytest.raises(UsageError, match="no profile 'huge'"):
        with_profile(ours, "huge")


def test_what_is_missing_is_said_with_its_command(tmp_path: Path, hub: Path) -> None:
    embedded, laptop, gpu = profiles_here(resolve(tmp_path))
    assert profiles_as_they_come() == (embedded, laptop, gpu)
    assert (embedded.name, embedded.available, embedded.missing) == ("embedded", True, "")
    assert not laptop.available and not gpu.available
    assert "hf download Qwen/Qwen2.5-1.5B-Instruct-GGUF qwen2.5-1.5b-instruct-q4_k_m.gguf" in laptop.missing
    assert "hf download intfloat/multilingual-e5-small" in laptop.missing
    assert "vllm serve Qwen/Qwen3-8B" in gpu.missing and "hf download Qwen/Qwen3-Embedding-0.6B" in gpu.missing
    file = in_cache(hub, "Qwen/Qwen2.5-1.5B-Instruct-GGUF", HUB_MODEL.name)
    in_cache(hub, "intfloat/multilingual-e5-small", "model.safetensors")
    assert resolved(HUB_MODEL) == file
    assert profiles_here(resolve(tmp_path))[1].available
    lost = profiles_here(resolve(tmp_path, '[engine]\nmodel = "/nowhere/m.gguf"'))[0]
    assert not lost.available and "/nowhere/m.gguf" in lost.missing


def test_a_server_that_listens_makes_its_profile_available(tmp_path: Path, hub: Path) -> None:
    in_cache(hub, "Qwen/Qwen3-Embedding-0.6B", "model.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        ours = resolve(tmp_path, f'profile = "gpu"\n[engine]\nurl = "{url}"')
        assert profiles_here(ours)[2].available
    assert not profiles_here(ours)[2].available


def test_nothing_is_fetched_behind_anybodys_back(tmp_path: Path) -> None:
    laptop = resolve(tmp_path, profile="laptop")
    with pytest.raises(MissingError, match="hf download Qwen/Qwen2.5-1.5B-Instruct-GGUF"):
        engine(laptop)
    with pytest.raises(MissingError, match="hf download intfloat/multilingual-e5-small"):
        load_embedder(laptop.embedding)


def test_the_command_line_takes_a_profile(fathom: Fathom) -> None:
    assert "known are embedded, laptop, gpu" in fathom("ask", "why", "--profile", "huge", code=2).output


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (Machine(cores=2, memory=23, gpu_memory=0, disk=100), "embedded"),
        (Machine(cores=8, memory=16, gpu_memory=0, disk=100), "laptop"),
        (Machine(cores=8, memory=16, gpu_memory=0, disk=2), "embedded"),
        (Machine(cores=8, memory=16, gpu_memory=8, disk=100), "laptop"),
        (Machine(cores=16, memory=64, gpu_memory=23.99, disk=100), "gpu"),
        (Machine(cores=16, memory=64, gpu_memory=80, disk=10), "laptop"),
        (Machine(cores=1, memory=1, gpu_memory=0, disk=0), "embedded"),
    ],
)
def test_the_largest_that_fits_is_recommended(machine: Machine, name: str) -> None:
    assert recommended(machine).name == name


def test_every_profile_says_what_it_is_and_needs() -> None:
    for name in NAMES:
        profile = PROFILES[name]
        assert profile.name == name and profile.summary and any("\u4e00" <= c <= "\u9fff" for c in profile.summary_zh)
        for model in profile.models:
            assert model.fetch in needs(profile)
        assert load_settings(Path(os.devnull).parent / "none", environment={}, profile=name).profile == name
