"""A document's own words → pairs of a query and the passage it belongs to, without a model and without labels.

Title and heading → what stands below; the first half, or one sentence, of a passage → the rest without it (the inverse
cloze task of Lee et al. 2019, arXiv:1906.00300); a heading that asks → its answer; what code says of itself → the code.
"""

import ast
import random
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from adapt.corpus.cutting import without_heading
from adapt.queries.pair_file import LONGEST, QueryPair
from adapt.queries.pieces import Paper, Piece
from retrieval.passages import Heading
from retrieval.sentences import sentence_spans
from retrieval.splitting import embedding_text
from retrieval.support import content_tokens

DOCUMENT_KINDS = ("title", "heading", "half", "cloze", "faq", "code")
LEAST_TOLD = 2
"""Different telling words of a heading, below which it needs the title to name anything: "Abstract", "概述"."""
LEAST_ASKED = 4
"""Of a sentence that becomes a query."""
LEAST_LEFT = 8
"""Of what is left of a passage."""
LONGEST_QUERY = 300
"""Characters: people's queries are shorter, and the model reads no more than some 60 tokens of them."""
LONGEST_SECTION = 900
"""Characters of what stands below a heading: a passage of 192 tokens of English has about as many."""
LEAST_SENTENCES = 3
LARGEST_CODE = 200_000
_NUMBERED = re.compile(r"^(?:[\d.]+|[IVXLC]+\.|第[一二三四五六七八九十百\d]+[章节條条])[\s、.]+")
_ASKED = re.compile(r"^[ \t#>*\-]*(?:(?:Q|问|问题|Question)\s*\d*\s*[:：.]\s*)?(.{8,200}[?？])[ \t*]*$", re.MULTILINE)
_ANSWERED = re.compile(r"^\s*(?:A|答|回答|Answer)\s*\d*\s*[:：.]\s*")
_GAP = re.compile(r"\n\s*\n")
_LINES = re.compile(r"\A(?:[^\w\n]*\n)+")


def document_pairs(papers: Sequence[Paper], kinds: Sequence[str], seed: int) -> Iterator[tuple[Paper, list[QueryPair]]]:
    """The pairs of each document, of the kinds wanted, those of one kind together."""
    titles = Counter(_one_line(paper.title) for paper in papers)
    headings = Counter(name for paper in papers for name in {heading for heading, _ in _sections(paper)})
    for paper in papers:
        rng = random.Random(f"{seed} {paper.uri}")
        makers: Mapping[str, Iterator[QueryPair]] = {
            "title": _titles(paper, titles),
            "heading": _headings(paper, headings),
            "half": _halves(paper, rng),
            "cloze": _clozes(paper, rng),
            "faq": _asked(paper),
            "code": _code(paper),
        }
        found = [pair for kind in kinds if kind in makers for pair in makers[kind]]
        yield paper, [pair for pair in found if max(len(pair.query), len(pair.positive)) <= LONGEST]


def drawn(
    by_document: Sequence[Sequence[QueryPair]], per_document: int, count: int | None, seed: int
) -> list[QueryPair]:
    """Pairs in turn from all documents: one of each, then a second one, up to `per_document`, until there are `count`.

    A document gives its kinds in turn, so that long passages do not drown its title. Equal pairs are drawn once.
    """
    rng = random.Random(seed)
    turns = []
    for pairs in by_document:
        of: dict[str, list[QueryPair]] = {}
        for pair in pairs:
            of.setdefault(pair.kind, []).append(pair)
        for group in of.values():
            rng.shuffle(group)
        kinds = list(of.values())
        rng.shuffle(kinds)
        mixed = [pair for row in zip_longest(*kinds) for pair in row if pair is not None]
        turns.append(mixed[:per_document])
    rng.shuffle(turns)
    seen: set[tuple[str, str]] = set()
    found: list[QueryPair] = []
    for row in zip_longest(*turns):
        for pair in row:
            if pair is not None and (pair.query, pair.positive) not in seen:
                seen.add((pair.query, pair.positive))
                found.append(pair)
                if count is not None and len(found) >= count:
                    return found
    return found


def _titles(paper: Paper, known: Counter[str]) -> Iterator[QueryPair]:
    """A title that several documents have asks for none of them: MedQuAD's five answers on one disease, of which a
    model tuned on such pairs no longer told which was asked for (dense nDCG@10 −.045)."""
    title = _one_line(paper.title)
    if known[title] == 1 and _tells(title) and paper.pieces:
        body = _below(title, paper.pieces[0].hit.passage.text)
        if _left(body):
            yield QueryPair(title, body, paper.uri, "title")


def _sections(paper: Paper) -> Iterator[tuple[str, str]]:
    """Each heading, without its number, with the beginning of the text between it and the next."""
    ends = [heading.start for heading in paper.headings[1:]]
    for heading, end in zip_longest(paper.headings, ends, fillvalue=len(paper.text)):
        if isinstance(heading, Heading):
            first = paper.text.find("\n", heading.start, end)
            body = _LINES.sub("", paper.text[first:end]).strip() if first >= 0 else ""
            yield _NUMBERED.sub("", _one_line(heading.title)), _beginning(body)


def _headings(paper: Paper, known: Counter[str]) -> Iterator[QueryPair]:
    """A heading that several documents have ("Rationale"), or of one word, says with the title what it is about."""
    title = _one_line(paper.title)
    for heading, body in _sections(paper):
        own = known[heading] == 1 and _tells(heading, LEAST_TOLD)
        query = heading if own else f"{title}: {heading}" if _tells(title) and heading else ""
        if query and heading != title and _left(body) and not query.endswith(("?", "？")):
            yield QueryPair(query, embedding_text(title if own else "", body), paper.uri, "heading")


def _asked(paper: Paper) -> Iterator[QueryPair]:
    """Questions that are headings, or stand on lines of their own, each with the text up to the next."""
    seen = set()
    for heading, body in _sections(paper):
        if heading.endswith(("?", "？")) and _left(body):
            seen.add(heading)
            yield QueryPair(heading, body, paper.uri, "faq")
    for piece in paper.pieces:
        text = piece.hit.passage.text
        places = [match for match in _ASKED.finditer(text) if len(sentence_spans(match[1])) == 1]
        for match, after in zip_longest(places, places[1:]):
            query = _one_line(match[1])
            body = _ANSWERED.sub("", text[match.end() : after.start() if after else len(text)].strip())
            if query not in seen and _left(body) and not body.rstrip().endswith(("?", "？")):
                yield QueryPair(query, body, paper.uri, "faq")


def _halves(paper: Paper, rng: random.Random) -> Iterator[QueryPair]:
    """The beginning of the first half → the second; of every second passage, the others are asked by a sentence."""
    for piece in paper.pieces:
        text, spans = piece.hit.passage.text, _sentences(piece)
        if rng.random() < 0.5 or len(spans) <= LEAST_SENTENCES:
            continue
        middle = spans[len(spans) // 2][0]
        ends = [end for _, end in spans if end <= middle and end - spans[0][0] <= LONGEST_QUERY]
        query = _one_line(text[spans[0][0] : ends[-1]]) if ends else ""
        yield from _pair(query, text[middle:], piece, paper, "half")


def _clozes(paper: Paper, rng: random.Random) -> Iterator[QueryPair]:
    for piece in paper.pieces:
        text, spans = piece.hit.passage.text, _sentences(piece)
        if len(spans) < LEAST_SENTENCES:
            continue
        start, end = rng.choice([span for span in spans if span[1] - span[0] <= LONGEST_QUERY] or [(0, 0)])
        yield from _pair(_one_line(text[start:end]), text[:start] + text[end:], piece, paper, "cloze")


def _sentences(piece: Piece) -> list[tuple[int, int]]:
    """Those of a passage; its title, where that opens it, is none."""
    text, title = piece.hit.passage.text, piece.hit.source.title
    first = len(title) if title and text.startswith(title) else 0
    return [span for span in sentence_spans(text) if span[0] >= first]


def _pair(query: str, rest: str, piece: Piece, paper: Paper, kind: str) -> Iterator[QueryPair]:
    """Where both say enough, and the query does not stand in the rest, nor in the title before it, once more."""
    rest = _GAP.sub("\n\n", rest).strip()
    if len(content_tokens(query)) < LEAST_ASKED or not _left(rest):
        return
    if query in _one_line(rest) or query in _one_line(piece.context):
        return
    yield QueryPair(query, embedding_text(piece.context, rest), paper.uri, kind)


def _code(paper: Paper) -> Iterator[QueryPair]:
    """What functions and classes of Python say of themselves in their first line → their code without it."""
    if "def " not in paper.text and "class " not in paper.text or len(paper.text) > LARGEST_CODE:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(paper.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    lines = paper.text.splitlines(keepends=True)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        said = ast.get_docstring(node)
        query = _one_line((said or "").strip().split("\n\n")[0])[:LONGEST_QUERY]
        if said is None or len(content_tokens(query)) < LEAST_TOLD:
            continue
        first = node.body[0]
        code = "".join([*lines[node.lineno - 1 : first.lineno - 1], *lines[first.end_lineno : node.end_lineno]]).strip()
        if _left(code) and first.lineno > node.lineno:
            yield QueryPair(query, code, paper.uri, "code")


def _below(title: str, text: str) -> str:
    """The text without the title's line, and without lines that only underline it."""
    return _LINES.sub("", without_heading(title, text)).strip()


def _beginning(text: str) -> str:
    """About as much of a section as a passage holds, up to the end of a sentence."""
    if len(text) <= LONGEST_SECTION:
        return text
    ends = [end for _, end in sentence_spans(text[:LONGEST_SECTION])]
    return text[: ends[-2] if len(ends) > 1 else LONGEST_SECTION]


def _tells(title: str, least: int = 1) -> bool:
    return len(content_tokens(title)) >= least and 2 <= len(title) <= LONGEST_QUERY


def _left(text: str) -> bool:
    return len(content_tokens(text)) >= LEAST_LEFT


def _one_line(text: str) -> str:
    return " ".join(text.split())
