"""The language model behind the page: loaded once in the background, so that the page opens and quotes before that."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from retrieval.errors import FathomError

_log = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """`detail` is the model's name when ready, the reason in a sentence when failed, else empty."""

    state: State
    detail: str = ""


class BackgroundEngine:
    """`load` runs once on its own thread after `start`; it returns (model, name)."""

    def __init__(self, load: Callable[[], tuple[Any, str]]) -> None:
        self._load = load
        self._model: Any = None
        self._status = EngineStatus("loading")
        self._started = threading.Lock()

    def start(self) -> None:
        """Begin loading; a second call does nothing."""
        if self._started.acquire(blocking=False):
            threading.Thread(target=self._work, name="engine-loading", daemon=True).start()

    def _work(self) -> None:
        try:
            self._model, name = self._load()
            self._status = EngineStatus("ready", name)
        except FathomError as error:
            self._status = EngineStatus("failed", str(error))
        except Exception as error:
            _log.exception("the language model could not be loaded")
            self._status = EngineStatus("failed", f"the model could not be loaded ({type(error).__name__})")

    @property
    def status(self) -> EngineStatus:
        """Where loading stands."""
        return self._status

    @property
    def model(self) -> Any:
        """The language model, None until the status is ready."""
        return self._model if self._status.state == "ready" else None
