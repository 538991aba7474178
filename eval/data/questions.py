"""A file of questions, or its folder → questions with gold answers and gold spans, and the documents they are about.

Three forms: Fathom question files and other JSON lines with the same words (`questions.jsonl`, `qa.jsonl`, gzipped or
not, documents beside them), and SQuAD 1.1/2.0 JSON. It knows no pipeline and no metric.
"""

import json
import random
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from eval.data.corpora import CorpusDocument, as_document, find_jsonl, identifier, numbered_jsonl, text_start, words
from eval.data.gold import GoldSpan, units
from eval.data.hashes import hashes_of
from eval.data.question_documents import Beside, located, read_documents
from eval.figures.stated_answers import number_of
from retrieval.errors import ReadingError, UsageError
from retrieval.prompts import Language, Message, Role, language_of

if TYPE_CHECKING:
    from retrieval.collection import Collection

Kind = Literal["span", "yes-no", "choice", "number", "text"]
YES_NO: dict[Language, tuple[str, ...]] = {"en": ("yes", "no"), "zh": ("是", "否")}
_VERDICTS = ("yes", "no", "maybe")
_ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class Question:
    """One question and what is known to be right.

    `answers` are alternatives, but for `together`: then each is a part of the one answer. Every entry of `evidence` is
    one thing to be found; its spans say the same, and their offsets count in the text that is indexed. `documents` hold
    the answer (of an unanswerable question: where one would look), `within` is the one document it asks about, any
    where empty. `references` are long answers to be compared by ROUGE. `scale` is what a number counts in ("million",
    "percent"). `group` is a category to report by.
    """

    id: str
    text: str
    answers: tuple[str, ...] = ()
    answerable: bool = True
    kind: Kind = "span"
    evidence: tuple[tuple[GoldSpan, ...], ...] = ()
    documents: tuple[str, ...] = ()
    within: str = ""
    choices: tuple[str, ...] = ()
    history: tuple[Message, ...] = ()
    together: bool = False
    references: tuple[str, ...] = ()
    scale: str = ""
    group: str = ""

    @property
    def language(self) -> Language:
        """Whose rules the answer is measured by: Chinese as soon as the question or an answer to it is."""
        return "zh" if "zh" in map(language_of, (self.text, *self.answers)) else "en"

    @property
    def spans(self) -> tuple[GoldSpan, ...]:
        """All gold spans."""
        return tuple(span for alternatives in self.evidence for span in alternatives)

    @property
    def source(self) -> str | None:
        """The document the question was made from: questions that share it are not independent of each other."""
        named = [*(span.document for span in self.spans), *self.documents, self.within]
        return named[0] or None


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions in the order of their file, with the documents they are asked of. `data` is file → SHA-256."""

    name: str
    form: str
    questions: tuple[Question, ...]
    documents: tuple[CorpusDocument, ...]
    data: Mapping[str, str]


def read_questions(path: Path, *, split: str | None = None, collection: "Collection | None" = None) -> QuestionSet:
    """The questions of a file, or of the one question file in a folder. `split` keeps the rows of that split. With
    `collection` the documents are its documents, and none are read from files.

    A line of JSON lines: {"id", "question", "answers": [..], "answerable": true, "spans": [{"document", "start",
    "end"}], "documents": [uri], "within": uri, "kind": "span|yes-no|choice|number|text", "choices": [..], "context":
    text, "history": [{"role", "text"}], "reference": text, "scale", "group"}; only id and question must be there, and
    of an answerable question answers or spans. The words of the public sets stand for the same: context_id with
    answer_starts, doc_id, contexts, answer_type, long_answer, category. Documents are `documents/`, corpus.jsonl,
    contexts.jsonl or contracts.jsonl beside the file, or the rows' own contexts.

    Raises UsageError where there is no such file, ReadingError (file, line) for what is malformed.
    """
    file = _question_file(path)
    if file.suffix == ".json":
        if split is not None:
            raise UsageError(f"{file} has no splits; leave the split out")
        found = _read_squad(file)
    else:
        found = _read_lines(file, split, Beside.of(collection) if collection else read_documents(file.parent))
    if not found.questions:
        raise ReadingError(str(file), "empty", "holds no question.")
    return found


def sampled(found: QuestionSet, limit: int | None, *, seed: int = 0) -> tuple[Question, ...]:
    """At most `limit` questions, drawn at random, in the order of their file."""
    if limit is None or limit >= len(found.questions):
        return found.questions
    chosen = sorted(random.Random(seed).sample(range(len(found.questions)), limit))
    return tuple(found.questions[index] for index in chosen)


def _question_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix == ".json" or path.name.endswith((".jsonl", ".jsonl.gz")):
            return path
        raise UsageError(f"'{path}' is no question file; give .jsonl, .jsonl.gz or SQuAD's .json")
    if not path.is_dir():
        raise UsageError(f"there is no '{path}'; name a question file or the folder that holds one")
    for stem in ("questions", "qa"):
        file = find_jsonl(path, stem)
        if file is not None:
            return file
    files = sorted(file for file in path.iterdir() if file.suffix == ".json")
    if len(files) == 1:
        return files[0]
    there = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
    raise UsageError(
        f"'{path}' holds no questions.jsonl, no qa.jsonl and not just one .json, but {there}; name the file"
    )


# --- JSON lines -------------------------------------------------------------------------------------------------------


def _read_lines(file: Path, split: str | None, beside: Beside) -> QuestionSet:
    documents = beside.documents
    contexts: dict[str, str] = {}
    questions: dict[str, Question] = {}
    found = list(numbered_jsonl(file))
    splits = sorted({str(row["split"]) for _, row in found if "split" in row})
    if split is not None and split not in splits:
        raise UsageError(f"{file} has no split '{split}'; it holds {', '.join(splits) or 'none'}")
    verdicts = {
        str(a).strip().lower() for _, row in found if isinstance(row.get("answers"), list) for a in row["answers"]
    }
    # All of a set's answers tell what may be chosen from, where the rows do not.
    choices = tuple(v for v in _VERDICTS if v in verdicts) if verdicts and verdicts <= set(_VERDICTS) else ()
    answers_are_documents = file.name.startswith("qa.jsonl") and not beside.form
    for number, row in found:
        if split is not None and row.get("split") != split:
            continue
        place = _Place(file, f"line {number}", number)
        question = _question(row, place, documents, contexts, choices, answers_are_documents)
        if question.id in questions:
            raise place.wrong("duplicate-id", f"the id '{question.id}' was used before; every question needs its own")
        questions[question.id] = question
    name = file.parent.name if file.name.startswith(("qa.", "questions.")) else file.name.removesuffix(".gz")
    name = name.removesuffix(".jsonl")
    form = "questions" if beside.form in ("", "documents") else beside.form
    return QuestionSet(
        name, form, tuple(questions.values()), tuple(documents.values()), {**hashes_of(file), **beside.data}
    )


@dataclass(frozen=True, slots=True)
class _Place:
    file: Path
    where: str
    line: int = 0

    def wrong(self, reason: str, what: str) -> ReadingError:
        return ReadingError(str(self.file), reason, f"{self.where}: {what}.")

    def identifier(self, row: Mapping[str, Any], name: str) -> str:
        return identifier(row, name, self.file, self.line) if self.line else str(self._there(row, name))

    def words(self, row: Mapping[str, Any], name: str) -> str:
        return words(row, name, self.file, self.line) if self.line else str(self._there(row, name))

    def _there(self, row: Mapping[str, Any], name: str) -> Any:
        if not isinstance(row.get(name), str | int):
            raise self.wrong("field", f'has no "{name}"')
        return row[name]


def _question(
    row: Mapping[str, Any],
    place: _Place,
    documents: MutableMapping[str, CorpusDocument],
    contexts: dict[str, str],
    verdicts: tuple[str, ...],
    answers_are_documents: bool,
) -> Question:
    key, text = place.identifier(row, "id"), place.words(row, "question")
    if not text.strip():
        raise place.wrong("empty", f"question '{key}' has no text")
    answerable = row.get("answerable", True)
    if not isinstance(answerable, bool):
        raise place.wrong("field", f'"answerable" is true or false, not {answerable!r}')
    # What stands as answer to a question without one is a wrong answer that looks right, as SQuAD's plausible_answers.
    answers = _answers(row, place) if answerable else ()
    homes = _homes(row, place, key, documents, contexts)
    if answers_are_documents and not homes and "spans" not in row:
        homes = tuple(_answer_document(answer, key, row, documents, contexts) for answer in answers)
    parts = "doc_id" in row or row.get("answer_type") == "multi-span"
    evidence = _evidence(row, place, answers, homes, documents, parts) if answerable else ()
    spans = [span for alternatives in evidence for span in alternatives]
    if answerable and not answers:
        answers = tuple(dict.fromkeys(as_document(documents[s.document]).text[s.start : s.end] for s in spans))
        if not answers:
            raise place.wrong(
                "field", 'an answerable question needs "answers" or "spans"; else say "answerable": false'
            )
    question = Question(
        id=key,
        text=text.strip(),
        answers=answers,
        answerable=answerable,
        evidence=evidence,
        documents=tuple(
            dict.fromkeys([*_uris(row, "documents", place, documents), *homes, *(s.document for s in spans)])
        ),
        within=homes[0] if "doc_id" in row else _within(row, place, documents),
        history=_history(row, place),
        together=row.get("answer_type") == "multi-span",
        references=tuple(str(row[key]) for key in ("reference", "long_answer") if row.get(key)),
        scale=str(row.get("scale") or ""),
        group=str(row.get("group") or row.get("answer_type") or ("" if "doc_id" in row else row.get("qtype") or "")),
    )
    return _with_kind(question, row, place, verdicts, answers_are_documents)


def _answers(row: Mapping[str, Any], place: _Place) -> tuple[str, ...]:
    given = row.get("answers", [])
    if not isinstance(given, list):
        raise place.wrong("field", f'"answers" is a list of texts, not a {type(given).__name__}')
    for answer in given:
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise place.wrong("field", f'"answers" is a list of texts; {answer!r} is none')
    answers = tuple(dict.fromkeys(str(answer) for answer in given if str(answer).strip()))
    if given and not answers:
        raise place.wrong("field", '"answers" are empty texts; else say "answerable": false')
    return answers


def _homes(
    row: Mapping[str, Any],
    place: _Place,
    key: str,
    documents: MutableMapping[str, CorpusDocument],
    contexts: dict[str, str],
) -> tuple[str, ...]:
    """The document that a row names or carries; a context carried by several rows is one document."""
    carried = row.get("context", row.get("contexts"))
    if carried is not None:
        pieces = [carried] if isinstance(carried, str) else carried
        if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
            raise place.wrong("field", '"context" is a text, "contexts" a list of texts')
        text = "\n\n".join(pieces)
        if not text.strip():
            raise place.wrong("field", "the context is empty")
        uri = contexts.setdefault(text, str(row.get("context_id") or key))
        known = documents.setdefault(uri, CorpusDocument(uri, "", text))
        if known.text != text:
            raise place.wrong("duplicate-id", f"the context '{uri}' stands elsewhere with another text")
        return (uri,)
    named = row.get("context_id", row.get("doc_id"))
    if named is None:
        return ()
    if str(named) not in documents:
        raise place.wrong("unknown-document", f"names the document '{named}', which is not among the {len(documents)}")
    return (str(named),)


def _answer_document(
    answer: str,
    key: str,
    row: Mapping[str, Any],
    documents: MutableMapping[str, CorpusDocument],
    contexts: dict[str, str],
) -> str:
    """An answer of a set without documents, as a document: the question is then to find it."""
    uri = contexts.setdefault(answer.strip(), f"{key}-a{len(contexts)}")
    documents.setdefault(uri, CorpusDocument(uri, str(row.get("focus") or ""), answer))
    return uri


def _evidence(
    row: Mapping[str, Any],
    place: _Place,
    answers: tuple[str, ...],
    homes: tuple[str, ...],
    documents: Mapping[str, CorpusDocument],
    parts: bool,
) -> tuple[tuple[GoldSpan, ...], ...]:
    if "spans" in row:
        given = row["spans"]
        if not isinstance(given, list):
            raise place.wrong("field", f'"spans" is a list, not a {type(given).__name__}')
        return tuple((span,) for span in units([_span(item, place, documents) for item in given]))
    if "answer_starts" in row and homes:
        starts = row["answer_starts"]
        if not isinstance(starts, list) or len(starts) < len(answers):
            raise place.wrong("field", '"answer_starts" is a list with an offset for every answer')
        # Several annotators mark alternatives: to cite one of them is enough.
        found = tuple(_at(start, answers, documents[homes[0]], place) for start in dict.fromkeys(starts))
        return (found,) if found else ()
    if parts or row.get("answer_type") == "span":
        each = [_places(answer, homes, documents) for answer in answers]
        each = each if parts else [tuple(span for spans in each for span in spans)]
        return tuple(spans for spans in each if spans)
    return ()


def _places(answer: str, homes: tuple[str, ...], documents: Mapping[str, CorpusDocument]) -> tuple[GoldSpan, ...]:
    return tuple(
        GoldSpan(home, start, end)
        for home in homes
        for start, end in located(answer, as_document(documents[home]).text)
    )


def _span(item: Any, place: _Place, documents: Mapping[str, CorpusDocument]) -> GoldSpan:
    if not isinstance(item, dict) or not {"document", "start", "end"} <= set(item):
        raise place.wrong("field", 'a span is {"document": uri, "start": n, "end": n}')
    uri, start, end = str(item["document"]), item["start"], item["end"]
    if uri not in documents:
        raise place.wrong(
            "unknown-document", f"a span names '{uri}', which is not among the {len(documents)} documents"
        )
    length = len(documents[uri].text)
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
        raise place.wrong("offsets", f"the span {start!r} to {end!r} does not lie in '{uri}' ({length:,} characters)")
    before = text_start(documents[uri])
    return GoldSpan(uri, start + before, end + before)


def _at(start: Any, answers: tuple[str, ...], document: CorpusDocument, place: _Place) -> GoldSpan:
    there = ""
    if type(start) is int and start >= 0:
        for answer in sorted(answers, key=len, reverse=True):
            if document.text.startswith(answer, start):
                before = text_start(document)
                return GoldSpan(document.id, start + before, start + before + len(answer))
        there = document.text[start : start + 20]
    what = f"no answer begins at {start!r} of '{document.id}', where '{there}' stands"
    raise place.wrong("offsets", f"{what}; '{answers[0][:40]}' was expected" if answers else what)


def _uris(row: Mapping[str, Any], key: str, place: _Place, documents: Mapping[str, CorpusDocument]) -> tuple[str, ...]:
    given = row.get(key, [])
    if not isinstance(given, list):
        raise place.wrong("field", f'"{key}" is a list of document names, not a {type(given).__name__}')
    for uri in given:
        if str(uri) not in documents:
            raise place.wrong("unknown-document", f"\"{key}\" names '{uri}', which is not among the {len(documents)}")
    return tuple(str(uri) for uri in given)


def _within(row: Mapping[str, Any], place: _Place, documents: Mapping[str, CorpusDocument]) -> str:
    within = str(row.get("within") or "")
    if within and within not in documents:
        raise place.wrong("unknown-document", f"\"within\" names '{within}', which is not among the {len(documents)}")
    return within


def _history(row: Mapping[str, Any], place: _Place) -> tuple[Message, ...]:
    given = row.get("history", [])
    messages = []
    for item in given if isinstance(given, list) else [None]:
        message = item if isinstance(item, dict) else {}
        role, text = message.get("role"), message.get("text", message.get("content"))
        if not isinstance(text, str) or role not in _ROLES:
            raise place.wrong("field", '"history" is a list of {"role": "user" or "assistant", "text": …}')
        messages.append(Message(cast(Role, role), text))
    return tuple(messages)


def _with_kind(
    question: Question, row: Mapping[str, Any], place: _Place, verdicts: tuple[str, ...], long_answers: bool
) -> Question:
    choices = row.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise place.wrong("field", '"choices" is a list of texts')
    kind = row.get("kind")
    if kind is not None and kind not in get_args(Kind):
        raise place.wrong("field", f"there is no kind '{kind}'; kinds are {', '.join(get_args(Kind))}")
    if kind is None:
        numeric = row.get("answer_type") in ("arithmetic", "count") or (
            "scale" in row and all(number_of(answer) for answer in question.answers)
        )
        guessed = "choice" if choices or verdicts else "number" if numeric else "text" if long_answers else "span"
        kind = guessed if question.answerable or choices or verdicts else "span"
    if kind in ("yes-no", "choice"):
        choices = choices or (YES_NO[question.language] if kind == "yes-no" else verdicts)
        question = replace(question, choices=tuple(choices), answers=_chosen(question, tuple(choices), place))
    return replace(question, kind=cast(Kind, kind))


def _chosen(question: Question, choices: tuple[str, ...], place: _Place) -> tuple[str, ...]:
    """The gold answers as they stand among the choices, named by their text or their letter."""
    if len(choices) < 2:
        raise place.wrong("field", 'a question of kind "choice" needs two "choices" or more')
    spelt = {choice.strip().lower(): choice for choice in choices}
    letters = {chr(97 + index): choice for index, choice in enumerate(choices[:26])}
    other = dict(zip((*YES_NO["en"], *YES_NO["zh"]), (*YES_NO["zh"], *YES_NO["en"]), strict=True))
    found = []
    for answer in question.answers:
        key = answer.strip().lower()
        choice = spelt.get(key) or spelt.get(other.get(key, "")) or letters.get(key)
        if choice is None:
            raise place.wrong("field", f"the answer '{answer}' is not among the choices {', '.join(choices)}")
        found.append(choice)
    return tuple(found)


# --- SQuAD ------------------------------------------------------------------------------------------------------------


def _read_squad(file: Path) -> QuestionSet:
    """SQuAD 1.1 or 2.0; every paragraph is a document. Alternatives of several annotators are one thing to be found."""
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReadingError(str(file), "json", f"is not JSON ({error}).") from error
    except OSError as error:
        raise ReadingError(str(file), "unreadable", f"cannot be read: {error.strerror or error}.") from error
    documents: dict[str, CorpusDocument] = {}
    questions: dict[str, Question] = {}
    version = "1.1"
    for a, article in _items(whole, "data", _Place(file, "the whole")):
        for p, paragraph in _items(article, "paragraphs", _Place(file, f"data[{a}]")):
            above = _Place(file, f"data[{a}].paragraphs[{p}]")
            context = paragraph.get("context")
            if not isinstance(context, str) or not context.strip():
                raise above.wrong("field", 'has no text under "context"')
            uri = f"{article.get('title') or f'article-{a}'}#{p}"
            uri = uri if uri not in documents else f"{uri}-{a}"
            documents[uri] = CorpusDocument(uri, "", context)
            for q, item in _items(paragraph, "qas", above):
                place = _Place(file, f"{above.where}.qas[{q}]")
                impossible = item.get("is_impossible", False)
                version = "2.0" if "is_impossible" in item else version
                given = item.get("answers", [])
                if not isinstance(given, list) or not all(isinstance(answer, dict) for answer in given):
                    raise place.wrong("field", '"answers" is a list of {"text", "answer_start"}')
                row: dict[str, Any] = {
                    **{key: item[key] for key in ("id", "question") if key in item},
                    "answers": [answer.get("text") for answer in given],
                    "answerable": not impossible,
                    "answer_starts": [answer.get("answer_start") for answer in given],
                    "context_id": uri,
                }
                question = _question(row, place, documents, {}, (), False)
                if question.id in questions:
                    raise place.wrong("duplicate-id", f"the id '{question.id}' was used before")
                questions[question.id] = question
    return QuestionSet(
        file.stem, f"squad-{version}", tuple(questions.values()), tuple(documents.values()), hashes_of(file)
    )


def _items(holder: Any, key: str, place: _Place) -> Iterator[tuple[int, dict[str, Any]]]:
    found = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise place.wrong("field", f'has no list of objects under "{key}"; SQuAD\'s JSON is data > paragraphs > qas')
    return enumerate(found)  # type: ignore[return-value]
