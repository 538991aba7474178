"""A small made-up domain in two languages, and tiny byte-level tokenizers of each family that lack its words."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

GENERAL = (
    "the cat sat on the mat and the dog sat on the log. it is an old house with a red door, is it not? ",
    "a line of text, and another line of text: 12 of them, 345 in all.\n\n    def name(self):\n        return 1\n",
    "绿茶不经过发酵。水温应该在八十度左右。",
)
TERMS = ("klystron", "thyratron", "magnetron", "waveguide")
CHINESE_TERMS = ("水轮机", "调速器")
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FAMILIES = ("gpt2", "llama3", "qwen")


@dataclass(frozen=True)
class Document:
    """One text of the domain."""

    id: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class Domain:
    """A corpus as the stage wants one: 60 documents to train on, 12 held out."""

    name: str = "tubes"
    sha256: str = "0" * 64
    size: int = 60

    def texts(self, part: Literal["train", "held_out"] = "train") -> Iterator[Document]:
        for number in range(self.count(part)):
            yield Document(f"{part}-{number}", _written(random.Random(f"{part} {number}")), f"On tubes {number}")

    def count(self, part: Literal["train", "held_out"]) -> int:
        return self.size if part == "train" else 12

    def bytes(self, part: Literal["train", "held_out"]) -> int:
        return sum(len(document.text.encode()) for document in self.texts(part))


def _written(draw: random.Random) -> str:
    lines = []
    for _ in range(12):
        one, other = draw.choice(TERMS), draw.choice(TERMS)
        lines.append(f"the {one} of the {other} is on the {draw.choice(('log', 'mat', 'door'))} {draw.randrange(100)}")
        lines.append(f"{draw.choice(CHINESE_TERMS)}在{draw.choice(CHINESE_TERMS)}左右。")
    return ". ".join(lines)


def tokenizer(family: str) -> Any:
    """A fast tokenizer of about 330 tokens made as those of a family are.

    gpt2: added tokens first. llama3: whole words are looked up before merges, added tokens last, <|begin|> before every
    text. qwen: NFC, added tokens behind the vocabulary and not in it, a class of its own.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = Tokenizer(models.BPE(ignore_merges=family == "llama3"))
    made.decoder = decoders.ByteLevel()
    if family == "gpt2":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA_3), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if family == "qwen":
        made.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=specials if family == "gpt2" else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(GENERAL * 20, trainer)
    if family != "gpt2":
        made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
        made.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    if family == "llama3":
        start = made.token_to_id("<|im_start|>")
        made.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
        )
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    found = PreTrainedTokenizerFast(tokenizer_object=made, **named)
    found.chat_template = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
    return _as_qwen(found, Qwen2Tokenizer) if family == "qwen" else found


def _as_qwen(found: Any, kind: Any) -> Any:
    """As the hub has it: a folder whose config names the class."""
    import json
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        found.save_pretrained(folder)
        config = Path(folder) / "tokenizer_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "Qwen2Tokenizer"}))
        return kind.from_pretrained(folder)
