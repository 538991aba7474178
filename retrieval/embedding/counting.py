"""Texts → tokens, by the model's own tokenizer: the one count that splitter, length check and back ends share.

Knows prefixes and limits, no model. Loads without transformers.
"""

import re
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from retrieval.errors import UsageError

MIN_ROOM = 16
"""Tokens that prefixes must leave for the text."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class TextTokenizer:
    """A model's tokenizer, without the truncation and padding that models ship in their tokenizer.json.

    `definition` is the text of a tokenizer.json. all-MiniLM-L6-v2's cuts at 128 tokens although the model reads 256.
    Raises UsageError where a prefix leaves no room for a text.
    """

    def __init__(self, definition: str, *, max_tokens: int, passage_prefix: str, query_prefix: str) -> None:
        self._tokenizer = Tokenizer.from_str(definition)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_tokens = max_tokens
        self.passage_prefix = passage_prefix
        self.query_prefix = query_prefix
        longest = max(self.ids([""], passage_prefix) + self.ids([""], query_prefix), key=len)
        if max_tokens - len(longest) < MIN_ROOM:
            raise UsageError(
                f"the query and passage prefixes leave {max_tokens - len(longest)} of the model's {max_tokens} tokens "
                f"for the text; at least {MIN_ROOM} are needed, so shorten the prefixes"
            )

    def ids(self, texts: Sequence[str], prefix: str) -> list[list[int]]:
        """Token ids of `prefix + text`, special tokens included."""
        encodings = self._tokenizer.encode_batch_fast([_valid(prefix + text) for text in texts])
        return [encoding.ids for encoding in encodings]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as a passage, with prefix and special tokens."""
        encodings = self._tokenizer.encode_batch_fast([_valid(self.passage_prefix + text) for text in texts])
        return [len(encoding) for encoding in encodings]

    def offsets(self, text: str) -> np.ndarray:
        """(n, 2) int64 of character offsets, without prefix and special tokens."""
        spans = self._tokenizer.encode(_valid(text), add_special_tokens=False).offsets
        return np.array(spans, dtype=np.int64).reshape(len(spans), 2)

    def query_windows(self, text: str) -> list[list[int]]:
        """Token ids of a query: one list if it fits, else one for each window; together they cover the whole text.

        Windows are cut between tokens of the whole text. A window tokenised alone may have more tokens than in its
        context (a word cut in two), so it is shortened until it fits.
        """
        whole = self.ids([text], self.query_prefix)[0]
        if len(whole) <= self.max_tokens:
            return [whole]
        spans = self.offsets(text)
        room = self.max_tokens - len(self.ids([""], self.query_prefix)[0])
        windows: list[list[int]] = []
        first = 0
        while first < len(spans):
            size = max(1, room)
            while True:
                after = min(first + size, len(spans))
                end = len(text) if after == len(spans) else int(spans[after][0])
                window = self.ids([text[int(spans[first][0]) : max(end, int(spans[first][1]))]], self.query_prefix)[0]
                if len(window) <= self.max_tokens or size == 1:
                    break
                size = max(1, size - max(1, len(window) - self.max_tokens))
            windows.append(window)
            first = after
        return windows


def _valid(text: str) -> str:
    """Lone surrogates (from undecodable bytes on a command line) as U+FFFD: tokenizers refuses them. Same length."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)
