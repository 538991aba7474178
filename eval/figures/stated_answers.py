"""Prose → the option it chooses, or the numbers it states: what answers to choice and table questions are judged by.

Rules only, English and Chinese. What is not clear is said to be unclear, never guessed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from eval.figures.answer_metrics import cleaned, squad_normalised

# --- choices ----------------------------------------------------------------------------------------------------------

_SPOKEN = {
    "yes": (
        "yes",
        "yeah",
        "yep",
        "correct",
        "true",
        "affirmative",
        "是的",
        "是",
        "对的",
        "对",
        "正确",
        "有的",
        "可以的",
    ),
    "no": ("no", "nope", "incorrect", "false", "negative", "不是的", "不是", "否", "不对", "没有", "不", "错误", "错"),
    "maybe": (
        *("maybe", "perhaps", "possibly", "uncertain", "inconclusive", "it depends", "not certain", "not clear"),
        *("也许", "可能", "或许", "不确定", "说不定", "不一定"),
    ),
}
_SAME = {
    **{"true": "yes", "correct": "yes", "是": "yes", "对": "yes", "正确": "yes"},
    **{"false": "no", "incorrect": "no", "否": "no", "不是": "no", "错": "no", "错误": "no"},
    **{"uncertain": "maybe", "不确定": "maybe", "可能": "maybe", "也许": "maybe"},
}
_LEAD = r"^(?:[\W_]*(?:answer|答案|回答|答)\s*(?:is|:|：|是|为)?[\W_]*)?"
_SAYS = (
    r"(?:(?:final |correct |right |best )?(?:answer|option|choice|conclusion)(?: to (?:the|this) question)?"
    r"\s*(?:is|would be|:|=)|(?:答案|选项|结论|应选|应该选|选择|选)\s*(?:应该)?\s*(?:是|为|：|:)?)"
)
_END = r"(?=\s*(?:$|(?!\.\s?\d)[,.;:!?，。；：！？、\"'”’）)\]*—–-]))"


def stated_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The one of `choices` that an answer states, None where it states none or several with nothing to tell them apart.

    Looked for in this order, first found wins: the answer is an option and nothing else; it opens with one ("Yes, …",
    "B) …", "不是。"); it says "the answer is …"/"答案是…"; exactly one option's text, or letter in brackets, occurs in
    it. Options are named by their text or by A, B, C …; yes, no and maybe also by their common synonyms. "No" before a
    noun ("no evidence that …") states nothing.
    """
    text = cleaned(answer)
    if not text or not choices:
        return None
    named = _names(choices)
    whole = squad_normalised(text)
    alone = {choice for name, choice in named if squad_normalised(name) == whole and whole}
    if len(alone) == 1:
        return alone.pop()
    for pattern in (_LEAD + r"[\W_]*{}", _SAYS + r"[\W_]*(?:that )?[\W_]*{}"):
        found = _first(text, pattern, named)
        if found is not None:
            return found or None
    # A synonym deep inside a sentence ("of uncertain origin") is about something else.
    own = {choice.strip().lower() for choice in choices}
    mentioned = {choice for name, choice in named if (name in own or ":" in name) and _mentions(text, name)}
    return mentioned.pop() if len(mentioned) == 1 else None


def _names(choices: Sequence[str]) -> list[tuple[str, str]]:
    """(name, choice) pairs, longer names first: 不是 before 是."""
    named: list[tuple[str, str]] = []
    for index, choice in enumerate(choices):
        plain = choice.strip().lower()
        spoken = _SPOKEN.get(_SAME.get(plain, plain), ())
        named += [(name, choice) for name in {plain, *spoken} if name]
        if not spoken and len(plain) > 1 and index < 26:
            named.append((f"letter:{chr(97 + index)}", choice))
    return sorted(named, key=lambda item: -len(item[0]))


def _pattern(name: str) -> str:
    """How a name stands where a choice is stated."""
    if name.startswith("letter:"):
        letter = name.removeprefix("letter:")
        return rf"(?:[(（\[【]\s*{letter}\s*[)）\]】]|{letter}(?=\s*(?:$|[).:、．。，,])))"
    escaped = re.escape(name)
    if not name.isascii():
        # 是 opens 是否, 可能 opens 可能性, 有 and 对 open far more.
        return escaped + (r"(?![\u4e00-\u9fff])" if len(name) == 1 else r"(?![否性])")
    # "No evidence …" says that there is none; "no, …", "no." and "no" alone answer.
    return rf"{escaped}\b" + (_END if name in ("no", "true", "false", "correct", "negative") else "")


def _first(text: str, pattern: str, named: Sequence[tuple[str, str]]) -> str | None:
    """The choice stated first; "" where two are stated in one breath ("yes and no"); None where none is."""
    best: tuple[int, int, str] | None = None
    for name, choice in named:
        match = re.search(pattern.format(_pattern(name)), text, re.IGNORECASE)
        if match and (best is None or (match.start(), -match.end()) < (best[0], -best[1])):
            best = (match.start(), match.end(), choice)
    if best is None:
        return None
    joined = r"\s*(?:and|or|/|&|和|或|也)\s*(?:{})"
    others = "|".join(_pattern(name) for name, choice in named if choice != best[2])
    return "" if others and re.match(joined.format(others), text[best[1] :], re.IGNORECASE) else best[2]


def _mentions(text: str, name: str) -> bool:
    if name.startswith("letter:"):
        letter = name.removeprefix("letter:")
        return bool(
            re.search(rf"[(（【]\s*{letter}\s*[)）】]|\b(?:option|choice|选项)\s*{letter}\b", text, re.IGNORECASE)
        )
    if name.isascii():
        return bool(re.search(rf"\b{_pattern(name)}", text, re.IGNORECASE))
    # A short Chinese word stands inside too many others to be a mention.
    return len(name) > 2 and name in text


# --- numbers ----------------------------------------------------------------------------------------------------------

TOLERANCE = 1e-3
"""Relative difference that still is the same number. A number with decimals may also be the gold rounded to them."""
MOST_NUMBERS = 3
"""Numbers beyond those asked for that an answer may hold, apart from the question's own: a list of a table's cells
states none of them."""

_SCALES = {
    **{
        "hundred": 1e2,
        "thousand": 1e3,
        "thousands": 1e3,
        "k": 1e3,
        "million": 1e6,
        "millions": 1e6,
        "mn": 1e6,
        "mm": 1e6,
    },
    **{"m": 1e6, "billion": 1e9, "billions": 1e9, "bn": 1e9, "b": 1e9, "trillion": 1e12, "trillions": 1e12, "tn": 1e12},
    **{
        "百": 1e2,
        "千": 1e3,
        "万": 1e4,
        "萬": 1e4,
        "百万": 1e6,
        "百萬": 1e6,
        "千万": 1e7,
        "千萬": 1e7,
        "亿": 1e8,
        "億": 1e8,
    },
    **{"十亿": 1e9, "百亿": 1e10, "千亿": 1e11, "万亿": 1e12, "兆": 1e12},
}
_PERCENT = "%|％|per ?cent\\b|percentage points?\\b|pct\\b|个百分点|個百分點"
_CURRENCY = r"(?:US|HK|NT|A|C|RMB|CNY|USD|EUR|GBP)?\s?[$€£¥￥]|(?:USD|EUR|GBP|RMB|CNY)\b"
_MENTION = re.compile(
    rf"""
    (?P<open>[(（]\s*)?
    (?P<sign>(?<![\w.)）])[-−–+]\s*|[负負])?
    (?P<share>百分之\s*)?
    (?:(?:{_CURRENCY})\s*)?
    (?P<inner>(?<![\w.)）])[-−]\s*)?
    (?P<digits>(?<![\w.,])\d{{1,3}}(?:[,，]\d{{3}})+(?:\.\d+)?|(?<![A-Za-z_.\d])(?:\d+(?:\.\d+)?|\.\d+))
    (?P<percent>\s*(?:{_PERCENT}))?
    (?:\s?(?P<scale>{"|".join(sorted(_SCALES, key=len, reverse=True))})(?![A-Za-z]))?
    (?P<close>\s*(?:{_PERCENT}|元|美元)?\s*[)）])?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_WORDS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
} | {word: 10 * value for value, word in enumerate("thirty forty fifty sixty seventy eighty ninety".split(), start=3)}
_WORD = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b", re.IGNORECASE)
_HAN_DIGITS = {character: value for value, character in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "兩": 2}
_HAN_UNITS = {"十": 10, "百": 100, "千": 1_000}
_HAN_NUMBER = re.compile(r"(?P<sign>[负負])?(?P<share>百分之)?(?P<han>[零〇一二两兩三四五六七八九十百千万萬亿億点]+)")
_FALLING = re.compile(
    r"\b(?:decreas|declin|fell|fall|drop|reduc|lower|down|shr[aiu]nk|loss|negative|minus)|减少|減少|下降|降低|下跌|亏损|虧損|负",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number as a text states it. `value` without scale; `scale` 1 where no scale word stands with it; `decimals` as
    written. `start` is where it stands."""

    value: float
    scale: float
    percent: bool
    decimals: int
    start: int
    worded: bool = False


def stated_numbers(text: str) -> list[Number]:
    """The numbers of a text in order: 1,234.5, (12.6) and −12.6 as −12.6, $3 million, 22 %, 1.2万, 百分之五, twelve.

    A year in brackets is no negative number. One written as a word ("one", 三) is marked `worded`.
    """
    found: list[Number] = []
    taken = [False] * (len(text) + 1)
    for match in _MENTION.finditer(text):
        digits = match["digits"]
        value = float(re.sub("[,，]", "", digits))
        bracketed = bool(match["open"] and match["close"]) and not re.fullmatch(r"(?:19|20)\d\d", digits)
        minus = any(mark and mark.strip() in ("-", "−", "–", "负", "負") for mark in (match["sign"], match["inner"]))
        percent = bool(match["percent"] or match["share"] or re.search(_PERCENT, match["close"] or "", re.IGNORECASE))
        found.append(
            Number(
                value=-value if bracketed or minus else value,
                scale=_SCALES[match["scale"].lower()] if match["scale"] else 1.0,
                percent=percent,
                decimals=len(digits.partition(".")[2]),
                start=match.start("digits"),
            )
        )
        taken[match.start() : match.end()] = [True] * (match.end() - match.start())
    for match in _WORD.finditer(text):
        found.append(Number(float(_WORDS[match[0].lower()]), 1.0, False, 0, match.start(), worded=True))
    for match in _HAN_NUMBER.finditer(text):
        value_or_none = None if any(taken[match.start() : match.end()]) else _han_value(match["han"])
        if value_or_none is not None:
            sign = -1.0 if match["sign"] else 1.0
            decimals = len(match["han"].partition("点")[2])
            found.append(Number(sign * value_or_none, 1.0, bool(match["share"]), decimals, match.start(), worded=True))
    return sorted(found, key=lambda number: number.start)


@lru_cache(maxsize=1024)
def _han_value(text: str) -> float | None:
    """二十三 → 23, 一百零五万 → 1,050,000, 二点五 → 2.5, 二〇一九 → 2019; None for what is no number (万一, 点)."""
    whole, point, fraction = text.partition("点")
    if not whole or (point and not (fraction and all(character in _HAN_DIGITS for character in fraction))):
        return None
    if len(whole) > 1 and all(character in _HAN_DIGITS for character in whole):
        total = float("".join(str(_HAN_DIGITS[character]) for character in whole))
    else:
        total, section, digit = 0.0, 0.0, 0.0
        if whole[0] in "百千万萬亿億":
            return None
        for character in whole:
            if character in _HAN_DIGITS:
                digit = _HAN_DIGITS[character]
            elif character in _HAN_UNITS:
                section += (digit or 1) * _HAN_UNITS[character]
                digit = 0.0
            else:
                total = (total + section + digit) * (1e4 if character in "万萬" else 1e8)
                section = digit = 0.0
        total += section + digit
    return total + (float(f"0.{''.join(str(_HAN_DIGITS[c]) for c in fraction)}") if fraction else 0.0)


def number_of(text: str) -> Number | None:
    """The number that a text is and nothing else ("$1,496.5", "(12.6)", "22.2 %"); None for prose and for dates."""
    numbers = [number for number in stated_numbers(text) if not number.worded]
    rest = re.sub(rf"{_PERCENT}|{_CURRENCY}|[\d\s.,，()（）+−–-]", "", text, flags=re.IGNORECASE).lower()
    return numbers[0] if len(numbers) == 1 and (not rest or rest in _SCALES) else None


def numeric_match(
    answer: str, golds: Sequence[str], *, scale: str = "", question: str = "", together: bool = False
) -> bool | None:
    """Whether an answer states a gold number, with `together` each of them; None where a gold holds no single number.

    `scale` is what the gold counts in ("thousand", "million", "percent", "万" …), as TAT-QA has it (Zhu et al. 2021).
    A number fits if it equals the gold within TOLERANCE or as rounded: with the gold's scale written beside it, written
    out in full, or in the table's own unit without a word of scale; a percentage also as a fraction. The sign counts,
    and words of falling stand for a minus; a unit ("480 kilowatts") is not compared. An answer with more numbers than
    MOST_NUMBERS beyond the gold's and the question's own lists numbers and states none.
    """
    wanted = [_only(stated_numbers(gold)) for gold in golds]
    if not golds or any(gold is None for gold in wanted):
        return None
    stated = stated_numbers(cleaned(answer))
    asked = {number.value for number in stated_numbers(question)}
    ours = {abs(number.value * number.scale) for number in stated if not number.worded and number.value not in asked}
    if len(ours) > MOST_NUMBERS + (len(golds) if together else 1):
        return False
    falling = bool(_FALLING.search(cleaned(answer)))
    found = [any(_equal(number, gold, scale, falling) for number in stated) for gold in wanted if gold is not None]
    return all(found) if together else any(found)


def _only(numbers: Sequence[Number]) -> Number | None:
    """The one number; of several, one in digits goes before the words ("one of 25")."""
    digits = [number for number in numbers if not number.worded]
    return digits[0] if len(digits) == 1 else numbers[0] if len(numbers) == 1 else None


def _equal(number: Number, gold: Number, scale: str, falling: bool) -> bool:
    percent = gold.percent or scale.strip().lower() in ("percent", "%", "百分比")
    unit = 1.0 if percent else max(gold.scale, _SCALES.get(scale.strip().lower(), 1.0))
    return any(_close(number, value, falling) for value in _readings(number, gold.value, unit, percent))


def _readings(number: Number, gold: float, unit: float, percent: bool) -> Iterator[float]:
    """What the gold would be in the terms of the number that stands in the answer."""
    if percent:
        if number.scale == 1.0:
            yield gold
            if not number.percent:
                yield gold / 100
    elif not number.percent:
        yield gold * unit / number.scale
        if number.scale == 1.0:
            yield gold


def _close(number: Number, gold: float, falling: bool) -> bool:
    value = -number.value if falling and gold < 0 < number.value else number.value
    if abs(value - gold) <= TOLERANCE * abs(gold):
        return True
    return number.decimals > 0 and abs(value - gold) <= 0.5000001 * 10**-number.decimals and value != 0
