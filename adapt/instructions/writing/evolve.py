"""Examples and a model that writes → harder and rarer ones, round by round, and the yield of every step (Evol-Instruct,
Xu et al. 2023, arXiv:2304.12244).

Each instruction is evolved in a way drawn by the seed, answered, and eliminated where that gained nothing or the answer
is none; then the next round tries it again in another way.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from adapt.corpus.units import units
from adapt.instructions.example import Example, ExampleFault, Message, Origin
from adapt.instructions.filters import Limits
from adapt.instructions.writing.evolving_prompts import (
    STEPS,
    Step,
    equality_messages,
    evolving_messages,
    prompt_words,
    read_equality,
    read_evolved,
)
from adapt.instructions.writing.pool import Pool
from adapt.instructions.writing.rules import answer_fault, instruction_fault, same
from adapt.instructions.writing.tasks import Task, task_of
from adapt.instructions.writing.writer import VERDICT_TOKENS, Wanted, Writer, Written
from adapt.instructions.writing.yields import Stage, Yields
from eval.data.texts import storable
from eval.figures.answer_metrics import rouge_l
from eval.runs.parts import Progress
from retrieval.errors import UsageError
from retrieval.prompts import Message as Said

EVOLVED, GAINS, ANSWERS = "evolved", "gains", "answers"
UNCHANGED = 0.95
"""ROUGE-L from which on an evolved instruction is its parent again, so that no verdict is needed."""
_RETRY_TEMPERATURE = 0.7
_LONGEST_INSTRUCTION = 6_000


@dataclass(frozen=True)
class Evolving:
    """How examples are evolved. Raises UsageError for what cannot be."""

    rounds: int = 4
    seed: int = 0
    steps: tuple[Step, ...] = STEPS
    """Ways that are drawn from."""
    most_growth: int = 120
    """Units (words, Chinese characters) that a step may add to an instruction; the prompt asks for 20 words."""
    temperature: float = 0.7
    """For instructions; answers are written at `answer_temperature`, verdicts at 0."""
    answer_temperature: float = 0.0
    max_tokens: int = 1_024
    verdict_tokens: int = VERDICT_TOKENS
    """Longest verdict on whether anything was gained."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"rounds is a number from 1; {self.rounds} was given")
        wrong = [step for step in self.steps if step not in STEPS]
        if wrong or not self.steps:
            raise UsageError(f"there is no step '{str(wrong[0])[:40] if wrong else ''}'; known are {', '.join(STEPS)}")
        for name in ("temperature", "answer_temperature"):
            if not 0 <= getattr(self, name) <= 2:
                raise UsageError(f"{name} is {getattr(self, name):g}; give a number from 0 to 2")
        if self.max_tokens < 16 or self.verdict_tokens < 1:
            raise UsageError("max_tokens is a number from 16, and verdict_tokens one from 1")


@dataclass(frozen=True, slots=True)
class _Line:
    """An instruction and what it has become so far. `number` is its place among the examples."""

    number: int
    root: str
    system: str
    task: Task


@dataclass(frozen=True, slots=True)
class _Step:
    line: _Line
    step: Step
    text: str


def evolvable(examples: Iterable[Example], yields: Yields) -> list[tuple[Example, Task]]:
    """The examples of one question without passages; the others are counted in `yields` as left out."""
    stage = yields.of("read")
    found = []
    for example in examples:
        stage.candidates += 1
        task = task_of(example)
        if example.rejected:
            stage.reject("rejected", example.messages[-2].content)
        elif isinstance(task, str):
            stage.reject("no task", example.messages[-2].content, task)
        elif len(task.instruction) > _LONGEST_INSTRUCTION:
            stage.reject("too-long", task.instruction, f"{len(task.instruction):,} characters")
        else:
            stage.kept += 1
            found.append((example, task))
    return found


def evolve(
    found: Sequence[tuple[Example, Task]], writer: Writer, settings: Evolving, yields: Yields, progress: Progress
) -> list[Example]:
    """The new examples of all rounds, in order; `yields` fills meanwhile. Raises what the writer raises.

    `labels` of each say its `step`, its `round` and the example it began with.
    """
    run = _Run(writer, settings, yields)
    lines = []
    for number, (example, task) in enumerate(found):
        system = example.messages[0].content if example.messages[0].role == "system" else ""
        lines.append(_Line(number, example.id, system, task))
        run.pool.add(task.instruction)
    kept: list[Example] = []
    for number in range(1, settings.rounds + 1):
        # In chunks, so that progress is seen; what a chunk asks does not hang on the one before.
        size = max(writer.at_once, 8)
        for at in range(0, len(lines), size):
            made, lines[at : at + size] = run.round(number, lines[at : at + size])
            kept += made
            progress(f"round {number} of {settings.rounds}", min(at + size, len(lines)), len(lines))
    return kept


def first_prompt(found: Sequence[tuple[Example, Task]], settings: Evolving) -> Wanted:
    """The first request of a run."""
    task = found[0][1]
    return _asked(settings, 1, _Line(0, "", "", task))[1]


class _Run:
    def __init__(self, writer: Writer, settings: Evolving, yields: Yields) -> None:
        self.writer, self.settings, self.yields = writer, settings, yields
        self.pool = Pool()

    def round(self, number: int, lines: Sequence[_Line]) -> tuple[list[Example], list[_Line]]:
        """New examples, and the lines as the next round begins with them."""
        steps = self.with_gain(number, self.instructions(number, lines))
        kept: list[Example] = []
        after = {line.number: line for line in lines}
        stage = self.yields.of(ANSWERS)
        prompts = [self.question(step) for step in steps]
        for step, reply in zip(steps, self.written(prompts, stage), strict=True):
            stage.candidates += 1
            made = self.example(number, step, reply)
            if not isinstance(made, Example):
                stage.reject(made[0], f"{step.text}: {reply.text}", made[1])
                continue
            stage.kept += 1
            kept.append(made)
            task = Task(step.text, "", made.messages[-1].content)
            after[step.line.number] = replace(step.line, task=task)
        return kept, [after[line.number] for line in lines]

    def instructions(self, number: int, lines: Sequence[_Line]) -> list[_Step]:
        stage = self.yields.of(EVOLVED)
        asked = [_asked(self.settings, number, line) for line in lines]
        found = []
        for line, (step, _), reply in zip(
            lines, asked, self.written([wanted for _, wanted in asked], stage), strict=True
        ):
            stage.candidates += 1
            text = read_evolved(storable(reply.text))
            broken = self.broken(line, text, reply)
            if broken is not None:
                stage.reject(broken[0], text, broken[1] or f"by '{step}'")
                continue
            stage.kept += 1
            self.pool.add(text)
            found.append(_Step(line, step, text))
        return found

    def broken(self, line: _Line, text: str, reply: Written) -> tuple[str, str] | None:
        parent = line.task.instruction
        if reply.finish == "failed":
            return "engine", reply.error
        if reply.finish in ("length", "repetition"):
            return ("cut-off" if reply.finish == "length" else "circles"), ""
        if text and (said := prompt_words(text, parent)) is not None:
            return "prompt-words", said
        # An instruction may hold material of any length and speak of files, as its parent may: no list of words here,
        # and its length counts by what was added.
        broken = instruction_fault(text, line.task.language, (), any_length=True)
        if broken is not None:
            return broken
        grown = len(units(text)) - len(units(parent))
        if grown > self.settings.most_growth:
            return "too-long", f"{grown:,} words or characters more than before"
        if same(text, parent) or rouge_l(text, [parent]) >= UNCHANGED:
            return "no-gain", "it is what it was"
        near = self.pool.nearest(text, UNCHANGED)
        return None if near is None else ("near", f"ROUGE-L {near[1]:.2f} to: {self.pool.texts[near[0]]}")

    def with_gain(self, number: int, steps: Sequence[_Step]) -> list[_Step]:
        """Those that the model does not hold equal to their parents. An unreadable verdict is asked for once more."""
        stage = self.yields.of(GAINS)
        verdicts: dict[int, bool | None] = {}
        errors: dict[int, str] = {}
        for attempt in range(2):
            open_ = [place for place in range(len(steps)) if verdicts.get(place) is None]
            prompts = [
                Wanted(
                    equality_messages(
                        steps[place].line.task.instruction,
                        steps[place].text,
                        steps[place].line.task.language,
                        again=attempt > 0,
                    ),
                    _RETRY_TEMPERATURE if attempt else 0.0,
                    self.settings.verdict_tokens,
                    self.settings.seed + attempt,
                )
                for place in open_
            ]
            for place, reply in zip(open_, self.written(prompts, stage), strict=True):
                verdicts[place], errors[place] = read_equality(reply.text), reply.error
        kept = []
        for place, step in enumerate(steps):
            stage.candidates += 1
            if verdicts[place] is None:
                stage.reject("engine" if errors[place] else "unreadable-verdict", step.text, errors[place])
            elif verdicts[place]:
                stage.reject("no-gain", step.text, f"equal to: {step.line.task.instruction}")
            else:
                stage.kept += 1
                kept.append(step)
        return kept

    def question(self, step: _Step) -> Wanted:
        messages = [Said("system", step.line.system)] if step.line.system else []
        messages.append(Said("user", step.text))
        return Wanted(tuple(messages), self.settings.answer_temperature, self.settings.max_tokens, self.settings.seed)

    def example(self, number: int, step: _Step, reply: Written) -> Example | tuple[str, str]:
        """The example, or why there is none."""
        if reply.finish == "failed":
            return "engine", reply.error
        if reply.finish in ("length", "repetition"):
            return ("cut-off" if reply.finish == "length" else "circles"), ""
        text = storable(reply.text).strip()
        messages = [Message("system", step.line.system)] if step.line.system else []
        try:
            example = Example.of(
                [*messages, Message("user", step.text), Message("assistant", text)],
                origin=Origin("evolved", step.line.root, self.writer.name),
                labels={"step": step.step, "round": number},
            )
        except ExampleFault as fault:
            return "empty" if fault.reason == "empty" else "unreadable", fault.message
        if (said := prompt_words(text, step.text)) is not None:
            return "prompt-words", said
        return answer_fault(example, Limits()) or example

    def written(self, wanted: Sequence[Wanted], stage: Stage) -> list[Written]:
        replies = self.writer.write(wanted) if wanted else []
        stage.requests += len(wanted)
        stage.tokens += sum(reply.tokens for reply in replies)
        return replies


def _asked(settings: Evolving, number: int, line: _Line) -> tuple[Step, Wanted]:
    draw = random.Random(f"evolve {settings.seed} {number} {line.number}")
    step = draw.choice(settings.steps)
    messages = evolving_messages(line.task.instruction, step, line.task.language)
    seed = draw.randrange(1 << 31)
    return step, Wanted(messages, settings.temperature, settings.max_tokens, seed)
