"""The retrieval part through real collections: every stage's figures from one pass, run files others can check."""

import json
import math

import ir_measures
import pytest
from fakes import HashingEmbedder
from scripted_judge import ScriptedJudge

from eval.figures.metrics import MEASURES
from eval.retrieval import RetrievalPart
from eval.runs.parts import PartFolder, Tools
from eval.search.embedders import HashingEmbedder as WordCounts
from eval.search.pipelines import Pipeline, Searcher
from retrieval.collection import Collection, SearchSettings
from retrieval.errors import FathomError, MissingError, ReadingError, UsageError
from retrieval.llm_reranking.pointwise import PointwiseReranker
from retrieval.passages import Document
from retrieval.splitting import SplitSettings

FILLER = " ".join(f"filler{number}" for number in range(400))
DOCUMENTS = {
    "whale": ("Whales", "The blue whale is the largest animal that ever lived."),
    "late": ("", f"{FILLER}. Somewhere at the very end a narwhal swims."),
    "zh": ("", "蓝鲸是地球上最大的动物。它以磷虾为食。"),
    "bread": ("Bread", "Flour, water, salt and yeast make bread."),
    "my file.txt": ("", "The moon moves the tides, and whales move with them."),
}
QUERIES = {
    "q1": "largest whale animal",
    "q2": "narwhal swims",
    "q3": "最大的动物",
    "q4": "yeast bread",
    "q5": "unjudged",
}
QRELS = {"q1": {"whale": 2, "my file.txt": 1}, "q2": {"late": 1}, "q3": {"zh": 1}, "q4": {"bread": 1, "whale": 0}}


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": name, "title": title, "text": text} for name, (title, text) in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"_id": name, "text": text} for name, text in QUERIES.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{query}\t{name}\t{grade}\n" for query, grades in QRELS.items() for name, grade in grades.items()]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def by_words(query, hits):
    """A reranker whose scores can be counted by hand: how many of the query's words the passage holds."""
    return [float(sum(word in hit.passage.text.lower() for word in query.split())) for hit in hits]


def last_word_first(question, history):
    """A rewriter: the words of the question in the other order, after those of the history."""
    return " ".join([*(message.text for message in history), *reversed(question.split())])


@pytest.fixture
def tools(tmp_path):
    def made(**changes):
        given = {"reranker": lambda name: by_words, "rewriter": lambda name: last_word_first}
        return Tools(cache=tmp_path / "cache", **({"embedder": HashingEmbedder} | given | changes))

    return made


def run(part, tools, tmp_path, name="part"):
    folder = PartFolder(tmp_path / name)
    prepared = part.prepare(tools)
    extras = prepared.run(folder, lambda stage, done, total: None)
    return folder, dict(extras), prepared


STAGES = {
    "lexical": ["lexical"],
    "dense": ["dense"],
    "hybrid": ["lexical", "dense", "fused"],
    "hybrid+rerank": ["lexical", "dense", "fused", "rerank"],
    "rewrite+lexical+rerank": ["lexical", "rerank"],
}


@pytest.mark.parametrize("pipeline", STAGES)
def test_every_stage_has_figures_and_a_run_file_that_gives_them_to_others(dataset, tools, tmp_path, pipeline):
    folder, extras, prepared = run(RetrievalPart(dataset, pipeline), tools(), tmp_path)
    records = folder.done()
    assert prepared.items == len(records) == len(QRELS)
    assert extras["stages"] == STAGES[pipeline]
    judgements = list(ir_measures.read_trec_qrels(str(folder.path / "qrels.trec")))
    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    for stage in STAGES[pipeline]:
        ranked = ir_measures.read_trec_run(str(folder.path / f"{stage}.trec"))
        before = "" if stage == STAGES[pipeline][-1] else f"{stage}:"
        for measure, value in ir_measures.calc_aggregate(measures, judgements, ranked).items():
            ours = [record["metrics"].get(f"{before}{measure}") for record in records.values()]
            if before and ours[0] is None:
                continue  # stages before the last have the main figures only
            assert sum(ours) / len(ours) == pytest.approx(value, abs=1e-6), (stage, measure)
    for record in records.values():
        assert set(record["timings"]) >= {"total", "fetch"}
        assert ("rerank" in record["timings"]) == pipeline.endswith("rerank")
        assert ("rewritten" in record) == pipeline.startswith("rewrite")
    assert extras["checked"]["largest_difference"] < 1e-9


def test_lexical_finds_english_chinese_and_late_words_without_a_model(dataset, tools, tmp_path):
    def missing():
        raise MissingError("no model here")

    folder, extras, _ = run(RetrievalPart(dataset, "lexical"), tools(embedder=missing), tmp_path)
    assert {query: record["metrics"]["RR@10"] for query, record in folder.done().items()} == dict.fromkeys(QRELS, 1.0)
    assert extras["backend"] == "none"


def test_whole_documents_report_ordinary_passages_beside(dataset, tools, tmp_path):
    part = RetrievalPart(dataset, "dense", whole_documents=True)
    folder, extras, prepared = run(part, tools(embedder=WordCounts), tmp_path)
    assert extras["index"]["passages"] == len(DOCUMENTS) < extras["index_of_passages"]["passages"]
    late = folder.done()["q2"]["metrics"]
    # The model saw only the beginning of the long document: that is what published figures are made with.
    assert late["RR@10"] < late["passages:RR@10"] == 1.0
    assert (folder.path / "passages.trec").read_text().startswith("q1 Q0 ")
    assert "passages" in prepared.described


def test_whole_documents_by_words_embed_nothing(dataset, tools, tmp_path):
    def count(texts):
        raise AssertionError("a model was asked")

    model = HashingEmbedder()
    model.embed_passages = model.embed_queries = count
    folder, extras, _ = run(
        RetrievalPart(dataset, "lexical", whole_documents=True), tools(embedder=lambda: model), tmp_path
    )
    assert folder.done()["q2"]["metrics"]["RR@10"] == 1.0
    assert extras["index"]["passages"] == len(DOCUMENTS)


def test_reranking_orders_the_first_and_leaves_the_rest(dataset, tools, tmp_path):
    folder, _, _ = run(RetrievalPart(dataset, "lexical+rerank", rerank_depth=1), tools(), tmp_path, "one")
    for record in folder.done().values():
        order = {stage: [name for name, _ in ranking] for stage, ranking in record["rankings"].items()}
        assert order["rerank"] == order["lexical"]
    backwards = tools(reranker=lambda name: lambda query, hits: [float(n) for n in range(len(hits))])
    folder, _, _ = run(RetrievalPart(dataset, "lexical+rerank"), backwards, tmp_path, "two")
    order = {stage: [name for name, _ in ranking] for stage, ranking in folder.done()["q1"]["rankings"].items()}
    assert order["rerank"] == order["lexical"][::-1] and len(order["lexical"]) > 1


def test_what_a_language_model_cost_stands_in_records_and_results(dataset, tools, tmp_path):
    llm = ScriptedJudge(weigh=lambda text: 0.9 if "yeast" in text.split("<passage")[1] else 0.2, batches=[])
    reranker = PointwiseReranker(llm, counting=True)
    part = RetrievalPart(dataset, "hybrid+rerank", rerank_depth=3)
    folder, extras, _ = run(part, tools(reranker=lambda name: reranker), tmp_path)
    records = folder.done()
    assert records["q4"]["hits"][0]["document"] == "bread"
    costs = [record["reranking"] for record in records.values()]
    assert all(cost["passages"] == 3 and cost["calls"] == 1 and "note" not in cost for cost in costs)
    mean = extras["reranking"]["a_query"]
    assert mean["prompt_tokens"] == sum(cost["prompt_tokens"] for cost in costs) / 4 > 60
    assert mean["seconds"] > 0 and extras["reranking"]["with_notes"] == 0
    assert extras["reranker"]["prompt_version"] == "judge-1"


@pytest.mark.parametrize(("scores", "words"), [([math.nan] * 9, "not finite"), ([1.0, 2.0, 3.0] * 50, "scores for")])
def test_a_reranker_gone_wrong_is_an_error_of_the_query(dataset, tools, tmp_path, scores, words):
    def once(query, hits):
        return scores if query == QUERIES["q2"] else by_words(query, hits)

    folder, _, _ = run(RetrievalPart(dataset, "hybrid+rerank"), tools(reranker=lambda name: once), tmp_path)
    assert words in folder.all()["q2"]["error"]
    assert set(folder.done()) == set(QRELS) - {"q2"}


def test_scores_that_are_not_finite_are_an_error_of_the_query(dataset, tools, tmp_path):
    class Broken(HashingEmbedder):
        def embed_queries(self, texts):
            vectors = super().embed_queries(texts)
            return vectors * math.nan if texts == [QUERIES["q3"]] else vectors

    folder, _, _ = run(RetrievalPart(dataset, "dense"), tools(embedder=Broken), tmp_path)
    assert folder.all()["q3"]["error"]
    assert set(folder.done()) == set(QRELS) - {"q3"}


def test_the_users_settings_reach_the_index_and_the_search(dataset, tools, tmp_path):
    settings = {
        "search": SearchSettings(dense_weight=0.5, depth=7),
        "splitting": SplitSettings(passage_tokens=40, overlap_tokens=8),
    }
    _, extras, _ = run(RetrievalPart(dataset), tools(**settings), tmp_path, "one")
    assert extras["search"] == {"dense_weight": 0.5, "depth": 7}
    assert extras["index"]["fingerprint"]["splitter"]["passage_tokens"] == 40
    _, extras, _ = run(RetrievalPart(dataset, depth=9), tools(**settings), tmp_path, "two")
    assert extras["search"]["depth"] == 9


def test_the_index_is_used_again(dataset, tools, tmp_path):
    model = HashingEmbedder()
    run(RetrievalPart(dataset), tools(embedder=lambda: model), tmp_path, "one")
    embedded = model.embedded
    _, extras, _ = run(RetrievalPart(dataset), tools(embedder=lambda: model), tmp_path, "two")
    assert model.embedded - embedded < extras["index"]["passages"] + 60  # the probes of the fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_finished_queries_are_not_searched_again(dataset, tools, tmp_path):
    part = RetrievalPart(dataset, "lexical")
    folder, _, prepared = run(part, tools(), tmp_path)
    lines = (folder.path / "records.jsonl").read_text().splitlines(keepends=True)
    (folder.path / "records.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
    again = PartFolder(folder.path)
    prepared.run(again, lambda stage, done, total: None)
    kept = (folder.path / "records.jsonl").read_text().splitlines(keepends=True)
    assert kept[:2] == lines[:2] and len(kept) == len(QRELS)


def test_a_limit_draws_the_same_queries_each_time(dataset, tools):
    names = {tuple(RetrievalPart(dataset, limit=2)._chosen(load(dataset))) for _ in range(3)}
    assert len(names) == 1 and len(names.pop()) == 2
    prepared = RetrievalPart(dataset, limit=2).prepare(tools())
    assert prepared.items == 2
    assert "1 query without judgements left out; 2 queries beyond the limit left out" in prepared.described


def load(folder):
    from eval.data.datasets import load_dataset

    return load_dataset(folder)


def test_short_rankings_claim_no_deep_figures(dataset, tools, tmp_path):
    folder, _, _ = run(RetrievalPart(dataset, "lexical", k=10), tools(), tmp_path)
    metrics = folder.done()["q1"]["metrics"]
    assert "R@100" not in metrics and "AP@100" not in metrics and "AP" in metrics


def test_gold_spans_are_measured_beside_documents(tmp_path, tools):
    folder = tmp_path / "asked"
    folder.mkdir()
    text = f"{FILLER}. The narwhal swims. {FILLER}. The walrus sleeps."
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": "sea", "title": "Sea", "text": text}) + "\n")
    where = text.index("The narwhal swims.")
    row = {"id": "1", "question": "narwhal swims", "spans": [{"document": "sea", "start": where, "end": where + 18}]}
    far = {"id": "2", "question": "walrus sleeps", "spans": [{"document": "sea", "start": 0, "end": 5}]}
    (folder / "questions.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(far) + "\n")
    done, _, _ = run(RetrievalPart(folder, "lexical"), tools(), tmp_path)
    right, wrong = (done.done()[key]["metrics"] for key in ("1", "2"))
    assert right["nDCG@10"] == wrong["nDCG@10"] == 1.0  # both found the only document
    assert right["span:RR@10"] == 1.0 and wrong["span:RR@10"] < 1.0
    judgements = ir_measures.read_trec_qrels(str(done.path / "qrels.spans.trec"))
    ranked = ir_measures.read_trec_run(str(done.path / "lexical.spans.trec"))
    theirs = ir_measures.calc_aggregate([ir_measures.parse_measure("nDCG@10")], judgements, ranked)
    assert sum(theirs.values()) == pytest.approx((right["span:nDCG@10"] + wrong["span:nDCG@10"]) / 2)


def test_a_collection_of_the_user_can_be_asked(tmp_path, tools):
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"id": "1", "question": "yeast", "documents": ["bread.txt"]}))
    model = HashingEmbedder()
    with Collection.create(tmp_path / "shelf", name="shelf", embedder=lambda: model) as shelf:
        shelf.add([Document("bread.txt", "Bread needs yeast."), Document("tides.txt", "Tides follow the moon.")])
        before = shelf.settings
        part = RetrievalPart(questions, "hybrid", collection="shelf", depth=5)
        done, extras, _ = run(part, tools(collection=lambda name: shelf), tmp_path)
        assert done.done()["1"]["metrics"]["nDCG@10"] == 1.0
        assert extras["index"]["documents"] == 2
        assert shelf.settings is before and shelf.search("yeast").hits  # still open, and as it was


def test_the_legs_of_a_hybrid_are_those_of_their_own_searches(collection):
    collection.add([Document(name, f"{title}\n\n{text}") for name, (title, text) in DOCUMENTS.items()])
    searcher = Searcher(collection, Pipeline("hybrid"), k=100, rerank_depth=1)
    for query in QUERIES.values():
        stages = searcher(query).stages
        for leg in ("lexical", "dense"):
            alone = collection.search(query, mode=leg, k=100).hits
            expected = [(hit.source.uri, hit.passage.start) for hit in alone]
            assert [place[:2] for place in searcher.places(stages[leg])] == expected


def test_a_long_document_does_not_crowd_out_others(collection):
    collection.add([Document("long", "whale " * 900), Document("short", f"whale {FILLER}"), Document("other", "bread")])
    searcher = Searcher(collection, Pipeline("lexical"), k=3, rerank_depth=1)
    assert [name for name, _ in searcher("whale").documents["lexical"]] == ["long", "short"]


@pytest.mark.parametrize(
    "name", ["sparse", "rerank", "rewrite", "hybrid+rewrite", "rerank+hybrid", "lexical+dense", ""]
)
def test_pipelines_that_make_no_sense_are_refused(name, tmp_path):
    with pytest.raises(UsageError, match="no pipeline"):
        RetrievalPart(tmp_path, name)


def test_how_a_pipeline_is_written():
    assert str(Pipeline.parse(" Rewrite + hybrid+RERANK")) == "rewrite+hybrid+rerank"
    assert Pipeline.parse("hybrid").stages == ("lexical", "dense", "fused")


@pytest.mark.parametrize(("name", "value"), [("k", 0), ("limit", 0), ("depth", 20_000), ("rerank_depth", -1)])
def test_numbers_out_of_range_are_refused(tmp_path, name, value):
    with pytest.raises(UsageError, match=name):
        RetrievalPart(tmp_path, **{name: value})


def test_bad_data_is_found_before_anything_runs(dataset, tools):
    (dataset / "qrels" / "test.tsv").write_text("q1\tnobody\t1\n")
    with pytest.raises(ReadingError, match="line 1"):
        RetrievalPart(dataset).prepare(tools())


def test_a_missing_reranker_is_found_before_anything_runs(dataset, tools):
    def missing(name):
        raise FathomError("no such reranker")

    with pytest.raises(FathomError, match="no such reranker"):
        RetrievalPart(dataset, "hybrid+rerank").prepare(tools(reranker=missing))


PUBLISHED = {"cranfield": 0.3416, "pubmedqa": 0.9763}
"""BM25, nDCG@10, as the check beside the data computed it."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cranfield", "pubmedqa"])
def test_whole_documents_by_words_reach_the_published_figures(shared_data, tools, tmp_path, name):
    folder, _, _ = run(RetrievalPart(shared_data(name), "lexical", whole_documents=True), tools(), tmp_path)
    values = [record["metrics"]["nDCG@10"] for record in folder.done().values()]
    assert sum(values) / len(values) > PUBLISHED[name] - 0.01
