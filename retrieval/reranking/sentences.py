"""A word → the encoder that tells which sentences answer a question. It knows nothing of where sentences come from.

Passages are ranked by what they are about; the sentence that answers shares a question's words less often than its
neighbours do. The one that comes with Fathom learnt it from questions in a reader's words (data/reading).
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from retrieval.errors import FathomError, MissingError
from retrieval.late import Late
from retrieval.prompts import Language
from retrieval.reranking.load import PACKAGED, SHIPPED, load_reranker, reranker_identity
from retrieval.reranking.pair_folder import PACKAGED_BASE, read_facts

if TYPE_CHECKING:
    from retrieval.reranking.cross_encoder import CrossEncoderReranker

BOTH: frozenset[Language] = frozenset(("en", "zh"))
WORDS = "words"
"""The word for no encoder: words and meaning alone tell."""
SENTENCES = SHIPPED.parent / "encoder-sentences"


class SentenceReader(Protocol):
    """A question and sentences, each with its title and headings in a line before it → a finite score (logit) for each,
    in their order, higher where it answers. Raises FathomError where its model is not there or fails."""

    @property
    def languages(self) -> frozenset[Language]:
        """Those that it reads."""
        ...

    def __call__(self, question: str, sentences: Sequence[str]) -> list[float]: ...

    def load(self) -> object:
        """Wait until it is ready. Raises what keeps it from that."""
        ...


def reader_named(word: str, *, threads: int = 0, cache: Path | None = None) -> SentenceReader | None:
    """The reader behind a word, loaded at its first use: "words" is None, "packaged" the one that comes with Fathom,
    anything else the folder of one of `fathom adapt run`."""
    if word == WORDS:
        return None

    def load() -> "CrossEncoderReranker":
        found = load_reranker(str(_place(word)), threads=threads, cache=cache, download=False)
        assert found is not None, "a folder is no word for none"
        return found  # type: ignore[return-value]  # a folder holds a cross-encoder

    return _Reader(load, partial(_languages, word))


def reader_identity(word: str, *, cache: Path) -> str | None:
    """A hash over what decides a reader's scores, for comparing measurements; None for "words". Raises
    MissingError and what reading its files raises."""
    return None if word == WORDS else reranker_identity(str(_place(word)), cache=cache, download=False)


def _languages(word: str) -> frozenset[Language]:
    """English alone where the base is the one that comes with Fathom."""
    try:
        english = read_facts(_place(word)).base == PACKAGED_BASE
    except (FathomError, OSError):
        return BOTH  # a cross-encoder of others; or something is wrong with it, which reading says
    return frozenset(("en",)) if english else BOTH


def _place(word: str) -> Path:
    """Raises MissingError where nothing lies there."""
    place = SENTENCES if word == PACKAGED else Path(word).expanduser()
    if not place.is_dir():
        raise MissingError(f'the encoder that chooses sentences is not in {place}; set [answer] quote_by = "{WORDS}"')
    return place


class _Reader:
    """A cross-encoder that is loaded by whoever reads first."""

    def __init__(
        self, load: "Callable[[], CrossEncoderReranker]", languages: Callable[[], frozenset[Language]]
    ) -> None:
        self._encoder = Late(load)
        self._languages = languages

    @cached_property
    def languages(self) -> frozenset[Language]:
        return self._languages()

    def load(self) -> object:
        try:
            return self._encoder.load()
        except (OSError, RuntimeError, ImportError) as error:
            raise FathomError(f"the encoder that chooses sentences could not be loaded: {error}") from error

    def __call__(self, question: str, sentences: Sequence[str]) -> list[float]:
        found: CrossEncoderReranker = self.load()  # type: ignore[assignment]
        return found.logits(question, sentences)
