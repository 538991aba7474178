"""One recipe → every method of tuning side by side: what is trained, memory, speed, what it learned, what it leaves on
disk, and whether that is what was trained. Finished rows are kept.
"""

import gc
import json
import logging
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapt.evidence.measuring import Measurement, measure
from adapt.experiments.methods_rows import MethodRow
from adapt.recipe import Dapt, Recipe
from adapt.stages import Surroundings, order_of
from adapt.training.bases import base_folder, weights_hash
from adapt.training.job import TrainingJob, TrainingResult, settings_hash
from adapt.training.train import train
from eval.figures.voting import vote_on_choices
from eval.models.bottleneck import drop_lower, shape_of
from eval.models.language_models import load_parts, locate
from eval.runs.parts import Progress
from eval.runs.run_folder import read_json, write_json
from retrieval.errors import FathomError, UsageError

VERSION = 2
RESULT, TABLE_JSON, TABLE_MARKDOWN = "result.json", "methods.json", "methods.md"
DOMAIN = "domain"
BITS, ACCURACY = f"{DOMAIN} bits_per_byte", "choices choice_accuracy_norm"
_COMPARED_TOKENS = 64
_LOG = logging.getLogger(__name__)


@dataclass
class _Seen:
    """What is looked at in the model in memory when it is trained."""

    trained: int = 0
    held: int = 0
    weights: int = 0
    optimizer: int = 0
    logits: Any = None


def fill_methods(
    recipe: Recipe,
    rows: Sequence[MethodRow],
    *,
    questions: Path | None,
    out: Path,
    cache: Path,
    progress: Progress,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Train and measure the rows that `out` lacks, and write methods.json and methods.md there; returns the former.

    `questions` are of the handbook's form (question, answers); of them multiple-choice questions are made. A row that a
    method refuses (bitfit on a model without biases) stands there with its reason. Raises KeyboardInterrupt when
    stopped, and what preparing texts and measuring raise.
    """
    out.mkdir(parents=True, exist_ok=True)
    work = _Work(recipe, questions, out, cache, progress, stop or threading.Event())
    base = work.measured("base", work.base, None)
    found: dict[str, Any] = {
        "version": VERSION,
        "base": {"name": recipe.base, "sha256": work.sha256, "figures": _figures(base)},
        "rows": [],
    }
    for number, row in enumerate(rows):
        progress(f"method {row.name}", number, len(rows))
        found["rows"].append(work.row(row))
        write_json(out / TABLE_JSON, found)
        text = out / TABLE_MARKDOWN
        text.with_suffix(".new").write_text(to_markdown(found), encoding="utf-8")
        text.with_suffix(".new").replace(text)
    return found


def choices_of(questions: Path, out: Path, *, seed: int) -> Path:
    """Multiple-choice questions of a file of questions with short answers: the right one among three of other
    questions in the same script, drawn with the seed. Raises ReadingError, UsageError for too few."""
    from eval.data.corpora import numbered_jsonl
    from retrieval.prompts import language_of

    rows = [row for _, row in numbered_jsonl(questions) if row.get("answers") and not row.get("history")]
    answers = [(str(row["answers"][0]), language_of(str(row["answers"][0]))) for row in rows]
    chance = np.random.default_rng(seed)
    lines = []
    for number, row in enumerate(rows):
        right, language = answers[number]
        others = sorted({text for text, spoken in answers if spoken == language and text != right})
        if len(others) < 3:
            continue
        options = [others[place] for place in chance.choice(len(others), size=3, replace=False)]
        at = int(chance.integers(0, 4))
        options.insert(at, right)
        lines.append({"id": row.get("id"), "question": row["question"], "choices": options, "answer": at})
    if not lines:
        raise UsageError(f"'{questions}' has too few questions with answers to make choices of")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    out.write_text(text, encoding="utf-8")
    return out


class _Work:
    """What all rows share: base, texts, questions."""

    def __init__(
        self,
        recipe: Recipe,
        questions: Path | None,
        out: Path,
        cache: Path,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        from adapt.corpus.preparing import prepare

        self.recipe, self.out, self.cache, self.progress, self.stop = recipe, out, cache, progress, stop
        self.base = base_folder(recipe.base, cache=cache)
        self.sha256 = weights_hash(self.base, cache=cache)
        corpora = {
            name: prepare(
                name,
                source,
                root=recipe.root,
                decontaminate=recipe.decontaminate,
                seed=recipe.seed,
                cache=cache,
                progress=progress,
            )
            for name, source in recipe.data.items()
        }
        if DOMAIN not in corpora or not corpora[DOMAIN].count("held_out"):
            raise UsageError(f"the table measures the held-out part of the source '{DOMAIN}'; the recipe has none")
        self.measure = recipe.measure
        if questions is not None:
            choices = choices_of(questions, out / "choices.jsonl", seed=recipe.seed)
            self.measure = self.measure.model_copy(update={"choices": str(choices.absolute())})
        self.around = Surroundings(
            recipe=recipe,
            base=self.base,
            corpora=corpora,
            cache=cache,
            embedder=_no_embedder,
            progress=progress,
            stop=stop,
            processes=1,
        )

    def measured(self, label: str, model: Path, adapter: Path | None) -> Measurement:
        return measure(
            model,
            label=label,
            texts={DOMAIN: self.around.corpora[DOMAIN].file("held_out")},
            measure=self.measure,
            root=self.recipe.root,
            folder=self.out / "measured" / label,
            cache=self.cache,
            seed=self.recipe.seed,
            progress=self.progress,
            adapter=adapter,
        )

    def row(self, row: MethodRow) -> dict[str, Any]:
        """The finished row, or trained and measured now."""
        slug = "-".join("".join(c if c.isalnum() else " " for c in row.name).split())
        key = settings_hash(row.settings) + f" {row.seeds} {row.drops} {self.recipe.seed} {self.sha256} {VERSION}"
        file = self.out / "rows" / slug / RESULT
        known = dict(read_json(file)) if file.is_file() else {}
        if known.pop("key", None) == key:
            return known
        shutil.rmtree(file.parent, ignore_errors=True)
        file.parent.mkdir(parents=True)
        found: dict[str, Any] = {"name": row.name, "described": row.described, "error": None}
        try:
            found |= self._trained(row, slug, file.parent)
        except FathomError as error:
            _LOG.warning("%s: %s", row.name, error)
            found["error"] = str(error)
        finally:
            for folder in file.parent.glob("seed-*"):  # fifteen models of 135 M weights are 8 GB
                shutil.rmtree(folder, ignore_errors=True)
        write_json(file, {**found, "key": key})
        return found

    def _trained(self, row: MethodRow, slug: str, place: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        ballots = []
        for seed in range(self.recipe.seed, self.recipe.seed + row.seeds):
            folder = place / f"seed-{seed}"
            seen = _Seen()
            order, _ = order_of(row.settings, self.base, folder, self.around)
            job = TrainingJob(
                model=self.base,
                base=self.base,
                order=order.folder,
                settings=row.settings,
                folder=folder,
                seed=seed,
                processes=1,
                cache=self.cache,
            )
            ids = np.asarray(order.row(0).ids)[:_COMPARED_TOKENS].astype(np.int64)

            def watch(trainer: Any, seen: _Seen = seen, ids: np.ndarray = ids) -> None:
                _look(trainer, seen, ids)

            result = train(job, progress=self.progress, stop=self.stop, watch=watch)
            if result.stopped or result.model is None:
                raise KeyboardInterrupt
            gc.collect()
            if seed == self.recipe.seed:
                found = self._of(row.settings, result, seen, ids)
            adapter = None if row.settings.method.merges else result.adapter
            if row.drops and adapter is not None:
                layers = round(row.drops * len(shape_of(adapter).places))
                adapter = drop_lower(adapter, layers, folder / "dropped")
                found["disk"] = _bytes_in(adapter)
            measured = self.measured(f"{slug}-{seed}", result.model, adapter)
            ballots.append(measured.records.get("choices", {}))
            if seed == self.recipe.seed:
                found["figures"] = _figures(measured)
        if row.seeds > 1 and all(ballots):
            voted = vote_on_choices(ballots)
            found["alone"] = [_accuracy(one) for one in ballots]
            found["figures"][ACCURACY] = _accuracy(voted)
            found["disk"] = found["disk"] * row.seeds
        return found

    def _of(self, settings: Dapt, result: TrainingResult, seen: _Seen, ids: np.ndarray) -> dict[str, Any]:
        told = [json.loads(line) for line in result.metrics.read_text(encoding="utf-8").splitlines()]
        first = told[0]
        tokens = told[-1]["tokens"] - first["tokens"]
        seconds = told[-1]["seconds"] - first["seconds"]  # the first step warms up
        again = self._again(settings, result, ids)
        return {
            "trained": seen.trained,
            "held": seen.held,
            "weights": seen.weights,
            "optimizer": seen.optimizer,
            "tokens_per_second": tokens / seconds if seconds > 0 else None,
            "loss": [first["loss"], told[-1]["loss"]],
            "disk": _bytes_in(result.adapter or result.model or Path()),
            "reload": float(np.abs(again - seen.logits).max()),
            "merge_kl": self._merge_kl(settings, result, seen, ids),
        }

    def _merge_kl(self, settings: Dapt, result: TrainingResult, seen: _Seen, ids: np.ndarray) -> float | None:
        """KL(trained ‖ merged) in nats a token, computed as it was trained."""
        from adapt.training.methods import device, precision_of

        if result.adapter is None or not settings.method.merges:
            return None
        place = locate(str(result.model), download=False)
        model, _, _ = load_parts(place, cache=self.cache, device=device(), precision="fp32")
        one, other = (_log_softmax(logits) for logits in (seen.logits, _logits(model, ids, precision_of(settings))))
        return float((np.exp(one) * (one - other)).sum(-1).mean())

    def _again(self, settings: Dapt, result: TrainingResult, ids: np.ndarray) -> np.ndarray:
        """The logits of what is on disk, held as it was trained."""
        from adapt.training.methods import device, precision_of

        precision = "fp32"
        if settings.method.leaves_adapter:
            precision = "nf4" if settings.method.kind == "qlora" else precision_of(settings)
        place = locate(str(self.base if result.adapter else result.model), result.adapter, download=False)
        model, _, _ = load_parts(place, cache=self.cache, device=device(), precision=precision)
        return _logits(model, ids, precision_of(settings))


def _look(trainer: Any, seen: _Seen, ids: np.ndarray) -> None:
    model = trainer.model
    for weight in model.parameters():
        seen.trained += weight.numel() if weight.requires_grad else 0
        seen.held += 0 if weight.requires_grad else _bytes_of(weight)
        seen.weights += _bytes_of(weight)
    moments = trainer.optimizer.state_dict()["state"].values()
    seen.optimizer = sum(
        value.numel() * value.element_size() for state in moments for value in state.values() if hasattr(value, "numel")
    )
    seen.logits = _logits(model, ids, "bf16" if trainer.args.bf16 else "fp32")


def _bytes_of(weight: Any) -> int:
    """Of a weight in memory; of one in 4 bits with its scales."""
    found = weight.numel() * weight.element_size()
    state = getattr(weight, "quant_state", None)
    while state is not None:
        found += sum(
            tensor.numel() * tensor.element_size()
            for tensor in (state.absmax, state.code, getattr(state, "offset", None))
            if tensor is not None
        )
        state = getattr(state, "state2", None)
    return int(found)


def _logits(model: Any, ids: np.ndarray, precision: str) -> np.ndarray:
    """In the precision that was trained in: accelerate leaves the trained model in autocast."""
    import torch

    given = torch.from_numpy(ids)[None].to(next(model.parameters()).device)
    model.eval()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.train()  # on a CPU bitsandbytes 0.50 computes otherwise, and less exactly, in evaluation
    with torch.no_grad(), torch.autocast(given.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return model(input_ids=given).logits[0, -len(ids) :].float().cpu().numpy()


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(-1, keepdims=True)))


def _bytes_in(folder: Path) -> int:
    """Of the weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _figures(measured: Measurement) -> dict[str, float | None]:
    return {name: estimate.value for name, estimate in measured.figures.items() if name in (BITS, ACCURACY)}


def _accuracy(records: Mapping[str, Mapping[str, Any]]) -> float:
    metric = ACCURACY.partition(" ")[2]
    return float(np.mean([record["metrics"][metric] for record in records.values()]))


def _no_embedder() -> Any:
    raise UsageError("this table embeds nothing")


# --- as text ---------------------------------------------------------------------------------------------------------


def to_markdown(found: Mapping[str, Any]) -> str:
    """One table. Memory is of weights and optimizer together, in MiB, and of the weights that stay as they are alone;
    what the backward pass holds is the same order for all. Merged is KL(trained ‖ merged) in nats a token."""
    base = found["base"]["figures"]
    lines = [
        "| method | | trained | memory MiB | frozen | tokens/s | bits/byte | | accuracy | disk MiB | reload | merged |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        f"| base | as it comes | | | | | {_number(base.get(BITS), 4)} | | {_number(base.get(ACCURACY), 3)} | | | |",
    ]
    for row in found["rows"]:
        if row["error"]:
            lines.append(f"| {row['name']} | {row['described']} | refused: {row['error']} | | | | | | | | | |")
            continue
        figures = row["figures"]
        cells = (
            f"{row['trained']:,}",
            _mib(row["weights"] + row["optimizer"]),
            _mib(row["held"]) if row["held"] else "",
            _number(row["tokens_per_second"], 0),
            _number(figures.get(BITS), 4),
            _change(figures.get(BITS), base.get(BITS)),
            _number(figures.get(ACCURACY), 3),
            _mib(row["disk"]),
            "equal" if row["reload"] == 0 else f"{row['reload']:.0e}",
            "" if row["merge_kl"] is None else f"{row['merge_kl']:.0e}",
        )
        lines.append(f"| {row['name']} | {row['described']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _change(value: float | None, before: float | None) -> str:
    return f"{(value / before - 1) * 100:+.1f} %" if value is not None and before else ""


def _number(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:,.{places}f}"


def _mib(number: int) -> str:
    size = number / (1 << 20)
    return f"{size:,.0f}" if size >= 10 else f"{size:,.2f}"
