"""The shipped recipe `smoke-sft`, run as its first lines say: the packaged model tuned on a handful of conversations,
which then answers."""

from pathlib import Path

import pytest
from chat_templates import user
from test_adapt_smoke import fathom, told

from app.engines.local import LocalModel, open_local
from app.engines.speaker import Manners

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_smoke_sft_makes_a_model_that_answers(tmp_path: Path) -> None:
    result = told(fathom(tmp_path, "adapt", "run", "data/recipes/smoke-sft.yaml", "--json"))
    assert result["run"]["status"] == "finished" and result["failed"] == []
    (stage,) = result["stages"]
    before, after = (one["figures"]["chat chat_loss"]["value"] for one in (result["base"], stage["measured"]))
    assert after < before
    blocks = stage["facts"]["blocks"]["chat"]
    assert blocks["learned"] < 0.5 * blocks["tokens"] and blocks["too_long"]["count"] == 0
    assert (Path(stage["model"]).parent / "adapter" / "adapter_model.safetensors").is_file()
    # Questions of the examples are answered as briefly as there, to the end of the turn.
    speaker = open_local(LocalModel(stage["model"]), Manners(max_new_tokens=60))
    pieces = list(speaker.pieces([user("Should prices that change every week be trained in?")], {}))
    assert "".join(piece.text for piece in pieces).strip() and pieces[-1].finish == "stop", pieces
