"""OpenVINO GenAI as a Writer: token ids in, token ids out through `LLMPipeline`, and its vocabulary as bytes."""

import codecs
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.engines.generating import Sampling
from retrieval.embedding.no_telemetry import refuse_telemetry

# Before the first import of OpenVINO, which reports home otherwise.
refuse_telemetry()

if TYPE_CHECKING:
    import numpy as np
    import openvino_genai


class OpenVinoWriter:
    """`LLMPipeline.generate` releases the interpreter lock while it works (`ContinuousBatchingPipeline.step` does not:
    a web server in the same process stood still for each step)."""

    def __init__(self, pipeline: "openvino_genai.LLMPipeline", tokenizer: "openvino_genai.Tokenizer") -> None:
        self._pipeline = pipeline
        self.vocabulary = Vocabulary(tokenizer)

    def stream(self) -> "ByteStream":
        """A fresh decoder for one answer."""
        return self.vocabulary.stream()

    def write(
        self,
        ids: "np.ndarray",
        *,
        max_new_tokens: int,
        sampling: Sampling,
        emit: Callable[[list[int]], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """See Writer. A cancelled prompt is read to its end: the pipeline asks only when it has a token."""
        import openvino
        import openvino_genai

        config = self._pipeline.get_generation_config()
        config.max_new_tokens = max_new_tokens
        config.apply_chat_template = False
        config.repetition_penalty = sampling.repetition_penalty
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.rng_seed = sampling.seed
        if sampling.stop:
            config.stop_strings = set(sampling.stop)

        class Streamer(openvino_genai.StreamerBase):  # type: ignore[misc, name-defined]
            def write(self, token: int | list[int]) -> "openvino_genai.StreamingStatus":
                if cancelled():
                    return openvino_genai.StreamingStatus.CANCEL
                emit([token] if isinstance(token, int) else list(token))
                return openvino_genai.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        self._pipeline.generate(openvino.Tensor(ids), config, Streamer())


class Vocabulary:
    """Token ids → text, byte by byte, so that a character split over tokens (Chinese, emoji) appears whole or not at
    all. OpenVINO's own `decode` drops the bytes of an unfinished character without a word."""

    def __init__(self, tokenizer: "openvino_genai.Tokenizer") -> None:
        table = {int(index): bytes(token) for token, index in tokenizer.get_vocab().items()}
        marks = {i: token for i, token in table.items() if re.fullmatch(rb"<[^<>]+>|\[[A-Z_]+\]", token)}
        self.control = {i: t for i, t in marks.items() if not tokenizer.decode([i], skip_special_tokens=True)}
        """Ids of the special tokens (`<|im_end|>`), with their spelling."""
        self._sentencepiece = any(token.startswith("▁".encode()) for token in list(table.values())[:20_000])
        self._bytes = {i: self._spelling(token) for i, token in table.items() if i not in self.control}

    def _spelling(self, token: bytes) -> bytes:
        if self._sentencepiece:
            if match := re.fullmatch(rb"<0x([0-9A-Fa-f]{2})>", token):
                return bytes([int(match[1], 16)])
            return token.replace("▁".encode(), b" ")
        return token

    def stream(self) -> "ByteStream":
        """A fresh decoder for one answer."""
        return ByteStream(self._bytes)


class ByteStream:
    """Feed token ids, get the text that is complete so far."""

    def __init__(self, table: dict[int, bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: list[int]) -> str:
        return self._decoder.decode(b"".join(self._table.get(i, b"") for i in ids))

    def end(self) -> str:
        """What is left: a character the model never finished is dropped."""
        return self._decoder.decode(b"", final=True).rstrip("\ufffd")
