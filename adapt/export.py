"""A folder with a llama model → one GGUF file that the embedded engine and llama.cpp read.

Weights in 8 bits (Q8_0) or half precision, with the folder's own tokenizer and chat template. It runs no model.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from eval.models.language_models import locate
from eval.runs.parts import Progress
from retrieval.errors import DamagedError, UsageError
from retrieval.storage.durable import sync_to_disk

if TYPE_CHECKING:
    import gguf

Kind = Literal["q8_0", "f16"]
KINDS: tuple[Kind, ...] = ("q8_0", "f16")
ARCHITECTURES = ("llama",)
"""OpenVINO GenAI 2026.4 reads qwen2 and qwen3 too, but splits a qwen2's text in its own way whatever the file says."""
_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4


@dataclass(frozen=True)
class _Model:
    folder: Path
    config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    settings: Mapping[str, Any]
    """tokenizer_config.json."""
    template: str
    tokens: list[tuple[str, int]]
    """Every token by its id with GGUF's kind of it."""


def export_gguf(folder: Path, file: Path, *, kind: Kind = "q8_0", progress: Progress = lambda *_: None) -> Path:
    """Write the model in `folder` to `file`, whole or not at all.

    Q8_0 keeps 8 bits a weight with a scale for each 32; norms stay in fp32. Rows of the embedding beyond the last token
    (padding) are left out.

    Raises UsageError for what a GGUF of these readers cannot say (another architecture, another kind of tokenizer),
    MissingError, DamagedError, OSError.
    """
    model = _read(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.new")
    try:
        _write(model, beside, kind, progress)
        sync_to_disk(beside)
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
    sync_to_disk(file.parent)
    return file


def _read(folder: Path) -> _Model:
    place = locate(str(folder))
    if place.gguf:
        raise UsageError(f"'{folder}' is a GGUF file already")
    config = _json(folder / "config.json")
    architecture = config.get("model_type")
    if architecture not in ARCHITECTURES:
        raise UsageError(
            f"'{folder}' is a model of the kind '{str(architecture)[:40]}', and GGUF files are written of "
            f"{', '.join(ARCHITECTURES)} alone; run it with the local engine"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if isinstance(rope, dict) and rope.get("rope_type", rope.get("type", "default")) != "default":
        raise UsageError(
            f"'{folder}' stretches its positions ({rope.get('rope_type', rope.get('type'))}), which is not written "
            "into GGUF files; run it with the local engine"
        )
    tokenizer = _json(folder / "tokenizer.json")
    settings = _json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    template = settings.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return _Model(
        folder, config, tokenizer, settings, template if isinstance(template, str) else "", _tokens(folder, tokenizer)
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{file} cannot be read ({error}); save the model again") from error
    if not isinstance(found, dict):
        raise DamagedError(f"{file} is not what a model has; save the model again")
    return found


def _tokens(folder: Path, tokenizer: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Raises UsageError for a tokenizer that is no byte-level BPE."""
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or (tokenizer.get("decoder") or {}).get("type") != "ByteLevel":
        raise UsageError(
            f"the tokenizer of '{folder}' is no byte-level BPE, the one kind that is written into GGUF files; run the "
            "model with the local engine"
        )
    by_id: dict[int, tuple[str, int]] = {number: (word, _NORMAL) for word, number in model["vocab"].items()}
    for added in tokenizer.get("added_tokens") or []:
        by_id[added["id"]] = (added["content"], _CONTROL if added.get("special") else _USER_DEFINED)
    if set(by_id) != set(range(len(by_id))):
        raise UsageError(f"the ids of the tokenizer of '{folder}' have gaps; a GGUF file numbers tokens without any")
    return [by_id[number] for number in range(len(by_id))]


def _splitter(tokenizer: Mapping[str, Any], folder: Path) -> str:
    """GGUF's name for how text is split before merging. Raises UsageError for a way that has none here."""
    splitter = dict(tokenizer.get("pre_tokenizer") or {})
    splitter.pop("trim_offsets", None)
    steps = splitter.get("pretokenizers") or []
    kinds = [step.get("type") for step in steps]
    # GPT-2's way, or that with digits apart first, which without a merge of digits is the same. OpenVINO GenAI 2026.4
    # splits so under the name "smollm" alone: under "gpt-2" and "default" it takes 's and 't apart. llama.cpp's
    # "smollm" sets digits apart.
    if splitter == _GPT2 or (kinds == ["Digits", "ByteLevel"] and not _merges_digits(tokenizer)):
        return "smollm"
    raise UsageError(
        f"the tokenizer of '{folder}' splits text in a way that the embedded engine does not know; run the model with "
        "the local engine"
    )


def _merges_digits(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a merge has a digit in it: a space before one is enough."""
    return any(any(c.isdigit() for part in _pair(merge) for c in part) for merge in tokenizer["model"]["merges"])


def _pair(merge: Any) -> tuple[str, str]:
    """Newer tokenizer files write merges as pairs, older ones as "a b"."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _write(model: _Model, file: Path, kind: Kind, progress: Progress) -> None:
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(file, str(config["model_type"]))
    try:
        _describe(writer, model, kind)
        _add_tokenizer(writer, model)
        tensors = list(_files(model.folder))
        for number, (name, values) in enumerate(_tensors(model, progress, len(tensors))):
            progress("tensors", number, len(tensors))
            flat = values.ndim == 1
            if flat:
                writer.add_tensor(name, values)
                continue
            small = kind == "f16" or values.shape[1] % 32
            quantised = gguf.GGMLQuantizationType.F16 if small else gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, quantised), raw_dtype=quantised)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _describe(writer: "gguf.GGUFWriter", model: _Model, kind: Kind) -> None:
    import gguf

    config = model.config
    heads = int(config["num_attention_heads"])
    width = int(config["hidden_size"])
    head = int(config.get("head_dim") or width // heads)
    rope = config.get("rope_parameters") or {}
    writer.add_name(model.folder.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if kind == "f16" else gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(len(model.tokens))


def _add_tokenizer(writer: "gguf.GGUFWriter", model: _Model) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitter(model.tokenizer, model.folder))
    writer.add_token_list([word for word, _ in model.tokens])
    writer.add_token_types([kind for _, kind in model.tokens])
    writer.add_token_merges([" ".join(_pair(merge)) for merge in model.tokenizer["model"]["merges"]])
    ids = {word: number for number, (word, _) in enumerate(model.tokens)}

    def named(key: str) -> int | None:
        said = model.settings.get(key)
        said = said.get("content") if isinstance(said, dict) else said
        return ids.get(said) if isinstance(said, str) else None

    for key, add in (
        ("bos_token", writer.add_bos_token_id),
        ("eos_token", writer.add_eos_token_id),
        ("unk_token", writer.add_unk_token_id),
        ("pad_token", writer.add_pad_token_id),
    ):
        found = named(key)
        if found is None and key == "unk_token":
            found = named("eos_token")  # bytes are never unknown, and transformers would add a token of its own
        if found is not None:
            add(found)
    writer.add_add_bos_token(_opens(model, named("bos_token")))
    writer.add_add_space_prefix(False)
    if model.template:
        writer.add_chat_template(model.template)


def _opens(model: _Model, bos: int | None) -> bool:
    """Whether the tokenizer begins every text with BOS."""
    steps = (model.tokenizer.get("post_processor") or {}).get("single") or []
    first = (steps[0].get("SpecialToken") or {}).get("id") if steps else None
    return bos is not None and first == model.tokens[bos][0]


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, tensor) of all weights; the header of each file alone is read."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                yield file, name


def _tensors(model: _Model, progress: Progress, total: int) -> Iterator[tuple[str, np.ndarray]]:
    """(GGUF's name, values in fp32). Raises DamagedError for weights that a GGUF has no name for."""
    import gguf
    from safetensors import safe_open

    config = model.config
    architecture = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[str(config["model_type"])]
    names = gguf.get_tensor_name_map(architecture, int(config["num_hidden_layers"]))
    heads = int(config["num_attention_heads"])
    groups = int(config.get("num_key_value_heads") or heads)
    for file, name in _files(model.folder):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        wanted = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if wanted is None:
            raise DamagedError(f"{file.name} has weights called '{name[:80]}', which no {config['model_type']} has")
        with safe_open(file, framework="pt") as opened:
            values = opened.get_tensor(name).float().numpy()
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            values = values[: len(model.tokens)]
            if len(values) < len(model.tokens):
                raise DamagedError(f"'{model.folder}' has {len(values):,} rows for {len(model.tokens):,} tokens")
        if ".q_proj." in name:
            values = _interleaved(values, heads)
        elif ".k_proj." in name:
            values = _interleaved(values, groups)
        yield wanted, np.ascontiguousarray(values)


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order in which ggml's llama rotates them: neighbours in place of halves."""
    rest = values.shape[1:]
    return values.reshape(heads, 2, values.shape[0] // heads // 2, *rest).swapaxes(1, 2).reshape(values.shape)
