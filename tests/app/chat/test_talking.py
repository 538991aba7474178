"""What the page does with answering events, without a browser: messages, notes, history, limits."""

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from app.chat.engine import BackgroundEngine
from app.chat.render import MAX_ANSWER_CHARACTERS
from app.chat.talking import MAX_QUESTION_CHARACTERS, Chat, Conversation, Parts
from retrieval.answering import AnswerEvent, Finished, Searched, Token
from retrieval.errors import MissingError
from retrieval.passages import Answer, Citation, Hit, Passage, Scores, Source

TAB = SimpleNamespace(headers={"accept-language": "en"}, session_hash="tab")


def make_hit(n: int) -> Hit:
    passage = Passage(n, n, 0, 0, 12, None, (), f"passage no {n}.", 4)
    return Hit(n, 1.0, passage, Source(n, f"{n}.txt", "", "txt", "local", {}), Scores())


def supported(n: int, verdict: Any) -> Citation:
    return Citation(n, f"{n}.txt", "", None, 0, 7, "passage", verdict, n)


class Scripted:
    """Answers with the given events and remembers how it was asked."""

    def __init__(self, *events: AnswerEvent) -> None:
        self.events = events
        self.asked: list[dict[str, Any]] = []

    def __call__(self, question: str, **options: Any) -> Iterator[AnswerEvent]:
        self.asked.append({"question": question, **options})
        yield from self.events


def engine(state: str = "ready") -> BackgroundEngine:
    hold = threading.Event()

    def load() -> tuple[object, str]:
        if state == "failed":
            raise MissingError("there is no model; put one there")
        if state == "loading":
            hold.wait(60)
        return object(), "scripted"

    made = BackgroundEngine(load)
    made.start()
    for _ in range(500):
        if state == "loading" or made.status.state != "loading":
            break
        threading.Event().wait(0.01)
    assert made.status.state == state
    return made


def chat_over(answering: Any, state: str = "ready") -> Chat:
    return Chat(
        Parts(
            collections=lambda: ["default"],
            titles=lambda name: ["A title", "标题", " "],
            answer=answering,
            engine=engine(state),
            default_k=8,
        )
    )


def ask(
    chat: Chat, question: str, *, collection: str | None = "default", mode: str = "answer", talk: Any = None, k: int = 8
) -> tuple[str, Conversation, str]:
    """(last shown message, conversation after it, last sources)."""

    async def run() -> tuple[str, Conversation, str]:
        shown, after, found = "", talk or Conversation(), ""
        async for messages, sources, _, state in chat.ask(question, collection, mode, k, after, TAB):  # type: ignore[arg-type]
            shown = messages[-1]["content"] if isinstance(messages, list) else shown
            found = sources if isinstance(sources, str) else found
            after = state if isinstance(state, Conversation) else after
        return shown, after, found

    return asyncio.run(run())


HITS = (make_hit(1), make_hit(2))
SEARCHED = Searched(("q",), HITS, {"search": 3.0})


def finished(
    text: str, *citations: Citation, refused: bool = False, model: str = "scripted", **timings: float
) -> Finished:
    return Finished(Answer(text, refused, citations, ("q",), HITS, model, timings))


def test_the_checked_answer_replaces_what_was_streamed() -> None:
    done = finished("Checked [1].", supported(1, "yes"), tokens_per_second=91.6)
    shown, _, sources = ask(chat_over(Scripted(SEARCHED, Token("Streamed "), Token("[2]."), done)), "q")
    assert "Checked" in shown and "Streamed" not in shown and "92 tokens/s" in shown
    assert "<mark>passage</mark>" in sources and "2 found · 1 cited" in sources


def test_verdicts_that_differ_are_shown_as_partly() -> None:
    done = finished("A [1]. B [1].", supported(1, "yes"), supported(1, "no"))
    shown, _, _ = ask(chat_over(Scripted(SEARCHED, done)), "q")
    assert shown.count('class="cite partly"') == 2 and "marked in red" not in shown


def test_an_unsupported_citation_is_said_under_the_answer() -> None:
    shown, _, _ = ask(chat_over(Scripted(SEARCHED, finished("A [2].", supported(2, "no")))), "q")
    assert 'class="cite no"' in shown and "marked in red" in shown


def test_quotes_that_replace_a_baseless_answer_say_so() -> None:
    done = finished("“passage” [1]", supported(1, "yes"), model="scripted+quote")
    shown, _, _ = ask(chat_over(Scripted(SEARCHED, Token("Nonsense"), done)), "q")
    assert "What the model wrote is not in the passages" in shown and "Nonsense" not in shown


@pytest.mark.parametrize(("state", "said"), [("loading", "still loading"), ("failed", "No language model")])
def test_without_a_model_quotes_are_asked_for(state: str, said: str) -> None:
    answering = Scripted(SEARCHED, finished("“passage” [1]", supported(1, "yes")))
    shown, _, _ = ask(chat_over(answering, state), "q")
    assert answering.asked[0]["quote"] is True and said in shown


def test_quote_mode_asks_for_quotes_without_a_note() -> None:
    answering = Scripted(SEARCHED, finished("“passage” [1]", supported(1, "yes")))
    shown, _, _ = ask(chat_over(answering), "q", mode="quote")
    assert answering.asked[0]["quote"] is True and 'class="note"' not in shown


def test_the_messages_before_go_along_with_a_follow_up() -> None:
    answering = Scripted(SEARCHED, finished("First answer [1].", supported(1, "yes")))
    chat = chat_over(answering)
    _, talk, _ = ask(chat, "first question")
    ask(chat, "and then?", talk=talk)
    assert answering.asked[0]["history"] == []
    assert [(m.role, m.text) for m in answering.asked[1]["history"]] == [
        ("user", "first question"),
        ("assistant", "First answer [1]."),
    ]


def test_an_answer_without_end_is_cut_and_stopped() -> None:
    def endless(question: str, *, stop: threading.Event, **_: Any) -> Iterator[AnswerEvent]:
        yield SEARCHED
        while True:
            yield Token("word " * 500)

    shown, _, _ = ask(chat_over(endless), "q")
    assert f"Cut: the answer grew past {MAX_ANSWER_CHARACTERS} characters" in shown and "Stopped." not in shown


def test_a_question_too_long_or_without_a_collection_asks_nothing() -> None:
    answering = Scripted()
    shown, _, _ = ask(chat_over(answering), "x" * (MAX_QUESTION_CHARACTERS + 1))
    assert "4001 characters; up to 4000" in shown
    shown, _, _ = ask(chat_over(answering), "q", collection=None)
    assert "fathom index sync" in shown
    assert ask(chat_over(answering), " \u200b\n ")[1].count == 0
    assert answering.asked == []


def test_k_is_kept_within_its_limits() -> None:
    answering = Scripted(SEARCHED, finished("A [1].", supported(1, "yes")))
    ask(chat_over(answering), "q", k=10_000)
    assert answering.asked[0]["k"] == 20


def test_a_conversation_of_one_tab_is_not_changed_under_another() -> None:
    start = Conversation()
    _, after, _ = ask(chat_over(Scripted(SEARCHED, finished("A [1].", supported(1, "yes")))), "q", talk=start)
    assert start == Conversation() and after.count == 1 and len(after.messages) == 2


def test_examples_speak_the_language_of_their_title() -> None:
    picker, empty, _, status, _ = chat_over(Scripted()).opened(TAB)  # type: ignore[arg-type]
    assert [item["text"] for item in empty["examples"]] == ["What is “A title” about?", "《标题》讲的是什么？"]
    assert picker["value"] == "default" and "Ready · scripted" in status


def test_a_missing_model_is_named_in_the_status() -> None:
    status, _ = chat_over(Scripted(), "failed").status(TAB)  # type: ignore[arg-type]
    assert "Quotes only: there is no model; put one there" in status
