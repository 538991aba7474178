"""The peers' scripts can be read without the peers, and their versions are exact."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eval.baselines import install

SCRIPT = Path(install.__file__).with_name("llama_index_stock.py")
TURNS = SCRIPT.with_name("llama_cpp_turns.py")


@pytest.mark.parametrize("script", [SCRIPT, TURNS])
def test_the_scripts_import_only_the_standard_library_at_their_top(script):
    tree = ast.parse(script.read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    assert names and names <= sys.stdlib_module_names


def test_the_script_explains_itself_without_the_peers():
    done = subprocess.run([sys.executable, "-S", str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    assert {"index", "search", "insert"} <= set(re.findall(r"\w+", done.stdout))
    done = subprocess.run([sys.executable, "-S", str(TURNS), "--help"], capture_output=True, text=True, check=True)
    assert {"model", "prompts", "threads"} <= set(re.findall(r"\w+", done.stdout))


def test_each_environment_is_built_in_a_folder_of_its_own_and_only_where_torch_is_needed_it_comes_first():
    folders = [wanted.folder for wanted in install.ENVIRONMENTS.values()]
    assert len(set(folders)) == len(folders)
    assert install.ENVIRONMENTS["llama-cpp"].first == () and install.ENVIRONMENTS["stock"].first == (install.TORCH,)
    assert "GGML_NATIVE=ON" in install.ENVIRONMENTS["llama-cpp"].variables["CMAKE_ARGS"]


def test_every_pin_is_exact():
    pins = [pin for wanted in install.ENVIRONMENTS.values() for pin in (*wanted.first, *wanted.pins)]
    assert install.TORCH in pins and len(pins) > 8
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9-]+==\d+(\.\d+)+", pin)
