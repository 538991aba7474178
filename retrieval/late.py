"""A thing that takes long to make → the same, made once, by whoever needs it first. Safe from any thread."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Late(Generic[T]):
    """`load` is called once; where it raises, the next who asks tries again."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self._guard = threading.Lock()
        self.loaded: T | None = None
        """None as long as nobody has needed it."""

    def load(self) -> T:
        """The thing itself. Raises what keeps it from being made."""
        with self._guard:
            if self.loaded is None:
                self.loaded = self._load()
            return self.loaded
