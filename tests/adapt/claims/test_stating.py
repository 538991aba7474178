"""A question and its answer become one claim, as somebody would say it."""

import pytest

from adapt.claims.stating import stated


@pytest.mark.parametrize(
    ("question", "answer", "claim"),
    [
        ("Who opened the harbour in 1876?", "Anna Lorne", "Anna Lorne opened the harbour in 1876."),
        ("Which town owns a harbour?", "Port Vale", "Port Vale owns a harbour."),
        ("What is the height of the wall?", "4 m", "The height of the wall is 4 m."),
        ("How high is the wall?", "4 m", "How high is the wall? 4 m"),
        ("What was the harbour called?", "Old Port", "What was the harbour called? Old Port"),
        ("What did Anna build?", "cranes", "What did Anna build? cranes"),
        ("谁打开了港口？", "安娜", "安娜打开了港口。"),
        ("港口位於什麼地方？", "河口", "港口位於河口。"),
        ("那里有多少人？", "300人", "那里有300人。"),
        ("為什麼港口關閉了？", "牆倒了", "為什麼港口關閉了？牆倒了"),
    ],
)
def test_question_and_answer_become_a_claim(question: str, answer: str, claim: str) -> None:
    assert stated(question, answer) == claim
