"""A source of conversations, not yet prepared → about how many tokens it has, how many are learned, which are too long,
and one example as it will be learned. It trains nothing."""

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.amounts import Amount
from adapt.chat.corpus import Conversation
from adapt.chat.rows import TooLong, written
from adapt.chat.templates import require
from adapt.chat.writing import Writer, Written
from adapt.instructions.example import Example, numbered_examples
from adapt.recipe import Sft, Source
from adapt.vocabulary.tokenizer_file import load
from retrieval.errors import MissingError, ReadingError

LOOKED_AT = 2_000
"""Examples that are rendered; of more so many are drawn."""
SHOWN_TOKENS = 300
"""A sample longer than this is shown only where there is no shorter one."""


@dataclass(frozen=True)
class Sample:
    """One example as it is trained: its text in pieces, each with whether it is learned."""

    source: str
    id: str
    row: int
    spans: tuple[tuple[str, bool], ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "id": self.id,
            "row": self.row,
            "spans": [{"text": text, "learned": learned} for text, learned in self.spans],
        }


@dataclass(frozen=True)
class Look:
    """What was seen. `learned` is the share of the tokens; `too_long` says which examples are, empty for none."""

    amount: Amount
    learned: float
    too_long: str
    sample: Sample | None


def look(name: str, source: Source, settings: Sft, *, root: Path, model: Path, seed: int) -> Look:
    """Read every example and render up to `LOOKED_AT` of them with the tokenizer of `model`.

    Raises MissingError, ReadingError or UsageError that name the file or the example which cannot be trained on.
    """
    path = root / os.path.expanduser(source.path)
    if not path.is_file():
        raise MissingError(f"there is no file '{path}'; correct the path, or the recipe's root (--root)")
    tokenizer = load(model)
    template = require(tokenizer, settings.template)
    writer = Writer(tokenizer, template=template, system=settings.system, learn=settings.learn)
    read = list(numbered_examples(path))
    numbers = [number for number, (_, example) in enumerate(read) if not example.rejected]
    if not numbers:
        raise ReadingError(str(path), "empty", "holds no example to train on.")
    usable = len(numbers)
    if usable > LOOKED_AT:
        numbers = sorted(random.Random(seed).sample(numbers, LOOKED_AT))
    chosen = (_conversation(*read[number]) for number in numbers)
    long = TooLong(settings.block)
    tokens = learned = count = 0
    best: tuple[int, Conversation, Written] | None = None
    for conversation, sequences in written(chosen, writer, long, name=f"'{name}'"):
        size = sum(len(one.ids) for one in sequences)
        tokens += size
        learned += sum(sum(one.learned[1:]) for one in sequences)
        count += 1
        if best is None or (best[0] > SHOWN_TOKENS and size < best[0]):
            best = size, conversation, sequences[-1]
    share = usable / len(numbers) * (1 - source.held_out)
    if source.limit is not None:
        share *= min(1.0, source.limit / usable)
    size = sum(len(turn.content.encode("utf-8", "replace")) for _, example in read for turn in example.messages)
    amount = Amount(max(1, round(count * share)), round(size * share * len(numbers) / len(read)), round(tokens * share))
    sample = Sample(name, best[1].id, best[1].row, _spans(writer, best[2])) if best is not None else None
    return Look(amount, learned / tokens if tokens else 0.0, long.said() if long.count else "", sample)


def _conversation(line: int, example: Example) -> Conversation:
    turns = tuple({"role": turn.role, "content": turn.content} for turn in example.messages)
    return Conversation(example.id, line, turns)


def _spans(writer: Writer, row: Written) -> tuple[tuple[str, bool], ...]:
    spans: list[tuple[list[int], bool]] = []
    for token, learned in zip(row.ids, row.learned, strict=True):
        if not spans or spans[-1][1] != learned:
            spans.append(([], learned))
        spans[-1][0].append(token)
    return tuple((str(writer.tokenizer.decode(ids, skip_special_tokens=False)), learned) for ids, learned in spans)
