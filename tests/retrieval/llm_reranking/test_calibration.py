"""Two numbers that make one threshold mean relevant."""

import json
import math
import random
from pathlib import Path

import pytest

from retrieval.errors import DamagedError, FathomError, UsageError
from retrieval.llm_reranking.calibration import FILE, Platt, fit_platt, read_calibration, write_calibration


def test_the_numbers_that_made_the_labels_are_found_again() -> None:
    draw = random.Random(0)
    logits = [draw.gauss(0, 3) for _ in range(4_000)]
    relevant = [draw.random() < 1 / (1 + math.exp(-(0.7 * logit - 1.2))) for logit in logits]
    found = fit_platt(logits, relevant)
    assert found.slope == pytest.approx(0.7, abs=0.06) and found.offset == pytest.approx(-1.2, abs=0.12)
    assert found.pairs == 4_000 and found.share == pytest.approx(sum(relevant) / 4_000)
    sure = [yes for logit, yes in zip(logits, relevant, strict=True) if 0.6 < found(logit) < 0.8]
    assert sum(sure) / len(sure) == pytest.approx(0.7, abs=0.06)


def test_kinds_that_a_line_parts_give_finite_numbers() -> None:
    found = fit_platt([-3.0] * 30 + [5.0] * 30, [False] * 30 + [True] * 30)
    assert 0 < found.slope < 10 and found(5.0) > 0.9 > 0.1 > found(-3.0)


def test_a_model_that_cannot_tell_is_not_calibrated() -> None:
    with pytest.raises(FathomError, match="no better of relevant passages"):
        fit_platt([3.0] * 30 + [-3.0] * 30, [False] * 30 + [True] * 30)
    with pytest.raises(UsageError, match="5 relevant and 30 other"):
        fit_platt([1.0] * 35, [True] * 5 + [False] * 30)


def test_it_is_kept_beside_the_adapter(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) is None
    found = Platt(0.8, -1.5, 300, 0.4)
    assert write_calibration(tmp_path, found) == tmp_path / FILE
    assert read_calibration(tmp_path) == found and [path.name for path in tmp_path.iterdir()] == [FILE]
    with pytest.raises(FathomError, match="cannot be written"):
        write_calibration(tmp_path / "nowhere", found)


@pytest.mark.parametrize(
    ("written", "error"),
    [
        ("{", DamagedError),
        ("[" * 100_000, DamagedError),
        ("[1, 2]", DamagedError),
        ('{"slope": 1}', DamagedError),
        ('{"slope": "x", "offset": 1}', DamagedError),
        ('{"slope": 1, "offset": NaN}', DamagedError),
        ('{"slope": -1, "offset": 0}', DamagedError),
        (json.dumps({"slope": 1, "offset": 0, "prompt_version": "judge-0"}), UsageError),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, written: str, error: type[Exception]) -> None:
    (tmp_path / FILE).write_text(written)
    with pytest.raises(error, match="calibra"):
        read_calibration(tmp_path)
