"""A query and a passage → the stretches of the passage that match, and the window worth showing. Knows no terminal.

Words are compared by the index's own tokeniser, so what is marked is what lexical search matched: stems, identifiers,
Chinese bigrams.
"""

import re
from bisect import bisect_left
from functools import lru_cache

from retrieval.tokenising import query_tokens, tokens

Span = tuple[int, int]

# Scripts without blanks between words: taken two characters at a time, as the index does.
_CJK = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_RUNS = re.compile(rf"[{_CJK}]+|[^\W{_CJK}]+(?:[.\-'+#][^\W{_CJK}]+)*")
_IS_CJK = re.compile(rf"[{_CJK}]")
# Search leaves no word out; marking these would mark every line. They count where a query has nothing else.
_PLAIN = frozenset(
    "a about an and are as at be by can could did do does for from had has have how i in is it its me my of on or "
    "s should that the their there these this those to was we were what when where which who why will with would you "
    "your 什么 如何 怎么 怎样 哪些 是否 多少 为什".split()
)


@lru_cache(maxsize=20_000)
def _tokens_of(word: str) -> frozenset[str]:
    return frozenset(tokens(word))


def matches(query: str, text: str) -> list[Span]:
    """Half-open spans of `text` that match a term of `query`, in order and not overlapping."""
    wanted = set(query_tokens(query))
    wanted = wanted - _PLAIN or wanted
    found: list[Span] = []
    for run in _RUNS.finditer(text) if wanted else ():
        if not _IS_CJK.match(run.group()):
            if _tokens_of(run.group()) & wanted:
                found.append(run.span())
            continue
        marked = _marked(run.group(), wanted)
        for at, mark in enumerate(marked):
            place = run.start() + at
            if mark and found and found[-1][1] == place:
                found[-1] = (found[-1][0], place + 1)
            elif mark:
                found.append((place, place + 1))
    return found


def _marked(run: str, wanted: set[str]) -> list[bool]:
    marked = [character in wanted for character in run]
    for at in range(len(run) - 1):
        pair = run[at : at + 2]
        if any(len(token) > 1 for token in _tokens_of(pair) & wanted):
            marked[at] = marked[at + 1] = True
    return marked


def window(text: str, spans: list[Span], size: int) -> Span:
    """The stretch of at most about `size` characters that holds the most matches, cut between words."""
    if len(text) <= size:
        return 0, len(text)
    starts = [start for start, _ in spans]
    best, most = 0, 0
    for place, start in enumerate(starts):
        held = bisect_left(starts, start + size * 3 // 4) - place
        if held > most:
            best, most = start, held
    begin = max(0, min(best - size // 4, len(text) - size))
    end = min(len(text), begin + size)
    # Move to a blank where one is near; Chinese has none and may be cut anywhere.
    if begin and begin < best and 0 <= (blank := text.find(" ", begin, min(begin + 20, best))):
        begin = blank + 1
    if end < len(text) and (blank := text.rfind(" ", end - 20, end)) > begin:
        end = blank
    return begin, end
