"""Hits → what a language model is shown: copies dropped, neighbours joined, as many whole passages as have room, or of
more of them the sentences that have.

It knows no model: tokens are counted, and passages shortened, by functions that it is given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from retrieval.passages import Document, Hit, Scores
from retrieval.prompts import passage_block
from retrieval.selecting import SetAside

Count = Callable[[str], int]
"""Text → tokens of the answering model."""
DocumentOf = Callable[[int], Document | None]
"""A document by its id; None where it is gone."""

Shorten = Callable[[Sequence[Hit], int], Sequence[str]]
"""(hits, tokens) → what to show of each, together about so many tokens."""

MOST_JOINED = 3
"""Passages that become one at most: a block of everything would be cited as everything."""
LEAST_SHOWN = 24
"""Tokens a passage, about a sentence: with less, fewer passages are better."""
GAP = 4
"""Characters between two passages that still are neighbours: the splitter leaves blank lines out."""
INSIDE = 0.7
"""Share of a passage that another one holds from which it says nothing of its own (splitters overlap a little)."""


@dataclass(frozen=True, slots=True)
class Packed:
    """`hits` are numbered by rank from 1; the model is shown the first `given` of them. `texts` is what it reads of
    each of these, empty where it reads them whole: what is cited is looked up in the hits, never in these."""

    hits: tuple[Hit, ...]
    given: int
    texts: tuple[str, ...] = ()
    set_aside: Mapping[int, str] = field(default_factory=dict)
    """Number of a hit that is not shown → why."""

    @property
    def shown(self) -> tuple[Hit, ...]:
        """What the model is shown."""
        return self.hits[: self.given]


def pack(
    found: Sequence[Hit],
    document: DocumentOf,
    *,
    room: int | None = None,
    count: Count = len,
    shorten: Shorten | None = None,
    share: float = 1.0,
    aside: Sequence[SetAside] = (),
) -> Packed:
    """Best first, as many as `room` tokens hold (None: all); at least one. Without `shorten` no passage is cut: what
    has no room stays among the hits, unshown. With it, passages that have no room whole are shown by their best
    sentences; `share` below 1 shortens them to so much of themselves even where they have room. `aside` goes behind,
    unshown.

    A joined hit has the rank and id of its best part and the best score of each stage.
    """
    left = room
    distinct = _distinct(found)
    candidates = joined(distinct, document)
    if shorten is not None:
        fitted = _shortened(candidates, room, count, shorten, share)
        if fitted is not None:
            return _numbered(candidates, [], aside, fitted)
    if room is not None and candidates and count(passage_block(1, candidates[0])) > room:
        candidates = distinct  # a small window is better filled with the best part alone
    given: list[Hit] = []
    unshown: list[Hit] = []
    for hit in candidates:
        cost = 0 if left is None else count(passage_block(len(given) + 1, hit))
        if left is not None and cost > left and given:
            unshown.append(hit)
            continue
        left = None if left is None else left - cost
        given.append(hit)
    return _numbered(given, unshown, aside, ())


def _shortened(
    hits: Sequence[Hit], room: int | None, count: Count, shorten: Shorten, share: float
) -> tuple[str, ...] | None:
    """What is shown of each hit; () where all have room whole, None where not even their frames have."""
    if not hits:
        return ()
    frames = sum(count(passage_block(n, hit, "")) for n, hit in enumerate(hits, 1))
    whole = sum(count(hit.passage.text) for hit in hits)
    wanted = int(whole * share)
    if room is not None:
        wanted = min(wanted, room - frames)
    if wanted >= whole:
        return ()
    return tuple(shorten(hits, wanted)) if wanted >= LEAST_SHOWN * len(hits) else None


def _numbered(
    given: Sequence[Hit], unshown: Sequence[Hit], aside: Sequence[SetAside], texts: tuple[str, ...]
) -> Packed:
    known = {" ".join(hit.passage.text.split()) for hit in (*given, *unshown)}
    behind = [one for one in aside if " ".join(one.hit.passage.text.split()) not in known]  # no copies here either
    everything = [*given, *unshown, *(one.hit for one in behind)]
    numbered = tuple(replace(hit, rank=n) for n, hit in enumerate(everything, start=1))
    reasons = dict.fromkeys(range(len(given) + 1, len(given) + len(unshown) + 1), "no room")
    reasons |= {len(given) + len(unshown) + n: one.why for n, one in enumerate(behind, 1)}
    return Packed(numbered, len(given), texts, reasons)


def _distinct(found: Sequence[Hit]) -> list[Hit]:
    """Without empty passages, copies, and passages that lie mostly inside a better one."""
    kept: list[Hit] = []
    texts: set[str] = set()
    for hit in found:
        text = " ".join(hit.passage.text.split())
        if text and text not in texts and not any(_inside(hit, other) for other in kept):
            texts.add(text)
            kept.append(hit)
    return kept


def _inside(hit: Hit, other: Hit) -> bool:
    one, two = hit.passage, other.passage
    if one.document_id != two.document_id:
        return False
    shared = min(one.end, two.end) - max(one.start, two.start)
    return shared > INSIDE * (one.end - one.start)


def joined(hits: Sequence[Hit], document: DocumentOf) -> list[Hit]:
    """Neighbours of one document as one hit, at the place of the best of them; a sentence that the splitter cut in two
    is whole again. Passages whose document has other text by now stay as they are."""
    groups: list[list[Hit]] = []
    for hit in hits:
        near = next((group for group in groups if len(group) < MOST_JOINED and _touches(hit, group)), None)
        if near is None:
            groups.append([hit])
        else:
            near.append(hit)
    return [one for group in groups for one in _as_one(group, document)]


def _touches(hit: Hit, group: Sequence[Hit]) -> bool:
    passage = hit.passage
    start = min(other.passage.start for other in group)
    end = max(other.passage.end for other in group)
    # A new section is a new subject: its passage keeps its own headings.
    same = group[0].passage.document_id == passage.document_id and group[0].passage.headings == passage.headings
    return same and passage.start <= end + GAP and start <= passage.end + GAP


def _as_one(group: Sequence[Hit], document: DocumentOf) -> list[Hit]:
    if len(group) == 1:
        return list(group)
    found = document(group[0].passage.document_id)
    best, parts = group[0], [hit.passage for hit in group]
    if found is None or any(found.text[part.start : part.end] != part.text for part in parts):
        return list(group)
    first = min(parts, key=lambda part: part.start)
    start, end = first.start, max(part.end for part in parts)
    passage = replace(
        best.passage,
        ordinal=first.ordinal,
        start=start,
        end=end,
        page=first.page,
        text=found.text[start:end],
        tokens=sum(part.tokens for part in parts),
    )
    return [replace(best, passage=passage, scores=_best_scores(group))]


def _best_scores(group: Sequence[Hit]) -> Scores:
    def best(name: str) -> float | None:
        values = [value for hit in group if (value := getattr(hit.scores, name)) is not None]
        return max(values, default=None)

    return Scores(best("dense"), best("lexical"), best("fused"), best("rerank"))
