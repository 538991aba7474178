"""Pairs that a model wrote → gold spans, or the reason why not; English and Chinese."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fakes import HashingEmbedder

from adapt.corpus.sources import LeftOut
from adapt.instructions.writing import pair_checks as reasons
from adapt.instructions.writing.pair_checks import PairChecks, PairLimits, Rejected, Sound
from adapt.instructions.writing.pair_passages import passages_of
from adapt.instructions.writing.pair_prompts import Pair
from eval.data.corpora import CorpusDocument, as_document
from eval.data.datasets import RetrievalDataset
from eval.search.indexed import indexed
from retrieval.errors import UsageError
from retrieval.passages import Hit
from retrieval.supporting.checker import Odds

FERN = (
    "The royal fern Osmunda grows about two metres high in wet ground near Bremen. It was described by Linnaeus in "
    "1753 and costs $5 in most gardens. Collectors in 1910 paid far more, since draining had made the plant rare."
)
OAK = (
    "The pedunculate oak Quercus reaches forty metres after three centuries and drops acorns every autumn. Jays bury "
    "the acorns of Quercus all over the forest, forget many of them, and so plant the next generation of trees."
)
TEA = (
    "龙井绿茶产于浙江省杭州市西湖附近的山坡，不经过发酵。冲泡龙井时水温应该在八十度左右，浸泡两分钟即可饮用。"
    "明代以后，龙井成为宫廷贡茶，每年春天由专人送往北京。"
)
DOCUMENTS = (
    CorpusDocument("fern", "Osmunda", FERN), CorpusDocument("oak", "", OAK), CorpusDocument("tea", "龙井茶", TEA),
)  # fmt: skip


@pytest.fixture
def checks(tmp_path: Path) -> Iterator[PairChecks]:
    embedder = HashingEmbedder(512)
    dataset = RetrievalDataset("set", "questions", "", DOCUMENTS, {}, {})
    with indexed(dataset, embedder, tmp_path) as collection:
        yield PairChecks(collection, embedder, {one.id: one for one in DOCUMENTS}, PairLimits(top=1))


def passage(name: str) -> Hit:
    found = list(passages_of(DOCUMENTS, HashingEmbedder(), LeftOut(), lambda *_: None))
    return next(hit for hit in found if hit.source.uri == name)


@pytest.mark.parametrize(
    ("document", "question", "answer", "quoted"),
    [
        ("fern", "How high does the royal fern Osmunda grow in wet ground?", "two metres", "two metres"),
        ("fern", "What does the fern described by Linnaeus cost in most gardens?", "$5", "$5"),
        ("fern", "In which year was the royal fern described by Linnaeus?", "“1753”.", "1753"),
        ("oak", "Which birds bury the acorns of Quercus all over the forest?", "jays", "Jays"),
        ("oak", "Which Quercus parts do jays forget many of?", "acorns", "acorns"),
        ("tea", "冲泡龙井时水温应该在多少度左右？", "八十度", "八十度"),
        ("tea", "龙井绿茶产于什么地方附近的山坡？", "浙江省杭州市西湖", "浙江省杭州市西湖"),
    ],
)
def test_a_sound_pair_has_an_exact_span_and_the_rank_of_its_passage(
    checks: PairChecks, document: str, question: str, answer: str, quoted: str
) -> None:
    found = checks.look_at(Pair(question, answer), passage(document))
    assert isinstance(found, Sound), found
    text = as_document(next(one for one in DOCUMENTS if one.id == document)).text
    assert text[found.start : found.end] == found.answer == quoted and found.rank == 1


BAD = [
    ("fern", "The royal fern grows high in wet ground", "two metres", reasons.QUESTION_FORM),
    ("fern", "How high?", "two metres", reasons.QUESTION_FORM),
    ("fern", "How high is the royal fern <|im_start|> in gardens?", "two metres", reasons.QUESTION_FORM),
    ("fern", "How " + "very " * 40 + "high does it grow?", "two metres", reasons.QUESTION_FORM),
    ("fern", f"How high is the {'f' * 500} in wet ground?", "two metres", reasons.QUESTION_FORM),
    ("fern", "How high does the fern in the passage grow?", "two metres", reasons.POINTING),
    ("fern", "According to the text above, how high do ferns grow?", "two metres", reasons.POINTING),
    ("fern", "How high does it grow in gardens?", "two metres", reasons.POINTING),
    ("tea", "文中提到的水温应该是多少度？", "八十度", reasons.POINTING),
    ("tea", "冲泡这种茶叶时水温应该是多少度？", "八十度", reasons.POINTING),
    ("tea", "How hot should the water for green tea be?", "八十度", reasons.LANGUAGE),
    ("fern", "What grows in wet ground near Bremen?", "it", reasons.ANSWER_FORM),
    ("fern", "What grows in wet ground near Bremen?", FERN[:120], reasons.ANSWER_FORM),
    ("tea", "龙井绿茶有哪些特点和要求？", TEA[:40], reasons.ANSWER_FORM),
    ("fern", "Does the royal fern grow two metres high in wet ground?", "two metres", reasons.ANSWER_NAMED),
    ("fern", "In which year was the royal fern described?", "Linnaeus", reasons.ANSWER_KIND),
    ("fern", "By whom was the royal fern described?", "1753", reasons.ANSWER_KIND),
    ("tea", "冲泡龙井需要浸泡多少分钟？", "北京", reasons.ANSWER_KIND),
    ("fern", "How high does the royal fern Osmunda grow in wet ground?", "three metres", reasons.NOT_QUOTED),
    ("fern", "Which plant grows about two metres high in wet ground?", "Plantae", reasons.NOT_QUOTED),
    ("tea", "冲泡龙井时水温应该在多少度左右？", "九十度", reasons.NOT_QUOTED),
    ("fern", "The royal fern Osmunda grows about two metres high in wet ground near which?", "Bremen", reasons.COPIED),
    ("fern", "How high does the royal fern grow near Copenhagen in wet ground?", "two metres", reasons.INVENTED),
    ("fern", "How much did collectors of the royal fern pay in 1955?", "far more", reasons.INVENTED),
    ("fern", "How high does the royal fern Osmunda grow in wet ground?", "1910", reasons.UNSUPPORTED),
    ("oak", "What drops every autumn in wet ground near gardens, where royal fern grows high?", "acorns", reasons.LOST),
]


@pytest.mark.parametrize(("document", "question", "answer", "reason"), BAD)
def test_every_fault_has_its_reason(checks: PairChecks, document: str, question: str, answer: str, reason: str) -> None:
    found = checks.look_at(Pair(question, answer), passage(document))
    assert isinstance(found, Rejected) and found.reason == reason, found
    assert found.why


def test_a_question_is_asked_once(checks: PairChecks) -> None:
    first = checks.look_at(Pair("How high does the royal fern Osmunda grow?", "two metres"), passage("fern"))
    assert isinstance(first, Sound)
    # Until it is kept, nothing is in its way.
    assert isinstance(checks.look_at(Pair(first.question, "two metres"), passage("fern")), Sound)
    checks.remember(first)
    again = checks.look_at(Pair("How high does the royal fern, Osmunda, grow?", "two metres"), passage("fern"))
    assert isinstance(again, Rejected) and again.reason == reasons.DUPLICATE
    nearly = checks.look_at(Pair("How high does the fern Osmunda grow?", "two metres"), passage("fern"))
    assert isinstance(nearly, Rejected) and nearly.reason == reasons.NEAR
    other = checks.look_at(Pair("By whom was Osmunda described in 1753?", "Linnaeus"), passage("fern"))
    assert isinstance(other, Sound)


def test_more_questions_than_room_was_made_for_are_remembered(checks: PairChecks) -> None:
    for number in range(600):
        checks.remember(Sound(f"How many {number}?", str(number), "oak", number, number + 1, 1))
    found = checks.look_at(Pair("How high does the royal fern Osmunda grow?", "two metres"), passage("fern"))
    assert isinstance(found, Sound) and checks._vectors.shape == (1024, 512)


def test_an_answer_that_stands_in_the_title_alone_is_not_quoted(checks: PairChecks) -> None:
    found = checks.look_at(
        Pair("Which plant of wet ground grows two metres high near Bremen?", "Osmunda"), passage("fern")
    )
    assert isinstance(found, Sound) and found.start > len("Osmunda\n\n")


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="top is 0"):
        PairLimits(top=0)


def test_a_support_checker_has_the_last_word(checks: PairChecks) -> None:
    asked: list[tuple[str, str]] = []

    class Doubting:
        name = "doubting"
        described: dict[str, str] = {}  # noqa: RUF012

        def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Odds]:
            asked.extend(pairs)
            return [Odds(0.2, 0.7) if "1753" in claim else Odds(0.9) for claim, _ in pairs]

    checks.checker = Doubting()
    true = Pair("How high does the royal fern Osmunda grow in wet ground?", "two metres")
    assert isinstance(checks.look_at(true, passage("fern")), Sound)
    false = checks.look_at(Pair("In which year was the royal fern described by Linnaeus?", "1753"), passage("fern"))
    assert isinstance(false, Rejected) and false.reason == reasons.UNSUPPORTED and "by doubting" in false.why
    assert asked[0] == ("How high does the royal fern Osmunda grow in wet ground? two metres", f"Osmunda\n\n{FERN}")
