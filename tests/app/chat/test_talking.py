"""What the page does with its events, without a browser: what is shown, refused, remembered and followed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from app.chat.engine import BackgroundEngine, EngineChoice, Engines
from app.chat.parts import Parts
from app.chat.talking import MAX_QUESTION_CHARACTERS, Chat
from app.chat.views import FIELDS, FORM_FIELDS, Form, conditions_of, known_id, number
from retrieval.answering import AnswerEvent, Finished, Searched, Token
from retrieval.errors import DamagedError, MissingError
from retrieval.passages import Answer, Citation, Hit, Passage, Scores, Source


def make_hit(n: int) -> Hit:
    passage = Passage(n, n, 0, 0, 12, None, (), f"passage no {n}.", 4)
    return Hit(n, 1.0, passage, Source(n, f"{n}.txt", "", "txt", "local", {}), Scores())


HITS = (make_hit(1), make_hit(2))
SEARCHED = Searched(("q",), HITS, {"search": 3.0})


def supported(n: int, verdict: Any) -> Citation:
    return Citation(n, f"{n}.txt", "", None, 0, 7, "passage", verdict, n)


def finished(text: str, *citations: Citation, refused: bool = False, model: str = "scripted") -> Finished:
    return Finished(Answer(text, refused, citations, ("q",), HITS, model, {"tokens_per_second": 91.6}))


class Scripted:
    """Answers with the given events, a little time between them, and remembers how it was asked."""

    def __init__(self, *events: AnswerEvent, seconds: float = 0.0) -> None:
        self.events = events
        self.seconds = seconds
        self.asked: list[dict[str, Any]] = []

    def __call__(self, question: str, **options: Any) -> Iterator[AnswerEvent]:
        self.asked.append({"question": question, **options})
        for event in self.events:
            yield event
            time.sleep(self.seconds)


ANSWER = Scripted(SEARCHED, Token("Streamed [2]."), finished("Checked [1].", supported(1, "yes")))


def ready(name: str = "scripted") -> BackgroundEngine:
    made = BackgroundEngine(lambda: (object(), name))
    made.start()
    while made.status.state != "ready":
        time.sleep(0.005)
    return made


def chat_over(answering: Any, **more: Any) -> Chat:
    parts = Parts(
        collections=lambda: ["default", "second"],
        titles=lambda name: ["A title", "标题", " "],
        answer=answering,
        engines=Engines([EngineChoice("default", "", ready())]),
        default_k=8,
    )
    return Chat(replace(parts, **more))


class Page:
    """A tab: what its fields hold, as the views of its events change them."""

    def __init__(self, chat: Chat, name: str = "tab", language: str = "en", address: str = "") -> None:
        self.chat = chat
        self.request = SimpleNamespace(
            headers={"accept-language": language}, session_hash=name, query_params={"chat": address}
        )
        self.fields: dict[str, Any] = dict.fromkeys(FIELDS, "")
        self.fields |= {"picker": "default", "mode": "answer", "k": 8}
        self.frames: list[dict[str, Any]] = []

    def take(self, row: tuple[Any, ...]) -> None:
        for name, value in zip(FIELDS, row, strict=True):
            if isinstance(value, dict):
                if "value" in value:
                    self.fields[name] = value["value"]
                self.fields[f"{name}."] = {**self.fields.get(f"{name}.", {}), **value}
            else:
                self.fields[name] = value
        self.frames.append(dict(self.fields))

    async def run(self, rows: AsyncIterator[tuple[Any, ...]]) -> None:
        async for row in rows:
            self.take(row)

    def form(self) -> list[Any]:
        return [self.fields[name] for name in FORM_FIELDS]

    def asking(self, question: str) -> Any:
        self.fields["box"] = question
        return self.run(self.chat.ask(self.request, *self.form()))  # type: ignore[arg-type]

    def doing(self, do: str, **more: Any) -> Any:
        return self.run(self.chat.act(self.request, json.dumps({"do": do, **more}), *self.form()))  # type: ignore[arg-type]

    def opening(self) -> Any:
        return self.run(self.chat.opened(self.request))  # type: ignore[arg-type]

    def open(self) -> "Page":
        asyncio.run(self.opening())
        return self

    def ask(self, question: str) -> "Page":
        asyncio.run(self.asking(question))
        return self

    def do(self, do: str, **more: Any) -> "Page":
        asyncio.run(self.doing(do, **more))
        return self

    def choose(self, **fields: Any) -> "Page":
        self.fields |= fields
        event = self.chat.engine_chosen if "engine" in fields else self.chat.chosen
        asyncio.run(self.run(event(self.request, *self.form())))  # type: ignore[arg-type]
        return self

    def filter(self, text: str) -> "Page":
        asyncio.run(self.run(self.chat.filtered(self.request, text, *self.form())))  # type: ignore[arg-type]
        return self

    def turns(self) -> list[int]:
        return [turn.id for turn in self.chat.kept.turns(self.fields["opened"])]


def test_an_empty_page_teaches_and_offers_questions_in_the_language_of_their_titles() -> None:
    page = Page(chat_over(ANSWER)).open()
    assert "Ask your documents" in page.fields["past"]
    assert "What is “A title” about?" in page.fields["past"] and "《标题》讲的是什么？" in page.fields["past"]
    assert page.fields["past"].count('data-do="ask"') == 2
    assert page.fields["picker"] == "default" and "Ready · scripted" in page.fields["status"]
    assert "What you ask is kept here" in page.fields["chats"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"collections": lambda: []}, "There is no collection of documents yet"),
        ({"size": lambda name: 0}, "The collection “default” has no documents yet"),
        ({"titles": None}, "the catalogue is damaged; restore it"),
    ],
)
def test_an_empty_page_says_what_is_missing(parts: dict[str, Any], said: str) -> None:
    def broken(name: str) -> list[str]:
        raise DamagedError("the catalogue is damaged; restore it")

    page = Page(chat_over(ANSWER, **{name: part or broken for name, part in parts.items()})).open()
    assert said in page.fields["past"]


def test_a_question_is_answered_and_its_conversation_listed() -> None:
    page = Page(chat_over(ANSWER)).open().ask("What is it?")
    assert "Checked" in page.fields["past"] and "Streamed" not in page.fields["past"] and page.fields["live"] == ""
    assert "<mark>passage</mark>" in page.fields["sources"] and "2 found · 1 cited" in page.fields["sources"]
    assert f'data-chat="{page.fields["opened"]}"' in page.fields["chats"] and "What is it?" in page.fields["chats"]
    assert page.fields["box"] == "" and page.fields["box."]["submit_btn"] == "Ask"


def test_the_answer_is_watched_as_it_grows() -> None:
    scripted = Scripted(SEARCHED, Token("one "), Token("two "), finished("one two [1]"), seconds=0.15)
    page = Page(chat_over(scripted)).open().ask("q")
    live = [frame["live"] for frame in page.frames]
    assert any("Reading the passages" in text or "Searching" in text for text in live)
    assert any(">one" in text and "two" not in text for text in live)
    assert all(frame["box."]["stop_btn"] == "Stop" for frame in page.frames if "one" in frame["live"])


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (finished("A [1]. B [1].", supported(1, "yes"), supported(1, "no")), 'class="cite partly"'),
        (finished("A [2].", supported(2, "no")), "marked in red"),
        (
            finished("“passage” [1]", supported(1, "yes"), model="m+quote"),
            "What the model wrote is not in the passages",
        ),
        (finished("NO ANSWER", refused=True), "The documents do not answer this."),
    ],
)
def test_what_the_check_found_is_said_under_the_answer(event: Finished, said: str) -> None:
    page = Page(chat_over(Scripted(SEARCHED, Token("Nonsense"), event))).open().ask("q")
    assert (
        said in page.fields["past"] and "Nonsense" not in page.fields["past"] and "NO ANSWER" not in page.fields["past"]
    )


def test_the_messages_before_go_along_with_a_follow_up() -> None:
    scripted = Scripted(SEARCHED, finished("First answer [1].", supported(1, "yes")))
    Page(chat_over(scripted)).open().ask("first question").ask("and then?")
    assert scripted.asked[0]["history"] == []
    said = [(message.role, message.text) for message in scripted.asked[1]["history"]]
    assert said == [("user", "first question"), ("assistant", "First answer [1].")]


def test_a_question_too_long_or_without_a_collection_asks_nothing_and_stays_in_the_box() -> None:
    scripted = Scripted()
    page = Page(chat_over(scripted)).open().ask("x" * 10_000)
    assert "10,000 characters; up to 4,000" in page.fields["notice"] and len(page.fields["box"]) == 10_000
    page = Page(chat_over(scripted, collections=lambda: [])).open()
    page.fields["picker"] = None
    assert "fathom index sync" in page.ask("q").fields["notice"]
    assert Page(chat_over(scripted)).open().ask(" \u200b\n ").fields["opened"] == ""
    assert scripted.asked == [] and MAX_QUESTION_CHARACTERS == 4000


def test_a_reload_in_the_middle_of_an_answer_follows_it_to_its_end() -> None:
    scripted = Scripted(SEARCHED, Token("one "), Token("two "), finished("whole [1]"), seconds=0.3)
    chat = chat_over(scripted)

    again = asyncio.run(reload_story(chat))
    assert any("one" in frame["live"] for frame in again.frames)
    assert "whole" in again.fields["past"] and again.fields["live"] == ""


async def reload_story(chat: Chat) -> Page:
    page = Page(chat)
    await page.opening()
    asking = asyncio.create_task(page.asking("q"))
    while "one" not in page.fields["live"]:
        await asyncio.sleep(0.01)
    asking.cancel()  # the browser is gone
    again = Page(chat, "another", address=page.fields["opened"])
    await again.opening()
    return again


def test_a_second_question_while_one_is_answered_stays_in_the_box() -> None:
    scripted = Scripted(SEARCHED, Token("one "), finished("whole [1]"), seconds=0.3)
    chat = chat_over(scripted)

    async def story() -> tuple[Page, Page]:
        one = Page(chat, "one")
        await one.opening()
        asking = asyncio.create_task(one.asking("q"))
        while not one.fields["opened"]:
            await asyncio.sleep(0.01)
        two = Page(chat, "two", address=one.fields["opened"])
        opening = asyncio.create_task(two.opening())
        while not two.fields["live"]:
            await asyncio.sleep(0.01)
        await two.asking("another")
        await asyncio.gather(asking, opening)
        return one, two

    one, two = asyncio.run(story())
    assert any("still being written" in str(frame["notice"]) for frame in two.frames) and two.fields["box"] == "another"
    for page in (one, two):
        assert "whole" in page.fields["past"] and page.fields["notice"] == ""
    assert len(scripted.asked) == 1


def test_a_tab_that_moves_on_is_not_drawn_into_by_the_answer_it_left() -> None:
    scripted = Scripted(SEARCHED, *[Token(f"word{n} ") for n in range(20)], finished("whole [1]"), seconds=0.05)
    chat = chat_over(scripted)

    async def story() -> tuple[Page, int]:
        page = Page(chat)
        await page.opening()
        asking = asyncio.create_task(page.asking("q"))
        while "word1" not in page.fields["live"]:
            await asyncio.sleep(0.01)
        await page.doing("new")
        frames = len(page.frames)
        await asking
        return page, frames

    page, frames = asyncio.run(story())
    assert "Ask your documents" in page.fields["past"] and page.fields["live"] == "" and page.fields["opened"] == ""
    assert len(page.frames) == frames, "the event that followed has ended before the new one drew"
    chat.close()


def test_a_key_pressed_twice_asks_once() -> None:
    scripted = Scripted(SEARCHED, finished("whole [1]"), seconds=0.2)
    chat = chat_over(scripted)

    async def twice() -> Page:
        page = Page(chat)
        await page.opening()
        first = asyncio.create_task(page.asking("q"))
        while not page.fields["opened"]:
            await asyncio.sleep(0.005)
        await page.asking("q")
        await first
        return page

    page = asyncio.run(twice())
    assert len(scripted.asked) == 1 and page.fields["notice"] == ""


def test_a_conversation_is_opened_with_its_settings() -> None:
    chat = chat_over(ANSWER)
    page = Page(chat).open().choose(picker="second", mode="quote", k=12).filter("year>=2020").ask("q")
    again = Page(chat, "another", address=page.fields["opened"]).open()
    assert [again.fields[name] for name in ("picker", "mode", "k", "conditions")] == [
        "second",
        "quote",
        12,
        "year>=2020",
    ]
    assert "year&gt;=2020" in again.fields["chips"] and "Checked" in again.fields["past"]
    again.choose(k=4)
    assert Page(chat, "third", address=page.fields["opened"]).open().fields["k"] == 4


def test_a_conversation_that_is_not_there_is_said_and_a_new_one_shown() -> None:
    chat = chat_over(ANSWER)
    for address in ("nowhere", "../../etc", "x" * 500, "<script>"):
        page = Page(chat, address=address).open()
        assert page.fields["opened"] == "" and "Ask your documents" in page.fields["past"]
    assert "not there any more" in Page(chat, address="nowhere").open().fields["notice"]


def test_editing_puts_the_question_into_the_box_and_asking_replaces_what_came_after() -> None:
    page = Page(chat_over(ANSWER)).open().ask("one").ask("two").ask("three")
    first, second, _ = page.turns()
    page.do("edit", turn=second)
    assert page.fields["box"] == "two" and page.fields["editing"] == str(second) and "replaced" in page.fields["notice"]
    page.do("cancel")
    assert (page.fields["box"], page.fields["editing"], page.fields["notice"]) == ("", "", "")
    page.do("edit", turn=second).ask("two, better")
    assert page.turns()[0] == first and len(page.turns()) == 2
    assert "two, better" in page.fields["past"] and "three" not in page.fields["past"] and page.fields["editing"] == ""
    assert len(page.chat.kept.versions(page.fields["opened"])) == 4


def test_regenerating_asks_again_with_the_settings_of_now_and_leaves_the_box_alone() -> None:
    scripted = Scripted(SEARCHED, finished("Checked [1].", supported(1, "yes")))
    page = Page(chat_over(scripted)).open().ask("one").choose(k=16)
    page.fields["box"] = "half a thought"
    (turn,) = page.turns()
    page.do("regenerate", turn=turn)
    assert [asked["k"] for asked in scripted.asked] == [8, 16] and scripted.asked[1]["history"] == []
    assert page.fields["box"] == "half a thought" and len(page.turns()) == 1 and page.turns() != [turn]


def test_conversations_are_renamed_and_deleted() -> None:
    chat = chat_over(ANSWER)
    page = Page(chat).open().ask("one")
    page.do("rename", chat=page.fields["opened"], text="My <b>title</b>")
    assert "My &lt;b&gt;title&lt;/b&gt;" in page.fields["chats"]
    other = Page(chat, "another").open().ask("two")
    other.do("delete", chat=page.fields["opened"])
    assert "Checked" in other.fields["past"] and "My &lt;b" not in other.fields["chats"]
    page.do("look")
    assert "not there any more" in page.fields["notice"] and page.fields["opened"] == ""
    other.do("delete", chat=other.fields["opened"])
    assert other.fields["opened"] == "" and "Ask your documents" in other.fields["past"] and chat.kept.newest() == []


def test_looking_shows_what_another_tab_did_and_nothing_where_nothing_happened() -> None:
    chat = chat_over(ANSWER)
    one = Page(chat, "one").open().ask("first")
    two = Page(chat, "two", address=one.fields["opened"]).open().ask("second")
    assert "second" not in one.fields["past"]
    assert "second" in one.do("look").fields["past"]
    before = len(two.frames)
    two.fields["past"] = "untouched"
    assert two.do("look").fields["past"] == "untouched" and len(two.frames) == before + 1


def test_filters_are_chips_and_a_bad_one_is_a_sentence() -> None:
    scripted = Scripted(SEARCHED, finished("A [1]."))
    page = Page(chat_over(scripted, keys=lambda name: ["year", "<b>"])).open()
    assert 'data-do="ui-key">year<' in page.fields["keys"] and "<b>" not in page.fields["keys"]
    page.filter("year >= 2020").filter("document~*.pdf").filter("year >= 2020")
    assert page.fields["conditions"] == "year >= 2020\ndocument~*.pdf" and page.fields["condition"] == ""
    page.filter("nonsense")
    assert "not of the form key=value" in page.fields["notice"] and page.fields["chips"].count('class="chip"') == 2
    page.ask("q")
    assert [(f.key, f.operator, f.value) for f in scripted.asked[0]["filters"]] == [
        ("year", ">=", 2020),
        ("document", "~", "*.pdf"),
    ]
    assert page.do("unfilter", n=0).fields["conditions"] == "document~*.pdf"


def test_a_model_is_picked_and_one_that_is_missing_is_said() -> None:
    engines = Engines(
        [
            EngineChoice("default", "Small", ready()),
            EngineChoice("large", "Large", BackgroundEngine(lambda: (object(), "large-7b"))),
            EngineChoice("gpu", "On the GPU", None, "no GPU was found"),
        ]
    )
    scripted = Scripted(SEARCHED, finished("A [1]."))
    page = Page(chat_over(scripted, engines=engines)).open()
    assert (
        page.fields["engine."]["choices"][2] == ("On the GPU — not available", "gpu")
        and page.fields["engine"] == "default"
    )
    page.choose(engine="gpu")
    assert (
        "On the GPU cannot be used here: no GPU was found" in page.fields["notice"]
        and page.fields["engine"] == "default"
    )
    page.choose(engine="large")
    while engines.status_of("large").state != "ready":
        time.sleep(0.01)
    assert "Ready · large-7b" in page.chat.status("large", page.request)[0]  # type: ignore[arg-type]
    page.ask("q")
    assert scripted.asked[0]["engine"] == "large" and scripted.asked[0]["quote"] is False
    assert engines.status_of("default").state == "idle", "one resident model at a time"


def test_a_model_that_quotes_best_is_asked_to_quote_until_a_person_or_another_model_says_otherwise() -> None:
    scripted = Scripted(SEARCHED, finished("A [1]."))
    large = BackgroundEngine(lambda: (object(), "large-7b"))
    engines = Engines([EngineChoice("small", "", ready(), writes=False), EngineChoice("large", "", large)])
    page = Page(chat_over(scripted, engines=engines)).open()
    assert page.fields["mode"] == "quote" and "Quoting is chosen here" in page.fields["past"]
    page.ask("first")
    page.choose(mode="answer").ask("second")
    page.do("new").ask("third")
    page.choose(engine="small")
    assert page.fields["mode"] == "quote"
    page.ask("fourth")
    page.choose(engine="large")
    assert page.fields["mode"] == "answer"
    assert [asked["quote"] for asked in scripted.asked] == [True, False, False, True]


def test_a_model_that_failed_is_named_in_the_status() -> None:
    def load() -> tuple[object, str]:
        raise MissingError("there is no model; put one there")

    failed = BackgroundEngine(load)
    failed.start()
    while failed.status.state != "failed":
        time.sleep(0.005)
    page = Page(chat_over(ANSWER, engines=Engines([EngineChoice("default", "", failed)]))).open()
    assert "Quotes only: there is no model; put one there" in page.fields["status"]


def test_what_cannot_be_saved_is_said_on_the_page(tmp_path: Any) -> None:
    (tmp_path / "chats.sqlite").write_bytes(b"no database" * 1000)
    for language, said in (("en", "is damaged. It is left as it is"), ("zh", "已损坏")):
        page = Page(chat_over(ANSWER, chats=tmp_path / "chats.sqlite"), language=language).open()
        assert said in page.fields["trouble"]
        assert "Checked" in page.ask("q").fields["past"]


def test_an_event_that_fails_is_a_sentence() -> None:
    def broken() -> list[str]:
        raise OSError("secret detail")

    page = Page(chat_over(ANSWER, collections=broken)).open()
    assert "That did not work (OSError)" in page.fields["notice"] and "secret" not in page.fields["notice"]


@pytest.mark.parametrize(
    "command", ["", "{", "[]", '"x"', '{"do": 5}', '{"do": "edit"}', '{"do": "open", "chat": {}}', "null"]
)
def test_a_command_that_nobody_sends_does_nothing(command: str) -> None:
    page = Page(chat_over(ANSWER)).open()
    asyncio.run(page.run(page.chat.act(page.request, command, *page.form())))  # type: ignore[arg-type]
    assert "Ask your documents" in page.fields["past"] and page.chat.kept.newest() == []


def test_what_a_form_holds_is_not_believed() -> None:
    form = Form.of(["q\u202e", "<x>", "1; DROP", {}, "other", "1e9", "a\n\n b \n" * 20, None])
    assert (form.question, form.chat, form.editing) == ("q", "", None)
    assert form.asked.quote is False and form.asked.k == 1 and len(form.asked.filters) == 8
    assert Form.of(["q", "", "", "c", "quote", 10_000, "", ""]).asked.k == 20
    assert known_id("a-_9") == "a-_9" and known_id("ä") == "" and number("٣") is None and conditions_of(None) == ()
