"""Server-sent events come out the same however the bytes were cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engines.event_stream import MAX_EVENT_BYTES, EventStream, NotAnEvent


def read(*received: bytes) -> list[str]:
    stream = EventStream()
    events = [data for part in received for data in stream.feed(part)]
    return events + list(stream.end())


@given(
    texts=st.lists(st.text(min_size=1, max_size=20), max_size=8),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_events_survive_every_cut(texts: list[str], end: str, cuts: list[int]) -> None:
    sent = [json.dumps(text, ensure_ascii=False).replace("\x85", " ") for text in texts]
    data = "".join(f": ping{end}data: {text}{end}{end}" for text in sent).encode("utf-8", "surrogatepass")
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert read(*(data[a:b] for a, b in zip(places, places[1:], strict=False))) == sent


def test_lines_of_one_event_are_joined_and_other_fields_left_out() -> None:
    assert read(b"event: x\nid: 3\ndata: a\ndata:b\n\nretry: 5\n\ndata: c") == ["a\nb", "c"]


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(NotAnEvent, match="line of more than"):
        read(*[b"data: " + b"x" * 65536] * (MAX_EVENT_BYTES // 65536 + 1))
    with pytest.raises(NotAnEvent, match="event of more than"):
        read(*[b"data: " + b"x" * 65536 + b"\n"] * (MAX_EVENT_BYTES // 65536 + 1))
    with pytest.raises(NotAnEvent, match="not UTF-8"):
        read("data: Zoë\n\n".encode("latin-1"))
