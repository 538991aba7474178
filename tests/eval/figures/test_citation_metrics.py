"""Citations against gold spans and against their documents, in cases counted by hand."""

from eval.data.gold import GoldSpan
from eval.figures.citation_metrics import gold_figures, overlaps, own_figures
from retrieval.errors import MissingError
from retrieval.passages import Answer, Citation, Passage, Support

TEXT = "Tides are caused by the moon. Spring tides come at full moon."
PASSAGE = Passage(1, 1, 0, 0, len(TEXT), None, (), TEXT, 12)


def cite(start: int, end: int, *, n: int = 1, document: str = "tides.txt", support: Support = "yes") -> Citation:
    return Citation(n, document, "Tides", None, start, end, TEXT[start:end], support, 1)


def text_of(uri: str) -> str:
    if uri != "tides.txt":
        raise MissingError(uri)
    return TEXT


def answer(text: str, *citations: Citation) -> Answer:
    return Answer(text, False, citations, ("q",), (), "scripted", {})


def test_an_overlap_is_at_least_one_character_of_the_same_document() -> None:
    span = GoldSpan("a", 10, 20)
    assert overlaps("a", 19, 30, span) and overlaps("a", 0, 11, span) and overlaps("a", 12, 13, span)
    assert not overlaps("a", 20, 30, span) and not overlaps("a", 0, 10, span) and not overlaps("b", 12, 13, span)


def test_precision_counts_citations_and_recall_what_was_to_be_found() -> None:
    evidence = [[GoldSpan("tides.txt", 0, 29), GoldSpan("other.txt", 5, 9)], [GoldSpan("tides.txt", 30, 61)]]
    found = gold_figures([cite(0, 29), cite(2, 9), cite(0, 5, document="bread.txt")], evidence)
    assert found["citation_precision"] == (2, 3)
    assert found["citation_recall"] == (1, 2)  # one of the alternatives is enough, the second thing is missed
    assert found["citation_F1"] == 2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2)
    nothing = gold_figures([], evidence)
    assert nothing == {"citation_precision": (0, 0), "citation_recall": (0, 2), "citation_F1": 0.0}


def test_a_quote_must_be_the_documents_own_stretch() -> None:
    good, moved, gone = cite(0, 29), cite(30, 61), cite(0, 29, document="gone.txt")
    moved = Citation(1, moved.document, "", None, 29, 60, moved.quote, "no", 1)
    found = own_figures(answer("It is so [1].", good, moved, gone), text_of, [PASSAGE])
    assert found["link_rate"] == (1, 3)
    assert found["citation_support"] == (2, 3)
    assert found["citations"] == 3


def test_sentences_are_counted_as_quoted_and_as_cited() -> None:
    text = "Tides are caused by the moon [1]. The sun helps a little with that."
    found = own_figures(answer(text, cite(0, 29)), text_of, [PASSAGE])
    assert found["quote_rate"] == (1, 2)
    assert found["uncited"] == (1, 2)
    quotes = "Tides are caused by the moon. [1]\n\nSpring tides come at full moon. [1]"
    found = own_figures(answer(quotes, cite(0, 29), cite(30, 61)), text_of, [PASSAGE])
    assert found["quote_rate"] == (2, 2) and found["uncited"] == (0, 2)


def test_chinese_sentences_count_as_well() -> None:
    text = "绿茶不经过发酵。水温应该在八十度左右。"
    passage = Passage(1, 1, 0, 0, len(text), None, (), text, 12)
    citation = Citation(1, "茶.txt", "茶", None, 0, 8, text[:8], "yes", 1)
    found = own_figures(answer("绿茶不经过发酵 [1]。水温应该很高很高才好。", citation), lambda _: text, [passage])
    assert found["quote_rate"] == (1, 2) and found["uncited"] == (1, 2) and found["link_rate"] == (1, 1)
