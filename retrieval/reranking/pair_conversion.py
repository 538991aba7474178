"""A network for pairs → OpenVINO's form, checked against torch, kept in the cache by the hash of its weights.

The first use of a model needs torch and transformers; later loads read what is kept here.
"""

import importlib.metadata
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.embedding.probes import PROBES
from retrieval.embedding.stored import is_whole, keep
from retrieval.errors import FathomError
from retrieval.reranking.pairs import Batch, PairTokenizer, padded
from retrieval.reranking.scoring import OpenVinoScorer, Scorer, TorchScorer

if TYPE_CHECKING:
    from retrieval.embedding.openvino_backend import SelfTest

CONVERSION_VERSION = 1
LARGEST_DIFFERENCE = 0.01
"""Of a logit on the probes between the converted model in fp32 and torch."""
FACTS, MODEL = "facts.json", "model.xml"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What loading needs beside the weights. `tokenizer` is the text of a tokenizer.json; `unsupported` says why
    OpenVINO cannot run the model, empty where it can."""

    max_tokens: int
    pad_id: int
    tokenizer: str
    unsupported: str = ""

    def tokens(self) -> PairTokenizer:
        return PairTokenizer(self.tokenizer, max_tokens=self.max_tokens, pad_id=self.pad_id)


@dataclass(frozen=True)
class LoadedNetwork:
    """A torch network that takes (ids, mask, sides), and its facts."""

    network: Any
    facts: NetworkFacts


def scorer_of(
    name: str,
    weights: str,
    load: Callable[[], LoadedNetwork],
    *,
    device: str,
    threads: int,
    cache: Path,
) -> tuple[Scorer, NetworkFacts]:
    """What runs the model on this machine: OpenVINO on a CPU, in bf16 where that is as good and faster, else torch.

    `load` is called only where torch is needed: for a first conversion, for a GPU, for what OpenVINO cannot run.
    Raises FathomError where the cache cannot be written, and what `load` raises.
    """
    if device == "cpu":
        folder = _converted(name, weights, load, cache)
        facts = NetworkFacts(**json.loads((folder / FACTS).read_text("utf-8")))
        if not facts.unsupported:
            half = _half_is_better(folder / MODEL, facts, weights, threads, cache)
            return OpenVinoScorer(folder / MODEL, "bf16" if half else "f32", threads), facts
    found = load()
    return TorchScorer(found.network, device), found.facts


def _converted(name: str, weights: str, load: Callable[[], LoadedNetwork], cache: Path) -> Path:
    version = importlib.metadata.version("openvino")
    folder = cache / "rerankers" / f"{weights[:32]}-fp32-openvino-{version}-{CONVERSION_VERSION}"
    if not is_whole(folder):
        try:
            keep(folder, lambda place: _convert(name, load(), place))
        except OSError as error:
            raise FathomError(
                f"the converted reranker cannot be kept in {cache} ({error.strerror or error}); "
                "make room there or set another embedding cache"
            ) from error
    return folder


def _convert(name: str, found: LoadedNetwork, place: Path) -> None:
    facts = found.facts
    exact = TorchScorer(found.network, "cpu")
    try:
        _export(found.network, facts, place)
        ours = OpenVinoScorer(place / MODEL, "f32")
        largest = max(float(np.abs(ours(*batch) - exact(*batch)).max()) for batch in _test_batches(facts))
        unsupported = "" if largest <= LARGEST_DIFFERENCE else f"its scores differ from torch's by {largest:.3g}"
    except (OSError, MemoryError, ImportError):
        raise  # this machine's trouble of the moment, nothing to remember of the model
    # OpenVINO's front end raises what it likes for an operation it does not know; torch runs the model then.
    except Exception as error:
        unsupported = f"{type(error).__name__}: {error}"[:500]
    if unsupported:
        _LOG.warning("the reranker %s runs on torch, since OpenVINO cannot take it: %s", name, unsupported)
        for entry in place.iterdir():
            entry.unlink()
    (place / FACTS).write_text(json.dumps(asdict(facts) | {"unsupported": unsupported}), "utf-8")


def _export(network: Any, facts: NetworkFacts, place: Path) -> None:
    import torch

    from retrieval.embedding.no_telemetry import import_openvino
    from retrieval.embedding.torch_backend import quiet

    openvino = import_openvino()
    example = tuple(torch.from_numpy(each) for each in _test_batches(facts)[0])
    with torch.inference_mode(), quiet():  # the tracer warns of what the comparison with torch finds
        graph = openvino.convert_model(network, example_input=example)
    openvino.save_model(graph, str(place / MODEL), compress_to_fp16=False)


def _test_batches(facts: NetworkFacts) -> list[Batch]:
    """Pairs of the probes in several shapes: all with one question, one alone, and one up to the model's limit."""
    tokens = facts.tokens()
    every = [pair for question in PROBES for pair in tokens(question, PROBES)]
    long = tokens(PROBES[0], [" ".join(PROBES) * 20])
    return [
        padded(every, facts.pad_id),
        padded(every[5:6], facts.pad_id),
        padded([*long, every[0], every[-1]], facts.pad_id),
    ]


def _half_is_better(model: Path, facts: NetworkFacts, weights: str, threads: int, cache: Path) -> bool:
    """By the correlation of all probes' scores in bf16 with those in fp32, and by speed; measured once."""
    from retrieval.embedding.openvino_backend import judged, remembered_test, speedup

    def measure() -> "SelfTest":
        batch = _test_batches(facts)[0]
        exact, half = (OpenVinoScorer(model, hint, threads) for hint in ("f32", "bf16"))  # type: ignore[arg-type]
        ours, theirs = (found - found.mean() for found in (exact(*batch), half(*batch)))
        lengths = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
        alike = float((ours * theirs).sum()) / lengths if lengths > 0.0 else 0.0
        return judged(alike, speedup(lambda: exact(*batch), lambda: half(*batch)))

    return remembered_test(measure, weights=weights, cache=cache).bf16
