"""A question set with gold answers → examples of answering from passages as the chat asks for it: gold passages among
distractors of its own index, and without them, where the answer is that there is none.

The prompt is that of serving (retrieval.prompts) and what it shows that of evaluation (eval.answer_contexts). Gold
passages among distractors, a share of questions without: RAFT (Zhang et al. 2024, arXiv:2403.10131).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.instructions.example import Example, Message, Origin
from adapt.instructions.importing import Imported
from eval.answer_contexts import Contexts, is_gold
from eval.data.corpora import text_start
from eval.data.datasets import RetrievalDataset
from eval.data.gold import GoldSpan
from eval.data.question_documents import located
from eval.data.questions import Question, QuestionSet
from eval.runs.parts import Progress
from eval.search.indexed import indexed
from retrieval.answering import PASSAGES
from retrieval.errors import UsageError
from retrieval.passages import Hit
from retrieval.prompts import NO_ANSWER, PROMPT_VERSION, answer_messages, language_of

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder

WITHOUT_ANSWER, WITHOUT_PASSAGE, HELD_OUT = "without a gold answer", "without a gold passage", "held out"


@dataclass(frozen=True)
class Making:
    """`distractors` at most stand beside the gold passages, the nearest ones, a number drawn for each question, all in
    an order drawn for it; the share `unanswerable` of the questions is asked without the gold ones, and of passages in
    which no answer stands. `hold_out` is the share of the documents, the last of the file, whose questions are left
    out: sets in several languages that are in the same order hold out the same."""

    distractors: int = 3
    unanswerable: float = 0.15
    hold_out: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.distractors < 0:
            raise UsageError(f"distractors is {self.distractors}; it must be 0 or more")
        for name in ("unanswerable", "hold_out"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UsageError(f"{name} is {getattr(self, name)}; it is a share from 0 to below 1")
        if self.unanswerable and not self.distractors:
            raise UsageError("questions without their gold passages need distractors to be shown instead")


def held_out_documents(found: QuestionSet, share: float) -> frozenset[str]:
    """The last documents that questions are asked of, about so many of them."""
    asked = {question.source for question in found.questions}
    order = [document.id for document in found.documents if document.id in asked]
    return frozenset(order[len(order) - round(share * len(order)) :])


def examples_from_questions(
    found: QuestionSet,
    making: Making,
    into: Imported,
    *,
    embedder: "Embedder",
    cache: Path,
    licence: str = "",
    progress: Progress = lambda *_: None,
) -> Iterator[Example]:
    """An example for each question that has a short gold answer and a gold passage (or, unanswerable, none).

    `labels.group` is the document, so that no document stands on both sides of a split; `labels.unanswerable` tells the
    refusals. The index is kept under `cache`. Raises UsageError where no document is there.
    """
    if not found.documents:
        raise UsageError(f"no documents lie beside the questions of {found.name}; there is nothing to answer from")
    away = held_out_documents(found, making.hold_out)
    dataset = RetrievalDataset(f"{found.name}-questions", found.form, "", found.documents, {}, {})
    with indexed(dataset, embedder, cache, progress=progress) as collection:
        contexts = Contexts(collection, "distractors", "hybrid", PASSAGES, making.distractors + 1, making.seed)
        for number, question in enumerate(found.questions, 1):
            into.rows += 1
            progress("making examples", number, len(found.questions))
            if question.source in away:
                into.left_out.add(HELD_OUT, f"{found.name}#{question.id}", "is of a document that is held out")
                continue
            example = _example(question, contexts, making, into, f"{found.name}#{question.id}", licence)
            if example is not None:
                into.examples += 1
                yield example


def _example(
    question: Question, contexts: Contexts, making: Making, into: Imported, source: str, licence: str
) -> Example | None:
    if question.answerable and (not question.answers or question.kind not in ("span", "yes-no", "choice")):
        into.left_out.add(WITHOUT_ANSWER, source, "has no short answer to learn")
        return None
    shown, k, filters = contexts.of(question)
    hits = list(shown.search(question.text, mode=contexts.mode, k=k, filters=filters, owners=None).hits)
    gold = [hit for hit in hits if question.answerable and is_gold(hit, question)]
    others = [hit for hit in hits if hit not in gold]
    # Not the seed that orders the passages: drawn alike, the number of passages told where the gold one stands.
    draw = random.Random(f"{making.seed} example {question.id}")
    silent = [hit for hit in others if not any(located(answer, hit.passage.text) for answer in question.answers)]
    refuses = not question.answerable or (draw.random() < making.unanswerable and bool(silent))
    if not refuses and not gold:
        into.left_out.add(WITHOUT_PASSAGE, source, "has no passage that is known to hold the answer")
        return None
    # The nearest ones, whatever their place: to cut the order itself would leave the gold passage at its end. Refusals
    # show as many passages as answers do, or their number would tell which it is.
    near = sorted(silent if refuses else others, key=lambda hit: -hit.score)
    few = near[: draw.randint(0, making.distractors) + (max(1, len(gold)) if refuses else 0)]
    chosen = [hit for hit in hits if hit in few or (hit in gold and not refuses)]
    language = language_of(question.text)
    asked = [Message(one.role, one.text) for one in answer_messages(question.text, chosen, question.history)]
    answer = NO_ANSWER[language] if refuses else _answer(question, chosen)
    labels = {"group": question.source or question.id, "unanswerable": refuses, "task": "answer"}
    origin = Origin("raft", source, PROMPT_VERSION, licence)
    return Example.of([*asked, Message("assistant", answer)], origin=origin, labels=labels)


def _answer(question: Question, hits: Sequence[Hit]) -> str:
    """The gold answer and the number of each passage that holds it."""
    said = list(question.answers) if question.together else [question.answers[0]]
    numbers = [number for number, hit in enumerate(hits, 1) if is_gold(hit, question)]
    text = ("、" if question.language == "zh" else ", ").join(one.strip() for one in said)
    return f"{text} {''.join(f'[{number}]' for number in numbers)}"


def held_out_questions(found: QuestionSet, making: Making, *, embedder: "Embedder", cache: Path) -> Iterator[Any]:
    """Rows of a question file with the questions of the held-out documents; the share `unanswerable` of the answerable
    ones is asked of the nearest document that does not hold the answer."""
    away = held_out_documents(found, making.hold_out)
    starts = {document.id: text_start(document) for document in found.documents}
    dataset = RetrievalDataset(f"{found.name}-questions", found.form, "", found.documents, {}, {})
    with indexed(dataset, embedder, cache) as collection:
        for question in found.questions:
            if question.source not in away or (question.answerable and not question.answers):
                continue
            row: dict[str, Any] = {"id": question.id, "question": question.text}
            if not question.answerable:
                yield {**row, "answerable": False, "documents": list(question.documents)}
                continue
            draw = random.Random(f"{making.seed} held out {question.id}")
            if draw.random() < making.unanswerable:
                hits = collection.search(question.text, k=PASSAGES).hits
                wrong = next((hit.source.uri for hit in hits if hit.source.uri not in question.documents), None)
                if wrong is not None:
                    # Within it alone: a search of all would find the passage that answers.
                    yield {**row, "answerable": False, "documents": [wrong], "within": wrong}
                    continue
            spans = [_in_row(one, starts[one.document]) for one in question.spans]
            yield {**row, "answers": list(question.answers), "spans": spans, "documents": list(question.documents)}


def _in_row(span: GoldSpan, start: int) -> dict[str, Any]:
    """A gold span as a row has it: its offsets count in the document's own text, without the title before it."""
    return {"document": span.document, "start": span.start - start, "end": span.end - start}
