"""Known-item questions come from second halves, are unique, and are sentences."""

from eval.data.corpora import CorpusDocument
from eval.search.second_half import MIN_CHARACTERS, second_half_questions


def long_document(name, late):
    words = " ".join(f"The early part of {name} speaks about matter number {n} at some length here." for n in range(80))
    shared = "This closing sentence is the same in every document of the collection, word for word."
    code = "for x in range(10): print(x, x ** 2, x // 3, x % 7, x << 2, x >> 1)."
    return CorpusDocument(name, "", f"{words}\n\n{code}\n\n{late}\n\n{shared}")


DOCUMENTS = [
    long_document("a", "Only document alpha mentions the purple heron that nests near the harbour every spring."),
    long_document("b", "Only document beta mentions the copper kettle that whistles in the abandoned kitchen."),
    CorpusDocument("short", "", "Too short to have a second half worth asking about."),
]


def test_questions_are_unique_sentences_of_second_halves():
    dataset = second_half_questions(DOCUMENTS, name="made")
    assert [document.id for document in dataset.documents] == ["a", "b"]
    for query, grades in dataset.qrels.items():
        (identifier,) = grades
        text = next(document.text for document in DOCUMENTS if document.id == identifier)
        position = text.find(dataset.queries[query])
        assert position >= len(text) // 2 - 200 and len(text) >= MIN_CHARACTERS
        assert "same in every document" not in dataset.queries[query]
        assert "range(10)" not in dataset.queries[query]


def test_seeded_and_limited():
    one = second_half_questions(DOCUMENTS, name="made", seed=4)
    assert one == second_half_questions(DOCUMENTS, name="made", seed=4)
    limited = second_half_questions(DOCUMENTS, name="made", limit=1)
    assert len(limited.documents) == len(limited.queries) == 1
