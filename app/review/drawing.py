"""Examples and decisions → the review page's HTML, in which nothing from an example is markup. It knows no Gradio.

Every text is escaped when it is put in, and what comes of all is cleaned by a list of what may be there (nh3).
"""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import nh3

from adapt.instructions.example import Example, Message
from adapt.instructions.reviews import STATES
from app.chat.render import escaped, plain
from app.review.words import Words

LONGEST_SHOWN = 20_000
"""Characters of a message on the page; editing shows all."""
_TAGS = set(
    "article bdi button code dd details div dl dt h3 header input kbd label option p progress section select span "
    "summary".split()
)
_EVERYWHERE = {"class", "dir", "role", "title", "aria-label"}
_ATTRIBUTES = {
    "button": {"type", "data-do"},
    "details": {"open"},
    "input": {"type", "class", "placeholder", "maxlength", "value", "data-filter", "inputmode"},
    "option": {"value", "selected"},
    "progress": {"value", "max"},
    "section": {"data-n"},
    "select": {"data-filter"},
}


def sealed(markup: str) -> str:
    """Only listed tags and attributes pass. One line, since Gradio would read a blank line as the end of the HTML."""
    clean = nh3.clean(
        markup.encode("utf-8", "replace").decode(),
        tags=_TAGS,
        attributes={tag: _ATTRIBUTES.get(tag, set()) | _EVERYWHERE for tag in _TAGS},
        url_schemes=set(),
        link_rel=None,
        strip_comments=True,
    )
    return clean.replace("\n", "&#10;").replace("\t", "&#9;")


def bar_html(
    name: str,
    counts: Mapping[str, int],
    origins: Mapping[str, int],
    scores: Sequence[str],
    chosen: Mapping[str, str],
    words: Words,
) -> str:
    """The file's name, how far it is reviewed, and what is to be shown. `chosen` has state, origin, score, below."""
    everything = sum(counts.values())
    done = everything - counts["open"]
    said = html.escape(words.progress.format(done=f"{done:,}", all=f"{everything:,}"))
    states = {"": everything, **{state: counts[state] for state in STATES}}
    choices = [(state, f"{words.states[state]} ({count:,})") for state, count in states.items()]
    parts = [
        f'<span class="name"><bdi>{escaped(name, 80)}</bdi></span>',
        f'<span class="done"><progress value="{done}" max="{everything}" aria-label="{said}"></progress> {said}</span>',
        '<span class="filters">',
        _select("state", words.state, choices, chosen["state"]),
    ]
    if len(origins) > 1:
        kinds = [("", words.any_origin)]
        kinds += [(kind, f"{words.no_origin if kind == '-' else kind} ({count:,})") for kind, count in origins.items()]
        parts.append(_select("origin", words.origin, kinds, chosen["origin"]))
    if scores:
        orders = [("", words.any_score), *((score, words.lowest_first.format(score=score)) for score in scores)]
        parts.append(_select("score", words.score, orders, chosen["score"]))
    if chosen["score"]:
        value = html.escape(chosen["below"])
        parts.append(
            f'<label class="below"><span>{html.escape(words.below)}</span><input type="text" inputmode="decimal" '
            f'maxlength="12" data-filter="below" value="{value}"></label>'
        )
    stalled = f'<span class="stalled" role="alert">{html.escape(words.stalled)}</span>'
    return sealed(f'<div class="bar">{"".join(parts)}</span>{stalled}</div>')


def card_html(
    example: Example,
    messages: Sequence[Message],
    state: str,
    decided_at: str,
    place: tuple[int, int],
    words: Words,
) -> str:
    """One example: its messages as they are now, and where they come from."""
    at, of = place
    header = (
        f'<header><span class="state {state}">{html.escape(words.states[state])}</span>'
        f'<span class="at">{html.escape(words.place.format(at=f"{at:,}", of=f"{of:,}"))}</span>'
    )
    if decided_at:
        header += f'<span class="when">{html.escape(words.decided.format(at=decided_at[:16].replace("T", " ")))}</span>'
    said = "".join(_message(number, message, words) for number, message in enumerate(messages))
    before = ""
    if tuple(messages) != example.messages:
        old = "".join(_message(number, message, words, old=True) for number, message in enumerate(example.messages))
        before = f'<details class="was"><summary>{html.escape(words.was)}</summary>{old}</details>'
    return sealed(f'<article class="example">{header}</header>{said}{before}{_facts(example, words)}</article>')


def actions_html(note: str, state: str, words: Words) -> str:
    """The buttons under an example, and the note."""
    decisions = [
        ("accept", "accept", words.accept, "A"),
        ("ui-edit", "edit", words.edit, "E"),
        ("reject", "reject", words.reject, "R"),
    ]
    buttons = "".join(_button(do, kind, word, key) for do, kind, word, key in decisions)
    if state != "open":
        buttons += _button("take-back", "take-back", words.take_back, "U")
    label = html.escape(words.note)
    keys = "".join(f"<span><kbd>{html.escape(key)}</kbd> {html.escape(what)}</span>" for key, what in words.keys)
    return sealed(
        f'<div class="actions"><input type="text" class="note" maxlength="2000" placeholder="{label}" '
        f'aria-label="{label}" value="{escaped(note)}"><div class="buttons">'
        f"{_button('previous', 'step', '←', '', words.previous)}{buttons}{_button('next', 'step', '→', '', words.next)}"
        f'</div><div class="saving">{_button("ui-save", "save", words.save, "Ctrl Enter")}'
        f'{_button("ui-cancel", "cancel", words.cancel, "Esc")}</div><div class="keys">{keys}</div></div>'
    )


def empty_html(done: bool, command: str, words: Words) -> str:
    """What stands where no example is of the chosen kind."""
    if done:
        told = f"<p>{html.escape(words.all_done)}</p><p><code>{escaped(command, 400)}</code></p>"
    else:
        told = f"<p>{html.escape(words.nothing)}</p>"
    return sealed(f'<div class="nothing">{told}</div>')


def notice_html(sentence: str) -> str:
    """A sentence above the example, for now."""
    return sealed(f'<div class="notice" role="alert">{escaped(sentence, 500)}</div>') if sentence else ""


def unseen(text: str) -> int:
    """Characters that the page leaves out, since they hide, reorder or overpaint."""
    return max(0, len(text.replace("\r\n", "\n")) - len(plain(text)))


def _message(number: int, message: Message, words: Words, *, old: bool = False) -> str:
    more = len(message.content) - LONGEST_SHOWN
    cut = f'<p class="cut">{html.escape(words.cut.format(n=f"{more:,}"))}</p>' if more > 0 else ""
    hidden = unseen(message.content)
    warning = f'<p class="hidden">{html.escape(words.hidden.format(n=f"{hidden:,}"))}</p>' if hidden else ""
    numbered = "" if old else f' data-n="{number}"'
    return (
        f'<section class="message {message.role}"{numbered}><h3>{html.escape(words.roles[message.role])}</h3>'
        f'<div class="said" dir="auto">{escaped(message.content, LONGEST_SHOWN)}</div>{cut}{warning}</section>'
    )


def _facts(example: Example, words: Words) -> str:
    origin = example.origin
    rows: list[tuple[str, str]] = []
    if origin is not None:
        rows.append((words.origin, origin.kind))
        rows += [(words.source, origin.source), (words.by, origin.by), (words.licence, origin.licence)]
    rows += [(words.labels, _plain_json(example.labels)), (words.checks, _plain_json(example.checks))]
    told = "".join(
        f"<dt>{html.escape(name)}</dt><dd><bdi>{escaped(value, 300)}</bdi></dd>" for name, value in rows if value
    )
    return f'<dl class="facts">{told}</dl>' if told else ""


def _plain_json(value: Mapping[str, Any]) -> str:
    """`support 0.93, masked {"EMAIL": 1}`"""
    return ", ".join(f"{name} {_said(item)}" for name, item in value.items())


def _said(item: Any) -> str:
    if isinstance(item, float):
        return f"{item:.4g}"
    return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)


def _select(name: str, label: str, choices: Sequence[tuple[str, str]], chosen: str) -> str:
    options = "".join(
        f'<option value="{html.escape(plain(value, 200))}"{" selected" if value == chosen else ""}>{escaped(text, 60)}'
        "</option>"
        for value, text in choices
    )
    said = html.escape(label)
    return f'<label><span>{said}</span><select data-filter="{name}" aria-label="{said}">{options}</select></label>'


def _button(do: str, kind: str, word: str, key: str, title: str = "") -> str:
    said = f' title="{html.escape(title)}" aria-label="{html.escape(title)}"' if title else ""
    shown = f"<kbd>{html.escape(key)}</kbd>" if key else ""
    return f'<button type="button" class="{kind}" data-do="{do}"{said}>{html.escape(word)}{shown}</button>'
