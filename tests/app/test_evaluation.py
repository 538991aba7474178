"""`fathom eval run` and `runs`, and what every measuring command shares: tables, JSON, exit codes, names of runs."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from counted_part import CountedPart, attempts
from typer.testing import CliRunner

from app.cli import app
from app.commands.evaluation.options import Ended
from app.commands.options import begin
from app.evaluation import RunOptions, measure, model_hash, run_folder, show, tools
from app.settings import load_settings
from eval.runs import suites
from eval.runs.plans import TOPICS
from eval.runs.suites import Kind
from retrieval.errors import FathomError, UsageError

ROOT = Path(__file__).resolve().parents[2]
Fathom = Callable[..., Any]
SUITE = """\
name: numbers
parts:
  small: {kind: counted, journal: small.txt, items: 5, data: data.txt, broken_file: broken.txt}
  large: {kind: counted, journal: large.txt, items: 30}
"""


@pytest.fixture(autouse=True)
def counted_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suites.KINDS, "counted", Kind("counted_part", "CountedPart"))  # type: ignore[arg-type]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite of two parts beside its data."""
    (tmp_path / "data.txt").write_text("1 2 3")
    (tmp_path / "broken.txt").write_text("")
    (tmp_path / "numbers.yaml").write_text(SUITE)
    return tmp_path / "numbers.yaml"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def fathom(workspace: Path) -> Fathom:
    """Runs a command; `code` is the exit code it must have."""

    def call(*arguments: object, code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["eval", *map(str, arguments), "--workspace", str(workspace)])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return call


def test_a_suite_is_measured_and_its_figures_are_a_table(fathom: Fathom, suite: Path, workspace: Path) -> None:
    said = fathom("run", suite)
    rows = [line.split("\t") for line in said.stdout.splitlines()]
    assert rows[0] == ["part", "headline (95 % interval)", "n", "errors", "time"]
    assert [(row[0], row[2], row[3]) for row in rows[1:]] == [("small", "5", ""), ("large", "30", "")]
    assert "score 0." in rows[2][1] and "–" in rows[2][1]
    (folder,) = (workspace / "runs").iterdir()
    assert f"run: {folder}" in said.stderr and f"fathom eval report {folder.name}" in said.stderr
    assert sorted(file.name for file in folder.iterdir() if file.suffix) == ["metrics.json", "run.json"]


def test_the_same_command_again_shows_and_does_not_measure(fathom: Fathom, suite: Path, tmp_path: Path) -> None:
    first = fathom("run", suite)
    again = fathom("run", suite)
    assert "measured already on 20" in again.stderr and "--fresh measures again" in again.stderr
    assert again.stdout == first.stdout
    assert len(attempts(tmp_path / "small.txt")) == 5
    fathom("run", suite, "--fresh")
    assert len(attempts(tmp_path / "small.txt")) == 10


def test_json_says_everything_once(fathom: Fathom, suite: Path, workspace: Path) -> None:
    said = json.loads(fathom("run", suite, "--json", "--run", "base").stdout)
    assert said["run"]["name"] == "base" and said["run"]["status"] == "finished"
    assert said["run"]["folder"] == str(workspace / "runs" / "base")
    large = said["parts"]["large"]
    low, high = large["intervals"]["score"]
    assert low < large["metrics"]["score"] < high
    assert large["counts"]["done"] == 30 and large["metrics"]["told"] is None


def test_items_with_errors_end_with_3_and_are_tried_again(fathom: Fathom, suite: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.txt").write_text("2")
    said = fathom("run", suite, code=3)
    assert "small, 2: number 2 is broken (1 error)" in said.stderr
    assert json.loads(fathom("run", suite, "--json", code=3).stdout)["parts"]["small"]["counts"]["errors"] == 1
    (tmp_path / "broken.txt").write_text("")
    mended = fathom("run", suite)
    assert "going on with" in mended.stderr
    assert sorted(attempts(tmp_path / "small.txt")) == [0, 1, 2, 2, 2, 3, 4]
    assert len(attempts(tmp_path / "large.txt")) == 30
    fathom("runs")


def test_a_part_that_gives_up_is_said_to_and_ends_with_3(fathom: Fathom, suite: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.txt").write_text("0 1 2 3 4")
    said = fathom("run", suite, code=3)
    assert "small was given up: counting: 5 items in a row failed, the last with 'number 4 is broken'" in said.stderr
    assert said.stdout.splitlines()[2].startswith("large\tscore")


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    fathom: Fathom, suite: Path, workspace: Path, tmp_path: Path
) -> None:
    said = fathom("run", suite, "--dry-run")
    assert "small\tcounted\t5\t5 numbers" in said.stdout
    digest = hashlib.sha256(b"1 2 3").hexdigest()
    assert f"{digest[:16]}\t{tmp_path / 'data.txt'}" in said.stdout
    assert "would be made; nothing was written" in said.stderr
    assert not workspace.exists() or not list(workspace.iterdir())
    assert not attempts(tmp_path / "small.txt")
    plan = json.loads(fathom("run", suite, "--dry-run", "--json").stdout)
    assert plan["found"] == "new" and set(plan["parts"]) == {"small", "large"}
    fathom("run", suite, "--run", "base")
    assert "is finished already" in fathom("run", suite, "--dry-run").stderr


def test_only_data_and_seed_change_what_is_measured(fathom: Fathom, suite: Path, tmp_path: Path) -> None:
    said = json.loads(fathom("run", suite, "--only", "large", "--seed", "4", "--json").stdout)
    assert list(said["parts"]) == ["large"]
    assert said["run"]["seed"] == 4 and said["run"]["parts"]["large"]["settings"]["seed"] == 4
    other = tmp_path / "other"
    other.mkdir()
    for name in ("data.txt", "broken.txt"):
        (other / name).write_text("")
    said = json.loads(fathom("run", suite, "--data", other, "--json").stdout)
    assert said["run"]["parts"]["small"]["settings"]["data"] == str(other / "data.txt")
    assert len(attempts(other / "small.txt")) == 5


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("parts:\n  a: {kind: counted, journal: j, itmes: 3}\n", 2, "line 2: part 'a' has an unknown key 'itmes'"),
        ("parts:\n  a: {kind: counted, journal: j, data: none.txt}\n", 2, "line 2, part 'a': "),
        ("parts: [\n", 2, "not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_suite_is_found_before_anything_is_written(
    fathom: Fathom, suite: Path, workspace: Path, text: str, code: int, said: str
) -> None:
    suite.write_text(text)
    result = fathom("run", suite, code=code)
    assert result.stderr.startswith("fathom: ") and said in result.stderr
    assert not workspace.exists() or not list(workspace.iterdir())


def test_a_run_name_with_another_configuration_is_refused(fathom: Fathom, suite: Path) -> None:
    fathom("run", suite, "--run", "base")
    suite.write_text(SUITE.replace("items: 30", "items: 31"))
    assert "large.items was 30, is 31" in fathom("run", suite, "--run", "base", code=2).stderr
    fathom("run", suite, "--run", "base", "--fresh")


def test_runs_are_listed_with_the_newest_first(fathom: Fathom, suite: Path, workspace: Path) -> None:
    assert "there is no run in" in fathom("runs").stderr
    assert json.loads(fathom("runs", "--json").stdout) == []
    fathom("run", suite, "--run", "old")
    manifest = json.loads((workspace / "runs" / "old" / "run.json").read_text())
    (workspace / "runs" / "old" / "run.json").write_text(json.dumps(manifest | {"started": "2001-01-01T00:00:00Z"}))
    fathom("run", suite, "--run", "new", "--seed", "2")
    rows = [line.split("\t") for line in fathom("runs").stdout.splitlines()]
    assert [row[0] for row in rows] == ["run", "new", "old"]
    assert rows[1][2] == "finished" and "small: score" in rows[1][3]
    listed = json.loads(fathom("runs", "--json").stdout)
    assert [entry["name"] for entry in listed] == ["new", "old"]
    assert listed[0]["parts"]["large"]["counts"]["done"] == 30
    (workspace / "runs" / "new" / "metrics.json").write_text("{")
    assert "metrics.json cannot be read" in fathom("runs").stderr


def test_a_run_is_found_by_name_by_path_and_as_the_latest(fathom: Fathom, suite: Path, workspace: Path) -> None:
    settings = load_settings(workspace)
    with pytest.raises(UsageError, match="there is none"):
        run_folder(settings, "latest")
    fathom("run", suite, "--run", "base")
    folder = workspace / "runs" / "base"
    assert run_folder(settings, "base") == run_folder(settings, str(folder)) == run_folder(settings, "latest") == folder
    with pytest.raises(UsageError, match="the newest are base"):
        run_folder(settings, "bass")


# --- one part by itself ----------------------------------------------------------------------------------------------


def test_one_part_is_shown_with_all_its_figures(
    tmp_path: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin(workspace, False)
    Ended.code = 0
    result = measure(run, "counted", "my numbers", CountedPart(tmp_path / "j", 12), RunOptions())
    assert result is not None
    show(run, result)
    said = capsys.readouterr()
    lines = [line.split("\t") for line in said.out.splitlines()]
    assert lines[0] == ["measure", "value", "95 % interval", "n", "missing"]
    assert {line[0]: line[3:] for line in lines[1:4]} == {
        "score": ["12", ""],
        "ratio": ["12", ""],
        "told": ["0", "12"],
    }
    assert ["count", "5.5", "9.9", "10.9", "5.5"] in lines
    assert "-counted-my-numbers" in said.err and "12 items of my-numbers measured" in said.err
    assert Ended.code == 0


def test_one_part_as_json_has_the_figures_and_the_run(
    tmp_path: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin(workspace, True)
    result = measure(run, "counted", "n", CountedPart(tmp_path / "j"), RunOptions(run="base", seed=3))
    assert result is not None
    show(run, result, extra_json={"more": 1})
    said = json.loads(capsys.readouterr().out)
    assert set(said) == {"metrics", "intervals", "counts", "timings", "extras", "seconds", "run", "more"}
    assert said["run"]["folder"] == str(workspace / "runs" / "base")
    assert (said["run"]["kind"], said["run"]["seed"], said["run"]["settings"]["items"]) == ("counted", 3, 20)


def test_errors_are_shown_and_become_the_exit_code(
    tmp_path: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken").write_text("4")
    part = CountedPart(tmp_path / "j", broken_file=tmp_path / "broken")
    run = begin(workspace, False)
    Ended.code = 0
    result = measure(run, "counted", "n", part, RunOptions())
    assert result is not None
    show(run, result)
    assert "1 of 20 items ended in an error" in capsys.readouterr().err
    assert Ended.code == 3
    (tmp_path / "broken").write_text(" ".join(map(str, range(20))))
    with pytest.raises(FathomError, match="5 items in a row failed"):
        measure(run, "counted", "n", part, RunOptions(fresh=True))


def test_a_relative_path_means_the_same_data_from_anywhere(
    tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = measure(begin(workspace, True), "counted", "n", CountedPart(Path("j")), RunOptions())
    assert result is not None and result.settings["journal"] == str(tmp_path / "j")


def test_a_dry_run_of_one_part_gives_no_result(
    tmp_path: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        measure(begin(workspace, False), "counted", "n", CountedPart(tmp_path / "j"), RunOptions(dry_run=True)) is None
    )
    assert "20 numbers" in capsys.readouterr().out
    assert not attempts(tmp_path / "j")


# --- tools -----------------------------------------------------------------------------------------------------------


def test_what_decides_results_is_told_by_topic(workspace: Path, tmp_path: Path) -> None:
    model, other = tmp_path / "model.gguf", tmp_path / "other.gguf"
    model.write_bytes(b"weights")
    other.write_bytes(b"other weights")
    flags = {"engine": {"model": model, "threads": 3, "temperature": 0.5}, "splitting": {"passage_tokens": 99}}
    identity = tools(load_settings(workspace, flags=flags, environment={})).identity
    assert identity("splitting")["passage_tokens"] == 99
    assert identity("engine") == {
        "max_new_tokens": None,
        "temperature": 0.5,
        "repetition_penalty": None,
        "weights": model_hash(model),
    }, "threads change times only"
    assert identity("engine", None) == identity("engine", "embedded")
    assert identity("rewriter", str(model)) == identity("engine", None) | {"asked_as": str(model)}
    assert identity("engine", str(other))["weights"] == model_hash(other)
    assert identity("engine", "http://127.0.0.1:1/v1#m")["url"] == "http://127.0.0.1:1/v1#m"
    assert identity("rewriter", "previous") == identity("rewriter", None) is identity("reranker", None) is None
    assert set(identity("search")) >= {"dense_weight", "depth", "tokeniser"}
    assert len(identity("embedding")["weights"]) == 64
    assert identity("answer")["context_tokens"] > 0
    with pytest.raises(UsageError, match="no engine"):
        identity("engine", "no-such-engine")


def test_the_key_of_a_server_is_not_told(workspace: Path) -> None:
    variables = {"FATHOM_ENGINE_URL": "http://127.0.0.1:1/v1", "FATHOM_ENGINE_API_KEY": "sesame"}
    identity = tools(load_settings(workspace, environment=variables)).identity
    told = json.dumps([identity("engine"), identity("engine", "server")])
    assert "127.0.0.1:1" in told and "sesame" not in told


def test_every_topic_a_kind_relies_on_can_be_told(workspace: Path) -> None:
    identity = tools(load_settings(workspace, environment={})).identity
    topics = {topic for kind in suites.KINDS.values() for topic in kind.relies_on}
    assert topics <= set(TOPICS)
    for topic in sorted(topics):
        json.dumps(identity(topic, *(None for _ in TOPICS[topic])))


def test_another_model_file_has_another_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    first, folder = model_hash(tmp_path / "a"), model_hash(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    assert model_hash(tmp_path / "a") != first and model_hash(tmp_path) != folder
    with pytest.raises(UsageError, match="cannot be read"):
        model_hash(tmp_path / "none")


# --- a process of its own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["eval", "--help"], ["eval", "run", "--help"], ["eval", "runs", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom app.cli import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = {'torch', 'openvino', 'transformers', 'gradio', 'llama_index', 'faiss', 'tantivy', 'numpy', 'yaml'}\n"
        "print(f'code {code}', *sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stderr.strip() == "code 0"


CHILD = """
from app.cli import main
from eval.runs import suites
from eval.runs.plans import TOPICS
suites.KINDS["counted"] = suites.Kind("counted_part", "CountedPart")
main()
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_so_and_the_next_one_goes_on(
    fathom: Fathom, suite: Path, workspace: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    suite.write_text("parts:\n  a: {kind: counted, journal: j.txt, items: 6, seconds: 0.3, concurrency: 2}\n")
    arguments = ["eval", "run", str(suite), "--run", "base", "--workspace", str(workspace)]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    records = workspace / "runs" / "base" / "parts" / "a" / "records.jsonl"
    end = time.monotonic() + 120
    while not records.exists() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    child.send_signal(sent)
    _, said = child.communicate(timeout=120)
    assert (child.returncode, said.strip()) == (code, "fathom: stopped; everything finished so far is kept")
    kept = {json.loads(line)["id"] for line in records.read_text().splitlines()}
    assert 1 <= len(kept) < 6
    begun = len(attempts(tmp_path / "j.txt"))
    fathom("run", suite, "--run", "base")
    assert {str(number) for number in attempts(tmp_path / "j.txt")[begun:]} == {str(n) for n in range(6)} - kept
