"""One question to a running chat, as a program asks it (the API) or as a browser does (the page's own queue) → when the
first word of its answer arrived, and when the last.

The page's events have no public names. They are found as the browser finds them, in the configuration it is sent: the
one that submitting the box `#question` starts, with what every other component shows when the page opens.
"""

import json
import queue
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from eval.speed.asking import Ask, Asked
from retrieval.errors import FathomError

if TYPE_CHECKING:
    import httpx

SECONDS = 120.0


def client_of(url: str) -> "httpx.Client":
    """Connections for many threads. No proxy of the environment stands between this machine and itself."""
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    return httpx.Client(base_url=url, trust_env=False, timeout=SECONDS, limits=limits)


def through_api(client: "httpx.Client", collection: str) -> Ask:
    """Streamed chat completions. A stop in the middle is not looked at: questions here are short."""

    def ask(question: str, stop: threading.Event) -> Asked:
        body = {
            "model": f"fathom/{collection}",
            "messages": [{"role": "user", "content": question}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began = time.perf_counter()
        first: float | None = None
        counts: Mapping[str, Any] = {}
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                raise FathomError(f"the API answered {response.status_code}: {response.read().decode()[:300]}")
            for event in _events(response):
                if "error" in event:
                    raise FathomError(f"the API answered with an error: {str(event['error'])[:300]}")
                for choice in event.get("choices", ()):
                    if first is None and choice["delta"].get("content"):
                        first = time.perf_counter() - began
                counts = event.get("usage") or counts
        return _asked(first, time.perf_counter() - began, counts)

    return ask


class Tabs:
    """The page's tabs, one for each question. `mark` is the word that answers begin with: where it is drawn, the first
    token is on the page. Many threads may ask at once."""

    def __init__(self, client: "httpx.Client", collection: str, mark: str) -> None:
        self._client = client
        self._collection = collection
        self._mark = mark
        self._page: dict[str, Any] = client.get("/config").json()
        self._open: queue.SimpleQueue[str] = queue.SimpleQueue()

    def open(self, count: int) -> None:
        """Open tabs ahead, so that questions which are asked at the same moment do not wait for each other's tabs."""
        for _ in range(count):
            self._open.put(self._opened())

    def _opened(self) -> str:
        session = uuid.uuid4().hex[:11]
        for event in events_of(self._page, None, "load"):
            # What the page shows first, the collections among it: a choice that was not offered is refused.
            said = inputs_of(self._page, event, {})
            if event.get("queue") is False:
                body = _request(event, said, session)
                self._client.post("/gradio_api/run/predict", json=body).raise_for_status()
            else:
                for _ in self._queued(event, said, session):
                    pass
        return session

    def _queued(self, event: Mapping[str, Any], said: list[Any], session: str) -> Iterator[dict[str, Any]]:
        """What the page's queue says of one event, to its end. Raises FathomError where it fails."""
        joined = self._client.post("/gradio_api/queue/join", json=_request(event, said, session))
        if joined.status_code != 200:
            raise FathomError(f"the page answered {joined.status_code}: {joined.text[:300]}")
        ours = joined.json()["event_id"]
        with self._client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as response:
            for told in _events(response):
                if told.get("event_id") != ours:
                    continue
                yield told
                if told["msg"] == "process_completed":
                    if not told.get("success"):
                        raise FathomError(f"the page's answer failed: {str(told.get('output'))[:300]}")
                    return
        raise FathomError("the page's stream ended before the answer did")

    def ask(self, question: str, stop: threading.Event) -> Asked:
        """One question in a tab that is open, or is opened before the clock starts."""
        try:
            session = self._open.get_nowait()
        except queue.Empty:
            session = self._opened()
        (submit,) = events_of(self._page, "question", "submit")
        said = inputs_of(self._page, submit, {"question": question, "collection": self._collection})
        began = time.perf_counter()
        first = None
        for told in self._queued(submit, said, session):
            if first is None and self._mark in json.dumps(told.get("output"), ensure_ascii=False):
                first = time.perf_counter() - began
        return _asked(first, time.perf_counter() - began, {})


def events_of(page: Mapping[str, Any], element: str | None, trigger: str) -> list[dict[str, Any]]:
    """The page's events that start with `trigger` (load, submit) of the component `#element`, or of any."""
    names = {component["id"]: component["props"].get("elem_id") for component in page["components"]}
    return [
        event
        for event in page["dependencies"]
        for target, kind in event["targets"]
        if kind == trigger and (element is None or names.get(target) == element)
    ]


def inputs_of(page: Mapping[str, Any], event: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[Any]:
    """What an event is sent: what was `chosen` for `#elements`, else what the page shows when it opens."""
    shown = {component["id"]: component for component in page["components"]}
    values = []
    for number in event["inputs"]:
        component = shown[number]
        name = component["props"].get("elem_id")
        # A state lives on the server.
        usual = None if component["type"] == "state" else component["props"].get("value")
        values.append(chosen.get(name, usual))
    return values


def _request(event: Mapping[str, Any], data: list[Any], session: str) -> dict[str, Any]:
    return {"data": data, "event_data": None, "fn_index": event["id"], "trigger_id": None, "session_hash": session}


def _events(response: "httpx.Response") -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def _asked(first: float | None, total: float, counts: Mapping[str, Any]) -> Asked:
    if first is None:
        raise FathomError("the answer has no text of the engine: the question was refused, or answered with quotes")
    return Asked(first, total, counts.get("prompt_tokens"), counts.get("completion_tokens"))
