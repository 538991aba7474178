"""Cutting texts into documents."""

from hypothesis import given
from hypothesis import strategies as st

from adapt.corpus.cutting import LONGEST, articles, pieces, without_heading

WIKI = " \n = Lobster = \n \n It is blue .\n = = Life = = \n It swims .\n \n = M @-@ 82 = \n \n A road .\n"
LINES = st.lists(st.sampled_from(["", " ", "a word", " = T = ", " = = S = = ", "句子。又一句。", "x = y"]), max_size=60)


@given(st.text(alphabet="a.。 \n!", max_size=300), st.integers(5, 60))
def test_pieces_put_together_are_the_text_and_none_is_too_long(text: str, longest: int) -> None:
    found = pieces(text, longest)
    assert "".join(found) == text
    assert all(0 < len(piece) <= longest for piece in found)


def test_pieces_end_after_a_paragraph_before_a_line_before_a_sentence_before_a_word() -> None:
    assert pieces("aaaa aa. bb\ncc\n\ndddd eeee", 20)[0] == "aaaa aa. bb\ncc\n\n"
    assert pieces("aaaa aa. bb aaa\ncc dddd eeee", 20)[0] == "aaaa aa. bb aaa\n"
    assert pieces("他来了。她走了，大家都不知道为什么", 7)[0] == "他来了。"
    assert pieces("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]


def test_wikitext_becomes_its_articles_with_titles_and_sections_stay_inside() -> None:
    found = list(articles(WIKI.splitlines(keepends=True)))
    assert [title for title, _ in found] == ["Lobster", "M @-@ 82"]
    assert "= = Life = =" in found[0][1] and "A road" in found[1][1]


def test_one_heading_makes_no_articles() -> None:
    text = "\n = Only = \n\ntext\n"
    assert list(articles(text.splitlines(keepends=True))) == [("", text)]


def test_parts_between_two_blank_lines_are_documents_if_there_are_many_long_ones() -> None:
    lines = "\n\n\n".join(f"{number} " + "word " * 60 for number in range(25)).splitlines(keepends=True)
    assert [text.split()[0] for _, text in articles(lines)] == [str(number) for number in range(25)]
    few = "\n\n\n".join("short" for _ in range(25)).splitlines(keepends=True)
    assert len(list(articles(few))) == 1


@given(LINES)
def test_articles_lose_nothing_but_blank_text(lines: list[str]) -> None:
    text = "\n".join(lines)
    found = "".join(part for _, part in articles(text.splitlines(keepends=True)))
    assert found.split() == text.split()


def test_a_giant_line_becomes_parts_of_bounded_size() -> None:
    text = "一个没有换行的句子。" * 50_000
    found = [part for _, part in articles([text[:300_000], text[300_000:]])]
    assert "".join(found) == text and max(map(len, found)) <= LONGEST
    assert all(part.endswith("。") for part in found)


def test_a_title_is_taken_off_the_text_only_where_it_opens_it() -> None:
    assert without_heading("Lobster", " \n = Lobster = \n \n It is blue .") == "It is blue ."
    assert without_heading("Lobster", "# Lobster\n\nIt is blue.") == "It is blue."
    assert without_heading("Lobster", "The lobster is blue.\nLobster") == "The lobster is blue.\nLobster"
    assert without_heading("Lobster", "Lobster") == "Lobster"
