"""Vectors are sentence-transformers' own, whatever the batch, the precision, the language or the thread."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from retrieval.embedding.embedder import Embedder, EmbedderFingerprint
from retrieval.embedding.probes import MIN_COSINE, PROBES, least_cosine, probe_vectors
from retrieval.errors import UsageError

VARIED = [
    "",
    " ",
    "\n\t",
    ".",
    "moon",
    "Spring tides come at full moon and at new moon.",
    "潮汐主要由月亮的引力引起，太阳的作用约为月亮的一半。",
    "😀🏳️‍🌈👩‍👩‍👧 emoji, combining e\u0301, zero\u200bwidth, \ufeffbom",
    "Ünïcödé ﬁ ligature ½ ² İstanbul ß Ω",
    "def f(x):\n    return [y for y in x if y]  # 注释",
    "\x00control\x07characters\x1b[0m",
    "عربى و עברית",
    "word" * 60,
    "no_spaces_" * 20,
    "The tide rises, the tide falls. " * 30,
    "混合 mixed 文本 text " * 25,
]


def test_vectors_are_those_of_sentence_transformers(exact: Embedder, reference: Any) -> None:
    assert max(exact.count(VARIED)) <= exact.max_tokens
    expected = reference.encode(VARIED, normalize_embeddings=True, show_progress_bar=False)
    assert least_cosine(exact.embed_passages(VARIED), expected) > 0.99999
    assert least_cosine(exact.embed_queries(VARIED), expected) > 0.99999
    np.testing.assert_allclose(np.linalg.norm(exact.embed_passages(VARIED), axis=1), 1.0, atol=1e-6)


def test_bf16_stays_near_fp32(exact: Embedder, half: Embedder) -> None:
    assert least_cosine(exact.embed_passages(VARIED), half.embed_passages(VARIED)) > 0.999
    assert least_cosine(probe_vectors(exact), probe_vectors(half)) > MIN_COSINE["bf16"]


def test_count_is_what_the_model_reads(exact: Embedder, reference: Any) -> None:
    real = [len(reference.tokenizer(text)["input_ids"]) for text in VARIED]
    assert exact.count(VARIED) == real
    assert exact.count(["tide " * 5000]) == [5002], "the tokenizer's own truncation must be off"
    for text in VARIED:
        assert len(exact.offsets(text)) == exact.count([text])[0] - 2


def test_offsets_are_those_of_the_text(exact: Embedder) -> None:
    text = "Tides: 潮汐 😀 are caused"
    pieces = [text[start:end] for start, end in exact.offsets(text)]
    assert "".join(pieces) == "".join(text.split())
    assert {"潮", "汐", "😀", "caused"} <= set(pieces)
    assert exact.offsets("").shape == (0, 2)


def test_lone_surrogates_count_as_one_unknown_character(exact: Embedder) -> None:
    text = "tides \ud83d moon"
    assert exact.offsets(text).max() == len(text)
    assert np.isfinite(exact.embed_queries([text])).all()


def test_nothing_is_cut_off_silently(exact: Embedder) -> None:
    longest = "tide " * (exact.max_tokens - 2)
    assert exact.count([longest]) == [exact.max_tokens]
    assert exact.embed_passages([longest]).shape == (1, exact.dimension)
    with pytest.raises(UsageError, match=f"{exact.max_tokens + 1} tokens .* reads {exact.max_tokens}"):
        exact.embed_passages(["short", longest + "tide"])


def test_a_long_query_is_read_to_its_end(exact: Embedder) -> None:
    filler = "bread needs flour and water " * 100
    about_tides, about_engines = exact.embed_queries([filler + "tides moon " * 200, filler + "diesel engine " * 200])
    tides, engines = exact.embed_queries(["tides moon", "diesel engine"])
    assert about_tides @ tides > about_engines @ tides + 0.1
    assert about_engines @ engines > about_tides @ engines + 0.1


def test_windows_of_a_long_query_are_averaged_by_length(exact: Embedder) -> None:
    room = exact.max_tokens - 2
    first, rest = "tide " * room, "bread " * 10
    whole, a, b = exact.embed_queries([first + rest, first, rest])
    mean = exact.max_tokens * a + 12 * b
    assert whole @ (mean / np.linalg.norm(mean)) > 0.99999
    awkward = ["潮" * 1000, "x" * 5000, "unsplittable" * 300, "😀" * 700, " " * 3000]
    assert exact.embed_queries(awkward).shape == (5, exact.dimension)


@pytest.mark.parametrize(("which", "tolerance"), [("exact", 1e-5), ("half", 1e-3)])
def test_a_vector_does_not_depend_on_its_batch(which: str, tolerance: float, request: pytest.FixtureRequest) -> None:
    embedder: Embedder = request.getfixturevalue(which)
    rng = np.random.default_rng(1)
    others = [" ".join(rng.choice(["tide", "moon", "潮汐", "flour"], size)) for size in rng.integers(1, 120, 60)]
    alone = np.concatenate([embedder.embed_passages([text]) for text in VARIED])
    together = embedder.embed_passages([*others[:30], *VARIED, *others[30:]])[30 : 30 + len(VARIED)]
    assert 1 - least_cosine(alone, together) < tolerance
    if which == "exact":
        np.testing.assert_allclose(alone, together, atol=tolerance)


def test_rows_keep_their_order_and_equal_texts_are_embedded_once(exact: Embedder) -> None:
    texts = ["bread", "a much longer passage about the tides of the sea", "bread", "moon"] * 3
    seen: list[tuple[int, int]] = []
    vectors = exact.embed_passages(texts, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert np.array_equal(vectors[0], vectors[2]) and np.array_equal(vectors[:4], vectors[4:8])
    singles = np.concatenate([exact.embed_passages([text]) for text in texts[:4]])
    assert least_cosine(vectors[:4], singles) > 0.99999


def test_an_empty_list_gives_no_rows(exact: Embedder) -> None:
    assert exact.embed_passages([]).shape == (0, exact.dimension) == exact.embed_queries([]).shape
    assert exact.count([]) == []


def test_one_text_instead_of_a_list_is_refused(exact: Embedder) -> None:
    with pytest.raises(UsageError, match="list"):
        exact.embed_queries("tides")


def test_many_threads_at_once_get_the_same_vectors(exact: Embedder) -> None:
    alone = exact.embed_queries(PROBES)
    barrier = threading.Barrier(8)

    def embed(number: int) -> np.ndarray:
        barrier.wait(timeout=60)
        return np.concatenate([exact.embed_queries([PROBES[(number + i) % len(PROBES)]]) for i in range(len(PROBES))])

    with ThreadPoolExecutor(8) as pool:
        for number, vectors in enumerate(pool.map(embed, range(8))):
            assert least_cosine(np.roll(alone, -number, axis=0), vectors) > 0.99999


def test_a_fingerprint_survives_json(exact: Embedder) -> None:
    assert EmbedderFingerprint.from_json(exact.fingerprint.to_json()) == exact.fingerprint
    assert (
        (exact.fingerprint.dimension, exact.fingerprint.max_tokens) == (exact.dimension, exact.max_tokens) == (384, 256)
    )
    with pytest.raises(ValueError, match="fingerprint"):
        EmbedderFingerprint.from_json({**exact.fingerprint.to_json(), "precision": "fp8"})
    with pytest.raises(ValueError, match="weights"):
        EmbedderFingerprint.from_json({k: v for k, v in exact.fingerprint.to_json().items() if k != "weights"})
