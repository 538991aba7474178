"""A file of examples → the files of a corpus of conversations: train and held out, with a report of what was dropped.

Conversations are neither cut nor judged as prose; it knows no tokenizer and no template.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from adapt.corpus.decontamination import Evaluations
from adapt.corpus.making import HELD_OUT, OVERLAPS, REPORT, TRAIN, Dropped
from adapt.corpus.splitting import choose, place
from adapt.corpus.texts import TrainingText
from adapt.instructions.example import Example, messages_id, numbered_examples
from adapt.recipe import Source
from eval.runs.parts import Progress
from eval.runs.run_folder import write_json
from retrieval.errors import DamagedError, ReadingError

GROUP = "group"
"""Label of examples that belong together, as those of one document do: all stand on one side of the split."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One to train on or to measure with. `row` is its line in the file; those of a `group` belong together."""

    id: str
    row: int
    messages: tuple[dict[str, str], ...]
    group: str | None = None


def read_conversations(file: Path) -> Iterator[Conversation]:
    """What `make_chats` wrote. Raises DamagedError."""
    try:
        with file.open("rb") as lines:
            for line in lines:
                row = orjson.loads(line)
                messages = tuple({"role": str(role), "content": str(content)} for role, content in row["messages"])
                yield Conversation(str(row["id"]), int(row["row"]), messages, row["group"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{file} cannot be read ({error}); remove its folder") from error


def make_chats(
    source: Source,
    path: Path,
    shown: str,
    folder: Path,
    facts: Mapping[str, Any],
    evaluations: Evaluations | None,
    *,
    seed: int,
    progress: Progress,
) -> None:
    """Write train.jsonl, held_out.jsonl and report.json into `folder`, as `adapt.corpus.making.make` does.

    In this order: rejected examples go, exact repetitions, examples whose user asks a question of an evaluation, and
    what a `limit` did not draw. The rest is split by `labels.group`, or by the messages where there is none. Raises
    ReadingError for a file that is none of examples, or of which nothing is left, and OSError.
    """
    judge = _Judge(evaluations)
    read: list[Example] = []
    lines: list[int] = []
    for line, example in numbered_examples(path):
        read.append(example)
        lines.append(line)
        if len(read) % 256 == 0:
            progress("reading", len(read), 0)
    numbers = list(range(len(read)))
    if source.limit is not None:
        random.Random(seed).shuffle(numbers)
    kept: list[int] = []
    for number in numbers:
        if source.limit is not None and len(kept) >= source.limit:
            judge.dropped.add("limit", _text(read[number]))
        elif judge.passes(read[number]):
            kept.append(number)
    kept.sort()
    if not kept:
        reasons = ", ".join(f"{entry['documents']:,} {reason}" for reason, entry in judge.dropped.reasons.items())
        what = f"is left with no example: all were dropped ({reasons})" if read else "holds no example"
        raise ReadingError(shown, "empty", f"{what}.")
    groups = [str(read[number].labels.get(GROUP) or read[number].id) for number in kept]
    named = list(dict.fromkeys(groups))
    places = [place(name.encode("utf-8", "surrogatepass")) for name in named]
    out = {named[number] for number in choose(places, source.held_out)}
    chosen = [(lines[number], read[number]) for number in kept]
    written = _write(chosen, [group in out for group in groups], folder)
    size = sum(part["bytes"] for part in written.values())
    everything = sum(len(_text(example).text.encode("utf-8", "replace")) for example in read)
    write_json(
        folder / REPORT,
        {
            **facts,
            "place": shown,
            "read": {"documents": len(read), "texts": len(read), "bytes": everything, "packed": path.stat().st_size},
            "left_out": {"documents": 0, "reasons": {}},
            "warnings": {},
            "kept": {"texts": len(kept), "bytes": size},
            "dropped": {"texts": judge.dropped.documents, "reasons": judge.dropped.reasons},
            **written,
            "split": {
                "by": "groups" if len(named) < len(kept) else "examples",
                "note": "" if out or not source.held_out else "too few examples to hold any of them out",
            },
            "languages": {"sample": 0, "documents": {}},
            "overlaps": {
                "questions": evaluations.items if evaluations else 0,
                "too_short": evaluations.too_short if evaluations else 0,
                "found": judge.found,
                "list": judge.overlaps,
            },
        },
    )


class _Judge:
    def __init__(self, evaluations: Evaluations | None) -> None:
        self._evaluations = evaluations
        self._seen: dict[str, str] = {}
        self.dropped = Dropped()
        self.overlaps: list[dict[str, str]] = []
        self.found = 0

    def passes(self, example: Example) -> bool:
        text = _text(example)
        if example.rejected:
            self.dropped.add("rejected", text)
            return False
        content = messages_id(example.messages)
        if content in self._seen:
            self.dropped.add("duplicate", text, f"of '{self._seen[content]}'")
            return False
        self._seen[content] = example.id
        asked = "\n\n".join(message.content for message in example.messages if message.role == "user")
        overlap = self._evaluations.overlap(asked) if self._evaluations is not None else None
        if overlap is None:
            return True
        self.dropped.add("contaminated", text, f"'{overlap.text}' of {overlap.file}, {overlap.item}")
        self.found += 1
        if len(self.overlaps) < OVERLAPS:
            told = {"file": overlap.file, "item": overlap.item, "question": overlap.question, "text": overlap.text}
            self.overlaps.append({"document": example.id, **told})
        return False


def _text(example: Example) -> TrainingText:
    return TrainingText(example.id, "\n\n".join(message.content for message in example.messages))


def _write(kept: Sequence[tuple[int, Example]], held_out: Sequence[bool], folder: Path) -> dict[str, dict[str, int]]:
    """Both files; how many examples and bytes are in each."""
    sizes = {"train": {"documents": 0, "bytes": 0}, "held_out": {"documents": 0, "bytes": 0}}
    with (folder / TRAIN).open("wb") as train, (folder / HELD_OUT).open("wb") as aside:
        for (line, example), out in zip(kept, held_out, strict=True):
            text = _text(example).text
            messages = [[message.role, message.content] for message in example.messages]
            group = example.labels.get(GROUP)
            row = {
                "id": example.id,
                "title": "",
                "text": text,
                "row": line,
                "group": str(group) if group else None,
                "messages": messages,
            }
            (aside if out else train).write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            side = sizes["held_out" if out else "train"]
            side["documents"] += 1
            side["bytes"] += len(text.encode())
    return sizes
