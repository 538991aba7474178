"""Tuning on a small set where one setting is plainly wrong: an embedder without any meaning."""

import hashlib
import json

import numpy as np
import pytest

from eval.runs.parts import PartFolder, Tools
from eval.search.embedders import HashingEmbedder
from eval.tuning import TRIALS, TunePart
from retrieval.collection import SearchSettings
from retrieval.errors import UsageError


class Meaningless(HashingEmbedder):
    """A text's vector says nothing of it, and no two are alike."""

    def embed_passages(self, texts, *, progress=None):
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in texts]
        rows = np.array([np.random.default_rng(seed).normal(size=self.dimension) for seed in seeds], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def dataset(tmp_path):
    """Eighty documents and a question for each, in words that only it has."""
    folder = tmp_path / "words"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{n}", "title": "", "text": f"item{n} lies beside thing{n} in the shed"} for n in range(80)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [{"_id": f"q{n}", "text": f"where is thing{n} in the shed"} for n in range(80)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(80))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


@pytest.fixture
def tools(tmp_path):
    embedder = Meaningless()
    return Tools(cache=tmp_path / "cache", embedder=lambda: embedder, search=SearchSettings(dense_weight=1.0))


def quiet(stage, done, total):
    pass


def part(dataset, **options):
    chosen = {"passage_tokens": (), "depth": (), "dense_weight": (0.0, 1.0), "k": (1, 4)}
    return TunePart(dataset, **(chosen | options))


def test_a_wrong_setting_is_found_out_and_the_better_one_advised(dataset, tools, tmp_path):
    prepared = part(dataset).prepare(tools)
    folder = PartFolder(tmp_path / "part")
    found = prepared.run(folder, quiet)
    assert found["now"]["dense_weight"] == 1.0 and found["best"]["dense_weight"] == 0.0
    assert found["adopt"] and found["difference"]["low"] > 0.3
    assert "[search]\ndense_weight = 0.0" in found["toml"]
    records = folder.done()
    assert len(records) == prepared.items
    assert all(record["metrics"]["nDCG@10"] == 1.0 for record in records.values())


def test_questions_tuned_on_do_not_confirm(dataset, tools, tmp_path):
    folder = PartFolder(tmp_path / "part")
    part(dataset).prepare(tools).run(folder, quiet)
    tuned = {json.loads(line)["query"] for line in (folder.path / TRIALS).read_text().splitlines()}
    assert tuned and not tuned & set(folder.done())
    assert tuned | set(folder.done()) == {f"q{n}" for n in range(80)}


def test_nothing_better_leaves_the_settings_alone(dataset, tmp_path):
    embedder = HashingEmbedder()
    tools = Tools(cache=tmp_path / "cache", embedder=lambda: embedder, search=SearchSettings(dense_weight=0.0))
    found = part(dataset).prepare(tools).run(PartFolder(tmp_path / "part"), quiet)
    assert not found["adopt"] and "dense_weight" not in found["toml"]


def test_a_resumed_tuning_searches_nothing_twice(dataset, tools, tmp_path):
    folder = PartFolder(tmp_path / "part")
    part(dataset).prepare(tools).run(folder, quiet)
    file = folder.path / TRIALS
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:10]) + lines[10][:7])  # as a kill leaves it
    found = part(dataset).prepare(tools).run(PartFolder(tmp_path / "part"), quiet)
    again = file.read_text().splitlines(keepends=True)
    assert sorted(again) == sorted(lines)
    assert found["best"]["dense_weight"] == 0.0


def test_no_more_candidates_than_allowed_and_the_present_settings_first(dataset, tools):
    chosen = part(dataset, trials=5, passage_tokens=(48, 96, 144), depth=(20, 50, 100)).candidates(tools)
    assert len(chosen) == len(set(chosen)) == 5
    assert (chosen[0].passage_tokens, chosen[0].dense_weight) == (192, 1.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "beauty"}, "beauty"),
        ({"trials": 1}, "trials is at least 2"),
        ({"share": 1.0}, "share lies between"),
        ({"dense_weight": (2.0,)}, "share from 0 to 1"),
        ({"k": (0,)}, "below 1"),
        ({"pipeline": "magic"}, "no pipeline"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(dataset, options, said):
    with pytest.raises(UsageError, match=said):
        part(dataset, **options)


def test_a_set_too_small_to_part_is_refused(dataset, tools):
    with pytest.raises(UsageError, match="larger set"):
        part(dataset, share=0.999).prepare(tools)
