"""Text as a file holds it in, text as Fathom stores it out: one line break, no invisible characters, NFC.

What was removed is counted by kind, because text that a person cannot see but a model reads is how instructions are
smuggled into documents. Knows no format.
"""

import re
import unicodedata
from collections import Counter

# NFC, because the same word typed on two systems must be one token, and offsets are into the stored text anyway. Not
# NFKC: it would turn x² into x2 and full-width Chinese punctuation into ASCII.

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_ZERO_WIDTH = (
    "\u200b\u2060-\u2064\u206a-\u206f\u180e\u034f\u115f\u1160\u3164\uffa0\ufff9-\ufffb\ufeff\U0001d173-\U0001d17a"
)
_JOINERS = "\u200c\u200d"
_TAGS = "\U000e0000-\U000e007f"
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef\u180b-\u180d\u180f"
_CONTROLS = "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff"
_SURROGATES = "\ud800-\udfff"

_SUSPECT = re.compile(
    f"[{_BIDI}{_ZERO_WIDTH}{_JOINERS}{_TAGS}{_SELECTORS}{_CONTROLS}{_SURROGATES}\xad\x0b\x0c\r\x85\u2028\u2029]"
)
_LINE_BREAK = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# The flags of England, Scotland and Wales are the only emoji made of tag characters (Unicode, RGI emoji tag sequences).
_INVISIBLE = re.compile(
    "(?P<flag>\U0001f3f4\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074"
    "|\U000e0077\U000e006c\U000e0073)\U000e007f)"
    f"|(?P<bidi>[{_BIDI}]+)|(?P<zero>[{_ZERO_WIDTH}]+)|(?P<joiner>[{_JOINERS}]+)|(?P<tag>[{_TAGS}]+)"
    f"|(?P<selector>[{_SELECTORS}]+)|(?P<control>[{_CONTROLS}]+)|(?P<surrogate>[{_SURROGATES}])|(?P<soft>\xad+)"
)

# Scripts in which a joiner changes what is read: Arabic and its kin, the Indic scripts, Khmer, Mongolian; and emoji.
_JOINING = re.compile(
    "[\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\ua840-\uabff\ufb50-\ufdff\ufe70-\ufefc"
    "\u2190-\u2bff\u3030\u303d\u3297\u3299\ufe0f\U00010a00-\U00011fff\U0001f000-\U0001faff]"
)
# Scripts that write no spaces and use U+200B to say where a word ends.
_SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf]")
_IDEOGRAPH = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_MIXED_WORD = re.compile("[A-Za-z][\u0370-\u03ff\u0400-\u052f]|[\u0370-\u03ff\u0400-\u052f][A-Za-z]")

_IN_WORDS = {
    "bidi": "bidirectional controls",
    "zero": "zero-width characters",
    "joiner": "stray joiners",
    "tag": "Unicode tag characters",
    "selector": "stray variation selectors",
    "control": "control characters",
}


def normalise(text: str, removed: Counter[str] | None = None) -> str:
    r"""`text` with LF line breaks, in NFC, without invisible characters; idempotent.

    Joiners stay where their script needs them, U+200B where it ends a word of a script without spaces, one variation
    selector after a character that takes one. An unpaired surrogate becomes U+FFFD, for no UTF-8 store can hold it.
    Form feeds and other page or line separators become "\n". `removed` counts what went, by kind.
    """
    if _SUSPECT.search(text):
        text = _LINE_BREAK.sub("\n", text)
        counts: Counter[str] = removed if removed is not None else Counter()
        text = _INVISIBLE.sub(lambda match: _replacement(match, counts), text)
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    return text


def one_line(text: str, limit: int = 300) -> str:
    """A title or metadata value: normalised, on one line, at most `limit` characters."""
    line = " ".join(normalise(text[: limit * 20]).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def warnings_for(removed: Counter[str], text: str) -> list[str]:
    """What a reader of the stored text should know of `removed`, and of look-alike letters that are still in it."""
    found = []
    parts = [f"{removed[kind]:,} {words}" for kind, words in _IN_WORDS.items() if removed[kind]]
    if parts:
        found.append("removed characters that cannot be seen: " + ", ".join(parts))
    if removed["surrogate"]:
        found.append(f"{removed['surrogate']:,} half characters (unpaired surrogates) were replaced by U+FFFD")
    mixed = 0 if text.isascii() else sum(1 for _ in _MIXED_WORD.finditer(text))
    if mixed:
        found.append(f"{mixed:,} places mix Latin with Cyrillic or Greek letters inside one word (look-alike letters)")
    return found


def _replacement(match: re.Match[str], removed: Counter[str]) -> str:
    kind = match.lastgroup or ""
    found = match.group()
    text = match.string
    before = text[match.start() - 1 : match.start()] if match.start() else ""
    after = text[match.end() : match.end() + 1]
    kept = ""
    if kind == "flag":
        return found
    if kind == "surrogate":
        removed["surrogate"] += 1
        return "\ufffd"
    if kind == "soft":  # a typesetter's hint, in every second PDF and web page: not worth a warning
        return ""
    if kind == "joiner" and _JOINING.match(before):
        kept = found[0]
    elif kind == "zero" and found[0] == "\u200b" and _SPACELESS.match(before) and _SPACELESS.match(after):
        kept = "\u200b"
    elif kind == "zero" and found == "\ufeff" and match.start() == 0:
        return ""  # a byte order mark
    elif kind == "selector" and before and _takes_selector(before, found[0]):
        kept = found[0]
    removed[kind] += len(found) - len(kept)
    return kept


def _takes_selector(base: str, selector: str) -> bool:
    if selector >= "\U000e0100":
        return _IDEOGRAPH.match(base) is not None
    if selector in "\u180b\u180c\u180d\u180f":
        return "\u1820" <= base <= "\u18aa"
    return unicodedata.category(base)[0] in "LNPS"
