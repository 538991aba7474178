"""What tests of the command line share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app

Fathom = Callable[..., Any]


@pytest.fixture(autouse=True)
def words_choose_quotations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder for sentences takes seconds to be made ready in each workspace; tests of it take this away."""
    monkeypatch.setenv("FATHOM_ANSWER_QUOTE_BY", "words")


@pytest.fixture
def fathom(tmp_path: Path) -> Fathom:
    """Runs a command in a workspace of its own; `code` is the exit code it must have."""

    def call(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--workspace", str(tmp_path / "w")])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return call
