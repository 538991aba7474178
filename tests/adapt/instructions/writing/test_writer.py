"""An engine writes what is wanted: in order, with its options, and what it fails at is told by request."""

import threading

import pytest
from scripted_llm import ScriptedLLM

from adapt.instructions.writing.writer import EngineWriter, Wanted, written
from retrieval.errors import FathomError, MissingError, UsageError
from retrieval.prompts import Message


def wanted(text: str, temperature: float = 0.0) -> Wanted:
    return Wanted((Message("system", "Be short."), Message("user", text)), temperature, 64, seed=7)


def test_texts_come_in_the_order_of_their_requests_however_many_are_under_way() -> None:
    first = threading.Event()

    def say(text: str) -> str:
        if text == "0":
            assert first.wait(10)  # until the second has been asked: both are under way
        if text == "1":
            first.set()
        return f"re {text}"

    llm = ScriptedLLM(say=say)
    writer = EngineWriter(llm, concurrency=2)
    found = writer.write([wanted(str(n)) for n in range(5)])
    assert [one.text for one in found] == ["re 0", "re 1", "re 2", "re 3", "re 4"]
    assert writer.name == "scripted" and writer.at_once == 2


def test_an_engine_is_asked_with_the_wishes_and_a_seed_only_where_it_has_a_say() -> None:
    llm = ScriptedLLM(say=str.upper)
    EngineWriter(llm).write([wanted("a"), wanted("b", 0.8)])
    assert [options for _, options in llm.asked] == [
        {"temperature": 0.0, "max_tokens": 64},
        {"temperature": 0.8, "max_tokens": 64, "seed": 7},
    ]
    assert [message.content for message in llm.asked[0][0]] == ["Be short.", "a"]


def test_one_request_that_fails_is_told_and_an_engine_that_only_fails_is_given_up() -> None:
    def say(text: str) -> str:
        if text == "long":
            raise UsageError("the prompt is too long")
        return "fine"

    writer = EngineWriter(ScriptedLLM(say=say), give_up_after=3)
    found = writer.write([wanted("long"), wanted("long"), wanted("ok"), wanted("long"), wanted("long")])
    assert [one.finish for one in found] == ["failed", "failed", "unknown", "failed", "failed"]
    assert found[0].error == "the prompt is too long" and found[0].text == ""
    with pytest.raises(FathomError, match="3 times in a row.*too long"):
        writer.write([wanted("long")])
    with pytest.raises(FathomError, match="too long"):
        written(EngineWriter(ScriptedLLM(say=say)), wanted("long"))


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_model_that_is_not_there_ends_everything_at_once(concurrency: int) -> None:
    def say(text: str) -> str:
        raise MissingError("no such model")

    with pytest.raises(MissingError, match="no such model"):
        EngineWriter(ScriptedLLM(say=say), concurrency=concurrency).write([wanted("a"), wanted("b")])
