"""A text → the stretches of it that are private (addresses, numbers of people and accounts) or secret (keys, tokens).

What has a check is checked (Luhn, mod 97, MOD 11-2, plans of telephone numbers), so that ordinary numbers stay. Names
and postal addresses are not looked for: nothing cheap tells them from other words. It replaces nothing.
"""

import bisect
import datetime
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["PRIVATE_KEY", "KEY", "EMAIL", "IBAN", "ID_CARD", "CARD", "PHONE"]
REGIONS = ("CN", "US", "GB")
"""Countries whose numbers are found without their code; with a plus sign, those of all countries are."""
ENTROPY = 3.0
"""Bits a character of a value behind a word such as "token:": words of English have about 2.5 to 3.5 in so few letters,
and no digits among them, which such a value must have too."""


@dataclass(frozen=True, slots=True)
class Private:
    """`text[start:end]`; `value` is equal for two spellings of one thing."""

    kind: Kind
    start: int
    end: int
    value: str


def private_data(text: str, regions: Sequence[str] = REGIONS) -> list[Private]:
    """All of it in order, none overlapping another. Raises UsageError for an unknown region."""
    taken: list[Private] = []
    for find in (_private_keys, _keys, _emails, _ibans, _id_cards, _cards):
        _take(find(text), taken)
    if sum(map(str.isdigit, text)) >= 7:
        _take(_phones(text, regions), taken)
    return taken


def require_regions(regions: Sequence[str]) -> None:
    """Raises UsageError for a region that telephone numbers have no plan of."""
    from phonenumbers import SUPPORTED_REGIONS

    from retrieval.errors import UsageError

    for region in regions:
        if region not in SUPPORTED_REGIONS:
            raise UsageError(f"'{region[:20]}' is no region of telephone numbers; write two letters, as in CN, US, DE")


def _take(found: Iterator[Private], taken: list[Private]) -> None:
    """Add, in order, what overlaps nothing that is there: kinds come with the surest first."""
    for one in found:
        place = bisect.bisect_left(taken, one.start, key=lambda other: other.start)
        free = place == 0 or taken[place - 1].end <= one.start
        if free and (place == len(taken) or one.end <= taken[place].start):
            taken.insert(place, one)


# --- secrets ---------------------------------------------------------------------------------------------------------

_PEM = re.compile(
    r"-----BEGIN (?P<kind>(?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?)-----.{20,20000}?-----END (?P=kind)-----", re.DOTALL
)
# By their makers' own marks; the tail is what each of them writes.
_SHAPES = re.compile(
    r"""(?<![A-Za-z0-9_\-])(?:
      (?:AKIA|ASIA)[A-Z2-7]{16}                                     # AWS
      |gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{60,255}
      |glpat-[A-Za-z0-9_\-]{20,64}
      |xox[abeoprs]-[A-Za-z0-9\-]{20,255}                            # Slack
      |(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{20,255}                # Stripe
      |sk-(?:ant-|proj-|or-)?[A-Za-z0-9_\-]{20,255}                  # Anthropic, OpenAI and others after them
      |AIza[A-Za-z0-9_\-]{35}                                        # Google
      |ya29\.[A-Za-z0-9_\-]{30,400}
      |hf_[A-Za-z0-9]{30,64}
      |npm_[A-Za-z0-9]{36}
      |pypi-[A-Za-z0-9_\-]{50,400}
      |SG\.[A-Za-z0-9_\-]{20,30}\.[A-Za-z0-9_\-]{40,50}              # SendGrid
      |LTAI[A-Za-z0-9]{12,30}                                        # Alibaba Cloud
      |AKID[A-Za-z0-9]{32}                                           # Tencent Cloud
      |eyJ[A-Za-z0-9_\-]{8,2000}\.eyJ[A-Za-z0-9_\-]{8,4000}\.[A-Za-z0-9_\-]{16,1000}  # JSON web token
    )(?![A-Za-z0-9_])""",
    re.VERBOSE,
)
_NAMED = re.compile(
    r"""(?:api[_\- ]?key|access[_\- ]?key(?:[_\- ]?id)?|secret(?:[_\- ]?key)?|client[_\- ]?secret|auth[_\- ]?token|token
      |passw(?:or)?d|passwd|pwd|bearer|密码|口令|密钥|令牌)
      ["'”]?\ {0,3}(?:=>|[:=：＝]|\bis\b|是|为|(?<=bearer)\ )\ {0,3}["'“]?
      (?P<value>[^\s"'“”<>,;，。；、()（）{}\[\]]{8,200})""",
    re.VERBOSE | re.IGNORECASE,
)
# One of these stands in all that the pattern finds: a search for plain words is ten times as fast.
_NAMES = ("key", "secret", "token", "pass", "pwd", "bearer", "密码", "口令", "密钥", "令牌")
_IN_URL = re.compile(r"[a-z][a-z0-9+.\-]{1,20}://[^\s/:@]{0,64}:(?P<value>[^\s/@]{3,100})@[^\s/@]")
_PLACEHOLDER = re.compile(
    r"example|your|xxx|\*\*\*|\.\.\.|placeholder|change.?me|dummy|password\d?$|1234567|abcdef", re.I
)


def _private_keys(text: str) -> Iterator[Private]:
    for match in _PEM.finditer(text) if "-----BEGIN " in text else ():
        yield Private("PRIVATE_KEY", match.start(), match.end(), match[0])


def _keys(text: str) -> Iterator[Private]:
    for match in _SHAPES.finditer(text):
        if not _PLACEHOLDER.search(match[0]) and entropy(match[0]) >= ENTROPY:
            yield Private("KEY", match.start(), match.end(), match[0])
    for match in _IN_URL.finditer(text) if "@" in text else ():
        if not _PLACEHOLDER.search(match["value"]):
            yield Private("KEY", *match.span("value"), match["value"])
    lower = text.lower()
    for match in _NAMED.finditer(text) if any(word in lower for word in _NAMES) else ():
        value = match["value"].rstrip(".:!?")
        mixed = any(map(str.isdigit, value)) and any(letter.isascii() and letter.isalpha() for letter in value)
        if len(value) >= 8 and mixed and value.isascii() and not _PLACEHOLDER.search(value):
            # Of eight characters no more than three bits can come; longer ones must be as mixed as that.
            if entropy(value) >= min(ENTROPY, 0.85 * math.log2(len(value))):
                yield Private("KEY", match.start("value"), match.start("value") + len(value), value)


def entropy(text: str) -> float:
    """Shannon's, in bits a character, over the text's own characters."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


# --- people and accounts ---------------------------------------------------------------------------------------------

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9_%+](?:[A-Za-z0-9._%+\-]{0,62}[A-Za-z0-9_%+\-])?"
    r"@(?P<domain>(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24})(?![A-Za-z0-9\-])"
)
# RFC 2606: addresses of these domains are nobody's; and "icon@2x.png" is a file.
_NOBODY = re.compile(
    r"(?:.*\.)?(?:example\.(?:com|org|net)|example|test|invalid|localhost|png|jpe?g|gif|svg|webp|js|css)", re.IGNORECASE
)
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?=[ A-Z0-9])")
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL OM TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "PT ST", 26: "IS TR", 27: "FR GR IT MC MR SM", 28: "AL AZ CY DO GT HU LB LY PL SV", 29: "BR EG PS QA UA",
        30: "JO KW MU", 31: "MT SC", 32: "LC",
    }.items()
    for country in countries.split()
}  # fmt: skip
_ID_CARD = re.compile(r"(?<![0-9A-Za-z])[1-8]\d{5}(?:18|19|20)\d{2}[01]\d[0-3]\d{4}[\dXx](?![0-9A-Za-z])")
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CARD = re.compile(r"(?<![\d.\-])(?:\d[ \-]?){12,18}\d(?![\d]|[.\-]\d)")
# Issuers by the digits they begin with, and how many digits their cards have.
_ISSUERS: tuple[tuple[re.Pattern[str], tuple[int, ...]], ...] = (
    (re.compile(r"4"), (13, 16, 19)),
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"6011|64[4-9]|65|62"), (16, 17, 18, 19)),
    (re.compile(r"35(?:2[89]|[3-8])"), (16, 17, 18, 19)),
    (re.compile(r"30[0-5]|3[68]"), (14,)),
)
_PHONE_WORD = re.compile(
    r"(?:phone|tele?|tel\.|call|mobile|cell|fax|whatsapp|电话|手机|传真|致电|拨打|微信)\W{0,12}$", re.I
)
_CHINESE_MOBILE = re.compile(r"1[3-9]\d{9}")
_NUMBER_TRIES = 1_000
_BEFORE = 24


def _emails(text: str) -> Iterator[Private]:
    for match in _EMAIL.finditer(text) if "@" in text else ():
        nobody = _NOBODY.fullmatch(match["domain"]) or match[0].startswith("git@")
        if not nobody and ".." not in match[0]:
            yield Private("EMAIL", match.start(), match.end(), match[0].lower())


def _ibans(text: str) -> Iterator[Private]:
    for match in _IBAN_START.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2])
        if length is None:
            continue
        end, signs = match.start(), ""
        while (
            end < len(text)
            and len(signs) < length
            and (text[end] == " " or text[end].isascii() and text[end].isalnum())
        ):
            signs += text[end].strip()
            end += 1
        if len(signs) == length and not text[end : end + 1].isalnum() and is_iban(signs):
            yield Private("IBAN", match.start(), end, signs.upper())


def is_iban(signs: str) -> bool:
    """ISO 13616: rearranged and with letters as numbers it leaves 1 when divided by 97."""
    moved = (signs[4:] + signs[:4]).upper()
    return int("".join(str(int(sign, 36)) for sign in moved)) % 97 == 1


def _id_cards(text: str) -> Iterator[Private]:
    for match in _ID_CARD.finditer(text):
        if is_id_card(match[0]):
            yield Private("ID_CARD", match.start(), match.end(), match[0].upper())


def is_id_card(signs: str) -> bool:
    """GB 11643: a date of birth, and the check digit of ISO 7064 MOD 11-2."""
    try:
        born = datetime.date(int(signs[6:10]), int(signs[10:12]), int(signs[12:14]))
    except ValueError:
        return False
    rest = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, signs[:17], strict=True)) % 11
    return born.year >= 1850 and "10X98765432"[rest] == signs[17].upper()


def _cards(text: str) -> Iterator[Private]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        known = any(pattern.match(digits) and len(digits) in lengths for pattern, lengths in _ISSUERS)
        if known and len(set(digits)) > 1 and passes_luhn(digits):
            yield Private("CARD", match.start(), match.end(), digits)


def passes_luhn(digits: str) -> bool:
    """ISO/IEC 7812: the sum, with every second digit from the right doubled, ends in 0."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _phones(text: str, regions: Sequence[str]) -> Iterator[Private]:
    """By Google's plans of numbers. Digits without any sign between them are only a number of a Chinese mobile, or what
    stands behind a word such as "call": of 14 MB of Python's documents 21 plain numbers passed for American ones."""
    from phonenumbers import Leniency, PhoneNumberFormat, PhoneNumberMatcher, format_number

    told: set[tuple[int, int]] = set()
    matchers: list[Callable[[], Iterator]] = [
        lambda region=region: iter(  # type: ignore[misc]
            PhoneNumberMatcher(text, region, leniency=Leniency.STRICT_GROUPING, max_tries=_NUMBER_TRIES)
        )
        for region in (regions or ("ZZ",))
    ]
    for matcher in matchers:
        for match in matcher():
            raw = match.raw_string
            if (match.start, match.end) in told or not _is_phone(
                raw, text[max(0, match.start - _BEFORE) : match.start]
            ):
                continue
            told.add((match.start, match.end))
            yield Private("PHONE", match.start, match.end, format_number(match.number, PhoneNumberFormat.E164))


def _is_phone(raw: str, before: str) -> bool:
    if raw.startswith("+") or "(" in raw:
        return True
    if raw.isdigit():
        return bool(_CHINESE_MOBILE.fullmatch(raw) or _PHONE_WORD.search(before))
    return raw.count(".") != 1  # a decimal fraction
