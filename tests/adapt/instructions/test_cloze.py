"""Questions made by rules: what is asked for, that the answer stands where it is said to, and what is not asked."""

import random
import string

import pytest

from adapt.corpus.texts import TrainingText
from adapt.instructions.cloze import Cloze, Clozing, Counts, cloze_questions
from retrieval.errors import UsageError


def asked(*texts: str, every: int = 20, seed: int = 0) -> list[Cloze]:
    documents = [TrainingText(f"d{number}", text) for number, text in enumerate(texts)]
    return list(cloze_questions(documents, Clozing(every=every, seed=seed), Counts()))


@pytest.mark.parametrize(
    ("sentence", "answer", "word"),
    [
        ("The old harbour of the town was opened in 1876.", "1876", "what year"),
        ("The engineer later bought twelve cranes for the old harbour.", "twelve", "how many"),
        ("About a third, or 35.5% of the ships, were lost that winter.", "35.5%", "what percentage"),
        ("The repair of the harbour wall did cost $4.2 million in the end.", "$4.2 million", "how much money"),
        ("The harbour wall was in those years designed by Anna Lorne.", "Anna Lorne", "whom"),
        ("The new lighthouse was finally built at Port Lorne.", "Port Lorne", "what place"),
        ("The harbour was closed to ships because the wall had fallen.", "the wall had fallen", "why"),
        ("Lighthouse keepers of that time were called lamp trimmers.", "lamp trimmers", ""),
        ("The lighthouse was built on a high cliff of limestone.", "The lighthouse", "What was built"),
        ("该市于1976年建立了第一座码头，花费巨大。", "1976年", "哪一年"),
        ("根据统计，该市有35.5%的居民在码头上工作。", "35.5%", "百分之多少"),
        ("老船长在晚年写下了小说《灯塔看守人》，影响很大。", "灯塔看守人", "什么"),
    ],
)
def test_the_answer_becomes_a_question_word(sentence: str, answer: str, word: str) -> None:
    found = [one for seed in range(8) for one in asked(sentence, seed=seed)]
    there = [one for one in found if one.answer == answer]
    assert there, found
    assert any(word.lower() in one.question.lower() for one in there)
    assert all(answer not in one.question for one in there)
    assert all(one.question.endswith(("?", "？")) for one in there)


@pytest.mark.parametrize(
    ("sentence", "answer"),
    [
        ("He was born in the old harbour town in 1876.", "1876"),  # who?
        ("Opened in 1876.", "1876"),
        ("The efficiency of a Rankine cycle falls quickly when it cools down again.", "Rankine"),  # only describes
        ("他于1976年在这座城市的码头上工作了很久。", "1976年"),
    ],
)
def test_what_the_question_alone_would_not_tell_is_not_asked(sentence: str, answer: str) -> None:
    assert answer not in [one.answer for seed in range(8) for one in asked(sentence, seed=seed)]


def test_the_answer_is_found_where_the_span_says() -> None:
    text = "\n\n".join(
        f"The harbour of Port {name} was opened in {1800 + number}. It had {number} cranes built by Anna {name}."
        for number, name in enumerate(("Lorne", "Vale", "Ness", "Holm"), 3)
    )
    found = asked(text)
    assert len(found) >= 4
    for one in found:
        assert text[one.span.start : one.span.end] == one.answer


def test_a_document_gives_the_same_questions_whatever_else_is_read() -> None:
    first = "The harbour of Port Lorne was opened in 1876 by Anna Lorne. The engineer bought twelve cranes for it."
    other = "Another text of many words stands here since the year of 1900."
    alone = asked(first)
    assert alone and asked(first, other)[: len(alone)] == alone


def test_no_document_gives_more_than_it_may() -> None:
    text = " ".join(f"The harbour number {number} of the coast was opened in {1700 + number}." for number in range(60))
    counts = Counts()
    found = list(cloze_questions([TrainingText("d", text)], Clozing(every=10, most=7), counts))
    assert len(found) == counts.questions == 7 and sum(counts.by_kind.values()) == 7
    with pytest.raises(UsageError, match="must be 1 or more"):
        Clozing(every=0)


def test_strange_texts_are_survived() -> None:
    draw = random.Random(1)
    letters = string.ascii_letters + " .,;:?!'()[]{}<>|\\/0123456789\n\t%$§¶è中文年月日《》\u200b\U0001f600"
    for _ in range(300):
        text = "".join(draw.choice(letters) for _ in range(draw.randint(0, 600)))
        for one in asked(text):
            assert text[one.span.start : one.span.end] == one.answer
    asked("A" * 20_000 + " in 1900.", "Port " * 5_000, "The " + "of " * 5_000 + "Lorne.", "because " * 3_000)
