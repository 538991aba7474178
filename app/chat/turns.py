"""One question and its answer as the server keeps it: a record that grows while the answer is written, and its JSON.

It knows neither how it is stored nor how it is shown.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from retrieval.passages import Citation, Hit, Passage, Scores, Source
from retrieval.steps import Step

MAX_ANSWER_CHARACTERS = 60_000
"""A longer answer is ended: no model of ours writes this much, and one that does must not fill the page."""

State = Literal["running", "done", "stopped", "failed", "cut"]
"""`stopped` by the person, `failed` with an error, `cut` where the server ended in the middle."""
NoteKind = Literal["note", "error", "cut"]


@dataclass(frozen=True, slots=True)
class Asked:
    """The settings a question was asked with; `filters` as they were written, `engine` the name of a choice."""

    collection: str = ""
    quote: bool = False
    k: int = 0
    filters: tuple[str, ...] = ()
    engine: str = ""

    def to_json(self) -> str:
        """One line, for the database."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> "Asked":
        """What cannot be understood is left at its default."""
        found = _object(text)
        return Asked(
            collection=str(found.get("collection", "")),
            quote=bool(found.get("quote", False)),
            k=_whole(found.get("k")),
            filters=tuple(str(item) for item in _array(found.get("filters"))),
            engine=str(found.get("engine", "")),
        )


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence under an answer: the name of one of the page's words and what is put into it, or a `text` as it is.

    Kept by name, so that it is said in the language of whoever reads it later.
    """

    kind: NoteKind
    word: str = ""
    values: Mapping[str, str | int] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of an answer that stands in none of its passages."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class Turn:
    """`hits` have the numbers that citations speak of. `clock` are seconds as the person waited: searched, first word,
    total; `timings` milliseconds of the stages, as the pipeline measured them. `replaces` is the first earlier turn
    that this one takes the place of."""

    id: int
    chat: str
    question: str
    asked: Asked
    began: float
    state: State = "running"
    text: str = ""
    refused: bool = False
    checked: bool = False
    model: str = ""
    hits: tuple[Hit, ...] = ()
    given: int = 0
    citations: tuple[Citation, ...] = ()
    queries: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    clock: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    marks: tuple[Mark, ...] = ()
    confidence: float | None = None
    threshold: float | None = None
    prompt_version: str = ""
    steps: tuple[Step, ...] = ()
    replaces: int | None = None

    def record(self) -> str:
        """All that has no column of its own, as JSON."""
        return json.dumps(
            {
                "asked": asdict(self.asked),
                "checked": self.checked,
                "hits": [_hit_object(hit) for hit in self.hits],
                "given": self.given,
                "citations": [asdict(citation) for citation in self.citations],
                "queries": list(self.queries),
                "timings": dict(self.timings),
                "clock": dict(self.clock),
                "notes": [{**asdict(note), "values": dict(note.values)} for note in self.notes],
                "marks": [asdict(mark) for mark in self.marks],
                "confidence": self.confidence,
                "threshold": self.threshold,
                "prompt_version": self.prompt_version,
                "steps": [{**asdict(step), "values": dict(step.values)} for step in self.steps],
            },
            ensure_ascii=False,
        )


def read_record(text: str) -> dict[str, Any]:
    """What `Turn.record` wrote, as arguments of Turn; a part that cannot be understood is left out."""
    found = _object(text)
    parts: dict[str, Any] = {
        "asked": Asked.from_json(json.dumps(found.get("asked", {}))),
        "checked": bool(found.get("checked", False)),
        "given": _whole(found.get("given")),
        "queries": tuple(str(item) for item in _array(found.get("queries"))),
        "timings": _numbers(found.get("timings")),
        "clock": _numbers(found.get("clock")),
        "confidence": _number(found.get("confidence")),
        "threshold": _number(found.get("threshold")),
        "prompt_version": str(found.get("prompt_version", "")),
    }
    try:
        hits = tuple(_hit(item) for item in _array(found.get("hits")))
        citations = tuple(Citation(**item) for item in _array(found.get("citations")))
        notes = tuple(Note(**item) for item in _array(found.get("notes")))
        marks = tuple(Mark(**item) for item in _array(found.get("marks")))
        steps = tuple(Step(**item) for item in _array(found.get("steps")))
    except (TypeError, KeyError, ValueError):
        return parts
    return {**parts, "hits": hits, "citations": citations, "notes": notes, "marks": marks, "steps": steps}


def _hit_object(hit: Hit) -> dict[str, Any]:
    """Without the document's metadata: the page shows none of it."""
    source = hit.source
    return {
        "rank": hit.rank,
        "score": hit.score,
        "passage": asdict(hit.passage),
        "source": [source.id, source.uri, source.title, source.format, source.owner],
        "scores": asdict(hit.scores),
    }


def _hit(item: Mapping[str, Any]) -> Hit:
    passage = Passage(**{**item["passage"], "headings": tuple(item["passage"]["headings"])})
    number, uri, title, kind, owner = item["source"]
    source = Source(number, uri, title, kind, owner, metadata={})
    return Hit(item["rank"], item["score"], passage, source, Scores(**item["scores"]))


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _array(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _numbers(value: Any) -> dict[str, float]:
    items = value.items() if isinstance(value, dict) else ()
    return {str(key): number for key, item in items if (number := _number(item)) is not None}
