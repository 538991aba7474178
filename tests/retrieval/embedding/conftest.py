"""One converted model for all tests of embedding, sentence-transformers' own as the reference, and small models."""

import os
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

from tiny_embedders import save_small_model

from retrieval.embedding.embedder import Embedder
from retrieval.embedding.load import EmbeddingSettings, load_embedder, model_folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedding")


@pytest.fixture(scope="session")
def exact(cache: Path) -> Embedder:
    """all-MiniLM-L6-v2 on OpenVINO in fp32."""
    return load_embedder(EmbeddingSettings(precision="fp32", device="cpu", threads=1, cache=cache))


@pytest.fixture(scope="session")
def half(cache: Path, exact: Embedder) -> Embedder:
    """The same with the bf16 hint."""
    return load_embedder(EmbeddingSettings(precision="bf16", device="cpu", threads=1, cache=cache))


@pytest.fixture(scope="session")
def reference() -> Any:
    """sentence-transformers' own model of the same files."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(model_folder("all-MiniLM-L6-v2")), device="cpu", local_files_only=True)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with a query and a document prompt."""
    prompts = {"query": "query : ", "document": "passage : "}
    return save_small_model(tmp_path_factory.mktemp("small"), "bert", prompts=prompts)


@pytest.fixture(scope="session")
def save_model() -> Any:
    """`save_small_model`, for tests that need other architectures."""
    return save_small_model
