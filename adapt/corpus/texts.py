"""One document to train on, whatever it was read from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingText:
    """`id` is unique in its source; `text` is what was read; `title` may be empty."""

    id: str
    text: str
    title: str = ""
