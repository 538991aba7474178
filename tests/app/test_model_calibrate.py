"""`fathom model calibrate`: a reranker's two numbers, kept beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import ScriptedJudge, hits_of

from adapt.instructions.example import Example, Message, Origin, write_examples
from retrieval.llm_reranking.calibration import Platt, read_calibration
from retrieval.llm_reranking.judging import judge_messages

Fathom = Callable[..., Any]


class ClosedJudge(ScriptedJudge):
    def close(self) -> None:
        """As engines have it."""


def test_a_reranker_is_calibrated_on_judged_passages(
    fathom: Fathom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(judge_messages("how high?", hits_of(f"{n % 7} metres")[0]), n % 7 > 3) for n in range(140)]
    made = [
        Example.of(
            [*(Message(one.role, one.text) for one in asked), Message("assistant", "yes" if yes else "no")],
            origin=Origin("judged", "", "judge-1"),
        )
        for asked, yes in rows
    ]
    write_examples(tmp_path / "judged.jsonl", made)
    llm = ClosedJudge(weigh=lambda text: 0.1 + 0.1 * int(text.split("<passage>")[1].split()[0]), batches=[])
    opened: list[Any] = []
    monkeypatch.setattr("app.build.engine", lambda settings: opened.append(settings.engine) or llm)
    folder = tmp_path / "adapter"
    folder.mkdir()
    fathom("model", "calibrate", str(folder), str(tmp_path / "judged.jsonl"), code=2)
    (folder / "adapter_config.json").write_text("{}")
    told = json.loads(fathom("model", "calibrate", str(folder), str(tmp_path / "judged.jsonl"), "--json").stdout)
    assert opened[0].name == "local" and opened[0].adapter == folder
    assert read_calibration(folder) == Platt(**told["platt"]) and told["auc"] == 1.0
    assert (
        "nothing was written"
        in fathom("model", "calibrate", str(folder), str(tmp_path / "judged.jsonl"), "--dry-run").output
    )
