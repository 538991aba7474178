"""Correctness probes that LlamaIndex's stock parts fail (core 0.14.25, FAISS store 0.7.0), passed here on ours."""

import re

import pytest
from fakes import HashingEmbedder, five_documents
from llama_index.core import Document as LlamaDocument
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import QueryBundle, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery

from retrieval.collection import Collection
from retrieval.errors import UsageError
from retrieval.fusion import reciprocal_rank
from retrieval.llama_index import FathomEmbedding, FathomReranker, FathomRetriever, FathomVectorStore
from retrieval.passages import Document, Hit


@pytest.fixture
def model(hashing_embedder: HashingEmbedder) -> FathomEmbedding:
    return FathomEmbedding(hashing_embedder)


@pytest.fixture
def index(collection: Collection, model: FathomEmbedding) -> VectorStoreIndex:
    """An empty LlamaIndex index over a collection."""
    context = StorageContext.from_defaults(vector_store=FathomVectorStore(collection))
    return VectorStoreIndex.from_documents(
        [],
        storage_context=context,
        embed_model=model,
        transformations=[SentenceSplitter(chunk_size=128, chunk_overlap=0)],
    )


def found(index: VectorStoreIndex, question: str, k: int = 10) -> list[str]:
    return [node.node.get_content() for node in index.as_retriever(similarity_top_k=k).retrieve(question)]


def test_an_id_is_never_used_again_after_a_delete(collection: Collection, model: FathomEmbedding) -> None:
    """Stock: add a, b, c; delete a; add d; the query for c returns d."""
    store = FathomVectorStore(collection)

    def add(name: str, text: str) -> None:
        store.add([TextNode(id_=name, text=text, embedding=model.get_text_embedding(text))])

    def best(text: str) -> list[str] | None:
        return store.query(VectorStoreQuery(query_embedding=model.get_query_embedding(text), similarity_top_k=1)).ids

    add("a", "apples grow on trees")
    add("b", "boats float on water")
    add("c", "clocks show the hour")
    store.delete_nodes(["a"])
    add("d", "dogs bark at night")
    assert best("clocks show the hour") == ["c"]
    assert best("dogs bark at night") == ["d"]
    store.delete_nodes(["d"])
    assert best("clocks show the hour") == ["c"]
    assert best("apples grow on trees") != ["a"]


def test_delete_and_update_of_a_document_leave_no_vector_behind(index: VectorStoreIndex) -> None:
    """Stock: NotImplementedError, or a stale vector and a KeyError at the next question."""
    index.insert(LlamaDocument(text="the old price is ten", id_="price"))
    index.insert(LlamaDocument(text="the colour is blue", id_="colour"))
    index.update_ref_doc(LlamaDocument(text="the new price is twelve", id_="price"))
    assert sorted(found(index, "price")) == ["the colour is blue", "the new price is twelve"]
    index.delete_ref_doc("price")
    assert found(index, "the new price is twelve") == ["the colour is blue"]


def ranking(nodes: list) -> list[str]:
    return [node.node.metadata["document"] for node in nodes]


@pytest.mark.parametrize("mode", ["reciprocal_rerank", "relative_score", "dist_based_score", "simple"])
def test_query_fusion_keeps_the_best_first(collection: Collection, mode: str) -> None:
    """Stock over IndexFlatL2: the ranking is exactly inverted, since a distance is taken for a similarity."""
    collection.add(five_documents())
    retriever = FathomRetriever(collection, mode="dense", k=5)
    question = "Tides are caused by the moon. Spring tides come at full moon."
    alone = retriever.retrieve(question)
    assert ranking(alone)[0] == "tides.txt"
    assert [node.score for node in alone] == sorted((node.score for node in alone), reverse=True)
    fused = QueryFusionRetriever(
        [retriever], mode=mode, num_queries=1, similarity_top_k=5, llm=MockLLM(), use_async=False
    ).retrieve(question)
    assert ranking(fused)[0] == "tides.txt"
    if mode != "dist_based_score":  # ties at 0 and 1 are clipped there
        assert ranking(fused) == ranking(alone)


def test_a_similarity_cutoff_keeps_the_best(collection: Collection) -> None:
    """Stock: keeps the two worst."""
    collection.add(five_documents())
    question = "Bread needs flour, water, salt and yeast. Knead the dough well."
    nodes = FathomRetriever(collection, mode="dense", k=5).retrieve(question)
    cutoff = (nodes[0].score + nodes[1].score) / 2
    kept = SimilarityPostprocessor(similarity_cutoff=cutoff).postprocess_nodes(
        nodes, query_bundle=QueryBundle(question)
    )
    assert ranking(kept) == ["bread.txt"]


def test_metadata_filters_act_inside_the_search(index: VectorStoreIndex) -> None:
    """Stock: ValueError "Metadata filters not implemented"."""
    for n in range(30):
        index.insert(LlamaDocument(text="the same words", id_=f"d{n}", metadata={"year": 2000 + n}))
    late = MetadataFilters(filters=[MetadataFilter(key="year", value=2027, operator=">=")])
    nodes = index.as_retriever(similarity_top_k=3, filters=late).retrieve("the same words")
    assert sorted(node.node.metadata["year"] for node in nodes) == [2027, 2028, 2029]


def test_chinese_words_score(collection: Collection) -> None:
    """Stock BM25: every score is 0."""
    collection.add(five_documents())
    nodes = FathomRetriever(collection, mode="lexical").retrieve("城墙是哪个朝代修建的")
    assert ranking(nodes)[0] == "长城.txt"
    assert nodes[0].score > 0


def test_weights_of_lists_are_honoured_in_rank_fusion() -> None:
    """Stock: retriever_weights are ignored with reciprocal rank fusion."""
    lists = [[1, 2, 3], [3, 2, 1]]
    first = reciprocal_rank(lists, weights=[1.0, 0.1])
    second = reciprocal_rank(lists, weights=[0.1, 1.0])
    assert max(first, key=first.__getitem__) == 1
    assert max(second, key=second.__getitem__) == 3
    assert first != reciprocal_rank(lists)


def test_of_two_documents_of_equal_content_one_can_be_deleted(collection: Collection, index: VectorStoreIndex) -> None:
    """Stock ingestion (upserts and delete): one of the two is never deleted."""
    text = "Two copies of one and the same page."
    collection.add([Document("one.txt", text), Document("two.txt", text)])
    collection.remove(["one.txt"])
    assert ranking(FathomRetriever(collection).retrieve(text)) == ["two.txt"]
    collection.add([Document("one.txt", text)])
    assert sorted(ranking(FathomRetriever(collection).retrieve(text))) == ["one.txt", "two.txt"]
    collection.remove(["one.txt", "two.txt"])
    for name in ("a", "b"):
        index.insert(LlamaDocument(text=text, id_=name))
    index.delete_ref_doc("a")
    assert [n.node.ref_doc_id for n in index.as_retriever(similarity_top_k=9).retrieve(text)] == ["b"]


def test_an_upsert_through_the_ingestion_pipeline_leaves_one_version(
    collection: Collection, model: FathomEmbedding
) -> None:
    """Stock: the changed document's old vector stays in place."""
    store = FathomVectorStore(collection)
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=128, chunk_overlap=0), model],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
    )
    pipeline.run(documents=[LlamaDocument(text="version one", id_="x")])
    pipeline.run(documents=[LlamaDocument(text="version two", id_="x")])
    assert [node.get_content() for node in store.get_nodes()] == ["version two"]


def test_a_relevance_that_does_not_parse_never_moves_to_another_passage() -> None:
    """Stock LLMRerank: a line without a number is skipped and the scores after it shift to the wrong documents."""
    replies = {"apple": "Relevance: 2", "boat": "no idea", "clock": "Relevance: 9"}
    nodes = scored_nodes(list(replies))

    def judge(question: str, hits: list[Hit]) -> list[float]:
        scores = []
        for hit in hits:
            number = re.search(r"\d+", replies[hit.passage.text])
            scores.append(float(number[0]) if number else float("nan"))
        return scores

    with pytest.raises(UsageError, match="no number"):
        FathomReranker(judge).postprocess_nodes(nodes, query_str="what tells the time?")
    replies["boat"] = "Relevance: 0"
    order = FathomReranker(judge).postprocess_nodes(nodes, query_str="what tells the time?")
    assert [(n.node.get_content(), n.score) for n in order] == [("clock", 9.0), ("apple", 2.0), ("boat", 0.0)]


def scored_nodes(texts: list[str]) -> list:
    from llama_index.core.schema import NodeWithScore

    return [NodeWithScore(node=TextNode(id_=text, text=text), score=0.1) for text in texts]
