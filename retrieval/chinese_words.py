"""A run of Chinese characters → the dictionary words in it, by jieba where it is installed.

jieba is loaded at the first run that needs it (about 1 s). Its own start-up is not used: it reads and writes a marshal
file of a fixed name in the shared temporary folder, which any user of the machine could have put there.
"""

import logging
import re
import threading
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_HAN = re.compile("[\u4e00-\u9fd5]{3,}")
_LONGEST_RUN = 128
"""Characters given to jieba at once; its model for unknown words copies a path per character."""

_loading = threading.Lock()
_NAME_TAGS = frozenset(("nr", "nrt", "nrfg", "ns", "nt"))


def jieba_version() -> str:
    """The installed version without importing it, "none" where there is none."""
    try:
        return version("jieba")
    except PackageNotFoundError:
        return "none"


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    if jieba_version() == "none":
        return None
    import jieba

    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    with tokenizer.get_dict_file() as dictionary:
        tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(dictionary)
    tokenizer.initialized = True  # so that initialize(), which holds the cache file, never runs
    return tokenizer


@lru_cache(maxsize=1)
def _cutter() -> Callable[[str], list[str]] | None:
    tokenizer = _tokenizer()
    if tokenizer is None:
        return None

    def cut(run: str) -> list[str]:
        return list(tokenizer.cut_for_search(run, HMM=False))

    return cut


@lru_cache(maxsize=1)
def _tagger() -> Any:
    tokenizer = _tokenizer()
    if tokenizer is None:
        return None
    from jieba.posseg import POSTokenizer

    return POSTokenizer(tokenizer)


def names_of_run(run: str) -> list[tuple[int, int]]:
    """Spans of the people, places and organisations in a run of Chinese characters; none without jieba."""
    return [span for span, _ in tagged_names(run)]


def tagged_names(run: str) -> list[tuple[tuple[int, int], str]]:
    """Those spans with the tag in jieba's dictionary: nr… a person, ns a place, nt an organisation. Its guesses at
    other words are left out: wrong too often (特徵 as a person). The first call loads the tags, about a second."""
    with _loading:
        tagger = _tagger()
    if tagger is None:
        return []
    spans: list[tuple[tuple[int, int], str]] = []
    for begin in range(0, len(run), _LONGEST_RUN):
        position = begin
        for pair in tagger.cut(run[begin : begin + _LONGEST_RUN], HMM=False):
            end = position + len(pair.word)
            if pair.flag in _NAME_TAGS and end - position > 1:
                spans.append(((position, end), pair.flag))
            position = end
    return spans


def words_of_run(run: str) -> list[str]:
    """The words of two or more characters in the Chinese parts of `run`, overlapping ones included."""
    with _loading:
        cut = _cutter()
    if cut is None:
        return []
    words: list[str] = []
    for match in _HAN.finditer(run):
        han = match.group()
        for start in range(0, len(han), _LONGEST_RUN):
            words.extend(word for word in cut(han[start : start + _LONGEST_RUN]) if len(word) > 1)
    return words
