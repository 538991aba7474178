"""A writer whose texts are kept in a folder → the same texts again when the same is asked: what was stopped goes on.

A run that draws by a seed and asks in a fixed order needs nothing else to be resumed. It knows no run.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import get_args

from adapt.instructions.writing.writer import Finish, Wanted, Writer, Written
from eval.data.samples import RECORDS
from eval.data.texts import storable
from eval.runs.parts import PartFolder, Record
from retrieval.errors import FathomError
from retrieval.reading.folder import shown
from retrieval.storage.locking import WriterLock

LOCK = "lock"


def kept_beside(out: Path) -> Path:
    """Where the texts lie that a file of examples was made of."""
    return out.with_name(out.name.removesuffix(".gz").removesuffix(".jsonl") + ".written")


class KeptWriter:
    """A `Writer` that asks another one only for what its folder does not hold. Close it.

    A text belongs to its messages, seed, temperature, longest length and model. What the engine failed at is asked
    again. `asked` counts the requests that went to the engine, `reused` those that did not.
    """

    def __init__(self, writer: Writer, folder: Path, *, forget: bool = False) -> None:
        """`forget` asks everything anew, as of a model that was trained since and has the same name.

        Raises BusyError where another process writes there, DamagedError for a file that is not ours.
        """
        self._writer = writer
        self.asked = self.reused = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = WriterLock(folder / LOCK, doing="writing examples", guarded=f"'{shown(str(folder))}'")
        except OSError as error:
            raise FathomError(
                f"'{shown(str(folder))}' cannot be written ({error.strerror or error}); name another place"
            ) from error
        try:
            if forget:
                (folder / RECORDS).unlink(missing_ok=True)
            self._folder = PartFolder(folder)
            self._known = self._folder.done()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "KeptWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Make what was written durable and let others in."""
        self._folder.close()
        self._lock.release()

    @property
    def name(self) -> str:
        """Of the model."""
        return self._writer.name

    @property
    def at_once(self) -> int:
        """As the model's."""
        return self._writer.at_once

    def write(self, wanted: Sequence[Wanted]) -> list[Written]:
        """See `Writer`. Each text is on its way to the disk before the next ones are asked for."""
        keys = [self._key(one) for one in wanted]
        fresh: dict[str, Written] = {}
        missing = [(key, one) for key, one in dict(zip(keys, wanted, strict=True)).items() if key not in self._known]
        for at in range(0, len(missing), self.at_once):
            chunk = missing[at : at + self.at_once]
            for (key, _), text in zip(chunk, self._writer.write([one for _, one in chunk]), strict=True):
                fresh[key] = text
                self.asked += 1
                self._keep(key, text)
        self.reused += len(keys) - len(missing)
        return [fresh[key] if key in fresh else _text_of(self._known[key]) for key in keys]

    def _keep(self, key: str, text: Written) -> None:
        error = {"failed": storable(text.error) or "failed", "stopped": "stopped"}.get(text.finish)
        record: Record = {
            "id": key,
            "text": storable(text.text),
            "finish": text.finish,
            "tokens": text.tokens,
            "error": error,
        }
        self._folder.append(record)
        if error is None:
            self._known[key] = record

    def _key(self, wanted: Wanted) -> str:
        said = {
            "model": self.name,
            "messages": [[message.role, message.text] for message in wanted.messages],
            "seed": wanted.seed if wanted.temperature > 0 else 0,
            "temperature": wanted.temperature,
            "max_tokens": wanted.max_tokens,
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def _text_of(record: Mapping[str, object]) -> Written:
    finish = record.get("finish")
    known: Finish = finish if finish in get_args(Finish) else "unknown"  # type: ignore[assignment]
    tokens = record.get("tokens")
    return Written(str(record.get("text") or ""), known, tokens if isinstance(tokens, int) else 0)
