"""Probabilities of choices as servers tell them: by token ids as vLLM does, by text as others do."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from llama_index.core.base.llms.types import ChatMessage
from speaking_server import Speaker, speaking
from tiny_models import byte_tokenizer, llama, save

from app.engines.local import LocalModel, LocalSpeaker, open_local
from app.engines.server import ServerLLM, load_server
from app.engines.speaker import Manners
from retrieval.errors import FathomError, UsageError

Body = dict[str, Any]


class Served:
    """A tiny model of transformers behind the address, which tells its probabilities as vLLM 0.32 does, or, `old`, as
    those did that did not know `logprob_token_ids`."""

    def __init__(self, model: LocalSpeaker, old: bool = False) -> None:
        self.model, self.old = model, old
        self.echoes = 0
        self.asked: list[str] = []

    def __call__(self, path: str, body: Body) -> Body | None:
        self.asked.append(path)
        if path == "/tokenize":
            return {"tokens": self.ids(body)}
        if body.get("return_tokens_as_token_ids"):
            rows = [self.likeliest(ids, body["logprobs"]) for ids in body["prompt"]]
            if not self.old:
                assert len(body["logprob_token_ids"]) <= 128
                told = [self.logprobs(ids)[-1] for ids in body["prompt"]]
                rows = [{token: float(row[token]) for token in body["logprob_token_ids"]} for row in told]
            named = [{f"token_id:{token}": value for token, value in row.items()} for row in rows]
            return answers([{"logprobs": {"top_logprobs": [row]}} for row in named])
        if "prompt_logprobs" in body:
            self.echoes += 1
            return answers([{"prompt_logprobs": self.echoed(ids)} for ids in body["prompt"]])
        if "top_logprobs" in body:
            row = self.likeliest(self.ids(body), body["top_logprobs"])
            top = [{"token": self.model._tokenizer.decode([token]), "logprob": value} for token, value in row.items()]
            return answers([{"logprobs": {"content": [{"top_logprobs": top}]}}])
        if "logprobs" in body:
            row = self.likeliest(self.ids(body), body["logprobs"])
            return answers([{"logprobs": {"top_logprobs": [{self.text(t): value for t, value in row.items()}]}}])
        return None

    def text(self, token: int) -> str:
        return str(self.model._tokenizer.decode([token]))

    def ids(self, body: Body) -> list[int]:
        return self.model._tokenized(body["prompt"] if "prompt" in body else self.model.render(body["messages"]))

    def logprobs(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = self.model._model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            return found

    def likeliest(self, ids: list[int], count: int) -> dict[int, float]:
        values, tokens = self.logprobs(ids)[-1].topk(count)
        return {int(token): float(value) for token, value in zip(tokens, values, strict=True)}

    def echoed(self, ids: list[int]) -> list[dict[str, Any] | None]:
        told = self.logprobs(ids)
        return [None, *({str(t): {"logprob": float(told[n, t]), "rank": 1}} for n, t in enumerate(ids[1:]))]


def answers(choices: list[Body]) -> Body:
    numbered = [{"index": number, "text": "", **choice} for number, choice in enumerate(choices)]
    return {"choices": numbered[::-1]}  # in no order


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalSpeaker:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
    folder = save(tmp_path_factory.mktemp("models") / "tiny", llama(tokenizer), tokenizer)
    return open_local(LocalModel(str(folder), device="cpu"), Manners())


@pytest.fixture
def speaker(model: LocalSpeaker) -> Iterator[Speaker]:
    with speaking() as server:
        server.weigh = Served(model)
        yield server


@pytest.fixture
def llm(speaker: Speaker) -> ServerLLM:
    return load_server(speaker.url)


PROMPTS = ["the cat", "水温", [ChatMessage(role="user", content="the dog sat")]]
PLAIN: list[Any] = ["the cat", "水温", [{"role": "user", "content": "the dog sat"}]]


@pytest.mark.parametrize("old", [False, True])
def test_vllm_tells_of_any_choice_however_unlikely_or_long(
    llm: ServerLLM, speaker: Speaker, model: LocalSpeaker, old: bool
) -> None:
    speaker.weigh = served = Served(model, old)
    letters = [chr(code) for code in range(ord("a"), ord("z"))]
    choices = [*letters, " mat and", "绿茶"]
    found = llm.choice_logprobs(PROMPTS * 7, choices)
    wanted = model.choice_logprobs(PLAIN, choices)
    assert len(found) == 21
    for number, row in enumerate(found):
        assert row == pytest.approx(wanted[number % 3], abs=1e-4)
    assert bool(served.echoes) == old, "a vLLM with adapters would end at prompt_logprobs"
    with pytest.raises(UsageError, match="choices to weigh"):
        llm.choice_logprobs(PROMPTS, ["a", ""])
    with pytest.raises(UsageError, match="is empty"):
        llm.choice_logprobs([""], ["a"])
    assert llm.choice_logprobs([], ["a"]) == []


def test_a_role_is_asked_for_by_the_servers_name_of_it(llm: ServerLLM, speaker: Speaker) -> None:
    assert llm.roles == ("tides-v1",)
    named = load_server(speaker.url, adapters={"reranker": "tides-v1"})
    assert named.roles == ("tides-v1", "reranker")
    for view in (llm.under("tides-v1"), named.under("reranker"), named.under("reranker").under("tides-v1")):
        assert view.metadata.model_name == "tides-v1"
        view.choice_logprobs(["the cat"], ["a"])
        assert speaker.bodies[-1]["model"] == "tides-v1"
        assert str(view.chat([ChatMessage(role="user", content="speak")]).message.content).startswith("Tides")
        assert speaker.bodies[-1]["model"] == "tides-v1"
        view.close()
    assert llm.chat([ChatMessage(role="user", content="speak")]).message.content
    assert speaker.bodies[-1]["model"] == "base"
    with pytest.raises(UsageError, match="no adapter 'judge' on base .it has tides-v1"):
        llm.under("judge")
    with pytest.raises(FathomError, match="no adapter 'tides-v9' for the role 'reranker'; it has base, tides-v1"):
        load_server(speaker.url, adapters={"reranker": "tides-v9"})
    assert load_server(speaker.url, model="tides-v1").roles == ()


def test_another_server_tells_its_likeliest_by_text(llm: ServerLLM, speaker: Speaker, model: LocalSpeaker) -> None:
    llm._speaks_vllm = False
    for prompt, plain in zip(PROMPTS, PLAIN, strict=True):
        ids = model._tokenized(plain if isinstance(plain, str) else model.render(plain))
        ranked = model._likelihood.next_logprobs([ids], list(range(300)))[0].argsort()[::-1]
        texts = [text for n in ranked[:20] if "\ufffd" not in (text := model._tokenizer.decode([int(n)]))]
        likely = [text for text in texts if len(model._tokenized(text)) == 1]
        (row,) = llm.choice_logprobs([prompt], [likely[0], likely[-1], "no such token"])
        (wanted,) = model.choice_logprobs([plain], [likely[0], likely[-1]])
        assert row[:2] == pytest.approx(wanted, abs=1e-4) and row[2] <= row[1]
        with pytest.raises(UsageError, match="none of .*no such token.* is among them"):
            llm.choice_logprobs([prompt], ["no such token"])


def test_servers_that_tell_nothing_or_nonsense_are_named(llm: ServerLLM, speaker: Speaker) -> None:
    for told in ({}, {"choices": []}, {"choices": [{"index": 0, "logprobs": {"top_logprobs": [{"x": "y"}]}}]}):
        speaker.weigh = lambda path, body, told=told: {"tokens": [1]} if path == "/tokenize" else told  # type: ignore[misc]
        with pytest.raises(FathomError, match="no probabilities as the OpenAI protocol has them"):
            llm.choice_logprobs(["the cat"], ["a"])
    speaker.weigh = lambda path, body: {"count": 3}
    with pytest.raises(FathomError, match="no tokens as the OpenAI protocol has them"):
        llm.choice_logprobs(["the cat"], ["a"])
    llm._speaks_vllm = False
    speaker.weigh = lambda path, body: {"choices": [{"index": 0, "text": "a", "logprobs": None}]}
    for prompt in PROMPTS:
        with pytest.raises(UsageError, match="shows no probabilities"):
            llm.choice_logprobs([prompt], ["a"])
