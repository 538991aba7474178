"""A tokenizer and new merges → the longer tokenizer's files, and the proof by trial that no text gets longer with it.

It knows no corpus and no model.
"""

import json
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adapt.vocabulary.byte_level import ByteLevelBpe
from adapt.vocabulary.merges import Pair
from adapt.vocabulary.phrases import joins
from retrieval.errors import FathomError

FILE = "tokenizer.json"
BESIDE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    "generation_config.json",
)
"""What goes along as it is. vocab.json, merges.txt and added_tokens.json, which older tools read, would be of the old
vocabulary, so they stay behind: tokenizer.json holds all that they do."""
GENERAL = "PreTrainedTokenizerFast"
"""The class that is what tokenizer.json says; older releases and other programs know it under this name."""
ALPHABETS = (
    (0x20, 0x7F),
    (0xA0, 0x250),
    (0x370, 0x530),
    (0x590, 0x700),
    (0x900, 0xE80),
    (0x2000, 0x2BFF),
    (0x3040, 0x3100),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A4),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x2A6DF),
    (0, 0x20),
)


def extended(
    base: ByteLevelBpe, merges: Sequence[Pair], pre_tokenizer: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """tokenizer.json with the merges appended and their tokens after all ids there are, in order; `pre_tokenizer` in
    place of its own where merges reach across words."""
    file = json.loads(json.dumps(base.file))
    if pre_tokenizer is not None:
        file["pre_tokenizer"] = pre_tokenizer
    model = file["model"]
    # Loading gives an added token that the model's vocabulary lacks the first id after it (tokenizers 0.23,
    # AddedVocabulary::add_tokens): Qwen's would move behind the new ones. In the vocabulary they keep theirs.
    model["vocab"].update(base.added)
    number = base.next_id
    for left, right in merges:
        if left + right not in model["vocab"]:
            model["vocab"][left + right] = number
            number += 1
    old_style = bool(model["merges"]) and isinstance(model["merges"][0], str)
    model["merges"] += [f"{left} {right}" if old_style else [left, right] for left, right in merges]
    return file


def write(file: Mapping[str, Any], source: Path, folder: Path) -> None:
    """The tokenizer's files into `folder`: `file`, and of `source` what goes along unchanged. Raises OSError.

    Where words are joined, tokenizer_config.json names the general class: those of families (Qwen2Tokenizer,
    GPT2Tokenizer; transformers 5) split in their own way whatever tokenizer.json says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(file, ensure_ascii=False), encoding="utf-8")
    for name in BESIDE:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
        elif (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if joins(file["pre_tokenizer"]):
        config = folder / "tokenizer_config.json"
        said = json.loads(config.read_text("utf-8")) if config.is_file() else {}
        config.write_text(json.dumps(said | {"tokenizer_class": GENERAL}, ensure_ascii=False), encoding="utf-8")


def is_split_as_written(base: ByteLevelBpe, pre_tokenizer: Mapping[str, Any], model: Path) -> bool:
    """Whether a pre-tokenizer put into the tokenizer.json of a model's folder is the one that loading it gives.

    For some kinds of model (qwen2) transformers takes the class of the family whatever the files name, and with it that
    class's own way of splitting.
    """
    with TemporaryDirectory() as place:
        write(extended(base, (), pre_tokenizer), model, Path(place))
        if (model / "config.json").is_file():
            shutil.copyfile(model / "config.json", Path(place) / "config.json")
        found = json.loads(load(Path(place)).backend_tokenizer.to_str())
    return bool(found["pre_tokenizer"] == pre_tokenizer)


def load(folder: Path) -> Any:
    """The tokenizer of a folder, running no code of its own."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


@dataclass(frozen=True)
class Comparison:
    """Token counts of the same texts. `longer` is always 0, or `compare` raises."""

    texts: int
    shorter: int
    same: int
    longer: int
    tokens_before: int
    tokens_after: int

    @property
    def saving(self) -> float:
        """Share of the tokens."""
        return 1 - self.tokens_after / self.tokens_before if self.tokens_before else 0.0


def compare(old: Any, new: Any, texts: Iterable[str]) -> Comparison:
    """Encode texts with both tokenizers (fast ones of transformers). Raises FathomError for a text that gets longer, or
    that does not come back as it did."""
    counts = {"texts": 0, "shorter": 0, "same": 0, "longer": 0, "tokens_before": 0, "tokens_after": 0}
    for text in texts:
        before, after = encode(old, text), encode(new, text)
        if len(after) > len(before):
            raise FathomError(
                f"the extended tokenizer makes {text[:60]!r} longer ({len(before)} → {len(after)} tokens), which "
                "should be impossible; leave the stage 'vocabulary' out"
            )
        if after != before and decode(new, after) != decode(old, before):
            raise FathomError(
                f"the extended tokenizer does not give {text[:60]!r} back; leave the stage 'vocabulary' out"
            )
        counts["texts"] += 1
        counts["shorter" if len(after) < len(before) else "same"] += 1
        counts["tokens_before"] += len(before)
        counts["tokens_after"] += len(after)
    return Comparison(**counts)


def encode(tokenizer: Any, text: str) -> list[int]:
    """A text as it stands, special tokens written in it being text like any other."""
    found = tokenizer(text, add_special_tokens=False, split_special_tokens=True, truncation=False, verbose=False)
    return found["input_ids"]


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of tokens, nothing cleaned up."""
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def require_same_special_tokens(old: Any, new: Any) -> None:
    """Raises FathomError where an added token has moved, or a name (EOS, PAD …) means another."""
    before = {number: str(token) for number, token in old.added_tokens_decoder.items()}
    after = {number: str(token) for number, token in new.added_tokens_decoder.items()}
    if before != after or old.special_tokens_map != new.special_tokens_map:
        moved = sorted(set(before.items()) ^ set(after.items()))[:3]
        raise FathomError(f"the extended tokenizer's special tokens are not the old ones ({moved}); leave it out")


def strange_texts(
    count: int, tokenizer: Any, terms: Sequence[str], texts: Sequence[str], *, seed: int
) -> Iterator[str]:
    """Random texts of many kinds: letters of many scripts, tokens and new terms in any order, cuttings of real texts,
    and all of these together."""
    draw = random.Random(seed)
    size = len(tokenizer)
    kinds = 4 if texts else 3

    def letters() -> str:
        low, high = draw.choice(ALPHABETS)
        return "".join(chr(draw.randrange(low, high)) for _ in range(draw.randrange(1, 60)))

    def tokens() -> str:
        return decode(tokenizer, [draw.randrange(size) for _ in range(draw.randrange(1, 20))])

    def words() -> str:
        parts = [draw.choice(terms) for _ in range(draw.randrange(1, 8))] if terms else []
        return draw.choice(("", " ", "_", "\n", "，")).join(
            part[draw.randrange(len(part)) :] if draw.random() < 0.3 else part for part in parts
        )

    def cutting() -> str:
        text = draw.choice(texts)
        start = draw.randrange(max(1, len(text)))
        return text[start : start + draw.randrange(1, 200)]

    made = (letters, tokens, words, cutting)[:kinds]
    for _ in range(count):
        yield "".join(draw.choice(made)() for _ in range(draw.randrange(1, 4)))
