"""Numbers and names in an answer that stand in none of its passages."""

import pytest

from retrieval.flagging import flags, stated_values
from retrieval.passages import Hit, Passage, Scores, Source

PASSAGE = (
    "Replace the membrane after 4,000 hours or twice a year. The oil is of grade VG 220, 1.2 litres. On 1997-07-01 "
    "Marie Curie's Institute tested LoRA and the DP-40. "
    "转速不得超过每分钟四千转，由张三在北京大学规定。《操作规程》有三章。"
)


def found(answer: str, question: str = "") -> list[tuple[str, str]]:
    passage = Passage(1, 1, 0, 0, len(PASSAGE), None, ("Maintenance",), PASSAGE, 0)
    hit = Hit(1, 1.0, passage, Source(1, "pump.md", "Dosing Pump", "md", "", {}), Scores())
    marked = flags(answer, [hit], question)
    for flag in marked:
        assert answer[flag.start : flag.end] == flag.text
    return [(flag.text, flag.kind) for flag in marked]


@pytest.mark.parametrize(
    "answer",
    [
        "Replace the membrane after 4000 hours [7], 4 thousand in all, twice (2 times) a year.",
        "The Dosing Pump needs 1.20 litres of VG 220 [1].",
        "LoRA-based tests were run in 1997 by Marie Curie.",
        "1. Stop the pump.\n2. Replace it.",
        "转速不得超过每分钟4000转，见《操作规程》。",
        "张三在北京大学规定了转速。",
        "However, it does not say. Maintenance is due.",
        "",
    ],
)
def test_what_stands_in_the_passages_is_not_flagged_however_it_is_written(answer: str) -> None:
    assert found(answer) == []


@pytest.mark.parametrize(
    "answer, flagged",
    [
        ("It takes 5,000 hours [1].", [("5,000", "number")]),
        ("Oil of grade VG 320 at 80 %.", [("320", "number"), ("80", "number")]),
        ("It was Albert Einstein who said so.", [("Albert Einstein", "name")]),
        ("Albert Einstein said so.", [("Albert Einstein", "name")]),
        ("The DP-41 uses NF4 since 1998.", [("DP-41", "name"), ("NF4", "name"), ("1998", "number")]),
        ("It starts at 10:30.", [("10:30", "number")]),
        ("转速不得超过每分钟5000转，由李四在上海规定。", [("5000", "number"), ("李四", "name"), ("上海", "name")]),
        ("见《安全手册》。", [("安全手册", "name")]),
    ],
)
def test_what_stands_nowhere_is_flagged(answer: str, flagged: list[tuple[str, str]]) -> None:
    assert found(answer) == flagged


def test_what_the_question_says_is_no_claim_of_the_answer() -> None:
    assert found("Einstein is not mentioned with 77.", "Did Einstein use 77 pumps?") == []


def test_numbers_have_their_value_in_digits_and_words_of_both_languages() -> None:
    values = stated_values(
        "two hundred and fifty thousand; 3.5 million; twenty-one; 一百二十; 二〇二四年; 三万五千; 12万"
    )
    assert {250_000, 3_500_000, 21, 120, 2024, 35_000, 120_000} <= values
