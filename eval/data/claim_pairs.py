"""Claims beside passages, and what a passage is to its claim → pairs that a support checker learns from or is measured
on.

Two forms: JSON lines {"claim", "passage", "label"}, as `fathom data claims` writes them, and folders in the form of
SciFact (Wadden et al. 2020, arXiv:2004.14974). It knows no checker.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from eval.data.corpora import find_jsonl, numbered_jsonl, read_corpus, words
from retrieval.errors import ReadingError, UsageError
from retrieval.sentences import sentence_spans
from retrieval.support import best_evidence

Label = Literal["supported", "contradicted", "neutral"]
LABELS: tuple[Label, ...] = get_args(Label)
SCIFACT: Mapping[str, Label] = {
    "SUPPORT": "supported",
    "CONTRADICT": "contradicted",
    "NOT_ENOUGH_INFO": "neutral",
}
_OPTIONAL = ("document", "source", "made", "licence")
AROUND = 2
"""Sentences on either side of what decides a claim: about the length of a passage."""


@dataclass(frozen=True, slots=True)
class ClaimPair:
    """A claim, a passage, and what the passage says of it. `document` is the one the passage is of: pairs that share
    it are not independent of each other. `made` says how the claim came about, `source` names set and row."""

    claim: str
    passage: str
    label: Label
    document: str = ""
    source: str = ""
    made: str = ""
    licence: str = ""

    def as_json(self) -> dict[str, str]:
        """As it stands in a file; what is not known is left out."""
        row: dict[str, str] = {"claim": self.claim, "passage": self.passage, "label": self.label}
        return row | {name: value for name in _OPTIONAL if (value := getattr(self, name))}


def scifact_file(path: Path) -> Path | None:
    """The file of claims in a folder in the form of SciFact, None where it is no such folder."""
    return find_jsonl(path, "claims_evidence") if path.is_dir() else None


def read_pairs(path: Path, split: str | None = None) -> list[ClaimPair]:
    """The pairs of a .jsonl (.jsonl.gz) file, or of a folder in the form of SciFact. Raises UsageError for another
    place and for a split that is not there, ReadingError (file, line) for what is malformed."""
    claims = scifact_file(path)
    if claims is not None:
        return _of_scifact(claims, split)
    if not path.is_file() or not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise UsageError(
            f"'{path}' holds no claims; give .jsonl lines of claim, passage and label, or a folder with "
            "claims_evidence.jsonl and its corpus"
        )
    pairs = []
    for line, row in numbered_jsonl(path):
        label = row.get("label")
        if label not in LABELS:
            said = f"line {line}: the label is {str(label)[:40]!r}; it is one of {', '.join(LABELS)}."
            raise ReadingError(str(path), "label", said)
        claim, passage = words(row, "claim", path, line), words(row, "passage", path, line)
        if not claim.strip():
            raise ReadingError(str(path), "empty", f"line {line}: the claim says nothing.")
        more = {name: words(row, name, path, line) for name in _OPTIONAL if name in row}
        pairs.append(ClaimPair(claim, passage, cast(Label, label), **more))
    if not pairs:
        raise UsageError(f"{path} holds no claims")
    return pairs


def scifact_documents(path: Path) -> dict[str, set[str]]:
    """Split → the documents that its claims are held against. Raises ReadingError."""
    found: dict[str, set[str]] = {}
    for _, row in numbered_jsonl(path):
        document = _document_of(row)
        if document:
            found.setdefault(str(row.get("split", "")), set()).add(document)
    return found


def _document_of(row: Mapping[str, Any]) -> str:
    cited = row.get("cited_doc_ids") or [""]
    return str(row.get("evidence_doc_id") or (cited[0] if isinstance(cited, list) else ""))


def _of_scifact(path: Path, split: str | None) -> list[ClaimPair]:
    """Each claim with the sentences of the abstract that decide it and those around; one that nothing decides, with
    those that come nearest to it by their words."""
    documents = {document.id: document for document in read_corpus(path.parent).documents}
    pairs: list[ClaimPair] = []
    splits: set[str] = set()
    for line, row in numbered_jsonl(path):
        splits.add(str(row.get("split", "")))
        if split is not None and row.get("split") != split:
            continue
        label = SCIFACT.get(words(row, "label", path, line))
        if label is None:
            raise ReadingError(str(path), "label", f"line {line}: the label is none of {', '.join(SCIFACT)}.")
        document = documents.get(_document_of(row))
        if document is None:
            raise ReadingError(str(path), "unknown-document", f"line {line}: its abstract is not in the corpus.")
        claim = words(row, "claim", path, line)
        places = row.get("evidence_sentences") or []
        if not isinstance(places, list) or not all(type(place) is int and place >= 0 for place in places):
            raise ReadingError(str(path), "field", f"line {line}: 'evidence_sentences' is no list of places.")
        passage = _around(document.text, claim, places)
        passage = f"{document.title}\n{passage}".strip()
        source = f"{path.parent.name}#{row.get('id', line)}"
        pairs.append(ClaimPair(claim, passage, label, document.id, source, "judged by people"))
    if not pairs:
        raise UsageError(f"{path} has no split '{split}'; it has {', '.join(sorted(splits)) or 'nothing'}")
    return pairs


def _around(text: str, claim: str, places: list[int]) -> str:
    spans = sentence_spans(text)
    there = [place for place in places if place < len(spans)]
    if not there and spans:
        found = best_evidence(claim, text)
        there = [n for n, (start, end) in enumerate(spans) if start < found.end and found.start < end] or [0]
    if not there:
        return text
    # Evidence that lies far apart has no passage of its own: its first part has.
    last = min(max(there), min(there) + 2 * AROUND)
    first, last = max(0, min(there) - AROUND), min(len(spans) - 1, last + AROUND)
    return text[spans[first][0] : spans[last][1]]
