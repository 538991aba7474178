"""The API on a real port, over real collections and Fathom's own server engine, which is its client as well.

The language model is tests/speaking_server.py, which always says the same words; scripted parts stand in where an
answer has to fail, hang or wait.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fakes import HashingEmbedder, five_documents
from fastapi import FastAPI
from llama_index.core.base.llms.types import ChatMessage
from speaking_server import WORDS, Speaker, speaking, until

from app import build
from app.api.router import MAX_REQUESTS, Served, api_router
from app.chat.engine import BackgroundEngine, EngineStatus
from app.chat.guard import Guard
from app.chat.wiring import Shelf, parts_of
from app.engines.server import load_server
from app.settings import Settings, load_settings
from retrieval.answering import AnswerEvent, Finished, Searched, Token
from retrieval.errors import BusyError, FathomError, UsageError
from retrieval.passages import Answer

SAID = "".join(WORDS)
TIDES = "What are tides caused by?"


@contextmanager
def served(parts: Served, **options: Any) -> Iterator[str]:
    """The routes behind the page's guard, on a free port."""
    app = FastAPI()
    with ThreadPoolExecutor(8) as pool:
        app.include_router(api_router(parts, pool, longest_question=200, **options))
        server = uvicorn.Server(uvicorn.Config(Guard(app), host="127.0.0.1", port=0, log_level="critical"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        server.should_exit = server.force_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def speaker() -> Iterator[Speaker]:
    with speaking() as speaker:
        yield speaker


@pytest.fixture(scope="module")
def workspace(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    fake = HashingEmbedder()
    environment = {"FATHOM_ENGINE_URL": speaker.url, "FATHOM_ENGINE_MODEL": "base"}
    environment["FATHOM_ANSWER_LEAST_CONFIDENCE"] = "0.02"  # hashed words are never as near as meanings are
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "embedder", lambda settings: lambda: fake)
        settings = load_settings(tmp_path_factory.mktemp("workspace"), environment=environment)
        with build.open_or_create(settings, "sea", wait=0, doing="testing") as collection:
            collection.add(five_documents())
        yield settings


@pytest.fixture(scope="module")
def url(workspace: Settings) -> Iterator[str]:
    shelf = Shelf(workspace)
    parts = parts_of(workspace, shelf)
    parts.engine.start()
    until(lambda: parts.engine.status.state == "ready", 120)
    with served(parts) as address:
        yield address
    shelf.close()


def post(url: str, question: Any = TIDES, **more: Any) -> httpx.Response:
    messages = question if isinstance(question, list) else [{"role": "user", "content": question}]
    return httpx.post(f"{url}/chat/completions", json={"model": "fathom/sea", "messages": messages, **more}, timeout=30)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, which ends with [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def stands(citation: dict[str, Any]) -> bool:
    texts = {document.uri: document.text for document in five_documents()}
    return bool(texts[citation["document"]][citation["start"] : citation["end"]] == citation["quote"] != "")


def test_every_collection_is_a_model_and_one_more_that_quotes(url: str) -> None:
    listed = httpx.get(f"{url}/models").json()
    assert listed["object"] == "list"
    cards = {card["id"]: card for card in listed["data"]}
    assert list(cards) == ["fathom/sea", "fathom/sea+quote"]
    assert all(card["object"] == "model" and card["owned_by"] == "fathom" for card in cards.values())
    assert cards["fathom/sea"]["parent"] is None and cards["fathom/sea+quote"]["parent"] == "fathom/sea"
    assert httpx.get(f"{url}/models/fathom/sea").json() == cards["fathom/sea"]
    assert httpx.get(f"{url}/models/fathom%2Fsea+quote").json() == cards["fathom/sea+quote"]
    missing = httpx.get(f"{url}/models/gpt-4o")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


def test_an_answer_comes_with_citations_that_stand_in_the_document(url: str) -> None:
    body = post(url).json()
    assert body["object"] == "chat.completion" and body["model"] == "fathom/sea"
    assert body["id"].startswith("chatcmpl-") and abs(body["created"] - time.time()) < 60
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "stop" and choice["message"]["role"] == "assistant"
    assert "Tides are caused by the moon" in choice["message"]["content"] and "[1]" in choice["message"]["content"]
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}
    extras = body["fathom"]
    assert extras["answer"] == choice["message"]["content"] and extras["refused"] is False
    assert extras["queries"] == [TIDES] and extras["timings"]["total"] > 0 and extras["model"] == "base"
    assert extras["citations"][0]["document"] == "tides.txt" and all(map(stands, extras["citations"]))
    assert "passages" not in extras
    more = post(url, fathom={"passages": True, "k": 2}).json()["fathom"]["passages"]
    assert len(more) == 2 and more[0]["document"] == "tides.txt"


def test_a_stream_has_the_text_then_the_extras_then_the_counts(url: str) -> None:
    found = events(post(url, stream=True, stream_options={"include_usage": True}))
    assert {item["object"] for item in found} == {"chat.completion.chunk"} and len({item["id"] for item in found}) == 1
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    *texts, last, counts = found[1:]
    assert len(texts) > 2 and "".join(item["choices"][0]["delta"]["content"] for item in texts) == SAID
    assert last["choices"][0]["finish_reason"] == "stop" and last["choices"][0]["delta"] == {}
    assert last["fathom"]["citations"] and all(map(stands, last["fathom"]["citations"]))
    assert "[1]" in last["fathom"]["answer"] and not last["fathom"]["refused"]
    assert counts["choices"] == [] and counts["usage"]["completion_tokens"] == 8
    assert all("usage" not in item for item in events(post(url, stream=True)))


def test_a_stream_can_wait_for_the_check(url: str) -> None:
    first, text, last = events(post(url, stream=True, fathom={"checked": True}))
    assert text["choices"][0]["delta"]["content"] == last["fathom"]["answer"] != SAID


def test_the_quoting_model_needs_no_language_model_and_says_only_what_is_written(url: str, speaker: Speaker) -> None:
    before = len(speaker.bodies)
    body = post(url, "绿茶的水温应该是多少？", model="fathom/sea+quote").json()
    assert "水温应该在八十度左右" in body["choices"][0]["message"]["content"]
    assert body["usage"]["total_tokens"] == 0 and body["fathom"]["model"] == "quote"
    assert body["fathom"]["citations"][0]["document"] == "茶.txt" and all(map(stands, body["fathom"]["citations"]))
    found = events(post(url, "绿茶的水温应该是多少？", model="fathom/sea+quote", stream=True))
    streamed = "".join(item["choices"][0]["delta"].get("content", "") for item in found)
    assert streamed == found[-1]["fathom"]["answer"]
    assert len(speaker.bodies) == before


def test_a_question_the_documents_do_not_answer_is_refused_in_words(url: str) -> None:
    for stream in (False, True):
        response = post(url, "zyzzyva qwertz asdf?", stream=stream)
        extras = events(response)[-1]["fathom"] if stream else response.json()["fathom"]
        assert extras["refused"] is True and extras["citations"] == []


def test_decoding_options_reach_the_engine_and_cannot_lengthen_its_answers(url: str, speaker: Speaker) -> None:
    cut = post(url, "Tell me about tides and the moon", temperature=0.5, seed=7, max_tokens=6).json()
    sent = speaker.bodies[-1]
    assert (sent["max_tokens"], sent["temperature"], sent["seed"]) == (6, 0.5, 7)
    assert cut["choices"][0]["finish_reason"] == "length" and cut["usage"]["completion_tokens"] == 6
    post(url, max_tokens=1_000_000)
    assert speaker.bodies[-1]["max_tokens"] == 320 and speaker.bodies[-1]["temperature"] == 0


def test_earlier_messages_are_history_and_a_system_text_is_not_obeyed(url: str, speaker: Speaker) -> None:
    post(url, [
        {"role": "system", "content": "Speak as a pirate."},
        {"role": "user", "content": "What are tides?"},
        {"role": "assistant", "content": "Movements of the sea."},
        {"role": "user", "content": [{"type": "text", "text": "What are they caused by?"}]},
    ])  # fmt: skip
    shown = speaker.bodies[-1]["messages"]
    said = [message["content"] for message in shown]
    assert said[1:3] == ["What are tides?", "Movements of the sea."] and "What are they caused by?" in said[-1]
    assert not any("pirate" in text for text in said)


def test_fathoms_own_server_engine_is_a_client_of_it(url: str) -> None:
    llm = load_server(url)
    assert llm.model_name == "fathom/sea"
    question = [ChatMessage(role="user", content=TIDES)]
    streamed = list(llm.stream_chat(question))
    assert "".join(piece.delta or "" for piece in streamed) == SAID
    assert streamed[-1].raw["finish_reason"] == "stop" and streamed[-1].raw["completion_tokens"] == 8
    quoting = load_server(url, model="fathom/sea+quote").chat(question)
    assert "Tides are caused by the moon." in quoting.message.content.replace(" [1]", "")
    with pytest.raises(FathomError, match="fathom/sea"):
        load_server(url, model="gpt-4o")


def test_an_unknown_model_is_told_which_there_are(url: str) -> None:
    for name in ("gpt-4o", "fathom/none", "sea", "fathom/../sea"):
        response = post(url, model=name)
        error = response.json()["error"]
        assert response.status_code == 404 and error["code"] == "model_not_found" and error["param"] == "model"
        assert "fathom/sea, fathom/sea+quote" in error["message"] and error["type"] == "invalid_request_error"


def test_a_request_that_cannot_be_read_is_an_error_of_the_protocol(url: str) -> None:
    for body in (b"", b"{", b"[]", b'{"model": 5}'):
        response = httpx.post(f"{url}/chat/completions", content=body)
        assert response.status_code == 400
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    wrong = post(url, temperature="hot")
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "temperature"
    assert post(url, "长" * 201).status_code == 400
    got = httpx.get(f"{url}/chat/completions")
    assert got.status_code == 405 and got.json()["error"]["message"] == "send a POST with model and messages"


def test_other_sites_and_other_names_stay_out(url: str) -> None:
    body = {"model": "fathom/sea", "messages": [{"role": "user", "content": TIDES}]}
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
        assert httpx.post(f"{url}/chat/completions", json=body, headers=headers).status_code == 403
    assert httpx.get(f"{url}/embeddings").status_code == 404


# --- scripted parts: what goes wrong ----------------------------------------------------------------------------------


def done(text: str = "ok", **timings: float) -> Finished:
    return Finished(Answer(text, False, (), ("q",), (), "scripted", timings))


@dataclass
class Scripted:
    """Parts whose answers are `script(stop)`; `ended` counts the answers that were left."""

    script: Callable[[threading.Event], Iterator[AnswerEvent]]
    engine: BackgroundEngine = field(default_factory=lambda: ready())
    collections: Callable[[], Sequence[str]] = lambda: ["sea"]
    default_k: int = 4
    running: int = 0

    def answer(self, question: str, *, stop: threading.Event, **_: Any) -> Iterator[AnswerEvent]:
        self.running += 1
        try:
            yield Searched(("q",), (), {})
            yield from self.script(stop)
        finally:
            self.running -= 1


class _Model:
    class metadata:
        num_output = 0


def ready() -> BackgroundEngine:
    engine = BackgroundEngine(lambda: (_Model(), "scripted"))
    engine.start()
    until(lambda: engine.status.state == "ready")
    return engine


def speaks_until_stopped(stop: threading.Event) -> Iterator[AnswerEvent]:
    while not stop.wait(0.01):
        yield Token("on and ")


def silent_until_stopped(stop: threading.Event) -> Iterator[AnswerEvent]:
    stop.wait(30)
    yield done()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("script", [speaks_until_stopped, silent_until_stopped])
def test_a_client_that_hangs_up_ends_its_answer(script: Any, stream: bool) -> None:
    parts = Scripted(script)
    with served(parts) as url:
        body = {"model": "fathom/sea", "messages": [{"role": "user", "content": "?"}], "stream": stream}

        async def leave() -> None:
            async with httpx.AsyncClient() as client:
                task = asyncio.ensure_future(client.post(f"{url}/chat/completions", json=body, timeout=30))
                while parts.running == 0:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                assert parts.running == 1 and not task.done()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        asyncio.run(leave())
        until(lambda: parts.running == 0, 5)


def fails(error: Exception, after: str = "") -> Callable[[threading.Event], Iterator[AnswerEvent]]:
    def script(stop: threading.Event) -> Iterator[AnswerEvent]:
        if after:
            yield Token(after)
        raise error
        yield

    return script


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BusyError("the language model is busy; try again"), 503, "busy"),
        (FathomError("the server at http://127.0.0.1:1/v1 closed the connection; ask again"), 500, "failed"),
        (UsageError("the prompt is too long; ask with fewer passages"), 400, "invalid_request"),
        (ZeroDivisionError("/secret/path"), 500, "unexpected"),
    ],
)
def test_what_fails_before_the_first_word_has_a_status_and_a_sentence(
    error: Exception, status: int, code: str, stream: bool
) -> None:
    with served(Scripted(fails(error))) as url:
        response = post(url, stream=stream)
        found = response.json()["error"]
        assert response.status_code == status and found["code"] == code
        assert found["message"] == str(error) or code == "unexpected"
        assert "secret" not in response.text and ("retry-after" in response.headers) == (status == 503)


def test_what_fails_within_a_stream_is_an_event_that_clients_raise() -> None:
    with served(Scripted(fails(FathomError("the engine died; see its log"), after="Tides"))) as url:
        found = events(post(url, stream=True))
        assert found[-1]["error"]["message"] == "the engine died; see its log"
        assert found[1]["choices"][0]["delta"]["content"] == "Tides"
        with pytest.raises(FathomError, match="the engine died"):
            load_server(url).chat([ChatMessage(role="user", content="?")])


def test_without_a_language_model_the_quoting_model_still_answers() -> None:
    def gone() -> Any:
        raise FathomError("the file model.gguf is damaged")

    engine = BackgroundEngine(gone)
    quoting = Scripted(lambda stop: iter([Token("ok"), done()]), engine=engine)
    with served(quoting) as url:
        waiting = post(url)
        assert waiting.status_code == 503 and waiting.json()["error"]["code"] == "busy"
        assert "still loading" in waiting.json()["error"]["message"]
        engine.start()
        until(lambda: engine.status == EngineStatus("failed", "the file model.gguf is damaged"))
        failed = post(url)
        assert failed.status_code == 503 and "model.gguf is damaged" in failed.json()["error"]["message"]
        assert "fathom/sea+quote" in failed.json()["error"]["message"]
        assert post(url, model="fathom/sea+quote").json()["choices"][0]["message"]["content"] == "ok"


def test_one_request_too_many_is_told_to_come_again() -> None:
    release = threading.Event()

    def waits(stop: threading.Event) -> Iterator[AnswerEvent]:
        release.wait(30)
        yield done()

    parts = Scripted(waits)
    with served(parts) as url:

        async def crowd() -> list[httpx.Response]:
            body = {"model": "fathom/sea", "messages": [{"role": "user", "content": "?"}]}
            async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
                tasks = [
                    asyncio.ensure_future(client.post(f"{url}/chat/completions", json=body))
                    for _ in range(MAX_REQUESTS + 1)
                ]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                release.set()
                return list(await asyncio.gather(*tasks))

        responses = asyncio.run(crowd())
        refused = [response for response in responses if response.status_code != 200]
        assert len(refused) == 1 and refused[0].status_code == 429 and refused[0].headers["retry-after"]
        assert refused[0].json()["error"]["type"] == "rate_limit_error"
        assert post(url).status_code == 200


def test_with_a_key_only_who_shows_it_is_answered() -> None:
    with served(Scripted(lambda stop: iter([done()])), key="s3cret") as url:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic s3cret"},
            {"x-api-key": "s3cret"},
        ):
            response = httpx.get(f"{url}/models", headers=headers)
            assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key" and "s3cret" not in response.text
        assert post(url).status_code == 401
        assert httpx.get(f"{url}/models", headers={"authorization": "bearer s3cret"}).status_code == 200
        assert load_server(url, api_key="s3cret").chat([ChatMessage(role="user", content="?")]).message.content == "ok"


def test_the_key_is_read_from_the_environment_alone_and_is_not_empty(tmp_path: Path) -> None:
    key = load_settings(tmp_path, environment={"FATHOM_CHAT_API_KEY": "s3cret"}).chat.api_key
    assert key is not None and key.get_secret_value() == "s3cret" and "s3cret" not in repr(key)
    with pytest.raises(UsageError, match="would let everybody in"):
        load_settings(tmp_path, environment={"FATHOM_CHAT_API_KEY": " "})
    (tmp_path / "fathom.toml").write_text('[chat]\napi_key = "s3cret"\n')
    with pytest.raises(UsageError, match="FATHOM_CHAT_API_KEY"):
        load_settings(tmp_path, environment={})
