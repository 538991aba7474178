"""The noun of a training corpus: one document's text with its id and title. Knows no file, filter or tokenizer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingText:
    """One document. `id` is unique in its source; `text` is what was read.

    `title` may be empty; training puts it before the text, on a line of its own.
    """

    id: str
    text: str
    title: str = ""

    @property
    def whole(self) -> str:
        """Title and text as they are trained on."""
        return f"{self.title}\n\n{self.text}" if self.title else self.text
