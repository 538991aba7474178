"""Fathom's parts at LlamaIndex's seams: retriever, vector store, embedding model and reranker, for its engines to use.

Scores are similarities, higher is better, and ids are never reused; LlamaIndex's FAISS store breaks both promises.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import (
    BaseNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from retrieval.collection import Collection
from retrieval.embedding.embedder import Embedder
from retrieval.errors import UsageError
from retrieval.filters import COLUMNS, Filter, Operator
from retrieval.fusion import convex, ranked
from retrieval.passages import Document, Hit, Mode, Passage, Scalar, Scores, Source, Span
from retrieval.reranking.load import Reranker

_NODE, _NODE_TYPE, _REFERENCE = "_node_content", "_node_type", "_ref_doc_id"
_FORMAT = "node"
_OPERATORS: dict[FilterOperator, Operator] = {
    FilterOperator.EQ: "=",
    FilterOperator.NE: "!=",
    FilterOperator.GT: ">",
    FilterOperator.GTE: ">=",
    FilterOperator.LT: "<",
    FilterOperator.LTE: "<=",
}
_MODES: dict[VectorStoreQueryMode, Mode] = {
    VectorStoreQueryMode.DEFAULT: "dense",
    VectorStoreQueryMode.HYBRID: "hybrid",
    VectorStoreQueryMode.SEMANTIC_HYBRID: "hybrid",
    VectorStoreQueryMode.SPARSE: "lexical",
    VectorStoreQueryMode.TEXT_SEARCH: "lexical",
}


class FathomRetriever(BaseRetriever):
    """A collection's own search as a LlamaIndex retriever. Nodes carry document, title, page, start and end."""

    def __init__(
        self,
        collection: Collection,
        *,
        mode: Mode = "hybrid",
        k: int = 10,
        filters: Sequence[Filter] = (),
        owners: frozenset[str] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        self._collection = collection
        self._mode = mode
        self._k = k
        self._filters = tuple(filters)
        self._owners = owners
        super().__init__(callback_manager=callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        result = self._collection.search(
            query_bundle.query_str, mode=self._mode, k=self._k, filters=self._filters, owners=self._owners
        )
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in result.hits]


class FathomEmbedding(BaseEmbedding):
    """A Fathom embedder as a LlamaIndex embedding model, with its query and passage prefixes kept apart."""

    _embedder: Embedder = PrivateAttr()

    def __init__(self, embedder: Embedder, **options: Any) -> None:
        super().__init__(model_name=embedder.fingerprint.model, **options)
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        return "FathomEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embedder.embed_queries([query])[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        counts = self._embedder.count(texts)
        if counts and max(counts) > self._embedder.max_tokens:
            raise UsageError(
                f"a text has {max(counts):,} tokens and {self.model_name} reads {self._embedder.max_tokens}; "
                "the rest would be left out, so split smaller (SentenceSplitter(chunk_size=…))"
            )
        return self._embedder.embed_passages(texts).tolist()


class FathomReranker(BaseNodePostprocessor):
    """Reorders nodes by any reranker. A score that is missing or no number is an error, never another node's score.

    Nodes of `FathomRetriever` bring the scores they were found with, which a calibrated reranker weighs in.
    """

    top_n: int = Field(default=10, description="Nodes kept.")
    _rerank: Reranker = PrivateAttr()

    def __init__(self, rerank: Reranker, *, top_n: int = 10, **options: Any) -> None:
        super().__init__(top_n=top_n, **options)
        self._rerank = rerank

    @classmethod
    def class_name(cls) -> str:
        return "FathomReranker"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise UsageError("a reranker needs the question; pass query_str or query_bundle")
        if not nodes:
            return []
        hits = [_hit(node, rank) for rank, node in enumerate(nodes, 1)]
        scores = [float(score) for score in self._rerank(query_bundle.query_str, hits)]
        if len(scores) != len(nodes) or not np.all(np.isfinite(scores)):
            raise UsageError(
                f"the reranker gave {len(scores)} scores for {len(nodes)} passages"
                if len(scores) != len(nodes)
                else "the reranker gave a score that is no number"
            )
        order = sorted(range(len(nodes)), key=lambda i: -scores[i])
        return [NodeWithScore(node=nodes[i].node, score=scores[i]) for i in order[: self.top_n]]


class FathomVectorStore(BasePydanticVectorStore):
    """A collection as LlamaIndex's vector store. Each node is a document of its own in the collection, named by its
    node id, so nodes of any splitter, overlapping or with metadata of their own, keep both.

    What `sync` put into the collection is found as well: such passages come back as plain nodes. Every write is
    durable when it returns.
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    flat_metadata: bool = False

    _collection: Collection = PrivateAttr()
    _owner: str = PrivateAttr()
    _owners: list[str] | None = PrivateAttr()

    def __init__(self, collection: Collection, *, owner: str | None = None) -> None:
        """`owner` is whose nodes are written, read and deleted. None: all are read, the collection's own written."""
        super().__init__()
        self._collection = collection
        self._owner = owner or collection.owner
        self._owners = None if owner is None else [owner]

    @classmethod
    def class_name(cls) -> str:
        return "FathomVectorStore"

    @property
    def client(self) -> Collection:
        return self._collection

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes with their embeddings, or replace those of the same id. Returns the ids."""
        self._collection.add_passages((_document(node, self._dimension) for node in nodes), owner=self._owner)
        return [node.node_id for node in nodes]

    @property
    def _dimension(self) -> int:
        return self._collection.fingerprint.embedder.dimension

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a LlamaIndex document, or a synced document by its uri."""
        self.delete_nodes(filters=MetadataFilters(filters=[MetadataFilter(key=_REFERENCE, value=ref_doc_id)]))
        if self._collection.catalogue.document_id(ref_doc_id, self._owner) is not None:
            document = self._collection.document_by_uri(ref_doc_id, owner=self._owner)
            if document.format != _FORMAT:
                self._collection.remove([ref_doc_id], owner=self._owner)

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by id, by filter, or those that meet both. Without either nothing is deleted (see `clear`)."""
        if node_ids is None and filters is None:
            return
        sources = self._collection.catalogue.sources(self._matching(filters))
        wanted = None if node_ids is None else set(node_ids)
        self._collection.remove(
            [source.uri for source in sources.values() if wanted is None or source.uri in wanted], owner=self._owner
        )

    def clear(self) -> None:
        """Delete everything of this owner."""
        sources = self._collection.catalogue.sources(self._matching(None))
        self._collection.remove([source.uri for source in sources.values()], owner=self._owner)

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **kwargs: Any
    ) -> list[BaseNode]:
        """The nodes of these ids, those that meet the filters, or both; all of them without either."""
        wanted = None if node_ids is None else set(node_ids)
        nodes: list[BaseNode] = []
        sources = self._collection.catalogue.sources(self._matching(filters))
        for document_id, source in sorted(sources.items()):
            for passage in self._collection.passages_of(document_id):
                node = _node_of(passage, source, Scores())
                if wanted is None or node.node_id in wanted:
                    nodes.append(node)
        return nodes

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Modes default (vectors), sparse and text_search (words), hybrid (both, `alpha` is the share of vectors)."""
        mode = _MODES.get(query.mode)
        if mode is None:
            raise UsageError(
                f"query mode '{query.mode.value}' is not offered; use default, sparse, text_search or hybrid"
            )
        if mode != "lexical" and query.query_embedding is None:
            raise UsageError(f"query mode '{query.mode.value}' needs the question's embedding")
        if mode != "dense" and not query.query_str:
            raise UsageError(f"query mode '{query.mode.value}' needs the question's text")
        # LlamaIndex's retriever sends an empty list of node ids when it means no restriction.
        free = not (query.filters or query.doc_ids or query.node_ids or self._owners)
        documents = set() if free else self._matching(query.filters)
        if query.doc_ids:
            references = MetadataFilter(key=_REFERENCE, value=list(query.doc_ids), operator=FilterOperator.IN)
            documents &= self._matching(MetadataFilters(filters=[references])) | self._named(query.doc_ids)
        if query.node_ids:
            documents &= self._named(query.node_ids)
        k = query.hybrid_top_k if mode == "hybrid" and query.hybrid_top_k else query.similarity_top_k
        scores = self._scores(mode, query, None if free else documents, max(k, self._collection.settings.depth))
        best = ranked(scores, k)
        passages = self._collection.catalogue.passages([key for key, _ in best])
        sources = self._collection.catalogue.sources({passage.document_id for passage in passages.values()})
        nodes: list[BaseNode] = []
        similarities: list[float] = []
        for key, score in best:
            passage = passages.get(key)
            if passage is not None and passage.document_id in sources:
                nodes.append(_node_of(passage, sources[passage.document_id], Scores()))
                similarities.append(float(score))
        return VectorStoreQueryResult(nodes=nodes, similarities=similarities, ids=[node.node_id for node in nodes])

    def _scores(self, mode: Mode, query: VectorStoreQuery, documents: set[int] | None, depth: int) -> dict[int, float]:
        index = self._collection.accelerators
        text = query.query_str or ""
        if mode == "lexical":
            return dict(index.search_lexical(text, depth, documents))
        vector = _unit(query.query_embedding or [], self._dimension)
        dense = dict(index.search_dense(vector, depth, documents))
        if mode == "dense":
            return dense
        lexical = dict(index.search_lexical(text, depth, documents))
        dense.update(index.score_dense(vector, [i for i in lexical if i not in dense]))
        lexical.update(index.score_lexical(text, [i for i in dense if i not in lexical]))
        weight = self._collection.settings.dense_weight if query.alpha is None else query.alpha
        return convex(dense, lexical, weight)

    def _named(self, uris: Sequence[str]) -> set[int]:
        found = (self._collection.catalogue.document_id(uri, self._owner) for uri in uris)
        return {document_id for document_id in found if document_id is not None}

    def _matching(self, filters: MetadataFilters | None) -> set[int]:
        """Ids of the documents of this owner that meet the filters, nested ones included."""
        everything = self._documents(())
        if filters is None or not filters.filters:
            return everything
        parts = [
            self._matching(item) if isinstance(item, MetadataFilters) else self._one(item, everything)
            for item in filters.filters
        ]
        if filters.condition == FilterCondition.OR:
            return set().union(*parts)
        if filters.condition == FilterCondition.NOT:
            return everything.difference(*parts)
        return everything.intersection(*parts)

    def _one(self, item: MetadataFilter, everything: set[int]) -> set[int]:
        key = _stored_key(item.key)
        value = item.value
        if item.operator in (FilterOperator.IN, FilterOperator.NIN) and isinstance(value, list):
            found = set().union(*(self._documents((Filter(key, "=", each),)) for each in value))
            return found if item.operator == FilterOperator.IN else everything - found
        if item.operator == FilterOperator.TEXT_MATCH and isinstance(value, str):
            return self._documents((Filter(key, "~", f"*{_literal_glob(value)}*"),))
        operator = _OPERATORS.get(item.operator)
        if operator is None or value is None or isinstance(value, list):
            raise UsageError(
                f"the filter {item.key} {item.operator.value} {value!r} is not offered; use == != > >= < <= with a "
                "number or text, in and nin with a list, text_match with text"
            )
        return self._documents((Filter(key, operator, value),))

    def _documents(self, filters: tuple[Filter, ...]) -> set[int]:
        return set(self._collection.catalogue.document_ids(filters, self._owners))


def _stored_key(key: str) -> str:
    """Where a node's metadata key is stored: names that mean columns of ours would be compared with those."""
    if key in ("doc_id", "document_id", "ref_doc_id"):
        return _REFERENCE
    return f"metadata.{key}" if key in COLUMNS else key


def _literal_glob(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _document(node: BaseNode, dimension: int) -> tuple[Document, list[Span], np.ndarray]:
    """A node as a document with one passage. The whole node is kept as JSON, and each scalar of its metadata as a fact
    to filter by."""
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    stored = node_to_metadata_dict(node, remove_text=True)
    facts: dict[str, Scalar] = {
        _stored_key(key): value for key, value in node.metadata.items() if isinstance(value, str | int | float | bool)
    }
    facts |= {_NODE: stored[_NODE], _NODE_TYPE: stored[_NODE_TYPE]}
    if node.ref_doc_id:
        facts[_REFERENCE] = node.ref_doc_id
    title = str(node.metadata.get("title") or node.metadata.get("file_name") or "")
    document = Document(uri=node.node_id, text=text, title=title, format=_FORMAT, metadata=facts)
    vector = _unit(node.get_embedding(), dimension)[None, :]
    return document, [Span(0, len(text), None, (), "", 0)], vector


def _unit(values: Sequence[float], dimension: int) -> np.ndarray:
    """float32 (dimension,), of length 1: inner products are cosines then."""
    vector = np.asarray(values, dtype=np.float32)
    if vector.shape != (dimension,):
        raise UsageError(
            f"an embedding has {vector.size} numbers and the collection {dimension}; use the embedding model the "
            "collection was made with, or a collection of its own for this model"
        )
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0.0:
        raise UsageError("an embedding is all zeros or holds a number that is none; check the embedding model")
    return vector / length


def _hit(node: NodeWithScore, rank: int) -> Hit:
    """A node as a reranker is given it: title and headings from its metadata, scores where Fathom found it."""
    metadata = node.node.metadata
    text = node.node.get_content(metadata_mode=MetadataMode.NONE)
    title = str(metadata.get("title") or metadata.get("file_name") or "")
    headings = tuple(name for name in str(metadata.get("headings") or "").split(" › ") if name)
    known = {name: metadata.get(f"score_{name}") for name in ("dense", "lexical", "fused")}
    scores = Scores(
        **{name: float(value) for name, value in known.items() if isinstance(value, int | float) and np.isfinite(value)}
    )
    uri = str(metadata.get("document") or node.node.ref_doc_id or node.node.node_id)
    passage = Passage(rank, 0, 0, 0, len(text), None, headings, text, 0)
    return Hit(rank, float(node.score or 0.0), passage, Source(0, uri, title, _FORMAT, "", {}), scores)


def _node(hit: Hit) -> TextNode:
    return _node_of(hit.passage, hit.source, hit.scores)


def _node_of(passage: Passage, source: Source, scores: Scores) -> TextNode:
    """The node that was added, or for a passage of a synced document a plain one: its id is "uri#start-end"."""
    content = source.metadata.get(_NODE)
    # A synced file may say anything in its metadata; only what `add` wrote has this format.
    if source.format == _FORMAT and isinstance(content, str):
        fields = {_NODE: content, _NODE_TYPE: str(source.metadata.get(_NODE_TYPE, ""))}
        node = metadata_dict_to_node(fields, text=passage.text)
        if isinstance(node, TextNode):
            return node
    metadata: dict[str, Any] = {key: value for key, value in source.metadata.items() if not key.startswith("_")}
    metadata |= {"document": source.uri, "title": source.title, "start": passage.start, "end": passage.end}
    if passage.page is not None:
        metadata["page"] = passage.page
    if passage.headings:
        metadata["headings"] = " › ".join(passage.headings)
    given = {"dense": scores.dense, "lexical": scores.lexical, "fused": scores.fused, "rerank": scores.rerank}
    metadata |= {f"score_{name}": value for name, value in given.items() if value is not None}
    hidden = [key for key in metadata if key not in ("title", "headings", "page")]
    return TextNode(
        id_=f"{source.uri}#{passage.start}-{passage.end}",
        text=passage.text,
        metadata=metadata,
        excluded_llm_metadata_keys=hidden,
        excluded_embed_metadata_keys=list(metadata),
        start_char_idx=passage.start,
        end_char_idx=passage.end,
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=source.uri)},
    )
