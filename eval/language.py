"""Texts and a language model → bits per byte, tokens per byte and perplexity, one record for each document or block.

Every token is scored exactly once, with a sliding window where the document is longer than the model's. It knows no
file formats and no tensors.
"""

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval.data.texts import Text, Texts, labelled, read_texts
from eval.models.language_models import LanguageModel, locate, open_model, require_same_model
from eval.models.likelihood import batches
from eval.runs.parts import PartFolder, Prepared, Progress, Record, Tools
from retrieval.errors import UsageError

WINDOW = 2048
"""Tokens of a window at most, if none is chosen: beyond it, attention costs more than the longer context tells."""
POOL = 16
"""Batches' worth of windows that are sorted by length together: more pads less, fewer come to records sooner."""
PREVIEW = 160


@dataclass(frozen=True)
class LanguagePart:
    """How well a language model predicts texts, in bits per UTF-8 byte (Gao et al. 2020, The Pile, 3.1).

    A byte is a byte under every tokenizer, so models with different vocabularies compare; perplexity, which is per
    token, does not and stands in `extras`.

    The first token of a document is scored after the model's BOS token, or its EOS token where it has no BOS, as
    lm-evaluation-harness does. A document longer than the window is scored in windows that begin `stride` tokens apart;
    each scores the tokens that no earlier one has, so that a token sees all before it up to `window`, and never fewer
    than window − stride. Where the tokenizer opens every text with BOS (Llama, Gemma), it takes the place of the first
    token of each later window, as in llama.cpp: such models are lost without it.

    Figures are kept for each document; of fewer than 20 documents for each block of about 4,000 characters, context
    running on across blocks. The interval then speaks of these documents and not of others.
    """

    texts: Mapping[str, Path] | tuple[Path, ...]
    """Files, folders or `file.jsonl.gz#field`, by label (domain, general) or without."""
    model: str | None = None
    """GGUF file, folder or OWNER/NAME; None is the model that comes with Fathom."""
    adapter: Path | None = None
    """Folder of an adapter that peft saved, put on the model."""
    window: int | None = None
    """Tokens a window holds; None is the model's own limit, at most 2,048."""
    stride: int | None = None
    """Tokens from one window's beginning to the next one's; None is half a window."""
    limit_bytes: int | None = None
    """Measure on about so many bytes of each text: beginnings of documents drawn with the seed, see `read_texts`."""
    batch_tokens: int | None = None
    """Tokens that go through the model at once; None is what suits the device."""
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("window", 2), ("stride", 1), ("limit_bytes", 1), ("batch_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} is at least {least}; {value} was given")
        if self.window is not None and self.stride is not None and self.stride >= self.window:
            raise UsageError(f"the stride ({self.stride}) must be smaller than the window ({self.window})")

    def prepare(self, tools: Tools) -> Prepared:
        """Read the texts and find the model. Raises UsageError, ReadingError, MissingError, DamagedError."""
        locate(self.model, self.adapter)
        paths = labelled(self.texts)
        texts = {label: read_texts(path, limit_bytes=self.limit_bytes, seed=self.seed) for label, path in paths.items()}
        data = {str(paths[label]): found.sha256 for label, found in texts.items()}
        sizes = ", ".join(
            f"{label}: {len(found.documents):,} documents, {found.bytes:,} bytes" for label, found in texts.items()
        )

        def run(folder: PartFolder, progress: Progress) -> Mapping[str, Any]:
            progress("loading the model", 0, 0)
            model = open_model(tools, self.model, adapter=self.adapter, device=self.device, precision=self.precision)
            return _Measurement(self, model, texts, folder).run(progress)

        blocks = sum(found.blocks for found in texts.values())
        return Prepared(blocks, data, f"bits per byte of {self.model or 'the packaged model'} on {sizes}", run)


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens [start, end) of a sequence, of which those from `first` on are scored."""

    start: int
    first: int
    end: int


def windows(length: int, window: int, stride: int) -> Iterator[Window]:
    """Windows over a sequence of `length` tokens that score each token but the first exactly once.

    Token i has all i tokens before it as context where the first window holds it, else at least window − stride.
    """
    first = 1
    for start in range(0, length, stride):
        end = min(start + window, length)
        if first < end:
            yield Window(start, first, end)
        first = end
        if end == length:
            return


@dataclass(slots=True)
class _Document:
    """One document on its way: its tokens, what is known of them, and the blocks that have no record yet."""

    label: str
    text: Text
    ids: np.ndarray
    starts: np.ndarray
    unknown: np.ndarray
    exact: bool
    prefix: str
    waiting: list[int]
    logprobs: np.ndarray = field(init=False)
    size: int = field(init=False)
    """In bytes."""

    def __post_init__(self) -> None:
        self.logprobs = np.full(len(self.ids), np.nan)
        self.size = len(self.text.text.encode())

    def tokens(self, window: Window, bos: int, opens: bool) -> list[int]:
        """The window's tokens. Place 0 of the sequence is `bos`, place i the document's token i − 1."""
        opened = window.start == 0 or opens
        body = self.ids[window.start - 1 + opened : window.end - 1].tolist()
        return [bos, *body] if opened else body

    def take(self, window: Window, logprobs: np.ndarray) -> None:
        self.logprobs[window.first - 1 : window.end - 1] = logprobs[window.first - window.start :]

    def block(self, number: int) -> tuple[slice, str]:
        """Tokens that begin in a block, and its text. The first takes what begins before, the last what comes after."""
        start = self.text.ends[number - 1] if number else 0
        end = self.text.ends[number]
        low = int(np.searchsorted(self.starts, start)) if number else 0
        high = len(self.ids) if end == len(self.text.text) else int(np.searchsorted(self.starts, end))
        return slice(low, high), self.text.text[start:end]

    def finished(self) -> list[int]:
        """Blocks without a record whose tokens are all scored."""
        return [number for number in self.waiting if not np.isnan(self.logprobs[self.block(number)[0]]).any()]


class _Measurement:
    def __init__(
        self, part: LanguagePart, model: LanguageModel, texts: Mapping[str, Texts], folder: PartFolder
    ) -> None:
        self.model, self.texts, self.folder = model, texts, folder
        self.mark = require_same_model(folder, model)
        self.window, self.stride, self.bos = _geometry(part, model)
        self.batch_tokens = part.batch_tokens or model.batch_tokens
        self.suffix = {label: "" if len(texts) == 1 else f"_{label}" for label in texts}
        self.total = sum(found.bytes for found in texts.values())
        self.done_bytes, self.scored, self.seconds = 0.0, 0, 0.0

    def run(self, progress: Progress) -> dict[str, Any]:
        pool: list[tuple[_Document, Window]] = []
        pooled = 0
        for document in self._documents():
            for window in windows(len(document.ids) + 1, self.window, self.stride):
                if self._wanted(document, window):
                    pool.append((document, window))
                    pooled += window.end - window.start
                else:
                    self._passed(document, window)
                if pooled >= POOL * self.batch_tokens:
                    self._score(pool, progress)
                    pool, pooled = [], 0
            self._keep(document)  # a document without a token, or whose windows are all done
        self._score(pool, progress)
        return self._extras()

    def _documents(self) -> Iterator[_Document]:
        """Documents with something left to do, the longest first: what does not fit into memory is known at once."""
        done = self.folder.done().keys()
        whole = [(label, text) for label, found in self.texts.items() for text in found.documents]
        for label, text in sorted(whole, key=lambda pair: -len(pair[1].text)):
            prefix = f"{label}:{text.id}"
            waiting = [n for n in range(len(text.ends)) if self._name(prefix, label, n) not in done]
            if not waiting:
                self.done_bytes += len(text.text.encode())
                continue
            read = self.model.encoding(text.text)
            yield _Document(label, text, read.ids, read.starts, read.unknown, read.exact, prefix, waiting)

    def _name(self, prefix: str, label: str, number: int) -> str:
        return f"{prefix}#{number + 1}" if self.texts[label].in_blocks else prefix

    def _wanted(self, document: _Document, window: Window) -> bool:
        """Whether a block without a record has tokens that this window scores."""
        if len(document.waiting) == len(document.text.ends):
            return True
        scored = range(window.first - 1, window.end - 1)
        places = (document.block(number)[0] for number in document.waiting)
        return any(place.start < scored.stop and scored.start < place.stop for place in places)

    def _score(self, pool: list[tuple[_Document, Window]], progress: Progress) -> None:
        for group in batches([window.end - window.start for _, window in pool], self.batch_tokens):
            chosen = [pool[index] for index in group]
            began = time.monotonic()
            found = self.model.logprobs(
                [document.tokens(window, self.bos, self.model.opens) for document, window in chosen],
                since=[window.first - window.start for _, window in chosen],
            )
            self.seconds += time.monotonic() - began
            for (document, window), logprobs in zip(chosen, found, strict=True):
                document.take(window, logprobs)
                self.scored += window.end - window.first
                self._passed(document, window)
            for document in {id(document): document for document, _ in chosen}.values():
                self._keep(document)
            progress("bytes scored", min(round(self.done_bytes), self.total), self.total)

    def _passed(self, document: _Document, window: Window) -> None:
        """Count the bytes of the tokens that a window scores, about."""
        self.done_bytes += document.size * (window.end - window.first) / len(document.ids)

    def _keep(self, document: _Document) -> None:
        for number in document.finished():
            self.folder.append(self._record(document, number))
            document.waiting.remove(number)

    def _record(self, document: _Document, number: int) -> Record:
        tokens, text = document.block(number)
        size = len(text.encode())
        nats = -float(document.logprobs[tokens].sum())
        count = len(document.ids[tokens])
        in_blocks = self.texts[document.label].in_blocks
        suffix = self.suffix[document.label]
        return {
            "id": self._name(document.prefix, document.label, number),
            "text": re.sub(r"\s+", " ", text[: 2 * PREVIEW]).strip()[:PREVIEW],
            "cluster": None if in_blocks else document.prefix,
            "metrics": {
                f"bits_per_byte{suffix}": [nats / math.log(2), size],
                f"tokens_per_byte{suffix}": [count, size],
            },
            "timings": {},
            "label": document.label,
            "document": document.text.id,
            "nats": nats,
            "tokens": count,
            "bytes": size,
            "unknown_tokens": int(document.unknown[tokens].sum()),
            "exact": document.exact,
            "model": self.mark,
        }

    def _extras(self) -> dict[str, Any]:
        records = [record for record in self.folder.done().values() if record.get("label") in self.texts]
        summaries, warnings = {}, []
        for label, found in self.texts.items():
            own = [record for record in records if record["label"] == label]
            tokens, nats = sum(record["tokens"] for record in own), sum(record["nats"] for record in own)
            unknown = sum(record["unknown_tokens"] for record in own)
            lossy = len({record["document"] for record in own if not record["exact"]})
            summaries[label] = {
                "documents": len(found.documents),
                "bytes": found.bytes,
                "tokens": tokens,
                # Per token, so it compares models of one tokenizer only.
                "perplexity": math.exp(nats / tokens) if tokens and nats / tokens < 700 else None,
                "unit": "block" if found.in_blocks else "document",
                "unknown_tokens": unknown,
                "lossy_documents": lossy,
                "left_out": list(found.left_out),
            }
            if lossy or unknown:
                warnings.append(
                    f"{label}: the tokenizer of {self.model.name} loses part of {lossy} of {len(found.documents)} "
                    f"documents ({unknown:,} unknown tokens), so their bits per byte are lower than the truth"
                )
            if found.left_out:
                warnings.append(f"{label}: {len(found.left_out)} files were left out; the first: {found.left_out[0]}")
        return {
            "model": {"name": self.model.name, "sha256": self.model.hash, **self.model.facts},
            "window": self.window,
            "stride": self.stride,
            "texts": summaries,
            "tokens_per_second": self.scored / self.seconds if self.seconds else None,
            "warnings": warnings,
        }


def _geometry(part: LanguagePart, model: LanguageModel) -> tuple[int, int, int]:
    """Window and stride in tokens, and the token that stands first. Raises UsageError for what this model cannot do."""
    if model.bos is None:
        raise UsageError(
            f"the tokenizer of '{model.name}' has neither a BOS nor an EOS token, so nothing can stand before a "
            "document's first token; give it one"
        )
    window = part.window or min(model.window, WINDOW)
    if window > model.window:
        raise UsageError(f"the window of {window:,} tokens is more than '{model.name}' takes ({model.window:,})")
    stride = part.stride or max(1, window // 2)
    if stride >= window:
        raise UsageError(f"the stride ({stride}) must be smaller than the window ({window})")
    return window, stride, model.bos
