"""A word → the reranker it names, in the back end that suits this machine. Knows every kind of reranker and no search.

Imports of back ends happen inside: naming a reranker costs nothing.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from retrieval.errors import MissingError
from retrieval.passages import Hit


class Reranker(Protocol):
    """One score for each hit, in their order, higher is better. With an attribute `calibrated` that is true scores are
    probabilities of relevance, so that one threshold means "relevant"."""

    def __call__(self, query: str, hits: Sequence[Hit]) -> list[float]: ...


_LOADING = threading.Lock()
"""Two threads that import transformers at once find it half there: "cannot import name 'AutoModel'"."""
PACKAGED, NONE = "packaged", "none"
SHIPPED = Path(__file__).resolve().parents[2] / "data" / "adapters" / "encoder-reranker"


def load_reranker(
    word: str,
    *,
    device: str = "auto",
    threads: int = 0,
    cache: Path | None = None,
    download: bool = True,
) -> Reranker | None:
    """The reranker that is meant: "none" is None, "packaged" the one that comes with Fathom, anything else a folder (of
    `fathom adapt run`, or a cross-encoder) or a cross-encoder's name on the Hugging Face hub.

    The first use of one is converted for this machine, which takes some seconds. `device`: auto, cpu, cuda, mps.
    `cache`: where converted models are kept; None is the embedding cache. Raises MissingError, UsageError,
    DamagedError, MismatchError.
    """
    if word == NONE:
        return None
    from retrieval.embedding.load import EmbeddingSettings, device_of
    from retrieval.reranking.cross_encoder import load_cross_encoder, load_trained
    from retrieval.reranking.pair_folder import is_pair_folder

    settings = EmbeddingSettings(device=device, threads=threads, cache=cache, download=download)
    on, cache = device_of(settings), settings.cache_folder()
    folder = reranker_folder(word)
    with _LOADING:
        if folder is not None and is_pair_folder(folder):
            return load_trained(folder, device=on, threads=threads, cache=cache)
        return load_cross_encoder(word, download=download, device=on, threads=threads, cache=cache)


def reranker_folder(word: str) -> Path | None:
    """Where a reranker lies that is no name of the hub. Raises MissingError where the shipped one is not there."""
    if word == PACKAGED:
        if not SHIPPED.is_dir():
            raise MissingError(f"the reranker that comes with Fathom is not in {SHIPPED}; get the repository whole")
        return SHIPPED
    folder = Path(word).expanduser()
    return folder if folder.is_dir() else None


def reranker_identity(word: str, *, cache: Path, download: bool = True) -> str | None:
    """A hash over everything that decides a reranker's scores, for comparing measurements; None for "none"."""
    import hashlib

    from retrieval.embedding.model_files import find_model, weights_hash
    from retrieval.embedding.stored import file_hash
    from retrieval.reranking.pair_folder import FACTS, RERANKER, is_pair_folder, judge_pair_folder

    if word == NONE:
        return None
    folder = reranker_folder(word)
    if folder is not None and is_pair_folder(folder):
        weights = judge_pair_folder(folder, role=RERANKER, cache=cache).weights
        return hashlib.sha256(f"{weights}\0{file_hash(folder / FACTS)}".encode()).hexdigest()
    return weights_hash(find_model(word, download=download), cache)
