"""What many tests share: small collections, the real data where it is present."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import HashingEmbedder, five_documents

from retrieval.collection import Collection
from retrieval.passages import Document

ROOT = Path(__file__).resolve().parents[1]
UNPACKED = "language-models"

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


@pytest.fixture(scope="session")
def packaged_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the packaged language model unpacked, which takes 20 CPU seconds; a skip where there is none."""
    from eval.models.language_models import locate, quiet, unpacked
    from retrieval.errors import MissingError

    cache = tmp_path_factory.mktemp("packaged")
    try:
        place = locate(None)
    except MissingError as error:
        pytest.skip(str(error))
    with quiet():
        unpacked(place, cache)
    return cache


@pytest.fixture(scope="session")
def embedded_cache() -> Path:
    """A cache with the packaged language model as the embedded engine runs it: 20 CPU seconds once, then it stays in
    build/. A skip where there is no such model."""
    from app.engines.conversion import converted
    from eval.models.packaged import packaged_model
    from retrieval.errors import MissingError

    cache = ROOT / "build" / "embedded-cache"
    try:
        converted(packaged_model(), cache)
    except MissingError as error:
        pytest.skip(str(error))
    return cache


@pytest.fixture
def embedded_at_hand(embedded_cache: Path) -> Callable[[Path], None]:
    """Puts that model into another cache too, by links."""

    def put(cache: Path) -> None:
        shutil.copytree(embedded_cache / "engines", cache / "engines", copy_function=os.symlink)

    return put


@pytest.fixture
def packaged_at_hand(packaged_cache: Path) -> Callable[[Path], None]:
    """Puts the unpacked model into another cache too, by links."""

    def put(cache: Path) -> None:
        shutil.copytree(packaged_cache / UNPACKED, cache / UNPACKED, copy_function=os.link)

    return put
