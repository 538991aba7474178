"""LlamaIndex's stock pipeline, timed by stage: files or passages in, one line of JSON out. Knows nothing of Fathom.

Runs in the environment that `eval/baselines/install.py` makes; only the standard library is imported at the top, so
that XX
10), FaissVectorStore over IndexFlatL2 (the documented index), persist().

    python llama_index_stock.py index --model DIR --store DIR (--passages FILE | --folder DIR) [--vectors FILE.npy]
    python llama_index_stock.py search --model DIR --store DIR --queries FILE.jsonl [--mode dense|bm25|fusion]
    python llama_index_stock.py insert --model DIR --store DIR

A passage line is {"id": …, "document": …, "text": …}; a query line is {"id": …, "text": …}.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = (
    "llama-index-core",
    "llama-index-vector-stores-faiss",
    "llama-index-embeddings-huggingface",
    "llama-index-retrievers-bm25",
    "sentence-transformers",
    "transformers",
    "torch",
    "faiss-cpu",
)
DEFAULT_CHUNK_TOKENS, DEFAULT_OVERLAP_TOKENS = 1024, 200  # SentenceSplitter's own defaults


class Stages:
    """CPU and wall seconds by stage name, in the order they were first entered."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall


def read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def resident_mb() -> float:
    """Memory of this process now, in MB."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def load_model(folder: str, threads: int) -> Any:
    import torch
    from llama_index.core import Settings
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    torch.set_num_threads(threads)
    model = HuggingFaceEmbedding(model_name=folder, device="cpu")
    Settings.embed_model = model
    Settings.llm = None
    return model


def index(arguments: argparse.Namespace) -> dict[str, Any]:
    """Files or passages → a persisted index; `passages_out` names the passages' texts where it split them itself."""
    import faiss
    from llama_index.core import SimpleDirectoryReader, StorageContext, VectorStoreIndex
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
    from llama_index.vector_stores.faiss import FaissVectorStore

    model = load_model(arguments.model, arguments.threads)
    stages = Stages()
    if arguments.folder:
        with stages.stage("read"):
            documents = SimpleDirectoryReader(arguments.folder, recursive=True, filename_as_id=True).load_data()
        with stages.stage("split"):
            splitter = SentenceSplitter(chunk_size=arguments.chunk_tokens, chunk_overlap=arguments.overlap_tokens)
            nodes = splitter.get_nodes_from_documents(documents)
    else:
        with stages.stage("read"):
            nodes = [
                TextNode(
                    id_=str(line["id"]),
                    text=line["text"],
                    relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=str(line["document"]))},
                )
                for line in read_lines(Path(arguments.passages))
            ]
    if arguments.vectors:
        import numpy

        vectors = numpy.load(arguments.vectors, allow_pickle=False)
        with stages.stage("attach"):
            for node, vector in zip(nodes, vectors, strict=True):
                node.embedding = vector.tolist()
        dimension = vectors.shape[1]
    else:
        dimension = len(model.get_text_embedding("dimension"))
        texts = [node.get_content(metadata_mode="embed") for node in nodes]
        with stages.stage("embed"):
            for node, vector in zip(nodes, model.get_text_embedding_batch(texts), strict=True):
                node.embedding = vector
    with stages.stage("store"):
        store = FaissVectorStore(faiss_index=faiss.IndexFlatL2(dimension))
        made = VectorStoreIndex(nodes, storage_context=StorageContext.from_defaults(vector_store=store))
    with stages.stage("persist"):
        made.storage_context.persist(persist_dir=arguments.store)
    return {"passages": len(nodes), "cpu_s": stages.cpu, "wall_s": stages.wall}


def load(arguments: argparse.Namespace) -> Any:
    from llama_index.core import StorageContext, load_index_from_storage
    from llama_index.vector_stores.faiss import FaissVectorStore

    store = FaissVectorStore.from_persist_dir(arguments.store)
    context = StorageContext.from_defaults(vector_store=store, persist_dir=arguments.store)
    return load_index_from_storage(context)


def search(arguments: argparse.Namespace) -> dict[str, Any]:
    """Queries → ranked (passage, document) ids with the time of each query, embedding included."""
    load_model(arguments.model, arguments.threads)
    before, stages = resident_mb(), Stages()
    with stages.stage("open"):
        made = load(arguments)
        dense = made.as_retriever(similarity_top_k=arguments.k)
    retriever: Any = dense
    if arguments.mode != "dense":
        from llama_index.retrievers.bm25 import BM25Retriever

        with stages.stage("bm25"):
            words = BM25Retriever.from_defaults(docstore=made.docstore, similarity_top_k=arguments.k)
        retriever = words
        if arguments.mode == "fusion":
            from llama_index.core.retrievers import QueryFusionRetriever

            retriever = QueryFusionRetriever(
                [dense, words], similarity_top_k=arguments.k, num_queries=1, mode="relative_score", use_async=False
            )
    queries = read_lines(Path(arguments.queries))
    rankings, wall_ms, cpu_ms = {}, [], []
    for query in queries:
        wall, cpu = time.perf_counter(), time.process_time()
        hits = retriever.retrieve(query["text"])
        wall_ms.append((time.perf_counter() - wall) * 1e3)
        cpu_ms.append((time.process_time() - cpu) * 1e3)
        rankings[str(query["id"])] = [[hit.node.node_id, hit.node.ref_doc_id or ""] for hit in hits]
    return {
        "mode": arguments.mode,
        "wall_ms": wall_ms,
        "cpu_ms": cpu_ms,
        "open_s": stages.wall,
        "open_cpu_s": stages.cpu,
        "grown_mb": resident_mb() - before,
        "rankings": rankings if arguments.rankings else {},
    }


def insert(arguments: argparse.Namespace) -> dict[str, Any]:
    """One more node with a ready vector into a stored index, persisted: what a changed document costs."""
    from llama_index.core.schema import TextNode

    load_model(arguments.model, arguments.threads)
    made = load(arguments)
    dimension = made.vector_store.client.d
    stages = Stages()
    for number in range(arguments.repeats):
        with stages.stage("insert"):
            node = TextNode(id_=f"new-{number}", text="One more passage.", embedding=[1.0] + [0.0] * (dimension - 1))
            made.insert_nodes([node])
        with stages.stage("persist"):
            made.storage_context.persist(persist_dir=arguments.store)
    return {
        "cpu_s": {name: value / arguments.repeats for name, value in stages.cpu.items()},
        "wall_s": {name: value / arguments.repeats for name, value in stages.wall.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="LlamaIndex's stock pipeline, timed by stage.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in (("index", index), ("search", search), ("insert", insert)):
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("--model", required=True, help="folder of the sentence-transformers model")
        command.add_argument("--store", required=True, help="folder that persist() writes")
        command.add_argument("--threads", type=int, default=1)
    given = commands.choices["index"]
    source = given.add_mutually_exclusive_group(required=True)
    source.add_argument("--passages", help="ready passages, one JSON object a line")
    source.add_argument("--folder", help="files to read and split")
    given.add_argument("--vectors", help="ready vectors (.npy), one row a passage: nothing is embedded")
    given.add_argument("--chunk-tokens", type=int, default=DEFAULT_CHUNK_TOKENS)
    given.add_argument("--overlap-tokens", type=int, default=DEFAULT_OVERLAP_TOKENS)
    asked = commands.choices["search"]
    asked.add_argument("--queries", required=True)
    asked.add_argument("--mode", choices=("dense", "bm25", "fusion"), default="dense")
    asked.add_argument("--k", type=int, default=10)
    asked.add_argument("--rankings", action="store_true", help="put every query's ranking into the answer")
    commands.choices["insert"].add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    # LlamaIndex prints while it works ("LLM is explicitly disabled"): keep standard output for the one line.
    output, sys.stdout = sys.stdout, sys.stderr
    answer = arguments.function(arguments)
    answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    answer["versions"] = {name: version(name) for name in PACKAGES}
    output.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
