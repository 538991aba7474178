"""A text without an end in sight → documents of a size that training and a held-out split can use.

A file of articles becomes its articles; what has no parts of its own is cut at the ends of paragraphs or sentences.
Nothing is lost: the parts put together are the text. It knows no file.
"""

import re
import statistics
from collections.abc import Iterable, Iterator
from itertools import chain

LONGEST = 100_000
"""Characters of a document, at most: some 25,000 tokens, more than any block."""
_MARKS = (("\n\n", "\n \n"), ("\n",), ("。", "！", "？", ". ", "! ", "? "), (" ", "，", "、", "；"))
_HEADING = re.compile(r" ?= (?P<title>[^=\n](?:[^\n]*[^=\n])?) = ?\n?")
"""A heading of the first level as wikitext writes it: ` = Title = `; deeper ones have `= =`."""
_SAMPLE = 4_000_000
_FEW = 20
_LEAST = 200


def pieces(text: str, longest: int = LONGEST) -> list[str]:
    """The text in parts of at most `longest` characters: each ends after a paragraph, else a line, a sentence or a
    word, whichever is found first in its second half."""
    found = []
    start = 0
    while len(text) - start > longest:
        end = start + longest
        for marks in _MARKS:
            places = [(text.rfind(mark, start + longest // 2, end), len(mark)) for mark in marks]
            place, length = max(places)
            if place >= 0:
                end = place + length
                break
        found.append(text[start:end])
        start = end
    if text[start:]:
        found.append(text[start:])
    return found


def articles(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The documents of one plain text, as (title, text), told by its first four million characters.

    If it has two or more headings ` = Title = ` after blank lines, it is cut before each (the heading stays in the
    text). Else if it has twenty or more parts between two or more blank lines, half of them of 200 characters, these
    are the documents. Else it is cut into parts of `LONGEST` characters, without titles. `lines` end with "\\n"; one
    that does not is continued by the next.
    """
    ahead: list[str] = []
    size = 0
    stream = iter(lines)
    for line in stream:
        ahead.append(line)
        size += len(line)
        if size >= _SAMPLE:
            break
    whole = chain(ahead, stream)
    if sum(title is not None for title, _ in _headed(ahead)) >= 2:
        yield from ((title or "", text) for title, text in _headed(whole) if text.strip())
        return
    sizes = [len(text.strip()) for text in _between_blank_lines(ahead)]
    if len(sizes) >= _FEW and statistics.median(sizes) >= _LEAST:
        yield from (("", text) for text in _between_blank_lines(whole))
        return
    yield from (("", text) for text in _bounded(whole))


def without_heading(title: str, text: str) -> str:
    """The text behind its title, where the title stands in its first line that is not blank."""
    first, _, rest = text.lstrip().partition("\n")
    if first.strip(" =#*_\t") == title.strip():
        return rest.lstrip("\n \t") if rest.strip() else text
    return text


def _headed(lines: Iterable[str]) -> Iterator[tuple[str | None, str]]:
    """Cut before every heading; the part before the first one has the title None."""
    title: str | None = None
    held: list[str] = []
    after_blank = True
    for line in lines:
        heading = _HEADING.fullmatch(line) if after_blank and len(line) < 1_000 else None
        if heading:
            if held:
                yield title, "".join(held)
            title, held = heading["title"].strip(), []
        held.append(line)
        after_blank = line.isspace()
    if held:
        yield title, "".join(held)


def _between_blank_lines(lines: Iterable[str]) -> Iterator[str]:
    """Parts that two or more blank lines part; the blank lines stay with the part before them."""
    held: list[str] = []
    blank = 0
    for line in lines:
        if line.isspace() and line.endswith("\n"):
            blank += 1
        else:
            if blank >= 2 and any(not part.isspace() for part in held):
                yield "".join(held)
                held = []
            blank = 0
        held.append(line)
    if held:
        yield "".join(held)


def _bounded(lines: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size > 2 * LONGEST:
            *full, last = pieces("".join(held))
            yield from full
            held, size = [last], len(last)
    yield from pieces("".join(held))
