"""The stage `vocabulary`: a model folder and a corpus → a model folder with domain tokens, their rows learned.

The result is a full base with the longer matrices inside, so that whatever adapts or serves it later sees an ordinary
model: adapters with resized embeddings can be neither merged nor served (LlamaFactory#5262, vllm#9280).
"""

import hashlib
import json
import random
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from adapt.recipe import Vocabulary, Warming
from adapt.vocabulary import tokenizer_file
from adapt.vocabulary.byte_level import byte_level
from adapt.vocabulary.choosing import around
from adapt.vocabulary.distilling import distillation
from adapt.vocabulary.new_rows import NewRows
from adapt.vocabulary.rows import add_rows
from adapt.vocabulary.terms import Candidates, Text, candidates, whole
from adapt.vocabulary.tokenizer_file import Comparison, compare, require_same_special_tokens, strange_texts
from adapt.vocabulary.warming import Schedule, cut, warm
from eval.models.language_models import load_parts, locate
from eval.runs.parts import Progress
from eval.runs.run_folder import read_json, write_json
from retrieval.embedding.stored import file_hash, is_whole, keep
from retrieval.errors import DamagedError, UsageError

REPORT, MODEL = "report.json", "model"
VERSION = 2
"""Counted up when the same settings begin to give another result."""
STRANGE = 10_000
"""Made-up texts on which it is tried that none gets longer."""
COMPARED_BYTES = 4_000_000
"""Of the texts trained on, about, that are encoded with both tokenizers; of held-out ones all are."""
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
POOL = 10
"""Tokens of documents that rows are chosen from, for each token of training."""


class Corpus(Protocol):
    """What of `adapt.corpus.preparing.Corpus` is needed."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    def texts(self, part: Literal["train", "held_out"] = "train") -> Iterator[Any]: ...

    def count(self, part: Literal["train", "held_out"]) -> int: ...

    def bytes(self, part: Literal["train", "held_out"]) -> int: ...


def extend(
    model_folder: Path,
    corpus: Corpus,
    settings: Vocabulary,
    *,
    folder: Path,
    seed: int,
    progress: Progress,
    stop: threading.Event | None = None,
    replay: Corpus | None = None,
) -> Path:
    """Do the stage in `folder` and return `folder`/model. What is there already and whole is not done again. `replay`
    is what `settings.warm.replay` names.

    `folder` then has model/ (safetensors, tokenizer, templates), report.json, metrics.jsonl of the warm-up (distilling/
    has that of token distillation). Raises UsageError where the tokenizer cannot be extended or the corpus has no token
    worth it, StoppedError when `stop` is set, OSError for a full disk.
    """
    shown = [(corpus, 1.0)]
    if replay is not None and settings.warm is not None:
        share = settings.warm.replay_share
        shown = [(corpus, 1 - share), (replay, share)]
    identity = _identity(model_folder, [one.sha256 for one, _ in shown], settings, seed)
    result = folder / MODEL
    if (folder / REPORT).is_file() and is_whole(result):
        if read_json(folder / REPORT).get("identity") == identity:
            return result
    shutil.rmtree(result, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    old = tokenizer_file.load(model_folder)
    found = candidates(
        corpus.texts("train"), old, settings, model=model_folder, progress=progress, total=corpus.count("train")
    )
    if not found.terms:
        raise UsageError(
            f"no token is worth adding for '{corpus.name}': {_why(found)}; lower min_frequency, min_documents or "
            "least_saving, or leave the stage 'vocabulary' out"
        )
    written = folder / "tokenizer"
    base = byte_level(old)
    tokenizer_file.write(tokenizer_file.extended(base, found.merges, found.pre_tokenizer), model_folder, written)
    new = tokenizer_file.load(written)
    checks = _checked(old, new, corpus, found, seed, progress)
    facts = _train(
        model_folder, written, new, shown, found, base.next_id, settings, folder, identity, seed, progress, stop
    )
    report = {
        "identity": identity,
        "corpus": {"name": corpus.name, "sha256": corpus.sha256},
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "tokens_added": len(found.terms),
        "first_id": base.next_id,
        "merges_added": len(found.merges),
        "saving": {part: check.saving for part, check in checks.items() if part != "strange"},
        "never_longer": {part: asdict(check) for part, check in checks.items()},
        **facts,
        "found": found.facts(),
        "files": {file.name: file_hash(file) for file in sorted(result.iterdir())},
    }
    write_json(folder / REPORT, report)
    shutil.rmtree(written, ignore_errors=True)
    return result


def _identity(model_folder: Path, texts: Sequence[str], settings: Vocabulary, seed: int) -> str:
    files = {file.name: file_hash(file) for file in sorted(model_folder.iterdir()) if file.is_file()}
    decided = [VERSION, files, list(texts), settings.model_dump(mode="json"), seed]
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


def _why(found: Candidates) -> str:
    refused = ", ".join(f"{facts['count']:,} {reason}" for reason, facts in found.refused.items())
    return f"{found.tokens:,} tokens in {found.documents:,} documents hold no frequent enough pair of letters" + (
        f" (refused: {refused})" if refused else ""
    )


def _checked(
    old: Any, new: Any, corpus: Corpus, found: Candidates, seed: int, progress: Progress
) -> dict[str, Comparison]:
    """The trial, on held-out texts, on part of the others, on made-up ones. Raises FathomError."""
    require_same_special_tokens(old, new)
    sample = list(_sampled(corpus, COMPARED_BYTES, seed))
    held_out = [whole(text) for text in corpus.texts("held_out")]
    strange = strange_texts(STRANGE, new, [term.text for term in found.terms], sample[:500], seed=seed)
    checks = {}
    for part, texts, total in (
        ("train", sample, len(sample)),
        ("held_out", held_out, len(held_out)),
        ("strange", strange, STRANGE),
    ):
        if total:
            checks[part] = compare(old, new, _followed(texts, total, f"comparing tokenizers ({part})", progress))
    return checks


def _followed(texts: Iterable[str], total: int, stage: str, progress: Progress) -> Iterator[str]:
    for number, text in enumerate(texts, 1):
        yield text
        if number % 100 == 0 or number == total:
            progress(stage, number, total)


def _sampled(corpus: Corpus, size: int, seed: int) -> Iterator[str]:
    """Documents drawn with the seed, about so many bytes of them, in the corpus's order."""
    draw = random.Random(seed)
    share = size / max(1, corpus.bytes("train"))
    texts: Iterator[Text] = corpus.texts("train")
    first = next(texts, None)
    if first is not None:
        yield whole(first)  # so that a sample is never empty
    yield from (whole(text) for text in texts if draw.random() < share)


def _train(
    model_folder: Path,
    written: Path,
    tokenizer: Any,
    shown: Sequence[tuple[Corpus, float]],
    found: Candidates,
    first: int,
    settings: Vocabulary,
    folder: Path,
    identity: str,
    seed: int,
    progress: Progress,
    stop: threading.Event | None,
) -> dict[str, Any]:
    """Give the model its rows, train them, and save it with the tokenizer into folder/model. Returns what was done."""
    import torch

    kept = _precision(model_folder)
    # On a CPU 16 bits are widened, as they would be slow, and narrowed again at the end, which loses nothing. fp32 is
    # never narrowed, or the old weights would change.
    computed = kept if torch.cuda.is_available() else "fp32"
    model, _, _ = load_parts(locate(str(model_folder)), cache=folder, precision=computed)
    rows = add_rows(model, first, found.splits)
    new = NewRows(model, first, len(found.terms))
    facts: dict[str, Any] = {
        "rows": rows,
        "tied": new.tied,
        "computed_in": computed,
        "distilled": None,
        "warmed": None,
    }
    if settings.warm is not None:
        chosen = [
            row
            for corpus, share in shown
            for row in _rows(tokenizer, corpus, settings.block, round(share * settings.warm.tokens), first, seed)
        ]
        if settings.initialise == "distil":
            facts["distilled"] = warm(
                model,
                new,
                chosen,
                _schedule(settings, settings.warm, seed),
                folder=folder / "distilling",
                identity=identity,
                progress=progress,
                stop=stop,
                loss=distillation(model, new, found.splits, model.device, cross_entropy_weight=0.0),
                stage="distilling new rows",
            )
        facts["warmed"] = warm(
            model,
            new,
            chosen,
            _schedule(settings, settings.warm, seed),
            folder=folder,
            identity=identity,
            progress=progress,
            stop=stop,
        )

    def fill(place: Path) -> None:
        with _without_bars():
            model.to(getattr(torch, PRECISIONS[kept])).save_pretrained(place)
        for file in written.iterdir():
            shutil.copyfile(file, place / file.name)

    if not torch.isfinite(new.input).all() or not torch.isfinite(new.output).all():
        raise DamagedError("a new row is no number; lower the stage's warm.lr")
    keep(folder / MODEL, fill)
    return facts


@contextmanager
def _without_bars() -> Iterator[None]:
    """transformers draws a bar for each file that it writes."""
    from transformers.utils import logging as spoken

    shown = spoken.is_progress_bar_enabled()
    spoken.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            spoken.enable_progress_bar()


def _rows(tokenizer: Any, corpus: Corpus, block: int, tokens: int, first: int, seed: int) -> list[np.ndarray]:
    """What the new rows learn from, of one corpus: about so many tokens."""
    # Four bytes a token, about.
    texts = _sampled(corpus, 4 * POOL * tokens, seed)
    documents = [np.array(tokenizer_file.encode(tokenizer, text), dtype=np.int64) for text in texts]
    return around(documents, first, block=block, tokens=tokens, seed=seed) or cut(documents, block, end=None)


def _schedule(settings: Vocabulary, warming: Warming, seed: int) -> Schedule:
    return Schedule(warming.tokens, settings.batch_tokens, warming.lr, seed)


def _precision(model_folder: Path) -> str:
    """What the weights are stored in."""
    config = read_json(model_folder / "config.json")
    stored = config.get("dtype", config.get("torch_dtype"))
    return next((name for name, dtype in PRECISIONS.items() if dtype == stored), "fp32")
