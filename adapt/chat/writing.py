"""A conversation → token ids and which of them the assistant wrote, exactly as serving will read and write them.

It knows one tokenizer and one template; no file, no row and no model.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adapt.chat.templates import has_marks, require
from eval.models.chat_prompts import broken_up, folded, marks, prompt, special_tokens
from retrieval.errors import UsageError

Learn = Literal["assistant", "last", "all"]
Turn = Mapping[str, str]
"""`role` and `content`."""


@dataclass(frozen=True, slots=True)
class Written:
    """One sequence to train on: `learned[i]` tells whether token i is one that the model shall write."""

    ids: list[int]
    learned: list[bool]


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer of a conversation: what serving gives the model, and what the model then has to write. `whole` is the
    template's text of the conversation until after it."""

    before: str
    said: str
    whole: str


class Writer:
    """Writes conversations with one template.

    An answer begins where the prompt of serving ends (the template with `add_generation_prompt`, which must be a prefix
    of the template's text with the answer) and ends with the token that ends a turn. Both are read off the rendered
    text of this very conversation, for whichever template; where they cannot be, it is refused and nothing is guessed.
    A template that marks its answers (`{% generation %}`) decides which of them are learned.
    """

    def __init__(
        self, tokenizer: Any, *, template: str | None = None, system: str | None = None, learn: Learn = "assistant"
    ) -> None:
        """`template` is text, None being the tokenizer's own; `system` stands before conversations that have no system
        message. Raises UsageError for a tokenizer without a template."""
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError("the model has no fast tokenizer (tokenizer.json); save one beside the weights")
        self.tokenizer, self.system, self.learn = tokenizer, system, learn
        self.template = require(tokenizer, None) if template is None else template
        self._marked = has_marks(self.template)
        self._spelled = marks(special_tokens(tokenizer))
        added = tokenizer.added_tokens_decoder
        self._control = marks(token.content for token in added.values() if token.special)
        names = {token.content for token in added.values()} | set(tokenizer.all_special_tokens)
        self._token = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")

    # --- text --------------------------------------------------------------------------------------------------------

    def turns(self, messages: Sequence[Turn]) -> list[dict[str, str]]:
        """The messages as they are written: with the system text, and special tokens that somebody spells out broken
        up, as serving breaks them up.

        Raises UsageError for an answer that spells one: broken up it would teach the model what nobody wrote.
        """
        found = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
        if self.system is not None and (not found or found[0]["role"] != "system"):
            found.insert(0, {"role": "system", "content": self.system})
        for turn in found:
            if turn["role"] != "assistant":
                turn["content"] = broken_up(turn["content"], self._spelled)
            elif (spelled := self._control.search(turn["content"])) is not None:
                raise UsageError(
                    f"an answer spells the control token {spelled[0]}, which would end or open a turn there; reword it"
                )
        return found

    def prompt(self, messages: Sequence[Turn]) -> str:
        """What serving gives the model before its answer to these messages."""
        return self._prompt(self.turns(messages))[0]

    def _prompt(self, turns: list[dict[str, str]]) -> tuple[str, bool]:
        """The prompt, and whether the system text had to be folded into the first question."""
        tried: list[tuple[list[dict[str, str]], str]] = []

        def apply(attempt: list[dict[str, str]]) -> str:
            tried.append((attempt, self._rendered(attempt, opening=True)[0]))
            return tried[-1][1]

        text = prompt(apply, turns, model="that is trained")
        return text, all(one != turns for one, said in tried if said == text)

    def _rendered(self, turns: list[dict[str, str]], *, opening: bool) -> tuple[str, list[tuple[int, int]]]:
        """The template's text, and where it marks answers."""
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, spans = render_jinja_template(
            conversations=[turns],
            chat_template=self.template,
            return_assistant_tokens_mask=self._marked,
            add_generation_prompt=opening,
            enable_thinking=False,  # as the local engine asks: an answer is wanted, not its drafts
            **self.tokenizer.special_tokens_map,
        )
        return texts[0], [(int(a), int(b)) for a, b in spans[0]] if self._marked else []

    def _answer(self, turns: list[dict[str, str]], place: int) -> _Answer | None:
        """The answer that is message `place`; None where the template's marks leave it out. Raises UsageError."""
        before, fold = self._prompt(turns[:place])
        so_far = turns[: place + 1]
        try:
            whole, spans = self._rendered(folded(so_far) if fold else so_far, opening=False)
        except Exception as error:  # jinja2's errors, or what a strange template makes of its input
            raise UsageError(f"the chat template cannot write this conversation ({str(error)[:200]})") from error
        content = turns[place]["content"]
        if not whole.startswith(before):
            shared = next((n for n, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(whole))
            raise UsageError(
                "the chat template writes a conversation otherwise than it asks for an answer "
                f"({before[shared : shared + 30]!r} is missing before the answer), so that the model would be trained "
                "on what it never reads; name a template of Fathom's (template: chatml)"
            )
        rest = whole[len(before) :]
        start, end = _found(rest, content)
        if start < 0:
            raise UsageError(
                f"the chat template rewrites the answer {content[:40]!r} (it writes {rest[:60]!r}); name a template of "
                "Fathom's (template: chatml)"
            )
        blank = len(rest[end:]) - len(rest[end:].lstrip())
        ending = self._token.match(rest, end + blank)
        if ending is None:
            raise UsageError(
                f"the chat template ends an answer with {rest[end : end + 20]!r}, which is no special token, so that "
                "nobody would know where it ends; name a template of Fathom's (template: chatml)"
            )
        if self._marked:
            first, last = len(before) + start, len(before) + end
            covering = [span for span in spans if span[0] < last and span[1] > first]
            if not covering:
                return None
            if covering[0][0] > first or covering[0][1] < last:
                raise UsageError(f"the chat template marks only a part of the answer {content[:40]!r} as the model's")
        return _Answer(before, rest[: ending.end()], whole)

    def end_of_turn(self) -> tuple[str, int]:
        """The token that ends an answer, as text and number. Raises UsageError where there is none."""
        answer = self._answer(self.turns(_PROBE), len(self.turns(_PROBE)) - 1)
        if answer is None:
            raise UsageError("the chat template marks no answer as the model's; name a template of Fathom's")
        end = [match[0] for match in self._token.finditer(answer.said)][-1]
        return end, int(self.tokenizer.convert_tokens_to_ids(end))

    # --- tokens ------------------------------------------------------------------------------------------------------

    def rows(self, messages: Sequence[Turn]) -> list[Written]:
        """The sequences that a conversation is trained as: one; or one for each answer, where the template (or the
        tokenizer) writes an answer in the history otherwise than as the model wrote it, as templates do that drop
        thoughts.

        Raises UsageError with the reason where the conversation cannot be trained on.
        """
        turns = self.turns(messages)
        places = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
        if not places or places[-1] != len(turns) - 1:
            raise UsageError("the conversation does not end with an answer of the assistant")
        wanted = places if self.learn == "assistant" else places[-1:]
        answers = [found for place in wanted if (found := self._answer(turns, place)) is not None]
        if not answers:
            raise UsageError("no token of it is the assistant's, as the chat template marks them")
        told = self._encoded(answers[-1].whole)
        if self.learn == "all":
            return [Written(told[0], [True] * len(told[0]))]
        befores = [self._encoded(answer.before)[0] for answer in answers]
        spans = [self._span(told, answers[-1].whole, one, ids) for one, ids in zip(answers, befores, strict=True)]
        whole = [span for span in spans if span is not None]
        if len(whole) == len(answers):
            ids = told[0][: whole[-1][1]]
            learned = [False] * len(ids)
            for first, last in whole:
                learned[first:last] = [True] * (last - first)
            return [Written(ids, learned)]
        return [self._alone(one, ids) for one, ids in zip(answers, befores, strict=True)]

    def _span(
        self, told: tuple[list[int], list[tuple[int, int]]], text: str, answer: _Answer, before: list[int]
    ) -> tuple[int, int] | None:
        """Where an answer stands among the tokens of the whole conversation; None where it does not stand there as the
        model would write it."""
        ids, offsets = told
        if not text.startswith(answer.before + answer.said) or ids[: len(before)] != before:
            return None
        end = len(answer.before) + len(answer.said)
        last = next((n for n in range(len(before), len(ids)) if offsets[n][1] >= end), None)
        if last is None or offsets[last][1] != end or self._token.fullmatch(text, *offsets[last]) is None:
            return None
        self._require_same(ids, len(before), last + 1, answer.said)
        return len(before), last + 1

    def _alone(self, answer: _Answer, before: list[int]) -> Written:
        said = self._encoded(answer.said)[0]
        ids = [*before, *said]
        self._require_same(ids, len(before), len(ids), answer.said)
        return Written(ids, [False] * len(before) + [True] * len(said))

    def _require_same(self, ids: list[int], first: int, last: int, said: str) -> None:
        """The tokens that are learned must read as the answer and the end of its turn, to the letter."""

        def text(tokens: list[int]) -> str:
            return str(self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

        read = text(ids[first:last])
        if read != said:  # a decoder may drop a blank at the very beginning
            read = text(ids[:last])[len(text(ids[:first])) :]
        if unicodedata.normalize("NFC", read) != unicodedata.normalize("NFC", said):
            raise UsageError(f"the tokenizer does not give the answer back: {said[:60]!r} reads {read[:60]!r}")

    def _encoded(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )
        return list(found["input_ids"]), [(int(a), int(b)) for a, b in found["offset_mapping"]]


_PROBE: tuple[Turn, ...] = ({"role": "user", "content": "Ready?"}, {"role": "assistant", "content": "Yes."})


def _found(rest: str, content: str) -> tuple[int, int]:
    """Where the answer stands behind the prompt: at once or after blanks, trimmed or not; (-1, -1) for nowhere."""
    if rest.startswith(content):
        return 0, len(content)
    trimmed = content.strip()
    start = len(rest) - len(rest.lstrip())
    return (start, start + len(trimmed)) if rest.startswith(trimmed, start) else (-1, -1)
