"""What tests of the command line share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app

Fathom = Callable[..., Any]


@pytest.fixture
def fathom(tmp_path: Path) -> Fathom:
    """Runs a command in a workspace of its own; `code` is the exit code it must have."""

    def call(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--workspace", str(tmp_path / "w")])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return call
