"""A YAML file → the parts of a run: every key checked against the dataclass of its kind, errors named with their line.

It measures nothing and opens no file but the YAML itself; whether the data is there is for the parts to say.
"""

import dataclasses
import importlib
import json
import os
import re
import typing
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.runs.parts import Part
from eval.runs.plain_yaml import Value, hint, read_yaml
from retrieval.errors import UsageError

PART_NAME = re.compile(r"\w[\w.@+\-]{0,79}")
"""A part's folder bears its name."""


@dataclass(frozen=True)
class Kind:
    """Where the dataclass of a kind stands, and on which topics of `Tools.identity` its results rely as a rule."""

    module: str
    name: str
    relies_on: tuple[str, ...] = ()


_SEARCHING = ("embedding", "splitting", "search")
KINDS: Mapping[str, Kind] = {
    "retrieval": Kind("eval.retrieval", "RetrievalPart", (*_SEARCHING, "reranker", "rewriter")),
    "answers": Kind("eval.answers", "AnswersPart", (*_SEARCHING, "answer", "engine")),
    "judge": Kind("eval.judge", "JudgePart", ("engine",)),
    "rewrites": Kind("eval.rewrites", "RewritesPart", (*_SEARCHING, "rewriter")),
    "language": Kind("eval.language", "LanguagePart", ("language_model",)),
    "choices": Kind("eval.choices", "ChoicesPart", ("language_model",)),
    "tune": Kind("eval.tuning", "TunePart", (*_SEARCHING, "answer")),
    "speed": Kind("eval.speed.part", "SpeedPart", (*_SEARCHING, "answer", "engine")),
}


@dataclass(frozen=True)
class Suite:
    """The parts of one run, in order. `kinds` has the word of each; `seed` is that of the resamples.

    `optional` parts are skipped where their data is missing. `places` says where each part was written, for errors.
    """

    name: str
    seed: int
    parts: Mapping[str, Part]
    kinds: Mapping[str, str]
    optional: frozenset[str] = frozenset()
    places: Mapping[str, str] = field(default_factory=dict)

    def only(self, wanted: Iterable[str]) -> "Suite":
        """The parts of these names (`answers` stands for `answers@0`, `answers@1` … too). Raises UsageError."""
        chosen: set[str] = set()
        for word in wanted:
            found = {name for name in self.parts if name == word or name.rpartition("@")[0] == word}
            if not found:
                raise UsageError(f"suite '{self.name}' has no part '{word}'; {hint(word, tuple(self.parts))}")
            chosen |= found
        parts = {name: part for name, part in self.parts.items() if name in chosen}
        return dataclasses.replace(self, parts=parts, kinds={name: self.kinds[name] for name in parts})

    def resolved(self) -> dict[str, Any]:
        """Every setting of every part, ready for JSON."""
        parts = {name: {"kind": self.kinds[name], **settings_of(part)} for name, part in self.parts.items()}
        return {"name": self.name, "seed": self.seed, "parts": parts}


def suite_of_one(kind: str, name: str, part: Part, *, seed: int) -> Suite:
    """The suite of a command that measures one thing. `name` may be any text; what cannot stand in one is replaced."""
    name = re.sub(r"[^\w.@+\-]+", "-", unicodedata.normalize("NFC", name)).strip("-.@+")[:60] or kind
    fields = [item.name for item in dataclasses.fields(part) if item.init]  # type: ignore[arg-type]
    here = {key: _from_root(getattr(part, key), Path.cwd()) for key in fields}
    return Suite(name=name, seed=seed, parts={name: dataclasses.replace(part, **here)}, kinds={name: kind})  # type: ignore[type-var]


def _from_root(value: Any, root: Path) -> Any:
    """`value` with each path in it beginning at `root`."""
    if isinstance(value, Path):
        return root / value.expanduser()
    if type(value) in (tuple, list):
        return type(value)(_from_root(item, root) for item in value)
    if isinstance(value, dict):
        return {key: _from_root(item, root) for key, item in value.items()}
    return value


def part_class(kind: str) -> type[Any]:
    """The dataclass of a kind. Raises UsageError for a word that is none."""
    if kind not in KINDS:
        raise UsageError(f"unknown kind of part '{kind[:80]}'; {hint(kind, tuple(KINDS))}")
    return getattr(importlib.import_module(KINDS[kind].module), KINDS[kind].name)


def settings_of(part: Part) -> dict[str, Any]:
    """The fields of a part as JSON holds them: paths are texts, tuples lists."""
    values = dataclasses.asdict(part)  # type: ignore[call-overload]
    return typing.cast(dict[str, Any], json.loads(json.dumps(values, default=_plain)))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def load_suite(path: Path, *, data: Path | None = None, seed: int | None = None) -> Suite:
    """Read and check a suite. `data` replaces the file's own `data:` root, `seed` its `seed:`.

        name: smoke                       # else the file's name
        data: ../../shared/data           # paths of parts begin here (relative to this file), else at this file
        seed: 0                           # or  seeds: [0, 1, 2]: each part with a seed is run with each, as NAME@SEED
        defaults:
          retrieval: {pipeline: hybrid}   # for every part of that kind
        parts:
          scifact:
            kind: retrieval
            dataset: beir/scifact
            optional: true                # skipped where the data is missing

    Raises UsageError that names file, line, part and key, with all problems of the file together.
    """
    return _SuiteFile(path, data, seed).suite()


class _SuiteFile:
    KEYS = ("name", "description", "data", "seed", "seeds", "defaults", "parts")

    def __init__(self, path: Path, data: Path | None, seed: int | None) -> None:
        self.path = path
        self.problems: list[str] = []
        self.top = self._mapping(read_yaml(path, what="suite", needs="'parts:'", instead="use 'defaults:'"), "the file")
        self._known(self.top, self.KEYS, "the suite")
        root = self._typed(self.top.get("data"), str, "data")
        self.root = data or (Path(root).expanduser() if root else Path())
        if data is None:
            self.root = path.parent / self.root
        self.root = Path(os.path.normpath(self.root.absolute()))
        self.seed = seed

    def suite(self) -> Suite:
        name = self._typed(self.top.get("name"), str, "name") or self.path.stem
        if not PART_NAME.fullmatch(name):
            self._wrong(self.top["name"].line if "name" in self.top else 1, f"{name[:80]!r} cannot name a suite")
        seeds = self._seeds()
        defaults = self._mapping(self.top.get("defaults"), "'defaults'")
        for kind, value in defaults.items():
            if kind not in KINDS:
                self._wrong(value.line, f"'defaults' has an unknown kind '{kind[:80]}'; {hint(kind, tuple(KINDS))}")
        parts: dict[str, Part] = {}
        kinds: dict[str, str] = {}
        places: dict[str, str] = {}
        optional = set()
        entries = self._mapping(self.top.get("parts"), "'parts'")
        if not entries and not self.problems:
            self._wrong(self.top["parts"].line if "parts" in self.top else 1, "the suite has no parts; see 'parts:'")
        for word, entry in entries.items():
            for label, kind, part, may_be_missing in self._part(word, entry, defaults, seeds):
                parts[label], kinds[label] = part, kind
                places[label] = f"{self.path}, line {entry.line}"
                if may_be_missing:
                    optional.add(label)
        if self.problems:
            raise UsageError("\n".join(self.problems))
        return Suite(name, seeds[0], parts, kinds, frozenset(optional), places)

    def _seeds(self) -> list[int]:
        if self.seed is not None:
            return [self.seed]
        if "seeds" in self.top and "seed" in self.top:
            self._wrong(self.top["seeds"].line, "both 'seed' and 'seeds' are given; keep one")
        seeds = self._typed(self.top.get("seeds"), list[int], "seeds")
        if seeds is None:
            return [self._typed(self.top.get("seed"), int, "seed") or 0]
        if not seeds or len(set(seeds)) < len(seeds):
            self._wrong(self.top["seeds"].line, "'seeds' needs at least one number and each only once")
        return seeds or [0]

    def _part(
        self, word: str, entry: Value, defaults: Mapping[str, Value], seeds: list[int]
    ) -> Iterable[tuple[str, str, Part, bool]]:
        what = f"part '{word[:80]}'"
        if not PART_NAME.fullmatch(word) or "@" in word:
            self._wrong(entry.line, f"{what} needs a name of up to 80 letters, digits, '-', '_', '+' and '.'")
            return
        given = self._mapping(entry, what)
        kind = self._typed(given.pop("kind", None), str, f"{what}, kind")
        optional = bool(self._typed(given.pop("optional", None), bool, f"{what}, optional"))
        if kind is None:
            self._wrong(entry.line, f"{what} has no kind; one of {', '.join(KINDS)}")
            return
        try:
            made = part_class(kind)
        except UsageError as error:
            self._wrong(entry.line, f"{what}: {error}")
            return
        if kind in defaults:
            given = {**self._mapping(defaults[kind], f"defaults of '{kind}'"), **given}
        before = len(self.problems)
        names = tuple(item.name for item in dataclasses.fields(made) if item.init)
        self._known(given, names, what)
        types = typing.get_type_hints(made)
        values = {
            key: _from_root(self._typed(value, types[key], f"{what}, {key}"), self.root)
            for key, value in given.items()
            if key in names
        }
        for item in dataclasses.fields(made):
            absent = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            if item.init and absent and item.name not in given:
                self._wrong(entry.line, f"{what} needs the key '{item.name}'")
        if len(self.problems) > before:
            return
        seeded = "seed" in names and "seed" not in values
        for seed in seeds if seeded else seeds[:1]:
            try:
                part = made(**values, **({"seed": seed} if seeded else {}))
            except (UsageError, ValueError) as error:
                self._wrong(entry.line, f"{what}: {error}")
                return
            yield (f"{word}@{seed}" if seeded and len(seeds) > 1 else word), kind, part, optional

    def _typed(self, value: Value | None, wanted: Any, what: str) -> Any:
        """`value` as the type wanted; None, with a problem noted, where it is not."""
        if value is None:
            return None
        from pydantic import TypeAdapter, ValidationError

        plain = value.plain()
        try:
            # Strict JSON: a text is a text and a number a number, yet paths and tuples can be written.
            return TypeAdapter(wanted).validate_json(json.dumps(plain, allow_nan=False), strict=True)
        except ValidationError as error:
            reasons = dict.fromkeys(item["msg"][:1].lower() + item["msg"][1:] for item in error.errors())
            self._wrong(value.line, f"{what} = {str(plain)[:80]!r} is not valid: {'; '.join(reasons)}")
        except (TypeError, ValueError):  # a date, or a number JSON has no word for
            self._wrong(value.line, f"{what} = {str(plain)[:80]!r} is not valid; put a text into quotes")
        return None

    def _mapping(self, value: Value | None, what: str) -> dict[str, Value]:
        if value is None or value.content is None:
            return {}
        if not isinstance(value.content, dict):
            self._wrong(value.line, f"{what} must be keys with values, one 'key: value' a line")
            return {}
        return dict(value.content)

    def _known(self, given: Mapping[str, Value], known: tuple[str, ...], what: str) -> None:
        for key, value in given.items():
            if key not in known:
                self._wrong(value.line, f"{what} has an unknown key '{key[:80]}'; {hint(key, known)}")

    def _wrong(self, line: int, sentence: str) -> None:
        self.problems.append(f"{self.path}, line {line}: {sentence}")
