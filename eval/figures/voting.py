"""Answers of several models, or of one under several prompts → one answer by majority vote. It knows no model.

Prompt tuning is so small that several prompts on one frozen model make an ensemble for little more than its memory;
their vote was better than the best of them (Lester et al. 2021, arXiv:2104.08691, section 6).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retrieval.errors import UsageError

Record = Mapping[str, Any]


def vote(answers: Sequence[str], *, same: Callable[[str], str] = str) -> int:
    """The number of the answer that most others agree with; of equals the one that was given first.

    `same` turns an answer into what must agree, so that "The base model." counts with "the base model" (see
    `squad_normalised` in eval/figures/answer_metrics.py for short answers). Raises ValueError for no answer.
    """
    if not answers:
        raise ValueError("nobody voted")
    keys = [same(answer) for answer in answers]
    times = Counter(keys)
    best = max(times.values())
    return next(number for number, key in enumerate(keys) if times[key] == best)


def vote_on_choices(
    ballots: Sequence[Mapping[str, Record]], way: str = "choice_accuracy_norm"
) -> dict[str, dict[str, Any]]:
    """Records of the same multiple-choice questions by several models (eval/choices.py), by id → records of their vote.

    Each model votes for its likeliest option, by the metric `way`; of options with as many votes the one that all of
    them together find likeliest is taken. Raises UsageError where the models were asked other questions.
    """
    if not ballots:
        raise UsageError("there are no records to vote with")
    first = ballots[0]
    for other in ballots[1:]:
        if other.keys() != first.keys():
            raise UsageError("the models were asked different questions; measure them on the same file and limit")
    found = {}
    for name, record in first.items():
        options = list(record["options"])
        votes: Counter[str] = Counter()
        together = dict.fromkeys(options, 0.0)
        for ballot in ballots:
            if list(ballot[name]["options"]) != options:
                raise UsageError(f"the question {name!r} has other options in some of the records; measure again")
            votes[ballot[name]["predictions"][way]] += 1
            for option, score in zip(options, ballot[name]["scores"], strict=True):
                together[option] += score
        chosen = max(options, key=lambda option: (votes[option], together[option]))
        found[name] = {
            "id": name,
            "expected": record["expected"],
            "predicted": chosen,
            "votes": dict(votes),
            "metrics": {way: float(chosen == record["expected"])},
        }
    return found
