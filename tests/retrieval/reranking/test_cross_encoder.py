"""A tiny cross-encoder with random weights, saved here: its scores, its order, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_encoders import WORDS, hit, save_cross_encoder

from retrieval.errors import DamagedError, MissingError, UsageError
from retrieval.reranking.cross_encoder import CrossEncoderReranker, load_cross_encoder
from retrieval.reranking.pairs import passage_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("cross") / "tiny-reranker")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def reranker(folder: Path, cache: Path) -> CrossEncoderReranker:
    return load_cross_encoder(str(folder), cache=cache)


def test_scores_are_the_models_logits_in_the_order_of_the_hits(folder: Path, reranker: CrossEncoderReranker) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = ["tides are caused by the moon", "bread", "潮汐 月亮", "flour water salt yeast bread needs flour"]
    expected = []
    for text in texts:
        with torch.inference_mode():
            expected.append(model(**tokenizer("the moon", text, return_tensors="pt")).logits[0, 0].item())
    found = reranker("the moon", [hit(text) for text in texts])
    assert found == pytest.approx(expected, abs=1e-4)
    assert all(type(score) is float for score in found)
    assert len(set(found)) == 4


def test_more_hits_than_a_batch_keep_their_places(reranker: CrossEncoderReranker) -> None:
    texts = [" ".join(WORDS[: 1 + number % 12]) for number in range(70)]
    together = reranker("moon", [hit(text) for text in texts])
    alone = [reranker("moon", [hit(text)])[0] for text in texts[:12]]
    assert together[:12] == pytest.approx(alone, abs=1e-4)
    assert together[12:24] == pytest.approx(alone, abs=1e-4)


def test_a_passage_longer_than_the_model_reads_is_cut(reranker: CrossEncoderReranker) -> None:
    long, longer = " ".join(["moon"] * 60), " ".join(["moon"] * 600)
    first, second = reranker("tides", [hit(long), hit(longer)])
    assert first == pytest.approx(second, abs=1e-4)


def test_no_hits_no_scores(reranker: CrossEncoderReranker) -> None:
    assert reranker("moon", []) == []


def test_title_and_headings_are_read_too() -> None:
    assert (
        passage_text(hit("salt", title="Bread", headings=("Bread", "What it\nneeds"))) == "Bread › What it needs\nsalt"
    )
    assert passage_text(hit("salt")) == "salt"


def test_it_says_which_weights_gave_the_scores(folder: Path, reranker: CrossEncoderReranker) -> None:
    assert reranker.described["model"] == "tiny-reranker"
    assert len(reranker.described["weights"]) == 64
    assert str(folder) not in json.dumps(reranker.described)


def broken(folder: Path, how: str) -> None:
    if how == "pickled":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif how == "code":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    elif how == "damaged":
        (folder / "model.safetensors").write_bytes(b"no weights at all")


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [("pickled", MissingError, "safetensors"), ("code", UsageError, "own code"), ("damaged", DamagedError, "loaded")],
)
def test_what_must_not_or_cannot_load_is_refused(tmp_path: Path, how: str, error: Any, words: str) -> None:
    folder = save_cross_encoder(tmp_path / "model")
    broken(folder, how)
    with pytest.raises(error, match=words):
        load_cross_encoder(str(folder))


def test_a_model_without_one_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 classes"):
        load_cross_encoder(str(save_cross_encoder(tmp_path / "three", labels=3)))
    with pytest.raises(UsageError, match="no cross-encoder"):  # transformers would give it a head of random numbers
        load_cross_encoder(str(save_cross_encoder(tmp_path / "plain", architecture="BertModel")))


def test_a_model_that_is_not_here_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no folder"):
        load_cross_encoder(str(tmp_path / "none"))
    with pytest.raises(MissingError, match="not on this machine"):
        load_cross_encoder("nobody/no-such-reranker", download=False)
