"""data/reading: every answer has its sentence where the spans say, and near misses have none."""

from collections import Counter
from pathlib import Path

from eval.data.corpora import as_document
from eval.data.questions import read_questions

READING = Path(__file__).parents[1] / "data" / "reading"


def test_every_answer_has_evidence_in_its_own_document_and_every_document_near_misses() -> None:
    found = read_questions(READING)
    texts = {document.id: as_document(document).text for document in found.documents}
    misses = Counter(question.source for question in found.questions if not question.answerable)
    assert len({document.title for document in found.documents}) == len(texts) > 100
    for question in found.questions:
        if question.answerable:
            (span,) = question.spans
            evidence = texts[span.document][span.start : span.end]
            assert evidence == evidence.strip() and len(evidence) > 3, question.id
            assert 0 < len(question.answers[0]) <= 160, question.id
    assert set(misses) == set(texts) and max(misses.values()) <= 3


def test_nothing_in_it_is_what_the_handbook_is_asked_about() -> None:
    text = (READING / "corpus.jsonl").read_text(encoding="utf-8").lower()
    for word in ("lora ", "fine-tun", "language model", "embedding model", "pretrain", "rerank", "bm25"):
        assert word not in text, word
