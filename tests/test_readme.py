"""README against the house: its file map, its commands, its Python, its targets and exit codes are true.

`python tests/test_readme.py` (part of `make fix`) writes the map anew from the files' docstrings.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PACKAGES = ("app", "adapt", "eval", "retrieval")
MAP_WIDTH = 130
BEGIN, END = "<!-- map: written by `make fix` -->\n```text\n", "```\n<!-- end of map -->\n"
NOT_RUN = ("fathom chat", "fathom index sync shelf --watch")
"""Commands that stay running: their words are checked against --help, and tests/app starts them for real."""


# --- the map ---------------------------------------------------------------------------------------------------------


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring's first paragraph, on one line."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    match = re.match(r".*?[.!?](?=\s[A-Z`“]|$)", paragraph)
    return match[0] if match else paragraph


def described(name: str, indent: int, text: str) -> str:
    head = f"{'  ' * indent}{name}".ljust(28)
    text = text.rstrip(".")
    room = MAP_WIDTH - len(head) - 1
    if len(text) > room:
        clause = max(text.rfind(mark, 0, room) for mark in ("; ", ": ", ", knows ", ", in ", ", written "))
        text = text[:clause] if clause >= 40 else text[: room - 2].rsplit(" ", 1)[0].rstrip(",;:") + " …"
    return f"{head} {text}".rstrip()


def file_map() -> str:
    """One line per file of the four packages, folder by folder: the first sentence of its docstring."""
    return "".join(f"{line}\n" for package in PACKAGES for line in _folder(ROOT / package, 0))


def _folder(folder: Path, indent: int) -> Iterator[str]:
    yield described(f"{folder.name}/", indent, first_sentence(_docstring(folder / "__init__.py")))
    entries = sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name))
    for path in entries:
        if path.is_dir():
            if any(path.rglob("*.py")):
                yield from _folder(path, indent + 1)
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield described(path.name, indent + 1, first_sentence(_docstring(path)))
        elif path.suffix in (".css", ".js", ".svg", ".html"):
            comment = re.search(r"/\*+\s*(.*?)\s*\*/|^//\s*(.*?)$", path.read_text(encoding="utf-8"), flags=re.M | re.S)
            yield described(
                path.name, indent + 1, first_sentence(" ".join(filter(None, comment.groups()))) if comment else ""
            )


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" if path.exists() else ""


def with_map(readme: str) -> str:
    """README with the block between the two marks written anew."""
    start, end = readme.index(BEGIN) + len(BEGIN), readme.index(END)
    return readme[:start] + file_map() + readme[end:]


def test_the_map_shows_every_file_as_its_docstring_says() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == with_map(text), "the map of the house is out of date; run `make fix`"


def test_every_entry_of_the_root_is_in_the_house_section() -> None:
    listed = subprocess.run(["git", "-c", "core.quotepath=off", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    entries = {name.split("/")[0] + ("/" if "/" in name else "") for name in listed.stdout.splitlines()}
    section = README.read_text(encoding="utf-8").split("## The house")[1].split("\n## ")[0]
    missing = {entry for entry in entries if entry not in section and not entry.startswith((".git", "README"))}
    assert not missing, f"README's section 'The house' does not name {sorted(missing)}"


def test_first_sentences() -> None:
    assert first_sentence("Files in, text out. Knows no index.\n\nMore.") == "Files in, text out."
    assert first_sentence("Reads fathom.toml and\n.ini files. Then more.") == "Reads fathom.toml and .ini files."
    assert first_sentence("No full stop") == "No full stop"
    assert (
        described("x.py", 1, "word " * 40).endswith("word …") and len(described("x.py", 1, "word " * 40)) <= MAP_WIDTH
    )


# --- the commands ----------------------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    """The fenced blocks of README in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), flags=re.M | re.S)


def fathom_lines() -> list[str]:
    """Every line of README's shell blocks that calls fathom, without its comment."""
    lines = (line for block in blocks("sh") for line in block.splitlines())
    return [line.split("  #")[0].strip() for line in lines if re.match(r"fathom\b", line)]


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "FATHOM_HOME": str(folder / "data" / "workspace"),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }


def shell(script: str, folder: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run lines of README in bash, `fathom` being the checkout's own command line."""
    prelude = f'set -euo pipefail\nfathom() {{ "{sys.executable}" -m app "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", prelude + script],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)  # some twenty processes, and two models converted to the form they run in
def test_the_tour_runs_as_it_is_written(tmp_path: Path) -> None:
    """Every shell block in order, then every Python block, in one empty folder with the embedded models."""
    assert len(fathom_lines()) >= 12
    for block in blocks("sh"):
        lines = [line for line in block.splitlines() if not line.startswith(("make ", "git ", ". ", *NOT_RUN))]
        script = "\n".join(lines)
        if not script.strip():
            continue
        result = shell(script, tmp_path, timeout=600)
        assert result.returncode == 0, f"{script}\n--- stdout\n{result.stdout}\n--- stderr\n{result.stderr}"
    for block in blocks("python"):
        result = subprocess.run(
            [sys.executable, "-c", block],
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == 0, f"{block}\n{result.stderr}"
        assert result.stdout.strip(), f"prints nothing:\n{block}"


def test_commands_that_stay_running_have_the_options_that_are_shown(tmp_path: Path) -> None:
    lines = [line for line in fathom_lines() if line.startswith(NOT_RUN)]
    assert lines
    for line in lines:
        words = line.split()
        command = [word for word in words[1:] if word.isalpha()][: 2 if words[1] == "index" else 1]
        result = shell(f"fathom {' '.join(command)} --help", tmp_path, timeout=60)
        assert result.returncode == 0, result.stderr
        for option in re.findall(r"--[a-z-]+", line):
            assert option in result.stdout, f"{line}: no such option in\n{result.stdout}"


def test_every_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for name in ("README.md", "CONTRIBUTING.md", "docs/results.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        named = set(re.findall(r"`make ([a-z-]+)", text)) | set(re.findall(r"^make ([a-z-]+)", text, flags=re.M))
        assert named <= targets, f"{name} names {sorted(named - targets)}"
    assert {"run", "test"} <= set(re.findall(r"^make ([a-z-]+)", README.read_text(encoding="utf-8"), flags=re.M))


def test_the_gate_runs_the_test_command_of_this_page() -> None:
    assert "make test" in README.read_text(encoding="utf-8")
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^make test\b", gate, flags=re.M)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_every_link_to_a_file_leads_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/results.md", "docs/log.md"):
        page = ROOT / name
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{name} links to {target}"


def test_the_exit_codes_are_those_of_the_code() -> None:
    from retrieval.errors import BusyError, FathomError, UsageError

    rows = dict(re.findall(r"^\| (\d+) \| ([^|]+) \|", README.read_text(encoding="utf-8"), flags=re.M))
    for code in (0, FathomError.exit_code, UsageError.exit_code, 3, BusyError.exit_code):
        assert str(code) in rows


def test_the_settings_that_are_shown_are_settings(tmp_path: Path) -> None:
    from app.settings import load_settings

    models, others = blocks("toml")
    (tmp_path / "fathom.toml").write_text(models, encoding="utf-8")
    settings = load_settings(tmp_path, environment={})
    assert (settings.profile, settings.engine.name, settings.engine.precision) == ("laptop", "local", "nf4")
    (tmp_path / "fathom.toml").write_text(others, encoding="utf-8")
    settings = load_settings(tmp_path, environment={})
    assert (settings.embedding.precision, settings.search.k, settings.chat.port) == ("int8", 5, 8080)


def test_the_profiles_that_are_shown_are_those_there_are() -> None:
    from app.profiles import PROFILES

    text = README.read_text(encoding="utf-8")
    for name, profile in PROFILES.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}`")]
        for model in profile.models:
            assert model.repository.partition("/")[2].split("-Instruct")[0] in row


if __name__ == "__main__":
    README.write_text(with_map(README.read_text(encoding="utf-8")), encoding="utf-8")
