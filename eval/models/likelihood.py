"""Token sequences → the log-probability of every token, through a causal language model of transformers.

Windows of any length in bounded memory, padded batches, beginnings that sequences share computed once. It knows no
files, no texts and no metrics.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.errors import DamagedError, FathomError, UsageError

if TYPE_CHECKING:
    import torch

UNKNOWN_WINDOW = 2048
"""Tokens, for a model that does not say how many it can take (ALiBi, state-space models)."""
BATCH_TOKENS = {"cpu": 2048, "cuda": 65_536}
"""Tokens, padding included, that go through the model at once."""
LOGITS_AT_ONCE = {"cpu": 1 << 24, "cuda": 1 << 28}
"""Numbers held at once while log-probabilities are made: 64 MB and 1 GB in fp32. One window of 2,048 tokens over
150,000 words would be 1.2 GB otherwise."""
WORTH_SHARING = 16
"""Tokens that sequences must begin with in common before keeping the model's state of them pays."""

_PROBE_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Encoding:
    """A text in tokens, special ones left out. `starts[i]` is the character at which token i begins.

    `unknown` marks the tokens that stand for what the vocabulary lacks. `exact` tells whether the tokens give the text
    back to the last character: where they do not, bits per byte promise too little.
    """

    ids: np.ndarray
    starts: np.ndarray
    unknown: np.ndarray
    exact: bool


def batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Numbers of the sequences, longest first, in groups whose padded size stays within `tokens` (one fits always)."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


class TransformersModel:
    """A causal language model of transformers, with or without an adapter. Not for several threads at once."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str, weights: str, precision: str) -> None:
        """`weights` is the hash of the files. Raises UsageError for a model that looks ahead or a tokenizer that
        cannot tell where its tokens begin, DamagedError for one that answers nonsense."""
        self._model, self._tokenizer, self.precision = model, tokenizer, precision
        self._head = model.get_output_embeddings()
        self._config = model.config.get_text_config()
        self.device = str(next(model.parameters()).device)
        self.name, self.hash = name, weights
        kind = self.device.partition(":")[0]
        self.batch_tokens = BATCH_TOKENS.get(kind, BATCH_TOKENS["cuda"])
        self._logits_at_once = LOGITS_AT_ONCE.get(kind, LOGITS_AT_ONCE["cuda"])
        self._virtual = virtual_tokens(model)
        self.window = _window(self._config, tokenizer) - self._virtual
        if not getattr(tokenizer, "is_fast", False) or self._head is None:
            raise UsageError(
                f"the model '{name}' is no language model with a fast tokenizer (tokenizer.json); use another"
            )
        rows = model.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > rows:
            raise DamagedError(
                f"the tokenizer of '{name}' knows {len(tokenizer):,} tokens and the model has {rows:,}; "
                "they do not belong together"
            )
        self.bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.opens = tokenizer("a")["input_ids"][:1] == [self.bos] != self.encode("a")[:1]
        self._finish: Callable[[Any], Any] | None = None
        self._can_branch = False
        self._examine()

    @property
    def facts(self) -> dict[str, str]:
        """What the figures depend on beside the files."""
        first = "" if self.bos is None else str(self._tokenizer.convert_ids_to_tokens(self.bos))
        return {"precision": self.precision, "device": self.device, "before_first_token": first}

    def encode(self, text: str) -> list[int]:
        """Tokens of a text as it stands: no special tokens, and `<|im_end|>` in a document is text like any other."""
        return self._encoded(text)["input_ids"]

    def encoding(self, text: str) -> Encoding:
        """Tokens with the place each begins at, and whether anything of the text was lost."""
        encoded = self._encoded(text, return_offsets_mapping=True)
        ids = np.array(encoded["input_ids"], dtype=np.int64)
        starts = np.array([start for start, _ in encoded["offset_mapping"]], dtype=np.int64)
        back = self._tokenizer.decode(encoded["input_ids"], clean_up_tokenization_spaces=False)
        # SentencePiece puts a space before the first word; some decoders take it off again and some do not.
        exact = back == text or back.removeprefix(" ") == text.removeprefix(" ")
        unknown = ids == self._tokenizer.unk_token_id if self._tokenizer.unk_token_id is not None else ids < 0
        # Byte-level pieces of one character all begin where it begins, and some tokenizers count back a step.
        return Encoding(ids, np.maximum.accumulate(starts) if len(starts) else starts, unknown, exact)

    def _encoded(self, text: str, **options: Any) -> Any:
        return self._tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            truncation=False,
            verbose=False,
            **options,
        )

    def logprobs(self, batch: Sequence[Sequence[int]], *, since: Sequence[int] | None = None) -> list[np.ndarray]:
        """ln P(token i | tokens before i in the sequence), float32; NaN at 0 and before `since[row]`.

        Sequences are sorted by length, padded on the right and worked on in groups of `batch_tokens`; the figures are
        those of each sequence alone. Raises ValueError for one longer than the window.
        """
        first = [max(1, start) for start in since] if since is not None else [1] * len(batch)
        results: list[np.ndarray] = [np.empty(0, dtype=np.float32)] * len(batch)
        for group in batches([len(ids) for ids in batch], self.batch_tokens):
            if len(batch[group[0]]) > self.window:
                raise ValueError(f"{len(batch[group[0]])} tokens are more than the window of {self.window}")
            for index, row in zip(
                group, self._halving([batch[i] for i in group], [first[i] for i in group]), strict=True
            ):
                results[index] = row
        return results

    def branches(self, batch: Sequence[Sequence[int]], *, since: Sequence[int] | None = None) -> list[np.ndarray]:
        """As `logprobs`, for sequences that begin alike: what they share goes through the model once.

        So a question of 400 tokens with four answers costs 400 tokens and not 1,600. Models that cannot keep their
        state (found out when loading) take the long way.
        """
        shared = _shared(batch)
        fits = all(0 < len(ids) <= self.window for ids in batch)
        if len(batch) < 2 or shared < WORTH_SHARING or not self._can_branch or not fits:
            return self.logprobs(batch, since=since)
        return self._branched(batch, shared, [max(1, s) for s in since] if since is not None else [1] * len(batch))

    def next_logprobs(self, batch: Sequence[Sequence[int]], targets: Sequence[int]) -> np.ndarray:
        """ln P of each of `targets` as the token that follows each sequence, float32 of (sequences, targets).

        One pass for a sequence, however many targets; what all begin with goes through the model once. Raises
        ValueError for a sequence longer than the window or empty.
        """
        found = np.empty((len(batch), len(targets)), dtype=np.float32)
        shared = _shared(batch)
        stem: Any = None
        for group in batches([len(ids) for ids in batch], self.batch_tokens):
            if not 0 < len(batch[group[-1]]) <= len(batch[group[0]]) <= self.window:
                raise ValueError(f"a sequence has 1 to {self.window} tokens, not {[len(batch[i]) for i in group][:3]}")
            if stem is None and len(batch) > 1 and shared >= WORTH_SHARING and self._can_branch:
                stem = self._state_after(batch[0][:shared])
            found[group] = self._next(
                [batch[index] for index in group], targets, shared if stem is not None else 0, stem
            )
        return found

    def close(self) -> None:
        """Let go of the weights."""
        self._model = self._head = None

    # --- how it is done ----------------------------------------------------------------------------------------------

    def _halving(self, rows: list[Sequence[int]], first: list[int]) -> list[np.ndarray]:
        """One padded batch; halved where it does not fit on the GPU."""
        import torch

        try:
            return self._scored(rows, first)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise FathomError(
                    f"{len(rows[0]):,} tokens of '{self.name}' do not fit into the memory of {self.device}; "
                    "give a smaller window"
                ) from None
        torch.cuda.empty_cache()
        half = len(rows) // 2
        return self._halving(rows[:half], first[:half]) + self._halving(rows[half:], first[half:])

    def _next(self, rows: list[Sequence[int]], targets: Sequence[int], shared: int, stem: Any) -> np.ndarray:
        """One padded batch, whose first `shared` tokens `stem` stands for; halved where it does not fit on the GPU."""
        import torch

        try:
            with torch.inference_mode():
                ids, mask = self._padded([tokens[shared:] for tokens in rows])
                ends = torch.tensor([len(tokens) - shared - 1 for tokens in rows], device=ids.device)
                places = torch.arange(len(rows), device=ids.device)
                if self._finish is None:
                    told = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                    logits = told[:, -ids.shape[1] :][places, ends]
                else:
                    kept = self._copies(stem, shared, mask) if shared else {"attention_mask": mask, "use_cache": False}
                    hidden, _ = self._hidden(input_ids=ids, **kept)
                    logits = self._finish(self._head(hidden[places, ends]))
                return logits.float().log_softmax(-1)[:, list(targets)].cpu().numpy()
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise FathomError(
                    f"{len(rows[0]):,} tokens of '{self.name}' do not fit into the memory of {self.device}; "
                    "give a shorter prompt"
                ) from None
        torch.cuda.empty_cache()
        half = len(rows) // 2
        halves = (self._next(part, targets, shared, stem) for part in (rows[:half], rows[half:]))
        return np.concatenate(list(halves))

    def _state_after(self, tokens: Sequence[int]) -> Any:
        """What the model keeps of a beginning."""
        import torch

        with torch.inference_mode():
            return self._hidden(input_ids=self._padded([tokens])[0], use_cache=True)[1].past_key_values

    def _copies(self, stem: Any, shared: int, mask: "torch.Tensor") -> dict[str, Any]:
        """Inputs that let each row of `mask` go on from its own copy of a beginning of `shared` tokens."""
        import copy

        import torch

        state = copy.deepcopy(stem)
        state.batch_repeat_interleave(len(mask))
        before = torch.ones(len(mask), shared, dtype=mask.dtype, device=mask.device)
        return {"attention_mask": torch.cat([before, mask], dim=1), "past_key_values": state, "use_cache": True}

    def _scored(self, rows: Sequence[Sequence[int]], first: Sequence[int]) -> list[np.ndarray]:
        import torch

        if not rows or not len(rows[0]):
            return [np.empty(0, dtype=np.float32) for _ in rows]
        with torch.inference_mode():
            ids, mask = self._padded(rows)
            if self._finish is None:
                return self._scored_whole(rows, first)
            hidden, _ = self._hidden(input_ids=ids, attention_mask=mask, use_cache=False)
            picked = [(row, i) for row, tokens in enumerate(rows) for i in range(first[row], len(tokens))]
            if not picked:
                return [np.full(len(tokens), np.nan, dtype=np.float32) for tokens in rows]
            at = torch.tensor(picked, device=ids.device)
            found = self._of(hidden[at[:, 0], at[:, 1] - 1], ids[at[:, 0], at[:, 1]])
        return _rows(found, rows, first)

    def _scored_whole(self, rows: Sequence[Sequence[int]], first: Sequence[int]) -> list[np.ndarray]:
        """Through the model's own logits, a sequence at a time: for heads that do more than is known here."""
        parts = []
        for tokens, start in zip(rows, first, strict=True):
            ids, mask = self._padded([tokens])
            logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, -len(tokens) :]
            parts.append(_log_probability(logits[start - 1 : -1], ids[0, start:]))
        return _rows(np.concatenate([part.cpu().numpy() for part in parts]), rows, first)

    def _padded(self, rows: Sequence[Sequence[int]]) -> "tuple[torch.Tensor, torch.Tensor]":
        import torch

        ids = np.zeros((len(rows), max(len(tokens) for tokens in rows)), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)

    def _hidden(self, **inputs: Any) -> "tuple[torch.Tensor, Any]":
        """What reaches the head, (batch, tokens, width), without the logits of all tokens ever being made."""
        caught: list[Any] = []

        def catch(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            caught.append(arguments[0])
            return (arguments[0][:, :1], *arguments[1:])

        handle = self._head.register_forward_pre_hook(catch)
        try:
            output = self._model(**inputs)
        finally:
            handle.remove()
        # Prompt tuning puts virtual tokens in front.
        return caught[0][:, -inputs["input_ids"].shape[1] :], output

    def _of(self, hidden: "torch.Tensor", targets: "torch.Tensor") -> np.ndarray:
        """Log-probability of each target, a slice of positions at a time, in fp32."""
        assert self._finish is not None
        step = max(1, self._logits_at_once // self._config.vocab_size)
        parts = [
            _log_probability(self._finish(self._head(hidden[start : start + step])), targets[start : start + step])
            for start in range(0, len(targets), step)
        ]
        return np.concatenate([part.cpu().numpy() for part in parts])

    def _branched(self, batch: Sequence[Sequence[int]], shared: int, first: list[int]) -> list[np.ndarray]:
        import torch

        results = [np.full(len(tokens), np.nan, dtype=np.float32) for tokens in batch]
        with torch.inference_mode():
            ids, _ = self._padded([batch[0][:shared]])
            stem, output = self._hidden(input_ids=ids, use_cache=True)
            begin = min(first)
            if begin < shared:
                told = self._of(stem[0, begin - 1 : -1], ids[0, begin:])
                for row, start in enumerate(first):
                    results[row][start:shared] = told[start - begin :]
            tails = [tokens[shared:] for tokens in batch]
            ends = torch.tensor([tail[0] for tail in tails], device=self.device)
            for row, value in enumerate(self._of(stem[0, -1].expand(len(tails), -1), ends)):
                results[row][shared] = value
            longest = max(len(tail) for tail in tails)
            if longest > 1:
                for rows in batches([len(tail) for tail in tails], max(self.batch_tokens, longest)):
                    self._grow(rows, [tails[row] for row in rows], output.past_key_values, shared, results)
        for row, start in enumerate(first):
            results[row][:start] = np.nan
        return results

    def _grow(self, rows: list[int], tails: list[Sequence[int]], cache: Any, shared: int, results: Any) -> None:
        """Score what comes after the first token of each tail, on copies of the stem's state."""
        import torch

        if max(len(tail) for tail in tails) < 2:
            return
        ids, mask = self._padded([tail[:-1] or tail for tail in tails])
        hidden, _ = self._hidden(input_ids=ids, **self._copies(cache, shared, mask))
        picked = [(row, i) for row, tail in enumerate(tails) for i in range(1, len(tail))]
        at = torch.tensor(picked, device=ids.device)
        targets = torch.tensor([tails[row][i] for row, i in picked], device=ids.device)
        for (row, i), value in zip(picked, self._of(hidden[at[:, 0], at[:, 1] - 1], targets), strict=True):
            results[rows[row]][shared + i] = value

    def _examine(self) -> None:
        """Find out on a few tokens what the head does beside multiplying, whether the model may keep its state, and
        that it neither looks ahead nor answers NaN. A wrong guess here would be a wrong figure everywhere."""
        import torch

        size = min(_PROBE_TOKENS, self.window)
        ids = np.random.default_rng(0).integers(0, len(self._tokenizer), size=size).tolist()
        tolerance = 1e-3 if self.precision == "fp32" else 0.2
        with torch.inference_mode():
            truth = self._scored_whole([ids], [1])[0]
            other = self._scored_whole([[*ids[:-2], ids[-2], (ids[-1] + 1) % len(self._tokenizer)]], [1])[0]
        if not np.isfinite(truth[1:]).all():
            raise DamagedError(
                f"the model '{self.name}' answers no finite probabilities in {self.precision}; its weights are damaged "
                "or need another precision"
            )
        if not np.allclose(truth[1:-1], other[1:-1], atol=tolerance):
            raise UsageError(f"the model '{self.name}' looks at later tokens, so it is no causal language model")
        for finish in _finishes(self._config):
            self._finish = finish
            try:
                if np.allclose(self._scored([ids], [1])[0][1:], truth[1:], atol=tolerance):
                    break
            except (IndexError, RuntimeError, TypeError):  # the head was not called, or not with hidden states
                pass
            self._finish = None
        stem = size - 4
        if self._finish is None or self._virtual or stem < 1:
            return
        pair = [ids, [*ids[:stem], ids[-1], ids[-2]]]
        long_way = self.logprobs(pair)
        try:
            short_way = self._branched(pair, stem, [1, 1])
            self._can_branch = all(
                np.allclose(a, b, atol=tolerance, equal_nan=True) for a, b in zip(long_way, short_way, strict=True)
            )
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # no cache, or one of another kind
            self._can_branch = False


def _rows(found: np.ndarray, rows: Sequence[Sequence[int]], first: Sequence[int]) -> list[np.ndarray]:
    results, at = [], 0
    for tokens, start in zip(rows, first, strict=True):
        result = np.full(len(tokens), np.nan, dtype=np.float32)
        size = max(0, len(tokens) - start)
        result[start:] = found[at : at + size]
        results.append(result)
        at += size
    return results


def _log_probability(logits: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    logits = logits.float()
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)


def _finishes(config: Any) -> Iterator[Callable[[Any], Any]]:
    """What models do to logits after the head, as their config declares it: Gemma caps, Cohere multiplies, Granite
    divides, most do nothing."""
    import torch

    cap = getattr(config, "final_logit_softcapping", None)
    if cap:
        yield lambda logits: (logits / cap).tanh() * cap
    for attribute in ("logit_scale", "logits_scaling", "lm_head_multiplier"):
        factor = getattr(config, attribute, None)
        if factor:
            yield partial(torch.mul, other=1 / factor)
            yield partial(torch.mul, other=factor)
    yield lambda logits: logits


def _shared(batch: Sequence[Sequence[int]]) -> int:
    """Tokens all sequences begin with; at least one of each is left over."""
    shortest = min((len(ids) for ids in batch), default=0)
    for place in range(max(0, shortest - 1)):
        if any(ids[place] != batch[0][place] for ids in batch):
            return place
    return max(0, shortest - 1)


def virtual_tokens(model: Any) -> int:
    """Tokens that prompt learning puts in front of every text."""
    adapters = getattr(model, "peft_config", {})
    return sum(int(getattr(adapter, "num_virtual_tokens", 0) or 0) for adapter in adapters.values())


def _window(config: Any, tokenizer: Any) -> int:
    for said in (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length):
        if isinstance(said, int) and 0 < said < 1 << 30:
            return said
    return UNKNOWN_WINDOW
