"""A file of examples → the review page on 127.0.0.1, with the chat's guard before it. It wires; it draws nothing."""

import contextlib
import os
import socket

# Before gradio is imported: it reads them then.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["GRADIO_MCP_SERVER"] = "False"
os.environ["GRADIO_SSR_MODE"] = "False"

import gradio as gr  # noqa: E402
import uvicorn  # noqa: E402
from fastapi import FastAPI  # noqa: E402

from adapt.instructions.reviews import Reviews  # noqa: E402
from app.chat.guard import Guard  # noqa: E402
from app.chat.head import head  # noqa: E402
from app.chat.page import ICON, theme  # noqa: E402
from app.chat.server import SHUTDOWN_SECONDS, listen  # noqa: E402
from app.review.page import CSS, SCRIPT, build_page  # noqa: E402
from app.review.reviewing import Reviewing  # noqa: E402

MAX_BODY_BYTES = 16 << 20
"""Largest request: an edited example, each character of which JSON may write in six bytes."""


def build_app(reviews: Reviews) -> Guard:
    """The whole web application behind its guard."""
    api = FastAPI(title="Fathom", openapi_url=None, docs_url=None, redoc_url=None)

    @api.get("/health")
    def health() -> dict[str, object]:
        return {"ok": True, "examples": len(reviews.order)}

    gr.mount_gradio_app(
        api,
        build_page(Reviewing(reviews)),
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
        mcp_server=False,
        theme=theme(),
        css_paths=[CSS],
        head=head(SCRIPT),
    )
    return Guard(api, max_body=MAX_BODY_BYTES)


class _Server(uvicorn.Server):
    """uvicorn, ending open streams before it waits for connections to close."""

    def __init__(self, config: uvicorn.Config, app: Guard) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.close()
        await super().shutdown(sockets)


def serve(reviews: Reviews, host: str, port: int) -> None:
    """Serve the page until the process is told to end. Raises what app.chat.server's `listen` raises."""
    with listen(host, port) as server:
        app = build_app(reviews)
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
            _Server(config, app).run(sockets=[server])
