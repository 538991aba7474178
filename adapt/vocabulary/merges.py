"""Pieces of a corpus → merges that go on where the tokenizer's own end: continued BPE, then what is not worth a row is
pruned. It knows neither texts nor models; tokens are strings as the vocabulary writes them.

Continued BPE and the pruning of leaves: Purason et al. 2025 (arXiv:2512.03989).
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from adapt.vocabulary.counting import LONGEST, Piece
from adapt.vocabulary.phrases import is_term, may_become_term
from eval.runs.parts import Progress

Pair = tuple[str, str]
NOT_LETTERS, RARE, FEW_DOCUMENTS, LITTLE, OVER, BROKEN = (
    "no words alone",
    "too rare",
    "in too few documents",
    "saves too little",
    "over the limit of tokens",
    "ends inside a character or before a word",
)
EXAMPLES = 5
SPARE, SPARE_LEAST = 3, 200
"""Merges learned for each token wanted, and at least so many more, before those that lead nowhere are pruned. Chinese
characters of three bytes need two merges each, and half of the first ones end inside a character."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a new token must reach, and what it may be. `saving` counts tokens of the corpus."""

    tokens: int
    frequency: int
    documents: int
    saving: int
    words: int = 1
    """Of one token at most."""


@dataclass(slots=True)
class Term:
    """A new token and what it does in the corpus. `merges` lead to it, mostly one.

    `saved` is how often they are applied, which is how many tokens they save; `stays` how often the token is there in
    the end; what is between went into longer terms. `pieces` are the commonest pieces it happens in.
    """

    token: str
    merges: list[Pair] = field(default_factory=list)
    saved: int = 0
    stays: int = 0
    documents: int = 0
    pieces: tuple[str, ...] = ()


@dataclass
class Refused:
    """What was not taken, by reason: how many and the commonest."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: str, token: str) -> None:
        self.counts[reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            self.examples[reason].append(token)


@dataclass(frozen=True)
class Learned:
    """`merges` are to be appended in this order; `terms` are the tokens they make, in the order they are first made."""

    merges: tuple[Pair, ...]
    terms: tuple[Term, ...]
    refused: Refused

    def split(self, token: str) -> tuple[str, ...]:
        """The old tokens that a new one is made of."""
        first = {term.token: term.merges[0] for term in self.terms}

        def parts(token: str) -> tuple[str, ...]:
            return parts(first[token][0]) + parts(first[token][1]) if token in first else (token,)

        return parts(token)


def learn(
    pieces: Sequence[Piece], limits: Limits, free: Callable[[str], bool], *, progress: Progress = lambda *_: None
) -> Learned:
    """What to append. `free` tells whether a token is not there yet.

    Every merge saves exactly as many tokens as it is applied, so the most frequent pair is always the best next one.
    More are learned than wanted; then, from the leaves (terms that are part of no other), those that break a limit or
    save least are taken away, so that what is no word by itself stays only where a word is built on it.
    """
    refused = Refused()
    words = [
        (list(piece.tokens[start : start + LONGEST]), piece)
        for piece in pieces
        for start in range(0, len(piece.tokens), LONGEST)
    ]
    merges = _greedy(words, limits, free, refused, progress)
    while True:
        terms = applied(pieces, merges)
        kept = _pruned(terms, limits, refused)
        if len(kept) == len(terms):
            used = {pair for term in terms.values() for pair in term.merges}
            return Learned(tuple(pair for pair in merges if pair in used), tuple(terms.values()), refused)
        merges = [pair for pair in merges if pair[0] + pair[1] in kept]


def _greedy(
    words: Sequence[tuple[list[str], Piece]],
    limits: Limits,
    free: Callable[[str], bool],
    refused: Refused,
    progress: Progress,
) -> list[Pair]:
    """Byte-pair encoding (Sennrich et al. 2016) with counts kept up to date; ends where a merge saves too little."""
    counts: Counter[Pair] = Counter()
    places: dict[Pair, set[int]] = defaultdict(set)
    for number, (tokens, piece) in enumerate(words):
        for pair in pairwise(tokens):
            counts[pair] += piece.count
            places[pair].add(number)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    done: set[Pair] = set()
    made: set[str] = set()
    least = max(limits.frequency, limits.saving, 1)
    most = SPARE * limits.tokens + SPARE_LEAST
    while heap and len(made) < most:
        count, pair = heapq.heappop(heap)
        if pair in done:
            continue
        if counts[pair] < -count:  # it has become rarer since
            heapq.heappush(heap, (-counts[pair], pair))
            continue
        if -count < least:
            break
        done.add(pair)
        token = pair[0] + pair[1]
        if not may_become_term(token, limits.words):
            refused.add(NOT_LETTERS, token)
            continue
        if not free(token):
            continue
        changes: Counter[Pair] = Counter()
        for number in places.pop(pair):
            tokens, piece = words[number]
            for other, change in _join(tokens, pair, token):
                changes[other] += change * piece.count
                if change > 0:
                    places[other].add(number)
        for other, change in changes.items():
            counts[other] += change
            if change > 0:
                heapq.heappush(heap, (-counts[other], other))
        merges.append(pair)
        made.add(token)
        progress("learning merges", min(len(made), limits.tokens), limits.tokens)
    return merges


def _join(tokens: list[str], pair: Pair, token: str) -> Iterator[tuple[Pair, int]]:
    """Merge a pair in a piece, from the left, and tell which pairs beside it come (+1) and go (−1)."""
    left, right = pair
    place = -1
    while left in tokens[place + 1 : -1]:
        place = tokens.index(left, place + 1)
        if tokens[place + 1] != right:
            continue
        tokens[place : place + 2] = [token]
        if place:
            yield (tokens[place - 1], left), -1
            yield (tokens[place - 1], token), 1
        if place + 1 < len(tokens):
            yield (right, tokens[place + 1]), -1
            yield (token, tokens[place + 1]), 1


def applied(pieces: Iterable[Piece], merges: Sequence[Pair]) -> dict[str, Term]:
    """What each term does when the merges are applied as the tokenizer will: the lowest rank first, from the left.

    Merges that are never applied have no term.
    """
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
    never = len(merges)
    saved: Counter[Pair] = Counter()
    stays: Counter[str] = Counter()
    documents: dict[str, set[int]] = defaultdict(set)
    commonest: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for piece in pieces:
        happened: set[str] = set()
        for start in range(0, len(piece.tokens), LONGEST):
            tokens = list(piece.tokens[start : start + LONGEST])
            # The rank of each token with the next; kept beside the tokens, as looking all pairs up after each merge
            # would be most of the time for Chinese, whose pieces are whole clauses.
            beside = [ranks.get(pair, never) for pair in pairwise(tokens)]
            while beside and (rank := min(beside)) < never:
                place = beside.index(rank)
                saved[merges[rank]] += piece.count
                tokens[place : place + 2] = [tokens[place] + tokens[place + 1]]
                happened.add(tokens[place])
                del beside[place]
                for near in (place - 1, place):
                    if 0 <= near < len(beside):
                        beside[near] = ranks.get((tokens[near], tokens[near + 1]), never)
            if happened:
                stays.update({token: piece.count * times for token, times in Counter(tokens).items()})
        for token in happened:
            documents[token].update(piece.documents)
            heap = commonest[token]
            (heapq.heappush if len(heap) < EXAMPLES else heapq.heappushpop)(heap, (piece.count, "".join(piece.tokens)))
    terms: dict[str, Term] = {}
    for pair in merges:
        if saved[pair]:
            token = pair[0] + pair[1]
            term = terms.setdefault(token, Term(token, stays=stays[token], documents=len(documents[token])))
            term.pieces = tuple(piece for _, piece in sorted(commonest[token], reverse=True))
            term.merges.append(pair)
            term.saved += saved[pair]
    return terms


def _pruned(terms: dict[str, Term], limits: Limits, refused: Refused) -> set[str]:
    """The tokens to keep."""
    users: Counter[str] = Counter(part for term in terms.values() for pair in term.merges for part in pair)
    order = {token: number for number, token in enumerate(terms)}

    def leaf(token: str) -> tuple[bool, int, int, str]:
        """What goes first is smallest: what breaks a limit, then what saves least, then what was learned last."""
        term = terms[token]
        return _fault(term, limits) is None, term.saved, -order[token], token

    leaves = [leaf(token) for token in terms if not users[token]]
    heapq.heapify(leaves)
    kept = set(terms)
    while leaves:
        good, _, _, token = leaves[0]
        if good and len(kept) <= limits.tokens:
            break
        heapq.heappop(leaves)
        kept.discard(token)
        refused.add(_fault(terms[token], limits) or OVER, token)
        for part in {part for pair in terms[token].merges for part in pair}:
            users[part] -= sum(pair.count(part) for pair in terms[token].merges)
            if part in kept and not users[part]:
                heapq.heappush(leaves, leaf(part))
    return kept


def _fault(term: Term, limits: Limits) -> str | None:
    if not is_term(term.token, limits.words):
        return BROKEN
    if term.saved < limits.frequency:
        return RARE
    if term.documents < limits.documents:
        return FEW_DOCUMENTS
    return LITTLE if term.saved < limits.saving else None
