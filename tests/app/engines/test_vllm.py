"""The server engine on a real vLLM that has the packaged model and its adapters: streaming, counts, stop, roles, eight
users at once, and a server that goes away."""

import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from llama_index.core.base.llms.types import ChatMessage

from adapt.export.vllm_command import Serving, plan_serving
from app.engines.local import LocalModel, open_local
from app.engines.server import ServerLLM, load_server
from app.engines.speaker import Manners
from eval.baselines.install import baseline_python
from eval.baselines.vllm_server import Running, serving
from eval.models.packaged import packaged_adapters
from retrieval.embedding.load import EmbeddingSettings
from retrieval.errors import MissingError, UsageError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Serving:
    """What `fathom serve-model packaged --adapters packaged` tells vLLM."""
    place = tmp_path_factory.mktemp("w")
    try:
        return plan_serving(place / "models", "packaged", ["packaged"], cache=EmbeddingSettings().cache_folder())
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def running(plan: Serving) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # where build/ is
        if not baseline_python(name="vllm").exists():
            pytest.skip("needs build/vllm-venv: python -m eval.baselines.install vllm")
        with serving(plan.model, extra=plan.flags()) as server:
            yield replace(server, model=plan.name)


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


def test_each_role_answers_by_its_own_adapter_and_none_as_the_base(llm: ServerLLM, plan: Serving) -> None:
    """Held against transformers under peft: bf16 and fp32 differ by rounding, and adapters by far more."""
    roles = packaged_adapters()
    assert llm.roles == tuple(roles) and len(roles) >= 3
    ones = {None: llm} | {role: llm.under(role) for role in roles}
    choices = [" yes", " no", " The", "Yes", "1", "What", " is", "\n"]
    prompts = [user("What are tides caused by?"), user("Is water wet? Answer with yes or no.")]
    here = open_local(LocalModel(str(plan.model), adapters=roles, device="cpu"), Manners())
    true = {role: _row(here.choice_logprobs([_plain(p) for p in prompts], choices, role=role)) for role in ones}
    served = {role: _row(one.choice_logprobs(prompts, choices)) for role, one in ones.items()}
    for role, row in served.items():
        distances = {other: sum(abs(a - b) for a, b in zip(row, true[other], strict=True)) for other in ones}
        assert min(distances, key=distances.__getitem__) == role, distances
    # Asked at the same time, each says what it says alone, and nobody says what the base does.
    said = {role: _said(one) for role, one in ones.items()}
    assert len(set(said.values())) == len(ones), said
    with ThreadPoolExecutor(len(ones)) as pool:
        together = dict(zip(ones, pool.map(_said, ones.values()), strict=True))
    assert {role: text[:12] for role, text in together.items()} == {role: text[:12] for role, text in said.items()}


def _said(llm: ServerLLM) -> str:
    return str(llm.chat(user("Passage: Tides are caused by the moon.\nQuestion: What causes tides?")).message.content)


def _row(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def _plain(messages: list[ChatMessage]) -> list[dict[str, str]]:
    return [{"role": "user", "content": str(message.content)} for message in messages]


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
