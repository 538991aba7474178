"""True claims made false by rules: something is exchanged for what looks like it, and nothing else changes."""

from random import Random

import pytest

from adapt.claims.falsifying import falsified, names_in, negated, other_name, other_number

PASSAGE = "Anna Lorne built 12 cranes in 1876 and Peter Vale built 30 in 1881. The wall is 4.5 m high, 300 m long."


def every(rule, claim: str, passage: str = PASSAGE) -> set[str | None]:  # type: ignore[no-untyped-def]
    return {rule(claim, passage, Random(seed)) for seed in range(40)}


def test_a_number_becomes_one_of_its_kind() -> None:
    found = every(other_number, "The harbour opened in 1876.")
    assert "The harbour opened in 1881." in found  # the other year of the passage, no other number of it
    assert all(text and text.startswith("The harbour opened in 18") and text != "The harbour opened in 1876."
               for text in found)  # fmt: skip
    assert not any(text in found for text in ("The harbour opened in 300.", "The harbour opened in 12."))


def test_a_claim_without_numbers_or_names_has_none_exchanged() -> None:
    assert every(other_number, "The wall is high.") == {None}
    assert every(other_name, "The wall is high.") == {None}
    assert every(other_name, "Anna Lorne is old.", "Anna Lorne is old.") == {None}


def test_a_name_becomes_another_of_the_passage() -> None:
    assert every(other_name, "The cranes were built by Anna Lorne.") == {"The cranes were built by Peter Vale."}
    assert every(other_name, "小说《灯塔》很有名。", "他写了《灯塔》和《海港》。") == {"小说《海港》很有名。"}


def test_the_first_word_of_a_sentence_is_no_name_for_its_capital() -> None:
    assert [name for _, _, name in names_in("Cranes stood there. Walls too.")] == []
    assert [("Port Lorne")] == [text[a:b] for text in ["He saw the Port Lorne there."] for a, b, _ in names_in(text)]


@pytest.mark.parametrize(
    ("claim", "opposite"),
    [
        ("The wall is high.", "The wall is not high."),
        ("The wall is not high.", "The wall is high."),
        ("It can be opened.", "It can not be opened."),
        ("墙是高的。", "墙不是高的。"),
        ("墙不是高的。", "墙是高的。"),
        ("沒有橋。", "有橋。"),
        ("社会很重要。", None),
        ("Is it high?", None),
        ("He builds walls.", None),
        ("", None),
    ],
)
def test_a_negation_is_put_in_or_taken_out(claim: str, opposite: str | None) -> None:
    assert negated(claim, "", Random(0)) == opposite


def test_what_was_done_is_told_and_the_same_draw_does_the_same() -> None:
    claim = "The wall is 300 m long and was built by Peter Vale."
    found = {falsified(claim, PASSAGE, Random(seed)) for seed in range(40)}
    assert {one[1] for one in found if one} == {"number exchanged", "name exchanged", "negated"}
    assert falsified(claim, PASSAGE, Random(3)) == falsified(claim, PASSAGE, Random(3))
    assert falsified("Nothing here.", PASSAGE, Random(0)) is None
