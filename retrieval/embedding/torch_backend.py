"""A model folder → sentence-transformers on torch: the back end for GPUs, and for models OpenVINO cannot express.

Knows nothing of texts: token ids in, pooled vectors out. Imports torch and sentence-transformers, which takes seconds.
"""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from retrieval.embedding.adapter import merge
from retrieval.embedding.embedder import Precision
from retrieval.embedding.facts import ModelFacts
from retrieval.embedding.model_files import ModelFiles
from retrieval.embedding.probes import PROBES, least_cosine
from retrieval.errors import DamagedError, MissingError, UsageError

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Installed for training, bitsandbytes comes in with sentence-transformers and warns of a kernel that nothing here uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

import torch  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

TOKENS_PER_BATCH_CPU = 2048
TOKENS_PER_BATCH_GPU = 65536
MIN_COSINE_OF_HALF = 0.999
"""Half precision is taken only where it keeps this cosine to fp32 on the probes."""

_ONE_AT_A_TIME = threading.RLock()
_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEncoder:
    """Token ids → pooled float32 vectors through all modules of a sentence-transformers model."""

    def __init__(self, model: SentenceTransformer, device: str) -> None:
        self.model = model
        self.device = device
        self.tokens_per_batch = TOKENS_PER_BATCH_CPU if device == "cpu" else TOKENS_PER_BATCH_GPU

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(batch, tokens) int64 → (batch, dimension) float32. A batch that does not fit on the GPU is halved."""
        try:
            with torch.inference_mode():
                features = {
                    "input_ids": torch.from_numpy(ids).to(self.device),
                    "attention_mask": torch.from_numpy(mask).to(self.device),
                }
                return self.model(features)["sentence_embedding"].float().cpu().numpy()
        except torch.OutOfMemoryError:
            if len(ids) == 1:
                raise
        half = len(ids) // 2
        torch.cuda.empty_cache()
        return np.concatenate([self(ids[:half], mask[:half]), self(ids[half:], mask[half:])])


def accelerator() -> str | None:
    """The torch device that is no CPU ("cuda", "mps"), or None."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def limit_threads(threads: int) -> None:
    """Let torch use so many CPU threads in this process; 0 leaves it as it is."""
    if threads:
        torch.set_num_threads(threads)


def load_model(files: ModelFiles, device: str, precision: Precision) -> SentenceTransformer:
    """Load a judged model folder. Raises MissingError (no such device), DamagedError (the files are no model)."""
    if device.partition(":")[0] not in {"cpu", accelerator()}:
        raise MissingError(
            f"device '{device}' was asked for, but this torch ({torch.__version__}) sees "
            f'{accelerator() or "only the CPU"}; set device = "auto", or install a torch for that device'
        )
    try:
        with quiet():
            model = SentenceTransformer(
                str(files.folder),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": _DTYPES["fp32" if files.adapter else precision]},
            )
    # The files are a stranger's, and transformers, tokenizers and safetensors each raise errors of their own.
    except Exception as error:
        raise DamagedError(f"the model '{files.name}' cannot be loaded ({error}); fetch it again") from error
    if files.adapter is not None:
        merge(model[0].auto_model, files.adapter)
        model.to(dtype=_DTYPES[precision])
    return model.eval()


def facts_of(model: SentenceTransformer, files: ModelFiles) -> ModelFacts:
    """What the loaded model says of itself. Raises UsageError for a model without a fast tokenizer or a dimension."""
    tokenizer, dimension = model.tokenizer, model.get_embedding_dimension()
    if not getattr(tokenizer, "is_fast", False) or dimension is None:
        raise UsageError(f"the model '{files.name}' is no text encoder with a fast tokenizer; use another model")
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    pooling = "+".join(
        str(module.pooling_mode) if type(module).__name__ == "Pooling" else type(module).__name__.lower()
        for module in list(model)[1:]
        if type(module).__name__ not in {"Normalize", "Dropout"}
    )
    return ModelFacts(dimension, _max_tokens(model), pooling, pad_id, tokenizer.backend_tokenizer.to_str())


def half_precision(files: ModelFiles, device: str) -> Precision:
    """fp16 where the model bears it on this device, else bf16, else fp32; by cosine to fp32 on the probe texts."""
    exact = _probe(load_model(files, device, "fp32"))
    for precision in ("fp16", "bf16"):
        found = _probe(load_model(files, device, precision))
        if np.isfinite(found).all() and least_cosine(exact, found) >= MIN_COSINE_OF_HALF:
            return precision
    return "fp32"


def _probe(model: SentenceTransformer) -> np.ndarray:
    vectors = model.encode(list(PROBES), normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors, dtype=np.float32)


def _max_tokens(model: SentenceTransformer) -> int:
    """The model's limit, special tokens included, never more than it has positions for."""
    config = model[0].config
    limit = model.max_seq_length or 512
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # RoBERTa and its kin number positions from pad_token_id + 1 on (514 rows for 512 tokens).
        embeddings = getattr(model[0].auto_model, "embeddings", None)
        if getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None) is not None:
            positions -= config.pad_token_id + 1
        limit = min(limit, positions)
    return min(int(limit), 1 << 20)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, no advice on stderr: what goes wrong is raised, and the command line speaks.

    One thread at a time: these switches, and the root logger's level that OpenVINO's converter sets and puts back, are
    the whole process's. (Three conversions at once left the root logger at ERROR.)
    """
    from transformers.utils import logging as transformers_logging

    with _ONE_AT_A_TIME, warnings.catch_warnings():
        verbosity = transformers_logging.get_verbosity()
        bars = transformers_logging.is_progress_bar_enabled()
        logger = logging.getLogger("sentence_transformers")
        level = logger.level
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        logger.setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            transformers_logging.set_verbosity(verbosity)
            if bars:
                transformers_logging.enable_progress_bar()
            logger.setLevel(level)
