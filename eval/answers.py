"""A file of questions through the answering pipeline → records with metrics, and what is no per-answer figure.

The same pipeline as the chat's (retrieval.answering); only closed-book questions go to the model alone.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from eval.answer_contexts import Context, Contexts
from eval.answer_records import answer_record, closed_book_record, confidence
from eval.data.datasets import RetrievalDataset
from eval.data.questions import Question, QuestionSet, read_questions, sampled
from eval.figures.selective import risk_coverage, separation
from eval.figures.statistics import clusters_of, estimates, table_of
from eval.runs.parts import PartFolder, Prepared, Progress, Record, Tools
from eval.runs.running import run_items
from eval.search.indexed import described, indexed
from retrieval.answering import PASSAGES, AnswerSettings, Finished, Searched, Token, answer_stream
from retrieval.errors import UsageError
from retrieval.finding import FindSettings, as_tuned
from retrieval.passages import Mode
from retrieval.prompts import PROMPT_VERSION, closed_book_messages
from retrieval.reranking.load import NONE
from retrieval.reranking.sentences import reader_named
from retrieval.rewriting.plans import WithPrevious
from retrieval.supporting.lexical import LEXICAL
from retrieval.unanswered import says_no_answer

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from retrieval.collection import Collection
    from retrieval.reranking.load import Reranker
    from retrieval.reranking.sentences import SentenceReader
    from retrieval.rewriting.plans import Planner
    from retrieval.supporting.checker import SupportChecker
    from retrieval.tuned import Tuned

TABLE_RESAMPLES = 1_000
PATIENCE = 599.0
"""Seconds for a rewriter or reranker while measuring."""
_SHORT_CHOICE = 20
"""Characters up to which options stand in the question itself: (yes/no/maybe)."""
_UNKNOWING = re.compile(
    r"\b(?:I|we) (?:do not|don't|cannot|can't|am not|'m not)\b[^.]{0,30}\b(?:know|sure|certain|have|find|provide|tell)"
    r"|\b(?:not sure|no idea|no information)\b|不知道|不清楚|不太清楚|不确定|不了解|没有相关信息",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class AnswersPart:
    """Answers to the questions of a file or folder (see eval.data.questions), measured against their gold answers.

    `context` says what they are answered from: "retrieved" passages as in the chat, the "gold" passages alone, the gold
    among "distractors", or nothing ("closed-book"). Together they tell apart what retrieval, the model and its memory
    are worth.
    """

    questions: Path
    context: Context = "retrieved"
    engine: str | None = None
    quote: bool = False
    """Answer with sentences of the sources, without a model."""
    collection: str | None = None
    """Ask an existing collection, instead of an index of the set's own documents."""
    search: Mode = "hybrid"
    support: str | None = None
    """What tells whether passages bear answers out: "lexical", "encoder", "llm", a folder; None is as settings say."""
    planner: str | None = None
    """What rewrites the question before it is searched for: a word of [assist] rewriter; None is as settings say."""
    reranker: str | None = None
    """What orders the passages found: a word of [assist] reranker; None is as settings say."""
    k: int = PASSAGES
    """Passages to find."""
    distractors: int = 4
    """Passages without gold beside the gold ones."""
    limit: int | None = None
    """As many questions, drawn at random."""
    sample_seed: int = 0
    """Of that draw, and of the order of distractors."""
    split: str | None = None
    concurrency: int = 1

    def __post_init__(self) -> None:
        if self.context not in get_args(Context):
            raise UsageError(f"there is no context '{self.context}'; choose from {', '.join(get_args(Context))}")
        if self.search not in get_args(Mode):
            raise UsageError(f"there is no search '{self.search}'; choose from {', '.join(get_args(Mode))}")
        for name, least in (("k", 1), ("distractors", 0), ("limit", 1), ("concurrency", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}; it must be at least {least}")
        if self.context == "closed-book" and (self.quote or self.collection is not None):
            raise UsageError("closed-book answers use no documents: leave out quote and collection")
        if self.quote and self.engine is not None:
            raise UsageError("quoting needs no engine: leave out quote or engine")

    def prepare(self, tools: Tools) -> Prepared:
        """Reads and checks the questions and their documents. Raises UsageError, ReadingError, MissingError."""
        stored = tools.collection(self.collection) if self.collection is not None else None
        found = read_questions(self.questions, split=self.split, collection=stored)
        chosen = sampled(found, self.limit, seed=self.sample_seed)
        if self.context != "closed-book":
            self._check_documents(found, chosen)
        search: tuple[str, ...] = ()
        if self.context != "closed-book":
            search = ("embedding", "splitting", "search", "assist", "answer")
        # What was set for the collection alone decides as the settings do.
        search += ("collection",) if stored is not None and stored.set_here() else ()
        checked = self.context != "closed-book" and not self.quote
        how = "quoting" if self.quote else self.engine or "the engine of the settings"
        drawn = f" of {len(found.questions):,}" if len(chosen) < len(found.questions) else ""
        return Prepared(
            items=len(chosen),
            data=found.data,
            described=f"{len(chosen):,}{drawn} questions of {found.name} ({found.form}), {self.context}, {how}",
            run=lambda folder, progress: _run(self, tools, found, chosen, folder, progress),
            relies_on=(*search, *(("checker",) if checked else ()), *(() if self.quote else ("engine",))),
        )

    def _check_documents(self, found: QuestionSet, chosen: Sequence[Question]) -> None:
        if not found.documents and self.collection is None:
            raise UsageError(
                f"no documents lie beside {self.questions}: name a collection, or ask with the context closed-book"
            )
        without = [q.id for q in chosen if q.answerable and not q.documents]
        if self.context != "retrieved" and without:
            raise UsageError(
                f"{len(without)} answerable questions of {self.questions} name no gold document (the first is "
                f"'{without[0]}'), so that there is no {self.context} context to show; use retrieved or closed-book"
            )


def _run(
    part: AnswersPart,
    tools: Tools,
    found: QuestionSet,
    chosen: Sequence[Question],
    folder: PartFolder,
    progress: Progress,
) -> dict[str, Any]:
    llm = None if part.quote else tools.llm(part.engine)
    refusals = any(not question.answerable for question in chosen)
    settings = tools.answer or AnswerSettings()
    about: dict[str, Any] = {
        "prompt_version": PROMPT_VERSION,
        "engine": "quote" if llm is None else llm.metadata.model_name,
    }
    with ExitStack() as stack:
        do: Callable[[Question], Record]
        if part.context == "closed-book":
            assert llm is not None
            do = _ClosedBook(llm, refusals)
        else:
            collection = _opened(part, tools, found, chosen, progress, stack)
            about |= {"index": described(collection), "settings": asdict(settings)}
            contexts = Contexts(collection, part.context, part.search, part.k, part.distractors, part.sample_seed)
            checker = _checker(part, tools, settings, llm)
            about |= {"checker": dict(checker.described)} if checker is not None else {}
            helped = _Help.of(part, tools, llm, collection.tuned)
            about["assist"] = asdict(helped.finding)
            # Whoever gives no settings for finding measures what needs no model.
            reader = reader_named(settings.quote_by) if tools.assist is not None else None
            settings = replace(settings, quote_seconds=PATIENCE)
            do = _WithPassages(contexts, llm, settings, refusals, checker, helped, reader)
        run_items(
            folder,
            chosen,
            lambda question: {**do(question), "prompt_version": PROMPT_VERSION, "model": about["engine"]},
            identify=lambda question: question.id,
            total=len(chosen),
            what="answering",
            progress=progress,
            concurrency=part.concurrency,
            describe=lambda question: question.text,
        )
    return about | summary(folder.done(), seed=part.sample_seed)


@dataclass(frozen=True)
class _Help:
    """What helps the search."""

    planner: "Planner"
    reranker: "Reranker | None"
    finding: FindSettings

    @classmethod
    def of(cls, part: AnswersPart, tools: Tools, llm: "LLM | None", tuned: "Tuned | None") -> "_Help":
        if part.context != "retrieved":  # chosen passages are not to be searched for otherwise, reordered or left out
            return cls(WithPrevious(), None, FindSettings())
        found = tools.assist or FindSettings(rewriter="previous", reranker=NONE)  # what needs no model
        # A figure must not depend on what else the machine does: steps take the time they take, and it is recorded.
        found = replace(
            found,
            rewriter=part.planner or found.rewriter,
            reranker=part.reranker or found.reranker,
            rewrite_seconds=PATIENCE,
            rerank_seconds=PATIENCE,
        )
        found = as_tuned(found, tuned)
        reranker = None if found.reranker == NONE else tools.reranker(found.reranker)
        planner = WithPrevious() if found.rewriter == "previous" else tools.planner(found.rewriter, llm)
        return cls(planner, reranker, found)


def _checker(part: AnswersPart, tools: Tools, settings: AnswerSettings, llm: "LLM | None") -> "SupportChecker | None":
    """None where shared words tell, which needs nothing."""
    word = part.support or settings.support
    return None if llm is None or word == LEXICAL else tools.checker(word, part.engine)


def _opened(
    part: AnswersPart,
    tools: Tools,
    found: QuestionSet,
    chosen: Sequence[Question],
    progress: Progress,
    stack: ExitStack,
) -> "Collection":
    """The collection to answer from. Only what the questions may look at is indexed: a gold passage needs no index of
    all the others."""
    if part.collection is not None:
        return tools.collection(part.collection)
    name, documents = found.name, found.documents
    if part.context == "gold" or all(question.within for question in chosen):
        wanted = {uri for question in chosen for uri in (*question.documents, question.within)}
        if all(question.documents or question.within for question in chosen):
            documents = tuple(document for document in documents if document.id in wanted)
    if len(documents) < len(found.documents) or found.form != "corpus":
        name = f"{name}-questions"  # an index of its own, where the retrieval of the same set has other documents
    dataset = RetrievalDataset(name, found.form, "", documents, {}, {})
    return stack.enter_context(
        indexed(
            dataset,
            tools.embedder(),
            tools.cache,
            splitting=tools.splitting,
            settings=tools.search,
            progress=progress,
        )
    )


def asked(question: Question) -> str:
    """The question as a person would put it: short options in brackets behind it, long ones lettered below it."""
    if not question.choices or question.kind == "yes-no":
        return question.text
    if max(map(len, question.choices)) <= _SHORT_CHOICE:
        return f"{question.text} ({'/'.join(question.choices)})"
    lines = [f"{chr(65 + index)}. {choice}" for index, choice in enumerate(question.choices)]
    return "\n".join([question.text, *lines])


class _WithPassages:
    """One question → its record, through the pipeline of the chat."""

    def __init__(
        self,
        contexts: Contexts,
        llm: "LLM | None",
        settings: AnswerSettings,
        refusals: bool,
        checker: "SupportChecker | None",
        helped: _Help,
        reader: "SentenceReader | None",
    ) -> None:
        self.contexts, self.llm, self.settings, self.refusals = contexts, llm, settings, refusals
        self.checker, self.helped, self.reader = checker, helped, reader
        collection = contexts.collection
        self.text = lru_cache(maxsize=64)(lambda uri: collection.document_by_uri(uri).text)

    def __call__(self, question: Question) -> Record:
        shown, k, filters = self.contexts.of(question)
        events = answer_stream(
            asked(question) if self.llm is not None else question.text,
            collection=shown,
            llm=self.llm,
            mode="quote" if self.llm is None else "generate",
            k=k,
            search_mode=self.contexts.mode,
            filters=filters,
            history=question.history,
            embedder=None if self.contexts.mode == "lexical" else self.contexts.collection.embedder(),
            settings=self.settings,
            planner=self.helped.planner,
            reranker=self.helped.reranker,
            finding=self.helped.finding,
            checker=self.checker,
            reader=self.reader,
        )
        given, draft = 0, ""
        texts: tuple[str, ...] = ()
        for event in events:
            if isinstance(event, Searched):
                given, texts = event.given, event.texts
            elif isinstance(event, Token):
                draft += event.text
            elif isinstance(event, Finished):
                found = event.answer
        return answer_record(
            question,
            found,
            given=given,
            texts=texts,
            draft=draft if self.llm is not None else None,
            document_text=self.text,
            refusals=self.refusals,
            retrieved=self.contexts.context == "retrieved",
        )


class _ClosedBook:
    """One question → its record, from what the model knows by itself."""

    def __init__(self, llm: "LLM", refusals: bool) -> None:
        self.llm, self.refusals = llm, refusals

    def __call__(self, question: Question) -> Record:
        from llama_index.core.base.llms.types import ChatMessage, MessageRole

        messages = closed_book_messages(asked(question), question.history)
        chat = [ChatMessage(role=MessageRole(message.role), content=message.text) for message in messages]
        began = time.perf_counter()
        timings: dict[str, float] = {}
        text = ""
        raw: dict[str, Any] = {}
        for response in self.llm.stream_chat(chat):
            text += response.delta or ""
            raw = response.raw if isinstance(response.raw, dict) else raw
            if text and not timings:
                timings["first_token"] = (time.perf_counter() - began) * 1e3
        timings["generate"] = timings["total"] = (time.perf_counter() - began) * 1e3
        timings = {name: round(value, 2) for name, value in timings.items()}
        timings |= {name: float(raw[name]) for name in ("prompt_tokens", "completion_tokens") if name in raw}
        unknowing = not text.strip() or says_no_answer(text) or bool(_UNKNOWING.search(text))
        return closed_book_record(
            question,
            text.strip(),
            refused=unknowing,
            model=self.llm.metadata.model_name,
            timings=timings,
            refusals=self.refusals,
        )


def summary(records: Mapping[str, Record], *, seed: int = 0) -> dict[str, Any]:
    """What is no figure of single answers: the risk–coverage curve over the answers given, how well their confidence
    tells answerable questions, why answers were refused, and the figures by kind, language and group."""
    answered = [record for record in records.values() if record.get("confidence") is not None]
    seen = [record for record in records.values() if "signals" in record]
    signals = [{**record["signals"], "confidence": confidence(record["signals"])} for record in seen]
    found: dict[str, Any] = {
        "answered_by": dict(Counter(record["answered_by"] for record in records.values())),
        "refused_by": dict(Counter(record["refused_by"] for record in records.values() if record["refused"])),
        "by": {key: table for key in ("answerable", "kind", "language", "group") if (table := _by(records, key))},
    }
    if answered:
        found["risk_coverage"] = risk_coverage(
            [record["confidence"] for record in answered],
            [record["loss"] for record in answered],
            clusters=[record["cluster"] or record["id"] for record in answered],
            seed=seed,
        )
    told = {
        name: separation([values[name] for values in signals], [record["answerable"] for record in seen])
        for name in sorted(signals[0] if signals else ())
    }
    if any(value is not None for value in told.values()):
        found["answerable_auroc"] = told
    return found


def _by(records: Mapping[str, Record], key: str) -> dict[str, dict[str, Any]]:
    """Figures of each group of records, where there are several groups."""
    groups: dict[str, dict[str, Record]] = {}
    for identifier, record in records.items():
        groups.setdefault(str(record.get(key)), {})[identifier] = record
    if len(groups) < 2:
        return {}
    return {
        name: {
            "n": len(members),
            **{
                metric: {"value": estimate.value, "low": estimate.low, "high": estimate.high}
                for metric, estimate in estimates(
                    table_of(members), clusters=clusters_of(members), resamples=TABLE_RESAMPLES
                ).items()
                if estimate.value is not None
            },
        }
        for name, members in sorted(groups.items())
    }
