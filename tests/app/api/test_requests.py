"""Bodies as clients send them, right and wrong: what is asked, or which field to mend."""

import json
from typing import Any

import pytest

from app.api.requests import MAX_BODY_BYTES, Asked, BadRequest, read
from retrieval.prompts import Message

ONE: dict[str, Any] = {"model": "fathom/plant", "messages": [{"role": "user", "content": "What is E17?"}]}


def asked(body: Any = None, **more: Any) -> Asked:
    said = json.dumps({**ONE, **more} if body is None else body).encode()
    return read(said, longest_question=100)


def test_the_last_message_is_the_question_and_those_before_it_are_the_history() -> None:
    found = asked(
        messages=[
            {"role": "system", "content": "You are a pirate."},
            {"role": "user", "content": "泵多久换一次油？"},
            {"role": "assistant", "content": "每两年。"},
            {"role": "assistant", "content": None},
            {"role": "tool", "content": "42"},
            {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": "why?"}]},
        ]
    )
    assert found.question == "And\nwhy?"
    assert found.history == (Message("user", "泵多久换一次油？"), Message("assistant", "每两年。"))
    assert (found.stream, found.usage, found.options, found.k) == (False, False, {}, None)


def test_what_the_engine_takes_is_read_and_what_no_server_here_can_do_is_passed_over() -> None:
    found = asked(
        temperature=0.5, top_p=1, seed=7, max_tokens=5, max_completion_tokens=9, n=1, stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
        fathom={"k": 3, "passages": True, "checked": True},
        tools=[{"type": "function"}], logprobs=True, user="me", stop=["x"], presence_penalty=1.0,
    )  # fmt: skip
    assert found.options == {"temperature": 0.5, "top_p": 1, "seed": 7, "max_new_tokens": 9}
    assert found.stream and found.usage and found.k == 3 and found.passages and found.checked


def test_null_is_as_if_it_were_not_there() -> None:
    names = ("temperature", "max_tokens", "stream", "stream_options", "n", "fathom", "seed")
    assert asked(**dict.fromkeys(names)) == asked()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model", None, "model names what answers"),
        ("model", 5, "as text"),
        ("messages", None, "send at least one"),
        ("messages", [], "send at least one"),
        ("messages", "hi", "send at least one"),
        ("messages", ["hi"], r"messages\[0\] is a JSON string"),
        ("messages", [{"role": "user"}], r"messages\[0\]\.content is a JSON null; send text"),
        ("messages", [{"role": "user", "content": 7}], "is a JSON number"),
        ("messages", [{"role": "king", "content": "x"}], 'has the role "king"; roles are system, user'),
        ("messages", [{"content": "x"}], "has the role null"),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}], "a part that is no text"),
        ("messages", [{"role": "user", "content": ["x"]}], "a part that is no text"),
        ("messages", [{"role": "user", "content": " \u200b\n"}], "the question is empty"),
        ("messages", [{"role": "system", "content": "x"}], "the user's question; it is missing"),
        ("messages", [*ONE["messages"], {"role": "assistant", "content": "Well"}], "it is missing"),
        ("messages", [{"role": "user", "content": "长" * 101}], "has 101 characters and may have 100; shorten it"),
        ("temperature", "hot", 'temperature is a number from 0 to 2; "hot" was given'),
        ("temperature", 2.5, "2.5 was given"),
        ("temperature", float("nan"), "NaN was given"),
        ("temperature", True, "true was given"),
        ("max_tokens", 0, "max_tokens is a whole number from 1 to"),
        ("max_tokens", 1.5, "1.5 was given"),
        ("max_completion_tokens", -1, "max_completion_tokens is"),
        ("seed", "x", "seed is a whole number"),
        ("n", 2, "n is 1"),
        ("n", "one", "n is a whole number"),
        ("stream", "yes", "stream is true or false"),
        ("stream_options", [], "stream_options is an object; a JSON list"),
        ("stream_options", {"include_usage": 1}, r"stream_options\.include_usage is true or false"),
        ("fathom", {"k": 0}, r"fathom\.k is a whole number from 1 to"),
        ("fathom", {"kk": 3}, "fathom has no 'kk'; known are k, passages, checked"),
        ("fathom", {"passages": "all"}, r"fathom\.passages is true or false"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_with_the_field(field: str, value: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        asked(**{field: value})
    assert caught.value.status == 400 and str(caught.value.param).startswith(field)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON in UTF-8"),
        (b"{", "not JSON in UTF-8"),
        (b'{"model": "\xff"}', "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON in UTF-8"),
        (b"9" * 5000, "not JSON in UTF-8"),
        (b"[]", "a JSON list; send an object"),
        (b"null", "a JSON null; send an object"),
    ],
)
def test_what_is_no_request_at_all_is_said(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        read(body, longest_question=100)


def test_a_body_beyond_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BadRequest, match="may have 1,048,576") as caught:
        read(b"{" * (MAX_BODY_BYTES + 1), longest_question=100)
    assert caught.value.status == 413


def test_signs_that_hide_or_reorder_text_do_not_reach_the_answer() -> None:
    found = asked(messages=[{"role": "user", "content": "What\u202e is\ud800 E17\u200b?"}])
    assert found.question == "What is\ufffd E17?"
