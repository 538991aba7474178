"""Sources → claims with passages that support them, contradict them or say nothing of them, each source by its form:
claims that people have judged, questions with gold answers, or plain documents.

True claims are what people wrote or what an answer says to its question; false ones are made of them by rules
(adapt.claims.falsifying) or by the answer to another question; on other passages of the same document a claim is
neutral. It writes no file and knows no checker.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from adapt.claims.falsifying import EVERY, falsified, kind_of_number, names_in
from adapt.claims.stating import stated
from adapt.corpus.sources import LeftOut
from adapt.instructions.cloze import drawn_documents
from adapt.instructions.from_questions import held_out_documents
from eval.data.claim_pairs import LABELS, ClaimPair, read_pairs, scifact_documents, scifact_file
from eval.data.corpora import CorpusDocument, as_document, find_jsonl
from eval.data.questions import Question, QuestionSet, read_questions
from eval.runs.parts import Progress
from retrieval.errors import UsageError
from retrieval.prompts import language_of
from retrieval.sentences import sentence_spans
from retrieval.support import content_tokens
from retrieval.supporting.claims import in_question

PASSAGE = {"en": 600, "zh": 220}
"""Characters of a passage made here, about as many as the splitter leaves together."""
FEWEST, MOST = 6, 45
"""Content words of a sentence that is taken as a claim."""
NEAR = 4
"""Documents before and after that a short document's neutral passages are taken from: sets keep articles together."""
_ITEM = re.compile(r"^(?:[-*•]|\d{1,3}[.)])\s+")
SHARED, NO_SPAN, NOT_FALSE, SILENT = (
    "of a document that another split is about",
    "without a gold span",
    "no rule makes it false",
    "no other passage",
)


@dataclass(frozen=True)
class ClaimMaking:
    """`limit` claims of each source, at even distances; `hold_out` the share of each source's documents, the last of
    it, whose pairs are kept apart. `split` is the one whose claims may be learned from, where people have judged."""

    limit: int | None = None
    hold_out: float = 0.0
    split: str = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.hold_out < 1.0:
            raise UsageError(f"hold_out is {self.hold_out}; it is a share from 0 to below 1")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is {self.limit}; it must be 1 or more")


@dataclass
class Made:
    """The pairs to learn from, those held out, and what came of the sources: name → its form and counts."""

    learned: list[ClaimPair] = field(default_factory=list)
    held_out: list[ClaimPair] = field(default_factory=list)
    forms: dict[str, str] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)

    def counts(self) -> dict[str, dict[str, int]]:
        """Label → pairs, of those to learn from and of those held out."""
        return {
            name: {label: sum(pair.label == label for pair in pairs) for label in LABELS}
            for name, pairs in (("learned", self.learned), ("held_out", self.held_out))
        }


def make_claims(
    sources: Sequence[str], making: ClaimMaking, *, licence: str = "", progress: Progress = lambda *_: None
) -> Made:
    """The pairs of each SOURCE: a folder in the form of SciFact, a question set, or documents (PATH or PATH#FIELD).

    Raises UsageError, ReadingError for a source that cannot be read.
    """
    made = Made()
    for source in sources:
        path = Path(source.partition("#")[0]).expanduser()
        if scifact_file(path) is not None:
            _add(made, _judged(path, making, made), making, path.name, "claims that people have judged", licence)
        elif _holds_questions(path):
            found = read_questions(path)
            if any(question.kind == "text" for question in found.questions):
                texts = [(document.id, as_document(document).text) for document in found.documents]
                _add(made, _of_texts(texts, found.name, making, made, progress), making, found.name, "texts", licence)
            else:
                away = held_out_documents(found, making.hold_out)
                pairs = _of_questions(found, making, made, away, progress)
                _add(made, pairs, making, found.name, f"{len(found.questions):,} questions", licence, away=away)
        else:
            drawn = drawn_documents([source], Path.cwd(), made.left_out, progress=progress)
            texts = [(text.id, text.text) for text in drawn]
            name = path.name
            _add(made, _of_texts(texts, name, making, made, progress), making, name, "documents", licence)
    if not made.learned:
        why = made.left_out.first()
        raise UsageError(f"no claim came of {', '.join(sources)}{f' ({why})' if why else ''}; name other sources")
    return made


def _holds_questions(path: Path) -> bool:
    if path.is_file():
        return path.name.startswith(("questions.", "qa."))
    return path.is_dir() and any(find_jsonl(path, stem) is not None for stem in ("questions", "qa"))


def _add(
    made: Made,
    pairs: Iterable[ClaimPair],
    making: ClaimMaking,
    name: str,
    form: str,
    licence: str,
    *,
    away: frozenset[str] | None = None,
) -> None:
    """Sort the pairs of one source into those to learn from and those held out, by document."""
    found = list(pairs)
    if away is None:
        order = list(dict.fromkeys(pair.document for pair in found))
        away = frozenset(order[len(order) - round(making.hold_out * len(order)) :])
    for pair in found:
        with_licence = ClaimPair(**{**pair.as_json(), "licence": licence}) if licence else pair  # type: ignore[arg-type]
        (made.held_out if pair.document in away else made.learned).append(with_licence)
    made.forms[name] = form


def _evenly(count: int, limit: int | None) -> list[int]:
    if limit is None or limit >= count:
        return list(range(count))
    return [number * count // limit for number in range(limit)]


# --- what people have judged ------------------------------------------------------------------------------------------


def _judged(path: Path, making: ClaimMaking, made: Made) -> Iterator[ClaimPair]:
    """Of one split, and of no document that another split is about: that one is for measuring."""
    file = scifact_file(path)
    assert file is not None
    by_split = scifact_documents(file)
    others = {document for split, documents in by_split.items() if split != making.split for document in documents}
    found = read_pairs(path, making.split)
    for place in _evenly(len(found), making.limit):
        if found[place].document in others:
            made.left_out.add(SHARED, found[place].source, f"is about {found[place].document}")
            continue
        yield found[place]


# --- questions with gold answers --------------------------------------------------------------------------------------


def _of_questions(
    found: QuestionSet, making: ClaimMaking, made: Made, away: frozenset[str], progress: Progress
) -> Iterator[ClaimPair]:
    """Of each question up to three pairs with one claim: its passage, a false version, a passage that is silent, which
    is of a document on the same side of the hold-out as the question's (`away` are those held out)."""
    if not found.documents:
        raise UsageError(f"no documents lie beside the questions of {found.name}; claims need passages")
    texts = {document.id: as_document(document).text for document in found.documents}
    order = {document.id: number for number, document in enumerate(found.documents)}
    asked = [question for question in found.questions if question.answerable and question.kind == "span"]
    others: dict[str, list[Question]] = {}
    for question in asked:
        others.setdefault(question.source or "", []).append(question)
    chosen = _evenly(len(asked), making.limit)
    for number, place in enumerate(chosen, 1):
        progress("making claims", number, len(chosen))
        question = asked[place]
        source = f"{found.name}#{question.id}"
        if not question.spans or question.together:
            made.left_out.add(NO_SPAN, source, "has no place in its document that is known to answer it")
            continue
        draw = Random(f"{making.seed} {question.id}")
        span = question.spans[0]
        text = texts[span.document]
        passage = _window(text, span.start, span.end, draw)
        answer = question.answers[0].strip()
        state = in_question if draw.random() < 0.5 else stated
        claim = state(question.text, answer)
        how = "question and answer" if claim == in_question(question.text, answer) else "stated"
        yield ClaimPair(claim, passage, "supported", span.document, source, how)
        wrong = _wrong_answer(question, others[question.source or ""], passage, draw)
        if wrong is not None:
            yield ClaimPair(
                state(question.text, wrong), passage, "contradicted", span.document, source, f"{how}, another's answer"
            )
        else:
            made.left_out.add(NOT_FALSE, source, "has no other answer of its kind near")
        silent = _silent(question, claim, found.documents, order, texts, passage, away, draw)
        if silent is not None:
            document, text = silent
            yield ClaimPair(claim, text, "neutral", document, source, f"{how}, another passage")
        else:
            made.left_out.add(SILENT, source, "has no other passage that does not hold its answer")


def kind_of_answer(answer: str) -> str:
    """What a wrong answer has to be of to look right."""
    plain = answer.strip()
    if any(character.isdigit() for character in plain):
        digits = "".join(character for character in plain if character.isdigit() or character in ".,")
        return f"{kind_of_number(digits.strip('.,') or '0')} {'alone' if digits == plain else 'with words'}"
    if language_of(plain) == "zh":
        return f"zh {min(len(plain) // 3, 3)}"
    return ("name " if plain[:1].isupper() else "phrase ") + str(min(len(plain.split()), 4) // 2)


def _wrong_answer(question: Question, beside: Sequence[Question], passage: str, draw: Random) -> str | None:
    """The answer to another question of the document, of the same kind; else a number or name of the passage, or the
    number itself changed."""
    right = [answer.casefold() for answer in question.answers]
    answer = question.answers[0].strip()
    kind = kind_of_answer(answer)
    asked = question.text.casefold()
    wrong = [
        other
        for one in beside
        for other in one.answers[:1]
        if kind_of_answer(other) == kind
        and other.casefold() not in asked
        and not any(other.casefold() in a or a in other.casefold() for a in right)
    ]
    if wrong:
        return draw.choice(wrong)
    # To negate "Social Democrats" makes no false answer; a sentence can be.
    rules = EVERY if len(content_tokens(answer)) >= FEWEST else EVERY[:2]
    changed = falsified(answer, passage, draw, rules)
    if changed is not None:
        return changed[0]
    names = [passage[start:end] for start, end, _ in names_in(passage)]
    fitting = [
        name
        for name in names
        if kind_of_answer(name) == kind
        and name.casefold() not in asked
        and not any(name.casefold() in a or a in name.casefold() for a in right)
    ]
    return draw.choice(fitting) if fitting else None


def _silent(
    question: Question,
    claim: str,
    documents: Sequence[CorpusDocument],
    order: dict[str, int],
    texts: dict[str, str],
    passage: str,
    away: frozenset[str],
    draw: Random,
) -> tuple[str, str] | None:
    """(document, passage) that has most of the claim's words and none of its answers: of the same document where it is
    long, else of its neighbours on the same side of the hold-out."""
    home = question.spans[0].document
    candidates = [(home, text) for text in _windows(texts[home], draw) if not _overlap(text, passage)]
    if not candidates:
        place = order[home]
        near = [
            documents[n].id for n in range(max(0, place - NEAR), min(len(documents), place + NEAR + 1)) if n != place
        ]
        near = [other for other in near if (other in away) == (home in away)]
        candidates = [(other, text) for other in near for text in _windows(texts[other], draw)]
    answers = [answer.casefold() for answer in question.answers]
    silent = [one for one in candidates if not any(answer in one[1].casefold() for answer in answers)]
    wanted = content_tokens(claim)
    best = sorted(silent, key=lambda one: -len(wanted & content_tokens(one[1])))[:3]
    return draw.choice(best) if best else None


def _overlap(one: str, other: str) -> bool:
    return one in other or other in one or one[:80] in other or other[:80] in one


# --- documents --------------------------------------------------------------------------------------------------------


def _of_texts(
    texts: Sequence[tuple[str, str]], name: str, making: ClaimMaking, made: Made, progress: Progress
) -> Iterator[ClaimPair]:
    """Of each document one sentence, in its passage, made false, and beside another passage of the document (of the
    next document where it has one passage only)."""
    chosen = _evenly(len(texts), making.limit)
    for number, place in enumerate(chosen, 1):
        progress("making claims", number, len(chosen))
        document, text = texts[place]
        draw = Random(f"{making.seed} {document} {len(text)}")
        spans = [span for span in sentence_spans(text) if _claims(text[span[0] : span[1]])]
        source = f"{name}#{document}"
        if not spans:
            made.left_out.add(NO_SPAN, source, "has no sentence that is a claim by itself")
            continue
        start, end = draw.choice(spans)
        claim = _ITEM.sub("", " ".join(text[start:end].split()))
        passage = _window(text, start, end, draw)
        yield ClaimPair(claim, passage, "supported", document, source, "a sentence")
        false = falsified(claim, passage, draw)
        if false is None:
            made.left_out.add(NOT_FALSE, source, f"says “{claim[:60]}”")
        else:
            yield ClaimPair(false[0], passage, "contradicted", document, source, f"a sentence, {false[1]}")
        home, others = document, [other for other in _windows(text, draw) if not _overlap(other, passage)]
        if not others and len(texts) > 1:
            home, beside = texts[place + 1 if place + 1 < len(texts) else place - 1]
            others = _windows(beside, draw)
        others = [other for other in others if claim not in other]
        if others:
            wanted = content_tokens(claim)
            silent = max(others, key=lambda other: len(wanted & content_tokens(other)))
            yield ClaimPair(claim, silent, "neutral", home, source, "a sentence, another passage")


def _claims(sentence: str) -> bool:
    """Whether a sentence says something that is understood by itself."""
    words = len(content_tokens(sentence))
    plain = sentence.strip()
    ends = plain.endswith((".", "。", "!", "！"))
    refers = plain.split()[0].lower() in {"it", "they", "this", "these", "those", "he", "she", "such", "however,"}
    return FEWEST <= words <= MOST and ends and not refers and "\n" not in plain


def _window(text: str, start: int, end: int, draw: Random) -> str:
    """The sentences around [start, end), as many as make a passage, the place of these among them drawn."""
    spans = sentence_spans(text)
    inside = [n for n, (first, last) in enumerate(spans) if first < end and start < last]
    if not inside:
        return text[max(0, start - 200) : end + 200]
    first, last = inside[0], inside[-1]
    room = PASSAGE[language_of(text[:2000])]
    while spans[last][1] - spans[first][0] < room and (first > 0 or last + 1 < len(spans)):
        if last + 1 == len(spans) or (first > 0 and draw.random() < 0.5):
            first -= 1
        else:
            last += 1
    return text[spans[first][0] : spans[last][1]]


def _windows(text: str, draw: Random) -> list[str]:
    """Passages that cover a text, at most 20 of a long one."""
    spans = sentence_spans(text)
    room = PASSAGE[language_of(text[:2000])]
    found: list[str] = []
    first = 0
    for n, (_, end) in enumerate(spans):
        if end - spans[first][0] >= room or n + 1 == len(spans):
            found.append(text[spans[first][0] : end])
            first = n + 1
    return found if len(found) <= 20 else draw.sample(found, 20)
