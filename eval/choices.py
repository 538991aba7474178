"""Multiple-choice questions and a language model → accuracy by likelihood, one record for each question.

The model writes nothing: the option it finds likeliest is its answer (Brown et al. 2020, 2.4). It knows no tensors.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.data.corpora import identifier, numbered_jsonl
from eval.data.texts import storable
from eval.models.language_models import LanguageModel, locate, open_model, require_same_model
from eval.runs.parts import PartFolder, Prepared, Progress, Record, Tools
from eval.runs.running import run_items
from retrieval.embedding.stored import file_hash
from retrieval.errors import FathomError, ReadingError, UsageError
from retrieval.prompts import language_of

TEMPLATES = {"en": "{context}\n\nQuestion: {question}\nAnswer:", "zh": "{context}\n\n问题：{question}\n答案："}
"""By the language of the question. Without a context its line and the empty one go."""
PREMISES = {"en": "Answer:", "zh": "答案："}
"""What an option is said after when nothing is asked (Holtzman et al. 2021: the domain premise)."""
YES_NO_MAYBE = ("yes", "no", "maybe")
_PLACE = re.compile(r"\{(context|question)\}")


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with its options; `answer` is the number of the right one. `source` groups questions on one text."""

    id: str
    question: str
    context: str
    options: tuple[str, ...]
    answer: int
    source: str | None = None


@dataclass(frozen=True)
class ChoicesPart:
    """Accuracy of the likeliest option, as lm-evaluation-harness defines it.

    Prompt and option are tokenised together; the option's tokens are those after as many as the prompt has alone.
    `choice_accuracy` takes the sum of their log-probabilities; `choice_accuracy_norm` divides it by the option's UTF-8
    bytes, so that long options are not punished; `choice_accuracy_pmi`, if asked for, subtracts the option's
    log-probability after "Answer:" alone, so that common phrases are not favoured (Holtzman et al. 2021).
    A prompt longer than the model's window loses its beginning, which its record says.
    """

    questions: Path
    """JSON lines with question, choices and answer (number, text or letter), or PubMedQA's form (contexts, yes/no)."""
    model: str | None = None
    """GGUF file, folder or OWNER/NAME; None is the model that comes with Fathom."""
    adapter: Path | None = None
    """Folder of an adapter that peft saved, put on the model."""
    template: str | None = None
    """Prompt with {question} and perhaps {context}; None is a plain one in the question's language."""
    pmi: bool = False
    """Also correct for how likely each option is without a question."""
    limit: int | None = None
    """Ask so many questions, drawn with the seed."""
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.template is not None and "{question}" not in self.template:
            raise UsageError(f"the template needs {{question}} in it; it is {self.template[:80]!r}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is at least 1; {self.limit} was given")

    def prepare(self, tools: Tools) -> Prepared:
        """Read the questions and find the model. Raises UsageError, ReadingError, MissingError, DamagedError."""
        locate(self.model, self.adapter)
        if not self.questions.is_file():
            raise UsageError(f"there is no file '{self.questions}'; name JSON lines with questions and choices")
        questions = read_choices(self.questions)
        if self.limit is not None and self.limit < len(questions):
            drawn = np.random.default_rng(self.seed).choice(len(questions), size=self.limit, replace=False)
            questions = [questions[index] for index in sorted(drawn)]

        def run(folder: PartFolder, progress: Progress) -> Mapping[str, Any]:
            progress("loading the model", 0, 0)
            model = open_model(tools, self.model, adapter=self.adapter, device=self.device, precision=self.precision)
            scorer = _Scorer(model, self.template, self.pmi, require_same_model(folder, model))
            run_items(
                folder,
                questions,
                scorer.record,
                identify=lambda question: question.id,
                total=len(questions),
                what="questions",
                progress=progress,
                describe=lambda question: question.question,
            )
            return _extras(questions, folder, scorer)

        name = self.model or "the packaged model"
        described = f"likeliest of the options of {len(questions):,} questions by {name}"
        return Prepared(len(questions), {str(self.questions): file_hash(self.questions)}, described, run)


def read_choices(path: Path) -> list[Choice]:
    """The questions of a file. Raises ReadingError with the line for what is no question with its options."""
    rows = list(numbered_jsonl(path))
    if not rows:
        raise ReadingError(str(path), "empty", "holds no question.")
    bare = {_plain_answer(row).lower() for _, row in rows if not _has_options(row)}
    implied = YES_NO_MAYBE if "maybe" in bare else YES_NO_MAYBE[:2]
    found: dict[str, Choice] = {}
    for line, row in rows:
        choice = _choice(path, line, row, implied)
        if choice.id in found:
            raise ReadingError(str(path), "duplicate", f"line {line}: the id {choice.id!r} was there before.")
        found[choice.id] = choice
    return list(found.values())


def _has_options(row: Mapping[str, Any]) -> bool:
    return any(name in row for name in ("choices", "options"))


def _plain_answer(row: Mapping[str, Any]) -> str:
    for name in ("answer", "answerKey", "final_decision", "answers", "label"):
        value = row.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value).strip()
    return ""


def _choice(path: Path, line: int, row: Mapping[str, Any], implied: tuple[str, ...]) -> Choice:
    def wrong(what: str) -> ReadingError:
        return ReadingError(str(path), "field", f"line {line}: {what}.")

    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise wrong(f"has no question; it has {', '.join(map(str, list(row)[:12]))}")
    answer = _plain_answer(row)
    labels: Sequence[str] = ()
    if _has_options(row):
        given: Any = row.get("choices", row.get("options"))
        if isinstance(given, Mapping):  # ARC's form: {"text": […], "label": ["A", …]}
            labels = [str(label) for label in given.get("label") or ()]
            given = given.get("text")
        if not isinstance(given, list) or not all(isinstance(option, str) and option.strip() for option in given):
            raise wrong("its choices must be a list of texts")
        options = tuple(option.strip() for option in given)
    elif answer.lower() in implied:
        options, answer = implied, answer.lower()
    else:
        raise wrong("has neither choices nor an answer that is yes, no or maybe")
    if len(options) < 2 or len(set(options)) < len(options):
        raise wrong(f"needs two different choices at least; it has {', '.join(map(repr, options[:6]))}")
    context = row.get("context", row.get("contexts", ""))
    if isinstance(context, list) and all(isinstance(part, str) for part in context):
        context = "\n".join(context)
    if not isinstance(context, str):
        raise wrong(f"its context is a {type(context).__name__}, not text")
    source = row.get("context_id", row.get("document"))
    return Choice(
        identifier(row, "id" if "id" in row else "_id", path, line),
        storable(question.strip()),
        storable(context.strip()),
        tuple(map(storable, options)),
        _number(answer, row.get("answer"), options, labels, wrong),
        None if source is None else str(source),
    )


def _number(answer: str, given: Any, options: Sequence[str], labels: Sequence[str], wrong: Any) -> int:
    """Which option is right: by its number (from 0), its text, its label, or its letter, in this order."""
    if isinstance(given, int) and not isinstance(given, bool):
        if not 0 <= given < len(options):
            raise wrong(f"the answer is number {given}, and choices are numbered 0 to {len(options) - 1}")
        return given
    if answer in options:
        return options.index(answer)
    if answer in labels:
        return labels.index(answer)
    letter = ord(answer.upper()) - ord("A") if len(answer) == 1 else -1
    if not labels and 0 <= letter < len(options):
        return letter
    raise wrong(f"the answer {answer[:60]!r} is none of the choices {', '.join(map(repr, options[:6]))}")


def prompt_of(choice: Choice, template: str | None = None) -> str:
    """The words before an option."""
    words = template if template is not None else TEMPLATES[language_of(choice.question)]
    if not choice.context:
        words = re.sub(r"\{context\}\s*", "", words)
    # In one pass: a context that holds "{question}" is not a place to fill.
    return _PLACE.sub(lambda match: getattr(choice, match[1]), words)


def joined(prompt: str, option: str) -> str:
    """Prompt and option with a space between, but after a space, a line break or full-width punctuation."""
    return prompt + ("" if not prompt or prompt[-1].isspace() or prompt[-1] in "：。？！，、」』）" else " ") + option


class _Scorer:
    """Questions → records. Options after a bare premise are scored once for all questions."""

    def __init__(self, model: LanguageModel, template: str | None, pmi: bool, mark: str) -> None:
        self.model, self.template, self.pmi, self.mark = model, template, pmi, mark
        self._alone: dict[tuple[str, str], float] = {}

    def record(self, choice: Choice) -> Record:
        began = time.perf_counter()
        scores, cut = self._scores(prompt_of(choice, self.template), choice.options)
        sizes = [len(option.encode()) for option in choice.options]
        ways = {"choice_accuracy": scores, "choice_accuracy_norm": scores / np.array(sizes)}
        if self.pmi:
            ways["choice_accuracy_pmi"] = scores - self._without_question(choice)
        predicted = {name: int(np.argmax(values)) for name, values in ways.items()}
        return {
            "id": choice.id,
            "text": choice.question,
            "cluster": choice.source,
            "metrics": {name: float(number == choice.answer) for name, number in predicted.items()},
            "timings": {"score": (time.perf_counter() - began) * 1000},
            "expected": choice.options[choice.answer],
            "predicted": choice.options[predicted["choice_accuracy"]],
            "predictions": {name: choice.options[number] for name, number in predicted.items()},
            "options": list(choice.options),
            "scores": scores.tolist(),
            "cut_tokens": cut,
            "model": self.mark,
        }

    def _scores(self, prompt: str, options: Sequence[str]) -> tuple[np.ndarray, int]:
        """ln P of each option after the prompt, and how many tokens of the prompt did not fit."""
        opening = [self.model.bos] if self.model.opens and self.model.bos is not None else []
        before = len(self.model.encode(prompt))
        if not before and not opening and self.model.bos is not None:
            opening = [self.model.bos]
        room = self.model.window - len(opening)
        whole = [self.model.encode(joined(prompt, option)) for option in options]
        # Where the option melts into the prompt's last token, that token is the option's.
        firsts = [min(before, len(ids) - 1) for ids in whole]
        over = max(0, max(len(ids) for ids in whole) - room)
        if over > min(firsts):
            longest = max(len(ids) - first for ids, first in zip(whole, firsts, strict=True))
            raise FathomError(f"an option of {longest:,} tokens does not fit into the window of {self.model.window:,}")
        sequences = [[*opening, *ids[over:]] for ids in whole]
        since = [len(opening) + first - over for first in firsts]
        if min(since) < 1:
            raise FathomError("nothing stands before the first option's tokens; give a template with a prompt")
        found = self.model.branches(sequences, since=since)
        return np.array([row[start:].sum(dtype=np.float64) for row, start in zip(found, since, strict=True)]), over

    def _without_question(self, choice: Choice) -> np.ndarray:
        premise = PREMISES[language_of(choice.question)]
        missing = [option for option in choice.options if (premise, option) not in self._alone]
        if missing:
            scores, _ = self._scores(premise, missing)
            self._alone.update({(premise, option): float(s) for option, s in zip(missing, scores, strict=True)})
        return np.array([self._alone[premise, option] for option in choice.options])


def _extras(questions: Sequence[Choice], folder: PartFolder, scorer: _Scorer) -> dict[str, Any]:
    records = folder.done()
    done = [records[question.id] for question in questions if question.id in records]
    # What a guess gets, and what always saying the same gets: an accuracy means nothing beside neither.
    answers = Counter(question.options[question.answer] for question in questions)
    common, times = answers.most_common(1)[0]
    cut = sum(1 for record in done if record["cut_tokens"])
    extras: dict[str, Any] = {
        "model": {"name": scorer.model.name, "sha256": scorer.model.hash, **scorer.model.facts},
        "chance": float(np.mean([1 / len(question.options) for question in questions])),
        "prompt": prompt_of(questions[0], scorer.template)[:2000],
        "warnings": [f"{cut} prompts are longer than the model's window and lost their beginning"] if cut else [],
    }
    if len({question.options for question in questions}) == 1:
        extras["always"] = {"answer": common, "accuracy": times / len(questions)}
        extras["confusion"] = _confusion(done)
    return extras


def _confusion(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """expected → predicted → how often."""

    def pairs() -> Iterator[tuple[str, str]]:
        for record in records:
            yield record["expected"], record["predicted"]

    table: dict[str, dict[str, int]] = {}
    for (expected, predicted), times in sorted(Counter(pairs()).items()):
        table.setdefault(expected, {})[predicted] = times
    return table
