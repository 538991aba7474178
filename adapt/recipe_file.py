"""A recipe's YAML, with what the command line changes of it → a checked `Recipe`; every problem named with its line.

It opens no file but the YAML itself; whether texts and models are there is for the plan to say.
"""

import datetime
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from adapt.recipe import Dapt, Recipe, Settings, Sft, Stage, Tapt, Vocabulary
from adapt.recipe_rules import Key, Problem, problems_of
from eval.runs.plain_yaml import Value, hint, parse_yaml, read_yaml
from retrieval.errors import UsageError

KINDS: Mapping[str, type[Settings]] = {"vocabulary": Vocabulary, "dapt": Dapt, "tapt": Tapt, "sft": Sft}
"""Kind of a stage → its settings. A further kind is one more line here and one more class in adapt/recipe.py."""
LATER = ("preference", "merge", "export")
"""Kinds that recipes will know and that nothing here runs yet."""
LARGEST = 2**53
"""Numbers beyond this are no longer exact in JSON."""
_WORDS: Mapping[str, Any] = {"what": "recipe", "instead": "write it out"}
# Controls but tab and newline, and half characters, which JSON and YAML can write and no path or tokenizer takes.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def load_recipe(
    path: Path,
    *,
    root: Path | None = None,
    data: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Recipe:
    """Read and check a recipe.

        name: python                      # else the file's name
        root: ../../shared/data           # paths begin here (relative to this file), else at this file
        data: {domain: {path: peps.jsonl.gz}, general: {path: wikitext2/valid.txt}}
        stages:
          - vocabulary: {tokens: 250}
          - dapt: {tokens: 3e6, lr: 1e-4}

    `root` replaces the file's own; `data` gives sources of these names another path, or adds them; `settings` are
    "stages.dapt.tokens" → YAML of the value. Raises UsageError with all problems of the file together, one a line.
    """
    return _RecipeFile(path, root, data or {}, settings or {}).recipe()


def stage_names(recipe: Recipe) -> list[str]:
    """A name for each stage, in order: its kind; where there are several of a kind dapt-1, dapt-2 …"""
    return numbered([stage.kind for stage in recipe.stages])


def numbered(words: Sequence[str]) -> list[str]:
    """The words, those that come several times with a number."""
    return [
        word if words.count(word) == 1 else f"{word}-{words[: place + 1].count(word)}"
        for place, word in enumerate(words)
    ]


def spelled(key: Key) -> str:
    """("stages", 1, "dapt") → "stages[1].dapt"."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{str(part)[:80]}" for part in key)
    return text.removeprefix(".") or "the recipe"


class _RecipeFile:
    def __init__(self, path: Path, root: Path | None, data: Mapping[str, str], settings: Mapping[str, str]) -> None:
        self.path = path
        self.problems: list[tuple[int, str]] = []
        self.top = read_yaml(path, needs="'stages:'", **_WORDS)
        if not isinstance(self.top.content, dict):
            raise UsageError(
                f"{path}, line {self.top.line}: a recipe must be keys with values, one 'key: value' a line"
            )
        for name, place in data.items():
            self._place_source(name, place)
        for key, text in settings.items():
            self._set(key, text)
        self.root = root

    def recipe(self) -> Recipe:
        self._plain_scalars((), self.top)
        self._stop()
        top: dict[str, Value] = self.top.content
        values = {key: typed_values(value.plain()) for key, value in top.items() if key != "stages"}
        values.setdefault("name", self.path.stem)
        values["root"] = self._root(top.get("root"))
        if isinstance(values.get("data"), dict):
            values["data"] = {name: _as_source(source) for name, source in values["data"].items()}
        found = self._validated(Recipe, values | {"stages": ()}, ())
        stages = self._stages(top.get("stages"))
        self._stop()
        recipe = typing.cast(Recipe, found).model_copy(update={"stages": tuple(stages)})
        for problem in problems_of(recipe):
            self._wrong(problem)
        self._stop()
        return recipe

    def _stop(self) -> None:
        if self.problems:
            lines = dict.fromkeys(sentence for _, sentence in sorted(self.problems, key=lambda found: found[0]))
            raise UsageError("\n".join(lines))

    def _root(self, written: Value | None) -> Path:
        place = self.root
        if place is None:
            word = written.content if written is not None else ""
            if not isinstance(word, str):
                self._wrong(Problem(("root",), f"{str(word)[:60]!r} is not valid", "expected a folder"))
                word = ""
            place = self.path.parent / os.path.expanduser(word)
        return Path(os.path.abspath(os.path.expanduser(place)))

    # --- what the command line changes ---------------------------------------------------------------------------

    def _place_source(self, name: str, place: str) -> None:
        given = f"--data {name}=…"
        if not place:
            raise UsageError(f"'{given}' names no file or folder; write --data NAME=PATH")
        # A path of the command line begins where the command was called.
        where = place if place.startswith("hub:") else os.path.abspath(os.path.expanduser(place))
        sources = self.top.content.setdefault("data", Value(0, {}, given))
        if sources.content is None:
            sources = self.top.content["data"] = Value(sources.line, {})
        if not isinstance(sources.content, dict):
            return  # a problem that is told with its line
        old = sources.content.get(name)
        near = difflib.get_close_matches(name, list(sources.content), n=1, cutoff=0.75)
        if old is None and near:
            raise UsageError(f"--data: the recipe has no source '{name[:60]}'; did you mean '{near[0]}'?")
        kept = dict(old.content) if old is not None and isinstance(old.content, dict) else {}
        kept.pop("synthetic", None)
        sources.content[name] = Value(0, kept | {"path": Value(0, where, given)}, given)

    def _set(self, key: str, text: str) -> None:
        """Put a value where `key` says, making mappings on the way. Raises UsageError."""
        given = f"--set {key}"
        value = parse_yaml(text, name=f"--set {key[:120]}", **_WORDS)
        value = Value(0, value.content if value is not None else None, given)
        parts = key.split(".")
        if not all(parts):
            raise UsageError(f"'{given[:120]}' has an empty word; write it like --set stages.dapt.tokens=200000")
        here = self.top.content
        if parts[0] == "stages":
            here, parts = self._stage_content(parts, given)
        for part in parts[:-1]:
            if part not in here or here[part].content is None:
                here[part] = Value(0, {}, given)
            if not isinstance(here[part].content, dict):
                raise UsageError(f"'{given[:120]}' goes into '{part[:80]}', which holds no keys; set that itself")
            here = here[part].content
        here[parts[-1]] = value

    def _stage_content(self, parts: list[str], given: str) -> tuple[dict[str, Value], list[str]]:
        """The mapping that a key below `stages.NAME` goes into, and the rest of the key."""
        stages = self.top.content.get("stages")
        entries = stages.content if stages is not None and isinstance(stages.content, list) else []
        entries = [entry for entry in entries if isinstance(entry.content, dict) and len(entry.content) == 1]
        names = dict(zip(numbered([next(iter(entry.content)) for entry in entries]), entries, strict=True))
        if len(parts) < 3 or parts[1] not in names:
            there = f"there are {', '.join(names)}" if names else "there is none"
            raise UsageError(f"'{given[:120]}' names no stage's key; write --set stages.STAGE.KEY=VALUE ({there})")
        return names[parts[1]].content, [next(iter(names[parts[1]].content)), *parts[2:]]

    # --- checking ------------------------------------------------------------------------------------------------

    def _plain_scalars(self, key: Key, value: Value) -> None:
        """Refuse what YAML can write and a recipe has no use for."""
        if isinstance(value.content, dict):
            for name, item in value.content.items():
                if _UNPRINTABLE.search(name):
                    self._wrong(Problem(key, f"the key {name[:80]!r} holds characters that cannot be printed"))
                    continue
                self._plain_scalars((*key, name), item)
            return
        if isinstance(value.content, list):
            for place, item in enumerate(value.content):
                self._plain_scalars((*key, place), item)
            return
        content = value.content
        if isinstance(content, str) and _UNPRINTABLE.search(content):
            self._wrong(Problem(key, f"{content[:60]!r} holds characters that cannot be printed", "remove them"))
        elif isinstance(content, datetime.date | bytes):
            what = "a date" if isinstance(content, datetime.date) else "binary data"
            self._wrong(Problem(key, f"{str(content)[:40]!r} is {what}", "put a text into quotes"))
        elif isinstance(content, float) and not math.isfinite(content):
            self._wrong(Problem(key, f"{content} is no number to work with", "write a finite one"))
        elif isinstance(content, int) and abs(content) > LARGEST:
            self._wrong(Problem(key, "the number is beyond all sense", f"write one below {LARGEST:,}"))

    def _stages(self, given: Value | None) -> list[Stage]:
        key: Key = ("stages",)
        form = "write a list, each entry one stage: '- dapt: {…}'"
        if given is None or given.content in (None, []):
            self._wrong(Problem(key, "the recipe has no stages", form))
            return []
        if not isinstance(given.content, list):
            self._wrong(Problem(key, "is no list", form))
            return []
        stages = []
        for place, entry in enumerate(given.content):
            here = (*key, place)
            content = {str(entry.content): Value(entry.line, {})} if isinstance(entry.content, str) else entry.content
            if not isinstance(content, dict) or len(content) != 1:
                self._wrong(Problem(here, "is not one stage", "write its kind with its settings: '- dapt: {…}'"))
                continue
            ((kind, value),) = content.items()
            if kind in LATER:
                now = ", ".join(KINDS)
                self._wrong(Problem(here, f"the kind '{kind}' comes with a later version", f"now there are {now}"))
            elif kind not in KINDS:
                self._wrong(Problem(here, f"unknown kind of stage '{kind[:80]}'", hint(kind, (*KINDS, *LATER))))
            else:
                plain = {} if value.content is None else typed_values(value.plain())
                settings = self._validated(KINDS[kind], plain, (*here, kind))
                if settings is not None:
                    stages.append(Stage.model_construct(kind=kind, settings=settings))
        return stages

    def _validated(self, model: type[Settings], values: Any, key: Key) -> Settings | None:
        """`values` as `model`; None, with the problems noted, where they are not."""
        try:
            # Strict: a text is a text and a number a number.
            return model.model_validate(values, strict=True)
        except ValidationError as error:
            for problem in validation_problems(model, values, error.errors(include_url=False)):
                self._wrong(problem.below(key))
        return None

    def _wrong(self, problem: Problem) -> None:
        """Note a problem, with the line of the key or of the nearest above it that the file has."""
        here = self.top
        for part in problem.at or problem.key:
            content = here.content
            if isinstance(content, dict) and part in content:
                here = content[typing.cast(str, part)]
            elif isinstance(content, list) and isinstance(part, int) and part < len(content):
                here = content[part]
            else:
                break
        remedy = f"; {problem.remedy}" if problem.remedy else ""
        self.problems.append((here.line, f"{self.path}: {spelled(problem.key)}: {problem.said} ({here.where}){remedy}"))


def typed_values(value: Any, *, free: bool = False) -> Any:
    """YAML's values in the types that settings have: a list is a tuple, and 3e6 the whole number it says; but for what
    is passed through to a library."""
    if isinstance(value, dict):
        return {key: typed_values(item, free=free or key == "trainer") for key, item in value.items()}
    if isinstance(value, list):
        items = [typed_values(item, free=free) for item in value]
        return items if free else tuple(items)
    if not free and isinstance(value, float) and value.is_integer() and abs(value) < LARGEST:
        return int(value)
    return value


def _as_source(value: Any) -> Any:
    """A source may be its path alone, and one that the model writes itself has none."""
    if isinstance(value, str):
        return {"path": value}
    if isinstance(value, dict) and value.get("synthetic") is not None:
        return {"path": "", **value}
    return value


# --- pydantic's errors in words --------------------------------------------------------------------------------------

_EXPECTED: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text (a number as text in quotes)",
    "path_type": "a path",
    "list_type": "a list, as in [a, b]",
    "tuple_type": "a list, as in [a, b]",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "string_pattern_mismatch": "up to 60 letters, digits, '-', '_' and '.', beginning with a letter or digit",
}
_IN_THE_FILE: Mapping[str, str] = {"start": "from", "end": "to"}
"""Fields whose word in the file is a keyword of Python."""
_SHORT_FORMS: Mapping[str, str] = {
    "lr": "a number or keys with values (peak, curve …)",
    "method": "a method like lora, or as in {lora: {r: 64}}",
    "mix": "a share from 0 to 1, {from: …, to: …}, or rest",
}
"""What may be written for fields that understand more than one form; of `mix` it is what stands for a source."""


def validation_problems(model: type[BaseModel], values: Any, errors: Iterable[Any]) -> Iterator[Problem]:
    """One sentence for each place where something is wrong. Of a union pydantic tells what each branch would have
    wanted; those that went deepest are what the writer meant."""
    found: dict[Key, list[Any]] = {}
    for error in errors:
        key = _written_key(values, error["loc"])
        if error["type"] == "extra_forbidden":
            word = str(key[-1])
            yield Problem(key[:-1], f"unknown key '{word[:80]}'", hint(word, _known(model, key[:-1])), at=key)
        elif error["type"] == "missing":
            word = str(error["loc"][-1])
            yield Problem(key, f"needs the key '{_IN_THE_FILE.get(word, word)}'")
        else:
            found.setdefault(key, []).append(error)
            continue
        found.setdefault(key, [])
    for key, here in found.items():
        deeper = any(len(other) > len(key) and other[: len(key)] == key for other in found)
        if here and not deeper:
            yield _misfit(key, here)


def _misfit(key: Key, errors: list[Any]) -> Problem:
    """A value of the wrong type or beyond its bounds. `errors` are of one value, one a branch of its type."""
    first = errors[0]
    in_mix = len(key) > 1 and key[-2] == "mix"
    short = _SHORT_FORMS["mix"] if in_mix else _SHORT_FORMS.get(str(key[-1]) if key and key[-1] != "mix" else "")
    wanted = short or " or ".join(dict.fromkeys(_wanted(error) for error in errors))
    given = first["input"]
    got, near = str(list(given) if isinstance(given, tuple) else given), ""
    words = [
        word for error in errors for word in re.findall("'([^']+)'", str(error.get("ctx", {}).get("expected", "")))
    ]
    if isinstance(given, str) and words:
        close = hint(got, words)
        near = f"; {close}" if close.startswith("did") else ""
    return Problem(key, f"{got[:60]!r} is not valid", f"expected {wanted}{near}")


def _written_key(values: Any, loc: tuple[int | str, ...]) -> Key:
    """Pydantic's place of an error → the keys as they were written: without names of union branches, through the short
    form {lora: {…}}, and with the words of the file."""
    here, key = values, []
    for part in loc:
        if isinstance(here, dict):
            for word in (part, _IN_THE_FILE.get(str(part))):
                if word in here:
                    break
            else:
                inner = next(iter(here.values())) if len(here) == 1 else None
                if not (isinstance(inner, dict) and part in inner):
                    continue
                key.append(next(iter(here)))
                here, word = inner, part
            key.append(typing.cast(str, word))
            here = here[typing.cast(str, word)]
        elif isinstance(here, tuple) and isinstance(part, int) and part < len(here):
            key.append(part)
            here = here[part]
    return tuple(key)


def _known(model: type[BaseModel], key: Key) -> list[str]:
    """Names of the keys that may stand at `key`, as they are written in a file."""
    places: list[Any] = [model]
    for part in key:
        places = [inner for place in places for option in _options(place) for inner in _inside(option, part)]
    names: list[str] = []
    for option in (option for place in places for option in _options(place)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            names += [_IN_THE_FILE.get(name, name) for name in option.model_fields]
    return list(dict.fromkeys(names))


def _options(annotation: Any) -> Iterator[Any]:
    """The branches of a type: without Annotated, each of a union."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _options(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _options(argument)
    else:
        yield annotation


def _inside(option: Any, part: int | str) -> Iterator[Any]:
    if isinstance(option, type) and issubclass(option, BaseModel):
        name = {"from": "start", "to": "end"}.get(str(part), str(part))
        # A word that is no field is the kind in a short form: {lora: {…}}.
        yield option.model_fields[name].annotation if name in option.model_fields else option
    elif typing.get_origin(option) is dict:
        yield typing.get_args(option)[1]
    elif typing.get_origin(option) in (list, tuple):
        yield typing.get_args(option)[0]


def _wanted(error: Any) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "less_than_equal" and context["le"] == 1:
        return "a share from 0 to 1"
    bounds = {"greater_than": "more than", "greater_than_equal": "at least", "less_than_equal": "at most"}
    if kind in bounds:
        (bound,) = context.values()
        return f"{bounds[kind]} {bound:g}"
    return _EXPECTED.get(kind) or str(error["msg"])[:1].lower() + str(error["msg"])[1:]
