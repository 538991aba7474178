"""An engine in its child process, with the real model: nothing that happens to the child takes its parent with it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import five_documents
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.query_engine import RetrieverQueryEngine

from app.engines import child, frames, isolated
from app.engines.embedded import EmbeddedModel
from app.engines.generating import TimeLimits
from app.engines.isolated import IsolatedLLM, load_isolated
from app.engines.speaker import Manners
from retrieval.collection import Collection
from retrieval.errors import BusyError, DamagedError, FathomError, MissingError, UsageError
from retrieval.llama_index import FathomRetriever

ROOT = Path(__file__).resolve().parents[3]
LONG = "The quick brown fox jumps over the lazy dog near the river bank. " * 220  # about 3,100 tokens
Load = Callable[..., IsolatedLLM]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log of every child of this file."""
    return tmp_path_factory.mktemp("isolated")


@pytest.fixture(scope="module")
def load(folder: Path, embedded_cache: Path) -> Iterator[Load]:
    """Starts children that are all ended with the file."""
    started: list[IsolatedLLM] = []

    def start(model: Path | None = None, **manners: Any) -> IsolatedLLM:
        chosen = EmbeddedModel(model, cache=embedded_cache)
        manners = {"max_new_tokens": 24} | manners
        started.append(load_isolated("embedded", chosen, manners=Manners(**manners), log=folder / "engine.log"))
        return started[-1]

    yield start
    for llm in started:
        llm.close()


@pytest.fixture(scope="module")
def shared(load: Load) -> IsolatedLLM:
    return load()


@pytest.fixture
def llm(shared: IsolatedLLM) -> IsolatedLLM:
    """The shared engine, with no memory of crashes."""
    shared._keeper.went_well()
    return shared


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def pid(llm: IsolatedLLM) -> int:
    running = llm._keeper.child()
    assert running is not None
    return running.pid


def gone(process: int, seconds: float = 20.0) -> bool:
    """Whether a process ends within `seconds`; one that its parent has not buried counts as ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_it_answers_streams_and_counts_as_any_llm(llm: IsolatedLLM) -> None:
    response = llm.chat(user("What is the capital of France?"))
    whole = str(response.message.content)
    assert "Paris" in whole and response.raw["finish_reason"] == "stop"
    assert 0 < response.raw["first_token_seconds"] <= response.raw["total_seconds"]
    assert response.additional_kwargs["total_tokens"] == (
        response.raw["prompt_tokens"] + response.raw["completion_tokens"]
    )
    assert (llm.metadata.model_name, llm.metadata.context_window, llm.metadata.num_output) == (
        "SmolLM2-135M-Instruct",
        8192,
        24,
    )
    assert (llm.model_name, llm.context_window, llm.stoppable) == ("SmolLM2-135M-Instruct", 8192, True)
    streamed = list(llm.stream_chat(user("What is the capital of France?")))
    assert "".join(piece.delta or "" for piece in streamed) == whole
    assert all(piece.raw is None for piece in streamed[:-1]) and streamed[-1].raw["finish_reason"] == "stop"
    assert llm.complete("What is the capital of France?").text == whole
    assert llm.complete("The capital of France is", formatted=True, max_tokens=3).text.startswith(" Paris")
    cut = llm.chat(user("What is the capital of France?"), stop="France")
    assert "Paris" not in str(cut.message.content) and cut.raw["finish_reason"] == "stop"
    warm = [llm.complete("A colour:", temperature=2.0, seed=seed).text for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]
    assert llm.count_tokens("one two three") == 3 and llm.count_tokens("") == 0


def test_what_the_model_refuses_is_said_by_its_own_error(llm: IsolatedLLM) -> None:
    with pytest.raises(UsageError, match=r"about 9,\d\d\d tokens .* reads 8,192"):
        llm.chat(user("word " * 9000))
    with pytest.raises(UsageError, match="empty"):
        llm.complete("", formatted=True)
    with pytest.raises(FathomError, match="wrote nothing"):
        llm.chat(user(LONG), limits=TimeLimits(first_token=0.05))
    with pytest.raises(UsageError, match="1 to 8,191 tokens"):
        llm.choice_logprobs(["word " * 9000], ["b"])
    hostile = llm.render(user("half an emoji \ud83d and <|im_end|>"))
    assert "half an emoji ?" in hostile and "< |im_end|>" in hostile
    assert llm.chat(user("half \ud83d"), max_new_tokens=1).raw["completion_tokens"] == 1


def test_stop_frees_the_caller_while_the_child_reads_a_prompt(llm: IsolatedLLM) -> None:
    llm.metadata  # noqa: B018 - waits for the model
    stop = threading.Event()
    pressed: list[float] = []

    def press() -> None:
        pressed.append(time.monotonic())
        stop.set()

    threading.Timer(0.3, press).start()
    response = llm.chat(user(LONG), stop=stop)
    late = time.monotonic() - pressed[0]
    assert response.raw["finish_reason"] == "stopped" and response.raw["completion_tokens"] == 0
    assert late < 5  # reported with the figures; here only that the prompt was not waited for
    stream = llm.stream_chat(user("Tell me a very long story about a dragon."), max_new_tokens=2000)
    next(stream)
    stream.close()
    assert llm.chat(user("What is the capital of France?"), max_new_tokens=1).raw["completion_tokens"] == 1


def test_asynchronous_calls_and_their_end(llm: IsolatedLLM) -> None:
    async def run() -> None:
        response = await llm.achat(user("What is the capital of France?"))
        text = ""
        async for piece in await llm.astream_chat(user("What is the capital of France?")):
            text += piece.delta or ""
        assert text == response.message.content and "Paris" in text
        task = asyncio.ensure_future(llm.achat(user("Tell me a very long story."), max_new_tokens=2000))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Were the cancelled one still writing its 2,000 tokens, this one would wait in line.
        await llm.achat(user("Hello"), max_new_tokens=1, limits=TimeLimits(queue=5.0))

    asyncio.run(run())


def test_a_killed_child_costs_one_answer(llm: IsolatedLLM) -> None:
    first = pid(llm)
    stream = llm.stream_chat(user("Tell me a very long story about a dragon."), max_new_tokens=2000)
    next(stream)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(FathomError, match=r"ended unexpectedly \(killed, as happens when memory runs out\); ask again"):
        for _ in stream:
            pass
    assert "Paris" in str(llm.chat(user("What is the capital of France?")).message.content)
    second = pid(llm)
    assert second != first
    os.kill(second, signal.SIGSEGV)  # between two questions: nobody notices
    assert gone(second)
    assert llm.count_tokens("counted in the third child") == 6
    assert pid(llm) not in (first, second)


def test_the_child_is_the_first_to_go_when_memory_runs_out(llm: IsolatedLLM) -> None:
    assert Path(f"/proc/{pid(llm)}/oom_score_adj").read_text().strip() == "500"
    assert os.getpgid(pid(llm)) != os.getpgid(0)


def test_a_model_that_only_crashes_is_given_up_for_a_while(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "FIRST_PAUSE", 0.02)
    llm = load()
    for _ in range(isolated.MOST_CRASHES):
        llm._keeper.start()
        running = llm._keeper._child
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        until = time.monotonic() + 20
        while running.ended() is None and time.monotonic() < until:
            time.sleep(0.01)
    with pytest.raises(FathomError, match=r"crashed 3 times in a row; choose a smaller .* tried again in \d+ s"):
        llm.metadata  # noqa: B018
    assert llm._keeper._child is None
    monkeypatch.setattr(isolated, "LAST_PAUSE", 0.0)
    assert "Paris" in str(llm.chat(user("What is the capital of France?")).message.content)
    llm.close()


def test_a_child_that_stands_still_is_ended(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "MARGIN", 0.3)
    llm = load()
    process = pid(llm)
    os.kill(process, signal.SIGSTOP)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    assert llm.chat(user("Hello"), stop=stop).raw["finish_reason"] == "stopped"
    with pytest.raises(FathomError, match="did not answer and was ended"):
        llm.chat(user("Hello"), limits=TimeLimits(queue=0.1, total=0.1))
    assert gone(process)
    llm.close()


def test_one_at_a_time_and_a_place_in_line(llm: IsolatedLLM) -> None:
    stream = llm.stream_chat(user("Tell me a very long story."), max_new_tokens=2000)
    next(stream)
    with pytest.raises(BusyError, match="1 requests in line"):
        llm.chat(user("Hello"), limits=TimeLimits(queue=0.1))
    assert llm.count_tokens("counting does not wait in line") > 3
    stream.close()


def test_closing_ends_the_child_and_what_runs_gets_a_sentence(load: Load) -> None:
    llm = load()
    process = pid(llm)
    stream = llm.stream_chat(user("Tell me a very long story."), max_new_tokens=2000)
    next(stream)
    llm.close()
    with pytest.raises(FathomError, match="was closed while it was asked"):
        for _ in stream:
            pass
    assert gone(process)
    with pytest.raises(FathomError, match="was closed; open it again"):
        llm.chat(user("Hello"))
    forgotten = load_isolated("embedded", EmbeddedModel())
    assert forgotten._keeper._child is not None
    process = forgotten._keeper._child.pid
    del forgotten
    assert gone(process)


def test_a_model_that_cannot_be_loaded_is_named_at_the_first_call(load: Load, tmp_path: Path) -> None:
    llm = load(tmp_path / "absent.gguf")
    for _ in range(2):
        with pytest.raises(MissingError, match=r"absent\.gguf cannot be opened"):
            llm.chat(user("Hello"))
    (tmp_path / "absent.gguf").write_bytes(b"GGUF" + b"\x03" + b"\0" * 19)
    with pytest.raises(DamagedError, match="OpenVINO cannot load"):
        llm.metadata  # noqa: B018
    llm.close()


def test_garbage_from_the_child_is_a_sentence(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho this is no frame at all\nsleep 30\n")
    program.chmod(0o755)
    monkeypatch.setattr(child.sys, "executable", str(program))
    llm = load()
    with pytest.raises(FathomError, match="it sent nonsense: a frame claims"):
        llm.chat(user("Hello"))
    llm.close()
    monkeypatch.setattr(child.sys, "executable", str(tmp_path / "nowhere"))
    with pytest.raises(FathomError, match="cannot be started"):
        load()


@pytest.mark.parametrize("data", [b"\0\0\0\x02[]", b"\0\0\0\x01{", b"\xff\xff\xff\xff", b"\0\0\0\x04\xff\xff\xff\xff"])
def test_frames_that_are_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f").write_bytes(data)
    with (tmp_path / "f").open("rb") as stream, pytest.raises(frames.NotAFrameError):
        frames.read_frame(stream)


PARENT = """
import sys, time
from pathlib import Path
from llama_index.core.base.llms.types import ChatMessage
from app.engines.embedded import EmbeddedModel
from app.engines.isolated import load_isolated
llm = load_isolated("embedded", EmbeddedModel(cache=Path(sys.argv[1])))
llm.metadata
try:
    print(llm._keeper.child().pid, flush=True)
    for piece in llm.stream_chat([ChatMessage(role="user", content="Tell a very long story.")], max_new_tokens=4000):
        time.sleep(0.01)
    time.sleep(60)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_child_outlives_its_parent(embedded_cache: Path, end: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(embedded_cache)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    process = int(parent.stdout.readline())
    os.killpg(parent.pid, end)  # as a terminal does it with Ctrl-C
    out, err = parent.communicate(timeout=60)
    assert gone(process)
    assert (out, err) == (("stopped\n" if end == signal.SIGINT else ""), "")


def test_llama_index_engines_run_on_it(llm: IsolatedLLM, collection: Collection) -> None:
    collection.add(five_documents())
    retriever = FathomRetriever(collection, k=2)
    response = RetrieverQueryEngine.from_args(retriever, llm=llm).query("What does bread need?")
    assert len(str(response)) > 3
    assert response.source_nodes[0].node.metadata["document"] == "bread.txt"
    for kind in (ContextChatEngine, CondensePlusContextChatEngine):
        chat = kind.from_defaults(retriever=retriever, llm=llm)
        assert len(str(chat.chat("What causes tides?"))) > 3
        assert "".join(chat.stream_chat("And which phase of the moon?").response_gen)
