"""An older model and an order of rows → its likeliest tokens at every place, written down once and read back by row.

Plain .npy arrays, mapped into memory, made again from where they stopped after a kill. It knows no student and no loss.
"""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.forgetting.distance import TEACHER_LOGITS_AT_ONCE, TopTargets, aligns, not_aligned, top_of
from adapt.forgetting.passing import PackedRow, RowOrder, grouped, packed_inputs
from eval.runs.parts import Progress
from eval.runs.run_folder import read_json, write_json
from retrieval.embedding.stored import file_hash, make_folder
from retrieval.errors import DamagedError, FathomError, UsageError
from retrieval.storage.durable import sync_to_disk
from retrieval.storage.locking import WriterLock

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
IDS, LOGPROBS, STARTS = "ids.npy", "logprobs.npy", "starts.npy"
MANIFEST, STATE, LOCK = "teacher.json", "state.json", ".lock"
KEEP_SECONDS = 20.0
"""A kill loses at most about so much work."""


def bytes_needed(places: int, top: int) -> int:
    """Bytes on disk for so many tokens: an int32 for each id kept, a float16 for each of their log-probabilities and
    one for the rest. 386 bytes a token with 64 kept. Tokens of rows that come again in later epochs count once."""
    return places * (4 * top + 2 * (top + 1))


@dataclass(frozen=True)
class Needed:
    """What there is to write down: rows of the order (each once), tokens in them, bytes on disk."""

    rows: int
    places: int
    bytes: int


def size(order: RowOrder, sources: AbstractSet[int], *, top: int) -> Needed:
    """What `precompute` will write for this order, without a model."""
    firsts = _distinct(order, sources)[1]
    places = sum(len(order.row(number).ids) for number in firsts)
    return Needed(len(firsts), places, bytes_needed(places, top) + 8 * len(order))


def misaligned(order: RowOrder, sources: AbstractSet[int], old_vocabulary: int) -> str | None:
    """Why some row of these sources cannot be compared with the older model; None where all can (`distance.aligns`)."""
    for number in _distinct(order, sources)[1]:
        row = order.row(number)
        if not aligns(row, old_vocabulary):
            return not_aligned(row, old_vocabulary, order.sources[row.source])
    return None


def precompute(
    load: Callable[[], Any],
    order: RowOrder,
    sources: AbstractSet[int],
    *,
    teacher: str,
    top: int,
    old_vocabulary: int,
    folder: Path,
    progress: Progress,
    temperature: float = 1.0,
    stop: threading.Event | None = None,
) -> "StoredTeacher | None":
    """Run the older model over every distinct row of `sources` and keep its `top` likeliest tokens at each place.

    `load` returns the model, on its device, and is called only where something is missing. `teacher` is the hash of its
    weights; with the order's hash and the settings it names the folder made below `folder`, so what belongs to another
    teacher or order is never read. `old_vocabulary` is the number of tokens of the teacher's tokenizer.

    A killed run goes on where it stopped (`KEEP_SECONDS`); `stop`, when set, ends it so and returns None. One process
    at a time: start it before the processes that train. Raises UsageError for a row that does not align, FathomError
    where the disk is too small, before any work, and BusyError where another process is at it.
    """
    made = folder / _key(order, sources, teacher, top, old_vocabulary, temperature)
    make_folder(made)
    lock = WriterLock(made / LOCK, doing="asking the older model", guarded="the older model's file")
    try:
        if not (made / MANIFEST).is_file():
            why = misaligned(order, sources, old_vocabulary)
            if why:
                raise UsageError(why)
            if not _fill(made, load, order, sources, top, old_vocabulary, temperature, progress, stop):
                return None
    finally:
        lock.release()
    return StoredTeacher(made)


def _key(
    order: RowOrder, sources: AbstractSet[int], teacher: str, top: int, old_vocabulary: int, temperature: float
) -> str:
    facts = [VERSION, teacher, order.sha256, sorted(sources), top, old_vocabulary, float(temperature)]
    return "teacher-" + hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]


def _distinct(order: RowOrder, sources: AbstractSet[int]) -> "tuple[np.ndarray, list[int]]":
    """(for every row of the order the place of its first like in the second list, -1 for other sources; those firsts).

    Rows are alike where ids and pieces are: in a later epoch, or where a source is read twice.
    """
    import numpy as np

    where = np.full(len(order), -1, dtype=np.int64)
    seen: dict[bytes, int] = {}
    firsts: list[int] = []
    for number in range(len(order)):
        row = order.row(number)
        if row.source not in sources:
            continue
        digest = hashlib.blake2b(np.asarray(row.ids, dtype=np.int32).tobytes(), digest_size=16)
        digest.update(b"|" + np.asarray(row.pieces, dtype=np.int32).tobytes())
        found = seen.setdefault(digest.digest(), len(firsts))
        if found == len(firsts):
            firsts.append(number)
        where[number] = found
    return where, firsts


def _fill(
    made: Path,
    load: Callable[[], Any],
    order: RowOrder,
    sources: AbstractSet[int],
    top: int,
    old_vocabulary: int,
    temperature: float,
    progress: Progress,
    stop: threading.Event | None,
) -> bool:
    """Make the three arrays; False where `stop` came first."""
    import numpy as np

    where, firsts = _distinct(order, sources)
    begins = np.concatenate([[0], np.cumsum([len(order.row(number).ids) for number in firsts], dtype=np.int64)])
    places = int(begins[-1])
    model = load()
    vocabulary = min(old_vocabulary, int(model.get_output_embeddings().weight.shape[0]))
    top = min(top, vocabulary)
    ids = _opened(made / IDS, np.dtype(np.int32), (places, top))
    logprobs = _opened(made / LOGPROBS, np.dtype(np.float16), (places, top + 1))
    done = _rows_done(made, len(firsts))
    kept = time.monotonic()
    model.eval()
    rows = (order.row(number) for number in firsts[done:])
    at_once = max(1, TEACHER_LOGITS_AT_ONCE // int(model.get_output_embeddings().weight.shape[0]))
    for group in grouped(rows, at_once):
        progress("asking the older model", int(begins[done]), places)
        found = _ask(model, group, top, vocabulary, temperature)
        part = slice(int(begins[done]), int(begins[done + len(group)]))
        ids[part], logprobs[part] = found
        done += len(group)
        stopped = stop is not None and stop.is_set() and done < len(firsts)
        if stopped or time.monotonic() - kept > KEEP_SECONDS:
            _keep(made, (ids, logprobs), done)
            kept = time.monotonic()
        if stopped:
            return False
    _keep(made, (ids, logprobs), done)
    progress("asking the older model", places, places)
    starts = np.where(where >= 0, begins[where], -1)
    np.save(made / STARTS, starts, allow_pickle=False)
    sync_to_disk(made / STARTS)
    facts = {
        "version": VERSION,
        "places": places,
        "rows": len(firsts),
        "top": top,
        "vocabulary": vocabulary,
        "temperature": float(temperature),
        "files": {name: file_hash(made / name) for name in (IDS, LOGPROBS, STARTS)},
    }
    write_json(made / MANIFEST, facts)
    return True


def _ask(
    model: Any, rows: Sequence[PackedRow], top: int, vocabulary: int, temperature: float
) -> "tuple[np.ndarray, np.ndarray]":
    """(ids int32 [n, top], log-probabilities float16 [n, top + 1] with the rest last) of all places of these rows."""
    import torch

    with torch.inference_mode():
        inputs, inside = packed_inputs(rows, model)
        logits = model(**inputs).logits[inside]
        if not torch.isfinite(logits[..., :vocabulary]).all():
            raise FathomError(
                "the older model's logits are not finite, so nothing can be learnt from it; try precision fp32 or bf16"
            )
        found = top_of(logits, top=top, vocabulary=vocabulary, temperature=temperature)
        # fp16 has 11 binary digits: a probability is off by 0.02 % (likely ones by less, of e^-16 by 0.8 %), and a KL
        # at its minimum moves by the square of that; SmolLM2-135M, a few steps away: 0.999997 of the KL with fp32. The
        # rest is stored too, so that rounding is not a bucket's mass.
        joined = torch.cat([found.logprobs, found.rest[:, None]], dim=-1).to(torch.float16)
    return found.ids.to(torch.int32).cpu().numpy(), joined.cpu().numpy()


def _opened(file: Path, dtype: "np.dtype", shape: tuple[int, int]) -> "np.ndarray":
    """A .npy array mapped for writing, with its whole space taken from the disk at once.

    A mapped file that finds the disk full while it is written kills the process (SIGBUS); taking the space first makes
    that an error with words. Raises FathomError.
    """
    import numpy as np

    if file.is_file():
        try:
            found = np.load(file, mmap_mode="r+", allow_pickle=False)
            if found.shape == shape and found.dtype == dtype:
                return found
        except (ValueError, OSError):
            pass  # not what was written: made anew below
        file.unlink()
        (file.parent / STATE).unlink(missing_ok=True)
    needed = int(np.prod(shape)) * dtype.itemsize
    free = shutil.disk_usage(file.parent).free
    if needed > free:
        raise FathomError(
            f"{file.parent} needs {needed / 1e9:.2f} GB for the older model's likeliest tokens and {free / 1e9:.2f} GB "
            "are free; free some space, keep fewer (`keep.kl.top`), or run the older model beside (`keep.kl.live`)"
        )
    made = np.lib.format.open_memmap(str(file), mode="w+", dtype=dtype, shape=shape)
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, file.stat().st_size)
    except OSError:
        file.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return made


def _keep(made: Path, arrays: "tuple[np.ndarray, ...]", rows: int) -> None:
    """First the rows, then the word that they are there."""
    for array, name in zip(arrays, (IDS, LOGPROBS), strict=True):
        array.flush()  # type: ignore[attr-defined]
        sync_to_disk(made / name)
    write_json(made / STATE, {"rows": rows})


def _rows_done(made: Path, rows: int) -> int:
    try:
        done = read_json(made / STATE).get("rows")
    except DamagedError:
        return 0  # absent or not what was written: begin anew
    return done if isinstance(done, int) and 0 <= done <= rows else 0


class StoredTeacher:
    """A `distance.Teacher` that reads what `precompute` wrote. Several processes may read one folder."""

    def __init__(self, folder: Path, *, device: Any = "cpu", check: bool = True) -> None:
        """`check` compares the files with their SHA-256 (reads them once). Raises DamagedError."""
        import numpy as np

        again = "remove the folder and it will be made again"
        facts = read_json(folder / MANIFEST)
        try:
            self.places, self.rows = int(facts["places"]), int(facts["rows"])
            top, self._vocabulary = int(facts["top"]), int(facts["vocabulary"])
            self._temperature = float(facts["temperature"])
            if check:
                for name in (IDS, LOGPROBS, STARTS):
                    if file_hash(folder / name) != facts["files"][name]:
                        raise DamagedError(f"{folder / name} is not what was written; {again}")
            self._ids = np.load(folder / IDS, mmap_mode="r", allow_pickle=False)
            self._logprobs = np.load(folder / LOGPROBS, mmap_mode="r", allow_pickle=False)
            self._starts = np.load(folder / STARTS, allow_pickle=False)
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise DamagedError(f"{folder} is not what was written ({error}); {again}") from error
        if self._ids.shape != (self.places, top) or self._logprobs.shape != (self.places, top + 1):
            raise DamagedError(f"{folder} holds arrays of another shape than it says; {again}")
        self.folder, self._device = folder, device

    def targets(self, numbers: Sequence[int], rows: Sequence[PackedRow]) -> TopTargets:
        """See `distance.Teacher`. Raises UsageError for a row of the order that was not asked about."""
        import numpy as np
        import torch

        parts = list(self._slices(numbers, rows))
        ids = np.concatenate([self._ids[part] for part in parts])
        logprobs = np.concatenate([self._logprobs[part] for part in parts])
        if ids.size and not (0 <= int(ids.min()) and int(ids.max()) < self._vocabulary):
            raise DamagedError(f"{self.folder / IDS} holds tokens that do not exist; remove the folder")
        joined = torch.from_numpy(logprobs).to(self._device).float().log_softmax(-1)  # after rounding, one again
        return TopTargets(
            torch.from_numpy(ids).to(self._device).long(),
            joined[:, :-1],
            joined[:, -1],
            self._vocabulary,
            self._temperature,
        )

    def _slices(self, numbers: Sequence[int], rows: Sequence[PackedRow]) -> Iterator[slice]:
        for number, row in zip(numbers, rows, strict=True):
            start = int(self._starts[number]) if 0 <= number < len(self._starts) else -1
            if start < 0 or start + len(row.ids) > self.places:
                raise UsageError(f"the older model was not asked about row {number} of this order")
            yield slice(start, start + len(row.ids))
