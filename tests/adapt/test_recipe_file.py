"""Recipes as people write them, and as nobody should: every mistake is named with its line and what to write."""

import json
from pathlib import Path

import pytest

from adapt.recipe import Dapt, Mixture, Recipe, Tapt, Vocabulary
from adapt.recipe_file import KINDS, LATER, load_recipe, stage_names
from retrieval.errors import UsageError

GOOD = """\
name: small
root: texts
data:
  domain: {path: rows.jsonl.gz, title: heading}
  general: plain.txt
  task: {path: questions.jsonl, held_out: 0}
stages:
  - vocabulary: {tokens: 50, warm: {tokens: 1e4}}
  - dapt:
      tokens: 3e6
      lr: 1e-4
      method: {lora: {r: 64}}
      mix: {domain: {from: 0.25, to: 0.8}, general: rest}
  - tapt: {select: {near: task}}
"""


def written(tmp_path: Path, text: str | bytes) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refused(tmp_path: Path, text: str | bytes, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        load_recipe(written(tmp_path, text), **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_recipe_becomes_typed_settings_in_order(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD))
    assert recipe.name == "small" and recipe.root == tmp_path / "texts"
    assert recipe.data["general"].path == "plain.txt" and recipe.data["general"].held_out == 0.05
    vocabulary, dapt, tapt = (stage.settings for stage in recipe.stages)
    assert isinstance(vocabulary, Vocabulary) and vocabulary.warm is not None and vocabulary.warm.tokens == 10_000
    assert isinstance(dapt, Dapt) and isinstance(tapt, Tapt)
    assert (dapt.tokens, dapt.lr.peak, dapt.method.kind, dapt.method.r) == (3_000_000, 1e-4, "lora", 64)
    assert dapt.mix["domain"] == Mixture(start=0.25, end=0.8) and dapt.mix["general"] == "rest"
    assert tapt.select.near == "task"
    assert stage_names(recipe) == ["vocabulary", "dapt", "tapt"]


def test_what_is_loaded_survives_json(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD))
    again = Recipe.model_validate(json.loads(recipe.model_dump_json()))
    assert again.data == recipe.data and again.root == recipe.root


def test_the_name_is_the_files_where_none_is_given(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, GOOD.replace("name: small\n", ""))).name == "recipe"


def test_several_stages_of_a_kind_are_numbered(tmp_path: Path) -> None:
    text = GOOD.replace("  - tapt: {select: {near: task}}", "  - dapt: {lr: 2e-5}\n  - tapt: {select: {near: task}}")
    assert stage_names(load_recipe(written(tmp_path, text))) == ["vocabulary", "dapt-1", "dapt-2", "tapt"]
    recipe = load_recipe(written(tmp_path, text), settings={"stages.dapt-2.block": "256"})
    assert [stage.settings.block for stage in recipe.stages[1:]] == [512, 256, 512]


@pytest.mark.parametrize(
    ("said", "kind", "r"),
    [("full", "full", 128), ("lora", "lora", 128), ("{lora: {r: 8}}", "lora", 8), ("{kind: qlora, r: 4}", "qlora", 4)],
)
def test_methods_have_short_forms(tmp_path: Path, said: str, kind: str, r: int) -> None:
    recipe = load_recipe(written(tmp_path, GOOD.replace("{lora: {r: 64}}", said)))
    settings = recipe.stages[1].settings
    assert isinstance(settings, Dapt) and (settings.method.kind, settings.method.r) == (kind, r)


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_root_of_the_command_line_goes_before_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(written(tmp_path, GOOD), root=Path("other")).root == tmp_path / "other"


def test_sources_take_another_path_and_keep_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(written(tmp_path, GOOD), data={"domain": "mine", "more": "hub:a/b"})
    assert recipe.data["domain"].path == str(tmp_path / "mine") and recipe.data["domain"].title == "heading"
    assert recipe.data["more"].path == "hub:a/b"
    text = GOOD.replace("general: plain.txt", "general: {synthetic: {tokens: 1e4}}")
    assert load_recipe(written(tmp_path, text)).data["general"].synthetic is not None
    replaced = load_recipe(written(tmp_path, text), data={"general": "own.txt"}).data["general"]
    assert replaced.synthetic is None and replaced.path == str(tmp_path / "own.txt")


def test_settings_of_the_command_line_are_checked_like_the_files(tmp_path: Path) -> None:
    settings = {
        "stages.dapt.tokens": "2e5",
        "stages.dapt.keep.kl.weight": "0.5",
        "stages.dapt.mix": "{domain: 0.5, general: rest}",
        "seed": "7",
        "measure.limit_bytes": "1000",
        "data.domain.limit": "10",
    }
    recipe = load_recipe(written(tmp_path, GOOD), settings=settings)
    dapt = recipe.stages[1].settings
    assert isinstance(dapt, Dapt) and dapt.tokens == 200_000
    assert dapt.keep.kl is not None and dapt.keep.kl.weight == 0.5
    assert dapt.mix["domain"] == Mixture(start=0.5, end=0.5)
    assert (recipe.seed, recipe.measure.limit_bytes, recipe.data["domain"].limit) == (7, 1000, 10)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "stages.dapt.tokns",
            "1",
            "stages[1].dapt: unknown key 'tokns' (--set stages.dapt.tokns); did you mean 'tokens'?",
        ),
        ("stages.dapt.tokens", "many", "'many' is not valid (--set stages.dapt.tokens); expected a whole number"),
        ("stages.dpt.tokens", "1", "names no stage's key; write --set stages.STAGE.KEY=VALUE (there are vocabulary"),
        ("stages.dapt", "{}", "names no stage's key"),
        ("stages", "[]", "names no stage's key"),
        ("name.x", "1", "goes into 'name', which holds no keys"),
        ("a..b", "1", "has an empty word"),
        ("seed", "!!python/object/apply:os.system [ls]", "has no place in a recipe"),
        ("seed", "*x", "has no aliases"),
        ("seed", "[1", "not valid YAML"),
        ("sed", "1", "unknown key 'sed' (--set sed); did you mean 'seed'?"),
    ],
)
def test_wrong_settings_of_the_command_line_are_named(tmp_path: Path, key: str, value: str, said: str) -> None:
    assert said in refused(tmp_path, GOOD, settings={key: value})


def test_a_source_of_the_command_line_needs_a_path(tmp_path: Path) -> None:
    assert "names no file or folder" in refused(tmp_path, GOOD, data={"domain": ""})


# --- mistakes --------------------------------------------------------------------------------------------------------

STAGE = "data: {domain: d, general: g, task: t}\nstages:\n  - dapt:\n      {}\n"
WRONG = {
    "a misspelt key": (
        "bach_tokens: 8192",
        "stages[0].dapt: unknown key 'bach_tokens' (line 4); did you mean 'batch_tokens'?",
    ),
    "a misspelt key inside": ("lr: {peek: 1}", "stages[0].dapt.lr: unknown key 'peek' (line 4); did you mean 'peak'?"),
    "a misspelt key of a short form": ("method: {lora: {rr: 1}}", "stages[0].dapt.method.lora: unknown key 'rr'"),
    "a misspelt share": (
        "mix: {domain: {fom: 0, to: 1}, general: rest}",
        "unknown key 'fom' (line 4); did you mean 'from'?",
    ),
    "half a share": (
        "mix: {domain: {to: 1}, general: rest}",
        "stages[0].dapt.mix.domain: needs the key 'from' (line 4)",
    ),
    "a word for a number": ("block: big", "stages[0].dapt.block: 'big' is not valid (line 4); expected a whole number"),
    "a part of a number": ("block: 1.5", "'1.5' is not valid (line 4); expected a whole number"),
    "a number in quotes": ('block: "512"', "'512' is not valid (line 4); expected a whole number"),
    "true for a number": ("block: true", "expected a whole number"),
    "a number for a text": ("optimizer: 8", "expected 'adamw', 'adamw_8bit'"),
    "a misspelt word": (
        "optimizer: adam",
        "'adamw_8bit', 'paged_adamw_8bit' or 'paged_adamw_32bit'; did you mean 'adamw'?",
    ),
    "a list for a mapping": ("keep: [kl]", "expected keys with values"),
    "a negative weight": ("keep: {kl: {weight: -1}}", "expected more than 0"),
    "a share over one": ("freeze: {layers: -1}", "expected at least 0"),
    "a share of two": ("mix: {domain: 2, general: rest}", "expected a share from 0 to 1"),
    "a wrong rate": ("lr: fast", "expected a number or keys with values (peak, curve …)"),
    "a wrong method": ("method: 3", "expected full, lora, qlora, or as in {lora: {r: 64}}"),
    "a method nobody knows": ("method: lorra", "stages[0].dapt.method"),
    "a wrong share": ("mix: {domain: most, general: rest}", "expected a share from 0 to 1, {from: …, to: …}, or rest"),
    "nothing for a number": ("block: null", "'None' is not valid"),
    "a date": ("block: 2020-01-01", "is a date (line 4); put a text into quotes"),
    "binary data": ("optimizer: !!binary aGVsbG8=", "is binary data"),
    "infinity": ("clip: .inf", "is no number to work with"),
    "no number": ("clip: .nan", "is no number to work with"),
    "a number beyond sense": ("tokens: 99999999999999999999", "beyond all sense"),
    "a control character": ('optimizer: "a\\u0000b"', "cannot be printed"),
    "half a character": ('optimizer: "\\ud800"', "cannot be printed"),
    "a key with an escape": ('"\\u001b[31m": 1', "cannot be printed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_line_and_place(tmp_path: Path, case: str) -> None:
    setting, said = WRONG[case]
    found = refused(tmp_path, STAGE.replace("      {}", f"      {setting}"))
    assert said in found
    assert all(line.startswith(str(tmp_path / "recipe.yaml")) for line in found.splitlines())
    assert "validation error" not in found and "pydantic" not in found
    assert found.replace("\n", "").isprintable()


TOP = {
    "no stages": ("data: {d: x}\n", "the recipe has no stages"),
    "empty stages": ("data: {d: x}\nstages: []\n", "stages: the recipe has no stages (line 2)"),
    "stages that are a mapping": ("data: {d: x}\nstages: {dapt: {}}\n", "stages: is no list (line 2); write a list"),
    "two kinds in one": ("data: {d: x}\nstages:\n  - {dapt: {}, tapt: {}}\n", "stages[0]: is not one stage (line 3)"),
    "a stage that is a number": ("data: {d: x}\nstages: [3]\n", "stages[0]: is not one stage"),
    "an unknown kind": (
        "data: {d: x}\nstages: [dpat: {}]\n",
        "unknown kind of stage 'dpat' (line 2); did you mean 'dapt'?",
    ),
    "no data": ("stages: [dapt]\n", "needs the key 'data'"),
    "a source without a path": ("data: {d: {field: x}}\nstages: [dapt]\n", "data.d: needs the key 'path' (line 1)"),
    "a source that is a number": ("data: {d: 3}\nstages: [dapt]\n", "data.d: '3' is not valid (line 1); expected keys"),
    "a name that is a path": (
        "name: ../x\ndata: {d: x}\nstages: [dapt]\n",
        "name: '../x' is not valid (line 1); expected up to 60",
    ),
    "a root that is a number": ("root: 3\ndata: {d: x}\nstages: [dapt]\n", "root: '3' is not valid (line 1)"),
    "an unknown key": (
        "data: {d: x}\ngate: {}\nstages: [dapt]\n",
        "the recipe: unknown key 'gate' (line 2); did you mean 'gates'?",
    ),
    "tapt without a selection": ("data: {d: x}\nstages: [tapt]\n", "stages[0].tapt: needs the key 'select' (line 2)"),
    "a prompt for a list": ("data: {d: x}\nmeasure: {prompts: x}\nstages: [dapt]\n", "expected a list"),
}


@pytest.mark.parametrize("case", TOP)
def test_what_is_wrong_at_the_top_is_named(tmp_path: Path, case: str) -> None:
    text, said = TOP[case]
    assert said in refused(tmp_path, text)


def test_all_problems_are_told_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "seed: x\ndata: {d: {pth: x}}\nstages:\n  - dapt: {blok: 1}\n  - sft: {}\n"
    lines = refused(tmp_path, text).splitlines()
    assert [line.partition("(line ")[2].partition(")")[0] for line in lines] == ["1", "2", "2", "4", "5"]


@pytest.mark.parametrize("kind", LATER)
def test_kinds_that_come_later_are_told_so(tmp_path: Path, kind: str) -> None:
    said = refused(tmp_path, f"data: {{domain: d}}\nstages:\n  - {kind}: {{}}\n")
    assert f"the kind '{kind}' comes with a later version (line 3); now there are {', '.join(KINDS)}" in said


HOSTILE = {
    "empty": (b"", "is empty; a recipe has 'stages:'"),
    "only a remark": (b"# nothing\n", "is empty"),
    "binary": (b"\x00\x01\x02\xff\xfe", "not UTF-8"),
    "a zip": (b"PK\x03\x04" + bytes(range(256)), "not UTF-8"),
    "a NUL": (b"a: \x00\n", "not valid YAML"),
    "UTF-16": ("stages: []".encode("utf-16"), "not UTF-8"),
    "huge": (b"#" * 300_000, "larger than 256 KB"),
    "a text": (b"just words\n", "must be keys with values"),
    "a list": (b"- dapt\n", "must be keys with values"),
    "a number": (b"3\n", "must be keys with values"),
    "a bomb of anchors": (
        b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b]\n",
        "line 2: a recipe has no aliases",
    ),
    "an anchor of itself": (b"a: &a [*a]\n", "no aliases"),
    "a merge": (b"stages:\n  - dapt:\n      <<: {block: 1}\n", "line 3: a key must be a word"),
    "deep lists": (b"a: " + b"[" * 50_000, "nested deeper"),
    "deep mappings": (b"a: " + b"{b: " * 30_000, "nested deeper"),
    "a tag that calls": (b"a: !!python/object/apply:os.system ['touch pwned']\n", "has no place in a recipe"),
    "a tag that names": (b"a: !!python/name:os.system\n", "not valid YAML"),
    "a tag that loads": (b"a: !!python/module:os\n", "not valid YAML"),
    "a set": (b"stages: !!set {a, b}\n", "has no place in a recipe"),
    "a tag of one's own": (b"stages: !mine {a: b}\n", "has no place in a recipe"),
    "two documents": (b"stages: []\n---\nstages: []\n", "line 2 is not valid YAML"),
    "a key twice": (b"stages: []\nstages: []\n", "line 2: the key 'stages' is given twice"),
    "a key twice below": (b"data:\n  a: x\n  a: y\nstages: [dapt]\n", "line 3: the key 'a' is given twice"),
    "a key that is a list": (b"[a]: 1\n", "a key must be a word"),
    "a tab": (b"stages:\n\t- dapt\n", "line 2 is not valid YAML"),
    "a torn file": (b"stages: [dapt: {block: 1\n", "not valid YAML"),
    "a number of a million digits": (b"seed: " + b"9" * 100_000, "not valid YAML"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_words(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, said = HOSTILE[case]
    found = refused(tmp_path, content)
    assert said in found and len(found) < 2_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml"], "nothing else was made"


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, Path("a\0b")):
        with pytest.raises(UsageError, match="there is no file|is a folder; give the path of a recipe|cannot be read"):
            load_recipe(path)


def test_keys_that_yaml_takes_for_truth_are_words(tmp_path: Path) -> None:
    """YAML 1.1 reads a bare `on` as true; measure.on and kl.on must still be reachable."""
    text = GOOD + "measure:\n  on: [domain]\n"
    assert load_recipe(written(tmp_path, text)).measure.on == ("domain",)
