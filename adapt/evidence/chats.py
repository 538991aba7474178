"""Held-out conversations and a model → what the assistant's words cost it, in nats per token, and how it answers.

One record for each conversation. It knows no stage and no gate; the model is handed to it loaded.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.chat.corpus import Conversation, read_conversations
from adapt.chat.templates import require
from adapt.chat.writing import Learn, Writer, Written
from adapt.vocabulary.tokenizer_file import load
from eval.runs.parts import PartFolder, Progress
from retrieval.embedding.stored import file_hash
from retrieval.errors import UsageError

CHATS = "chats"
"""Folder of their records."""
CHAT_LOSS = "chat_loss"
SAMPLES_OF_EACH = 3
"""Conversations of each source whose last question is answered."""
ANSWER_TOKENS = 128
SHOWN = 600
"""Characters of a question that the report shows, its last."""


@dataclass(frozen=True)
class ChatForm:
    """How conversations are written: as the stage that learns from them writes them (see `adapt.recipe.Sft`).

    `reference` is the folder of the recipe's base: answers are counted in its tokens, so that a model with more tokens
    of its own compares.
    """

    reference: Path
    template: str | None = None
    system: str | None = None
    learn: Learn = "assistant"

    def writer(self, tokenizer: Any) -> Writer:
        """Raises UsageError for a tokenizer without a template where none is named."""
        return Writer(tokenizer, template=require(tokenizer, self.template), system=self.system, learn=self.learn)

    def identity(self) -> list[Any]:
        """What of it decides figures, ready for JSON."""
        return [self.template, self.system, self.learn, SAMPLES_OF_EACH, ANSWER_TOKENS]


@dataclass(frozen=True)
class HeldOut:
    """The conversations that are measured, by label, in the order they are measured in."""

    chosen: Mapping[str, tuple[Conversation, ...]]
    data: Mapping[str, str]

    @classmethod
    def of(cls, files: Mapping[str, Path], *, limit_bytes: int | None, seed: int) -> "HeldOut":
        """Read them; of more than `limit_bytes` of text so many as are drawn with the seed. Raises DamagedError."""
        chosen = {}
        for label, file in files.items():
            found = list(read_conversations(file))
            random.Random(seed).shuffle(found)
            size = 0
            some: list[Conversation] = []
            for conversation in found:
                size += sum(len(turn["content"].encode("utf-8", "replace")) for turn in conversation.messages)
                if some and limit_bytes is not None and size > limit_bytes:
                    break
                some.append(conversation)
            chosen[label] = tuple(some)
        return cls(chosen, {label: file_hash(file) for label, file in files.items()})

    @property
    def count(self) -> int:
        return sum(map(len, self.chosen.values()))

    def metric(self, label: str) -> str:
        """The metric's name in records."""
        return CHAT_LOSS if len(self.chosen) == 1 else f"{CHAT_LOSS}_{label}"

    def score(
        self, folder: PartFolder, form: ChatForm, load_model: Callable[[], Any], progress: Progress
    ) -> dict[str, Any]:
        """A record for each conversation that has none yet: nats of its answers, and how many tokens they are to the
        reference. `load_model` returns an object with `tokenizer` and `scorer`. Raises UsageError."""
        reference = form.writer(load(form.reference))
        too_long = done = 0
        for label, conversations in self.chosen.items():
            for conversation in conversations:
                done += 1
                key = f"{label}:{conversation.id}"
                if key in folder.done():
                    continue
                progress("answers scored", done, self.count)
                counted = _rows(reference, label, conversation)
                loaded = load_model()
                if max(len(one.ids) for one in counted) > loaded.scorer.window:
                    too_long += 1
                    continue
                nats = self._nats(loaded.scorer, _rows(form.writer(loaded.tokenizer), label, conversation))
                folder.append(
                    {
                        "id": key,
                        "text": _question(conversation)[-SHOWN:],
                        "cluster": conversation.group,
                        "metrics": {self.metric(label): [nats, sum(sum(one.learned[1:]) for one in counted)]},
                        "timings": {},
                        "label": label,
                    }
                )
        warning = f"{too_long:,} held-out conversations are longer than the model's window and were left out"
        return {"conversations": self.count, "too_long": too_long, "warnings": [warning] if too_long else []}

    @staticmethod
    def _nats(scorer: Any, rows: list[Written]) -> float:
        total = 0.0
        for row in rows:
            learned = [place for place in range(1, len(row.ids)) if row.learned[place]]
            (found,) = scorer.logprobs([row.ids], since=[learned[0]])
            total -= float(sum(float(found[place]) for place in learned))
        return total

    def samples(self, form: ChatForm, load_model: Callable[[], Any], done: Mapping[str, Any]) -> Iterator[dict]:
        """Records of how the model answers, greedily, the last questions of some conversations."""
        for label, conversations in self.chosen.items():
            for number, conversation in enumerate(conversations[:SAMPLES_OF_EACH], 1):
                key = f"{label} {number}"
                if key in done:
                    continue
                answer = _answer(load_model(), form, conversation)
                if answer is not None:
                    yield {
                        "id": key,
                        "text": _question(conversation)[-SHOWN:],
                        "cluster": None,
                        "metrics": {},
                        "timings": {},
                        "sample": answer,
                        "expected": conversation.messages[-1]["content"][:SHOWN],
                    }


def identity_of(held: HeldOut, form: ChatForm) -> str:
    """A hash of what decides the figures beside the model."""
    ids = {label: [one.id for one in found] for label, found in held.chosen.items()}
    said = json.dumps([dict(held.data), ids, form.identity()], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _rows(writer: Writer, label: str, conversation: Conversation) -> list[Written]:
    try:
        return writer.rows(conversation.messages)
    except UsageError as error:
        raise UsageError(f"'{label}', line {conversation.row} ('{conversation.id[:60]}'): {error}") from error


def _question(conversation: Conversation) -> str:
    return conversation.messages[-2]["content"]


def _answer(loaded: Any, form: ChatForm, conversation: Conversation) -> str | None:
    """None where the question leaves no room for an answer."""
    import torch

    tokenizer, model, scorer = loaded.tokenizer, loaded.model, loaded.scorer
    writer = form.writer(tokenizer)
    _, end = writer.end_of_turn()
    told = tokenizer(writer.prompt(conversation.messages[:-1]), add_special_tokens=False, return_tensors="pt")
    ids = told["input_ids"].to(scorer.device)
    room = min(ANSWER_TOKENS, scorer.window - ids.shape[1])
    if room < 1:
        return None
    usual = getattr(model.generation_config, "eos_token_id", None)
    ends = {end, *(usual if isinstance(usual, list) else [usual] if isinstance(usual, int) else [])}
    with torch.inference_mode():
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=room,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=sorted(ends),
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end,
        )
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)).strip()
