"""ASGI middleware in front of every route: who may ask (Host, Origin), what may be asked (routes, size), what goes out.

It knows nothing of chat. It exists because Gradio sends no security headers, limits no body and serves many more
routes than one page needs.
"""

import asyncio
import ipaddress
import json
import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1 << 20
"""Largest request body, but for a file that is added: the page sends a question and its settings."""

CLOSING_SECONDS = 0.5
"""How long an answer under way may finish when the server ends."""

# Checked against Gradio 6.31 in Chromium: stops all outside requests that hostile Markdown can cause, while the page
# works. 'unsafe-inline' scripts stay because Gradio's page starts from one; there is no 'unsafe-eval', so gr.HTML
# (which compiles its template with `Function`) cannot be used on this page.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob: data:; font-src 'self' data:; connect-src 'self'; "
    "frame-src 'none'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}

# Only these exist; all else is 404. Gradio 6.31 also serves file=, file/, proxy=, upload, stream, run-history, vibe-*,
# dev/reload, component_server, monitoring, login, openapi.json, deep_link, call/…: the page uses none of them, and a
# list of what is allowed does not grow holes when Gradio grows routes.
_ALLOWED = re.compile(
    r"/(?:"
    r"|health"
    r"|v1/models(?:/[^\x00-\x1f]{1,200})?|v1/chat/completions"
    r"|config/?|theme\.css|favicon\.ico|manifest\.json|robots\.txt|pwa_icon(?:/\d+)?"
    r"|(?:assets|static|svelte)/[\w.@~-]+(?:/[\w.@~-]+)*"
    r"|gradio_api/(?:queue/join|queue/data|run/predict/?|heartbeat/\w+|cancel|reset/?|startup-events|app_id/?|theme\.css)"
    r"|documents/words|documents/[\w.-]{1,60}/[0-9]{1,15}(?:/pages/[0-9]{1,6}(?:\.png)?)?"
    r"|uploads|uploads/jobs|uploads/jobs/[0-9a-f]{32}(?:/(?:files|start|cancel))?"
    r")"
)
# The one route whose body is not read before the app sees it: a file on its way to the disk.
_STREAMED = re.compile(r"/uploads/jobs/[0-9a-f]{32}/files")
_READS = frozenset({"GET", "HEAD"})


def is_loopback(host: str) -> bool:
    """Whether `host` (no port) names this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _host_of(header: str) -> str | None:
    """The host in a Host header, None if the header is not one."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::\d{1,5})?", header)
    return match[1] if match else None


class Guard:
    """Wraps an ASGI app.

    - Host must be a loopback name (any port, so that an SSH tunnel works): a page elsewhere whose name is rebound to
      127.0.0.1 is refused.
    - A request that changes something must come from this very origin, and nothing but a plain visit may come from
      another site.
    - Paths outside the list do not exist; bodies above `max_body` are refused before they are read. Only a file that
      is added may be larger, up to `max_file`; it is handed on as it comes and cut off there.
    """

    def __init__(self, app: ASGIApp, *, max_body: int = MAX_BODY_BYTES, max_file: int = 0) -> None:
        self.app = app
        self.max_body = max_body
        self.max_file = max_file
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End the streams that are open: a page keeps some for as long as it is shown, and they would hold the end of
        the server up until uvicorn cancels them with a traceback. Call it on the server's event loop."""
        self._closing.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page opens no websocket
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        await self._pass(scope, receive, send)

    def _refusal(self, scope: MutableMapping[str, Any]) -> tuple[int, str] | None:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            if key in headers and key in ("host", "origin", "content-length"):
                return 400, f"more than one {key} header"
            headers[key] = value.decode("latin-1")
        host = headers.get("host", "")
        name = _host_of(host)
        if name is None or not is_loopback(name):
            return 403, "this page is served to this machine only; open it as http://127.0.0.1"
        if scope["method"] not in _READS | {"POST"}:
            return 405, "only GET and POST are known here"
        if not _ALLOWED.fullmatch(scope["path"]) or ".." in scope["path"]:
            return 404, "there is nothing here"
        site = headers.get("sec-fetch-site", "none")
        visit = scope["method"] in _READS and headers.get("sec-fetch-mode", "navigate") == "navigate"
        if site in ("cross-site", "same-site") and not visit:
            return 403, "a request from another site is refused"
        if scope["method"] == "POST":
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
                return 403, "a request from another origin is refused"
            length = headers.get("content-length", "")
            most = self._most(scope)
            if length and (not length.isdigit() or int(length) > most):
                return 413, f"a request may have up to {most} bytes"
        return None

    def _most(self, scope: MutableMapping[str, Any]) -> int:
        return self.max_file if _STREAMED.fullmatch(scope["path"]) else self.max_body

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Read whole before the app sees it (it is small by rule): an error raised into the app would be answered
        # with 500 by the framework before it came back here.
        body = bytearray()
        streamed = scope["method"] == "POST" and _STREAMED.fullmatch(scope["path"]) is not None
        more = scope["method"] == "POST" and not streamed
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.max_body:
                await _answer(send, 413, f"a request may have up to {self.max_body} bytes")
                return
        replayed = False
        passed = 0

        async def whole() -> Message:
            nonlocal replayed, passed
            if streamed:
                message = await receive()
                passed += len(message.get("body", b""))
                # For the app it is as if the sender had gone; what it answers then, if anything, is its own.
                return message if passed <= self.max_file else {"type": "http.disconnect"}
            if replayed or scope["method"] != "POST":
                return await receive()
            replayed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        started = finished = ended = False

        async def sealed(message: Message) -> None:
            nonlocal started, finished
            if ended:
                return
            finished = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                started = True
                kept = [
                    pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in SECURITY_HEADERS
                ]
                message = {**message, "headers": kept + _security_headers()}
            await send(message)

        answering = asyncio.ensure_future(self.app(scope, whole, sealed))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({answering, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                await asyncio.wait({answering}, timeout=CLOSING_SECONDS)
            if answering.done():
                answering.result()  # raises what the app raised
                if passed > self.max_file and not started:
                    await _answer(send, 413, f"a file may have up to {self.max_file} bytes")
            else:
                ended = True
                if not started:
                    await _answer(send, 503, "the page is closing")
                elif not finished:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            closing.cancel()
            if not answering.done():
                answering.cancel()
                await asyncio.wait({answering}, timeout=CLOSING_SECONDS)


def _security_headers() -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    # The rest of a refused body is not read: the connection ends here.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers + _security_headers()})
    await send({"type": "http.response.body", "body": body})
