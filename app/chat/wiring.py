"""A workspace's settings → the parts the page works with: its collections, kept open, and the engine. It draws nothing.

Heavy imports happen in the calls, on the threads that need them: the page opens before a model is loaded.
"""

import inspect
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app import build
from app.api.decoding import with_options
from app.chat.engine import BackgroundEngine
from app.chat.talking import Parts
from retrieval.answering import AnswerEvent, answer_stream
from retrieval.errors import FathomError
from retrieval.prompts import Message

if TYPE_CHECKING:
    from app.settings import Settings
    from retrieval.collection import Collection
    from retrieval.embedding.embedder import Embedder

_log = logging.getLogger(__name__)

EXAMPLES = 4
"""Documents whose titles become examples on the empty page."""


class Shelf:
    """The workspace's collections, each opened for reading at its first use and kept. Safe from any thread."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._load = build.embedder(settings)
        self._open: dict[str, Collection] = {}
        self._guard = threading.Lock()

    @property
    def embedder(self) -> "Callable[[], Embedder]":
        """The one embedding model of all that this process does, loaded at its first call."""
        return self._load

    def names(self) -> list[str]:
        """Collections there are now."""
        return build.collection_names(self._settings)

    def collection(self, name: str) -> "Collection":
        """Raises what opening raises, MissingError for one that is gone."""
        with self._guard:
            opened = self._open.get(name)
            if opened is not None and not opened.replaced:
                return opened
            if opened is not None:  # deleted, imported or re-embedded under us
                del self._open[name]
                opened.close()
            self._open[name] = build.open_collection(self._settings, name, load=self._load)
            return self._open[name]

    def titles(self, name: str) -> list[str]:
        """A few documents' titles, spread over the collection."""
        rows = self.collection(name).documents()
        named = [row.source.title for row in rows if row.source.title.strip()]
        step = max(1, len(named) // EXAMPLES)
        return list(dict.fromkeys(named[::step]))[:EXAMPLES]

    def warm(self) -> None:
        """Load the embedding model ahead of the first question. What is wrong with it, that question will say."""
        try:
            self._load()
        except FathomError as error:
            _log.warning("the embedding model could not be loaded ahead of time: %s", error)

    def close(self) -> None:
        """Close every collection."""
        with self._guard:
            for collection in self._open.values():
                collection.close()
            self._open.clear()


def parts_of(settings: "Settings", shelf: Shelf) -> Parts:
    """What the page needs, over the real collections and the real engine."""

    def load() -> tuple[Any, str]:
        shelf.warm()
        llm = build.engine(settings)
        return llm, llm.metadata.model_name

    engine = BackgroundEngine(load)

    def answer(
        question: str,
        *,
        collection: str,
        quote: bool,
        k: int,
        history: Sequence[Message],
        stop: threading.Event,
        options: Mapping[str, float] | None = None,
    ) -> Iterator[AnswerEvent]:
        opened = shelf.collection(collection)
        llm = None if quote or engine.model is None else with_options(engine.model, options)
        return build.answer_events(settings, opened, question, llm=llm, k=k, history=history, stop=stop)

    default_k = settings.search.k or int(inspect.signature(answer_stream).parameters["k"].default)
    return Parts(collections=shelf.names, titles=shelf.titles, answer=answer, engine=engine, default_k=default_k)
