"""Hostile text through every sink of the page's renderer. The judge is the standard library's HTML parser, not nh3."""

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.chat.conversations import Conversation
from app.chat.messages import turn_html
from app.chat.render import answer_markup, plain, render_safe, sealed
from app.chat.sources import marked, numbers_of, quoted_spans, sources_html
from app.chat.surroundings import (
    chats_html,
    chips_html,
    help_html,
    keys_html,
    notice_html,
    status_html,
    teaching_html,
    trouble_html,
)
from app.chat.turns import MAX_ANSWER_CHARACTERS, Asked, Mark, Note, Turn
from app.chat.words import CHINESE, ENGLISH
from retrieval.passages import Citation, Hit, Passage, Scores, Source, Support

PAYLOADS = {item["name"]: item["text"] for item in json.loads(Path(__file__).with_name("hostile.json").read_text())}

HARMLESS_TAGS = set(
    "a article bdi blockquote br button code details div em h1 h2 h3 h4 h5 h6 header hr kbd li mark nav ol p pre s "
    "section span strong summary sup table tbody td th thead tr ul".split()
)
HARMLESS_ATTRIBUTES = set("class dir href id open role start title type aria-label aria-current".split())
# What the page's script acts on, with all that may stand in it.
DATA = {
    "data-do": r"[a-z-]+", "data-here": r"[a-z-]+", "data-turn": r"\d+", "data-n": r"\d+", "data-chat": r"[\w-]*",
    "data-document": r"\d+", "data-start": r"\d+", "data-end": r"\d+", "data-quotes": r"[\d,-]*",
    "data-collection": r"[^<>\"'&]*",
}  # fmt: skip


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
            if name in DATA:
                if not re.fullmatch(DATA[name], value):
                    self.problems.append(f"{tag} {name}={value!r}")
            elif name not in HARMLESS_ATTRIBUTES:
                self.problems.append(f"{tag} {name}={value!r}")
            if name == "href":
                self.links.append(value)
                if not re.fullmatch(r"#source-\d+-\d+|\?chat=[\w-]+", value):
                    self.problems.append(f"href {value!r}")
            if name == "id" and not re.fullmatch(r"source-\d+-\d+|turn-\d+|how-\d+", value):
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
    "where passage excerpt full more score unit quoted status dot idle ready loading failed teach hint exchange asked "
    "tools tool edit again nearest how facts flag chats day chat current running open rename delete keep sure when "
    "notice editing cancel chips chip remove keys key examples example trouble help close name here labels".split()
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


def make_turn(question: str = "q", number: int = 1, **more: Any) -> Turn:
    return Turn(number, "chat", question, Asked("default"), 0.0, **more)


def panel(hit: Hit, *citations: Citation) -> str:
    return sources_html([make_turn(hits=(hit,), citations=citations, checked=True)], ENGLISH)


def whole_source(text: str) -> str:
    hit = make_hit(text, text, text, (text, text))
    quote = cite(hit, 0, max(1, len(text) // 2))
    return sources_html([make_turn(text, hits=(hit, hit), citations=(quote,), checked=True)], ENGLISH)


def whole_turn(said: str, **more: Any) -> str:
    """A turn that says `said` wherever one can say something."""
    hit = make_hit(said, said, said, (said,))
    asked = Asked(said, filters=(said,), engine=said)
    turn = Turn(
        1, "chat", said, asked, 0.0, "failed", said, hits=(hit,), queries=(said,), model=said, prompt_version=said,
        notes=(Note("error", text=said), Note("note", said, {"said": said})), marks=(Mark(0, len(said), "name"),),
        timings={said: 2.0, f"search.{said}": 3.0}, clock={"total": 1.0}, checked=True,
    )  # fmt: skip
    return turn_html(replace(turn, **more), ENGLISH, said)


def listed(text: str) -> str:
    chats = [Conversation("one", text, 0.0, 1e9, Asked()), Conversation(text, text, 0.0, 0.0, Asked())]
    return chats_html(chats, "one", {"one"}, ENGLISH, now=1e9)


SINKS: dict[str, Callable[[str], str]] = {
    "answer": lambda text: render_safe(text, {1: "yes", 2: None}, 1),
    "answer in Chinese": lambda text: render_safe(text, {1: "no"}, 1, CHINESE),
    "turn": whole_turn,
    "refused turn": lambda text: whole_turn(text, refused=True, text="", state="done"),
    "turn under way": lambda text: whole_turn(text, state="running"),
    "source": whole_source,
    "conversations": listed,
    "status": lambda text: status_html("failed", text),
    "notice": notice_html,
    "trouble": trouble_html,
    "filters": lambda text: chips_html([text, text], ENGLISH),
    "keys of filters": lambda text: keys_html([text], ENGLISH),
    "empty chat": lambda text: teaching_html([text], [text], ENGLISH),
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
    shown = panel(hit, cite(hit, 3, 12))
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
    shown = panel(hit, cite(hit, start, start + 18))
    excerpt = shown.split('class="excerpt"')[1].split("</summary>")[0]
    assert "<mark>the needle is here</mark>" in excerpt and len(excerpt) < 700
    assert shown.count("<mark>the needle is here</mark>") == 2  # in the whole passage too


def test_older_questions_fold_and_the_newest_is_open() -> None:
    hit = make_hit()
    shown = sources_html([make_turn("first", hits=(hit,)), make_turn("second", 2, hits=(hit,))], ENGLISH)
    assert shown.index("second") < shown.index("first")
    assert shown.count('class="turn" open') == 1 and 'id="source-1-1"' in shown and 'id="source-2-1"' in shown


def test_an_endless_answer_is_cut() -> None:
    assert len(render_safe("word " * MAX_ANSWER_CHARACTERS)) < 2 * MAX_ANSWER_CHARACTERS


def test_scripts_keep_the_joiners_they_need() -> None:
    assert plain("می\u200cخواهم क्\u200dष 👩\u200d👩 \u200fעברית") == "می\u200cخواهم क्\u200dष 👩\u200d👩 \u200fעברית"


def test_numbers_follow_the_order_of_hits() -> None:
    assert numbers_of([make_hit(), make_hit()]) == {1: None, 2: None}


def test_lines_wrapped_by_a_width_flow_and_others_stay() -> None:
    text = (
        "A sentence that some program wrapped at a width of\nseventy characters flows again.\n\n- a list\n- stays\n"
        "短的一行\n另一行 and the marked span"
    )
    hit = make_hit(text)
    start = text.index("marked")
    shown = panel(hit, cite(hit, start, start + 6))
    assert "at a width of seventy characters" in shown
    assert "- a list&#10;- stays&#10;短的一行&#10;另一行 and the <mark>marked</mark> span" in shown


def test_a_source_says_where_it_stands_and_what_is_quoted() -> None:
    hit = make_hit("The limit is 79 characters.", n=4)
    shown = panel(hit, cite(hit, 4, 9), cite(hit, 13, 15))
    assert 'id="source-1-1" data-collection="default" data-document="4" data-start="50" data-end="77"' in shown
    assert 'data-quotes="54-59,63-65"' in shown
    judged(shown)


def test_a_collection_with_a_name_of_its_own_is_named_as_it_is() -> None:
    turn = replace(make_turn(hits=(make_hit(),)), asked=Asked("中文资料"))
    assert 'data-collection="中文资料"' in sources_html([turn], CHINESE)


def test_what_no_passage_has_is_underlined_where_it_stands() -> None:
    text = "It takes **40 days**, says Bob [1], and `40` more."
    marks = [(11, 13, "number"), (27, 30, "name"), (41, 43, "number")]
    shown = answer_markup(text, {1: "yes"}, 1, ENGLISH, marks)
    flag = f'<span class="flag" title="{ENGLISH.flag_number}">40</span>'
    assert f"<strong>{flag} days</strong>" in shown and f"<code>{flag}</code>" in shown
    assert f'title="{ENGLISH.flag_name}">Bob</span> <sup>' in shown
    judged(sealed(shown))


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.one_of(st.characters(), st.sampled_from("*`[]1\ue000\ue001;\n# -|")), max_size=40),
    st.lists(
        st.tuples(st.integers(-3, 50), st.integers(-3, 50), st.sampled_from(["number", "name", "<b>"])), max_size=4
    ),
)
def test_marks_anywhere_add_nothing_but_underlines(text: str, marks: list[tuple[int, int, str]]) -> None:
    shown = sealed(answer_markup(text, {1: None}, 1, ENGLISH, marks))
    judged(shown)
    assert "\ue000" not in shown and "\ue001" not in shown


def test_how_an_answer_was_found_is_told_under_it() -> None:
    hit = make_hit()
    turn = make_turn(
        "and its price?", state="done", text="A [1].", hits=(hit, hit), given=1, model="tiny", checked=True,
        queries=("and its price?", "price of the pump"), confidence=1.25, threshold=1.0, prompt_version="7",
        timings={"search": 14.0, "search.dense": 2.0, "first_token": 820.0, "prompt_tokens": 1320.0, "total": 900.0},
        clock={"searched": 0.02, "first": 0.85, "total": 1.5},
    )  # fmt: skip
    said = " ".join("".join(judged(turn_html(turn, ENGLISH)).text).split())
    for part in (
        "and its price?price of the pump", "2 found, 1 of them read by the model", "1.25 (an answer needs 1)",
        "Written bytiny", "Instructions7", "1,320 read", "searched in 20 ms · first word after 850 ms · done in 1.5 s",
        "search 14 ms (search by meaning 2 ms)", "reading 820 ms",
    ):  # fmt: skip
        assert part in said, part


def test_a_refusal_names_the_nearest_passages() -> None:
    hits = tuple(make_hit(title=f"Title {n}", headings=("Part",), n=n) for n in range(1, 6))
    turn = make_turn(state="done", refused=True, checked=True, hits=hits, notes=(Note("note", "refused"),))
    shown = turn_html(turn, ENGLISH)
    judge = judged(shown)
    assert judge.links == ["#source-1-1", "#source-1-2", "#source-1-3"] and ENGLISH.refused in shown
    assert "Title 3Part · page 3" in "".join("".join(judge.text).split("  ")).replace(" Part", "Part")


def test_a_note_is_said_in_the_language_of_the_reader_whatever_was_kept() -> None:
    turn = make_turn(
        state="stopped", notes=(Note("cut", "too_long", {"n": 5}), Note("note", "stages"), Note("cut", ""))
    )
    assert CHINESE.too_long.format(n=5) in turn_html(turn, CHINESE)
    turn = make_turn(state="cut", text="half", notes=(Note("cut", "too_long", {}),))
    assert html.escape(ENGLISH.ended) in turn_html(turn, ENGLISH)


def test_conversations_stand_under_their_days() -> None:
    import time

    now = time.mktime((2026, 3, 11, 15, 0, 0, 0, 0, -1))
    ages = {"now": 0, "before midnight": 16 * 3600, "days ago": 4 * 86400, "long ago": 40 * 86400}
    chats = [Conversation(f"c{n}", name, 0, now - age, Asked()) for n, (name, age) in enumerate(ages.items())]
    said = "|".join(
        text for text in judged(chats_html(chats, "c2", set(), ENGLISH, now)).text if text in ages or "y" in text
    )
    order = ["Today", "now", "Yesterday", "before midnight", "Last seven days", "days ago", "Earlier", "long ago"]
    assert [part for part in said.split("|") if part in order] == [part for part in order if part in said.split("|")]
    assert chats_html(chats, "c2", set(), ENGLISH, now).count('aria-current="page"') == 1


def test_the_list_of_keys_is_harmless_too() -> None:
    for words in (ENGLISH, CHINESE):
        judged(help_html(words))
