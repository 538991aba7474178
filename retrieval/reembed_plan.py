"""A collection and the embedding model it shall move to → what changes, how much is embedded, and how long that takes.

Writes nothing. The moving itself is transfer.py's.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from retrieval.collection import Collection
from retrieval.embedding.embedder import Embedder
from retrieval.splitting import SPLITTER_VERSION, SplitSettings, embedding_text, split

SAMPLE = 48
"""Passages that are embedded to learn the speed; the first few only warm the model up."""
WARM_UP = 8


@dataclass(frozen=True, slots=True)
class ReembedPlan:
    """What re-embedding a collection would do. `passages` and `tokens` are the present ones, which stay where `resplit`
    is False. `changes` maps what differs to (before, after); empty where nothing would change. `seconds` is for the
    embedding alone, from a sample on this machine; `bytes` is the room that the new copy needs beside the old one."""

    documents: int
    passages: int
    tokens: int
    bytes: int
    seconds: float
    resplit: bool
    changes: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def plan_reembed(collection: Collection, embedder: Embedder, splitting: SplitSettings) -> ReembedPlan:
    """Raises what embedding raises."""
    before = {**collection.fingerprint.embedder.to_json(), **asdict(collection.fingerprint.splitter)}
    after = {**embedder.fingerprint.to_json(), **asdict(splitting)}
    changes = {name: (str(before[name]), str(after[name])) for name in after if before[name] != after[name]}
    if collection.fingerprint.splitter_version != SPLITTER_VERSION:
        changes["splitter"] = (collection.fingerprint.splitter_version, SPLITTER_VERSION)
    of_split = {"splitter", "max_tokens", "passage_prefix", *asdict(splitting)}
    documents, passages = collection.catalogue.counts()
    ((tokens,),) = collection.catalogue.select("SELECT COALESCE(SUM(tokens), 0) FROM passages")
    return ReembedPlan(
        documents=documents,
        passages=passages,
        tokens=int(tokens),
        bytes=sum(path.stat().st_size for path in collection.folder.rglob("*") if path.is_file()),
        seconds=int(tokens) * _seconds_per_token(collection, embedder, splitting),
        resplit=bool(of_split & set(changes)),
        changes=changes,
    )


def _seconds_per_token(collection: Collection, embedder: Embedder, splitting: SplitSettings) -> float:
    """Of wall time, on passages of documents spread over the collection; 0 of an empty one."""
    rows = collection.documents()
    texts: list[str] = []
    for row in rows[:: max(1, len(rows) // SAMPLE)]:
        document = collection.document(row.source.id)
        spans = split(document, embedder, splitting)
        texts += [embedding_text(span.context, document.text[span.start : span.end]) for span in spans[:4]]
        if len(texts) >= SAMPLE + WARM_UP:
            break
    measured = texts[WARM_UP : SAMPLE + WARM_UP] or texts
    if not measured:
        return 0.0
    embedder.embed_passages(texts[:WARM_UP])
    began = time.perf_counter()
    embedder.embed_passages(measured)
    return (time.perf_counter() - began) / sum(embedder.count(measured))
