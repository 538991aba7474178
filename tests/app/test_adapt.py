"""`fathom adapt …` as a command: plans, runs, terms and lists on the screen and as JSON; refusals in a sentence."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_models import byte_tokenizer, llama, save
from typer.testing import CliRunner

import adapt.running
from adapt.evidence.gates import GateResult
from adapt.recipe import Recipe
from app.cli import app
from app.commands.adaptation.plan import long_time

SENTENCE = "the cat sat on the mat and the dog sat on the log number {}. "


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = byte_tokenizer()
    return save(tmp_path_factory.mktemp("models") / "tiny", llama(tokenizer), tokenizer)


@pytest.fixture
def recipe(tmp_path: Path, model: Path) -> Path:
    for name in ("domain", "general"):
        lines = [json.dumps({"text": SENTENCE.format(name) * 8 + str(number)}) for number in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    file = tmp_path / "small.yaml"
    file.write_text(
        f"base: {json.dumps(str(model))}\ndata: {{domain: domain.jsonl, general: general.jsonl}}\n"
        "gates: {dapt: [general bits_per_byte <= +1%]}\n"
        "stages:\n  - dapt: {block: 32, batch_tokens: 128, mix: {domain: 0.5, general: rest}}\n",
        encoding="utf-8",
    )
    return file


def fathom(workspace: Path, *words: str) -> Any:
    done = CliRunner().invoke(app, ["adapt", *words, "--workspace", str(workspace)])
    assert "Traceback" not in done.output
    return done


def test_a_plan_is_shown(recipe: Path, tmp_path: Path) -> None:
    done = fathom(tmp_path / "w", "plan", str(recipe))
    assert done.exit_code == 0, done.output
    assert "domain\t57\tabout" in done.stdout and "all weights, domain 50%, general 50%" in done.stdout
    assert "all of it takes about" in done.stderr and "weights" not in done.stdout.split("tokens/s")[0]
    explained = fathom(tmp_path / "w", "plan", str(recipe), "--explain")
    assert "dapt\tmemory\tgradients" in explained.stdout
    assert not (tmp_path / "w").exists() or not list((tmp_path / "w").glob("runs")), "a plan leaves no run"


def test_a_plan_is_json_for_programs(recipe: Path, tmp_path: Path) -> None:
    done = fathom(tmp_path / "w", "plan", str(recipe), "--json", "--set", "stages.dapt.tokens=640")
    said = json.loads(done.stdout)
    assert done.exit_code == 0 and said["recipe"] == "small" and said["refusals"] == []
    assert (said["stages"][0]["tokens"], said["stages"][0]["steps"]) == (640, 5)


def test_a_plan_that_cannot_be_is_shown_with_the_reason(recipe: Path, tmp_path: Path) -> None:
    done = fathom(tmp_path / "w", "plan", str(recipe), "--set", "stages.dapt.tokens=1e9")
    assert done.exit_code == 2 and "cannot run: dapt: 1,000,000,000 tokens with 50% of" in done.stderr
    asked = json.loads(fathom(tmp_path / "w", "plan", str(recipe), "--json", "--root", str(tmp_path / "w2")).stdout)
    assert asked["exit_code"] == 2


USAGE = {
    "no recipe": (["plan"], "RECIPE"),
    "a recipe that is not there": (["plan", "none.yaml"], "cannot be read"),
    "a setting without a value": (["plan", "{recipe}", "--set", "seed"], "is not of the form KEY=VALUE"),
    "a setting twice": (["plan", "{recipe}", "--set", "seed=1", "--set", "seed=2"], "is given twice"),
    "a source without a path": (["run", "{recipe}", "--data", "domain"], "is not of the form NAME=PATH"),
    "a key nobody knows": (["run", "{recipe}", "--set", "stages.dapt.blok=3"], "did you mean 'block'?"),
    "a root that is not there": (["run", "{recipe}", "--root", "/no/such/folder"], "there is no folder"),
    "a run named like a path": (["run", "{recipe}", "--run", "../x"], "cannot name a run"),
    "no process": (["run", "{recipe}", "--processes", "0"], "greater than or equal to 1"),
    "no corpus": (["terms"], "CORPUS"),
    "an empty corpus": (["terms", " "], "no text is named"),
    "a corpus that is not there": (["terms", "none.txt", "--model", "{model}"], "there is no file or folder"),
    "no token": (["terms", "{recipe}", "--tokens", "0"], "greater than or equal to 1"),
    "a report of nothing": (["report", "nothing"], "no run of a recipe 'nothing'"),
    "the latest of none": (["report", "latest"], "there is none in"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_a_sentence_and_exit_2(case: str, recipe: Path, model: Path, tmp_path: Path) -> None:
    words, said = USAGE[case]
    done = fathom(tmp_path / "w", *(word.format(recipe=recipe, model=model) for word in words))
    assert done.exit_code == 2 and said in done.stderr and done.stderr.startswith("fathom: "), done.output
    assert not (tmp_path / "w" / "runs").exists()


# --- run -------------------------------------------------------------------------------------------------------------


@dataclass
class Called:
    """What stands in for the chain of stages: it remembers how it was called and returns `result`."""

    result: Any
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, recipe: Recipe, **options: Any) -> Any:
        self.calls.append({"recipe": recipe, **options})
        return self.result


def figures(label: str, **values: float) -> Any:
    known = {f"{label} {name}": SimpleNamespace(value=value) for name, value in values.items()}
    return SimpleNamespace(figures=known, as_json=lambda: {"figures": {name: one.value for name, one in known.items()}})


def result(folder: Path, *, status: str = "finished", passed: bool = True) -> Any:
    gate = GateResult("general bits_per_byte <= +1%", passed, 0.02, "general bits_per_byte rose by 2.00 %")
    stage = SimpleNamespace(
        name="dapt",
        kind="dapt",
        skipped=False,
        seconds=3.0,
        model=folder / "model",
        facts={},
        measured=figures("general", bits_per_byte=1.02),
        gates=(gate,),
    )
    return SimpleNamespace(
        folder=folder,
        name="small",
        status=status,
        stages=(stage,),
        base=figures("general", bits_per_byte=1.0),
        model=SimpleNamespace(name="small"),
        report=folder / "report.html",
        failed=() if passed else (gate,),
    )


def test_a_run_hands_everything_on_and_shows_what_changed(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = Called(result(tmp_path / "run"))
    monkeypatch.setattr(adapt.running, "run", called)
    words = ("--from", "dapt", "--to", "dapt", "--fresh", "--run", "mine", "--set", "seed=5", "--processes", "1")
    done = fathom(tmp_path / "w", "run", str(recipe), *words)
    assert done.exit_code == 0, done.output
    (call,) = called.calls
    assert call["recipe"].seed == 5 and call["workspace"] == tmp_path / "w" and call["run"] == "mine"
    assert (call["from_stage"], call["to_stage"], call["fresh"], call["processes"]) == ("dapt", "dapt", True, 1)
    assert not call["stop"].is_set()
    assert "general bits_per_byte\t1.0000\t1.0200 (+2.0%)" in done.stdout
    assert "fathom chat --model small" in done.stderr and "report.html" in done.stderr


def test_a_crossed_gate_is_said_and_exit_1(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt.running, "run", Called(result(tmp_path, status="stopped at a gate", passed=False)))
    done = fathom(tmp_path / "w", "run", str(recipe))
    assert done.exit_code == 1
    assert "stopped at the gate 'general bits_per_byte <= +1%': general bits_per_byte rose by 2.00 %" in done.stderr
    said = fathom(tmp_path / "w", "run", str(recipe), "--json")
    assert said.exit_code == 1 and json.loads(said.stdout)["failed"][0]["passed"] is False


def test_a_stopped_run_ends_as_ctrl_c_does(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt.running, "run", Called(result(tmp_path, status="stopped")))
    done = fathom(tmp_path / "w", "run", str(recipe))
    assert done.exit_code == 130 and "everything finished so far is kept" in done.stderr


def test_the_first_signal_asks_and_the_second_ends(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    def slow(recipe: Recipe, **options: Any) -> Any:
        handler = signal.getsignal(signal.SIGTERM)
        assert callable(handler)
        handler(signal.SIGTERM, None)  # not through the kernel: OpenVINO's tracing, in other tests, does not survive it
        assert options["stop"].is_set(), "the first asks for an end at a safe place"
        return result(tmp_path, status="stopped")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(adapt.running, "run", slow)
    done = fathom(tmp_path / "w", "run", str(recipe))
    assert done.exit_code == 143 and "stopping at the next safe place" in done.stderr
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_dry_run_shows_the_plan_and_runs_nothing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = Called(None)
    monkeypatch.setattr(adapt.running, "run", called)
    assert "all weights" in fathom(tmp_path / "w", "run", str(recipe), "--dry-run").stdout
    refused = fathom(tmp_path / "w", "run", str(recipe), "--set", "stages.dapt.tokens=1e9")
    assert refused.exit_code == 2 and "possible are at most" in refused.stderr and not called.calls


# --- terms -----------------------------------------------------------------------------------------------------------


def test_terms_are_listed_with_what_they_save(tmp_path: Path, model: Path) -> None:
    words = ["waterwheel", "waterfall", "millstone", "millrace"]
    lines = [json.dumps({"body": f"the {word} and the {word} sat on line {n}"}) for n in range(40) for word in words]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    asked = ("terms", f"{tmp_path / 'rows.jsonl'}#body", "--tokens", "6", "--model", str(model))
    done = fathom(tmp_path / "w", *asked)
    assert done.exit_code == 0, done.output
    first = done.stdout.splitlines()[1].split("\t")
    assert first[0] == "1" and int(first[3].replace(",", "")) >= 80 and first[5].endswith("%")
    assert "6 tokens save" in done.stderr
    said = json.loads(fathom(tmp_path / "w", *asked, "--json").stdout)
    assert len(said["terms"]) == 6 and said["documents"] == 160 and 0 < said["saving"] < 1
    assert said["terms"][0]["frequency"] == int(first[3].replace(",", ""))
    assert said["phrases"] == 0
    more = (*asked, "--tokens", "30", "--json", "--words-at-most")
    words, phrases = (json.loads(fathom(tmp_path / "w", *more, most).stdout) for most in ("1", "3"))
    assert words["phrases"] == 0 < phrases["phrases"] and 0 < words["saving"] < phrases["saving"]
    assert " sat on line" in [term["text"] for term in phrases["terms"]]


def test_terms_that_are_too_rare_are_none(tmp_path: Path, model: Path) -> None:
    (tmp_path / "a.txt").write_text("zygote quokka xylem", encoding="utf-8")
    done = fathom(tmp_path / "w", "terms", str(tmp_path / "a.txt"), "--model", str(model))
    assert done.exit_code == 0 and "no word is frequent enough" in done.stderr


# --- lists and reports -----------------------------------------------------------------------------------------------


def test_runs_are_listed_the_newest_first(tmp_path: Path) -> None:
    assert "there is no run of a recipe" in fathom(tmp_path, "runs").stderr
    for name, started in (("old", "2026-01-01T00:00:00Z"), ("new", "2026-02-01T00:00:00Z")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        manifest = {"name": name, "started": started, "status": "finished", "recipe": {"name": "smoke"}}
        manifest |= {"stages": [{"name": "dapt"}, {"name": "tapt"}], "model": name}
        (folder / adapt.running.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    (tmp_path / "runs" / "torn").mkdir()
    (tmp_path / "runs" / "torn" / adapt.running.MANIFEST).write_text("{", encoding="utf-8")
    (tmp_path / "runs" / "odd").mkdir()
    (tmp_path / "runs" / "odd" / adapt.running.MANIFEST).write_text('{"stages": 3, "recipe": [], "model": []}', "utf-8")
    done = fathom(tmp_path, "runs")
    lines = done.stdout.splitlines()
    assert lines[1].startswith("new\t2026-02-01T00:00:00Z\tfinished\tsmoke\tdapt → tapt\tnew") and "old" in lines[2]
    assert "cannot be read" in done.stderr and done.exit_code == 0
    assert [one["name"] for one in json.loads(fathom(tmp_path, "runs", "--json").stdout)][:2] == ["new", "old"]


@pytest.mark.parametrize(("seconds", "said"), [(5.4, "5 s"), (600, "10 min"), (9000, "2.5 h"), (400_000, "4.6 days")])
def test_long_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert long_time(seconds) == said
