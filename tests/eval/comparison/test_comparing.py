"""Two runs with figures that can be checked by hand: what differs, what is refused, what a gate catches."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import HashingEmbedder

from eval.comparison.comparing import compare
from eval.retrieval import RetrievalPart
from eval.runs.executing import PartResult, RunResult, execute
from eval.runs.parts import Tools
from eval.runs.suites import Suite
from retrieval.collection import SearchSettings
from retrieval.errors import UsageError

DATA = {"/data/qa.jsonl": "a" * 64}


def records(metric: str = "F1", /, **values):
    """One record for each item; its text is its name."""
    return {
        item: {"id": item, "text": f"what is {item}?", "cluster": None, "metrics": {metric: value}, "timings": {}}
        for item, value in values.items()
    }


def part(name="answers", kind="answers", *, data=DATA, settings=None, timings=None, **values) -> PartResult:
    made = values.pop("records", None) or records(**values)
    return PartResult(name, kind, settings or {}, dict(data), made, {}, timings or {}, {}, 1.0, len(made))


def run(name: str, *parts: PartResult) -> RunResult:
    return RunResult(Path(name), name, {}, {each.name: each for each in parts})


def failed(made: PartResult, item: str) -> PartResult:
    return replace(made, records=made.records | {item: made.records[item] | {"metrics": {}, "error": "engine died"}})


# --- what differs ----------------------------------------------------------------------------------------------------


def test_differences_wins_and_worst_losses_by_hand():
    a = run("a", part(w=0.5, x=0.5, y=1.0, z=0.0))
    b = run("b", part(w=0.5, x=0.25, y=0.0, z=1.0))
    (found,) = compare(a, b).parts
    row = found.rows[0]
    assert (row.metric, row.main) == ("F1", True)
    assert (row.a.value, row.b.value, row.difference.value) == (0.5, 0.4375, -0.0625)
    assert (row.wins, row.ties, row.losses) == (1, 1, 2)
    # Differences 0, -.25, -1, 1 sum to -.25: of the eight exchanges only 1 - 1 ± .25 is as small, all are as large.
    assert row.p == row.adjusted == 1.0
    assert [(change.id, change.a, change.b) for change in found.regressions] == [("y", 1.0, 0.0), ("x", 0.5, 0.25)]
    assert found.regressions[0].text == "what is y?"
    assert [change.id for change in found.improvements] == ["z"]
    assert len(compare(a, b, worst=1).parts[0].regressions) == 1


def test_where_lower_is_better_more_is_a_loss():
    a = run("a", part(kind="language", records=records("bits_per_byte", x=[8, 8], y=[4, 8])))
    b = run("b", part(kind="language", records=records("bits_per_byte", x=[12, 8], y=[4, 8])))
    (found,) = compare(a, b).parts
    assert found.rows[0].difference.value == pytest.approx(0.25)
    assert (found.rows[0].wins, found.rows[0].losses) == (0, 1)
    assert found.regressions[0].id == "x" and not found.improvements


def test_only_what_both_could_tell_is_compared_and_failures_are_a_metric():
    a = run("a", part(x=1.0, y=0.0, z=0.5))
    b = run("b", failed(part(x=1.0, y=0.0, z=0.5), "y"))
    rows = {row.metric: row for row in compare(a, b).parts[0].rows}
    assert (rows["F1"].a.value, rows["F1"].b.value) == (0.75, 0.75)
    assert (rows["F1"].difference.n, rows["F1"].difference.missing) == (2, 1)
    assert (rows["errors"].a.value, rows["errors"].b.value, rows["errors"].losses) == (0.0, pytest.approx(1 / 3), 1)


def test_a_run_cannot_win_by_failing_on_what_is_hard():
    a, b = run("a", part(x=1.0, y=0.0)), run("b", failed(part(x=1.0, y=0.0), "y"))
    found = compare(a, b, gates=["abs:F1>=0.9", "errors<=0"])
    assert [verdict.passed for verdict in found.gates] == [True, False]


def test_the_main_metrics_are_corrected_apart_from_the_rest():
    """Ten items better by one: p = 2/1024. Two parts: main p doubled; of the others only those that differ count."""
    items = {f"q{number}": number for number in range(10)}

    def made(name, gain):
        return part(
            name,
            "retrieval",
            records={
                item: {
                    "id": item,
                    "text": item,
                    "metrics": {"R@10": gain, "nDCG@10": gain, "RR@10": gain, "Judged@10": 1.0},
                }
                for item in items
            },
        )

    found = compare(run("a", made("one", 0), made("two", 0)), run("b", made("one", 1), made("two", 1)))
    rows = {row.metric: row for row in found.parts[0].rows}
    p = 2 / 1024
    assert [row.metric for row in found.parts[0].rows if row.main] == ["nDCG@10"]
    assert rows["nDCG@10"].p == p and rows["nDCG@10"].adjusted == pytest.approx(2 * p)
    assert rows["R@10"].adjusted == rows["RR@10"].adjusted == pytest.approx(4 * p)
    assert (rows["Judged@10"].p, rows["Judged@10"].adjusted) == (1.0, 1.0)


def test_items_of_one_document_are_not_counted_as_several_witnesses():
    one = {item: record | {"cluster": "doc"} for item, record in records(a=0, b=0, c=0, d=0, e=0, f=0).items()}
    two = {item: record | {"metrics": {"F1": 1}} for item, record in one.items()}
    row = compare(run("a", part(records=one)), run("b", part(records=two))).parts[0].rows[0]
    assert (row.difference.value, row.difference.low, row.p) == (1.0, None, 1.0)


def test_times_are_compared_by_stage():
    def timed(milliseconds):
        made = {item: record | {"timings": {"search": milliseconds}} for item, record in records(x=1, y=1).items()}
        return part(records=made, timings={"search": {"p50": milliseconds, "p99": milliseconds}})

    found = compare(run("a", timed(10.0)), run("b", timed(12.0)), gates=["search.p50<=1", "abs:search.p99<=12"])
    times = found.parts[0].timings["search"]
    assert (times["a"]["p50"], times["b"]["p50"], times["difference"]["value"]) == (10.0, 12.0, 2.0)
    assert [verdict.passed for verdict in found.gates] == [False, True]


def test_settings_and_models_that_differ_are_named():
    a = run("a", part("x", settings={"pipeline": "lexical", "k": 5}, y=1.0))
    b = run("b", part("x", settings={"pipeline": "hybrid", "k": 5}, y=1.0))
    b.manifest["parts"] = {"x": {"relies_on": {"embedding": {"weights": "1234"}}}}
    assert compare(a, b).parts[0].settings == {"pipeline": ("lexical", "hybrid"), "embedding.weights": (None, "1234")}


def test_everything_can_be_written_as_json():
    a, b = run("a", part(x=1.0, y=0.0)), run("b", part(x=0.0, y=0.0))
    value = json.loads(json.dumps(compare(a, b, gates=["F1>=0"]).to_json(), allow_nan=False))
    assert value["parts"][0]["rows"][0]["difference"]["value"] == -0.5
    assert value["parts"][0]["regressions"][0]["before"]["text"] == "what is x?"
    assert value["passed"] is False and value["gates"][0]["gate"] == "F1>=0"


# --- several seeds ---------------------------------------------------------------------------------------------------


def test_parts_under_several_seeds_are_one_part_with_the_spread_of_seeds():
    def seeded(*shifts):
        items = {f"q{number}": number / 40 for number in range(40)}
        return [
            part(f"answers@{seed}", **{item: value + shift for item, value in items.items()})
            for seed, shift in enumerate(shifts)
        ]

    noisy, steady = run("a", *seeded(-0.08, 0.0, 0.08)), run("b", *seeded(0.02, 0.021, 0.022))
    (found,) = compare(noisy, steady).parts
    assert (found.name, found.seeds) == ("answers", (3, 3))
    assert found.rows[0].difference.value == pytest.approx(0.021)
    assert found.rows[0].difference.low < -0.1 and found.rows[0].p > 0.5
    single = compare(noisy, steady, parts=[("answers@0", "answers@0")]).parts[0]
    assert single.seeds == (1, 1) and single.rows[0].difference.value == pytest.approx(0.1)
    assert not compare(noisy, steady, gates=["F1>=0@95"]).passed and compare(noisy, steady, gates=["F1>=0"]).passed


# --- what is refused -------------------------------------------------------------------------------------------------


def test_other_data_is_refused_with_the_name_of_the_file():
    a, b = run("a", part(x=1.0)), run("b", part(data={"/elsewhere/qa.jsonl": "b" * 64}, x=1.0))
    with pytest.raises(UsageError, match=r"/data/qa.jsonl was not the same for 'a' and 'b'.*different data"):
        compare(a, b)
    b = run("b", part(data=DATA | {"/data/corpus.jsonl": "c" * 64}, x=1.0))
    with pytest.raises(UsageError, match=r"/data/corpus.jsonl was measured for 'b' only"):
        compare(a, b)


def test_the_same_data_in_another_folder_is_the_same_data():
    a, b = run("a", part(x=1.0)), run("b", part(data={"/elsewhere/questions.jsonl": "a" * 64}, x=1.0))
    assert compare(a, b).parts[0].items == 1


def test_what_a_system_wrote_may_differ():
    def judged(folder, digest):
        return part(
            "judge", "judge", data=DATA | {f"{folder}/parts/x/records.jsonl": digest}, settings={"run": folder}, x=1.0
        )

    assert compare(run("a", judged("/runs/one", "1")), run("b", judged("/runs/two", "2"))).parts


def test_other_items_other_questions_and_other_kinds_are_refused():
    a = run("a", part(x=1.0, y=1.0))
    with pytest.raises(UsageError, match="different items, 2 are in one only, for example 'y'"):
        compare(a, run("b", part(x=1.0, z=1.0)))
    with pytest.raises(UsageError, match="'x' asks something else"):
        compare(a, run("b", part(records=records(x=1.0, y=1.0) | {"x": {"text": "why?", "metrics": {}}})))
    with pytest.raises(UsageError, match="measured answers and 'b' judge"):
        compare(a, run("b", part(kind="judge", x=1.0, y=1.0)))


def test_a_run_that_was_stopped_is_refused_until_it_is_finished():
    stopped = replace(part(x=1.0), items=3)
    with pytest.raises(UsageError, match="'b' holds 1 of 3 items; run it again"):
        compare(run("a", part(x=1.0)), run("b", stopped))


def test_parts_are_matched_by_name_or_as_told():
    a = run("a", part("scifact", x=1.0), part("old", x=1.0))
    b = run("b", part("scifact", x=0.0), part("new", x=0.5))
    found = compare(a, b)
    assert [each.name for each in found.parts] == ["scifact"]
    assert (found.only_a, found.only_b) == (("old",), ("new",))
    told = compare(a, b, parts=[("old", "new")])
    assert told.parts[0].name == "old → new" and told.parts[0].rows[0].difference.value == -0.5
    within = compare(a, a, parts=[("scifact", "old")])
    assert within.parts[0].rows[0].difference.value == 0.0
    with pytest.raises(UsageError, match=r"'b' has no part 'old'; it has 'scifact', 'new'"):
        compare(a, b, parts=[("old", "old")])
    with pytest.raises(UsageError, match="no part in common"):
        compare(a, run("c", part("other", x=1.0)))


def test_two_runs_of_one_part_each_need_no_names():
    assert (
        compare(run("a", part("lexical", x=1.0)), run("b", part("hybrid", x=1.0))).parts[0].name == "lexical → hybrid"
    )


# --- gates -----------------------------------------------------------------------------------------------------------


def test_a_gate_holds_for_every_part_that_has_the_metric():
    a = run(
        "a",
        part("one", x=0.5, y=0.5),
        part("two", x=0.5, y=0.5),
        part("judge", "judge", records=records("faithfulness", x=1.0)),
    )
    b = run(
        "b",
        part("one", x=0.5, y=0.6),
        part("two", x=0.5, y=0.4),
        part("judge", "judge", records=records("faithfulness", x=1.0)),
    )
    found = compare(a, b, gates=["F1>=0", "two/F1>=-0.1"])
    assert [(verdict.part, verdict.passed) for verdict in found.gates] == [("one", True), ("two", False), ("two", True)]


def test_a_metric_that_one_run_lacks_fails_its_gate():
    a = run("a", part(records=records("F1", x=1.0)))
    b = run("b", part(records=records("EM", x=1.0)))
    found = compare(a, b, gates=["F1>=-1", "abs:EM>=1"])
    assert [verdict.passed for verdict in found.gates] == [False, True]
    with pytest.raises(UsageError, match="F1, errors, EM"):
        compare(a, b, gates=["ROUGE-L>=0"])


def test_a_gate_with_its_own_confidence_takes_that_interval():
    values = {f"q{number}": number % 2 for number in range(30)}
    a = run("a", part(**dict.fromkeys(values, 0.45)))
    b = run("b", part(**values))
    ends = [compare(a, b, gates=[f"F1>=0@{level}"]).gates[0].value for level in (60, 95, 99)]
    assert ends[0] > ends[1] > ends[2]
    assert compare(a, b).parts[0].rows[0].difference.low == pytest.approx(ends[1])


# --- a broken retriever ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measures a part of real paragraphs and questions with a search as given, into a run of that name."""
    folder = tmp_path_factory.mktemp("runs")

    def measure(name: str, dataset: Path, search: SearchSettings) -> RunResult:
        part = RetrievalPart(dataset=dataset, pipeline="hybrid", limit=60, k=20)
        tools = Tools(cache=folder / "cache", embedder=lambda: HashingEmbedder(256), search=search)
        return execute(Suite(name, 0, {"xquad": part}, {"xquad": "retrieval"}), folder / name, tools, lambda *_: None)

    return measure


@pytest.mark.slow
def test_the_gate_catches_a_broken_retriever_and_passes_the_same_one(shared_data, measured, monkeypatch):
    dataset = shared_data("xquad_en")
    gates = ["nDCG@10>=-0.01", "nDCG@10>=-0.02@95"]
    before = measured("before", dataset, SearchSettings())
    again = compare(before, measured("again", dataset, SearchSettings()), gates=gates)
    assert again.passed
    (row, *_) = again.parts[0].rows
    assert (row.difference.value, row.ties, row.p) == (0.0, 60, 1.0)

    one_leg = compare(before, measured("one-leg", dataset, SearchSettings(dense_weight=1.0)), gates=gates)
    assert [verdict.passed for verdict in one_leg.gates] == [False, False]
    (row, *_) = one_leg.parts[0].rows
    assert row.metric == "nDCG@10" and row.significant and row.losses > row.wins
    worst = one_leg.parts[0].regressions[0]
    assert worst.a - worst.b > 0.3 and worst.text.endswith("?")

    from retrieval import collection

    monkeypatch.setattr(collection, "ranked", lambda scores, k: sorted(scores.items(), key=lambda item: item[1])[:k])
    reversed_ranks = compare(before, measured("reversed", dataset, SearchSettings()), gates=gates)
    assert not any(verdict.passed for verdict in reversed_ranks.gates)
