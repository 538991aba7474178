"""What leaves of a text while it is written, and how it ends once it is checked."""

import json

import pytest

from app.api.replies import Draft, Reply, encoded, event
from app.api.requests import Asked
from retrieval.passages import Answer

ASKED = Asked("fathom/plant", "What is E17?")


def answer(text: str, *, refused: bool = False, model: str = "scripted", **timings: float) -> Answer:
    return Answer(text, refused, (), ("q",), (), model, timings)


def written(pieces: list[str], end: Answer, given: int = 2) -> str:
    draft = Draft(given)
    return "".join([*(draft.feed(piece) for piece in pieces), draft.end(end)])


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("It overheats [1].", "It overheats [1]."),
        ("It overheats [7].", "It overheats."),
        ("It overheats [1, 9] and stops [2].", "It overheats and stops [2]."),
        ("过热【1】，停止【3】。", "过热【1】，停止。"),
        ("In 1999 [see below] it stopped [", "In 1999 [see below] it stopped ["),
        ("Write `a[7]` or\n```\nb[9] = 1\n```\nthen [9]", "Write `a[7]` or\n```\nb[9] = 1\n```\nthen"),
    ],
)
def test_a_number_without_a_passage_never_leaves_however_the_text_is_cut(text: str, sent: str) -> None:
    for size in (1, 2, 3, 5, len(text)):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        assert written(pieces, answer("something else [1].")) == sent


def test_what_was_written_is_followed_by_what_replaces_it() -> None:
    assert written(["Bananas."], answer("The motor [1].", model="scripted+quote")) == "Bananas.\n\nThe motor [1]."
    assert written(["Bananas."], answer("Not in the documents.", refused=True)) == "Bananas.\n\nNot in the documents."
    assert written(["```\nx = 1"], answer("The motor [1].", model="a+quote")) == "```\nx = 1\n```\n\nThe motor [1]."
    assert written([], answer("Not in the documents.", refused=True)) == "Not in the documents."
    assert written(["The motor"], answer("The motor [1].")) == "The motor [1]."
    assert written(["The motor overheats."], answer("The motor overheats [1].")) == "The motor overheats."


def test_an_answer_that_used_up_its_tokens_says_so() -> None:
    assert Reply(ASKED, longest=5).finish(answer("a", completion_tokens=5)) == "length"
    assert Reply(ASKED, longest=5).finish(answer("a", completion_tokens=4)) == "stop"
    assert Reply(ASKED, longest=5).finish(answer("a", completion_tokens=5, model="x+quote")) == "stop"
    assert Reply(ASKED).finish(answer("a")) == "stop"
    fewer = Asked("fathom/plant", "?", options={"max_new_tokens": 3})
    assert Reply(fewer, longest=5).finish(answer("a", completion_tokens=3)) == "length"
    more = Asked("fathom/plant", "?", options={"max_new_tokens": 30})
    assert Reply(more, longest=5).finish(answer("a", completion_tokens=5)) == "length"


def test_half_a_character_of_a_file_name_breaks_no_answer() -> None:
    assert json.loads(encoded({"document": "\udce9.txt", "text": "茶"})) == {"document": "?.txt", "text": "茶"}
    assert event({"text": "a\n\ndata: b"}).count(b"\n\n") == 1
