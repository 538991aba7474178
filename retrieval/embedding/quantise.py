"""A converted model → the same in 8-bit integers, by NNCF's post-training quantisation over sample passages.

Weights and activations of matrix products become int8 with scales fitted to the samples (NNCF's transformer scheme,
SmoothQuant of Xiao et al. 2022 included); all else stays float. Made once and kept in the cache.
"""

import ast
import contextlib
import logging
import os
import random
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from retrieval.embedding.batching import padded
from retrieval.embedding.conversion import FACTS, MODEL, converted, converted_folder, facts_in
from retrieval.embedding.counting import TextTokenizer
from retrieval.embedding.model_files import ModelFiles
from retrieval.embedding.no_telemetry import import_openvino
from retrieval.embedding.stored import is_whole, keep
from retrieval.errors import FathomError, MissingError, UsageError

SAMPLES = 250
"""Sample passages; NNCF's own default is 300, and 200 gave the same quality."""


def quantised(files: ModelFiles, weights: str, cache: Path, samples: Sequence[str] | None = None) -> Path:
    """The folder of the model in int8, made now where it is not kept yet, or where `samples` are given to fit it to.

    Without samples it is fitted to docstrings of Python's own library, so that it is the same on every machine.
    Raises MissingError without NNCF, UsageError for a model that OpenVINO cannot run.
    """
    folder = converted_folder(weights, cache, "int8")
    if samples is None and is_whole(folder):
        return folder
    exact = converted(files, weights, cache)
    facts = facts_in(exact)
    if facts.unsupported:
        raise UsageError(
            f"int8 needs OpenVINO, which cannot run {files.name} ({facts.unsupported}); choose bf16 or fp32"
        )
    tokenizer = TextTokenizer(facts.tokenizer, max_tokens=facts.max_tokens, passage_prefix="", query_prefix="")
    texts = list(samples)[:SAMPLES] if samples else docstrings(SAMPLES)
    batches = [padded([ids[: facts.max_tokens]], facts.pad_id) for ids in tokenizer.ids(texts, "")]

    def fill(place: Path) -> None:
        _quantise(exact / MODEL, batches, place / MODEL)
        (place / FACTS).write_text(facts.to_json(), "utf-8")

    try:
        keep(folder, fill)
    except OSError as error:
        raise FathomError(
            f"the int8 model cannot be kept in {cache} ({error.strerror or error}); make room there"
        ) from error
    return folder


def docstrings(count: int) -> list[str]:
    """Docstrings over 300 characters of Python's standard library, never imported, in a fixed random order."""
    found = [text for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")) for text in _docstrings(path)]
    return random.Random(0).sample(sorted(set(found)), min(count, len(set(found))))


def _docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text is not None and len(text) > 300:
                yield text


def _quantise(exact: Path, batches: Sequence[object], target: Path) -> None:
    openvino = import_openvino()
    # NNCF draws progress bars on stdout and logs; below the command line nothing is printed.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            import nncf
        except ImportError as error:
            raise MissingError(
                "int8 needs the package nncf, which is not installed: pip install -c constraints.txt nncf "
                '(or set precision = "auto")'
            ) from error
        logger = logging.getLogger("nncf")  # comes with a handler on stdout, and below the command line nothing prints
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.ERROR)
        graph = nncf.quantize(
            openvino.Core().read_model(str(exact)),
            nncf.Dataset(batches, list),
            subset_size=len(batches),
            model_type=nncf.ModelType.TRANSFORMER,
        )
    openvino.save_model(graph, str(target), compress_to_fp16=False)
