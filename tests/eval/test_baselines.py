"""The peers' scripts can be read without the peers, and their versions are exact."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from eval.baselines import install

SCRIPT = Path(install.__file__).with_name("llama_index_stock.py")


def test_the_script_imports_only_the_standard_library_at_its_top():
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
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


def test_every_pin_is_exact():
    for pin in (install.TORCH, *install.PINS):
        assert re.fullmatch(r"[a-z0-9-]+==\d+(\.\d+)+", pin)
