"""Answers of a whole question file, through the real pipeline over a real index, with a model that follows a script."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import HashingEmbedder
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms.custom import CustomLLM

from eval.answers import AnswersPart, asked
from eval.data.questions import Question
from eval.figures.statistics import estimates, table_of
from eval.runs.parts import PartFolder, Tools
from retrieval.answering import AnswerSettings
from retrieval.collection import Collection
from retrieval.errors import FathomError, ReadingError, UsageError
from retrieval.passages import Document

DOCUMENTS = {
    "tides.txt": "Tides are caused by the moon. Spring tides come at full moon.",
    "bread.txt": "Bread needs flour, water, salt and yeast. Knead the dough well.",
    "engine.txt": "A diesel engine ignites fuel by compression. Torque is high.",
    "茶.txt": "绿茶不经过发酵。水温应该在八十度左右。",
}
QUESTIONS: list[dict[str, Any]] = [
    {
        "id": "tides",
        "question": "When do spring tides come?",
        "answers": ["full moon", "at full moon"],
        "spans": [{"document": "tides.txt", "start": 30, "end": 61}],
    },
    {
        "id": "fuel",
        "question": "Does a diesel engine ignite fuel by compression?",
        "answers": ["yes"],
        "kind": "yes-no",
        "spans": [{"document": "engine.txt", "start": 0, "end": 44}],
    },
    {
        "id": "tea",
        "question": "泡绿茶的水温应该是多少？",
        "answers": ["八十度左右"],
        "spans": [{"document": "茶.txt", "start": 8, "end": 19}],
    },
    {"id": "salt", "question": "How much salt does the dough of bread need?", "answerable": False},
    {"id": "cup", "question": "Who won the football championship?", "answerable": False},
]
REPLIES = {
    "spring tides": "Spring tides come at full moon [{tides.txt}].",
    "diesel": "Yes, a diesel engine ignites fuel by compression [{engine.txt}].",
    "绿茶": "水温应该在八十度左右[{茶.txt}]。",
    "salt": "The passages do not say how much salt is needed.",
}


class Scripted(CustomLLM):
    """Says what REPLIES has for the question, with the numbers the passages have in the prompt; else 'I am sure.'"""

    replies: dict[str, str] = REPLIES
    fails_at: str = ""
    _prompts: list[str] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=4096, num_output=64, model_name="scripted", is_chat_model=True)

    def complete(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def stream_complete(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Iterator[ChatResponse]:
        prompt = str(messages[-1].content)
        self._prompts.append(prompt)
        question = prompt.rpartition("</passage")[2]
        if self.fails_at and self.fails_at in question:
            raise FathomError("the engine has died")
        reply = next((text for key, text in self.replies.items() if key in question), "I am sure.")
        for uri in DOCUMENTS:
            title = uri.removesuffix(".txt")
            number = prompt.partition(f'" title="{title}"')[0].rpartition('number="')[2]
            reply = reply.replace("{" + uri + "}", number)
        raw = {"prompt_tokens": len(prompt), "completion_tokens": len(reply)}
        yield ChatResponse(message=ChatMessage(content=reply), delta=reply, raw=raw)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    (folder / "documents").mkdir(parents=True)
    for name, text in DOCUMENTS.items():
        (folder / "documents" / name).write_text(text, encoding="utf-8")
    write(folder, QUESTIONS)
    return folder


def write(folder: Path, questions: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in questions)
    (folder / "questions.jsonl").write_text(text, encoding="utf-8")


def tools(tmp_path: Path, llm: Any = None, **more: Any) -> Tools:
    embedder = HashingEmbedder()
    # Hashed words are never as near as meanings are, so that the general threshold would refuse too much.
    answer = AnswerSettings(least_confidence=0.02)
    return Tools(
        cache=tmp_path / "cache", embedder=lambda: embedder, llm=lambda name: llm or Scripted(), answer=answer, **more
    )


def measured(tmp_path: Path, place: Path, llm: Any = None, name: str = "part", **options: Any) -> Any:
    """(records by id, figures by metric, extras) of one part."""
    prepared = AnswersPart(place, **options).prepare(tools(tmp_path, llm))
    folder = PartFolder(tmp_path / name)
    extras = prepared.run(folder, lambda stage, done, total: None)
    json.dumps(extras, allow_nan=False)
    records = folder.all()
    assert len(records) == prepared.items
    found = estimates(table_of(folder.done()), resamples=1_000)
    return records, {metric: estimate.value for metric, estimate in found.items()}, extras


def test_retrieved_answers_are_measured_by_kind_citation_and_refusal(tmp_path: Path, place: Path) -> None:
    records, figures, extras = measured(tmp_path, place)
    tides = records["tides"]
    assert tides["answer"].startswith("Spring tides come at full moon [")
    (citation,) = tides["citations"]
    assert (citation["document"], citation["start"], citation["end"]) == ("tides.txt", 30, 61)
    assert citation["right"] and citation["quote"] == "Spring tides come at full moon."
    # spring tides come at full moon / at full moon: 3 of 6 and 3 words
    assert tides["metrics"]["F1"] == pytest.approx(2 * 3 / 9)
    assert (tides["metrics"]["EM"], tides["metrics"]["accuracy"]) == (0, 1)
    assert (tides["cluster"], tides["golds"], tides["model"]) == (
        "tides.txt",
        ["full moon", "at full moon"],
        "scripted",
    )
    assert tides["prompt_tokens"] > tides["completion_tokens"] == len("Spring tides come at full moon [1].")
    assert {"search", "first_token", "generate", "total"} <= set(tides["timings"])
    assert any(p["gold"] and p["shown"] and p["text"] == DOCUMENTS["tides.txt"] for p in tides["passages"])

    assert records["fuel"]["choice"] == "yes" and records["fuel"]["metrics"]["accuracy"] == 1
    assert "EM" not in records["fuel"]["metrics"]
    # 水温应该在八十度左右 / 八十度左右: 5 of 10 and 5 characters, by CMRC's rule
    assert records["tea"]["metrics"]["F1"] == pytest.approx(2 * 5 / 15)

    assert records["salt"]["refused_by"] == "model" and records["cup"]["refused_by"] == "confidence"
    assert records["salt"]["metrics"]["EM"] == records["salt"]["metrics"]["F1"] == 1
    for metric in ("accuracy", "refusal_precision", "refusal_recall", "refusal_F1", "link_rate", "citation_precision"):
        assert figures[metric] == 1, metric
    assert figures["citation_recall"] == figures["citation_F1"] == figures["gold_retrieved"] == 1
    assert figures["over_refusal"] == figures["risk"] == 0 and figures["coverage"] == pytest.approx(3 / 5)
    assert extras["refused_by"] == {"model": 1, "confidence": 1}
    assert extras["risk_coverage"]["n"] == 3 and extras["risk_coverage"]["AURC"] == 0
    assert set(extras["by"]["language"]) == {"en", "zh"} and extras["by"]["kind"]["yes-no"]["n"] == 1
    assert extras["answerable_auroc"]["confidence"] > 0.5


def test_a_refused_answerable_question_is_an_empty_answer_that_misses_its_evidence(tmp_path: Path, place: Path) -> None:
    llm = Scripted(replies={"spring tides": "The passages do not mention it.", "salt": "Bread needs salt and flour."})
    records, figures, _ = measured(tmp_path, place, llm)
    assert records["tides"]["draft"] == "The passages do not mention it."
    # What stands in no passage ("I am sure.") is replaced by quotes: of the questions fuel and tea, not of salt.
    assert records["fuel"]["answered_by"] == "scripted+quote" and records["fuel"]["draft"] == "I am sure."
    assert figures["replaced"] == pytest.approx(2 / 3)
    tides, salt = records["tides"]["metrics"], records["salt"]["metrics"]
    assert tides["F1"] == tides["accuracy"] == 0 and tides["over_refusal"] == [1, 1]
    assert tides["citation_recall"] == [0, 1] and "link_rate" not in tides
    assert salt["F1"] == 0 and salt["risk"] == [1, 1] and records["salt"]["loss"] == 1
    # refused: tides, cup; unanswerable: salt, cup
    assert figures["refusal_precision"] == figures["refusal_recall"] == figures["refusal_F1"] == 0.5


def test_gold_and_distractors_show_what_they_say(tmp_path: Path, place: Path) -> None:
    gold, _, _ = measured(tmp_path, place, name="gold", context="gold")
    assert [passage["document"] for passage in gold["tides"]["passages"]] == ["tides.txt"]
    assert "gold_retrieved" not in gold["tides"]["metrics"]
    llm = Scripted()
    mixed, _, _ = measured(tmp_path, place, llm, name="mixed", context="distractors", distractors=2)
    for identifier, uri in (("tides", "tides.txt"), ("fuel", "engine.txt"), ("tea", "茶.txt")):
        passages = mixed[identifier]["passages"]
        assert len(passages) == 3 and [p["document"] for p in passages if p["gold"]] == [uri]
        assert mixed[identifier]["metrics"]["accuracy"] == 1  # wherever the gold stands
    orders = {tuple(p["gold"] for p in mixed[name]["passages"]) for name in ("tides", "fuel", "tea")}
    again, _, _ = measured(tmp_path, place, name="again", context="distractors", distractors=2)
    other, _, _ = measured(tmp_path, place, name="other", context="distractors", distractors=2, sample_seed=7)
    order = [
        [p["document"] for p in records[name]["passages"]]
        for records in (mixed, again, other)
        for name in ("tides", "fuel", "tea")
    ]
    assert order[:3] == order[3:6] != order[6:]
    assert len(orders) > 1


def test_no_passage_of_the_gold_document_is_a_distractor(tmp_path: Path, place: Path) -> None:
    paragraphs = [f"Tides of day {n}. " + f"The water of the sea rises {n} times. " * 20 for n in range(4)]
    (place / "documents" / "tides.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    write(place, [{"id": "t", "question": "Tides of the sea?", "answers": ["sea"], "documents": ["tides.txt"]}])
    records, _, _ = measured(tmp_path, place, context="distractors", k=1, distractors=3)
    assert [p["document"] for p in records["t"]["passages"]].count("tides.txt") == 1


def test_closed_book_shows_no_passage_and_cites_nothing(tmp_path: Path, place: Path) -> None:
    llm = Scripted(replies={"tides": "At full moon.", "championship": "I do not know.", "茶": "我不知道。"})
    records, figures, extras = measured(tmp_path, place, llm, context="closed-book")
    assert not any("<passage" in prompt for prompt in llm._prompts)
    assert records["tides"]["metrics"]["EM"] == 1 and records["tides"]["citations"] == []
    assert records["cup"]["refused"] and records["tea"]["refused"] and not records["salt"]["refused"]
    assert "citation_precision" not in figures and "risk_coverage" not in extras


def test_quotes_need_no_model_and_stand_word_for_word(tmp_path: Path, place: Path) -> None:
    def none(name: str | None) -> Any:
        raise AssertionError("no model is needed")

    prepared = AnswersPart(place, quote=True).prepare(Tools(tmp_path / "c", embedder=HashingEmbedder, llm=none))
    folder = PartFolder(tmp_path / "part")
    prepared.run(folder, lambda *_: None)
    figures = estimates(table_of(folder.done()), resamples=1_000)
    assert figures["quote_rate"].value == figures["link_rate"].value == 1
    assert folder.done()["tea"]["metrics"]["accuracy"] == 1
    assert "engine" not in prepared.relies_on and "embedding" in prepared.relies_on


def test_an_existing_collection_is_asked_by_name(tmp_path: Path, place: Path) -> None:
    embedder = HashingEmbedder()
    with Collection.create(tmp_path / "shelf", name="shelf", embedder=lambda: embedder) as shelf:
        shelf.add([Document(uri, text) for uri, text in DOCUMENTS.items()])
        with_shelf = tools(tmp_path, collection=lambda name: shelf)
        prepared = AnswersPart(place / "questions.jsonl", collection="shelf").prepare(with_shelf)
        assert "collection shelf" in prepared.data
        prepared.run(PartFolder(tmp_path / "part"), lambda *_: None)
    assert PartFolder(tmp_path / "part").done()["tides"]["metrics"]["accuracy"] == 1
    assert not (tmp_path / "cache").exists()


def test_an_engine_that_fails_leaves_an_error_and_the_next_run_tries_again(tmp_path: Path, place: Path) -> None:
    records, _, _ = measured(tmp_path, place, Scripted(fails_at="diesel"))
    assert records["fuel"]["error"] == "the engine has died" and records["fuel"]["text"].startswith("Does a diesel")
    llm = Scripted()
    records, figures, _ = measured(tmp_path, place, llm)
    assert len(llm._prompts) == 1 and "diesel" in llm._prompts[0]
    assert not any(record.get("error") for record in records.values()) and figures["accuracy"] == 1


def test_several_at_once_give_the_same_records(tmp_path: Path, place: Path) -> None:
    one, _, _ = measured(tmp_path, place, name="one")
    four, _, _ = measured(tmp_path, place, name="four", concurrency=4)
    for identifier, record in one.items():
        assert {**record, "timings": 0} == {**four[identifier], "timings": 0}


def test_a_document_asked_about_is_the_only_one_searched(tmp_path: Path, place: Path) -> None:
    write(
        place,
        [
            {**QUESTIONS[0], "within": "tides.txt"},
            {"id": "x", "question": "tides?", "answerable": False, "within": "bread.txt"},
        ],
    )
    records, _, _ = measured(tmp_path, place)
    assert {p["document"] for p in records["tides"]["passages"]} == {"tides.txt"}
    assert {p["document"] for p in records["x"]["passages"]} == {"bread.txt"}


def test_options_are_shown_with_the_question() -> None:
    assert asked(Question("q", "Is it?", choices=("yes", "no"), kind="yes-no")) == "Is it?"
    assert asked(Question("q", "Is it?", choices=("yes", "no", "maybe"), kind="choice")) == "Is it? (yes/no/maybe)"
    long = ("the first of the long options", "the second")
    assert asked(Question("q", "Which?", choices=long, kind="choice")).splitlines() == [
        "Which?",
        f"A. {long[0]}",
        "B. the second",
    ]


def test_what_cannot_be_measured_is_said_before_work_begins(tmp_path: Path, place: Path) -> None:
    for options, said in (
        ({"context": "open"}, "no context 'open'"),
        ({"k": 0}, "k is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"search": "sparse"}, "no search 'sparse'"),
        ({"context": "closed-book", "quote": True}, "closed-book"),
        ({"quote": True, "engine": "embedded"}, "leave out quote or engine"),
    ):
        with pytest.raises(UsageError, match=said):
            AnswersPart(place, **options)  # type: ignore[arg-type]
    write(place, [{"id": "a", "question": "?", "answers": ["x"]}])
    with pytest.raises(UsageError, match="name no gold document"):
        AnswersPart(place, context="gold").prepare(tools(tmp_path))
    alone = tmp_path / "alone"
    alone.mkdir()
    write(alone, [{"id": "a", "question": "?", "answers": ["x"]}])
    with pytest.raises(UsageError, match="no documents lie beside"):
        AnswersPart(alone).prepare(tools(tmp_path))
    assert AnswersPart(alone, context="closed-book").prepare(tools(tmp_path)).items == 1
    write(place, [])
    with pytest.raises(ReadingError, match="holds no question"):
        AnswersPart(place).prepare(tools(tmp_path))
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_the_embedded_model_answers_three_questions_of_the_file(
    tmp_path: Path, place: Path, embedded_cache: Path
) -> None:
    from app.engines.embedded import load_embedded

    records, figures, extras = measured(tmp_path, place, load_embedded(None, cache=embedded_cache), limit=3)
    assert len(records) == 3 and not any(record.get("error") for record in records.values())
    assert figures["link_rate"] == 1 and figures["completion_tokens"] > 1
    assert extras["engine"] != "quote" and all(record["answer"].strip() for record in records.values())
