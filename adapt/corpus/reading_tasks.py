"""Raw texts → texts with reading tasks in them, for a share of the documents (AdaptLLM, Cheng et al. 2023,
arXiv:2309.09530), so that a model which learns a domain also learns to be asked about it.

No model writes anything: every word of an answer stands in the document. It knows no tokenizer.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator

from adapt.corpus.exercises import WORDS, Document, document, exercises
from adapt.corpus.prose import language, middle, parts, sentences
from adapt.corpus.texts import TrainingText
from adapt.recipe import Reading

EXERCISES = 3
"""Exercises after one part of a document, at most: more would drown the text."""
_SHORTEST = {"en": 200, "zh": 70}
"""Characters of a document below which it stays as it is."""
_HALVED = 1 / 3
"""Share of the parts of a document that are asked to be gone on with, at least one."""
_ASK_TITLE = 0.5


def transform(
    texts: Iterable[TrainingText], settings: Reading, seed: int, *, counts: Counter[str] | None = None
) -> Iterator[TrainingText]:
    """The texts in their order, a share of them turned into reading tasks, drawn by seed and id of each.

    A document takes one of three forms, of those that `settings.tasks` names and that suit it. "comprehension": each
    part of about a block, then up to three exercises about it. "title": the request to write about the title, then the
    text; or the text without its title, which is asked for at the end. "halves": the beginning of a part, the request
    to go on, the rest. Where "comprehension" is named, exercises follow the parts in every form. No sentence of the
    document is lost and none but those quoted in exercises is repeated.

    `counts`, where given, is filled while texts are drawn: `documents`, `transformed`, `unsuitable` (drawn, but with
    nothing to ask), `form: …`, `exercise: …`, `characters before`, `characters after`.
    """
    told: Counter[str] = Counter() if counts is None else counts
    for text in texts:
        drawn = random.Random(f"{seed}\0{text.id}")
        told["documents"] += 1
        result = text
        if drawn.random() < settings.share:
            made = _transformed(text, settings, drawn, told)
            told["unsuitable" if made is None else "transformed"] += 1
            result = made or text
        told["characters before"] += len(text.title) + len(text.text)
        told["characters after"] += len(result.title) + len(result.text)
        yield result


def _transformed(
    text: TrainingText, settings: Reading, drawn: random.Random, told: Counter[str]
) -> TrainingText | None:
    tongue = language(text.text)
    if len(text.text) < _SHORTEST[tongue]:
        return None
    words = WORDS[tongue]
    title = " ".join(text.title.split())
    pieces = parts(text.text, tongue)
    middles = [middle(piece) for piece in pieces]
    forms = []
    if "comprehension" in settings.tasks:
        forms.append("comprehension")
    if "title" in settings.tasks and title:
        forms.append("title")
    if "halves" in settings.tasks and any(middles):
        forms.append("halves")
    if not forms:
        return None
    form = drawn.choice(forms)
    layout = drawn.choice(words.layouts)
    head, tail, shown = "", "", text.title
    if form == "title":
        shown = ""
        if drawn.random() < _ASK_TITLE:
            question = drawn.choice(words.title)
            tail = layout.format(question=question, answer=title)
        else:
            head = drawn.choice(words.write).format(title=title) + "\n\n"
        pieces[0] = _without_heading(pieces[0], title)
    elif form == "halves":
        pieces = _halved(pieces, middles, drawn.choice(words.go_on), drawn)
    asked: list[list[str]] = [[] for _ in pieces]
    if "comprehension" in settings.tasks:
        # From the parts as they were: a request to go on is no sentence of the document.
        asked = _asked(parts(text.text, tongue), document(text.text, tongue), layout, drawn, told)
        if form == "comprehension" and not any(asked):
            return None
    told[f"form: {form}"] += 1
    if tail:
        asked[-1].append(tail)
    opening = drawn.choice(words.openings)
    body = "".join(_with(piece, questions, opening) for piece, questions in zip(pieces, asked, strict=True))
    return TrainingText(text.id, head + body, shown)


def _asked(
    pieces: list[str], about: Document, layout: str, drawn: random.Random, told: Counter[str]
) -> list[list[str]]:
    """Exercises after each part, laid out."""
    asked = []
    for piece in pieces:
        found = exercises(sentences(piece, about.tongue), about, EXERCISES, drawn)
        told.update(f"exercise: {exercise.kind}" for exercise in found)
        asked.append([layout.format(question=one.question, answer=one.answer) for one in found])
    return asked


def _with(piece: str, questions: list[str], opening: str) -> str:
    """A part and the questions after it, one blank line between them; the white space after it stays last."""
    if not questions:
        return piece
    body = piece.rstrip()
    return "\n\n".join([body, *([opening] if opening else []), *questions]) + piece[len(body) :]


def _halved(pieces: list[str], middles: list[int | None], request: str, drawn: random.Random) -> list[str]:
    """The request to go on in the middle of some parts."""
    able = [number for number, place in enumerate(middles) if place]
    chosen = set(drawn.sample(able, max(1, round(len(able) * _HALVED))))
    return [
        f"{piece[:place].rstrip()}\n\n{request}\n\n{piece[place:]}" if place and number in chosen else piece
        for number, (piece, place) in enumerate(zip(pieces, middles, strict=True))
    ]


def _without_heading(piece: str, title: str) -> str:
    """Without a first line that only says the title again (Markdown's # and a rule under it belong to it)."""
    first, _, rest = piece.lstrip().partition("\n")
    if " ".join(first.lstrip("# ").split()) != title or not rest.strip():
        return piece
    line, _, after = rest.partition("\n")
    return (after if line.strip() and not line.strip("=-~ ") else rest).lstrip("\n")
