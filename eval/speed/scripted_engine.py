"""A language model that needs exactly as long as it is told to, behind the OpenAI protocol, so that only what stands
around it is measured: `python -m eval.speed.scripted_engine PORT --first 1 --tokens 20 --gap 0.02`.

It begins with MARK and goes on with a sentence of the passages that it is shown, so that its answers are supported and
stand as they are written.
"""

import argparse
import asyncio
import json
import re
from collections.abc import AsyncIterator
from itertools import cycle, islice
from typing import Any

MARK = "Verily"
"""A word that stands in no passage: where it appears, the first token has arrived."""
NAME = "scripted"
_PASSAGE = re.compile(r'<passage number="\d+"[^>]*>\n(.*?)</passage \d+>(.*)', re.DOTALL)
_WORDS = re.compile(r"[^\W\d_]+")


def words_for(prompt: str, tokens: int) -> list[str]:
    """`tokens` pieces of text, a word each: of the sentence that has most words besides those of the question, which
    would bear nothing out."""
    shown, asked = "", prompt
    while found := _PASSAGE.search(asked):
        shown, asked = f"{shown}\n{found[1]}", found[2]
    known = set(_WORDS.findall(asked.casefold()))
    sentences = [_WORDS.findall(part) for part in re.split(r"(?<=[.!?。！？])|\n", shown)]
    best = max(sentences, key=lambda words: len({word.casefold() for word in words} - known))
    return [MARK, *(f" {word}" for word in islice(cycle(best or ["nothing"]), tokens - 2)), "."][:tokens]


def application(first: float, tokens: int, gap: float) -> Any:
    """The server: the first token after `first` seconds, each further one `gap` seconds later."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    last: dict[str, Any] = {}

    async def models(request: Request) -> Response:
        card = {"id": NAME, "object": "model", "owned_by": NAME, "max_model_len": 8192}
        return JSONResponse({"object": "list", "data": [card]})

    async def remembered(request: Request) -> Response:
        return JSONResponse(last)

    async def chat(request: Request) -> Response:
        body = await request.json()
        last.clear()
        last.update(body)
        prompt = str(body["messages"][-1]["content"])

        async def events() -> AsyncIterator[str]:
            pieces = words_for(prompt, tokens)
            for number, piece in enumerate(pieces):
                await asyncio.sleep(gap if number else first)
                yield _event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            counts = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(pieces)}
            counts["total_tokens"] = sum(counts.values())
            yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            yield _event({"choices": [], "usage": counts})
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    routes = [
        Route("/v1/models", models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/last", remembered),
    ]
    return Starlette(routes=routes)


def _event(data: Any) -> str:
    return f"data: {json.dumps(data)}\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="A language model that needs exactly as long as it is told to.")
    parser.add_argument("port", type=int)
    parser.add_argument("--first", type=float, default=1.0, help="seconds to the first token")
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--gap", type=float, default=0.02, help="seconds between two tokens")
    options = parser.parse_args()
    import uvicorn

    served = application(options.first, options.tokens, options.gap)
    uvicorn.run(served, host="127.0.0.1", port=options.port, log_level="warning", access_log=False, lifespan="off")


if __name__ == "__main__":
    main()
