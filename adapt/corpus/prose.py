"""A document → the parts an exercise may stand behind, and the sentences in them that can be asked about.

Code, tables, lists, headings and headers of files are no sentences. English and Chinese. It knows no exercise.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from retrieval.sentences import sentence_spans

PART = {"en": 1600, "zh": 560}
"""Characters after which a part ends where it can: about a block of 512 tokens with its exercises."""
_LENGTH = {"en": (40, 320), "zh": (14, 120)}
"""Characters of a sentence worth asking about."""
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")
_FENCE = re.compile(r"^(?:`{3,}|~{3,})")
_RULE = re.compile(r"^([=\-~^\"'#*+.:_])\1{2,}\s*$")
_ITEM = re.compile(r"^\s*(?:[-*+•·]|\(?(?:\d{1,3}|[a-zA-Z#])[.)]|[（(]?[一二三四五六七八九十\d]+[)）、])\s*")
_DIRECTIVE = re.compile(r"^\s*(?:\.\. |:[\w-]+:|>>> |\.\.\. |[|>!]|#|[A-Z][\w-]{1,20}: |\[)")
_MARKUP = (
    (re.compile(r":(?:pep|rfc):`(\d+)(?:#[^`]*)?`"), r"PEP \1"),
    (re.compile(r":[\w:.+-]+:`~?([^`<]*?)(?:\s*<[^`>]*>)?`"), r"\1"),
    (re.compile(r"``([^`]+)``"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),
    (re.compile(r"`([^`]+)`_{0,2}"), r"\1"),
    (re.compile(r"\s*\[#?[\w:. -]{0,30}\]_"), ""),
    (re.compile(r"!?\[([^\]]+)\]\([^)]*\)"), r"\1"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<=\w)\s*\[\d{1,3}\]"), ""),
)
_STRANGE = re.compile(r"https?:|www\.|::|[|{}<>\\=~^_$]|\.\.\.|…|--|[#@]|\( | \)|[*`]|:$| - |:-")
_ENDS = ".!?。！？"
_PAIRS = (("(", ")"), ("（", "）"), ("“", "”"), ("「", "」"), ("《", "》"), ("[", "]"))


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence without markup and line breaks. `follows` tells whether the one before it in the list stands right
    before it in the text, in the same paragraph."""

    text: str
    follows: bool


def language(text: str) -> str:
    """ "zh" where a fifth of the letters are Chinese (a character says more than a letter), else "en"."""
    letters = len(_LETTER.findall(text))
    return "zh" if letters and len(_HAN.findall(text)) >= letters / 5 else "en"


def parts(text: str, tongue: str) -> list[str]:
    """The text cut where an exercise may stand: between paragraphs, outside of code and tables, not after a colon, and
    before a heading where one is near. Put together they are the text again."""
    cuts, size = [0], PART[tongue]
    for place, heading in _places(text):
        length = place - cuts[-1]
        if (length >= size or (heading and length >= 0.6 * size)) and len(text) - place >= 0.3 * size:
            cuts.append(place)
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def middle(text: str) -> int | None:
    """Where a paragraph begins in the middle third of a text, or a sentence if it is all one paragraph; else None."""
    third = len(text) / 3
    ends = [place for place, _ in _places(text)]
    if not ends and "\n\n" not in text.strip():
        ends = [start for start, _ in sentence_spans(text)]
    near = [place for place in ends if third <= place <= 2 * third]
    return min(near, key=lambda place: abs(place - len(text) / 2)) if near else None


def _places(text: str) -> Iterator[tuple[int, bool]]:
    """Where a paragraph begins that may have something before it, and whether it is a heading."""
    fence, at = "", 0
    blank, last = False, ""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if not fence and blank and line.strip() and not line[0].isspace() and last[-1:] not in (":", "："):
            following = lines[number + 1] if number + 1 < len(lines) else ""
            heading = line.startswith("#") or bool(_RULE.match(following))
            if heading or not (_ITEM.match(line) or line.startswith((".. ", "|", ">>>"))):
                yield at, heading
        if mark and (not fence or mark[0][0] == fence):
            fence = "" if fence else mark[0][0]
        blank = not line.strip()
        last = last if blank else line.strip()
        at += len(line)


def sentences(part: str, tongue: str) -> list[Sentence]:
    """The sentences of a part that can be asked about, in order."""
    found: list[Sentence] = []
    least, most = _LENGTH[tongue]
    for paragraph in _paragraphs(part, tongue):
        follows = False
        for start, end in sentence_spans(paragraph):
            sentence = paragraph[start:end]
            good = least <= len(sentence) <= most and _sound(sentence, tongue)
            if good:
                found.append(Sentence(sentence, follows))
            follows = good
    return found


def _paragraphs(part: str, tongue: str) -> Iterator[str]:
    """Paragraphs of prose on one line, without markup."""
    fenced, literal = False, False
    lines: list[str] = []
    for line in [*part.splitlines(), ""]:
        if _FENCE.match(line):
            fenced, lines = not fenced, []
            continue
        if fenced:
            continue
        if line.strip():
            lines.append(line)
            continue
        if lines:
            indented = lines[0][0].isspace()
            literal = literal and indented
            prose = not indented and not literal
            marked = any(_ITEM.match(row) or _DIRECTIVE.match(row) or _RULE.match(row) for row in lines)
            if prose and not marked:
                yield _plain(lines, tongue)
            literal = literal or lines[-1].rstrip().endswith("::")
        lines = []


def _plain(lines: list[str], tongue: str) -> str:
    joined = lines[0].strip()
    for line in lines[1:]:
        line = line.strip()
        gap = "" if tongue == "zh" and (_wide(joined[-1:]) or _wide(line[:1])) else " "
        joined += gap + line
    for pattern, replacement in _MARKUP:
        joined = pattern.sub(replacement, joined)
    return " ".join(joined.split())


def _wide(character: str) -> bool:
    return bool(character) and ord(character) >= 0x2E80


def _sound(sentence: str, tongue: str) -> bool:
    """Whether a sentence begins and ends as one, is mostly words, and closes what it opens."""
    first = sentence[0]
    begins = bool(_HAN.match(first)) or first.isupper() or first in "“「《" if tongue == "zh" else first.isupper()
    if not begins or sentence[-1] not in _ENDS or _STRANGE.search(sentence):
        return False
    if any(sentence.count(left) != sentence.count(right) for left, right in _PAIRS) or sentence.count('"') % 2:
        return False
    letters = len(_LETTER.findall(sentence)) + (0 if tongue == "zh" else sentence.count(" "))
    return letters >= 0.75 * len(sentence)
