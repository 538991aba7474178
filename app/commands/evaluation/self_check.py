"""`fathom eval tune … --collection NAME`: a handful of questions → what is worth setting for it, said, and kept there
where that was asked for. It measures nothing itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.commands.options import Run

if TYPE_CHECKING:
    from retrieval.tuned import Tuned


def check_collection(
    run: Run, questions: Path, name: str, *, reranker: str | None, refusals: Path | None, write: bool, seed: int
) -> None:
    """Check the collection `name`, say what was found, and `write` it there. `reranker` None is that of the settings,
    else the one that comes with Fathom. Raises what checking, loading and opening raise."""
    from app.build import open_collection
    from app.evaluation import tools
    from eval.search.self_check import self_check, to_keep
    from retrieval.answering import PASSAGES, threshold
    from retrieval.reranking.load import NONE, PACKAGED

    ours = run.settings
    set_word = ours.assist.reranker
    word = reranker or (set_word if set_word not in (None, NONE) else PACKAGED)
    with (
        run.terminal.progress() as show,
        open_collection(ours, name, write=write, doing="eval tune") as opened,
    ):
        before = opened.tuned
        found = self_check(
            questions,
            opened,
            finding=ours.assist,
            reranker=None if word == NONE else tools(ours).reranker(word),
            word=word,
            threshold=threshold(opened, ours.answer),
            k=ours.search.k or PASSAGES,
            mode=ours.search.mode or "hybrid",
            refusals=refusals,
            seed=seed,
            progress=show,
        )
        kept = to_keep(found, word, before)
        refusal = found["refusal"]
        refuses = refusal is not None and refusal["adopt"]
        changed = kept != before or refuses
        if write and kept != before:
            opened.set_tuned(kept)
        if write and refuses:
            opened.set_refusal_threshold(refusal["best"])
    found["notes"] += _overridden(run, kept != before, refuses)
    if run.terminal.as_json:
        run.terminal.json(found | {"changes": changed, "written": write and changed})
        return
    _show(run, found, kept if kept != before else None)
    if not changed:
        run.terminal.done(f"'{name}' can stay as it is")
    elif write:
        run.terminal.done(f"kept for '{name}'; 'fathom index rerank' and 'fathom index refusal' show and change it")
    else:
        run.terminal.done(f"nothing was changed; the same command with --write keeps it for '{name}'")


def _overridden(run: Run, finds: bool, refuses: bool) -> list[str]:
    """What of it the settings go before."""
    ours = run.settings
    names = [
        f"[assist] {name}"
        for name in ("reranker", "least_relevance")
        if finds and getattr(ours.assist, name) is not None
    ]
    names += ["[answer] least_confidence"] if refuses and ours.answer.least_confidence is not None else []
    return [f"the settings say {name}, which goes before what is kept for the collection" for name in names]


def _show(run: Run, found: dict[str, Any], kept: "Tuned | None") -> None:
    from app.terminal import count
    from retrieval.finding import as_tuned

    terminal = run.terminal
    counts = found["questions"]
    terminal.line(
        f"{count(counts['answerable'], 'question')} with an answer in {counts['groups']} groups (by document), "
        f"{counts['unanswerable']:,} without."
        if counts["groups"] < counts["answerable"]
        else f"{count(counts['answerable'], 'question')} with an answer, {counts['unanswerable']:,} without."
    )
    if rerank := found["rerank"]:
        terminal.line(_rerank_line(rerank))
    if cut := found["least_relevance"]:
        terminal.line(_cut_line(cut))
    if refusal := found["refusal"]:
        terminal.line(refusal_line(refusal))
        terminal.line(f"  {'Worth setting.' if refusal['adopt'] else 'Not shown to be better; it stays.'}")
    for note in found["notes"]:
        terminal.note(note, style="yellow")
    if kept is not None and kept.least_relevance and as_tuned(run.settings.assist, kept).reranker != kept.reranker:
        terminal.note(
            "the least relevance holds where the reranker reads: with --rerank, or [assist] reranker in fathom.toml"
        )


def _rerank_line(rerank: dict[str, Any]) -> str:
    difference = rerank["difference"]
    on = "on" if rerank["now"] else "off"
    verdict = {
        None: f"not sure either way, so that it stays {on}",
        True: "it helps" if rerank["adopt"] else f"it helps, and stays {on}",
        False: "it does harm" if rerank["adopt"] else f"it does harm, and stays {on}",
    }[rerank["best"]]
    return (
        f"Reranking with {rerank['reranker']}: {rerank['measure']} {rerank['search']:.3f} → {rerank['reranked']:.3f}, "
        f"{signed(difference)}, p = {difference['p']:.3f}, {rerank['seconds']:.2f} s a question: {verdict}."
    )


def _cut_line(cut: dict[str, Any]) -> str:
    verdict = "worth setting" if cut["adopt"] else "as it is now" if cut["best"] == cut["now"] else "not worth setting"
    return (
        f"Passages from a relevance of {cut['best']:g} on: all that answer are kept (the lowest has "
        f"{cut['lowest_gold']:.2g}), and {cut['kept']['value']:.1f} of {cut['read']:.1f} passages a question in all. "
        f"Of a new question one may be lost, with a chance below {cut['chance_of_loss']:.0%}: {verdict}."
    )


def refusal_line(refusal: dict[str, Any]) -> str:
    """What another threshold of refusal does, on questions it was not fitted on."""
    now, best = refusal["figures_now"], refusal["figures_best"]
    return (
        f"Refusing below a confidence of {refusal['best']:.3f} instead of {refusal['now']:.3f}: "
        f"unanswerable refused {now['refusal_recall']['value']:.3f} → {best['refusal_recall']['value']:.3f}, "
        f"answerable refused {now['over_refusal']['value']:.3f} → {best['over_refusal']['value']:.3f}; "
        f"balanced accuracy {signed(refusal['difference'])}."
    )


def signed(difference: dict[str, Any]) -> str:
    """A difference with its interval."""
    if difference["low"] is None:
        return f"{difference['value']:+.3f}"
    return f"{difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
