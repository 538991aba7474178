"""Self-Instruct with a scripted model: what is shown, what is kept and why the rest is not; a stopped run goes on."""

import json
from pathlib import Path

import pytest
from scripted_chat import ScriptedChat, said

from adapt.instructions.writing.kept import KeptWriter
from adapt.instructions.writing.rules import REASONS
from adapt.instructions.writing.self_instruct import (
    INSTANCES,
    INSTRUCTIONS,
    KINDS,
    SelfInstruct,
    first_prompt,
    self_instruct,
)
from adapt.instructions.writing.task_prompts import read_instances, read_kind, read_new_tasks
from adapt.instructions.writing.tasks import Task
from adapt.instructions.writing.writer import EngineWriter, Wanted, Writer, Written
from adapt.instructions.writing.yields import Yields
from app.engines.embedded import load_embedded
from retrieval.errors import UsageError

SEEDS = [
    Task("Name three uses of old newspapers.", "", "Packing, cleaning windows and lighting fires.", False),
    Task("Turn the sentence into a question.", "The shop opens at nine.", "Does the shop open at nine?", False),
    Task("Explain photosynthesis to a child.", "", "Plants eat light and drink water to grow.", False),
    Task("Suggest a title for the story.", "A fox learns to share.", "The Generous Fox", False),
    Task("Is the sentence passive? yes or no", "The cake was eaten.", "yes", True),
    Task("Tell whether the number is even or odd.", "14", "even", True),
    Task("What should I pack for a week of hiking?", "", "Boots, a tent, a map and food.", False),
    Task("Correct the spelling of the text.", "I recieve mail.", "I receive mail.", False),
]
NEW = [
    "Compare two kinds of renewable energy and say which suits a windy coast.",
    "Classify the customer's message as a complaint, a question or praise.",
    "Name three uses of very old newspapers.",  # near a seed
    "Draw a picture of a quiet lake.",  # needs eyes
    "Compose a limerick about a forgetful librarian.",
    "Sing.",
    "Summarise the minutes of a meeting in two sentences.",
    "Explain how a bill becomes a law in plain words.",
]
ANSWERS = {
    "Compare": "Input: none\nOutput: Wind turbines suit a windy coast better than solar panels do.",
    "Classify": "Label: praise\nInput: The staff could not have been kinder!\n\nLabel: complaint\nInput: It came late.",
    "Compose": "Input: none\nOutput: I'm sorry, but I cannot write limericks.",
    "Summarise": "Input: The committee met on Monday. It approved the budget and put off the vote on parking.\n"
    "Output: The committee approved the budget. The vote on parking was put off.",
    "Explain how": "It begins in parliament.",  # not in the form asked for
}


def model(wanted: Wanted) -> str:
    """One list of new tasks, the same every time, and an answer by its first word."""
    system, last = wanted.messages[0].text, wanted.messages[-1].text
    if system.startswith("You write tasks"):
        return "Sure!\n" + "\n".join(f"Task {n}: {text}" for n, text in enumerate(NEW, 9))
    if system.startswith("You sort tasks"):
        return "Yes." if "Classify" in last else ("Perhaps" if "Summarise" in last else "No")
    return next(answer for word, answer in ANSWERS.items() if last.startswith(word))


def run(writer: Writer, yields: Yields | None = None, **settings: object) -> list[dict[str, object]]:
    chosen = SelfInstruct(**{"count": 3, "patience": 1, **settings})  # type: ignore[arg-type]
    made = self_instruct(SEEDS, writer, chosen, yields or Yields(), lambda *_: None, source="seeds.jsonl")
    return [example.as_json() for example in made]


def test_examples_come_with_their_origin_and_everything_else_with_a_reason() -> None:
    yields = Yields()
    made = run(ScriptedChat(model), yields, count=8)
    assert [row["messages"][0]["content"].split()[0] for row in made] == ["Compare", "Classify", "Summarise"]  # type: ignore[index]
    assert made[0]["origin"] == {"kind": "self-instruct", "source": "seeds.jsonl", "by": "scripted"}
    assert [row["labels"]["classification"] for row in made] == [False, True, False]  # type: ignore[index]
    question, label = (message["content"] for message in made[1]["messages"])  # type: ignore[attr-defined]
    assert (question.rpartition("\n\n")[2], label) in {
        ("The staff could not have been kinder!", "praise"),
        ("It came late.", "complaint"),
    }
    assert made[0]["messages"][0]["content"] == NEW[0]  # type: ignore[index]  # "none" is no input
    first = yields.of(INSTRUCTIONS)
    # The second prompt gets the same list again: its five good ones are near themselves now.
    assert (first.requests, first.candidates, first.kept) == (2, 16, 5)
    assert first.rejected.counts == {"near": 2 + 5, "word": 2, "too-short": 2}
    assert "ROUGE-L 0.92 to: Name three uses of old newspapers." in first.rejected.examples["near"][0]
    assert yields.of(KINDS).noted.counts == {"unreadable": 1} and yields.of(KINDS).kept == 4
    instances = yields.of(INSTANCES)
    assert (instances.candidates, instances.kept) == (5, 3)
    assert instances.rejected.counts == {"sorry": 1, "unreadable": 1}
    for stage in yields.stages.values():
        assert set(stage.rejected.counts) <= set(REASONS)
        assert stage.kept + stage.rejected.total + stage.noted.total == stage.candidates
    json.dumps(yields.as_json(), allow_nan=False)


def test_a_prompt_shows_eight_tasks_two_of_them_by_the_model_as_soon_as_there_are_some() -> None:
    chat = ScriptedChat(model)
    run(chat, count=8, patience=2)
    prompts = [said(one) for one in chat.asked if "You write tasks" in said(one)]
    of_people = [task.instruction for task in SEEDS]
    assert [sum(text in prompt for text in of_people) for prompt in prompts] == [8, 6, 6]
    # Only what became an example is shown again.
    assert [sum(NEW[place] in prompt for place in (0, 1, 6)) for prompt in prompts] == [0, 2, 2]
    assert "Here are 8 tasks" in prompts[1] and "Task 9 to Task 16" in prompts[1]
    assert prompts[1] != prompts[2]


def test_a_classification_is_written_label_first_and_shown_others_of_its_kind() -> None:
    chat = ScriptedChat(model)
    run(chat)
    classify = next(one for one in chat.asked if one.messages[-1].text == NEW[1] and len(one.messages) > 2)
    shown = [message.text for message in classify.messages if message.role == "assistant"]
    assert sorted(shown) == ["Label: even\nInput: 14", "Label: yes\nInput: The cake was eaten."]
    compare = next(one for one in chat.asked if one.messages[-1].text == NEW[0] and len(one.messages) > 2)
    assert all(m.text.startswith("Input: ") for m in compare.messages if m.role == "assistant")
    assert compare.temperature == 0


def test_no_more_is_asked_than_is_wanted() -> None:
    chat = ScriptedChat(model)
    assert len(run(chat, count=1)) == 1
    assert len(chat.asked) == 3  # a list, a kind, an instance


def test_a_stopped_run_goes_on_where_it_was_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = run(ScriptedChat(model), count=8, patience=3)
    stopped = 0
    for _ in range(40):
        left = [1, 2]

        def two_replies(wanted: Wanted, left: list[int] = left) -> str:
            if not left:
                raise KeyboardInterrupt
            left.pop()
            return model(wanted)

        try:
            with KeptWriter(ScriptedChat(two_replies), tmp_path) as writer:
                made = run(writer, count=8, patience=3)
            break
        except KeyboardInterrupt:
            stopped += 1
    assert made == whole and stopped >= 5


def test_another_seed_draws_other_prompts_and_the_same_seed_the_same() -> None:
    texts = [said(first_prompt(SEEDS, SelfInstruct(seed=seed, of_people=3, of_model=0))) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Written("", "failed", 0, "the prompt is too long"), "engine"),
        (Written("Input: none\nOutput: and so and so and", "repetition"), "circles"),
        (Written("Input: none\nOutput: It begins in", "length"), "cut-off"),
        ("Input: none\nOutput:", "empty"),
        ("Input: a b\nOutput: A B", "echo"),
        ("Input: none\nOutput: [your answer]", "placeholder"),
        ("Input: none\nOutput: Plants eat light and drink water to grow.", "copied"),
        ("Input: The shop opens at nine.\nOutput: It opens at nine sharp.", "copied"),
        ("\x00\ufffd?!", "unreadable"),
        ("Input: none\nOutput: " + "\ufffd\ufffd x" * 30, "garbled"),
    ],
)
def test_a_bad_instance_is_rejected_by_name(reply: str | Written, reason: str) -> None:
    def script(wanted: Wanted) -> str | Written:
        system = wanted.messages[0].text
        if system.startswith("You write tasks"):
            return "Task 9: Explain how a bill becomes a law."
        return "No" if system.startswith("You sort tasks") else reply

    yields = Yields()
    seeds = [SEEDS[place] for place in (1, 2, 4, 5)]
    settings = SelfInstruct(count=1, patience=1)
    assert not self_instruct(seeds, ScriptedChat(script), settings, yields, lambda *_: None, source="")
    assert yields.of(INSTANCES).rejected.counts == {reason: 1}


def test_a_model_of_garbage_ends_after_its_patience_with_all_of_it_counted() -> None:
    chat = ScriptedChat(lambda wanted: Written("the the the\n\n{{{ Task", "length"))
    yields = Yields()
    assert run(chat, yields, count=50, patience=20) == []
    stage = yields.of(INSTRUCTIONS)
    assert stage.requests == 20 and stage.kept == 0 and stage.rejected.counts == {"unreadable": stage.requests}


def test_chinese_seeds_give_chinese_prompts_and_tasks() -> None:
    seeds = [
        Task("把句子翻译成英文。", "今天下雨。", "It is raining today.", False),
        Task("写出三种可再生能源。", "", "风能、太阳能和水能。", False),
        Task("判断句子的情感是正面还是负面。", "服务太慢了。", "负面", True),
        Task("解释什么是通货膨胀。", "", "物价普遍上涨，钱的购买力下降。", False),
    ]

    def script(wanted: Wanted) -> str:
        system, last = wanted.messages[0].text, wanted.messages[-1].text
        if system.startswith("你为"):
            return (
                "任务5：写一首关于秋天落叶的短诗。\n任务6：画一幅山水画并说明含义\n任务7：写出三种不可再生能源。\n"
                "任务8：List all rivers of Europe.\n任务9：判断新闻标题属于体育还是财经。"
            )
        if system.startswith("你给任务分类"):
            return "是" if "判断" in last else "否"
        if "判断" in last:
            return "标签：财经\n输入：央行宣布下调存款准备金率"
        return "输入：无\n输出：一叶知秋意，风来满径黄。"

    yields = Yields()
    settings = SelfInstruct(count=2, patience=1)
    made = self_instruct(seeds, ScriptedChat(script), settings, yields, lambda *_: None, source="")
    assert [example.messages[0].content for example in made] == [
        "写一首关于秋天落叶的短诗。",
        "判断新闻标题属于体育还是财经。\n\n央行宣布下调存款准备金率",
    ]
    assert yields.of(INSTRUCTIONS).rejected.counts == {"word": 1, "near": 1, "language": 1}


def test_replies_are_read_in_the_forms_models_write_them() -> None:
    assert read_new_tasks("Of course:\n**Task 9:** Bake bread\nwith rye\n10. Sing\n\n11) Dance\n任务12：跳舞") == [
        "Bake bread\nwith rye", "Sing", "Dance", "跳舞",
    ]  # fmt: skip
    assert read_new_tasks("Task 1:\nBake bread.\n\nI hope these help!") == ["Bake bread."]
    assert read_new_tasks("<think>1. no</think>Task 1: yes") == ["yes"]
    assert read_new_tasks("nothing of the kind") == []
    assert [read_kind(text) for text in ("Yes, it is", " **No**", "不是", "是的", "Maybe", "")] == [
        True, False, False, True, None, None,
    ]  # fmt: skip
    assert read_instances("**Input:** N/A\n**Output:** a\nInput: b", False) == [("", "a\nInput: b")]
    assert read_instances("Output: a", False) == [("", "a")]
    assert read_instances("输入：甲\n输出：乙", False) == [("甲", "乙")]
    assert read_instances("Class label: x\nInput: i\nLabel 2: y\nInput: j", True) == [("i", "x"), ("j", "y")]
    assert read_instances("Input: i\nOutput: x", True) == []


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"near": 0.0}, {"near": 1.2}, {"language": "fr"}, {"temperature": 3.0}, {"max_tokens": 2}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        SelfInstruct(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_packaged_model_writes_what_it_can_and_its_yield_is_told(tmp_path: Path, embedded_cache: Path) -> None:
    """135 million parameters write few good tasks; what counts is that whatever they write is survived and counted."""
    llm = load_embedded(None, cache=embedded_cache)
    try:
        yields = Yields()
        settings = SelfInstruct(count=1, patience=1, more=4, max_tokens=120)
        with KeptWriter(EngineWriter(llm), tmp_path / "kept") as writer:
            made = self_instruct(SEEDS, writer, settings, yields, lambda *_: None, source="seeds")
            assert writer.asked == sum(stage.requests for stage in yields.stages.values()) > 0
        for stage in yields.stages.values():
            assert stage.kept + stage.rejected.total + stage.noted.total == stage.candidates
        assert len(made) == yields.of(INSTANCES).kept
    finally:
        llm.close()
