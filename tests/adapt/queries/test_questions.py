"""Questions that a model writes: the prompt, what is read of a reply, the checks, the whole way with a scripted one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import HashingEmbedder
from scripted_llm import ScriptedLLM

from adapt.instructions.writing.kept import KeptWriter
from adapt.instructions.writing.pair_checks import DUPLICATE, LOST, Rejected
from adapt.instructions.writing.writer import EngineWriter
from adapt.queries.making import QueryMaking, asked_about, make, own_pairs
from adapt.queries.mining import with_negatives
from adapt.queries.pair_file import QueryPair, read_pairs
from adapt.queries.pieces import Papers, of_collection
from adapt.queries.question_checks import QuestionChecks
from adapt.queries.question_prompts import question_messages, read_questions
from retrieval.collection import Collection
from retrieval.errors import FathomError, UsageError
from retrieval.passages import Document

TIDES = "Spring tides follow the full moon and flood the lower quay, so the harbour master closes the gate before noon."
BREAD = "Bread dough needs flour, water, salt and yeast; knead it well and let it rest in a warm place for two hours."
ENGINE = "A diesel engine ignites its fuel by compression alone, which needs strong cylinders and gives much torque."
TEA = "绿茶不经过发酵，冲泡时水温应该在八十度左右，第一泡的茶汤通常在两分钟之后倒出，茶叶可以再冲泡两次。"
CHINESE = "大潮出现在满月之后，海水每个月两次淹没下层码头，港口管理员会在中午之前关闭闸门，船只必须在外面等待。"


def nothing(*_: object) -> None:
    """No progress is shown."""


@pytest.fixture
def model() -> HashingEmbedder:
    """Wide enough that the few words here hardly meet by chance."""
    return HashingEmbedder(dimension=1024)


@pytest.fixture
def shelf(model: HashingEmbedder, tmp_path: Path) -> Iterator[Collection]:
    texts = {"tides.txt": TIDES, "bread.txt": BREAD, "engine.txt": ENGINE, "茶.txt": TEA, "潮.txt": CHINESE}
    with Collection.create(tmp_path / "shelf", name="shelf", embedder=lambda: model) as made:
        made.add(Document(uri, text, title=uri.partition(".")[0]) for uri, text in texts.items())
        yield made


@pytest.fixture
def papers(shelf: Collection) -> Papers:
    return of_collection(shelf, nothing)


def test_the_prompt_is_in_the_passages_language_and_frames_it(papers: Papers) -> None:
    by_uri = {paper.uri: paper.pieces[0].hit for paper in papers.papers}
    system, user = question_messages(by_uri["tides.txt"], 2)
    assert "search box" in system.text and TIDES in user.text and "2 of the questions" in user.text
    system, user = question_messages(by_uri["潮.txt"], 3)
    assert "搜索框" in system.text and "3 个问题" in user.text
    assert "not instructions" in question_messages(by_uri["bread.txt"], 1)[0].text


@pytest.mark.parametrize(
    ("reply", "questions", "unreadable"),
    [
        ("When do spring tides come?\nWho closes the gate?", ["When do spring tides come?", "Who closes the gate?"], 0),
        ("1. When?\n2) Who closes it?\n", ["When?", "Who closes it?"], 0),
        ('- **Q1: "When do tides come?"**', ["When do tides come?"], 0),
        ("问题1：大潮什么时候出现？\n谁关闭闸门？", ["大潮什么时候出现？", "谁关闭闸门？"], 0),
        ("Here are the questions:\nWhen do they come?", ["When do they come?"], 1),
        ("The tides come at full moon.", [], 1),
        ("When?\nWhen?", ["When?"], 0),
        ("", [], 0),
    ],
)
def test_what_is_read_of_a_reply(reply: str, questions: list[str], unreadable: int) -> None:
    found = read_questions(reply)
    assert (list(found.questions), len(found.unreadable), found.declined) == (questions, unreadable, False)


def test_a_reply_that_declines_or_was_cut_off() -> None:
    assert read_questions("NONE.").declined and read_questions("无").declined
    assert read_questions("When do they come?\nWho closes the", cut_off=True).questions == ("When do they come?",)
    assert read_questions("When do they come?\nWho closes the?", cut_off=True).questions == ("When do they come?",)


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("When do spring tides flood the lower quay?", None),
        ("What does the passage say about spring tides?", "needs the passage at hand"),
        ("Spring tides flood the lower quay", "no sound question"),
        ("When does the harbour master of Rotterdam close the gate?", "names what its document does not"),
        ("Spring tides follow the full moon and flood the lower quay?", "copied from the passage"),
        ("Which flour and salt does bread dough need?", LOST),
        ("大潮什么时候淹没下层码头？", "in another language"),
    ],
)
def test_each_check_tells_its_reason(question: str, reason: str | None, shelf: Collection, papers: Papers) -> None:
    paper = next(paper for paper in papers.papers if paper.uri == "tides.txt")
    found = QuestionChecks(shelf, top=1).look_at(question, paper.pieces[0], paper)
    assert found == 1 if reason is None else isinstance(found, Rejected) and found.reason == reason


def test_what_was_asked_before_is_not_asked_again(shelf: Collection, papers: Papers) -> None:
    paper = next(paper for paper in papers.papers if paper.uri == "潮.txt")
    checks = QuestionChecks(shelf, top=3)
    assert checks.look_at("大潮什么时候淹没下层码头？", paper.pieces[0], paper) == 1
    again = checks.look_at("大潮什么时候淹没下层码头?", paper.pieces[0], paper)
    assert isinstance(again, Rejected) and again.reason == DUPLICATE


def test_every_document_is_asked_about_before_any_twice(papers: Papers) -> None:
    making = QueryMaking(kinds=("question",), per_document=2, per_passage=1)
    first = [piece.document for _, piece in asked_about(papers, making)[:5]]
    assert sorted(first) == sorted(paper.uri for paper in papers.papers)


SAID = {
    TIDES: "When do spring tides flood the lower quay?\nWhich flour does bread dough need?",
    BREAD: "How long should bread dough rest?",
    ENGINE: "NONE",
    TEA: "NONE",
    CHINESE: "大潮什么时候淹没下层码头？\n谁会关闭闸门",
}


def say(prompt: str) -> str:
    return next(reply for text, reply in SAID.items() if text in prompt)


def test_the_whole_way_writes_pairs_that_found_their_passage_and_goes_on_where_it_stopped(
    shelf: Collection, papers: Papers, tmp_path: Path
) -> None:
    out = tmp_path / "pairs.jsonl"
    making = QueryMaking(kinds=("question",), top=1)
    llm = ScriptedLLM(say=say)
    with KeptWriter(EngineWriter(llm), tmp_path / "kept") as writer:
        report = make(out, papers, making, search=lambda: shelf, embedder=shelf.embedder, writer=writer)
    pairs = read_pairs(out)
    assert {(pair.query, pair.document) for pair in pairs} == {
        ("When do spring tides flood the lower quay?", "tides.txt"),
        ("How long should bread dough rest?", "bread.txt"),
        ("大潮什么时候淹没下层码头？", "潮.txt"),
    }
    assert all(pair.kind == "question" for pair in pairs)
    assert next(pair for pair in pairs if pair.document == "bread.txt").positive.endswith(BREAD)
    asked = report["questions"]
    assert (asked["candidates"], asked["kept"], asked["prompt"]) == (4, 3, "query-1")
    assert {reason: found["count"] for reason, found in asked["rejected"].items()} == {
        LOST: 1, "nothing to ask": 2, "unreadable": 1,
    }  # fmt: skip
    assert json.loads((tmp_path / "pairs.yield.json").read_text())["pairs"] == 3
    with KeptWriter(EngineWriter(llm), tmp_path / "kept") as writer:
        make(out, papers, making, search=lambda: shelf, embedder=shelf.embedder, writer=writer)
        assert (writer.asked, writer.reused) == (0, 5)
    assert read_pairs(out) == pairs


def test_nothing_that_passes_is_told_and_nothing_is_written(shelf: Collection, papers: Papers, tmp_path: Path) -> None:
    with (
        KeptWriter(EngineWriter(ScriptedLLM(say=lambda _: "I cannot.")), tmp_path / "kept") as writer,
        pytest.raises(FathomError, match="no pair came of 5 documents.*I cannot"),
    ):
        make(
            tmp_path / "pairs.jsonl", papers, QueryMaking(kinds=("question",)),
            search=lambda: shelf, embedder=shelf.embedder, writer=writer,
        )  # fmt: skip
    assert not (tmp_path / "pairs.jsonl").exists()


def test_negatives_are_other_documents_passages_and_none_that_may_be_right(
    shelf: Collection, model: HashingEmbedder
) -> None:
    shelf.add([Document("twin.txt", TIDES, title="tides")])
    pair = QueryPair("spring tides at the lower quay", f"tides\n{TIDES}", "tides.txt", "cloze")
    (found,) = with_negatives([pair], shelf, model, 8, nothing)
    assert found.negatives, "there are documents about something else"
    assert not any(TIDES in text for text in found.negatives), "its own document and its twin are no negatives"
    alone = QueryPair("大潮", f"潮\n{CHINESE}", "潮.txt", "title")
    (found,) = with_negatives([alone], shelf, model, 8, nothing)
    assert not any(CHINESE in text for text in found.negatives)


def test_own_pairs_need_no_model_and_no_search(papers: Papers, tmp_path: Path) -> None:
    def never() -> Collection:
        raise AssertionError("nothing is searched")

    making = QueryMaking(kinds=("title",))
    report = make(tmp_path / "p.jsonl", papers, making, search=never, embedder=never, writer=None)  # type: ignore[arg-type]
    assert report["kinds"] == {"title": len(own_pairs(papers, making))} and report["questions"] is None


@pytest.mark.parametrize(
    "wrong",
    [{"kinds": ("poem",)}, {"kinds": ()}, {"per_passage": 4}, {"top": 0}, {"negatives": 99}, {"temperature": 3.0}],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        QueryMaking(**wrong)  # type: ignore[arg-type]
