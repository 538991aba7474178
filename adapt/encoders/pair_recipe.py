"""A recipe with the key `encoder: reranker` or `encoder: support` → a checked, frozen object. It reads no data."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BeforeValidator, Field, ValidationError

from adapt.recipe import Count, Positive, Settings, Share
from adapt.recipe_file import spelled, typed_values, validation_problems
from adapt.recipe_rules import Key, Problem
from eval.runs.plain_yaml import Value, hint, parse_yaml, read_yaml
from retrieval.errors import UsageError

R = TypeVar("R", bound=Settings)
PACKAGED = "packaged"
RERANKER, SUPPORT = "reranker", "support"
ENCODERS = {RERANKER: "ranks passages for a question", SUPPORT: "tells whether a passage supports a claim"}
GATE = re.compile(r"(nDCG@10|MRR|accuracy)\s*>=\s*(base|\d*\.?\d+)")
_NAME = re.compile(r"\w[\w\-]{0,39}")
_WORDS: Mapping[str, Any] = {"what": "recipe", "instead": "write it out"}


class PairSource(Settings):
    """Where questions and the texts that answer them come from."""

    path: str
    """A folder or file; relative paths begin at the recipe's `root`."""
    kind: Literal["judged", "titles", "pairs", "claims"] = "judged"
    """judged: a test collection as `fathom eval retrieval` reads it. titles: texts without questions, whose title asks
    for its body. pairs: JSON lines {query, positive, negatives?}. claims: JSON lines {claim, evidence_doc_id, label,
    evidence_sentences, cited_doc_ids} with a corpus beside it, for a support checker."""
    split: str | None = None
    """Judgements of `judged`, rows of `claims`."""
    limit: Count | None = None
    """Questions at most, drawn with the seed."""
    characters: Count | None = None
    """Of each text only the beginning, to spare time."""
    distractors: Annotated[int, Field(ge=0)] | None = None
    """Texts beside those that answer a question; None is all of them. The fewer, the easier the negatives."""
    licence: str = ""
    """For the card that lies beside the result."""
    calibrate: bool = True
    """Whether its held-out questions have a say in the calibration; `titles` never have."""


class Negatives(Settings):
    """Which passages a question is taught to reject: those its own search finds, without what may be right."""

    each: Count = 4
    """For each positive, drawn anew in every epoch."""
    first: Count = 1
    last: Count = 40
    """Ranks of the hybrid search that they are drawn from; what is judged relevant is left out and not counted."""
    margin: float = 0.05
    """A candidate whose cosine to the question is this much above the positive's may be right without having been
    judged, and is dropped (RocketQA, Qu et al. 2021, arXiv:2010.08191)."""
    likeness: Share = 0.92
    """One that has this cosine to the positive passage or more says the same, and is dropped."""


class PairMethod(Settings):
    """lora: low-rank matrices on all linear layers, a file of a few MB. full: every weight, a model of its own."""

    kind: Literal["lora", "full"] = "lora"
    r: Count = 32
    alpha: Count | None = None
    """None is 2 × r."""


def _as_method(value: Any) -> Any:
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, dict) and len(value) == 1 and "kind" not in value:
        ((kind, rest),) = value.items()
        if rest is None or isinstance(rest, dict):
            return {"kind": kind, **(rest or {})}
    return value


class PairRecipe(Settings):
    """What one training of a pair encoder is. `root` is absolute."""

    encoder: Literal["reranker", "support"]
    name: str
    root: Path
    base: str = PACKAGED
    """"packaged", a folder, or a name of the hub."""
    data: dict[str, PairSource]
    negatives: Negatives = Negatives()
    method: Annotated[PairMethod, BeforeValidator(_as_method)] = PairMethod()
    lr: Positive = 5e-4
    """Peak, reached after a tenth of the steps, then down to 0 in a straight line."""
    head_lr: Positive = 5e-3
    """Of the head, which is new."""
    epochs: Positive = 1.0
    batch: Count = 8
    """Questions a step, each with its positive and its negatives."""
    max_tokens: Annotated[int, Field(ge=32, le=512)] = 256
    """Of question and passage together, in training and in use."""
    held_out: Annotated[float, Field(gt=0.0, le=0.5)] = 0.1
    """Share of the questions of each source, by the document that answers them: measured and calibrated on, never
    trained on."""
    gates: tuple[str, ...] = ()
    """Such as "nDCG@10 >= base": the result is not registered unless held-out questions say so. base is the search
    alone."""
    seed: int = 0
    save_steps: Count = 50


def encoder_of(path: Path) -> str | None:
    """What the top key `encoder` of a recipe says; None where it is a recipe of another kind. Raises UsageError."""
    top = read_yaml(path, needs="'stages:' or 'encoder:'", **_WORDS)
    found = top.content.get("encoder") if isinstance(top.content, dict) else None
    return str(found.content) if found is not None else None


def load_pair_recipe(
    path: Path,
    *,
    root: Path | None = None,
    data: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
) -> PairRecipe:
    """Read and check a recipe. `root`, `data` and `settings` are what the command line says, as for other recipes.

    Raises UsageError with all problems of the file together, one a line.
    """
    return checked_recipe(PairRecipe, _contradictions, path, root=root, data=data, settings=settings)


def checked_recipe(
    kind: type[R],
    contradictions: Callable[[R], Iterable[Problem]],
    path: Path,
    *,
    root: Path | None,
    data: Mapping[str, str] | None,
    settings: Mapping[str, str] | None,
) -> R:
    """A recipe of any kind that is one mapping with `name`, `root` and `data`; see `load_pair_recipe`."""
    top = read_yaml(path, needs="'encoder:'", **_WORDS)
    if not isinstance(top.content, dict):
        raise UsageError(f"{path}, line {top.line}: a recipe must be keys with values, one 'key: value' a line")
    for name, place in (data or {}).items():
        set_key(top, ["data", name, "path"], Value(0, place if not place else os.path.abspath(place), f"--data {name}"))
    for key, text in (settings or {}).items():
        value = parse_yaml(text, name=f"--set {key[:120]}", **_WORDS)
        set_key(top, key.split("."), Value(0, value.content if value is not None else None, f"--set {key}"))
    values = typed_values(top.plain())
    word = values.get("root", "")
    if not isinstance(word, str):
        raise UsageError(f"{path}: root: {str(word)[:60]!r} is not valid; expected a folder")
    begins = root if root is not None else path.parent / os.path.expanduser(word)
    values |= {"root": Path(os.path.abspath(os.path.expanduser(begins)))}
    values.setdefault("name", path.stem)
    try:
        recipe = kind.model_validate(values, strict=True)
    except ValidationError as error:
        problems = list(validation_problems(kind, values, error.errors(include_url=False)))
        raise UsageError(said(path, top, problems)) from error
    if found := list(contradictions(recipe)):
        raise UsageError(said(path, top, found))
    return recipe


def set_key(top: Value, keys: list[str], value: Value) -> None:
    here = top.content
    for key in keys[:-1]:
        inner = here.get(key)
        if inner is None or inner.content is None:
            inner = here[key] = Value(value.line, {}, value.place)
        if not isinstance(inner.content, dict):
            raise UsageError(f"'{value.place[:120]}' goes into '{key[:80]}', which holds no keys; set that itself")
        here = inner.content
    here[keys[-1]] = value


def _contradictions(recipe: PairRecipe) -> list[Problem]:
    found = []
    if not recipe.data:
        found.append(Problem(("data",), "no source of questions", "write data: {name: {path: …}}"))
    for name, source in recipe.data.items():
        if not _NAME.fullmatch(name):
            found.append(Problem(("data",), f"{name[:60]!r} cannot name a source", "use letters, digits, '-' and '_'"))
        wanted = source.kind == "claims"
        if wanted != (recipe.encoder == SUPPORT):
            fits = "claims" if recipe.encoder == SUPPORT else "judged, titles or pairs"
            found.append(
                Problem(("data", name, "kind"), f"'{source.kind}' does not train a {recipe.encoder}", f"use {fits}")
            )
    if recipe.negatives.first > recipe.negatives.last:
        found.append(Problem(("negatives", "first"), "is beyond 'last'", "let it be a smaller rank"))
    for place, gate in enumerate(recipe.gates):
        if GATE.fullmatch(gate) is None:
            found.append(Problem(("gates", place), f"{gate[:60]!r} is no gate", 'write it like "nDCG@10 >= base"'))
    return found


def said(path: Path, top: Value, problems: list[Problem]) -> str:
    """One sentence a line, in the order of the file."""
    lines = []
    for problem in problems:
        here = top
        for part in problem.at or problem.key:
            content = here.content
            if isinstance(content, dict) and part in content:
                here = content[cast(str, part)]
            elif isinstance(content, list) and isinstance(part, int) and part < len(content):
                here = content[part]
            else:
                break
        remedy = f"; {problem.remedy}" if problem.remedy else ""
        key: Key = problem.key
        lines.append((here.line, f"{path}: {spelled(key)}: {problem.said} ({here.where}){remedy}"))
    return "\n".join(dict.fromkeys(line for _, line in sorted(lines, key=lambda line: line[0])))


def require_kind(word: str, known: Mapping[str, Any]) -> None:
    """Raises UsageError for an encoder that no recipe trains."""
    if word not in known:
        raise UsageError(f"encoder: '{word[:60]}' is no kind of encoder; {hint(word, list(known))}")
