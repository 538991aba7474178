"""Passages → short and long forms of one name ("Query Rewriting (QR)", 检索增强生成（RAG）); a question → in its other
form. No model is asked.

Letters of a short form are found in its long one as by Schwartz & Hearst (2003, "A simple algorithm for identifying
abbreviation definitions in biomedical text"); a Chinese name beside a Latin short form has no letters to compare and
ends at the bracket, so where it begins is told by the words before it and by what several passages share.
"""

import re
from collections.abc import Iterable, Sequence

from retrieval.prompts import language_of
from retrieval.support import content_tokens
from retrieval.tokenising import tokens

MOST_FORMS = 6
"""Pairs of which a question may have one."""
_LONGEST_NAME = 80
"""Characters of a long form."""
_MOST_TEXT = 4_000
"""Characters of a passage that are looked at."""

_SHORT = r"[A-Za-z][A-Za-z0-9&/-]{0,9}[A-Za-z0-9]"
_BRACKETED = re.compile(
    rf"[(（]\s*(?:(?P<long>[^()（）\n]{{3,80}}?)\s*[,，;；]\s*)?(?:简称|缩写为?|以下简称|下称|or|aka)?\s*"
    rf"[\"'“”]?(?P<short>{_SHORT}|[\u4e00-\u9fff]{{2,6}})[\"'“”]?\s*[)）]"
)
_REVERSED = re.compile(rf"(?<![\w-])(?P<short>{_SHORT})\s*[(（](?P<long>[^()（）\n]{{3,80}})[)）]")
_CJK = r"\u3400-\u4dbf\u4e00-\u9fff"
_CHINESE_BEFORE = re.compile(rf"[{_CJK}]{{2,20}}$")
_LATIN_BEFORE = re.compile(
    r"(?:[A-Za-z][\w'’-]*[ \t]+(?:of[ \t]+|and[ \t]+|the[ \t]+|for[ \t]+|in[ \t]+)*){0,9}[A-Za-z][\w'’-]*$"
)
# What may stand before a name and is no part of it.
_LEADS = re.compile(
    r"使用|采用|通过|基于|利用|称为|叫做|叫作|所谓|例如|比如|包括|我们|他们|一种|这种|该种|即|是|的|了|在|和|与|或|及|把|被|由|对|从|到|让|将|而|但|则"
)
_PRINTED_SHORT = re.compile(rf"(?<![\w-])(?=[A-Za-z0-9&/-]*[A-Z][A-Za-z0-9&/-]*[A-Z0-9]){_SHORT}(?![\w-])")


def short_forms(question: str) -> list[str]:
    """Words of a question that are spelled like short forms (two capitals), at most three."""
    return list(dict.fromkeys(match[0] for match in _PRINTED_SHORT.finditer(question)))[:3]


def forms_in(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs (short, long) that the texts define, each once, the most often defined first."""
    counts: dict[tuple[str, str], int] = {}
    chinese: dict[str, list[str]] = {}
    for text in texts:
        for short, long in _defined(text[:_MOST_TEXT], chinese):
            key = (short, long)
            counts[key] = counts.get(key, 0) + 1
    for short, contexts in chinese.items():
        key = (short, _name_of(contexts))
        counts[key] = counts.get(key, 0) + len(contexts)
    merged: dict[tuple[str, str], tuple[str, str]] = {}
    totals: dict[tuple[str, str], int] = {}
    for (short, long), count in counts.items():
        same = (short.casefold(), _plain(long))
        merged.setdefault(same, (short, long))
        totals[same] = totals.get(same, 0) + count
    return [merged[same] for same in sorted(totals, key=lambda same: (-totals[same], same))]


def other_forms(question: str, texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of which the question has one form and not the other, long forms in its own language first."""
    asked = f" {_plain(question)} "
    found = []
    for short, long in forms_in(texts):
        # People write short forms small ("what is rag"), but not those that are words of every sentence (WHO, IT).
        has_short = _says(asked, short) and (_telling(short) or re.search(rf"\b{re.escape(short)}\b", question))
        if bool(has_short) != _says(asked, long):
            found.append((short, long))
    language = language_of(question)
    return tuple(sorted(found, key=lambda pair: language_of(pair[1]) != language)[:MOST_FORMS])


def in_other_form(question: str, forms: Sequence[tuple[str, str]]) -> str:
    """The question with each short form written out and each long form shortened; the question where there is none."""
    text = question
    for short, long in forms:
        pattern, other = (long, short) if _says(f" {_plain(question)} ", long) else (short, long)
        text = _pattern(pattern).sub(lambda match, other=other: other, text, count=1)  # type: ignore[misc]
    return text


def _defined(text: str, chinese: dict[str, list[str]]) -> Iterable[tuple[str, str]]:
    for match in _BRACKETED.finditer(text):
        short = match["short"]
        before = text[max(0, match.start() - _LONGEST_NAME) : match.start()].rstrip()
        if match["long"] and (long := _spelled_out(short, match["long"])):
            yield short, long
        if short.isascii():
            if latin := _LATIN_BEFORE.search(before):
                long = _spelled_out(short, " ".join(latin[0].split()[-min(len(short) + 5, 2 * len(short)) :]))
                if long:
                    yield short, long
            elif sum(character.isupper() for character in short) > 1 and (run := _CHINESE_BEFORE.search(before)):
                chinese.setdefault(short, []).append(run[0])
        elif run := _CHINESE_BEFORE.search(before):
            if long := _shortened(short, run[0]):
                yield short, long
    for match in _REVERSED.finditer(text):
        if (long := _spelled_out(match["short"], match["long"])) and sum(c.isupper() for c in match["short"]) > 1:
            yield match["short"], long


def _spelled_out(short: str, candidate: str) -> str:
    """The end of `candidate` whose letters, from the first of a word on, hold those of `short` in order; "" if none."""
    letters = [character.lower() for character in short if character.isalnum()]
    place = len(candidate) - 1
    for index in range(len(letters) - 1, -1, -1):
        while place >= 0 and (
            candidate[place].lower() != letters[index] or (index == 0 and place > 0 and candidate[place - 1].isalnum())
        ):
            place -= 1
        if place < 0:
            return ""
        place -= 1
    long = candidate[place + 1 :].strip()
    words = re.findall(r"[\w'’-]+", long)
    told = len(words) >= 2 and len(long) > len(short) + 2 and short.casefold() not in {w.casefold() for w in words}
    return " ".join(long.split()) if told and len(words) <= 2 * len(letters) and len(letters) >= 2 else ""


def _shortened(short: str, run: str) -> str:
    """A Chinese name whose characters hold those of its short form in order, from the last place where it can begin."""
    for begin in range(len(run) - len(short) - 1, -1, -1):
        if run[begin] != short[0]:
            continue
        rest = iter(run[begin:])
        if all(character in rest for character in short):
            return run[begin:]
    return ""


def _name_of(contexts: Sequence[str]) -> str:
    """Where a Chinese name begins that ends at a bracket: after the words that lead to it; and where several passages
    define it, no earlier than what they share."""
    shared = contexts[0]
    for context in contexts[1:]:
        length = 0
        while length < min(len(shared), len(context)) and shared[-1 - length] == context[-1 - length]:
            length += 1
        shared = shared[len(shared) - length :] if length >= 2 else shared
    cuts = [match.end() for match in _LEADS.finditer(shared) if len(shared) - match.end() >= 2]
    return shared[cuts[-1] :] if cuts else shared


def _plain(text: str) -> str:
    """Lower case, with single spaces for whatever is no letter or digit."""
    return " ".join(re.sub(r"[\W_]+", " ", text.casefold()).split())


def _telling(word: str) -> bool:
    return not word.isascii() or set(tokens(word)) <= content_tokens(f"{word} zebra")


def _says(asked: str, form: str) -> bool:
    """Whether plain text has a form: as whole words, a Chinese one anywhere."""
    plain = _plain(form)
    if not plain:
        return False
    if not plain.isascii():
        return plain.replace(" ", "") in asked.replace(" ", "")
    return re.search(rf"(?<![a-z0-9]){re.escape(plain)}s?(?![a-z0-9])", asked) is not None


def _pattern(form: str) -> re.Pattern[str]:
    """A form in running text, whatever stands between its words."""
    if not form.isascii():
        return re.compile(re.escape(form))
    words = [re.escape(word) for word in re.findall(r"[A-Za-z0-9]+", form)]
    return re.compile(rf"(?<![A-Za-z0-9]){r'[^A-Za-z0-9]{0,3}'.join(words)}s?(?![A-Za-z0-9])", re.IGNORECASE)
