"""A writer that changes a collection at random and says what it has done, and a check of what is left after its death.

Every step is announced before ("begin") and acknowledged after ("done"), so that after a crash each document must be
in its acknowledged version or, for the one step under way, in the version before or after it.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

from fakes import HashingEmbedder

from retrieval.collection import Collection
from retrieval.passages import Document
from retrieval.storage import accelerators
from retrieval.verifying import verify

NAMES = [f"doc{i}.txt" for i in range(12)]
State = dict[str, int]  # uri → version; 0 where the document is absent


def text_of(uri: str, version: int) -> str:
    """A few passages that no other document or version shares."""
    return "\n\n".join(
        f"{uri} version{version} paragraph{i} " + f"word{version}x{i} filler text " * 20 for i in range(1 + version % 4)
    )


def embedder() -> HashingEmbedder:
    """Small, so that the storage does most of the work."""
    return HashingEmbedder(dimension=32)


def create(folder: Path) -> None:
    """An empty collection."""
    Collection.create(folder, name="torture", embedder=embedder).close()


def churn(folder: Path, seed: int, say: Callable[[dict[str, object]], None], steps: int = 10**9) -> None:
    """Add, update, remove, optimise, snapshot and reopen until killed or `steps` are done."""
    # Snapshots every few documents instead of every 5,000 passages: the dangerous windows come often.
    accelerators.REPLAY_LIMIT = 12
    chance = random.Random(seed)
    collection = Collection.open(folder, embedder=embedder, write=True)
    version = max([_version(collection, uri) for uri in NAMES], default=0)
    say({"ready": True})
    for _ in range(steps):
        kind = chance.choices(["add", "remove", "optimise", "reopen"], [10, 3, 1, 1])[0]
        if kind == "add":
            version += 1
            uris = chance.sample(NAMES, chance.randint(1, 4))
            say({"begin": {uri: version for uri in uris}})
            collection.add([Document(uri, text_of(uri, version)) for uri in uris])
            say({"done": {uri: version for uri in uris}})
        elif kind == "remove":
            uri = chance.choice(NAMES)
            say({"begin": {uri: 0}})
            collection.remove([uri])
            say({"done": {uri: 0}})
        elif kind == "optimise":
            collection.optimise()
        else:
            collection.close()
            collection = Collection.open(folder, embedder=embedder, write=True)
    collection.close()


def _version(collection: Collection, uri: str) -> int:
    try:
        text = collection.document_by_uri(uri).text
    except Exception:  # absent
        return 0
    return int(text.split("version", 1)[1].split()[0])


def state_after(lines: list[dict[str, object]], state: State) -> tuple[State, State]:
    """(acknowledged versions, versions of the step under way) after the announcements in `lines`."""
    state, under_way = dict(state), {}
    for line in lines:
        if "begin" in line:
            under_way = dict(line["begin"])  # type: ignore[call-overload]
        if "done" in line:
            state.update(line["done"])  # type: ignore[call-overload]
            under_way = {}
    return state, under_way


def check(folder: Path, state: State, under_way: State) -> tuple[list[str], State]:
    """(what is wrong, versions found). Opens as a writer first, as the next command of a user would."""
    problems: list[str] = []
    with Collection.open(folder, embedder=embedder, write=True, doing="checking") as collection:
        # A cache in doubt is made again at its first use; after that everything must be in order. Twice, because
        # tantivy merges when it is closed, and what a merge leaves is looked at when it is opened again.
        for _ in range(2):
            collection.accelerators.follow()
            collection.accelerators.close()
        problems += verify(collection).problems
        found: State = {}
        rows = collection.documents()
        if len({row.source.uri for row in rows}) != len(rows):
            problems.append("a document is there twice")
        for row in rows:
            document = collection.document(row.source.id)
            found[document.uri] = _version(collection, document.uri)
            if document.text != text_of(document.uri, found[document.uri]):
                problems.append(f"{document.uri}: not the text of any version")
        for uri in NAMES:
            allowed = {state.get(uri, 0)} | ({under_way[uri]} if uri in under_way else set())
            if found.get(uri, 0) not in allowed:
                problems.append(f"{uri}: version {found.get(uri, 0)}, acknowledged {sorted(allowed)}")
        # A step is one transaction: all of its documents moved, or none.
        moved = {uri for uri, version in under_way.items() if found.get(uri, 0) == version != state.get(uri, 0)}
        could = {uri for uri, version in under_way.items() if version != state.get(uri, 0)}
        if moved and moved != could:
            problems.append(f"half a step: {sorted(moved)} of {sorted(could)}")
        for uri, version in found.items():
            for mode in ("lexical", "dense"):
                hits = collection.search(f"{uri} version{version}", mode=mode, k=100).hits  # type: ignore[arg-type]
                if uri not in {hit.source.uri for hit in hits}:
                    problems.append(f"{uri}: not found by {mode} search")
                problems += [
                    f"{hit.source.uri}: cited with another's text"
                    for hit in hits
                    if not hit.passage.text.startswith(hit.source.uri) and "paragraph" in hit.passage.text[:40]
                ]
    return problems, found


def speak_to(descriptor: int) -> Callable[[dict[str, object]], None]:
    """Announcements as JSON lines, each in one write."""
    return lambda message: _write_all(descriptor, json.dumps(message).encode() + b"\n")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    # workload.py FOLDER SEED STEPS [synchronous]: the traced child of power.py.
    if len(sys.argv) > 4:
        from retrieval.storage import catalogue, schema

        def weakened(path: Path, *, write: bool, create: bool = False):  # type: ignore[no-untyped-def]
            db = schema.connect(path, write=write, create=create)
            if write:
                db.execute(f"PRAGMA synchronous={sys.argv[4]}")
            return db

        catalogue.connect = weakened
    churn(Path(sys.argv[1]), int(sys.argv[2]), speak_to(1), int(sys.argv[3]))
