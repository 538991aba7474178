"""Embedding models of a few thousand random weights, saved as sentence-transformers saves, and adapters on them."""

import json
from pathlib import Path
from typing import Any

WORDS = (
    "tides are caused by the moon and the sun , bread needs flour water salt yeast ; how to mend an index without "
    "losing data ? 潮 汐 由 月 亮 引 起 面 包 需 要 面 粉 query : passage"
).split()


def save_small_model(folder: Path, architecture: str, *, pooling: str = "mean", dense: int = 0, **modules: Any) -> Path:
    """A two-layer model with random weights and a word tokenizer, saved as sentence-transformers saves."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*specials, *dict.fromkeys(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if architecture == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    if architecture in {"qwen3", "llama"}:
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(vocabulary),
        max_position_embeddings=66,
        pad_token_id=1,
        initializer_range=0.5,
        **sizes,
    )
    base = folder / "base"
    AutoModel.from_config(config).save_pretrained(base)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(base)
    parts: list[Any] = [Transformer(str(base), max_seq_length=64), Pooling(32, pooling_mode=pooling)]
    if dense:
        parts.append(Dense(32, dense))
    model = SentenceTransformer(modules=[*parts, Normalize()], device="cpu", **modules)
    model.save(str(folder / "model"))
    return folder / "model"


def save_adapter(
    folder: Path, model: Path, *, seed: int = 0, size: float = 0.5, role: str = "embedder", **config: Any
) -> Path:
    """A LoRA of rank 2 with random matrices on the two attention queries of a small model, in peft's form."""
    import torch
    from safetensors.torch import save_file

    from retrieval.embedding.model_files import find_model, weights_hash

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    tensors = {}
    for layer in (0, 1):
        name = f"base_model.model.encoder.layer.{layer}.attention.self.query"
        tensors[f"{name}.lora_A.weight"] = size * torch.randn(2, 32)
        tensors[f"{name}.lora_B.weight"] = size * torch.randn(32, 2)
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    weights = weights_hash(find_model(str(model)), folder.parent / "hashes")
    about = {"base": "small", "base_sha256": weights, "role": role, "prompt_version": ""}
    (folder / "fathom.json").write_text(json.dumps(about))
    return folder
