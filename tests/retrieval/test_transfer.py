"""Export, import and moving to another model."""

import sqlite3
from pathlib import Path

import pytest
from fakes import HashingEmbedder, five_documents

from retrieval.collection import Collection
from retrieval.errors import DamagedError, MismatchError, UsageError
from retrieval.splitting import SplitSettings
from retrieval.transfer import export_collection, import_collection, reembed
from retrieval.verifying import verify


@pytest.fixture
def exported(collection: Collection, tmp_path: Path) -> Path:
    collection.add(five_documents())
    target = tmp_path / "shelf.fathom"
    assert export_collection(collection, target) == target.stat().st_size > 0
    return target


def test_round_trip(exported: Path, collection: Collection, tmp_path: Path) -> None:
    import_collection(exported, tmp_path / "again", name="again")
    with Collection.open(tmp_path / "again", embedder=HashingEmbedder) as again:
        assert again.name == "again" and verify(again).problems == []
        for question in ("full moon", "绿茶"):
            expected, found = collection.search(question).hits, again.search(question).hits
            assert [(h.source.uri, h.passage.text, h.score) for h in found] == [
                (h.source.uri, h.passage.text, h.score) for h in expected
            ]


def test_nothing_is_overwritten(exported: Path, collection: Collection) -> None:
    with pytest.raises(UsageError, match="already exists"):
        export_collection(collection, exported)
    with pytest.raises(UsageError, match="already exists"):
        import_collection(exported, collection.folder, name="shelf")


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE passages SET text = 'poisoned' WHERE id = 1",
        "CREATE VIEW v AS SELECT * FROM documents",
        "CREATE TRIGGER t AFTER INSERT ON settings BEGIN DELETE FROM documents; END",
        "DELETE FROM vectors WHERE passage_id = 2",
    ],
)
def test_a_tampered_export_is_refused_and_leaves_nothing(exported: Path, tmp_path: Path, sql: str) -> None:
    db = sqlite3.connect(exported)
    db.execute(sql)
    db.commit()
    db.close()
    with pytest.raises(DamagedError):
        import_collection(exported, tmp_path / "bad", name="bad")
    assert not (tmp_path / "bad").exists() and not list(tmp_path.glob(".bad*"))


def test_importing_something_else(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello " * 1000)
    with pytest.raises(DamagedError, match="is not an export"):
        import_collection(tmp_path / "x.txt", tmp_path / "bad", name="bad")
    with pytest.raises(UsageError, match="is not a file"):
        import_collection(tmp_path / "nothing", tmp_path / "bad", name="bad")


def test_reembed_moves_to_another_model(collection: Collection) -> None:
    collection.add(five_documents())
    collection.close()
    other = HashingEmbedder(dimension=32, salt="new")
    with Collection.open(collection.folder, embedder=lambda: other) as reader:
        with pytest.raises(MismatchError):
            reader.search("moon")
        assert reembed(collection.folder, embedder=lambda: other, split=SplitSettings(passage_tokens=64)) > 0
        assert reader.replaced
    with Collection.open(collection.folder, embedder=lambda: other) as reader:
        assert reader.search("full moon tides").hits[0].source.uri == "tides.txt"
        assert len(reader.documents()) == 5 and verify(reader).problems == []
    assert [p.name for p in collection.folder.parent.iterdir() if p.name.startswith(".")] == []
