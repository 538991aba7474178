"""What the chat page needs from the rest of the house, as plain calls. It knows no implementation of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.chat.answers import Answering
from app.chat.engine import Engines


def _unknown_size(name: str) -> int | None:
    return None


def _no_keys(name: str) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Parts:
    """What the page needs from the rest, as plain calls.

    `answer` yields answering events and may block; `titles(collection)` names a few documents for the examples,
    `size(collection)` counts them and `keys(collection)` names what they can be filtered by. `chats` is the file that
    conversations are kept in; None keeps them in memory.
    """

    collections: Callable[[], Sequence[str]]
    titles: Callable[[str], Sequence[str]]
    answer: Answering
    engines: Engines
    default_k: int
    size: Callable[[str], int | None] = _unknown_size
    keys: Callable[[str], Sequence[str]] = _no_keys
    chats: Path | None = None

    @property
    def engine(self) -> Engines:
        """The models, as the server asks after them: `status` and `start` are those of the default one."""
        return self.engines
