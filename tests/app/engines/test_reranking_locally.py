"""The LLM reranker through the local engine: its probabilities are the model's own, whichever way they are computed."""

import time
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import hits_of
from tiny_models import byte_tokenizer, save, sizes

from app.engines.isolated import load_isolated
from app.engines.local import LocalModel, open_local
from app.engines.speaker import Manners
from eval.models.chat_prompts import Message
from retrieval.llm_reranking.judging import VERDICTS, judge_messages
from retrieval.llm_reranking.pointwise import PointwiseReranker

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "
TEXTS = (
    "The fern is two metres high.",
    "Oaks are old.",
    "绿茶的水温应该在八十度左右。",
    "Moss grows on stones, on roofs and on old trees, wherever it is wet enough and nobody takes it away.",
)


def messages(query: str, text: str) -> list[Message]:
    return [{"role": one.role, "content": one.text} for one in judge_messages(query, hits_of(text)[0])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random layers with room for a whole prompt in bytes, and tokens for the verdicts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(list(VERDICTS))
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(5)
    config = LlamaConfig(**sizes(tokenizer) | {"max_position_embeddings": 1024})
    return save(tmp_path_factory.mktemp("models") / "tiny", LlamaForCausalLM(config).eval(), tokenizer)


def test_scores_through_the_child_process_are_the_models_own(folder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llm = load_isolated("local", LocalModel(str(folder), cache=tmp_path), manners=Manners(), log=tmp_path / "log")
    try:
        reranker = PointwiseReranker(llm, counting=True)
        found = reranker.rerank("how high is the fern?", hits_of(*TEXTS))
        few = reranker.rerank("how high is the fern?", hits_of(*TEXTS), seconds=60.0)
    finally:
        llm.close()
    assert few.scores == pytest.approx(found.scores, abs=1e-4) and found.prompt_tokens and found.prompt_tokens > 400
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in VERDICTS)
    for text, score in zip(TEXTS, found.scores, strict=True):
        chat = tokenizer.apply_chat_template(
            messages("how high is the fern?", text), tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor([tokenizer(chat, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            logits = model(ids).logits[0, -1]
        assert score == pytest.approx(float(torch.sigmoid(logits[yes] - logits[no])), abs=1e-3)
    assert max(found.scores) - min(found.scores) > 1e-3


@pytest.mark.slow
def test_the_packaged_model_says_the_same_with_and_without_a_shared_beginning(packaged_cache: Path) -> None:
    llm = open_local(LocalModel(cache=packaged_cache), Manners())
    for query in ("how high does the royal fern grow?", "绿茶应该用多少度的水冲泡？"):
        prompts: list[Any] = [messages(query, text) for text in TEXTS * 2]
        llm._likelihood._can_branch = True
        began = time.process_time()
        shared = llm.choice_logprobs(prompts, VERDICTS)
        middle = time.process_time()
        llm._likelihood._can_branch = False
        plain = llm.choice_logprobs(prompts, VERDICTS)
        print(f"{middle - began:.2f} CPU seconds, the plain way {time.process_time() - middle:.2f}")
        for one, other in zip(shared, plain, strict=True):
            assert one == pytest.approx(other, abs=1e-3)
        assert len(llm._tokenized(VERDICTS[0])) == len(llm._tokenized(VERDICTS[1])) == 1
