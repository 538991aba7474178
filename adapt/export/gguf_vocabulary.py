"""A byte-level BPE tokenizer of transformers → the vocabulary of a GGUF file: tokens, merges, how text is split, and
which tokens open and end a text. It knows no weights.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.export.model_folder import read_json_file
from adapt.vocabulary.phrases import joins
from retrieval.errors import DamagedError, UsageError

if TYPE_CHECKING:
    import gguf

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
"""GGUF's kinds of tokens. Only control tokens are left out of what people read."""
_GPT2_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
PATTERNS = {
    _CONTRACTIONS + _LETTERS + r"|\p{N}" + _SIGNS + _REST: "qwen2",
    _CONTRACTIONS + _LETTERS + r"|\p{N}{1,3}" + _SIGNS + _REST: "llama-bpe",
}
"""The regular expressions by which Qwen 2 and 3 and Llama 3 split text, with llama.cpp's names for them."""


@dataclass(frozen=True)
class Vocabulary:
    """`tokens` are (text, kind) by id; `merges` in order; `splitter` is GGUF's name for how text is split before
    merging. Ids are None where the tokenizer names no such token. `opens`: whether each text begins with BOS."""

    tokens: Sequence[tuple[str, int]]
    merges: Sequence[str]
    splitter: str
    ids: Mapping[str, int | None]
    opens: bool
    template: str
    tokenizer: Any
    """transformers' own, of which all this is said."""

    def write(self, writer: "gguf.GGUFWriter") -> None:
        """Add the vocabulary to a GGUF file that is being written."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.splitter)
        writer.add_token_list([word for word, _ in self.tokens])
        writer.add_token_types([kind for _, kind in self.tokens])
        writer.add_token_merges(list(self.merges))
        adds = {
            "bos_token": writer.add_bos_token_id,
            "eos_token": writer.add_eos_token_id,
            "unk_token": writer.add_unk_token_id,
            "pad_token": writer.add_pad_token_id,
        }
        for key, add in adds.items():
            found = self.ids.get(key)
            if found is not None:
                add(found)
        writer.add_add_bos_token(self.opens)
        writer.add_add_space_prefix(False)
        if self.template:
            writer.add_chat_template(self.template)


def read_vocabulary(folder: Path, *, eos: int | None = None) -> Vocabulary:
    """The tokenizer of a model folder. `eos` is the id that ends an answer where generation_config.json says another
    one than the tokenizer.

    Raises UsageError for a tokenizer that a GGUF file cannot say, DamagedError for files that are none.
    """
    own = _own(folder)
    tokenizer = json.loads(own.backend_tokenizer.to_str())
    tokens = _tokens(folder, tokenizer)
    ids = {word: number for number, (word, _) in enumerate(tokens)}
    named = ("bos_token", "eos_token", "unk_token", "pad_token")
    found = {key: ids.get(str(getattr(own, key))) for key in named}
    if eos is not None:
        found["eos_token"] = eos
    if found["unk_token"] is None:
        found["unk_token"] = found["eos_token"]  # bytes are never unknown, and transformers would add one of its own
    bos = found["bos_token"]
    return Vocabulary(
        tokens,
        [" ".join(pair(merge)) for merge in tokenizer["model"].get("merges") or []],
        _splitter(tokenizer, folder),
        found,
        bos is not None and _first(tokenizer) == tokens[bos][0],
        own.chat_template if isinstance(own.chat_template, str) else "",
        own,
    )


def _own(folder: Path) -> Any:
    """The tokenizer as transformers makes it of the folder, which is what the model was trained with: version 5 gives a
    qwen2 Qwen's way to split text, whatever tokenizer.json says."""
    from transformers import AutoTokenizer

    read_json_file(folder / "tokenizer.json")
    try:
        own = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the files are a stranger's, and tokenizers raises bare Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DamagedError(f"the tokenizer of '{folder}' cannot be loaded ({reason}); save the model again") from error
    if not getattr(own, "is_fast", False):
        raise UsageError(f"'{folder}' has no fast tokenizer (tokenizer.json); run it with the local engine")
    return own


def _tokens(folder: Path, tokenizer: Mapping[str, Any]) -> list[tuple[str, int]]:
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or (tokenizer.get("decoder") or {}).get("type") != "ByteLevel":
        raise UsageError(
            f"the tokenizer of '{folder}' is no byte-level BPE, the one kind that is written into GGUF files; run the "
            "model with the local engine"
        )
    by_id: dict[int, tuple[str, int]] = {number: (word, NORMAL) for word, number in model["vocab"].items()}
    for added in tokenizer.get("added_tokens") or []:
        odd = [flag for flag in ("lstrip", "rstrip", "single_word") if added.get(flag)]
        if odd:
            raise UsageError(
                f"the token '{str(added['content'])[:40]}' of '{folder}' is found in text in a way ({odd[0]}) that no "
                "GGUF file can say; run the model with the local engine"
            )
        by_id[added["id"]] = (added["content"], CONTROL if added.get("special") else USER_DEFINED)
    if set(by_id) != set(range(len(by_id))):
        raise UsageError(f"the ids of the tokenizer of '{folder}' have gaps; a GGUF file numbers tokens without any")
    return [by_id[number] for number in range(len(by_id))]


def _splitter(tokenizer: Mapping[str, Any], folder: Path) -> str:
    """Raises UsageError for a way to split text that has no name here."""
    splitter = dict(tokenizer.get("pre_tokenizer") or {})
    splitter.pop("trim_offsets", None)
    steps = splitter.get("pretokenizers") or []
    kinds = [step.get("type") for step in steps]
    # OpenVINO GenAI 2026.4 splits in GPT-2's way under the name "smollm" alone, which sets digits apart as llama.cpp's
    # does; without a merge of digits it is the same. Digits that are merged need the name "gpt-2", under which OpenVINO
    # takes 's and 't apart (embedded_check.py finds it).
    if splitter == _GPT2_SPLIT:
        return "gpt-2" if _merges_digits(tokenizer) else "smollm"
    if kinds == ["Digits", "ByteLevel"] and not _merges_digits(tokenizer):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        name = PATTERNS.get(str((steps[0].get("pattern") or {}).get("Regex")))
        if name is not None and steps[0].get("behavior") == "Isolated" and not steps[0].get("invert"):
            return name
    if joins(splitter):
        raise UsageError(
            f"the tokenizer of '{folder}' has tokens of several words (words_at_most), which no GGUF file can say; "
            "serve the model with vLLM (fathom serve-model), or run it with the local engine"
        )
    raise UsageError(
        f"the tokenizer of '{folder}' splits text in a way that has no name in GGUF files here; run the model with the "
        "local engine"
    )


def _merges_digits(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a merge has a digit in it: a space before one is enough. Bytes of Chinese are written as ² and ³, which
    are digits to Python and not here."""
    return any(any(c in "0123456789" for part in pair(merge) for c in part) for merge in tokenizer["model"]["merges"])


def pair(merge: Any) -> tuple[str, str]:
    """Newer tokenizer files write merges as pairs, older ones as "a b"."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _first(tokenizer: Mapping[str, Any]) -> str | None:
    """The special token with which a text begins."""
    processor = tokenizer.get("post_processor") or {}
    steps = [step for step in processor.get("processors") or [processor] if step.get("type") == "TemplateProcessing"]
    single = steps[0].get("single") or [] if steps else []
    return (single[0].get("SpecialToken") or {}).get("id") if single else None
