"""A folder with a llama, qwen2 or qwen3 model → one GGUF file that llama.cpp and the embedded engine read.

Weights in half precision or quantised, with the folder's own tokenizer and chat template. It runs no model.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from adapt.export.embedded_check import embedded_refusal
from adapt.export.gguf_vocabulary import Vocabulary, read_vocabulary
from adapt.export.model_folder import read_json_file
from adapt.export.new_folder import require_place
from eval.models.language_models import locate
from eval.runs.parts import Progress
from retrieval.errors import DamagedError, UsageError
from retrieval.storage.durable import sync_to_disk

if TYPE_CHECKING:
    import gguf

Kind = Literal["q8_0", "f16", "q4_0", "q4_1"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ARCHITECTURES = ("llama", "qwen2", "qwen3")
NOT_EMBEDDED = "fathom.not_embedded"
"""Key of a GGUF file's header: why the embedded engine must not run it."""
_BLOCK = 32
_FINER = ("token_embd.weight", "output.weight")
"""Stays in 8 bits where the rest has 4: the embedding is a third of a small model's quality and costs little."""


@dataclass(frozen=True)
class _Model:
    folder: Path
    config: Mapping[str, Any]
    vocabulary: Vocabulary

    @property
    def kind(self) -> str:
        return str(self.config["model_type"])

    @property
    def heads(self) -> int:
        return int(self.config["num_attention_heads"])

    @property
    def groups(self) -> int:
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def head(self) -> int:
        """Width of an attention head."""
        return int(self.config.get("head_dim") or int(self.config["hidden_size"]) // self.heads)


def export_gguf(
    folder: Path,
    file: Path,
    *,
    kind: Kind = "q8_0",
    name: str | None = None,
    progress: Progress = lambda *_: None,
) -> str | None:
    """Write the model in `folder` to `file`, whole or not at all; `name` is what it calls itself (None: as the folder).

    q8_0 keeps 8 bits a weight with a scale for each 32; q4_0 and q4_1 keep 4, and 8 of embedding and head; norms and
    biases stay in fp32. Rows of the embedding beyond the last token (padding) are left out.

    Returns why the embedded engine must not run the file, though llama.cpp may: it would read other tokens. The file
    says so too (NOT_EMBEDDED), and the engine refuses it. None where both run it.

    Raises UsageError for what a GGUF of these readers cannot say (another architecture, another kind of tokenizer),
    MissingError, DamagedError, OSError.
    """
    model = _read(folder)
    not_embedded = embedded_refusal(model.vocabulary)
    require_place(file)
    beside = file.with_name(f".{file.name}.new")
    try:
        _write(model, beside, kind, name or folder.name, not_embedded, progress)
        sync_to_disk(beside)
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
    sync_to_disk(file.parent)
    return not_embedded


def _read(folder: Path) -> _Model:
    place = locate(str(folder))
    if place.gguf:
        raise UsageError(f"'{folder}' is a GGUF file already")
    config = read_json_file(folder / "config.json")
    require_writable(folder, config)
    generation = read_json_file(folder / "generation_config.json", missing={})
    eos = generation.get("eos_token_id")
    eos = eos[0] if isinstance(eos, list) and eos else eos
    return _Model(folder, config, read_vocabulary(folder, eos=eos if isinstance(eos, int) else None))


def require_writable(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises UsageError for a model that no GGUF file of these readers can say."""
    architecture = config.get("model_type")
    instead = "run it with the local engine"
    if architecture not in ARCHITECTURES:
        raise UsageError(
            f"'{folder}' is a model of the kind '{str(architecture)[:40]}', and GGUF files are written of "
            f"{', '.join(ARCHITECTURES)} alone; {instead}"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if isinstance(rope, dict) and rope.get("rope_type", rope.get("type", "default")) != "default":
        # OpenVINO GenAI 2026.4 and transformers 5.23 read rope.freq_base and nothing of rope.scaling: the same file
        # would be another model there than in llama.cpp.
        raise UsageError(
            f"'{folder}' stretches its positions ({rope.get('rope_type', rope.get('type'))}), which the readers of "
            f"GGUF files do not do alike; {instead}, or export it to hf, openvino or vllm"
        )
    if config.get("hidden_act", "silu") != "silu" or config.get("use_sliding_window"):
        what = "attends within a sliding window" if config.get("use_sliding_window") else "has another activation"
        raise UsageError(f"'{folder}' {what}, which a GGUF file of a {architecture} cannot say; {instead}")
    if config.get("mlp_bias") or (architecture != "qwen2" and config.get("attention_bias")):
        raise UsageError(f"'{folder}' has biases that a GGUF file of a {architecture} has no place for; {instead}")


def _write(model: _Model, file: Path, kind: Kind, name: str, not_embedded: str | None, progress: Progress) -> None:
    import gguf

    writer = gguf.GGUFWriter(file, model.kind)
    try:
        writer.add_name(name)
        _describe(writer, model, kind)
        if not_embedded:
            writer.add_string(NOT_EMBEDDED, not_embedded)
        model.vocabulary.write(writer)
        planned = list(_planned(model))
        for one in planned:
            one.announce(writer, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        # One tensor at a time is in memory, whatever the model's size.
        for number, one in enumerate(planned):
            progress("tensors", number, len(planned))
            values = _values(model, one)
            writer.write_tensor_data(gguf.quants.quantize(values, one.precision(kind)))
    finally:
        writer.close()


def _describe(writer: "gguf.GGUFWriter", model: _Model, kind: Kind) -> None:
    import gguf

    config = model.config
    rope = config.get("rope_parameters") or {}
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.groups)
    writer.add_key_length(model.head)
    writer.add_value_length(model.head)
    writer.add_rope_dimension_count(model.head)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(len(model.vocabulary.tokens))


@dataclass(frozen=True)
class _Tensor:
    """Weights as they lie in a file, and what they become: GGUF's name for them and their shape there."""

    file: Path
    name: str
    wanted: str
    shape: tuple[int, ...]

    def precision(self, kind: Kind) -> "gguf.GGMLQuantizationType":
        import gguf

        types = gguf.GGMLQuantizationType
        if len(self.shape) == 1:
            return types.F32
        if kind == "f16" or self.shape[-1] % _BLOCK:
            return types.F16
        return types.Q8_0 if self.wanted in _FINER else types[kind.upper()]

    def announce(self, writer: "gguf.GGUFWriter", kind: Kind) -> None:
        """Into the file's list of tensors."""
        import gguf

        precision = self.precision(kind)
        block, size = gguf.GGML_QUANT_SIZES[precision]
        count = int(np.prod(self.shape)) // block * size
        writer.add_tensor_info(self.wanted, self.shape, np.dtype(np.float32), count, raw_dtype=precision)


def _planned(model: _Model) -> Iterator[_Tensor]:
    """All weights, by the headers of their files. Raises DamagedError for weights that a GGUF has no name for."""
    import gguf
    from safetensors import safe_open

    architecture = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[model.kind]
    names = gguf.get_tensor_name_map(architecture, int(model.config["num_hidden_layers"]))
    count = len(model.vocabulary.tokens)
    for file in sorted(model.folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                if name == "lm_head.weight" and model.config.get("tie_word_embeddings"):
                    continue
                wanted = names.get_name(name, try_suffixes=(".weight", ".bias"))
                if wanted is None:
                    raise DamagedError(f"{file.name} has weights called '{name[:80]}', which no {model.kind} has")
                shape = tuple(opened.get_slice(name).get_shape())
                if wanted in _FINER:
                    if shape[0] < count:
                        raise DamagedError(f"'{model.folder}' has {shape[0]:,} rows for {count:,} tokens")
                    shape = (count, *shape[1:])
                yield _Tensor(file, name, wanted, shape)


def _values(model: _Model, tensor: _Tensor) -> np.ndarray:
    """In fp32, in GGUF's order."""
    from safetensors import safe_open

    with safe_open(tensor.file, framework="pt") as opened:
        values: np.ndarray = opened.get_tensor(tensor.name).float().numpy()
    if tensor.wanted in _FINER:
        values = values[: tensor.shape[0]]
    if model.kind == "llama" and ".q_proj." in tensor.name:
        values = _interleaved(values, model.heads)
    elif model.kind == "llama" and ".k_proj." in tensor.name:
        values = _interleaved(values, model.groups)
    return np.ascontiguousarray(values)


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order in which ggml's llama rotates them: neighbours in place of halves. qwen stays as it is."""
    rest = values.shape[1:]
    return values.reshape(heads, 2, values.shape[0] // heads // 2, *rest).swapaxes(1, 2).reshape(values.shape)
