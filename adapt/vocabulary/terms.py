"""Domain texts and a tokenizer → the words and phrases that are worth a token of their own, with what each saves and
why others are not. It changes no tokenizer and knows no model.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from adapt.recipe import Vocabulary
from adapt.vocabulary.byte_level import SPACE, ByteLevelBpe, byte_level, readable, written
from adapt.vocabulary.counting import count
from adapt.vocabulary.merges import Limits, Pair, learn
from adapt.vocabulary.phrases import joining, reaches_across
from adapt.vocabulary.tokenizer_file import is_split_as_written
from eval.data.texts import storable
from eval.runs.parts import Progress


class Text(Protocol):
    """What a text has to have; `adapt.corpus.texts.TrainingText` does."""

    @property
    def text(self) -> str: ...

    @property
    def title(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A new token. `written` is how the vocabulary writes it, `pieces` the old tokens it is made of, as text.

    Each time it occurs (`frequency`, in `documents` documents at least) one token is saved: `saving` is that as a share
    of the corpus's tokens, `cumulative` with all before it in the list. `stands` counts how often it stays a token of
    its own; 0 is a step on the way to a longer one. `examples` are the commonest words it is found in.
    """

    text: str
    written: str
    pieces: tuple[str, ...]
    frequency: int
    documents: int
    saving: float
    cumulative: float
    stands: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Candidates:
    """All that would be added, in the order of the new ids. `tokens` and `bytes` are of the corpus before."""

    terms: tuple[Candidate, ...]
    merges: tuple[Pair, ...]
    splits: tuple[tuple[int, ...], ...]
    """The old ids that each term is made of."""
    documents: int
    bytes: int
    tokens: int
    refused: Mapping[str, Mapping[str, Any]]
    """By reason: `count`, and `examples`, the commonest."""
    pre_tokenizer: Mapping[str, Any] | None = None
    """What the tokenizer's own has to be replaced with, for there are phrases among the terms; None where none are."""
    words_only: str | None = None
    """Why this tokenizer cannot have phrases though they are asked for."""

    @property
    def saving(self) -> float:
        """Share of the corpus's tokens."""
        return self.terms[-1].cumulative if self.terms else 0.0

    def facts(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "saving": self.saving,
            "terms": [asdict(term) for term in self.terms],
            "phrases": sum(reaches_across(term.written) for term in self.terms),
            "words_only": self.words_only,
            "refused": self.refused,
        }


def candidates(
    texts: Iterable[Text],
    tokenizer: Any,
    settings: Vocabulary,
    *,
    model: Path | None = None,
    progress: Progress = lambda *_: None,
    total: int = 0,
) -> Candidates:
    """Read the texts once, learn merges. `tokenizer` is a fast one of transformers, `model` the folder it is from and
    will go to (it is seen there whether phrases can be had), `total` the texts there are.

    Raises UsageError for a tokenizer that cannot be extended (see `byte_level`).
    """
    base = byte_level(tokenizer)
    joined, words_only = _joined(base, settings, model)
    splitter = None if joined is None else _splitter(joined)
    counted = count((whole(text) for text in texts), tokenizer, splitter=splitter, progress=progress, total=total)
    limits = Limits(
        settings.tokens,
        settings.min_frequency,
        settings.min_documents,
        math.ceil(max(0.0, settings.least_saving) * counted.tokens),
        settings.words_at_most if joined is not None else 1,
    )
    learned = learn(counted.pieces, limits, base.free, progress=progress)
    splits = [learned.split(term.token) for term in learned.terms]

    def told() -> Iterator[Candidate]:
        saved = 0
        for term, split in zip(learned.terms, splits, strict=True):
            saved += term.saved
            yield Candidate(
                text=readable(term.token),
                written=term.token,
                pieces=tuple(map(readable, split)),
                frequency=term.saved,
                documents=term.documents,
                saving=term.saved / counted.tokens,
                cumulative=saved / counted.tokens,
                stands=term.stays,
                examples=tuple(dict.fromkeys(_around(term.token, piece) for piece in term.pieces)),
            )

    refused = {
        reason: {"count": number, "examples": [readable(token) for token in learned.refused.examples[reason]]}
        for reason, number in learned.refused.counts.most_common()
    }
    return Candidates(
        terms=tuple(told()),
        merges=learned.merges,
        splits=tuple(tuple(base.ids[token] for token in split) for split in splits),
        documents=counted.documents,
        bytes=counted.bytes,
        tokens=counted.tokens,
        refused=refused,
        # Words alone are found without it too, and a tokenizer that splits as before can be exported to more programs.
        pre_tokenizer=joined if any(reaches_across(term.token) for term in learned.terms) else None,
        words_only=words_only,
    )


def _joined(
    base: ByteLevelBpe, settings: Vocabulary, model: Path | None
) -> tuple[Mapping[str, Any] | None, str | None]:
    """The pre-tokenizer that phrases need, or None and, where they are asked for, why they cannot be had."""
    if settings.words_at_most < 2:
        return None, None
    found = joining(base)
    if isinstance(found, str):
        return None, found
    if model is not None and not is_split_as_written(base, found, model):
        return None, "transformers splits texts for models of this kind in a way of its own"
    return found, None


def _splitter(pre_tokenizer: Mapping[str, Any]) -> Any:
    """A pre-tokenizer out of its part of a tokenizer.json."""
    from tokenizers import Tokenizer

    model = {"type": "BPE", "vocab": {}, "merges": []}
    made = {"version": "1.0", "added_tokens": [], "pre_tokenizer": pre_tokenizer, "model": model}
    return Tokenizer.from_str(json.dumps(made)).pre_tokenizer


def _around(token: str, piece: str) -> str:
    """The words of a piece that a token is found in first."""
    start = piece.index(token)
    left = max(0, piece.rfind(written(SPACE), 0, start + 1))
    right = piece.find(written(SPACE), start + len(token))
    return readable(piece[left : right if right > 0 else None])


def whole(text: Text) -> str:
    """Title and text as they are trained on."""
    return storable(f"{text.title}\n\n{text.text}" if text.title else text.text)
