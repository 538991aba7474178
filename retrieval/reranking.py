"""A query and its hits → one score a hit, by a cross-encoder that reads both together. Knows nothing of where hits come
from or of what becomes of the order.

Imports torch and sentence-transformers when a model is loaded, which takes seconds.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import DamagedError, FathomError, UsageError
from retrieval.passages import Hit
from retrieval.splitting import embedding_text

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

    from retrieval.embedding.model_files import ModelFiles

BATCH = 32
"""Pairs read together. Pairs of like length go together, so that little is padding."""


class CrossEncoderReranker:
    """Scores query and passage together (Nogueira & Cho 2019, arXiv:1901.04085): slower than vectors, and better.

    A score is the model's logit, on the model's own scale: a sigmoid would make all good passages 1.0 in float32.
    """

    def __init__(self, model: "CrossEncoder", name: str, weights: str = "") -> None:
        self._model = model
        self.name = name
        self.described = {"kind": "cross-encoder", "model": name, "weights": weights}

    def __call__(self, query: str, hits: Sequence[Hit]) -> list[float]:
        """One score for each hit, in their order; higher is better. What is longer than the model reads is cut.

        Raises FathomError where the model fails.
        """
        pairs = [(query, passage_text(hit)) for hit in hits]
        order = sorted(range(len(pairs)), key=lambda place: -len(pairs[place][1]))
        if not pairs:
            return []
        try:
            found = self._model.predict(
                [pairs[place] for place in order],
                batch_size=BATCH,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        # Out of memory on a device, a tokenizer's own error: whatever it is, this query cannot be reranked.
        except (RuntimeError, ValueError, IndexError) as error:
            raise FathomError(f"the reranker '{self.name}' failed ({error})") from error
        scores = [0.0] * len(pairs)
        for place, score in zip(order, found, strict=True):
            scores[place] = float(score)
        return scores


def passage_text(hit: Hit) -> str:
    """What the reranker reads of a hit: its title and headings in one line, then its text, as the embedder does."""
    names = dict.fromkeys(" ".join(name.split()) for name in (hit.source.title, *hit.passage.headings))
    return embedding_text(" › ".join(name for name in names if name), hit.passage.text)


def load_cross_encoder(name: str, *, download: bool = True) -> CrossEncoderReranker:
    """Load a cross-encoder by its folder or its name on the Hugging Face hub, such as BAAI/bge-reranker-base.

    Safetensors only, and no code of the model's. `download`: whether the hub may be asked for a model that is not here.
    Raises MissingError where it is not found, UsageError where it is no cross-encoder or must not be loaded,
    DamagedError where its files are no model.
    """
    from retrieval.embedding.model_files import find_model

    files = find_model(name, download=download)
    _refuse_other_than_cross_encoder(files)
    import torch
    from sentence_transformers import CrossEncoder  # after torch_backend, which keeps it quiet

    from retrieval.embedding.torch_backend import accelerator, quiet

    try:
        with quiet():
            model = CrossEncoder(
                str(files.folder),
                device=accelerator() or "cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
                # Given here, the one that config.json names is not looked up.
                activation_fn=torch.nn.Identity(),
            )
            model.max_length = _max_tokens(model)
    # The files are a stranger's, and transformers, tokenizers and safetensors each raise errors of their own.
    except Exception as error:
        raise DamagedError(f"the reranker '{files.name}' cannot be loaded ({error}); fetch it again") from error
    model.eval()
    return CrossEncoderReranker(model, files.name, _weights(files))


def _max_tokens(model: "CrossEncoder") -> int:
    """The model's limit for a pair, special tokens included, never more than it has positions for."""
    limit = int(min(model.max_length or 512, 1 << 20))
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return limit
    if model.config.model_type in {"roberta", "xlm-roberta", "camembert"}:  # number positions from pad_token_id + 1 on
        positions -= model.config.pad_token_id + 1
    return min(limit, positions)


def _weights(files: "ModelFiles") -> str:
    """SHA-256 (hex) over the hashes of the files that decide the scores."""
    import hashlib

    from retrieval.embedding.stored import file_hash

    whole = hashlib.sha256()
    for name in files.files:
        whole.update(f"{name}\0{file_hash(files.folder / name)}\n".encode())
    return whole.hexdigest()


def _refuse_other_than_cross_encoder(files: "ModelFiles") -> None:
    """A model without a trained head for one score would be given a random one, with no more than a warning."""
    config = _config(files.folder / "config.json", files.name)
    kinds = config.get("architectures") or []
    if not any(str(kind).endswith("ForSequenceClassification") for kind in kinds):
        found = ", ".join(map(str, kinds)) or "no architecture"
        raise UsageError(f"'{files.name}' is no cross-encoder ({found}); give one such as BAAI/bge-reranker-base")
    labels = config.get("id2label")
    number = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    if number != 1:
        raise UsageError(f"'{files.name}' tells {number} classes apart and gives no single score; use a reranker")


def _config(path: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"the reranker '{name}' has no readable config.json ({error}); fetch it again") from error
    if not isinstance(config, dict):
        raise DamagedError(f"the reranker '{name}' has a config.json that is no object; fetch it again")
    return config
