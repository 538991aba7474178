"""Documents → a question set of their own: passages are drawn, a model is asked about them, what passes is written out
with the documents and a report. Puts together what the files beside it know; it knows no command line."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.corpus.sources import LeftOut
from adapt.instructions.question_sets import write_question_set
from adapt.instructions.writing.kept import KeptWriter
from adapt.instructions.writing.pair_checks import PairChecks, PairLimits
from adapt.instructions.writing.pair_passages import Gathered, in_order, passages_of
from adapt.instructions.writing.pair_prompts import PAIRS_VERSION
from adapt.instructions.writing.pairs import PairWriting, Tally, nothing_kept, write_pairs
from eval.data.datasets import RetrievalDataset
from eval.runs.parts import Progress
from eval.search.indexed import indexed
from retrieval.errors import FathomError
from retrieval.passages import Hit

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder
    from retrieval.supporting.checker import SupportChecker

REPORT = "report.json"


@dataclass(frozen=True)
class Drawn:
    """The passages that may be asked about, in the order in which they are, and those left out, by reason."""

    passages: tuple[Hit, ...]
    skipped: LeftOut


def drawn(gathered: Gathered, writing: PairWriting, embedder: "Embedder", progress: Progress) -> Drawn:
    """Raises FathomError where no passage is worth asking about."""
    skipped = LeftOut()
    passages = in_order(list(passages_of(gathered.documents, embedder, skipped, progress)), writing.seed)
    if not passages:
        why = skipped.first() or gathered.left_out.first()
        such = f", such as {why}" if why else ""
        raise FathomError(f"none of {len(gathered.documents):,} documents has a passage to ask about{such}")
    return Drawn(tuple(passages), skipped)


def make_question_set(
    folder: Path,
    gathered: Gathered,
    found: Drawn,
    writer: KeptWriter,
    *,
    writing: PairWriting,
    limits: PairLimits,
    embedder: "Embedder",
    indexes: Path,
    checker: "SupportChecker | None" = None,
    progress: Progress = lambda *_: None,
) -> Mapping[str, Any]:
    """Ask, check and write `folder`; its report, which also lies in it. `checker` has the last word on each pair.

    The writer keeps what was written, so that nothing is asked twice, however often a run is stopped or its limits are
    changed; the index in which questions must find their passages lies under `indexes`.
    Raises FathomError where nothing passed, and what the engine and the index raise; then no folder is made.
    """
    dataset = RetrievalDataset(f"{folder.name}-questions", "questions", "", tuple(gathered.documents), {}, {})
    documents = {document.id: document for document in gathered.documents}
    tally = Tally()
    with indexed(dataset, embedder, indexes, progress=progress) as collection:
        checks = PairChecks(collection, embedder, documents, limits, checker)
        rows = list(write_pairs(found.passages, writer, checks, writing, tally, progress))
    if not rows:
        raise nothing_kept(tally)
    order = {document.id: number for number, document in enumerate(gathered.documents)}
    rows.sort(key=lambda row: (order[row["documents"][0]], row["spans"][0]["start"], row["id"]))
    report = {
        "by": writer.name,
        "prompt": PAIRS_VERSION,
        "writing": asdict(writing),
        "limits": asdict(limits),
        **({"support": dict(checker.described)} if checker is not None else {}),
        "documents": len(gathered.documents),
        "requests": {"asked": writer.asked, "reused": writer.reused},
        **tally.as_json(),
        "skipped": _counted(found.skipped),
        "left_out": _counted(gathered.left_out),
        "warnings": _counted(gathered.warnings),
    }
    write_question_set(folder, rows, gathered.documents, reports={REPORT: report})
    return report


def _counted(found: LeftOut) -> dict[str, Any]:
    return {
        reason: {"count": count, "examples": found.examples.get(reason, [])}
        for reason, count in found.counts.most_common()
    }
