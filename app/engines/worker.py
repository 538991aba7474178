"""The child process of an engine: requests in on stdin, pieces of text out on stdout, as frames.

Run as `python -m app.engines.worker` by child.py. The first frame says which model to load, in the words of
`EmbeddedModel` or `LocalModel`. It ends when stdin does, so never outlives its parent, however that ended.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from app.engines.frames import NotAFrameError, packed, read_frame
from retrieval.errors import FathomError

if TYPE_CHECKING:
    from app.engines.speaker import Speaker

FIRST_TO_GO = "500"
"""oom_score_adj: where memory runs out, the kernel takes the model and leaves the app. Raising it needs no rights."""


class Worker:
    """Serves the requests of one parent. Each has a thread; the model itself lets one through at a time."""

    def __init__(self, replies: BinaryIO) -> None:
        self._replies = replies
        self._writing = threading.Lock()
        self._speaker: Future[Speaker] = Future()
        self._stops: dict[int, threading.Event] = {}

    def load(self, spec: dict[str, Any]) -> None:
        """Load the model and say hello, or say why not and end."""
        try:
            speaker = _speaker(spec, lambda text: self.send({"id": 0, "doing": text}))
        except BaseException as error:
            self.send(_failure(0, error))
            os._exit(1)
        self._speaker.set_result(speaker)
        self.send({"id": 0, "name": speaker.name, "window": speaker.context_window})

    def send(self, value: dict[str, Any]) -> None:
        """Hand one frame to the parent; where there is none any more, end."""
        try:
            with self._writing:
                self._replies.write(packed(value))
                self._replies.flush()
        except OSError:
            os._exit(0)

    def take(self, request: dict[str, Any]) -> None:
        """Begin what a frame asks for."""
        number = int(request["id"])
        if request["op"] == "stop":
            if stop := self._stops.get(number):
                stop.set()
            return
        self._stops[number] = threading.Event()
        threading.Thread(target=self._serve, args=(number, request), name=f"request-{number}", daemon=True).start()

    def _serve(self, number: int, request: dict[str, Any]) -> None:
        try:
            speaker = self._speaker.result()
            if request["op"] == "generate":
                self._generate(speaker, number, request)
            elif request["op"] == "count":
                self.send({"id": number, "value": speaker.count_tokens(request["text"])})
            elif request["op"] == "render":
                self.send({"id": number, "value": speaker.render(request["source"])})
            elif request["op"] == "weigh":
                found = speaker.choice_logprobs(
                    request["prompts"], request["choices"], role=request["role"], stop=self._stops[number]
                )
                self.send({"id": number, "value": found})
            else:
                raise ValueError(f"unknown request {request['op']!r}")
        except Exception as error:  # one request's failure; the model goes on
            self.send(_failure(number, error))
        finally:
            self._stops.pop(number, None)

    def _generate(self, speaker: "Speaker", number: int, request: dict[str, Any]) -> None:
        from app.engines.generating import TimeLimits

        options = dict(request["options"])
        if "limits" in options:
            options["limits"] = TimeLimits(**options["limits"])
        for piece in speaker.pieces(request["source"], options, stop=self._stops[number]):
            reply: dict[str, Any] = {"id": number, "text": piece.text}
            if piece.finish is not None:
                reply |= {"finish": piece.finish, "stats": piece.stats}
            self.send(reply)


def _speaker(spec: dict[str, Any], tell: Callable[[str], None]) -> "Speaker":
    from app.engines.generating import TimeLimits
    from app.engines.speaker import Manners

    given = dict(spec["model"])
    for name in ("cache", "adapter"):
        given[name] = Path(given[name]) if given.get(name) else None
    given["adapters"] = {role: Path(folder) for role, folder in given.get("adapters", {}).items()}
    manners = dict(spec["manners"])
    if "limits" in manners:
        manners["limits"] = TimeLimits(**manners["limits"])
    if spec["engine"] == "local":
        from app.engines.local import LocalModel, open_local

        return open_local(LocalModel(**given), Manners(**manners))
    from app.engines.embedded import EmbeddedModel, open_embedded

    given["model"] = Path(given["model"]) if given.get("model") else None
    return open_embedded(EmbeddedModel(**given), Manners(**manners), tell)


def _failure(number: int, error: BaseException) -> dict[str, Any]:
    if isinstance(error, FathomError):
        return {"id": number, "error": type(error).__name__, "message": str(error)}
    traceback.print_exception(error)  # to the log
    words = str(error).strip().splitlines()
    reason = words[-1][:300] if words else type(error).__name__
    return {"id": number, "error": "FathomError", "message": f"the language model failed: {reason}"}


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """stdin and stdout for frames alone: whatever a library reads or prints meets nothing, or the log."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(requests, "rb"), os.fdopen(replies, "wb")


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which tells
    try:
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO, encoding="ascii")
    except OSError:
        print("the kernel may take the app before the model", file=sys.stderr)
    requests, replies = _private_pipes()
    worker = Worker(replies)
    try:
        spec = read_frame(requests)
        if spec is not None:
            threading.Thread(target=worker.load, args=(spec,), name="loading", daemon=True).start()
            while (request := read_frame(requests)) is not None:
                worker.take(request)
    except NotAFrameError:
        traceback.print_exc()
    finally:
        # No tidying up: threads are inside the model, which would abort the process with a message of its own.
        os._exit(0)


if __name__ == "__main__":
    main()
