"""Merges are those that counting everything anew after each one would give; pruning leaves no row without a use."""

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.vocabulary.counting import Piece
from adapt.vocabulary.merges import BROKEN, LITTLE, OVER, Limits, Refused, _greedy, applied, learn

PIECES = st.lists(
    st.tuples(st.text("abc", min_size=2, max_size=12), st.integers(1, 9)),
    min_size=1,
    max_size=12,
    unique_by=lambda p: p[0],
)
ALL = Limits(tokens=4, frequency=2, documents=1, saving=0)


def pieces_of(pairs: list[tuple[str, int]]) -> list[Piece]:
    return [Piece(tuple(text), count, [number]) for number, (text, count) in enumerate(pairs)]


def merged(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    while tokens:
        joined = tuple(tokens[:2]) == pair
        result.append("".join(pair) if joined else tokens[0])
        tokens = tokens[1 + joined :]
    return result


def by_counting_anew(pieces: list[Piece], limits: Limits, most: int) -> list[tuple[str, str]]:
    words = [(list(piece.tokens), piece.count) for piece in pieces]
    merges: list[tuple[str, str]] = []
    while len({"".join(pair) for pair in merges}) < most:
        counts: Counter[tuple[str, str]] = Counter()
        for tokens, count in words:
            for pair in pairwise(tokens):
                counts[pair] += count
        left = {pair: count for pair, count in counts.items() if pair not in merges and count >= limits.frequency}
        if not left:
            break
        best = min(left, key=lambda pair: (-left[pair], pair))
        merges.append(best)
        words = [(merged(tokens, best), count) for tokens, count in words]
    return merges


@settings(max_examples=300, deadline=None)
@given(pairs=PIECES)
def test_counts_kept_up_to_date_choose_what_counting_anew_does(pairs: list[tuple[str, int]]) -> None:
    pieces = pieces_of(pairs)
    words = [(list(piece.tokens), piece) for piece in pieces]
    found = _greedy(words, ALL, lambda token: True, Refused(), lambda *_: None)
    assert found == by_counting_anew(pieces, ALL, 10**6)


@settings(max_examples=300, deadline=None)
@given(pairs=PIECES)
def test_each_merge_saves_a_token_and_every_row_has_a_use(pairs: list[tuple[str, int]]) -> None:
    pieces = pieces_of(pairs)
    found = learn(pieces, ALL, lambda token: True)
    assert len(found.terms) <= ALL.tokens
    terms = applied(pieces, found.merges)
    assert list(terms) == [term.token for term in found.terms]
    parts = {part for pair in found.merges for part in pair}
    for term in found.terms:
        assert term.token in parts or term.stays == term.saved >= ALL.frequency
        assert "".join(found.split(term.token)) == term.token
        assert all(len(letter) == 1 for letter in found.split(term.token))
    for piece in pieces:
        tokens = list(piece.tokens)
        before = len(tokens)
        for _ in range(before):
            ranks = [
                (found.merges.index(pair), place) for place, pair in enumerate(pairwise(tokens)) if pair in found.merges
            ]
            if ranks:
                place = min(ranks)[1]
                tokens[place : place + 2] = ["".join(tokens[place : place + 2])]
        saved = applied([Piece(piece.tokens, 1)], found.merges)
        assert sum(term.saved for term in saved.values()) == before - len(tokens)


def test_a_step_stays_only_where_a_word_is_built_on_it() -> None:
    """Three bytes of a Chinese letter: the first two are a step; they go where no letter on them is frequent."""
    water, drop = ("æ", "°", "´"), ("æ", "°", "µ")
    pieces = [Piece(water, 90, [1]), Piece(drop, 9, [2])]
    found = learn(pieces, Limits(tokens=5, frequency=20, documents=1, saving=0), lambda token: True)
    assert [term.token for term in found.terms] == ["æ°", "æ°´"]
    assert [(term.saved, term.stays) for term in found.terms] == [(99, 9), (90, 90)]
    rare = learn(pieces, Limits(tokens=5, frequency=95, documents=1, saving=0), lambda token: True)
    assert not rare.terms and not rare.merges and rare.refused.counts == {BROKEN: 1}


def test_the_least_useful_leaf_goes_first_and_says_why() -> None:
    pieces = [
        Piece(("k", "ly", "stron"), 50, [1]),
        Piece(("mag", "netron"), 40, [2]),
        Piece(("wave", "guide"), 30, [3]),
    ]
    found = learn(pieces, Limits(tokens=3, frequency=1, documents=1, saving=35), lambda token: True)
    assert [term.token for term in found.terms] == ["kly", "klystron", "magnetron"]
    assert found.refused.counts == {} and found.split("klystron") == ("k", "ly", "stron")
    fewer = learn(pieces, Limits(tokens=2, frequency=1, documents=1, saving=0), lambda token: True)
    assert [term.token for term in fewer.terms] == ["kly", "klystron"]
    assert fewer.refused.counts == {OVER: 2} and LITTLE not in fewer.refused.counts


def test_what_is_there_already_is_no_new_token() -> None:
    found = learn([Piece(("a", "b"), 50, [1])], Limits(9, 1, 1, 0), lambda token: token != "ab")
    assert not found.merges


def test_a_hundred_thousand_letters_without_a_space_are_learned_from_in_parts() -> None:
    found = learn([Piece(("a", "b") * 50_000, 1, [1])], Limits(20, 8, 1, 0), lambda token: True)
    assert found.terms[0].token == "ab" and found.terms[0].saved == 50_000
