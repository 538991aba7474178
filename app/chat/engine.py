"""The language models behind the page: loaded in the background at their first use, one embedded model at a time.

It knows nothing of what a model is: a name, a way to load it, and where that stands.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from retrieval.errors import FathomError

_log = logging.getLogger(__name__)

LOADING = "engine-loading"
"""Name of the threads that load."""
CLOSING_SECONDS = 3.0
"""How long the end of the process waits for a model that is being loaded."""

State = Literal["idle", "loading", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """`detail` is the model's name when ready, the reason in a sentence when failed, what takes long when loading, else
    empty."""

    state: State
    detail: str = ""


def is_loading() -> bool:
    """Whether a model is still being loaded in this process, though nobody waits for it any more."""
    return any(thread.name == LOADING for thread in threading.enumerate())


class BackgroundEngine:
    """One model; `load` runs on a thread of its own after `start` and returns (model, name)."""

    def __init__(self, load: Callable[[], tuple[Any, str]]) -> None:
        self._load = load
        self._model: Any = None
        self._status = EngineStatus("idle")
        self._changed = threading.Condition()
        self._users = 0
        self._loading: threading.Thread | None = None

    @property
    def status(self) -> EngineStatus:
        """Where loading stands."""
        return self._status

    @property
    def model(self) -> Any:
        """The model while it is ready, else None."""
        return self._model if self._status.state == "ready" else None

    def note(self, text: str) -> None:
        """Say what takes long, while the model loads."""
        with self._changed:
            if self._status.state == "loading":
                self._status = EngineStatus("loading", text)

    def start(self, before: Callable[[], None] | None = None) -> None:
        """Begin loading, after `before`; nothing happens while it is loading or ready. One that failed tries again."""
        with self._changed:
            if self._status.state in ("loading", "ready"):
                return
            self._status = EngineStatus("loading")
        self._loading = threading.Thread(target=self._work, args=[before], name=LOADING, daemon=True)
        self._loading.start()

    def close(self) -> None:
        """For the end of the process: a thread that is inside OpenVINO when the interpreter goes down aborts it."""
        if self._loading is not None:
            self._loading.join(CLOSING_SECONDS)

    def _work(self, before: Callable[[], None] | None) -> None:
        model = None
        try:
            if before is not None:
                before()
            model, name = self._load()
            status = EngineStatus("ready", name)
        except FathomError as error:
            status = EngineStatus("failed", str(error))
        except Exception as error:
            _log.exception("the language model could not be loaded")
            status = EngineStatus("failed", f"the model could not be loaded ({type(error).__name__})")
        with self._changed:
            self._model, self._status = model, status

    @contextlib.contextmanager
    def use(self) -> Iterator[Any]:
        """The model while it is needed, None where it is not ready."""
        with self._changed:
            model = self._model if self._status.state == "ready" else None
            self._users += 1
        try:
            yield model
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def unload(self) -> None:
        """Let go of the model as soon as nobody uses it; from now on nobody new gets it. Blocks until then."""
        with self._changed:
            if self._status.state != "ready":
                return
            self._status = EngineStatus("idle")
            self._changed.wait_for(lambda: self._users == 0)
            model, self._model = self._model, None
        close = getattr(model, "close", None)
        if close is not None:
            close()


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """A model that can be picked. `engine` is None where it cannot be used here, and `missing` says why.

    `resident` models run in this process and take its memory: only one of them is loaded at a time. One that `writes`
    does so where nobody says otherwise; with any other its sources are quoted.
    """

    name: str
    title: str
    engine: BackgroundEngine | None
    missing: str = ""
    resident: bool = True
    writes: bool = True


class Engines:
    """The choices. The default is the one named so, else the first that is available."""

    def __init__(self, choices: Sequence[EngineChoice], default: str = "") -> None:
        self.choices = tuple(choices)
        self._default = default
        self._turn = threading.Lock()

    @property
    def default(self) -> str:
        """Name of the choice that is taken where nobody chose."""
        if any(choice.name == self._default for choice in self.choices):
            return self._default
        usable = [choice.name for choice in self.choices if choice.engine is not None]
        return usable[0] if usable else self.choices[0].name if self.choices else ""

    def choice(self, name: str) -> EngineChoice | None:
        """The choice of this name, the default for any other."""
        by_name = {choice.name: choice for choice in self.choices}
        return by_name.get(name) or by_name.get(self.default)

    @property
    def status(self) -> EngineStatus:
        """Where the default stands."""
        return self.status_of("")

    def status_of(self, name: str) -> EngineStatus:
        """Where a choice stands."""
        choice = self.choice(name)
        if choice is None or choice.engine is None:
            return EngineStatus("failed", choice.missing if choice else "")
        return choice.engine.status

    @property
    def model(self) -> Any:
        """The default's model, None while it is not ready; to look at, not to write with (`use` is for that)."""
        choice = self.choice("")
        return choice.engine.model if choice is not None and choice.engine is not None else None

    def writes(self, name: str = "") -> bool:
        """Whether a choice (empty: the default) writes answers where nobody says otherwise."""
        choice = self.choice(name)
        return choice is None or choice.writes

    def start(self, name: str = "") -> None:
        """Begin loading a choice (empty: the default), if it is not loaded; other resident models go first."""
        choice = self.choice(name)
        if choice is not None and choice.engine is not None:
            choice.engine.start(self._make_room_for(choice))

    def close(self) -> None:
        """Wait for what is being loaded; for the end of the process."""
        for choice in self.choices:
            if choice.engine is not None:
                choice.engine.close()

    def _make_room_for(self, choice: EngineChoice) -> Callable[[], None]:
        def make_room() -> None:
            with self._turn:
                for other in self.choices:
                    if other is not choice and other.resident and choice.resident and other.engine is not None:
                        other.engine.unload()

        return make_room

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[Any]:
        """The model of a choice while it is needed; None where it is not ready."""
        choice = self.choice(name)
        if choice is None or choice.engine is None:
            yield None
            return
        with choice.engine.use() as model:
            yield model


def only(engine: BackgroundEngine) -> Engines:
    """A single model as the only choice."""
    return Engines([EngineChoice("default", "", engine)])
