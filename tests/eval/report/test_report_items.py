"""Records of every form → what the page shows: citations at their place, texts cleaned and cut, the right ones kept."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from made_runs import answers, every_kind, retrieval

from eval.report.items import PASSAGE, gold_spans, item, segments, select, value_of, with_badges
from eval.report.text import SHORTENED, plain


def shown(record: dict[str, Any], metric: str | None = "F1", before: dict[str, Any] | None = None) -> dict[str, Any]:
    return item(record, 0, metric, before)


def test_a_citation_is_marked_where_its_offsets_say_in_code_points() -> None:
    text = "前言𝔘𝔫。每行最多 79 个字符。"
    quote = "79 个字符"
    start = 1000 + text.index(quote)
    record = {
        "id": "a",
        "passages": [{"n": 1, "document": "d", "start": 1000, "end": 1000 + len(text), "text": text}],
        "citations": [{"n": 1, "start": start, "end": start + len(quote), "quote": quote}],
    }
    assert shown(record)["ps"][0]["s"] == [["前言𝔘𝔫。每行最多 ", ""], [quote, "c"], ["。", ""]]


def test_wrong_offsets_fall_back_to_the_words_and_a_quote_from_elsewhere_stands_apart() -> None:
    passage = {"n": 1, "document": "d", "start": 0, "text": "one two three"}
    wrong = {"n": 1, "start": 0, "end": 3, "quote": "two"}
    elsewhere = {"n": 1, "start": 900, "end": 904, "quote": "four"}
    other = {"n": 2, "start": 0, "end": 3, "quote": "one"}
    found = shown({"id": "a", "passages": [passage], "citations": [wrong, elsewhere, other, "?", None]})["ps"][0]
    assert found["s"] == [["one ", ""], ["two", "c"], [" three", ""]]
    assert found["x"] == ["four"]


def test_gold_spans_of_answers_and_of_searches_are_marked_too() -> None:
    passage = {"n": 1, "document": "d", "start": 10, "text": "abcdefgh"}
    record = {
        "id": "a",
        "passages": [passage],
        "citations": [{"n": 1, "start": 12, "end": 16, "quote": "cdef"}],
        "evidence": [[{"document": "d", "start": 14, "end": 99}], [{"document": "other", "start": 10, "end": 12}]],
    }
    assert shown(record)["ps"][0]["s"] == [["ab", ""], ["cd", "c"], ["ef", "cg"], ["gh", "g"]]
    assert gold_spans({"spans": [["d", 1, 2], ["d", "x", 2]]}) == [("d", 1, 2)]


@given(st.text(max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from("cg"))))
def test_segments_put_together_are_the_text(text: str, spans: list[tuple[int, int, str]]) -> None:
    inside = [(a, b, kind) for a, b, kind in spans if a < b <= len(text)]
    pieces = segments(text, inside)
    cut = sorted({0, len(text), *(end for a, b, _ in inside for end in (a, b))})
    assert "".join(piece for piece, _ in pieces) == "".join(
        plain(text[a:b]) for a, b in zip(cut, cut[1:], strict=False)
    )


def test_a_long_passage_keeps_what_is_cited_and_says_that_it_is_shortened() -> None:
    text = "x" * 50_000 + "THE QUOTE" + "y" * 50_000
    pieces = segments(text, [(50_000, 50_009, "c")])
    assert ["THE QUOTE", "c"] in pieces
    assert sum(len(piece) for piece, _ in pieces) < 2 * PASSAGE
    assert SHORTENED.strip() in pieces[0][0] and SHORTENED in pieces[-1][0]
    assert segments("z" * 50_000, [])[0][0].endswith(SHORTENED)


def test_only_numbers_of_passages_become_badges() -> None:
    passages = [{"n": 1}, {"n": 2}]
    assert with_badges("A [1], B [7] and C [1, 2].", {"1": "yes"}, passages) == [
        "A", [1, "yes"], ", B [7] and C", [1, "yes"], [2, ""], ".",
    ]  # fmt: skip


def test_pairs_are_divided_and_what_is_no_number_is_none() -> None:
    assert value_of([3, 4]) == 0.75
    assert [value_of(x) for x in ([1, 0], None, "1", True, [1], float("nan"), [1, "2"], {})] == [None] * 8


def test_hidden_and_reordering_characters_are_gone() -> None:
    record = {
        "id": "a\u202eb\x1b[31m",
        "text": "q\u2066\u200b\x00\ud800",
        "answer": "x\u202e" + "a\u0301" + "\u0301" * 50,
    }
    found = shown(record)
    assert (found["i"], found["q"]) == ("ab[31m", "q\ufffd")
    assert found["a"] == ["xa" + "\u0301" * 3]
    json.dumps(found, ensure_ascii=False).encode()  # no lone surrogate is left


def test_a_search_shows_its_hits_with_the_relevant_ones_marked() -> None:
    record = {
        "id": "q",
        "text": "?",
        "metrics": {"nDCG@10": 0.5},
        "rankings": {"lexical": [["d1", 3.0], ["d2", 2.0]], "hybrid": [[f"d{i}", 1.0] for i in range(30)]},
        "relevant": {"d2": 1, "d9": 0},
        "hits": [{"document": "d2", "title": "T", "start": 0, "end": 900, "page": 3, "text": "short"}],
        "passages": {"hybrid": [["d2", 1.0]]},
    }
    found = shown(record, "nDCG@10")
    assert found["ps"] == [{"n": 1, "h": "T", "s": [["short", ""]], "w": "d2 · p. 3", "g": 1}]
    facts = dict(found["f"])
    assert facts["rankings"].startswith("lexical: d1 · d2 ✓\nhybrid: d0 · d1 · d2 ✓ · ")
    assert facts["rankings"].endswith("… (20 more)") and facts["passages"] == "hybrid: d2 ✓"


def test_every_other_field_is_shown_by_its_name() -> None:
    verdicts = [{"metric": "faithfulness", "of": "a claim", "verdict": "yes", "tries": []}]
    record = {
        "id": "j",
        "verdicts": verdicts,
        "signals": {"dense": 0.51234567},
        "odd": [[{"x": None}], 1],
        "none": None,
    }
    facts = dict(shown(record)["f"])
    assert facts["verdicts"] == "metric faithfulness · of a claim · verdict yes"
    assert facts["signals"] == "dense 0.51235"
    assert set(facts) == {"verdicts", "signals", "odd"}


def test_before_and_now_say_which_way_is_up() -> None:
    better = shown(
        {"id": "t", "metrics": {"bits_per_byte": [8, 10]}}, "bits_per_byte", {"metrics": {"bits_per_byte": 1.0}}
    )
    assert (better["d"], better["w"]) == (0.2, 1.0)
    changed = shown(
        {"id": "a", "answer": "new", "metrics": {"F1": 0.1}}, "F1", {"answer": "old", "metrics": {"F1": 0.6}}
    )
    assert (changed["d"], changed["b"]) == (-0.5, "old")


def test_of_too_many_the_errors_the_worst_the_losses_and_the_best_are_kept() -> None:
    records = {f"i{n}": {"id": f"i{n}", "text": "t" * 500, "metrics": {"F1": n / 5000}} for n in range(5000)}
    records["i2500"] = {"id": "i2500", "text": "t", "metrics": {}, "error": "lost"}
    before = {"i1234": {"metrics": {"F1": 1.0}}}
    selection = select([("F1", records, before)], most_bytes=60_000)
    kept = {shown["i"] for shown in selection.items}
    assert {"i2500", "i1234", "i0", "i1", "i4999", "i4998"} <= kept and "i2000" not in kept
    assert selection.total == 5000 and selection.left_out == 5000 - len(selection.items) > 4000
    assert len(json.dumps(selection.items)) < 62_000
    numbers = [int(shown["i"][1:]) for shown in selection.items]
    assert numbers == sorted(numbers), "in the order of the run"


def test_parts_share_the_room() -> None:
    part = {f"i{n}": {"id": f"i{n}", "text": "t" * 500, "metrics": {}} for n in range(300)}
    items = select([(None, part, {}), (None, part, {})], most_bytes=50_000).items
    counts = [sum(shown["p"] == place for shown in items) for place in (0, 1)]
    assert abs(counts[0] - counts[1]) <= 1 and sum(counts) > 40


def test_records_of_every_kind_are_shown() -> None:
    for part in every_kind().values():
        for record in part["records"]:
            found = shown(record)
            assert found["q"] and json.dumps(found)
    cited = [
        shown(record)["ps"][record["citations"][0]["n"] - 1]
        for record in answers()["records"]
        if record.get("citations")
    ]
    assert cited and all("c" in [marks for _, marks in passage["s"]] for passage in cited)
    assert all("t" in shown(record, "nDCG@10") for record in retrieval()["records"])


NAMES = st.sampled_from(["n", "text", "start", "end", "quote", "document", "role", "relevant", "a"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
    max_leaves=12,
)


@given(VALUES)
def test_no_form_of_record_breaks_the_page(value: Any) -> None:
    names = "text answer metrics timings passages hits citations golds evidence spans relevant rankings".split()
    for name in names:
        json.dumps(shown({"answer": "x [1]", "id": "a", name: value}), allow_nan=False)
