"""Sentences of a text → questions about it with their answers, mined by patterns: no model, nothing invented.

The kinds are those of AdaptLLM (Cheng et al. 2023, arXiv:2309.09530): word to text, inference, cause and effect,
paraphrase, with gaps added. Written anew, for English and Chinese.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from adapt.corpus.exercise_words import AGAIN, CHINESE, ENGLISH, FOLLOWS, Words
from adapt.corpus.prose import Sentence
from retrieval.chinese_words import words_of_run

WORDS: Mapping[str, Words] = {"en": ENGLISH, "zh": CHINESE}
KEYWORD_TIMES = 3
"""A word that a document uses so often, and that is no common one, is one of its key words."""
_WORD = re.compile(r"[A-Za-z][A-Za-z-]{3,30}(?!\w)")

_DEFINITION = re.compile(
    r"(?P<term>(?:(?:An?|The) )?[A-Za-z][\w+-]*(?: [\w+-]+){0,4}?)(?: \([^)]{1,40}\))? "
    r"(?P<verb>is|are|refers? to|stands? for|denotes?|is defined as|is the name of) "
    r"(?P<rest>.{25,})"
)
_DEFINED = re.compile(
    r"(?:an?|the|any|one of the) (?!(?:main|usual|other|best|better|worst|first|last|same|only|key|big|biggest|right|"
    r"wrong|lead|good|bad|great|most|more|least|common|natural|obvious|necessary|place|way|case|reason|result|little|bit|"
    r"lot|few|number|matter|perfect|simple|new|minor|major|real|primary|former|latter|default|example|different|extreme|"
    r"smaller|larger|convenient|critical|additional|instructive|answer|early)\b|(?:[\w-]+ ){0,2}(?:author|advocate)\b)"
)
_NO_TERM = re.compile(
    r"\b(?:this|that|these|those|it|there|here|what|which|who|when|where|how|why|if|one|another|each|some|many|most|all|"
    r"such|same|other|others|first|second|third|last|next|following|above|below|only|main|reason|goal|idea|problem|"
    r"result|question|answer|purpose|aim|advantage|disadvantage|drawback|example|difference|point|way|case|thing|rest|"
    r"he|she|they|we|you|i|and|or|but|in|on|for|with|by|at|to|from|as|after|before|since|while|although|because|not|no|"
    r"also|still|however|therefore|thus|so|then|now|both|either|neither|nothing|everything|someone|people|proposal|"
    r"pep|section|document|author|motivation|alternative|option|solution|approach|issue|default|key|intent|"
    r"rationale|change|consequence|exception|concern|objective|benefit|side|effect|name|names|value|more|less|proposed|"
    r"our|my|your|his|her|their|herein|adding|performance|"
    r"currently|finally|it's|itself|would|should|could|will|can|may|must|using|having|being)\b",
    re.IGNORECASE,
)
_DEFINITION_ZH = re.compile(
    r"(?P<term>[\w\u3400-\u9fff ·+-]{2,16}?)(?:（[^（）]{1,40}）)?"
    r"(?:是指|指的是|是一种|是一个|是一类|是一套|是一组|是一项|的定义是|被定义为)(?P<rest>.{10,})"
)
_NO_TERM_ZH = re.compile(
    "^(?:这|這|該|沒|當|從|過|還|兩|那|它|他|她|我|你|其|此|该|如|因|所|但|而|也|就|并|不|最|更|都|还|另|一|第|上|下|前|后|以|只|很|可|有|没|当|在|对|把|从|由|"
    "通过|常|原因|结果|目的|区别|关键|每|某|同|两|三|什么|下面|本|问题)|[的了就都也不要会會能还還只最]|则|則|往往|通常|同样|本身$"
)
_CAUSE = re.compile(r"(?P<effect>[A-Z][^,;:()]{25,180}?),? because (?!of\b)(?P<cause>[^;:()]{20,200})\.")
_CAUSE_FIRST = re.compile(r"(?:Because|Since) (?!of\b)(?P<cause>[^,;:()]{20,160}), (?P<effect>[^;:()]{25,200})\.")
_NO_EFFECT = re.compile(
    r"\b(?:not|never|no longer)\b|n't\b|\b(?:just|only|simply|merely|partly|mainly|precisely|part|is|was|are|were|and|"
    r"but|or|that|largely|mostly|probably|especially|rejected|so|true|this)$",
    re.IGNORECASE,
)
_CAUSE_ZH = re.compile(
    "(?:因[为為]|由[于於])(?P<cause>[^，。；：？]{6,60})，(?:所以|因此|因而)?(?P<effect>[^。；：？]{6,80})。"
)
# What begins so has lost its subject to the part before it.
_NO_EFFECT_ZH = re.compile("[使故並并被讓让則则造導导令才更成為为也均仍常多未不较較]|一直")
_CAUSE_ZH_LAST = re.compile(
    "(?:.{0,20}?之所以)?(?P<effect>[^。；：？，]{6,60})，[这這]?是?因[为為](?P<cause>[^。；：？]{6,80})。"
)
# A word next to one of these is most likely part of a longer one: 预训练, 片段数.
_JOINS_AFTER = "预再重未非超多单双反子主次元总各某全"
_JOINS_BEFORE = "器者性化率量度集法式级数型力学词段"


@dataclass(frozen=True, slots=True)
class Exercise:
    """`uses` are the places of the sentences that it was made of."""

    kind: str
    question: str
    answer: str
    uses: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """What exercises need of the whole document: its language and its key words with how often each stands there."""

    tongue: str
    text: str
    keywords: Mapping[str, int]

    @property
    def words(self) -> Words:
        """How to ask in its language."""
        return WORDS[self.tongue]


def document(text: str, tongue: str) -> Document:
    """Count a document's words."""
    stop = WORDS[tongue].stop
    if tongue == "zh":
        counts = Counter(word for word in words_of_run(text) if 2 <= len(word) <= 6 and word not in stop)
    else:
        counts = Counter(word for word in _WORD.findall(text) if word.lower() not in stop)
    often = {word: times for word, times in counts.items() if times >= KEYWORD_TIMES}
    return Document(
        tongue, text, often if tongue == "en" else {w: n for w, n in often.items() if _stands_alone(w, text)}
    )


def _stands_alone(word: str, text: str) -> bool:
    """Whether a Chinese word has other characters around it from place to place: 特拉斯 that only stands in 史特拉斯堡
    is none."""
    places = [match.start() for match in re.finditer(re.escape(word), text)]
    before = {text[place - 1 : place] for place in places}
    after = {text[place + len(word) : place + len(word) + 1] for place in places}
    return not any(len(around) == 1 and "\u3400" <= next(iter(around)) <= "\u9fff" for around in (before, after))


def exercises(found: Sequence[Sentence], about: Document, limit: int, drawn: random.Random) -> list[Exercise]:
    """At most `limit` exercises about the sentences of a part, each of another kind and about other sentences.

    What the text itself relates or defines comes first; one exercise at most is a gap or a sentence from key words,
    which any sentence would give.
    """
    by_kind: dict[str, list[Exercise]] = {}
    for mine in MINERS:
        for exercise in mine(found, about, drawn):
            by_kind.setdefault(exercise.kind, []).append(exercise)
    kinds = [*drawn.sample(_MINED, len(_MINED)), *drawn.sample(_MADE, len(_MADE))]
    chosen: list[Exercise] = []
    used: set[int] = set()
    for kind in kinds:
        free = [exercise for exercise in by_kind.get(kind, []) if not used & set(exercise.uses)]
        if free and len(chosen) < limit:
            chosen.append(free[0] if kind in _MADE else drawn.choice(free))
            used.update(chosen[-1].uses)
            if kind in _MADE:
                break
    return chosen


def _of_pairs(found: Sequence[Sentence], about: Document, drawn: random.Random) -> Iterator[Exercise]:
    """Relations, consequences and paraphrases: a sentence that begins with a connective, and the one before it."""
    words = about.words
    for place in range(1, len(found)):
        if not found[place].follows:
            continue
        first, sentence = found[place - 1].text, found[place].text
        for relation, connective in ((r, c) for r, many in words.connectives.items() for c in many):
            rest = _after(sentence, connective, about.tongue)
            if rest is None:
                continue
            uses = (place - 1, place)
            first = _without_connective(first, about)
            if relation == AGAIN:
                question = drawn.choice(words.paraphrase).format(first=first)
                yield Exercise("paraphrase", question, rest, uses)
            elif relation == FOLLOWS and drawn.random() < 0.5:
                yield Exercise("consequence", drawn.choice(words.consequence).format(first=first), rest, uses)
            else:
                question = drawn.choice(words.relation).format(first=first, second=rest)
                yield Exercise("relation", question, drawn.choice(words.relations[relation]), uses)
            break


def _after(sentence: str, connective: str, tongue: str) -> str | None:
    """What follows a connective at the beginning of a sentence, as a sentence of its own."""
    if not sentence.startswith(connective):
        return None
    rest = sentence[len(connective) :]
    if tongue == "en":
        if not rest.startswith(", ") or len(rest) < 30:
            return None
        rest = rest[2:]
        return rest[0].upper() + rest[1:]
    rest = rest.removeprefix("，")
    return rest if len(rest) >= 10 else None


def _without_connective(sentence: str, about: Document) -> str:
    for connective in (c for many in about.words.connectives.values() for c in many):
        rest = _after(sentence, connective, about.tongue)
        if rest is not None:
            return rest
    return sentence


def _definitions(found: Sequence[Sentence], about: Document, drawn: random.Random) -> Iterator[Exercise]:
    for place, sentence in enumerate(found):
        defined = _defined_zh(sentence.text) if about.tongue == "zh" else _defined(sentence.text, about.text)
        if defined is not None:
            term, verb = defined
            question = drawn.choice(about.words.definition).format(term=term, verb=verb)
            yield Exercise("definition", question, sentence.text, (place,))


def _defined(sentence: str, text: str) -> tuple[str, str] | None:
    match = _DEFINITION.fullmatch(sentence)
    if match is None:
        return None
    term, verb = match["term"], match["verb"]
    if verb in ("is", "are") and not _DEFINED.match(match["rest"]):
        return None
    article, _, noun = term.partition(" ") if term.startswith(("A ", "An ", "The ")) else ("", "", term)
    # "The result is a …" defines nothing; "The GIL is a …" does.
    if _NO_TERM.search(noun) or (article == "The" and noun == noun.lower()):
        return None
    words = noun.split()
    if len(words) > 1 and words[0].endswith("ing"):
        return None
    plural = verb in ("are", "refer to", "stand for", "denote")
    if not article and not (len(words) > 1 and words[1][0].isupper()) and not _is_name(words[0], text):
        noun = noun[0].lower() + noun[1:]
    return (f"{article.lower()} {noun}" if article else noun), "are" if plural else "is"


def _is_name(word: str, text: str) -> bool:
    """Whether the first word of a sentence is written with a capital inside sentences too."""
    if not word[1:].islower():
        return True
    inside = len(re.findall(rf"(?<=[a-z,] ){re.escape(word)}\b", text))
    return inside > len(re.findall(rf"(?<=[a-z,] ){re.escape(word.lower())}\b", text))


def _defined_zh(sentence: str) -> tuple[str, str] | None:
    match = _DEFINITION_ZH.match(sentence)
    if match is None or _NO_TERM_ZH.search(match["term"].strip()):
        return None
    return match["term"].strip(), ""


def _causes(found: Sequence[Sentence], about: Document, drawn: random.Random) -> Iterator[Exercise]:
    for place, sentence in enumerate(found):
        split = _cause_zh(sentence.text) if about.tongue == "zh" else _cause(sentence.text)
        if split is not None:
            effect, answer = split
            if not _dangles(effect, about):
                yield Exercise("cause", drawn.choice(about.words.cause).format(effect=effect), answer, (place,))


def _cause(sentence: str) -> tuple[str, str] | None:
    match = _CAUSE.fullmatch(sentence) or _CAUSE_FIRST.fullmatch(sentence)
    if match is None or _NO_EFFECT.search(match["effect"]):
        return None
    effect = match["effect"]
    return f"{effect[0].upper()}{effect[1:]}.", f"Because {match['cause']}."


def _cause_zh(sentence: str) -> tuple[str, str] | None:
    match = _CAUSE_ZH.fullmatch(sentence) or _CAUSE_ZH_LAST.fullmatch(sentence)
    if match is None or _NO_EFFECT_ZH.match(match["effect"]):
        return None
    return f"{match['effect']}。", f"因为{match['cause']}。"


def _dangles(sentence: str, about: Document) -> bool:
    """Whether a sentence begins with a word that points back."""
    if about.tongue == "zh":
        return sentence.startswith(about.words.dangling)
    return re.split(r"\W", sentence, maxsplit=1)[0].lower() in about.words.dangling


def _of_words(found: Sequence[Sentence], about: Document, drawn: random.Random) -> Iterator[Exercise]:
    """Gaps and sentences from key words, the sentences with the most of the document's key words first."""
    weighed = []
    for place, sentence in enumerate(found):
        if not _dangles(sentence.text, about):
            inside = _keywords_in(sentence.text, about)
            weight = sum(about.keywords[word] for word in inside) / len(sentence.text)
            weighed.append((-weight, place, inside))
    for _, place, inside in sorted(weighed, key=lambda entry: entry[:2]):
        text = found[place].text
        if inside:
            word = max(inside, key=lambda word: (about.keywords[word] * len(word), word))
            inner = f"(?<![{_JOINS_AFTER}]){word}(?![{_JOINS_BEFORE}])"
            gap = re.sub(inner if about.tongue == "zh" else rf"\b{word}\b", "____", text)
            if gap.count("____") == 1 and word not in gap:
                yield Exercise("gap", drawn.choice(about.words.gap).format(gap=gap), word, (place,))
        if len(inside) >= 3:
            chosen = sorted(drawn.sample(inside, 3), key=text.index)
            listed = about.words.comma.join(chosen)
            yield Exercise("keywords", drawn.choice(about.words.keywords).format(words=listed), text, (place,))


def _keywords_in(sentence: str, about: Document) -> list[str]:
    """Key words of the document in a sentence, those inside others left out."""
    if about.tongue == "zh":
        words = sorted({word for word in words_of_run(sentence) if word in about.keywords})
        return [word for word in words if not any(word != other and word in other for other in words)]
    return sorted({word for word in _WORD.findall(sentence) if word in about.keywords})


Miner = Callable[[Sequence[Sentence], Document, random.Random], Iterator[Exercise]]
MINERS: tuple[Miner, ...] = (_of_pairs, _definitions, _causes, _of_words)
_MINED = ("relation", "consequence", "paraphrase", "definition", "cause")
_MADE = ("gap", "keywords")
KINDS = (*_MINED, *_MADE)
