"""Seed tasks and a model that writes → new examples, and the yield of every step (Self-Instruct, Wang et al. 2023,
arXiv:2212.10560).

Instructions are written after eight that are shown, six of people and two of the model; those too like one that is
there are dropped; then comes an instance of each. The same seed asks the same in the same order.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from adapt.instructions.example import Example, ExampleFault, Message, Origin
from adapt.instructions.filters import Limits
from adapt.instructions.writing.pool import NEAR, Pool
from adapt.instructions.writing.rules import KEYWORDS, answer_fault, instruction_fault, same
from adapt.instructions.writing.task_prompts import (
    instance_messages,
    kind_messages,
    new_tasks_messages,
    own_demonstrations,
    read_instances,
    read_kind,
    read_new_tasks,
)
from adapt.instructions.writing.tasks import LEAST_SEEDS, Task
from adapt.instructions.writing.writer import VERDICT_TOKENS, Wanted, Writer, Written
from adapt.instructions.writing.yields import Stage, Yields
from eval.data.texts import storable
from eval.runs.parts import Progress
from retrieval.errors import UsageError
from retrieval.prompts import Language

INSTRUCTIONS, KINDS, INSTANCES = "instructions", "kinds", "instances"
PROMPTS_A_ROUND = 8
"""Prompts for instructions that are sent before their results count as shown. No setting: what is drawn hangs on it."""
DEMONSTRATIONS = 3
_LONGEST_DEMONSTRATION = 800


@dataclass(frozen=True)
class SelfInstruct:
    """How examples are written. Raises UsageError for what cannot be."""

    count: int = 100
    """Examples that are wanted."""
    seed: int = 0
    of_people: int = 6
    """Seed tasks that a prompt shows; more of them while the model has written too few."""
    of_model: int = 2
    more: int = 8
    """New tasks that a prompt asks for."""
    near: float = NEAR
    """ROUGE-L from which on an instruction repeats one that is there."""
    language: Language | None = None
    """None: as the seeds, in their proportion."""
    about: str = ""
    """A subject that all new tasks are to have."""
    without: tuple[str, ...] = KEYWORDS
    """Words no instruction may have."""
    temperature: float = 0.7
    """For instructions; kinds and instances are written at 0."""
    max_tokens: int = 1_024
    """Longest reply."""
    verdict_tokens: int = VERDICT_TOKENS
    """Longest reply to whether a task is a classification."""
    patience: int = 25
    """Prompts for instructions in a row that give no example, after which the run ends with what there is."""

    def __post_init__(self) -> None:
        for name, least in (
            ("count", 1),
            ("of_people", 1),
            ("of_model", 0),
            ("more", 1),
            ("verdict_tokens", 1),
            ("patience", 1),
        ):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is a number from {least}; {getattr(self, name)} was given")
        if not 0 < self.near <= 1:
            raise UsageError(f"near is {self.near:g}; give a ROUGE-L above 0 and up to 1, such as {NEAR:g}")
        if self.max_tokens < 16:
            raise UsageError(f"max_tokens is {self.max_tokens}; an instance needs at least 16")
        if not 0 <= self.temperature <= 2:
            raise UsageError(f"temperature is {self.temperature:g}; give a number from 0 to 2")
        if self.language not in (None, "en", "zh"):
            raise UsageError(f"language is '{self.language}'; tasks are written in en or zh")


def self_instruct(
    seeds: Sequence[Task], writer: Writer, settings: SelfInstruct, yields: Yields, progress: Progress, *, source: str
) -> list[Example]:
    """Up to `settings.count` examples. `yields` fills meanwhile; `source` names the seeds in each origin.

    Fewer come of a model that writes nothing new for `settings.patience` prompts. Raises what the writer raises.
    """
    return _Run(seeds, writer, settings, yields, source).run(progress)


def first_prompt(seeds: Sequence[Task], settings: SelfInstruct) -> Wanted:
    """The first request of a run."""
    return _Run(seeds, None, settings, Yields(), "").new_tasks(0)[1]


@dataclass(frozen=True, slots=True)
class _Instruction:
    text: str
    language: Language
    number: int
    """Of the instructions kept: what is drawn for it hangs on this."""


class _Run:
    def __init__(
        self, seeds: Sequence[Task], writer: Writer | None, settings: SelfInstruct, yields: Yields, source: str
    ) -> None:
        self.seeds, self.settings, self.yields, self.source = seeds, settings, yields, source
        self._writer = writer
        self.pool = Pool()
        for task in seeds:
            self.pool.add(task.instruction)
        self.by_model: dict[Language, list[str]] = {"en": [], "zh": []}
        self.waiting: deque[_Instruction] = deque()
        self.kept: list[Example] = []
        self.ids: set[str] = set()
        self.instructions = 0

    @property
    def writer(self) -> Writer:
        assert self._writer is not None
        return self._writer

    def run(self, progress: Progress) -> list[Example]:
        prompts = barren = 0
        wanted = self.settings.count
        progress("writing examples", 0, wanted)
        while len(self.kept) < wanted and (self.waiting or barren < self.settings.patience):
            if not self.waiting:
                # No more than may be needed: on a CPU each prompt takes half a minute.
                needed = -(-(wanted - len(self.kept)) // self.settings.more)
                count = min(PROMPTS_A_ROUND, needed, self.settings.patience - barren)
                self.write_instructions(range(prompts, prompts + count))
                prompts += count
                barren += count
            batch = [self.waiting.popleft() for _ in range(min(len(self.waiting), wanted - len(self.kept)))]
            before = len(self.kept)
            self.write_instances(batch)
            if len(self.kept) > before:
                barren = 0
            progress("writing examples", len(self.kept), wanted)
        return self.kept

    # --- instructions -------------------------------------------------------------------------------------------------

    def new_tasks(self, number: int) -> tuple[Language, Wanted]:
        """The language of prompt `number`, and the prompt, as the pool is now."""
        settings = self.settings
        draw = random.Random(f"tasks {settings.seed} {number}")
        drawn = draw.choice(self.seeds).language
        language: Language = settings.language or drawn
        of_people = _of(self.seeds, language)
        of_model = self.by_model[language]
        ours = draw.sample(of_model, min(len(of_model), settings.of_model))
        shown = min(len(of_people), settings.of_people + settings.of_model - len(ours))
        texts = [task.instruction for task in draw.sample(of_people, shown)] + ours
        draw.shuffle(texts)
        messages = new_tasks_messages(texts, settings.more, language, settings.about)
        return language, Wanted(messages, settings.temperature, settings.max_tokens, settings.seed * 1_000_003 + number)

    def write_instructions(self, numbers: range) -> None:
        stage = self.yields.of(INSTRUCTIONS)
        asked = [self.new_tasks(number) for number in numbers]
        replies = _written(self.writer, [wanted for _, wanted in asked], stage)
        for (language, _), reply in zip(asked, replies, strict=True):
            if reply.finish == "failed":
                stage.candidates += 1
                stage.reject("engine", "", reply.error)
                continue
            found = read_new_tasks(storable(reply.text))
            if not found:
                stage.candidates += 1
                stage.reject("unreadable", reply.text)
            for place, text in enumerate(found[: self.settings.more * 2], 1):
                stage.candidates += 1
                cut = place == len(found) and reply.finish in ("length", "repetition")
                broken = ("cut-off", "") if cut else instruction_fault(text, language, self.settings.without)
                if broken is None and (near := self.pool.nearest(text, self.settings.near)) is not None:
                    broken = "near", f"ROUGE-L {near[1]:.2f} to: {self.pool.texts[near[0]]}"
                if broken is not None:
                    stage.reject(broken[0], text, broken[1])
                    continue
                stage.kept += 1
                self.pool.add(text)
                self.waiting.append(_Instruction(text, language, self.instructions))
                self.instructions += 1

    # --- instances ----------------------------------------------------------------------------------------------------

    def write_instances(self, batch: Sequence[_Instruction]) -> None:
        kinds = self.kinds(batch)
        stage = self.yields.of(INSTANCES)
        asked: list[tuple[_Instruction, bool, list[Task]]] = []
        for one, classification in zip(batch, kinds, strict=True):
            asked.append((one, classification, self.demonstrations(one, classification)))
        prompts = [
            Wanted(instance_messages(one.text, kind, shown, one.language), 0.0, self.settings.max_tokens)
            for one, kind, shown in asked
        ]
        for (one, kind, shown), reply in zip(asked, _written(self.writer, prompts, stage), strict=True):
            stage.candidates += 1
            made = self.example(one, kind, shown, reply)
            if isinstance(made, Example):
                stage.kept += 1
                self.ids.add(made.id)
                self.kept.append(made)
                self.by_model[one.language].append(one.text)
            else:
                stage.reject(made[0], f"{one.text}: {reply.text}", made[1])

    def kinds(self, batch: Sequence[_Instruction]) -> list[bool]:
        """Whether each is a classification. What cannot be read is taken for none, as most tasks are, and noted."""
        stage = self.yields.of(KINDS)
        prompts = [Wanted(kind_messages(one.text, one.language), 0.0, self.settings.verdict_tokens) for one in batch]
        found = []
        for one, reply in zip(batch, _written(self.writer, prompts, stage), strict=True):
            stage.candidates += 1
            kind = read_kind(reply.text)
            if kind is None:
                stage.note("unreadable", f"{one.text}: {reply.text}", reply.error)
            else:
                stage.kept += 1
            found.append(bool(kind))
        return found

    def demonstrations(self, one: _Instruction, classification: bool) -> list[Task]:
        draw = random.Random(f"instance {self.settings.seed} {one.number}")
        fitting = [
            task
            for task in self.seeds
            if task.classification == classification
            and task.language == one.language
            and len(task.question) + len(task.output) <= _LONGEST_DEMONSTRATION
            and (task.input or not classification)
        ]
        if len(fitting) < 2:
            return own_demonstrations(classification, one.language)
        return draw.sample(fitting, min(len(fitting), DEMONSTRATIONS))

    def example(
        self, one: _Instruction, classification: bool, shown: Sequence[Task], reply: Written
    ) -> Example | tuple[str, str]:
        """The example in a reply, or why there is none: a key of `adapt.instructions.writing.rules.REASONS`."""
        if reply.finish == "failed":
            return "engine", reply.error
        if reply.finish == "repetition":
            return "circles", ""
        found = read_instances(storable(reply.text), classification)
        if reply.finish == "length":
            found = found[:-1]  # the last has no end
            if not found:
                return "cut-off", ""
        if not found:
            return "unreadable", ""
        draw = random.Random(f"label {self.settings.seed} {one.number}")
        # Any of the labels, or all would be the one that comes to the model's mind first.
        given, answer = draw.choice(found) if classification else found[0]
        if not answer or (classification and not given):
            return "empty", ""
        if same(answer, given):
            return "echo", ""
        for task in shown:
            if (task.input and same(given, task.input)) or (not classification and same(answer, task.output)):
                return "copied", task.instruction
        task = Task(one.text, given, answer, classification)
        try:
            example = Example.of(
                [Message("user", task.question), Message("assistant", answer)],
                origin=Origin("self-instruct", self.source, self.writer.name),
                labels={"classification": classification},
            )
        except ExampleFault as fault:
            return "empty" if fault.reason == "empty" else "unreadable", fault.message
        if example.id in self.ids:
            return "exact", ""
        return answer_fault(example, Limits()) or example


def _of(seeds: Sequence[Task], language: Language) -> list[Task]:
    """Seeds of a language; all where there are too few, since a task may be shown in any."""
    found = [task for task in seeds if task.language == language]
    return found if len(found) >= LEAST_SEEDS else list(seeds)


def _written(writer: Writer, wanted: Sequence[Wanted], stage: Stage) -> list[Written]:
    replies = writer.write(wanted)
    stage.requests += len(wanted)
    stage.tokens += sum(reply.tokens for reply in replies)
    return replies
