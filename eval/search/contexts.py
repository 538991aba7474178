"""Question sets → how often the gold answer still stands in what a model would be shown, and at which cost in tokens,
for every way of choosing and shortening passages. No model is asked.

    python -m eval.search.contexts --data FOLDER [SET …]
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eval.answer_records import shows_gold
from eval.data.datasets import RetrievalDataset
from eval.data.questions import Question, read_questions, sampled
from eval.figures.statistics import bootstrap
from eval.search.indexed import indexed
from retrieval.collection import Collection
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.load import EmbeddingSettings, load_embedder
from retrieval.filters import Filter
from retrieval.packing import Packed, pack
from retrieval.passages import Hit
from retrieval.prompts import passage_block
from retrieval.selecting import select
from retrieval.shortening import shorten

SETS = ("xquad_en", "xquad_zh", "drcd", "tatqa", "cuad")
QUESTIONS, DOCUMENTS, PASSAGES = 150, 250, 8
"""Of each set; documents beyond it, that nothing asked is about, are not searched."""
ROOMS = (200, 400, 800)
SHARES = (0.5, 0.7, 0.8, 0.9)
FEW = (1, 2, 3, 5)


@dataclass(frozen=True, slots=True)
class Shown:
    """Of one question: whether a gold answer stands in what is shown, its tokens, how many passages."""

    gold: bool
    tokens: int
    passages: int


Way = Callable[[str, Sequence[Hit]], Packed]


def ways(collection: Collection, embedder: Embedder) -> dict[str, Way]:
    """Name → how hits become what is shown."""
    count = counter(embedder)
    document = collection.document

    def whole(question: str, hits: Sequence[Hit], room: int | None = None, **chosen: Any) -> Packed:
        return pack(select(hits, **chosen).hits, document, room=room, count=count)

    def cut(question: str, hits: Sequence[Hit], room: int, meaning: bool = True, **chosen: Any) -> Packed:
        def by(some: Sequence[Hit], tokens: int) -> list[str]:
            return shorten(question, some, room=tokens, count=count, embedder=embedder if meaning else None)

        return pack(select(hits, **chosen).hits, document, room=room, count=count, shorten=by)

    found: dict[str, Way] = {"all": whole}
    found |= {f"share {share}": partial(whole, least_share=share) for share in SHARES}
    found |= {f"most {n}": partial(whole, most=n) for n in FEW}
    for room in ROOMS:
        found[f"{room}: whole"] = partial(whole, room=room)
        found[f"{room}: shortened"] = partial(cut, room=room)
        found[f"{room}: shortened by words"] = partial(cut, room=room, meaning=False)
        found[f"{room}: shortened, most 3"] = partial(cut, room=room, most=3)
        found[f"{room}: shortened, share 0.7"] = partial(cut, room=room, least_share=0.7)
    return found


def counter(embedder: Embedder) -> Callable[[str], int]:
    """Tokens of the embedding model: near enough to those of an answering one to compare ways."""
    return lambda text: int(embedder.count([text])[0])


def measure(
    questions: Sequence[Question], collection: Collection, embedder: Embedder, *, passages: int = PASSAGES
) -> dict[str, list[Shown]]:
    """Way → what it shows for each question."""
    count = counter(embedder)
    found: dict[str, list[Shown]] = {}
    for question in questions:
        within = [Filter("document", "=", question.within)] if question.within else []
        hits = collection.search(question.text, k=passages, filters=within).hits
        for name, way in ways(collection, embedder).items():
            packed = way(question.text, hits)
            texts = packed.texts or tuple(hit.passage.text for hit in packed.shown)
            blocks = [
                passage_block(n, hit, text) for n, (hit, text) in enumerate(zip(packed.shown, texts, strict=True))
            ]
            there = shows_gold("\n".join(texts), question)
            found.setdefault(name, []).append(Shown(there, sum(map(count, blocks)), packed.given))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m eval.search.contexts", description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("data/workspace/cache/evaluation"))
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--about", type=int, help="only questions of the first so many documents")
    chosen = parser.parse_args(arguments)
    embedder = load_embedder(EmbeddingSettings(threads=1))
    for name in chosen.sets:
        found = read_questions(chosen.data / name)
        asked = [q for q in sampled(found, None) if q.answerable and q.answers and q.kind in ("span", "number")]
        sources = list(dict.fromkeys(question.source for question in asked))[: chosen.about]
        asked = [question for question in asked if question.source in sources]
        asked = asked[:: max(1, len(asked) // chosen.questions)][: chosen.questions]
        wanted = {uri for question in asked for uri in (*question.documents, question.within)}
        others = [document for document in found.documents if document.id not in wanted]
        documents = [document for document in found.documents if document.id in wanted]
        within = all(question.within for question in asked)  # then others are never looked at
        documents += [] if within else others[: max(0, DOCUMENTS - len(documents))]
        dataset = RetrievalDataset(f"{name}-contexts", found.form, "", tuple(documents), {}, {})
        with indexed(dataset, embedder, chosen.cache) as collection:
            table = measure(asked, collection, embedder)
        for way, shown in table.items():
            gold = bootstrap([float(one.gold) for one in shown])
            row = {"set": name, "way": way, "n": len(shown), "gold": round(gold.mean, 3)}
            row |= {"interval": [round(gold.low, 3), round(gold.high, 3)]}
            row |= {"tokens": round(sum(one.tokens for one in shown) / len(shown))}
            row |= {"passages": round(sum(one.passages for one in shown) / len(shown), 1)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
