"""An adapter's fathom.json and a model folder → whether the adapter was made on these very weights, and how they were
held when it was. Adapters that others made have no such file. It loads no weights.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.models.packaged import is_same_model
from eval.runs.run_folder import write_json
from retrieval.errors import DamagedError, UsageError

FILE = "fathom.json"
_LAYER = re.compile(r"[\w.]{1,80}")


@dataclass(frozen=True)
class FourBits:
    """How weights are held in NF4 (Dettmers et al. 2023, arXiv:2305.14314): with their scales in 8 bits too (`double`,
    0.37 bits a weight less), what they are multiplied in (bf16, fp16 or fp32), and which layers are held in that whole,
    by the end or a part of their names."""

    double: bool = False
    compute: str = "bf16"
    wide: tuple[str, ...] = ()

    def patterns(self) -> list[str]:
        """`wide` as transformers wants it: it matches from the beginning of a name or at its end."""
        return [rf"(?:.*\.)?{re.escape(name)}" for name in self.wide]


@dataclass(frozen=True)
class AdapterBase:
    """`name` is where the base lay, for people; `sha256` is over its weights, config and tokenizer; `four_bits` is set
    for an adapter that was trained on 4 bits."""

    name: str
    sha256: str
    four_bits: FourBits | None = None

    def write(self, adapter: Path) -> None:
        """Raises OSError."""
        facts: dict[str, Any] = {"base": self.name, "base_sha256": self.sha256}
        if self.four_bits is not None:
            facts["four_bits"] = asdict(self.four_bits)
        write_json(adapter / FILE, facts)


def adapter_base(adapter: Path) -> AdapterBase | None:
    """What an adapter says of its base; None where it does not say. Raises DamagedError."""
    file = adapter / FILE
    if not file.is_file():
        return None
    try:
        told = json.loads(file.read_text("utf-8"))
        bits = told.get("four_bits")
        if isinstance(bits, Mapping):
            wide = tuple(str(name) for name in bits.get("wide") or ())
            bits = FourBits(bool(bits["double"]), str(bits["compute"]), wide)
            if bits.compute not in ("bf16", "fp16", "fp32") or not all(map(_LAYER.fullmatch, wide)):
                raise ValueError(f"it holds weights as {str(told['four_bits'])[:80]}")
        return AdapterBase(str(told["base"]), str(told["base_sha256"]), bits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{file} does not say which base the adapter has ({error!r}); save it again") from error


def base_hash(adapter: Path) -> str | None:
    """The hash (see `weights_hash`) of the base that an adapter was trained on; None where nobody wrote it down.

    Raises DamagedError."""
    told = adapter_base(adapter)
    return None if told is None else told.sha256


def require_base(adapter: Path, weights: str, model: str) -> None:
    """Raises UsageError where an adapter was trained on other weights than those of `model`, with the hash `weights`:
    every size may fit, nothing fails, and what it writes is nonsense."""
    told = adapter_base(adapter)
    if told is not None and not is_same_model(told.sha256, weights):
        raise UsageError(
            f"the adapter '{adapter.name}' was trained on '{told.name}' (weights {told.sha256[:12]}), and '{model}' "
            f"has other weights ({weights[:12]}); run it on its own base"
        )


def require_base_in(adapter: Path, model: str, folder: Path, *, gguf: str | None, cache: Path) -> AdapterBase | None:
    """What an adapter says of its base, which the model in `folder` must be. `gguf` is the file there that has the
    weights, if they are not safetensors. Hashes of large files are remembered in `cache`. Raises as `require_base`."""
    from retrieval.embedding.model_files import find_model, weights_hash
    from retrieval.embedding.stored import file_hash

    told = adapter_base(adapter)
    if told is not None:
        # A GGUF that is too large to unpack is nothing that an adapter was trained on.
        found = file_hash(folder / gguf) if gguf else weights_hash(find_model(str(folder), download=False), cache)
        require_base(adapter, found, model)
    return told
