"""Passages and a model that writes → questions with answers quoted from them, checked, as rows of a question set.

It knows no prompt and no check by itself, and nothing of the disk.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapt.corpus.sources import LeftOut
from adapt.instructions.writing.pair_checks import ANSWERED_OTHERWISE, PairChecks, Rejected, Sound
from adapt.instructions.writing.pair_prompts import (
    PAIRS_VERSION,
    Pair,
    answering_messages,
    pair_messages,
    read_reply,
    said_none,
)
from adapt.instructions.writing.writer import Wanted, Writer
from eval.data.corpora import text_start
from eval.figures.answer_metrics import contains, token_f1
from eval.runs.parts import Progress
from retrieval.errors import FathomError, UsageError
from retrieval.passages import Hit
from retrieval.prompts import language_of

UNREADABLE, DECLINED, FAILED, SURPLUS = "unreadable", "nothing to ask", "engine failed", "more than were asked for"
TOKENS_PER_PAIR = 120
"""Longest pair: a question of 40 words and an answer of 12 in JSON have half as many."""
TOKENS_OF_ANSWER = 48
_COUNTS = ("passages", "asked", "candidates", "kept", "tokens")


@dataclass(frozen=True)
class PairWriting:
    """`per_passage` pairs are asked for of each passage; passages are asked about in an order drawn with `seed`, until
    `count` pairs are kept where that is given. With `answer_again` the model must answer each question from its passage
    alone, and its answer reach `least_f1` with the pair's, or hold it."""

    per_passage: int = 2
    count: int | None = None
    answer_again: bool = False
    least_f1: float = 0.5
    temperature: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.per_passage <= 20:
            raise UsageError(f"per_passage is {self.per_passage}; it is a number from 1 to 20")
        if self.count is not None and self.count < 1:
            raise UsageError(f"count is {self.count}; it must be 1 or more")
        if not 0.0 <= self.temperature <= 2.0:
            raise UsageError(f"temperature is {self.temperature}; it is a number from 0 to 2")
        if not 0.0 < self.least_f1 <= 1.0:
            raise UsageError(f"least_f1 is {self.least_f1}; it is a share above 0 up to 1")


@dataclass
class Tally:
    """What became of all that was asked. `asked` counts passages, `candidates` pairs that could be read, `tokens` what
    the model wrote, where the engine counts."""

    passages: int = 0
    asked: int = 0
    candidates: int = 0
    kept: int = 0
    tokens: int = 0
    rejected: LeftOut = field(default_factory=LeftOut)
    ranks: Counter[int] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON; `yield` is what is kept of the pairs that could be read."""
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "yield": round(self.kept / self.candidates, 4) if self.candidates else None,
            "rejected": {
                reason: {"count": count, "examples": self.rejected.examples[reason]}
                for reason, count in self.rejected.counts.most_common()
            },
            "ranks": {str(rank): count for rank, count in sorted(self.ranks.items())},
            "languages": dict(self.languages.most_common()),
        }  # fmt: skip


def wanted_of(hit: Hit, writing: PairWriting) -> Wanted:
    """The request for the pairs of one passage."""
    return Wanted(
        pair_messages(hit, writing.per_passage),
        writing.temperature,
        TOKENS_PER_PAIR * writing.per_passage,
        writing.seed,
    )


def write_pairs(
    passages: Sequence[Hit],
    writer: Writer,
    checks: PairChecks,
    writing: PairWriting,
    tally: Tally,
    progress: Progress = lambda *_: None,
) -> Iterator[dict[str, Any]]:
    """Rows of a question set (offsets count in the document's own text), as they pass; `tally` fills meanwhile.

    Raises FathomError where the engine cannot write at all.
    """
    tally.passages = len(passages)
    step = max(1, writer.at_once)
    for at in range(0, len(passages), step):
        if writing.count is not None and tally.kept >= writing.count:
            return
        progress("asking about passages", at, len(passages))
        batch = passages[at : at + step]
        tally.asked += len(batch)
        for hit, written in zip(batch, writer.write([wanted_of(hit, writing) for hit in batch]), strict=True):
            where = f"{hit.source.uri}#{hit.passage.ordinal}"
            tally.tokens += written.tokens
            if written.finish == "failed":
                tally.rejected.add(FAILED, where, written.error)
                continue
            for sound in _checked(
                _read(written.text, where, writing, tally), hit, where, writer, checks, writing, tally
            ):
                if writing.count is None or tally.kept < writing.count:
                    tally.kept += 1
                    tally.ranks[sound.rank] += 1
                    tally.languages[language_of(sound.question)] += 1
                    yield _row(sound, text_start(checks.documents[sound.document]), writer.name)
    progress("asking about passages", len(passages), len(passages))


def _read(text: str, where: str, writing: PairWriting, tally: Tally) -> Sequence[Pair]:
    reply = read_reply(text)
    for fragment in reply.unreadable:
        tally.rejected.add(UNREADABLE, where, f"'{fragment}'")
    if reply.declined:
        tally.rejected.add(DECLINED, where, f"'{text.strip()}'")
    elif not text.strip():
        tally.rejected.add(UNREADABLE, where, "nothing was written")
    tally.candidates += len(reply.pairs)
    for pair in reply.pairs[writing.per_passage :]:
        tally.rejected.add(SURPLUS, where, f"'{pair.question}'")
    return reply.pairs[: writing.per_passage]


def _checked(
    pairs: Sequence[Pair],
    hit: Hit,
    where: str,
    writer: Writer,
    checks: PairChecks,
    writing: PairWriting,
    tally: Tally,
) -> Iterator[Sound]:
    for pair in pairs:
        found = checks.look_at(pair, hit)
        if isinstance(found, Sound) and writing.answer_again:
            found = _answered(found, hit, writer, writing, tally)
        if isinstance(found, Rejected):
            tally.rejected.add(found.reason, where, found.why)
        else:
            checks.remember(found)
            yield found


def _answered(sound: Sound, hit: Hit, writer: Writer, writing: PairWriting, tally: Tally) -> Sound | Rejected:
    """The same where the model, shown the passage and the question alone, gives the same answer."""
    (written,) = writer.write([Wanted(answering_messages(hit, sound.question), 0.0, TOKENS_OF_ANSWER)])
    tally.tokens += written.tokens
    if written.finish == "failed":
        return Rejected(FAILED, written.error)
    text = written.text
    language = language_of(sound.answer)
    same = token_f1(text, [sound.answer], language) >= writing.least_f1 or contains(text, sound.answer, language)
    if said_none(text) or not same:
        said = " ".join(text.split())[:120]
        return Rejected(ANSWERED_OTHERWISE, f"'{sound.question}' has '{sound.answer}', and again '{said}'")
    return sound


def _row(sound: Sound, before: int, by: str) -> dict[str, Any]:
    span = {"document": sound.document, "start": sound.start - before, "end": sound.end - before}
    said = json.dumps([sound.question, sound.answer, span], sort_keys=True)
    return {
        "id": hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()[:16],
        "question": sound.question,
        "answers": [sound.answer],
        "spans": [span],
        "documents": [sound.document],
        "by": by,
        "prompt": PAIRS_VERSION,
        "checks": {"rank": sound.rank},
    }


def nothing_kept(tally: Tally) -> FathomError:
    """What to say where no pair passed: how much was asked, and the reason there is most of."""
    worst = next(iter(tally.rejected.counts.most_common(1)), None)
    why = f"; {worst[1]:,} times: {worst[0]} ({tally.rejected.examples[worst[0]][0]})" if worst else ""
    return FathomError(
        f"no question passed of {tally.candidates:,} about {tally.asked:,} passages{why}; a larger model may help"
    )
