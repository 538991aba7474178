"""What stands around the messages → HTML: conversations, notices, filters, status, the empty page, keyboard help."""

import html
import time
from collections.abc import Iterable, Sequence, Set
from functools import lru_cache

from app.chat.conversations import Conversation
from app.chat.render import escaped, icon_button, name_html, plain, sealed
from app.chat.words import Words, words_for

DAY_SECONDS = 86_400


def chats_html(
    chats: Sequence[Conversation], current: str, running: Set[str], words: Words, now: float | None = None
) -> str:
    """The list of conversations, newest first, under the days they were last used on.

    Its first element names the open conversation (`data-chat`, empty for a new one), which page.js puts into the
    address of the page.
    """
    parts = [sealed(f'<div class="here" data-here="chat" data-chat="{html.escape(current)}"></div>')]
    if not chats:
        parts.append(f'<div class="empty">{html.escape(words.no_conversations)}</div>')
    now = time.time() if now is None else now
    midnight = time.mktime((*time.localtime(now)[:3], 0, 0, 0, 0, 0, -1))
    group = ""
    items: list[str] = []
    for chat in chats:
        day = _day(chat.updated, midnight, words)
        if day != group:
            parts += [_listed(items), f'<div class="day">{html.escape(day)}</div>']
            group, items = day, []
        items.append(_chat(chat.id, chat.title, chat.id == current, chat.id in running, words.language))
    parts.append(_listed(items))
    # Each row is sealed for itself, and kept: sealing hundreds of them anew took most of the time of fifty askers.
    return f'<nav class="chats" aria-label="{html.escape(words.conversations)}">{"".join(parts)}</nav>'


def _listed(items: Sequence[str]) -> str:
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _day(when: float, midnight: float, words: Words) -> str:
    if when >= midnight:
        return words.today
    if when >= midnight - DAY_SECONDS:
        return words.yesterday
    return words.week if when >= midnight - 7 * DAY_SECONDS else words.earlier


@lru_cache(maxsize=4096)
def _chat(chat: str, title: str, current: bool, running: bool, language: str) -> str:
    words = words_for(language)
    here = ' aria-current="page"' if current else ""
    dot = f'<span class="dot" title="{html.escape(words.running)}"></span>' if running else ""
    kind = f"chat{' current' if current else ''}{' running' if running else ''}"
    sure = (
        f'<span class="sure" role="group"><span>{html.escape(words.delete_sure)}</span>'
        f'<button type="button" class="delete" data-do="delete" data-chat="{chat}">{html.escape(words.delete)}'
        f'</button><button type="button" class="keep" data-do="ui-keep">{html.escape(words.keep)}</button></span>'
    )
    return sealed(
        f'<li class="{kind}" data-chat="{chat}"><a class="open" href="?chat={chat}" '
        f'title="{html.escape(plain(title, 200))}"{here}>{dot}<span class="name">{name_html(title, 120)}</span></a>'
        f'<span class="tools">{icon_button("ui-rename", "rename", words.rename, chat=chat)}'
        f"{icon_button('ui-delete', 'delete', words.delete, chat=chat)}</span>{sure}</li>"
    )


def notice_html(sentence: str) -> str:
    """A sentence above the question box, for now."""
    return sealed(f'<div class="notice" role="alert">{escaped(sentence, 500)}</div>') if sentence else ""


def editing_html(words: Words) -> str:
    """Says that an earlier question is being edited, and how to leave that."""
    cancel = f'<button type="button" class="cancel" data-do="cancel">{html.escape(words.cancel)}</button>'
    return sealed(f'<div class="notice editing" role="status"><span>{html.escape(words.editing)}</span>{cancel}</div>')


def trouble_html(sentence: str) -> str:
    """A sentence above everything that stays."""
    return sealed(f'<div class="trouble" role="alert">{escaped(sentence, 500)}</div>') if sentence else ""


def chips_html(filters: Sequence[str], words: Words) -> str:
    """The filters in force, each with a button that takes it away."""
    chips = []
    for n, text in enumerate(filters):
        label = html.escape(words.filter_remove.format(filter=plain(text, 80)))
        chips.append(
            f'<span class="chip">{name_html(text, 80)}<button type="button" class="remove" data-do="unfilter" '
            f'data-n="{n}" title="{label}" aria-label="{label}">×</button></span>'
        )
    return sealed(f'<div class="chips">{"".join(chips)}</div>') if chips else ""


def keys_html(keys: Iterable[str], words: Words) -> str:
    """The form of a filter and the keys there are; a click puts one into the field."""
    buttons = "".join(f'<button type="button" class="key" data-do="ui-key">{escaped(key, 60)}</button>' for key in keys)
    return sealed(f'<div class="keys"><span>{html.escape(words.filter_hint)}</span> {buttons}</div>')


def status_html(state: str, text: str) -> str:
    """The line in the header: `state` is ready, loading, idle or failed."""
    return sealed(
        f'<div class="status {state}" role="status" title="{html.escape(plain(text, 400))}"><span class="dot"></span>'
        f"<span>{escaped(text, 400)}</span></div>"
    )


def teaching_html(sentences: Sequence[str], examples: Sequence[str], words: Words) -> str:
    """What an empty chat says: how to use it, or what is missing, and questions to begin with."""
    items = "".join(f"<p>{escaped(sentence, 400)}</p>" for sentence in sentences)
    buttons = "".join(
        f'<button type="button" class="example" data-do="ask">{escaped(text, 200)}</button>' for text in examples
    )
    shown = f'<div class="examples">{buttons}</div>' if buttons else ""
    return sealed(f'<div class="teach"><h2>{html.escape(words.teach_title)}</h2>{items}{shown}</div>')


def help_html(words: Words) -> str:
    """The list of keys, and names for what has a picture or nothing for a label (page.js puts them where they go)."""
    rows = "".join(
        f"<tr><td>{''.join(f'<kbd>{html.escape(part)}</kbd>' for part in key.split())}</td>"
        f"<td>{html.escape(what)}</td></tr>"
        for key, what in words.keys
    )
    close = icon_button("ui-close", "close", words.close)
    named = {
        "show-chats": words.conversations,
        "show-help": words.help,
        "theme": words.theme,
        "question": words.ask,
        "condition": words.filter,
        "collection": words.collection,
        "engine": words.engine,
        "k": words.passages_label,
    }
    labels = "".join(f'<div data-here="{place}">{html.escape(label)}</div>' for place, label in named.items())
    return sealed(
        f'<div class="help" role="dialog" aria-label="{html.escape(words.help)}"><div class="head">'
        f"<span>{html.escape(words.help)}</span>{close}</div><table><tbody>{rows}</tbody></table></div>"
        f'<div class="labels">{labels}</div>'
    )
