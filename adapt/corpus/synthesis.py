"""A base model → text that it writes itself, for replay where no general text may be used (Huang et al. 2024,
arXiv:2403.01244). It knows nothing of packing and training, and it reads no text of the user's."""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.corpus.self_written import Judge, Verdict, finished_text
from adapt.recipe import Synthetic
from eval.models.language_models import load_parts, locate
from eval.runs.parts import PartFolder, Progress, Record
from eval.runs.run_folder import read_json, write_json
from retrieval.embedding.load import EmbeddingSettings
from retrieval.embedding.model_files import ModelFiles, weights_hash
from retrieval.embedding.stored import file_hash
from retrieval.errors import DamagedError, FathomError, UsageError
from retrieval.storage.durable import sync_to_disk
from retrieval.storage.locking import WriterLock

VERSION = 1
"""Of how texts are written; another one writes others."""
TEXTS, REPORT, SETTINGS = "texts.jsonl", "report.json", "settings.json"
BATCH = 64
"""Texts written together. SmolLM2-135M in bf16 wrote about 300, 400 and 460 tokens a CPU second in batches of 16, 32
and 64: reading the weights is what costs, and a step reads them once for the whole batch."""
LIKELY = 4096
"""Tokens among which the nucleus is looked for first: the likeliest of 49,152 for 64 rows take 35 ms, sorting all takes
197, more than the model's step; only rows whose nucleus is wider are sorted."""
PATIENCE = 4
"""Batches after which a model whose texts are nearly all dropped is given up."""
LEAST_KEPT = 0.1
_MARK = "fathom-writes-here"
_LOG = logging.getLogger(__name__)


def synthesise(
    model_folder: Path,
    settings: Synthetic,
    *,
    seed: int,
    folder: Path,
    progress: Progress,
    stop: threading.Event | None = None,
    device: str = "auto",
) -> Path:
    """Let the model write `settings.tokens` tokens of usable text. Returns texts.jsonl in `folder`: {"id", "text"}.

    Three beginnings take turns from batch to batch. "turn": inside the user's turn of the model's chat template, so
    that a chat model invents requests and answers them (Magpie, Xu et al. 2024, arXiv:2406.08464); where it has one.
    "opening": a word that may begin a paragraph, drawn from the model's own nucleus. "free": nothing but the token that
    begins or separates documents.

    Text i is drawn with numbers that follow from (seed, i) alone, and the batches are always the same, so that a
    killed run goes on where it was and ends with the same bytes on the same machine; more `tokens` later only add to
    the file. report.json beside it says what was written, kept, and dropped why. Raises UsageError (a folder of other
    settings; a length beyond the model's window), FathomError (nearly all of it is unusable), BusyError, MissingError
    or DamagedError (the model, a damaged record), KeyboardInterrupt (`stop`), OSError (a full disk).
    """
    folder.mkdir(parents=True, exist_ok=True)
    with WriterLock(folder / ".lock", doing="writing replay text", guarded=f"the folder '{folder}'"):
        identity = _begun(folder, settings, seed, model_folder, device)
        texts = folder / TEXTS
        if not _is_finished(folder, settings.tokens):
            journal = PartFolder(folder)
            try:
                judge = _write(model_folder, settings, identity, journal, seed, progress, stop, device)
            finally:
                journal.close()
            _keep(folder, judge, settings, identity)
        return texts


def report_of(texts: Path) -> dict[str, Any]:
    """The report beside a file that `synthesise` returned. Raises DamagedError."""
    return read_json(texts.with_name(REPORT))


def _begun(folder: Path, settings: Synthetic, seed: int, model_folder: Path, device: str) -> dict[str, Any]:
    """What decides the texts, as the folder was begun with. Raises UsageError where that was something else."""
    place = locate(str(model_folder), download=False)
    weights = weights_hash(ModelFiles(place.name, place.folder, place.files), EmbeddingSettings().cache_folder())
    wanted = {"version": VERSION, "seed": seed, "weights": weights} | settings.model_dump(exclude={"tokens"})
    if (folder / SETTINGS).exists():
        known = read_json(folder / SETTINGS)
        other = sorted(key for key in wanted if known.get(key) != wanted[key])
        if other:
            raise UsageError(
                f"'{folder}' holds text that was written with another {', '.join(other)}; remove it or name another "
                "folder"
            )
        if not isinstance(known.get("batch"), int) or not isinstance(known.get("precision"), str):
            raise DamagedError(f"{folder / SETTINGS} is not what was written; remove the folder and write again")
        return known
    # A few texts are not worth a full batch, of which most would be thrown away.
    batch = min(BATCH, -(-settings.tokens // settings.length) + 4)
    begun = wanted | {"batch": batch, "precision": _precision(device)}
    write_json(folder / SETTINGS, begun)
    return begun


def _precision(device: str) -> str:
    """bf16 where the machine computes it: it writes twice as fast as fp32, and what is drawn is random anyhow."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return "bf16"
    knows = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bf16" if device in ("auto", "cpu") and knows is not None and knows() else "fp32"


def _is_finished(folder: Path, tokens: int) -> bool:
    if not (folder / REPORT).is_file() or not (folder / TEXTS).is_file():
        return False
    report = read_json(folder / REPORT)
    return report.get("tokens") == tokens and report.get("sha256") == file_hash(folder / TEXTS)


def _write(
    model_folder: Path,
    settings: Synthetic,
    identity: dict[str, Any],
    journal: PartFolder,
    seed: int,
    progress: Progress,
    stop: threading.Event | None,
    device: str,
) -> Judge:
    """Write batches that the journal lacks until enough was kept. Raises FathomError, UsageError."""
    judge, writer, size = Judge(), None, int(identity["batch"])
    number = 0
    while judge.tokens < settings.tokens:
        records = journal.all()
        names = [str(text) for text in range(number * size, (number + 1) * size)]
        if not all(name in records for name in names):
            if writer is None:
                progress("loading the model", 0, 0)
                writer = _Writer(model_folder, settings, seed, str(identity["precision"]), device)
            for text in writer.write(number, size, stop):
                journal.append(text.record())
            records = journal.all()
        for name in names:
            if judge.tokens < settings.tokens:
                judge.look_at(_checked(records[name], name, journal.path))
        progress("tokens of replay text", min(judge.tokens, settings.tokens), settings.tokens)
        number += 1
        if number >= PATIENCE and judge.tokens < LEAST_KEPT * judge.written:
            told = ", ".join(f"{reason} {count}" for reason, count in sorted(judge.dropped.items()))
            raise FathomError(
                f"of {judge.texts} texts that the model wrote, {judge.kept} are usable ({told}); give a lower "
                f"temperature than {settings.temperature:g}, or general text of your own"
            )
    return judge


def _checked(record: Record, name: str, folder: Path) -> Record:
    kinds = {"text": str, "tokens": int, "kept_tokens": int, "nats": float, "ended": bool, "start": str}
    if any(not isinstance(record.get(key), kind) for key, kind in kinds.items()):
        raise DamagedError(f"text {name} in {folder} is not what was written; remove the folder and write again")
    return record


def _keep(folder: Path, judge: Judge, settings: Synthetic, identity: dict[str, Any]) -> None:
    """texts.jsonl, then the report with its hash: whole or not at all."""
    temporary = folder / f".{TEXTS}.new"
    digest = hashlib.sha256()
    with temporary.open("wb") as file:
        for verdict in judge.texts_kept:
            line = _row(verdict)
            digest.update(line)
            file.write(line)
    sync_to_disk(temporary)
    temporary.replace(folder / TEXTS)
    report = {"tokens": settings.tokens, "sha256": digest.hexdigest(), "settings": identity, **judge.report()}
    write_json(folder / REPORT, report)


def _row(verdict: Verdict) -> bytes:
    row = {"id": f"synthetic-{int(verdict.id):07d}", "text": verdict.text}
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


# --- writing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Written:
    """One text as it came out. `nats` is the sum of ln P of its tokens, at temperature 1 and among all tokens."""

    number: int
    text: str
    tokens: int
    kept_tokens: int
    nats: float
    ended: bool
    start: str

    def record(self) -> Record:
        facts = {name: getattr(self, name) for name in self.__slots__ if name != "number"}
        return {"id": str(self.number), "metrics": {}, "timings": {}, **facts}


class _Writer:
    def __init__(self, model_folder: Path, settings: Synthetic, seed: int, precision: str, device: str) -> None:
        place = locate(str(model_folder), download=False)
        self.model, self.tokenizer, _ = load_parts(
            place, cache=EmbeddingSettings().cache_folder(), device=device, precision=precision
        )
        self.settings, self.seed = settings, seed
        self.device = next(self.model.parameters()).device
        self.ends = {int(token) for token in self.tokenizer.all_special_ids} | set(_end_tokens(self.model))
        turn, self.between = _turns(self.tokenizer)
        begin = _separator(self.tokenizer)
        self.starts = {"turn": turn, "opening": begin, "free": begin} if turn else {"opening": begin, "free": begin}
        if not begin:
            raise UsageError(f"the tokenizer of '{place.name}' has neither a BOS nor an EOS token to begin a text with")
        longest = max(len(tokens) for tokens in self.starts.values())
        window = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(window, int) and settings.length + longest > window:
            raise UsageError(
                f"a text of {settings.length:,} tokens does not fit into the window of '{place.name}' "
                f"({window:,} tokens, {longest} of them before the text); give a smaller length"
            )

    def write(self, number: int, size: int, stop: threading.Event | None) -> Iterator[_Written]:
        """Batch `number`, whole: texts number · size and on. Raises KeyboardInterrupt when stopped."""
        import numpy as np

        kinds = list(self.starts)
        kind = kinds[number % len(kinds)]
        first = number * size
        began = time.monotonic()
        # Drawn by text, so that no text depends on how many there are in all.
        chances = np.stack(
            [np.random.default_rng([self.seed, first + row]).random(self.settings.length) for row in range(size)]
        )
        rows = self._sampled(kind, chances, stop)
        _LOG.info("batch %d (%s) written in %.1f s", number, kind, time.monotonic() - began)
        for row, (tokens, nats, ended) in enumerate(rows):
            parts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            text = finished_text("\n\n".join(part.strip() for part in parts), ended)
            kept = len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0
            yield _Written(first + row, text, sum(map(len, tokens)), kept, nats, ended, kind)

    def _sampled(
        self, kind: str, chances: Any, stop: threading.Event | None
    ) -> list[tuple[list[list[int]], float, bool]]:
        """(tokens of each part, nats, whether the model itself came to an end) by row; `chances` (rows, length) are of
        [0, 1). A user's turn is followed by an answer: when the model ends the one, the template's tokens up to the
        other are put in.

        Rows that have ended leave the batch when half of it has: a step's cost falls with the rows.
        """
        import torch

        rows, length = chances.shape
        told = torch.tensor(chances, dtype=torch.float32, device=self.device)
        written: list[list[list[int]]] = [[[]] for _ in range(rows)]
        put_in: list[list[int]] = [[] for _ in range(rows)]
        nats = [0.0] * rows
        ended = [False] * rows
        alive = list(range(rows))
        ids = torch.tensor([self.starts[kind]] * rows, device=self.device)
        past = None
        with torch.inference_mode():
            for place in range(length):
                if stop is not None and stop.is_set():
                    raise KeyboardInterrupt  # the batches before are kept
                answer = self.model(input_ids=ids, past_key_values=past, use_cache=True)
                past, logits = answer.past_key_values, answer.logits[:, -1].float()
                drawn = sample(
                    logits,
                    told[alive, place],
                    temperature=self.settings.temperature,
                    top_p=self.settings.top_p,
                    allowed=self._opening_words(logits) if kind == "opening" and place == 0 else None,
                )
                gained = logits.log_softmax(-1).gather(1, drawn[:, None])[:, 0].tolist()
                next_tokens = drawn.tolist()
                for at, row in enumerate(alive):
                    if ended[row]:
                        continue  # still in the batch, but what is drawn for it is no text
                    if put_in[row]:
                        next_tokens[at] = put_in[row].pop(0)
                    elif next_tokens[at] not in self.ends:
                        written[row][-1].append(next_tokens[at])
                        nats[row] += gained[at]
                    elif kind == "turn" and len(written[row]) == 1 and written[row][0]:
                        next_tokens[at], *put_in[row] = self.between
                        written[row].append([])
                    else:
                        ended[row] = True
                staying = [at for at, row in enumerate(alive) if not ended[row]]
                if not staying:
                    break
                ids = torch.tensor(next_tokens, device=self.device)[:, None]
                if len(staying) <= len(alive) // 2 and hasattr(past, "batch_select_indices"):
                    chosen = torch.tensor(staying, device=self.device)
                    past.batch_select_indices(chosen)
                    ids, alive = ids[chosen], [alive[at] for at in staying]
        return list(zip(written, nats, ended, strict=True))

    def _opening_words(self, logits: Any) -> Any:
        """Which tokens may open a text: those that begin with a letter, of any script."""
        import torch

        pieces = self.tokenizer.batch_decode([[token] for token in range(logits.shape[1])])
        fit = [piece.strip()[:1].isalpha() and token not in self.ends for token, piece in enumerate(pieces)]
        return torch.tensor(fit, device=logits.device) if any(fit) else None


def sample(logits: Any, chances: Any, *, temperature: float, top_p: float, allowed: Any = None) -> Any:
    """One token for each row of `logits` (rows, vocabulary), by its own number of [0, 1) in `chances` (rows).

    Nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751): among the fewest likeliest tokens that have `top_p` of
    the probability together. `allowed` (vocabulary, bool) rules tokens out before. Returns int64 of (rows).
    """
    if allowed is not None:
        logits = logits.masked_fill(~allowed, float("-inf"))
    likely = (logits / temperature).softmax(-1)
    top, tokens = likely.topk(min(LIKELY, likely.shape[1]), dim=-1)
    wide = (top.sum(-1) < top_p).nonzero()[:, 0]
    drawn = _in_nucleus(top, tokens, chances, top_p)
    if len(wide):
        everything, order = likely[wide].sort(dim=-1, descending=True)
        drawn[wide] = _in_nucleus(everything, order, chances[wide], top_p)
    return drawn


def _in_nucleus(top: Any, tokens: Any, chances: Any, top_p: float) -> Any:
    """`top` are probabilities, falling; the token whose share of the nucleus holds `chances`."""
    import torch

    before = top.cumsum(-1) - top
    nucleus = torch.where(before < top_p, top, torch.zeros((), device=top.device))
    sums = nucleus.cumsum(-1)
    # Rounding may leave the last sum below the whole, and a token of no probability must not be drawn.
    last = (nucleus > 0).sum(-1) - 1
    place = torch.searchsorted(sums, (chances * sums[:, -1])[:, None], right=True)[:, 0]
    return tokens.gather(1, torch.minimum(place, last)[:, None])[:, 0]


def _end_tokens(model: Any) -> Sequence[int]:
    found: list[int] = []
    for config in (model.config, model.generation_config):
        told = getattr(config, "eos_token_id", None)
        found += [int(token) for token in (told if isinstance(told, list) else [told]) if token is not None]
    return found


def _separator(tokenizer: Any) -> list[int]:
    """The token that stands before a document; nothing where the tokenizer has none."""
    # What separated documents in pretraining, where a chat model has other tokens as BOS and EOS.
    known = "<|endoftext|>" in tokenizer.all_special_tokens
    token = "<|endoftext|>" if known else tokenizer.bos_token or tokenizer.eos_token
    return [] if token is None else [int(tokenizer.convert_tokens_to_ids(token))]


def _turns(tokenizer: Any) -> tuple[list[int], list[int]]:
    """A chat template's tokens before the user's message, and those between it and the answer; nothing where there is
    no template."""
    if not getattr(tokenizer, "chat_template", None):
        return [], []
    try:
        message = [{"role": "user", "content": _MARK}]
        told = str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program of the model's maker, and jinja's errors are many
        _LOG.warning("the chat template cannot be used to begin a text (%s)", error)
        return [], []
    before, mark, after = told.partition(_MARK)
    if not mark or not before or not after:
        return [], []
    before_ids, after_ids = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after))
    return list(before_ids), list(after_ids)
