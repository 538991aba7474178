"""A writer that says what a test tells it to, and keeps what it was asked."""

from collections.abc import Callable, Sequence

from adapt.instructions.writing.writer import Wanted, Written


class ScriptedWriter:
    """`say` turns the last message of a request into a reply; an exception of it is what the engine raises."""

    def __init__(self, say: Callable[[str], str | Written], *, at_once: int = 1, name: str = "scripted") -> None:
        self._say, self.at_once, self.name = say, at_once, name
        self.asked: list[Wanted] = []

    def write(self, wanted: Sequence[Wanted]) -> list[Written]:
        said = []
        for one in wanted:
            reply = self._say(one.messages[-1].text)
            self.asked.append(one)
            said.append(reply if isinstance(reply, Written) else Written(reply, "stop", len(reply.split())))
        return said
