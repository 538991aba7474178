"""What decides a stage's result and what is kept of its making, without the training."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from domain_words import Domain, tokenizer
from fakes import HashingEmbedder

from adapt.recipe import Dapt, Reading, Recipe, Selection, Source, Stage, Tapt
from adapt.stages import Surroundings, order_of, stage_key

MIX: Any = {"domain": "rest"}
DAPT = Dapt(block=32, tokens=256, batch_tokens=64, mix=MIX, reading=Reading(share=0.5, on=("domain",)))
TAPT = Tapt(block=32, tokens=256, batch_tokens=64, mix={"selected": "rest"}, select=Selection(near="task"))  # type: ignore[dict-item]


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    tokenizer("gpt2").save_pretrained(tmp_path / "base")
    data = {"domain": Source(path="d"), "task": Source(path="t")}
    recipe = Recipe(name="tiny", root=tmp_path, data=data, stages=())
    corpora: Any = {"domain": Domain(), "task": Domain("task", "1" * 64, 2)}
    return Surroundings(
        recipe=recipe,
        base=tmp_path / "base",
        corpora=corpora,
        cache=tmp_path / "cache",
        embedder=HashingEmbedder,  # type: ignore[arg-type]
        progress=lambda *_: None,
        stop=threading.Event(),
    )


def test_reading_tasks_are_counted_also_where_their_blocks_were_made_before(
    tmp_path: Path, around: Surroundings
) -> None:
    first, again = (order_of(DAPT, around.base, tmp_path / name, around)[1] for name in ("one", "two"))
    assert first["reading"] == again["reading"]
    assert first["reading"]["domain"]["documents"] == 60 and first["reading"]["domain"]["transformed"] > 0


def test_another_embedder_selects_anew_and_changes_nothing_else(around: Surroundings) -> None:
    other = replace(around, embedder=lambda: HashingEmbedder(salt="other"))  # type: ignore[arg-type, return-value]
    for settings, same in ((DAPT, True), (TAPT, False)):
        stage = Stage(kind="dapt" if same else "tapt", settings=settings)  # type: ignore[arg-type]
        assert (stage_key(stage, "before", around) == stage_key(stage, "before", other)) is same
        assert stage_key(stage, "before", around) != stage_key(stage, "other", around)
