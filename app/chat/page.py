"""The layout of the chat page: a Gradio Blocks over the behaviour in talking.py. It knows nothing of retrieval.

Gradio's own Markdown rendering is off for messages (`render_markdown=False`) and gr.HTML is not used at all: it
compiles its template with `Function`, which the page's Content-Security-Policy forbids.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from app.chat.render import sealed, sources_html
from app.chat.talking import MAX_QUESTION_CHARACTERS, Chat, Conversation
from app.chat.words import CHINESE, ENGLISH, Words

MAX_QUEUE = 64
"""Questions waiting or running at once; the next one is told that the queue is full."""
STATUS_SECONDS = 1.5
"""Time between two looks at the engine while it loads."""

PASSAGES = (4, 6, 8, 12, 16, 20)
"""How many passages may be asked for; how many of them the model is shown depends on its window."""

_FOLDER = Path(__file__).parent
CSS = _FOLDER / "page.css"
SCRIPT = _FOLDER / "page.js"
ICON = _FOLDER / "icon.svg"

# Only fonts of the machine: nothing is fetched, and Chinese has its own names in the list.
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC"]


def theme() -> gr.themes.Base:
    """Colours and shapes; light and dark."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=[*_FONTS, "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="#0b1220",
        block_background_fill="#ffffff",
        block_background_fill_dark="#111a2b",
        body_text_color_subdued="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="#ffffff",
    )


def translations(default_k: int) -> gr.I18n:
    """The labels that Gradio itself draws, by the browser's language."""

    def labels(words: Words) -> dict[str, str]:
        numbers = {*PASSAGES, default_k}
        return {
            **{key: value for key, value in asdict(words).items() if isinstance(value, str)},
            **{f"passages_{n}": words.passages.format(n=n) for n in numbers},
        }

    chinese = labels(CHINESE)
    return gr.I18n(en=labels(ENGLISH), zh=chinese, **{"zh-CN": chinese, "zh-TW": chinese})


def build_page(chat: Chat, say: gr.I18n) -> gr.Blocks:
    """The page over `chat`; `say` must be the I18n that is handed to `mount_gradio_app` too."""
    parts = chat.parts
    with gr.Blocks(title="Fathom", fill_height=True, fill_width=True, analytics_enabled=False) as page:
        talk = gr.State(Conversation())
        with gr.Row(elem_id="head", equal_height=True):
            gr.Markdown(
                sealed('<div class="title">Fathom</div>'), elem_id="brand", container=False, latex_delimiters=[]
            )
            status = gr.Markdown("", elem_id="status", container=False, latex_delimiters=[])
            picker = gr.Dropdown(
                [], label=say("collection"), elem_id="collection", container=False, filterable=False, min_width=120
            )
            clear = gr.Button(say("clear"), elem_id="clear", size="sm", min_width=80)
            gr.Button("◐", elem_id="theme", size="sm", min_width=36)
        with gr.Row(elem_id="body"):
            with gr.Column(elem_id="talk", scale=3, min_width=320):
                messages = gr.Chatbot(
                    [],
                    elem_id="messages",
                    show_label=False,
                    container=False,
                    layout="panel",
                    height="100%",
                    buttons=[],
                    feedback_options=None,
                    render_markdown=False,
                    sanitize_html=True,
                    allow_tags=False,
                    latex_delimiters=[],
                    allow_file_downloads=False,
                )
                with gr.Group(elem_id="ask"):
                    box = gr.Textbox(
                        elem_id="question",
                        show_label=False,
                        container=False,
                        placeholder=say("ask"),
                        lines=1,
                        max_lines=6,
                        max_length=MAX_QUESTION_CHARACTERS,
                        submit_btn=say("send"),
                        autofocus=True,
                    )
                with gr.Row(elem_id="settings"):
                    mode = gr.Radio(
                        [(say("mode_answer"), "answer"), (say("mode_quote"), "quote")],
                        value="answer",
                        show_label=False,
                        container=False,
                        elem_id="mode",
                        scale=2,
                    )
                    k = gr.Dropdown(
                        [(say(f"passages_{n}"), n) for n in sorted({*PASSAGES, parts.default_k})],
                        value=parts.default_k,
                        container=False,
                        filterable=False,
                        elem_id="k",
                    )
            with gr.Column(elem_id="side", scale=2, min_width=300):
                sources = gr.Markdown(
                    sources_html([], ENGLISH), elem_id="sources", container=False, latex_delimiters=[]
                )
        timer = gr.Timer(STATUS_SECONDS)

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        asking: dict[str, Any] = {
            "fn": chat.ask,
            "inputs": [box, picker, mode, k, talk],
            "outputs": [messages, sources, box, talk],
            # Gradio's default is one running event for all visitors together; the embedded engine queues by itself.
            "concurrency_limit": None,
            **quiet,
        }
        box.submit(**asking, trigger_mode="once")
        messages.example_select(_chosen_example, outputs=[box], queue=False, **quiet).then(**asking)
        box.stop(chat.stop, queue=False, **quiet)
        clear.click(chat.clear, outputs=[messages, sources, box, talk], queue=False, **quiet)
        picker.input(chat.chosen, inputs=[picker], outputs=[messages], queue=False, **quiet)
        timer.tick(chat.status, outputs=[status, timer], queue=False, **quiet)
        page.load(chat.opened, outputs=[picker, messages, sources, status, timer], queue=False, **quiet)
        page.unload(chat.stop)
    # Gradio works on 40 events at once unless told otherwise: of fifty askers, ten waited for a whole answer of others.
    page.max_threads = MAX_QUEUE
    page.queue(max_size=MAX_QUEUE, api_open=False)
    return page


def _chosen_example(event: gr.SelectData) -> str:
    value = event.value
    return str(value.get("text", "")) if isinstance(value, dict) else ""
