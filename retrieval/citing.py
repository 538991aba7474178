"""A written answer and the passages it was given → the same answer with checked citations.

Numbers the model made up are taken out, each sentence is compared with the passages, and every citation gets the exact
stretch of the document that bears it out best. It knows neither models nor prompts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from retrieval.flagging import unknown_names
from retrieval.packing import DocumentOf
from retrieval.passages import Citation, Hit, Support
from retrieval.quoting import cite
from retrieval.sentences import sentence_spans
from retrieval.support import MARKER, Evidence, best_evidence, content_tokens

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_CLOSING = re.compile(r"[.!?。！？…:：;；\"”’』」)）*_]*$")
_ORDER: dict[Support, int] = {"no": 0, "partly": 1, "yes": 2}
_YES_OR_NO = re.compile(
    r"^\s*(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have|had|may|must|isn't|aren't|don't|doesn't)\b"
    r"|吗|是否|能否|可否|有没有|是不是|能不能",
    re.IGNORECASE,
)
MOST_PER_SENTENCE = 3
"""Citations of one sentence: more say nothing of where it comes from."""


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """`text` holds exactly the numbers of `citations`. `verdicts` has one entry per sentence that claims something."""

    text: str
    citations: tuple[Citation, ...]
    verdicts: tuple[Support, ...]

    @property
    def support(self) -> float:
        """How much of what it claims is borne out, 0 to 1; a sentence that is so in part counts half."""
        return sum(_ORDER[verdict] for verdict in self.verdicts) / (2 * len(self.verdicts)) if self.verdicts else 0.0


def check_citations(
    text: str, given: Sequence[Hit], document: DocumentOf | None = None, *, question: str = ""
) -> CheckedAnswer:
    """Number i + 1 means `given[i]`. A sentence without a (right) citation gets the passage that supports it best,
    if one does; a cited passage that does not bear the sentence out stays, marked "no". Words that only repeat the
    `question` bear nothing out."""
    plain, marks = strip_markers(text)
    # "Does X use Y?" is answered in its own words; "When …?" is not.
    asked = frozenset() if not question or _YES_OR_NO.search(question) else content_tokens(question)
    citations: list[Citation] = []
    verdicts: list[Support] = []
    parts: list[str] = []
    position = 0
    spans = sentence_spans(plain)
    for index, (start, end) in enumerate(spans):
        following = spans[index + 1][0] if index + 1 < len(spans) else len(plain) + 1
        named = [n for at, numbers in marks if start < at <= following - (following <= len(plain)) for n in numbers]
        sentence = plain[start:end]
        if sentence.endswith((":", "：")):  # it announces something and claims nothing itself
            parts.append(plain[position:end])
            position = end
            continue
        found = _support(sentence, [n for n in dict.fromkeys(named) if 1 <= n <= len(given)], given, asked)
        if any(e.verdict == "yes" for _, e in found) and unknown_names(sentence, given, question):
            # Somebody who stands in no passage has got into words that do.
            found = [(n, replace(e, verdict="partly") if e.verdict == "yes" else e) for n, e in found]
        kept: list[int] = []
        for n, evidence in found:
            citation = cite(n, given[n - 1], evidence.start, evidence.end, evidence.verdict, document)
            if citation is not None:
                kept.append(n)
                _keep(citation, citations)
        if content_tokens(sentence):
            verdicts.append(max((e.verdict for _, e in found), key=_ORDER.__getitem__, default="no"))
        head = sentence[: _CLOSING.search(sentence).start()]  # type: ignore[union-attr]
        # A mark inside a code fence or after a table row's last bar would be part of it.
        head = sentence if sentence.endswith(("|", "`")) else head
        shown = "".join(f"[{n}]" for n in kept)
        parts.append(plain[position:start] + head + (f" {shown}" if shown else "") + sentence[len(head) :])
        position = end
    parts.append(plain[position:])
    return CheckedAnswer("".join(parts).strip(), tuple(citations), tuple(verdicts))


def strip_markers(text: str) -> tuple[str, list[tuple[int, list[int]]]]:
    """The text without citation marks, and where each stood in it with its numbers. Brackets in code are no marks."""
    code = [match.span() for match in _CODE.finditer(text)]
    parts: list[str] = []
    marks: list[tuple[int, list[int]]] = []
    position = length = block = 0
    for match in MARKER.finditer(text):
        while block < len(code) and code[block][1] <= match.start():
            block += 1
        if block < len(code) and code[block][0] < match.end():
            continue
        parts.append(text[position : match.start()])
        length += match.start() - position
        marks.append((length, _numbers(match[1])))
        position = match.end()
    parts.append(text[position:])
    return "".join(parts), marks


def _numbers(inside: str) -> list[int]:
    """ "1, 3" → [1, 3]; "2-4" → [2, 3, 4]."""
    if between := re.fullmatch(r"(\d+)\s?[-–]\s?(\d+)", inside):
        first, last = int(between[1]), int(between[2])
        return list(range(first, last + 1)) if first < last <= first + 10 else [first, last]
    return [int(number) for number in re.findall(r"\d+", inside)]


def _support(
    sentence: str, named: Sequence[int], given: Sequence[Hit], asked: frozenset[str]
) -> list[tuple[int, Evidence]]:
    """The citations of one sentence: those the model named that hold, else the passage that does, else as named."""
    named_evidence = [(n, _evidence(sentence, given[n - 1], asked)) for n in named]
    holding = [(n, evidence) for n, evidence in named_evidence if evidence.verdict != "no"]
    if holding:
        return holding[:MOST_PER_SENTENCE]
    others = [(n, _evidence(sentence, hit, asked)) for n, hit in enumerate(given, start=1) if n not in named]
    best = max(others, key=lambda item: (_ORDER[item[1].verdict], item[1].share), default=None)
    if best is not None and best[1].verdict != "no" and len(content_tokens(sentence)) > 1:
        return [best]
    return [(n, evidence) for n, evidence in named_evidence if evidence.end > evidence.start][:MOST_PER_SENTENCE]


def _evidence(sentence: str, hit: Hit, asked: frozenset[str]) -> Evidence:
    text = hit.passage.text
    found = best_evidence(sentence, text, context=" ".join([hit.source.title, *hit.passage.headings]))
    said = content_tokens(sentence) - asked
    shared = len(said & content_tokens(text[found.start : found.end]))
    # "The answer is in the answer" and a question asked back share words with any passage about the same thing.
    empty = sentence.endswith(("?", "？")) or (bool(asked) and shared < (1 if found.verdict == "yes" else 2))
    return replace(found, verdict="no") if empty else found


def _keep(citation: Citation, citations: list[Citation]) -> None:
    """One citation per number and stretch; of two verdicts on it the worse, so that none is hidden."""
    for index, other in enumerate(citations):
        if (other.n, other.start, other.end) == (citation.n, citation.start, citation.end):
            if _ORDER[citation.supported] < _ORDER[other.supported]:
                citations[index] = replace(other, supported=citation.supported)
            return
    citations.append(citation)
