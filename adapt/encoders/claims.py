"""Claims with the sentences that decide them → pairs of claim and passage, each with its class. It knows no model.

Two forms: JSON lines {claim, passage, label}, as `fathom data claims` writes them, and SciFact's (Wadden et al. 2020,
arXiv:2004.14974): lines {id, claim, evidence_doc_id, label, evidence_sentences, cited_doc_ids} beside a corpus, with
the labels SUPPORT, CONTRADICT and NOT_ENOUGH_INFO.
"""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from adapt.encoders.pair_recipe import PairSource
from eval.data.claim_pairs import LABELS as PAIR_LABELS
from eval.data.claim_pairs import ClaimPair, read_pairs
from eval.data.corpora import find_jsonl, numbered_jsonl, read_corpus, read_jsonl, words
from retrieval.errors import ReadingError, UsageError
from retrieval.sentences import sentence_spans

LABELS = ("support", "refute", "neutral")
_WRITTEN = {"SUPPORT": 0, "SUPPORTS": 0, "CONTRADICT": 1, "REFUTES": 1, "NOT_ENOUGH_INFO": 2, "NOT ENOUGH INFO": 2}
AROUND = 1
"""Sentences of context on either side of what decides a claim, as a passage has."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, a passage, and which of `LABELS` it is."""

    claim: str
    passage: str
    label: int


def load_claims(
    name: str, source: PairSource, root: Path, held_out: float, seed: int
) -> tuple[list[Claim], list[Claim]]:
    """(to learn from, held out by the hash of the document). Raises UsageError, ReadingError."""
    path = root / Path(source.path).expanduser()
    if not path.exists():
        raise UsageError(f"data: {name}: there is no '{path}'; correct the path or give it with --data {name}=PATH")
    file = path if path.is_file() else find_jsonl(path, "claims_evidence")
    if file is None:
        raise UsageError(f"data: {name}: '{path}' has no claims_evidence.jsonl; name the file of claims")
    if "passage" in next(read_jsonl(file), {}):
        return _of_pairs(read_pairs(file), source, held_out, seed)
    texts = {document.id: (document.title, document.text) for document in read_corpus(file.parent).documents}
    learned: list[Claim] = []
    held: list[Claim] = []
    for line, row in numbered_jsonl(file):
        if source.split is not None and row.get("split") != source.split:
            continue
        label = _WRITTEN.get(words(row, "label", file, line).upper())
        if label is None:
            known = ", ".join(_WRITTEN)
            raise ReadingError(str(file), "field", f"line {line}: the label is none of {known}.")
        document = str(row.get("evidence_doc_id") or next(iter(row.get("cited_doc_ids") or []), ""))
        if document not in texts:
            continue
        given = row.get("evidence_sentences") or []
        if not isinstance(given, list) or not all(type(place) is int and place >= 0 for place in given):
            raise ReadingError(str(file), "field", f"line {line}: 'evidence_sentences' is no list of places.")
        chooser = random.Random(f"{seed}-{line}")
        claims = _of(words(row, "claim", file, line), *texts[document], given, label, chooser)
        (held if _share(document) < held_out else learned).extend(claims)
    if not learned:
        raise UsageError(f"data: {name}: '{path}' holds no claim whose document is in its corpus; name another source")
    if source.limit is not None and source.limit < len(learned):
        learned = random.Random(seed).sample(learned, source.limit)
    return learned, held


def _share(document: str) -> float:
    """Where a document stands between 0 and 1, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest(), "big") / 2**64


def _of_pairs(
    pairs: list[ClaimPair], source: PairSource, held_out: float, seed: int
) -> tuple[list[Claim], list[Claim]]:
    learned: list[Claim] = []
    held: list[Claim] = []
    for pair in pairs:
        claim = Claim(pair.claim, pair.passage, PAIR_LABELS.index(pair.label))
        (held if _share(pair.document or pair.passage) < held_out else learned).append(claim)
    if source.limit is not None and source.limit < len(learned):
        learned = random.Random(seed).sample(learned, source.limit)
    return learned, held


def _of(claim: str, title: str, text: str, evidence: list[int], label: int, chooser: random.Random) -> list[Claim]:
    """The passage with the evidence; and of the same document one without it, which says nothing on the claim: what a
    checker meets most is a passage of the right document that does not say so."""
    spans = sentence_spans(text)
    if not spans:
        return []

    def around(first: int, last: int) -> str:
        start, end = spans[max(0, first - AROUND)][0], spans[min(len(spans) - 1, last + AROUND)][1]
        return f"{title}\n{text[start:end]}" if title else text[start:end]

    places = [place for place in evidence if place < len(spans)]
    if label == 2 or not places:
        return [Claim(claim, around(place, place), 2) for place in [chooser.randrange(len(spans))]]
    found = [Claim(claim, around(min(places), min(max(places), min(places) + 2)), label)]
    far = [place for place in range(len(spans)) if all(abs(place - other) > AROUND + 1 for other in places)]
    if far and chooser.random() < 0.5:
        place = chooser.choice(far)
        found.append(Claim(claim, around(place, place), 2))
    return found
