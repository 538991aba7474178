"""Fitting the estimate of whether documents answer a question, on cases that can be checked by hand."""

from fakes import HashingEmbedder

from eval.data.corpora import CorpusDocument
from eval.data.datasets import RetrievalDataset
from eval.search.answerability import Case, cases, fit, refused
from retrieval.answerability import Signals
from retrieval.collection import Collection


def case(kind: str, meaning: float, words: float, missing: bool = False) -> Case:
    return Case("set", kind, Signals(meaning, words, missing, 1.0))  # type: ignore[arg-type]


def test_what_parts_the_kinds_gets_the_weight() -> None:
    own = [case("own", 0.6 + n / 100, 0.5) for n in range(10)]
    other = [case("other", 0.1 + n / 100, 0.5) for n in range(10)]
    weights = fit([*own, *other], meaning=True)
    assert weights.meaning > 3 and abs(weights.words) < 1
    assert refused([*own, *other], weights, 0.5) == {"own": 0.0, "other": 1.0}
    blind = fit([*own, *other], meaning=False)
    assert blind.meaning == 0 and abs(blind.words) < 0.1
    named = fit([case("own", 0.5, 0.5)] * 9 + [case("without", 0.5, 0.5, True)] * 9, meaning=True)
    assert named.missing < -1


def test_every_set_is_asked_its_own_questions_with_and_without_their_document_and_the_others(tmp_path) -> None:
    sets = {}
    for name, words in (("one", "tides moon sea"), ("two", "bread yeast dough")):
        documents = tuple(CorpusDocument(f"{word}.txt", "", f"All about {word}.") for word in words.split())
        queries = {word: f"What about {word}?" for word in words.split()}
        qrels = {word: {f"{word}.txt": 1} for word in words.split()}
        folder = Collection.create(tmp_path / name, name=name, embedder=HashingEmbedder)
        from eval.data.corpora import as_document

        folder.add(map(as_document, documents))
        sets[name] = (RetrievalDataset(name, "corpus", "test", documents, queries, qrels), folder)
    found = cases(sets, questions=3, others=2)
    kinds = [(one.name, one.kind) for one in found]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        (name, kind): n for name in sets for kind, n in (("own", 3), ("without", 3), ("other", 2))
    }
    assert min(one.signals.words for one in found if one.kind == "own") == 1
    assert max(one.signals.words for one in found if one.kind != "own") == 0
    for _, collection in sets.values():
        collection.close()
