"""Examples → the same with what is private in them masked: [EMAIL_1], [PHONE_2]. It does not know how that is found."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from adapt.instructions.example import Example, Message
from adapt.instructions.private_data import REGIONS, private_data

_MASK = re.compile(r"\[([A-Z_]{2,20})_(\d{1,6})\]")


class Masker:
    """Masks the texts of one conversation: the same address has the same mask in all of them, another another."""

    def __init__(self, regions: Sequence[str] = REGIONS) -> None:
        self._regions = tuple(regions)
        self._numbers: dict[tuple[str, str], int] = {}
        self._last: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        """Kind → places that were masked."""

    def reserve(self, text: str) -> None:
        """Leave out the numbers of masks that a text has already."""
        for match in _MASK.finditer(text):
            self._last[match[1]] = max(self._last[match[1]], int(match[2]))

    def masked(self, text: str) -> str:
        """The text with masks. Raises UsageError for an unknown region."""
        parts, at = [], 0
        for found in private_data(text, self._regions):
            key = (found.kind, found.value)
            if key not in self._numbers:
                self._last[found.kind] += 1
                self._numbers[key] = self._last[found.kind]
            self.counts[found.kind] += 1
            parts += [text[at : found.start], f"[{found.kind}_{self._numbers[key]}]"]
            at = found.end
        return "".join(parts) + text[at:]


def masked_example(example: Example, regions: Sequence[str] = REGIONS) -> tuple[Example, Counter[str]]:
    """The example with masks and a new id, and how many places of each kind; the example itself where there is none.

    Numbers are the conversation's own: across examples they say nothing, so that no one can be followed through a
    file. Masking what is masked already changes nothing.
    """
    masker = Masker(regions)
    for message in example.messages:
        masker.reserve(message.content)
    messages = tuple(Message(message.role, masker.masked(message.content)) for message in example.messages)
    if not masker.counts:
        return example, masker.counts
    made = Example.of(messages)
    checks = {**example.checks, "masked": dict(masker.counts)}
    return replace(example, id=made.id, messages=messages, checks=checks), masker.counts
