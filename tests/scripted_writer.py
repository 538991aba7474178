"""A model that writes what a test tells it to."""

import threading
from collections.abc import Callable, Iterable, Sequence

from adapt.instructions.writing.writer import Wanted, Written

Reply = str | Written
Script = Callable[[Wanted], Reply]


class ScriptedWriter:
    """Answers by a function of the request, or with a list of texts in their order; remembers what it was asked.

    Where the list is at its end it raises KeyboardInterrupt, as a person's Ctrl-C would.
    """

    def __init__(self, script: Script | Iterable[Reply], *, name: str = "scripted", at_once: int = 1) -> None:
        self.name, self.at_once = name, at_once
        self.asked: list[Wanted] = []
        self._script = script if callable(script) else _in_order(script)
        self._guard = threading.Lock()

    def write(self, wanted: Sequence[Wanted]) -> list[Written]:
        found = []
        for one in wanted:
            with self._guard:
                self.asked.append(one)
                reply = self._script(one)
            found.append(reply if isinstance(reply, Written) else Written(reply))
        return found


def said(wanted: Wanted) -> str:
    """All that a request says."""
    return "\n".join(message.text for message in wanted.messages)


def _in_order(replies: Iterable[Reply]) -> Script:
    waiting = iter(replies)

    def script(wanted: Wanted) -> Reply:
        for reply in waiting:
            return reply
        raise KeyboardInterrupt

    return script
