"""A model file → a running OpenVINO GenAI pipeline and what there is to know of it. It knows no chats and no limits.

A GGUF that OpenVINO would compute otherwise than it says, or that is to have adapters, is converted (conversion.py);
any other is loaded as it is and kept in the cache as OpenVINO wrote it, which is 2 CPU seconds quicker.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.export.gguf_file import NOT_EMBEDDED
from app.engines.conversion import converted, is_convertible, is_exact
from app.engines.gguf import GgufHeader, read_header
from app.engines.openvino_adapter import require_lora, strengths
from eval.models.adapter_base import require_base
from eval.models.packaged import SAME_WEIGHTS, packaged_model
from retrieval.embedding.load import EmbeddingSettings
from retrieval.embedding.no_telemetry import refuse_telemetry
from retrieval.embedding.stored import file_hash, is_whole, keep
from retrieval.errors import DamagedError, FathomError, MissingError, UsageError

# Before the first import of OpenVINO, which reports home otherwise.
refuse_telemetry()

if TYPE_CHECKING:
    import openvino_genai

PREFILL_TOKENS = 256
"""Tokens of a prompt worked on at once. 1,443 tokens on 2 cores: 0.6 s to the first token, 1.4 s in one piece."""
UNKNOWN_CONTEXT = 4096
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """`context_window` counts tokens of prompt and answer together. `name` is the model's own, for people. `adapters`
    is what to generate with for each role, None being the model as it comes; empty where there is no choice."""

    pipeline: "openvino_genai.ContinuousBatchingPipeline"
    tokenizer: "openvino_genai.Tokenizer"
    name: str
    context_window: int
    path: Path
    adapters: "Mapping[str | None, openvino_genai.AdapterConfig]" = field(default_factory=dict)


def load_model(
    path: Path | None = None,
    *,
    cache: Path | None = None,
    threads: int = 0,
    adapter: Path | None = None,
    adapters: Mapping[str, Path] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> LoadedModel:
    """Load a GGUF file or a folder with an OpenVINO model; None is the model that comes with Fathom.

    `cache` is where the converted model is kept (None: the user's cache folder). `adapter` is a LoRA adapter that
    always works, `adapters` are some by role, of which one or none does at a time; `tell` gets a sentence for people
    before what takes long. Raises MissingError, DamagedError, UsageError or FathomError.
    """
    header = require_loadable(path, adapter, adapters)
    path = (path or packaged_model()).expanduser().absolute()
    roles = dict(adapters or {})
    wanted = [adapter] if adapter else list(roles.values())
    name = path.name if header is None else path.stem.rsplit(".Q", 1)[0]
    name = name if adapter is None else f"{name} + {adapter.name}"
    if header is None:
        return _of_folder(path, name, adapter, roles, threads)
    if is_convertible(path) and (wanted or not is_exact(header)):
        try:
            with _converted(path, cache or EmbeddingSettings().cache_folder(), tell) as folder:
                return _of_folder(folder, name, adapter, roles, threads, path)
        except FathomError as error:
            if wanted:
                raise
            _LOG.warning("%s", error)
    if not is_exact(header):
        _LOG.warning("%s runs as OpenVINO rounds it; export the model to openvino for what it says", path.name)
    pipeline = _through_cache(path, cache, threads) if cache else _pipeline(path, threads)
    tokenizer = pipeline.get_tokenizer()
    if header.chat_template and not tokenizer.chat_template:
        tokenizer.set_chat_template(header.chat_template)
    return LoadedModel(pipeline, tokenizer, name, header.context_length or UNKNOWN_CONTEXT, path)


def require_loadable(
    path: Path | None, adapter: Path | None = None, adapters: Mapping[str, Path] | None = None
) -> GgufHeader | None:
    """Look at a model's files without loading them; the header of a GGUF, None for a folder. Raises what `load_model`
    would raise of them."""
    if adapter is not None and adapters:
        raise UsageError("an adapter that always works and adapters by role exclude each other; give one of them")
    wanted = [adapter] if adapter else list((adapters or {}).values())
    packaged = path is None
    path = (path or packaged_model()).expanduser().absolute()
    if path.is_dir():
        if not (path / "openvino_model.xml").is_file():
            raise MissingError(
                f"{path} holds no openvino_model.xml; give a GGUF file or a folder exported for OpenVINO, or run it "
                'with the local engine ([engine] name = "local")'
            )
        strengths(path, wanted)
        return None
    header = read_header(path)
    if reason := header.metadata.get(NOT_EMBEDDED):
        raise UsageError(f"the embedded engine must not run {path}: {str(reason)[:400]}")
    for one in wanted:
        if not is_convertible(path):
            # In a graph made of a GGUF weights have names that no adapter knows, and OpenVINO would go on without it.
            raise UsageError(
                f"the embedded engine cannot put the adapter {one} on a GGUF file as large as {path}; run model and "
                'adapter with the local engine ([engine] name = "local"), or export the model to openvino'
            )
        require_lora(one)
        if packaged:
            require_base(one, min(SAME_WEIGHTS), path.stem)
    return header


@contextmanager
def _converted(path: Path, cache: Path, tell: Callable[[str], None]) -> Iterator[Path]:
    """The folder of a GGUF file; in a cache that cannot be used it is made for this time alone."""
    try:
        folder = converted(path, cache, tell)
    except (MissingError, OSError) as error:
        _LOG.warning("%s; it is made in a temporary folder, and again next time", error)
    else:
        yield folder
        return
    try:
        with tempfile.TemporaryDirectory(prefix="fathom-", ignore_cleanup_errors=True) as room:
            yield converted(path, Path(room), tell, temporary=True)
    except OSError as error:
        raise FathomError(f"there is no room to make {path} ready for OpenVINO ({error}); free some space") from error


def _of_folder(
    folder: Path,
    name: str,
    adapter: Path | None,
    roles: Mapping[str, Path],
    threads: int,
    path: Path | None = None,
) -> LoadedModel:
    """A model with what is on it. An adapter's strength has to be said: left out, it is 1 whatever adapter_config.json
    says (seen with lora_alpha 16 and rank 4: another text)."""
    import openvino_genai

    wanted: dict[str | None, Path] = {None: adapter} if adapter else {role: roles[role] for role in roles}
    chosen: dict[str | None, openvino_genai.AdapterConfig] = {}
    properties = {}
    if wanted:
        together = openvino_genai.AdapterConfig(openvino_genai.AdapterConfig.Mode.MODE_DYNAMIC)
        for role, value in zip(wanted, strengths(folder, list(wanted.values())), strict=True):
            weights = openvino_genai.Adapter(str(wanted[role] / "adapter_model.safetensors"))
            together.add(weights, value)
            chosen[role] = openvino_genai.AdapterConfig(weights, value)
        chosen.setdefault(None, openvino_genai.AdapterConfig())
        properties["adapters"] = together
    pipeline = _pipeline(folder, threads, **properties)
    return LoadedModel(pipeline, pipeline.get_tokenizer(), name, _context_of_folder(folder), path or folder, chosen)


def _pipeline(path: Path, threads: int, **properties: Any) -> "openvino_genai.ContinuousBatchingPipeline":
    import openvino_genai

    if threads:
        properties["INFERENCE_NUM_THREADS"] = threads
    try:
        return openvino_genai.ContinuousBatchingPipeline(str(path), _scheduler(), "CPU", properties)
    except Exception as error:  # a bad file may also surface as IndexError, ValueError or TypeError
        raise _unloadable(path, error) from error


def _scheduler() -> "openvino_genai.SchedulerConfig":
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = PREFILL_TOKENS
    scheduler.dynamic_split_fuse = True
    scheduler.max_num_seqs = 1
    # With a prefix cache the same prompt gives another text the second time (bf16 sums in another order; seen on the
    # first prompt tried), so an evaluation could not be repeated.
    scheduler.enable_prefix_caching = False
    return scheduler


def _unloadable(path: Path, error: Exception) -> DamagedError:
    """The last line of an OpenVINO error says what was wrong; those before it are places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1][:300] if lines else type(error).__name__
    return DamagedError(
        f"OpenVINO cannot load the model {path}: {reason}; it loads GGUF files of llama and qwen models and folders "
        "exported for OpenVINO"
    )


def _through_cache(path: Path, cache: Path, threads: int) -> "openvino_genai.ContinuousBatchingPipeline":
    """A GGUF file as OpenVINO wrote it down the first time. A cache that cannot be written costs only those seconds."""
    import openvino_genai

    folder = cache / "engines" / f"{file_hash(path)[:32]}-{openvino_genai.__version__}"

    def fill(new: Path) -> None:
        # OpenVINO saves beside the GGUF; a link keeps that out of site-packages. LLMPipeline saves the tokenizer too.
        link = new / "model.gguf"
        link.symlink_to(path)
        try:
            openvino_genai.LLMPipeline(str(link), "CPU", scheduler_config=_scheduler(), enable_save_ov_model=True)
        except Exception as error:  # as in _pipeline
            raise _unloadable(path, error) from error
        link.unlink()
        if not (new / "openvino_model.xml").is_file() or not (new / "openvino_tokenizer.xml").is_file():
            raise OSError("OpenVINO did not write the whole model")

    try:
        if not is_whole(folder):
            keep(folder, fill)
    except (OSError, DamagedError) as error:  # the disk may be full; a model that is bad fails again below
        _LOG.warning("%s cannot be kept in %s (%s)", path.name, folder.parent, error)
        return _pipeline(path, threads)
    return _pipeline(folder, threads)


def _context_of_folder(folder: Path) -> int:
    file = folder / "config.json"
    if not file.is_file():
        return UNKNOWN_CONTEXT
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("max_position_embeddings", UNKNOWN_CONTEXT)
        return int(found)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FathomError(f"{file} does not say how long a prompt may be ({error}); export the model again") from error
