"""The API where people find it: on the chat page's own port, and once over the embedded model."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import HashingEmbedder, five_documents
from speaking_server import until
from starlette.testclient import TestClient

from app import build
from app.chat.engine import BackgroundEngine, only
from app.chat.parts import Parts
from app.chat.server import build_app
from app.chat.talking import Chat
from app.chat.wiring import Shelf, parts_of
from app.settings import load_settings

QUESTION = {"model": "fathom/sea", "messages": [{"role": "user", "content": "What are tides caused by?"}]}


def test_page_and_api_share_a_port_and_the_key_is_for_the_api_alone() -> None:
    def nothing(*_: Any, **__: Any) -> Iterator[Any]:
        return iter(())

    parts = Parts(lambda: ["sea"], lambda name: [], nothing, only(BackgroundEngine(lambda: (object(), "scripted"))), 8)
    with TestClient(build_app(Chat(parts), api_key="s3cret"), base_url="http://127.0.0.1:7860") as client:
        assert client.get("/v1/models").status_code == 401
        models = client.get("/v1/models", headers={"authorization": "Bearer s3cret"})
        assert [card["id"] for card in models.json()["data"]] == ["fathom/sea", "fathom/sea+quote"]
        assert "content-security-policy" in models.headers
        assert client.get("/").status_code == 200 and client.get("/health").json()["ok"] is True
        assert client.post("/v1/chat/completions", json=QUESTION).json()["error"]["code"] == "invalid_api_key"


@pytest.mark.slow
def test_the_embedded_model_answers_through_it_whole_and_as_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded_at_hand: Callable[[Path], None]
) -> None:
    embedded_at_hand(tmp_path / "cache")
    fake = HashingEmbedder()
    monkeypatch.setattr(build, "embedder", lambda settings: lambda: fake)
    settings = load_settings(tmp_path, environment={}, flags={"answer": {"quote_by": "words"}})
    with build.open_or_create(settings, "sea", wait=0, doing="testing") as collection:
        collection.add(five_documents())
    shelf = Shelf(settings)
    parts = parts_of(settings, shelf)
    chat = Chat(parts)
    with TestClient(build_app(chat), base_url="http://127.0.0.1:7860") as client:
        until(lambda: parts.engine.status.state == "ready", 120)
        whole = client.post("/v1/chat/completions", json=QUESTION | {"max_tokens": 24}).json()
        assert 0 < whole["usage"]["completion_tokens"] <= 24 < whole["usage"]["prompt_tokens"]
        assert whole["choices"][0]["message"]["content"] == whole["fathom"]["answer"] != ""
        texts = {document.uri: document.text for document in five_documents()}
        for citation in whole["fathom"]["citations"]:
            assert texts[citation["document"]][citation["start"] : citation["end"]] == citation["quote"] != ""
        with client.stream("POST", "/v1/chat/completions", json=QUESTION | {"max_tokens": 24, "stream": True}) as reply:
            lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
        assert lines.pop() == "[DONE]"
        last = json.loads(lines[-1])
        assert last["fathom"]["timings"]["completion_tokens"] > 0 and not last["fathom"]["refused"]
    chat.close()
    shelf.close()
