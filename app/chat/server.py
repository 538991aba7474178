"""A workspace's settings → the chat page on 127.0.0.1, with its security headers. It wires; it draws nothing.

Nothing here, or in anything it starts, talks to another machine.
"""

import contextlib
import errno
import importlib.metadata
import os
import socket
from typing import TYPE_CHECKING

# Before gradio is imported: it reads them then.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["GRADIO_MCP_SERVER"] = "False"
os.environ["GRADIO_SSR_MODE"] = "False"

import gradio as gr  # noqa: E402
import uvicorn  # noqa: E402
from fastapi import FastAPI  # noqa: E402

from app.api.router import api_router  # noqa: E402
from app.chat.guard import Guard, is_loopback  # noqa: E402
from app.chat.head import UPLOAD_FILES, VIEWER_FILES, head  # noqa: E402
from app.chat.page import CSS, ICON, SCRIPT, build_page, theme, translations  # noqa: E402
from app.chat.parts import Parts  # noqa: E402
from app.chat.talking import MAX_QUESTION_CHARACTERS, Chat  # noqa: E402
from app.chat.upload_routes import add_upload_routes  # noqa: E402
from app.chat.uploads import Uploads  # noqa: E402
from app.chat.viewer import Documents, add_document_routes  # noqa: E402
from retrieval.errors import BusyError, UsageError  # noqa: E402
from retrieval.reading.limits import MIB  # noqa: E402

if TYPE_CHECKING:
    from app.settings import Settings

SHUTDOWN_SECONDS = 3
"""How long open connections may finish after Ctrl-C; pages hold one open for as long as they are shown."""


def version() -> str:
    """The installed version of Fathom."""
    try:
        return importlib.metadata.version("fathom-stack")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def build_app(
    chat: Chat, documents: Documents | None = None, uploads: Uploads | None = None, *, api_key: str | None = None
) -> Guard:
    """The whole web application behind its guard; with `documents` they can be looked into, with `uploads` added.
    Starts loading the language model. `api_key` is for the API alone."""
    parts = chat.parts
    api = FastAPI(title="Fathom", openapi_url=None, docs_url=None, redoc_url=None)

    @api.get("/health")
    def health() -> dict[str, object]:
        return {"ok": True, "version": version(), "engine": parts.engine.status.state}

    api.include_router(api_router(parts, chat.answers.pool, longest_question=MAX_QUESTION_CHARACTERS, key=api_key))
    scripts = [SCRIPT]
    if documents is not None:
        add_document_routes(api, documents)
        scripts += VIEWER_FILES
    if uploads is not None:
        add_upload_routes(api, uploads)
        scripts += UPLOAD_FILES
    say = translations(parts.default_k)
    gr.mount_gradio_app(
        api,
        build_page(chat, say),
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        favicon_path=str(ICON),
        show_error=False,
        max_file_size="1kb",
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        i18n=say,
        mcp_server=False,
        theme=theme(),
        css_paths=[CSS],
        head=head(*scripts),
    )
    parts.engine.start()
    return Guard(api, max_file=uploads.file_mb * MIB if uploads is not None else 0)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to a loopback address. Raises UsageError for any other host, BusyError if the port is taken.

    Bound here and not by uvicorn, which would log an error and exit 1 instead of saying what to do.
    """
    if not is_loopback(host):
        raise UsageError(
            f"the chat page has no accounts, so it is served to this machine only; {host!r} would open it to others. "
            "Use 127.0.0.1 (and an SSH tunnel to reach it from elsewhere)"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host.strip("[]"), port))
        server.listen(128)
    except OSError as error:
        server.close()
        if error.errno == errno.EADDRINUSE:
            raise BusyError(f"port {port} is in use by another program; choose one with --port") from error
        if isinstance(error, PermissionError):
            raise UsageError(f"port {port} needs more rights than this user has; choose one above 1023") from error
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return server


class _Server(uvicorn.Server):
    """uvicorn, ending answers and open streams before it waits for connections to close."""

    def __init__(self, config: uvicorn.Config, chat: Chat, app: Guard) -> None:
        super().__init__(config)
        self._chat = chat
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._chat.close()
        self._app.close()
        await super().shutdown(sockets)


def serve_parts(
    parts: Parts,
    host: str,
    port: int,
    documents: Documents | None = None,
    uploads: Uploads | None = None,
    *,
    api_key: str | None = None,
) -> None:
    """Serve the page until the process is told to end. Raises what `listen` raises."""
    with listen(host, port) as server, contextlib.closing(parts.engines), contextlib.closing(Chat(parts)) as chat:
        app = build_app(chat, documents, uploads, api_key=api_key)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            ws="none",
        )
        # Ctrl-C is how the page is meant to end; uvicorn raises it again once everything is closed.
        with contextlib.suppress(KeyboardInterrupt):
            _Server(config, chat, app).run(sockets=[server])


def serve(settings: "Settings", host: str, port: int) -> None:
    """`fathom chat`: the page over a workspace. Raises what `listen` raises."""
    from app.chat.wiring import Shelf, parts_of

    key = settings.chat.api_key
    with contextlib.ExitStack() as stack:
        shelf = stack.enter_context(contextlib.closing(Shelf(settings)))
        documents = stack.enter_context(contextlib.closing(Documents(shelf.collection, settings.reading)))
        uploads = stack.enter_context(contextlib.closing(Uploads(settings, shelf.embedder, settings.uploads)))
        serve_parts(
            parts_of(settings, shelf), host, port, documents, uploads, api_key=key.get_secret_value() if key else None
        )
