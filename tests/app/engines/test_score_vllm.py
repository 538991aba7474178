"""The client of a reranking server against a real vLLM that serves a tiny cross-encoder of random weights."""

import os
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import hits_of

from app.engines.score_server import load_score_server
from eval.baselines.install import baseline_python
from eval.baselines.vllm_server import Flags, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]
ROOT = Path(__file__).resolve().parents[3]
TEXTS = ("the fern is two metres high", "old oaks", "the fern the fern", "绿茶 水温")


def cross_encoder(folder: Path) -> Path:
    """One score out of a pair, by words of a small vocabulary."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(" ".join(TEXTS).split()), "how"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=64, num_labels=1, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **named).save_pretrained(folder)
    return folder


def own_scores(folder: Path, query: str) -> list[float]:
    """Of transformers, as probabilities."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)([query] * len(TEXTS), list(TEXTS), padding=True, return_tensors="pt")
    with torch.no_grad():
        return [float(score) for score in model(**inputs).logits[:, 0].sigmoid()]


def test_vllm_scores_what_transformers_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where build/ is
    if not baseline_python(name="vllm").exists():
        pytest.skip("needs build/vllm-venv: python -m eval.baselines.install vllm")
    folder = cross_encoder(tmp_path / "tiny")
    expected = own_scores(folder, "how high the fern")
    assert max(expected) - min(expected) > 0.1
    with serving(folder, Flags(context=64), extra=["--gpu-memory-utilization", "0.1"]) as server:
        reranker = load_score_server(server.url)
        found = reranker.rerank("how high the fern", hits_of(*TEXTS))
        assert found.scores == pytest.approx(expected, abs=0.05)  # it computes in bf16
        assert found.prompt_tokens and found.prompt_tokens > len(TEXTS) * 4
        long = reranker.rerank("how high the fern", hits_of("the fern " * 200))
        assert 0 <= long.scores[0] <= 1, "what is longer than the model reads is cut"
    assert os.path.exists(folder)
