"""Serves the document routes over a real workspace: `python documents_page.py PORT WORKSPACE plain|whole`.

`plain` is a bare page with one answer and its sources, `whole` the real page, which answers with quotes. Collections,
reading, drawing, guard and uvicorn are the real ones; the embedder is the hashing fake.
"""

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.responses import HTMLResponse

sys.path.insert(0, str(Path(__file__).parents[2]))

from fakes import HashingEmbedder  # noqa: E402

from app import build  # noqa: E402
from app.chat.guard import Guard  # noqa: E402
from app.chat.head import UPLOAD_FILES, VIEWER_FILES, head  # noqa: E402
from app.chat.upload_routes import add_upload_routes  # noqa: E402
from app.chat.uploads import Uploads  # noqa: E402
from app.chat.viewer import Documents, add_document_routes  # noqa: E402
from app.settings import load_settings  # noqa: E402
from retrieval.answering import AnswerEvent  # noqa: E402
from retrieval.collection import Collection  # noqa: E402
from retrieval.errors import FathomError  # noqa: E402

EMBEDDER = HashingEmbedder()
build.embedder = lambda settings: lambda: EMBEDDER  # type: ignore[assignment]

BARE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<style>:root {{ --background-fill-primary: #fff; --background-fill-secondary: #f8fafc; --body-text-color: #1e293b;
--body-text-color-subdued: #64748b; --border-color-primary: #e2e8f0; --primary-500: #14b8a6; --primary-600: #0d9488;
--font: sans-serif; --font-mono: monospace }}
.dark {{ --background-fill-primary: #0b1220; --background-fill-secondary: #111a2b; --body-text-color: #f1f5f9;
--body-text-color-subdued: #94a3b8; --border-color-primary: #334155 }}
body {{ background: var(--background-fill-primary); color: var(--body-text-color); font-family: sans-serif }}</style>
{head}</head><body><div id="head"><div id="collection"><input value="default"></div></div>
<div id="question"><textarea></textarea></div><div id="answers"></div></body></html>"""


def plain(documents: Documents, uploads: Uploads) -> Guard:
    """The routes and a page without Gradio."""
    api = FastAPI(openapi_url=None)
    add_document_routes(api, documents)
    add_upload_routes(api, uploads)

    @api.get("/health")
    def health() -> dict[str, bool]:
        return {"ok": True}

    @api.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(BARE.format(head=head(*VIEWER_FILES, *UPLOAD_FILES)))

    return Guard(api, max_file=uploads.file_mb << 20)


def main() -> None:
    port, workspace, kind = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    settings = load_settings(workspace, environment={}, flags={"answer": {"quote_by": "words"}})
    with contextlib.ExitStack() as stack:
        if kind == "plain":  # without Gradio, whose import takes longer than all the rest
            opened: dict[str, Collection] = {}

            def collection(name: str) -> Collection:
                if name not in opened:
                    opened[name] = stack.enter_context(build.open_collection(settings, name))
                return opened[name]

            documents = stack.enter_context(contextlib.closing(Documents(collection, settings.reading)))
            uploads = stack.enter_context(contextlib.closing(Uploads(settings, lambda: EMBEDDER, settings.uploads)))
            uvicorn.run(plain(documents, uploads), host="127.0.0.1", port=port, log_level="warning")
            return

        from app.chat.engine import BackgroundEngine, only
        from app.chat.parts import Parts
        from app.chat.server import serve_parts
        from app.chat.wiring import Shelf

        shelf = stack.enter_context(contextlib.closing(Shelf(settings)))
        documents = stack.enter_context(contextlib.closing(Documents(shelf.collection, settings.reading)))
        uploads = stack.enter_context(contextlib.closing(Uploads(settings, shelf.embedder, settings.uploads)))

        def answer(
            question: str, *, collection: str, quote: bool, k: int, stop: threading.Event, **_: Any
        ) -> Iterator[AnswerEvent]:
            return build.answer_events(settings, shelf.collection(collection), question, llm=None, k=k, stop=stop)

        def none() -> tuple[object, str]:
            raise FathomError("no model here")

        parts = Parts(shelf.names, shelf.titles, answer, only(BackgroundEngine(none)), 8)
        serve_parts(parts, "127.0.0.1", port, documents, uploads)


if __name__ == "__main__":
    main()
