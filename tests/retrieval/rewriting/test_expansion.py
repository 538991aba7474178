"""Short and long forms that passages define, English and Chinese, and questions in their other form."""

import time

import pytest

from retrieval.rewriting.expansion import forms_in, in_other_form, other_forms, short_forms

TEXTS = [
    "We study Query Rewriting (QR) in depth, with the Open Data Initiative (ODI).",
    "parameter-efficient fine-tuning (PEFT) and RRF (reciprocal rank fusion) join lists.",
    "The World Health Organization (WHO) said so. See the table (in Chapter 4) and it (IT).",
    "检索增强生成（RAG）是一种方法。",
    "我们使用检索增强生成（RAG）来回答。模型的领域自适应预训练（DAPT）。",
    "北京大学（简称北大）成立于1898年。大语言模型（Large Language Model，LLM）很有用。",
]


def test_long_forms_are_those_whose_letters_make_the_short_one() -> None:
    found = dict(forms_in(TEXTS[:3]))
    assert found == {
        "QR": "Query Rewriting",
        "ODI": "Open Data Initiative",
        "PEFT": "parameter-efficient fine-tuning",
        "RRF": "reciprocal rank fusion",
        "WHO": "World Health Organization",
    }


def test_chinese_names_end_at_the_bracket_and_begin_after_what_leads_to_them() -> None:
    found = forms_in(TEXTS[3:])
    assert found[0] == ("RAG", "检索增强生成")  # defined twice
    assert {
        ("DAPT", "领域自适应预训练"),
        ("北大", "北京大学"),
        ("LLM", "Large Language Model"),
        ("LLM", "大语言模型"),
    } < set(found)


@pytest.mark.parametrize(
    ("question", "other"),
    [
        ("What is QR?", "What is Query Rewriting?"),
        ("what is peft good for", "what is parameter-efficient fine-tuning good for"),
        ("How does reciprocal-rank fusion work?", "How does RRF work?"),
        ("RAG 是什么", "检索增强生成 是什么"),
        ("北大在哪里", "北京大学在哪里"),
        ("大语言模型怎么训练", "LLM怎么训练"),
        ("who is he?", "who is he?"),
        ("Is QR (query rewriting) any good?", "Is QR (query rewriting) any good?"),
        ("How are tides made?", "How are tides made?"),
    ],
)
def test_a_question_is_put_into_its_other_form_where_it_has_one(question: str, other: str) -> None:
    assert in_other_form(question, other_forms(question, TEXTS)) == other


def test_words_spelled_like_short_forms_are_seen() -> None:
    assert short_forms("Does BM25 beat QLoRA, or is MiniLM (RAG) better than A?") == ["BM25", "QLoRA", "MiniLM"]
    assert short_forms("what is rag") == []


def test_hostile_passages_take_no_time() -> None:
    texts = [
        "(" * 4000,
        "A" * 4000 + "(AB)",
        "a " * 2000 + "(AB)",
        "中" * 4000 + "（",
        "ab (c " * 700,
        "of " * 1300 + "(OF)",
    ]
    began = time.process_time()
    forms_in(texts * 10)
    assert time.process_time() - began < 5.0  # a pattern that goes back over itself would take minutes
