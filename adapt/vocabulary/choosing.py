"""Tokenised documents → rows around new tokens, so that few tokens of training show each of them often enough.

A new token is one in a hundred tokens of its domain; windows around them hold three times as many. It knows no model.
"""

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

POWER = 0.5
"""Of a token's frequency that its share of the windows goes by: 1 shows the rarest of 250 hardly ever, 0 shows all
alike and teaches the model that they are equally likely."""


def around(
    documents: Sequence[np.ndarray], first: int, *, block: int, tokens: int, seed: int, power: float = POWER
) -> list[np.ndarray]:
    """Rows of at most `block` ids, about so many tokens in all, each around a token from `first` on; no place is the
    middle of two rows. Fewer where the documents hold fewer places."""
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, ids in enumerate(documents):
        for place in np.flatnonzero(np.asarray(ids) >= first).tolist():
            places[int(ids[place])].append((number, place))
    draw = random.Random(seed)
    names = sorted(places)
    for name in names:
        draw.shuffle(places[name])
    weights = {name: len(places[name]) ** power for name in names}
    rows: list[np.ndarray] = []
    taken = 0
    while taken < tokens and names:
        name = draw.choices(names, [weights[name] for name in names])[0]
        number, place = places[name].pop()
        if not places[name]:
            names.remove(name)
        ids = documents[number]
        start = max(0, min(place - draw.randrange(block // 4, max(block // 4 + 1, block * 3 // 4)), len(ids) - block))
        rows.append(np.asarray(ids[start : start + block], dtype=np.int64))
        taken += len(rows[-1])
    return rows
