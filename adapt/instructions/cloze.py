"""Documents → questions whose answers stand in them, made by rules and without any model: a number, a year, a name or a
noun of a sentence becomes a question word.

Cloze translation (Lewis et al. 2019, "Unsupervised Question Answering by Cloze Translation", arXiv:1906.04980). Such
questions read like their sentences; they teach to find a sentence and to quote its shortest sufficient part, which is
most of what a small model lacks. It does not know how answers are asked for.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from adapt.corpus.sources import LeftOut, OpenSource
from adapt.corpus.texts import TrainingText
from adapt.recipe import Source
from eval.data.gold import GoldSpan
from eval.runs.parts import Progress
from retrieval.errors import UsageError
from retrieval.prompts import language_of
from retrieval.sentences import sentence_spans

FEWEST_WORDS, MOST_WORDS = 7, 40
"""Of a sentence. A shorter one says too little to be found by, a longer one is a table or a list."""
_LONGEST_ANSWER, _LONGEST_REASON = 8, 18
_WORD_CHARACTERS = 1.8
"""Chinese characters that count as one word."""

_NUMBER_WORDS = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|fifty|hundreds|thousands|dozens"
)
_ABOUT = r"(?:(?:about|around|nearly|over|almost|approximately|some|only|just|more than|less than|at least|up to)\s)?"
_CAPITAL = r"[\w’'&-]*(?:\.(?=\s[A-Z]))?"
_NAME = rf"[A-Z]{_CAPITAL}(?:\s(?:(?:of|the|de|van|von|and|for)\s){{0,2}}[A-Z0-9]{_CAPITAL})*"
_NOUNS = r"(?:[a-z][a-z-]+\s){0,2}[a-z][a-z-]{3,}"
_BEFORE_NOUNS = "a|an|as|of|by|for|to|is|are|the|with|from|into|was|were"
# A name before a noun ("a Rankine cycle", "the Atlantic coast") only describes it, and is no answer.
_ENDS = (
    r"(?=[.;:)]|$|,\s(?![A-Z])|\s(?:is|are|was|were|has|have|had|can|could|will|would|may|must|in|on|of|to|for|at|by|with|"
    r"from|which|who|that|as|when|while|after|before|during|because|but|since|until|under|between|through|into|over)\b)"
)
_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_RULES: tuple[tuple[str, str, re.Pattern[str]], ...] = tuple(
    (kind, asked, re.compile(pattern))
    for kind, asked, pattern in (
        ("reason", "why", r"\bbecause (?P<answer>[^.;]+)(?=[.;]|$)"),
        ("date", "what date", rf"\b(?:\d{{1,2}} {_MONTH}|{_MONTH} \d{{1,2}})(?:,? [12]\d{{3}})?\b"),
        ("date", "what month", rf"\b{_MONTH} [12]\d{{3}}\b"),
        ("year", "what year", r"\b(?:in|by|since|until|after) (?P<answer>[12]\d{3})\b(?!\s+[a-z]+s\b)"),
        ("share", "what percentage", rf"{_ABOUT}\d[\d.,]*\s?(?:%|percent\b|per cent\b)"),
        ("money", "how much money", rf"{_ABOUT}[$£€]\s?\d[\d.,]*\d?(?:\s(?:million|billion|thousand|trillion))?\b"),
        ("count", "how many", rf"\b(?:\d[\d,.]*\d|\d|{_NUMBER_WORDS})\b(?=\s(?:[a-z][a-z-]+\s){{0,2}}[a-z-]+s\b)"),
        ("place", "what place", rf"\b(?:in|at|near) (?P<answer>(?:the )?{_NAME}){_ENDS}"),
        ("person", "whom", rf"\bby (?P<answer>{_NAME}){_ENDS}"),
        ("name", "what", rf"\b(?!(?:and|or|in|at|near|by)\b)[a-z]+ (?P<answer>(?:the )?{_NAME}){_ENDS}"),
        ("noun", "what", rf"\b(?:called|named|known as) (?P<answer>{_NOUNS})(?=[.,;]|$)"),
        ("noun", "what", rf"\b(?:{_BEFORE_NOUNS}) (?P<answer>{_NOUNS})(?=[.,;]|$)"),
        (
            "subject",
            "What",
            rf"^(?:(?:The|A|An)\s{_NOUNS}|{_NAME})(?=\s(?:is|are|was|were|has|have|had|can|will|may)\b)",
        ),
    )
)
_RULES_ZH: tuple[tuple[str, str, re.Pattern[str]], ...] = tuple(
    (kind, asked, re.compile(pattern))
    for kind, asked, pattern in (
        ("date", "哪一天", r"(?:[12]\d{3}\s?年\s?)?\d{1,2}\s?月\s?\d{1,2}\s?[日号號]"),
        ("year", "哪一年", r"[12]\d{3}\s?年(?!代|\s?\d)"),
        ("share", "百分之多少", r"\d[\d.,]*\s?[%％]|百分之[\d.一二三四五六七八九十百]+"),
        ("count", "多少", r"(?<![\d.,第])\d[\d,.]*[万萬亿億千百]?(?=[个個人名位座家所次场場台架条條米公里英种種])"),
        ("name", "什么", r"《(?P<answer>[^《》]{2,20})》"),
    )
)
_NAMES_ZH = {"ns": ("place", "什么地方"), "nt": ("name", "哪个机构")}
_BEFORE_ZH = re.compile(r"[在于於至从從到由，。、 ]|$")
_PEOPLE_ZH = re.compile(r"[人语語族·]")
_PRONOUNS = re.compile(
    r"(?:it|he|she|they|this|that|these|those|we|i|you|his|her|their|its|there|here)\b", re.IGNORECASE
)
_REFERS_ZH = re.compile(r"^[他她它这那其此]")
_INVERTED = re.compile(
    r"^((?!\S*ing\b)[^\s,;:]+(?: (?!that\b|which\b|who\b|and\b|but\b)[^\s,;:]+){0,5}?)"
    r" (is|are|was|were|has|had|can|could|will|would|may|must) (.+)$"
)
_CLAUSE = re.compile(r"(?:[,;]\s(?:which|and|but|while|although|where|who|with|including)\s|[;:]\s|\s[–—-]\s)")
_WEAK = frozenset(
    "which that this these those their them it its other others such same more most many some also well time times end "
    "use world year years way part number result fact course case addition example order first second last".split()
)
_WEAK_ZH = frozenset("城市 长度 地方 国家 中国人 都市 當地 当地 国内 國內 其中".split())


@dataclass(frozen=True)
class Clozing:
    """How many questions: one for about `every` characters of a document, `most` at most of each."""

    every: int = 150
    most: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("every", "most"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be 1 or more")


@dataclass(frozen=True, slots=True)
class Cloze:
    """A question of a document; the answer is `document[start:end]`."""

    question: str
    answer: str
    span: GoldSpan
    kind: str


@dataclass
class Counts:
    """What came of the sentences."""

    documents: int = 0
    sentences: int = 0
    questions: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)


def cloze_questions(texts: Iterable[TrainingText], clozing: Clozing, counts: Counts) -> Iterator[Cloze]:
    """Questions of each text, in its order. The same text gives the same ones, whatever else is read."""
    for text in texts:
        counts.documents += 1
        draw = Random(f"{clozing.seed} {text.id} {len(text.text)}")
        found: list[Cloze] = []
        for start, end in sentence_spans(text.text):
            sentence = text.text[start:end]
            counts.sentences += 1
            if "<unk>" in sentence or "\n" in sentence.strip():
                continue
            spans = list(_spans(sentence))
            draw.shuffle(spans)
            for kind, asked, first, last in spans[:2]:
                question = _question(sentence, first, last, asked, kind, draw)
                if question is not None:
                    gold = GoldSpan(text.id, start + first, start + last)
                    found.append(Cloze(question, sentence[first:last], gold, kind))
        wanted = min(clozing.most, max(1, round(len(text.text) / clozing.every)))
        for one in _mixed(found, wanted, draw):
            counts.questions += 1
            counts.by_kind[one.kind] = counts.by_kind.get(one.kind, 0) + 1
            yield one


def rows_of_cloze(asked: Iterable[Cloze]) -> Iterator[dict[str, Any]]:
    """As a question file has them."""
    for number, one in enumerate(asked, 1):
        span = {"document": one.span.document, "start": one.span.start, "end": one.span.end}
        row = {"id": f"cloze-{number}", "question": one.question, "answers": [one.answer], "spans": [span]}
        yield {**row, "documents": [one.span.document], "group": one.kind}


def drawn_documents(
    sources: Sequence[str],
    root: Path,
    left_out: LeftOut,
    *,
    limit: int | None = None,
    hold_out: float = 0.0,
    progress: Progress = lambda *_: None,
) -> list[TrainingText]:
    """The documents of PATHs, or of PATH#FIELD for rows: without the last share of each source, and of the rest so many
    at even distances. Raises UsageError for a source that is not there, ReadingError for one that cannot be read."""
    found: list[TrainingText] = []
    for named in sources:
        path, _, field_name = named.partition("#")
        opened = OpenSource(Source(path=path, field=field_name) if field_name else Source(path=path), root)
        texts = list(opened.texts(progress))
        for reason, count in opened.left_out.counts.items():
            left_out.counts[reason] += count
            left_out.examples.setdefault(reason, []).extend(opened.left_out.examples.get(reason, []))
        texts = texts[: len(texts) - round(hold_out * len(texts))]
        if limit is not None and limit < len(texts):
            texts = [texts[number * len(texts) // limit] for number in range(limit)]
        prefix = f"{Path(path).name}#" if len(sources) > 1 else ""
        found.extend(replace(text, id=f"{prefix}{text.id}") for text in texts)
    return found


def _mixed(found: list[Cloze], wanted: int, draw: Random) -> list[Cloze]:
    """`wanted` of them in the order of the text, of as many kinds as there are: names would drown everything else."""
    by_kind: dict[str, list[Cloze]] = {}
    for one in found:
        by_kind.setdefault(one.kind, []).append(one)
    for group in by_kind.values():
        draw.shuffle(group)
    chosen: list[Cloze] = []
    while len(chosen) < wanted and any(by_kind.values()):
        for kind in sorted(by_kind, key=lambda _: draw.random()):
            if by_kind[kind] and len(chosen) < wanted:
                chosen.append(by_kind[kind].pop())
    return sorted(chosen, key=lambda one: (one.span.start, one.span.end))


def _words(text: str) -> float:
    return len(text.split()) if language_of(text) == "en" else len(text) / _WORD_CHARACTERS


def _spans(sentence: str) -> Iterator[tuple[str, str, int, int]]:
    """(kind, question word, start, end) of what can be asked for."""
    if not FEWEST_WORDS <= _words(sentence) <= MOST_WORDS:
        return
    if language_of(sentence) == "zh":
        yield from _chinese_spans(sentence)
        return
    if _PRONOUNS.match(sentence):  # who "he" is, the question would not say
        return
    taken: list[tuple[int, int]] = []
    for kind, asked, pattern in _RULES:
        for match in pattern.finditer(sentence):
            start, end = match.span("answer" if "answer" in pattern.groupindex else 0)
            answer = sentence[start:end].rstrip(" .,’'")
            end = start + len(answer)
            longest = _LONGEST_REASON if kind == "reason" else _LONGEST_ANSWER
            if not answer or len(answer.split()) > longest or _weak(answer, kind):
                continue
            if any(start < there and end > here for here, there in taken):
                continue
            taken.append((start, end))
            yield kind, asked, start, end


def _weak(answer: str, kind: str) -> bool:
    if kind in ("noun", "subject"):
        return bool(_WEAK & set(answer.lower().split())) or bool(_PRONOUNS.match(answer))
    return kind == "name" and len(answer) < 3


def _chinese_spans(sentence: str) -> Iterator[tuple[str, str, int, int]]:
    from retrieval.chinese_words import tagged_names

    if _REFERS_ZH.match(sentence):
        return
    taken: list[tuple[int, int]] = []
    for kind, asked, pattern in _RULES_ZH:
        for match in pattern.finditer(sentence):
            first, last = match.span("answer" if "answer" in pattern.groupindex else 0)
            if not any(first < end and last > start for start, end in taken):
                taken.append((first, last))
                yield kind, asked, first, last
    for (start, end), tag in tagged_names(sentence):
        # People are left out, since the dictionary has few of them whole, and so are names inside longer ones.
        alone = _BEFORE_ZH.match(sentence[start - 1 : start]) and not _PEOPLE_ZH.match(sentence[end : end + 1])
        if tag in _NAMES_ZH and alone and sentence[start:end] not in _WEAK_ZH:
            yield *_NAMES_ZH[tag], start, end


def _question(sentence: str, start: int, end: int, asked: str, kind: str, draw: Random) -> str | None:
    """The clause around the answer, asked for it; None where the question would say its answer."""
    answer = sentence[start:end]
    if language_of(sentence) == "zh":
        text = (sentence[:start] + asked + sentence[end:]).rstrip("。；;.！!？?") + "？"
        return text if answer not in text else None
    left, right = _clause(sentence, start, end, draw)
    if kind == "reason":
        left = re.sub(r",?\s*because\s$", "", left)
        text = _fronted("why", left, "") or f"Why is it that {left[:1].lower()}{left[1:]}"
    elif kind == "subject":
        text = f"{asked}{right}"
    else:
        preposition = re.search(r"\b(in|at|by|near|since|until|after|for|with|from|of|to)\s$", left)
        inverted = None
        if draw.random() < 0.5 and not right.strip(" ."):
            word = f"{preposition[1]} {asked}" if preposition else asked
            inverted = _fronted(word, left[: preposition.start()] if preposition else left, "")
        text = inverted or f"{left}{asked}{right}"
    text = " ".join(text.split()).rstrip(" .,;:") + "?"
    text = text[:1].upper() + text[1:]
    if not 4 <= len(text.split()) <= MOST_WORDS or re.search(rf"\b{re.escape(answer)}\b", text, re.IGNORECASE):
        return None
    return text


def _clause(sentence: str, start: int, end: int, draw: Random) -> tuple[str, str]:
    """What stands before and after the answer: in half of the questions no more than its own clause, where that is
    enough to be understood by."""
    left, right = sentence[:start], sentence[end:]
    if draw.random() < 0.5:
        after = _CLAUSE.search(right)
        if after is not None and len((left + right[: after.start()]).split()) >= FEWEST_WORDS - 1:
            right = right[: after.start()]
        before = list(_CLAUSE.finditer(left))
        if before and len((left[before[-1].end() :] + right).split()) >= FEWEST_WORDS - 1:
            shorter = left[before[-1].end() :]
            if not _PRONOUNS.match(shorter) and re.match(r"(?:the|a|an|[A-Z])", shorter):
                left = shorter
    return left, right


def _fronted(asked: str, left: str, right: str) -> str | None:
    """ "The hall was built in ⟦1908⟧" → "in what year was the hall built": where a helping verb can be turned round."""
    match = _INVERTED.match(left.strip())
    if match is None or not match[3].strip():
        return None
    subject = match[1]
    if subject.split()[0] in ("The", "A", "An", "In", "At", "On", "Its", "Their", "This", "Some", "Most", "Many"):
        subject = subject[:1].lower() + subject[1:]
    return f"{asked} {match[2]} {subject} {match[3]}{right}"
