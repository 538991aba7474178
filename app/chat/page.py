"""The layout of the chat page: a Gradio Blocks over the behaviour in talking.py. It knows nothing of retrieval.

Everything that is drawn is HTML made on the server, in gr.Markdown: gr.HTML compiles its template with `Function`,
which the page's Content-Security-Policy forbids, as it does the `js=` of events. What the page does by itself is in
page.js.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from app.chat.render import sealed
from app.chat.sources import sources_html
from app.chat.talking import Chat
from app.chat.views import FIELDS, FORM_FIELDS, mode_of
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
        at: dict[str, Any] = {}
        _head(at, say)
        with gr.Row(elem_id="body"):
            with gr.Column(elem_id="chats-side", scale=1, min_width=200):
                gr.Button(say("clear"), elem_id="new", size="md")
                at["chats"] = _drawn("chats")
            with gr.Column(elem_id="talk", scale=3, min_width=300):
                _talk(at, say, parts.default_k, quote=not parts.engines.writes())
            with gr.Column(elem_id="side", scale=2, min_width=280):
                at["sources"] = _drawn("sources", sources_html([], ENGLISH))
        help_ = _drawn("help")
        # What the browser holds for the server: it survives a restart of either, and no visitor sees another's.
        for name in ("opened", "editing", "conditions", "command"):
            at[name] = gr.Textbox(elem_id=name, visible="hidden", show_label=False, container=False)
        act = gr.Button(elem_id="act", visible="hidden")
        at["timer"] = gr.Timer(STATUS_SECONDS, active=False)
        _events(page, chat, at, act, help_)
    # Gradio works on 40 events at once unless told otherwise: of fifty askers, ten waited for a whole answer of others.
    page.max_threads = MAX_QUEUE
    page.queue(max_size=MAX_QUEUE, api_open=False)
    return page


def _picker(choices: list[Any], **options: Any) -> gr.Dropdown:
    """A Dropdown that hands on what it is given: Gradio refuses a value that is not among the choices it remembers of
    the session, and after a restart of the server it remembers none. The reader of the value checks it.

    No subclass: Gradio writes a .pyi file beside the source of one.
    """
    made = gr.Dropdown(choices, container=False, filterable=False, **options)
    for name in ("preprocess", "postprocess"):
        setattr(made, name, lambda value: value)
    return made


def _drawn(name: str, value: str = "") -> gr.Markdown:
    """A place for HTML from render.py.

    Not sanitised by Gradio's own script, which takes away `aria-label`, `role` and all `data-` attributes: the page
    works by them. What keeps it harmless is made on the server, twice (escaped, then nh3), and the page's policy.
    """
    return gr.Markdown(value, elem_id=name, container=False, latex_delimiters=[], sanitize_html=False)


def _head(at: dict[str, Any], say: gr.I18n) -> None:
    with gr.Row(elem_id="head", equal_height=True):
        gr.Button("", elem_id="show-chats", elem_classes="pictured", size="sm", min_width=36)
        gr.Markdown(sealed('<div class="title">Fathom</div>'), elem_id="brand", container=False, latex_delimiters=[])
        at["status"] = _drawn("status")
        at["picker"] = _picker([], label=say("collection"), elem_id="collection", min_width=120)
        at["engine"] = _picker([], label=say("engine"), elem_id="engine", visible=False, min_width=120)
        gr.Button(say("sources"), elem_id="show-sources", size="sm", min_width=60)
        gr.Button("", elem_id="show-help", elem_classes="pictured", size="sm", min_width=36)
        gr.Button("", elem_id="theme", elem_classes="pictured", size="sm", min_width=36)


def _talk(at: dict[str, Any], say: gr.I18n, default_k: int, *, quote: bool) -> None:
    at["trouble"] = _drawn("trouble")
    with gr.Column(elem_id="messages"):
        at["past"] = _drawn("past")
        at["live"] = _drawn("live")
    at["notice"] = _drawn("notice")
    with gr.Group(elem_id="ask"):
        at["box"] = gr.Textbox(
            elem_id="question",
            show_label=False,
            label=say("ask"),
            container=False,
            placeholder=say("ask"),
            lines=1,
            max_lines=8,
            submit_btn=say("send"),
            autofocus=True,
        )
    at["chips"] = _drawn("chips")
    with gr.Row(elem_id="settings"):
        at["mode"] = gr.Radio(
            [(say("mode_answer"), mode_of(quote=False)), (say("mode_quote"), mode_of(quote=True))],
            value=mode_of(quote),
            show_label=False,
            label=say("mode"),
            container=False,
            elem_id="mode",
        )
        gr.Button(say("options"), elem_id="show-options", size="sm", min_width=60)
        with gr.Column(elem_id="filter", min_width=120):
            at["condition"] = gr.Textbox(
                elem_id="condition",
                show_label=False,
                label=say("filter"),
                container=False,
                placeholder=say("filter_placeholder"),
                lines=1,
                max_lines=1,
            )
            at["keys"] = _drawn("keys")
        at["k"] = _picker(
            [(say(f"passages_{n}"), n) for n in sorted({*PASSAGES, default_k})],
            value=default_k,
            label=say("passages_label"),
            elem_id="k",
        )


def _events(page: gr.Blocks, chat: Chat, at: dict[str, Any], act: gr.Button, help_: gr.Markdown) -> None:
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    form = [at[name] for name in FORM_FIELDS]
    # Gradio's default is one running event for all visitors together; the embedded engine queues by itself. And "once"
    # would drop a second event of a tab that still follows an answer, where chat must see it.
    drawing: dict[str, Any] = {
        "outputs": [at[name] for name in FIELDS], "concurrency_limit": None, "trigger_mode": "multiple", **quiet,
    }  # fmt: skip
    at["box"].submit(chat.ask, inputs=form, **drawing)
    act.click(chat.act, inputs=[at["command"], *form], **drawing)
    at["condition"].submit(chat.filtered, inputs=[at["condition"], *form], **drawing)
    for name in ("picker", "mode", "k"):
        at[name].input(chat.chosen, inputs=form, **drawing)
    at["engine"].input(chat.engine_chosen, inputs=form, **drawing)
    at["box"].stop(chat.stop, inputs=[at["opened"]], queue=False, **quiet)
    at["timer"].tick(chat.status, inputs=[at["engine"]], outputs=[at["status"], at["timer"]], queue=False, **quiet)
    page.load(chat.opened, **drawing)
    page.load(chat.help, outputs=[help_], queue=False, **quiet)
    page.unload(chat.left)
