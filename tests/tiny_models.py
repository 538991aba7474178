"""Language models of a few thousand random weights, made in a second: transformers' own code, no download."""

from pathlib import Path
from typing import Any

CORPUS = ("the cat sat on the mat and the dog sat on the log. ", "绿茶不经过发酵。水温应该在八十度左右。")
WINDOW = 48


def byte_tokenizer(*, opens: bool = False) -> Any:
    """Byte-level BPE with about 300 tokens; with `opens` it begins every text with <s>, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    if opens:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def word_tokenizer() -> Any:
    """Knows nine words; the rest is <unk>."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "the", "cat", "sat", "on", "mat", "and", "dog", "."]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


def llama(tokenizer: Any, *, seed: int = 0, **options: Any) -> Any:
    """Two layers; weights large enough that probabilities differ by orders of magnitude."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**sizes(tokenizer), **options)).eval()


def sizes(tokenizer: Any) -> dict[str, Any]:
    """The words of a config that keep a model tiny."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": WINDOW,
        "initializer_range": 0.3,
    }


def save(folder: Path, model: Any, tokenizer: Any) -> Path:
    """Model and tokenizer in one folder, as the hub has them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain_logprobs(model: Any, ids: list[int]) -> list[float]:
    """ln P of tokens 1… from the logits of the whole sequence: the definition, with nothing clever in it."""
    import torch

    with torch.no_grad():
        told = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return [float(told[place - 1, ids[place]]) for place in range(1, len(ids))]
