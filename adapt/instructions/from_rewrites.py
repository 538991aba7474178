"""Turns of conversations with human rewrites → examples of rewriting a question so that it stands alone.

The prompt is that of serving (retrieval.rewriting). It knows no search.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt.instructions.example import Example, Message, Origin
from adapt.instructions.importing import Imported
from eval.data.conversations import Turn, read_turns
from eval.data.texts import storable
from eval.runs.parts import Progress
from retrieval.errors import FathomError, UsageError
from retrieval.rewriting import REWRITE_VERSION, cleaned_rewrite, rewrite_messages
from retrieval.storage.durable import sync_to_disk

NO_HISTORY, NOT_TAKEN, HELD_OUT = "without a history", "rewrite that serving would not take", "held out"
TWICE = "said twice"


@dataclass(frozen=True)
class Rewriting:
    """`unchanged` is the most, of the examples, that leave their question as it is: a rewriter must learn that too, and
    must not learn to do nothing. `limit` turns are drawn at random; the share `hold_out` of the conversations is left
    out."""

    unchanged: float = 0.15
    limit: int | None = None
    hold_out: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("unchanged", "hold_out"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UsageError(f"{name} is {getattr(self, name)}; it is a share from 0 to below 1")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is {self.limit}; it must be 1 or more")


@dataclass(frozen=True)
class Conversations:
    """The turns of a file, `learnt` and `held_out`; no conversation has turns in both."""

    path: Path
    learnt: tuple[Turn, ...]
    held_out: tuple[Turn, ...]


def conversations(path: Path, making: Rewriting) -> Conversations:
    """Read a file of turns and part it. Raises what `read_turns` raises."""
    turns = read_turns(path)
    clusters = sorted({turn.cluster for turn in turns})
    random.Random(f"{making.seed} held out").shuffle(clusters)
    away = frozenset(clusters[: round(making.hold_out * len(clusters))])
    return Conversations(
        path,
        tuple(turn for turn in turns if turn.cluster not in away),
        tuple(turn for turn in turns if turn.cluster in away),
    )


def examples_from_rewrites(
    found: Conversations,
    making: Rewriting,
    into: Imported,
    *,
    licence: str = "",
    progress: Progress = lambda *_: None,
) -> Iterator[Example]:
    """An example for each turn with a history whose rewrite serving would take as one.

    `labels.group` is the conversation, so that none stands on both sides of a split; `labels.needed` tells whether the
    person changed anything.
    """
    turns = _chosen(found, making, into)
    seen: set[str] = set()
    for number, turn in enumerate(turns, 1):
        progress("making examples", number, len(turns))
        text, problem = cleaned_rewrite(turn.rewrite, turn.question)
        source = f"{found.path.name}#{turn.id}"
        if problem:
            into.left_out.add(NOT_TAKEN, source, f"has a rewrite that is {problem}")
            continue
        asked = [Message(one.role, one.text) for one in rewrite_messages(turn.question, turn.history)]
        example = Example.of(
            [*asked, Message("assistant", text)],
            origin=Origin("rewritten", source, REWRITE_VERSION, licence),
            labels={"group": turn.cluster, "task": "rewrite", "needed": turn.needed},
        )
        if example.id in seen:
            into.left_out.add(TWICE, source, "is there already")
            continue
        seen.add(example.id)
        into.examples += 1
        yield example


def _chosen(found: Conversations, making: Rewriting, into: Imported) -> Sequence[Turn]:
    """The turns to learn from, in a random order of their own."""
    into.rows += len(found.learnt) + len(found.held_out)
    for turn in found.held_out:
        into.left_out.add(HELD_OUT, f"{found.path.name}#{turn.id}", "is of a conversation that is held out")
    turns = []
    for turn in found.learnt:
        if turn.history:
            turns.append(turn)
        else:
            into.left_out.add(NO_HISTORY, f"{found.path.name}#{turn.id}", "begins its conversation")
    random.Random(f"{making.seed} rewrites").shuffle(turns)
    needed = [turn for turn in turns if turn.needed]
    most = round(len(needed) * making.unchanged / (1.0 - making.unchanged))
    kept = frozenset(turn.id for turn in [*needed, *[turn for turn in turns if not turn.needed][:most]])
    return [turn for turn in turns if turn.id in kept][: making.limit]


def write_turns(path: Path, turns: Sequence[Turn]) -> None:
    """A file of turns, as `read_turns` reads it. Raises FathomError where it cannot be written."""
    rows = (
        {
            "id": turn.id,
            "conversation": turn.cluster,
            "history": [{"role": message.role, "text": message.text} for message in turn.history],
            "question": turn.question,
            "rewrite": turn.rewrite,
        }
        for turn in turns
    )
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("w", encoding="utf-8", newline="\n") as out:
            out.writelines(storable(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
        sync_to_disk(new)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise FathomError(f"'{path}' cannot be written ({error.strerror or error}); name another place") from error
