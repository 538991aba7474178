"""A registered model and adapters on it → what vLLM has to be told to serve them: flags, and remarks for people.

It starts nothing; what vLLM would refuse, or would serve otherwise than it was trained, is refused here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from adapt.adapters import base_of, held, require_base_of
from adapt.export.model_folder import ends_of, template_of
from adapt.registry import ADAPTER, Entry, find, is_adapter_folder, is_registered
from adapt.serving_limits import max_rank, require_servable
from eval.models.adapter_base import adapter_base
from eval.models.packaged import packaged_adapters
from retrieval.errors import UsageError

PACKAGED = "packaged"
"""The word for all adapters that come with Fathom, as it is for the model they are on."""


@dataclass(frozen=True)
class Serving:
    """`model` is the folder of the base and `name` what clients call it; `adapters` are folders by name. `template` is
    a file or the text of a chat template and `generation` a folder with generation_config.json, where the adapters were
    trained with others than the base has; None leaves the base's own."""

    name: str
    model: Path
    adapters: Mapping[str, Path] = field(default_factory=dict)
    rank: int | None = None
    template: str | None = None
    generation: Path | None = None
    notes: tuple[str, ...] = ()

    def on(self, adapter: str, folder: Path) -> "Serving":
        """The same with an adapter in another folder, its template and generation settings with it."""
        own = self.adapters[adapter]
        template = self.template
        if template is not None and Path(template).parent == own:
            template = str(folder / Path(template).name)
        return replace(
            self,
            adapters={**self.adapters, adapter: folder},
            template=template,
            generation=folder if self.generation == own else self.generation,
        )

    def flags(self, *, host: str | None = None, port: int | None = None, max_model_len: int | None = None) -> list[str]:
        """Words for `vllm serve`, the model not among them."""
        words = ["--served-model-name", self.name]
        words += ["--host", host] if host is not None else []
        words += ["--port", str(port)] if port is not None else []
        if max_model_len is not None:
            words += ["--max-model-len", str(max_model_len)]
        if self.template is not None:
            words += ["--chat-template", self.template]
        if self.generation is not None:
            words += ["--generation-config", str(self.generation)]
        if self.adapters:
            # One place more than there are adapters: on a CPU vLLM (0.32, lora/ops/torch_ops) reads "no adapter" as
            # the last place, so that the base, asked beside an adapter, spoke under another. An empty place changes
            # nothing.
            count = len(self.adapters) + 1
            words += ["--enable-lora", "--max-loras", str(count), "--max-lora-rank", str(self.rank), "--lora-modules"]
            words += [_module(name, folder) for name, folder in self.adapters.items()]
        return words


def plan_serving(models: Path, name: str, adapters: Sequence[str] = (), *, cache: Path) -> Serving:
    """What to serve for a registered model (or what else `base_folder` finds) with adapters on it: registered ones,
    those that come with Fathom by role ("packaged" is all of them), or folders. NAME may itself be an adapter: then its
    base is served with it.

    Raises UsageError for an adapter of another base (by hash), one that vLLM refuses, and adapters that cannot be
    served together; MissingError, DamagedError.
    """
    from adapt.training.bases import base_folder

    wanted = list(dict.fromkeys(word for named in adapters for word in _named(models, named)))
    if is_registered(models, name):
        entry = find(models, name)
        if entry.is_adapter:
            name, folder = base_of(models, entry, cache=cache)
            wanted = list(dict.fromkeys([entry.name, *wanted]))
        else:
            name, folder = entry.name, entry.folder
    else:
        folder = base_folder(name, cache=cache)
    entries = [_adapter(models, word) for word in wanted]
    for one in entries:
        require_base_of(one, folder, name, cache=cache)
        require_servable(one.folder, one.name)
    template, generation, notes = _manners(name, folder, entries)
    for one in entries:
        if held(one) == "nf4":
            notes.append(
                f"'{one.name}' learnt on '{name}' in 4 bits (QLoRA) and is served on its full weights, which is all "
                f"but the same; exactly what was trained is the merged model: fathom model export {one.name} --to hf"
            )
    if name in wanted:
        raise UsageError(f"the model and an adapter are both called '{name}'; clients could not tell them apart")
    folders = {one.name: one.folder for one in entries}
    rank = max_rank(folders.values()) if folders else None
    return Serving(name, folder, folders, rank, template, generation, tuple(notes))


def _named(models: Path, word: str) -> Sequence[str]:
    """The adapters that a word stands for."""
    return [word] if word != PACKAGED or is_registered(models, word) else list(packaged_adapters())


def _adapter(models: Path, name: str) -> Entry:
    folder = packaged_adapters().get(name) or Path(name).expanduser()
    if not is_registered(models, name) and is_adapter_folder(folder):
        base = adapter_base(folder)
        bits = "nf4" if base is not None and base.four_bits is not None else None
        return Entry(folder.name, folder.absolute(), {"kind": ADAPTER, "base": {"held": bits}})
    entry = find(models, name)
    if not entry.is_adapter:
        raise UsageError(
            f"'{name}' is a whole model and no adapter; serve it by itself, or name one of the adapters that "
            "'fathom model list' shows"
        )
    return entry


def _manners(name: str, folder: Path, adapters: Sequence[Entry]) -> tuple[str | None, Path | None, list[str]]:
    """The chat template and the ends of answers that adapters were trained with: vLLM has one of each for all.

    Raises UsageError where adapters differ in them.
    """
    notes: list[str] = []
    own = template_of(folder)
    templates = {template_of(one.folder) or own for one in adapters}
    ends = {ends_of(one.folder) or ends_of(folder) for one in adapters}
    if len(templates) > 1 or len(ends) > 1:
        raise UsageError(
            f"the adapters {', '.join(one.name for one in adapters)} were trained with different chat templates, and a "
            "vLLM server has one for all; serve them apart"
        )
    template, generation = None, None
    for one in adapters:
        if template_of(one.folder) not in ("", own):
            file = one.folder / "chat_template.jinja"
            template = str(file) if file.is_file() else template_of(one.folder)
            notes.append(f"the chat template is that of '{one.name}'; '{name}' itself answers under it too")
            break
    for one in adapters:
        if ends_of(one.folder) not in ((), ends_of(folder)):
            generation = one.folder
            break
    return template, generation, notes


def _module(name: str, folder: Path) -> str:
    """An adapter as --lora-modules takes it; a path with signs of its own as JSON."""
    if set("=,{") & set(str(folder)):
        return json.dumps({"name": name, "path": str(folder)})
    return f"{name}={folder}"
