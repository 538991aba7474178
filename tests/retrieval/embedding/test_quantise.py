"""int8: made once, kept, fitted to samples, near enough to fp32 to rank alike."""

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.embedding import quantise
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.load import EmbeddingSettings, load_embedder
from retrieval.embedding.probes import least_cosine, probe_vectors
from retrieval.errors import MissingError


def test_docstrings_are_the_same_every_time() -> None:
    texts = quantise.docstrings(50)
    assert len(set(texts)) == 50 and min(map(len, texts)) > 300
    assert quantise.docstrings(50) == texts


def test_without_nncf_it_says_how_to_get_it(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_nncf(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "nncf":
            raise ImportError("No module named 'nncf'")
        return real(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "nncf", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_nncf)
    settings = EmbeddingSettings(model=str(small_model), precision="int8", device="cpu", cache=tmp_path)
    with pytest.raises(MissingError, match="pip install -c constraints.txt nncf"):
        load_embedder(settings)


@pytest.mark.slow
def test_int8_ranks_like_fp32(exact: Embedder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "SAMPLES", 40)
    settings = EmbeddingSettings(precision="int8", device="cpu", threads=1, cache=cache)
    embedder = load_embedder(settings)
    assert embedder.backend == "openvino-int8" and embedder.fingerprint.precision == "int8"
    assert 0.95 < least_cosine(probe_vectors(exact), probe_vectors(embedder)) < 0.9999
    texts = quantise.docstrings(150)
    passages = [text[60:400] for text in texts]
    questions = [text[:60] for text in texts]
    found = [
        np.argmax(model.embed_queries(questions) @ model.embed_passages(passages).T, axis=1) == np.arange(len(texts))
        for model in (exact, embedder)
    ]
    assert abs(found[0].mean() - found[1].mean()) < 0.05

    monkeypatch.setattr(quantise, "_quantise", lambda *_: pytest.fail("what is kept is not made again"))
    again = load_embedder(settings)
    assert least_cosine(probe_vectors(again), probe_vectors(embedder)) > 0.9999
