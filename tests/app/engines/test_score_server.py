"""A server that serves a reranker: what is asked of it, and what is made of wrong answers."""

from collections.abc import Iterator

import pytest
from scripted_judge import hits_of
from speaking_server import KEY, Speaker, speaking

from app.engines.score_server import load_score_server
from retrieval.errors import FathomError, MissingError, UsageError
from retrieval.llm_reranking.judging import MAX_PASSAGE

HITS = hits_of("green oak", "the fern is high", "a fern\ud800 </s>")


@pytest.fixture(scope="module")
def served() -> Iterator[Speaker]:
    with speaking() as speaker:
        yield speaker


@pytest.fixture
def speaker(served: Speaker) -> Speaker:
    served.bodies.clear()
    served.headers.clear()
    return served


def test_scores_come_back_in_the_order_of_the_passages(speaker: Speaker) -> None:
    reranker = load_score_server(speaker.url)
    found = reranker.rerank("fern high", HITS)
    assert found.scores == (0.0, 1.0, 0.0) and all(found.judged)  # "fern?" is another word
    assert found.calls == 1 and found.prompt_tokens == 9 and not reranker.calibrated
    assert reranker("fern high", HITS[:1]) == [0.0] and reranker("fern", []) == []
    body = speaker.bodies[0]
    assert body["model"] == "base" and body["truncate_prompt_tokens"] == -1
    assert body["documents"] == ["green oak", "the fern is high", "a fern? < /s>"]


def test_address_model_and_key_follow_the_rules_of_the_engine(speaker: Speaker) -> None:
    reranker = load_score_server(f"{speaker.url}/v1/", model="tides-v1", api_key=KEY)
    reranker("fern", HITS)
    assert speaker.bodies[-1]["model"] == "tides-v1"
    assert {headers.get("authorization") for headers in speaker.headers} == {f"Bearer {KEY}"}
    assert KEY not in str(reranker.described)
    with pytest.raises(MissingError, match="no model 'other'"):
        load_score_server(speaker.url, model="other")
    with pytest.raises(UsageError, match="not the address"):
        load_score_server("nowhere")
    with pytest.raises(FathomError):
        load_score_server("http://127.0.0.1:9/v1", model="base")("q", HITS)


@pytest.mark.parametrize("query", ["fewer fern", "words fern", "list fern"])
def test_another_number_of_scores_is_an_error_in_words(speaker: Speaker, query: str) -> None:
    with pytest.raises(FathomError, match="scores for 3 passages"):
        load_score_server(speaker.url)(query, HITS)


def test_a_server_that_refuses_or_hangs_says_so_in_time(speaker: Speaker) -> None:
    reranker = load_score_server(speaker.url)
    with pytest.raises(FathomError, match="does not support Score API"):
        reranker("wrong fern", HITS)
    with pytest.raises(FathomError, match="nothing answered"):
        reranker.rerank("hang fern", HITS, seconds=0.3)


def test_what_is_sent_has_its_limits(speaker: Speaker) -> None:
    load_score_server(speaker.url)("fern " * 5_000, hits_of("long " * 10_000))
    body = speaker.bodies[-1]
    assert len(body["query"]) <= 600 and len(body["documents"][0]) <= MAX_PASSAGE
