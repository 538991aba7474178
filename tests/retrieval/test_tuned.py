"""What is kept with a collection of how it is best searched, and what the settings leave open to it."""

from pathlib import Path

import pytest

from retrieval.collection import TUNED, Collection
from retrieval.errors import DamagedError, UsageError
from retrieval.finding import FindSettings, as_tuned
from retrieval.transfer import export_collection, import_collection
from retrieval.tuned import Tuned


def test_it_is_kept_exported_and_taken_back(collection: Collection, tmp_path: Path) -> None:
    assert collection.tuned is None and collection.set_here() == {}
    kept = Tuned("packaged", True, 0.02)
    collection.set_tuned(kept)
    collection.set_refusal_threshold(0.3)
    here = {"refusal_threshold": 0.3, "reranker": "packaged", "rerank": True, "least_relevance": 0.02}
    assert collection.tuned == kept and collection.status()["set_here"] == here
    export_collection(collection, tmp_path / "file")
    import_collection(tmp_path / "file", tmp_path / "copy", name="copy")
    with Collection.open(tmp_path / "copy") as copy:
        assert copy.tuned == kept
    collection.set_tuned(None)
    assert collection.tuned is None and collection.set_here() == {"refusal_threshold": 0.3}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"reranker": "packaged", "rerank": 1, "least_relevance": null}',
        '{"reranker": "packaged", "rerank": "yes", "least_relevance": null}',
        '{"reranker": "packaged", "rerank": null, "least_relevance": 2}',
        '{"reranker": "packaged", "rerank": null, "least_relevance": NaN}',
        '{"reranker": "packaged", "rerank": null, "least_relevance": [0]}',
        '{"reranker": " ", "rerank": null, "least_relevance": null}',
        '{"reranker": 1, "rerank": null, "least_relevance": null}',
        "[" * 100_000,
    ],
)
def test_what_is_none_is_damaged_and_the_command_that_helps_is_named(collection: Collection, text: str) -> None:
    with collection.catalogue.transaction():
        collection.catalogue.set_setting(TUNED, text)
    with pytest.raises(DamagedError, match="index rerank --reset"):
        _ = collection.tuned


def test_the_settings_go_before_the_collection_and_that_before_the_default() -> None:
    kept = Tuned("packaged", True, 0.1)
    both = as_tuned(FindSettings(), kept)
    assert (both.reranker, both.least_relevance) == ("packaged", 0.1)
    assert (as_tuned(FindSettings(), None).reranker, as_tuned(FindSettings(), None).least_relevance) == (
        "packaged",
        None,
    )
    off = as_tuned(FindSettings(reranker="none"), kept)
    assert (off.reranker, off.least_relevance) == ("none", None)
    assert as_tuned(FindSettings(least_relevance=0.0), kept).least_relevance == 0.0
    # A probability of one reranker is none of another's.
    other = as_tuned(FindSettings(reranker="llm"), kept)
    assert (other.reranker, other.least_relevance) == ("llm", None)
    asked = as_tuned(FindSettings(reranker="packaged"), Tuned("packaged", False, 0.1))
    assert (asked.reranker, asked.least_relevance) == ("packaged", 0.1)
    assert as_tuned(FindSettings(), Tuned("packaged", None, 0.1)).reranker == "packaged"
    assert as_tuned(FindSettings(), Tuned("packaged", False, 0.1)).reranker == "none"


def test_a_collection_from_elsewhere_switches_on_no_server_and_no_model_of_its_own() -> None:
    for word in ("score:http://elsewhere.example/v1", "llm:http://elsewhere.example/v1", "stranger/model", "/tmp/x"):
        for rerank in (True, False):
            found = as_tuned(FindSettings(), Tuned(word, rerank, 0.1))
            assert (found.reranker, found.least_relevance) == ("packaged", None)


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        Tuned("packaged", None, 1.5)
    with pytest.raises(UsageError, match="names no reranker"):
        Tuned(" ")
