"""What many tests share: small collections, the real data where it is present."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import HashingEmbedder, five_documents

from retrieval.collection import Collection
from retrieval.passages import Document

ROOT = Path(__file__).resolve().parents[1]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs so, and every child that a test stops with Ctrl-C would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def hashing_embedder() -> HashingEmbedder:
    """A fresh fake embedder."""
    return HashingEmbedder()


@pytest.fixture
def collection(tmp_path: Path, hashing_embedder: HashingEmbedder) -> Iterator[Collection]:
    """An empty collection, open for writing."""
    with Collection.create(tmp_path / "shelf", name="shelf", embedder=lambda: hashing_embedder) as new:
        yield new


@pytest.fixture
def documents() -> list[Document]:
    """See `five_documents`."""
    return five_documents()


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Path of a real data set, or a skip that says which one is missing."""
    folder = Path(os.environ.get("FATHOM_SHARED_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"needs ../shared/data/{name}")
        return path

    return find
