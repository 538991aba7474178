"""A tiny test collection through the real collection, with an embedder that needs no model."""

import json

import pytest

from eval.search.embedders import HashingEmbedder
from eval.search.one_search import evaluate_folder
from retrieval.embedding.probes import PROBES
from retrieval.errors import UsageError

FILLER = " ".join(f"filler{number}" for number in range(400))
DOCUMENTS = {
    "whale": ("Whales", "The blue whale is the largest animal that ever lived."),
    "late": ("", f"{FILLER}. Somewhere at the very end a narwhal swims."),
    "zh": ("", "蓝鲸是地球上最大的动物。它以磷虾为食。"),
    "bread": ("Bread", "Flour, water, salt and yeast make bread."),
    "q9": ("", "a document whose id is also the id of a query"),
}
QUERIES = {"q1": "largest whale animal", "q2": "narwhal swims", "q3": "最大的动物", "q9": "yeast bread", "q5": "磷虾"}
QRELS = {"q1": "whale", "q2": "late", "q3": "zh", "q9": "bread"}


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as lines:
        for identifier, (title, text) in DOCUMENTS.items():
            lines.write(json.dumps({"_id": identifier, "title": title, "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as lines:
        for identifier, text in QUERIES.items():
            lines.write(json.dumps({"_id": identifier, "text": text}) + "\n")
    judged = "".join(f"{query}\t{document}\t1\n" for query, document in QRELS.items())
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


@pytest.mark.parametrize("pipeline", ["lexical", "dense", "hybrid"])
def test_every_pipeline_gives_figures_for_every_judged_query(dataset, tmp_path, pipeline):
    report = evaluate_folder(dataset, pipeline=pipeline, cache=tmp_path / "cache", embedder=HashingEmbedder)
    assert set(report.figures["nDCG@10"]) == set(QRELS)
    assert report.run["documents"] == len(DOCUMENTS) < report.run["passages"]
    interval = report.intervals["nDCG@10"]
    assert 0.5 < interval.low <= interval.mean <= interval.high <= 1.0
    assert all(len(set(ranking)) == len(ranking) for ranking in report.rankings.values())


def test_lexical_needs_no_model_and_finds_english_chinese_and_late_words(dataset, tmp_path):
    report = evaluate_folder(dataset, pipeline="lexical", cache=tmp_path / "cache")
    assert report.metrics["nDCG@10"] == 1.0
    assert {query: ranking[0] for query, ranking in report.rankings.items()} == QRELS


def test_a_document_that_only_shares_the_querys_id_stays(dataset, tmp_path):
    report = evaluate_folder(dataset, pipeline="dense", cache=tmp_path / "cache", embedder=HashingEmbedder)
    assert "q9" in report.rankings["q9"]


def test_the_query_itself_is_left_out_of_its_ranking(dataset, tmp_path):
    with (dataset / "corpus.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"_id": "q1", "text": QUERIES["q1"]}) + "\n")
    report = evaluate_folder(dataset, pipeline="dense", cache=tmp_path / "cache", embedder=HashingEmbedder)
    assert "q1" not in report.rankings["q1"]
    assert "q1" in report.rankings["q3"]


def test_the_index_is_used_again_and_follows_the_corpus(dataset, tmp_path):
    embedded = []  # per evaluation, the texts embedded as passages, apart from the fingerprint's probes

    class Recording(HashingEmbedder):
        def embed_passages(self, texts, *, progress=None):
            if self.recorded is not None:
                self.recorded.extend(text for text in texts if text not in PROBES)
            return super().embed_passages(texts, progress=progress)

        def embed_queries(self, texts):
            kept, self.recorded = self.recorded, None
            try:
                return super().embed_queries(texts)
            finally:
                self.recorded = kept

    def embedder():
        model = Recording()
        model.recorded = []
        embedded.append(model.recorded)
        return model

    arguments = {"pipeline": "dense", "cache": tmp_path / "cache", "embedder": embedder}
    evaluate_folder(dataset, **arguments)
    again = evaluate_folder(dataset, **arguments)
    assert len(embedded[0]) == again.run["passages"]
    assert embedded[1] == []
    lines = (dataset / "corpus.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"zh"' not in line]
    changed = [line.replace("Flour, water", "Rye, water") for line in kept]
    (dataset / "corpus.jsonl").write_text("\n".join(changed) + "\n")
    (dataset / "qrels" / "test.tsv").write_text("q9\tbread\t1\n")
    third = evaluate_folder(dataset, **arguments)
    assert third.run["passages"] == again.run["passages"] - 1
    assert "zh" not in third.rankings["q9"] and third.rankings["q9"][0] == "bread"
    assert len(embedded[2]) == 1 and "Rye, water" in embedded[2][0]


def test_whole_documents_make_one_passage_each(dataset, tmp_path):
    report = evaluate_folder(
        dataset, pipeline="dense", cache=tmp_path / "cache", embedder=HashingEmbedder, whole_documents=True
    )
    assert report.run["passages"] == len(DOCUMENTS)
    # The model saw only the beginning of the long document: that is what published figures are made with.
    assert report.figures["RR@10"]["q2"] < 1.0
    lexical = evaluate_folder(dataset, pipeline="lexical", cache=tmp_path / "cache", whole_documents=True)
    assert lexical.run["passages"] == len(DOCUMENTS)
    assert lexical.figures["RR@10"]["q2"] == 1.0


def test_json_form(dataset, tmp_path):
    report = evaluate_folder(dataset, pipeline="lexical", cache=tmp_path / "cache")
    written = json.loads(json.dumps(report.to_json()))
    assert written["metrics"]["nDCG@10"] == 1.0
    assert written["intervals"]["nDCG@10"] == [1.0, 1.0]
    assert (written["queries"], written["run"]["pipeline"], written["run"]["split"]) == (4, "lexical", "test")
    assert "per_query" not in written
    assert set(report.to_json(per_query_figures=True)["per_query"]["nDCG@10"]) == set(QRELS)


def test_wrong_pipelines_are_refused(dataset, tmp_path):
    with pytest.raises(UsageError, match="no pipeline 'sparse'"):
        evaluate_folder(dataset, pipeline="sparse", cache=tmp_path / "cache")
    with pytest.raises(UsageError, match="needs an embedding model"):
        evaluate_folder(dataset, pipeline="hybrid", cache=tmp_path / "cache")
