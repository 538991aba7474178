"""A server that serves a reranker (vLLM with a sequence classification model, llama.cpp, Infinity, Jina) → scores of
hits, by its `/rerank`. Addresses, keys and time limits are those of the server engine."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.engines.server import load_server, sendable
from retrieval.errors import FathomError
from retrieval.llm_reranking.judging import passage_lines, query_line
from retrieval.llm_reranking.outcome import Reranked
from retrieval.passages import Hit

if TYPE_CHECKING:
    from app.engines.endpoint import Endpoint

SECONDS = 60.0
"""For one request, where no limit is given."""


class ServerReranker:
    """Scores on the server's own scale; vLLM's are sigmoids. Not calibrated: whose model it is, the server knows."""

    calibrated = False

    def __init__(
        self, endpoint: "Endpoint", model: str, *, speaks_vllm: bool = False, seconds: float = SECONDS
    ) -> None:
        self._endpoint, self.model, self._speaks_vllm, self.seconds = endpoint, model, speaks_vllm, seconds

    @property
    def described(self) -> dict[str, Any]:
        """What decides the scores, for records."""
        return {"kind": "score server", "url": self._endpoint.url, "model": self.model}

    def __call__(self, query: str, hits: Sequence[Hit]) -> list[float]:
        """One score for each hit, in their order. Raises FathomError."""
        return list(self.rerank(query, hits).scores)

    def rerank(self, query: str, hits: Sequence[Hit], *, seconds: float | None = None) -> Reranked:
        """`seconds` in place of the reranker's own limit. Raises FathomError for a server that is not there, does not
        score, or does not answer in time."""
        if not hits:
            return Reranked((), ())
        began = time.monotonic()
        body: dict[str, Any] = {
            "model": self.model,
            "query": query_line(query),
            "documents": [_text(hit) for hit in hits],
        }
        if self._speaks_vllm:  # longer pairs than the model reads are cut, not refused
            body["truncate_prompt_tokens"] = -1
        answer = self._endpoint.post(f"{self._endpoint.url}/rerank", sendable(body), seconds=seconds or self.seconds)
        usage = answer.get("usage") if isinstance(answer, dict) else None
        tokens = usage.get("prompt_tokens", usage.get("total_tokens")) if isinstance(usage, dict) else None
        return Reranked(
            tuple(_scores(answer, len(hits), self._endpoint.url)),
            (True,) * len(hits),
            calls=1,
            seconds=time.monotonic() - began,
            prompt_tokens=tokens if isinstance(tokens, int) else None,
            completion_tokens=0 if isinstance(tokens, int) else None,
        )

    def close(self) -> None:
        """Hang up."""
        self._endpoint.close()


def _text(hit: Hit) -> str:
    title, text = passage_lines(hit)
    return f"{title}\n{text}" if title else text


def _scores(answer: Any, count: int, url: str) -> list[float]:
    """One for each passage. Raises FathomError for anything else."""
    rows = answer.get("results") if isinstance(answer, dict) else None
    scores: dict[int, float] = {}
    for row in rows if isinstance(rows, list) else []:
        place = row.get("index") if isinstance(row, dict) else None
        score = row.get("relevance_score") if isinstance(row, dict) else None
        if type(place) is int and isinstance(score, int | float) and not isinstance(score, bool):
            scores[place] = float(score)
    if sorted(scores) != list(range(count)):
        raise FathomError(
            f"the server at {url} gave {len(scores)} scores for {count} passages; it must serve a reranker whose "
            "/rerank answers like vLLM's"
        )
    return [scores[place] for place in range(count)]


def load_score_server(
    url: str, *, model: str | None = None, api_key: str | None = None, seconds: float = SECONDS
) -> ServerReranker:
    """The reranker `model` at `url`; None is the one model that the server has. Raises what `load_server` raises."""
    found = load_server(url, model=model, api_key=api_key)
    return ServerReranker(found.endpoint, found.model_name, speaks_vllm=found.speaks_vllm, seconds=seconds)
