"""A file of seeds (Self-Instruct's own form, or any that can be imported) → tasks: instruction, input, output.

A task knows whether it is a classification where the seeds say so. It knows no model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adapt.instructions.example import Example, ExampleFault
from adapt.instructions.forms import from_alpaca, is_alpaca
from adapt.instructions.importing import Imported, import_conversations
from adapt.instructions.likeness import PASSAGE
from adapt.instructions.tables import rows_of
from eval.data.texts import storable
from eval.runs.parts import Progress
from retrieval.errors import UsageError
from retrieval.prompts import Language, language_of
from retrieval.reading.folder import shown
from retrieval.reading.normalising import one_line

LEAST_SEEDS = 4
"""Of a language: what is shown must differ from prompt to prompt."""
LONGEST_SHOWN = 1_500
"""Characters of an instruction, input or output that is shown as an example; eight of them must fit into a prompt."""


@dataclass(frozen=True, slots=True)
class Task:
    """One instruction with one instance; `input` is empty where the instruction says it all."""

    instruction: str
    input: str
    output: str
    classification: bool | None = None
    """None: nobody said."""

    @property
    def language(self) -> Language:
        """Of the instruction."""
        return language_of(self.instruction)

    @property
    def question(self) -> str:
        """As the user would write it."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction


def read_tasks(path: Path, into: Imported, progress: Progress) -> list[Task]:
    """The tasks of a file, in order, each instruction once. `into` counts the rows and what gave no task.

    Of a conversation in turns there is no task in this sense. Raises UsageError for a file that is no table or has too
    few tasks, ReadingError where it cannot be read.
    """
    found: list[Task] = []
    seen: set[str] = set()
    for task in _tasks(path, into, progress):
        if task.instruction not in seen and len(task.instruction) <= LONGEST_SHOWN:
            seen.add(task.instruction)
            found.append(task)
    into.examples = len(found)
    if len(found) < LEAST_SEEDS:
        why = into.left_out.first()
        raise UsageError(
            f"'{shown(str(path))}' has {len(found)} tasks{f' (such as {why})' if why else ''}; give at least "
            f"{LEAST_SEEDS}, of a question and an answer each"
        )
    return found


def task_of(example: Example) -> Task | str:
    """An example of one question without passages as a task, or why it is none."""
    turns = [message for message in example.messages if message.role != "system"]
    if len(turns) != 2:
        return "is a conversation of several turns"
    if PASSAGE.search(turns[0].content):
        return "asks about passages"
    told = example.labels.get("classification")
    classification = told if isinstance(told, bool) else None
    return Task(turns[0].content.strip(), "", turns[1].content.strip(), classification)


def _tasks(path: Path, into: Imported, progress: Progress) -> Iterator[Task]:
    if _is_alpaca(path):
        yield from _alpaca(path, into)
        return
    for example in import_conversations([path], into, progress=progress):
        task = task_of(example)
        if isinstance(task, str):
            into.left_out.add("no task", example.origin.source if example.origin else example.id, task)
        else:
            yield task


def _is_alpaca(path: Path) -> bool:
    """By the first row that is one; such a file keeps instruction and input apart, which importing joins."""
    for _, row in rows_of(path, lambda *_: None):
        return is_alpaca(row)
    return False


def _alpaca(path: Path, into: Imported) -> Iterator[Task]:
    name = one_line(storable(path.name), 200)
    into.forms[name] = "alpaca"

    def problem(number: int, reason: str, message: str) -> None:
        into.rows += bool(number)
        into.left_out.add(reason, f"{name} row {number}" if number else name, message)

    for number, row in rows_of(path, problem, lambda *_: None):
        into.rows += 1
        try:
            if not is_alpaca(row):
                raise ExampleFault("form", "is not of the form 'alpaca' (instruction, input, output)")
            first = from_alpaca(row)[0]  # says what is wrong with it
        except (ExampleFault, IndexError) as fault:
            message = fault.message if isinstance(fault, ExampleFault) else "has no instance"
            into.left_out.add(
                fault.reason if isinstance(fault, ExampleFault) else "form", f"{name} row {number}", message
            )
            continue
        instances = row.get("instances")
        instance = instances[0] if isinstance(instances, list) else row
        told = row.get("is_classification")
        yield Task(
            storable(row["instruction"]).strip(),
            storable(instance.get("input") or "").strip(),
            first.messages[-1].content.strip(),
            told if isinstance(told, bool) else None,
        )
