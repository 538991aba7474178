"""Collections that hold an embedding adapter of their own: used when opened, exported with them, moved to and from."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes import five_documents
from tiny_embedders import save_adapter, save_small_model

from retrieval.collection import Collection
from retrieval.embedding.adapter import IN_COLLECTION, kept_in, read_adapter
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.load import EmbeddingSettings
from retrieval.embedding.loader import EmbedderLoader
from retrieval.errors import DamagedError, MismatchError
from retrieval.reembed_plan import plan_reembed
from retrieval.splitting import SplitSettings
from retrieval.storage.sealing import seal
from retrieval.transfer import export_collection, import_collection, reembed
from retrieval.verifying import verify

SPLIT = SplitSettings(passage_tokens=40, overlap_tokens=4, context_tokens=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model"), "bert")


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("adapters")
    return [save_adapter(place / f"a{seed}", model, seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def settings(model: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSettings:
    cache = tmp_path_factory.mktemp("cache")
    return EmbeddingSettings(model=str(model), device="cpu", precision="fp32", backend="torch", threads=1, cache=cache)


@pytest.fixture(scope="module")
def loader(settings: EmbeddingSettings) -> EmbedderLoader:
    return EmbedderLoader(settings)


@pytest.fixture
def shelf(tmp_path: Path, loader: EmbedderLoader) -> Callable[[str, Path | None], Path]:
    """Makes a collection of five documents under an adapter, or under none."""

    def make(name: str, adapter: Path | None) -> Path:
        load = loader.under(adapter)
        with Collection.create(tmp_path / name, name=name, embedder=load, split=SPLIT, adapter=adapter) as made:
            made.add(five_documents())
        return tmp_path / name

    return make


Shelf = Callable[[str, Path | None], Path]


def test_several_collections_each_use_their_own_in_one_process(
    shelf: Shelf, adapters: list[Path], loader: EmbedderLoader
) -> None:
    folders = [shelf("bare", None), shelf("one", adapters[0]), shelf("two", adapters[1])]
    opened = [Collection.open(folder, embedder=loader) for folder in folders]
    models = [one.embedder() for one in opened]
    assert len({id(one) for one in models}) == 3
    for collection, embedder in zip(opened, models, strict=True):
        found = collection.search("the moon and the sun", mode="dense", k=5)
        stored = collection.catalogue.vectors(1, collection.catalogue.last_passage())[2].astype(np.float32)
        expected = np.sort(stored @ embedder.embed_queries(["the moon and the sun"])[0])[::-1]
        assert np.allclose([hit.score for hit in found.hits], expected[: len(found.hits)], atol=2e-3)
        assert verify(collection).problems == []
    assert [bool(one.status()["adapter"]) for one in opened] == [False, True, True]
    for one in opened:
        one.close()


def test_a_bare_collection_is_refused_under_an_adapter_with_the_command_that_helps(
    shelf: Shelf, adapters: list[Path], loader: EmbedderLoader
) -> None:
    folder = shelf("bare", None)
    with Collection.open(folder, embedder=loader.under(adapters[0])) as opened:
        with pytest.raises(MismatchError, match="fathom index reembed --collection bare"):
            opened.search("moon", mode="dense")
        assert opened.search("moon", mode="lexical").hits, "words need no vector"


def test_a_collection_moves_to_an_adapter_and_back(shelf: Shelf, adapters: list[Path], loader: EmbedderLoader) -> None:
    folder = shelf("moving", None)
    assert reembed(folder, embedder=loader.under(adapters[0]), split=SPLIT, adapter=adapters[0]) > 0
    kept = kept_in(folder)
    assert kept is not None and read_adapter(kept).sha256 == read_adapter(adapters[0]).sha256
    with Collection.open(folder, embedder=loader) as opened:
        assert opened.search("moon", mode="dense").hits and len(opened.documents()) == 5
    # From its own copy, which lies in the folder that is replaced.
    assert (
        reembed(
            folder, embedder=loader.under(kept), split=SplitSettings(passage_tokens=24, overlap_tokens=4), adapter=kept
        )
        > 0
    )
    with Collection.open(folder, embedder=loader) as opened:
        assert opened.search("moon", mode="dense").hits and opened.fingerprint.splitter.passage_tokens == 24
    reembed(folder, embedder=loader.under(None), split=SPLIT)
    assert kept_in(folder) is None
    with Collection.open(folder, embedder=loader) as opened:
        assert opened.search("moon", mode="dense").hits


def test_stopped_on_the_way_the_old_one_stays_whole(shelf: Shelf, adapters: list[Path], loader: EmbedderLoader) -> None:
    folder = shelf("steady", adapters[0])

    def dies() -> Embedder:
        model = loader.under(adapters[1])()

        class Dying:
            def __getattr__(self, name: str) -> object:
                if name == "embed_passages" and "probes" in done:
                    raise KeyboardInterrupt
                if name == "embed_passages":
                    done.add("probes")
                return getattr(model, name)

        return Dying()  # type: ignore[return-value]

    done: set[str] = set()
    with pytest.raises(KeyboardInterrupt):
        reembed(folder, embedder=dies, split=SPLIT, adapter=adapters[1])
    kept = kept_in(folder)
    assert kept is not None and read_adapter(kept).sha256 == read_adapter(adapters[0]).sha256
    assert not list(folder.parent.glob(".steady*"))
    with Collection.open(folder, embedder=loader) as opened:
        assert opened.search("moon", mode="dense").hits and verify(opened).problems == []


def test_export_and_import_carry_it(shelf: Shelf, adapters: list[Path], loader: EmbedderLoader, tmp_path: Path) -> None:
    folder = shelf("one", adapters[0])
    with Collection.open(folder, embedder=loader) as opened:
        export_collection(opened, tmp_path / "one.fathom")
        before = opened.search("moon", mode="dense")
    shutil.rmtree(folder)
    import_collection(tmp_path / "one.fathom", tmp_path / "again", name="again")
    with Collection.open(tmp_path / "again", embedder=loader) as opened:
        assert verify(opened).problems == []
        assert [hit.score for hit in opened.search("moon", mode="dense").hits] == [hit.score for hit in before.hits]
        assert not opened.catalogue.select("SELECT key FROM settings WHERE key LIKE 'adapter/%'")


@pytest.mark.parametrize("change", ["foreign", "no base64", "half", "unsealed"])
def test_a_tampered_adapter_in_an_export_is_refused_and_leaves_nothing(
    change: str, shelf: Shelf, adapters: list[Path], loader: EmbedderLoader, tmp_path: Path
) -> None:
    folder = shelf("one", adapters[0])
    with Collection.open(folder, embedder=loader) as opened:
        export_collection(opened, tmp_path / "one.fathom")
    db = sqlite3.connect(tmp_path / "one.fathom")
    key = "adapter/adapter_config.json"
    if change == "half":
        db.execute("DELETE FROM settings WHERE key = ?", (key,))
    else:
        import base64

        config = {**json.loads((adapters[0] / "adapter_config.json").read_text()), "lora_alpha": 400}
        value = "no!" if change == "no base64" else base64.b64encode(json.dumps(config).encode()).decode()
        mark = b"x" if change == "unsealed" else seal(key, value)
        db.execute("UPDATE settings SET value = ?, seal = ? WHERE key = ?", (value, mark, key))
    db.commit()
    db.close()
    from retrieval.errors import FathomError

    with pytest.raises(FathomError):
        import_collection(tmp_path / "one.fathom", tmp_path / "bad", name="bad")
    assert not (tmp_path / "bad").exists() and not list(tmp_path.glob(".bad*"))


def test_a_damaged_copy_is_told_and_not_used(shelf: Shelf, adapters: list[Path], loader: EmbedderLoader) -> None:
    folder = shelf("one", adapters[0])
    weights = folder / IN_COLLECTION / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with Collection.open(folder, embedder=loader) as opened:
        with pytest.raises(DamagedError, match="not what was stored.*reembed --collection one --adapter"):
            opened.search("moon", mode="dense")
        assert any("adapter" in problem for problem in verify(opened).problems)
        assert opened.status()["adapter"] is True


def test_the_plan_says_what_changes_and_writes_nothing(
    shelf: Shelf, adapters: list[Path], loader: EmbedderLoader
) -> None:
    folder = shelf("planned", None)
    with Collection.open(folder, embedder=loader) as opened:
        same = plan_reembed(opened, loader(), SPLIT)
        moved = plan_reembed(opened, loader.under(adapters[0])(), SPLIT)
        resplit = plan_reembed(opened, loader(), SplitSettings(passage_tokens=24, overlap_tokens=4))
        passages = opened.catalogue.counts()[1]
        tokens = sum(passage.tokens for row in opened.documents() for passage in opened.passages_of(row.source.id))
    assert dict(same.changes) == {} and (same.documents, same.passages, same.tokens) == (5, passages, tokens)
    assert set(moved.changes) == {"model", "weights"} and not moved.resplit and moved.seconds > 0
    assert resplit.resplit and "passage_tokens" in resplit.changes
    assert kept_in(folder) is None
