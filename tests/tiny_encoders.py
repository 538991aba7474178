"""Encoders of a few thousand random weights for pairs of texts, saved as the hub has them, and hits to read."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.passages import Hit, Passage, Scores, Source

if TYPE_CHECKING:
    from transformers import BertConfig, PreTrainedTokenizerFast

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = "tides are caused by the moon bread needs flour water salt yeast index data 潮 汐 月 亮 pump › .".split()


def _tokenizer() -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIALS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def _config(*, positions: int, labels: int = 1) -> "BertConfig":
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(SPECIALS) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
        num_labels=labels,
        initializer_range=0.5,
    )


def save_cross_encoder(folder: Path, *, labels: int = 1, architecture: str = "BertForSequenceClassification") -> Path:
    """A two-layer BERT with 32 positions and a head of `labels` scores."""
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    BertForSequenceClassification(_config(positions=32, labels=labels)).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    changed = json.loads((folder / "config.json").read_text()) | {"architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(changed))
    return folder


def hit(text: str, *, title: str = "", headings: tuple[str, ...] = (), scores: Scores | None = None) -> Hit:
    passage = Passage(1, 1, 0, 0, len(text), None, headings, text, 1)
    return Hit(1, 0.5, passage, Source(1, "a.txt", title, "txt", "local", {}), scores or Scores())


def save_encoder(folder: Path) -> Path:
    """The same BERT without a head, as an embedding model's trunk is stored: two layers, 64 positions."""
    import torch
    from transformers import BertModel

    torch.manual_seed(1)
    BertModel(_config(positions=64), add_pooling_layer=False).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder
