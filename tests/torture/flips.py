"""One flipped bit anywhere in a collection: reported, or without any effect; never silently other answers."""

import random
import shutil
from pathlib import Path

from torture.workload import NAMES, embedder, text_of

from retrieval.collection import Collection
from retrieval.errors import FathomError
from retrieval.passages import Document
from retrieval.verifying import verify


def _answers(collection: Collection) -> list[object]:
    """Everything a user can see. An index that was made again no longer counts deleted passages in its BM25 statistics,
    so lexical answers are compared as sets of passages, dense ones with their scores."""
    found: list[object] = [(row.source, row.content_hash) for row in collection.documents()]
    for uri in NAMES:
        query = f"{uri} paragraph1 word3x1"
        lexical = collection.search(query, mode="lexical", k=100).hits
        dense = collection.search(query, mode="dense", k=100).hits
        found.append(sorted((hit.passage.id, hit.passage.text, hit.source.uri) for hit in lexical))
        found.append([(hit.passage, round(hit.score, 6)) for hit in dense])
    return found


def flips(folder: Path, count: int, seed: int = 1) -> dict[str, object]:
    """`count` single bit flips over every file, each in a fresh copy, weighted by file, not by size."""
    good, copy = folder / "good", folder / "copy"
    with Collection.create(good, name="flips", embedder=embedder) as collection:
        collection.add([Document(uri, text_of(uri, i + 1), title=f"T{i}") for i, uri in enumerate(NAMES)])
        collection.remove(NAMES[:2])
        collection.optimise()
        collection.add([Document("late.txt", text_of("late.txt", 3), metadata={"year": 2020})])
    with Collection.open(good, embedder=embedder) as collection:
        truth = _answers(collection)
    files = sorted(path for path in good.rglob("*") if path.is_file() and path.stat().st_size)
    chance = random.Random(seed)
    silent: list[str] = []
    reported = harmless = 0
    for number in range(count):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(good, copy)
        # Half of the flips go to the catalogue, where the truth is.
        path = files[0] if chance.random() < 0.5 else chance.choice(files)
        path = next(p for p in files if p.name == "catalogue.sqlite") if chance.random() < 0.5 else path
        target = copy / path.relative_to(good)
        data = bytearray(target.read_bytes())
        position, bit = chance.randrange(len(data)), chance.randrange(8)
        data[position] ^= 1 << bit
        target.write_bytes(data)
        try:
            with Collection.open(copy, embedder=embedder) as collection:
                # Answer before verifying: that is what a user does.
                answers = _answers(collection)
                problems = verify(collection).problems
            if answers != truth:
                silent.append(f"flip {number}: {path.name} byte {position} bit {bit}: other answers")
            elif problems:
                reported += 1
            else:
                harmless += 1
        except FathomError:
            reported += 1
    return {"flips": count, "reported": reported, "without effect": harmless, "problems": silent}
