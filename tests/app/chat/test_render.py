"""Hostile text through every sink of the page's renderer. The judge is the standard library's HTML parser, not nh3."""

import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.chat.render import (
    MAX_ANSWER_CHARACTERS,
    Reply,
    TurnSources,
    answer_markup,
    marked,
    numbers_of,
    plain,
    question_html,
    quoted_spans,
    render_safe,
    reply_html,
    sealed,
    sources_html,
    status_html,
    teaching_html,
)
from app.chat.words import CHINESE, ENGLISH, duration, words_for
from retrieval.passages import Citation, Hit, Passage, Scores, Source, Support

PAYLOADS = {item["name"]: item["text"] for item in json.loads(Path(__file__).with_name("hostile.json").read_text())}

HARMLESS_TAGS = set(
    "a article bdi blockquote br button code details div em h1 h2 h3 h4 h5 h6 header hr li mark ol p pre s span "
    "strong summary sup table tbody td th thead tr ul".split()
)
HARMLESS_ATTRIBUTES = {"class", "dir", "href", "id", "open", "role", "start", "title", "type"}


class Judge(HTMLParser):
    """Collects what is not harmless in a piece of HTML, and its visible text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in HARMLESS_TAGS:
            self.problems.append(f"<{tag}>")
        for name, value in attrs:
            value = value or ""
            if name not in HARMLESS_ATTRIBUTES:
                self.problems.append(f"{tag} {name}={value!r}")
            if name == "href":
                self.links.append(value)
                if not re.fullmatch(r"#source-\d+-\d+", value):
                    self.problems.append(f"href {value!r}")
            if name == "id" and not re.fullmatch(r"source-\d+-\d+", value):
                self.problems.append(f"id {value!r}")
            if name == "type" and value != "button":
                self.problems.append(f"type {value!r}")
            if name == "class" and not set(value.split()) <= KNOWN_CLASSES:
                self.problems.append(f"class {value!r}")

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.problems.append("comment")

    def handle_decl(self, decl: str) -> None:
        self.problems.append("declaration")

    def handle_pi(self, data: str) -> None:
        self.problems.append("processing instruction")

    def unknown_decl(self, data: str) -> None:
        self.problems.append("declaration")


KNOWN_CLASSES = set(
    "answer question note error cut waiting footer copy cite yes partly no sources turn empty source head number title "
    "where passage excerpt full more score unit quoted status dot ready loading failed teach hint".split()
)


def judged(markup: str) -> Judge:
    judge = Judge()
    judge.feed(markup)
    judge.close()
    assert judge.problems == []
    return judge


def make_hit(
    text: str = "A passage.", title: str = "Title", uri: str = "a.txt", headings: tuple[str, ...] = (), n: int = 1
) -> Hit:
    passage = Passage(n, n, 0, 50, 50 + len(text), 3, headings, text, 5)
    return Hit(n, 0.5, passage, Source(n, uri, title, "txt", "local", {}), Scores(0.4, 3.0, 0.5))


def cite(hit: Hit, start: int, end: int, supported: Support = "yes", quote: str | None = None, n: int = 1) -> Citation:
    text = hit.passage.text[start:end] if quote is None else quote
    base = hit.passage.start
    return Citation(n, hit.source.uri, "", 3, base + start, base + end, text, supported, hit.passage.id)


def whole_source(text: str) -> str:
    hit = make_hit(text, text, text, (text, text))
    quote = cite(hit, 0, max(1, len(text) // 2))
    return sources_html([TurnSources(1, text, (hit, hit), (quote,), checked=True)], ENGLISH)


SINKS: dict[str, Callable[[str], str]] = {
    "answer": lambda text: render_safe(text, {1: "yes", 2: None}, 1),
    "answer in Chinese": lambda text: render_safe(text, {1: "no"}, 1, CHINESE),
    "question": question_html,
    "notes": lambda text: reply_html(
        Reply(1, text, {1: None}, text, (("error", text), ("note", text)), (text,), done=True), ENGLISH
    ),
    "source": whole_source,
    "status": lambda text: status_html("failed", text),
    "empty chat": lambda text: teaching_html([text], ENGLISH),
}


def test_the_payloads_are_all_there() -> None:
    assert len(PAYLOADS) >= 80


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("name", PAYLOADS)
def test_a_hostile_text_is_only_text(sink: str, name: str) -> None:
    shown = SINKS[sink](PAYLOADS[name])
    judged(shown)
    assert "\n" not in shown  # one line: Gradio's cleandoc and Markdown have nothing to take hold of
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\u200b\ufeff\ud800-\udfff\U000e0000-\U000e007f]", shown
    )
    shown.encode("utf-8")


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_first_layer_is_safe_without_the_second(name: str) -> None:
    judged(answer_markup(plain(PAYLOADS[name]), {1: None}, 1, ENGLISH))


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_second_layer_is_safe_without_the_first(name: str) -> None:
    judged(sealed(PAYLOADS[name]))


@pytest.mark.parametrize("name", PAYLOADS)
def test_no_half_of_a_streamed_payload_is_alive(name: str) -> None:
    text = PAYLOADS[name][:400]
    for end in range(1, len(text), max(1, len(text) // 40)):
        judged(render_safe(text[:end], {1: None}, 1))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(sorted(PAYLOADS.values(), key=len)[:70]), st.text(max_size=12)), max_size=6))
def test_any_mix_of_payloads_is_only_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    judged(render_safe(text, {1: "yes"}, 1))
    judged(whole_source(text or "x"))


def test_links_and_images_stay_readable_as_written() -> None:
    text = judged(
        render_safe("[report](http://evil.example/a) ![x](http://evil.example/i.png) <http://b.example>")
    ).text
    assert "[report](http://evil.example/a) ![x](http://evil.example/i.png) <http://b.example>" in "".join(text)


def test_formatting_code_and_tables_are_kept() -> None:
    shown = render_safe(
        "**bold** `a < b`\n\n```python\ndef f():\n    return 1 < 2\n```\n\n| x | y |\n|:--|--:|\n| 1 | 2 |\n\n- a\n- b"
    )
    for part in (
        "<strong>bold</strong>",
        "<code>a &lt; b</code>",
        "<td>2</td>",
        "<li>b</li>",
        "&#10;    return 1 &lt; 2",
    ):
        assert part in shown


def test_only_numbers_of_real_sources_become_links() -> None:
    judge = judged(render_safe("Yes [1][2], [3] and `[1]`.", {1: "yes", 2: "no"}, 7))
    assert judge.links == ["#source-7-1", "#source-7-2"]
    assert "".join(judge.text).strip() == "Yes 12, [3] and [1]."


def test_a_citation_shows_what_the_check_found() -> None:
    shown = render_safe("a [1] b [2] c [3]", {1: "yes", 2: "partly", 3: "no"}, 1)
    for kind in ("cite yes", "cite partly", "cite no"):
        assert f'class="{kind}"' in shown
    assert html.escape(ENGLISH.support["no"]) in shown


def test_the_quoted_span_is_marked_after_escaping() -> None:
    hit = make_hit("if a < b & c: <b>stop</b> here", n=1)
    shown = sources_html([TurnSources(1, "q", (hit,), (cite(hit, 3, 12),), checked=True)], ENGLISH)
    assert "if <mark>a &lt; b &amp; c</mark>: &lt;b&gt;stop&lt;/b&gt; here" in shown


def test_a_quote_that_is_not_in_the_passage_is_not_marked() -> None:
    hit = make_hit("The limit is 79.")
    wrong = [cite(hit, 0, 5, quote="Other"), cite(hit, -3, 4, quote="xxxThe "), cite(hit, 4, 9, "no"), cite(hit, 4, 99)]
    assert quoted_spans(hit, wrong) == []


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80)), max_size=5))
def test_marking_loses_no_character(text: str, raw: list[tuple[int, int]]) -> None:
    hit = make_hit(text)
    spans = quoted_spans(hit, [cite(hit, min(pair), max(pair)) for pair in raw])
    assert all(left < right for left, right in spans)
    assert all(a[1] < b[0] for a, b in zip(spans, spans[1:], strict=False))
    without = html.unescape(re.sub("</?mark>", "", marked(text, spans)))
    pieces = "".join(plain(text[i : i + 1]) for i in range(len(text)))
    assert without.replace("\n", "") == plain(without).replace("\n", "")
    assert len(without) <= len(pieces) + 1


def test_a_long_passage_is_folded_around_its_quote() -> None:
    text = "first words " + "filler " * 200 + "the needle is here " + "filler " * 50
    hit = make_hit(text)
    start = text.index("the needle")
    shown = sources_html([TurnSources(1, "q", (hit,), (cite(hit, start, start + 18),), checked=True)], ENGLISH)
    excerpt = shown.split('class="excerpt"')[1].split("</summary>")[0]
    assert "<mark>the needle is here</mark>" in excerpt and len(excerpt) < 700
    assert shown.count("<mark>the needle is here</mark>") == 2  # in the whole passage too


def test_older_questions_fold_and_the_newest_is_open() -> None:
    hit = make_hit()
    shown = sources_html([TurnSources(1, "first", (hit,)), TurnSources(2, "second", (hit,))], ENGLISH)
    assert shown.index("second") < shown.index("first")
    assert shown.count('class="turn" open') == 1 and 'id="source-1-1"' in shown and 'id="source-2-1"' in shown


def test_an_endless_answer_is_cut() -> None:
    assert len(render_safe("word " * MAX_ANSWER_CHARACTERS)) < 2 * MAX_ANSWER_CHARACTERS


def test_scripts_keep_the_joiners_they_need() -> None:
    assert plain("می\u200cخواهم क्\u200dष 👩\u200d👩 \u200fעברית") == "می\u200cخواهم क्\u200dष 👩\u200d👩 \u200fעברית"


def test_numbers_follow_the_order_of_hits() -> None:
    assert numbers_of([make_hit(), make_hit()]) == {1: None, 2: None}


@pytest.mark.parametrize(
    ("header", "language"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-US,en;q=0.9,zh;q=0.5", "en"), ("de,fr", "en"), ("", "en"), (";;,", "en")],
)
def test_the_browser_chooses_the_language(header: str, language: str) -> None:
    assert words_for(header).language == language


def test_both_languages_have_the_same_gaps_to_fill() -> None:
    for name in ENGLISH.__slots__:
        ours, theirs = getattr(ENGLISH, name), getattr(CHINESE, name)
        if isinstance(ours, str):
            assert set(re.findall(r"{\w+}", ours)) == set(re.findall(r"{\w+}", theirs)), name
            assert name == "language" or ours != theirs, name
        else:
            assert len(ours) == len(theirs)


def test_times_are_short() -> None:
    assert [duration(s, ENGLISH) for s in (0.0, 0.0124, 0.9996, 1.06, 130.2)] == [
        "1 ms",
        "12 ms",
        "1.0 s",
        "1.1 s",
        "130 s",
    ]
    assert duration(2, CHINESE) == "2.0 秒"


def test_lines_wrapped_by_a_width_flow_and_others_stay() -> None:
    text = (
        "A sentence that some program wrapped at a width of\nseventy characters flows again.\n\n- a list\n- stays\n"
        "短的一行\n另一行 and the marked span"
    )
    hit = make_hit(text)
    start = text.index("marked")
    shown = sources_html([TurnSources(1, "q", (hit,), (cite(hit, start, start + 6),), checked=True)], ENGLISH)
    assert "at a width of seventy characters" in shown
    assert "- a list&#10;- stays&#10;短的一行&#10;另一行 and the <mark>marked</mark> span" in shown
