"""Reading tasks: exercises that the text itself gives, texts that lose nothing, the same whenever they are made."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.corpus import prose
from adapt.corpus.exercises import KINDS, Exercise, document, exercises
from adapt.corpus.reading_tasks import transform
from adapt.corpus.texts import TrainingText
from adapt.recipe import Reading

HANDBOOK = Path(__file__).parents[3] / "data" / "handbook" / "documents"


def asked(text: str, kind: str) -> list[Exercise]:
    """Every exercise of a kind that some draw makes of a text."""
    tongue = prose.language(text)
    found = {
        exercise
        for seed in range(30)
        for exercise in exercises(prose.sentences(text, tongue), document(text, tongue), 9, random.Random(seed))
        if exercise.kind == kind
    }
    return sorted(found, key=lambda exercise: (exercise.question, exercise.answer))


def qa(text: str, kind: str) -> set[tuple[str, str]]:
    return {(exercise.question, exercise.answer) for exercise in asked(text, kind)}


def handbook() -> list[TrainingText]:
    return [
        TrainingText(file.name, text := file.read_text("utf-8"), text.partition("\n")[0].lstrip("# "))
        for file in sorted(HANDBOOK.rglob("*.md"))
    ]


# --- what is mined ----------------------------------------------------------------------------------------------------


def test_a_definition_answers_what_something_is() -> None:
    text = "A reward model is a language model with a scalar head that scores an answer."
    assert qa(text, "definition") == {
        ("What is a reward model?", text),
        ("Explain in a sentence what a reward model is.", text),
    }
    text = "检索评测是指在已知哪些段落相关的一组问题上度量系统找回了多少段落。"
    assert ("什么是检索评测？", text) in qa(text, "definition")


@pytest.mark.parametrize(
    "text",
    [
        "This proposal is a small step towards a language that everybody can read.",
        "The result is a number between zero and one that nobody can interpret.",
        "Ben Finney is the author of the earlier enumeration proposal in this series.",
        "There are a number of reasons for which this could not be done any earlier.",
        "Adding a keyword is a larger change than adding a function to the library.",
        "这是一种把文档切成段落片段的办法，常用于检索。",
    ],
)
def test_what_only_looks_like_a_definition_is_none(text: str) -> None:
    assert asked(text, "definition") == []


def test_a_connective_tells_how_a_sentence_relates_to_the_one_before() -> None:
    one, other = "The cache keeps the newest entries in memory.", "It forgets them after a restart of the server."
    found = qa(f"{one} However, it forgets them after a restart of the server.", "relation")
    assert found and all(one in question and other in question for question, _ in found)
    assert {answer for _, answer in found} == {"A contrast.", "The second statement is a contrast to the first."}
    assert {
        answer
        for _, answer in qa(
            "秩越高，可训练的参数就越多，显存占用也越大。因此秩不应取得比任务需要的更高。", "consequence"
        )
    } == {"秩不应取得比任务需要的更高。"}
    assert qa("秩越高，可训练的参数就越多，显存占用也越大。换句话说，秩决定了适配器的大小和成本。", "paraphrase") == {
        ("换一种说法表达这句话：秩越高，可训练的参数就越多，显存占用也越大。", "秩决定了适配器的大小和成本。"),
        ("秩越高，可训练的参数就越多，显存占用也越大。这句话还可以怎么说？", "秩决定了适配器的大小和成本。"),
    }


def test_sentences_of_two_paragraphs_are_not_related() -> None:
    text = "The cache keeps the newest entries in memory.\n\nHowever, it forgets them after a restart of the server."
    assert asked(text, "relation") == []


def test_a_reason_is_asked_for_unless_it_may_not_be_the_reason() -> None:
    text = "The project name is required at creation because permissions are tied to ownership."
    assert qa(text, "cause") == {
        ("What is the reason for this? The project name is required at creation.",
         "Because permissions are tied to ownership."),
        ("The project name is required at creation. Why?", "Because permissions are tied to ownership."),
    }  # fmt: skip
    assert asked(text.replace("is required", "is not required"), "cause") == []
    assert ("这是为什么？片段不应跨越标题。", "因为标题两侧讲的是不同的内容。") in qa(
        "片段不应跨越标题，因为标题两侧讲的是不同的内容。", "cause"
    )
    assert ("这是为什么？高秩适配器的梯度会变小。", "因为缩放系数随着秩的增大而减小。") in qa(
        "由于缩放系数随着秩的增大而减小，所以高秩适配器的梯度会变小。", "cause"
    )


def test_a_gap_is_a_key_word_of_the_document_that_stands_once_in_the_sentence() -> None:
    text = "Every adapter belongs to one base model. An adapter never moves. Nobody changes the adapter of a server."
    found = asked(text, "gap")
    assert found and {exercise.answer for exercise in found} == {"adapter"}
    assert all(exercise.question.count("____") == 1 and "adapter" not in exercise.question for exercise in found)


def test_code_tables_lists_and_broken_sentences_are_not_asked_about() -> None:
    text = """Heading of the page
===================

```python
Adapters are a kind of layer because the weights of the base stay frozen here.
```

Example::

    Adapters are a kind of layer because the weights of the base stay frozen here.

| Adapters are a kind of layer because the weights of the base stay frozen. |

- Adapters are a kind of layer because the weights of the base stay frozen here.

See https://example.org for the reason why the weights of the base stay frozen here.

and this begins in the middle of a sentence because the weights stay frozen here.
"""
    assert prose.sentences(text, "en") == []


def test_markup_and_line_breaks_are_gone_from_what_is_asked() -> None:
    english = "The ``tokenizer`` of :pep:`512` keeps *every* byte of\nthe [text](a.md) as it was written [#note]_."
    assert [sentence.text for sentence in prose.sentences(english, "en")] == [
        "The tokenizer of PEP 512 keeps every byte of the text as it was written."
    ]
    chinese = "适配器冻结模型**原有权重**，只训练两个\n小矩阵，用它们的乘积表示改变量。"
    assert [sentence.text for sentence in prose.sentences(chinese, "zh")] == [
        "适配器冻结模型原有权重，只训练两个小矩阵，用它们的乘积表示改变量。"
    ]


# --- documents --------------------------------------------------------------------------------------------------------


def test_the_handbook_gives_exercises_in_both_languages() -> None:
    for chinese in (False, True):
        texts = [text for text in handbook() if text.id.isascii() is not chinese]
        counts: Counter[str] = Counter()
        made = list(transform(texts, Reading(share=1.0, tasks=("comprehension",)), 0, counts=counts))
        assert counts["transformed"] >= 0.9 * len(texts) > 0
        assert counts["exercise: gap"] and counts["exercise: keywords"] and counts["exercise: definition"]
        assert counts["characters after"] < 1.3 * counts["characters before"]
        marks = (
            ("问", "空格", "填空", "用", "什么是")
            if chinese
            else ("Question", "Q: ", "Which word", "Fill in", "What is")
        )
        assert all(any(mark in text.text for mark in marks) for text in made if text not in texts)


def words_in_order(original: str, transformed: str) -> bool:
    """Whether every word of the original stands in the transformed text, in order."""
    words = iter(transformed.split())
    return all(any(word == other for other in words) for word in original.split())


@pytest.mark.parametrize("task", ["comprehension", "title", "halves"])
def test_no_word_of_a_document_is_lost(task: str) -> None:
    for text in handbook():
        for made in transform([text], Reading(share=1.0, tasks=(task,)), 1):
            body = text.text.partition("\n")[2] if task == "title" else text.text
            assert words_in_order(body, made.text)
            assert task != "title" or (made.title == "" and text.title in made.text)


def test_exercises_do_not_stand_inside_code_or_after_a_colon() -> None:
    code = "Here is how:\n\n```\n" + "x = 1\n\n" * 400 + "```\n\n"
    story = "The cat sat on the mat. It was a fine cat with a long tail and it had sat there for years.\n\n" * 40
    for piece in prose.parts(code + story, "en"):
        assert piece.count("```") % 2 == 0
        assert not piece.rstrip().endswith(":")
    assert "".join(prose.parts(code + story, "en")) == code + story


@given(st.text(alphabet="ab猫。. \n#`=:", max_size=400))
def test_parts_put_together_are_the_text(text: str) -> None:
    for tongue in ("en", "zh"):
        assert "".join(prose.parts(text, tongue)) == text


@settings(deadline=None)
@given(st.lists(st.text(max_size=300), max_size=4), st.integers(0, 3))
def test_any_text_is_survived_and_none_disappears(texts: list[str], seed: int) -> None:
    given_texts = [TrainingText(str(n), text, text[:20]) for n, text in enumerate(texts)]
    assert [text.id for text in transform(given_texts, Reading(share=1.0), seed)] == [text.id for text in given_texts]


def test_a_share_of_the_documents_is_transformed_the_same_ones_whatever_is_beside_them() -> None:
    texts = handbook()
    counts: Counter[str] = Counter()
    half = list(transform(texts, Reading(share=0.5), 7, counts=counts))
    assert half == list(transform(texts, Reading(share=0.5), 7))
    assert 0.3 * len(texts) < counts["transformed"] < 0.7 * len(texts)
    assert list(transform(texts[10:12], Reading(share=0.5), 7)) == half[10:12]
    assert list(transform(texts, Reading(share=0.0), 7)) == texts
    assert list(transform(texts, Reading(share=0.5), 8)) != half


def test_halves_are_joined_by_the_request_to_go_on() -> None:
    text = TrainingText(
        "1", "The first paragraph of it stands here. " * 5 + "\n\n" + "The second one stands there. " * 6
    )
    (made,) = transform([text], Reading(share=1.0, tasks=("halves",)), 0)
    before, after = text.text.split("\n\n")
    assert made.text in {
        f"{before.rstrip()}\n\n{ask}\n\n{after}" for ask in ("How does the text go on?", "What comes next?")
    }


def test_a_short_document_stays_as_it_is() -> None:
    counts: Counter[str] = Counter()
    short = TrainingText("1", "A cat is a small animal.", "Cats")
    assert list(transform([short], Reading(share=1.0), 0, counts=counts)) == [short]
    assert counts["unsuitable"] == 1


@pytest.mark.slow
def test_all_peps_give_exercises_of_every_kind(shared_data: Callable[[str], Path]) -> None:
    with gzip.open(shared_data("corpus_peps/peps.jsonl.gz"), "rt", encoding="utf-8") as lines:
        texts = [TrainingText(row["id"], row["text"], row["title"]) for row in map(json.loads, lines)][:200]
    counts: Counter[str] = Counter()
    list(transform(texts, Reading(share=1.0), 0, counts=counts))
    assert all(counts[f"exercise: {kind}"] >= 5 for kind in KINDS)
    assert counts["transformed"] >= 0.95 * len(texts)
