"""The map of the house: which file may know which, and the rules every file keeps. A new wrong arrow fails here."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("retrieval", "eval", "adapt", "app")
"""From the ground up: a file imports from its own floor and from those below."""

UNTRUSTED_LOADERS = frozenset({"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"})
DRAWERS = frozenset({"utils", "util", "common", "helpers", "helper", "core", "misc"})
HEAVY = ("torch", "transformers", "openvino", "openvino_genai", "faiss", "tantivy", "llama_index", "gradio", "numpy")
LINE_LIMIT = 500
LATER = ("TO" + "DO", "FIX" + "ME", "XX" + "X")  # in halves: this file keeps its own rule

Rule = Callable[[str, str], Iterator[str]]
"""(path from the root, source) -> what is wrong, each with its line."""


def sources(*folders: str) -> dict[str, str]:
    """Every Python file below `folders`, by path from the root."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "__pycache__" not in path.parts
    }


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names that one import statement may load; for `from a import b` both `a` and `a.b`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_run_at_load(tree: ast.AST) -> Iterator[ast.AST]:
    """Import statements that run when the file is imported: not those in functions, not those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports_run_at_load(ast.Module(body=node.orelse, type_ignores=[]))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports_run_at_load(node)


def dotted_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


# --- rules over one file ---------------------------------------------------------------------------------------------


def arrows_point_down(path: str, source: str) -> Iterator[str]:
    floor = FLOORS.index(path.split("/")[0])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"line {node.lineno}: relative import; write the full name"
        above = {name.split(".")[0] for name in imported(node)} & set(FLOORS[floor + 1 :])
        if above:
            yield f"line {getattr(node, 'lineno', 0)}: {FLOORS[floor]} may not know {', '.join(sorted(above))}"


def the_builtin_eval_stays_visible(path: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "eval" for alias in node.names):
            yield f"line {node.lineno}: write `from eval.x import y`"
        if isinstance(node, ast.ImportFrom | ast.Import):
            for alias in node.names:
                if "eval" in (alias.asname, alias.name if isinstance(node, ast.ImportFrom) else None):
                    yield f"line {node.lineno}: hides the builtin eval"


def nothing_stored_can_run_code(path: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        for name in imported(node):
            if name.split(".")[0] in UNTRUSTED_LOADERS:
                yield f"line {getattr(node, 'lineno', 0)}: imports {name}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("eval", "exec", "os.system", "os.popen", "os.execl", "subprocess.getoutput"):
            yield f"line {node.lineno}: calls {called}"
        for keyword in node.keywords:
            said = f"{keyword.arg}={ast.unparse(keyword.value)}"
            if said in (
                "trust_remote_code=True",
                "shell=True",
                "weights_only=False",
                "allow_pickle=True",
                "allow_dangerous_deserialization=True",
            ):
                yield f"line {node.lineno}: {said}"


def short_enough_to_read(path: str, source: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > LINE_LIMIT:
        yield f"{lines} lines; one subject fits into {LINE_LIMIT}"


def nothing_is_left_for_later(path: str, source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), 1):
        if re.search(rf"\b({'|'.join(LATER)})\b", line):
            yield f"line {number}: {line.strip()}"


def opens_with_what_it_is(path: str, source: str) -> Iterator[str]:
    tree = ast.parse(source)
    docstring = ast.get_docstring(tree) or ""
    if not docstring.strip():
        yield "no docstring that says what the file turns into what"
    if path.endswith("__init__.py") and len(tree.body) > 1:
        yield f"line {tree.body[1].lineno}: a package's __init__ is a docstring and nothing else"


def named_after_its_subject(path: str, source: str) -> Iterator[str]:
    for part in path.removesuffix(".py").split("/"):
        if part.removeprefix("test_") in DRAWERS:
            yield f"{part!r} says nothing about what is inside; ask who reads it and put it there"


def only_the_command_line_speaks(path: str, source: str) -> Iterator[str]:
    tree = ast.parse(source)
    is_command = path.startswith("eval/") and any(
        isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write"):
            if not path.startswith("app/") and not is_command:
                yield f"line {node.lineno}: prints; below app/ raise, return or log"


def no_failure_is_swallowed(path: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else ""
            empty = all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)
            if not caught or (empty and caught in ("Exception", "BaseException")):
                yield f"line {node.lineno}: `except {caught}` swallows everything"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("contextlib.suppress", "suppress"):
            if {"Exception", "BaseException"} & {ast.unparse(argument) for argument in node.args}:
                yield f"line {node.lineno}: suppresses everything"


RULES: Mapping[Rule, tuple[str, ...]] = {
    arrows_point_down: FLOORS,
    the_builtin_eval_stays_visible: (*FLOORS, "tests"),
    nothing_stored_can_run_code: FLOORS,
    short_enough_to_read: (*FLOORS, "tests"),
    nothing_is_left_for_later: (*FLOORS, "tests"),
    opens_with_what_it_is: (*FLOORS, "tests"),
    named_after_its_subject: (*FLOORS, "tests"),
    only_the_command_line_speaks: FLOORS,
    no_failure_is_swallowed: FLOORS,
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    files = sources(*RULES[rule])
    assert len(files) >= 20, "the walk found too few files to mean anything"
    broken = [f"{path}: {problem}" for path, source in files.items() for problem in rule(path, source)]
    assert not broken, "\n".join(broken)


DOC = '"""What it is."""\n'

BREAKS: list[tuple[Rule, str, str]] = [
    (arrows_point_down, "retrieval/a.py", "from eval.figures.metrics import recall"),
    (arrows_point_down, "retrieval/a.py", "def f():\n    import app.cli"),
    (arrows_point_down, "eval/a.py", "import adapt.recipe"),
    (arrows_point_down, "adapt/a.py", "from app import settings"),
    (arrows_point_down, "app/a.py", "from .settings import load"),
    (the_builtin_eval_stays_visible, "app/a.py", "import eval"),
    (the_builtin_eval_stays_visible, "app/a.py", "import eval.figures.metrics"),
    (the_builtin_eval_stays_visible, "app/a.py", "import os, eval.figures.metrics as m"),
    (the_builtin_eval_stays_visible, "app/a.py", "from retrieval.x import y as eval"),
    (nothing_stored_can_run_code, "app/a.py", "import pickle"),
    (nothing_stored_can_run_code, "app/a.py", "def f():\n    from marshal import loads"),
    (nothing_stored_can_run_code, "app/a.py", "import shelve, os"),
    (nothing_stored_can_run_code, "app/a.py", "from dill import load"),
    (nothing_stored_can_run_code, "app/a.py", "AutoModel.from_pretrained(p, trust_remote_code=True)"),
    (nothing_stored_can_run_code, "app/a.py", "subprocess.run('ls', shell=True)"),
    (nothing_stored_can_run_code, "app/a.py", "torch.load(p, weights_only=False)"),
    (nothing_stored_can_run_code, "app/a.py", "np.load(p, allow_pickle=True)"),
    (nothing_stored_can_run_code, "app/a.py", "eval('1')"),
    (nothing_stored_can_run_code, "app/a.py", "os.system('ls')"),
    (short_enough_to_read, "app/a.py", "x = 1\n" * (LINE_LIMIT + 1)),
    (nothing_is_left_for_later, "app/a.py", f"x = 1  # {LATER[0]}: more"),
    (nothing_is_left_for_later, "app/a.py", f"# {LATER[1]}"),
    (opens_with_what_it_is, "app/a.py", "x = 1"),
    (opens_with_what_it_is, "app/a.py", '"""  """\nx = 1'),
    (opens_with_what_it_is, "app/__init__.py", DOC + "from app.cli import main"),
    (named_after_its_subject, "app/utils.py", DOC),
    (named_after_its_subject, "retrieval/common/a.py", DOC),
    (named_after_its_subject, "tests/test_helpers.py", DOC),
    (only_the_command_line_speaks, "retrieval/a.py", "print('hello')"),
    (only_the_command_line_speaks, "eval/a.py", "import sys\nsys.stderr.write('x')"),
    (no_failure_is_swallowed, "app/a.py", "try:\n    f()\nexcept:\n    g()"),
    (no_failure_is_swallowed, "app/a.py", "try:\n    f()\nexcept Exception:\n    pass"),
    (no_failure_is_swallowed, "app/a.py", "with contextlib.suppress(Exception):\n    f()"),
]

KEEPS: list[tuple[Rule, str, str]] = [
    (
        arrows_point_down,
        "app/a.py",
        "import retrieval.passages\nfrom eval.answers import recall\nimport apparatus",
    ),
    (the_builtin_eval_stays_visible, "app/a.py", "from eval.figures.metrics import recall\nimport evaluate"),
    (nothing_stored_can_run_code, "app/a.py", "import json\nsubprocess.run(['ls'], shell=False)\nmodel.eval()"),
    (short_enough_to_read, "app/a.py", "x = 1\n" * LINE_LIMIT),
    (nothing_is_left_for_later, "app/a.py", "todos = fixme_count"),
    (opens_with_what_it_is, "app/__init__.py", DOC),
    (named_after_its_subject, "retrieval/coreference.py", DOC),
    (only_the_command_line_speaks, "app/a.py", "print('hello')"),
    (only_the_command_line_speaks, "eval/a.py", "def main():\n    print(1)\nif __name__ == '__main__':\n    main()"),
    (no_failure_is_swallowed, "app/a.py", "try:\n    f()\nexcept FileNotFoundError:\n    pass"),
]


def _names(example: object) -> str:
    return str(getattr(example, "__name__", example)).replace("\n", " ")[:40]


@pytest.mark.parametrize(("rule", "path", "source"), BREAKS, ids=_names)
def test_each_rule_can_fail(rule: Rule, path: str, source: str) -> None:
    assert list(rule(path, source))


@pytest.mark.parametrize(("rule", "path", "source"), KEEPS, ids=_names)
def test_no_rule_fails_on_good_source(rule: Rule, path: str, source: str) -> None:
    assert not list(rule(path, source))


def test_each_rule_has_an_example_of_both_kinds() -> None:
    assert {rule for rule, _, _ in BREAKS} == set(RULES) == {rule for rule, _, _ in KEEPS}


# --- rules over all files --------------------------------------------------------------------------------------------


def circles(files: Mapping[str, str]) -> list[list[str]]:
    """Sets of files that load each other, directly or around corners (Tarjan's strongly connected components)."""
    modules = {dotted_name(path): path for path in files}
    arrows: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node in imports_run_at_load(ast.parse(files[path])):
            arrows[name] |= {target for target in imported(node) if target in modules and target != name}
    return [sorted(modules[name] for name in group) for group in _components(arrows) if len(group) > 1]


def _components(arrows: Mapping[str, Iterable[str]]) -> Iterator[list[str]]:
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[list[str]]:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for target in arrows[name]:
            if target not in order:
                yield from visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in stack:
                lowest[name] = min(lowest[name], order[target])
        if lowest[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            yield group

    for name in arrows:
        if name not in order:
            yield from visit(name)


def test_no_files_load_each_other_in_a_circle() -> None:
    assert not circles(sources(*FLOORS))


def test_circles_are_found_and_late_imports_are_none() -> None:
    ring = {
        "a/x.py": "from a.y import f",
        "a/y.py": "try:\n    import a.z\nexcept ImportError:\n    raise",
        "a/z.py": "from a import x",
        "a/w.py": "import a.x",
    }
    assert circles(ring) == [["a/x.py", "a/y.py", "a/z.py"]]
    assert not circles(ring | {"a/z.py": "def late():\n    from a import x"})
    assert not circles(ring | {"a/z.py": "if TYPE_CHECKING:\n    from a import x"})


def test_the_tests_are_no_package() -> None:
    """With an __init__.py below tests/, `tests/eval` would be imported in place of `eval`."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_help_loads_nothing_heavy() -> None:
    """`fathom --help` must answer at once: no library that takes a second to load may come with the command line."""
    script = (
        "import sys\nsys.argv = ['fathom', '--help']\nfrom app.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "index" in result.stdout and "search" in result.stdout
    assert result.stdout.splitlines()[-1].split() == ["LOADED"], result.stdout.splitlines()[-1]
