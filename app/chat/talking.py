"""What the chat page does: every event of a tab → new values for its fields. It knows nothing of layout.

Answers are written by answers.py, whoever watches; an event here starts one, or shows one and follows it. Every string
that reaches the browser goes through render.py; an error becomes a sentence on the page.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import gradio as gr

from app.chat.answers import Answers, Live
from app.chat.conversations import Conversations
from app.chat.parts import Parts
from app.chat.render import plain
from app.chat.showing import Screen, signature, words_of
from app.chat.surroundings import chips_html, editing_html, help_html, notice_html
from app.chat.turns import Turn
from app.chat.views import (
    MAX_FILTER_CHARACTERS,
    MAX_FILTERS,
    Form,
    View,
    conditions_of,
    idle_box,
    known_id,
    mode_of,
    number,
)
from retrieval.errors import BusyError, FathomError
from retrieval.filters import parse_filter

_log = logging.getLogger(__name__)

MAX_QUESTION_CHARACTERS = 4000
TWICE_SECONDS = 2.0
"""The same question again within this time is a key that was pressed twice."""

Row = tuple[Any, ...]


class Chat:
    """The page's behaviour, apart from its layout. One instance serves all tabs."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.kept = Conversations(parts.chats)
        self.answers = Answers(parts.answer, self.kept, lambda name: parts.engines.status_of(name).state)
        self._screen = Screen(parts, self.kept, self.answers)

    def close(self) -> None:
        """End every answer, keeping what was written; for the end of the process."""
        self.answers.close()
        self.kept.close()

    # -- events ----------------------------------------------------------------------------------------------------

    async def opened(self, request: gr.Request) -> AsyncIterator[Row]:
        """A page was loaded: the conversation that its address names, or an empty one."""
        words = words_of(request)
        choices = [
            (self._screen.engine_label(choice.name, words), choice.name) for choice in self.parts.engines.choices
        ]
        engine = gr.update(choices=choices, value=self.parts.engines.default, visible=len(choices) > 1)
        view = View(engine=engine, trouble=self._screen.trouble(words))
        chat = known_id(request.query_params.get("chat", ""))
        async for row in self._safely(self._open(chat, request, view, fresh=True), request):
            yield row

    async def ask(self, request: gr.Request, *values: Any) -> AsyncIterator[Row]:
        """The question in the box was sent."""
        form = Form.of(values)
        async for row in self._safely(self._ask(form, form.question, form.editing, request), request):
            yield row

    async def act(self, request: gr.Request, command: str, *values: Any) -> AsyncIterator[Row]:
        """A button inside the page's own HTML was pressed; `command` is a JSON object with `do`."""
        async for row in self._safely(self._act(_command(command), Form.of(values), request), request):
            yield row

    async def chosen(self, request: gr.Request, *values: Any) -> AsyncIterator[Row]:
        """Another collection, way of answering or number of passages was chosen."""
        async for row in self._safely(self._chosen(Form.of(values), request), request):
            yield row

    async def engine_chosen(self, request: gr.Request, *values: Any) -> AsyncIterator[Row]:
        """Another model was chosen; it answers as is best for it, until a person says otherwise."""
        async for row in self._safely(self._chosen(Form.of(values), request, another=True), request):
            yield row

    async def filtered(self, request: gr.Request, condition: str, *values: Any) -> AsyncIterator[Row]:
        """A filter was written."""
        async for row in self._safely(self._filtered(str(condition or ""), Form.of(values), request), request):
            yield row

    def stop(self, chat: str) -> None:
        """End the answer of the conversation that is open."""
        self.answers.stop(known_id(chat))

    def left(self, request: gr.Request) -> None:
        """A tab was closed. Its answer goes on."""
        self._screen.forget(request)

    def status(self, engine: str, request: gr.Request) -> tuple[str, Any]:
        """The status line, and whether to ask again."""
        state = self.parts.engines.status_of(str(engine or "")).state
        return self._screen.status(str(engine or ""), words_of(request)), gr.update(active=state == "loading")

    def help(self, request: gr.Request) -> str:
        """The list of keys."""
        return help_html(words_of(request))

    async def _safely(self, views: AsyncIterator[View], request: gr.Request) -> AsyncIterator[Row]:
        try:
            async with contextlib.aclosing(views) as closing:  # type: ignore[type-var]
                async for view in closing:
                    yield view.row()
        except FathomError as error:
            yield View(notice=notice_html(str(error))).row()
        except Exception as error:
            _log.exception("an event of the page failed")
            yield View(notice=notice_html(words_of(request).failed.format(kind=type(error).__name__))).row()

    # -- asking ----------------------------------------------------------------------------------------------------

    async def _ask(
        self, form: Form, question: str, replaces: int | None, request: gr.Request, keep_box: bool = False
    ) -> AsyncIterator[View]:
        words = words_of(request)
        if not question:
            yield View()
            return
        if len(question) > MAX_QUESTION_CHARACTERS:
            sentence = words.question_too_long.format(n=f"{len(question):,}", limit=f"{MAX_QUESTION_CHARACTERS:,}")
            yield View(notice=notice_html(sentence))
            return
        if not form.asked.collection:
            yield View(notice=notice_html(words.no_collections))
            return
        running = self.answers.live(form.chat)
        if running is not None and _twice(running, question):
            yield View()
            return
        problem = self.kept.problem
        self.parts.engines.start(form.asked.engine)
        try:
            live = await asyncio.to_thread(self.answers.start, form.chat, question, form.asked, replaces)
        except BusyError:
            async for view in self._screen.follow(form.chat, request, View(notice=notice_html(words.busy))):
                yield view
            return
        begun = View(editing="", notice="", opened=live.turn.chat)
        if self.kept.problem != problem:
            begun.trouble = self._screen.trouble(words)
        begun.status, begun.timer = self.status(form.asked.engine, request)
        async for view in self._screen.follow(live.turn.chat, request, begun, keep_box=keep_box):
            yield view

    # -- opening ---------------------------------------------------------------------------------------------------

    async def _open(
        self, chat: str, request: gr.Request, view: View, *, fresh: bool = False, form: Form | None = None
    ) -> AsyncIterator[View]:
        """Show a conversation with its settings; `chat` empty shows a new one, with those of the page."""
        words = words_of(request)
        names = list(await asyncio.to_thread(self.parts.collections))
        found = await asyncio.to_thread(self.kept.conversation, chat) if chat else None
        if chat and found is None:
            view.notice = notice_html(words.gone)
        elif view.notice == gr.skip():
            view.notice = ""
        asked = found.asked if found else form.asked if form else self._screen.asked_at_first()
        collection = asked.collection if asked.collection in names else names[0] if names else ""
        view.opened, view.editing, view.condition = found.id if found else "", "", ""
        if fresh or found:
            view.picker = gr.update(choices=names, value=collection or None, visible=bool(names))
            self._screen.settings(view, replace(asked, collection=collection), words, keep_engine=not found)
        else:
            view.picker = gr.update(choices=names, value=collection or None, visible=bool(names))
        view.keys = await asyncio.to_thread(self._screen.keys, collection, words)
        view.box = idle_box(words) if fresh else idle_box(words, value="")
        if found is None or not await asyncio.to_thread(self.kept.turns, found.id):
            view.past = await asyncio.to_thread(self._screen.empty, collection, words)
        view.status, view.timer = self.status(asked.engine, request)
        async for shown in self._screen.follow(found.id if found else "", request, view):
            yield shown

    # -- commands --------------------------------------------------------------------------------------------------

    async def _act(self, command: dict[str, Any], form: Form, request: gr.Request) -> AsyncIterator[View]:
        do, chat, turn = command.get("do"), known_id(command.get("chat")), number(command.get("turn"))
        views: AsyncIterator[View]
        if do == "open":
            views = self._open(chat, request, View())
        elif do == "new":
            views = self._open("", request, View(), form=form)
        elif do == "rename":
            await asyncio.to_thread(self.kept.rename, chat, plain(str(command.get("text", ""))))
            views = self._relist(form, request)
        elif do == "delete":
            views = self._delete(chat, form, request)
        elif do == "ask":
            views = self._ask(form, plain(str(command.get("text", ""))).strip(), None, request)
        elif do == "regenerate" and turn is not None:
            views = self._again(turn, form, request)
        elif do == "edit":
            views = self._edit(turn, form, request)
        elif do == "cancel":
            views = _one(View(box="", editing="", notice=""))
        elif do == "sources" and turn is not None:
            views = self._show_sources(turn, form, request)
        elif do == "look":
            views = self._look(form, request)
        elif do == "unfilter":
            views = self._unfilter(number(command.get("n")), form, request)
        else:
            views = _one(View())
        async with contextlib.aclosing(views) as closing:  # type: ignore[type-var]
            async for view in closing:
                yield view

    async def _relist(self, form: Form, request: gr.Request) -> AsyncIterator[View]:
        words, tab = words_of(request), self._screen.tab(request)
        yield View(
            chats=await asyncio.to_thread(self._screen.listing, tab, form.chat, words),
            trouble=self._screen.trouble(words),
        )

    async def _delete(self, chat: str, form: Form, request: gr.Request) -> AsyncIterator[View]:
        self.answers.stop(chat)
        await asyncio.to_thread(self.kept.delete, chat)
        if chat and chat == form.chat:
            views = self._open("", request, View(trouble=self._screen.trouble(words_of(request))), form=form)
        else:
            views = self._relist(form, request)
        async for view in views:
            yield view

    async def _again(self, wanted: int, form: Form, request: gr.Request) -> AsyncIterator[View]:
        """Answer a question anew, with the settings that are chosen now."""
        turn = await self._turn(form.chat, wanted)
        if turn is None:
            yield View(notice=notice_html(words_of(request).gone))
            return
        async for view in self._ask(form, turn.question, turn.id, request, keep_box=True):
            yield view

    async def _edit(self, wanted: int | None, form: Form, request: gr.Request) -> AsyncIterator[View]:
        turn = await self._turn(form.chat, wanted)
        words = words_of(request)
        if turn is None:
            yield View()
        elif self.answers.live(form.chat) is not None:
            yield View(notice=notice_html(words.busy))
        else:
            yield View(box=turn.question, editing=str(turn.id), notice=editing_html(words))

    async def _turn(self, chat: str, wanted: int | None) -> Turn | None:
        turns = await asyncio.to_thread(self.kept.turns, chat) if chat else []
        return next((turn for turn in turns if turn.id == wanted), None)

    async def _show_sources(self, wanted: int, form: Form, request: gr.Request) -> AsyncIterator[View]:
        """The panel with the sources of an older turn in it."""
        turns = await asyncio.to_thread(self.kept.turns, form.chat) if form.chat else []
        yield View(sources=self._screen.sources(turns, words_of(request), shown=wanted))

    async def _look(self, form: Form, request: gr.Request) -> AsyncIterator[View]:
        """The tab came back into view: show what other tabs have done to its conversation, and to the list.

        An answer under way is followed anew: the event that did so may speak into a connection that was lost.
        """
        words, tab = words_of(request), self._screen.tab(request)
        turns = await asyncio.to_thread(self.kept.turns, form.chat) if form.chat else []
        gone = form.chat and await asyncio.to_thread(self.kept.conversation, form.chat) is None
        if gone:
            views = self._open(form.chat, request, View(), form=form)
        elif form.chat and (signature(form.chat, turns) != tab.shown or self.answers.live(form.chat) is not None):
            views = self._screen.follow(form.chat, request, View(box=idle_box(words)))
        else:
            before = tab.list
            listed = await asyncio.to_thread(self._screen.listing, tab, form.chat, words)
            views = _one(View(chats=listed) if listed != before else View())
        async for view in views:
            yield view

    # -- settings --------------------------------------------------------------------------------------------------

    async def _chosen(self, form: Form, request: gr.Request, *, another: bool = False) -> AsyncIterator[View]:
        words = words_of(request)
        view = View(notice="")
        choice = self.parts.engines.choice(form.asked.engine)
        if choice is not None and choice.engine is None:
            sentence = words.engine_missing_now.format(title=choice.title or choice.name, missing=choice.missing)
            view.notice, view.engine = notice_html(sentence), self.parts.engines.default
            form = replace(form, asked=replace(form.asked, engine=self.parts.engines.default))
        if another:
            quote = not self.parts.engines.writes(form.asked.engine)
            view.mode, form = mode_of(quote), replace(form, asked=replace(form.asked, quote=quote))
        self.parts.engines.start(form.asked.engine)
        view.status, view.timer = self.status(form.asked.engine, request)
        view.keys = await asyncio.to_thread(self._screen.keys, form.asked.collection, words)
        if form.chat:
            await asyncio.to_thread(self.kept.remember, form.chat, form.asked)
        else:
            view.past = await asyncio.to_thread(self._screen.empty, form.asked.collection, words)
        yield view

    async def _filtered(self, condition: str, form: Form, request: gr.Request) -> AsyncIterator[View]:
        condition = " ".join(plain(condition).split())[:MAX_FILTER_CHARACTERS]
        filters = form.asked.filters
        if condition:
            parse_filter(condition)  # raises what is said under the field
            filters = tuple(dict.fromkeys([*filters, condition]))[:MAX_FILTERS]
        async for view in self._with_filters(filters, form, request):
            yield view

    async def _unfilter(self, n: int | None, form: Form, request: gr.Request) -> AsyncIterator[View]:
        filters = tuple(text for position, text in enumerate(form.asked.filters) if position != n)
        async for view in self._with_filters(filters, form, request):
            yield view

    async def _with_filters(self, filters: tuple[str, ...], form: Form, request: gr.Request) -> AsyncIterator[View]:
        if form.chat:
            await asyncio.to_thread(self.kept.remember, form.chat, replace(form.asked, filters=filters))
        text = "\n".join(filters)
        assert conditions_of(text) == filters
        yield View(condition="", conditions=text, chips=chips_html(filters, words_of(request)), notice="")


async def _one(view: View) -> AsyncIterator[View]:
    yield view


def _twice(live: Live, question: str) -> bool:
    return live.turn.question == question and time.time() - live.turn.began < TWICE_SECONDS


def _command(text: str) -> dict[str, Any]:
    try:
        found = json.loads(str(text or "")[:20_000])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
