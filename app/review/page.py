"""The layout of the review page: a Gradio Blocks over the behaviour in reviewing.py. It knows nothing of examples.

As in the chat, what is drawn is HTML made on the server, in gr.Markdown, since the page's policy forbids what gr.HTML
needs; keys, filters and the fields of an edit are page.js.
"""

from pathlib import Path
from typing import Any

import gradio as gr

from app.chat.render import sealed
from app.review.reviewing import FIELDS, Reviewing

MAX_QUEUE = 64
_FOLDER = Path(__file__).parent
CSS = _FOLDER / "page.css"
SCRIPT = _FOLDER / "page.js"
_HIDDEN = ("place", "raw")


def build_page(reviewing: Reviewing) -> gr.Blocks:
    """The page over a file of examples."""
    with gr.Blocks(title="Fathom", fill_height=True, fill_width=True, analytics_enabled=False) as page:
        at: dict[str, Any] = {}
        with gr.Row(elem_id="head", equal_height=True):
            gr.Markdown(
                sealed('<div class="title">Fathom</div>'), elem_id="brand", container=False, latex_delimiters=[]
            )
            at["bar"] = _drawn("bar")
            gr.Button("◐", elem_id="theme", size="sm", min_width=36)
        with gr.Column(elem_id="body"):
            at["notice"] = _drawn("notice")
            at["card"] = _drawn("card")
        at["actions"] = _drawn("actions")
        for name in (*_HIDDEN, "command"):
            at[name] = gr.Textbox(elem_id=name, visible="hidden", show_label=False, container=False)
        act = gr.Button(elem_id="act", visible="hidden")
        drawing: dict[str, Any] = {
            "outputs": [at[name] for name in FIELDS], "concurrency_limit": None, "trigger_mode": "multiple",
            "api_visibility": "private", "show_progress": "hidden", "queue": False,
        }  # fmt: skip
        act.click(reviewing.act, inputs=[at["command"]], **drawing)
        page.load(reviewing.opened, **drawing)
    page.queue(max_size=MAX_QUEUE, api_open=False)
    return page


def _drawn(name: str) -> gr.Markdown:
    """A place for HTML from drawing.py, which is cleaned there; Gradio's own cleaning takes away what page.js needs."""
    return gr.Markdown("", elem_id=name, container=False, latex_delimiters=[], sanitize_html=False)
