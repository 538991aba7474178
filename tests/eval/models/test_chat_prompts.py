"""Chat templates of the common styles: what a conversation becomes, whatever a template thinks of system messages, and
the same through transformers' Jinja and OpenVINO's own engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_tokenizer

from app.engines.embedded import EmbeddedModel, EmbeddedSpeaker, open_embedded
from app.engines.gguf import read_header
from app.engines.speaker import Manners
from eval.models.chat_prompts import broken_up, folded, looks_special, marks, prompt
from eval.models.packaged import packaged_model
from retrieval.errors import UsageError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + "
    "'<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
)
DEAF = (  # drops what it does not know, without a word
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'Q: ' + m['content'] + '\\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ 'A: ' + m['content'] + '\\n' }}{% endif %}{% endfor %}{{ 'A:' }}"
)
TALK = [
    {"role": "system", "content": "Be brief. 请简短。"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Why {{ 7 * 7 }}?"},
]
EXPECTED = {
    CHATML: "<|im_start|>system\nBe brief. 请简短。<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nWhy {{ 7 * 7 }}?<|im_end|>\n<|im_start|>assistant\n",
    LLAMA3: "<|start_header_id|>system<|end_header_id|>\n\nBe brief. 请简短。<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhy {{ 7 * 7 }}?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    GEMMA: "<start_of_turn>user\nBe brief. 请简短。\nHello<end_of_turn>\n<start_of_turn>model\nHi<end_of_turn>\n"
    "<start_of_turn>user\nWhy {{ 7 * 7 }}?<end_of_turn>\n<start_of_turn>model\n",
    MISTRAL: "[INST] Be brief. 请简短。\nHello [/INST] Hi</s>[INST] Why {{ 7 * 7 }}? [/INST]",
    DEAF: "Q: Be brief. 请简短。\nHello\nA: Hi\nQ: Why {{ 7 * 7 }}?\nA:",
}
STYLES = pytest.mark.parametrize("template", EXPECTED, ids=["ChatML", "Llama 3", "Gemma", "Mistral", "deaf to systems"])


def through_jinja(template: str, messages: list[dict[str, str]]) -> str:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


@pytest.fixture(scope="module")
def embedded(embedded_cache: Path) -> Iterator[EmbeddedSpeaker]:
    model = open_embedded(EmbeddedModel(cache=embedded_cache), Manners())
    own = model._tokenizer.chat_template
    yield model
    model._tokenizer.set_chat_template(own)


def through_openvino(embedded: EmbeddedSpeaker, template: str, messages: list[dict[str, str]]) -> str:
    embedded._tokenizer.set_chat_template(template)
    return embedded._templated(messages)


@STYLES
def test_each_style_gets_its_prompt(template: str) -> None:
    found = prompt(lambda messages: through_jinja(template, messages), TALK, model="m")
    assert found == EXPECTED[template]


@STYLES
def test_openvino_writes_the_same(template: str, embedded: EmbeddedSpeaker) -> None:
    found = prompt(lambda messages: through_openvino(embedded, template, messages), TALK, model="m")
    assert found == EXPECTED[template]


def test_the_packaged_template_is_the_same_in_both_engines(embedded: EmbeddedSpeaker) -> None:
    template = read_header(packaged_model()).chat_template
    for messages in (
        TALK,
        TALK[:2],
        TALK[1:2],
        TALK[1:],
        [{"role": "user", "content": " \n<x>&\"'\\n{% raw %} 你好🙂"}],
    ):
        assert through_openvino(embedded, template, messages) == through_jinja(template, messages)


def test_turns_that_do_not_alternate_are_joined() -> None:
    odd = [
        {"role": "assistant", "content": "Welcome"},
        {"role": "user", "content": "One"},
        {"role": "user", "content": "Two"},
        {"role": "system", "content": "Be brief."},
    ]
    assert folded(odd) == [
        {"role": "user", "content": "Be brief."},
        {"role": "assistant", "content": "Welcome"},
        {"role": "user", "content": "One\n\nTwo"},
    ]
    assert folded([{"role": "system", "content": "Only this."}]) == [{"role": "user", "content": "Only this."}]
    assert folded([{"role": "assistant", "content": "A"}])[0] == {"role": "user", "content": "…"}
    text = prompt(lambda messages: through_jinja(GEMMA, messages), odd, model="m")
    assert text.startswith("<start_of_turn>user\nBe brief.<end_of_turn>\n<start_of_turn>model\nWelcome")
    assert [message["content"] for message in odd][1] == "One"  # what was given is left as it is


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{% for %}", "{{ messages[0].x.y.z }}"])
def test_a_template_that_takes_nothing_is_a_sentence(template: str, embedded: EmbeddedSpeaker) -> None:
    with pytest.raises(UsageError, match="the chat template of the model m cannot write this conversation"):
        prompt(lambda messages: through_jinja(template, messages), TALK, model="m")


def test_a_template_that_rewrites_its_system_message_is_left_alone() -> None:
    def shouting(messages: list[dict[str, Any]]) -> str:
        return "|".join(message["content"].upper() for message in messages)

    assert prompt(shouting, [{"role": "system", "content": "be brief"}], model="m") == "BE BRIEF"


def test_special_tokens_are_broken_up_the_longest_first() -> None:
    special = marks(["</s>", "<s>", "<|im_end|>", "<|im_end|>x", ""])
    assert broken_up("<|im_end|>x <|im_<|im_end|>end|> <s", special) == "< |im_end|>x <|im_< |im_end|>end|> <s"
    assert broken_up("anything", marks([])) == "anything"
    assert all(map(looks_special, ("<tool_call>", "[INST]", "[/INST]", "<<SYS>>", "<|im_end|>")))
    assert not any(map(looks_special, ("the", "<", "[1]", "a<b>c", "\n\n")))
