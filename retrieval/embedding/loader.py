"""Embedding settings → the models that they mean, one for each adapter, every one loaded at its first use and shared.

Knows no collection; which adapter a collection has, it says itself.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from retrieval.embedding.adapter import read_adapter
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.load import EmbeddingSettings


class EmbedderLoader:
    """Call it for the model as the settings have it, `under` gives the calls for another adapter. Safe from any thread.

    Collections with one adapter share one model, whichever copy of the adapter they hold.
    """

    def __init__(self, settings: EmbeddingSettings) -> None:
        self._settings = settings
        self._loaded: dict[str, Embedder] = {}
        self._guard = threading.Lock()

    def __call__(self) -> Embedder:
        """Raises what `load_embedder` raises."""
        return self._load(self._settings.adapter)

    def under(self, adapter: Path | None) -> Callable[[], Embedder]:
        """Loads the same model with the adapter in that folder, or with none, instead of the settings' own."""
        return lambda: self._load(adapter)

    def _load(self, adapter: Path | None) -> Embedder:
        from retrieval.embedding.load import load_embedder

        with self._guard:
            key = "" if adapter is None else read_adapter(adapter.expanduser()).sha256
            if key not in self._loaded:
                self._loaded[key] = load_embedder(replace(self._settings, adapter=adapter))
            return self._loaded[key]
