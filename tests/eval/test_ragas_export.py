"""A run of answers as ragas reads it: exact names and types, nothing lost on the way back, no file overwritten."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from eval.data.samples import Sample, read_samples
from eval.ragas_export import ragas_row, write_ragas
from eval.runs.parts import PartFolder
from retrieval.errors import UsageError


class SingleTurnSample(BaseModel):
    """The fields of ragas.dataset_schema.SingleTurnSample as of 0.4; `metadata` is ours and it ignores what it does
    not know."""

    model_config = ConfigDict(strict=True)

    user_input: str | None = None
    retrieved_contexts: list[str] | None = None
    reference_contexts: list[str] | None = None
    retrieved_context_ids: list[str] | list[int] | None = None
    reference_context_ids: list[str] | list[int] | None = None
    response: str | None = None
    multi_responses: list[str] | None = None
    reference: str | None = None
    rubrics: dict[str, str] | None = None


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    folder = PartFolder(tmp_path / "part")
    folder.append(
        {
            "id": "q1",
            "text": "绿茶的水温是多少？",
            "cluster": "茶.txt",
            "metrics": {"F1": 1.0},
            "answer": "八十度左右 [1]。\u2028",
            "refused": False,
            "golds": ["八十度"],
            "references": [],
            "evidence": [[{"document": "茶.txt", "start": 9, "end": 12}]],
            "passages": [{"n": 1, "id": 7, "document": "茶.txt", "text": "水温应该在八十度左右。"}],
            "citations": [{"n": 1, "supported": "yes"}],
            "error": None,
        }
    )
    folder.append({"id": "q2", "text": "Why?", "metrics": {}, "answer": "", "passages": [], "error": None})
    folder.append({"id": "q3", "text": "Why?", "metrics": {}, "error": "the engine died"})
    found, failed = read_samples(tmp_path / "part" / "records.jsonl")
    assert failed == 1
    return found


def test_every_line_is_a_single_turn_sample(samples: list[Sample], tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    write_ragas(samples, file)
    lines = file.read_text(encoding="utf-8").splitlines()  # splitlines also cuts at U+2028
    assert len(lines) == 2
    first = SingleTurnSample.model_validate_json(lines[0])
    assert first.user_input == "绿茶的水温是多少？"
    assert first.response == "八十度左右 [1]。\u2028"
    assert first.retrieved_contexts == ["水温应该在八十度左右。"]
    assert first.retrieved_context_ids == first.reference_context_ids == ["茶.txt"]
    assert first.reference == "八十度"
    known = set(SingleTurnSample.model_fields)
    for line in lines:
        row = json.loads(line)
        assert set(row) - known == {"metadata"}
        SingleTurnSample.model_validate(row)
    assert json.loads(lines[0])["metadata"]["citations"] == [{"n": 1, "supported": "yes"}]
    assert SingleTurnSample.model_validate_json(lines[1]).reference is None


def test_what_was_written_is_read_back_as_the_same_samples(samples: list[Sample], tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    write_ragas(samples, file)
    again, _ = read_samples(file)

    def judged(sample: Sample) -> tuple[Any, ...]:
        return tuple(getattr(sample, name) for name in sample.__slots__ if name != "metadata")

    assert list(map(judged, again)) == list(map(judged, samples))
    assert [sample.refused for sample in again] == [False, True]


def test_no_file_is_overwritten_and_none_is_left_half(samples: list[Sample], tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text("mine")
    with pytest.raises(UsageError, match="--replace"):
        write_ragas(samples, file)
    assert file.read_text() == "mine"
    broken = Sample("b", "q", "a", (), metadata={"x": object()})
    with pytest.raises(TypeError):
        write_ragas([*samples, broken], file, replace=True)
    assert file.read_text() == "mine"
    assert [path.name for path in tmp_path.glob("*out*")] + [path.name for path in tmp_path.glob(".*")] == ["out.jsonl"]
    write_ragas(samples, file, replace=True)
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2
    with pytest.raises(UsageError, match="is not there"):
        write_ragas(samples, tmp_path / "no" / "out.jsonl")


def test_what_a_sample_lacks_is_left_out_not_empty() -> None:
    row = ragas_row(Sample("a", "q", "a", ("p",), ("d",)))
    assert "reference" not in row and "reference_contexts" not in row
    full = Sample("a", "q", "a", ("p",), ("d",), reference="r", reference_passages=("g",), reference_ids=("d",))
    assert ragas_row(full)["reference_contexts"] == ["g"]
