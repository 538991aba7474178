"""What a byte-level BPE tokenizer is made of: its old merges, its letters for bytes; every other kind is refused.

Byte-level BPE is the kind of GPT-2, Llama 3, Qwen, SmolLM2. It knows no corpus and no model.
"""

import json
import unicodedata
from codecs import getincrementaldecoder
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from retrieval.errors import UsageError

SPACE = " "


@cache
def letter_of_byte() -> Mapping[int, str]:
    """The printable letter by which each byte is written in a vocabulary (Radford et al. 2019, `bytes_to_unicode`)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in plain}
    others = (byte for byte in range(256) if byte not in letters)
    return letters | {byte: chr(256 + number) for number, byte in enumerate(others)}


@cache
def _byte_of_letter() -> Mapping[str, int]:
    return {letter: byte for byte, letter in letter_of_byte().items()}


def bytes_of(token: str) -> bytes:
    """The bytes that a token of the vocabulary stands for. Raises KeyError where it is not written in byte letters."""
    return bytes(_byte_of_letter()[letter] for letter in token)


def written(text: str) -> str:
    """A text in byte letters."""
    return "".join(letter_of_byte()[byte] for byte in text.encode())


def readable(token: str) -> str:
    """A token as text; broken characters become U+FFFD."""
    return bytes_of(token).decode("utf-8", "replace")


def is_word(token: str) -> bool:
    """Whether a token is letters of any script, whole characters, with at most one space before them."""
    try:
        text = bytes_of(token).decode()
    except (KeyError, ValueError):
        return False
    return is_letters(text.removeprefix(SPACE)) and text.removeprefix(SPACE)[:1].isalpha()


def may_become_word(token: str) -> bool:
    """Whether a token could be a piece of one that `is_word`: the same, but its ends may be in the middle of a
    character, as they are on the way to a Chinese one."""
    try:
        data = bytes_of(token).removeprefix(SPACE.encode())
    except KeyError:
        return False
    start = next((place for place, byte in enumerate(data[:4]) if not 0x80 <= byte < 0xC0), len(data))
    try:
        # An incremental decoder waits for the rest of a character where the data ends inside one.
        return start < 4 and is_letters(getincrementaldecoder("utf-8")().decode(data[start:]))
    except UnicodeDecodeError:
        return False


def is_letters(text: str) -> bool:
    """Whether a text is letters of any script and their marks alone; the empty one is."""
    # Marks belong to the letters of Hindi, Thai and decomposed accents.
    return all(letter.isalpha() or unicodedata.category(letter).startswith("M") for letter in text)


@dataclass(frozen=True)
class ByteLevelBpe:
    """A tokenizer that may be extended. `file` is its tokenizer.json, `ids` every token's id, added ones included."""

    file: Mapping[str, Any]
    ids: Mapping[str, int]
    added: Mapping[str, int]

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The merges in the order of their rank."""
        return [_pair(merge) for merge in self.file["model"]["merges"]]

    @property
    def next_id(self) -> int:
        """The first id after all that there are."""
        return max(self.ids.values()) + 1

    def free(self, token: str) -> bool:
        """Whether no token, added ones included, is written so or reads so."""
        return token not in self.ids and readable(token) not in self.added


def _pair(merge: Any) -> tuple[str, str]:
    """Written as a pair since tokenizers 0.20, as "a b" before."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def byte_level(tokenizer: Any) -> ByteLevelBpe:
    """The parts of a fast tokenizer of transformers that may be extended so that no text gets longer.

    Why that is so for these and no others: BPE applies the merge of the lowest rank first, and the old merges keep
    their ranks, so a text is first split exactly as before; a merge that is appended then applies or does not, and
    each time it does there is one token less. A merge list is what SentencePiece's unigram model and WordPiece lack;
    dropout draws lots over the order.
    Raises UsageError for a tokenizer of which that cannot be said.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UsageError("the model has no fast tokenizer (tokenizer.json), so its vocabulary cannot be extended")
    file = json.loads(backend.to_str())
    model = file["model"]
    if model.get("type") != "BPE":
        raise UsageError(
            f"the tokenizer is of the kind {model.get('type')}, and only byte-level BPE (GPT-2, Llama 3, Qwen, "
            "SmolLM2) can be given tokens so that no text gets longer; leave the stage 'vocabulary' out"
        )
    reasons = {
        "dropout": "it draws lots between merges (dropout)",
        "continuing_subword_prefix": "it marks the pieces inside a word",
        "end_of_word_suffix": "it marks the ends of words",
        "byte_fallback": "it is SentencePiece's BPE, not byte-level",
    }
    for key, reason in reasons.items():
        if model.get(key):
            raise UsageError(f"the vocabulary of this tokenizer cannot be extended: {reason}; leave 'vocabulary' out")
    if not any(part.get("type") == "ByteLevel" for part in _parts(file.get("pre_tokenizer"), "pretokenizers")):
        raise UsageError(
            "the vocabulary of this tokenizer cannot be extended: its BPE works on characters, not on bytes (no "
            "ByteLevel pre-tokenizer in tokenizer.json); leave the stage 'vocabulary' out"
        )
    added = {str(token["content"]): int(token["id"]) for token in file["added_tokens"]}
    found = ByteLevelBpe(file, {**model["vocab"], **added}, added)
    if model.get("ignore_merges"):
        _require_unreachable(backend, found)
    return found


def _parts(part: Any, within: str) -> list[Mapping[str, Any]]:
    """A pre-tokenizer, or those of a sequence."""
    if not isinstance(part, dict):
        return []
    return [inner for each in part.get(within, ()) for inner in _parts(each, within)] or [part]


def _require_unreachable(backend: Any, found: ByteLevelBpe) -> None:
    """Added tokens are put into the model's vocabulary when it grows, or they would lose their ids; where whole words
    are looked up there before any merge (`ignore_merges`), none of them may look like a word of a text."""
    for content in found.added:
        if content in found.file["model"]["vocab"]:
            continue
        pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(content)]
        if content in pieces:
            raise UsageError(
                f"the vocabulary of this tokenizer cannot be extended: its added token '{content[:40]}' would be found "
                "in ordinary text; leave the stage 'vocabulary' out"
            )
