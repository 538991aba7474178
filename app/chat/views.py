"""What one event of the page is given (a form) and gives back (a view), and what the server knows of an open tab.

It knows the page's fields by name; page.py says which Gradio component each of them is.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import gradio as gr

from app.chat.answers import Live
from app.chat.render import plain
from app.chat.turns import Asked
from app.chat.words import Words

MAX_PASSAGES = 20
MAX_FILTERS = 8
MAX_FILTER_CHARACTERS = 200
HANDOVER_SECONDS = 1.0
"""How long a new event of a tab waits for the one that still draws into it."""


def _untouched() -> Any:
    return field(default_factory=gr.skip)


@dataclass
class View:
    """New values for the page's fields; a field that is not given stays as it is."""

    past: Any = _untouched()
    live: Any = _untouched()
    sources: Any = _untouched()
    chats: Any = _untouched()
    opened: Any = _untouched()
    box: Any = _untouched()
    editing: Any = _untouched()
    notice: Any = _untouched()
    trouble: Any = _untouched()
    picker: Any = _untouched()
    mode: Any = _untouched()
    k: Any = _untouched()
    condition: Any = _untouched()
    conditions: Any = _untouched()
    chips: Any = _untouched()
    keys: Any = _untouched()
    engine: Any = _untouched()
    status: Any = _untouched()
    timer: Any = _untouched()

    def row(self) -> tuple[Any, ...]:
        """The values in the order of `FIELDS`."""
        return tuple(getattr(self, name) for name in FIELDS)


FIELDS = tuple(item.name for item in fields(View))
FORM_FIELDS = ("box", "opened", "editing", "picker", "mode", "k", "conditions", "engine")


@dataclass(frozen=True, slots=True)
class Form:
    """What the page held when an event came: nothing in it is believed."""

    question: str
    chat: str
    editing: int | None
    asked: Asked

    @staticmethod
    def of(values: Sequence[Any]) -> "Form":
        """From the values of `FORM_FIELDS`."""
        question, chat, editing, collection, mode, k, conditions, engine = values
        return Form(
            question=plain(str(question or "")).strip(),
            chat=known_id(chat),
            editing=number(editing),
            asked=Asked(
                collection=str(collection or ""),
                quote=mode == mode_of(quote=True),
                k=min(max(number(k) or 1, 1), MAX_PASSAGES),
                filters=conditions_of(conditions),
                engine=str(engine or ""),
            ),
        )


def mode_of(quote: bool) -> str:
    """The way of answering, as the page's field holds it."""
    return "quote" if quote else "answer"


def known_id(value: Any) -> str:
    """The id of a conversation as the page may name it; empty for anything else."""
    text = str(value or "")
    return text if len(text) <= 40 and text.replace("-", "").replace("_", "").isalnum() and text.isascii() else ""


def number(value: Any) -> int | None:
    """A whole number that a text field or a command names."""
    text = str(value if value is not None else "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


def conditions_of(text: Any) -> tuple[str, ...]:
    """Filters as the page holds them, one a line."""
    lines = [plain(line).strip() for line in str(text or "").splitlines()]
    return tuple(line for line in lines if line)[:MAX_FILTERS]


def idle_box(words: Words, **more: Any) -> Any:
    """The question box while nothing is being written."""
    return gr.update(submit_btn=words.send, stop_btn=False, **more)


def busy_box(words: Words, **more: Any) -> Any:
    """The question box while an answer is being written."""
    return gr.update(submit_btn=False, stop_btn=words.stop, **more)


class Tab:
    """One open page. One of its events draws into it: a newer one takes over from one that follows an answer."""

    def __init__(self) -> None:
        self.epoch = 0
        self.following: Live | None = None
        self.drawing = 0
        self.shown: Any = None
        """What of its conversation is on the screen, to see whether that is still all."""
        self.list = ""
        """The list of conversations that is on the screen."""

    async def take_over(self) -> int:
        """Make every earlier event of this tab end; the number under which the new one draws."""
        self.epoch += 1
        epoch = self.epoch
        if self.following is not None:
            self.following.nudge()
        waited = 0.0
        while self.drawing and waited < HANDOVER_SECONDS:
            await asyncio.sleep(0.02)
            waited += 0.02
        return epoch
