"""A run folder: prepared before it works, continued after a kill, never repeated, never mixed, read with suspicion."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from counted_part import CountedPart, attempts, value

from eval.runs import suites
from eval.runs.executing import RunResult, execute, read_run
from eval.runs.parts import Prepared, Tools
from eval.runs.plans import Place, Plan, choose_place, make_plan
from eval.runs.suites import Kind, Suite
from retrieval.errors import BusyError, DamagedError, FathomError, MissingError, UsageError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def counted_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suites.KINDS, "counted", Kind("counted_part", "CountedPart"))  # type: ignore[arg-type]


def quiet(stage: str, done: int, total: int) -> None:
    """A progress that nobody watches."""


def tools(tmp_path: Path, **more: Any) -> Tools:
    return Tools(cache=tmp_path / "cache", **more)


def suite(**parts: CountedPart) -> Suite:
    return Suite("numbers", 0, parts, dict.fromkeys(parts, "counted"))


def measured(tmp_path: Path, wanted: Suite, *, run: str | None = None, fresh: bool = False) -> RunResult:
    """As the command does it."""
    plan = make_plan(wanted, tools(tmp_path))
    place = choose_place(plan, tmp_path / "runs", label=wanted.name, run=run, fresh=fresh)
    if place.found == "finished":
        return read_run(place.folder)
    return execute(wanted, place.folder, tools(tmp_path), quiet, plan=plan, replace=place.found == "replaced")


def placed(tmp_path: Path, wanted: Suite, **more: Any) -> Place:
    return choose_place(make_plan(wanted, tools(tmp_path)), tmp_path / "runs", label=wanted.name, **more)


def test_a_run_holds_its_configuration_its_records_and_its_figures(tmp_path: Path) -> None:
    data = tmp_path / "numbers.txt"
    data.write_text("1 2 3")
    result = measured(
        tmp_path, suite(small=CountedPart(tmp_path / "j", data=data), big=CountedPart(tmp_path / "j", 40))
    )
    manifest = json.loads((result.folder / "run.json").read_text())
    assert manifest == result.manifest
    assert (manifest["status"], manifest["name"]) == ("finished", result.folder.name)
    assert result.folder.name.endswith("-numbers")
    assert manifest["parts"]["small"]["settings"]["items"] == 20
    assert manifest["parts"]["small"]["settings"]["data"] == str(data)
    assert len(manifest["parts"]["small"]["data"][str(data)]) == 64
    assert manifest["environment"]["machine"]["cores"] >= 1 and manifest["environment"]["versions"]["python"]
    assert list(result.parts) == ["small", "big"]
    small = result.parts["small"]
    score = small.estimates["score"]
    assert score.value == pytest.approx(sum(value(number) for number in range(20)) / 20)
    assert score.low is not None and score.high is not None and score.low < score.value < score.high
    ratio = small.estimates["ratio"]
    assert ratio.value == pytest.approx(sum(number % 3 for number in range(20)) / 40), "summed, then divided"
    assert (small.estimates["told"].value, small.estimates["told"].missing) == (None, 20)
    assert small.timings["count"] == {"p50": 9.5, "p90": pytest.approx(17.1), "p99": pytest.approx(18.81), "mean": 9.5}
    assert small.extras == {"curve": [[0.0, 1.0]], "scale": 1.0}
    figures = json.loads((result.folder / "metrics.json").read_text())
    assert figures["parts"]["small"]["counts"] == {
        "items": 20,
        "done": 20,
        "errors": 0,
        "missing": {"score": 0, "ratio": 0, "told": 20},
        "n": {"score": 20, "ratio": 20, "told": 0},
    }
    assert not [file for file in result.folder.rglob("*.new")]


def test_items_of_one_cluster_are_resampled_together(tmp_path: Path) -> None:
    """Two clusters of ten with one score each: the interval spans both, however many items there are."""
    from eval.figures.statistics import estimates

    result = measured(tmp_path, suite(a=CountedPart(tmp_path / "j", 40)))
    scores = {"score": {str(number): value(number) for number in range(40)}}
    clusters = {str(number): f"decade {number // 10}" for number in range(40)}
    found, alone = result.parts["a"].estimates["score"], estimates(scores)["score"]
    assert found == estimates(scores, clusters=clusters)["score"]
    assert (found.low, found.high) != (alone.low, alone.high)


def test_reading_gives_what_executing_gave(tmp_path: Path) -> None:
    result = measured(tmp_path, suite(a=CountedPart(tmp_path / "j"), b=CountedPart(tmp_path / "j", 5, scale=0.5)))
    assert read_run(result.folder) == result


def test_a_finished_run_is_not_measured_again(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    first = measured(tmp_path, suite(a=CountedPart(journal)))
    assert measured(tmp_path, suite(a=CountedPart(journal))) == first
    assert len(attempts(journal)) == 20
    again = measured(tmp_path, suite(a=CountedPart(journal)), fresh=True)
    assert again.folder != first.folder and len(attempts(journal)) == 40
    assert again.parts["a"].estimates == first.parts["a"].estimates


@pytest.mark.parametrize("change", [{"scale": 0.5}, {"items": 21}, {"seed": 1}])
def test_other_settings_are_another_run(tmp_path: Path, change: dict[str, Any]) -> None:
    first = measured(tmp_path, suite(a=CountedPart(tmp_path / "j")))
    other = measured(tmp_path, suite(a=CountedPart(tmp_path / "j", **change)))
    assert other.folder != first.folder
    assert other.manifest["config_hash"] != first.manifest["config_hash"]


def test_the_seed_of_the_resamples_is_part_of_the_configuration(tmp_path: Path) -> None:
    part = {"a": CountedPart(tmp_path / "j")}
    assert placed(tmp_path, Suite("n", 0, part, {"a": "counted"})).found == "new"
    first = measured(tmp_path, Suite("n", 0, part, {"a": "counted"}))
    assert placed(tmp_path, Suite("n", 0, part, {"a": "counted"})) == Place(first.folder, "finished")
    assert placed(tmp_path, Suite("n", 1, part, {"a": "counted"})).found == "new"


def test_another_model_behind_the_same_name_is_another_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Relying(CountedPart):
        """As a part that leaves it to its kind what it relies on."""

        def prepare(self, tools: Tools) -> Prepared:
            return replace(super().prepare(tools), relies_on=None)

    class Lexical(Relying):
        pipeline = "lexical"

    kind = Kind("counted_part", "CountedPart", ("embedding", "search"))
    monkeypatch.setitem(suites.KINDS, "counted", kind)  # type: ignore[arg-type]

    def plan_of(made: type[CountedPart], weights: str) -> Plan:
        at_hand = tools(tmp_path, identity=lambda topic, *words: {topic: weights if topic == "embedding" else "same"})
        return make_plan(suite(a=made(tmp_path / "j")), at_hand)

    assert plan_of(Relying, "x").facts["a"]["relies_on"] == {
        "embedding": {"embedding": "x"},
        "search": {"search": "same"},
    }
    assert plan_of(Relying, "x").config_hash == plan_of(Relying, "x").config_hash != plan_of(Relying, "y").config_hash
    assert plan_of(Lexical, "x").config_hash == plan_of(Lexical, "y").config_hash, "it has no use for that model"


def test_what_a_part_names_itself_is_asked_for_by_its_word(tmp_path: Path) -> None:
    class Speaking(CountedPart):
        engine = "http://127.0.0.1:1"

        def prepare(self, tools: Tools) -> Prepared:
            return replace(super().prepare(tools), relies_on=("engine", "search"))

    asked = tools(tmp_path, identity=lambda *asked: list(asked))
    told = make_plan(suite(a=Speaking(tmp_path / "j")), asked).facts["a"]["relies_on"]
    assert told == {"engine": ["engine", "http://127.0.0.1:1"], "search": ["search"]}


def test_all_problems_of_all_parts_are_found_before_any_work(tmp_path: Path) -> None:
    missing = tmp_path / "missing.txt"
    wanted = suite(
        good=CountedPart(tmp_path / "j"),
        bad=CountedPart(tmp_path / "j", data=missing),
        worse=CountedPart(tmp_path / "j", data=tmp_path / "neither"),
    )
    with pytest.raises(FathomError) as caught:
        measured(tmp_path, wanted)
    assert str(missing) in str(caught.value) and "neither" in str(caught.value)
    assert "'bad'" in str(caught.value) and "'worse'" in str(caught.value)
    assert not attempts(tmp_path / "j")
    assert not (tmp_path / "runs").exists()


def test_an_optional_part_without_its_data_is_skipped_and_said_to_be(tmp_path: Path) -> None:
    parts = {"a": CountedPart(tmp_path / "j"), "b": CountedPart(tmp_path / "j", data=tmp_path / "absent")}
    wanted = Suite("n", 0, parts, dict.fromkeys(parts, "counted"), optional=frozenset({"a", "b"}))
    (tmp_path / "j").touch()
    result = measured(tmp_path, wanted)
    assert list(result.parts) == ["a"]
    assert result.manifest["skipped"] == {"b": f"{tmp_path / 'absent'} is not there"}
    parts.pop("a")
    with pytest.raises(MissingError, match="nothing to measure"):
        make_plan(Suite("n", 0, parts, {"b": "counted"}, optional=frozenset({"b"})), tools(tmp_path))


def test_failed_items_are_counted_kept_out_of_figures_and_tried_again(tmp_path: Path) -> None:
    broken, journal = tmp_path / "broken", tmp_path / "j"
    broken.write_text("3 7")
    wanted = suite(a=CountedPart(journal, broken_file=broken))
    first = measured(tmp_path, wanted)
    assert first.manifest["status"] == "finished with errors" and first.failed
    assert (first.parts["a"].errors, first.parts["a"].estimates["score"].n) == (2, 18)
    assert 3.0 not in [found["timings"].get("count") for found in first.parts["a"].records.values()]
    assert measured(tmp_path, wanted).parts["a"].errors == 2
    broken.write_text("")
    mended = measured(tmp_path, wanted)
    assert mended.folder == first.folder and mended.manifest["status"] == "finished" and not mended.failed
    assert mended.parts["a"].estimates["score"].n == 20
    assert sorted(attempts(journal)) == sorted([*range(20), 3, 7, 3, 7])


def test_a_part_that_gives_up_leaves_its_error_and_the_next_one_runs(tmp_path: Path) -> None:
    broken, journal = tmp_path / "broken", tmp_path / "j"
    broken.write_text(" ".join(map(str, range(5, 20))))
    wanted = suite(a=CountedPart(journal, broken_file=broken), b=CountedPart(tmp_path / "j2"))
    first = measured(tmp_path, wanted)
    assert "5 items in a row failed" in (first.parts["a"].error or "")
    assert first.manifest["status"] == "finished with errors"
    assert (first.parts["a"].estimates["score"].n, first.parts["b"].estimates["score"].n) == (5, 20)
    assert read_run(first.folder) == first
    broken.write_text("")
    mended = measured(tmp_path, wanted)
    assert mended.folder == first.folder and not mended.failed
    assert mended.parts["a"].estimates["score"].n == 20
    assert sorted(attempts(tmp_path / "j2")) == list(range(20)), "the part that was finished is not repeated"


def test_a_name_with_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    first = measured(tmp_path, suite(a=CountedPart(tmp_path / "j")), run="base")
    assert first.folder.name == "base"
    with pytest.raises(UsageError, match=r"a\.scale was 1\.0, is 0\.5.*--fresh") as caught:
        measured(tmp_path, suite(a=CountedPart(tmp_path / "j", scale=0.5)), run="base")
    assert "items" not in str(caught.value)
    with pytest.raises(UsageError, match="b was not there, is there"):
        measured(tmp_path, suite(a=CountedPart(tmp_path / "j"), b=CountedPart(tmp_path / "j")), run="base")
    assert read_run(first.folder) == first


def test_fresh_with_a_name_replaces_that_run_and_leaves_notes_beside_it(tmp_path: Path) -> None:
    measured(tmp_path, suite(a=CountedPart(tmp_path / "j")), run="base")
    (tmp_path / "runs" / "base" / "notes.txt").write_text("mine")
    other = measured(tmp_path, suite(b=CountedPart(tmp_path / "j", 5)), run="base", fresh=True)
    assert list(other.parts) == ["b"]
    assert sorted(file.name for file in (other.folder / "parts").iterdir()) == ["b"]
    assert (other.folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 200, "a\nb", "ends."])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a run"):
        placed(tmp_path, suite(a=CountedPart(tmp_path / "j")), run=name)


def test_a_folder_that_is_no_run_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "runs" / "thesis").mkdir(parents=True)
    (tmp_path / "runs" / "thesis" / "chapter.txt").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(UsageError, match="is no run"):
            measured(tmp_path, suite(a=CountedPart(tmp_path / "j")), run="thesis", fresh=fresh)


def test_a_run_that_was_killed_before_it_wrote_anything_is_begun(tmp_path: Path) -> None:
    (tmp_path / "runs" / "base").mkdir(parents=True)
    (tmp_path / "runs" / "base" / ".lock").touch()
    (tmp_path / "runs" / "base" / ".run.json.new").write_text("{")
    assert measured(tmp_path, suite(a=CountedPart(tmp_path / "j")), run="base").manifest["status"] == "finished"


def test_data_that_changed_under_an_unfinished_run_is_named(tmp_path: Path) -> None:
    data, broken = tmp_path / "data.txt", tmp_path / "broken"
    data.write_text("old")
    broken.write_text("3")
    wanted = suite(a=CountedPart(tmp_path / "j", data=data, broken_file=broken))
    first = measured(tmp_path, wanted)
    data.write_text("new")
    for run in (None, first.name):
        with pytest.raises(UsageError, match=r"data\.txt has changed since the run"):
            measured(tmp_path, wanted, run=run)
    data.write_text("old")
    assert placed(tmp_path, wanted) == Place(first.folder, "unfinished")


def test_data_that_changed_after_a_run_was_finished_is_a_new_run(tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("old")
    wanted = suite(a=CountedPart(tmp_path / "j", data=data))
    first = measured(tmp_path, wanted)
    data.write_text("new")
    assert measured(tmp_path, wanted).folder != first.folder


def test_two_processes_do_not_measure_into_one_folder(tmp_path: Path) -> None:
    wanted = suite(a=CountedPart(tmp_path / "j", seconds=0.2, items=1000))
    with _child(tmp_path, "base", items=1000, seconds=0.2) as child:
        _wait_for(lambda: _lines(tmp_path / "runs" / "base") >= 1, child)
        with pytest.raises(BusyError, match=r"the run 'base' is being changed by process \d+ \(measuring\)"):
            execute(wanted, tmp_path / "runs" / "base", tools(tmp_path), quiet)


def test_reading_while_it_is_written_gives_what_is_finished(tmp_path: Path) -> None:
    with _child(tmp_path, "base", items=1000, seconds=0.05) as child:
        _wait_for(lambda: _lines(tmp_path / "runs" / "base") >= 3, child)
        result = read_run(tmp_path / "runs" / "base")
    assert result.manifest["status"] == "unfinished"
    assert 3 <= len(result.parts["a"].records) < 1000
    assert result.parts["a"].estimates["score"].n == len(result.parts["a"].records)


CHILD = """
import json, resource, sys
from pathlib import Path
from counted_part import CountedPart
from eval.runs import suites
from eval.runs.parts import Tools
from eval.runs.executing import execute
from retrieval.errors import FathomError

folder, settings, limit = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
suites.KINDS["counted"] = suites.Kind("counted_part", "CountedPart")
journal = Path(settings.pop("journal"))
parts = {"a": CountedPart(journal, **settings), "b": CountedPart(journal.with_name("jb"), **settings | {"scale": 0.5})}
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    execute(suites.Suite("numbers", 0, parts, dict.fromkeys(parts, "counted")), folder, Tools(cache=folder),
            lambda *said: None)
except OSError as error:
    sys.exit(f"errno {error.errno}")
"""


class _child:
    """A process that measures parts a and b into runs/NAME; killed at the end at the latest."""

    def __init__(self, tmp_path: Path, name: str, *, limit: int = 0, **settings: Any) -> None:
        settings["journal"] = str(tmp_path / "j")
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "runs" / name), json.dumps(settings), str(limit)],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> subprocess.Popen[str]:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def _lines(folder: Path, part: str = "a") -> int:
    file = folder / "parts" / part / "records.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _wait_for(condition: Any, child: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert child.poll() is None, f"it ended by itself: {child.stderr and child.stderr.read()}"
        assert time.monotonic() < end, "the child did not get there"
        time.sleep(0.002)


def _suite_of_child(journal: Path, **settings: Any) -> Suite:
    return suite(
        a=CountedPart(journal, **settings), b=CountedPart(journal.with_name("jb"), **settings | {"scale": 0.5})
    )


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path: Path, concurrency: int) -> None:
    settings: dict[str, Any] = {"items": 24, "seconds": 0.01, "concurrency": concurrency}
    folder, journal = tmp_path / "runs" / "killed", tmp_path / "j"
    (tmp_path / "calm").mkdir()
    calm = execute(
        _suite_of_child(tmp_path / "calm" / "j", **settings), tmp_path / "calm" / "r", tools(tmp_path), quiet
    )
    journals = {"a": journal, "b": journal.with_name("jb")}
    known: dict[str, set[str]] = {"a": set(), "b": set()}
    for part, lines in (("a", 1), ("a", 6), ("a", 17), ("b", 2), ("b", 15)):
        begun = {name: len(attempts(file)) for name, file in journals.items()}
        with _child(tmp_path, "killed", **settings) as child:
            _wait_for(lambda part=part, lines=lines: _lines(folder, part) >= lines, child)
        assert json.loads((folder / "run.json").read_text())["status"] == "unfinished"
        for name, file in journals.items():
            again = {str(number) for number in attempts(file)[begun[name] :]}
            assert not again & known[name], "nothing that was finished is done twice"
        found = {name: set(result.records) for name, result in read_run(folder).parts.items()}
        assert all(known[name] <= found.get(name, set()) for name in known), "what was finished stays"
        known |= found
    result = execute(_suite_of_child(journal, **settings), folder, tools(tmp_path), quiet)
    for name, file in journals.items():
        assert len(attempts(file)) <= 24 + 5 * concurrency, "a kill costs the items in the making"
        assert set(result.parts[name].records) == {str(number) for number in range(24)}, "and nothing is missing"
        assert result.parts[name].estimates == calm.parts[name].estimates
        assert result.parts[name].timings == calm.parts[name].timings
        assert _lines(folder, name) == 24
    assert result.manifest["status"] == "finished"


def test_a_file_that_can_grow_no_more_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE fails in the middle of a write, as a full disk does; each record here takes about 200 bytes."""
    settings = {"items": 60}
    folder = tmp_path / "runs" / "full"
    with _child(tmp_path, "full", limit=9_001, **settings) as child:
        assert child.wait(timeout=120) == 1
        assert child.stderr is not None and "errno 27" in child.stderr.read()
    kept = set(read_run(folder).parts["a"].records)
    assert 10 < len(kept) < 60
    begun = len(attempts(tmp_path / "j"))
    result = execute(_suite_of_child(tmp_path / "j", **settings), folder, tools(tmp_path), quiet)
    assert {str(number) for number in attempts(tmp_path / "j")[begun:]}.isdisjoint(kept)
    assert len(result.parts["a"].records) == 60 and _lines(folder) == 60


def _break(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 3}', "[" * 100_000, '{"parts": {"../../x": {}}}', "\x00"])
@pytest.mark.parametrize("file", ["run.json", "metrics.json"])
def test_a_damaged_run_says_which_file_and_what_to_do(tmp_path: Path, file: str, text: str) -> None:
    folder = measured(tmp_path, suite(a=CountedPart(tmp_path / "j"))).folder
    _break(folder / file, text)
    with pytest.raises(DamagedError, match=rf"{file}.*remove"):
        read_run(folder)


def test_figures_that_do_not_belong_to_the_records_are_made_again(tmp_path: Path) -> None:
    result = measured(tmp_path, suite(a=CountedPart(tmp_path / "j")))
    lines = (result.parts["a"].folder / "records.jsonl").read_text().splitlines(keepends=True)
    (result.parts["a"].folder / "records.jsonl").write_text("".join(lines[:10]))
    assert read_run(result.folder).parts["a"].estimates["score"].n == 10
    (result.folder / "metrics.json").unlink()
    assert read_run(result.folder).parts["a"].estimates["score"].n == 10


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run"):
        read_run(tmp_path)
    with pytest.raises(UsageError, match="is no run"):
        read_run(tmp_path / "nowhere")


def test_a_symlinked_or_damaged_run_is_not_taken_up(tmp_path: Path) -> None:
    wanted = suite(a=CountedPart(tmp_path / "j"))
    first = measured(tmp_path, wanted)
    elsewhere = tmp_path / "elsewhere"
    first.folder.rename(elsewhere)
    first.folder.symlink_to(elsewhere)
    assert placed(tmp_path, wanted).found == "new"
    first.folder.unlink()
    elsewhere.rename(first.folder)
    assert placed(tmp_path, wanted).found == "finished"
    _break(first.folder / "run.json", "{}")
    assert placed(tmp_path, wanted).found == "new"
