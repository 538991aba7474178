"""One converted model for all tests of embedding, sentence-transformers' own as the reference, and small models."""

import os
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

from retrieval.embedding.embedder import Embedder
from retrieval.embedding.load import EmbeddingSettings, load_embedder, model_folder

WORDS = (
    "tides are caused by the moon and the sun , bread needs flour water salt yeast ; how to mend an index without "
    "losing data ? 潮 汐 由 月 亮 引 起 面 包 需 要 面 粉 query : passage"
).split()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedding")


@pytest.fixture(scope="session")
def exact(cache: Path) -> Embedder:
    """all-MiniLM-L6-v2 on OpenVINO in fp32."""
    return load_embedder(EmbeddingSettings(precision="fp32", device="cpu", threads=1, cache=cache))


@pytest.fixture(scope="session")
def half(cache: Path, exact: Embedder) -> Embedder:
    """The same with the bf16 hint."""
    return load_embedder(EmbeddingSettings(precision="bf16", device="cpu", threads=1, cache=cache))


@pytest.fixture(scope="session")
def reference() -> Any:
    """sentence-transformers' own model of the same files."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(model_folder("all-MiniLM-L6-v2")), device="cpu", local_files_only=True)


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


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with a query and a document prompt."""
    prompts = {"query": "query : ", "document": "passage : "}
    return save_small_model(tmp_path_factory.mktemp("small"), "bert", prompts=prompts)


@pytest.fixture(scope="session")
def save_model() -> Any:
    """`save_small_model`, for tests that need other architectures."""
    return save_small_model
