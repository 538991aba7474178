"""An answer and the passages it was written from → the numbers and names in it that stand in none of them.

A wrong number in a sentence whose other words all stand in a passage looks supported; this looks at the number itself.
By rules, without a model, so it can miss a name; it knows no citations.
"""

import re
from collections.abc import Iterable, Sequence

from retrieval.chinese_words import names_of_run
from retrieval.passages import Flag, Hit
from retrieval.sentences import sentence_spans
from retrieval.support import MARKER

_DIGITS = re.compile(r"(?<![\w.])[-−]?\d+(?:[.,:]\d+)*(?![\w])|\d+(?:[.,:]\d+)*(?=[\u4e00-\u9fff%％])")
_LIST_NUMBER = re.compile(r"^[ \t]*\d{1,3}[.)、](?=\s)", re.MULTILINE)
# Identifiers (E17, NF4, gpt-4o, DP-40) and words with a capital; 's is no part of a name.
_LATIN = re.compile(r"[A-Za-z][\w]*(?:[-'’.&/][\w]+)*")
_PARTNERS = re.compile(r"[A-Z]\w+ ?& ?[A-Z]\w+")
"""Two words that are one name only together."""
_LEAD = re.compile(r"[\s*_#>\"'“‘(\[•-]*")
"""What may stand before the first word of a sentence."""
_HAN_RUN = re.compile(r"[\u4e00-\u9fff]{2,}")
_TITLE_MARKS = re.compile(r"《([^《》\n]{1,60})》")
_NO_NAMES = frozenset(
    "i the a an this that these those it its he she they we you there here in on at to of for from by with and or but "
    "if when while as is are was were yes no not note however therefore also both each all some any my your our his "
    "her their passage passages document documents text question answer source sources figure table section chapter "
    "according based first second third finally additionally furthermore moreover overall".split()
)
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORD_VALUES: dict[str, float] = {word: n for n, word in enumerate(_ONES.split())}
_WORD_VALUES |= {word: 10 * n for n, word in enumerate(_TENS.split(), start=2)}
_WORD_VALUES |= {"once": 1, "twice": 2, "half": 0.5, "first": 1, "second": 2, "third": 3, "dozen": 12}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "k": 1000, "m": 10**6, "bn": 10**9}
_SCALES |= {"百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_SPELLED = re.compile(
    rf"(?:(?:{'|'.join([*_WORD_VALUES, *(s for s in _SCALES if len(s) > 2)])}|and|\d[\d,.]*)[\s-]+)*"
    rf"(?:{'|'.join([*_WORD_VALUES, *(s for s in _SCALES if len(s) > 2)])})\b",
    re.IGNORECASE,
)
_SCALED = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s?(hundred|thousand|million|billion|bn|[kKM百千万亿])(?![A-Za-z])")
_HAN_DIGITS = {c: n for n, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_HAN_NUMBER = re.compile("[零〇一二两三四五六七八九十百千万亿]+")


def flags(text: str, given: Sequence[Hit], question: str = "") -> tuple[Flag, ...]:
    """Stretches of `text` in order. What the question itself says is no claim of the answer."""
    known = _known(given, question)
    found = [*_numbers(text, known), *_spelled_names(text, known), *_chinese_names(text, known)]
    return _disjoint(found)


def unknown_names(text: str, given: Sequence[Hit], question: str = "") -> tuple[str, ...]:
    """Names in `text` that stand in no passage nor in `question`, of those that show by their spelling: with capitals
    (CamelCase, E17; not the first word of a sentence) or in Chinese title marks."""
    return tuple(flag.text for flag in _disjoint(_spelled_names(text, _known(given, question))) if _capital(flag.text))


def _known(given: Sequence[Hit], question: str = "") -> str:
    sources = [" ".join([hit.source.title, *hit.passage.headings, hit.passage.text]) for hit in given]
    return " \n ".join([*sources, question])


def _disjoint(found: Iterable[Flag]) -> tuple[Flag, ...]:
    kept: list[Flag] = []
    for flag in sorted(found, key=lambda flag: (flag.start, -flag.end)):
        if not kept or flag.start >= kept[-1].end:
            kept.append(flag)
    return tuple(kept)


def _capital(name: str) -> bool:
    """Whether it is a name for sure: fp16 and 7B may be anybody's own value, and documents may spell out what PDF or
    VRAM stands for."""
    if not name.isascii():
        return True
    acronym = re.fullmatch(r"[A-Z]{2,4}s?", name)
    return not acronym and not name[0].isdigit() and any(c.isupper() for c in name)


def _spelled_names(text: str, known: str) -> Iterable[Flag]:
    yield from _latin_names(text, known)
    for match in _TITLE_MARKS.finditer(text):
        if match[1] not in known:
            yield Flag(match.start(1), match.end(1), match[1], "name")
    folded = " ".join(known.casefold().replace("&", " and ").split())
    for match in _PARTNERS.finditer(text):
        if " ".join(match[0].casefold().replace("&", " and ").split()) not in folded:
            yield Flag(match.start(), match.end(), match[0], "name")


def _numbers(text: str, known: str) -> Iterable[Flag]:
    values = stated_values(known)
    skipped = [m.span() for pattern in (MARKER, _LIST_NUMBER) for m in pattern.finditer(text)]
    for match in _DIGITS.finditer(text):
        if any(start < match.end() and match.start() < end for start, end in skipped):
            continue
        # A scale behind it is part of the number: "4 thousand" stands where "4,000" does.
        scaled = _SCALED.match(text, match.start())
        value = _value(scaled[1]) * _SCALES[scaled[2].lower()] if scaled else _value(match[0])
        if value not in values and abs(value) not in values and _value(match[0]) not in values:
            yield Flag(match.start(), match.end(), match[0], "number")


def stated_values(text: str) -> frozenset[float]:
    """Values of the numbers in a text: digits, English and Chinese number words, with their scales. The parts of a
    date or a ratio ("1997-07-01", "3:1") count each."""
    values: set[float] = set()
    for match in re.finditer(r"\d+(?:[.,]\d+)*", text):
        values.add(_value(match[0]))
        values.update(_value(part) for part in re.split(r"[.,]", match[0]))
    for match in re.finditer(r"\d+(?::\d+)+", text):
        values.add(_value(match[0]))
    values.update(_value(match[1]) * _SCALES[match[2].lower()] for match in _SCALED.finditer(text))
    values.update(_english_value(match[0]) for match in _SPELLED.finditer(text))
    values.update(_chinese_value(match[0]) for match in _HAN_NUMBER.finditer(text))
    return frozenset(values)


def _value(text: str) -> float:
    plain = text.replace("−", "-")
    if ":" in plain:
        return float(hash(plain) % 2**40) + 0.125  # a time or ratio is one thing, equal only to itself
    plain = re.sub(r",(?=\d{3}(?!\d))", "", plain).replace(",", ".")
    head, *rest = plain.split(".")
    return float(f"{head}.{''.join(rest)}" if rest else head)


def _english_value(text: str) -> float:
    total, current = 0.0, 0.0
    for word in re.split(r"[\s-]+", text.lower()):
        if word in _WORD_VALUES:
            current += _WORD_VALUES[word]
        elif word in _SCALES:
            scale = _SCALES[word]
            current = (current or 1) * scale
            if scale >= 1000:
                total, current = total + current, 0.0
        elif word and word[0].isdigit():
            current += _value(word.strip(".,") or "0")
    return total + current


def _chinese_value(text: str) -> float:
    """一百二十 → 120, 四千 → 4000, 二〇二四 → 2024."""
    if all(c in _HAN_DIGITS for c in text) and len(text) > 1:
        return float("".join(str(_HAN_DIGITS[c]) for c in text))
    total = section = digit = 0
    for c in text:
        if c in _HAN_DIGITS:
            digit = _HAN_DIGITS[c]
        elif c in "万亿":
            total = (total + section + digit or 1) * _SCALES[c]
            section = digit = 0
        else:
            section += (digit or 1) * (10 if c == "十" else _SCALES[c])
            digit = 0
    return float(total + section + digit)


def _latin_names(text: str, known: str) -> Iterable[Flag]:
    words = frozenset(_folded(match[0]) for match in re.finditer(r"[A-Za-z0-9]\w*", known))
    whole = frozenset(_folded(match[0]) for match in _LATIN.finditer(known))
    firsts = {start + len(_LEAD.match(text[start:end])[0]) for start, end in sentence_spans(text)}  # type: ignore[index]
    run: list[re.Match[str]] = []

    def flushed() -> Iterable[Flag]:
        # A sentence begins with a capital whatever the word is: alone it says nothing.
        first = len(run) == 1 and run[0].start() in firsts and not _telling(run[0][0][1:])
        if run and not first:
            start, end = run[0].start(), run[-1].end()
            yield Flag(start, end, text[start:end], "name")
        run.clear()

    for match in _LATIN.finditer(text):
        word = match[0]
        pieces = [piece for piece in re.split(r"[-'’.&/]", word) if len(piece) > 1 and _telling(piece)]
        if (
            len(word) < 2
            or word.casefold() in _NO_NAMES
            or _folded(word) in whole
            or all(_folded(piece) in words for piece in pieces)
        ):
            yield from flushed()
            continue
        if run and text[run[-1].end() : match.start()] != " ":
            yield from flushed()
        run.append(match)
    yield from flushed()


def _telling(word: str) -> bool:
    """Whether it is spelled as only names and identifiers are."""
    return any(c.isupper() or c.isdigit() for c in word)


def _folded(word: str) -> str:
    """A name as it is compared: case, possessive and plural do not matter."""
    word = re.sub(r"['’]s$", "", word).casefold()
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _chinese_names(text: str, known: str) -> Iterable[Flag]:
    for run in _HAN_RUN.finditer(text):
        for start, end in names_of_run(run[0]):
            name = run[0][start:end]
            if name not in known:
                yield Flag(run.start() + start, run.start() + end, name, "name")
