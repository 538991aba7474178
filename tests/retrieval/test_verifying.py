"""Damage is found and named, never served; what can be made again is."""

import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from fakes import HashingEmbedder, five_documents

from retrieval.collection import CATALOGUE, Collection
from retrieval.errors import DamagedError, FathomError
from retrieval.verifying import verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "shelf"
    with Collection.create(path, name="shelf", embedder=HashingEmbedder) as new:
        new.add(five_documents())
        new.remove(["bread.txt"])
    return path


def damage(folder: Path, sql: str) -> None:
    db = sqlite3.connect(folder / CATALOGUE)
    db.execute(sql)
    db.commit()
    db.close()


CASES = {
    "passage text": "UPDATE passages SET text = replace(text, 'moon', 'mood')",
    "passage span": "UPDATE passages SET start = start + 1 WHERE id = 1",
    "passage order": "UPDATE passages SET ordinal = 7 WHERE id = 1",
    "passage gone": "DELETE FROM passages WHERE id = 1",
    "document text": "UPDATE texts SET text = x'00' WHERE document_id = 1",
    "document text gone": "DELETE FROM texts WHERE document_id = 1",
    "document title": "UPDATE documents SET title = 'other' WHERE id = 1",
    "document owner": "UPDATE documents SET owner = 'mallory' WHERE id = 1",
    "vector": "UPDATE vectors SET vector = zeroblob(128) WHERE passage_id = 1",
    "vector gone": "DELETE FROM vectors WHERE passage_id = 1",
    "filter value": "INSERT INTO facts VALUES ('year', 2020, 1)",
    "change log": "UPDATE changes SET kind = 'remove' WHERE sequence = 1",
    "change log gone": "DELETE FROM changes WHERE sequence = 1",
    "setting": "UPDATE settings SET value = 'x' WHERE key = 'name'",
    "id counter": "UPDATE sqlite_sequence SET seq = seq - 1 WHERE name = 'passages'",
    "trigger": "CREATE TRIGGER t AFTER INSERT ON documents BEGIN DELETE FROM documents; END",
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_damage_is_found(folder: Path, case: str) -> None:
    damage(folder, CASES[case])
    try:
        with Collection.open(folder, embedder=HashingEmbedder) as collection:
            assert verify(collection).problems != []
    except DamagedError:
        pass


def test_a_damaged_passage_is_refused_not_served(folder: Path) -> None:
    damage(folder, CASES["passage text"])
    with Collection.open(folder, embedder=HashingEmbedder) as collection:
        with pytest.raises(DamagedError, match="verify --repair"):
            collection.search("full moon tides", mode="lexical")


@pytest.mark.parametrize("mode", ["lexical", "dense", "hybrid"])
def test_a_row_that_cannot_be_reached_is_not_just_missing(folder: Path, mode: str) -> None:
    """What a flipped bit in a linking page does: the row is gone, every other row is in order."""
    damage(folder, "DELETE FROM passages WHERE id = 1")
    with Collection.open(folder, embedder=HashingEmbedder) as collection:
        with pytest.raises(DamagedError, match="cannot be (found|reached)"):
            collection.search("full moon tides", mode=mode)  # type: ignore[arg-type]


def test_repair_removes_what_is_damaged_and_names_it(folder: Path) -> None:
    damage(folder, CASES["passage text"])
    with Collection.open(folder, embedder=HashingEmbedder, write=True) as collection:
        report = verify(collection, repair=True)
        assert report.lost == ["tides.txt"]
        assert verify(collection).problems == []
        assert [h.source.uri for h in collection.search("diesel", mode="lexical").hits] == ["engine.txt"]
        collection.add(five_documents()[:1])
        assert collection.search("full moon tides").hits[0].source.uri == "tides.txt"


def test_lost_caches_are_made_again(folder: Path) -> None:
    shutil.rmtree(folder / "lexical")
    with Collection.open(folder, embedder=HashingEmbedder) as collection:
        assert collection.search("diesel", mode="lexical").hits[0].source.uri == "engine.txt"
        assert verify(collection).problems == []


def test_a_writer_whose_word_index_is_damaged_under_it_makes_it_again(folder: Path) -> None:
    with Collection.open(folder, embedder=HashingEmbedder, write=True) as collection:
        collection.search("diesel", mode="lexical")
        index = collection.accelerators._lexical
        assert index is not None

        def broken(*_: object) -> None:
            raise DamagedError("what a merge may leave")

        index.apply = broken  # type: ignore[method-assign]
        collection.add(five_documents()[1:2])
        assert collection.search("flour", mode="lexical").hits[0].source.uri == "bread.txt"
        assert verify(collection).problems == []


def test_flipped_bits_are_never_silent(folder: Path, tmp_path: Path) -> None:
    """Either something is reported, or every answer is what it was. The long loop is `make torture`."""
    questions = ["full moon tides", "diesel torque", "绿茶水温", "长城"]

    def answers(collection: Collection) -> list[object]:
        found: list[object] = []
        for question in questions:
            hits = collection.search(question, k=20).hits
            found.append([(h.passage, h.source, round(h.score, 6)) for h in hits])
        found.append([(row.source, row.content_hash) for row in collection.documents()])
        return found

    with Collection.open(folder, embedder=HashingEmbedder) as collection:
        truth = answers(collection)
        assert verify(collection).problems == []
    chance = random.Random(11)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    silent, noticed = [], 0
    for _ in range(60):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        path = copy / chance.choice(files).relative_to(folder)
        data = bytearray(path.read_bytes())
        position, bit = chance.randrange(len(data)), chance.randrange(8)
        data[position] ^= 1 << bit
        path.write_bytes(data)
        try:
            with Collection.open(copy, embedder=HashingEmbedder) as collection:
                problems = verify(collection).problems
                if not problems and answers(collection) != truth:
                    silent.append((path.name, position, bit))
                noticed += bool(problems)
        except FathomError:
            noticed += 1
    assert silent == [] and noticed > 0
