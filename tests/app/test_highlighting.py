"""What is marked in a passage is what the index's tokeniser matches, in English, code and Chinese."""

from app.highlighting import matches, window


def marked(query: str, text: str) -> list[str]:
    return [text[start:end] for start, end in matches(query, text)]


def test_stems_match() -> None:
    assert marked("fusing score", "Scores are fused; a score counts.") == ["Scores", "fused", "score"]


def test_common_words_are_not_marked_unless_alone() -> None:
    assert marked("what is the lock", "The lock is what the writer holds.") == ["lock"]
    assert marked("to be", "to be or not") == ["to", "be"]


def test_identifiers_match_by_their_parts() -> None:
    assert marked("index_factory", "call faiss.index_factory(d)") != []


def test_chinese_is_marked_by_pairs() -> None:
    assert marked("检索质量", "混合检索的质量更高") == ["检索", "质量"]
    assert marked("检索", "无关文字") == []


def test_nothing_wanted_nothing_marked() -> None:
    assert matches("???", "text") == []


def test_window_is_where_the_matches_are() -> None:
    text = "filler " * 200 + "the writer lock is held" + " filler" * 200
    start, end = window(text, matches("writer lock", text), 100)
    assert "writer lock" in text[start:end]
    assert end - start <= 100
    assert text[start:end].split()[0] in {"filler", "the"}


def test_window_of_a_short_or_unmatched_text() -> None:
    assert window("short", [], 100) == (0, 5)
    assert window("x" * 500, [], 100) == (0, 100)
    text = "字" * 300 + "检索" + "字" * 300
    start, end = window(text, matches("检索", text), 80)
    assert "检索" in text[start:end]
