"""Rewrites against human ones: figures worked by hand, what they do to a search, and honest failure."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from scripted_llm import ScriptedLLM

from eval.data.conversations import Turn
from eval.rewrites import RewritesPart, text_metrics
from eval.runs.parts import PartFolder, Tools
from retrieval.errors import FathomError, ReadingError, UsageError
from retrieval.prompts import Message
from retrieval.rewriting.naming import rewriter_named


def turn(question: str, rewrite: str, *, history: bool = True) -> Turn:
    return Turn("t", question, (Message("user", "Who wrote Dune?"),) if history else (), rewrite, "c")


def silent(stage: str, done: int, total: int) -> None:
    pass


def test_words_are_counted_as_lin_counts_them() -> None:
    # The human rewrite has 4 words, the rewrite 5, of which 3 are shared.
    metrics = text_metrics(turn("When?", "When was Dune written?"), "when did Herbert's Dune written")
    assert metrics["rouge1_recall"] == pytest.approx(3 / 4)
    assert metrics["rouge1_F1"] == pytest.approx(2 * 3 / (4 + 6))  # "Herbert's" is two words to ROUGE
    assert metrics["rewrite_F1"] == pytest.approx(2 * 3 / (4 + 5))  # and one to SQuAD
    assert metrics["rewrite_EM"] == 0.0
    assert metrics["unchanged"] == 0.0
    assert metrics["rouge1_recall_needed"] == metrics["rouge1_recall"]
    assert "left_alone" not in metrics


def test_a_word_said_once_is_not_counted_twice() -> None:
    metrics = text_metrics(turn("When?", "When when was it?"), "when was it")
    assert metrics["rouge1_recall"] == pytest.approx(3 / 4)
    assert text_metrics(turn("When?", "When was it?"), "when when when")["rouge1_recall"] == pytest.approx(1 / 3)


def test_chinese_counts_by_characters() -> None:
    metrics = text_metrics(turn("为什么", "为什么秦始皇活了五十岁"), "为什么秦始皇")
    assert metrics["rouge1_recall"] == pytest.approx(6 / 11)
    assert metrics["rouge1_F1"] == metrics["rewrite_F1"] == pytest.approx(2 * 6 / 17)
    same = text_metrics(turn("为什么", "为什么活了五十岁？"), "为什么活了五十岁")
    assert same["rouge1_recall"] == same["rewrite_EM"] == 1.0


def test_over_rewriting_shows_where_nothing_had_to_be_done() -> None:
    stands = turn("Who wrote Emma?", "who wrote Emma")
    assert text_metrics(stands, "Who wrote Emma?")["left_alone"] == 1.0
    changed = text_metrics(stands, "Who wrote Dune? Who wrote Emma?")
    assert changed["left_alone"] == 0.0
    assert "rouge1_recall_needed" not in changed
    assert text_metrics(turn("When?", "When was it?", history=False), "When?")["left_alone"] == 1.0


SUBJECTS = (
    "harbours storms bridges horses violins glaciers orchards comets kettles lanterns parrots saddles turnips walnuts "
    "zebras anvils barrels candles daggers easels"
).split()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Twenty conversations of two turns: "Who is person i?", "What did she paint?"; a third turn has both answers.

    The second turn names nobody, the human rewrite names the person, the answer names person and subject.
    """
    rows: list[dict[str, Any]] = []
    for number, subject in enumerate(SUBJECTS):
        name = f"Anna{chr(97 + number)}{chr(97 + number)}"
        first, second = f"Who is {name}?", "What did she paint?"
        told = [
            {"role": "user", "text": first},
            {"role": "assistant", "text": f"An artist born near the northern coast, {subject} admirer."},
        ]
        answered = [{"role": "user", "text": second}, {"role": "assistant", "text": f"{name} mostly chose {subject}."}]
        rows += [
            {"id": f"c{number}_q0", "history": [], "question": first, "rewrite": first},
            {"id": f"c{number}_q1", "history": told, "question": second, "rewrite": f"What did {name} paint?"},
            {
                "id": f"c{number}_q2",
                "history": told + answered,
                "question": "Is she alive?",
                "rewrite": f"Is {name} alive?",
            },
        ]
    path = tmp_path / "turns.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def tools(tmp_path: Path, llm: ScriptedLLM | None = None) -> Tools:
    def engine(name: str | None) -> Any:
        if llm is None:
            raise UsageError(f"there is no engine '{name}'")
        return llm

    return Tools(cache=tmp_path / "cache", llm=engine, rewriter=lambda name: rewriter_named(name, engine))


def run(part: RewritesPart, at_hand: Tools, folder: Path) -> tuple[dict[str, Any], Any]:
    records = PartFolder(folder)
    extras = part.prepare(at_hand).run(records, silent)
    return records.done(), extras


def test_a_search_is_measured_raw_rewritten_and_as_a_person_wrote_it(file: Path, tmp_path: Path) -> None:
    records, extras = run(RewritesPart(file), tools(tmp_path), tmp_path / "part")
    assert len(records) == 60
    second = records["c4_q1"]
    assert second["rewritten"] == "Who is Annaee? What did she paint?"
    assert second["metrics"]["nDCG@10_human"] == second["metrics"]["nDCG@10_rewritten"] == 1.0
    assert second["metrics"]["nDCG@10_raw"] < 1.0
    assert second["cluster"] == "c4"
    rank = second["rankings"]["human"].index(records["c4_q1"]["rankings"]["rewritten"][0]) + 1
    assert second["metrics"]["RR@10_human"] == 1 / rank
    assert "nDCG@10_raw" not in records["c4_q2"]["metrics"]  # nobody answers the last turn
    effect = extras["search"]["nDCG@10_needed"]
    assert effect["gain"] == pytest.approx(effect["possible"]) and effect["gain"] > 0.3
    assert effect["p"] < 0.01 and effect["interval"][0] > 0


def test_leaving_questions_alone_gains_nothing(file: Path, tmp_path: Path) -> None:
    records, extras = run(RewritesPart(file, rewriter="none"), tools(tmp_path), tmp_path / "part")
    assert all(record["metrics"]["unchanged"] == 1.0 for record in records.values())
    assert extras["search"]["nDCG@10"]["gain"] == 0.0
    assert extras["search"]["nDCG@10"]["p"] == 1.0
    assert extras["rewriter"] == {"name": "none"}


def test_a_model_is_measured_with_what_it_wrote(file: Path, tmp_path: Path) -> None:
    def say(prompt: str) -> str:
        if "paint" in prompt.splitlines()[-2]:
            return "Rewritten question: What did the artist paint?"
        return "She was born near the coast. She liked to paint. She is alive."

    llm = ScriptedLLM(say=say)
    records, extras = run(RewritesPart(file, rewriter="embedded"), tools(tmp_path, llm), tmp_path / "part")
    assert records["c0_q1"]["rewritten"] == "What did the artist paint?"
    assert records["c0_q2"]["rewritten"] == "Is she alive?"
    assert (records["c0_q2"]["fallback"], records["c0_q0"]["fallback"]) == ("prose", "no history")
    assert "She liked" in records["c0_q2"]["reply"]
    assert extras["rewriter"] == {"name": "embedded", "model": "scripted", "prompt": "rewrite-1"}


def test_an_engine_that_dies_is_no_rewriter_that_leaves_all_alone(file: Path, tmp_path: Path) -> None:
    calls: list[str] = []
    dead = True

    def say(prompt: str) -> str:
        calls.append(prompt)
        if dead and len(calls) > 10:
            raise FathomError("the engine is gone")
        return "What did she paint then?"

    part = RewritesPart(file, rewriter="embedded", retrieval=False)
    folder = PartFolder(tmp_path / "part")
    part.prepare(tools(tmp_path, ScriptedLLM(say=say))).run(folder, silent)
    failed = [record for record in folder.all().values() if record["error"]]
    assert len(failed) == 30  # of 40 turns with a history
    assert all(record["metrics"] == {} and "gone" in record["error"] for record in failed)
    dead, calls[:] = False, []
    part.prepare(tools(tmp_path, ScriptedLLM(say=say))).run(folder, silent)
    assert len(folder.done()) == 60 and len(calls) == 30


def test_somebody_elses_rewrites_are_measured_in_their_place(file: Path, tmp_path: Path) -> None:
    turns = [json.loads(line) for line in file.read_text().splitlines()]
    given = tmp_path / "given.jsonl"
    given.write_text("\n".join(json.dumps({"id": row["id"], "rewrite": row["rewrite"]}) for row in turns))
    records, extras = run(RewritesPart(file, predictions=given), tools(tmp_path), tmp_path / "part")
    assert {record["metrics"]["rewrite_EM"] for record in records.values()} == {1.0}
    assert extras["search"]["RR@10"]["gain"] == extras["search"]["RR@10"]["possible"]
    assert extras["rewriter"] == {"name": "given.jsonl"}
    given.write_text("\n".join(given.read_text().splitlines()[:-1]))
    with pytest.raises(UsageError, match="no rewrite for 1 of 60 turns, for example 'c19_q2'"):
        RewritesPart(file, predictions=given).prepare(tools(tmp_path))
    given.write_text('{"id": "a", "rewrite": 3}')
    with pytest.raises(ReadingError, match="line 1"):
        RewritesPart(file, predictions=given).prepare(tools(tmp_path))


def test_searches_run_on_a_collection_with_the_same_query_ids(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "painters"
    (folder / "qrels").mkdir(parents=True)
    texts = {"d1": "Annaaa painted harbours.", "d2": "Annabb painted storms.", "d3": "Nobody painted anything."}
    rows = [{"_id": name, "title": "", "text": text} for name, text in texts.items()]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "queries.jsonl").write_text('{"_id": "c1_q1", "text": "What did she paint?"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nc1_q1\td2\t1\n")
    part = RewritesPart(file, on=folder)
    prepared = part.prepare(tools(tmp_path))
    assert "search for 1 of them among 3 documents" in prepared.described
    assert {Path(name).name for name in prepared.data} >= {"turns.jsonl", "corpus.jsonl", "queries.jsonl", "test.tsv"}
    records, _ = run(part, tools(tmp_path), tmp_path / "part")
    assert records["c1_q1"]["metrics"]["nDCG@10_human"] == 1.0
    assert records["c1_q1"]["metrics"]["nDCG@10_raw"] in (1.0, 1 / math.log2(3), 0.5)
    assert "nDCG@10_raw" not in records["c2_q1"]["metrics"]
    (folder / "queries.jsonl").write_text('{"_id": "other", "text": "x"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nother\td2\t1\n")
    with pytest.raises(UsageError, match="no turn of turns.jsonl is a query"):
        part.prepare(tools(tmp_path))


def test_a_sample_is_drawn_by_its_seed_and_searches_the_whole_collection(file: Path, tmp_path: Path) -> None:
    def drawn(seed: int) -> set[str]:
        part = RewritesPart(file, limit=10, seed=seed, rewriter="none")
        assert "among 40 documents" in part.prepare(tools(tmp_path)).described
        return set(run(part, tools(tmp_path), tmp_path / f"part-{seed}-{len(list(tmp_path.iterdir()))}")[0])

    assert len(drawn(1)) == 10
    assert drawn(1) == drawn(1) != drawn(2)


def test_wrong_settings_are_refused_before_work_begins(file: Path) -> None:
    with pytest.raises(UsageError, match="pipeline 'fast'"):
        RewritesPart(file, pipeline="fast")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="limit"):
        RewritesPart(file, limit=0)


def test_a_plan_is_measured_by_its_question_and_by_all_its_searches(file: Path, tmp_path: Path) -> None:
    def say(prompt: str) -> str:
        if "paint" not in prompt.splitlines()[-2]:
            return "no plan"
        return "question: What did the artist paint?\nsearch: mostly chose harbours"

    llm = ScriptedLLM(say=say)
    records, extras = run(RewritesPart(file, rewriter="plan"), tools(tmp_path, llm), tmp_path / "part")
    planned = records["c0_q1"]
    assert planned["rewritten"] == "What did the artist paint?"
    assert planned["queries"] == ["What did the artist paint?", "mostly chose harbours"]
    assert planned["metrics"]["nDCG@10_rewritten"] > planned["metrics"]["nDCG@10_raw"]
    failed = records["c0_q2"]
    assert failed["fallback"] == "form" and failed["rewritten"] == "Is she alive?"
    assert extras["rewriter"] == {"name": "plan", "model": "scripted", "prompt": "plan-1"}
    assert {record["metrics"]["asked_model"] for record in records.values()} == {1.0}


def test_the_gate_spares_the_model_and_says_how_often(file: Path, tmp_path: Path) -> None:
    llm = ScriptedLLM(say=lambda prompt: "What did she like to paint?")
    part = RewritesPart(file, rewriter="embedded", gate=True)
    records, extras = run(part, tools(tmp_path, llm), tmp_path / "part")
    assert {key[-3:]: record["spared"] for key, record in records.items() if "spared" in record} == {
        "_q0": "no_history"
    }
    assert sum(record["metrics"]["asked_model"] for record in records.values()) == 40 == len(llm.asked)
    assert extras["rewriter"]["gate"] is True
    plain, _ = run(RewritesPart(file, rewriter="embedded"), tools(tmp_path, llm), tmp_path / "plain")
    assert sum(record["metrics"]["asked_model"] for record in plain.values()) == 40  # never without a history
