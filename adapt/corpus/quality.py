"""A document → why it is neither prose nor source code, or None. Cheap rules, each with a name and a reason in words.

After Gopher's (Rae et al. 2021, arXiv:2112.11446, A.1.1) and C4's, but for those that mean "English prose": no stop
words, no full stop at the end of lines, no bound on braces, so that source code, lists and Chinese stay. The limits
were set on texts of which all should stay: PEPs, medical answers, abstracts, contracts, Chinese paragraphs, Python, C.
"""

import re
from collections import Counter
from dataclasses import dataclass

from adapt.corpus.units import units

LEAST = 30
"""Letters of a document, of which a Chinese character counts three."""
REPEATED_LINES = 0.5
"""Share of the letters that stand in lines which stood before. Gopher has 0.2, but tables and tests repeat lines."""
DISTINCT_RUNS = 0.2
"""Share of the runs of five words that must be different, of texts of 100 words or more."""
NO_LETTERS = 0.3
"""Least share of letters among the signs. Gopher: 80 % of words with a letter; source code has 60 to 80 % letters."""
DIGITS = 0.5
WORD = 15.0
"""Mean length of a word above which it is data (base64, hashes). Gopher has 10; identifiers of code reach it."""
UNBROKEN = 200
GARBLED = 0.02

_LETTER = re.compile(r"[^\W\d_]")
_WIDE = re.compile("[\u3041-\u30fa\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_DIGIT = re.compile(r"\d")
_DAMAGE = re.compile("[\ufffd\ue000-\uf8ff\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")

REASONS = {
    "too-short": "holds next to no text",
    "garbled": "holds characters that stand for bytes no encoding explains",
    "symbols": "is mostly signs, no letters",
    "numbers": "is mostly digits, as tables and logs of figures are",
    "unbroken": "is mostly one word without end, as encoded data is",
    "repeated-lines": "repeats its lines",
    "repeated-words": "says the same words again and again",
}
"""Name of a reason → what it says of a document."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a document is dropped: a key of `REASONS`, and the figure that decided."""

    reason: str
    detail: str


def fault(text: str) -> Fault | None:
    """The first rule that a document breaks, or None."""
    signs = len("".join(text.split()))
    letters, wide = len(_LETTER.findall(text)), len(_WIDE.findall(text))
    digits = len(_DIGIT.findall(text))
    if letters + 2 * wide + digits < LEAST:
        return Fault("too-short", f"{letters:,} letters")
    if (damaged := len(_DAMAGE.findall(text))) > GARBLED * signs:
        return Fault("garbled", f"{damaged / signs:.0%} of its characters")
    if digits > DIGITS * signs:
        return Fault("numbers", f"{digits / signs:.0%} digits")
    if letters < NO_LETTERS * signs:
        return Fault("symbols", f"{letters / signs:.0%} letters")
    if letters + 2 * wide < LEAST:
        return Fault("too-short", f"{letters:,} letters")
    found = units(text)
    return _unbroken(found, wide) or _repeated_lines(text) or _repeated_words(found)


def _unbroken(found: list[str], wide: int) -> Fault | None:
    lengths = [len(unit) for unit in found]
    if not lengths:
        return None
    mean = sum(lengths) / len(lengths)
    if mean > WORD and not wide:
        return Fault("unbroken", f"its words have {mean:.0f} letters on average")
    longest = sum(length for length in lengths if length > UNBROKEN)
    if longest > sum(lengths) / 2:
        return Fault("unbroken", f"{longest / sum(lengths):.0%} of it in words of more than {UNBROKEN} letters")
    return None


def _repeated_lines(text: str) -> Fault | None:
    """Lines that were there before, by their letters; one with fewer than ten (a brace, a rule) tells nothing."""
    sizes = Counter(line.strip() for line in text.splitlines())
    told = [(len(line), times) for line, times in sizes.items() if len(_LETTER.findall(line)) >= 10]
    total = sum(size * times for size, times in told)
    again = sum(size * (times - 1) for size, times in told)
    if sum(times for _, times in told) >= 10 and again > REPEATED_LINES * total:
        return Fault("repeated-lines", f"{again / total:.0%} of it in lines that stood before")
    return None


def _repeated_words(found: list[str]) -> Fault | None:
    if len(found) < 100:
        return None
    distinct = len(set(zip(*(found[start:] for start in range(5)), strict=False))) / (len(found) - 4)
    if distinct < DISTINCT_RUNS:
        return Fault("repeated-words", f"only {distinct:.0%} of its runs of five words are different")
    return None
