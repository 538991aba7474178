"""Metrics of answer texts against hand-computed cases of the official SQuAD and CMRC 2018 scripts."""

from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.figures.answer_metrics import (
    cleaned,
    cmrc_normalised,
    cmrc_segments,
    common_subsequence,
    contains,
    exact_match,
    longest_common_run,
    rouge_l,
    squad_normalised,
    token_f1,
)
from eval.figures.stated_answers import number_of, numeric_match, stated_choice, stated_numbers

# --- SQuAD ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The  Denver Broncos!", "denver broncos"),
        ("1,000", "1000"),
        ("e.g. a cat", "eg cat"),
        ("the-end", "theend"),  # punctuation goes before articles do
        ("an\tA the", ""),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation is known
        ("U.S.A.", "usa"),
        ("theatre", "theatre"),
    ],
)
def test_squads_normalisation_with_its_quirks(text: str, normalised: str) -> None:
    assert squad_normalised(text) == normalised


def test_squads_exact_match_takes_the_best_gold() -> None:
    assert exact_match("the Denver Broncos.", ["Panthers", "Denver Broncos"]) == 1
    assert exact_match("Denver", ["Denver Broncos"]) == 0


def test_squads_f1_is_the_bag_of_words_of_the_best_gold() -> None:
    # cat sat / cat sat down: 2 shared, precision 1, recall 2/3
    assert token_f1("The cat sat.", ["a cat sat down", "dog"]) == pytest.approx(0.8)
    # a word counts as often as both have it: "go go" and "go" share one
    assert token_f1("go go", ["go"]) == pytest.approx(2 / 3)
    assert token_f1("sat cat", ["cat sat"]) == 1  # order does not count
    assert token_f1("dog", ["cat"]) == 0


def test_no_answer_is_right_only_where_there_is_none() -> None:
    assert exact_match("", []) == token_f1("", []) == 1
    assert exact_match("something", []) == token_f1("something", []) == 0
    assert exact_match("", ["gold"]) == token_f1("", ["gold"]) == 0
    # As SQuAD 2.0: a gold that normalises to nothing is no gold, and an answer that does is no answer.
    assert token_f1("the", []) == 1
    assert token_f1("", ["the", "!"]) == 1
    assert token_f1("cat", ["the", "cat"]) == 1


# --- CMRC -------------------------------------------------------------------------------------------------------------


def test_cmrc_cuts_chinese_by_the_character_and_the_rest_into_words() -> None:
    assert cmrc_segments("黑豹队丢了 308分。") == ["黑", "豹", "队", "丢", "了", "308", "分"]
    assert cmrc_segments("在NFL's 比赛") == ["在", "nfl", "'s", "比", "赛"]
    assert cmrc_segments("《红楼梦》——曹雪芹") == [*"红楼梦——曹雪芹"]  # its list lacks the dash
    assert cmrc_segments("1-2") == ["12"]  # a hyphen is taken out, what it joined stays together
    assert cmrc_normalised(" 136 次。") == "136 次"


def test_cmrcs_f1_counts_the_longest_common_run_not_a_subsequence() -> None:
    # 中国 北方 / 中国 的 北方: longest run 2 of 4 and 5 characters
    assert token_f1("中国北方", ["中国的北方"], "zh") == pytest.approx(2 * 2 / 9)
    assert token_f1("长城位于中国北方。", ["中国北方"], "zh") == pytest.approx(2 * 4 / 12)
    assert token_f1("绿茶", ["红豆", "绿茶"], "zh") == 1
    assert token_f1("绿茶", ["红豆"], "zh") == 0


def test_cmrcs_exact_match_ignores_punctuation_but_not_spaces() -> None:
    assert exact_match("《红楼梦》。", ["红楼梦"], "zh") == 1
    assert exact_match("136次", ["136 次"], "zh") == 0
    assert exact_match("", [], "zh") == token_f1("", [], "zh") == 1
    assert exact_match("有", [], "zh") == token_f1("有", [], "zh") == 0


@given(st.text("ab", max_size=9), st.text("ab", max_size=9))
def test_a_common_run_is_the_longest_text_that_both_hold(one: str, two: str) -> None:
    pieces = [one[i:j] for i in range(len(one) + 1) for j in range(i, len(one) + 1)]
    assert longest_common_run(one, two) == max(len(piece) for piece in pieces if piece in two)


# --- ROUGE ------------------------------------------------------------------------------------------------------------


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_the_common_subsequence_is_the_textbooks(one: str, two: str) -> None:
    @lru_cache(None)
    def longest(i: int, j: int) -> int:
        if i == len(one) or j == len(two):
            return 0
        if one[i] == two[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    assert common_subsequence(one, two) == longest(0, 0)


def test_rouge_l_of_lins_example() -> None:
    # Lin 2004, section 3.1: police killed the gunman / police kill the gunman / the gunman kill police
    reference = ["police killed the gunman"]
    assert rouge_l("police kill the gunman", reference) == pytest.approx(0.75)
    assert rouge_l("the gunman kill police", reference) == pytest.approx(0.5)


def test_rouge_l_of_equal_chinese_texts_is_one() -> None:
    assert rouge_l("绿茶不经过发酵。", ["绿茶不经过发酵"]) == 1
    assert rouge_l("绿茶不发酵", ["绿茶不经过发酵"]) == pytest.approx(2 * 5 / 12)
    assert rouge_l("", ["绿茶"]) == 0


def test_ten_thousand_words_are_compared_without_a_table() -> None:
    words = " ".join(f"w{n % 997}" for n in range(10_000))
    assert rouge_l(words, [words]) == 1


# --- containment ------------------------------------------------------------------------------------------------------


def test_a_gold_is_contained_at_word_boundaries_only() -> None:
    assert contains("They won 24–10 in 2016.", "2016")
    assert not contains("They scored 80 points.", "8")
    assert not contains("a theory", "the or")
    assert contains("他获得了 136 次擒杀。", "136 次", "zh")
    assert not contains("共1308分", "308", "zh")
    assert not contains("anything", "the")


def test_citation_marks_are_no_part_of_an_answer() -> None:
    assert cleaned("It is 308 [1].\n\nSo [2, 3]!") == "It is 308. So!"
    assert exact_match(cleaned("308 [1]."), ["308"]) == 1
    assert exact_match(cleaned("三百零八【1】。"), ["三百零八"], "zh") == 1


# --- choices ----------------------------------------------------------------------------------------------------------

YES_NO = ("yes", "no", "maybe")


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("Yes, it does [1].", "yes"),
        ("no", "no"),
        ("No. The study found none.", "no"),
        ("The answer is yes.", "yes"),
        ("Answer: Maybe", "maybe"),
        ("是的，有效。", "yes"),
        ("不是。", "no"),
        ("答案是：不确定。", "maybe"),
        ("答案：否", "no"),
        ("No evidence was found that it helps.", None),  # this may mean either
        ("Yes and no.", None),
        ("Telephone counselling is more effective.", None),
        ("Yesterday it rained.", None),
        ("A disease of uncertain etiology was studied (no. 1).", None),
        ("In short, the trial says no.", "no"),
        ("是否有效尚不清楚。", None),
        ("", None),
    ],
)
def test_the_first_clear_verdict_counts(answer: str, choice: str | None) -> None:
    assert stated_choice(answer, YES_NO) == choice


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("B", "London"),
        ("(b) London is.", "London"),
        ("The correct answer is C.", "Berlin"),
        ("It was signed in Paris [2].", "Paris"),
        ("答案是B。", "London"),
        ("选 A", "Paris"),
        ("Paris or London.", None),
        ("A city in France.", None),
    ],
)
def test_options_are_named_by_text_or_letter(answer: str, choice: str | None) -> None:
    assert stated_choice(answer, ("Paris", "London", "Berlin")) == choice


def test_chinese_options_and_verdicts() -> None:
    assert stated_choice("是。", ("是", "否")) == "是"
    assert stated_choice("不，没有依据。", ("是", "否")) == "否"
    assert stated_choice("B，长江", ("黄河", "长江")) == "长江"


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "scale", "percent"),
    [
        ("1,234.5", 1234.5, 1, False),
        ("−12.6", -12.6, 1, False),
        ("(12.6)", -12.6, 1, False),
        ("($1,234)", -1234, 1, False),
        ("-$5", -5, 1, False),
        ("$ 1.5 million", 1.5, 1e6, False),
        ("US$3bn", 3, 1e9, False),
        ("22.2 %", 22.2, 1, True),
        ("(0.5%)", -0.5, 1, True),
        ("1.2万", 1.2, 1e4, False),
        ("3亿元", 3, 1e8, False),
        ("百分之二十二点五", 22.5, 1, True),
        ("二〇一九年", 2019, 1, False),
        ("一百零五万", 1_050_000, 1, False),
        ("(2019)", 2019, 1, False),  # a year, not a loss
        ("twelve items", 12, 1, False),
    ],
)
def test_a_number_is_read_as_people_write_it(text: str, value: float, scale: float, percent: bool) -> None:
    (number,) = stated_numbers(text)
    assert (number.value, number.scale, number.percent) == (pytest.approx(value), scale, percent)


def test_ranges_versions_and_idioms_hold_no_other_numbers() -> None:
    assert [number.value for number in stated_numbers("2018-2019")] == [2018, 2019]
    assert stated_numbers("v2.0 and x86") == []
    assert stated_numbers("万一") == []
    assert number_of("$1,496.5") and number_of("(12.6)") and number_of("5 million")
    assert number_of("in 2019") is None and number_of("1 to 2") is None


@pytest.mark.parametrize(
    ("answer", "gold", "scale", "right"),
    [
        ("The change was -12.6 [1].", "-12.6", "million", True),
        ("$(12.6) million", "-12.6", "million", True),
        ("It fell by 12.6 million.", "-12.6", "million", True),
        ("减少了1260万。", "-12.6", "million", True),
        ("-12,600,000", "-12.6", "million", True),
        ("12.6", "-12.6", "million", False),
        ("-12.6 billion", "-12.6", "million", False),
        ("12.6%", "12.6", "million", False),
        ("22.2%", "22.22", "percent", True),
        ("0.2222", "22.22", "percent", True),
        ("22.4%", "22.22", "percent", False),
        ("1,496.5", "$1,496.5", "million", True),
        ("1,499", "$1,496.5", "million", False),
        ("four of them", "4", "", True),
        ("480", "480 kilowatts", "", True),
    ],
)
def test_a_number_fits_in_sign_scale_and_rounding(answer: str, gold: str, scale: str, right: bool) -> None:
    assert numeric_match(answer, [gold], scale=scale) is right


def test_a_list_of_numbers_states_none_of_them() -> None:
    assert numeric_match("Sales were 5,686, 6,092, 5,228, 1,221 and 1,280.", ["6,092"]) is False
    assert numeric_match("In 2019 and 2018: 5,686 and 6,092.", ["5,686", "6,092"], together=True) is True
    assert numeric_match("5,686", ["5,686", "6,092"], together=True) is False
    assert numeric_match("5,686", ["5,686", "6,092"]) is True
    assert numeric_match("5", ["no number"]) is None
