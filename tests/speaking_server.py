"""A small real HTTP server that speaks the OpenAI protocol as vLLM does, or misbehaves in the way it is asked to."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "sk-very-secret-key"
WORDS = ["Tides", " are", " caused", " by", " the", " moon", "。", "🙂"]


def event(**content: Any) -> str:
    return f"data: {json.dumps(content)}\n\n"


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> str:
    delta = {} if text is None else {"content": text}
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}], **more)


def usage(prompt: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


@dataclass
class Speaker:
    """Speaks as vLLM does; a question whose first word names one of its misbehaviours (`do_…`) gets that instead."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most: int = 0
    left: int = 0
    """Requests whose client hung up before the end."""
    weigh: Callable[[str, dict[str, Any]], dict[str, Any] | None] = lambda path, body: None
    """Answers requests for tokens and probabilities, by path and body; None leaves them to the others."""

    async def models(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        cards = [
            {"id": "base", "owned_by": "vllm", "parent": None, "max_model_len": 2048},
            {"id": "tides-v1", "owned_by": "vllm", "parent": "base", "max_model_len": None},
        ]
        return JSONResponse({"object": "list", "data": cards})

    async def tokenize(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if (told := self.weigh("/tokenize", body)) is not None:
            return JSONResponse(told)
        return JSONResponse({"count": len(body["prompt"].split()), "max_model_len": 2048})

    async def chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if (told := self.weigh(request.url.path, body)) is not None:
            return JSONResponse(told)
        behaviour = str((body.get("messages") or [{"content": body.get("prompt")}])[-1]["content"]).partition(" ")[0]
        answer: Response | None = await getattr(self, f"do_{behaviour}", self.do_speak)(body)
        return answer or self.streamed(self.speak(body))

    def streamed(self, events: AsyncIterator[str | bytes], kind: str = "text/event-stream") -> Response:
        async def watched() -> AsyncIterator[str | bytes]:
            self.running += 1
            self.most = max(self.most, self.running)
            whole = False
            try:
                async for item in events:
                    yield item
                whole = True
            finally:
                self.running -= 1
                self.left += not whole

        return StreamingResponse(watched(), media_type=kind)

    async def speak(self, body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        texts = WORDS[: body["max_tokens"]]
        yield chunk("", usage=usage(7, 0))
        for number, text in enumerate(texts, 1):
            await asyncio.sleep(0.002)
            yield chunk(text, usage=usage(7, number))
        yield chunk(finish="length" if len(texts) < len(WORDS) else "stop")
        yield event(choices=[], usage=usage(7, len(texts)))
        yield "data: [DONE]\n\n"

    async def do_speak(self, body: dict[str, Any]) -> None:
        return None

    async def rerank(self, request: Request) -> Response:
        """Scores by the words that document and query share, best first, as vLLM answers; what some first words of
        a query get instead is wrong."""
        body = json.loads(await request.body())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        words = set(body["query"].split())
        shares = [len(words & set(text.split())) / len(words) for text in body["documents"]]
        rows = [{"index": n, "document": {"text": ""}, "relevance_score": share} for n, share in enumerate(shares)]
        answer: Any = {"results": sorted(rows, key=lambda row: -row["relevance_score"]), "usage": {"total_tokens": 9}}
        match body["query"].partition(" ")[0]:
            case "fewer":
                answer["results"].pop()
            case "words":
                answer = {"results": [{"index": 0, "relevance_score": "high"}]}
            case "list":
                answer = [0.5]
            case "wrong":
                return JSONResponse({"error": {"message": "The model does not support Score API"}}, 400)
            case "hang":
                await asyncio.sleep(60)
        return JSONResponse(answer)

    async def do_never(self, body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str | bytes]:
            number = 0
            while True:
                number += 1
                yield chunk("on and ")
                await asyncio.sleep(0.005)

        return self.streamed(events())

    async def do_hang(self, body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str | bytes]:
            yield ": ping\n\n"
            await asyncio.sleep(60)

        return self.streamed(events())

    async def do_silent(self, body: dict[str, Any]) -> None:
        await asyncio.sleep(60)

    async def do_pause(self, body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str | bytes]:
            yield chunk("Tides")
            await asyncio.sleep(60)

        return self.streamed(events())

    async def do_drop(self, body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str | bytes]:
            yield chunk("Tides")
            yield chunk(" are")
            raise RuntimeError("the server falls over")

        return self.streamed(events())

    async def do_shorten(self, body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str | bytes]:
            yield chunk("Tides")

        return self.streamed(events())

    async def do_garbage(self, body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str | bytes]:
            yield chunk("Tides")
            yield "data: {'no': json\x1b[31m\n\n"

        return self.streamed(events())

    async def do_shapes(self, body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str | bytes]:
            yield event(choices=[{"delta": {"content": 5}}])

        return self.streamed(events())

    async def do_latin(self, body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str | bytes]:
            yield 'data: {"choices": [{"delta": {"content": "Zoë"}}]}\n\n'.encode("latin-1")

        return self.streamed(events())

    async def do_huge(self, body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str | bytes]:
            for _ in range(64):
                yield "x" * 65536

        return self.streamed(events())

    async def do_halves(self, body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str | bytes]:
            for text in ("moon \ud83d", "\ude42", " \ud83d"):
                yield chunk(text)
            yield chunk(finish="stop")

        return self.streamed(events())

    async def do_complain(self, body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str | bytes]:
            yield chunk("Tides")
            yield event(error={"message": f"out of memory; the key was {KEY}", "code": 500})

        return self.streamed(events())

    async def do_whole(self, body: dict[str, Any]) -> Response:
        message = {"role": "assistant", "content": "Tides."}
        return JSONResponse({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage(7, 2)})

    async def do_page(self, body: dict[str, Any]) -> Response:
        return PlainTextResponse("<html>Welcome</html>", media_type="text/html")

    async def do_busy(self, body: dict[str, Any]) -> Response | None:
        tries = sum("busy" in str(other.get("messages")) for other in self.bodies)
        return None if tries > 2 else JSONResponse({"error": {"message": "slow down"}}, 429, {"Retry-After": "0"})

    async def do_starting(self, body: dict[str, Any]) -> Response:
        return PlainTextResponse("<html>gateway</html>", 503)

    async def do_wrong(self, body: dict[str, Any]) -> Response:
        return JSONResponse({"error": {"message": "bad temperature", "code": 400}}, 400)

    async def do_strict(self, body: dict[str, Any]) -> Response | None:
        if any(message["role"] == "system" for message in body["messages"]):
            return JSONResponse({"error": {"message": "System role not supported", "code": 400}}, 400)
        return None

    async def do_long(self, body: dict[str, Any]) -> Response:
        message = "This model's maximum context length is 2048 tokens."
        return JSONResponse({"error": {"message": message}}, 400)

    async def do_unknown(self, body: dict[str, Any]) -> Response:
        return JSONResponse({"error": {"message": "The model `tides-v2` does not exist."}}, 404)

    async def do_locked(self, body: dict[str, Any]) -> Response:
        return JSONResponse({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401)

    async def do_moved(self, body: dict[str, Any]) -> Response:
        return RedirectResponse("https://elsewhere.example/v1?token=1", 308)


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something to become true; fails if it never does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


@contextmanager
def speaking() -> Iterator[Speaker]:
    """A Speaker on a free port of this machine."""
    speaker = Speaker()
    routes = [
        Route("/v1/models", speaker.models),
        Route("/tokenize", speaker.tokenize, methods=["POST"]),
        Route("/v1/chat/completions", speaker.chat, methods=["POST"]),
        Route("/v1/completions", speaker.chat, methods=["POST"]),
        Route("/v1/rerank", speaker.rerank, methods=["POST"]),
        Route("/bare/chat/completions", speaker.chat, methods=["POST"]),
        Route("/odd/models", lambda request: PlainTextResponse("hello")),
        Route("/empty/models", lambda request: JSONResponse({"data": []})),
    ]
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=routes), host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    speaker.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield speaker
    server.should_exit = server.force_exit = True
    thread.join(10)
