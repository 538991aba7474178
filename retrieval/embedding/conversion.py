"""A model folder → OpenVINO's form with pooling and normalisation inside, checked against torch and kept in the cache.

The first use of a model needs torch and transformers; later loads read what is kept here.
"""

import importlib.metadata
import logging
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.embedding.batching import padded
from retrieval.embedding.counting import TextTokenizer
from retrieval.embedding.facts import ModelFacts
from retrieval.embedding.model_files import ModelFiles
from retrieval.embedding.probes import PROBES
from retrieval.embedding.stored import is_whole, keep
from retrieval.errors import FathomError

CONVERSION_VERSION = 1
MIN_COSINE = 0.99999
"""Of every test text between the converted model in fp32 and torch; both compute the same sums in another order."""

FACTS, MODEL = "facts.json", "model.xml"
_LOG = logging.getLogger(__name__)


def converted_folder(weights: str, cache: Path, what: str = "fp32") -> Path:
    """Where a converted model is kept: another model, converter or OpenVINO has another folder."""
    version = importlib.metadata.version("openvino")
    return cache / "converted" / f"{weights[:32]}-{what}-openvino-{version}-{CONVERSION_VERSION}"


def facts_in(folder: Path) -> ModelFacts:
    """What is kept of a model beside its converted form."""
    return ModelFacts.from_json((folder / FACTS).read_text("utf-8"))


def converted(files: ModelFiles, weights: str, cache: Path) -> Path:
    """The folder of the model in OpenVINO's form, converted now where it is not kept yet or not whole.

    Where OpenVINO cannot run the model right, the folder holds only facts that say why. Raises FathomError where the
    cache cannot be written, DamagedError where the model does not load.
    """
    folder = converted_folder(weights, cache)
    if not is_whole(folder):
        try:
            keep(folder, lambda place: _convert(files, place))
        except OSError as error:
            raise FathomError(
                f"the converted model cannot be kept in {cache} ({error.strerror or error}); "
                "make room there or set another embedding cache"
            ) from error
    return folder


def _convert(files: ModelFiles, place: Path) -> None:
    from retrieval.embedding.torch_backend import TorchEncoder, facts_of, load_model

    model = load_model(files, "cpu", "fp32")
    facts = facts_of(model, files)
    encoder = TorchEncoder(model, "cpu")
    try:
        _export(model, facts, place)
        cosine = min(_agreement(encoder, place / MODEL, ids, mask) for ids, mask in _test_batches(facts))
        unsupported = "" if cosine >= MIN_COSINE else f"its vectors differ from torch's (cosine {cosine:.6f})"
    except (OSError, MemoryError, ImportError):
        raise  # this machine's trouble of the moment, nothing to remember of the model
    # OpenVINO's front end raises what it likes for an operation it does not know; torch runs the model then.
    except Exception as error:
        unsupported = f"{type(error).__name__}: {error}"[:500]
    if unsupported:
        _LOG.warning("%s runs on torch, since OpenVINO cannot take it: %s", files.name, unsupported)
        for entry in place.iterdir():
            entry.unlink()
    (place / FACTS).write_text(
        ModelFacts(
            facts.dimension, facts.max_tokens, facts.pooling, facts.pad_id, facts.tokenizer, unsupported
        ).to_json(),
        "utf-8",
    )


def _export(model: Any, facts: ModelFacts, place: Path) -> None:
    """Trace the whole sentence-transformers pipeline, padding and free sizes included, into OpenVINO's form."""
    import torch

    from retrieval.embedding.no_telemetry import import_openvino
    from retrieval.embedding.torch_backend import quiet

    openvino = import_openvino()

    class Pipeline(torch.nn.Module):
        """Two tensors instead of sentence-transformers' dict."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]

    ids, mask = _test_batches(facts)[0]
    example = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    with torch.inference_mode(), quiet():  # the tracer warns of what the comparison with torch finds
        graph = openvino.convert_model(Pipeline().eval(), example_input=example)
    openvino.save_model(graph, str(place / MODEL), compress_to_fp16=False)


def _test_batches(facts: ModelFacts) -> list[tuple[np.ndarray, np.ndarray]]:
    """Padded ids and masks of several shapes: the probes together, one alone, and texts up to the model's limit."""
    tokenizer = TextTokenizer(facts.tokenizer, max_tokens=facts.max_tokens, passage_prefix="", query_prefix="")
    probes = [ids[: facts.max_tokens] for ids in tokenizer.ids(PROBES, "")]
    long = (probes[0][:-1] * 100)[: min(facts.max_tokens, 300) - 1] + probes[0][-1:]
    return [padded(texts, facts.pad_id) for texts in (probes, probes[1:2], [long, probes[5], probes[7]])]


def _agreement(encoder: Any, model: Path, ids: np.ndarray, mask: np.ndarray) -> float:
    from retrieval.embedding.openvino_backend import OpenVinoEncoder

    ours, its = OpenVinoEncoder(model, "f32", 0)(ids, mask), encoder(ids, mask)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(its, axis=1)
    return float((np.sum(ours * its, axis=1) / lengths).min())
