"""Serves the real page over scripted answers: `python scripted_page.py PORT FILE`, FILE a JSON of questions → scripts.

The "language model" obeys every instruction it could be given: it writes whatever the script says, hostile or not.
It stands in for retrieval and engine; page, renderer, guard, Gradio and uvicorn are the real ones.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.chat.engine import BackgroundEngine, EngineChoice, Engines
from app.chat.parts import Parts
from app.chat.server import serve_parts
from retrieval.answering import AnswerEvent, Finished, Searched, Token
from retrieval.errors import FathomError
from retrieval.passages import Answer, Citation, Hit, Passage, Scores, Source


def hit(n: int, source: dict[str, Any]) -> Hit:
    """A hit over one scripted source; the passage stands at offset 1000 of its document."""
    text = source["text"]
    passage = Passage(
        id=n, document_id=n, ordinal=0, start=1000, end=1000 + len(text), page=source.get("page"),
        headings=tuple(source.get("headings", ())), text=text, tokens=len(text) // 4,
    )  # fmt: skip
    document = Source(n, source["uri"], source.get("title", ""), "txt", "local", {})
    score = 0.95 - n * 0.07
    return Hit(n, score, passage, document, Scores(dense=0.6, lexical=11.25, fused=score))


def citation(n: int, found: Hit, quote: str, supported: Any) -> Citation:
    """A citation of `quote` in the hit's passage."""
    start = found.passage.start + found.passage.text.index(quote)
    return Citation(
        n, found.source.uri, found.source.title, found.passage.page, start, start + len(quote), quote, supported,
        found.passage.id,
    )  # fmt: skip


def play(
    script: dict[str, Any], question: str, quote: bool, k: int, stop: threading.Event, log: Path
) -> Iterator[AnswerEvent]:
    """The events of one scripted answer; notes in `log` how the stream ended."""
    ended = "closed"
    try:
        hits = tuple(hit(n, source) for n, source in enumerate(script["sources"][:k], start=1))
        time.sleep(script.get("search_seconds", 0.02))
        yield Searched((question,), hits, {"search": 12.0}, len(hits))
        if "error" in script:
            raise FathomError(script["error"])
        if "crash" in script:
            raise RuntimeError(script["crash"])
        text = script["quote_answer"] if quote and "quote_answer" in script else script["answer"]
        for _ in range(script.get("repeat", 1)):
            for start in range(0, len(text), 7):
                time.sleep(script.get("token_seconds", 0.002))
                yield Token(text[start : start + 7])
        cited = tuple(citation(n, hits[n - 1], quote, state) for n, quote, state in script.get("citations", ()))
        yield Finished(
            Answer(text, script.get("refused", False), cited, (question,), hits, "scripted", script.get("timings", {}))
        )
        ended = "finished"
    finally:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{ended} stop={stop.is_set()}\n")


def main() -> None:
    port, path = int(sys.argv[1]), Path(sys.argv[2])
    scripts = json.loads(path.read_text(encoding="utf-8"))

    def answer(question: str, *, quote: bool, k: int, stop: threading.Event, **_: Any) -> Iterator[AnswerEvent]:
        script = scripts["answers"].get(question, scripts["default"])
        return play(script, question, quote, k, stop, path.with_suffix(".log"))

    def load() -> tuple[object, str]:
        time.sleep(scripts.get("load_seconds", 0.0))
        if "load_error" in scripts:
            raise FathomError(scripts["load_error"])
        return object(), "scripted"

    choices = [EngineChoice("default", "Scripted", BackgroundEngine(load))]
    choices += [
        EngineChoice(name, name.title(), None if missing else BackgroundEngine(load), missing)
        for name, missing in scripts.get("engines", {}).items()
    ]
    parts = Parts(
        collections=lambda: scripts["collections"],
        titles=lambda name: scripts["titles"],
        answer=answer,
        engines=Engines(choices),
        default_k=8,
        size=lambda name: scripts.get("sizes", {}).get(name, len(scripts["titles"])),
        keys=lambda name: scripts.get("keys", []),
        chats=path.with_name("chats.sqlite"),
    )
    serve_parts(parts, "127.0.0.1", port)


if __name__ == "__main__":
    main()
