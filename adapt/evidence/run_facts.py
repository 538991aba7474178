"""What a run of a recipe leaves for its report: one JSON file in the run's folder, `facts.json`, and back.

It knows no stage: whoever runs them fills it in, as far as the run has come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.runs.run_folder import read_json, write_json
from retrieval.errors import DamagedError, UsageError

FILE = "facts.json"


@dataclass(frozen=True)
class StageFacts:
    """One stage. Everything but the name may be missing: a stage that has not run has only that."""

    name: str
    kind: str = ""
    state: str = "finished"
    """finished; kept (of an earlier run, by content hash); running; stopped (by a gate, Ctrl-C, a guard); waiting."""
    sha256: str = ""
    """Of the resulting model's weights."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """As in the recipe, defaults filled in."""
    times: Mapping[str, float] = field(default_factory=dict)
    """Seconds by what they went to: "preparing", "training", "measuring" …"""
    metrics: str | None = None
    """metrics.jsonl of the training, relative to the run's folder: step, tokens, loss, lr, grad_norm,
    tokens_per_second, kl, penalty."""
    planned: Sequence[Mapping[str, float]] = ()
    """Planned share of the tokens of each source in every tenth of them (`Order.planned`)."""
    realised: Sequence[Mapping[str, float]] = ()
    """The same as the order has it (`Order.realised`)."""
    measurement: Mapping[str, Any] | None = None
    """`Measurement.as_json()` of the result."""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """`changes.figures_with_changes(base, result)`."""
    gates: Sequence[Mapping[str, Any]] = ()
    """`GateResult.as_json()` of each."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """What the stage itself tells: tokens saved, what was selected, rows warmed up. Shown as tables, whatever it is."""
    error: str | None = None


@dataclass(frozen=True)
class RunFacts:
    """A run. `recipe` is the recipe as JSON (`Recipe.model_dump(mode="json")`), `corpora` the report of each source
    (`Corpus.report`), `base_measurement` `Measurement.as_json()` of the base, `environment` what
    `eval.runs.environment` says of the machine, `registered` the model's name in the registry."""

    name: str
    started: str
    state: str
    recipe: Mapping[str, Any]
    recipe_sha256: str
    base: Mapping[str, Any]
    """name and sha256 at least."""
    stages: Sequence[StageFacts] = ()
    corpora: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    base_measurement: Mapping[str, Any] | None = None
    finished: str | None = None
    fathom: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    registered: str | None = None
    notices: Sequence[str] = ()
    """What a reader must know before believing the figures."""
    times: Mapping[str, float] = field(default_factory=dict)
    """Seconds beside the stages': corpora, measuring the base …"""

    def write(self, folder: Path) -> None:
        """Whole or not at all. Raises OSError."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "RunFacts":
        """Raises UsageError where there are none, DamagedError where they are not what was written."""
        if not (folder / FILE).is_file():
            raise UsageError(f"'{folder}' is no run of a recipe: it holds no {FILE}")
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_python(read_json(folder / FILE))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DamagedError(f"{folder / FILE} is not what was written ({where}: {first['msg']})") from error
