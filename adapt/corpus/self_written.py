"""Texts of a language model, one after the other → which are fit to train on, and a report of why the others are not.

It knows no model. Only measures that hold in every language: bytes, compression, character n-grams.
"""

import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.runs.parts import Record

LEAST_BYTES = 100
"""About 25 English words' worth of tokens, or 33 Chinese characters."""
REPEATING = 0.3
"""Compressed size, as a share, below which a text repeats itself. Of pieces of 1,000 characters, about 1 in 1,000 real
ones are below (MedQuAD .27, Python functions .31, medians .52 and .55); a sentence over and over has .1 to .2."""
LETTERS = 0.5
"""Share of letters, digits and blanks below which a text is symbols."""
SHINGLE, SHINGLE_CHINESE = 24, 8
"""Characters of an n-gram: four to five words of English, and of Chinese."""
ONE_IN = 4
"""Only n-grams whose hash divides by this are remembered: a quarter of the memory, and 200 of a text of 800."""
OVERLAP = 0.5
"""Share of a text's n-grams that earlier texts have, from which on it is a near duplicate."""
EXAMPLES = 5
_ENDS = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|$)|[。！？][”’」』）]*|\n")
_WORDS = re.compile(r"[一-鿿]|[^\W一-鿿]+")
_CHINESE = re.compile(r"[一-鿿]")
_SPACE = re.compile(r"\s+")


def finished_text(text: str, ended: bool) -> str:
    """Stripped; what was cut off in the middle ends with its last sentence, or its last word where there is none in its
    second half: a model trained on it learns that documents end there."""
    text = text.strip()
    if ended:
        return text
    text = text.rstrip("\ufffd")  # of a character whose last bytes were not written
    whole = [match.end() for match in _ENDS.finditer(text) if match.end() >= len(text) // 2]
    if whole:
        return text[: whole[-1]].rstrip()
    blank = text.rfind(" ", len(text) // 2)
    return text[:blank].rstrip() if blank > 0 else text


@dataclass(frozen=True, slots=True)
class Verdict:
    """A text that is kept."""

    id: str
    text: str
    tokens: int
    nats: float
    written: int
    """Tokens that were written, of which `tokens` are left."""
    start: str


@dataclass
class Judge:
    """Looks at texts in their order; the first of several alike is kept."""

    texts: int = 0
    written: int = 0
    tokens: int = 0
    ended: int = 0
    texts_kept: list[Verdict] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    _whole: set[str] = field(default_factory=set)
    _shingles: set[int] = field(default_factory=set)

    @property
    def kept(self) -> int:
        """Texts."""
        return len(self.texts_kept)

    def look_at(self, record: Record) -> None:
        """Keep or drop one record of `adapt.corpus.synthesis`."""
        self.texts += 1
        self.written += record["tokens"]
        self.ended += record["ended"]
        text = record["text"]
        plain = _SPACE.sub(" ", text).casefold()
        shingles = set(_shingles(plain))
        if reason := self._fault(text, plain, shingles):
            self.dropped[reason] += 1
            shown = self.examples.setdefault(reason, [])
            if len(shown) < EXAMPLES:
                shown.append(_SPACE.sub(" ", text)[:80])
            return
        self._whole.add(plain)
        self._shingles |= shingles
        self.tokens += record["kept_tokens"]
        self.texts_kept.append(
            Verdict(record["id"], text, record["kept_tokens"], record["nats"], record["tokens"], record["start"])
        )

    def _fault(self, text: str, plain: str, shingles: set[int]) -> str | None:
        data = text.encode()
        if len(data) < LEAST_BYTES:
            return "too short"
        if any(character == "\ufffd" or _is_control(character) for character in text):
            return "unprintable"
        if sum(character.isalnum() or character.isspace() for character in text) < LETTERS * len(text):
            return "symbols"
        if len(zlib.compress(data, 9)) < REPEATING * len(data):
            return "repeats itself"
        if plain in self._whole:
            return "duplicate"
        if shingles and len(shingles & self._shingles) >= OVERLAP * len(shingles):
            return "near duplicate"
        return None

    def report(self) -> dict[str, Any]:
        """Counts, reasons with examples, the mean log-probability of a token, and how varied the words are."""
        words = [_WORDS.findall(verdict.text.casefold()) for verdict in self.texts_kept]
        written = sum(verdict.written for verdict in self.texts_kept)
        nats = math.fsum(verdict.nats for verdict in self.texts_kept)
        return {
            "written": {"texts": self.texts, "tokens": self.written, "ended_by_itself": self.ended},
            "kept": {
                "texts": self.kept,
                "tokens": self.tokens,
                "bytes": sum(len(verdict.text.encode()) for verdict in self.texts_kept),
                "by_start": dict(sorted(Counter(verdict.start for verdict in self.texts_kept).items())),
            },
            "dropped": {
                reason: {"texts": count, "examples": self.examples[reason]}
                for reason, count in sorted(self.dropped.items())
            },
            "mean_logprob": nats / written if written else None,
            "distinct": {str(n): distinct(words, n) for n in (1, 2, 3)},
        }


def distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Different n-grams by all n-grams (Li et al. 2016, arXiv:1510.03055); None where there is none."""
    grams = [tuple(words[at : at + n]) for words in texts for at in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _shingles(plain: str) -> Iterator[int]:
    size = SHINGLE_CHINESE if 4 * len(_CHINESE.findall(plain)) > len(plain) else SHINGLE
    for start in range(max(0, len(plain) - size + 1)):
        digest = zlib.crc32(plain[start : start + size].encode())
        if digest % ONE_IN == 0:
            yield digest


def _is_control(character: str) -> bool:
    return character not in "\n\t\r" and unicodedata.category(character) in ("Cc", "Co", "Cn", "Cs")
