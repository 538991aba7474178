"""A true claim → a false one that looks like it: a number or a name exchanged for another of its kind, or a negation
put in or taken out. By rules, English and Chinese, without a model.

The transformations of FactCC (Kryściński et al. 2020, arXiv:1910.12840). It knows neither questions nor files.
"""

import re
from collections.abc import Callable, Sequence
from random import Random

from retrieval.chinese_words import tagged_names

Falsifying = Callable[[str, str, Random], str | None]
"""(claim, passage, draw) → a claim that the passage does not bear out, None where the rule has no hold."""

_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?![\w])|\d+(?:[.,]\d+)*(?=[\u4e00-\u9fff%％])")
_YEAR = re.compile(r"(?:1\d|20)\d\d")
_NAME_WORD = r"[A-Z][\w’'&-]*"
_NAME = re.compile(rf"{_NAME_WORD}(?:\s(?:(?:of|the|de|van|von)\s){{0,2}}{_NAME_WORD})*")
_HAN_RUN = re.compile(r"[\u4e00-\u9fff]{2,}")
_TITLE = re.compile(r"《([^《》\n]{1,40})》")
_AUXILIARY = re.compile(
    r"\b(?:is|are|was|were|can|could|will|would|should|must|does|do|did)\b(?!\s+not\b|n't)", re.IGNORECASE
)
_NOT = re.compile(r"\b(is|are|was|were|can|could|will|would|should|must|does|do|did|has|have|had)\s+not\b\s?|n't\b")
_NEGATIONS_ZH = (("没有", "有"), ("沒有", "有"), ("不是", "是"), ("不会", "会"), ("不會", "會"), ("不能", "能"),
                 ("不可以", "可以"), ("不需要", "需要"), ("并非", "是"))  # fmt: skip
# 社会 and 机会 hold a 会 that is no verb, and 还是 and 就是 a 是 that is none.
_AFFIRMATIONS_ZH = re.compile(
    r"(?<![还還就都也但只而可正即便总總若要凡社机機议議协協委大晚学學工教])(是|可以|需要|能够|能夠|会|會)(?![否不议議员員长長])"
)
_NO_NAME = frozenset(
    "the a an this that these those it its he she they we you i in on at to of for from by with and or but if when "
    "while as is are was were yes no who what which where why how his her their our my there here after before during "
    "since although however because both each all some many most".split()
)


def kind_of_number(text: str) -> str:
    """What a number has to be exchanged for to look right: a year, a small count, a decimal …"""
    if _YEAR.fullmatch(text):
        return "year"
    digits = len(re.sub(r"\D", "", text))
    return f"{'decimal' if '.' in text else 'whole'} {'short' if digits <= 2 else 'long'}"


def other_number(claim: str, passage: str, draw: Random) -> str | None:
    """Another number of the passage in the place of one, of the same kind where there is one; else its digits moved."""
    found = [match for match in _NUMBER.finditer(claim) if match[0] != "1"]
    if not found:
        return None
    match = draw.choice(found)
    said = {one[0] for one in found}
    there = [one[0] for one in _NUMBER.finditer(passage) if one[0] not in said]
    alike = [one for one in there if kind_of_number(one) == kind_of_number(match[0])]
    new = draw.choice(alike) if alike and draw.random() < 0.7 else _moved(match[0], draw)
    if new in said:
        return None
    return claim[: match.start()] + new + claim[match.end() :]


def _moved(number: str, draw: Random) -> str:
    """A number of the same form with one digit changed, the last ones rather than the first of a year."""
    places = [place for place, character in enumerate(number) if character.isdigit()]
    if _YEAR.fullmatch(number):
        places = places[2:]
    place = draw.choice(places)
    least = 1 if place == 0 and len(number) > 1 else 0
    digit = draw.choice([d for d in range(least, 10) if str(d) != number[place]])
    return number[:place] + str(digit) + number[place + 1 :]


def names_in(text: str) -> list[tuple[int, int, str]]:
    """(start, end, kind) of names: with capitals inside a sentence ("name 2": of two words), or by the Chinese
    dictionary ("nr", "ns", "nt") and title marks."""
    found: list[tuple[int, int, str]] = []
    for match in _NAME.finditer(text):
        start, words = match.start(), match[0].split()
        while words and words[0].lower() in _NO_NAME:
            start = start + len(words[0]) + 1
            words = words[1:]
        opens = not text[:start].strip() or text[:start].rstrip()[-1:] in '.!?:;"“(\n'
        if words and len("".join(words)) > 2 and not (opens and len(words) == 1):
            found.append((start, match.end(), f"name {min(len(words), 3)}"))
    found += [(*match.span(1), "title") for match in _TITLE.finditer(text)]
    for run in _HAN_RUN.finditer(text):
        found += [(run.start() + a, run.start() + b, tag[:2]) for (a, b), tag in tagged_names(run[0])]
    return sorted(found)


def other_name(claim: str, passage: str, draw: Random) -> str | None:
    """Another name of the passage, of the same kind, in the place of one. None where it has none."""
    ours = names_in(claim)
    theirs = [(passage[start:end], kind) for start, end, kind in names_in(passage)]
    draw.shuffle(ours)
    for start, end, kind in ours:
        name = claim[start:end]
        alike = [
            other
            for other, its in theirs
            if its == kind and other not in claim and other not in name and name not in other
        ]
        if alike:
            return claim[:start] + draw.choice(alike) + claim[end:]
    return None


def negated(claim: str, passage: str, draw: Random) -> str | None:
    """The opposite: "not" put in behind the first helping verb, or taken out."""
    del passage, draw
    match = _NOT.search(claim)
    if match is not None:
        return None if match[0].startswith("n't") else f"{claim[: match.end(1)]} {claim[match.end() :]}"
    for negative, positive in _NEGATIONS_ZH:
        if negative in claim:
            return claim.replace(negative, positive, 1)
    match = _AFFIRMATIONS_ZH.search(claim)
    if match is not None:
        return claim[: match.start()] + "不" + claim[match.start() :]
    match = _AUXILIARY.search(claim)
    # Turning a question round ("What is it?") or a clause of "that is" says nothing.
    if match is None or not claim[: match.start()].strip() or claim.rstrip().endswith("?"):
        return None
    return claim[: match.end()] + " not" + claim[match.end() :]


EVERY: tuple[tuple[str, Falsifying], ...] = (
    ("number exchanged", other_number),
    ("name exchanged", other_name),
    ("negated", negated),
)


def falsified(
    claim: str, passage: str, draw: Random, kinds: Sequence[tuple[str, Falsifying]] = EVERY
) -> tuple[str, str] | None:
    """(a false claim, how it was made) by one of the rules that have a hold, drawn; None where none has."""
    order = list(kinds)
    draw.shuffle(order)
    for made, rule in order:
        new = rule(claim, passage, draw)
        if new is not None and new != claim:
            return new, made
    return None
