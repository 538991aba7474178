"""A typed recipe → what contradicts itself in it: rules between keys, each with its reason. It reads no text, no model.

What depends on the machine or on the texts (memory, tokens at hand, a GPU) is for adapt/planning.py.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from adapt.corpus.shares import share_at
from adapt.recipe import (
    LOW_RANK,
    METHOD_FIELDS,
    PROMPTS,
    Dapt,
    Method,
    Mixture,
    Recipe,
    Sft,
    Source,
    Tapt,
    Training,
    Vocabulary,
)
from eval.runs.plain_yaml import hint
from retrieval.errors import UsageError

Key = tuple[str | int, ...]
SELECTED = "selected"
"""In the mixture of `tapt`: the text that was selected."""
_NAME = re.compile(r"\w[\w\-]{0,39}")
_LANGUAGE = re.compile(r"[a-z]{2}")
_HUB = re.compile(r"hub:[\w.\-]+(/[\w.\-]+)?(@[\w.\-/]+)?")
ROUNDING = 1e-6
"""0.1 + 0.2 + 0.7 is not quite 1 to a computer."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at `key`, and what to do. `at` is the key whose line is meant, if another."""

    key: Key
    said: str
    remedy: str = ""
    at: Key | None = None

    def below(self, key: Key) -> "Problem":
        """The same, for a `key` that was counted from further down."""
        return replace(self, key=(*key, *self.key), at=None if self.at is None else (*key, *self.at))


def problems_of(recipe: Recipe) -> Iterator[Problem]:
    """Everything that contradicts itself, in the order of the file."""
    yield from _data(recipe)
    yield from _measure(recipe)
    yield from _order(recipe)
    for place, stage in enumerate(recipe.stages):
        settings, key = stage.settings, ("stages", place, stage.kind)
        if isinstance(settings, Vocabulary):
            found = _vocabulary(settings, recipe)
        else:
            found = _training(settings, recipe)
        yield from (problem.below(key) for problem in found)
    yield from _serving(recipe)
    yield from _gates(recipe)


# --- texts, measuring, gates -----------------------------------------------------------------------------------------


def _data(recipe: Recipe) -> Iterator[Problem]:
    if not recipe.data:
        yield Problem(("data",), "no source of texts is named", "name one: {domain: {path: …}}")
    for name, source in recipe.data.items():
        key = ("data", name)
        if name in (SELECTED, "rest"):
            yield Problem(key, f"'{name}' is a word of mixtures and cannot name a source", "choose another name")
        elif not _NAME.fullmatch(name):
            yield Problem(
                key, f"{name[:60]!r} cannot name a source", "use up to 40 letters (of any script), digits, '-' and '_'"
            )
        yield from (problem.below(key) for problem in _source(source))


def _source(source: Source) -> Iterator[Problem]:
    if source.synthetic is not None:
        if source.path:
            yield Problem(("path",), "has a path and synthetic text", "keep one of the two")
    elif not source.path.strip():
        yield Problem(("path",), "names no file or folder", "write one, or 'synthetic: {}'")
    elif source.path.startswith("hub:") and not _HUB.fullmatch(source.path):
        yield Problem(("path",), f"{source.path[:80]!r} is no data set of the hub", "write it like hub:OWNER/NAME")
    elif "://" in source.path:
        yield Problem(("path",), f"{source.path[:80]!r} is an address", "fetch it first and name the file")
    if source.chat:
        yield from _chat_source(source)
    if source.held_out >= 1:
        yield Problem(("held_out",), "holds every document back, so that none is trained on", "write a smaller share")
    for language in source.languages:
        if not _LANGUAGE.fullmatch(language):
            yield Problem(("languages",), f"{language[:20]!r} is no language", "use two letters: en, zh (ISO 639-1)")


_OF_PROSE = ("field", "title", "split", "languages", "quality", "near_duplicates")
"""Settings of sources of raw text that mean nothing for conversations."""


def _chat_source(source: Source) -> Iterator[Problem]:
    if source.synthetic is not None:
        yield Problem(("synthetic",), "the model writes raw text, no conversations", "leave out chat or synthetic")
    elif not source.path.lower().endswith((".jsonl", ".jsonl.gz")):
        said = f"{source.path[-60:]!r} is no file of conversations"
        yield Problem(("path",), said, "name a .jsonl file of examples, as 'fathom data' writes them")
    for name in _OF_PROSE:
        if name in source.model_fields_set:
            yield Problem((name,), f"'{name}' is of raw text, and conversations are taken as they are", "remove it")


def measured_labels(recipe: Recipe) -> list[str]:
    """Labels of the texts that are measured after each stage."""
    sources = recipe.measure.on
    if sources is None:
        sources = tuple(name for name, source in recipe.data.items() if source.held_out and source.synthetic is None)
    return [*sources, *(label for label in recipe.measure.texts if label not in sources)]


def _measure(recipe: Recipe) -> Iterator[Problem]:
    measure = recipe.measure
    for name in measure.on or ():
        if name not in recipe.data:
            yield Problem(("measure", "on"), f"there is no source '{name[:60]}' in data", hint(name, list(recipe.data)))
        elif not recipe.data[name].held_out:
            yield Problem(
                ("measure", "on"), f"'{name}' holds no document back to measure on", f"set data.{name}.held_out"
            )
    for label in measure.texts:
        if not _NAME.fullmatch(label) or label == "choices":
            yield Problem(("measure", "texts"), f"{label[:60]!r} cannot be a label", "use letters, digits, '-', '_'")
        elif label in recipe.data and label in measured_labels(recipe):
            if measure.on is None or label in measure.on:
                remedy = "choose another label, or name the sources to measure with 'on'"
                yield Problem(("measure", "texts"), f"'{label}' is a source too, whose held-out part has it", remedy)
    for place, prompt in enumerate(measure.prompts):
        if not prompt.strip():
            yield Problem(("measure", "prompts", place), "is empty", "write the beginning of a text")
        elif len(prompt) > 4000:
            yield Problem(("measure", "prompts", place), f"has {len(prompt):,} characters", "4,000 are enough")


def _gates(recipe: Recipe) -> Iterator[Problem]:
    from adapt.evidence.gates import CHOICES, parse_gate, refuse_unknown

    labels = [*measured_labels(recipe), *([CHOICES] if recipe.measure.choices else [])]
    chats = [name for name, source in recipe.data.items() if source.chat]
    there = {stage.kind for stage in recipe.stages}
    for kind in type(recipe.gates).model_fields:
        for place, text in enumerate(getattr(recipe.gates, kind)):
            key = ("gates", kind, place)
            try:
                refuse_unknown([parse_gate(text)], labels, chats)
            except UsageError as error:
                yield Problem(key, str(error))
                continue
            if kind not in there:
                yield Problem(key, f"there is no stage '{kind}' to hold it against", "remove the gate")


# --- stages ----------------------------------------------------------------------------------------------------------


def _order(recipe: Recipe) -> Iterator[Problem]:
    kinds = [stage.kind for stage in recipe.stages]
    for place, kind in enumerate(kinds):
        key = ("stages", place, kind)
        if kind == "vocabulary" and "vocabulary" in kinds[:place]:
            yield Problem(key, "the vocabulary is extended twice", "keep one stage; its 'tokens' may be more")
        elif kind == "vocabulary" and place:
            why = "rows that come after training would never be trained with the rest"
            yield Problem(key, f"the vocabulary comes after {kinds[place - 1]}, but {why}", "make it the first stage")
        elif kind == "dapt" and "tapt" in kinds[:place]:
            why = "the whole domain would wash out what was learnt from the part nearest to the task"
            yield Problem(key, f"dapt comes after tapt, but {why}", "put dapt first")
        elif kind in ("dapt", "tapt") and "sft" in kinds[:place]:
            why = "raw text would unlearn how to answer"
            yield Problem(key, f"{kind} comes after sft, but {why}", f"put {kind} first")
    for place, stage in enumerate(recipe.stages[:-1]):
        if not isinstance(stage.settings, Vocabulary) and not stage.settings.method.merges:
            said = f"{stage.settings.method.kind} leaves an adapter beside the model, from which no stage can go on"
            yield Problem(("stages", place, stage.kind, "method"), said, "make it the last stage, or use lora")


def _vocabulary(settings: Vocabulary, recipe: Recipe) -> Iterator[Problem]:
    yield from _in_data(("source",), settings.source, recipe)
    replay = settings.warm.replay if settings.warm is not None else None
    for key, name in ((("source",), settings.source), (("warm", "replay"), replay)):
        if name in recipe.data and recipe.data[name].chat:
            yield Problem(key, f"'{name}' holds conversations", "name a source of raw text")
    if replay is not None:
        yield from _in_data(("warm", "replay"), replay, recipe)
        if replay == settings.source:
            said = f"'{replay}' is both what the tokens are of and what is shown beside it"
            yield Problem(("warm", "replay"), said, "name a source of general text")
    elif settings.warm is not None and "replay_share" in settings.warm.model_fields_set:
        yield Problem(("warm", "replay_share"), "is a share of no source", "name one as warm.replay")
    if settings.warm is not None and settings.batch_tokens < settings.block:
        yield Problem(("batch_tokens",), f"a step of {settings.batch_tokens} holds no block of {settings.block}")


def _in_data(key: Key, name: str, recipe: Recipe) -> Iterator[Problem]:
    if name not in recipe.data:
        yield Problem(key, f"there is no source '{name[:60]}' in data", hint(name, list(recipe.data)))


def _training(settings: Dapt | Tapt | Sft, recipe: Recipe) -> Iterator[Problem]:
    if isinstance(settings, Tapt):
        yield from _in_data(("select", "near"), settings.select.near, recipe)
        yield from _in_data(("select", "source"), settings.select.source, recipe)
        if settings.select.near == settings.select.source:
            said = f"'{settings.select.near}' is both where the task's sentences and the texts come from"
            yield Problem(("select",), said, "name another source as 'near'")
        if SELECTED not in settings.mix:
            yield Problem(("mix",), "the selected text has no share", f"give '{SELECTED}' one")
    names = [*recipe.data, SELECTED] if isinstance(settings, Tapt) else list(recipe.data)
    yield from _mix(settings, names)
    yield from _chats(settings, recipe)
    yield from _method(settings)
    yield from _keep(settings)
    yield from _reading(settings)
    yield from _sizes(settings)
    yield from _trainer(settings)


def _mix(settings: Dapt | Tapt | Sft, names: list[str]) -> Iterator[Problem]:
    key: Key = ("mix",)
    mix = settings.mix
    if not mix:
        yield Problem(key, "nothing is mixed", "name a source with its share")
        return
    for name in mix:
        if name not in names:
            remedy = hint(name, names)
            if name == SELECTED:
                remedy = f"only tapt selects; {remedy}"
            yield Problem((*key, name), f"there is no source '{name[:60]}' in data", remedy)
    rest = [name for name, mixture in mix.items() if mixture == "rest"]
    if len(rest) > 1:
        yield Problem(key, f"{' and '.join(rest)} all say 'rest'", "only one source can take what the others leave")
        return
    fixed = {name: mixture for name, mixture in mix.items() if isinstance(mixture, Mixture)}
    times = [step / 1000 for step in range(1001)]
    sums = {time: sum(share_at(mixture, time) for mixture in fixed.values()) for time in times}
    most = max(times, key=lambda time: sums[time])
    least = min(times, key=lambda time: sums[time])
    if sums[most] > 1 + ROUNDING:
        yield Problem(
            key, f"the shares add up to {sums[most]:.0%} {_moment(most)}", "they can never be more than 100 %"
        )
    elif not rest and sums[least] < 1 - ROUNDING:
        said = f"the shares add up to {sums[least]:.0%} {_moment(least)} and no source takes the rest"
        yield Problem(key, said, "let one say 'rest'")
    elif rest and sums[least] > 1 - ROUNDING:
        yield Problem((*key, rest[0]), "nothing is left for the rest", "leave the source out")


def _chats(settings: Dapt | Tapt | Sft, recipe: Recipe) -> Iterator[Problem]:
    """Conversations are for sft, and sft is for conversations."""
    chats = [name for name in settings.mix if name in recipe.data and recipe.data[name].chat]
    if not isinstance(settings, Sft):
        read = [*settings.mix, *((settings.select.near, settings.select.source) if isinstance(settings, Tapt) else ())]
        for name in dict.fromkeys(read):
            if name in recipe.data and recipe.data[name].chat:
                yield Problem(("mix",), f"'{name}' holds conversations, which are read by sft alone", "take it out")
        return
    if not chats:
        yield Problem(
            ("mix",), "no source of the mixture holds conversations", "set 'chat: true' at the source that does"
        )
    if settings.reading is not None:
        yield Problem(("reading",), "reading exercises are made of raw text in dapt and tapt", "remove it")
    if settings.template is not None:
        from adapt.chat.templates import SHIPPED

        if settings.template not in SHIPPED:
            said = f"there is no chat template '{settings.template[:60]}'"
            yield Problem(("template",), said, hint(settings.template, list(SHIPPED)))
    if settings.system is not None and not settings.system.strip():
        yield Problem(("system",), "is empty", "write the message, or leave it out")


def _moment(time: float) -> str:
    return {0.0: "at the beginning", 1.0: "at the end"}.get(time, f"after {time:.0%} of the stage")


def _method(settings: Training) -> Iterator[Problem]:
    method, kind = settings.method, settings.method.kind
    for name in method.foreign():
        having = METHOD_FIELDS[name]
        said = f"'{name}' does not belong to {kind}; {', '.join(having)} {'has' if len(having) == 1 else 'have'} it"
        yield Problem(("method",), said, f"remove it, or write {{{having[0]}: {{{name}: …}}}}")
    if kind in LOW_RANK:
        yield from _targets(method)
    yield from _method_values(method)
    if kind != "full" and settings.expand is not None:
        why = {"qlora": "4-bit weights cannot be copied into layers"}.get(kind, f"{kind} alone would train them")
        yield Problem(
            ("expand",), f"new layers do not go with {kind}: {why}", "use the method full, or leave out expand"
        )
    if method.leaves_adapter:
        for name in ("l2sp", "ewc"):
            if getattr(settings.keep, name) is not None:
                said = f"{name} pulls the weights back, but {kind} leaves them as they are: they have no gradients"
                yield Problem(("keep", name), said, "use the method full, or leave it out")
        if settings.freeze != type(settings.freeze)():
            said = f"{kind} freezes all of the model's own weights already"
            remedy = "choose the adapter's layers with method targets, or leave it out"
            yield Problem(("freeze",), said, remedy if kind in LOW_RANK else "leave it out")
    if kind in PROMPTS and settings.keep.kl is not None:
        said = f"{kind} leaves the model as it is: without its virtual tokens nothing is forgotten"
        yield Problem(("keep", "kl"), said, "leave it out")
    if kind == "prefix" and settings.activation_checkpointing:
        said = "activations of a prefix cannot be computed again: its keys and values would be added a second time"
        yield Problem(("activation_checkpointing",), said, "leave it out, or use prompt or lora")
    freeze = settings.freeze
    if freeze.unfreeze and not freeze.layers:
        yield Problem(("freeze", "unfreeze"), "no layer is frozen that could join later", "set freeze.layers")
    if settings.expand is not None and settings.expand.only_new and (freeze.layers or freeze.embeddings):
        said = "only the new layers are trained, so that all others are frozen already"
        yield Problem(("freeze",), said, "leave out freeze, or set expand.only_new to false")


def _method_values(method: Method) -> Iterator[Problem]:
    key: Key = ("method",)
    if method.init != "zero" and method.dora:
        said = "a DoRA adapter begins as nothing; directions and magnitudes are apart only from there"
        yield Problem(key, said, "leave out dora or init")
    if method.init != "zero" and (method.init == "error") != (method.kind == "qlora"):
        kind = "qlora" if method.init == "error" else "lora"
        yield Problem((*key, "init"), f"init {method.init} belongs to {kind}, and this is {method.kind}", f"use {kind}")
    for name in ("ranks", "alphas"):
        for layer in getattr(method, name):
            if layer.rpartition(".")[2] == "lm_head" or not re.fullmatch(r"[\w.]{1,80}", layer):
                yield Problem((*key, name), f"{layer[:60]!r} names no layer with an adapter", "write names like q_proj")
    for layer in method.wide:
        if not re.fullmatch(r"[\w.]{1,80}", layer):
            yield Problem((*key, "wide"), f"{layer[:60]!r} names no layer", "write names like v_proj or layers.29")
    if method.kind == "adalora":
        if method.rank_of("") <= method.r:
            said = f"ranks are pruned from {method.rank_of('')} to {method.r}, which is no less"
            yield Problem((*key, "start_r"), said, "set a larger start_r")
        if method.begin + method.settle >= 1:
            said = f"begin and settle take {method.begin + method.settle:.0%} of the steps and leave none to prune in"
            yield Problem(key, said, "make them smaller")
    if method.text is not None and not method.text.strip():
        yield Problem((*key, "text"), "is empty", "write what the virtual tokens begin as, or leave it out")


def _serving(recipe: Recipe) -> Iterator[Problem]:
    """What the last training leaves must be what `serve` wants to run."""
    from adapt.serving_limits import refused_by_vllm

    trained = [
        (place, stage) for place, stage in enumerate(recipe.stages) if not isinstance(stage.settings, Vocabulary)
    ]
    if recipe.serve is None or not trained:
        return
    place, stage = trained[-1]
    assert not isinstance(stage.settings, Vocabulary)
    key, method = ("stages", place, stage.kind, "method"), stage.settings.method
    if recipe.serve == "vllm":
        if not method.merges:
            said = f"{method.kind} leaves an adapter that cannot be merged, and vLLM serves none of its kind"
            yield Problem(key, said, "use lora, or leave out serve and run the result with the local engine")
        return
    if not method.leaves_adapter:
        yield Problem(key, f"{method.kind} leaves no adapter to serve", "use lora, or write serve: vllm")
    for reason in refused_by_vllm(method) if method.leaves_adapter else ():
        yield Problem(key, f"vLLM would refuse the adapter: {reason}", "use plain lora, or write serve: vllm")


def _targets(method: Method) -> Iterator[Problem]:
    if isinstance(method.targets, str):
        return
    key: Key = ("method", "targets")
    if not method.targets:
        yield Problem(key, "no layer gets an adapter", "name some, or write all-linear")
    for target in method.targets:
        last = target.rpartition(".")[2]
        if last == "lm_head":
            why = "the loss reads its weight directly and TRL refuses an adapter there"
            yield Problem(key, f"'lm_head' cannot have an adapter: {why}", "remove it; all-linear leaves it out too")
        elif last in ("embed_tokens", "wte"):
            yield Problem(key, f"{last!r} cannot have an adapter", "new words are trained in a vocabulary stage")
        elif not re.fullmatch(r"[\w.]{1,80}", target):
            yield Problem(key, f"{target[:60]!r} names no layer", "write names like q_proj")


def _keep(settings: Dapt | Tapt | Sft) -> Iterator[Problem]:
    keep = settings.keep
    mixed = list(settings.mix)
    if keep.kl is not None:
        key: Key = ("keep", "kl", "on")
        if not keep.kl.on:
            yield Problem(
                key, "no source is named whose rows the older model is asked about", "name one of the mixture"
            )
        for name in keep.kl.on:
            if name not in mixed:
                yield Problem(key, f"'{name[:60]}' has no share in the mixture", hint(name, mixed))
    if keep.ewc is not None and keep.ewc.on not in mixed:
        yield Problem(
            ("keep", "ewc", "on"), f"'{keep.ewc.on[:60]}' has no share in the mixture", hint(keep.ewc.on, mixed)
        )
    if keep.l2sp is not None:
        for name in ("on", "tokens"):
            if name in keep.l2sp.model_fields_set:
                yield Problem(("keep", "l2sp", name), "l2sp reads no text", "remove it; ewc has it")


def _reading(settings: Dapt | Tapt | Sft) -> Iterator[Problem]:
    if settings.reading is None:
        return
    mixed = list(settings.mix)
    if not settings.reading.tasks:
        yield Problem(("reading", "tasks"), "no task is named", "name one, or leave out reading")
    if not set(settings.reading.on) & set(mixed):
        said = f"none of {', '.join(settings.reading.on)} has a share in the mixture"
        yield Problem(("reading", "on"), said, f"name some of {', '.join(mixed)}")


def _sizes(settings: Training) -> Iterator[Problem]:
    for name in ("batch_tokens", "micro_tokens", "tokens"):
        tokens = getattr(settings, name)
        if tokens is not None and tokens < settings.block:
            what = "the whole stage" if name == "tokens" else "a step"
            yield Problem((name,), f"{what} of {tokens:,} tokens holds no block of {settings.block:,}")
    if settings.micro_tokens is not None and settings.micro_tokens > settings.batch_tokens:
        said = f"{settings.micro_tokens:,} tokens at once are more than a step's {settings.batch_tokens:,}"
        yield Problem(("micro_tokens",), said, "make it smaller, or batch_tokens larger")
    rate = settings.lr
    falls = rate.decay if rate.curve == "wsd" else 0.0
    if rate.warm_up + falls > 1 + ROUNDING:
        yield Problem(
            ("lr",), f"warming up and decay take {rate.warm_up + falls:.0%} of the steps", "make them shorter"
        )
    if rate.curve != "wsd" and "decay" in rate.model_fields_set:
        yield Problem(
            ("lr", "decay"), f"the curve {rate.curve} has no decay of its own", "use the curve wsd, or remove it"
        )


def _trainer(settings: Training) -> Iterator[Problem]:
    if not settings.trainer:
        return
    from adapt.training.arguments import OURS, PASSED_ON, fields

    known = fields()
    for name, value in settings.trainer.items():
        key: Key = ("trainer", name)
        if name in OURS:
            yield Problem(key, f"'{name}' cannot be passed on", OURS[name])
        elif name not in known:
            yield Problem(("trainer",), f"unknown key '{name[:80]}'", hint(name, known), at=key)
        elif name in PASSED_ON and (not isinstance(value, dict) or set(value) - {PASSED_ON[name]}):
            yield Problem(key, f"'{name}' may hold {PASSED_ON[name]} and nothing else")
