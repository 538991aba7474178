"""The likeliest option is found as lm-evaluation-harness finds it; what is no question is named with its line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import WINDOW, byte_tokenizer, llama, plain_logprobs, save

from eval.choices import Choice, ChoicesPart, joined, prompt_of, read_choices
from eval.models.language_models import load_language_model
from eval.models.likelihood import TransformersModel
from eval.runs.parts import PartFolder, Record, Tools
from retrieval.errors import ReadingError, UsageError


class LetterModel:
    """A token is a character; each costs 1 nat, but 'e' half a nat, and 'z' 3 nats where the text has a '?' before."""

    name, hash, window, bos, opens, batch_tokens = "letters", "0" * 64, 60, None, False, 1000
    facts = {"precision": "fp32"}

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def logprobs(self, batch: Sequence[Sequence[int]], *, since: Sequence[int] | None = None) -> list[np.ndarray]:
        rows = []
        for row, ids in enumerate(batch):
            cost = [0.5 if chr(id_) == "e" else 1.0 for id_ in ids]
            cost = [3.0 if chr(id_) == "z" and ord("?") in ids[:at] else cost[at] for at, id_ in enumerate(ids)]
            found = -np.array(cost)
            found[: since[row] if since else 1] = np.nan
            rows.append(found)
        return rows

    branches = logprobs

    def close(self) -> None:
        """Nothing is held."""


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def measured(part: ChoicesPart, model: Any, folder: Path) -> tuple[dict[str, Record], dict[str, Any]]:
    to = PartFolder(folder)
    prepared = part.prepare(Tools(cache=folder / "cache", language_model=lambda name: model))
    extras = prepared.run(to, lambda *step: None)
    assert prepared.items == len(to.all())
    return to.done(), dict(extras)


def test_scores_are_those_one_can_count_by_hand(tmp_path: Path) -> None:
    file = lines(
        tmp_path / "q.jsonl",
        {"id": "a", "question": "Which?", "choices": ["ab", "eeee", "eeeeee"], "answer": "eeee", "context_id": "c"},
        {"id": "b", "question": "Which?", "choices": ["zz", "aaaa", "ab"], "answer": 0},
    )
    records, extras = measured(ChoicesPart(questions=file, pmi=True), LetterModel(), tmp_path / "run")
    # With the space before it: 1 + 2·1, 1 + 4·½, 1 + 6·½.
    assert records["a"]["scores"] == [-3.0, -3.0, -4.0] and records["a"]["cluster"] == "c"
    # By sum the first of the two best; by byte −1.5, −.75, −.667.
    assert records["a"]["predictions"] == {
        "choice_accuracy": "ab",
        "choice_accuracy_norm": "eeeeee",
        "choice_accuracy_pmi": "ab",
    }
    assert records["a"]["metrics"]["choice_accuracy"] == 0.0 and records["a"]["expected"] == "eeee"
    # "zz" costs 7 after a question and 3 without one: −4 by PMI, where the others gain nothing.
    assert records["b"]["scores"] == [-7.0, -5.0, -3.0]
    assert records["b"]["metrics"] == {"choice_accuracy": 0.0, "choice_accuracy_norm": 0.0, "choice_accuracy_pmi": 0.0}
    assert extras["chance"] == pytest.approx(1 / 3)
    assert extras["prompt"] == "Question: Which?\nAnswer:"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = byte_tokenizer(opens=True)
    return load_language_model(str(save(folder, llama(tokenizer), tokenizer)), cache=folder)


def test_scores_of_a_real_model_are_the_harness_definition(model: TransformersModel, tmp_path: Path) -> None:
    """Sum of ln P of the tokens after as many as the prompt has alone, the prompt opened with BOS as Llama's are."""
    rows = [
        {"id": 1, "question": "The cat sat?", "choices": [" on the mat", "the log", "dog"], "answer": "B"},
        {"id": 2, "question": "绿茶发酵吗？", "choices": ["不经过", "是", "应该在八十度"], "answer": "不经过"},
    ]
    records, _ = measured(ChoicesPart(questions=lines(tmp_path / "q.jsonl", *rows)), model, tmp_path / "run")
    for row, prompt, space in (
        (rows[0], "Question: The cat sat?\nAnswer:", " "),
        (rows[1], "问题：绿茶发酵吗？\n答案：", ""),
    ):
        before = len(model.encode(prompt))
        expected = []
        for option in row["choices"]:  # type: ignore[attr-defined]
            ids = model.encode(prompt + space + option.strip())
            expected.append(sum(plain_logprobs(model._model, [0, *ids])[before:]))
        record = records[str(row["id"])]
        assert record["scores"] == pytest.approx(expected, abs=1e-4)
        assert record["predicted"] == record["options"][int(np.argmax(expected))]
    assert records["1"]["expected"] == "the log"


def test_a_prompt_too_long_loses_its_beginning_and_says_so(model: TransformersModel, tmp_path: Path) -> None:
    row = {"id": 1, "question": "Is it so?", "contexts": ["the cat sat on the mat. "] * 20, "answer": "Yes"}
    records, extras = measured(ChoicesPart(questions=lines(tmp_path / "q.jsonl", row)), model, tmp_path / "run")
    record = records["1"]
    ids = model.encode(joined(prompt_of(read_choices(tmp_path / "q.jsonl")[0]), "yes"))
    assert record["cut_tokens"] >= len(ids) + 1 - WINDOW > 0
    assert np.isfinite(record["scores"]).all() and "lost their beginning" in extras["warnings"][0]


def test_an_option_longer_than_the_window_fails_alone(tmp_path: Path) -> None:
    file = lines(
        tmp_path / "q.jsonl",
        {"id": "a", "question": "Which?", "choices": ["x" * 80, "b"], "answer": 1},
        {"id": "b", "question": "Which?", "choices": ["ee", "b"], "answer": 0},
    )
    records, _ = measured(ChoicesPart(questions=file), LetterModel(), tmp_path / "run")
    assert list(records) == ["b"]
    assert "81 tokens does not fit" in PartFolder(tmp_path / "run").all()["a"]["error"]


def test_pubmedqa_has_its_options_from_its_answers(tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "question": f"Is {n}?", "contexts": ["One.", "Two."], "answers": [answer], "context_id": "x"}
        for n, answer in enumerate(["yes", "no", "maybe", "yes"])
    ]
    questions = read_choices(lines(tmp_path / "q.jsonl", *rows))
    assert [question.answer for question in questions] == [0, 1, 2, 0]
    assert {question.options for question in questions} == {("yes", "no", "maybe")}
    assert prompt_of(questions[0]) == "One.\nTwo.\n\nQuestion: Is 0?\nAnswer:" and questions[0].source == "x"
    assert read_choices(lines(tmp_path / "two.jsonl", *rows[:2]))[0].options == ("yes", "no")
    _, extras = measured(ChoicesPart(questions=tmp_path / "q.jsonl"), LetterModel(), tmp_path / "run")
    # "yes" costs 3½, "no" 3, "maybe" 5½ nats: always "no".
    assert extras["confusion"] == {"maybe": {"no": 1}, "no": {"no": 1}, "yes": {"no": 2}}
    assert extras["always"] == {"answer": "yes", "accuracy": 0.5}


def test_answers_may_be_numbers_texts_labels_or_letters(tmp_path: Path) -> None:
    base = {"question": "Which?"}
    rows = [
        base | {"id": 1, "choices": ["x", "y"], "answer": 1},
        base | {"id": 2, "choices": ["x", "y"], "answer": "y"},
        base | {"id": 3, "choices": ["x", "y"], "answer": "b"},
        base | {"id": 4, "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
        base | {"id": 5, "options": ["2", "1"], "answer": "1"},
    ]
    assert [question.answer for question in read_choices(lines(tmp_path / "q.jsonl", *rows))] == [1] * 5


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"choices": ["a", "b"], "answer": 0}, "line 2: has no question; it has id, choices, answer"),
        ({"question": "Q?", "choices": ["a", "b"], "answer": 2}, "line 2: the answer is number 2"),
        ({"question": "Q?", "choices": ["a", "b"], "answer": "c"}, "line 2: the answer 'c' is none of"),
        ({"question": "Q?", "choices": ["a", "a"], "answer": 0}, "line 2: needs two different choices"),
        ({"question": "Q?", "choices": ["a"], "answer": 0}, "line 2: needs two different choices"),
        ({"question": "Q?", "choices": ["a", " "], "answer": 0}, "line 2: its choices must be a list of texts"),
        ({"question": "Q?", "choices": "ab", "answer": 0}, "line 2: its choices must be a list of texts"),
        ({"question": "Q?", "answer": "perhaps"}, "line 2: has neither choices nor an answer that is yes"),
        ({"question": "Q?", "choices": ["a", "b"], "answer": 0, "context": 5}, "line 2: its context is a int"),
        ({"question": "Q?", "choices": ["a", "b"], "answer": 0, "id": "one"}, "line 2: the id 'one' was there"),
    ],
)
def test_what_is_no_question_is_named_with_its_line(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    first = {"id": "one", "question": "Q?", "choices": ["a", "b"], "answer": 0}
    with pytest.raises(ReadingError, match=said.replace("?", r"\?")):
        read_choices(lines(tmp_path / "q.jsonl", first, {"id": "two"} | row))


def test_what_is_wrong_is_found_before_any_model_loads(tmp_path: Path) -> None:
    tools = Tools(cache=tmp_path)
    with pytest.raises(UsageError, match="no file"):
        ChoicesPart(questions=tmp_path / "gone.jsonl").prepare(tools)
    with pytest.raises(ReadingError, match="no question"):
        ChoicesPart(questions=lines(tmp_path / "empty.jsonl")).prepare(tools)
    with pytest.raises(UsageError, match="needs {question}"):
        ChoicesPart(questions=tmp_path, template="Answer:")
    with pytest.raises(UsageError, match="limit is at least 1"):
        ChoicesPart(questions=tmp_path, limit=0)


def test_a_template_is_filled_once(tmp_path: Path) -> None:
    choice = Choice("1", "Why {context}?", "see {question}", ("a", "b"), 0)
    assert prompt_of(choice, "{context} | {question}:") == "see {question} | Why {context}?:"
    bare = Choice("1", "Why?", "", ("a", "b"), 0)
    assert prompt_of(bare, "{context}\n\nQ: {question}") == "Q: Why?"
    assert joined("A:", "yes") == "A: yes" and joined("答案：", "是") == "答案：是" and joined("A: ", "x") == "A: x"


def test_a_limit_draws_with_the_seed(tmp_path: Path) -> None:
    rows = [{"id": n, "question": "Which?", "choices": ["ee", "b"], "answer": n % 2} for n in range(50)]
    file = lines(tmp_path / "q.jsonl", *rows)
    drawn = [
        sorted(measured(ChoicesPart(questions=file, limit=8, seed=seed), LetterModel(), tmp_path / name)[0])
        for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    ]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 8
