"""Passages shortened to their telling sentences: what is kept, in which order, and what is never taken apart."""

import re

from fakes import HashingEmbedder
from hypothesis import given
from hypothesis import strategies as st

from retrieval.packing import LEAST_SHOWN, pack
from retrieval.passages import Document, Hit, Passage, Scores, Source
from retrieval.prompts import answer_messages
from retrieval.shortening import GAP, shorten


def hit(text: str, number: int = 1) -> Hit:
    passage = Passage(number, number, 0, 0, len(text), None, (), text, 1)
    return Hit(number, 1 / number, passage, Source(number, f"{number}.txt", "", "txt", "", {}), Scores())


def words(text: str) -> int:
    return len(text.split())


PROSE = (
    "Boats were many then. Nets hung on every wall. Fish was sold there. Salt came later. "
    "The harbour wall was built by Anna Reed. It is nine metres high. Gulls sat upon it. "
    "Rope was made of hemp. Ships left at dawn. Bells rang at noon. Lamps burned at night."
)


def test_the_sentence_that_answers_is_kept_with_its_neighbours_in_order() -> None:
    (shown,) = shorten("Who built the harbour wall?", [hit(PROSE)], room=24, count=words)
    assert "The harbour wall was built by Anna Reed. It is nine metres high." in shown
    assert shown.startswith(GAP) and shown.endswith(GAP)
    assert words(shown.replace(GAP, "")) <= 24
    pieces = [piece.strip() for piece in shown.split(GAP) if piece.strip()]
    assert all(piece in PROSE for piece in pieces)
    assert [PROSE.index(piece) for piece in pieces] == sorted(PROSE.index(piece) for piece in pieces)


def test_a_passage_that_has_room_is_its_own_text() -> None:
    odd = "  First.\n\n\nSecond.   Third.  "
    assert shorten("What?", [hit(odd)], room=100, count=words) == [odd]


def test_room_goes_to_the_passage_that_answers() -> None:
    other = "Bread is made of flour. Water goes into it. Yeast lets it rise. Salt gives it taste. Ovens bake it."
    one, two = shorten("Who built the harbour wall?", [hit(other), hit(PROSE, 2)], room=30, count=words)
    assert "Anna Reed" in two and words(two) > words(one) > 0


def test_chinese_sentences_are_chosen_too() -> None:
    text = "船很多。渔网挂在墙上。盐后来才有。港口的墙是安娜建造的。海鸥坐在上面。绳子是麻做的。船在黎明出发。"
    (shown,) = shorten("港口的墙是谁建造的？", [hit(text)], room=22, count=len)
    assert "港口的墙是安娜建造的。" in shown and GAP in shown and "黎明" not in shown


def test_meaning_helps_where_an_embedder_is_at_hand() -> None:
    text = "One thing here. Nothing else. The wall was raised by masons. Another thing. More of it. And the end."
    (shown,) = shorten("wall raised masons", [hit(text)], room=10, count=words, embedder=HashingEmbedder())
    assert "masons" in shown


def test_a_heading_a_table_header_and_a_code_block_stay_with_what_needs_them() -> None:
    text = (
        "# Prices\n\nSome words first. And more words follow. Then others do too.\n\n"
        "| fish | price |\n| --- | --- |\n| cod | 4 crowns |\n| eel | 9 crowns |\n| ray | 7 crowns |\n\n"
        "Run it so:\n\n```\nsell --fish eel\nsell --all\n```\n\nLast words stand here. They say nothing."
    )
    (shown,) = shorten("What is the price of eel?", [hit(text)], room=22, count=words)
    assert "| fish | price |" in shown and "| eel | 9 crowns |" in shown and "# Prices" in shown
    assert "Last words" not in shown
    (shown,) = shorten("How do I run sell --fish eel?", [hit(text)], room=24, count=words)
    assert "Run it so:" in shown and "```\nsell --fish eel\nsell --all\n```" in shown


@given(st.text(alphabet="ab. \n#|`-。，港墙1", max_size=300), st.integers(0, 60))
def test_whatever_the_text_every_piece_stands_in_it(text: str, room: int) -> None:
    (shown,) = shorten("a 港墙 1?", [hit(text)], room=room, count=len)
    if shown != text:
        position = 0
        for piece in re.split(rf"\s*{GAP}\s*", shown):
            assert text.find(piece.strip(), position) >= 0
            position = text.find(piece.strip(), position)


# --- packing and prompt -----------------------------------------------------------------------------------------------


def stored(document_id: int) -> Document:
    return Document(f"{document_id}.txt", PROSE)


def test_what_has_room_is_packed_whole_and_what_has_not_is_shortened() -> None:
    def by(hits, room):  # type: ignore[no-untyped-def]
        return shorten("Who built the harbour wall?", hits, room=room, count=words)

    hits = [hit(PROSE), hit(PROSE.replace("Anna", "Eva").replace("nine", "ten"), 2)]
    whole = pack(hits, stored, room=1000, count=words, shorten=by)
    assert (whole.texts, whole.given) == ((), 2)
    cut = pack(hits, stored, room=80, count=words, shorten=by)
    assert cut.given == 2 and all(GAP in text for text in cut.texts)
    assert [h.passage.text for h in cut.shown] == [h.passage.text for h in hits]  # hits stay as they are
    always = pack(hits, stored, room=1000, count=words, shorten=by, share=0.5)
    assert sum(map(words, always.texts)) < 0.7 * 2 * words(PROSE)
    none = pack(hits, stored, room=LEAST_SHOWN, count=words, shorten=by)
    assert (none.given, none.texts) == (1, ())  # too little for both: the best whole, as without shortening


def test_the_prompt_shows_the_shortened_text_and_numbers_as_before() -> None:
    shown = answer_messages("Who?", [hit("Long one.", 1), hit("Other.", 2)], texts=["Short.", "Other."])[-1].text
    assert '<passage number="1" title="1.txt">\nShort.\n</passage 1>' in shown and "Long one" not in shown
    assert "Other." in shown
