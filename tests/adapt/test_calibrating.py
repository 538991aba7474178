"""A model's verdicts on judged passages → two numbers, and what they mend."""

import math
import random

import pytest
from scripted_judge import ScriptedJudge, hits_of
from scripted_llm import ScriptedLLM

from adapt.calibrating import calibrated
from adapt.instructions.example import Example, Message, Origin
from retrieval.errors import FathomError, UsageError
from retrieval.llm_reranking.judging import JUDGE_VERSION, judge_messages


def judged(count: int, version: str = JUDGE_VERSION) -> list[Example]:
    """Every third passage is relevant, and says so with a number from which the scripted model has its doubt."""
    draw = random.Random(1)
    examples = []
    for number in range(count):
        relevant = number % 3 == 0
        text = f"{draw.gauss(1.0 if relevant else -1.0, 1.0):.4f} metres, plant {number}"
        asked = [Message(one.role, one.text) for one in judge_messages("how high?", hits_of(text)[0])]
        examples.append(
            Example.of(
                [*asked, Message("assistant", "yes" if relevant else "no")], origin=Origin("judged", "", version)
            )
        )
    return examples


def judge(times: float) -> ScriptedJudge:
    """So sure is it of what it sees: `times` the number in the passage is its logit."""

    def weigh(text: str) -> float:
        return 1 / (1 + math.exp(-times * float(text.split("<passage>")[1].split()[0])))

    return ScriptedJudge(weigh=weigh, batches=[])


def test_a_model_that_is_too_sure_is_brought_down() -> None:
    llm, seen = judge(5.0), []
    found = calibrated(llm, judged(300), progress=lambda stage, done, total: seen.append((done, total)))
    # Two normal distributions a standard deviation off zero: the true logit is 2 x - ln 2, two fifths of what it says.
    assert found.platt.slope == pytest.approx(0.4, abs=0.1) and found.platt.offset == pytest.approx(-0.7, abs=0.3)
    assert found.loss_after < 0.5 < found.loss_before and found.auc == pytest.approx(0.92, abs=0.03)
    assert found.platt.pairs == 300 and seen[-1] == (300, 300) and sum(llm.batches) == 300


def test_what_cannot_be_calibrated_is_said() -> None:
    with pytest.raises(FathomError, match="no better"):
        calibrated(judge(-5.0), judged(120))
    with pytest.raises(UsageError, match="needs 20 of each"):
        calibrated(judge(1.0), judged(30))
    with pytest.raises(UsageError, match="judges no passage with the prompt judge-1"):
        calibrated(judge(1.0), judged(120, "judge-0"))
    with pytest.raises(UsageError, match="shows no probabilities"):
        calibrated(ScriptedLLM(say=str), judged(120))
