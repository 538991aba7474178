"""A pair that a model wrote about a passage → a question with its gold span, or the reason why it is none.

Form, answer, copying, repetition, round trip (the question alone must find its passage: Alberti et al. 2019,
arXiv:1906.05416, by retrieval instead of reading) and support (asked of its passage alone, the quotation that answers
it must hold the answer). It knows no model that writes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from adapt.instructions.writing.pair_prompts import Pair
from eval.data.corpora import CorpusDocument, text_start
from eval.data.question_documents import located
from eval.figures.answer_metrics import contains, longest_common_run, rouge_l, rouge_tokens, token_f1
from retrieval.errors import UsageError
from retrieval.flagging import stated_values, unknown_names
from retrieval.passages import Hit
from retrieval.prompts import Language, language_of, neutral
from retrieval.quoting import best_quotes
from retrieval.support import content_tokens, numbers
from retrieval.supporting.checker import SupportChecker, checked_text
from retrieval.supporting.claims import in_question

if TYPE_CHECKING:
    from retrieval.collection import Collection
    from retrieval.embedding.embedder import Embedder

QUESTION_FORM, POINTING, LANGUAGE = "no sound question", "needs the passage at hand", "in another language"
ANSWER_FORM, ANSWER_NAMED, ANSWER_KIND = "no short answer", "names its answer", "answer of another kind"
NOT_QUOTED = "answer is not in the passage"
COPIED, INVENTED, UNSUPPORTED = "copied from the passage", "names what its document does not", "not supported"
ANSWERED_OTHERWISE = "answered otherwise when asked again"
DUPLICATE, NEAR, LOST = "asked before", "nearly asked before", "does not find its passage"

SHORTEST_QUESTION: Mapping[Language, int] = {"en": 4, "zh": 5}
LONGEST_QUESTION: Mapping[Language, int] = {"en": 40, "zh": 60}
"""Words; Chinese characters count one each."""
LONGEST_CHARACTERS = 400
CHINESE_WORD = 2
"""Characters of a Chinese word, about: an answer may have so many times as many."""
COPIED_SHARE = 0.85
"""Of a question's words in one stretch of the passage, from which on it is that stretch with a question mark."""
ALIKE = 0.7
"""ROUGE-L of two questions with one answer, as Self-Instruct has it (Wang et al. 2022, arXiv:2212.10560)."""
NEAR_COSINE, SAME_ANSWER = 0.95, 0.5
"""Cosine of two questions and F1 of their answers from which on they are one."""
_POINTS = re.compile(
    r"\b(?:the|this|that|these|above|following|given|provided)\s+(?:passages?|paragraphs?|excerpts?|articles?|texts?|"
    r"documents?|sections?|sentences?|contexts?|statements?|author|information|chapters?)\b"
    r"|\b(?:mentioned|described|stated|discussed|listed|according to (?:it|them))\s+(?:above|below|here|in the)\b"
    r"|[本该此][文段]|(?:上|下|这|那)[文段]|[这本该]篇|文[中章]|段落|作者|[上下]述|根据(?:材料|资料|内容)",
    re.IGNORECASE,
)
_SHOWING = re.compile(r"\b(?:this|these|those)\b|这", re.IGNORECASE)
_PRONOUNS = re.compile(r"\b(?:its?|they|them|their|he|him|his|she|her)\b|[它他她]", re.IGNORECASE)
_ANTECEDENT = 2
"""Telling words before a pronoun, one of which it may mean: "Where did Tesla sell his", not "When was it"."""
_ASKING = frozenset("when where why who whom what which how did do does was were is are".split())
_NO_ANSWERS = frozenset(
    "it he she they this that these those them him her yes no true false none unknown 它 他 她 它们 他们 她们 这 那 "
    "这个 那个 是 否 不是 有 没有".split()
)
_COUNTS = re.compile(
    r"\bhow (?:many|old|long ago)\b|\b(?:what|which) (?:years?|percent\w*|number|dates?)\b"
    r"|多少|几[年月个次人位点]|哪一?[年天]|第几|百分之几",
    re.IGNORECASE,
)
_NAMES = re.compile(r"\bwho(?:m|se)?\b|\bwhere\b|谁|哪里|哪个国家|何处", re.IGNORECASE)
_FIGURES = re.compile(r"[\d\s.,年月日%:/-]+")
_QUOTES = "\"'“”‘’「」『』《》*_` \t"
_STOPS = ".,;:!?。，；：！？、"


@dataclass(frozen=True)
class PairLimits:
    """`top` is the rank down to which a question must find its passage, `longest_answer` counts words."""

    top: int = 3
    longest_answer: int = 12

    def __post_init__(self) -> None:
        for name in ("top", "longest_answer"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be 1 or more")


@dataclass(frozen=True, slots=True)
class Sound:
    """A question that passed. `start` and `end` count in the text that is indexed, which has the `answer` there; `rank`
    is that of its passage in a search for the question."""

    question: str
    answer: str
    document: str
    start: int
    end: int
    rank: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a pair is none."""

    reason: str
    why: str


@dataclass
class PairChecks:
    """Looks at pairs in their order; the first of several alike is kept. `documents` are the collection's, by name."""

    collection: "Collection"
    embedder: "Embedder"
    documents: Mapping[str, CorpusDocument]
    limits: PairLimits = field(default_factory=PairLimits)
    checker: SupportChecker | None = None
    """Asked last whether the passage bears out the answer to the question, where there is one."""
    _asked: set[str] = field(default_factory=set)
    _kept: list[Sound] = field(default_factory=list)
    _last: tuple[str, np.ndarray] = field(default_factory=lambda: ("", np.zeros(0, np.float32)))
    _of_document: dict[str, list[Sound]] = field(default_factory=dict)
    _vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def look_at(self, pair: Pair, hit: Hit) -> Sound | Rejected:
        """One pair that was written about `hit`; whoever keeps it tells `remember`. Raises what the search raises."""
        language = language_of(hit.passage.text)
        if fault := question_fault(pair.question, language) or _answer_fault(pair, language, self.limits):
            return fault
        places = self._places(pair.answer, hit)
        if not places:
            return Rejected(NOT_QUOTED, f"'{pair.answer}' is not quoted from it")
        if fault := copied_from(pair.question, hit) or invented(
            pair.question, hit, self.documents[hit.source.uri].text
        ):
            return fault
        if plain(pair.question) in self._asked:
            return Rejected(DUPLICATE, f"'{pair.question}'")
        quotes = best_quotes(pair.question, [hit], embedder=self.embedder, sure=True)
        place = next((place for quote in quotes for place in places if quote.start <= place[0] < quote.end), None)
        if place is None:
            return Rejected(
                UNSUPPORTED, f"'{pair.answer}' stands in none of the sentences that answer '{pair.question}' best"
            )
        start, end = place
        rank = self._rank(pair.question, hit, start, end)
        if rank is None:
            return Rejected(LOST, f"'{pair.question}' does not find it among the first {self.limits.top}")
        document = hit.source.uri
        first, last = hit.passage.start + start, hit.passage.start + end
        sound = Sound(pair.question, hit.passage.text[start:end], document, first, last, rank)
        if twin := self._twin(sound, language):
            return Rejected(NEAR, f"'{pair.question}' after '{twin.question}'")
        if self.checker is not None:
            odds = self.checker([(in_question(pair.question, pair.answer), checked_text(hit))])[0]
            if odds.verdict != "yes":
                said = f"{odds.supported:.2f} supported, {odds.contradicted:.2f} contradicted"
                return Rejected(UNSUPPORTED, f"'{pair.question}' '{pair.answer}': {said}, by {self.checker.name}")
        return sound

    def _places(self, answer: str, hit: Hit) -> list[tuple[int, int]]:
        """Where the answer stands in the passage, behind the document's title."""
        text = hit.passage.text
        bare = answer.strip(_QUOTES).rstrip(_STOPS)
        least = text_start(self.documents[hit.source.uri]) - hit.passage.start
        return [_with_signs(bare, text, place) for place in located(bare, text) if place[0] >= least]

    def _rank(self, question: str, hit: Hit, start: int, end: int) -> int | None:
        """Of the first passage that holds the answer's place: neighbours overlap, and either will do."""
        first, last = hit.passage.start + start, hit.passage.start + end
        for found in self.collection.search(question, k=self.limits.top).hits:
            passage = found.passage
            if found.source.uri == hit.source.uri and passage.start <= first and last <= passage.end:
                return found.rank
        return None

    def _vector(self, question: str) -> np.ndarray:
        if question != self._last[0]:
            self._last = (question, self.embedder.embed_queries([question])[0])
        return self._last[1]

    def _twin(self, sound: Sound, language: Language) -> Sound | None:
        """An earlier question that asks the same and has the same answer."""
        vector = self._vector(sound.question)
        near = np.flatnonzero(self._vectors[: len(self._kept)] @ vector >= NEAR_COSINE).tolist() if self._kept else []
        for other in (self._kept[index] for index in near):
            if token_f1(sound.answer, [other.answer], language) >= SAME_ANSWER:
                return other
        for other in self._of_document.get(sound.document, ()):
            same = other.start < sound.end and sound.start < other.end
            if same and rouge_l(sound.question, [other.question]) >= ALIKE:
                return other
        return None

    def remember(self, sound: Sound) -> None:
        """It is kept: what comes after must not ask the same."""
        vector = self._vector(sound.question)
        if len(self._kept) == len(self._vectors):  # twice the room, so that adding one costs nothing in the long run
            more = np.zeros((max(256, 2 * len(self._kept)), len(vector)), np.float32)
            more[: len(self._kept)] = self._vectors[:, : len(vector)] if self._kept else 0.0
            self._vectors = more
        self._vectors[len(self._kept)] = vector
        self._kept.append(sound)
        self._of_document.setdefault(sound.document, []).append(sound)
        self._asked.add(plain(sound.question))


def question_fault(question: str, language: Language) -> Rejected | None:
    """Why a question is none that somebody without the passage can understand, in the passage's language."""
    words = rouge_tokens(question)
    if not question.endswith(("?", "？")) or "\n" in question:
        return Rejected(QUESTION_FORM, f"'{question}' does not end as a question does")
    if not SHORTEST_QUESTION[language] <= len(words) <= LONGEST_QUESTION[language] or (
        len(question) > LONGEST_CHARACTERS
    ):
        return Rejected(QUESTION_FORM, f"'{question}' has {len(words)} words")
    if neutral(question) != question:
        return Rejected(QUESTION_FORM, f"'{question}' holds marks of citations, of prompts, or what nobody sees")
    if language_of(question) != language:
        return Rejected(LANGUAGE, f"'{question}'")
    found = _POINTS.search(question) or _SHOWING.search(question)
    if found is None and (pronoun := _PRONOUNS.search(question)):
        before = content_tokens(question[: pronoun.start()]) - _ASKING
        found = pronoun if len(before) < _ANTECEDENT else None
    return Rejected(POINTING, f"'{question}' says '{found[0]}'") if found else None


def _answer_fault(pair: Pair, language: Language, limits: PairLimits) -> Rejected | None:
    words = rouge_tokens(pair.answer)
    longest = limits.longest_answer * (CHINESE_WORD if language == "zh" else 1)
    if not words or plain(pair.answer) in _NO_ANSWERS:
        return Rejected(ANSWER_FORM, f"'{pair.answer}' says nothing")
    if len(words) > longest:
        return Rejected(ANSWER_FORM, f"'{pair.answer}' has {len(words)} words; {longest} are the most")
    if contains(pair.question, pair.answer, language):
        return Rejected(ANSWER_NAMED, f"'{pair.question}' holds '{pair.answer}'")
    # Of people's pairs 0.3 % fail here; with the answer to another question of the same passage, 9 % (XQuAD).
    if _COUNTS.search(pair.question):
        other = not stated_values(pair.answer)
    else:
        other = bool(_NAMES.search(pair.question) and _FIGURES.fullmatch(pair.answer))
    return Rejected(ANSWER_KIND, f"'{pair.question}' has '{pair.answer}'") if other else None


def _named(name: str) -> str:
    """Without the "Which" or "Who" that begins the question, and the name with it ("Which NASA mission …")."""
    first, _, rest = name.partition(" ")
    return rest if rest and first.casefold() in _ASKING else name


def copied_from(question: str, hit: Hit) -> Rejected | None:
    """Whether a question is a stretch of the passage with a question mark."""
    words = rouge_tokens(question)
    shared = longest_common_run(words, rouge_tokens(hit.passage.text))
    if shared >= COPIED_SHARE * len(words):
        return Rejected(COPIED, f"{shared} of the {len(words)} words of '{question}' stand there in a row")
    return None


def invented(question: str, hit: Hit, document: str) -> Rejected | None:
    """A number or a name that stands neither in the passage nor elsewhere in its document."""
    known = " ".join([hit.source.title, *hit.passage.headings, hit.passage.text])
    unknown = [*sorted(numbers(question) - numbers(known)), *unknown_names(question, [hit])]
    unknown = [one for one in unknown if _named(one) not in document]
    return Rejected(INVENTED, f"'{unknown[0]}' of '{question}'") if unknown else None


def _with_signs(answer: str, text: str, place: tuple[int, int]) -> tuple[int, int]:
    """The place with the signs around it that the answer has too: "$5", "80 %"."""
    start, end = place
    first = next(index for index, character in enumerate(answer) if character.isalnum())
    last = next(index for index, character in enumerate(reversed(answer)) if character.isalnum())
    if first and text[:start].endswith(answer[:first]):
        start -= first
    if last and text.startswith(answer[len(answer) - last :], end):
        end += last
    return start, end


def plain(text: str) -> str:
    """Letters and digits alone: equal for questions that differ in nothing else."""
    return "".join(filter(str.isalnum, text.casefold()))
