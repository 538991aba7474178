"""Hits that are worth showing: what is set aside, why, and that the best never is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.passages import Hit, Passage, Scores, Source
from retrieval.selecting import select

LONG = "The old harbour wall of Port Lorne was built by Anna Reed out of grey stone from the northern hills in spring. "


def hit(number: int, text: str = "", *, document: int | None = None, **scores: float) -> Hit:
    text = text or f"Passage number {number} is about thing {number} and says what it is."
    passage = Passage(number, document or number, 0, 0, len(text), None, (), text, 1)
    source = Source(document or number, f"{document or number}.txt", "", "txt", "", {})
    return Hit(number, 1 / number, passage, source, Scores(**scores))


def kept(*hits: Hit, **chosen: object) -> list[int]:
    return [one.passage.id for one in select(hits, **chosen).hits]  # type: ignore[arg-type]


def test_a_share_of_the_best_score_is_needed_where_nothing_reranks() -> None:
    hits = [hit(1, fused=1.0, dense=0.1), hit(2, fused=0.69), hit(3, fused=0.7), hit(4, fused=0.1)]
    assert kept(*hits, least_share=0.7) == [1, 3]
    assert kept(*hits) == [1, 2, 3, 4]
    reasons = {one.hit.passage.id: one.why for one in select(hits, least_share=0.7).set_aside}
    assert reasons == {2: "less relevant", 4: "less relevant"}
    assert kept(hit(1, dense=0.8), hit(2, dense=0.3), least_share=0.5) == [1]
    assert kept(hit(1, lexical=20.0), hit(2, lexical=3.0), hit(3), least_share=0.5) == [1, 3]


def test_a_calibrated_reranker_has_one_threshold_and_another_a_gap() -> None:
    sure = [hit(1, rerank=0.3, fused=1.0), hit(2, rerank=0.1, fused=1.0), hit(3, rerank=0.2, fused=0.0)]
    assert kept(*sure, least_relevance=0.15, least_share=0.9) == [1, 3]
    logits = [hit(1, rerank=3.0), hit(2, rerank=-0.9), hit(3, rerank=-1.1)]
    assert kept(*logits, least_relevance=0.15) == [1, 2]
    assert kept(*logits) == [1, 2, 3]
    small = [hit(1, rerank=0.9), hit(2, rerank=0.1)]
    assert kept(*small, least_relevance=0.5, calibrated=False) == [1, 2]  # logits that happen to lie in [0, 1]


def test_near_copies_of_other_documents_are_named_by_what_they_are_like() -> None:
    one, two = hit(1, LONG * 2), hit(2, LONG + LONG.replace("spring", "autumn"))
    found = select([one, two, hit(3)], near_copy=0.8)
    assert [h.passage.id for h in found.hits] == [1, 3]
    assert [(a.hit.passage.id, a.why) for a in found.set_aside] == [(2, "like 1")]
    assert kept(one, two) == [1, 2]  # switched off
    assert kept(one, hit(2, two.passage.text, document=1), near_copy=0.8) == [1, 2]  # of one document


def test_a_copy_with_other_numbers_is_none() -> None:
    one, two = hit(1, LONG + "It cost 400 crowns."), hit(2, LONG + "It cost 500 crowns.")
    assert kept(one, two, near_copy=0.5) == [1, 2]
    assert kept(one, hit(2, LONG), near_copy=0.5) == [1]
    zh = "港口的旧墙是由安娜用北方山上的灰色石头在春天建造的，后来又多次修缮。"
    assert kept(hit(1, zh), hit(2, zh.replace("春天", "秋天")), near_copy=0.7) == [1]


def test_no_more_than_the_most_are_kept() -> None:
    hits = [hit(n) for n in range(1, 6)]
    assert kept(*hits, most=2) == [1, 2]
    assert select(hits, most=2).set_aside[0].why == "beyond the most passages"
    assert kept(*hits, most=0) == [1]


@given(
    st.lists(st.tuples(st.sampled_from(["", LONG, LONG * 2, "潮 汐", "1 2"]), st.floats(-10, 10)), max_size=8),
    st.floats(0, 1), st.floats(0, 1), st.sampled_from([None, 1, 3]), st.booleans(),
)  # fmt: skip
def test_each_hit_is_kept_or_set_aside_and_one_always_is_kept(
    found: list[tuple[str, float]], least: float, copy: float, most: int | None, rerank: bool
) -> None:
    name = "rerank" if rerank else "fused"
    hits = [hit(n, text, **{name: score}) for n, (text, score) in enumerate(found, 1)]
    selected = select(hits, least_relevance=least, least_share=least, near_copy=copy, most=most)
    assert len(selected.hits) >= min(1, len(hits))
    both = [*selected.hits, *(one.hit for one in selected.set_aside)]
    assert sorted(h.passage.id for h in both) == [h.passage.id for h in hits]
    assert [h.passage.id for h in selected.hits] == sorted(h.passage.id for h in selected.hits)  # order kept


@pytest.mark.parametrize("scores", [{}, {"rerank": 0.9}])
def test_a_hit_without_scores_is_no_reason_to_set_it_aside(scores: dict[str, float]) -> None:
    assert kept(hit(1, **scores), replace(hit(2), scores=Scores()), least_share=0.9, least_relevance=0.5) == [1, 2]
