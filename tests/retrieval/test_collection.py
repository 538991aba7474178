"""A collection from the outside: adding, changing, removing, searching, and what a second process sees."""

import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from fakes import HashingEmbedder

from retrieval.collection import CATALOGUE, Collection
from retrieval.errors import BusyError, DamagedError, FathomError, MismatchError, MissingError, UsageError
from retrieval.passages import Document, Span
from retrieval.splitting import SplitSettings
from retrieval.verifying import verify


def uris(collection: Collection, query: str, **kwargs: object) -> list[str]:
    return [hit.source.uri for hit in collection.search(query, **kwargs).hits]  # type: ignore[arg-type]


def test_hits_carry_the_exact_span(collection: Collection, documents: list[Document]) -> None:
    collection.add(documents)
    for mode in ("lexical", "dense", "hybrid"):
        hits = collection.search("spring tides at full moon", mode=mode).hits  # type: ignore[arg-type]
        assert hits[0].source.uri == "tides.txt"
        for hit in hits:
            document = collection.document(hit.passage.document_id)
            assert document.text[hit.passage.start : hit.passage.end] == hit.passage.text
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_chinese_is_found_by_words(collection: Collection, documents: list[Document]) -> None:
    collection.add(documents)
    assert uris(collection, "绿茶的水温", mode="lexical")[0] == "茶.txt"
    assert uris(collection, "长城在哪里", mode="lexical")[0] == "长城.txt"


def test_hybrid_scores_show_every_leg(collection: Collection, documents: list[Document]) -> None:
    collection.add(documents)
    best = collection.search("diesel engine torque").hits[0]
    assert best.source.uri == "engine.txt" and best.scores.fused == best.score and 0.5 < best.score <= 1.0
    assert best.scores.dense is not None and best.scores.lexical is not None and best.scores.rerank is None


def test_adding_again_changes_nothing_and_embeds_nothing(
    collection: Collection, documents: list[Document], hashing_embedder: HashingEmbedder
) -> None:
    first = collection.add(documents)
    assert (first.added, first.updated, first.unchanged) == (5, 0, 0)
    sequence, embedded = collection.catalogue.sequence(), hashing_embedder.embedded
    again = collection.add(documents)
    assert (again.added, again.updated, again.unchanged, again.embedded) == (0, 0, 5, 0)
    assert collection.catalogue.sequence() == sequence and hashing_embedder.embedded == embedded


def test_an_update_replaces_and_embeds_only_what_is_new(collection: Collection) -> None:
    long = "\n\n".join(f"Paragraph {i} speaks of subject{i} " + "and goes on about it. " * 12 for i in range(12))
    first = collection.add([Document("long.txt", long)])
    report = collection.add([Document("long.txt", long.replace("subject11", "kangaroos"))])
    assert report.updated == 1 and 0 < report.embedded < first.embedded / 2
    assert uris(collection, "kangaroos", mode="lexical") == ["long.txt"]
    assert uris(collection, "subject11", mode="lexical") == []
    assert len(collection.documents()) == 1


def test_a_title_or_metadata_alone_is_a_change(collection: Collection) -> None:
    collection.add([Document("a.txt", "some text")])
    assert collection.add([Document("a.txt", "some text", title="New")]).updated == 1
    assert collection.add([Document("a.txt", "some text", title="New", metadata={"year": 1})]).updated == 1
    assert collection.documents()[0].source.metadata == {"year": 1}


def test_removal_is_effective_at_once_and_ids_never_return(collection: Collection, documents: list[Document]) -> None:
    collection.add(documents)
    before = {hit.passage.id for hit in collection.search("moon bread engine", k=50).hits}
    assert collection.remove(["tides.txt", "nothing.txt"]) == ["tides.txt"]
    for mode in ("lexical", "dense", "hybrid"):
        assert "tides.txt" not in uris(collection, "full moon tides", mode=mode, k=50)
    collection.add([Document("new.txt", "Full moon tides in a new document.")])
    new = {hit.passage.id for hit in collection.search("full moon tides", k=50).hits if hit.source.uri == "new.txt"}
    assert new and not new & before
    assert verify(collection).problems == []


def test_two_documents_of_equal_content_live_apart(collection: Collection) -> None:
    collection.add([Document("a.txt", "the same words"), Document("b.txt", "the same words")])
    collection.remove(["a.txt"])
    assert uris(collection, "the same words") == ["b.txt"]


def test_the_same_uri_twice_in_one_batch_keeps_the_last(collection: Collection) -> None:
    report = collection.add([Document("a.txt", "first words"), Document("a.txt", "second words")])
    assert (report.added, report.updated) == (1, 1)
    assert uris(collection, "second words") == ["a.txt"] and uris(collection, "first", mode="lexical") == []


def test_a_reader_sees_each_commit_of_the_writer(collection: Collection, hashing_embedder: HashingEmbedder) -> None:
    collection.add([Document("a.txt", "alpha beta")])
    with Collection.open(collection.folder, embedder=lambda: hashing_embedder) as reader:
        assert uris(reader, "alpha") == ["a.txt"]
        collection.add([Document("b.txt", "gamma delta")])
        for mode in ("lexical", "dense"):
            assert uris(reader, "gamma delta", mode=mode)[0] == "b.txt"
        collection.remove(["b.txt"])
        assert "b.txt" not in uris(reader, "gamma delta", k=50)
        collection.optimise()
        collection.add([Document("c.txt", "epsilon zeta")])
        for mode in ("lexical", "dense"):
            assert uris(reader, "epsilon zeta", mode=mode)[0] == "c.txt"


def test_readers_search_while_a_writer_writes(collection: Collection, hashing_embedder: HashingEmbedder) -> None:
    """No error, never a passage whose text is not its document's, whatever the writer does meanwhile."""
    collection.add([Document(f"{i}.txt", f"word{i} common text") for i in range(20)])
    stop, problems, searches = threading.Event(), [], [0]

    def read() -> None:
        with Collection.open(collection.folder, embedder=lambda: hashing_embedder) as reader:
            while not stop.is_set():
                try:
                    for hit in reader.search("common text word3", k=20).hits:
                        number = hit.source.uri.split(".")[0]
                        if f"word{number} " not in hit.passage.text:
                            problems.append(f"{hit.source.uri}: {hit.passage.text}")
                    searches[0] += 1
                except Exception as error:
                    problems.append(repr(error))
                    return

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(12):
        collection.add([Document(f"{i}.txt", f"word{i} common text turn {turn}") for i in range(turn, turn + 5)])
        collection.remove([f"{turn}.txt"])
        if turn % 5 == 4:
            collection.optimise()
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == [] and searches[0] > 0


def test_one_collection_object_serves_many_threads(collection: Collection, documents: list[Document]) -> None:
    collection.add(documents)
    expected = uris(collection, "bread and salt")
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(uris(collection, "bread and salt"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


def test_two_writers(collection: Collection) -> None:
    with pytest.raises(BusyError, match="is being changed by process"):
        Collection.open(collection.folder, write=True)


@pytest.mark.parametrize("other", [HashingEmbedder(salt="other weights"), HashingEmbedder(dimension=32)])
def test_vectors_of_another_model_are_never_mixed_in(
    collection: Collection, documents: list[Document], other: HashingEmbedder
) -> None:
    collection.add(documents)
    with Collection.open(collection.folder, embedder=lambda: other) as reader:
        with pytest.raises(MismatchError, match="fathom index reembed --collection shelf"):
            reader.search("moon")
        assert set(uris(reader, "moon", mode="lexical")) == {"tides.txt"}
    collection.close()
    with Collection.open(collection.folder, embedder=lambda: other, write=True) as writer:
        with pytest.raises(MismatchError):
            writer.add([Document("x.txt", "new text")])
        assert len(writer.documents()) == 5


def test_a_model_that_lies_about_itself_is_found_by_its_vectors(collection: Collection) -> None:
    liar = HashingEmbedder(salt="changed")
    liar.fingerprint = collection.fingerprint.embedder
    with Collection.open(collection.folder, embedder=lambda: liar) as reader:
        with pytest.raises(MismatchError, match="its vectors differ"):
            reader.search("moon")


def test_errors_in_words(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="question is empty"):
        collection.search("   ")
    with pytest.raises(UsageError, match="the mode is lexical, dense or hybrid"):
        collection.search("x", mode="fuzzy")  # type: ignore[arg-type]
    with pytest.raises(MissingError, match="there is no collection"):
        Collection.open(tmp_path / "nowhere")
    with pytest.raises(MissingError, match="'x.txt'"):
        collection.document_by_uri("x.txt")
    with pytest.raises(UsageError, match="already holds something"):
        Collection.create(collection.folder, name="again", embedder=HashingEmbedder)


def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / CATALOGUE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(DamagedError, match="damaged"):
        Collection.open(folder)
    (folder / CATALOGUE).unlink()
    sqlite3.connect(folder / CATALOGUE).execute("CREATE TABLE documents (id)").connection.close()
    with pytest.raises(DamagedError, match="not one of this version"):
        Collection.open(folder)


def test_passages_made_elsewhere(collection: Collection, hashing_embedder: HashingEmbedder) -> None:
    document = Document("x.txt", "first part. second part.")
    spans = [Span(0, 11, None, (), "", 4), Span(12, 24, None, (), "", 4)]
    vectors = hashing_embedder.embed_passages(["first part.", "second part."])
    assert collection.add_passages([(document, spans, vectors)]).passages == 2
    assert collection.search("second part").hits[0].passage.text == "second part."
    # Vectors from elsewhere are never taken for the embedder's own.
    assert collection.add([Document("own.txt", "first part.")]).embedded == 1
    with pytest.raises(ValueError, match="2 spans but 1 vectors"):
        collection.add_passages([(Document("y.txt", document.text), spans, vectors[:1])])
    assert verify(collection).problems == []


def test_large_and_empty_documents(collection: Collection) -> None:
    text = "\n\n".join(f"Paragraph number {i} about theme{i % 97}." for i in range(4000))
    report = collection.add([Document("large.txt", text), Document("empty.txt", "")])
    assert report.added == 2 and report.passages > 50
    assert verify(collection).problems == []
    assert collection.search("theme5").hits[0].source.uri == "large.txt"


def test_a_failing_source_loses_nothing_saved(collection: Collection) -> None:
    def source():  # type: ignore[no-untyped-def]
        for i in range(600):
            yield Document(f"{i}.txt", f"document number {i}")
        raise RuntimeError("the shelf fell over")

    saved: list[str] = []
    with pytest.raises(RuntimeError, match="fell over"):
        collection.add(source(), saved=saved.extend)
    assert len(saved) >= 256
    assert {row.source.uri for row in collection.documents()} == set(saved)
    assert verify(collection).problems == []


def test_reopening_keeps_everything(collection: Collection, documents: list[Document]) -> None:
    collection.add(documents)
    expected = collection.search("salt and yeast").hits
    collection.close()
    with Collection.open(collection.folder, embedder=HashingEmbedder) as reader:
        again = reader.search("salt and yeast").hits
        assert [(h.passage, h.source, h.score) for h in again] == [(h.passage, h.source, h.score) for h in expected]
        assert reader.status()["documents"] == 5 and not reader.replaced


@pytest.mark.parametrize("count", [7000])
def test_snapshot_and_replay_agree_with_the_catalogue(tmp_path: Path, count: int) -> None:
    """Above the replay limit a snapshot is written on close; both ways of opening give the same hits."""
    embedder = HashingEmbedder(dimension=16)
    folder = tmp_path / "c"
    random = np.random.default_rng(0)
    vectors = random.normal(size=(count, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with Collection.create(folder, name="c", embedder=lambda: embedder, split=SplitSettings()) as new:
        text = "word"
        new.add_passages(
            (Document(f"{i}", text), [Span(0, 4, None, (), "", 3)], vectors[i : i + 1]) for i in range(count)
        )
        new.remove([str(i) for i in range(0, 100)])
        expected = new.accelerators.search_dense(vectors[500], 10, None)
    assert list((folder / "dense").glob("*.faiss"))
    with Collection.open(folder, embedder=lambda: embedder) as reader:
        assert reader.accelerators.search_dense(vectors[500], 10, None) == expected
    for path in (folder / "dense").iterdir():
        path.unlink()
    with Collection.open(folder, embedder=lambda: embedder) as reader:
        assert reader.accelerators.search_dense(vectors[500], 10, None) == expected


def test_a_search_says_what_each_leg_found_and_needs_no_texts(
    collection: Collection, documents: list[Document]
) -> None:
    collection.add(documents)
    both = collection.search("spring tides", k=3)
    assert both.ranking == [(hit.passage.id, hit.score) for hit in both.hits]
    for leg in ("lexical", "dense"):
        alone = collection.search("spring tides", mode=leg, k=100)  # type: ignore[arg-type]
        assert both.legs[leg] == alone.legs[leg]
        assert sorted(both.legs[leg]) == sorted((hit.passage.id, hit.score) for hit in alone.hits)
        assert set(alone.legs) == {leg}
    bare = collection.search("spring tides", k=3, fetch=False)
    assert bare.hits == () and bare.ranking == both.ranking


def test_a_vector_that_is_no_vector_is_refused(
    collection: Collection,
    documents: list[Document],
    hashing_embedder: HashingEmbedder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collection.add(documents)
    collection.search("tides")
    nothing = np.full((1, hashing_embedder.dimension), np.nan, np.float32)
    monkeypatch.setattr(hashing_embedder, "embed_queries", lambda texts: nothing)
    with pytest.raises(FathomError, match="not finite"):
        collection.search("tides", mode="dense")
