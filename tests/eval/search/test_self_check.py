"""A handful of questions to one collection: what is advised, what is left alone, and what the shipped reranker says."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.search.refusals import Signal, left_out
from eval.search.self_check import cut_below, self_check, to_keep
from retrieval.collection import Collection
from retrieval.embedding.load import EmbeddingSettings
from retrieval.errors import UsageError
from retrieval.finding import FindSettings
from retrieval.passages import Document, Hit
from retrieval.reranking.load import PACKAGED, load_reranker
from retrieval.tuned import Tuned

NOW = FindSettings(rerank_seconds=500.0)
GOODS = ("anchor", "basket", "candle", "drum", "engine", "feather", "gate", "hammer", "inkpot", "jar")


class Scores:
    """Scores by the document's name."""

    def __init__(self, of: Any, calibrated: bool = True) -> None:
        self.of, self.calibrated = of, calibrated

    def __call__(self, query: str, hits: Sequence[Hit]) -> list[float]:
        return [self.of(query, hit.source.uri) for hit in hits]


@pytest.fixture
def shelf(collection: Collection) -> Collection:
    """A price for each of ten goods, and a decoy that names them twice."""
    prices = [Document(f"{name}.txt", f"The {name} costs nine pounds.") for name in GOODS]
    decoys = [Document(f"decoy-{name}.txt", f"The {name} stands beside the other {name}.") for name in GOODS]
    collection.add([*prices, *decoys])
    return collection


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return written(tmp_path, [row(name) for name in GOODS])


def row(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "question": f"What does the {name} cost?",
        "answers": ["nine pounds"],
        "documents": [f"{name}.txt"],
    }


def silent(number: int) -> dict[str, Any]:
    return {"id": f"s{number}", "question": f"Who won match {number} of 1887?", "answers": [], "answerable": False}


def written(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in rows))
    return file


def check(questions: Path, shelf: Collection, reranker: Any, finding: FindSettings = NOW, **options: Any) -> Any:
    return self_check(
        questions,
        shelf,
        finding=finding,
        reranker=reranker,
        **{"word": PACKAGED, "threshold": 0.2, "k": 8, **options},
    )


def right(query: str, uri: str) -> float:
    """Sure of a question's own document, of others the less the later they stand in the alphabet."""
    own = query.split()[3]
    return 0.8 if uri == f"{own}.txt" else 0.3 if own in uri else 0.05


def test_a_reranker_that_helps_every_question_is_switched_on_and_the_cut_keeps_what_answers(
    shelf: Collection, questions: Path
) -> None:
    shelf.set_tuned(Tuned(PACKAGED, False))
    found = check(questions, shelf, Scores(right))
    rerank, cut = found["rerank"], found["least_relevance"]
    assert rerank["search"] < rerank["reranked"] == 1.0 and rerank["difference"]["low"] > 0
    assert rerank["best"] is True and rerank["adopt"] and not rerank["now"]
    assert (cut["best"], cut["lowest_gold"]) == (0.75, 0.8) and cut["kept"]["value"] == 1.0 and cut["read"] == 8.0
    assert cut["dropped"]["value"] == 7.0 and cut["chance_of_loss"] == pytest.approx(1 / 11) and cut["adopt"]
    assert to_keep(found, PACKAGED, shelf.tuned) == Tuned(PACKAGED, True, 0.75)
    assert found["refusal"] is None and "does not answer" not in " ".join(found["notes"])
    assert any("when to refuse was not looked at" in note for note in found["notes"])
    shelf.set_tuned(to_keep(found, PACKAGED, shelf.tuned))
    again = check(questions, shelf, Scores(right))
    assert again["rerank"]["now"] and not again["rerank"]["adopt"]
    assert again["least_relevance"] == {**cut, "now": 0.75, "adopt": False}
    assert to_keep(again, PACKAGED, shelf.tuned) == shelf.tuned


def test_a_reranker_that_does_harm_is_switched_off_where_it_is_on_and_one_that_does_nothing_left_alone(
    shelf: Collection, questions: Path
) -> None:
    on = replace(NOW, reranker=PACKAGED)
    harmful = Scores(lambda query, uri: 0.9 if uri.startswith("decoy") else 0.1)
    found = check(questions, shelf, harmful, on)
    assert found["rerank"]["best"] is False and found["rerank"]["adopt"], found["rerank"]
    assert to_keep(found, PACKAGED, Tuned(PACKAGED, True)).rerank is False  # type: ignore[union-attr]
    shelf.set_tuned(Tuned(PACKAGED, False))
    assert not check(questions, shelf, harmful)["rerank"]["adopt"]  # it is off already
    shelf.set_tuned(None)
    assert check(questions, shelf, harmful)["rerank"]["adopt"]  # it is on where nobody says otherwise
    found = check(questions, shelf, Scores(lambda query, uri: 0.5))
    assert found["rerank"]["difference"]["value"] == 0.0 and found["rerank"]["best"] is None
    assert found["least_relevance"]["dropped"]["value"] == 0.0 and not found["least_relevance"]["adopt"]
    assert to_keep(found, PACKAGED, None) is None


def test_a_handful_that_agrees_is_not_enough_to_be_sure(shelf: Collection, tmp_path: Path) -> None:
    found = check(written(tmp_path, [row(name) for name in GOODS[:5]]), shelf, Scores(right))
    assert found["rerank"]["difference"]["value"] > 0 and found["rerank"]["difference"]["p"] == 2 / 2**5
    assert found["rerank"]["best"] is None and not found["rerank"]["adopt"]


def test_a_reranker_that_would_be_left_out_for_its_time_is_not_switched_on(shelf: Collection, questions: Path) -> None:
    found = check(questions, shelf, Scores(right), replace(NOW, rerank_seconds=1e-9))
    assert found["rerank"]["best"] is True and not found["rerank"]["adopt"]
    assert any("rerank_seconds" in note for note in found["notes"])


def test_scores_that_are_no_probabilities_set_no_least_relevance(shelf: Collection, questions: Path) -> None:
    found = check(questions, shelf, Scores(right, calibrated=False), word="llm")
    assert found["least_relevance"] is None and any("no probabilities" in note for note in found["notes"])
    # Collections come from elsewhere: no other reranker than the shipped one is switched on by what is kept with them.
    assert to_keep(found, "llm", None) is None and any('reranker = "llm"' in note for note in found["notes"])


def test_without_a_reranker_refusal_alone_is_looked_at(shelf: Collection, tmp_path: Path) -> None:
    rows = [*(row(name) for name in GOODS), *(silent(number) for number in range(4))]
    found = check(written(tmp_path, rows), shelf, None, threshold=0.0)
    assert found["rerank"] is None and found["least_relevance"] is None
    assert found["questions"] == {"answerable": 10, "unanswerable": 4, "groups": 10}
    assert found["refusal"]["figures_now"]["refusal_recall"]["value"] == 0.0
    assert found["refusal"]["adopt"] and found["refusal"]["figures_best"]["refusal_recall"]["value"] == 1.0


def test_unanswerable_questions_may_stand_in_a_file_of_their_own(shelf: Collection, questions: Path) -> None:
    (questions.parent / "others").mkdir()
    others = written(questions.parent / "others", [silent(number) for number in range(3)])
    found = check(questions, shelf, None, refusals=others, threshold=0.0)
    assert found["questions"]["unanswerable"] == 3 and found["refusal"] is not None


def test_too_few_questions_are_refused_with_what_to_do(shelf: Collection, tmp_path: Path) -> None:
    rows = [*(row(name) for name in GOODS[:4]), silent(1)]
    with pytest.raises(UsageError, match="has 4 questions .* needs 5 or more; write"):
        check(written(tmp_path, rows), shelf, Scores(right))


def test_the_cut_lies_below_all_and_keeps_each_document_that_is_left_out() -> None:
    lowest = [0.30, 0.36, 0.38, 0.5, 0.9]
    cut = cut_below(lowest)
    assert cut is not None and 0.1 < cut < 0.30
    wider = cut_below([0.20, *lowest[1:]])  # the farther it is from the others, the more is left below it
    assert wider is not None and wider / 0.20 < cut / 0.30
    assert cut_below([0.5, 0.5, 0.5]) == 0.43  # where all agree the margin is the smallest
    assert cut_below([0.0001, 0.9, 0.91]) is None  # one far from all the others: the next may be as far
    assert cut_below([0.4, 0.5]) is None
    assert 0.0 < (cut_below([0.0, 0.0, 1.0]) or 0.0) <= 1e-9


def test_questions_to_one_manual_stand_for_themselves(collection: Collection, tmp_path: Path) -> None:
    text = "\n\n".join(f"The {name} costs nine pounds. " + f"It is a {name} of oak. " * 30 for name in GOODS)
    collection.add([Document("manual.txt", text)])
    rows = [{**row(name), "documents": ["manual.txt"]} for name in GOODS]
    found = check(written(tmp_path, rows), collection, Scores(lambda query, uri: 0.5))
    assert found["questions"]["groups"] == 10


def test_refusal_is_measured_on_questions_that_are_left_out(shelf: Collection, tmp_path: Path) -> None:
    from eval.data.questions import read_questions

    rows = [*(row(name) for name in GOODS), *(silent(number) for number in range(5))]
    asked = read_questions(written(tmp_path, rows), collection=shelf).questions
    signals = [Signal(0.5 + n / 100, True) for n in range(10)] + [Signal(0.3 + n / 100, False) for n in range(5)]
    found = left_out(asked, signals, 0.1, 0)
    assert 0.34 <= found["best"] <= 0.5 and found["adopt"]
    # Chance alone: the one odd question decides when it is there, and is wrong when it is left out.
    signals = [Signal(0.5, True)] * 9 + [Signal(0.4, True)] + [Signal(0.5, False)] * 4 + [Signal(0.39, False)]
    assert not left_out(asked, signals, 0.0, 0)["adopt"]


@pytest.mark.slow
def test_the_shipped_reranker_puts_answers_first_and_its_cut_keeps_them(
    shelf: Collection, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.embedding.openvino_backend.SELF_TEST_SECONDS", 0.05)
    reranker = load_reranker(PACKAGED, device="cpu", threads=1, cache=EmbeddingSettings().cache_folder())
    assert reranker is not None
    found = check(questions, shelf, reranker)
    cut = found["least_relevance"]
    assert 0.0 < cut["best"] <= cut["lowest_gold"] < 1.0 and cut["found"] == 10
    assert 1.0 <= cut["kept"]["value"] < cut["read"]
    assert 0.0 <= found["rerank"]["search"] <= 1.0 and 0.0 <= found["rerank"]["reranked"] <= 1.0
