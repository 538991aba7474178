"""A model, texts and questions → figures with intervals and samples of its writing, in a folder of records.

One load of the model for all of it. It knows no stage, no gate and no other measurement.
"""

import gc
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.evidence.chats import CHAT_LOSS, CHATS, ChatForm, HeldOut, identity_of
from adapt.evidence.gates import CHOICES
from adapt.recipe import Measure
from eval.choices import ChoicesPart
from eval.figures.statistics import Estimate, clusters_of, estimates, table_of
from eval.language import LanguagePart
from eval.models.language_models import locate, place_hash
from eval.runs.parts import PartFolder, Progress, Record, Tools, read_records
from eval.runs.run_folder import read_json, write_json
from retrieval.errors import DamagedError, UsageError

if TYPE_CHECKING:
    from eval.models.language_models import ModelPlace
    from eval.runs.parts import Part

TEXTS, SAMPLES = "texts", "samples"
"""Folders of records, beside `choices`."""
FILE = "measurement.json"
VERSION = 1
"""Of what is measured and how: another one measures again."""
SAMPLE_TOKENS = 64
"""Tokens a sample has at most: enough to hear a domain, cheap on a CPU."""
MOST_PROMPT = 4_000
"""Characters of a prompt that the model reads, its last."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurement:
    """What was measured of one model. `figures` are called "LABEL METRIC", as gates speak of them.

    `sha256` is of all files that decide the figures, `data` has the SHA-256 of what each label was measured on,
    `facts` what is no figure (documents, bytes, perplexity, warnings), `samples` pairs of a prompt and what the model
    went on with.
    """

    label: str
    folder: Path
    model: str
    sha256: str
    precision: str
    seed: int
    data: Mapping[str, str]
    facts: Mapping[str, Any]
    records: Mapping[str, Mapping[str, Record]] = field(repr=False)
    chats: tuple[str, ...] = ()
    """Labels of `data` that are held-out conversations."""

    @classmethod
    def open(cls, folder: Path) -> "Measurement":
        """A finished measurement. Raises UsageError where there is none, DamagedError where it is not whole."""
        if not (folder / FILE).is_file():
            raise UsageError(f"'{folder}' holds no finished measurement ({FILE}); measure the model first")
        said = read_json(folder / FILE)
        try:
            records = {kind: _records(folder / kind, count) for kind, count in said["records"].items()}
            strings = {name: str(said[name]) for name in ("label", "model", "sha256", "precision")}
            return cls(
                folder=folder,
                seed=int(said["seed"]),
                data=dict(said["data"]),
                facts=dict(said["facts"]),
                records=records,
                chats=tuple(map(str, said.get("chats", ()))),
                **strings,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedError(f"{folder / FILE} is not what was written ({error!r}); measure again") from error

    def names(self) -> dict[str, dict[str, str]]:
        """Folder of records → "LABEL METRIC" → the metric's name in them."""
        labels = [label for label in self.data if label != CHOICES and label not in self.chats]
        found: dict[str, dict[str, str]] = {}
        if labels:
            metrics = ("bits_per_byte", "tokens_per_byte")
            found[TEXTS] = {
                f"{label} {metric}": metric if len(labels) == 1 else f"{metric}_{label}"
                for label in labels
                for metric in metrics
            }
        if CHOICES in self.data:
            found[CHOICES] = {f"{CHOICES} {metric}": metric for metric in ("choice_accuracy", "choice_accuracy_norm")}
        if self.chats:
            several = len(self.chats) > 1
            found[CHATS] = {f"{one} {CHAT_LOSS}": f"{CHAT_LOSS}_{one}" if several else CHAT_LOSS for one in self.chats}
        return found

    @cached_property
    def figures(self) -> dict[str, Estimate]:
        """Each figure with its 95 % interval."""
        found: dict[str, Estimate] = {}
        for kind, names in self.names().items():
            records = self.records[kind]
            told = estimates(table_of(records), clusters=clusters_of(records), seed=self.seed)
            found |= {figure: told[metric] for figure, metric in names.items() if metric in told}
        return found

    @property
    def samples(self) -> list[tuple[str, str]]:
        return [(str(r.get("text", "")), str(r.get("sample", ""))) for r in self.records.get(SAMPLES, {}).values()]

    def as_json(self) -> dict[str, Any]:
        """For manifests and reports: everything but the records."""
        return {
            "label": self.label,
            "model": self.model,
            "sha256": self.sha256,
            "precision": self.precision,
            "data": dict(self.data),
            "figures": {
                name: {"value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}
                for name, figure in self.figures.items()
            },
            "facts": dict(self.facts),
            "samples": [list(pair) for pair in self.samples],
        }


def _records(folder: Path, count: int) -> dict[str, Record]:
    records = {key: record for key, record in read_records(folder).items() if not record.get("error")}
    if len(records) != count:
        raise DamagedError(f"{folder} has {len(records)} records where {count} were written; measure again")
    return records


def measure(
    model: Path | str,
    *,
    label: str,
    texts: Mapping[str, Path],
    measure: Measure,
    folder: Path,
    cache: Path,
    seed: int,
    progress: Progress,
    precision: str = "auto",
    root: Path | None = None,
    adapter: Path | None = None,
    chats: Mapping[str, Path] | None = None,
    form: ChatForm | None = None,
) -> Measurement:
    """Bits and tokens per byte of `texts` by label, the multiple-choice questions and the samples of `measure`; of the
    held-out conversations of `chats` by label, written in `form`, the loss of the answers, and samples of answers.

    `model` is whatever `locate` understands, measured under `adapter` if one is named. Paths in `measure` are taken
    from `root`. `precision` "auto" is `measuring_precision()`: the same one must be used for all that is compared. What
    `folder` holds of this very model, these texts and settings is kept: a finished measurement costs no load of the
    model, a killed one goes on.

    Raises UsageError, ReadingError, MissingError, DamagedError; FathomError where questions fail one after the other.
    """
    held = HeldOut.of(chats, limit_bytes=measure.limit_bytes, seed=seed) if chats and form is not None else None
    plan = _Plan.of(model, label, texts, measure, cache, seed, precision, root, adapter, held, form)
    if (folder / FILE).is_file():
        try:
            done = Measurement.open(folder)
            if read_json(folder / FILE).get("key") == plan.key:
                return done
        except DamagedError as error:
            _LOG.warning("%s; it is measured again", error)
    _begin(folder, plan.key)
    loaded: list[Any] = []

    def load() -> Any:
        if not loaded:
            progress(f"loading {label}", 0, 0)
            loaded.append(plan.load(cache))
        return loaded[0]

    tools = Tools(cache=cache, language_model=lambda _: load().scorer)
    facts: dict[str, Any] = {}
    counts: dict[str, int] = {}
    try:
        for kind, part in plan.parts.items():
            prepared = part.prepare(tools)
            records = PartFolder(folder / kind)
            facts[kind] = dict(prepared.run(records, progress))
            records.close()
            counts[kind] = len(records.done())
        if held is not None and form is not None:
            records = PartFolder(folder / CHATS)
            facts[CHATS] = held.score(records, form, load, progress)
            records.close()
            counts[CHATS] = len(records.done())
        if measure.prompts or held is not None:
            records = PartFolder(folder / SAMPLES)
            _samples(records, measure.prompts, load, progress)
            if held is not None and form is not None:
                for record in held.samples(form, load, records.done()):
                    records.append(record)
                    progress("samples", len(records.done()), 0)
            records.close()
            counts[SAMPLES] = len(records.done())
    finally:
        if loaded:
            loaded[0].scorer.close()
            loaded.clear()
            gc.collect()  # the next stage needs the memory
    write_json(
        folder / FILE,
        {
            "version": VERSION,
            "key": plan.key,
            "label": label,
            "model": str(model),
            "sha256": plan.sha256,
            "precision": plan.precision,
            "seed": seed,
            "data": plan.data,
            "facts": facts,
            "records": counts,
            "chats": list(held.chosen) if held is not None else [],
        },
    )
    return Measurement.open(folder)


def measuring_precision() -> str:
    """bf16 where the machine computes it, else fp32.

    SmolLM2-135M on 30 kB each of wikitext2 and MedQuAD: bits per byte in bf16 are .04 % above and .004 % below those in
    fp32, far less than a gate allows, for three fifths of the CPU time. Never compare the one with the other all the
    same: `compare` refuses it.
    """
    import torch

    if torch.cuda.is_available():
        return "bf16"
    able = torch.cpu.get_capabilities()
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"


@dataclass(frozen=True)
class _Plan:
    """Everything that is checked before a model is loaded. `key` changes with whatever changes a figure or sample."""

    key: str
    place: "ModelPlace"
    sha256: str
    precision: str
    data: dict[str, str]
    parts: "dict[str, Part]"

    @classmethod
    def of(
        cls,
        model: Path | str,
        label: str,
        texts: Mapping[str, Path],
        measure: Measure,
        cache: Path,
        seed: int,
        precision: str,
        root: Path | None,
        adapter: Path | None,
        held: HeldOut | None,
        form: ChatForm | None,
    ) -> "_Plan":
        name = str(model)
        everything = dict(texts)
        for more, path in measure.texts.items():
            if more in texts:
                raise UsageError(f"measure.texts has '{more}', which is a source already; give it another name")
            everything[more] = _from(root, path)
        if CHOICES in everything:
            raise UsageError(
                f"'{CHOICES}' is what the multiple-choice questions are called; give the text another name"
            )
        if not everything and measure.choices is None and held is None:
            raise UsageError("nothing to measure on: no source has held-out documents, and measure names no text")
        place = locate(name, adapter)
        weights = place_hash(place, cache)
        parts: dict[str, Part] = {}
        data: dict[str, str] = {}
        nothing = Tools(cache=cache)
        if everything:
            parts[TEXTS] = LanguagePart(texts=everything, model=name, limit_bytes=measure.limit_bytes, seed=seed)
            hashes = parts[TEXTS].prepare(nothing).data
            data |= {one: hashes[str(path)] for one, path in everything.items()}
        if measure.choices is not None:
            questions = _from(root, measure.choices)
            parts[CHOICES] = ChoicesPart(questions=questions, model=name, limit=measure.choices_limit, seed=seed)
            data[CHOICES] = parts[CHOICES].prepare(nothing).data[str(questions)]
        precision = measuring_precision() if precision == "auto" else precision
        marks = {
            "version": VERSION,
            "weights": weights,
            "precision": precision,
            "seed": seed,
            "data": data,
            "limits": [measure.limit_bytes, measure.choices_limit, SAMPLE_TOKENS],
            "prompts": list(measure.prompts),
        }
        if held is not None and form is not None:
            data |= held.data
            marks |= {"data": data, "chats": identity_of(held, form)}
        key = hashlib.sha256(json.dumps(marks, sort_keys=True).encode()).hexdigest()
        return cls(key, place, weights, precision, data, parts)

    def load(self, cache: Path) -> "_Loaded":
        from eval.models.language_models import load_parts
        from eval.models.likelihood import TransformersModel

        model, tokenizer, precision = load_parts(self.place, cache=cache, precision=self.precision)
        scorer = TransformersModel(model, tokenizer, name=self.place.name, weights=self.sha256, precision=precision)
        return _Loaded(model, tokenizer, scorer)


@dataclass(frozen=True)
class _Loaded:
    """One model, to score and to write with."""

    model: Any
    tokenizer: Any
    scorer: Any


def _from(root: Path | None, path: str) -> Path:
    """A path of a recipe: relative ones begin at its root."""
    found = Path(path).expanduser()
    return found if root is None or found.is_absolute() else root / found


def _begin(folder: Path, key: str) -> None:
    """The folder for the records of this very measurement: those of another one are removed."""
    begun = folder / "begun.json"
    try:
        same = begun.is_file() and read_json(begun).get("key") == key
    except DamagedError:
        same = False
    (folder / FILE).unlink(missing_ok=True)
    if not same:
        for kind in (TEXTS, CHOICES, CHATS, SAMPLES):
            if (folder / kind).exists():
                shutil.rmtree(folder / kind)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(begun, {"key": key})


def _samples(records: PartFolder, prompts: tuple[str, ...], load: Any, progress: Progress) -> None:
    """What the model goes on with after each prompt, greedily, `SAMPLE_TOKENS` at most."""
    waiting = [(f"{n:03d}", prompt) for n, prompt in enumerate(prompts, 1) if f"{n:03d}" not in records.done()]
    for number, (key, prompt) in enumerate(waiting, 1):
        records.append(
            {"id": key, "text": prompt, "cluster": None, "metrics": {}, "timings": {}, "sample": _on(load(), prompt)}
        )
        progress("samples", len(prompts) - len(waiting) + number, len(prompts))


def _on(loaded: _Loaded, prompt: str) -> str:
    import torch

    tokenizer, window = loaded.tokenizer, loaded.scorer.window
    ids = tokenizer(prompt[-MOST_PROMPT:], return_tensors="pt")["input_ids"]
    room = max(1, min(SAMPLE_TOKENS, window // 2))
    ids = ids[:, -(window - room) :].to(loaded.scorer.device)
    if not ids.shape[1]:  # an empty prompt of a tokenizer that opens with nothing
        ids = torch.tensor([[loaded.scorer.bos or 0]], device=loaded.scorer.device)
    with torch.inference_mode():
        written = loaded.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=room,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))


def iterate_warnings(measurement: Measurement) -> Iterator[str]:
    """What a reader must know before believing the figures."""
    for kind in (TEXTS, CHOICES, CHATS):
        facts = measurement.facts.get(kind)
        for warning in facts.get("warnings", ()) if isinstance(facts, Mapping) else ():
            yield str(warning)
