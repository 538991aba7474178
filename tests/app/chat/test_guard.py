"""Who is let in, what exists and what goes out: the guard over a small ASGI app, its list against Gradio's routes."""

import asyncio
import re
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from app.chat.guard import _ALLOWED, CONTENT_SECURITY_POLICY, Guard, is_loopback

HOME = "http://127.0.0.1:7860"


async def echo(request: Request) -> PlainTextResponse:
    """Says how much it was sent, and tries to weaken a header."""
    body = await request.body()
    return PlainTextResponse(str(len(body)), headers={"content-security-policy": "default-src *"})


@pytest.fixture
def ask() -> httpx.AsyncClient:
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST", "PUT", "OPTIONS", "HEAD"])])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=Guard(app, max_body=1000)), base_url=HOME)


def run(coroutine):  # type: ignore[no-untyped-def]
    return asyncio.run(coroutine)


def test_every_answer_carries_the_headers(ask: httpx.AsyncClient) -> None:
    for path in ("/", "/health", "/gradio_api/queue/data", "/nowhere"):
        headers = run(ask.get(path)).headers
        assert headers.get_list("content-security-policy") == [CONTENT_SECURITY_POLICY]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:7860", "localhost:9999", "LOCALHOST", "[::1]:7860", "127.0.0.2:1"]
)
def test_this_machine_is_let_in(ask: httpx.AsyncClient, host: str) -> None:
    assert run(ask.get("/health", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7860", "0.0.0.0:7860", "192.168.1.5",
     "", "[::ffff:1.2.3.4]", "127.0.0.1@evil.example", "127.0.0.1:7860:80", "127.0.0.1 evil", "2130706433",
     "127.1", "localhost.", "[::1"],
)  # fmt: skip
def test_a_rebound_or_foreign_name_is_refused(ask: httpx.AsyncClient, host: str) -> None:
    assert run(ask.get("/health", headers={"host": host})).status_code == 403


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:8000",
        "http://localhost:7860",
        "https://127.0.0.1.evil.example",
        "x",
    ],
)
def test_a_foreign_origin_cannot_post(ask: httpx.AsyncClient, origin: str) -> None:
    response = run(ask.post("/gradio_api/queue/join", json={}, headers={"origin": origin}))
    assert response.status_code == 403 and "origin" in response.json()["error"]


def test_the_page_itself_and_plain_clients_can_post(ask: httpx.AsyncClient) -> None:
    assert run(ask.post("/gradio_api/queue/join", json={}, headers={"origin": HOME})).status_code == 200
    assert run(ask.post("/gradio_api/queue/join", json={})).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_can_link_but_not_fetch(ask: httpx.AsyncClient, site: str) -> None:
    fetch = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
    visit = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
    assert run(ask.get("/health", headers=fetch)).status_code == 403
    assert run(ask.get("/", headers=visit)).status_code == 200
    assert run(ask.post("/gradio_api/run/predict", headers=visit)).status_code == 403


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=http://evil.example/x", "/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd",
     "/file=/etc/passwd", "/gradio_api/proxy=http://evil.example", "/proxy=http://evil.example",
     "/gradio_api/upload", "/gradio_api/upload_progress", "/gradio_api/vibe-edit", "/gradio_api/vibe-code",
     "/gradio_api/undo-vibe-edit", "/gradio_api/run-history/records", "/gradio_api/run-history/connect",
     "/gradio_api/runs", "/gradio_api/dev/reload", "/gradio_api/openapi.json", "/openapi.json", "/docs",
     "/monitoring", "/monitoring/summary", "/login", "/gradio_api/login_check",
     "/gradio_api/component_server", "/gradio_api/deep_link", "/gradio_api/call/ask", "/gradio_api/info",
     "/gradio_api/stream/a/b/c/playlist.m3u8", "/gradio_api/token",
     "/custom_component/x/client/component/a.js", "/assets/../../etc/passwd",
     "/assets/%2e%2e/%2e%2e/etc/passwd", "/assets//x", "/.//evil.example", "/static/..%2fx",
     "/config/../gradio_api/info", "/health/", "/theme.css/x", "/gradio_api/heartbeat/a/b"],
)  # fmt: skip
def test_what_the_page_does_not_use_does_not_exist(ask: httpx.AsyncClient, path: str) -> None:
    assert run(ask.get(path)).status_code == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(ask: httpx.AsyncClient, method: str) -> None:
    assert run(ask.request(method, "/health")).status_code == 405


def test_a_body_above_the_limit_is_refused_with_and_without_a_length(ask: httpx.AsyncClient) -> None:
    async def pieces():  # type: ignore[no-untyped-def]
        for _ in range(30):
            yield b"x" * 100

    assert run(ask.post("/gradio_api/queue/join", content=b"x" * 1000)).text == "1000"
    assert run(ask.post("/gradio_api/queue/join", content=b"x" * 1001)).status_code == 413
    assert run(ask.post("/gradio_api/queue/join", content=pieces())).status_code == 413
    false_length = {"content-length": "-5"}
    assert run(ask.post("/gradio_api/queue/join", content=b"x", headers=false_length)).status_code == 413


FILES = f"/uploads/jobs/{'0' * 32}/files"


def test_a_file_that_is_added_is_handed_on_as_it_comes_and_cut_off_at_its_own_limit() -> None:
    arrived: list[int] = []

    async def count(scope: dict, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            arrived.append(len(message["body"]))
            if not message["more_body"]:
                await PlainTextResponse("whole")(scope, receive, send)
                return

    sent = 0

    async def pieces(number: int):  # type: ignore[no-untyped-def]
        nonlocal sent
        sent = 0
        for _ in range(number):
            sent += 1
            yield b"x" * 100

    guard = Guard(count, max_body=1000, max_file=5000)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=guard), base_url=HOME)
    assert run(client.post(FILES, content=pieces(50))).text == "whole" and sum(arrived) == 5000
    assert max(arrived) == 100, "piece by piece"
    assert run(client.post(FILES, content=pieces(3000))).status_code == 413 and sent <= 52
    assert run(client.post(FILES, content=b"x" * 5001)).status_code == 413
    for path in ("/gradio_api/queue/join", "/uploads/jobs", FILES.replace("files", "start")):
        assert run(client.post(path, content=b"x" * 1001)).status_code == 413, "all others keep theirs"
    assert run(client.post(FILES, content=b"x", headers={"origin": "http://evil.example"})).status_code == 403
    closed = httpx.AsyncClient(transport=httpx.ASGITransport(app=Guard(count)), base_url=HOME)
    assert run(closed.post(FILES, content=b"x")).status_code == 413, "nothing is taken where nothing was allowed"


def test_doubled_headers_are_refused(ask: httpx.AsyncClient) -> None:
    headers = [("host", "127.0.0.1"), ("host", "evil.example")]
    assert run(ask.get("/health", headers=headers)).status_code == 400


def test_closing_ends_an_open_stream_and_refuses_what_has_not_begun() -> None:
    cancelled = []

    async def endless(scope: dict, receive: Any, send: Any) -> None:
        try:
            if scope["path"] == "/":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"data", "more_body": True})
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(scope["path"])
            raise

    async def closed(path: str) -> list[dict]:
        guard, sent = Guard(endless), []

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {"type": "http", "path": path, "method": "GET", "headers": [(b"host", b"127.0.0.1")]}
        asyncio.get_running_loop().call_later(0.02, guard.close)
        await asyncio.wait_for(guard(scope, None, send), 5)
        return sent

    assert [message.get("body") for message in run(closed("/"))] == [None, b"data", b""]
    assert run(closed("/health"))[0]["status"] == 503
    assert cancelled == ["/", "/health"]


def test_no_websocket_is_opened() -> None:
    sent = []

    async def never(*_: object) -> None:
        raise AssertionError("the guard let a websocket through")

    async def send(message: dict) -> None:
        sent.append(message)

    run(Guard(never)({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", "", "127.0.0.1.example.org"])
def test_only_loopback_names_are_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_gradios_own_routes_are_known_and_sorted_into_used_and_refused() -> None:
    """Fails when a Gradio release grows a route that the list would let through unseen."""
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.Textbox()
    blocks.queue()
    paths = set()
    pending = list(gr.routes.App.create_app(blocks).routes)
    while pending:
        route = pending.pop()
        pending += list(getattr(getattr(route, "original_router", None), "routes", []))
        if getattr(route, "path", None):
            paths.add(re.sub(r"{\w+(:\w+)?}", "x", route.path))
    assert len(paths) > 40
    prefixed = {path if path.startswith("/gradio_api") else path for path in paths}
    let_through = {path.removeprefix("/gradio_api").rstrip("/") or "/" for path in prefixed if _ALLOWED.fullmatch(path)}
    used = "/ /config /theme.css /favicon.ico /manifest.json /robots.txt /pwa_icon /assets/x /static/x /svelte/x"
    api = "/queue/join /queue/data /run/x /heartbeat/x /cancel /reset /startup-events /app_id"
    assert let_through <= {*used.split(), *api.split()}
