"""Sentences, support by words, and the quote mode."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from fakes import HashingEmbedder, five_documents
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import FathomError
from retrieval.passages import Document, Hit, Passage, Scores, Source
from retrieval.prompts import Language
from retrieval.quoting import best_coverage, best_quotes, quoted_answer
from retrieval.sentences import MAX_SENTENCE, sentence_spans
from retrieval.support import best_evidence, numbers


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


def hits_of(*texts: str, title: str = "") -> list[Hit]:
    """One passage per text; each stands 10 characters into its document."""
    return [
        Hit(
            i,
            1.0,
            Passage(i, i, 0, 10, 10 + len(t), None, (), t, 0),
            Source(i, f"{i}.txt", title, "txt", "", {}),
            Scores(),
        )
        for i, t in enumerate(texts, start=1)
    ]


def stored(hits: list[Hit]):
    """The stored documents; their second page begins with character 5."""
    return lambda n: Document(f"{n}.txt", "0123456789" + hits[n - 1].passage.text + " tail", page_starts=(0, 5))


def test_sentences_of_english_and_chinese() -> None:
    assert sentences("Dr. Smith paid 3.5 dollars. He left! Why? ") == [
        "Dr. Smith paid 3.5 dollars.",
        "He left!",
        "Why?",
    ]
    assert sentences("长城很长。它在北方！你去过吗？“去过。”他说。")[:3] == ["长城很长。", "它在北方！", "你去过吗？"]
    assert sentences("a wrapped\nline of text.\n\nNext one") == ["a wrapped\nline of text.", "Next one"]
    assert sentences("- one item\n- two items\n") == ["- one item", "- two items"]
    assert sentences(" \n--- \n") == []


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="aB1 .!?。，\n-|`#\t[“”", max_size=300))
def test_sentence_spans_are_ordered_trimmed_and_keep_every_letter(text: str) -> None:
    spans = sentence_spans(text)
    position = 0
    for start, end in spans:
        assert position <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
        assert end - start <= MAX_SENTENCE
        position = end
    kept = "".join(text[a:b] for a, b in spans)
    assert [c for c in kept if c.isalnum()] == [c for c in text if c.isalnum()]


@pytest.mark.parametrize("text", ["x" * 300_000, "a. " * 100_000, "。" * 100_000, "你" * 200_000, "|a|\n" * 60_000])
def test_sentences_in_linear_time(text: str) -> None:
    began = time.process_time()
    spans = sentence_spans(text)
    assert all(end - start <= MAX_SENTENCE for start, end in spans)
    assert time.process_time() - began < 10


def test_support_needs_the_words_the_numbers_and_no_negation_against_it() -> None:
    passage = "FAISS stores vectors in memory. The index of 100,000 passages takes 77 MB. It does not support SQL."
    assert best_evidence("FAISS stores its vectors in memory.", passage).verdict == "yes"
    found = best_evidence("An index with 100000 passages takes 77 MB", passage)
    assert passage[found.start : found.end] == "The index of 100,000 passages takes 77 MB."
    assert found.verdict == "yes"
    assert best_evidence("The index of 100,000 passages takes 78 MB.", passage).verdict == "no"
    assert best_evidence("It supports SQL.", passage).verdict == "partly"
    assert best_evidence("Bananas are yellow fruit.", passage).verdict == "no"
    assert best_evidence("长城修建于明朝。", "明朝修建了大部分城墙。长城位于北方。").verdict in ("yes", "partly")
    assert best_evidence("anything", "").verdict == "no"
    # Title and headings name the subject; alone they bear nothing out.
    assert best_evidence("LoRA freezes weights", "It freezes the weights.", context="LoRA").verdict == "yes"
    assert best_evidence("LoRA adapters", "Completely different words.", context="LoRA adapters").verdict == "no"
    assert numbers("1,234.5 and 3. or 10:30") == {"1234.5", "3", "10:30"}


def test_the_best_sentence_is_quoted_with_exact_offsets() -> None:
    documents = five_documents()
    hits = hits_of(*(document.text for document in documents))
    for question, n, sentence in (
        ("When do spring tides come?", 1, "Spring tides come at full moon."),
        ("How does a diesel engine ignite fuel?", 3, "A diesel engine ignites fuel by compression."),
        ("泡绿茶的水温应该是多少？", 4, "水温应该在八十度左右。"),
        ("哪个朝代修建了城墙？", 5, "明朝修建了大部分城墙。"),
    ):
        text, citations = quoted_answer(question, hits, document=stored(hits))
        first = citations[0]
        assert (first.n, first.quote, first.supported) == (n, sentence, "yes")
        assert stored(hits)(n).text[first.start : first.end] == sentence
        assert text.startswith(f"{sentence} [{n}]")
        assert {f"[{c.n}]" for c in citations} <= set(text.split())


def test_what_follows_a_question_or_heading_is_the_answer() -> None:
    hits = hits_of("What is the boiling point of water?\nAt sea level it is 100 degrees.\nOther words here are found.")
    assert best_quotes("What is the boiling point of water?", hits)[0].text == "At sea level it is 100 degrees."


def test_nothing_is_quoted_where_nothing_fits_or_the_source_changed() -> None:
    hits = hits_of("Bread needs flour and water to rise.")
    assert quoted_answer("Who won the election in Peru?", hits, document=stored(hits)) == ("", ())
    assert quoted_answer("What does bread need?", hits, document=lambda i: Document("x", "something else")) == ("", ())
    assert quoted_answer("What does bread need?", []) == ("", ())


def test_numbers_in_the_source_are_not_taken_for_citations_and_copies_are_quoted_once() -> None:
    sentence = "Transformers need attention [1] as shown in earlier work [2]."
    hits = hits_of("Unrelated opening words.", sentence, sentence)
    text, citations = quoted_answer("What do transformers need?", hits, document=stored(hits))
    assert text == "Transformers need attention (1) as shown in earlier work (2). [2]"
    assert [c.quote for c in citations] == [sentence]


def test_an_embedder_finds_what_words_do_not() -> None:
    class Synonyms(HashingEmbedder):
        """Knows that a car is an automobile."""

        def _vector(self, text: str):  # type: ignore[no-untyped-def]
            return super()._vector("car" if "automobile" in text or "car" in text else text)

    hits = hits_of("The automobile was parked. The weather was fine. Nobody came.")
    assert best_quotes("car", hits) == []
    assert best_quotes("car", hits, embedder=Synonyms())[0].text == "The automobile was parked."


def test_coverage_counts_telling_words() -> None:
    hits = hits_of("Tides are caused by the moon.", "Bread needs flour.")
    assert best_coverage("What are tides caused by?", hits) == 1.0
    assert best_coverage("Who won the election?", hits) == 0.0


def test_real_chinese_questions_are_quoted_exactly(shared_data) -> None:  # type: ignore[no-untyped-def]
    import json

    folder = shared_data("xquad_zh")
    rows = [json.loads(line) for line in (folder / "qa.jsonl").read_text(encoding="utf-8").splitlines()[:60]]
    texts = {}
    for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts[row["_id"]] = Document(row["_id"], row["text"])
    right = 0
    for row in rows:
        document = texts[row["context_id"]]
        hits = hits_of(document.text)
        quotes = best_quotes(row["question"], hits)
        assert all(document.text[q.start : q.end] == q.text for q in quotes)
        right += any(answer in q.text for q in quotes for answer in row["answers"])
    assert right >= 36  # 45 of 60 when written


def test_a_sentence_that_announces_something_is_quoted_with_what_follows() -> None:
    text = (
        "# Scales\n\nDouble quantisation stores the scales in blocks of 256:\n\n8/64 + 32/16384 = 0.127 bits\n\nMore."
    )
    hits = hits_of(text)
    quote = best_quotes("How does double quantisation store the scales?", hits)[0]
    assert quote.text == "Double quantisation stores the scales in blocks of 256:\n\n8/64 + 32/16384 = 0.127 bits"
    assert text[quote.start : quote.end] == quote.text


def test_a_heading_bears_nothing_out() -> None:
    assert (
        best_evidence("NF4 is the 4-bit data type.", "## NF4: the 4-bit data type\n\nIt has 16 levels.").verdict == "no"
    )
    assert best_evidence("NF4 is the 4-bit data type.", "Here NF4 is the 4-bit data type.").verdict == "yes"


def test_a_heading_is_never_quoted_but_what_follows_it_is() -> None:
    hits = hits_of("## NF4 data type\n\nIt has sixteen levels at the quantiles of a normal distribution.")
    quotes = best_quotes("What data type is NF4?", hits)
    assert [quote.text for quote in quotes] == ["It has sixteen levels at the quantiles of a normal distribution."]


# --- with an encoder that reads ---------------------------------------------------------------------------------------

PUMP = hits_of(
    "The capacitor is worn out and must be replaced. Paint is blue. The pump hums when the pump is new.", title="Pump"
)


PATIENT = 120.0
"""Seconds that no step of a test may take."""


class Reader:
    languages: frozenset[Language] = frozenset(("en",))

    def __init__(self, read: Callable[[str, Sequence[str]], list[float]]) -> None:
        self.read = read

    def __call__(self, question: str, sentences: Sequence[str]) -> list[float]:
        return self.read(question, sentences)

    def load(self) -> None: ...


def knows(question: str, given: Sequence[str]) -> list[float]:
    return [4.0 if "capacitor" in one else -4.0 for one in given]


def test_what_an_encoder_reads_goes_before_shared_words() -> None:
    asked = "Why does my pump hum?"
    assert best_quotes(asked, PUMP)[0].text == "The pump hums when the pump is new."
    seen: list[str] = []

    def reader(question: str, given: Sequence[str]) -> list[float]:
        seen.extend(given)
        return knows(question, given)

    assert [one.text for one in best_quotes(asked, PUMP, reader=Reader(reader), seconds=PATIENT)] == [
        "The capacitor is worn out and must be replaced."
    ]
    assert "Pump\nThe capacitor is worn out and must be replaced." in seen and len(seen) == 3
    under = [replace(hit, passage=replace(hit.passage, headings=("Pump", "Noise  at night"))) for hit in PUMP]
    best_quotes(asked, under, reader=Reader(reader), seconds=PATIENT)
    assert "Pump › Noise at night\nPaint is blue." in seen, "a heading names what its sentences speak of"
    text, citations = quoted_answer(asked, PUMP, document=stored(PUMP), reader=Reader(reader), seconds=PATIENT)
    assert text == "The capacitor is worn out and must be replaced. [1]" and citations[0].n == 1


@pytest.mark.parametrize("error", [FathomError("out of memory"), ImportError("out of memory")])
def test_an_encoder_that_fails_or_cannot_read_the_language_changes_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def dies(question: str, given: Sequence[str]) -> list[float]:
        raise error

    asked = "Why does my pump hum?"
    found = best_quotes(asked, PUMP, reader=Reader(dies), seconds=PATIENT)
    assert found == best_quotes(asked, PUMP) and "out of memory" in caplog.text
    tea = hits_of("绿茶不经过发酵。水温应该在八十度左右。")
    given_to: list[str] = []

    def noted(question: str, given: Sequence[str]) -> list[float]:
        given_to.append(question)
        return [0.0] * len(given)

    assert best_quotes("水温应该是多少？", tea, reader=Reader(noted)) == best_quotes("水温应该是多少？", tea)
    assert not given_to, "it reads English"


def test_an_encoder_that_is_slow_or_talks_nonsense_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    asked = "Why does my pump hum?"
    without = best_quotes(asked, PUMP)
    ready = threading.Event()

    def waits(question: str, given: Sequence[str]) -> list[float]:
        ready.wait(20)
        return knows(question, given)

    slow = Reader(waits)
    caplog.set_level("INFO", "retrieval.quoting")
    assert best_quotes(asked, PUMP, reader=slow, seconds=0.05) == without and "(too_slow)" in caplog.text
    assert best_quotes(asked, PUMP, reader=slow) == without and "(busy)" in caplog.text
    ready.set()
    for _ in range(200):
        if (found := best_quotes(asked, PUMP, reader=slow, seconds=PATIENT)) != without:
            break
        time.sleep(0.02)
    assert "capacitor" in found[0].text, "it is asked again when it has come to its end"
    for wrong in ([1.0], [float("nan")] * 3):
        assert best_quotes(asked, PUMP, reader=Reader(lambda *_, wrong=wrong: wrong)) == without
