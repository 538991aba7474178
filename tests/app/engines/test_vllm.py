"""The server engine on a real vLLM: streaming, counts, stop, eight users at once, and a server that goes away."""

import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_index.core.base.llms.types import ChatMessage

from app.engines.server import ServerLLM, load_server
from eval.baselines.install import baseline_python
from eval.baselines.vllm_server import Running, as_safetensors, serving
from eval.models.packaged import packaged_model
from retrieval.errors import MissingError, UsageError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # where build/ is
        if not baseline_python(name="vllm").exists():
            pytest.skip("needs build/vllm-venv: python -m eval.baselines.install vllm")
        try:
            model = as_safetensors(packaged_model())
        except MissingError as error:
            pytest.skip(str(error))
        with serving(model) as server:
            yield server


@pytest.fixture
def llm(running: Running) -> ServerLLM:
    return load_server(running.url, max_new_tokens=24)


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def under_way(running: Running) -> float:
    """Requests that the server is working on, by its own count."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(running.url.removesuffix("/v1") + "/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:num_requests_running{"))


def test_the_server_tells_its_model_its_window_and_its_tokens(llm: ServerLLM, running: Running) -> None:
    assert llm.model_name == running.model
    assert llm.context_window == 4096
    assert llm.count_tokens("Hello <|im_end|> world") == 4
    with pytest.raises(MissingError, match=f"no model 'other'; it has {running.model}"):
        load_server(running.url, model="other")


def test_whole_streamed_and_asynchronous_answers_are_one(llm: ServerLLM) -> None:
    whole = llm.complete("The capital of France is", formatted=True, max_new_tokens=4)
    assert whole.text.startswith(" Paris")
    question = user("Name three colours of the rainbow.")
    responses = list(llm.stream_chat(question))
    text = "".join(response.delta or "" for response in responses)
    assert text and text == responses[-1].message.content == llm.chat(question).message.content
    raw = responses[-1].raw
    assert 0 < raw["completion_tokens"] <= 24 and raw["prompt_tokens"] > 30
    assert raw["total_tokens"] == raw["prompt_tokens"] + raw["completion_tokens"]
    assert raw["finish_reason"] in ("stop", "length")
    assert 0 < raw["first_token_seconds"] <= raw["total_seconds"]
    assert len(responses) - 1 <= raw["completion_tokens"]


def test_stopping_ends_the_work_on_the_server_too(llm: ServerLLM, running: Running) -> None:
    stop = threading.Event()
    responses = llm.stream_chat(user("Tell me a very long story."), max_new_tokens=3000, stop=stop)
    for _ in range(5):
        next(responses)
    assert under_way(running) == 1
    stop.set()
    *_, last = responses
    assert last.raw["finish_reason"] == "stopped"
    assert 5 <= last.raw["completion_tokens"] < 3000 and last.raw["prompt_tokens"] > 30  # vLLM's own counts
    end = time.monotonic() + 20
    while under_way(running):
        assert time.monotonic() < end, "the server goes on writing for nobody"
        time.sleep(0.1)


def test_eight_users_are_answered_together(llm: ServerLLM) -> None:
    """By when their pieces arrive, for the server's own count of requests is renewed too seldom to be caught."""
    written: dict[int, list[float]] = {}

    def ask(number: int) -> None:
        story = llm.stream_chat(user(f"Tell me a long story about {number} foxes."), max_new_tokens=200)
        written[number] = [time.monotonic() for piece in story if piece.delta]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == list(range(8)) and all(written.values())
    # One after the other, each would begin when the one before has ended.
    first_end = min(times[-1] for times in written.values())
    assert sum(times[0] < first_end for times in written.values()) > 1


def test_a_prompt_that_is_too_long_is_refused_in_words(llm: ServerLLM) -> None:
    with pytest.raises(UsageError, match="longer than the model reads"):
        llm.chat(user("word " * 6000))


def test_a_stopped_server_is_gone_with_its_workers(running: Running) -> None:
    llm = load_server(running.url, connect_seconds=1.0)
    running.end()
    assert running.process.poll() is not None
    with pytest.raises(MissingError, match="cannot be reached"):
        llm.chat(user("Hello"))
