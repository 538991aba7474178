"""Which chat template a stage trains with: the model's own, or one that Fathom ships. It knows no conversation."""

import re
from collections.abc import Mapping
from typing import Any

from adapt.corpus.packing import marks
from retrieval.errors import UsageError

_MARKS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# The answer's first blank belongs to the answer: "Assistant: " would end in a token that no text has before a word.
_PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ 'Assistant:' }}{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}"
    "{{ '\\n\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
SHIPPED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "chatml": (_CHATML, ("<|im_start|>", "<|im_end|>")),
    "plain": (_PLAIN, ()),
}
"""Name → template with its answers marked, and the special tokens that it needs. "plain" needs only the token that ends
a document: for bases that have no tokens for turns. Its turns are words, so that a user can write one."""


def shipped(name: str, tokenizer: Any) -> str:
    """A template of ours for this tokenizer. Raises UsageError for one that is not known or whose tokens it lacks."""
    if name not in SHIPPED:
        raise UsageError(f"there is no chat template '{name[:60]}'; there are {', '.join(SHIPPED)}")
    text, needed = SHIPPED[name]
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    lacking = [token for token in needed if token not in special]
    if lacking:
        raise UsageError(
            f"the template '{name}' needs the special tokens {' and '.join(lacking)}, which this tokenizer lacks; use "
            "the template plain, or a base that has them"
        )
    begin, _ = marks(tokenizer)
    return "{{ bos_token }}" + text if begin is not None else text


def has_marks(template: str) -> bool:
    """Whether a template says itself what an assistant writes (`{% generation %}`)."""
    return _MARKS.search(template) is not None


def without_marks(template: str) -> str:
    """The same for serving: not every runtime knows the marks. Only of templates of ours, whose marks take no blanks
    away (`{%-`)."""
    return _MARKS.sub("", template)


def own(tokenizer: Any) -> str | None:
    """The template that a tokenizer answers with; of several the default."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template or None


def require(tokenizer: Any, name: str | None) -> str:
    """The template to train with, marks and all. Raises UsageError where there is none."""
    if name is not None:
        return shipped(name, tokenizer)
    found = own(tokenizer)
    if found is None:
        raise UsageError(
            "the model has no chat template; name one to train with, as in 'template: chatml' "
            f"(there are {', '.join(SHIPPED)})"
        )
    return found
