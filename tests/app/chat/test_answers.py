"""Answers written on the server: saved as they grow, followed by anyone, stopped, cut, and never two at once."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.chat.answers import Answers, Live
from app.chat.conversations import Conversations
from app.chat.turns import MAX_ANSWER_CHARACTERS, Asked, Turn
from retrieval.answering import AnswerEvent, Finished, Searched, Token
from retrieval.errors import BusyError, MissingError, UsageError
from retrieval.passages import Answer, Citation, Hit, Passage, Scores, Source

PLANT = Asked("plant", False, 4, ("year>=2020",), "default")


def make_hit(n: int) -> Hit:
    passage = Passage(n, n, 0, 0, 12, None, (), f"passage no {n}.", 4)
    return Hit(n, 1.0, passage, Source(n, f"{n}.txt", "", "txt", "local", {}), Scores())


HITS = (make_hit(1), make_hit(2))
SEARCHED = Searched(("q",), HITS, {"search": 3.0}, 2)
DONE = Finished(
    Answer("Checked [1].", False, (Citation(1, "1.txt", "", None, 0, 7, "passage", "yes", 1),), ("q",), HITS, "m", {})
)


class Scripted:
    """Answers with the given events, waits for `gate` before each pause (None), and remembers how it was asked."""

    def __init__(self, *events: AnswerEvent | None | Exception) -> None:
        self.events = events
        self.gate = threading.Semaphore(0)
        self.asked: list[dict[str, Any]] = []
        self.closed = threading.Event()

    def __call__(self, question: str, *, stop: threading.Event, **options: Any) -> Iterator[AnswerEvent]:
        self.asked.append({"question": question, **options})
        try:
            for event in self.events:
                if event is None:
                    while not self.gate.acquire(timeout=0.01):
                        if stop.is_set():
                            return
                elif isinstance(event, Exception):
                    raise event
                else:
                    yield event
        finally:
            self.closed.set()


def until(true: Callable[[], Any]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.005)
    raise AssertionError("this did not become true within five seconds")


def over(scripted: Scripted, kept: Conversations | None = None, ready: str = "ready") -> tuple[Answers, Conversations]:
    kept = kept or Conversations(None)
    return Answers(scripted, kept, lambda engine: ready), kept


def finished(live: Live) -> Turn:
    until(lambda: live.done)
    return live.turn


def test_an_answer_is_written_and_kept_while_nobody_watches() -> None:
    scripted = Scripted(SEARCHED, Token("Streamed "), DONE)
    answers, kept = over(scripted)
    turn = finished(answers.start("", "q", PLANT))
    assert kept.turns(turn.chat) == [turn] and (turn.state, turn.text, turn.given) == ("done", "Checked [1].", 2)
    assert set(turn.clock) == {"searched", "first", "total"}
    assert answers.live(turn.chat) is None and answers.running == frozenset()
    (asked,) = scripted.asked
    assert asked["collection"] == "plant" and asked["k"] == 4 and asked["quote"] is False
    assert [(f.key, f.operator, f.value) for f in asked["filters"]] == [("year", ">=", 2020)]


def test_the_question_is_kept_before_anything_is_found_and_text_within_a_second() -> None:
    scripted = Scripted(None, SEARCHED, Token("half an "), None, Token("answer"), None)
    answers, kept = over(scripted)
    live = answers.start("", "q", Asked())
    assert [turn.state for turn in kept.turns(live.turn.chat)] == ["running"]
    scripted.gate.release()
    until(lambda: live.turn.text)
    time.sleep(1.05)
    scripted.gate.release()
    until(lambda: live.turn.text == "half an answer")
    assert kept.turns(live.turn.chat)[0].text == "half an answer"
    answers.close()


def test_a_second_question_while_one_is_answered_is_refused_and_nothing_of_it_is_kept() -> None:
    scripted = Scripted(SEARCHED, None, DONE)
    answers, kept = over(scripted)
    live = answers.start("", "one", Asked())
    with pytest.raises(BusyError):
        answers.start(live.turn.chat, "two", Asked())
    other = answers.start("", "another conversation", Asked())
    assert answers.running == {live.turn.chat, other.turn.chat}
    scripted.gate.release(2)
    finished(live), finished(other)
    assert [turn.question for turn in kept.turns(live.turn.chat)] == ["one"]


def test_many_tabs_ask_one_conversation_at_once_and_one_of_them_is_answered() -> None:
    scripted = Scripted(SEARCHED, None, DONE)
    answers, kept = over(scripted)
    first = finished_first(answers, scripted)
    results: list[str] = []

    def ask(n: int) -> None:
        try:
            answers.start(first.chat, f"question {n}", Asked())
            results.append("begun")
        except BusyError:
            results.append("busy")

    threads = [threading.Thread(target=ask, args=[n]) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["begun"] + ["busy"] * 11
    answers.close()


def finished_first(answers: Answers, scripted: Scripted) -> Turn:
    live = answers.start("", "first", Asked())
    scripted.gate.release()
    return finished(live)


def test_stop_keeps_what_was_written() -> None:
    scripted = Scripted(SEARCHED, Token("half"), None, DONE)
    answers, kept = over(scripted)
    live = answers.start("", "q", Asked())
    until(lambda: live.turn.text)
    answers.stop(live.turn.chat)
    turn = finished(live)
    assert (turn.state, turn.text, turn.notes[-1].word) == ("stopped", "half", "stopped")
    assert kept.turns(turn.chat) == [turn] and scripted.closed.wait(2)
    answers.stop("no such conversation")


def test_the_end_of_the_server_cuts_an_answer_and_keeps_it(tmp_path: Path) -> None:
    scripted = Scripted(SEARCHED, Token("half"), None, DONE)
    kept = Conversations(tmp_path / "chats.sqlite")
    answers, _ = over(scripted, kept)
    live = answers.start("", "q", Asked())
    until(lambda: live.turn.text)
    answers.close()
    assert (live.turn.state, live.turn.text) == ("cut", "half")
    with pytest.raises(BusyError):
        answers.start("", "too late", Asked())
    kept.close()
    again = Conversations(tmp_path / "chats.sqlite")
    assert again.turns(live.turn.chat)[0].state == "cut"
    again.close()


@pytest.mark.parametrize(
    ("error", "word", "text"),
    [
        (MissingError("there is no model; put one there"), "", "there is no model; put one there"),
        (OSError(5), "unexpected", ""),
    ],
)
def test_an_error_ends_the_turn_with_a_sentence_and_its_sources(error: Exception, word: str, text: str) -> None:
    answers, kept = over(Scripted(SEARCHED, Token("half"), error))
    turn = finished(answers.start("", "q", Asked()))
    assert (turn.state, turn.text, turn.hits) == ("failed", "half", HITS)
    assert (turn.notes[-1].word, turn.notes[-1].text) == (word, text)
    assert kept.turns(turn.chat) == [turn]


def test_a_bad_filter_asks_nothing_and_keeps_nothing() -> None:
    answers, kept = over(Scripted(DONE))
    with pytest.raises(UsageError, match="year"):
        answers.start("", "q", Asked(filters=("year",)))
    assert kept.newest() == []


def test_an_edited_question_takes_the_place_of_what_came_after_once_it_has_begun() -> None:
    scripted = Scripted(None, SEARCHED, DONE)
    answers, kept = over(scripted)
    turns = [finished_first(answers, scripted)]
    for question in ("two", "three"):
        live = answers.start(turns[0].chat, question, Asked())
        scripted.gate.release()
        turns.append(finished(live))
    live = answers.start(turns[0].chat, "two, better", Asked(), replaces=turns[1].id)
    time.sleep(0.05)
    assert [turn.question for turn in kept.turns(turns[0].chat)] == ["first", "two", "three", "two, better"]
    scripted.gate.release()
    finished(live)
    assert [turn.question for turn in kept.turns(turns[0].chat)] == ["first", "two, better"]
    assert [m.text for m in scripted.asked[-1]["history"]] == ["first", "Checked [1]."], "what is replaced is not told"


def test_an_edited_question_that_cannot_be_searched_takes_nothing_away() -> None:
    scripted = Scripted(SEARCHED, DONE)
    answers, kept = over(scripted)
    first = finished(answers.start("", "one", Asked()))
    scripted.events = (MissingError("the collection is gone"),)
    finished(answers.start(first.chat, "one, better", Asked(), replaces=first.id))
    assert [(turn.question, turn.state) for turn in kept.turns(first.chat)] == [
        ("one", "done"),
        ("one, better", "failed"),
    ]


def test_an_answer_without_end_is_cut_and_stopped() -> None:
    closed = threading.Event()

    def endless(question: str, **_: Any) -> Iterator[AnswerEvent]:
        try:
            yield SEARCHED
            while True:
                yield Token("word " * 500)
        finally:
            closed.set()

    answers, _ = over(endless)  # type: ignore[arg-type]
    turn = finished(answers.start("", "q", Asked()))
    assert len(turn.text) == MAX_ANSWER_CHARACTERS and turn.notes[-1].word == "too_long" and closed.wait(2)


@pytest.mark.parametrize(
    ("state", "word"),
    [("loading", "quoted_meanwhile"), ("idle", "quoted_meanwhile"), ("failed", "quoted_instead"), ("ready", None)],
)
def test_without_a_model_quotes_are_asked_for_and_said(state: str, word: str | None) -> None:
    scripted = Scripted(SEARCHED, DONE)
    answers, _ = over(scripted, ready=state)
    turn = finished(answers.start("", "q", Asked()))
    assert scripted.asked[0]["quote"] is (word is not None)
    assert [note.word for note in turn.notes] == ([word] if word else [])
    quoted = finished(answers.start("", "q", Asked(quote=True)))
    assert scripted.asked[1]["quote"] is True and quoted.notes == ()


def test_two_readers_follow_one_answer_to_its_end() -> None:
    scripted = Scripted(SEARCHED, Token("one "), None, Token("two "), None, DONE)
    answers, _ = over(scripted)

    async def read(live: Live) -> list[str]:
        seen, version = [], -1
        while not live.done:
            version = await live.changed(version, 5.0)
            seen.append(live.turn.text)
        return seen

    async def both() -> list[list[str]]:
        live = answers.start("", "q", Asked())
        readers = [asyncio.create_task(read(live)) for _ in range(2)]
        for _ in range(2):
            await asyncio.sleep(0.1)
            scripted.gate.release()
        return await asyncio.gather(*readers)

    for seen in asyncio.run(both()):
        assert seen[-1] == "Checked [1]." and "one " in seen and "one two " in seen


def test_a_nudge_wakes_a_reader_though_nothing_is_new() -> None:
    live = Live(Turn(1, "c", "q", Asked(), 0.0))

    async def read() -> float:
        began = time.monotonic()
        asyncio.get_running_loop().call_later(0.05, live.nudge)
        assert await live.changed(0, 30.0) == 0
        return time.monotonic() - began

    assert asyncio.run(read()) < 10
