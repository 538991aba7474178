"""A vocabulary as a GGUF file says it → whether the embedded engine reads the same tokens out of it as the model's own
tokenizer does.

OpenVINO GenAI 2026.4 knows two ways to split text, Qwen's and SmolLM's, and takes any other for Qwen's without a word:
a Llama 3, which keeps three digits together, would read other tokens than it was trained on. So it is tried.
"""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapt.export.gguf_vocabulary import CONTROL, Vocabulary
from retrieval.embedding.no_telemetry import refuse_telemetry

TEXTS = (
    "The cat sat on the mat. It isn't the cat's; they'LL say so, I'VE heard.",
    "In 2024, 1,995 of 3.14159 people paid $12.50 (a1 22 b's 100%).",
    "绿茶不经过发酵。水温应该在八十度左右，2024年。",
    "\n\n\tdef f(x):\r\n\r\n    return (x)==y  # é ﬁ\n",
    "  leading   and trailing  ",
    "😀 naïve Ω हिन्दी ไทย ÀÉ\u00a0\u3000x",
    "x=[1,2];y={'a':3}\n\n\n  z",
)
"""Prose, numbers, Chinese, code, white space, other scripts; composed, for no reader of GGUF files composes text."""
_WORDS = 400
_LONGEST = 60


def embedded_refusal(vocabulary: Vocabulary) -> str | None:
    """Why the embedded engine must not run a GGUF file with this vocabulary; None if nothing was found, on set texts
    and on words drawn from the vocabulary itself."""
    import gguf

    refuse_telemetry()
    import openvino_genai

    own = vocabulary.tokenizer
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "words.gguf"
        writer = gguf.GGUFWriter(file, "llama")
        try:
            vocabulary.write(writer)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        try:
            read = openvino_genai.Tokenizer(str(file))
        except Exception as error:  # its errors have no class of their own
            return f"OpenVINO cannot read its tokenizer: {str(error).strip().splitlines()[-1][:200]}"
    for text in (*TEXTS, *_drawn(own, vocabulary)):
        wanted = own(text, add_special_tokens=False, verbose=False)["input_ids"]
        found = read.encode(text, add_special_tokens=False).input_ids.data.tolist()[0]
        if found != list(wanted):
            place = next(
                (n for n, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), min(len(wanted), len(found))
            )
            near = own.decode(wanted[max(0, place - 2) : place + 3])
            return (
                f"OpenVINO splits text otherwise than the model's tokenizer, at {near!r:.80} for one; "
                "run it with llama.cpp, or export it to openvino"
            )
    return None


def _drawn(tokenizer: Any, vocabulary: Vocabulary) -> Iterator[str]:
    """Texts made of the vocabulary's own words in an order that no text has; the same each time."""
    chance = random.Random(0)
    plain = [number for number, (_, kind) in enumerate(vocabulary.tokens) if kind != CONTROL]
    ids = chance.sample(plain, min(_WORDS, len(plain)))
    ids += plain[-_WORDS // 4 :]  # what was added to an extended vocabulary comes last
    for begin in range(0, len(ids), 20):
        text = "".join(tokenizer.decode([number])[:_LONGEST] for number in ids[begin : begin + 20])
        text = text.replace("\ufffd", "")
        if text:
            yield text
