"""A query and its hits → one score a hit, by a cross-encoder that reads both together. Knows nothing of where hits come
from or of what becomes of the order.

Imports numpy and tokenizers only; torch is imported when a model is converted or runs on a GPU.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import DamagedError, FathomError, UsageError
from retrieval.passages import Hit
from retrieval.reranking.calibration import Calibration
from retrieval.reranking.pair_conversion import LoadedNetwork, NetworkFacts, scorer_of
from retrieval.reranking.pair_folder import RERANKER, judge_pair_folder, load_network
from retrieval.reranking.pairs import PairTokenizer, batches, passage_text
from retrieval.reranking.scoring import Scorer

if TYPE_CHECKING:
    from retrieval.embedding.model_files import ModelFiles


class CrossEncoderReranker:
    """Scores query and passage together (Nogueira & Cho 2019, arXiv:1901.04085): slower than vectors, and better.

    With a calibration a score is the probability that the passage is relevant, in which the scores of the search have
    their part. Without one it is the model's logit, on the model's own scale: a sigmoid would make all good passages
    1.0 in float32.
    """

    def __init__(
        self,
        scorer: Scorer,
        tokens: PairTokenizer,
        name: str,
        weights: str = "",
        calibration: Calibration | None = None,
    ) -> None:
        self._scorer = scorer
        self._tokens = tokens
        self._calibration = calibration
        self.name = name
        self.calibrated = calibration is not None
        self.described = {
            "kind": "cross-encoder",
            "model": name,
            "weights": weights,
            "backend": scorer.backend,
            "calibrated": self.calibrated,
        }

    def __call__(self, query: str, hits: Sequence[Hit]) -> list[float]:
        """One score for each hit, in their order; higher is better. What is longer than the model reads is cut.

        Raises FathomError where the model fails.
        """
        if not hits:
            return []
        found = self.logits(query, [passage_text(hit) for hit in hits])
        return found if self._calibration is None else self._calibration(hits, found)

    def logits(self, query: str, passages: Sequence[str]) -> list[float]:
        """The model's own score for each passage, equal texts read once. Raises FathomError where the model fails."""
        distinct = list(dict.fromkeys(passages))
        scores: dict[str, float] = {}
        try:
            pairs = self._tokens(query, distinct)
            for places, batch in batches(pairs, self._tokens.pad_id, self._scorer.tokens_per_batch):
                for place, row in zip(places, self._scorer(*batch), strict=True):
                    scores[distinct[place]] = float(row[0])
        # Out of memory on a device, a tokenizer's own error: whatever it is, this query cannot be reranked.
        except (RuntimeError, ValueError, IndexError) as error:
            raise FathomError(f"the reranker '{self.name}' failed ({error})") from error
        return [scores[passage] for passage in passages]


def load_trained(folder: Path, *, device: str, threads: int, cache: Path) -> CrossEncoderReranker:
    """The reranker in a folder of `fathom adapt run`, or the shipped one. Raises MissingError, UsageError,
    MismatchError, DamagedError."""
    found = judge_pair_folder(folder, role=RERANKER, cache=cache)
    said = found.facts.calibration
    calibration = Calibration.from_json(said, found.name) if said is not None else None

    def load() -> LoadedNetwork:
        network = load_network(found)
        return LoadedNetwork(network, network_facts(found.trunk, found.facts.max_tokens))

    scorer, facts = scorer_of(found.name, found.weights, load, device=device, threads=threads, cache=cache)
    return CrossEncoderReranker(scorer, facts.tokens(), found.name, found.weights, calibration)


def load_cross_encoder(
    name: str, *, download: bool = True, device: str = "cpu", threads: int = 0, cache: Path | None = None
) -> CrossEncoderReranker:
    """Load a cross-encoder by its folder or its name on the Hugging Face hub, such as BAAI/bge-reranker-base.

    Safetensors only, and no code of the model's. `download`: whether the hub may be asked for a model that is not here.
    Raises MissingError where it is not found, UsageError where it is no cross-encoder or must not be loaded,
    DamagedError where its files are no model.
    """
    from retrieval.embedding.load import EmbeddingSettings
    from retrieval.embedding.model_files import find_model, weights_hash

    cache = cache or EmbeddingSettings().cache_folder()
    files = find_model(name, download=download)
    _refuse_other_than_cross_encoder(files)
    weights = weights_hash(files, cache)
    scorer, facts = scorer_of(files.name, weights, lambda: _network(files), device=device, threads=threads, cache=cache)
    return CrossEncoderReranker(scorer, facts.tokens(), files.name, weights)


def network_facts(files: "ModelFiles", limit: int) -> NetworkFacts:
    """Tokenizer of a judged model folder, for pairs of at most `limit` tokens. Raises DamagedError, UsageError."""
    tokenizer = _tokenizer(files)
    return NetworkFacts(limit, tokenizer.pad_token_id or 0, tokenizer.backend_tokenizer.to_str())


def _tokenizer(files: "ModelFiles") -> Any:
    from transformers import AutoTokenizer

    from retrieval.embedding.torch_backend import quiet

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(files.folder), local_files_only=True, trust_remote_code=False)
    # The files are a stranger's, and transformers and tokenizers each raise errors of their own.
    except Exception as error:
        raise DamagedError(f"the reranker '{files.name}' cannot be loaded ({error}); fetch it again") from error
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"the reranker '{files.name}' has no fast tokenizer (tokenizer.json); use another model")
    return tokenizer


def _network(files: "ModelFiles") -> LoadedNetwork:
    import torch
    from transformers import AutoModelForSequenceClassification

    from retrieval.embedding.torch_backend import quiet

    try:
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                str(files.folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
            ).eval()
    # The files are a stranger's, and transformers and safetensors each raise errors of their own.
    except Exception as error:
        raise DamagedError(f"the reranker '{files.name}' cannot be loaded ({error}); fetch it again") from error
    tokenizer = _tokenizer(files)
    # Some tokenizers say that their model is not told the sides, although it has embeddings for them.
    typed = int(getattr(model.config, "type_vocab_size", 0) or 0) > 1
    typed = typed and "token_type_ids" in tokenizer.model_input_names

    class Pairs(torch.nn.Module):
        """Three tensors instead of transformers' keywords, the logits instead of its output."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any, sides: Any) -> Any:
            types = {"token_type_ids": sides} if typed else {}
            return self.model(input_ids=ids, attention_mask=mask, **types).logits

    limit = int(min(max_tokens(model.config), tokenizer.model_max_length))
    return LoadedNetwork(Pairs().eval(), network_facts(files, limit))


def max_tokens(config: Any) -> int:
    """An encoder's limit for a pair, special tokens included: 512, or fewer where it has fewer positions."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return 512
    if config.model_type in {"roberta", "xlm-roberta", "camembert"}:  # number positions from pad_token_id + 1 on
        positions -= config.pad_token_id + 1
    return min(512, positions)


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
