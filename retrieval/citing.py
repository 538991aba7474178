"""A written answer and the passages it was given → the same answer with checked citations.

Numbers the model made up are taken out, each sentence is compared with the passages, and every citation gets the exact
stretch of the document that bears it out best. By shared words, or by a support checker within what numbers, names and
negations allow. It knows no kind of checker and no prompt.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from retrieval.errors import FathomError
from retrieval.flagging import unknown_names
from retrieval.packing import DocumentOf
from retrieval.passages import Citation, Hit, Support
from retrieval.quoting import cite
from retrieval.sentences import sentence_spans
from retrieval.support import MARKER, Evidence, best_evidence, content_tokens
from retrieval.supporting.checker import ORDER, SupportChecker, checked_text
from retrieval.supporting.claims import FEWEST_WORDS, claim_of
from retrieval.supporting.lexical import LEXICAL

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_CLOSING = re.compile(r"[.!?。！？…:：;；\"”’』」)）*_]*$")
_YES_OR_NO = re.compile(
    r"^\s*(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have|had|may|must|isn't|aren't|don't|doesn't)\b"
    r"|吗|是否|能否|可否|有没有|是不是|能不能",
    re.IGNORECASE,
)
MOST_PER_SENTENCE = 3
"""Citations of one sentence: more say nothing of where it comes from."""
OTHERS_CHECKED = 2
"""Passages that the model did not name and a checker reads for a sentence: those that share most words with it."""
MOST_SENTENCES = 24
"""Sentences that a checker reads; an answer that runs on is compared by words from there on."""
_LOG = logging.getLogger(__name__)
Table = list[dict[int, Evidence]]
"""For each sentence, number → evidence in that passage."""


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """`text` holds exactly the numbers of `citations`. `verdicts` has one entry per sentence that claims something.
    `checker` names what gave them."""

    text: str
    citations: tuple[Citation, ...]
    verdicts: tuple[Support, ...]
    checker: str = LEXICAL

    @property
    def support(self) -> float:
        """How much of what it claims is borne out, 0 to 1; a sentence that is so in part counts half."""
        return sum(ORDER[verdict] for verdict in self.verdicts) / (2 * len(self.verdicts)) if self.verdicts else 0.0


@dataclass(frozen=True, slots=True)
class _Sentence:
    """[start, end) of the answer without marks, and the passages that the model named for it."""

    start: int
    end: int
    text: str
    named: tuple[int, ...]

    @property
    def announces(self) -> bool:
        """It says that something follows, and claims nothing itself."""
        return self.text.endswith((":", "："))


def check_citations(
    text: str,
    given: Sequence[Hit],
    document: DocumentOf | None = None,
    *,
    question: str = "",
    echoes: bool = True,
    checker: SupportChecker | None = None,
) -> CheckedAnswer:
    """Number i + 1 means `given[i]`. A sentence without a (right) citation gets the passage that supports it best,
    if one does; a cited passage that does not bear the sentence out stays, marked "no". Words that only repeat the
    `question` bear nothing out, unless `echoes` is False. A `checker` that fails leaves the verdicts to shared words,
    which is logged.
    """
    plain, marks = strip_markers(text)
    # "Does X use Y?" is answered in its own words; "When …?" is not.
    asked = frozenset() if not question or not echoes or _YES_OR_NO.search(question) else content_tokens(question)
    sentences = _sentences(plain, marks, len(given))
    table = [
        {n: _evidence(one.text, hit, asked, question) for n, hit in enumerate(given, 1)} if not one.announces else {}
        for one in sentences
    ]
    by = LEXICAL
    if checker is not None and checker.name != LEXICAL:
        table, by = _checked(sentences, table, given, question, checker)
    citations: list[Citation] = []
    verdicts: list[Support] = []
    parts: list[str] = []
    position = 0
    for one, evidence in zip(sentences, table, strict=True):
        if one.announces:
            parts.append(plain[position : one.end])
            position = one.end
            continue
        found = _support(one, evidence)
        if any(e.verdict == "yes" for _, e in found) and unknown_names(one.text, given, question):
            # Somebody who stands in no passage has got into words that do.
            found = [(n, replace(e, verdict="partly") if e.verdict == "yes" else e) for n, e in found]
        kept: list[int] = []
        for n, best in found:
            citation = cite(n, given[n - 1], best.start, best.end, best.verdict, document)
            if citation is not None:
                kept.append(n)
                _keep(citation, citations)
        if content_tokens(one.text):
            verdicts.append(max((e.verdict for _, e in found), key=ORDER.__getitem__, default="no"))
        head = one.text[: _CLOSING.search(one.text).start()]  # type: ignore[union-attr]
        # A mark inside a code fence or after a table row's last bar would be part of it.
        head = one.text if one.text.endswith(("|", "`")) else head
        shown = "".join(f"[{n}]" for n in kept)
        parts.append(plain[position : one.start] + head + (f" {shown}" if shown else "") + one.text[len(head) :])
        position = one.end
    parts.append(plain[position:])
    return CheckedAnswer("".join(parts).strip(), tuple(citations), tuple(verdicts), by)


def _sentences(plain: str, marks: Sequence[tuple[int, list[int]]], count: int) -> list[_Sentence]:
    spans = sentence_spans(plain)
    found = []
    for index, (start, end) in enumerate(spans):
        following = spans[index + 1][0] if index + 1 < len(spans) else len(plain) + 1
        named = [n for at, numbers in marks if start < at <= following - (following <= len(plain)) for n in numbers]
        right = tuple(n for n in dict.fromkeys(named) if 1 <= n <= count)
        found.append(_Sentence(start, end, plain[start:end], right))
    return found


def _checked(
    sentences: Sequence[_Sentence], table: Table, given: Sequence[Hit], question: str, checker: SupportChecker
) -> tuple[Table, str]:
    """The table with the checker's verdicts, no better than words allow, and what to call what gave them."""
    texts = [checked_text(hit) for hit in given]
    new = [dict(evidence) for evidence in table]
    places: list[tuple[int, int]] = []
    for row, (one, evidence) in enumerate(zip(sentences, table, strict=True)):
        if one.announces or row >= MOST_SENTENCES or not content_tokens(one.text):
            continue
        others = sorted((n for n in evidence if n not in one.named), key=lambda n: -evidence[n].share)
        for n in evidence:
            if _verbatim(one.text, given[n - 1]):
                continue
            # Words that are not there at all have no stretch to cite, whatever a model makes of them.
            if (n in one.named or n in others[:OTHERS_CHECKED]) and evidence[n].end and evidence[n].most != "no":
                places.append((row, n))
            new[row][n] = replace(evidence[n], verdict="no")
    try:
        odds = checker([(claim_of(sentences[row].text, question), texts[n - 1]) for row, n in places])
    except FathomError as error:
        _LOG.warning("the support checker '%s' failed, words are compared instead: %s", checker.name, error)
        return table, f"{LEXICAL} ({checker.name} failed)"
    for (row, n), told in zip(places, odds, strict=True):
        old = table[row][n]
        new[row][n] = replace(old, verdict=min(told.verdict, old.most, key=ORDER.__getitem__))
    return new, checker.name


def _verbatim(sentence: str, hit: Hit) -> bool:
    """Whether a sentence of some length stands in the passage word for word: no model need be asked."""
    said = " ".join(sentence.split()).rstrip(" .。!！").casefold()
    return len(content_tokens(said)) >= FEWEST_WORDS and said in " ".join(hit.passage.text.split()).casefold()


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


def _support(sentence: _Sentence, evidence: Mapping[int, Evidence]) -> list[tuple[int, Evidence]]:
    """The citations of one sentence: those the model named that hold, else the passage that does, else as named."""
    named_evidence = [(n, evidence[n]) for n in sentence.named]
    holding = [(n, found) for n, found in named_evidence if found.verdict != "no"]
    if holding:
        return holding[:MOST_PER_SENTENCE]
    others = [(n, found) for n, found in evidence.items() if n not in sentence.named]
    best = max(others, key=lambda item: (ORDER[item[1].verdict], item[1].share), default=None)
    if best is not None and best[1].verdict != "no" and len(content_tokens(sentence.text)) > 1:
        return [best]
    return [(n, found) for n, found in named_evidence if found.end > found.start][:MOST_PER_SENTENCE]


def _evidence(sentence: str, hit: Hit, asked: frozenset[str], question: str) -> Evidence:
    text = hit.passage.text
    context = " ".join([hit.source.title, *hit.passage.headings])
    found = best_evidence(sentence, text, context=context, question=question)
    said = content_tokens(sentence) - asked
    shared = len(said & content_tokens(text[found.start : found.end]))
    # "The answer is in the answer" and a question asked back share words with any passage about the same thing.
    empty = sentence.endswith(("?", "？")) or (bool(asked) and shared < (1 if found.verdict == "yes" else 2))
    return replace(found, verdict="no", most="no") if empty else found


def _keep(citation: Citation, citations: list[Citation]) -> None:
    """One citation per number and stretch; of two verdicts on it the worse, so that none is hidden."""
    for index, other in enumerate(citations):
        if (other.n, other.start, other.end) == (citation.n, citation.start, citation.end):
            if ORDER[citation.supported] < ORDER[other.supported]:
                citations[index] = replace(other, supported=citation.supported)
            return
    citations.append(citation)
