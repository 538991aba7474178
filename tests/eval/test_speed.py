"""The measuring tools themselves: percentiles, targets, tables, made-up vectors, exact recall. No clock is judged."""

import json

import numpy as np
import pytest

from eval.results_table import markdown, number, read_results
from eval.search.embedders import HashingEmbedder
from eval.speed.bank import Bank, cut, documents
from eval.speed.measuring import Figure, Measurement, percentile, write_result
from eval.speed.searching import recall_at_10
from eval.speed.shelves import as_document, shelf, uri_row
from retrieval.collection import Collection


@pytest.fixture
def bank():
    texts = [f"passage {number} about subject {number % 7} and colour {number % 5}" for number in range(60)]
    return Bank(texts, HashingEmbedder().embed_passages(texts), ["subject 3", "colour 2"])


def test_percentiles_are_real_measurements():
    assert percentile([5, 1, 3, 2, 4], 50) == 3
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([7.0], 99) == 7.0


def test_figures_know_whether_they_were_reached():
    assert Figure("speed", 3.0, "×", 2.5, "higher").reached is True
    assert Figure("time", 3.0, "s", 2.5).reached is False
    assert Figure("size", 3.0, "MB").reached is None


def test_results_become_a_table(tmp_path):
    figures = (Figure("opening", 0.25, "s", 0.5), Figure("ratio", 2.0, "×", 2.5, "higher"), Figure("n", 12345.6, ""))
    write_result(Measurement("open", "python -m eval.speed open", figures, {"x": 1}), tmp_path)
    stored = json.loads((tmp_path / "open.json").read_text())
    assert stored["figures"][0]["reached"] is True and stored["machine"]["cores"] >= 1
    table = markdown(read_results(tmp_path)).splitlines()
    assert table[2] == "| opening | 0.25 s | ≤ 0.5 s | yes | `python -m eval.speed open` |"
    assert table[3] == "| ratio | 2 × | ≥ 2.5 × | **no** | `python -m eval.speed open` |"
    assert table[4].startswith("| n | 12,346 |  |  |")


def test_numbers_keep_three_digits():
    assert [number(value) for value in (0.70123, 1.234, 12.34, 1234.5, 7.0, 0.0)] == [
        "0.7012",
        "1.23",
        "12.3",
        "1,234",
        "7",
        "0",
    ]


def test_passages_are_cut_to_size_and_lose_only_crumbs():
    text = "\n\n".join(["word " * 300, "short paragraph " * 10, "x"])
    pieces = list(cut(text))
    assert all(100 <= len(piece) <= 800 for piece in pieces)
    assert sum(map(len, pieces)) > 0.9 * len(text)
    assert max(map(len, cut("y" * 5_000))) <= 800


def test_mixtures_are_unit_vectors_and_repeatable(bank):
    made = list(documents(bank, 130, per_document=20))
    assert [len(texts) for _, texts, _ in made] == [20, 20, 20, 20, 20, 20, 10]
    vectors = np.concatenate([block for _, _, block in made])
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert np.array_equal(vectors[:60], bank.vectors)
    assert np.array_equal(np.concatenate([block for _, _, block in documents(bank, 130)]), vectors)
    assert made[0][1] == bank.texts[:20]


def test_a_shelf_is_built_through_the_real_storage_and_kept(bank, tmp_path):
    folder = shelf(tmp_path / "shelf", 130, bank, HashingEmbedder)
    assert json.loads((tmp_path / "shelf.json").read_text())["passages"] == 130
    model = HashingEmbedder()
    with Collection.open(folder, embedder=HashingEmbedder) as opened:
        hits = opened.search(bank.texts[45], mode="dense", k=10).hits
        assert (hits[0].passage.text, uri_row(hits[0].source.uri, hits[0].passage.ordinal)) == (bank.texts[45], 45)
        rows = [
            [uri_row(h.source.uri, h.passage.ordinal) for h in opened.search(q, mode="dense", k=10).hits]
            for q in bank.queries
        ]
    recall = recall_at_10(bank, 130, model.embed_queries(bank.queries), rows)
    assert recall >= 0.9  # exact but for ties: the hashed vectors of these passages often coincide
    assert recall_at_10(bank, 130, model.embed_queries(bank.queries), [[900 + n for n in range(10)]] * 2) == 0.0
    changed = (tmp_path / "shelf.json").stat().st_mtime_ns
    assert shelf(folder, 130, bank, HashingEmbedder) == folder
    assert (tmp_path / "shelf.json").stat().st_mtime_ns == changed


def test_spans_of_ready_passages_are_exact():
    document, spans = as_document(3, ["one", "zwei", "三"])
    assert [document.text[span.start : span.end] for span in spans] == ["one", "zwei", "三"]
    assert uri_row(document.uri, 2) == 62
