"""Tiny models need no two seconds of measuring to tell which precision is faster."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def short_self_test() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.embedding.openvino_backend.SELF_TEST_SECONDS", 0.05)
        yield
