"""Documents → a file of queries with their passages, and what became of each that was tried.

Puts together what the files beside it know; it knows no command line.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adapt.corpus.sources import LeftOut
from adapt.instructions.importing import said
from adapt.instructions.writing.pair_checks import Rejected
from adapt.instructions.writing.writer import Wanted
from adapt.instructions.writing.yields import write_report
from adapt.queries.document_pairs import DOCUMENT_KINDS, document_pairs, drawn
from adapt.queries.mining import with_negatives
from adapt.queries.pair_file import KINDS, MOST_NEGATIVES, QueryPair, write_pairs
from adapt.queries.pieces import Papers, Piece
from adapt.queries.question_checks import QuestionChecks
from adapt.queries.question_prompts import MOST_QUESTIONS, PROMPT_VERSION, question_messages, read_questions
from eval.runs.parts import Progress
from eval.runs.run_folder import now
from retrieval.embedding.stored import file_hash
from retrieval.errors import FathomError, UsageError
from retrieval.prompts import language_of

if TYPE_CHECKING:
    from adapt.instructions.writing.kept import KeptWriter
    from retrieval.collection import Collection
    from retrieval.embedding.embedder import Embedder

T = TypeVar("T")
QUESTION = "question"
TOKENS_PER_QUESTION = 60
"""Longest question: 40 words, or 60 Chinese characters, are allowed."""
UNREADABLE, DECLINED, FAILED, SURPLUS = "unreadable", "nothing to ask", "engine failed", "more than were asked for"


@dataclass(frozen=True)
class QueryMaking:
    """Which pairs are made. `per_document` pairs of the document's own words and as many questions at most; `count` of
    either in all. `per_passage` questions are asked for of a passage, and each must find it among the first `top`.
    `negatives` hard negatives are mined for each pair."""

    kinds: tuple[str, ...] = DOCUMENT_KINDS
    per_document: int = 4
    count: int | None = None
    per_passage: int = 2
    top: int = 3
    negatives: int = 0
    temperature: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            wrong = (unknown or ["(none)"])[0][:40]
            raise UsageError(f"there is no kind '{wrong}' of pairs; known are {', '.join(KINDS)}")
        for name, least, most in (
            ("per_document", 1, 1_000),
            ("count", 1, 10_000_000),
            ("per_passage", 1, MOST_QUESTIONS),
            ("top", 1, 100),
            ("negatives", 0, MOST_NEGATIVES),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(f"{name} is {value}; it is a number from {least} to {most:,}")
        if not 0.0 <= self.temperature <= 2.0:
            raise UsageError(f"temperature is {self.temperature}; it is a number from 0 to 2")

    @property
    def asks(self) -> bool:
        """Whether a model is to write questions."""
        return QUESTION in self.kinds


@dataclass
class Asking:
    """What became of the questions that were asked for."""

    passages: int = 0
    candidates: int = 0
    kept: int = 0
    tokens: int = 0
    rejected: LeftOut = field(default_factory=LeftOut)
    ranks: Counter[int] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """For programs; `yield` is what is kept of the questions that could be read."""
        return {
            "passages": self.passages,
            "candidates": self.candidates,
            "kept": self.kept,
            "yield": round(self.kept / self.candidates, 4) if self.candidates else None,
            "tokens": self.tokens,
            "rejected": said(self.rejected),
            "ranks": {str(rank): count for rank, count in sorted(self.ranks.items())},
            "languages": dict(self.languages.most_common()),
        }


def own_pairs(papers: Papers, making: QueryMaking) -> list[QueryPair]:
    """The pairs of the documents' own words, drawn evenly over the documents."""
    made = [pairs for _, pairs in document_pairs(papers.papers, making.kinds, making.seed)]
    return drawn(made, making.per_document, making.count, making.seed)


def asked_about(papers: Papers, making: QueryMaking) -> list[tuple[int, Piece]]:
    """Passages in the order in which they are asked about, each with its document's number: one of every document, then
    a second one, so that whoever stops early has asked about all documents alike."""
    by_document = [
        [(number, piece) for piece in _shuffled(paper.pieces, making.seed + number)]
        for number, paper in enumerate(papers.papers)
    ]
    deepest = max((len(pieces) for pieces in by_document), default=0)
    most = -(-making.per_document // making.per_passage)
    turns = [[row[turn] for row in by_document if turn < len(row)] for turn in range(min(deepest, most))]
    return [one for turn in turns for one in _shuffled(turn, making.seed)]


def wanted_of(piece: Piece, making: QueryMaking) -> Wanted:
    """The request for the questions of one passage."""
    messages = question_messages(piece.hit, making.per_passage)
    return Wanted(messages, making.temperature, TOKENS_PER_QUESTION * making.per_passage, making.seed)


def written_pairs(
    papers: Papers,
    writer: "KeptWriter",
    checks: QuestionChecks,
    making: QueryMaking,
    asking: Asking,
    progress: Progress,
) -> Iterator[QueryPair]:
    """Pairs of questions that a model wrote, as they pass. Raises FathomError where the engine cannot write at all."""
    passages = asked_about(papers, making)
    step = max(1, writer.at_once)
    for start in range(0, len(passages), step):
        if making.count is not None and asking.kept >= making.count:
            break
        progress("asking about passages", start, len(passages))
        batch = passages[start : start + step]
        asking.passages += len(batch)
        for (number, piece), written in zip(
            batch, writer.write([wanted_of(piece, making) for _, piece in batch]), strict=True
        ):
            where = f"{piece.document}#{piece.hit.passage.ordinal}"
            asking.tokens += written.tokens
            if written.finish == "failed":
                asking.rejected.add(FAILED, where, written.error)
                continue
            for question in _read(written.text, written.finish == "length", where, making, asking):
                found = checks.look_at(question, piece, papers.papers[number])
                if isinstance(found, Rejected):
                    asking.rejected.add(found.reason, where, found.why)
                elif making.count is None or asking.kept < making.count:
                    asking.kept += 1
                    asking.ranks[found] += 1
                    asking.languages[language_of(question)] += 1
                    yield QueryPair(question, piece.embedded, piece.document, QUESTION)
    progress("asking about passages", len(passages), len(passages))


def make(
    out: Path,
    papers: Papers,
    making: QueryMaking,
    *,
    search: "Callable[[], Collection]",
    embedder: "Callable[[], Embedder]",
    writer: "KeptWriter | None",
    progress: Progress = lambda *_: None,
) -> Mapping[str, Any]:
    """Make the pairs, write `out` and its report beside it, and return the report.

    `search` opens the collection of these passages; it is called where questions or negatives need it. Raises
    FathomError where no pair came of it, and what engine, search and model raise; then nothing is written.
    """
    pairs = own_pairs(papers, making)
    asking = Asking()
    if making.asks and writer is not None:
        checks = QuestionChecks(search(), making.top)
        pairs += written_pairs(papers, writer, checks, making, asking, progress)
    if not pairs:
        raise nothing_made(papers, asking)
    if making.negatives:
        pairs = list(with_negatives(pairs, search(), embedder(), making.negatives, progress))
    report = {
        "made": now(),
        "making": asdict(making),
        "documents": len(papers.papers),
        "passages": papers.pieces,
        "pairs": write_pairs(out, pairs),
        "kinds": counted(pairs),
        "negatives": sum(len(pair.negatives) for pair in pairs),
        "without_negatives": sum(not pair.negatives for pair in pairs) if making.negatives else None,
        "questions": {"by": writer.name, "prompt": PROMPT_VERSION, **asking.as_json()} if writer is not None else None,
        "requests": {"asked": writer.asked, "reused": writer.reused} if writer is not None else None,
        "left_out": said(papers.left_out),
        "sha256": file_hash(out),
    }
    write_report(out, report)
    return report


def counted(pairs: Sequence[QueryPair]) -> dict[str, int]:
    """How many of each kind."""
    return dict(Counter(pair.kind for pair in pairs).most_common())


def nothing_made(papers: Papers, asking: Asking) -> FathomError:
    """What to say where no pair came of it."""
    why = asking.rejected.first() or papers.left_out.first()
    such = f", such as {why}" if why else ""
    return FathomError(f"no pair came of {len(papers.papers):,} documents with {papers.pieces:,} passages{such}")


def _read(text: str, cut_off: bool, where: str, making: QueryMaking, asking: Asking) -> Sequence[str]:
    reply = read_questions(text, cut_off=cut_off)
    for line in reply.unreadable:
        asking.rejected.add(UNREADABLE, where, f"'{line}'")
    if reply.declined:
        asking.rejected.add(DECLINED, where, f"'{text.strip()}'")
    elif not reply.questions and not reply.unreadable:
        asking.rejected.add(UNREADABLE, where, "nothing was written")
    asking.candidates += len(reply.questions)
    for question in reply.questions[making.per_passage :]:
        asking.rejected.add(SURPLUS, where, f"'{question}'")
    return reply.questions[: making.per_passage]


def _shuffled(items: Sequence[T], seed: int) -> list[T]:
    found = list(items)
    random.Random(seed).shuffle(found)
    return found
