"""Figures → one plain sentence each, for people who want the result and not the table. Words only, no markup."""

from collections.abc import Iterator, Sequence

from eval.comparison.comparing import Row
from eval.figures.measures import find
from eval.report.shape import Compared, Figure, Shaped, figure_of, split_stage
from eval.report.text import count, line, probability

_READINGS = {
    "nDCG@k": "ranks the relevant documents with {name} {}",
    "EM": "gives exactly a reference answer in {} of the cases",
    "F1": "overlaps the reference answers by {} (F1)",
    "accuracy": "is right in {} of the cases",
    "choice_accuracy": "finds the right option likeliest in {} of the cases",
    "bits_per_byte": "needs {} bits for each byte of text (lower is better)",
    "faithfulness": "finds {} of the answers' claims supported by the passages shown",
    "rouge1_recall": "keeps {} of the words of the human rewrites",
}
_SUBJECTS = {
    "answers": "The answerer",
    "judge": "The judge",
    "rewrites": "The rewriter",
    "language": "The model",
    "choices": "The model",
}
_NOUNS = {
    "retrieval": ("query", "queries"),
    "answers": ("question", ""),
    "choices": ("question", ""),
    "language": ("text", ""),
}


def findings(parts: Sequence[Shaped], comparisons: Sequence[Compared] = ()) -> list[tuple[str, str]]:
    """(part, sentences) of each main result, in the order of the parts."""
    changes = {compared.comparison.b: compared for compared in comparisons}
    return [(part.name, " ".join(_sentences(part, changes.get(part.result.name)))) for part in parts]


def _sentences(part: Shaped, compared: Compared | None) -> Iterator[str]:
    main = part.main
    if main is None or main.estimate.value is None:
        ended = f": {line(part.result.error, 300)}" if part.result.error else "."
        yield f"Nothing could be measured{ended}" if part.errors or part.result.error else "Nothing is measured yet."
        return
    known = find(main.measure)
    reading = _READINGS.get(known.name if known else main.measure, "reaches {name} {}")
    n = count(main.estimate.n, *_NOUNS.get(part.result.kind, ("item", "")))
    yield f"{_subject(part)} {reading.format(main.with_interval, name=main.name)}, over {n}."
    if part.steps:
        best = max(part.steps, key=lambda step: (-1 if main.lower_is_better else 1) * (step.row.a.value or 0.0))
        yield difference(best.row, f"The difference to {best.stage} alone is")
    if compared is not None and compared.main is not None:
        yield difference(compared.main, "The difference to the run before is", counted=True)
    yield from _beside(part)


def _subject(part: Shaped) -> str:
    for key in ("pipeline", "engine", "model", "rewriter"):
        named = part.result.settings.get(key)
        if isinstance(named, str) and named.strip():
            named = line(named.rstrip("/").rpartition("/")[2] or named, 40)
            return (
                named[:1].upper() + named[1:] if part.result.kind == "retrieval" else f"{_subject_of(part)} ({named})"
            )
    return _subject_of(part)


def _subject_of(part: Shaped) -> str:
    return _SUBJECTS.get(part.result.kind, "This part")


def signed(text: str, value: float | None) -> str:
    """A formatted difference with its sign, a true minus."""
    return f"+{text}" if value is not None and value > 0 else text.replace("-", "−")


def difference(row: Row, opening: str, *, counted: bool = False) -> str:
    """ "… +0.031 [0.012, 0.050], unlikely to be chance (p = .002)." with wins and losses where `counted`."""
    figure = figure_of(row)
    if figure.estimate.value is None:
        return f"{opening} not known: no item has both values."
    told = f"{opening} {signed(figure.value, figure.estimate.value)} {figure.interval.replace('-', '−')}".rstrip()
    if figure.estimate.value == 0 and not row.wins and not row.losses:
        return f"By {figure.name} nothing changed: every item is the same as before."
    if counted:
        told += f" (better on {row.wins:,}, worse on {row.losses:,}, equal on {row.ties:,})"
    p = row.adjusted if row.adjusted is not None else row.p
    if p is None:
        return f"{told}."
    if row.significant:
        return f"{told}, unlikely to be chance ({probability(p)})."
    seen = ""
    if row.detectable:
        least = Figure("", "", split_stage(row.metric)[1], row.a).text(row.detectable)
        seen = f"; so many items reliably show only differences from {least} up"
    return f"{told}, which may be chance ({probability(p)}){seen}."


def _beside(part: Shaped) -> Iterator[str]:
    """Of answers, what matters beside being right: refusals and citations."""
    if part.result.kind != "answers":
        return
    known = {figure.measure: figure.estimate.value for figure in part.whole if figure.estimate.value is not None}
    if "accuracy" in known and part.main is not None and part.main.measure != "accuracy":
        yield f"{known['accuracy']:.0%} of the answers are right by their question's own rule."
    if "refusal_recall" in known:
        over = f", and {known['over_refusal']:.0%} of those that can" if "over_refusal" in known else ""
        yield f"It refuses {known['refusal_recall']:.0%} of the questions that cannot be answered{over}."
    if "citation_precision" in known and "citation_recall" in known:
        yield (
            f"{known['citation_precision']:.0%} of its citations point at the gold text, and "
            f"{known['citation_recall']:.0%} of the gold text is cited."
        )
