"""A source of a recipe → a corpus: a folder with train.jsonl, held_out.jsonl and a report of what was dropped and why.

Made once for its content under its hash, whole or not at all. It knows no tokenizer and no model.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from adapt.corpus.decontamination import Evaluations
from adapt.corpus.languages import languages_version, require_known
from adapt.corpus.making import CODE_VERSION, HELD_OUT, REPORT, TRAIN, make
from adapt.corpus.sources import EXAMPLES, OpenSource, reader_version
from adapt.corpus.texts import TrainingText
from adapt.recipe import Decontamination, Source
from eval.runs.parts import Progress
from retrieval.embedding.stored import file_hash, is_whole, keep
from retrieval.errors import DamagedError, FathomError, UsageError

if TYPE_CHECKING:
    from adapt.chat.corpus import Conversation

CHATS_VERSION = 1
"""Goes up when the same file of conversations and settings give others."""
_LOG = logging.getLogger(__name__)
Part = Literal["train", "held_out"]
_FILES: Mapping[str, str] = {"train": TRAIN, "held_out": HELD_OUT}
_CONTENT = ("field", "title", "split", "held_out", "limit", "languages", "quality", "near_duplicates")
"""Settings of a source that decide its texts; its path does not, its bytes do."""


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus. `sha256` covers the settings, the bytes read and the versions of what read them."""

    name: str
    folder: Path
    sha256: str
    report: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Open one that was prepared. Raises DamagedError where the folder is not what was written."""
        remedy = "remove it and prepare the corpus again"
        try:
            if not is_whole(folder):
                raise DamagedError(f"the corpus {folder} is not what was written; {remedy}")
            report = json.loads((folder / REPORT).read_bytes())
            for part in _FILES:
                int(report[part]["documents"]), int(report[part]["bytes"])
            return cls(str(report["name"]), folder, str(report["sha256"]), report)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"the corpus {folder} cannot be read ({error}); {remedy}") from error

    def file(self, part: Part) -> Path:
        """JSON lines with id, title and text, as `eval.data.texts.read_texts` reads them. It may be empty."""
        return self.folder / _FILES[part]

    def texts(self, part: Part = "train") -> Iterator[TrainingText]:
        """The documents in the order of the source. Raises DamagedError."""
        try:
            with self.file(part).open("rb") as lines:
                for line in lines:
                    row = orjson.loads(line)
                    yield TrainingText(row["id"], row["text"], row["title"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{self.file(part)} cannot be read ({error}); remove its folder") from error

    def conversations(self, part: Part = "train") -> "Iterator[Conversation]":
        """Those of a source of conversations. Raises DamagedError."""
        from adapt.chat.corpus import read_conversations

        return read_conversations(self.file(part))

    def count(self, part: Part) -> int:
        """Documents of a part."""
        return int(self.report[part]["documents"])

    def bytes(self, part: Part) -> int:
        """UTF-8 bytes of the texts of a part, titles not counted."""
        return int(self.report[part]["bytes"])


def prepare(
    name: str,
    source: Source,
    *,
    root: Path,
    decontaminate: Decontamination,
    seed: int,
    cache: Path,
    progress: Progress,
) -> Corpus:
    """Read, filter, deduplicate, decontaminate and split a source; or open what an earlier call made of the same.

    In this order, each document meets: the reader; cutting (longer than 100,000 characters); `quality`; `languages`;
    exact repetition; `decontaminate`; near repetition; the split. `limit` documents are drawn with `seed` from those
    that pass; the seed decides nothing else, so that runs with different seeds train on the same corpus and are
    measured on the same held-out documents. Text is compared, not titles.

    Raises UsageError, ReadingError, MissingError for a source that is not there or cannot be read, ReadingError where
    nothing of it is left, FathomError where the cache cannot be written.
    """
    against = [root / file for file in decontaminate.against]
    opened, facts, folder = _identified(name, source, root, decontaminate, seed, cache)
    if folder.exists():
        try:
            return Corpus.open(folder)
        except DamagedError as damage:
            _LOG.warning("%s; making it again", damage)
    evaluations = Evaluations(against, decontaminate.words) if against else None

    def fill(new: Path) -> None:
        if source.chat:
            from adapt.chat.corpus import make_chats

            path = root / os.path.expanduser(source.path)
            make_chats(source, path, opened.place, new, facts, evaluations, seed=seed, progress=progress)
        else:
            make(opened, new, facts, evaluations, seed=seed, progress=progress)

    try:
        keep(folder, fill)
    except OSError as error:
        raise FathomError(
            f"the corpus '{name}' could not be written to {cache} ({error.strerror or error}); it needs about three "
            "times the size of its texts there: free some space or name another folder"
        ) from error
    return Corpus.open(folder)


def prepared(
    name: str, source: Source, *, root: Path, decontaminate: Decontamination, seed: int, cache: Path
) -> Corpus | None:
    """The corpus that `prepare` made of the same in an earlier call, if it is there. Raises as `prepare` does."""
    _, _, folder = _identified(name, source, root, decontaminate, seed, cache)
    try:
        return Corpus.open(folder) if folder.exists() else None
    except DamagedError:
        return None  # `prepare` makes it again


def _identified(
    name: str, source: Source, root: Path, decontaminate: Decontamination, seed: int, cache: Path
) -> tuple[OpenSource, dict[str, Any], Path]:
    """A source with all that decides its corpus, and the folder that this is kept in."""
    if not re.fullmatch(r"[\w][\w.\-]{0,59}", name):
        raise UsageError(f"'{name[:60]}' cannot be a source's name; use letters, digits, '-', '_', '.'")
    if source.languages:
        require_known(source.languages)
    opened = OpenSource(source, root)
    against = [root / file for file in decontaminate.against]
    settings = {
        "name": name,
        "source": source.model_dump(mode="json", include=set(_CONTENT)),
        "read": opened.sha256(cache),
        "against": [[file.name, _hash(file)] for file in against],
        "words": decontaminate.words if against else None,
        "seed": seed if source.limit is not None else None,
        **({"chat": CHATS_VERSION} if source.chat else {}),
        "versions": [CODE_VERSION, reader_version(), *([languages_version()] if source.languages else [])],
    }
    sha256 = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    facts = {"name": name, "sha256": sha256, "settings": settings}
    return opened, facts, cache / f"corpus-{name}-{sha256[:20]}"


def _hash(file: Path) -> str:
    try:
        return file_hash(file)
    except OSError as error:
        raise UsageError(
            f"decontaminate: '{file}' cannot be read ({error.strerror}); name a file of questions"
        ) from error


def describe(report: Mapping[str, Any]) -> list[str]:
    """A corpus' report in sentences, for people."""
    read, kept, train, held_out = (report[key] for key in ("read", "kept", "train", "held_out"))
    cut = f", cut into {read['texts']:,} texts." if read["texts"] != read["documents"] else "."
    lines = [
        f"{report['name']}: {_documents(read['documents'])}, {_size(read['bytes'])}, read from {report['place']}{cut}",
        *_left_out(report),
        *_dropped(report),
        f"Kept {kept['texts']:,} with {_size(kept['bytes'])}: {train['documents']:,} to train on "
        f"({_size(train['bytes'])}), {held_out['documents']:,} held out ({_size(held_out['bytes'])}).",
    ]
    if report["split"]["note"]:
        lines.append(f"Held out by {report['split']['by']}: {report['split']['note']}.")
    languages = report["languages"]
    if languages["sample"]:
        shares = [
            f"{'too short to tell' if name == '?' else name} {count / languages['sample']:.1%}"
            for name, count in list(languages["documents"].items())[:6]
        ]
        lines.append(f"Languages of {languages['sample']:,} of them: {', '.join(shares)}.")
    return lines + _overlaps(report["overlaps"])


def _left_out(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for reason, found in report["left_out"]["reasons"].items():
        lines.append(f"Left out, not readable ({reason}): {found['count']:,}, such as {found['examples'][0]}")
    for found in report["warnings"].values():
        lines.append(f"Read with a warning: {found['count']:,}, such as {found['examples'][0]}")
    return lines


def _dropped(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for reason, found in report["dropped"]["reasons"].items():
        line = f"Dropped {found['documents']:,} ({_size(found['bytes'])}), {reason}: it {found['why']}"
        if found["examples"]:
            example = found["examples"][0]
            detail = f" ({example['detail']})" if example["detail"] else ""
            line += f"; such as '{example['id']}'{detail}: {example['text'][:60]!r}"
        lines.append(line + ".")
    return lines


def _overlaps(overlaps: Mapping[str, Any]) -> list[str]:
    if not overlaps["questions"]:
        return []
    looked = f"{overlaps['questions']:,} texts of evaluations were looked for"
    if overlaps["too_short"]:
        looked += f" ({overlaps['too_short']:,} more are too short to give anything away)"
    if not overlaps["found"]:
        return [f"{looked}; no document holds one."]
    lines = [f"{looked}; {_documents(overlaps['found'])} held one:"]
    for entry in overlaps["list"][:EXAMPLES]:
        lines.append(f"  '{entry['document']}' and {entry['file']}, {entry['item']}: \"{entry['text'][:100]}\"")
    return lines


def _documents(count: int) -> str:
    return f"{count:,} document{'' if count == 1 else 's'}"


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,} bytes"
