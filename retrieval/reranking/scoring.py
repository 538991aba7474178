"""Padded pairs → logits: the two back ends, OpenVINO on the CPU and torch elsewhere. Knows no texts."""

import queue
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from retrieval.embedding.openvino_backend import Hint

TOKENS_PER_BATCH = 2048
"""As for embedding: larger batches leave the CPU's caches."""
TOKENS_PER_BATCH_GPU = 32768


class Scorer(Protocol):
    """A loaded model for pairs. May be called from several threads at once."""

    backend: str
    tokens_per_batch: int

    def __call__(self, ids: np.ndarray, mask: np.ndarray, sides: np.ndarray) -> np.ndarray:
        """Each (batch, tokens) int64 → (batch, labels) float32."""


class OpenVinoScorer:
    """A compiled model with inputs ids, mask, sides. Threads that call at once each get an inference request."""

    tokens_per_batch = TOKENS_PER_BATCH

    def __init__(self, model: Path, hint: "Hint", threads: int = 0) -> None:
        """`model`: an OpenVINO .xml beside its .bin. `threads`: 0 is every core."""
        from retrieval.embedding.openvino_backend import compiled

        self.backend = f"openvino-{'bf16' if hint == 'bf16' else 'fp32'}"
        self._compiled = compiled(model, hint, threads)
        self._idle: queue.SimpleQueue = queue.SimpleQueue()

    def __call__(self, ids: np.ndarray, mask: np.ndarray, sides: np.ndarray) -> np.ndarray:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            found = request.infer([ids, mask, sides], share_inputs=True, share_outputs=True)[0]
            return np.array(found, dtype=np.float32)
        finally:
            self._idle.put(request)


class TorchScorer:
    """A network of torch that takes (ids, mask, sides). A batch that does not fit on a GPU is halved."""

    def __init__(self, network: Any, device: str) -> None:
        self.backend = f"torch-{device}-fp32"
        self.tokens_per_batch = TOKENS_PER_BATCH if device == "cpu" else TOKENS_PER_BATCH_GPU
        self._network = network.to(device).eval()
        self._device = device

    def __call__(self, ids: np.ndarray, mask: np.ndarray, sides: np.ndarray) -> np.ndarray:
        import torch

        try:
            with torch.inference_mode():
                given = [torch.from_numpy(each).to(self._device) for each in (ids, mask, sides)]
                return self._network(*given).float().cpu().numpy()
        except torch.OutOfMemoryError:
            if len(ids) == 1:
                raise
        half = len(ids) // 2
        torch.cuda.empty_cache()
        return np.concatenate(
            [self(ids[:half], mask[:half], sides[:half]), self(ids[half:], mask[half:], sides[half:])]
        )
