"""A recipe and this machine → what each stage will read, take and need, and what makes it impossible, with the reason.

It trains nothing and loads no weight: texts are sampled, shapes read from headers, speed reckoned from a measured
product of matrices or, where asked for, from a few real steps.
"""

import importlib.util
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from adapt.amounts import Amount, Tokenize, amount_of, amount_of_prepared, rounded, tokenizer_of
from adapt.chat.looking import Look, look
from adapt.costs import (
    ModelFacts,
    Need,
    disk_of,
    facts_of,
    forward_work,
    less_memory,
    memory_of,
    said_bytes,
    total,
    training_work,
    warming_memory,
)
from adapt.evidence.measuring import SAMPLE_TOKENS
from adapt.machine import Machine, matmul_rate, this_machine
from adapt.plans import Plan, StagePlan, mean_shares, method_in_words, mixture_in_words
from adapt.recipe import Dapt, Recipe, Sft, Source, Tapt, Training, Vocabulary
from adapt.recipe_file import stage_names
from adapt.recipe_rules import SELECTED, measured_labels
from eval.runs.parts import Progress
from retrieval.embedding.stored import file_hash
from retrieval.errors import FathomError, UsageError

EFFICIENCY = {("cpu", False): 0.4, ("cpu", True): 0.2, ("cuda", False): 0.5, ("cuda", True): 0.4}
"""Share of the rate of one product of matrices that a whole step reaches, about, by device and bf16. Of SmolLM2-135M in
blocks of 256: 0.39 in fp32 and 0.14 to 0.31 in bf16 on a CPU with AMX; on GPUs what others publish for 8 B models."""
READING_RATE = {"cpu": 10e9, "cuda": 1e12}
"""Bytes of weights a second that writing reads, about: every token reads all of them."""
TOLERANCE = 0.1
"""By which an estimate of a corpus may be wrong before a schedule is refused for it."""


def plan(
    recipe: Recipe,
    *,
    cache: Path,
    workspace: Path,
    models: Path | None = None,
    machine: Machine | None = None,
    probe: bool = False,
    progress: Progress = lambda *_: None,
) -> Plan:
    """Look at everything that a recipe names and reckon what it takes.

    `cache` keeps the base unpacked and the corpora that are prepared already, which are counted exactly; `models` is
    the folder of registered models, `workspace` where results go (for the disk). `probe` runs a few real steps for each
    training stage. Raises nothing for what is merely impossible: see `Plan.refusals`.
    """
    return _Planning(recipe, cache, workspace, models, machine or this_machine(), probe, progress).plan()


class _Planning:
    def __init__(
        self,
        recipe: Recipe,
        cache: Path,
        workspace: Path,
        models: Path | None,
        machine: Machine,
        probe: bool,
        progress: Progress,
    ) -> None:
        self.recipe, self.cache, self.workspace, self.models = recipe, cache, workspace, models
        self.machine, self.probe, self.progress = machine, probe, progress
        self.refusals: list[str] = []
        self.remarks: list[str] = []
        self.folder: Path | None = None
        self.rates: dict[tuple[bool, int], float] = {}
        self.looks: dict[str, Look] = {}

    def plan(self) -> Plan:
        base, tokenize = self._base()
        amounts = self._amounts(tokenize)
        self._files()
        model, stages = base, []
        for name, stage in zip(stage_names(self.recipe), self.recipe.stages, strict=True):
            settings = stage.settings
            if isinstance(settings, Vocabulary):
                model = model and model.grown(rows=settings.tokens)
                stages.append(self._vocabulary(name, settings, model, amounts))
            else:
                if model is not None and settings.freeze.layers > model.layers:
                    self._refuse(name, f"freezes {settings.freeze.layers} layers, and the model has {model.layers}")
                if settings.expand is not None:
                    model = model and model.grown(layers=settings.expand.layers)
                stages.append(self._taught(self._training(name, settings, model, amounts), settings))
        self._disk(stages)
        measuring = self._measuring(base, amounts)
        refusals, remarks = (tuple(dict.fromkeys(said)) for said in (self.refusals, self.remarks))
        return Plan(self.recipe, self.machine, base, amounts, tuple(stages), measuring, refusals, remarks)

    def _refuse(self, where: str, said: str) -> None:
        self.refusals.append(f"{where}: {said}")

    # --- what the recipe names -----------------------------------------------------------------------------------

    def _base(self) -> tuple[ModelFacts | None, Tokenize | None]:
        self.progress("looking at the base", 0, 0)
        try:
            self.folder = base_of(self.recipe.base, cache=self.cache, models=self.models)
            tokenize, size = tokenizer_of(self.folder)
            facts = facts_of(self.folder)
        except FathomError as error:
            self._refuse("base", str(error))
            return None, None
        if size > facts.rows:
            self._refuse(
                "base",
                f"its tokenizer has {size:,} tokens and its table {facts.rows:,} rows; they do not belong together, "
                "fetch the model again",
            )
        return facts, tokenize

    def _amounts(self, tokenize: Tokenize | None) -> dict[str, Amount | None]:
        found: dict[str, Amount | None] = {}
        root, sources = self.recipe.root, self.recipe.data
        if not root.is_dir():
            self._refuse("root", f"there is no folder '{root}', where paths begin; name it with --root")
            return dict.fromkeys(sources)
        for place, (name, source) in enumerate(sources.items()):
            self.progress("looking at the texts", place, len(sources))
            # Without a tokenizer the sources are still looked at: four bytes a token is English with most.
            count = tokenize or (lambda texts: sum(len(text.encode()) for text in texts) // 4)
            try:
                found[name] = (
                    self._chats(name, source)
                    if source.chat
                    else self._prepared(name, source, tokenize) or amount_of(source, root, count, seed=self.recipe.seed)
                )
            except FathomError as error:
                found[name] = None
                self._refuse(f"data.{name}", str(error))
                continue
            if found[name] is None and not source.chat:
                self.remarks.append(f"data.{name}: how much '{source.path}' holds is known when it is fetched")
        return found

    def _chats(self, name: str, source: Source) -> Amount | None:
        """Of a source of conversations, as the first stage that learns from it will write them."""
        stages = [stage.settings for stage in self.recipe.stages if isinstance(stage.settings, Sft)]
        settings = next((one for one in stages if name in one.mix), None)
        if settings is None or self.folder is None:
            return None
        found = look(name, source, settings, root=self.recipe.root, model=self.folder, seed=self.recipe.seed)
        if found.too_long and settings.too_long == "refuse":
            self._refuse(f"data.{name}", f"{found.too_long}; make the block larger, or set too_long: drop")
        elif found.too_long:
            self.remarks.append(f"data.{name}: {found.too_long}; they are left out")
        self.looks[name] = found
        return found.amount

    def _prepared(self, name: str, source: Source, tokenize: Tokenize | None) -> Amount | None:
        """Of a corpus that an earlier run prepared. Only what is cheap to look for: no source of many gigabytes is
        hashed, and no data set of the hub asked for."""
        from adapt.corpus.preparing import prepared
        from adapt.stages import decontamination_of

        if tokenize is None or self.folder is None or source.synthetic is not None or source.path.startswith("hub:"):
            return None
        if not any(self.cache.glob(f"corpus-{name}-*")):
            return None
        corpus = prepared(
            name,
            source,
            root=self.recipe.root,
            decontaminate=decontamination_of(self.recipe, name),
            seed=self.recipe.seed,
            cache=self.cache,
        )
        if corpus is None:
            return None
        tokenizer = file_hash(self.folder / "tokenizer.json")
        return amount_of_prepared(corpus, tokenize, tokenizer=tokenizer, cache=self.cache)

    def _files(self) -> None:
        """Files that are read later, and should not be missed only then."""
        recipe = self.recipe
        if not recipe.root.is_dir():
            return
        named = {f"measure.texts.{label}": text for label, text in recipe.measure.texts.items()}
        named |= {f"decontaminate.against[{place}]": text for place, text in enumerate(recipe.decontaminate.against)}
        if recipe.measure.choices:
            named["measure.choices"] = recipe.measure.choices
        for where, text in named.items():
            path = recipe.root / os.path.expanduser(text)
            if not path.exists() and not path.with_name(path.name.partition("#")[0]).exists():
                self._refuse(where, f"there is no file or folder '{path}'; correct the path, or the recipe's root")

    # --- stages --------------------------------------------------------------------------------------------------

    def _vocabulary(
        self, name: str, settings: Vocabulary, model: ModelFacts | None, amounts: Mapping[str, Amount | None]
    ) -> StagePlan:
        warm = settings.warm
        tokens = warm.tokens if warm is not None else 0
        how = {"mean": "mean of their pieces", "distil": "mean of their pieces, then distilled"}[settings.initialise]
        described = f"up to {settings.tokens:,} new tokens from {settings.source}, {how}"
        amount = amounts.get(settings.source)
        if warm is not None:
            self._enough(name, settings.source, amount, settings.block)
            if amount is not None and amount.tokens < tokens:
                self.remarks.append(
                    f"{name}: warming reads {tokens:,} tokens of '{settings.source}', which has {amount.said()}: parts "
                    "of it several times"
                )
        if model is None:
            return StagePlan(name, "vocabulary", described, tokens=tokens, about=False)
        self._window(name, settings.block, model)
        needs = warming_memory(model, settings)
        self._memory(name, needs, paged=0, remedy="make its block smaller")
        rate, basis = self._rate(model, False, settings.block)
        # Forward, and backward through all layers to the table.
        per_second = rate / (2 * forward_work(model, settings.block))
        return StagePlan(
            name,
            "vocabulary",
            described,
            tokens=tokens,
            about=False,
            rows=math.ceil(tokens / settings.block),
            steps=math.ceil(tokens / settings.batch_tokens),
            tokens_per_second=per_second,
            seconds=tokens / per_second,
            basis=basis,
            memory=tuple(needs),
            disk=(Need("result", 4 * model.parameters, "the whole model in fp32"),),
        )

    def _training(
        self, name: str, settings: Dapt | Tapt | Sft, model: ModelFacts | None, amounts: Mapping[str, Amount | None]
    ) -> StagePlan:
        kind = type(settings).__name__.lower()
        self._possible_here(name, settings, model)
        mean = mean_shares(settings)
        at_hand = dict(amounts)
        if isinstance(settings, Tapt):
            at_hand[SELECTED] = self._selected(settings, amounts)
        tokens, about = self._tokens(name, settings, mean, at_hand)
        described = f"{method_in_words(settings)}, {mixture_in_words(settings)}"
        if tokens is None:
            return StagePlan(name, kind, described)
        rows = max(1, tokens // settings.block)
        try:
            steps, micro = self._steps(settings, rows)
        except UsageError as error:
            self._refuse(name, str(error))
            return StagePlan(name, kind, described, tokens, about)
        sources = {source: round(share * tokens) for source, share in mean.items()}
        if model is None:
            return StagePlan(name, kind, described, tokens, about, sources, rows, steps)
        self._window(name, settings.block, model)
        bf16 = self._bf16(settings)
        needs = memory_of(model, settings, micro=micro, bf16=bf16, gpu=bool(self.machine.gpus))
        paged = 0
        if settings.optimizer.startswith("paged"):
            paged = sum(need.bytes for need in needs if need.what == "optimizer")
        self._memory(name, needs, paged=paged, remedy=less_memory(settings, micro))
        rate, basis = self._rate(model, bf16, micro)
        per_second = rate / training_work(model, settings) * max(1, len(self.machine.gpus))
        if self.probe and self.folder is not None:
            per_second, basis = self._probed(settings, micro, per_second, basis)
        kept = sum(sources.get(source, 0) for source in settings.keep.kl.on) if settings.keep.kl else 0
        forward = rate / forward_work(model, settings.block)
        ewc = settings.keep.ewc.tokens * 3 if settings.keep.ewc else 0
        seconds = tokens / per_second + (kept + ewc) / forward
        disk = disk_of(model, settings, tokens, kept)
        return StagePlan(
            name,
            kind,
            described,
            tokens,
            about,
            sources,
            rows,
            steps,
            per_second,
            seconds,
            basis,
            tuple(needs),
            tuple(disk),
        )

    def _taught(self, stage: StagePlan, settings: Training) -> StagePlan:
        """With what its conversations look like, where it has some."""
        looks = [self.looks[name] for name in settings.mix if name in self.looks] if isinstance(settings, Sft) else []
        if not looks:
            return stage
        tokens = sum(found.amount.tokens for found in looks)
        learned = sum(found.learned * found.amount.tokens for found in looks) / max(1, tokens)
        samples = tuple(found.sample for found in looks if found.sample is not None)
        return replace(stage, learned=learned, samples=samples)

    def _steps(self, settings: Training, rows: int) -> tuple[int, int]:
        """Steps of the optimizer, and tokens that go through a device at once. Raises UsageError."""
        from adapt.training.rows import batches
        from adapt.training.train import CPU_MICRO_TOKENS, GPU_MICRO_TOKENS

        shared = batches(
            rows,
            block=settings.block,
            batch_tokens=settings.batch_tokens,
            micro_tokens=settings.micro_tokens or (GPU_MICRO_TOKENS if self.machine.gpus else CPU_MICRO_TOKENS),
            processes=max(1, len(self.machine.gpus)),
            rank=0,
        )
        return math.ceil(rows / shared.step_rows), shared.micro_rows * settings.block

    def _possible_here(self, name: str, settings: Training, model: ModelFacts | None) -> None:
        kind, optimizer = settings.method.kind, settings.optimizer
        pulls = [word for word, anchor in (("l2sp", settings.keep.l2sp), ("ewc", settings.keep.ewc)) if anchor]
        if pulls and settings.weight_decay:
            self.remarks.append(
                f"{name}: {' and '.join(pulls)} pull weights back to what they were and weight_decay "
                f"({settings.weight_decay:g}) to zero; set weight_decay: 0"
            )
        if optimizer != "adamw" and not self.machine.gpus:
            self._refuse(name, f"the optimizer {optimizer} needs a CUDA GPU, and there is none; use adamw")
        needs = "qlora" if kind == "qlora" else f"the optimizer {optimizer}" if optimizer != "adamw" else None
        if needs and importlib.util.find_spec("bitsandbytes") is None:
            self._refuse(name, f"{needs} needs the package bitsandbytes: pip install -c constraints.txt -e '.[nf4]'")
        if settings.precision == "bf16" and not self.machine.computes_bf16:
            if self.machine.gpus:
                self._refuse(name, "this GPU does not compute in bf16; set precision to fp32")
            else:
                self.remarks.append(f"{name}: this CPU has no instructions for bf16; fp32 would be faster")
        if model is not None and kind != "full" and not isinstance(settings.method.targets, str):
            known = sorted({matrix.rpartition(".")[2] for matrix in model.linear})
            for target in settings.method.targets:
                if not model.targeted((target,)):
                    self._refuse(name, f"the model has no layer '{target}' for an adapter; it has {', '.join(known)}")

    def _bf16(self, settings: Training) -> bool:
        return settings.precision == "bf16" or (settings.precision == "auto" and self.machine.computes_bf16)

    def _window(self, name: str, block: int, model: ModelFacts) -> None:
        if block > model.window:
            self._refuse(name, f"a block of {block:,} is longer than the {model.window:,} positions of the model")

    # --- tokens --------------------------------------------------------------------------------------------------

    def _enough(self, name: str, source: str, amount: Amount | None, block: int) -> bool:
        if amount is None or amount.tokens >= block:
            return True
        self._refuse(
            name,
            f"'{source}' has {amount.said()} tokens to train on, less than one block of {block:,}; add texts, or make "
            "the block smaller",
        )
        return False

    def _selected(self, settings: Tapt, amounts: Mapping[str, Amount | None]) -> Amount | None:
        """At most as much as the corpus has; how much is really near the task, only selecting can tell."""
        corpus = amounts.get(settings.select.source)
        if corpus is None:
            return None
        tokens = min(settings.select.tokens or corpus.tokens, corpus.tokens)
        share = tokens / max(1, corpus.tokens)
        return Amount(max(1, round(corpus.documents * share)), round(corpus.bytes * share), tokens)

    def _tokens(
        self, name: str, settings: Dapt | Tapt | Sft, mean: Mapping[str, float], amounts: Mapping[str, Amount | None]
    ) -> tuple[int | None, bool]:
        """Tokens of the stage, and whether that is an estimate. Refuses a schedule that the texts do not last for."""
        known = {source: amounts[source] for source in mean if amounts.get(source) is not None and mean[source] > 0}
        enough = all([self._enough(name, source, amount, settings.block) for source, amount in known.items()])
        if not enough or not known:
            return settings.tokens, settings.tokens is None
        most = {source: settings.epochs * amount.tokens / mean[source] for source, amount in known.items() if amount}
        scarce = min(most, key=lambda source: most[source])
        amount = known[scarce]
        assert amount is not None
        if settings.tokens is None:
            if len(known) < sum(share > 0 for share in mean.values()):
                return None, True
            return (round(most[scarce]) if amount.exact else rounded(most[scarce])), not amount.exact
        room = 0.0 if amount.exact else TOLERANCE
        if settings.tokens > most[scarce] * (1 + room):
            needed = settings.tokens * mean[scarce]
            epochs = math.ceil(needed / amount.tokens * 10) / 10
            self._refuse(
                name,
                f"{settings.tokens:,} tokens with {mean[scarce]:.0%} of '{scarce}' on average need {round(needed):,} "
                f"tokens of it, and it has {amount.said()}"
                + (f", read {settings.epochs:g} times" if settings.epochs != 1 else "")
                + f"; possible are at most {rounded(most[scarce]):,} tokens, or {epochs:,g} epochs",
            )
        return settings.tokens, False

    # --- speed, memory, disk -------------------------------------------------------------------------------------

    def _rate(self, model: ModelFacts, bf16: bool, rows: int) -> tuple[float, str]:
        """Floating-point operations a second that training will reach, about, and where that comes from."""
        device = self.machine.device
        rows = min(rows, 4096)
        if (bf16, rows) not in self.rates:
            self.progress("measuring the speed", 0, 0)
            self.rates[bf16, rows] = matmul_rate(device, bf16=bf16, rows=rows, width=model.width, out=model.inner)
        rate = self.rates[bf16, rows]
        precision = "bf16" if bf16 else "fp32"
        share = EFFICIENCY[device, bf16]
        return rate * share, f"{share:.0%} of {rate / 1e9:,.0f} GFLOP/s, measured on one product in {precision}"

    def _probed(self, settings: Training, micro: int, reckoned: float, basis: str) -> tuple[float, str]:
        from adapt.probing import probe

        assert self.folder is not None
        if settings.expand is not None:
            return reckoned, basis
        try:
            found = probe(self.folder, settings, micro=micro, cache=self.cache, progress=self.progress)
        except FathomError as error:
            self.remarks.append(f"the probe failed: {error}")
            return reckoned, basis
        return found.tokens_per_second, f"measured on {found.tokens:,} tokens of real steps"

    def _memory(self, name: str, needs: list[Need], *, paged: int, remedy: str) -> None:
        needed, free = total(needs) - paged, self.machine.free_for_training
        largest = sorted(needs, key=lambda need: -need.bytes)[:3]
        parts = ", ".join(f"{need.what} {said_bytes(need.bytes)}" for need in largest)
        where = "on the GPU" if self.machine.gpus else "of memory"
        said = f"needs about {said_bytes(needed)} {where} ({parts} …), and {said_bytes(free)} are free"
        if needed > free:
            self._refuse(name, f"{said}; {remedy}")
        elif needed > 0.85 * free:
            self.remarks.append(f"{name} {said}, which is tight")

    def _disk(self, stages: list[StagePlan]) -> None:
        # Checkpoints go when their stage is done, the rest stays.
        needs = [need for stage in stages for need in stage.disk]
        needed = sum(need.bytes for need in needs if need.what != "checkpoints")
        needed += max((need.bytes for need in needs if need.what == "checkpoints"), default=0)
        place = self.workspace.absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        if needed > free:
            self._refuse(
                "disk",
                f"the stages write about {said_bytes(needed)}, and {said_bytes(free)} are free at {place}; free some "
                "space, or choose another place with --workspace",
            )

    def _measuring(self, base: ModelFacts | None, amounts: Mapping[str, Amount | None]) -> float | None:
        """Seconds of measuring the base and each stage. Windows overlap: texts longer than one are read twice."""
        if base is None:
            return None
        measure = self.recipe.measure
        window, tokens = min(2048, base.window), 0.0
        for label in measured_labels(self.recipe):
            amount, source = amounts.get(label), self.recipe.data.get(label)
            held, per_byte, of_document = 1e6, 0.3, float(window)
            if amount is not None and source is not None:
                held = amount.bytes * source.held_out / max(1e-9, 1 - source.held_out)
                per_byte, of_document = amount.tokens / max(1, amount.bytes), amount.tokens / amount.documents
            tokens += min(held, measure.limit_bytes or held) * per_byte * (2 if of_document > window else 1)
        if measure.choices:
            tokens += self._questions(self.recipe.root / measure.choices, measure.choices_limit) * 4 * 40
        rate, _ = self._rate(base, self.machine.device != "cpu", window)
        written = len(measure.prompts) * SAMPLE_TOKENS * 4 * base.parameters / READING_RATE[self.machine.device]
        return (1 + len(self.recipe.stages)) * (tokens * forward_work(base, window) / rate + written)

    def _questions(self, file: Path, limit: int | None) -> int:
        try:
            with file.open("rb") as lines:
                return sum(1 for _ in islice(lines, limit))
        except OSError:
            return limit or 1000  # told with the files that are missing


def base_of(name: str, *, cache: Path, models: Path | None) -> Path:
    """The folder of a recipe's base, which must be on this machine: a registered model first, else as everywhere.

    Raises MissingError, UsageError or DamagedError.
    """
    from adapt.registry import is_registered
    from adapt.training.bases import base_folder
    from eval.models.language_models import locate

    if models is not None and is_registered(models, name):
        name = str(models / name)
    locate(name, download=False)  # nobody expects a plan to fetch gigabytes
    return base_folder(name, cache=cache)
