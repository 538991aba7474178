"""The name of a GGUF file, a model folder or an adapter → a causal language model, loaded without running its code.

Evaluation and adaptation load models here. It knows no texts, no prompts and no metrics. torch, transformers and peft
load with the first model.
"""

import hashlib
import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eval.models.adapter_base import FourBits, require_base_in
from eval.models.packaged import packaged_model
from retrieval.errors import DamagedError, MissingError, UsageError

if TYPE_CHECKING:
    from eval.models.likelihood import Encoding, TransformersModel
    from eval.runs.parts import PartFolder, Tools

PACKAGED = "packaged"
"""The word for the model that comes with Fathom, where one has to be said."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "nf4")
"""nf4: weights in 4 bits by bitsandbytes, computed with in bf16 (arXiv:2305.14314)."""
NF4_BLOCK = 64
"""Weights that share a scale."""
UNPACK_UP_TO = 512 << 20
"""Bytes of a GGUF file that is kept unpacked."""
_LOG = logging.getLogger(__name__)
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class LanguageModel(Protocol):
    """Log-probabilities of tokens. `hash` is of everything that decides them; `window` counts tokens.

    `bos` stands before the first token of a text that is scored; `opens` tells whether the tokenizer itself begins
    every text with it, so that the model is lost without (Llama, Gemma). `facts` are for records: precision, device.
    """

    name: str
    hash: str
    window: int
    bos: int | None
    opens: bool
    batch_tokens: int

    @property
    def facts(self) -> dict[str, str]: ...

    def encode(self, text: str) -> list[int]: ...

    def encoding(self, text: str) -> "Encoding": ...

    def logprobs(self, batch: Sequence[Sequence[int]], *, since: Sequence[int] | None = None) -> list[np.ndarray]: ...

    def branches(self, batch: Sequence[Sequence[int]], *, since: Sequence[int] | None = None) -> list[np.ndarray]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where a model lies, judged fit to load. `gguf` is the file's name for a GGUF; `files` decide its figures."""

    name: str
    folder: Path
    gguf: str | None
    files: tuple[str, ...]
    adapter: Path | None = None


def locate(name: str | None, adapter: Path | None = None, *, download: bool = True) -> ModelPlace:
    """Find a model and judge its files, loading nothing: None and "packaged" are the one that comes with Fathom, else a
    GGUF file, a folder with safetensors, or OWNER/NAME of the Hugging Face hub, which may be asked for a model that is
    not here where `download` says so.

    Raises MissingError, UsageError (pickled weights, code of its own) or DamagedError.
    """
    place = _place(name, download)
    if adapter is None:
        return place
    folder = Path(os.path.expanduser(adapter)).absolute()
    judge_adapter(folder)
    return ModelPlace(f"{place.name} + {folder.name}", place.folder, place.gguf, place.files, folder)


def _place(name: str | None, download: bool) -> ModelPlace:
    from retrieval.embedding.model_files import find_model

    path = packaged_model() if name in (None, PACKAGED) else Path(os.path.expanduser(str(name)))
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            pickled = "; pickled weights may run code and are never loaded" if path.suffix in _PICKLED else ""
            raise UsageError(f"'{path}' is no GGUF file{pickled}; give a GGUF file or a folder with safetensors")
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise DamagedError(f"{path} does not begin as a GGUF file does; fetch it again")
        path = path.absolute()
        return ModelPlace(path.stem.rsplit(".Q", 1)[0], path.parent, path.name, (path.name,))
    if path.is_dir() and (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise UsageError(f"'{path}' is an adapter; name the model it belongs to with --model and it with --adapter")
    if not path.is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", str(name)):
        raise MissingError(
            f"there is no model '{name}'; give a GGUF file, a folder with safetensors, or OWNER/NAME of the hub"
        )
    try:
        files = find_model(str(path) if path.is_dir() else str(name), download=download)
    except MissingError as error:
        if path.is_dir():
            raise
        raise MissingError(
            f"there is no file or folder '{name}', and no model of that name is on this machine or could be fetched; "
            f"fetch it where there is a network (hf download {name}) or give a GGUF file"
        ) from error
    if not any(file.startswith(("tokenizer.", "vocab.", "spiece.")) for file in files.files):
        raise MissingError(f"the model '{files.name}' has no tokenizer (tokenizer.json); save it beside the weights")
    return ModelPlace(files.name, files.folder, None, files.files)


def judge_adapter(folder: Path) -> None:
    """An adapter of peft with safetensors that imports nothing. Raises MissingError, UsageError or DamagedError."""
    if not (folder / "adapter_config.json").is_file():
        raise MissingError(f"'{folder}' is no adapter: it has no adapter_config.json; give a folder that peft saved")
    if not (folder / "adapter_model.safetensors").is_file():
        pickled = [file.name for file in sorted(folder.iterdir()) if file.suffix in _PICKLED]
        found = f"only {', '.join(pickled)}, which may run code" if pickled else "none"
        raise MissingError(f"the adapter '{folder}' has no weights as adapter_model.safetensors, {found}; save it so")
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(
            f"{folder}/adapter_config.json is no adapter's ({error!r}); save the adapter again"
        ) from error
    # peft imports the module that `megatron_core` names.
    if config.get("megatron_config") or "trust_remote_code" in json.dumps(config):
        raise UsageError(f"the adapter '{folder}' ({kind}) wants other modules loaded, which Fathom never does")


def load_language_model(
    name: str | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    adapter: Path | None = None,
) -> "TransformersModel":
    """Load a model (see `locate`), with an adapter of peft on it if one is named.

    `precision` auto is fp32 on a CPU and bf16 on a GPU, nf4 needs bitsandbytes. `cache` remembers hashes of
    large files (None: the user's cache folder). Raises MissingError, UsageError or DamagedError.
    """
    from eval.models.likelihood import TransformersModel
    from retrieval.embedding.load import EmbeddingSettings

    place = locate(name, adapter)
    cache = cache or EmbeddingSettings().cache_folder()
    weights = place_hash(place, cache)

    with _in_words(place):
        model, tokenizer, precision = load_parts(place, cache=cache, device=device, precision=precision)
        return TransformersModel(model, tokenizer, name=place.name, weights=weights, precision=precision)


def place_hash(place: ModelPlace, cache: Path) -> str:
    """SHA-256 (hex) over all files that decide a model's figures, its adapter's with them."""
    from retrieval.embedding.model_files import ModelFiles, weights_hash

    weights = weights_hash(ModelFiles(place.name, place.folder, place.files), cache)
    if place.adapter is None:
        return weights
    files = tuple(sorted(file.name for file in place.adapter.iterdir() if file.suffix in (".json", ".safetensors")))
    above = weights_hash(ModelFiles(place.name, place.adapter, files), cache)
    return hashlib.sha256(f"{weights}\0{above}".encode()).hexdigest()


def load_parts(
    place: ModelPlace,
    *,
    cache: Path,
    device: str = "auto",
    precision: str = "auto",
    four_bits: FourBits | None = None,
    roles: Mapping[str, Path] | None = None,
) -> tuple[Any, Any, str]:
    """transformers' own model and tokenizer of a place that `locate` found, and the precision it runs in: for whoever
    writes with them. `four_bits` is for nf4; None is as the adapter was trained, if there is one. `roles` are LoRA
    adapters by name, all of them on the one model, in place of the place's own.

    Raises MissingError, UsageError (an adapter of other weights) or DamagedError.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision is one of {', '.join(PRECISIONS)}; '{precision}' was given")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # peft imports bitsandbytes, which warns of a kernel that nothing here uses.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import torch

    device = _device(device)
    if precision == "auto":
        precision = "fp32" if device == "cpu" else "bf16"
    if precision == "nf4":
        _require_nf4(place, device)
    dtype = {"fp32": torch.float32, "fp16": torch.float16}.get(precision, torch.bfloat16)
    with _in_words(place), quiet():
        here = unpacked(place, cache)
        if place.adapter is not None:
            name = place.name.removesuffix(f" + {place.adapter.name}")
            base = require_base_in(place.adapter, name, here.folder, gguf=here.gguf, cache=cache)
            four_bits = four_bits or (base.four_bits if base is not None else None)
        bits = None
        if precision == "nf4":
            bits = four_bits or FourBits()
            dtype = {"fp32": torch.float32, "fp16": torch.float16}.get(bits.compute, torch.bfloat16)
        model, tokenizer = _transformers_model(here, dtype, bits, device)
        if precision == "nf4" and device == "cpu":
            packed = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
            narrow = [module.in_features for module in packed if module.in_features % NF4_BLOCK]
            if narrow:  # bitsandbytes 0.50 would fail at the first token
                raise UsageError(
                    f"'{place.name}' has layers of {narrow[0]} inputs, and 4-bit weights (nf4) on a CPU need a "
                    f"multiple of {NF4_BLOCK}; use precision bf16"
                )
        if place.adapter is not None:
            model = _with_adapter(model, tokenizer, place)
        for role, adapter in (roles or {}).items():
            require_base_in(adapter, place.name, here.folder, gguf=here.gguf, cache=cache)
            model = _with_role(model, role, adapter, place.name)
        return model.to(device).eval(), tokenizer, precision


@contextmanager
def _in_words(place: ModelPlace) -> Iterator[None]:
    """What goes wrong while a model loads, as a sentence."""
    import torch

    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise MissingError(f"the model '{place.name}' cannot be read: {error}") from error
    except (MissingError, DamagedError, UsageError, torch.OutOfMemoryError):
        raise
    # The files are a stranger's, and transformers, tokenizers, gguf, peft and safetensors have errors of their own.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DamagedError(f"the model '{place.name}' cannot be loaded: {reason}") from error


def _require_nf4(place: ModelPlace, device: str) -> None:
    """Raises MissingError where bitsandbytes is not installed, UsageError where NF4 cannot be made of the model."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingError(
            "4-bit weights (nf4) need the package bitsandbytes: pip install -c constraints.txt -e '.[nf4]'"
        )
    if device == "mps":
        raise UsageError("4-bit weights (nf4) run on a CPU or a CUDA GPU; set device to cpu, or another precision")
    if place.gguf and (place.folder / place.gguf).stat().st_size > UNPACK_UP_TO:
        raise UsageError(
            f"'{place.gguf}' is quantised already and too large to unpack for nf4; give the model's folder with "
            "safetensors, or run the GGUF with the embedded engine"
        )


def _transformers_model(
    place: ModelPlace, dtype: Any, bits: FourBits | None = None, device: str = "cpu"
) -> tuple[Any, Any]:
    """`bits` are for weights in 4 bits on `device`; None for weights in `dtype`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    from_gguf: dict[str, Any] = {}
    if place.gguf:
        if importlib.util.find_spec("gguf") is None:
            raise MissingError("reading GGUF files needs the package gguf; run 'make install'")
        from_gguf = {"gguf_file": place.gguf}
    if place.adapter is not None and (place.adapter / "tokenizer.json").is_file():  # it brings words of its own
        tokenizer = AutoTokenizer.from_pretrained(str(place.adapter), **safe)
    else:
        tokenizer = AutoTokenizer.from_pretrained(str(place.folder), **safe, **from_gguf)
    weights: dict[str, Any] = {"use_safetensors": True}
    if place.gguf:  # otherwise the weights stay in GGUF's blocks, which nothing here could adapt or save
        weights = from_gguf | {"quantization_config": GgufConfig(gguf_file=place.gguf, dequantize=True)}
    elif bits is not None:
        from transformers import BitsAndBytesConfig

        four_bits = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=bits.double,
            llm_int8_skip_modules=["lm_head", *bits.patterns()],
        )
        weights |= {"quantization_config": four_bits, "device_map": {"": device}}
    model, told = AutoModelForCausalLM.from_pretrained(
        str(place.folder), dtype=dtype, output_loading_info=True, **safe, **weights
    )
    missing = sorted(told["missing_keys"])
    if missing:
        # An encoder opened as a language model, say: transformers fills the gap with random numbers and goes on.
        raise DamagedError(
            f"the model '{place.name}' lacks {len(missing)} of its weights ({missing[0]} …); it is incomplete, or no "
            "language model"
        )
    return model, tokenizer


def unpacked(place: ModelPlace, cache: Path) -> ModelPlace:
    """A GGUF file as the folder of safetensors it becomes, kept in the cache: transformers reads the file three times,
    22 CPU seconds for SmolLM2-135M, where the folder takes 2. Large files stay as they are, for a folder in fp32 is
    seven times a 4-bit file's size."""
    if place.gguf is None or (place.folder / place.gguf).stat().st_size > UNPACK_UP_TO:
        return place
    from retrieval.embedding.stored import is_whole, keep

    folder = unpacked_folder(place, cache)

    def fill(new: Path) -> None:
        import torch

        with _in_words(place):
            model, tokenizer = _transformers_model(replace(place, adapter=None), torch.float32)
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)

    try:
        if not is_whole(folder):
            keep(folder, fill)
    except OSError as error:
        _LOG.warning("cannot keep %s in %s (%s); it will be read again next time", place.name, folder, error)
        return place
    return replace(place, folder=folder, gguf=None)


def unpacked_folder(place: ModelPlace, cache: Path) -> Path:
    """Where `unpacked` keeps a GGUF file, if it has done so."""
    from importlib.metadata import version

    from retrieval.embedding.stored import file_hash

    digest = file_hash(place.folder / str(place.gguf))
    return cache / "language-models" / f"{digest[:32]}-{version('transformers')}"


def _device(device: str) -> str:
    """A torch device that is there. Raises UsageError, MissingError."""
    import torch

    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise UsageError(f"device is auto, cpu, cuda, cuda:N or mps; '{device}' was given")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = device == "cpu" or (
        torch.backends.mps.is_available() if device == "mps" else int(device[5:] or 0) < torch.cuda.device_count()
    )
    if not there:
        raise MissingError(f"device '{device}' is not there for this torch ({torch.__version__}); use auto or cpu")
    return device


def _with_adapter(model: Any, tokenizer: Any, place: ModelPlace) -> Any:
    """The model under its adapter, which must have been made for it. A tokenizer with more words than the model has
    rows makes room for them first, or the adapter's rows would not fit (LlamaFactory#5262)."""
    from peft import PeftModel

    from eval.models.adapter_fit import require_fit
    from eval.models.bottleneck import is_bottleneck, load_onto

    assert place.adapter is not None
    if is_bottleneck(place.adapter):
        return load_onto(model, place.adapter)
    require_fit(place.adapter, _sizes(model), place.name.removesuffix(f" + {place.adapter.name}"))
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    found = PeftModel.from_pretrained(model, str(place.adapter), use_safetensors=True)
    if found.active_peft_config.peft_type == "ADALORA":
        from safetensors.torch import load_file

        put_values(found, load_file(place.adapter / "adapter_model.safetensors"))
    return found


def _with_role(model: Any, role: str, adapter: Path, name: str) -> Any:
    """The model with one more LoRA adapter under a name."""
    from peft import PeftModel

    from eval.models.adapter_fit import require_fit

    judge_adapter(adapter)
    if json.loads((adapter / "adapter_config.json").read_text("utf-8"))["peft_type"] != "LORA":
        raise UsageError(f"the adapter '{adapter}' is no LoRA, and no other kind can be one of several; run it alone")
    first = not isinstance(model, PeftModel)
    require_fit(adapter, _sizes(model if first else model.get_base_model()), name)
    if first:
        return PeftModel.from_pretrained(model, str(adapter), adapter_name=role, use_safetensors=True)
    model.load_adapter(str(adapter), adapter_name=role, use_safetensors=True)
    return model


def put_values(model: Any, values: Mapping[str, Any]) -> None:
    """Give an adapter's weights the values of its file as they are: peft 0.21 rounds those of a pruned AdaLoRA to what
    the base is held in, and then counts in fp32."""
    for name, weight in model.named_parameters():
        value = values.get(name.replace(".default", ""))
        if value is not None and value.shape == weight.shape:
            weight.data = value.to(weight.device)


def _sizes(model: Any) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the modules that an adapter can change. Weights in 4 bits have lost their shape, and GPT-2
    keeps its own transposed. Where an adapter is on a module already, the module itself is its `base_layer`."""
    sizes = {}
    for name, module in model.named_modules():
        if hasattr(module, "base_layer"):
            continue
        name = name.removesuffix(".base_layer")
        weight = getattr(module, "weight", None)
        if hasattr(module, "in_features"):
            sizes[name] = (int(module.in_features), int(module.out_features))
        elif weight is not None and weight.ndim == 2:
            sizes[name] = (int(weight.shape[0]), int(weight.shape[1]))
    return sizes


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no advice of transformers: what goes wrong is raised."""
    from transformers import modeling_gguf_pytorch_utils as reading_gguf
    from transformers.utils import logging as spoken

    verbosity, bars = spoken.get_verbosity(), spoken.is_progress_bar_enabled()
    spoken.set_verbosity_error()
    spoken.disable_progress_bar()
    bar = reading_gguf.tqdm  # drawn whatever the switch above says
    reading_gguf.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        reading_gguf.tqdm = bar
        spoken.set_verbosity(verbosity)
        if bars:
            spoken.enable_progress_bar()


def open_model(
    tools: "Tools", name: str | None, *, adapter: Path | None, device: str, precision: str
) -> "LanguageModel":
    """The model a part names. Without wishes of its own it is the one that the parts of a run share."""
    if adapter is None and device == precision == "auto":
        return tools.language_model(name)
    return load_language_model(name, cache=tools.cache, adapter=adapter, device=device, precision=precision)


def require_same_model(folder: "PartFolder", model: "LanguageModel") -> str:
    """What marks a record as made by `model`. Raises UsageError where the folder holds records of another."""
    mark = f"{model.hash[:16]}-{model.facts.get('precision', '')}"
    others = {record.get("model") for record in folder.done().values()} - {mark}
    if others:
        raise UsageError(
            f"{folder.path} holds figures of another model than '{model.name}' is now (its files or its precision "
            "changed); measure again with --fresh"
        )
    return mark
