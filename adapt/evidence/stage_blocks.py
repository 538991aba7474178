"""What a stage says of its own work (tokens added, text selected, blocks packed) → tables of the run's report.

What it has no table for is shown as eval/report/blocks.py shows anything, so nothing that was recorded stays unseen.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from eval.figures.measures import format_value
from eval.report.blocks import Block, blocks
from eval.report.text import count, line, listed, mapping, number

MOST_TERMS, MOST_REFUSED, MOST_PASSAGES = 10, 6, 5
_PARTS = {"train": "texts to train on", "held_out": "held-out texts", "strange": "random strings"}


def told(report: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Blocks of `StageFacts.report`, beside the `changes` of figures that the stage brought."""
    rest = dict(report)
    found: list[Block] = []
    if vocabulary := dict(mapping(rest.pop("vocabulary", None))):
        found += _vocabulary(vocabulary, changes)
    if selection := dict(mapping(rest.pop("selection", None))):
        found += _selection(selection)
    return found + blocks({**rest, "vocabulary": vocabulary, "selection": selection})


def _vocabulary(rest: dict[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> Iterator[Block]:
    """Takes out of `rest` what it shows."""
    parts, savings = mapping(rest.pop("never_longer", None)), mapping(rest.pop("saving", None))
    found, corpus = dict(mapping(rest.pop("found", None))), line(mapping(rest.get("corpus")).get("name"), 40)
    rows = [_part_row(name, mapping(part), number(savings.get(name))) for name, part in parts.items()]
    texts, longer = (sum(number(mapping(part).get(key)) or 0 for part in parts.values()) for key in ("texts", "longer"))
    said = []
    if (added := number(rest.get("tokens_added"))) is not None:
        said.append(f"{count(added, 'token')} added.")
    if texts:
        said.append(f"{'None' if not longer else f'{longer:,.0f}'} of {texts:,.0f} texts got longer.")
    cost = mapping(changes.get(f"{corpus} bits_per_byte"))
    if (before := number(cost.get("base"))) is not None and (after := number(cost.get("value"))) is not None:
        said.append(
            f"Bits per byte of {corpus}, held out: {format_value('bits_per_byte', before)} in the base, "
            f"{format_value('bits_per_byte', after)} now."
        )
    for key, verb in (("distilled", "distilled"), ("warmed", "trained alone")):
        one = mapping(rest.pop(key, None))
        first, last, tokens = (number(one.get(name)) for name in ("first_loss", "last_loss", "tokens"))
        if first is not None and last is not None and tokens is not None:
            said.append(f"The new rows were {verb} on {tokens:,.0f} tokens: loss {first:.3f} → {last:.3f}.")
    head = ("", "texts", "tokens before", "tokens after", "fewer tokens", "texts made shorter", "longer")
    yield Block("Domain tokens", " ".join(said), head=head, rows=rows, wide=True)
    terms = [mapping(term) for term in listed(found.pop("terms", None))]
    if terms:
        yield _terms(terms)
    refused = mapping(found.pop("refused", None))
    if refused:
        yield Block(
            "Candidates that were not added",
            head=("reason", "candidates"),
            rows=[_refused_row(reason, mapping(entry)) for reason, entry in refused.items()],
            wide=True,
        )
    rest["counted"] = found


def _part_row(name: str, part: Mapping[str, Any], saving: float | None) -> list[str]:
    before, after = number(part.get("tokens_before")), number(part.get("tokens_after"))
    if saving is None and before and after is not None:
        saving = 1 - after / before
    return [
        _PARTS.get(name) or line(name, 40),
        *(_whole(part.get(key)) for key in ("texts", "tokens_before", "tokens_after")),
        "–" if saving is None else f"{saving:.2%}",
        *(_whole(part.get(key)) for key in ("shorter", "longer")),
    ]


def _terms(terms: list[Mapping[str, Any]]) -> Block:
    """The first that a reader can read and that stand in the text as they are, not only inside a longer new token."""
    good = [term for term in terms if "\ufffd" not in str(term.get("text")) and number(term.get("stands"))]
    shown = (good or terms)[:MOST_TERMS]
    rows = [
        [
            _token(term.get("text")),
            _pieces(listed(term.get("pieces"))),
            _whole(term.get("stands")),
            _whole(term.get("documents")),
            "–" if (saving := number(term.get("saving"))) is None else f"{saving:.3%}",
        ]
        for term in shown
    ]
    head = ("token", "was", "times in the texts", "documents", "fewer tokens")
    note = f"{len(shown)} of {count(len(terms), 'new token')}, the best first. ␣ is a space, ▯ part of a letter."
    return Block("New tokens", note, head=head, rows=rows, wide=True)


def _pieces(pieces: list[Any]) -> str:
    return " · ".join(_token(piece) for piece in pieces)


def _token(value: Any) -> str:
    return line(str(value).replace(" ", "␣").replace("\n", "⏎").replace("\ufffd", "▯"), 60)


def _refused_row(reason: str, entry: Mapping[str, Any]) -> list[str]:
    examples = [_token(one) for one in listed(entry.get("examples"))[:MOST_REFUSED]]
    return [line(reason, 60) + (f": {', '.join(examples)} …" if examples else ""), _whole(entry.get("count"))]


def _selection(rest: dict[str, Any]) -> Iterator[Block]:
    """Takes out of `rest` what it shows."""
    examples, clusters = mapping(rest.pop("examples", None)), listed(rest.pop("clusters", None))
    similar = mapping(rest.pop("similarity", None))
    passages, documents, tokens = (
        number(rest.get(key)) for key in ("passages_selected", "documents_selected", "tokens")
    )
    if passages is not None and documents is not None and tokens is not None:
        whole, gold = number(rest.get("passages")) or 0, number(rest.get("gold_passages")) or 0
        note = (
            f"{count(passages, 'passage')} of {count(documents, 'document')}, {tokens:,.0f} tokens, the nearest to "
            f"{count(gold, 'passage')} of the task among {whole:,.0f}. Similarity is the cosine of the embeddings."
        )
    else:
        note = ""
    head = ("similarity to the task", "least", "median", "nine tenths below", "most")
    rows = [
        [line(name, 40), *(_share(mapping(one).get(key)) for key in ("least", "median", "nine_tenths", "most"))]
        for name, one in similar.items()
    ]
    yield Block("Selected text", note, head=head, rows=rows, wide=True)
    if clusters:
        yield Block(
            "Topics that share it",
            head=("topic", "passages", "tokens", "similarity"),
            rows=[
                [
                    line(mapping(one).get("example"), 120),
                    *(_whole(mapping(one).get(key)) for key in ("selected", "selected_tokens")),
                ]
                + [_share(mapping(one).get("similarity"))]
                for one in clusters[:40]
            ],
            wide=True,
        )
    for which in ("nearest", "furthest"):
        if found := [mapping(one) for one in listed(examples.get(which))][:MOST_PASSAGES]:
            yield Block(
                f"The {which} of them",
                head=("passage", "similarity"),
                rows=[
                    [f"{line(one.get('id'), 80)}: {line(one.get('text'), 160)}", _share(one.get("similarity"))]
                    for one in found
                ],
                wide=True,
                folded=True,
            )


def _whole(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{found:,.0f}"


def _share(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{found:.3f}"
