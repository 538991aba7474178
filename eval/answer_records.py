"""A question and the answer it got → one record: metrics by the question's kind, citations, refusal, confidence.

It knows neither where the passages came from nor which engine wrote the answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.answer_contexts import is_gold
from eval.data.questions import Question
from eval.figures.answer_metrics import cleaned, contains, exact_match, rouge_l, token_f1
from eval.figures.citation_metrics import gold_figures, overlaps, own_figures
from eval.figures.stated_answers import numeric_match, stated_choice
from eval.runs.parts import Record
from retrieval.passages import Answer
from retrieval.quoting import best_coverage
from retrieval.unanswered import says_no_answer

Metrics = dict[str, Any]
# The engine reports them in the same place as its times.
_COUNTS = ("prompt_tokens", "completion_tokens", "tokens_per_second")


@dataclass(frozen=True, slots=True)
class Judged:
    """What an answer is worth. `loss` is 0 (right) to 1 (wrong); None for a refused answer, which risks nothing."""

    refused: bool
    refused_by: str | None
    choice: str | None
    loss: float | None
    metrics: Metrics


def judged(question: Question, text: str, *, refused: bool, refused_by: str | None, refusals: bool) -> Judged:
    """Metrics of one answer text. `refusals` says that the set has unanswerable questions, so that refusing can be
    right at all.

    accuracy is the question's own rule: the right option stated, the number stated, a gold answer contained word for
    word (every part where they belong together). EM, F1 and ROUGE-L compare with the gold answers; a refused answer is
    the empty one. What has no answer is right when refused, in all of them, as in SQuAD 2.0.
    """
    said = "" if refused else cleaned(text)
    metrics, choice = _compared(question, said)
    if not question.answerable:
        metrics["accuracy"] = float(refused)
    loss = None if refused else 1.0 - float(metrics["accuracy"])
    if question.kind == "text" and question.answerable and not refused:
        loss = 1.0 - metrics["ROUGE-L"]
    if question.kind == "text" and question.answerable:
        del metrics["accuracy"]  # long answers are not contained in anything; ROUGE-L grades them
    metrics["coverage"] = float(not refused)
    metrics["risk"] = (loss or 0.0, float(not refused))
    if refusals:
        metrics["refusal_precision"] = (float(refused and not question.answerable), float(refused))
        metrics["refusal_recall"] = (float(refused and not question.answerable), float(not question.answerable))
        metrics["refusal_F1"] = (
            2.0 * (refused and not question.answerable),
            float(refused) + float(not question.answerable),
        )
    metrics["over_refusal"] = (float(refused and question.answerable), float(question.answerable))
    return Judged(refused, refused_by, choice, loss, metrics)


def _compared(question: Question, said: str) -> tuple[Metrics, str | None]:
    golds, language = question.answers, question.language
    metrics: Metrics = {}
    choice: str | None = None
    if question.kind in ("choice", "yes-no"):
        choice = stated_choice(said, question.choices)
        metrics["accuracy"] = float(choice is not None and choice in golds)
        if question.answerable:
            metrics["unclear"] = (float(bool(said) and choice is None), float(bool(said)))
    else:
        whole = (", ".join(golds),) if question.together else golds
        metrics["EM"] = exact_match(said, whole, language)
        metrics["F1"] = token_f1(said, whole, language)
        metrics["accuracy"] = float(_holds(question, said))
        if question.kind == "number" and question.answerable:
            metrics["numeric_match"] = metrics["accuracy"]
    references = question.references or (golds if question.kind in ("span", "text") else ())
    if question.answerable and references:
        metrics["ROUGE-L"] = rouge_l(said, references)
    return metrics, choice


def _holds(question: Question, said: str) -> bool:
    if question.kind == "number":
        found = numeric_match(
            said, question.answers, scale=question.scale, question=question.text, together=question.together
        )
        if found is not None:
            return found
    every = [contains(said, gold, question.language) for gold in question.answers]
    return all(every) and bool(every) if question.together else any(every)


def answer_record(
    question: Question,
    answer: Answer,
    *,
    given: int,
    texts: Sequence[str] = (),
    draft: str | None,
    document_text: Callable[[str], str],
    refusals: bool,
    retrieved: bool,
) -> Record:
    """The record of an answer with passages. The first `given` hits were shown to the model (`texts` of them where they
    were shortened), which wrote `draft` (None where none was asked); the answer is that, checked, or quotes in its
    place (`replaced`). `document_text` gives a document's text by uri, and `retrieved` says that the passages were
    searched for, so that finding the gold is worth a figure."""
    declined = not answer.refused and answer.model != "quote" and says_no_answer(answer.text)
    by = _refuser(answer.model) if answer.refused else "words" if declined else None
    found = judged(question, answer.text, refused=by is not None, refused_by=by, refusals=refusals)
    metrics = found.metrics
    if not found.refused:
        metrics |= own_figures(answer, document_text, [hit.passage for hit in answer.hits])
    if question.answerable and not found.refused and question.documents:
        right = sum(citation.document in question.documents for citation in answer.citations)
        metrics["cited_document"] = (right, len(answer.citations))
    if question.answerable and question.evidence:
        metrics |= gold_figures(() if found.refused else answer.citations, question.evidence)
    if draft is not None and not found.refused:
        metrics["replaced"] = float(answer.model.endswith("+quote"))
    if retrieved and question.answerable and (question.spans or question.documents):
        metrics["gold_retrieved"] = float(any(is_gold(hit, question) for hit in answer.hits))
    shown = list(texts) or [hit.passage.text for hit in answer.hits[:given]]
    if draft is not None and question.answerable and question.answers and question.kind in ("span", "number"):
        metrics["gold_shown"] = float(shows_gold("\n".join(shown), question))
        metrics["passages_shown"] = float(given)
    signals = confidence_signals(answer)
    return _record(question, answer.text, found, answer.timings) | {
        "answered_by": answer.model,
        "checker": answer.checker,
        "draft": draft if draft and draft != answer.text else None,
        "confidence": None if found.refused else confidence(signals),
        "signals": signals,
        "citations": [
            {
                "n": c.n,
                "document": c.document,
                "page": c.page,
                "start": c.start,
                "end": c.end,
                "quote": c.quote,
                "supported": c.supported,
                "right": any(overlaps(c.document, c.start, c.end, span) for span in question.spans)
                if question.spans
                else None,
            }
            for c in answer.citations
        ],
        "passages": [
            {
                "n": n,
                "id": hit.passage.id,
                "document": hit.source.uri,
                "start": hit.passage.start,
                "end": hit.passage.end,
                "title": hit.source.title,
                "text": hit.passage.text,
                "shown": n <= given,
                **({"shortened": texts[n - 1]} if n <= len(texts) and texts[n - 1] != hit.passage.text else {}),
                "gold": is_gold(hit, question) if question.answerable and question.documents else None,
            }
            for n, hit in enumerate(answer.hits, 1)
        ],
    }


def shows_gold(text: str, question: Question) -> bool:
    """Whether a gold answer stands in the text, all of its parts where they belong together."""
    there = [contains(text, answer, question.language) for answer in question.answers]
    return all(there) if question.together else any(there)


def _refuser(model: str) -> str:
    """Which step refused: nothing found was near, no sentence of it fitted, or the model found no answer in it."""
    return "confidence" if model == "none" else "quote" if model.endswith("quote") else "model"


def closed_book_record(
    question: Question, text: str, *, refused: bool, model: str, timings: Mapping[str, float], refusals: bool
) -> Record:
    """The record of an answer for which no passage was shown: it cites nothing and nothing speaks for it."""
    by = "words" if refused else None
    found = judged(question, text, refused=refused, refused_by=by, refusals=refusals)
    return _record(question, text, found, timings) | {
        "answered_by": model,
        "confidence": None,
        "citations": [],
        "passages": [],
    }


def _record(question: Question, text: str, found: Judged, timings: Mapping[str, float]) -> Record:
    counts = {name: timings[name] for name in _COUNTS if name in timings}
    tokens = {name: float(counts[name]) for name in _COUNTS[:2] if name in counts}
    return {
        "id": question.id,
        "text": question.text,
        "cluster": question.source,
        "kind": question.kind,
        "language": question.language,
        "group": question.group,
        "answerable": question.answerable,
        "golds": list(question.answers),
        "references": list(question.references),
        "evidence": [
            [{"document": s.document, "start": s.start, "end": s.end} for s in alternatives]
            for alternatives in question.evidence
        ],
        "answer": text,
        "refused": found.refused,
        "refused_by": found.refused_by,
        "choice": found.choice,
        "loss": found.loss,
        "metrics": found.metrics | tokens,
        "timings": {name: value for name, value in timings.items() if name not in _COUNTS},
        **counts,
    }


# --- confidence -------------------------------------------------------------------------------------------------------

_SUPPORT = {"yes": 1.0, "partly": 0.5, "no": 0.0}


def confidence_signals(answer: Answer) -> dict[str, float]:
    """What is known of an answer without its gold, each 0 to 1.

    answerability is what decides a refusal (retrieval/answerability.py), coverage the share of the question's telling
    words in the best passage, dense the best cosine, support the mean verdict on the citations (yes 1, partly ½, no 0;
    none 0).
    """
    support = [_SUPPORT[citation.supported] for citation in answer.citations]
    return {
        "answerability": answer.confidence if answer.confidence is not None else 0.0,
        "coverage": round(max(best_coverage(query, answer.hits) for query in answer.queries), 4),
        "dense": round(max((hit.scores.dense or 0.0 for hit in answer.hits), default=0.0), 4),
        "support": round(sum(support) / len(support), 4) if support else 0.0,
    }


def confidence(signals: Mapping[str, float]) -> float:
    """0 to 1: the question's words found in a passage, and the answer borne out by what it cites, half each.

    Words tell more than meaning does: on 200 questions about contracts (CUAD), 137 without answer, coverage ranks an
    answerable question above another with a chance of .72, the cosine .61, nearness, their greater share, .62; of
    AURC, lower is better, coverage alone has .775, the cosine .874 (XQuAD: en .096 and .130, zh .060 and .095).
    """
    return round((signals["coverage"] + signals["support"]) / 2, 4)
