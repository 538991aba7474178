"""A model file → a running OpenVINO GenAI pipeline and what there is to know of it. It knows no chats and no limits.

Reading a GGUF and building its tokenizer costs 4.2 CPU seconds for SmolLM2-135M; loading the same model as OpenVINO
wrote it costs 2.2. So the converted model is kept in the cache folder under the GGUF's hash, and checked before use.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.export.gguf_file import NOT_EMBEDDED
from app.engines.gguf import GgufHeader, read_header
from app.engines.openvino_adapter import strength
from eval.models.packaged import packaged_model
from retrieval.embedding.no_telemetry import refuse_telemetry
from retrieval.errors import DamagedError, FathomError, MissingError, UsageError

# Before the first import of OpenVINO, which reports home otherwise.
refuse_telemetry()

if TYPE_CHECKING:
    import openvino_genai

PREFILL_TOKENS = 256
"""Tokens of a prompt worked on at once. 1,443 tokens on 2 cores: 0.6 s to the first token, 1.4 s in one piece."""
UNKNOWN_CONTEXT = 4096
_MANIFEST = "fathom.json"
_SECONDS_TO_BUILD = 3600


@dataclass(frozen=True)
class LoadedModel:
    """`context_window` counts tokens of prompt and answer together. `name` is the model's own, for people."""

    pipeline: "openvino_genai.LLMPipeline"
    tokenizer: "openvino_genai.Tokenizer"
    name: str
    context_window: int
    path: Path


def load_model(
    path: Path | None = None, *, cache: Path | None = None, threads: int = 0, adapter: Path | None = None
) -> LoadedModel:
    """Load a GGUF file or a folder with an OpenVINO model; None is the model that comes with Fathom.

    `cache` is where the converted model is kept (None: nowhere). `adapter` is a LoRA adapter for a folder. Raises
    MissingError, DamagedError, UsageError or FathomError.
    """
    header = require_loadable(path, adapter)
    path = (path or packaged_model()).expanduser().absolute()
    if header is None:
        pipeline = _adapted(path, adapter, threads) if adapter else _pipeline(path, threads)
        name = path.name if adapter is None else f"{path.name} + {adapter.name}"
        return LoadedModel(pipeline, pipeline.get_tokenizer(), name, _context_of_folder(path), path)
    pipeline = _through_cache(path, cache, threads) if cache else _pipeline(path, threads)
    tokenizer = pipeline.get_tokenizer()
    if header.chat_template and not tokenizer.chat_template:
        tokenizer.set_chat_template(header.chat_template)
    name = path.stem.rsplit(".Q", 1)[0]
    return LoadedModel(pipeline, tokenizer, name, header.context_length or UNKNOWN_CONTEXT, path)


def require_loadable(path: Path | None, adapter: Path | None = None) -> GgufHeader | None:
    """Look at a model's files without loading them; the header of a GGUF, None for a folder. Raises what `load_model`
    would raise of them."""
    path = (path or packaged_model()).expanduser().absolute()
    if path.is_dir():
        if not (path / "openvino_model.xml").is_file():
            raise MissingError(
                f"{path} holds no openvino_model.xml; give a GGUF file or a folder exported for OpenVINO, or run it "
                'with the local engine ([engine] name = "local")'
            )
        if adapter is not None:
            strength(path, adapter)
        return None
    header = read_header(path)
    if reason := header.metadata.get(NOT_EMBEDDED):
        raise UsageError(f"the embedded engine must not run {path}: {str(reason)[:400]}")
    if adapter is not None:
        # Its weights get names that no adapter knows: OpenVINO would report every tensor as unused and go on.
        raise UsageError(
            f"the embedded engine cannot put the adapter {adapter} on a GGUF file, where it would change nothing; run "
            'model and adapter with the local engine ([engine] name = "local"), or merge the adapter into the model'
        )
    return header


def _pipeline(path: Path, threads: int, **properties: Any) -> "openvino_genai.LLMPipeline":
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = PREFILL_TOKENS
    scheduler.dynamic_split_fuse = True
    scheduler.max_num_seqs = 1
    # With a prefix cache the same prompt gives another text the second time (bf16 sums in another order; seen on the
    # first prompt tried), so an evaluation could not be repeated.
    scheduler.enable_prefix_caching = False
    if threads:
        properties["INFERENCE_NUM_THREADS"] = threads
    try:
        return openvino_genai.LLMPipeline(str(path), "CPU", scheduler_config=scheduler, **properties)
    except Exception as error:  # a bad file may also surface as IndexError, ValueError or TypeError
        raise DamagedError(
            f"OpenVINO cannot load the model {path}: {_reason(error)}; it loads GGUF files of llama and qwen models "
            "and folders exported for OpenVINO"
        ) from error


def _reason(error: Exception) -> str:
    """The last line of an OpenVINO error says what was wrong; those before it are places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _adapted(path: Path, adapter: Path, threads: int) -> "openvino_genai.LLMPipeline":
    import openvino_genai

    config = openvino_genai.AdapterConfig()
    # Left out, it is 1 whatever adapter_config.json says (seen with lora_alpha 16 and rank 4: another text).
    config.add(openvino_genai.Adapter(str(adapter / "adapter_model.safetensors")), strength(path, adapter))
    return _pipeline(path, threads, adapters=config)


def _through_cache(path: Path, cache: Path, threads: int) -> "openvino_genai.LLMPipeline":
    import openvino_genai

    folder = cache / "engines" / f"{_sha256(path)[:32]}-{openvino_genai.__version__}"
    if _intact(folder):
        return _pipeline(folder, threads)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        building = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    except OSError:
        return _pipeline(path, threads)  # a cache that cannot be written only costs the two seconds
    try:
        # OpenVINO saves beside the GGUF; a link keeps that out of site-packages.
        link = building / "model.gguf"
        link.symlink_to(path)
        try:
            pipeline = _pipeline(link, threads, enable_save_ov_model=True)
        except DamagedError:
            return _pipeline(path, threads)  # the disk may be full; a model that is bad fails again here
        link.unlink()
        if (building / "openvino_model.xml").is_file() and (building / "openvino_tokenizer.xml").is_file():
            _seal(building)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(building, folder)
        return pipeline
    except OSError:
        return _pipeline(path, threads)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what a process left that was killed while it converted a model."""
    for left in parent.glob("building-*"):
        if time.time() - left.stat().st_mtime > _SECONDS_TO_BUILD:
            shutil.rmtree(left, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _seal(folder: Path) -> None:
    hashes = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    (folder / _MANIFEST).write_text(json.dumps({"sha256": hashes}, indent=1), encoding="utf-8")


def _intact(folder: Path) -> bool:
    """Whether the folder holds exactly what was sealed; anything else is built again."""
    try:
        hashes = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
        files = {file.name for file in folder.iterdir()} - {_MANIFEST}
        return files == set(hashes) and all(_sha256(folder / name) == hashes[name] for name in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _context_of_folder(folder: Path) -> int:
    file = folder / "config.json"
    if not file.is_file():
        return UNKNOWN_CONTEXT
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("max_position_embeddings", UNKNOWN_CONTEXT)
        return int(found)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FathomError(f"{file} does not say how long a prompt may be ({error}); export the model again") from error
