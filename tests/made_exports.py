"""Tiny models of the families that are exported, tokenizers that split text as theirs do, and adapters for them."""

from pathlib import Path
from typing import Any

import tiny_models

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
TEXTS = (
    "the cat sat on the log. 绿茶不经过发酵",
    "it isn't the cat's; they'LL say a1 22 b's 3.5, 'll\n\n\tx  ",
    "\n\n\tdef f():\r\n\r\n    return (x)==y //é ﬁ 绿茶，发酵。",
    "in 2024, 1995 and 3.14159; 1000000",
    "<|im_start|>the<|im_end|> a <think>b</think> c",
    "😀 é ﬁ   and   so",
    "  leading, trailing  ",
)
_CORPUS = (
    "it isn't the cat's log;; they'll say: (x) == y,  and   so\n\n\tdef f():\n    return 绿茶，发酵。"
    "也买九本书，也买了九本。"
    " In 2024, 1995 and 22 of 1000 were 3.14, 12.50 or 100; they'LL I'VE the dog sat on the mat and then the cat。"
)


def tokenizer_of(split: str, *, words: int = 420, think: bool = True) -> Any:
    """Byte-level BPE that has learnt whole words, numbers and 't: who splits text otherwise shows. `split` is gpt2,
    smollm, qwen2 or llama-bpe; `think` adds two tokens that are not special, as Qwen 3 has them."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from adapt.export.gguf_vocabulary import PATTERNS

    tokenizer = Tokenizer(models.BPE())
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split == "gpt2":
        tokenizer.pre_tokenizer = whole
    elif split == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
    else:
        pattern = next(pattern for pattern, name in PATTERNS.items() if name == split)
        bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bare])
        tokenizer.normalizer = normalizers.NFC() if split == "qwen2" else None
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CORPUS] * 20, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    if think:
        made.add_tokens([AddedToken(word, special=False, normalized=False) for word in ("<think>", "</think>")])
    made.chat_template = TEMPLATE
    return made


def made_model(folder: Path, kind: str, tokenizer: Any, *, seed: int = 3, **options: Any) -> Path:
    """A model of the family llama, qwen2 or qwen3 with two layers of random weights, norms and biases too."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    sizes = tiny_models.sizes(tokenizer) | {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "tie_word_embeddings": True,
        "head_dim": 128 if kind == "qwen3" else 32,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind]
    config = getattr(transformers, f"{name}Config")(**sizes | options)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for weight_name, weight in model.named_parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight.data, 1.0 if "norm" in weight_name else 0.0, 0.2)
    return tiny_models.save(folder, model, tokenizer)


def made_adapter(base: Path, to: Path, *, seed: int = 3, facts: bool = True, **options: Any) -> Path:
    """A LoRA adapter with random numbers in it for the model in `base`, as training leaves it: with the tokenizer, and
    with the base's hash where `facts` are wanted."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from adapt.training.bases import weights_hash
    from eval.models.adapter_base import AdapterBase

    model = AutoModelForCausalLM.from_pretrained(str(base))
    torch.manual_seed(seed)
    wanted = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 4, "lora_alpha": 8} | options
    adapted = get_peft_model(model, LoraConfig(**wanted))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight += 0.05 * torch.randn_like(weight)
    adapted.save_pretrained(to)
    AutoTokenizer.from_pretrained(str(base)).save_pretrained(to)
    if facts:
        AdapterBase(base.name, weights_hash(base, cache=to.parent / "hashes")).write(to)
    return to


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    """What a model of transformers writes next, token by token; the end of the text ends nothing."""
    import torch

    written: list[int] = []
    with torch.no_grad():
        for _ in range(count):
            written.append(int(model(torch.tensor([ids + written])).logits[0, -1].argmax()))
    return written
