"""Questions, answers and contexts → the wordings in which a chat puts them, English and Chinese. It knows no table.

Several wordings of one task, and the task turned round, are what instruction tuning gains from (Wei et al. 2022,
arXiv:2109.01652, section 2.1).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from adapt.instructions.example import Message
from retrieval.prompts import Language

FIELDS = ("question", "answer", "context")
"""What Fathom's own templates know."""
_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,39})\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A wording with {fields}. `language` None fits any."""

    name: str
    user: str
    assistant: str
    system: str = ""
    direction: Literal["forward", "inverted"] = "forward"
    language: Language | None = None

    def fill(self, values: Mapping[str, str]) -> list[Message]:
        """The messages. What a value holds is never looked at for fields. Raises ExampleFault where a side is empty,
        KeyError for a field without a value."""
        system = filled(self.system, values)
        messages = [Message("system", system)] if system.strip() else []
        return [
            *messages,
            Message("user", filled(self.user, values)),
            Message("assistant", filled(self.assistant, values)),
        ]


def filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with every {field} replaced, in one pass; other braces stay as they are."""
    return _FIELD.sub(lambda match: values[match[1]], text)


def fields_of(text: str) -> list[str]:
    """Names of the fields in a text, each once."""
    return list(dict.fromkeys(_FIELD.findall(text)))


def drawn(
    templates: Sequence[Template],
    direction: Literal["forward", "inverted"],
    language: Language,
    fields: Sequence[str],
    count: int,
    random: Random,
) -> list[Template]:
    """`count` different templates of a direction and language whose fields are all there, or as many as there are.

    A template that shows the context comes before those that do not: a context that nobody shows would have been
    given for nothing.
    """
    known = set(fields)
    fitting = [
        template
        for template in templates
        if template.direction == direction
        and template.language in (None, language)
        and {*fields_of(template.user), *fields_of(template.assistant), *fields_of(template.system)} <= known
    ]
    if "context" in known:
        fitting = [template for template in fitting if "context" in fields_of(template.user)] or fitting
    return random.sample(fitting, min(count, len(fitting)))


_Wordings = Mapping[str, str]
_FORWARD: Mapping[Language, _Wordings] = {
    "en": {
        "ask": "{question}",
        "ask-please": "Please answer the following question.\n\n{question}",
        "ask-know": "I would like to know: {question}",
        "context-first": "{context}\n\n{question}",
        "context-text": "Read the text and answer the question.\n\nText: {context}\n\nQuestion: {question}",
        "context-last": "{question}\n\nUse this text:\n{context}",
    },
    "zh": {
        "ask": "{question}",
        "ask-please": "请回答下面的问题。\n\n{question}",
        "ask-know": "我想知道：{question}",
        "context-first": "{context}\n\n{question}",
        "context-text": "阅读文本，回答问题。\n\n文本：{context}\n\n问题：{question}",
        "context-last": "{question}\n\n请参考这段文本：\n{context}",
    },
}
_INVERTED: Mapping[Language, _Wordings] = {
    "en": {
        "invert-write": "Write a question that this text answers.\n\n{answer}",
        "invert-which": "{answer}\n\nWhich question is answered here?",
        "invert-quiz": "I am preparing a quiz. Give me a question whose answer is:\n\n{answer}",
        "invert-context": "Text: {context}\n\nAnswer: {answer}\n\nWrite the question that has this answer in the text.",
        "invert-ask": "{context}\n\nWhat could somebody have asked about this text to be told: {answer}",
    },
    "zh": {
        "invert-write": "请写出一个可以用下面这段话回答的问题。\n\n{answer}",
        "invert-which": "{answer}\n\n这段话回答了什么问题？",
        "invert-quiz": "我在准备一份测验。请出一道题，答案是：\n\n{answer}",
        "invert-context": "文本：{context}\n\n答案：{answer}\n\n请根据文本写出与这个答案对应的问题。",
        "invert-ask": "{context}\n\n关于这段文本，问什么问题会得到这样的回答：{answer}",
    },
}
OWN: tuple[Template, ...] = (
    *(
        Template(f"{name}-{language}", user, "{answer}", language=language)
        for language, wordings in _FORWARD.items()
        for name, user in wordings.items()
    ),
    *(
        Template(f"{name}-{language}", user, "{question}", direction="inverted", language=language)
        for language, wordings in _INVERTED.items()
        for name, user in wordings.items()
    ),
)
