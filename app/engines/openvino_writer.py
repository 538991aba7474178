"""OpenVINO GenAI as a Writer: token ids in, token ids or their probabilities out, and its vocabulary as bytes."""

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from app.engines.generating import Sampling
from retrieval.embedding.no_telemetry import refuse_telemetry

# Before the first import of OpenVINO, which reports home otherwise.
refuse_telemetry()

if TYPE_CHECKING:
    import numpy as np
    import openvino_genai

LIKELIEST = 16
"""Tokens whose probability is told at once. "yes" and "no" are among them after a prompt that asks for one."""


class OpenVinoWriter:
    """`generate` of the pipeline releases the interpreter lock while it works; `step`, for prompts that are weighed,
    does not."""

    def __init__(
        self,
        pipeline: "openvino_genai.ContinuousBatchingPipeline",
        tokenizer: "openvino_genai.Tokenizer",
        adapters: "Mapping[str | None, openvino_genai.AdapterConfig]",
    ) -> None:
        """`adapters` is what to generate with for each role, None being no role; empty where there is no choice."""
        self._pipeline, self._adapters = pipeline, adapters
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
        role: str | None,
        emit: Callable[[list[int]], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """See Writer. A cancelled prompt is read to its end: the pipeline asks only when it has a token."""
        import openvino
        import openvino_genai

        config = self._config(role, max_new_tokens)
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

        self._pipeline.generate([openvino.Tensor(ids)], [config], Streamer())

    def weigh(self, ids: "np.ndarray", answers: Sequence[list[int]], role: str | None) -> list[float]:
        """ln P of each answer (its tokens) as what follows the prompt `ids`, int64 of shape (1, tokens).

        The pipeline shows no logits. A beam search that ends after one token tells the LIKELIEST for the price of
        reading the prompt (1.26 CPU seconds for 1,341 tokens, 1.24 without); an answer that is not among them, or is
        longer, is echoed behind the prompt (1.49).
        """
        found: dict[int, float] = {}
        if any(len(answer) == 1 for answer in answers):
            found = self._likeliest(ids, role)
        return [
            found[answer[0]] if len(answer) == 1 and answer[0] in found else self._echoed(ids, answer, role)
            for answer in answers
        ]

    def _likeliest(self, ids: "np.ndarray", role: str | None) -> dict[int, float]:
        import openvino

        config = self._config(role, 1)
        config.logprobs = 1
        config.num_beams = config.num_return_sequences = LIKELIEST
        config.length_penalty = 0.0
        (told,) = self._pipeline.generate([openvino.Tensor(ids)], [config])
        return {
            int(tokens[0]): float(score)
            for tokens, score in zip(told.m_generation_ids, told.m_scores, strict=True)
            if len(tokens) == 1
        }

    def _echoed(self, ids: "np.ndarray", answer: list[int], role: str | None) -> float:
        import numpy as np
        import openvino

        config = self._config(role, 0)
        config.logprobs, config.echo = 1, True
        whole = np.concatenate([ids, np.array([answer], dtype=np.int64)], axis=1)
        handle = self._pipeline.add_request(0, openvino.Tensor(whole), config)
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        told = handle.read_all()[0].generated_log_probs
        return float(sum(told[-len(answer) :]))

    def _config(self, role: str | None, max_new_tokens: int) -> "openvino_genai.GenerationConfig":
        config = self._pipeline.get_config()
        config.max_new_tokens = max_new_tokens
        config.apply_chat_template = False
        config.do_sample = False
        if self._adapters:
            config.adapters = self._adapters[role]
        return config


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
