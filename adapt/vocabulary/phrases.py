"""Words of a text → runs of words that merges may cross, so that a phrase can become one token and no text gets longer.

It rewrites the pre-tokenizer of a byte-level BPE's tokenizer.json. It knows no corpus and no model.

Why no text gets longer. Let R be the pattern that the tokenizer splits a text by, each match being a piece that is
merged on its own. The new pattern is `(?>R)(?>R)…|R`: since a group `(?>…)` matches what it matches first and is never
tried otherwise, each piece of it is one piece of R, or several that followed each other. Pieces are joined, none is
cut elsewhere. They are joined at four kinds of places alone (`BETWEEN`), and a tokenizer is taken only where no token
reaches across such a place, so its own merges, which keep their ranks, end in a joined piece where they ended in its
parts: with the same tokens as before. Each merge that is appended then makes one token less each time it applies.

Added tokens (tokenizer.json `added_tokens`) cannot do it. With `single_word` they need a character that is no letter
before their first one, so a phrase that begins with its space is never found behind a word; without, they are found in
the middle of longer words, whose rest may then be more tokens than the whole word was.

Tokens across words: Liu et al. 2025 (SuperBPE, arXiv:2503.13423).
"""

import json
import re
import unicodedata
from codecs import getincrementaldecoder
from collections.abc import Mapping
from typing import Any

from adapt.vocabulary.byte_level import ByteLevelBpe, bytes_of, is_letters, is_word, may_become_word, readable

GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What ByteLevel splits by where it does (tokenizers, `byte_level.rs`)."""
FIRST = r"(?=(?:,? )?\p{L})"
BETWEEN = r"(?:(?<=\p{L})(?=,? \p{L}|'(?:[stmd]|re|ve|ll)(?!\p{L}))|(?<=,)(?= \p{L}))"
"""Between two words of a phrase: letters and a space, a comma with a space or the rest of "isn't"; a comma and a space.
"""
RUN = 64
"""Words that are joined at most. Without an end, a megabyte of words broke the limit of steps that Oniguruma sets a
match (retry-limit-in-match), and tokenizers stops the program there."""
_ENDS = (",", "'")
"""A term on its way to another may end so; not with a space, which would take it from the next word."""
_SEPARATORS = re.compile(r",? |'")


def joined(pattern: str) -> str:
    """A splitting pattern that joins what another splits."""
    return rf"{FIRST}(?>{pattern})(?:{BETWEEN}(?>{pattern})){{0,{RUN - 1}}}|{pattern}"


def joining(base: ByteLevelBpe) -> Mapping[str, Any] | str:
    """The pre-tokenizer under which words are joined; or, of a tokenizer that has to stay with single words, why."""
    before: dict[str, Any] = base.file["pre_tokenizer"]
    steps = json.loads(json.dumps(before["pretokenizers"] if before["type"] == "Sequence" else [before]))
    last = max((place for place, step in enumerate(steps) if _splits(step)), default=None)
    if last is None or any(step.get("type") in ("Sequence", "Metaspace") for step in steps):
        return "it splits texts in a way of its own"
    if any(step.get("add_prefix_space") for step in steps):
        return "it puts a space before a text"
    step = steps[last]
    if step["type"] == "ByteLevel":
        steps[last : last + 1] = [_split(joined(GPT_2)), {**step, "use_regex": False}]
    else:
        pattern = step["pattern"].get("Regex")
        if pattern is None or str(step["behavior"]).lower() != "isolated" or step.get("invert"):
            return "it splits texts in a way of its own"
        if joins(before):
            return before  # and its tokens may reach across
        steps[last] = _split(joined(pattern))
    # An added token is no piece of a text's words, but where a piece is looked up whole it could be found as one.
    own = base.file["model"]["vocab"].keys() - base.added.keys()
    searched = base.ids.keys() if base.file["model"].get("ignore_merges") else own
    across = next((token for token in searched if reaches_across(token)), None)
    if across is not None:
        return f"its token {across[:40]!r} reaches across words"
    return {"type": "Sequence", "pretokenizers": steps}


def joins(pre_tokenizer: Any) -> bool:
    """Whether a pre-tokenizer is one of `joining`."""
    return FIRST in json.dumps(pre_tokenizer, ensure_ascii=False).replace("\\\\", "\\")


def _splits(step: Mapping[str, Any]) -> bool:
    return step.get("type") == "Split" or (step.get("type") == "ByteLevel" and bool(step.get("use_regex", True)))


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def reaches_across(token: str) -> bool:
    """Whether a token has one of the places inside it at which pieces are joined, so that it needs `joining`."""
    try:
        text = readable(token)
    except KeyError:
        text = token  # an added one, written as it is
    return any(
        (right in " ,'" and _may_be_letter(left)) or (left == "," and right == " ")
        for left, right in zip(text, text[1:], strict=False)
    )


def _may_be_letter(character: str) -> bool:
    """Also for half of one (U+FFFD, So), and for one of a Unicode newer than Python's (Cn)."""
    return character == "\ufffd" or unicodedata.category(character)[0] == "L" or unicodedata.category(character) == "Cn"


def is_phrase(token: str, words: int) -> bool:
    """Whether a token is up to so many whole words with a space, or a comma and a space, before each."""
    try:
        text = bytes_of(token).decode()
    except (KeyError, ValueError):
        return False
    return _of_words(text, words) and text[-1:].isalpha()


def is_term(token: str, words: int) -> bool:
    """Whether a token `is_word` or `is_phrase`."""
    return is_word(token) or (words > 1 and is_phrase(token, words))


def may_become_term(token: str, words: int) -> bool:
    """Whether a token could be a piece of one that `is_term`. Phrases grow from their beginning, the space, so that
    none begins in the middle of a word."""
    if may_become_word(token):
        return True
    if words < 2 or token[:1] not in ("Ġ", ","):
        return False
    try:
        # An incremental decoder waits for the rest of a character where the data ends inside one.
        text = getincrementaldecoder("utf-8")().decode(bytes_of(token))
    except (KeyError, UnicodeDecodeError):
        return False
    return _of_words(text[:-1] if text[-1:] in _ENDS else text, words)


def _of_words(text: str, words: int) -> bool:
    before, *parts = _SEPARATORS.split(text)
    spaces = text.count(" ")
    return not before and 0 < spaces <= words and all(is_letters(part) and part[:1].isalpha() for part in parts)
