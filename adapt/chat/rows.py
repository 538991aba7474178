"""Conversations → packed rows on disk in which only the assistant's tokens are learned; none is cut, those that are too
long are named. It knows no mixture and no model."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adapt.chat.corpus import Conversation
from adapt.chat.writing import Writer, Written
from adapt.corpus.packing import Blocks, pack_sequences, tokenizer_hash
from eval.runs.parts import Progress
from retrieval.errors import UsageError

VERSION = 1
"""Goes up when the same conversations and writer give other rows."""
NAMED = 5
"""Conversations that a report names."""


@dataclass
class TooLong:
    """Conversations that do not fit into a block."""

    block: int
    count: int = 0
    longest: int = 0
    named: list[dict[str, Any]] = field(default_factory=list)

    def add(self, conversation: Conversation, tokens: int) -> None:
        self.count += 1
        self.longest = max(self.longest, tokens)
        if len(self.named) < NAMED:
            self.named.append({"row": conversation.row, "id": conversation.id, "tokens": tokens})

    def said(self) -> str:
        """ "2 examples are longer than 512 tokens, the longest 731: line 3 ('a'), line 9 ('b')"."""
        which = ", ".join(f"line {one['row']} ('{str(one['id'])[:40]}')" for one in self.named)
        more = " …" if self.count > len(self.named) else ""
        are = "example is" if self.count == 1 else "examples are"
        return f"{self.count:,} {are} longer than {self.block:,} tokens, the longest {self.longest:,}: {which}{more}"


def written(
    conversations: Iterable[Conversation], writer: Writer, too_long: TooLong, *, name: str
) -> Iterator[tuple[Conversation, list[Written]]]:
    """Each conversation with its sequences, without those that are too long, which `too_long` hears of.

    Raises UsageError that names the example which cannot be trained on.
    """
    for conversation in conversations:
        try:
            sequences = writer.rows(conversation.messages)
        except UsageError as error:
            raise UsageError(f"{name}, line {conversation.row} ('{conversation.id[:60]}'): {error}") from error
        longest = max(len(one.ids) for one in sequences)
        if longest > too_long.block:
            too_long.add(conversation, longest)
        else:
            yield conversation, sequences


def rows_key(texts: str, writer: Writer, *, block: int, too_long: str, seed: int) -> str:
    """SHA-256 (hex) of all that decides the rows of conversations whose corpus has the hash `texts`."""
    described = {
        "version": VERSION,
        "texts": texts,
        "tokenizer": tokenizer_hash(writer.tokenizer),
        "special": {key: str(value) for key, value in writer.tokenizer.special_tokens_map.items()},
        "template": writer.template,
        "system": writer.system,
        "learn": writer.learn,
        "block": block,
        "too_long": too_long,
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def pack_chats(
    conversations: Iterable[Conversation],
    writer: Writer,
    *,
    block: int,
    too_long: Literal["drop", "refuse"],
    folder: Path,
    seed: int,
    progress: Progress,
    name: str,
) -> Blocks:
    """Write the rows to `folder`. The facts of the blocks have `conversations` and what was `too_long`.

    Raises UsageError for a conversation that cannot be trained on, for those that are too long where they are refused,
    and where none is left.
    """
    long = TooLong(block)
    kept = 0

    def sequences() -> Iterator[tuple[list[int], list[bool]]]:
        nonlocal kept
        for _, found in written(conversations, writer, long, name=name):
            kept += 1
            yield from ((one.ids, one.learned) for one in found)
        if long.count and (too_long == "refuse" or not kept):
            remedy = "make the block larger, shorten them" + (", or set too_long: drop" if kept else "")
            raise UsageError(f"{name}: {long.said()}; {remedy}")

    def facts() -> Mapping[str, Any]:
        told = {"count": long.count, "longest": long.longest, "named": long.named}
        return {"conversations": kept, "too_long": told, "tokenizer": tokenizer_hash(writer.tokenizer)}

    return pack_sequences(sequences(), block=block, folder=folder, seed=seed, progress=progress, facts=facts, name=name)
