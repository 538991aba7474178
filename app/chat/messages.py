"""A turn → the HTML of its question and answer: text, notes, what can be done with it, and how it was found."""

import html

from app.chat.render import answer_markup, escaped, icon_button, name_html, sealed
from app.chat.sources import checked_numbers, numbers_of
from app.chat.steps import step_text
from app.chat.turns import Note, Turn
from app.chat.words import Words, duration

NEAREST = 3
"""Passages named under a refusal."""
_TOKENS = ("prompt_tokens", "completion_tokens", "tokens_per_second")
_WHOLE = ("total", "outside")
_INSIDE = ("search.waiting",)
"""Times that others contain: the search by words runs beside that by meaning."""


def turn_html(turn: Turn, words: Words, waiting: str = "") -> str:
    """Question and answer; `waiting` names the word for what is being done while nothing is written yet."""
    return sealed(
        f'<section class="exchange" id="turn-{turn.id}" data-turn="{turn.id}">{_question(turn, words)}'
        f'<div dir="auto">{_answer(turn, words)}{_waiting(turn, waiting, words)}{_notes(turn, words)}'
        f"{_nearest(turn, words)}{_footer(turn, words)}</div></section>"
    )


def turns_html(turns: list[Turn], words: Words) -> str:
    """Several of them, one below the other."""
    return "".join(turn_html(turn, words) for turn in turns)


def note_text(note: Note, words: Words) -> str:
    """The sentence of a note in the language of `words`; one whose word is unknown says its own text."""
    sentence = getattr(words, note.word, None) if note.word else None
    if not isinstance(sentence, str):
        return note.text
    try:
        return sentence.format(**note.values)
    except (KeyError, IndexError, ValueError):
        return sentence


def _question(turn: Turn, words: Words) -> str:
    text = "<br>".join(escaped(turn.question).split("\n"))
    edit = icon_button("edit", "edit", words.edit, turn=turn.id)
    return f'<div class="asked"><div class="question" dir="auto">{text}</div>{edit}</div>'


def _answer(turn: Turn, words: Words) -> str:
    if not turn.text:
        return ""
    cited = checked_numbers(turn.citations, numbers_of(turn.hits).keys()) if turn.checked else numbers_of(turn.hits)
    marks = [(mark.start, mark.end, mark.kind) for mark in turn.marks]
    return f'<div class="answer" dir="auto">{answer_markup(turn.text, cited, turn.id, words, marks)}</div>'


def _waiting(turn: Turn, waiting: str, words: Words) -> str:
    if turn.state != "running" or turn.text or not waiting:
        return ""
    sentence = {"searching": words.searching, "reading": words.reading}.get(waiting, words.writing)
    return f'<div class="waiting" role="status">{escaped(sentence)}</div>'


def _notes(turn: Turn, words: Words) -> str:
    notes = [*turn.notes, Note("cut", "ended")] if turn.state == "cut" else turn.notes
    return "".join(
        f'<div class="{note.kind}" dir="auto">{escaped(note_text(note, words), 600)}</div>' for note in notes
    )


def _nearest(turn: Turn, words: Words) -> str:
    """What a refusal offers instead: the passages that come nearest."""
    if not turn.refused or not turn.hits:
        return ""
    items = []
    for n, hit in enumerate(turn.hits[:NEAREST], start=1):
        place = " › ".join(hit.passage.headings[-1:])
        page = words.page.format(page=hit.passage.page) if hit.passage.page is not None else ""
        more = " · ".join(filter(None, [name_html(place, 80) if place else "", html.escape(page)]))
        title = html.escape(words.open_source.format(n=n))
        items.append(
            f'<li><a class="cite" href="#source-{turn.id}-{n}" data-turn="{turn.id}" title="{title}">{n}</a> '
            f"{name_html(hit.source.title or hit.source.uri)}{f' <span>{more}</span>' if more else ''}</li>"
        )
    return f'<div class="nearest"><p>{html.escape(words.nearest)}</p><ul>{"".join(items)}</ul></div>'


def _footer(turn: Turn, words: Words) -> str:
    if turn.state == "running":
        return ""
    copy = f'<button type="button" class="tool copy" title="{html.escape(words.copy)}" ' \
        f'aria-label="{html.escape(words.copy)}"></button>' if turn.text else ""  # fmt: skip
    again = icon_button("regenerate", "again", words.retry, turn=turn.id)
    total = turn.clock.get("total")
    waited = words.total.format(time=duration(total, words)) if total is not None else ""
    return (
        f'<div class="footer"><details class="how" id="how-{turn.id}"><summary>{html.escape(words.how)}'
        f'<span class="hint">{escaped(waited)}</span></summary>{_how(turn, words)}</details>'
        f'<div class="tools">{copy}{again}</div></div>'
    )


def _how(turn: Turn, words: Words) -> str:
    rows = [
        (words.how_collection, name_html(turn.asked.collection)),
        (words.how_queries, "<br>".join(name_html(query, 300) for query in turn.queries)),
        (words.how_steps, "<br>".join(escaped(step_text(step, words), 300) for step in turn.steps)),
        (words.how_filters, "<br>".join(name_html(text, 120) for text in turn.asked.filters)),
        (words.how_passages, html.escape(_passages(turn, words)) if turn.queries else ""),
        (words.how_score, html.escape(_confidence(turn, words))),
        (words.how_model, _model(turn, words)),
        (words.how_prompt, name_html(turn.prompt_version, 60)),
        (words.how_tokens, html.escape(_tokens(turn, words))),
        (words.how_waited, html.escape(_waited(turn, words))),
        (words.how_stages, _stages(turn, words)),
    ]
    body = "".join(f"<tr><th>{html.escape(name)}</th><td>{value}</td></tr>" for name, value in rows if _says(value))
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def _says(value: str) -> bool:
    return value not in ("", "<bdi></bdi>")


def _passages(turn: Turn, words: Words) -> str:
    if turn.given and turn.model not in ("", "quote", "none"):
        return words.how_given.format(found=len(turn.hits), given=turn.given)
    return words.how_found.format(found=len(turn.hits))


def _confidence(turn: Turn, words: Words) -> str:
    if turn.confidence is None:
        return ""
    score = f"{turn.confidence:.2f}"
    return (
        words.how_needed.format(score=score, threshold=f"{turn.threshold:.3g}") if turn.threshold is not None else score
    )


def _model(turn: Turn, words: Words) -> str:
    if turn.model in ("", "none"):
        return ""
    if turn.model == "quote":
        return html.escape(words.how_quoted)
    model = turn.model.removesuffix("+quote")
    return name_html(model) if model == turn.model else escaped(words.how_replaced.format(model=model), 200)


def _tokens(turn: Turn, words: Words) -> str:
    read, written, speed = (turn.timings.get(name) for name in _TOKENS)
    parts = [(words.how_read, read), (words.how_written, written), (words.speed, speed)]
    return " · ".join(sentence.format(n=f"{round(value):,}") for sentence, value in parts if value)


def _waited(turn: Turn, words: Words) -> str:
    parts = [(words.searched, "searched"), (words.first_token, "first"), (words.total, "total")]
    return " · ".join(
        sentence.format(time=duration(turn.clock[name], words)) for sentence, name in parts if name in turn.clock
    )


def _stages(turn: Turn, words: Words) -> str:
    """The pipeline's own times: its stages in order, those of the search in brackets behind it."""
    inner = _times([name for name in turn.timings if name.startswith("search.") and name not in _INSIDE], turn, words)
    outer = [name for name in turn.timings if "." not in name and name not in (*_TOKENS, *_WHOLE)]
    parts = []
    for name in outer:
        said = _times([name], turn, words)
        if said and name == "search" and inner:
            said += f" ({inner})"
        parts.append(said)
    return "<br>".join(part for part in parts if part)


def _times(names: list[str], turn: Turn, words: Words) -> str:
    """Below a tenth of a millisecond nothing is worth saying."""
    return ", ".join(
        f"{escaped(words.stages.get(name, name.removeprefix('search.')), 60)} "
        f"{escaped(duration(turn.timings[name] / 1000, words))}"
        for name in names
        if turn.timings[name] >= 0.1
    )
