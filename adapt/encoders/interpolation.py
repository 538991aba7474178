"""A tuned model and held-out pairs → how much of what it learnt to keep, so that nothing is lost on other texts.

Weights between the stock model's and the tuned one's (WiSE-FT: Wortsman et al. 2022, arXiv:2109.01903); of LoRA that is
a factor on its update. The figure is the reciprocal rank of a query's own passage among all of the pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adapt.queries.pair_file import QueryPair
from eval.figures.statistics import Paired, paired

if TYPE_CHECKING:
    from adapt.encoders.embedder_training import Progress, TunedModel


@dataclass(frozen=True, slots=True)
class Trial:
    """Reciprocal ranks, by pair, of the collection's held-out pairs and of general ones, with a share of the update; 0
    is the stock model."""

    share: float
    own: np.ndarray
    general: np.ndarray


def reciprocal_ranks(tuned: "TunedModel", pairs: Sequence[QueryPair], others: Sequence[QueryPair] = ()) -> np.ndarray:
    """(pairs,) float64: 1 / rank of each query's passage in the pool of all passages of the pairs, their negatives, and
    the passages of `others`.

    Other passages of its document do not count against it; equals do, half.
    """
    texts = [text for pair in pairs for text in (pair.positive, *pair.negatives)]
    texts = list(dict.fromkeys([*texts, *(pair.positive for pair in others)]))
    place = {text: number for number, text in enumerate(texts)}
    documents = {pair.positive: pair.document for pair in (*others, *pairs)}
    passages = tuned.vectors(texts, tuned.passage_prefix).numpy()
    queries = tuned.vectors([pair.query for pair in pairs], tuned.query_prefix).numpy()
    scores = queries @ passages.T
    ranks = np.empty(len(pairs))
    for number, pair in enumerate(pairs):
        own = scores[number, place[pair.positive]]
        against = np.array([documents.get(text) != pair.document for text in texts])
        against[place[pair.positive]] = False
        row = scores[number][against]
        ranks[number] = 1.0 + (row > own).sum() + 0.5 * (row == own).sum()
    return 1.0 / ranks


def trials(
    tuned: "TunedModel",
    own: Sequence[QueryPair],
    general: Sequence[QueryPair],
    shares: Sequence[float],
    progress: "Progress",
    *,
    others: Sequence[QueryPair] = (),
) -> list[Trial]:
    """The stock model's figures first, then those of each share. The passages of `others` are in the pool of `own`."""
    found = []
    for number, share in enumerate((0.0, *shares)):
        progress("measuring held-out pairs", number, len(shares) + 1)
        tuned.set_share(share)
        found.append(Trial(share, reciprocal_ranks(tuned, own, others), reciprocal_ranks(tuned, general)))
    tuned.set_share(1.0)
    return found


def alike(tuned: "TunedModel", pairs: Sequence[QueryPair], others: Sequence[QueryPair], each: int) -> list[QueryPair]:
    """Those of `others` whose queries are nearest to the pairs' own by the stock model, `each` of every pair: among
    passages of quite other things any model finds the right one."""
    tuned.set_share(0.0)
    known = tuned.vectors([pair.query for pair in others], tuned.query_prefix).numpy()
    asked = tuned.vectors([pair.query for pair in pairs], tuned.query_prefix).numpy()
    nearest = np.argsort(-(asked @ known.T), axis=1)[:, :each]
    return [others[place] for place in dict.fromkeys(nearest.reshape(-1).tolist())]


def gain_of(trial: Trial, stock: Trial, documents: Sequence[str] | None = None, *, seed: int = 0) -> Paired:
    """What a trial gains over the stock model on the collection's own pairs; pairs of one of the `documents` (of each
    pair; None: each its own) are drawn together, since they are alike."""
    sides = [{"": {str(n): float(value) for n, value in enumerate(one.own)}} for one in (stock, trial)]
    clusters = None if documents is None else {str(n): document for n, document in enumerate(documents)}
    return paired(sides[0], sides[1], clusters=clusters, seed=seed)[""]


def chosen(
    found: Sequence[Trial], general_loss: float, documents: Sequence[str] | None = None, *, seed: int = 0
) -> Trial:
    """The trial with the best mean on the collection's own pairs, of those that lose no more than `general_loss` on
    general ones; the stock model's where none is surely better (the 95 % interval of the best one's gain holds 0).
    Of equals the one nearest to it. That the best was looked for on the same pairs makes its gain look a little larger
    than it is: what is shipped is measured on another set."""
    stock = found[0]
    sound = [trial for trial in found if trial.general.mean() >= stock.general.mean() - general_loss]
    best = max(sorted(sound, key=lambda trial: trial.share), key=lambda trial: float(trial.own.mean()))
    low = gain_of(best, stock, documents, seed=seed).difference.low
    return best if low is not None and low > 0 else stock
