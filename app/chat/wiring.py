"""A workspace's settings → the parts the page works with: its collections, kept open, and the engine. It draws nothing.

Heavy imports happen in the calls, on the threads that need them: the page opens before a model is loaded.
"""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from app import build
from app.api.decoding import with_options
from app.assistance import Assistance
from app.chat.engine import BackgroundEngine, EngineChoice, Engines
from app.chat.parts import Parts
from app.settings import with_profile
from app.workspace import CHATS
from retrieval.answering import PASSAGES, AnswerEvent
from retrieval.chinese_words import names_of_run
from retrieval.errors import FathomError
from retrieval.filters import Filter
from retrieval.prompts import Message, language_of
from retrieval.support import content_tokens

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from app.settings import Settings
    from retrieval.collection import Collection
    from retrieval.embedding.embedder import Embedder

_log = logging.getLogger(__name__)

EXAMPLES = 4
"""Documents of each language whose titles may become examples on the empty page."""
KEYS = 12
"""Keys offered to filter by."""
KEY_CHARACTERS = 40
FIELDS = ("document", "title", "format")
_KEY = re.compile(r"[^=!<>~\s]+")


class Shelf:
    """The workspace's collections, each opened for reading at its first use and kept. Safe from any thread."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._load = build.embedder(settings)
        self._open: dict[str, Collection] = {}
        self._titles: dict[tuple[str, int], list[str]] = {}
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
        """A few documents' titles of each language, spread over the collection."""
        collection = self.collection(name)
        state = (name, collection.catalogue.sequence())
        if state not in self._titles:  # listing thousands of documents for each tab that is opened takes its time
            self._titles = {state: self._spread(collection)}
        return self._titles[state]

    def _spread(self, collection: "Collection") -> list[str]:
        rows = collection.documents()
        named = dict.fromkeys(row.source.title for row in rows if row.source.title.strip())
        found: list[str] = []
        for language in ("en", "zh"):
            mine = [title for title in named if language_of(title) == language]
            found += mine[:: max(1, len(mine) // EXAMPLES)][:EXAMPLES]
        return found

    def size(self, name: str) -> int:
        """How many documents there are."""
        return self.collection(name).catalogue.counts()[0]

    def keys(self, name: str) -> list[str]:
        """What documents can be filtered by: their own fields, and the keys of their metadata, the most frequent first.

        A key that the form of a filter cannot hold is left out.
        """
        sql = "SELECT key FROM facts GROUP BY key ORDER BY COUNT(DISTINCT document_id) DESC, key LIMIT 50"
        own = [str(row[0]) for row in self.collection(name).catalogue.select(sql)]
        written = [key for key in own if len(key) <= KEY_CHARACTERS and _KEY.fullmatch(key) and key not in FIELDS]
        return [*FIELDS, *written][:KEYS]

    def warm(self) -> None:
        """Load the embedding model and the Chinese dictionaries ahead of the first question. What is wrong with them,
        that question will say."""
        try:
            self._load()
            content_tokens("预热 warm")
            names_of_run("预热")
        except FathomError as error:
            _log.warning("the embedding model could not be loaded ahead of time: %s", error)

    def close(self) -> None:
        """Close every collection."""
        with self._guard:
            for collection in self._open.values():
                collection.close()
            self._open.clear()


def engines_of(settings: "Settings", warm: Callable[["LLM"], None]) -> Engines:
    """The models that can be picked: one a profile, that of the settings first chosen. `warm` loads what else answers
    need, while one of them loads."""
    from app.profiles import profiles_here

    choices = [
        _choice(with_profile(settings, state.name), warm, state.name, missing="" if state.writes else state.missing)
        for state in profiles_here(settings)
    ]
    return Engines(choices, settings.profile)


def _choice(settings: "Settings", warm: Callable[["LLM"], None], name: str, *, missing: str) -> EngineChoice:
    def load() -> tuple[Any, str]:
        # It loads in a process of its own, while the embedding model loads in this one.
        llm = build.engine(settings, tell=background.note)
        warm(llm)
        return llm, llm.metadata.model_name

    # A model of the settings' own that is not there fails when it is loaded, which says more than a look can.
    background = BackgroundEngine(load)
    resident = settings.engine.name != "server"
    return EngineChoice(name, name, None if missing else background, missing, resident, build.writes(settings))


def parts_of(settings: "Settings", shelf: Shelf) -> Parts:
    """What the page needs, over the real collections and the real engines."""
    assistance = Assistance(settings)

    def warm(llm: "LLM") -> None:
        shelf.warm()
        reader = build.sentence_reader(settings)
        for load in (partial(assistance.load, llm=llm), reader.load if reader else None):
            try:
                if load is not None:
                    load()
            # Libraries raise what they like; what is wrong with it, its step says, and the model is there all the same.
            except Exception as error:
                _log.warning("what helps to find and to quote could not be loaded ahead of time: %s", error)

    engines = engines_of(settings, warm)

    def answer(
        question: str,
        *,
        collection: str,
        quote: bool,
        k: int,
        history: Sequence[Message],
        stop: threading.Event,
        filters: Sequence[Filter] = (),
        engine: str = "",
        options: Mapping[str, float] | None = None,
    ) -> Iterator[AnswerEvent]:
        opened = shelf.collection(collection)
        with engines.use(engine) as model:
            llm = None if model is None else with_options(model, options)
            yield from build.answer_events(
                settings,
                opened,
                question,
                llm=llm,
                quote=quote,
                assistance=assistance,
                k=k,
                filters=filters,
                history=history,
                stop=stop,
            )

    return Parts(
        collections=shelf.names,
        titles=shelf.titles,
        answer=answer,
        engines=engines,
        default_k=settings.search.k or PASSAGES,
        size=shelf.size,
        keys=shelf.keys,
        chats=settings.workspace / CHATS,
    )
