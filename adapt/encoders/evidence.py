"""Questions with the spans that answer them → a test collection of sentences, to train an encoder that chooses them, or
of passages, for one that ranks them.

python -m adapt.encoders.evidence SET OUT [--hold-out SHARE] [--characters N]

SET is a folder as `fathom eval answers` reads it. Every sentence of its documents becomes a document of OUT, as quoting
cuts them, or with --characters each run of sentences that is no longer; a question's judgement (split "train") is the
one its first span begins in. Questions of the last share of the documents are left out, for measuring.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapt.instructions.from_questions import held_out_documents
from eval.data.corpora import as_document, text_start
from eval.data.questions import QuestionSet, read_questions
from retrieval.errors import FathomError, UsageError
from retrieval.quoting import sentences_of

MOST = 2
"""Sentences that a span may run over: a longer one is no sentence's answer."""


def write_evidence(found: QuestionSet, out: Path, *, hold_out: float = 0.0, characters: int = 0) -> tuple[int, int]:
    """Write corpus.jsonl, queries.jsonl and qrels/train.tsv below `out`; how many texts and questions there are. The
    texts are sentences, joined to at most `characters`.

    Raises UsageError where no question has a span, and OSError where nothing can be written.
    """
    away = held_out_documents(found, hold_out)  # those that `fathom data questions` leaves out
    sentences: dict[str, list[tuple[int, int]]] = {}
    corpus: list[dict[str, Any]] = []
    for document in found.documents:
        text, start = as_document(document).text, text_start(document)
        spans = _joined([(a, b) for a, b in sentences_of(text) if a >= start], characters)
        sentences[document.id] = spans
        corpus += [
            {"_id": f"{document.id}-s{number}", "title": document.title, "text": text[a:b]}
            for number, (a, b) in enumerate(spans)
        ]
    queries: list[dict[str, Any]] = []
    judged: list[str] = []
    for question in found.questions:
        if not question.answerable or not question.spans or question.source in away:
            continue
        span = question.spans[0]
        touched = [n for n, (a, b) in enumerate(sentences[span.document]) if a < span.end and span.start < b]
        if 1 <= len(touched) <= MOST:
            queries.append({"_id": question.id, "text": question.text})
            judged.append(f"{question.id}\t{span.document}-s{touched[0]}\t1")
    if not queries:
        raise UsageError(f'no question of {found.name} has a span that one sentence holds; write "spans" to them')
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    _lines(out / "corpus.jsonl", corpus)
    _lines(out / "queries.jsonl", queries)
    (out / "qrels" / "train.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged, ""]), encoding="utf-8")
    return len(corpus), len(queries)


def _joined(sentences: Iterable[tuple[int, int]], characters: int) -> list[tuple[int, int]]:
    """Neighbours together, as long as they have no more characters."""
    joined: list[tuple[int, int]] = []
    for start, end in sentences:
        if joined and end - joined[-1][0] <= characters:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("set", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hold-out", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--characters", type=int, default=0, metavar="N")
    chosen = parser.parse_args()
    if not 0.0 <= chosen.hold_out < 1.0:
        parser.error(f"--hold-out is a share from 0 to below 1; {chosen.hold_out} was given")
    try:
        write_evidence(read_questions(chosen.set), chosen.out, hold_out=chosen.hold_out, characters=chosen.characters)
    except (FathomError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
