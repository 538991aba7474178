"""A source that is open → the files of a corpus, in two passes over the disk and with little in memory.

The first pass writes every document down as it was read; the second judges them one by one, finds those that repeat
another, and writes what is kept. Every document read is kept or dropped for a named reason. It knows no cache.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from adapt.corpus.cutting import pieces
from adapt.corpus.decontamination import Evaluations, Overlap
from adapt.corpus.duplicates import NearDuplicates, content_key
from adapt.corpus.languages import CODE, language
from adapt.corpus.quality import REASONS, fault
from adapt.corpus.sources import EXAMPLES, OpenSource
from adapt.corpus.splitting import BY_DOCUMENT, BY_PART, Split, blocks, by_document, choose, place, rejoined
from adapt.corpus.texts import TrainingText
from eval.runs.parts import Progress
from eval.runs.run_folder import write_json
from retrieval.errors import ReadingError

CODE_VERSION = 1
"""Goes up when the same bytes and settings give other texts."""
TRAIN, HELD_OUT, REPORT = "train.jsonl", "held_out.jsonl", "report.json"
LANGUAGE_SAMPLE = 500
"""Documents whose language is told for the report."""
OVERLAPS = 100
"""Overlaps that the report lists."""
_WHY = {
    **REASONS,
    "language": "is written in another language than those that were named",
    "duplicate": "is the text of another document",
    "near-duplicate": "repeats nearly all of another document",
    "contaminated": "holds a question of an evaluation",
    "rejected": "was rejected in review",
    "limit": "was not drawn: the limit was reached",
}


class Dropped:
    """What is not kept: by reason, how many, how many bytes, and some examples."""

    def __init__(self) -> None:
        self.reasons: dict[str, dict[str, Any]] = {}

    def add(self, reason: str, text: TrainingText, detail: str = "") -> None:
        entry = self.reasons.setdefault(reason, {"documents": 0, "bytes": 0, "why": _WHY[reason], "examples": []})
        entry["documents"] += 1
        entry["bytes"] += len(text.text.encode())
        if len(entry["examples"]) < EXAMPLES and reason != "limit":
            entry["examples"].append({"id": text.id, "detail": detail, "text": " ".join(text.text[:300].split())[:120]})

    @property
    def documents(self) -> int:
        return sum(entry["documents"] for entry in self.reasons.values())


class Spool:
    """Documents on disk in the order they were read; any of them again by its number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("w+b")
        self.starts: list[int] = []
        self.origins: list[int] = []
        self.bytes = 0
        self._end = 0

    def add(self, text: TrainingText, origin: int) -> None:
        line = orjson.dumps([text.id, text.text, text.title])
        self._file.write(line)
        self.starts.append(self._end)
        self.origins.append(origin)
        self._end += len(line)
        self.bytes += len(text.text.encode())

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> TrainingText:
        start = self.starts[number]
        end = self.starts[number + 1] if number + 1 < len(self.starts) else self._end
        self._file.seek(start)
        return TrainingText(*orjson.loads(self._file.read(end - start)))

    def close(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def make(
    source: OpenSource,
    folder: Path,
    facts: Mapping[str, Any],
    evaluations: Evaluations | None,
    *,
    seed: int,
    progress: Progress,
) -> None:
    """Write train.jsonl, held_out.jsonl and report.json into `folder`. Raises ReadingError, OSError."""
    spool = Spool(folder / "read.spool")
    try:
        documents = 0
        for document in source.texts(progress, seed=seed):
            parts = pieces(document.text)
            for number, part in enumerate(parts, 1):
                name = document.id if len(parts) == 1 else f"{document.id}#part-{number}"
                spool.add(TrainingText(name, part, document.title if number == 1 else ""), documents)
            documents += 1
        if not len(spool):
            more = f"; {source.left_out.total:,} were left out, such as {source.left_out.first()}"
            what = more if source.left_out.total else ""
            raise ReadingError(source.place, "empty", f"holds no text to train on{what}.")
        judge = _Judge(source, spool, folder, evaluations, seed)
        kept = judge.kept(progress)
        if not kept:
            reasons = ", ".join(f"{entry['documents']:,} {reason}" for reason, entry in judge.dropped.reasons.items())
            raise ReadingError(source.place, "empty", f"is left with no text: all were dropped ({reasons}).")
        written, split = _write(spool, kept, source.source.held_out, folder, progress)
        write_json(
            folder / REPORT,
            {
                **facts,
                "place": source.place,
                "read": {"documents": documents, "texts": len(spool), "bytes": spool.bytes, "packed": source.size},
                "left_out": {"documents": source.left_out.total, "reasons": _counted(source.left_out)},
                "warnings": _counted(source.warnings),
                "kept": {"texts": len(kept), "bytes": sum(part["bytes"] for part in written.values())},
                "dropped": {
                    "texts": judge.dropped.documents,
                    "reasons": dict(sorted(judge.dropped.reasons.items(), key=lambda item: -item[1]["documents"])),
                },
                **written,
                "split": {"by": split.by, "note": split.note},
                "languages": _languages(spool, kept),
                "overlaps": {
                    "questions": evaluations.items if evaluations else 0,
                    "too_short": evaluations.too_short if evaluations else 0,
                    "found": judge.overlaps_found,
                    "list": judge.overlaps,
                },
            },
        )
    finally:
        spool.close()


class _Judge:
    """Goes through the documents in the order of the source, or in a drawn one where there is a limit."""

    def __init__(
        self, source: OpenSource, spool: Spool, folder: Path, evaluations: Evaluations | None, seed: int
    ) -> None:
        self._settings = source.source
        self._spool = spool
        self._evaluations = evaluations
        self._folder = folder
        self._seen: dict[bytes, int] = {}
        self.dropped = Dropped()
        self.overlaps: list[dict[str, str]] = []
        self.overlaps_found = 0
        self._order = list(range(len(spool)))
        if self._settings.limit is not None:
            random.Random(seed).shuffle(self._order)

    def kept(self, progress: Progress) -> list[int]:
        """Numbers of the documents that are kept, ascending."""
        limit = self._settings.limit if self._settings.limit is not None else len(self._spool)
        threshold = self._settings.near_duplicates
        near = NearDuplicates(threshold, self._folder) if threshold is not None else None
        try:
            order = iter(self._order)
            alive: list[int] = []
            passed: list[int] = []  # all that `near` was given, by their place in it
            repeated: set[int] = set()
            judged = 0
            while len(alive) < limit:
                before = len(alive)
                for number in order:
                    judged += 1
                    if judged % 64 == 0:
                        progress("filtering", judged, len(self._spool))
                    text = self._spool[number]
                    if self._passes(number, text):
                        passed.append(number)
                        alive.append(number)
                        if near is not None:
                            near.add(text.text)
                        if len(alive) == limit:
                            break
                if len(alive) == before or near is None:
                    break
                for again, (first, similarity) in near.find(lambda at: self._spool[passed[at]].text, progress).items():
                    if passed[again] not in repeated:
                        repeated.add(passed[again])
                        detail = f"{similarity:.0%} of '{self._spool[passed[first]].id}'"
                        self.dropped.add("near-duplicate", self._spool[passed[again]], detail)
                alive = [number for number in alive if number not in repeated]
            for number in order:
                self.dropped.add("limit", self._spool[number])
            return sorted(alive)
        finally:
            if near is not None:
                near.close()

    def _passes(self, number: int, text: TrainingText) -> bool:
        if self._settings.quality and (found := fault(text.text)) is not None:
            self.dropped.add(found.reason, text, found.detail)
            return False
        if self._settings.languages:
            spoken = language(text.text)
            # What has no language (code) or does not show it (a line) is not in another one.
            if spoken not in (None, CODE, *self._settings.languages):
                self.dropped.add("language", text, str(spoken))
                return False
        first = self._seen.setdefault(content_key(text.text), number)
        if first != number:
            self.dropped.add("duplicate", text, f"of '{self._spool[first].id}'")
            return False
        overlap = self._evaluations.overlap(text.text) if self._evaluations is not None else None
        if overlap is not None:
            self._overlapping(text, overlap)
            return False
        return True

    def _overlapping(self, text: TrainingText, overlap: Overlap) -> None:
        self.dropped.add("contaminated", text, f"'{overlap.text}' of {overlap.file}, {overlap.item}")
        self.overlaps_found += 1
        if len(self.overlaps) < OVERLAPS:
            self.overlaps.append(
                {
                    "document": text.id,
                    "file": overlap.file,
                    "item": overlap.item,
                    "question": overlap.question,
                    "text": overlap.text,
                }
            )


# --- the split and the files -----------------------------------------------------------------------------------------


def _write(
    spool: Spool, kept: list[int], share: float, folder: Path, progress: Progress
) -> tuple[dict[str, dict[str, int]], Split]:
    """Both files; how many documents and bytes are in each."""
    written = {"train": Counter[str](), "held_out": Counter[str]()}
    split = _split(spool, kept, share)
    with (folder / TRAIN).open("wb") as train, (folder / HELD_OUT).open("wb") as held_out:
        for done, (out, text) in enumerate(_sides(spool, kept, split)):
            if done % 64 == 0:
                progress("writing", done, len(kept))
            row = {"id": text.id, "title": text.title, "text": text.text}
            (held_out if out else train).write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            written["held_out" if out else "train"].update(documents=1, bytes=len(text.text.encode()))
    sizes = {part: {"documents": found["documents"], "bytes": found["bytes"]} for part, found in written.items()}
    return sizes, _told(split, sizes, share)


def _told(split: Split, sizes: Mapping[str, Mapping[str, int]], share: float) -> Split:
    """The split with a note where chance gave it much less or more of the text than was asked for."""
    whole = sum(part["bytes"] for part in sizes.values())
    found = sizes["held_out"]["bytes"] / max(whole, 1)
    if split.note or not 0.0 < share < 1.0 or share / 2 <= found <= share * 2:
        return split
    return replace(split, note=f"by the hash of their texts that is {found:.1%} of the text, not {share:.1%}")


def _split(spool: Spool, kept: list[int], share: float) -> Split:
    """By documents (all parts of a long one on one side), or, where they are too few, by parts of them."""
    origins: dict[int, list[int]] = {}
    for number in kept:
        origins.setdefault(spool.origins[number], []).append(number)
    places = [place(content_key(spool[numbers[0]].text)) for numbers in origins.values()]
    split = by_document(places, share)
    if split is not None:
        groups = list(origins.values())
        chosen = frozenset(number for group in split.held_out for number in groups[group])
        note = "nothing is held out, as the recipe says" if not chosen and not share else ""
        return Split(BY_DOCUMENT, chosen, note)
    parts = [place(content_key(part)) for number in kept for part in blocks(spool[number].text)]
    chosen = choose(parts, share)
    note = (
        f"{len(origins)} document{'s are' if len(origins) != 1 else ' is'} too few to be held out whole: "
        f"{len(chosen)} of {len(parts)} parts of about 4,000 characters are"
        if chosen
        else "too little text to hold any of it out"
    )
    return Split(BY_PART, chosen, note)


def _sides(spool: Spool, kept: list[int], split: Split) -> Iterator[tuple[bool, TrainingText]]:
    """(held out, document) in the order of the source."""
    if split.by == BY_DOCUMENT:
        for number in kept:
            yield number in split.held_out, spool[number]
        return
    begun = 0
    for number in kept:
        document = spool[number]
        parts = blocks(document.text)
        sides = [begun + at in split.held_out for at in range(len(parts))]
        begun += len(parts)
        runs = rejoined(parts, sides)
        for out, first, text in runs:
            if len(runs) == 1:
                yield out, document
            elif text.strip():
                yield out, TrainingText(f"{document.id}#{first}", text, document.title if first == 1 else "")


# --- the report ------------------------------------------------------------------------------------------------------


def _counted(found: Any) -> dict[str, Any]:
    return {
        reason: {"count": count, "examples": found.examples[reason]} for reason, count in found.counts.most_common()
    }


def _languages(spool: Spool, kept: list[int]) -> dict[str, Any]:
    """Languages of a sample of what is kept, by documents; "?" is too short to tell."""
    sample = kept
    if len(kept) > LANGUAGE_SAMPLE:
        sample = sorted(random.Random(0).sample(kept, LANGUAGE_SAMPLE))
    counts = Counter(language(spool[number].text) or "?" for number in sample)
    return {"sample": len(sample), "documents": dict(counts.most_common())}
