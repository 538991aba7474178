"""Turns of conversations with human rewrites → examples of rewriting a question so that it stands alone.

The prompt is that of serving (retrieval.rewriting.condensing). It knows no search.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapt.instructions.example import Example, Message, Origin
from adapt.instructions.importing import Imported
from eval.data.conversations import Turn, read_turns
from eval.data.texts import storable
from eval.figures.answer_metrics import rouge_tokens
from eval.runs.parts import Progress
from retrieval.errors import FathomError, UsageError
from retrieval.rewriting.condensing import REWRITE_VERSION, cleaned_rewrite, rewrite_messages
from retrieval.storage.durable import sync_to_disk

NO_HISTORY, NOT_TAKEN, HELD_OUT = "without a history", "rewrite that serving would not take", "held out"
TWICE, OVERLAP = "said twice", "held out elsewhere"
_LEAST_WORDS = 6
"""Different words of the shortest rewrite that counts as the same as a held-out one: anybody asks "Who is he?"."""


@dataclass(frozen=True)
class Rewriting:
    """`unchanged` is the most, of the examples, that leave their question as it is: a rewriter must learn that too, and
    must not learn to do nothing. `standalone` is the share of the examples that are made for it besides, since people's
    own are few (of CANARD's turns 3 in 100, of the Chinese set's 1 in 1,000): a human rewrite is asked in the place of
    the question, of the same conversation or, every other time, of another one, as whoever changes the subject does.
    `limit` turns are drawn at random; the share `hold_out` of the conversations is left out, with all that are about
    the same topic."""

    unchanged: float = 0.15
    standalone: float = 0.0
    limit: int | None = None
    hold_out: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("unchanged", "standalone", "hold_out"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UsageError(f"{name} is {getattr(self, name)}; it is a share from 0 to below 1")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is {self.limit}; it must be 1 or more")


@dataclass(frozen=True)
class Conversations:
    """The turns of a file, `learnt` and `held_out`; no conversation has turns in both, and no topic."""

    path: Path
    learnt: tuple[Turn, ...]
    held_out: tuple[Turn, ...]


def conversations(path: Path, making: Rewriting) -> Conversations:
    """Read a file of turns and part it. Raises what `read_turns` raises."""
    turns = read_turns(path)
    groups = sorted({_group(turn) for turn in turns})
    random.Random(f"{making.seed} held out").shuffle(groups)
    away = frozenset(groups[: round(making.hold_out * len(groups))])
    return Conversations(
        path,
        tuple(turn for turn in turns if _group(turn) not in away),
        tuple(turn for turn in turns if _group(turn) in away),
    )


def _group(turn: Turn) -> str:
    """What stands on one side of a hold-out: two conversations about one article tell each other's names."""
    return turn.topic or turn.cluster


def examples_from_rewrites(
    found: Conversations,
    making: Rewriting,
    into: Imported,
    *,
    licence: str = "",
    progress: Progress = lambda *_: None,
) -> Iterator[Example]:
    """An example for each turn with a history whose rewrite serving would take as one, and those that are made.

    Left out is what shares a conversation's beginning, or a rewrite of some length, with a held-out turn.
    `labels.group` is the topic or conversation, by which a set is split; every other one of the questions that stand
    alone is another conversation's, so that its words may stand on both sides. `labels.needed` tells whether the person
    changed anything.
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
            labels={"group": _group(turn), "task": "rewrite", "needed": turn.needed},
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
    held_out = {said for turn in found.held_out for said in _said(turn)}
    for turn in found.learnt:
        where = f"{found.path.name}#{turn.id}"
        if not any(message.text.strip() for message in turn.history):
            into.left_out.add(NO_HISTORY, where, "begins its conversation")
        elif not held_out.isdisjoint(_said(turn)):
            into.left_out.add(OVERLAP, where, "is said in a conversation that is held out, too")
        else:
            turns.append(turn)
    random.Random(f"{making.seed} rewrites").shuffle(turns)
    needed = [turn for turn in turns if turn.needed]
    most = round(len(needed) * making.unchanged / (1.0 - making.unchanged))
    kept = frozenset(turn.id for turn in [*needed, *[turn for turn in turns if not turn.needed][:most]])
    chosen = [turn for turn in turns if turn.id in kept][: making.limit]
    return [*chosen, *_standalone(chosen, making)]


def _said(turn: Turn) -> set[str]:
    """What must not be said on both sides of a hold-out: how a conversation begins, and a rewrite that tells much."""
    words = rouge_tokens(turn.rewrite)
    found = {"rewrite " + " ".join(words)} if len(set(words)) >= _LEAST_WORDS else set()
    if len(turn.history) > 1:
        found.add("begins " + " ".join(rouge_tokens(" ".join(message.text for message in turn.history[:2]))))
    return found


def _standalone(turns: Sequence[Turn], making: Rewriting) -> Iterator[Turn]:
    """Conversations in which a question is asked that stands alone."""
    draw = random.Random(f"{making.seed} standalone")
    asked = [turn for turn in turns if turn.needed]
    count = round(len(turns) * making.standalone / (1.0 - making.standalone)) if asked else 0
    for place in range(count):
        turn = asked[place % len(asked)]
        other = turn if place % 2 == 0 else draw.choice(asked)
        yield replace(turn, id=f"{turn.id} standalone", question=other.rewrite, rewrite=other.rewrite)


def write_turns(path: Path, turns: Sequence[Turn]) -> None:
    """A file of turns, as `read_turns` reads it. Raises FathomError where it cannot be written."""
    rows = (
        {
            "id": turn.id,
            "conversation": turn.cluster,
            **({"topic": turn.topic} if turn.topic else {}),
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
