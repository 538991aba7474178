"""LlamaIndex's own index, engines and pipeline over Fathom's parts."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from fakes import HashingEmbedder, five_documents
from llama_index.core import Document as LlamaDocument
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from retrieval.collection import Collection
from retrieval.errors import UsageError
from retrieval.filters import Filter
from retrieval.llama_index import FathomEmbedding, FathomReranker, FathomRetriever, FathomVectorStore
from retrieval.passages import Hit
from retrieval.reranking.load import load_reranker


@pytest.fixture
def store(collection: Collection) -> FathomVectorStore:
    return FathomVectorStore(collection)


@pytest.fixture
def model(hashing_embedder: HashingEmbedder) -> FathomEmbedding:
    return FathomEmbedding(hashing_embedder)


def nodes_of(model: FathomEmbedding, *rows: tuple[str, str, dict]) -> list[TextNode]:
    """(id, text, metadata) → nodes with embeddings."""
    return [
        TextNode(id_=name, text=text, metadata=facts, embedding=model.get_text_embedding(text))
        for name, text, facts in rows
    ]


def equals(key: str, value: object, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


def found(store: FathomVectorStore, model: FathomEmbedding, question: str, **options: object) -> list[str]:
    query = VectorStoreQuery(
        query_embedding=model.get_query_embedding(question),
        query_str=question,
        **{"similarity_top_k": 10, **options},
    )
    return list(store.query(query).ids or [])


def test_the_retriever_gives_nodes_that_say_where_they_come_from(collection: Collection) -> None:
    collection.add(five_documents())
    retriever = FathomRetriever(collection, k=3)
    best = retriever.retrieve("What causes spring tides?")[0]
    document = collection.document_by_uri("tides.txt")
    facts = best.node.metadata
    assert (facts["document"], facts["title"]) == ("tides.txt", "Tides")
    assert document.text[facts["start"] : facts["end"]] == best.node.get_content(metadata_mode=MetadataMode.NONE)
    assert best.node.ref_doc_id == "tides.txt"
    again = retriever.retrieve("What causes spring tides?")[0]
    assert again.node.node_id == best.node.node_id
    assert "score_fused" not in best.node.get_content(metadata_mode=MetadataMode.LLM)
    only = FathomRetriever(collection, filters=[Filter("document", "=", "bread.txt")])
    assert {n.node.ref_doc_id for n in only.retrieve("tides at full moon")} == {"bread.txt"}
    assert asyncio.run(retriever.aretrieve("What causes spring tides?"))[0].node.node_id == best.node.node_id


def test_query_engine_and_chat_engines_of_llama_index_run_over_the_retriever(collection: Collection) -> None:
    collection.add(five_documents())
    retriever = FathomRetriever(collection, k=2)
    engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())
    response = engine.query("What does bread need?")
    assert response.source_nodes[0].node.metadata["document"] == "bread.txt"
    assert "yeast" in str(response)  # MockLLM repeats its prompt, so the passage reached it
    for kind in (ContextChatEngine, CondensePlusContextChatEngine):
        chat = kind.from_defaults(retriever=retriever, llm=MockLLM())
        answer = chat.chat("What does bread need?")
        assert answer.source_nodes[0].node.metadata["document"] == "bread.txt"
        streamed = chat.stream_chat("And the engine, how does it ignite fuel?")
        assert "".join(streamed.response_gen)


def test_an_index_is_built_from_documents_and_read_from_the_store_alone(
    store: FathomVectorStore, model: FathomEmbedding, collection: Collection
) -> None:
    documents = [
        LlamaDocument(text=d.text, id_=d.uri, metadata={"title": d.title, "tags": ["a", "b"], "year": 2000 + i})
        for i, d in enumerate(five_documents())
    ]
    VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=model,
        transformations=[SentenceSplitter(chunk_size=128, chunk_overlap=0)],
    )
    index = VectorStoreIndex.from_vector_store(FathomVectorStore(collection), embed_model=model)
    best = index.as_retriever(similarity_top_k=1).retrieve("flour, water, salt and yeast")[0]
    assert best.node.ref_doc_id == "bread.txt"
    assert best.node.metadata == {"title": "Bread", "tags": ["a", "b"], "year": 2001}
    assert 0 < best.score <= 1.0001
    response = index.as_query_engine(llm=MockLLM(), similarity_top_k=1).query("How hot should green tea water be? 绿茶")
    assert "绿茶" in str(response)


@pytest.mark.parametrize("mode", ["default", "hybrid", "text_search", "sparse"])
def test_all_query_modes_find_the_right_node(store: FathomVectorStore, model: FathomEmbedding, mode: str) -> None:
    store.add(nodes_of(model, *((d.uri, d.text, {}) for d in five_documents())))
    assert found(store, model, "长城位于中国北方", mode=VectorStoreQueryMode(mode))[0] == "长城.txt"
    assert found(store, model, "dough yeast flour", mode=VectorStoreQueryMode(mode))[0] == "bread.txt"


def test_what_cannot_be_asked_is_refused_in_words(store: FathomVectorStore, model: FathomEmbedding) -> None:
    store.add(nodes_of(model, ("a", "one text", {})))
    with pytest.raises(UsageError, match="mmr"):
        found(store, model, "one", mode=VectorStoreQueryMode.MMR)
    with pytest.raises(UsageError, match="needs the question's embedding"):
        store.query(VectorStoreQuery(query_str="one", similarity_top_k=1))
    with pytest.raises(UsageError, match="3 numbers and the collection 64"):
        store.add([TextNode(id_="b", text="x", embedding=[1.0, 2.0, 3.0])])
    with pytest.raises(UsageError, match="all zeros"):
        store.add([TextNode(id_="b", text="x", embedding=[0.0] * 64)])
    with pytest.raises(UsageError, match="not offered"):
        found(store, model, "one", filters=equals("year", "2", FilterOperator.CONTAINS))
    assert [node.node_id for node in store.get_nodes()] == ["a"]


def test_metadata_filters_combine_and_nest(store: FathomVectorStore, model: FathomEmbedding) -> None:
    store.add(
        nodes_of(
            model,
            ("a", "red apple", {"year": 2019, "lang": "en", "title": "Fruit", "path": "x/*y"}),
            ("b", "green apple", {"year": 2021, "lang": "en", "format": "pdf"}),
            ("c", "yellow apple", {"year": 2023, "lang": "zh", "owner": "someone"}),
        )
    )

    def ids(filters: MetadataFilters) -> set[str]:
        return set(found(store, model, "apple", filters=filters))

    assert ids(equals("year", 2021, FilterOperator.GTE)) == {"b", "c"}
    assert ids(equals("lang", "en")) == {"a", "b"}
    assert ids(equals("lang", "en", FilterOperator.NE)) == {"c"}
    assert ids(equals("year", [2019, 2023], FilterOperator.IN)) == {"a", "c"}
    assert ids(equals("year", [2019, 2023], FilterOperator.NIN)) == {"b"}
    # Keys that are also names of ours mean the node's own metadata.
    assert ids(equals("title", "Fruit")) == {"a"}
    assert ids(equals("format", "pdf")) == {"b"}
    assert ids(equals("owner", "someone")) == {"c"}
    assert ids(equals("path", "*y", FilterOperator.TEXT_MATCH)) == {"a"}
    old = MetadataFilter(key="year", value=2020, operator=FilterOperator.LT)
    chinese = MetadataFilter(key="lang", value="zh")
    either = MetadataFilters(filters=[old, chinese], condition=FilterCondition.OR)
    assert ids(either) == {"a", "c"}
    assert ids(MetadataFilters(filters=[either, equals("lang", "en")])) == {"a"}
    assert ids(MetadataFilters(filters=[old, chinese], condition=FilterCondition.NOT)) == {"b"}
    # The best match outside the filter must not take a place inside it.
    assert len(found(store, model, "yellow apple", filters=equals("lang", "en"), similarity_top_k=2)) == 2


def test_nodes_are_replaced_and_deleted_by_id_by_document_and_by_filter(
    store: FathomVectorStore, model: FathomEmbedding
) -> None:
    nodes = nodes_of(model, ("n1", "one fish", {"kind": "x"}), ("n2", "two fish", {"kind": "y"}), ("n3", "red", {}))
    for node in nodes[:2]:
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="doc")
    assert store.add(nodes) == ["n1", "n2", "n3"]
    assert set(found(store, model, "fish", doc_ids=["doc"])) == {"n1", "n2"}
    assert found(store, model, "fish", node_ids=["n2"]) == ["n2"]
    nodes[0].set_content("blue whale")
    nodes[0].embedding = model.get_text_embedding("blue whale")
    store.add(nodes[:1])
    assert len(store.get_nodes()) == 3
    assert store.get_nodes(node_ids=["n1"])[0].get_content() == "blue whale"
    store.delete_nodes()
    assert len(store.get_nodes()) == 3
    store.delete_nodes(node_ids=["n2", "n3"], filters=equals("kind", "y"))
    assert {node.node_id for node in store.get_nodes()} == {"n1", "n3"}
    store.delete("doc")
    assert {node.node_id for node in store.get_nodes()} == {"n3"}
    store.clear()
    assert store.get_nodes() == []


def test_owners_do_not_see_each_other(collection: Collection, model: FathomEmbedding) -> None:
    ann, bob = FathomVectorStore(collection, owner="ann"), FathomVectorStore(collection, owner="bob")
    ann.add(nodes_of(model, ("same", "ann's secret", {})))
    bob.add(nodes_of(model, ("same", "bob's secret", {})))
    assert [n.get_content() for n in ann.get_nodes()] == ["ann's secret"]
    query = VectorStoreQuery(query_embedding=model.get_query_embedding("secret"), similarity_top_k=9)
    assert [n.get_content() for n in bob.query(query).nodes or []] == ["bob's secret"]
    bob.clear()
    assert len(ann.get_nodes()) == 1


def test_metadata_of_a_synced_file_cannot_pose_as_a_node(collection: Collection, store: FathomVectorStore) -> None:
    document = five_documents()[0]
    forged = '{"id_": "forged", "text": "forged", "metadata": {}, "class_name": "TextNode"}'
    collection.add([replace(document, metadata={"_node_content": forged, "_node_type": "TextNode"})])
    (node, *_) = store.get_nodes()
    assert node.node_id.startswith("tides.txt#") and "forged" not in str(node.metadata)
    store.delete("tides.txt")
    assert store.get_nodes() == []


def test_the_ingestion_pipeline_writes_into_the_store(store: FathomVectorStore, model: FathomEmbedding) -> None:
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=40, chunk_overlap=10), model], vector_store=store
    )
    text = " ".join(d.text for d in five_documents())
    pipeline.run(documents=[LlamaDocument(text=text, id_="all")])
    nodes = store.get_nodes()
    assert len(nodes) > 1 and all(node.ref_doc_id == "all" for node in nodes)
    assert found(store, model, "diesel engine compression")[0] in {node.node_id for node in nodes}


def test_the_embedding_model_keeps_the_embedder_s_vectors_and_its_limit(hashing_embedder: HashingEmbedder) -> None:
    model = FathomEmbedding(hashing_embedder)
    assert np.allclose(model.get_text_embedding("bread"), hashing_embedder.embed_passages(["bread"])[0])
    assert np.allclose(model.get_query_embedding("bread"), hashing_embedder.embed_queries(["bread"])[0])
    with pytest.raises(UsageError, match="split smaller"):
        model.get_text_embedding("word " * 500)


def test_the_reranker_orders_by_its_scores_and_refuses_what_is_none() -> None:
    nodes = [NodeWithScore(node=TextNode(id_=name, text=name * 3), score=0.5) for name in "abc"]
    letters = {"a": 1, "b": 3, "c": 2}
    by_letter = FathomReranker(lambda question, hits: [letters[hit.passage.text[0]] for hit in hits], top_n=2)
    assert [n.node.node_id for n in by_letter.postprocess_nodes(nodes, query_str="?")] == ["b", "c"]
    for wrong in ([1.0, 2.0], [1.0, float("nan"), 2.0]):
        with pytest.raises(UsageError):
            FathomReranker(lambda question, hits, wrong=wrong: wrong).postprocess_nodes(nodes, query_str="?")
    with pytest.raises(UsageError, match="needs the question"):
        by_letter.postprocess_nodes(nodes)


def test_a_reranker_is_given_title_headings_and_the_scores_of_the_search(collection: Collection) -> None:
    collection.add(five_documents())
    given = []

    def watch(question: str, hits: Sequence[Hit]) -> list[float]:
        given.extend(hits)
        return [float(len(hits) - place) for place in range(len(hits))]

    nodes = FathomRetriever(collection, k=3).retrieve("what causes tides")
    found = FathomReranker(watch, top_n=2).postprocess_nodes(nodes, query_str="what causes tides")
    assert [node.node.node_id for node in found] == [node.node.node_id for node in nodes[:2]]
    own = collection.search("what causes tides", k=3).hits
    assert [(hit.source.title, hit.passage.text, hit.scores) for hit in given] == [
        (hit.source.title, hit.passage.text, hit.scores) for hit in own
    ]
    foreign = NodeWithScore(node=TextNode(text="x", metadata={"score_dense": "high", "file_name": "a.txt"}), score=1.0)
    FathomReranker(watch).postprocess_nodes([foreign], query_str="?")
    assert (given[-1].source.title, given[-1].scores.dense) == ("a.txt", None)


@pytest.mark.slow
def test_the_packaged_reranker_is_a_postprocessor(collection: Collection) -> None:
    collection.add(five_documents())
    nodes = FathomRetriever(collection, k=5).retrieve("What does bread need besides flour?")
    reranker = load_reranker("packaged", device="cpu")
    assert reranker is not None
    found = FathomReranker(reranker, top_n=2).postprocess_nodes(nodes, query_str="What does bread need besides flour?")
    assert found[0].node.metadata["document"] == "bread.txt"
    assert all(0.0 <= (node.score or 0.0) <= 1.0 for node in found)
