"""Pairs of a query and its passage → LoRA matrices on an embedding model: a plain loop of torch that is stopped and
gone on with at any step.

The order of everything is drawn from the seed and the step alone, so that a training that was stopped goes on exactly.
"""

import json
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.encoders.embedder_recipe import EmbedderRecipe
from adapt.encoders.pair_training import METRICS, WARM_UP, TrainingResult, restore_state, save_state
from adapt.encoders.ranking_loss import ranking_loss
from adapt.queries.pair_file import QueryPair
from adapt.training.checkpoints import Checkpoints, Identity
from retrieval.embedding.model_files import ModelFiles, declared_prefixes
from retrieval.errors import FathomError

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]
DECIDING = ("lr", "steps", "batch", "negatives", "max_tokens", "temperature", "r", "alpha", "alike")
"""Settings of a recipe that decide what a training computes."""
ENCODED_AT_ONCE = 32
NEIGHBOURS = 32
"""Of a query, looked at for the rest of its group: some are of its own document, or are in the batch already."""
REPEATS = 0.95
"""Cosine of two passages from which on one repeats the other, and is not held against its query."""


class TunedModel:
    """An embedding model with LoRA matrices on its linear layers, everything else frozen and in bf16."""

    def __init__(self, files: ModelFiles, recipe: EmbedderRecipe) -> None:
        """Raises MissingError, DamagedError."""
        import torch
        from peft import LoraConfig, get_peft_model

        from retrieval.embedding.torch_backend import load_model, quiet

        torch.manual_seed(recipe.seed)
        self.model = load_model(files, "cpu", "fp32")
        self.query_prefix, self.passage_prefix = declared_prefixes(files)
        self.max_tokens = min(recipe.max_tokens, int(self.model.max_seq_length or recipe.max_tokens))
        self._scale = (recipe.alpha or 2.0 * recipe.r) / recipe.r
        config = LoraConfig(
            r=recipe.r,
            lora_alpha=recipe.alpha or 2 * recipe.r,  # type: ignore[arg-type]
            target_modules="all-linear",
            exclude_modules=".*pooler.*",  # BERT has one that no pooling of sentence-transformers reads
            lora_dropout=0.0,
        )
        with quiet():
            self.lora: Any = get_peft_model(
                self.model[0].auto_model.to(torch.bfloat16), config, autocast_adapter_dtype=True
            )
        self.model.eval()  # no dropout: the matrices are few, and the steps too

    def set_share(self, share: float) -> None:
        """How much of what was learnt counts: 0 is the stock model, 1 the tuned one."""
        for module in self.lora.modules():
            if hasattr(module, "scaling") and isinstance(module.scaling, dict):
                module.scaling = dict.fromkeys(module.scaling, share * self._scale)

    def encode(self, texts: Sequence[str], prefix: str) -> "torch.Tensor":
        """(texts, dimension) float32, L2-normalised, with their graph; longer texts are cut at `max_tokens`."""
        import torch

        batch = self.model.tokenizer(
            [prefix + text for text in texts],
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        features = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = self.model[0](features)
        # A mean over a hundred tokens in bf16 would lose what the loss is about.
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in list(self.model)[1:]:
            features = module(features)
        return torch.nn.functional.normalize(features["sentence_embedding"].float(), dim=1)

    def vectors(self, texts: Sequence[str], prefix: str) -> "torch.Tensor":
        """As `encode`, of any number of texts and without a graph."""
        import torch

        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        found = torch.empty(len(texts), 0)
        with torch.inference_mode():
            for start in range(0, len(order), ENCODED_AT_ONCE):
                chosen = order[start : start + ENCODED_AT_ONCE]
                part = self.encode([texts[place] for place in chosen], prefix)
                if not found.shape[1]:
                    found = torch.empty(len(texts), part.shape[1])
                found[chosen] = part
        return found

    def state(self, share: float) -> "dict[str, torch.Tensor]":
        """The matrices in peft's names and fp16, `share` of the update: B is multiplied by it."""
        import torch
        from peft import get_peft_model_state_dict

        found = {}
        for name, value in get_peft_model_state_dict(self.lora).items():
            matrix = value.detach().float() * (share if ".lora_B." in name else 1.0)
            found[name] = matrix.to(torch.float16).contiguous()
        return found


def train(
    tuned: TunedModel,
    pairs: Sequence[QueryPair],
    recipe: EmbedderRecipe,
    *,
    folder: Path,
    model: str,
    order: str,
    progress: Progress,
    stop: threading.Event,
) -> TrainingResult:
    """Train in place, or as far as `stop` lets it; checkpoints and metrics.jsonl lie in `folder`.

    `model` and `order` are hashes of what is trained and of what it is trained on: a checkpoint of another training is
    refused. Raises FathomError for a loss that is no number, UsageError, OSError (a full disk).
    """
    import torch

    known = {name: getattr(recipe, name) for name in DECIDING}
    checkpoints = Checkpoints(folder / "checkpoints", Identity(model, order, known, recipe.seed))
    checkpoints.clear_leftovers()
    weights = [value for value in tuned.lora.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=0.0)
    found = checkpoints.newest()
    first = 0
    if found is not None:
        first = int(found[1]["step"])
    progress("looking for queries that are alike", 0, 0)
    near = neighbours(tuned, pairs) if recipe.alike > 1 else None
    if found is not None:
        restore_state(tuned.lora, optimizer, found[0])
    began, read = time.monotonic(), 0
    losses: list[float] = []
    with (folder / METRICS).open("a", encoding="utf-8") as metrics:
        for step in range(first, recipe.steps):
            if stop.is_set():
                save_state(checkpoints, tuned.lora, optimizer, step)
                break
            rate = recipe.lr * _rate(step, recipe.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = batch_of(pairs, recipe, step, near)
            loss = _loss(tuned, batch, recipe, step)
            if not math.isfinite(loss.item()):
                raise FathomError(f"the loss is no number at step {step + 1}; take a smaller lr")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            losses.append(loss.item())
            read += len(batch)
            row = {"step": step + 1, "loss": round(losses[-1], 5), "lr": rate}
            metrics.write(json.dumps(row | {"seconds": round(time.monotonic() - began, 2)}) + "\n")
            metrics.flush()
            progress(f"training, loss {sum(losses[-10:]) / len(losses[-10:]):.3f}", step + 1, recipe.steps)
            if (step + 1) % recipe.save_steps == 0 or step + 1 == recipe.steps:
                save_state(checkpoints, tuned.lora, optimizer, step + 1)
    tail = losses[-max(1, recipe.steps // 10) :]
    passed = max(time.monotonic() - began, 1e-9)
    finished = first + len(losses) >= recipe.steps
    return TrainingResult(finished, recipe.steps, sum(tail) / len(tail) if tail else math.nan, passed, read / passed)


def neighbours(tuned: TunedModel, pairs: Sequence[QueryPair]) -> list[list[int]]:
    """For each pair the places of those whose queries are nearest to its own by the untrained model, nearest first."""
    import torch

    vectors = tuned.vectors([pair.query for pair in pairs], tuned.query_prefix)
    wanted = min(NEIGHBOURS + 1, len(pairs))
    found: list[list[int]] = []
    for start in range(0, len(pairs), 1024):
        places = torch.topk(vectors[start : start + 1024] @ vectors.T, wanted, dim=1).indices.tolist()
        found += [[place for place in row if place != start + number] for number, row in enumerate(places)]
    return found


def batch_of(
    pairs: Sequence[QueryPair], recipe: EmbedderRecipe, step: int, near: Sequence[Sequence[int]] | None = None
) -> list[QueryPair]:
    """The pairs of a step, of each document and each query one: some drawn, each epoch in an order of its own, and with
    each of them the `recipe.alike` − 1 that are nearest to it in `near`."""
    size = recipe.alike if near is not None else 1
    drawn = math.ceil(recipe.batch / size)
    epoch, within = divmod(step * drawn, len(pairs))
    order = list(range(len(pairs)))
    random.Random(f"{recipe.seed}-{epoch}").shuffle(order)
    found: dict[str, QueryPair] = {}
    queries: set[str] = set()

    def take(pair: QueryPair) -> bool:
        if len(found) == recipe.batch or pair.document in found or pair.query in queries:
            return False
        found[pair.document] = pair
        queries.add(pair.query)
        return True

    for place in range(within, within + len(order)):
        chosen = order[place % len(order)]
        if take(pairs[chosen]) and near is not None:
            group = 1
            for other in near[chosen]:
                group += group < size and take(pairs[other])
        if len(found) == recipe.batch:
            break
    return list(found.values())


def _loss(tuned: TunedModel, batch: Sequence[QueryPair], recipe: EmbedderRecipe, step: int) -> "torch.Tensor":
    import torch

    chooser = random.Random(f"{recipe.seed}-{step}")
    passages, owners = [pair.positive for pair in batch], [pair.document for pair in batch]
    for number, pair in enumerate(batch):
        drawn = chooser.sample(pair.negatives, min(recipe.negatives, len(pair.negatives)))
        passages += drawn
        owners += [f"\0{number}"] * len(drawn)
    allowed = torch.tensor(
        [[owner != pair.document and text != pair.positive for owner, text in zip(owners, passages, strict=True)]
         for pair in batch]
    )  # fmt: skip
    queries = tuned.encode([pair.query for pair in batch], tuned.query_prefix)
    vectors = tuned.encode(passages, tuned.passage_prefix)
    repeated = (vectors.detach()[: len(batch)] @ vectors.detach().T) >= REPEATS
    return ranking_loss(queries, vectors, allowed & ~repeated, recipe.temperature)


def _rate(step: int, steps: int) -> float:
    """Share of the peak: up in a straight line, then down as a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
