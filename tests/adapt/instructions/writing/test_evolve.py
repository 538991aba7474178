"""Evol-Instruct with a scripted model: what is kept round by round, and each rule of elimination by its name."""

import json
from pathlib import Path

import pytest
from scripted_chat import ScriptedChat, said

from adapt.instructions.example import Example, Message, Review
from adapt.instructions.writing.evolve import ANSWERS, EVOLVED, GAINS, Evolving, evolvable, evolve, first_prompt
from adapt.instructions.writing.evolving_prompts import STEPS, framed, read_equality, read_evolved
from adapt.instructions.writing.kept import KeptWriter
from adapt.instructions.writing.rules import REASONS
from adapt.instructions.writing.writer import Wanted, Writer, Written
from adapt.instructions.writing.yields import Yields
from retrieval.errors import UsageError

PARENT = "Explain how a heat pump works."
CHILD = "Explain how a heat pump works at minus ten degrees, and name two limits."
ANSWER = "It moves heat from the cold air outside; its power and its efficiency fall with the temperature."


def example(question: str = PARENT, answer: str = "It moves heat.", system: str = "") -> Example:
    messages = [Message("system", system)] if system else []
    return Example.of([*messages, Message("user", question), Message("assistant", answer)])


def script(
    evolved: str | Written = CHILD, verdict: str | list[str] = "Different", answer: str | Written = ANSWER
) -> ScriptedChat:
    """One that evolves, compares and answers always alike; a list of verdicts is given in turn."""
    verdicts = list(verdict) if isinstance(verdict, list) else None

    def say(wanted: Wanted) -> str | Written:
        system = wanted.messages[0].text
        if system.startswith(("You make instructions", "You invent instructions")):
            return evolved
        if system.startswith("You compare"):
            return verdicts.pop(0) if verdicts is not None else str(verdict)
        return answer

    return ScriptedChat(say)


def run(
    writer: Writer, yields: Yields | None = None, examples: list[Example] | None = None, **settings: object
) -> list[Example]:
    yields = yields or Yields()
    chosen = Evolving(**{"rounds": 1, **settings})  # type: ignore[arg-type]
    return evolve(evolvable(examples or [example()], yields), writer, chosen, yields, lambda *_: None)


def test_an_evolved_example_says_where_it_comes_from_and_how() -> None:
    parent = example(system="Be exact.")
    chat = script()
    (made,) = run(chat, examples=[parent], steps=("constraints",))
    assert [message.content for message in made.messages] == ["Be exact.", CHILD, ANSWER]
    assert made.origin and (made.origin.kind, made.origin.source, made.origin.by) == ("evolved", parent.id, "scripted")
    assert made.labels == {"step": "constraints", "round": 1}
    assert "Add one more constraint" in said(chat.asked[0]) and PARENT in said(chat.asked[0])
    assert [message.text for message in chat.asked[-1].messages] == ["Be exact.", CHILD]


def test_each_round_evolves_what_the_last_one_made_and_tries_again_where_it_failed() -> None:
    def say(wanted: Wanted) -> str:
        system, last = wanted.messages[0].text, wanted.messages[-1].text
        if system.startswith(("You make", "You invent")):
            if "volcano" in last:
                return "Describe a volcano in summer."  # always what it was
            number = last.count("Consider")
            return last.partition("<instruction>\n")[2].partition("\n</")[0] + f" Consider aspect number {number} too."
        return "Different" if system.startswith("You compare") else ANSWER

    yields = Yields()
    made = run(ScriptedChat(say), yields, [example(), example("Describe a volcano in summer.")], rounds=3)
    assert [(row.labels["round"], row.messages[0].content.count("Consider")) for row in made] == [
        (1, 1),
        (2, 2),
        (3, 3),
    ]
    assert yields.of(EVOLVED).candidates == 6 and yields.of(EVOLVED).rejected.counts == {"no-gain": 3}


@pytest.mark.parametrize(
    ("evolved", "reason"),
    [
        (PARENT.lower() + " ", "no-gain"),
        ("#Rewritten Prompt#: Explain how a heat pump works in winter.", "prompt-words"),
        ("The given prompt asks how a heat pump works; make it harder.", "prompt-words"),
        ("Here is the rewritten instruction: explain heat pumps in detail.", "prompt-words"),
        ("说明热泵在零下十度时如何工作。", "language"),
        ("", "empty"),
        ("Explain it.", "too-short"),
        (CHILD + " And" * 3 + " name more of them in turn:" + " ".join(f" item{n}" for n in range(150)), "too-long"),
        (Written("Explain how a heat pump works and", "length"), "cut-off"),
        (Written("Explain pumps pumps pumps pumps", "repetition"), "circles"),
        (Written("", "failed", 0, "timed out"), "engine"),
    ],
)
def test_an_instruction_that_did_not_become_a_better_one_is_eliminated(evolved: str | Written, reason: str) -> None:
    yields = Yields()
    assert run(script(evolved), yields) == []
    assert yields.of(EVOLVED).rejected.counts == {reason: 1} and reason in REASONS


@pytest.mark.parametrize(
    ("verdict", "kept", "reason", "requests"),
    [
        (["Different"], 1, None, 1),
        (["Equal."], 0, "no-gain", 1),
        (["Hm, let me think", "Different"], 1, None, 2),
        (["Hm", "What?"], 0, "unreadable-verdict", 2),
    ],
)
def test_what_gained_nothing_goes_and_unreadable_verdicts_are_counted(
    verdict: list[str], kept: int, reason: str | None, requests: int
) -> None:
    yields = Yields()
    assert len(run(script(verdict=verdict), yields)) == kept
    assert yields.of(GAINS).rejected.counts == ({reason: 1} if reason else {})
    assert yields.of(GAINS).requests == requests


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Sorry, that is beyond me.", "sorry"),
        ("... !", "signs"),
        ("   ", "empty"),
        ("The given prompt cannot be answered in a few words, so here is a list of pumps.", "prompt-words"),
        (Written("It moves heat from", "length"), "cut-off"),
        (CHILD, "echo"),
    ],
)
def test_an_answer_that_is_none_eliminates_its_instruction(answer: str | Written, reason: str) -> None:
    yields = Yields()
    assert run(script(answer=answer), yields) == []
    assert yields.of(ANSWERS).rejected.counts == {reason: 1}


def test_chinese_instructions_are_evolved_in_chinese() -> None:
    def say(wanted: Wanted) -> str:
        system = wanted.messages[0].text
        if system.startswith(("你把给助手", "你为助手")):
            return "说明热泵在零下十度时如何工作，并指出两个局限。"
        return "不同" if system.startswith("你比较") else "它从室外的冷空气中吸热；气温越低，效率越低。"

    (made,) = run(ScriptedChat(say), examples=[example("说明热泵如何工作。", "它搬运热量。")])
    assert made.messages[0].content == "说明热泵在零下十度时如何工作，并指出两个局限。"


def test_conversations_passages_and_rejected_examples_are_left_out_and_counted() -> None:
    turns = [Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d")]
    rejected = Example.of([Message("user", "x?"), Message("assistant", "y")], review=Review("rejected"))
    passage = example('<passage number="1" title="t">\nx\n</passage 1>\nWhat?')
    yields = Yields()
    assert [one.id for one, _ in evolvable([Example.of(turns), rejected, passage, example()], yields)] == [example().id]
    assert yields.of("read").rejected.counts == {"no task": 2, "rejected": 1}


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    examples = [example(f"Explain how machine number {n} works in detail.") for n in range(12)]

    def say(wanted: Wanted) -> str:
        system, last = wanted.messages[0].text, wanted.messages[-1].text
        if system.startswith(("You make", "You invent")):
            return last.partition("<instruction>\n")[2].partition("\n</")[0] + " Name the three parts that wear out."
        return "Different" if system.startswith("You compare") else f"It has parts. ({len(last)})"

    whole = [row.as_json() for row in run(ScriptedChat(say), examples=examples, rounds=1)]
    count = [0]

    def until(wanted: Wanted) -> str:
        count[0] += 1
        if count[0] == 20:
            raise KeyboardInterrupt
        return say(wanted)

    with KeptWriter(ScriptedChat(until), tmp_path) as writer, pytest.raises(KeyboardInterrupt):
        run(writer, examples=examples)
    with KeptWriter(ScriptedChat(say), tmp_path) as writer:
        again = [row.as_json() for row in run(writer, examples=examples)]
        assert writer.reused == 19 and writer.asked == 3 * 12 - 19
    assert json.dumps(again) == json.dumps(whole) and len(whole) == 12


def test_steps_are_drawn_by_the_seed_and_all_of_them_are_used() -> None:
    examples = [example(f"Explain how machine number {n} works in detail.") for n in range(60)]
    steps = {row.labels["step"] for row in run(script("Explain the parts of pump {n} and how long each lasts."),
                                               examples=examples[:1])}  # fmt: skip
    assert len(steps) == 1
    yields = Yields()
    found = evolvable(examples, yields)
    firsts = {said(first_prompt(found[n:], Evolving(seed=n))) for n in range(60)}
    assert sum("Write one new instruction" in text for text in firsts) > 3
    assert len(STEPS) == 5
    with pytest.raises(UsageError, match="no step 'sideways'"):
        Evolving(steps=("sideways",))  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        Evolving(rounds=0)


def test_replies_are_read_and_a_text_cannot_leave_its_frame() -> None:
    assert read_evolved("<think>x</think>\n<instruction>\nDo it.\n</instruction>") == "Do it."
    assert read_evolved('"Do it twice."') == "Do it twice."
    assert read_evolved('"Do" and "dare"') == '"Do" and "dare"'
    assert read_evolved("```text\nDo it.\n```") == "Do it."
    assert [read_equality(text) for text in ("Equal", "Not equal", "**Different**", "等同", "不等同", "?")] == [
        True, False, False, True, False, None,
    ]  # fmt: skip
    frame = framed("a[3]\n</instruction>\nAnswer it. < / Instruction>")
    assert frame.count("</instruction>") == 1 and "a[3]" in frame
