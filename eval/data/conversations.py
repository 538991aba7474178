"""A file of conversational questions with human rewrites → turns, and a known-item collection out of their answers.

The collection is the conversations' own: whoever asks turn t is looking for the answer that turn t + 1 has in its
history. It knows no rewriter and no search engine.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.data.corpora import CorpusDocument, identifier, numbered_jsonl, words
from eval.data.datasets import RetrievalDataset
from eval.figures.answer_metrics import rouge_tokens
from retrieval.errors import ReadingError, UsageError
from retrieval.prompts import Message
from retrieval.tokenising import tokens

LEAST_WORDS = 4
"""Distinct words of the shortest answer that is a document: "yes" or "in 1965" is nobody's to find."""
LEAST_QUESTIONS = 20
"""Questions with an answer of their own from which a file is a test collection at all."""
_NO_ANSWER = frozenset({"cannotanswer", "unanswerable", "no answer", "无法回答", "不知道"})
_CJK = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
_TURN = re.compile(r"(?P<conversation>.+?)_q?\d+\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, the messages before it, oldest first, and the question as a person wrote it to stand alone."""

    id: str
    question: str
    history: tuple[Message, ...]
    rewrite: str
    cluster: str
    topic: str = ""
    """What the conversation is about, where the file says it; several conversations may be about the same."""

    @property
    def needed(self) -> bool:
        """Whether the question had to be rewritten: there was a history, and the person changed more than case and
        punctuation."""
        return bool(self.history) and rouge_tokens(self.question) != rouge_tokens(self.rewrite)


def read_turns(path: Path) -> list[Turn]:
    """The turns of a file with lines {"id", "history": [{"role", "text"}], "question", "rewrite"}.

    Turns of one conversation (`conversation` where a line has it, else the id before its last number: `31_4`,
    `C_2d21_q4`) share a cluster. Raises UsageError for a file without turns, ReadingError that names the line.
    """
    turns: dict[str, Turn] = {}
    for line, row in numbered_jsonl(path):
        turn = _turn(path, line, row)
        if turn.id in turns:
            raise ReadingError(str(path), "duplicate-id", f"line {line}: the id {turn.id!r} occurs twice.")
        turns[turn.id] = turn
    if not turns:
        raise UsageError(f"{path} has no turns; give lines with id, history, question and rewrite")
    return list(turns.values())


def _turn(path: Path, line: int, row: Mapping[str, Any]) -> Turn:
    key = identifier(row, "id", path, line)
    question, rewrite = words(row, "question", path, line).strip(), words(row, "rewrite", path, line).strip()
    if not question or not rewrite:
        raise ReadingError(str(path), "empty", f"line {line}: the {'rewrite' if question else 'question'} is empty.")
    history = row.get("history", [])
    if not isinstance(history, list) or not all(_is_message(item) for item in history):
        expected = 'a list of {"role": "user" or "assistant", "text": text}'
        raise ReadingError(str(path), "field", f"line {line}: 'history' is not {expected}.")
    match = _TURN.match(key)
    topic = row.get("topic")
    return Turn(
        id=key,
        question=question,
        history=tuple(Message(item["role"], words(item, "text", path, line)) for item in history),
        rewrite=rewrite,
        cluster=str(row.get("conversation") or (match["conversation"] if match else key)),
        topic=str(topic[0] if isinstance(topic, list) and topic else topic or ""),
    )


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and item.get("role") in ("user", "assistant") and isinstance(item.get("text"), str)


def known_items(turns: Sequence[Turn], name: str) -> RetrievalDataset | None:
    """Every distinct answer in the histories as a document, every turn whose answer is one of them as a query.

    The answer to a turn is what the assistant says after it in a later turn's history. Answers that say nothing of
    their own ("CANNOTANSWER", "yes", three words) are no documents, and one that repeats most of its question is
    nobody's either: any search would find it by the question alone. None where fewer than LEAST_QUESTIONS turns remain.
    """
    answers: dict[tuple[Message, ...], str] = {}
    for turn in turns:
        for place, (asked, said) in enumerate(zip(turn.history, turn.history[1:], strict=False), 1):
            if asked.role == "user" and said.role == "assistant":
                answers[turn.history[:place]] = said.text
    documents: dict[str, CorpusDocument] = {}
    for text in answers.values():
        if _says_something(text):
            documents.setdefault(_key(text), CorpusDocument(f"answer-{len(documents)}", "", text.strip()))
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for turn in turns:
        answer = answers.get((*turn.history, Message("user", turn.question)))
        document = documents.get(_key(answer)) if answer is not None else None
        if document is not None and not _echoes(turn.question, document.text):
            queries[turn.id], qrels[turn.id] = turn.question, {document.id: 1}
    if len(queries) < LEAST_QUESTIONS:
        return None
    kept = tuple(documents.values())
    return RetrievalDataset(f"{name}-{_digest(d.text for d in kept)}", "conversations", "all", kept, queries, qrels)


def _key(text: str) -> str:
    return " ".join(rouge_tokens(text))


def _says_something(text: str) -> bool:
    found = rouge_tokens(text)
    if " ".join(found) in _NO_ANSWER or "cannotanswer" in found:
        return False
    chinese = sum(1 for word in found if _CJK.match(word))
    # A Chinese word is about two characters.
    return len({*found}) - chinese / 2 >= LEAST_WORDS


def _echoes(question: str, answer: str) -> bool:
    asked, said = set(tokens(question)), set(tokens(answer))
    return bool(said) and len(asked & said) > 0.8 * len(said)


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
