"""Conversations with human rewrites → examples of rewriting a question as it is asked for in serving, and the turns
that are held out, as `fathom eval rewrites` reads them.

The prompt is that of serving (retrieval.rewriting.condensing), its history cut alike. It trains and asks no model.
"""

import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt.instructions.example import Example, Message, Origin
from adapt.instructions.importing import Imported
from eval.data.conversations import Turn, read_turns
from eval.data.texts import storable
from eval.figures.answer_metrics import rouge_tokens
from eval.runs.parts import Progress
from retrieval.errors import FathomError, UsageError
from retrieval.reading.folder import shown
from retrieval.rewriting.condensing import REWRITE_VERSION, cleaned_rewrite, rewrite_messages
from retrieval.storage.durable import sync_to_disk

HELD_OUT, DUPLICATE, OVERLAP = "held out", "duplicate", "overlap"
NO_HISTORY, NOT_SERVED, UNTOUCHED = "no history", "not served", "untouched"
_LEAST_WORDS = 6
"""Words of the shortest rewrite that is taken for the same as one held out: "Who is he?" may be asked of anybody."""


@dataclass(frozen=True)
class RewriteMaking:
    """`untouched` is the share of the examples whose question already stands alone and is repeated, so that a model
    learns to leave such questions alone.

    People's own come first (CANARD has 3 in 100, the Chinese set 1 in 1,000); what lacks is made: the human rewrite is
    asked in the place of the question, of the same conversation or, every other time, of another one, as whoever
    changes the subject does. `hold_out` is the share of the turns whose conversations, with all others about the same
    topic, are left out; `limit` the examples at most of each source, drawn.
    """

    untouched: float = 0.1
    hold_out: float = 0.0
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("untouched", "hold_out"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UsageError(f"{name} is {getattr(self, name)}; it is a share from 0 to below 1")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is a number of examples from 1; {self.limit} was given")


def turn_files(sources: Sequence[Path]) -> list[Path]:
    """The files of turns among files and folders, folders in the order of their names.

    Raises UsageError for what is not there, for a folder without any, and for two of one name, whose held-out turns
    would be written to one file.
    """
    found: dict[str, Path] = {}
    for source in sources:
        if source.is_dir():
            files = sorted(one for one in source.iterdir() if one.name.lower().endswith((".jsonl", ".jsonl.gz")))
        else:
            files = [source] if source.is_file() else []
        if not files:
            raise UsageError(
                f"'{shown(str(source))}' is no file and no folder with .jsonl files; give lines with id, history, "
                "question and rewrite"
            )
        for file in files:
            if file.name in found:
                raise UsageError(f"two files are called '{shown(file.name)}'; give one of them another name")
            found[file.name] = file
    return list(found.values())


def held_out_turns(turns: Sequence[Turn], making: RewriteMaking) -> frozenset[str]:
    """Ids of about the wanted share of the turns: whole conversations, with all that have the same topic."""
    groups: dict[str, list[str]] = {}
    for turn in turns:
        groups.setdefault(_group(turn), []).append(turn.id)
    names = sorted(groups)
    random.Random(f"{making.seed} held out").shuffle(names)
    away: list[str] = []
    for name in names:
        if len(away) >= making.hold_out * len(turns):
            break
        away += groups[name]
    return frozenset(away)


def examples_from_rewrites(
    path: Path,
    making: RewriteMaking,
    into: Imported,
    *,
    licence: str = "",
    progress: Progress = lambda *_: None,
) -> Iterator[Example]:
    """An example for each turn with messages before it, and made ones up to the share `untouched`, in a drawn order.

    Left out are turns that are held out; repetitions of a prompt; what shares a conversation, or a rewrite of some
    length, with what is held out; rewrites that serving would not take from a model, such as a statement for a
    question. `labels.group` is the topic or conversation, so that none stands on both sides of a split.
    Raises UsageError and ReadingError as `read_turns` does.
    """
    turns = read_turns(path)
    into.forms[path.name] = f"turns, {len(turns):,}"
    away = held_out_turns(turns, making)
    asked, untouched = _usable(path, turns, away, into, progress)
    draw = random.Random(f"{making.seed} {path.name}")
    draw.shuffle(asked)
    draw.shuffle(untouched)
    whole = len(asked) + len(untouched) if making.untouched == 0 else round(len(asked) / (1 - making.untouched))
    whole = min(whole, making.limit or whole)
    wanted = min(round(making.untouched * whole), whole)
    for turn in untouched[wanted:]:
        into.left_out.add(UNTOUCHED, f"{path.name}#{turn.id}", "stands alone, and there are enough of these")
    chosen = [(turn, "") for turn in asked[: whole - wanted]] + [(turn, "") for turn in untouched[:wanted]]
    lacking = wanted - min(wanted, len(untouched))
    chosen += [(turn, "made") for turn in _made(asked[: whole - wanted], lacking, draw)]
    draw.shuffle(chosen)
    for turn, how in chosen:
        into.examples += 1
        yield _example(path, turn, how, licence)


def write_held_out(folder: Path, files: Iterable[Path], making: RewriteMaking) -> Mapping[str, int]:
    """Write the held-out turns of each file under its own name into a folder; how many there are of each.

    Each file is there whole or not at all. Raises FathomError where it cannot be written.
    """
    counts: dict[str, int] = {}
    for path in files:
        turns = read_turns(path)
        away = held_out_turns(turns, making)
        rows = [
            {
                "id": turn.id,
                "conversation": turn.cluster,
                **({"topic": turn.topic} if turn.topic else {}),
                "history": [{"role": message.role, "text": message.text} for message in turn.history],
                "question": turn.question,
                "rewrite": turn.rewrite,
            }
            for turn in turns
            if turn.id in away
        ]
        text = "".join(storable(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
        _write(folder / path.name.removesuffix(".gz"), text)
        counts[path.name] = len(rows)
    return counts


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        file.parent.mkdir(exist_ok=True)
        temporary.write_text(text, encoding="utf-8", newline="\n")
        sync_to_disk(temporary)
        os.replace(temporary, file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FathomError(
            f"'{shown(str(file))}' cannot be written ({error.strerror or error}); name another place"
        ) from error
    sync_to_disk(file.parent)


def _group(turn: Turn) -> str:
    return turn.topic or turn.cluster


def _usable(
    path: Path, turns: Sequence[Turn], away: frozenset[str], into: Imported, progress: Progress
) -> tuple[list[Turn], list[Turn]]:
    """Turns to learn from: those that people rewrote, and those that they left as they were."""
    kept_back = {key for turn in turns if turn.id in away for key in _keys(turn)}
    seen: set[tuple[str, str]] = set()
    asked: list[Turn] = []
    untouched: list[Turn] = []
    for number, turn in enumerate(turns, 1):
        into.rows += 1
        progress(f"reading {path.name}", number, len(turns))
        where = f"{path.name}#{turn.id}"
        prompt = _prompt(turn)
        if turn.id in away:
            into.left_out.add(HELD_OUT, where, "is held out")
        elif not any(message.text.strip() for message in turn.history):
            into.left_out.add(NO_HISTORY, where, "has nothing before it, and no model is asked to rewrite it")
        elif kept_back & _keys(turn):
            into.left_out.add(OVERLAP, where, "is said among what is held out, too")
        elif prompt in seen:
            into.left_out.add(DUPLICATE, where, "is there twice")
        elif cleaned_rewrite(turn.rewrite, turn.question) != (" ".join(turn.rewrite.split()), ""):
            into.left_out.add(NOT_SERVED, where, f"has a rewrite that would not be taken: {turn.rewrite[:80]!r}")
        else:
            (asked if turn.needed else untouched).append(turn)
        seen.add(prompt)
    return asked, untouched


def _prompt(turn: Turn) -> tuple[str, str]:
    """The prompt, by which repetitions are known: turns whose histories differ before the cut are the same."""
    _, said = rewrite_messages(turn.question, turn.history)
    return " ".join(rouge_tokens(said.text)), turn.question.casefold()


def _keys(turn: Turn) -> set[str]:
    """What must not be said on both sides of a hold-out: a conversation's beginning, a telling rewrite."""
    found = (
        {"history " + " ".join(rouge_tokens(" ".join(one.text for one in turn.history[:2])))} if turn.history else set()
    )
    words = rouge_tokens(turn.rewrite)
    if len(set(words)) >= _LEAST_WORDS:
        found.add("rewrite " + " ".join(words))
    return found


def _made(turns: Sequence[Turn], count: int, draw: random.Random) -> Iterator[Turn]:
    """Conversations in which a question is asked that stands alone: a human rewrite, of theirs or of another one."""
    for place in range(count if turns else 0):
        turn = turns[place % len(turns)]
        other = turn if place % 2 == 0 else draw.choice(turns)
        yield Turn(turn.id, other.rewrite, turn.history, other.rewrite, turn.cluster, turn.topic)


def _example(path: Path, turn: Turn, how: str, licence: str) -> Example:
    prompt = [Message(one.role, one.text) for one in rewrite_messages(turn.question, turn.history)]
    labels = {"group": f"{path.name} {_group(turn)}", "task": "rewrite", "untouched": not turn.needed}
    origin = Origin("rewrites", f"{path.name}#{turn.id}{' ' + how if how else ''}", REWRITE_VERSION, licence)
    target = " ".join(turn.rewrite.split())
    return Example.of([*prompt, Message("assistant", target)], origin=origin, labels=labels)
