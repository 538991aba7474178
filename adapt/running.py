"""A recipe → its run folder: corpora, stages in order, what each did to the model, gates, a report, a registered model.

A finished stage is known by the hash of all that decided it and is not done twice; an unfinished one is gone on with.
It trains nothing itself and knows no format of texts.
"""

import hashlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.recipe import Recipe, Sft, Stage
from adapt.registering import StageResult
from adapt.stages import Surroundings, clear, decontamination_of, run_stage, sources_of, stage_key
from eval.runs.parts import Progress
from eval.runs.run_folder import now, read_json, write_json
from retrieval.errors import DamagedError, FathomError, UsageError
from retrieval.storage.locking import WriterLock

if TYPE_CHECKING:
    from adapt.corpus.preparing import Corpus
    from adapt.evidence.chats import ChatForm
    from adapt.evidence.gates import GateResult
    from adapt.evidence.measuring import Measurement
    from adapt.registry import Entry
    from retrieval.embedding.embedder import Embedder

MANIFEST = "adaptation.json"
STAGE, METRICS = "stage.json", "metrics.jsonl"
BASE = "base"
RUNNING, FINISHED, STOPPED, GATED, FAILED = "unfinished", "finished", "stopped", "stopped at a gate", "failed"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run came to. `model` is the registered model of the last stage, `report` one HTML file."""

    folder: Path
    name: str
    status: str
    stages: tuple[StageResult, ...]
    base: "Measurement | None" = None
    model: "Entry | None" = None
    report: Path | None = None
    failed: "tuple[GateResult, ...]" = field(default=())


def run(
    recipe: Recipe,
    *,
    workspace: Path,
    embedder: "Callable[[], Embedder]",
    progress: Progress,
    stop: threading.Event | None = None,
    run: str | None = None,
    from_stage: str | None = None,
    to_stage: str | None = None,
    fresh: bool = False,
    processes: int | None = None,
    cache: Path | None = None,
) -> RunResult:
    """Do what is not done yet of a recipe in `workspace`/runs/NAME, NAME being `run` or the recipe's own.

    `from_stage` does that stage and those after it again, `to_stage` ends after that one, `fresh` forgets the run
    first. `stop` ends the work at the next safe place; the same call goes on from there. Raises UsageError for what
    cannot be done, BusyError if another process runs it, FathomError for training that went wrong, OSError on a full
    disk; whatever was finished is kept.
    """
    return _Run(recipe, workspace, embedder, progress, stop or threading.Event(), processes, cache).go(
        run or recipe.name, from_stage, to_stage, fresh
    )


class _Run:
    def __init__(
        self,
        recipe: Recipe,
        workspace: Path,
        embedder: "Callable[[], Embedder]",
        progress: Progress,
        stop: threading.Event,
        processes: int | None,
        cache: Path | None,
    ) -> None:
        self.recipe, self.workspace, self.embedder = recipe, workspace, embedder
        self.progress, self.stop, self.processes = progress, stop, processes
        self.cache = cache or workspace / "cache"
        self.measured: dict[str, Measurement] = {}
        self.results: list[StageResult] = []

    def go(self, name: str, from_stage: str | None, to_stage: str | None, fresh: bool) -> RunResult:
        from adapt.recipe_file import stage_names

        names = stage_names(self.recipe)
        first = _place(names, from_stage, "--from") if from_stage else len(names)
        last = _place(names, to_stage, "--to") if to_stage else len(names) - 1
        self.folder = self.workspace / "runs" / name
        if (self.folder / "run.json").is_file():
            raise UsageError(f"the run '{name}' holds measurements of 'fathom eval'; give another name with --run")
        self.folder.mkdir(parents=True, exist_ok=True)
        with WriterLock(self.folder / ".lock", doing="adapting", guarded=f"the run '{name}'"):
            if fresh:
                _empty(self.folder)
            try:
                self._begin(name)
                status = self._stages(names, first, last)
            except KeyboardInterrupt:
                status = STOPPED
            except BaseException:
                self._note(status=FAILED)
                raise
            return self._end(name, status)

    # --- the beginning -----------------------------------------------------------------------------------------------

    def _begin(self, name: str) -> None:
        from adapt.registry import fathom_version, is_registered
        from adapt.training.bases import base_folder, weights_hash

        self.manifest: dict[str, Any] = {
            "name": name,
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_sha256": recipe_hash(self.recipe),
            "fathom": fathom_version(),
            "started": now(),
        }
        self.manifest["started"] = _noted(self.folder / MANIFEST).get("started", self.manifest["started"])
        self._note(status=RUNNING)
        self.progress("looking at the base model", 0, 0)
        models = self.workspace / "models"
        known = is_registered(models, self.recipe.base)
        base = str(models / self.recipe.base) if known else self.recipe.base
        self.base = base_folder(base, cache=self.cache)
        self.base_hash = weights_hash(self.base, cache=self.cache)
        self._note(base={"name": self.recipe.base, "sha256": self.base_hash})
        corpora = self._corpora()
        self._note(
            corpora={one.name: {"sha256": one.sha256, "report": dict(one.report)} for one in corpora.values()},
        )
        self.around = Surroundings(
            recipe=self.recipe,
            base=self.base,
            corpora=corpora,
            cache=self.cache,
            embedder=self.embedder,
            progress=self.progress,
            stop=self.stop,
            processes=self.processes,
        )

    def _corpora(self) -> "dict[str, Corpus]":
        """Every source that a stage reads or whose held-out part is measured, cleaned and split."""
        from adapt.corpus.preparing import prepare

        wanted = {name for stage in self.recipe.stages for name in sources_of(stage)}
        wanted |= set(self.recipe.measure.on if self.recipe.measure.on is not None else self.recipe.data)
        corpora = {}
        for name, source in self.recipe.data.items():
            if name not in wanted:
                continue
            if source.synthetic is not None:
                source = source.model_copy(update={"path": str(self._written(source.synthetic)), "synthetic": None})
            corpora[name] = prepare(
                name,
                source,
                root=self.recipe.root,
                decontaminate=decontamination_of(self.recipe, name),
                seed=self.recipe.seed,
                cache=self.cache,
                progress=self.progress,
            )
            if self.stop.is_set():
                raise KeyboardInterrupt
        return corpora

    def _written(self, settings: Any) -> Path:
        """Replay text that the base wrote itself, made once for this base and these settings."""
        from adapt.corpus.synthesis import synthesise

        said = json.dumps([self.base_hash, self.recipe.seed, settings.model_dump(mode="json")], sort_keys=True)
        folder = self.cache / "synthetic" / hashlib.sha256(said.encode()).hexdigest()[:32]
        return synthesise(
            self.base, settings, seed=self.recipe.seed, folder=folder, progress=self.progress, stop=self.stop
        )

    # --- the stages --------------------------------------------------------------------------------------------------

    def _stages(self, names: list[str], first: int, last: int) -> str:
        self.measured[BASE] = self._measure(BASE, self.base)
        model, key = self.base, self.base_hash
        for place, (name, stage) in enumerate(zip(names, self.recipe.stages, strict=True)):
            if place > last:
                break
            key = stage_key(stage, key, self.around)
            folder = self.folder / "stages" / f"{place + 1}-{name}"
            result = self._stage(name, stage, key, model, folder, again=place >= first)
            if result is None:
                return STOPPED
            self.results.append(result)
            self._note(stages=[_as_json(one) for one in self.results])
            failed = [gate for gate in result.gates if not gate.passed]
            if failed:
                return GATED
            model = result.model
        return FINISHED

    def _stage(
        self, name: str, stage: Stage, key: str, model: Path, folder: Path, *, again: bool
    ) -> StageResult | None:
        from adapt.training.bases import weights_hash

        known = self._finished(folder, key, model)
        if known is None or again:
            if again or not _begun(folder, key):
                clear(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / STAGE, {"kind": stage.kind, "key": key, "finished": None})
            began = time.monotonic()
            outcome = run_stage(stage, model, folder, self.around)
            if outcome.model is None:
                return None
            known = {
                "seconds": time.monotonic() - began,
                "facts": outcome.facts,
                "model": outcome.model.name if outcome.adapter is None else None,
                "adapter": outcome.adapter.name if outcome.adapter is not None else None,
                "sha256": weights_hash(outcome.model, cache=self.cache),
            }
            write_json(folder / STAGE, {"kind": stage.kind, "key": key, "finished": now(), **known})
            skipped = False
        else:
            _LOG.info("stage %s was finished before", name)
            skipped = True
        adapter = folder / Path(str(known["adapter"])).name if known.get("adapter") else None
        result = model if adapter is not None else folder / str(known["model"])
        measured = self._measure(name, result, adapter)
        self.measured[name] = measured
        gates = self._judged(stage.kind, measured)
        return StageResult(
            name=name,
            kind=stage.kind,
            key=key,
            folder=folder,
            model=result,
            seconds=float(known["seconds"]),
            skipped=skipped,
            facts=dict(known["facts"]),
            settings=stage.settings.model_dump(mode="json"),
            measured=measured,
            gates=gates,
            adapter=adapter,
        )

    def _finished(self, folder: Path, key: str, before: Path) -> dict[str, Any] | None:
        """What a finished stage said of itself; None where it is another's, unfinished, or its model is not whole."""
        from adapt.training.bases import weights_hash
        from adapt.training.checkpoints import whole

        known = _noted(folder / STAGE)
        if known.get("key") != key or not known.get("finished"):
            return None
        adapter = known.get("adapter")
        if adapter and whole(folder / Path(str(adapter)).name) is None:
            _LOG.warning("the adapter of %s is not what was written; the stage is done again", folder.name)
            return None
        try:
            result = before if adapter else folder / Path(str(known.get("model"))).name
            found = weights_hash(result, cache=self.cache)
        except FathomError as error:
            _LOG.warning("the result of %s is gone (%s); the stage is done again", folder.name, error)
            return None
        if found != known.get("sha256"):
            _LOG.warning("the result of %s is not what was written; the stage is done again", folder.name)
            return None
        return known

    def _measure(self, label: str, model: Path, adapter: Path | None = None) -> "Measurement":
        from adapt.evidence.measuring import measure

        wanted = self.recipe.measure.on
        held_out = {
            name: corpus.file("held_out")
            for name, corpus in self.around.corpora.items()
            if (wanted is None or name in wanted) and corpus.count("held_out")
        }
        chats = {name for name in held_out if self.recipe.data[name].chat}
        return measure(
            model,
            label=label,
            texts={name: file for name, file in held_out.items() if name not in chats},
            chats={name: file for name, file in held_out.items() if name in chats},
            form=self._form(),
            measure=self.recipe.measure,
            root=self.recipe.root,
            folder=self.folder / "evidence" / label,
            cache=self.cache,
            seed=self.recipe.seed,
            progress=self.progress,
            adapter=adapter,
        )

    def _form(self) -> "ChatForm":
        """How conversations are written wherever they are measured: as the first stage that learns from some."""
        from adapt.evidence.chats import ChatForm

        stages = [stage.settings for stage in self.recipe.stages if isinstance(stage.settings, Sft)]
        if not stages:
            return ChatForm(self.base)
        return ChatForm(self.base, stages[0].template, stages[0].system, stages[0].learn)

    def _judged(self, kind: str, measured: "Measurement") -> "tuple[GateResult, ...]":
        from adapt.evidence.gates import judge

        gates: Sequence[str] = getattr(self.recipe.gates, kind, ())
        return tuple(judge(gates, self.measured[BASE], measured))

    # --- the end -----------------------------------------------------------------------------------------------------

    def _end(self, name: str, status: str) -> RunResult:
        from adapt.evidence.changes import figures_with_changes
        from adapt.registering import register_results

        self._note(status=status, finished=now())
        failed = tuple(gate for result in self.results for gate in result.gates if not gate.passed)
        entry = None
        if status == FINISHED and self.results:
            measured = self.results[-1].measured
            assert measured is not None
            manifest = {
                "base": {"name": self.recipe.base, "sha256": self.base_hash},
                "recipe": {"name": self.recipe.name, "sha256": recipe_hash(self.recipe), "run": name},
                "data": {corpus.name: corpus.sha256 for corpus in self.around.corpora.values()},
                "metrics": figures_with_changes(self.measured[BASE], measured),
            }
            entry, adapter = register_results(self.workspace / "models", name, self.results, manifest)
            self._note(**({"model": entry.name} if entry else {}), **({"adapter": adapter.name} if adapter else {}))
        report = self._report(name, status) if self.measured else None
        return RunResult(self.folder, name, status, tuple(self.results), self.measured.get(BASE), entry, report, failed)

    def _report(self, name: str, status: str) -> Path:
        from adapt.evidence.changes import figures_with_changes
        from adapt.evidence.measuring import iterate_warnings
        from adapt.evidence.report import write_report
        from adapt.evidence.run_facts import RunFacts, StageFacts
        from eval.runs.environment import environment

        base = self.measured[BASE]
        stages = []
        for result in self.results:
            assert result.measured is not None
            facts = dict(result.facts)
            shares = facts.pop("shares", {})
            stages.append(
                StageFacts(
                    name=result.name,
                    kind=result.kind,
                    state="kept" if result.skipped else "finished",
                    sha256=result.measured.sha256,
                    settings=result.settings,
                    times={"stage": result.seconds},
                    metrics=str((result.folder / METRICS).relative_to(self.folder)),
                    planned=shares.get("planned", ()),
                    realised=shares.get("realised", ()),
                    measurement=result.measured.as_json(),
                    changes=figures_with_changes(base, result.measured),
                    gates=[gate.as_json() for gate in result.gates],
                    report=facts,
                )
            )
        facts_of_run = RunFacts(
            name=name,
            started=self.manifest["started"],
            finished=self.manifest.get("finished"),
            state=status,
            recipe=self.manifest["recipe"],
            recipe_sha256=self.manifest["recipe_sha256"],
            base=self.manifest["base"],
            stages=stages,
            corpora={one.name: dict(one.report) for one in self.around.corpora.values()},
            base_measurement=base.as_json(),
            fathom=self.manifest["fathom"],
            environment=environment(),
            registered=self.manifest.get("model"),
            notices=list(iterate_warnings(base)),
        )
        facts_of_run.write(self.folder)
        return write_report(self.folder)

    def _note(self, **facts: Any) -> None:
        self.manifest |= facts
        write_json(self.folder / MANIFEST, self.manifest)


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of everything a recipe says, however its file is written."""
    return hashlib.sha256(json.dumps(recipe.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _place(names: Sequence[str], word: str, option: str) -> int:
    if word not in names:
        raise UsageError(f"{option} names the stage '{word[:60]}'; the recipe has {', '.join(names)}")
    return names.index(word)


def _begun(folder: Path, key: str) -> bool:
    """Whether a stage stands there unfinished, to be gone on with."""
    known = _noted(folder / STAGE)
    return known.get("key") == key and not known.get("finished")


def _noted(file: Path) -> dict[str, Any]:
    """What an earlier call wrote down of itself; nothing where that is damaged, so that it is done again."""
    try:
        return read_json(file) if file.is_file() else {}
    except DamagedError as error:
        _LOG.warning("%s; what it tells of is done again", error)
        return {}


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == ".lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _as_json(result: StageResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "kind": result.kind,
        "key": result.key,
        "folder": result.folder.name,
        "seconds": result.seconds,
        "skipped": result.skipped,
        "facts": result.facts,
        "gates": [gate.as_json() for gate in result.gates],
    }
