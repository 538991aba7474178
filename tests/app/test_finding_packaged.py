"""Finding with the model that comes with Fathom, as the embedded engine runs it: it answers or is left out, in time."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import five_documents

from app.engines.embedded import load_embedded
from retrieval.collection import Collection
from retrieval.finding import FindSettings, find
from retrieval.prompts import Message
from retrieval.rewriting.planning import Planning
from retrieval.rewriting.plans import Condensing

pytestmark = pytest.mark.slow
HISTORY = [Message("user", "What are spring tides?"), Message("assistant", "Tides at full moon are spring tides.")]
PATIENT = FindSettings(rewrite_seconds=300.0)


@pytest.fixture(scope="module")
def llm(embedded_cache: Path) -> Iterator[Any]:
    engine = load_embedded(None, cache=embedded_cache)
    yield engine
    engine.close()


def test_untuned_it_is_used_or_left_out_and_a_limit_frees_it_for_the_next(collection: Collection, llm: Any) -> None:
    collection.add(five_documents())
    _ = llm.metadata  # loaded
    for planner in (Condensing(llm), Planning(llm)):
        found = find("And what causes them?", HISTORY, collection=collection, k=2, planner=planner, settings=PATIENT)
        (rewrite, *_) = found.steps
        assert found.hits and rewrite.did in ("condensed", "planned", "with_previous")
        assert rewrite.skipped in ("", "unusable") and (rewrite.did == "with_previous") == bool(rewrite.skipped)
    hurried = replace(PATIENT, rewrite_seconds=0.01)
    usual = find("And what causes them?", HISTORY, collection=collection, k=2)
    found = find("And what causes them?", HISTORY, collection=collection, k=2, planner=Planning(llm), settings=hurried)
    assert found.hits == usual.hits and found.steps[0].skipped == "too_slow"
    began = time.monotonic()
    while any(thread.name == "limited" for thread in threading.enumerate()):
        assert time.monotonic() - began < 60, "the model was never told to stop"
        time.sleep(0.05)
    again = find("And what causes them?", HISTORY, collection=collection, planner=Condensing(llm), settings=PATIENT)
    assert again.steps[0].skipped in ("", "unusable")  # and it is free again
