"""What stages say of their own work becomes tables that a reader understands, whatever the report holds."""

from typing import Any

from adapt.evidence.stage_blocks import told
from eval.report.blocks import Block


def term(text: str, pieces: list[str], *, stands: int = 5, saving: float = 0.001) -> dict[str, Any]:
    return {"text": text, "pieces": pieces, "frequency": 9, "stands": stands, "documents": 3, "saving": saving}


VOCABULARY: dict[str, Any] = {
    "identity": "abc",
    "corpus": {"name": "domain", "sha256": "0" * 64},
    "tokens_added": 14,
    "saving": {"train": 0.05, "held_out": 0.025},
    "never_longer": {
        "train": {"texts": 30, "shorter": 20, "same": 10, "longer": 0, "tokens_before": 2000, "tokens_after": 1900},
        "strange": {"texts": 100, "shorter": 40, "same": 60, "longer": 0, "tokens_before": 400, "tokens_after": 300},
    },
    "warmed": {"tokens": 4096, "first_loss": 3.5, "last_loss": 3.25, "steps": 4},
    "distilled": None,
    "found": {
        "documents": 30,
        "terms": [
            term("\ufffd", ["\ufffd", "\ufffd"]),
            term("never alone", ["never", " alone"], stands=0),
            term(" klystron", [" kly", "stron"]),
            term("水轮机", ["水", "\ufffd", "\ufffd", "机"]),
            *(term(f"term{letter}", ["term", letter]) for letter in "abcdefghij"),
        ],
        "refused": {"not letters only": {"count": 57, "examples": [" 2", "20"]}},
    },
}
CHANGES = {"domain bits_per_byte": {"base": 1.453, "value": 1.45}}


def by_title(blocks: list[Block]) -> dict[str, Block]:
    assert len({block.title for block in blocks}) == len(blocks)
    return {block.title: block for block in blocks}


def test_domain_tokens_are_told_in_tables() -> None:
    found = by_title(told({"vocabulary": VOCABULARY}, CHANGES))
    assert [*found] == ["Domain tokens", "New tokens", "Candidates that were not added", "Also recorded"]
    whole = found["Domain tokens"]
    assert whole.note == (
        "14 tokens added. None of 130 texts got longer. Bits per byte of domain, held out: 1.4530 in the base, 1.4500 "
        "now. The new rows were trained alone on 4,096 tokens: loss 3.500 → 3.250."
    )
    assert [*map(list, whole.rows)] == [
        ["texts to train on", "30", "2,000", "1,900", "5.00%", "20", "0"],
        ["random strings", "100", "400", "300", "25.00%", "40", "0"],
    ]
    terms = [*map(list, found["New tokens"].rows)]
    assert len(terms) == 10, "ten examples"
    assert terms[:2] == [
        ["␣klystron", "␣kly · stron", "5", "3", "0.100%"],
        ["水轮机", "水 · ▯ · ▯ · 机", "5", "3", "0.100%"],
    ]
    assert [*map(list, found["Candidates that were not added"].rows)] == [["not letters only: ␣2, 20 …", "57"]]
    assert not any(block.text for block in found.values()), "no JSON"
    said = str(found["Also recorded"].rows)
    assert "identity" in said and "abc" in said and "counted: documents" in said


def test_a_text_that_got_longer_is_not_hidden() -> None:
    parts = {"train": {"texts": 30, "shorter": 20, "longer": 2, "tokens_before": 2000, "tokens_after": 1900}}
    (block, *_) = told({"vocabulary": {"never_longer": parts}}, {})
    assert "2 of 30 texts got longer." in block.note and block.rows[0][-1] == "2"


def test_what_was_selected_is_told_in_tables() -> None:
    report = {
        "passages": 351, "gold_passages": 120, "passages_selected": 21, "documents_selected": 15, "tokens": 3997,
        "similarity": {"selected": {"least": 0.44, "median": 0.5667, "nine_tenths": 0.66, "most": 0.67}},
        "clusters": [{"selected": 6, "selected_tokens": 1023, "similarity": 0.64, "example": "Four first"}],
        "examples": {"nearest": [{"id": "a.md#0-9", "text": "near", "similarity": 0.67}], "furthest": []},
    }  # fmt: skip
    found = by_title(told({"selection": report, "blocks": {"selected": {"rows": 4, "tokens": 3997}}}, {}))
    assert [*found] == ["Selected text", "Topics that share it", "The nearest of them", "Also recorded"]
    assert "21 passages of 15 documents, 3,997 tokens" in found["Selected text"].note
    assert found["Selected text"].rows[0] == ["selected", "0.440", "0.567", "0.660", "0.670"]
    assert found["Topics that share it"].rows[0] == ["Four first", "6", "1,023", "0.640"]
    assert found["The nearest of them"].rows[0] == ["a.md#0-9: near", "0.670"]


def test_reports_of_another_shape_are_shown_without_failing() -> None:
    for value in (None, [], "text", 3, {"never_longer": 3, "found": [], "saving": "x"}, {"found": {"terms": [3, {}]}}):
        told({"vocabulary": value}, {})
        told({"selection": value, "more": value}, {})
    odd = {"never_longer": {"train": 5}, "found": {"terms": [{"text": None, "pieces": None}], "refused": {"a": 1}}}
    assert told({"vocabulary": odd}, {"domain bits_per_byte": {"base": "?"}})
    assert told({"selection": {"clusters": [1], "similarity": {"a": 2}, "examples": {"nearest": [None]}}}, {})
