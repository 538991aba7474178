"""Settings → the embedding model, loaded in the back end and precision that suit this machine.

The one page that knows every back end. Imports of them happen inside: reading settings costs nothing.
"""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from retrieval.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from retrieval.embedding.batching import BatchingEmbedder, Encoder
    from retrieval.embedding.embedder import Embedder, Precision
    from retrieval.embedding.facts import ModelFacts
    from retrieval.embedding.model_files import ModelFiles


@dataclass(frozen=True)
class EmbeddingSettings:
    """Which model embeds, and how. "auto" chooses by what this machine has and by a two-second self-test."""

    model: str = "all-MiniLM-L6-v2"
    """A folder, the name of an embedded model, or a name of the Hugging Face hub, `@revision` allowed after it."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """auto: bf16 on a CPU that has it, fp16 on a GPU, where vectors stay those of fp32 (cosine ≥ .999). int8 is faster
    on many CPUs and has vectors of its own."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    backend: Literal["auto", "openvino", "torch"] = "auto"
    threads: int = 0
    """CPU threads; 0 is every core."""
    query_prefix: str | None = None
    """Put before every query; None takes the model's own."""
    passage_prefix: str | None = None
    """Put before every passage; None takes the model's own."""
    cache: Path | None = None
    """Where converted models are kept; None is fathom/embedding in the user's cache folder. Safe to delete."""
    download: bool = True
    """Whether a model of the hub that is not on this machine may be fetched."""

    def __post_init__(self) -> None:
        if not self.model:
            raise UsageError("the embedding model has no name; give a folder or a name such as all-MiniLM-L6-v2")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise UsageError(f"device is auto, cpu, cuda, cuda:N or mps; '{self.device}' was given")
        if self.threads < 0:
            raise UsageError(f"threads is 0 (every core) or more; {self.threads} was given")
        on_gpu = self.device not in {"auto", "cpu"}
        if self.precision == "int8" and (on_gpu or self.backend == "torch"):
            raise UsageError(
                'precision int8 runs with OpenVINO on the CPU only; set device = "cpu" or another precision'
            )
        if self.backend == "openvino" and (on_gpu or self.precision == "fp16"):
            raise UsageError("OpenVINO runs on the CPU here, in fp32, bf16 or int8; choose those or the back end torch")

    def cache_folder(self) -> Path:
        """The cache that is meant."""
        if self.cache is not None:
            return self.cache
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fathom" / "embedding"


def model_folder(name: str) -> Path:
    """The folder a model lies in. Raises MissingError, UsageError, DamagedError."""
    from retrieval.embedding.model_files import find_model

    return find_model(name).folder


def load_embedder(settings: EmbeddingSettings, *, samples: Sequence[str] | None = None) -> "Embedder":
    """Load the model; the first time it is converted for this machine, which takes half a minute.

    `samples`: passages to fit int8 to, made anew; without them a kept int8 model is used or a general one made.
    Raises MissingError, UsageError, DamagedError.
    """
    from retrieval.embedding.model_files import find_model, weights_hash

    files = find_model(settings.model, download=settings.download)
    weights = weights_hash(files, settings.cache_folder())
    device = device_of(settings)
    if device == "cpu" and settings.backend != "torch" and settings.precision != "fp16":
        embedder = _on_openvino(settings, files, weights, samples)
        if embedder is not None:
            return embedder
    return _on_torch(settings, files, weights, device)


def quantise(settings: EmbeddingSettings, samples: Sequence[str] | None = None) -> Path:
    """Make the int8 form of a model now, fitted to `samples` (passages), and return the folder it is kept in."""
    from retrieval.embedding.model_files import find_model, weights_hash
    from retrieval.embedding.quantise import quantised

    files = find_model(settings.model, download=settings.download)
    return quantised(files, weights_hash(files, settings.cache_folder()), settings.cache_folder(), samples)


def device_of(settings: EmbeddingSettings) -> str:
    """ "cpu", or the torch device; torch is imported only where a driver says that there may be one."""
    if settings.device != "auto":
        return settings.device
    if settings.precision == "int8" or settings.backend == "openvino" or not _has_driver():
        return "cpu"
    from retrieval.embedding.torch_backend import accelerator

    return accelerator() or "cpu"


def _has_driver() -> bool:
    """Signs of an accelerator torch may know: NVIDIA, WSL, AMD, Apple. Importing torch to ask takes 2 seconds."""
    if sys.platform == "darwin":
        return True
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")) or os.name == "nt"


def _on_openvino(
    settings: EmbeddingSettings, files: "ModelFiles", weights: str, samples: Sequence[str] | None
) -> "Embedder | None":
    """None where OpenVINO cannot run the model and no one insisted on it."""
    from retrieval.embedding.conversion import MODEL, converted, facts_in
    from retrieval.embedding.openvino_backend import OpenVinoEncoder

    cache = settings.cache_folder()
    if settings.precision == "int8":
        from retrieval.embedding.quantise import quantised

        folder = quantised(files, weights, cache, samples)
    else:
        folder = converted(files, weights, cache)
    facts = facts_in(folder)
    if facts.unsupported:
        if settings.backend == "openvino":
            raise UsageError(f'OpenVINO cannot run {files.name} ({facts.unsupported}); set backend = "auto"')
        return None
    precision: Precision = "fp32"
    half = settings.precision == "bf16"
    if settings.precision in {"auto", "int8"}:
        # What stays float in int8 runs in bf16 where the CPU is good at it (4.7 × against 4.3 × of fp32, measured).
        exact = folder if settings.precision == "auto" else converted(files, weights, cache)
        half = _bf16_is_better(settings, exact / MODEL, weights, facts)
    if settings.precision == "int8":
        precision = "int8"
    elif half:
        precision = "bf16"
    encoder = OpenVinoEncoder(folder / MODEL, "bf16" if half else "f32", settings.threads)
    return _embedder(settings, files, weights, facts, encoder, precision, f"openvino-{precision}")


def _bf16_is_better(settings: EmbeddingSettings, model: Path, weights: str, facts: "ModelFacts") -> bool:
    from retrieval.embedding.batching import padded
    from retrieval.embedding.counting import TextTokenizer
    from retrieval.embedding.openvino_backend import self_test
    from retrieval.embedding.probes import PROBES

    def batch() -> "tuple[np.ndarray, np.ndarray]":
        tokenizer = TextTokenizer(facts.tokenizer, max_tokens=facts.max_tokens, passage_prefix="", query_prefix="")
        return padded([ids[: facts.max_tokens] for ids in tokenizer.ids(PROBES, "")], facts.pad_id)

    return self_test(model, batch, weights=weights, threads=settings.threads, cache=settings.cache_folder()).bf16


def _on_torch(settings: EmbeddingSettings, files: "ModelFiles", weights: str, device: str) -> "Embedder":
    from retrieval.embedding.torch_backend import TorchEncoder, facts_of, half_precision, limit_threads, load_model

    if device == "cpu":
        limit_threads(settings.threads)
    precision: Precision = "fp32"
    if settings.precision in {"fp32", "bf16", "fp16"}:
        precision = settings.precision  # type: ignore[assignment]
    elif device != "cpu":
        precision = half_precision(files, device)
    model = load_model(files, device, precision)
    encoder = TorchEncoder(model, device)
    return _embedder(
        settings, files, weights, facts_of(model, files), encoder, precision, f"torch-{device}-{precision}"
    )


def _embedder(
    settings: EmbeddingSettings,
    files: "ModelFiles",
    weights: str,
    facts: "ModelFacts",
    encoder: "Encoder",
    precision: "Precision",
    backend: str,
) -> "BatchingEmbedder":
    from retrieval.embedding.batching import BatchingEmbedder
    from retrieval.embedding.counting import TextTokenizer
    from retrieval.embedding.embedder import EmbedderFingerprint
    from retrieval.embedding.model_files import declared_prefixes

    query_prefix, passage_prefix = declared_prefixes(files)
    if settings.query_prefix is not None:
        query_prefix = settings.query_prefix
    if settings.passage_prefix is not None:
        passage_prefix = settings.passage_prefix
    tokenizer = TextTokenizer(
        facts.tokenizer, max_tokens=facts.max_tokens, passage_prefix=passage_prefix, query_prefix=query_prefix
    )
    fingerprint = EmbedderFingerprint(
        model=files.name,
        weights=weights,
        dimension=facts.dimension,
        max_tokens=facts.max_tokens,
        pooling=facts.pooling,
        normalise=True,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        precision=precision,
    )
    return BatchingEmbedder(encoder, tokenizer, fingerprint=fingerprint, backend=backend, pad_id=facts.pad_id)
