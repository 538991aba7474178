"""Text → the words lexical search matches: English stems, CJK bigrams and words, code identifiers whole and in parts.

One tokeniser for the index and for queries. It knows nothing of scores or storage. Time is linear in the text: every
word is cut to `MAX_LENGTH` before anything looks inside it, and what one word becomes is remembered.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from retrieval.chinese_words import jieba_version, words_of_run

MAX_LENGTH = 64
"""Characters of the longest token; a longer word is cut into pieces of this length, none is dropped."""

_REMEMBERED = 1 << 17
"""Word forms whose tokens are remembered: stemming one costs about 20 µs, a look-up 0.1 µs."""


def _snowball_version() -> str:
    try:
        return version("snowballstemmer")
    except PackageNotFoundError:  # a source checkout without metadata still works
        return "unknown"


TOKENISER_VERSION = f"1 snowball={_snowball_version()} jieba={jieba_version()} unicode={unicodedata.unidata_version}"
"""Changes whenever the same text could give other tokens; an index made under another version is rebuilt."""

# Scripts written without spaces between words (and Hangul, whose words carry their particles): cut into bigrams.
# Thai to Khmer stand here with their vowel signs.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# Characters that live inside words but that `\w` leaves out are found by category once; these two are no marks.
_JOINERS = "\u00ad\u200c\u200d\u2060"
_INVISIBLE = re.compile(f"[{_JOINERS}\u0640]")
# Diacritics that are folded away: Latin, Greek and Cyrillic marks, Hebrew points, Arabic vowel signs. The vowel
# signs of Indic scripts are no diacritics and stay.
_DIACRITICS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670]")
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\uff07": "'", "\u2010": "-", "\u2011": "-"})

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")
_JOINTS = re.compile(r"[._@:,+\-]+")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_NUMBER = re.compile(r"\d+(?:[.:]\d+)*")
_ELISION = re.compile(r"(?:[dljmnstc]|qu)'(?=\w{3})")
_LANGUAGES = re.compile(r"[a-z](?:\+\+|#)")
_ENGLISH = re.compile(r"[a-z]{3,30}")


def _ranges(codes: Iterable[int]) -> str:
    """Code points, ascending, as the inside of a regular expression's character class."""
    out: list[str] = []
    first = last = -2
    for code in codes:
        if code != last + 1:
            if first >= 0:
                out.append(f"{chr(first)}-{chr(last)}")
            first = code
        last = code
    return "".join([*out, f"{chr(first)}-{chr(last)}"])


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    """A run of an unspaced script, or a word with what may stand inside words. Every alternative is one loop over a
    class, so matching never goes back further than one joiner."""
    planes = (*range(0x300, 0x3040), *range(0xA000, 0xAC00), *range(0xFB00, 0x1F000))
    marks = _ranges(code for code in planes if unicodedata.category(chr(code))[0] == "M")
    unspaced_marks = "\u3099\u309a"
    letter = f"[^\\W{_UNSPACED}]|[{marks}{_JOINERS}]"
    letters = f"(?:{letter})+"
    joint = "(?:[.'\u2019\u02bc\uff07@+\u2010\u2011\\-]|(?<=\\d)[,:](?=\\d))"
    return re.compile(
        f"([{_UNSPACED}{unspaced_marks}]+)|([A-Za-z](?:\\+\\+|#)(?![A-Za-z_+#])|{letters}(?:{joint}{letters})*)"
    )


_ASCII = re.compile(
    r"()([A-Za-z](?:\+\+|#)(?![A-Za-z_+#])|[A-Za-z0-9_]+(?:(?:[.'@+\-]|(?<=\d)[,:](?=\d))[A-Za-z0-9_]+)*)"
)
"""The same for text that is all ASCII, which is most code and English: three times as fast."""


@lru_cache(maxsize=1)
def _stemmer():  # type: ignore[no-untyped-def]
    import snowballstemmer

    return snowballstemmer.EnglishStemmer()  # pure Python; snowballstemmer.stemmer() might pick a C one that differs


def _stem(word: str) -> str:
    if not _ENGLISH.fullmatch(word):
        return word
    return str(_stemmer().stemWord(word))


def _fold(word: str) -> str:
    """Compatibility form (full width to half width, ligatures apart), lower case, without diacritics."""
    if not word.isascii():
        word = unicodedata.normalize("NFKD", word)
        word = _INVISIBLE.sub("", _DIACRITICS.sub("", word))
        # A compatibility form may hold spaces; a token may not.
        word = "".join(unicodedata.normalize("NFC", word).split())
    return word.casefold()


def _pieces(word: str) -> Iterator[str]:
    for start in range(0, len(word), MAX_LENGTH):
        yield word[start : start + MAX_LENGTH]


@lru_cache(maxsize=_REMEMBERED)
def _word_tokens(word: str) -> tuple[str, ...]:
    """The tokens of one word as the pattern found it, at most `MAX_LENGTH` long."""
    word = word.translate(_APOSTROPHES)
    if word.isascii() and word.isalpha() and (word.islower() or word.istitle() or word.isupper()):
        return (_stem(word.lower()),)
    if not word.isascii():
        word = _INVISIBLE.sub("", unicodedata.normalize("NFKC", word)).translate(_APOSTROPHES)
    lower = _fold(word)
    if _LANGUAGES.fullmatch(lower):
        return (lower,)
    if _THOUSANDS.fullmatch(lower):
        return (lower.replace(",", ""),)
    if _NUMBER.fullmatch(lower):
        return (lower,)
    return tuple(dict.fromkeys(token for token in _compound(word, lower) if token))


def _compound(word: str, lower: str) -> Iterator[str]:
    """Whole and parts of a word with something inside: an identifier, a hyphen, an apostrophe, an address."""
    parts = [part for joined in _JOINTS.split(word) for part in _CAMEL.split(joined) if part]
    stems = [_stem(_apostrophe(_fold(part))) for part in parts]
    simple = len(parts) == 1
    if all(len(part) == 1 for part in parts) and "." in lower:
        yield lower.replace(".", "")  # U.S.A. is USA
        return
    if "_" in lower or (not simple and re.search("[.@]", lower)):
        # An identifier, a host, an address, a file name: its own spelling counts as a word too.
        yield lower.strip(".,:+-'")
    elif not simple and "," not in lower:
        # e-mail and email, pre-training and pretraining, COVID-19 and covid19, MiniLM and minilm are one word.
        yield _stem(re.sub(r"[^\w]", "", lower))
    for stem in stems:
        if simple or len(stem) > 1 or not stem.isascii() or stem.isdigit():
            yield stem


def _apostrophe(word: str) -> str:
    if "'" not in word:
        return word
    word = word.removesuffix("'s").removesuffix("'")
    return _ELISION.sub("", word).replace("'", "")


def _words(word: str) -> Iterator[str]:
    """A match of any length as words of at most `MAX_LENGTH`: at its joints first, then anywhere."""
    if len(word) <= MAX_LENGTH:
        yield word
        return
    for part in re.split(r"[^\w]+", word) if word.isascii() else re.split("[.,:'@+-]+", word):
        yield from _pieces(part)


def _unspaced_tokens(run: str) -> list[str]:
    if not run.isascii():
        run = "".join(unicodedata.normalize("NFKC", piece) for piece in _pieces(run))
    return [*(run[i : i + 2] for i in range(len(run) - 1)), *run] if len(run) > 1 else [run]


def tokens(text: str) -> list[str]:
    """The tokens of a passage, in no useful order, with repetitions (they are the term frequencies).

    Runs of Chinese, Japanese, Korean and Thai give their bigrams, their single characters and the words jieba finds;
    everything else gives folded, stemmed words. No stop word is left out: a rare query may be made of them.
    """
    out: list[str] = []
    for run, word in (_ASCII if text.isascii() else _pattern()).findall(text):
        if run:
            out.extend(_unspaced_tokens(run))
            out.extend(words_of_run(run))
        else:
            for part in _words(word):
                out.extend(_word_tokens(part))
    return out


def query_tokens(text: str) -> list[str]:
    """The tokens of a query, each once, in order.

    The same tokens as on the index side. Measured (nDCG@10): repeating a word of the query changes nothing (SciFact
    .6854 to .6856, CosQA .3922 to .3917); leaving out English stop words helps claims (SciFact +.002, Cranfield +.004)
    and hurts questions about code (CosQA -.009); single Chinese characters beside the bigrams help (DRCD +.004,
    XQuAD zh +.004).
    """
    return list(dict.fromkeys(tokens(text)))
