"""What a tab shows: a conversation at rest or followed while its answer grows, the lists and lines around it.

It knows nothing of what a person may do; talking.py does.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio as gr

from app.chat.answers import Answers
from app.chat.conversations import Conversations
from app.chat.messages import turn_html, turns_html
from app.chat.parts import Parts
from app.chat.render import plain
from app.chat.sources import sources_html
from app.chat.surroundings import chats_html, chips_html, keys_html, status_html, teaching_html, trouble_html
from app.chat.turns import Asked, Turn
from app.chat.views import Tab, View, busy_box, idle_box, mode_of
from app.chat.words import CHINESE, ENGLISH, Words, words_for
from retrieval.errors import FathomError
from retrieval.prompts import language_of

_log = logging.getLogger(__name__)

EXAMPLES = 4
"""Questions offered on the empty page, in the reader's language as far as the documents go."""

FRAME_SECONDS = 0.08
"""Shortest time between two updates of a streamed answer: rendering shares the cores with an embedded model."""
TURNS_WITH_SOURCES = 8
"""Questions whose sources are in the panel; a click on a citation of an older one brings its own."""


class Screen:
    """Views of conversations. One instance serves all tabs."""

    def __init__(self, parts: Parts, kept: Conversations, answers: Answers) -> None:
        self.parts = parts
        self.kept = kept
        self.answers = answers
        self._tabs: dict[str, Tab] = {}

    def tab(self, request: gr.Request) -> Tab:
        """What is known of the tab that sent an event."""
        return self._tabs.setdefault(request.session_hash or "", Tab())

    def forget(self, request: gr.Request) -> None:
        """The tab was closed."""
        self._tabs.pop(request.session_hash or "", None)

    async def follow(self, chat: str, request: gr.Request, view: View, *, keep_box: bool = True) -> AsyncIterator[View]:
        """`view` with the whole conversation in it, then its answer as it grows, until it ends or the tab moves on."""
        words = words_of(request)
        tab = self.tab(request)
        epoch = await tab.take_over()
        tab.drawing += 1
        try:
            live = self.answers.live(chat)
            before = await asyncio.to_thread(self.kept.turns, chat) if chat else []
            if live is not None and live.done:  # it ended while they were read
                live, before = None, await asyncio.to_thread(self.kept.turns, chat)
            if live is None:
                if not keep_box:  # the answer was there before anybody could look
                    view.box = idle_box(words, value="")
                yield await self._whole(chat, before, request, view)
                return
            tab.following = live
            replaces = live.turn.replaces
            before = [turn for turn in before if turn.id < live.turn.id and (replaces is None or turn.id < replaces)]
            tab.shown = None
            view.past = turns_html(before, words)
            view.live = turn_html(live.turn, words, live.waiting)
            view.sources = self.sources([*before, live.turn], words)
            view.box = busy_box(words) if keep_box else busy_box(words, value="")
            view.chats = self.listing(tab, chat, words)
            yield view
            version, shown = -1, live.turn
            while not live.done:
                version = await live.changed(version, timeout=5.0)
                if tab.epoch != epoch:
                    # Gradio sends the last values once more when an event ends; they must not be this conversation's.
                    yield View()
                    return
                turn = live.turn
                if live.done:
                    break
                grown = View(live=turn_html(turn, words, live.waiting))
                if turn.hits != shown.hits or turn.citations != shown.citations:
                    grown.sources = self.sources([*before, turn], words)
                shown = turn
                yield grown
                await asyncio.sleep(FRAME_SECONDS)
            after = await asyncio.to_thread(self.kept.turns, chat)
            ended = View(box=idle_box(words), notice="", trouble=self.trouble(words))
            yield await self._whole(chat, after, request, ended)
        finally:
            tab.drawing -= 1
            if tab.epoch == epoch:
                tab.following = None

    async def _whole(self, chat: str, turns: list[Turn], request: gr.Request, view: View) -> View:
        """`view` with a conversation at rest."""
        words = words_of(request)
        tab = self.tab(request)
        tab.shown = signature(chat, turns)
        if turns:
            view.past = turns_html(turns, words)
        view.live = ""
        view.sources = self.sources(turns, words)
        view.chats = await asyncio.to_thread(self.listing, tab, chat, words)
        return view

    def asked_at_first(self) -> Asked:
        """How a question is asked where nobody has chosen anything."""
        return Asked(quote=not self.parts.engines.writes(), k=self.parts.default_k)

    def settings(self, view: View, asked: Asked, words: Words, *, keep_engine: bool) -> None:
        view.mode = mode_of(asked.quote)
        view.k = asked.k or self.parts.default_k
        view.conditions = "\n".join(asked.filters)
        view.chips = chips_html(asked.filters, words)
        choice = self.parts.engines.choice(asked.engine)
        if choice is not None and not keep_engine:
            view.engine = {**view.engine, **gr.update(value=choice.name)}  # its choices may be on their way too

    def empty(self, collection: str, words: Words) -> str:
        """What a conversation without turns says: how to begin, or what is missing."""
        if not collection:
            return teaching_html((words.no_collections,), (), words)
        try:
            if self.parts.size(collection) == 0:
                return teaching_html((words.empty_collection.format(name=collection),), (), words)
            titles = self.parts.titles(collection)
        except FathomError as error:
            return teaching_html((str(error),), (), words)
        titles = sorted(titles, key=lambda title: language_of(title) != words.language)[:EXAMPLES]
        taught = words.teach if self.parts.engines.writes() else (*words.teach, words.teach_quotes)
        return teaching_html(taught, [text for title in titles if (text := _example(title))], words)

    def keys(self, collection: str, words: Words) -> str:
        try:
            return keys_html(self.parts.keys(collection) if collection else (), words)
        except FathomError as error:
            _log.warning("the keys of '%s' cannot be read: %s", collection, error)
            return keys_html((), words)

    def sources(self, turns: Sequence[Turn], words: Words, shown: int | None = None) -> str:
        recent = list(turns[-TURNS_WITH_SOURCES:])
        older = [turn for turn in turns[:-TURNS_WITH_SOURCES] if turn.id == shown]
        return sources_html([*older, *recent], words, shown)

    def listing(self, tab: Tab, chat: str, words: Words) -> str:
        """The list of conversations, `chat` being the open one."""
        tab.list = chats_html(self.kept.newest(), chat, self.answers.running, words)
        return tab.list

    def trouble(self, words: Words) -> str:
        word = self.kept.problem
        if not word:
            return ""
        reason = words.unsaved_reasons.get(word, word).format(file=self.kept.path)
        return trouble_html(words.unsaved.format(reason=reason))

    def engine_label(self, name: str, words: Words) -> str:
        choice = self.parts.engines.choice(name)
        assert choice is not None
        title = plain(choice.title or choice.name, 60)
        return title if choice.engine is not None else words.engine_missing.format(title=title)

    def status(self, engine: str, words: Words) -> str:
        status = self.parts.engines.status_of(engine)
        choice = self.parts.engines.choice(engine)
        title = (choice.title or choice.name) if choice else ""
        text = {
            "idle": words.engine_idle.format(model=title),
            "loading": words.engine_preparing if status.detail else words.engine_loading,
            "ready": words.engine_ready.format(model=status.detail),
            "failed": words.engine_failed.format(reason=status.detail),
        }[status.state]
        return status_html(status.state, text)


def signature(chat: str, turns: Sequence[Turn]) -> tuple[Any, ...]:
    """Tells whether a conversation on the screen is still all there is."""
    return (chat, *((turn.id, turn.state) for turn in turns))


def words_of(request: gr.Request) -> Words:
    """The words of the language that the tab's browser asks for."""
    return words_for(request.headers.get("accept-language", ""))


def _example(title: str) -> str:
    """A question about one document, in the language of its title."""
    title = " ".join(plain(title, 60).split())
    chinese = any("\u4e00" <= letter <= "\u9fff" for letter in title)
    return (CHINESE if chinese else ENGLISH).about.format(title=title) if title else ""
