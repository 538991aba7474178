"""TREC's files: topics, judgements and documents → plain values; rankings and judgements → run and qrels files.

Knows no test collection as a whole and no search engine.
"""

import gzip
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from retrieval.errors import ReadingError, UsageError

FIELDS = ("title", "desc", "narr")
"""Parts of a classic topic: a few words, a sentence, and what makes a document relevant."""

_TOPIC = re.compile(r"<(top|topic)\b([^>]*)>(.*?)(?=</\1\s*>|<\1\b|\Z)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*)[^<>]*>")
_NUMBER = re.compile(r"number\s*=\s*[\"']?([^\"'\s>]+)", re.IGNORECASE)
_LABEL = re.compile(r"\s*(?:Number|Topic|Title|Description|Narrative)\s*:\s*", re.IGNORECASE)
_ALSO = {"description": "desc", "question": "desc", "narrative": "narr", "query": "title"}
_DOC = re.compile(r"<(/?)DOC\b[^<>]*>", re.IGNORECASE)
_TITLES = {"TITLE", "HEADLINE", "HL", "TTL", "TI"}
_UNREAD = {"DOCNO", "DOCID", "DOCOLDNO", "DOCHDR"}
_HEADERS = {"query-id", "query_id", "qid", "query", "topic"}


@dataclass(frozen=True, slots=True)
class Topic:
    """A query as its file gives it; `line` counts from 1."""

    id: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line of a qrels file."""

    query: str
    document: str
    grade: int
    line: int


def read_text(path: Path) -> str:
    """The text of a file, gunzipped where its name ends in .gz. Raises ReadingError for what is not UTF-8."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ReadingError(str(path), "encoding", f"line {line} is not UTF-8 ({error.reason}).") from error
    except (EOFError, gzip.BadGzipFile) as error:
        raise ReadingError(str(path), "gzip", f"the gzip stream is damaged ({error}).") from error
    except OSError as error:
        raise ReadingError(str(path), "unreadable", f"cannot be read: {error.strerror or error}.") from error


def read_topics(path: Path, fields: Sequence[str] = ("title",)) -> list[Topic]:
    """Topics in the classic `<top>` form (closing tags or none), as XML `<topic number=…>`, or as id<TAB>query lines.

    A classic query is the `fields` named, joined in order. Raises UsageError for a field topics do not have,
    ReadingError with the line for a topic without number or without text, or an id that occurs twice.
    """
    unknown = [field for field in fields if field not in FIELDS]
    if unknown or not fields:
        raise UsageError(f"topics have the fields {', '.join(FIELDS)}; {'+'.join(fields) or 'none'} was asked for")
    text = read_text(path)
    found = _classic(path, text, fields) if re.search(r"<top(ic)?\b", text, re.IGNORECASE) else _tabbed(path, text)
    lines: dict[str, int] = {}
    for topic in found:
        if topic.id in lines:
            message = f"line {topic.line}: the query id {topic.id!r} stands in line {lines[topic.id]} already."
            raise ReadingError(str(path), "duplicate-id", message)
        lines[topic.id] = topic.line
    if not found:
        raise ReadingError(str(path), "empty", "there is no topic in it.")
    return found


def _classic(path: Path, text: str, fields: Sequence[str]) -> list[Topic]:
    topics = []
    for match in _TOPIC.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        parts = _parts(match[3])
        attribute = _NUMBER.search(match[2])
        identifier = attribute[1] if attribute else parts.get("num", "")
        if not identifier:
            raise ReadingError(str(path), "topic", f"line {line}: a topic without <num>; every topic needs a number.")
        wanted = [parts[field] for field in fields if parts.get(field)]
        if not wanted:
            has = ", ".join(field for field in FIELDS if parts.get(field)) or "none of them"
            message = f"line {line}: topic {identifier} has no {' or '.join(fields)}; it has {has}."
            raise ReadingError(str(path), "topic", message)
        topics.append(Topic(identifier, " ".join(wanted), line))
    return topics


def _parts(body: str) -> dict[str, str]:
    """Field → text. A classic field ends where the next begins, XML's at its closing tag; other tags are dropped."""
    tags = [tag for tag in _TAG.finditer(body) if _field(tag) in (*FIELDS, "num")]
    parts: dict[str, str] = {}
    for number, tag in enumerate(tags):
        if not tag[1]:
            words = body[tag.end() : tags[number + 1].start() if number + 1 < len(tags) else len(body)]
            label = _LABEL.match(words)
            parts.setdefault(_field(tag), _line(words[label.end() :] if label else words))
    return parts


def _field(tag: re.Match[str]) -> str:
    return _ALSO.get(tag[2].lower(), tag[2].lower())


def _line(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


def _tabbed(path: Path, text: str) -> list[Topic]:
    topics = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        identifier, tab, query = line.rstrip("\r").partition("\t")
        if not tab or not identifier.strip() or not query.strip():
            message = f"line {number} is not 'id<TAB>query' and there is no <top> in the file: {line.strip()[:80]!r}."
            raise ReadingError(str(path), "topic", message)
        if number == 1 and identifier.strip().lower() in _HEADERS | {"id", "_id"}:
            continue
        topics.append(Topic(identifier.strip(), query.strip(), number))
    return topics


def read_qrels(path: Path) -> list[Judgement]:
    """BEIR's three columns, with a header or without, or TREC's four (query, iteration, document, grade).

    Columns are separated by tabs where a line has tabs, so that ids may hold blanks. A line that only says again what
    another said is dropped. Raises ReadingError with the line for anything else: columns, a grade that is no integer,
    two grades of one pair.
    """
    judgements: dict[tuple[str, str], Judgement] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        if not any(cells) or (number == 1 and cells[0].lower() in _HEADERS):
            continue
        if len(cells) not in (3, 4) or not all(cells):
            message = f"line {number} is not 'query-id corpus-id score': {line.strip()[:120]!r}."
            raise ReadingError(str(path), "qrels", message)
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", cells[-1]):
            message = f"line {number}: the grade {cells[-1][:40]!r} is not a whole number."
            raise ReadingError(str(path), "qrels", message)
        found = Judgement(cells[0], cells[-2], int(cells[-1]), number)
        before = judgements.setdefault((found.query, found.document), found)
        if before.grade != found.grade:
            message = (
                f"line {number} gives document {found.document!r} of query {found.query!r} the grade {found.grade}, "
                f"line {before.line} gave {before.grade}."
            )
            raise ReadingError(str(path), "qrels", message)
    if not judgements:
        raise ReadingError(str(path), "qrels", "there is no judgement in it.")
    return list(judgements.values())


def holds_documents(path: Path) -> bool:
    """Whether the file begins like a TREC document collection."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            return (
                re.match(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<DOC\b", stream.read(1024), re.IGNORECASE) is not None
            )
    except (OSError, EOFError):
        return False


def read_documents(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """(DOCNO, title, text, line) of every `<DOC>`; tags go, entities become characters.

    Raises ReadingError with the line for a document without end or without DOCNO.
    """
    text = read_text(path)
    line, counted = 1, 0
    begun: re.Match[str] | None = None
    for tag in _DOC.finditer(text):
        line, counted = line + text.count("\n", counted, tag.start()), tag.start()
        if (begun is None) is bool(tag[1]):
            problem = "</DOC> without <DOC>" if tag[1] else "<DOC> inside another, which has no </DOC>"
            raise ReadingError(str(path), "document", f"line {line}: {problem}.")
        if begun is None:
            begun = tag
            continue
        name, title, body = _document(text[begun.end() : tag.start()])
        started = line - text.count("\n", begun.start(), tag.start())
        if not name:
            raise ReadingError(str(path), "document", f"line {started}: a <DOC> without <DOCNO>.")
        yield name, title, body, started
        begun = None
    if begun is not None:
        raise ReadingError(str(path), "document", "the last <DOC> has no </DOC>; the file is cut off.")


def _document(markup: str) -> tuple[str, str, str]:
    """(DOCNO, title, text). One pass over the tags: a stranger's file must not cost the square of its length."""
    parts: dict[str, list[str]] = {"DOCNO": [], "title": [], "text": []}
    into, last = "text", 0
    for tag in _TAG.finditer(markup):
        parts.setdefault(into, []).append(markup[last : tag.start()])
        name, last = tag[2].upper(), tag.end()
        if into != "text":
            if tag[1] and name in ({into} | (_TITLES if into == "title" else set())):
                into = "text"
        elif not tag[1] and name in _UNREAD:
            into = name
        elif not tag[1] and name in _TITLES and not parts["title"]:
            into = "title"
        else:
            parts["text"].append("\n")  # markup between two stretches of text is a break
    parts.setdefault(into, []).append(markup[last:])
    blocks = re.split(r"\s*\n\s*\n\s*", html.unescape("".join(parts["text"])))
    body = "\n\n".join(block.strip() for block in blocks if block.strip())
    return _line("".join(parts["DOCNO"])), _line("".join(parts["title"])), body


def run_lines(rankings: Mapping[str, Sequence[str]], tag: str) -> Iterator[str]:
    """`query Q0 document rank score tag`, one line a rank.

    The score is the number of ranks from here to the end: distinct and falling, so that no tool, whatever it does with
    ties (trec_eval sorts them by document id) or with precision (it keeps 32 bits), ranks otherwise.
    """
    end = _cell(tag)
    for query, ranking in rankings.items():
        name, last = _cell(query), len(ranking) + 1
        for rank, document in enumerate(ranking, 1):
            yield f"{name} Q0 {_cell(document)} {rank} {last - rank} {end}\n"


def qrels_lines(qrels: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """`query 0 document grade`, with ids written as in `run_lines`."""
    for query, grades in qrels.items():
        for document, grade in grades.items():
            yield f"{_cell(query)} 0 {_cell(document)} {grade}\n"


@lru_cache(maxsize=1 << 16)
def _cell(text: str) -> str:
    """An id as one column: white space, controls and % are percent-encoded (file names have blanks)."""
    if re.search(r"[\s%\x00-\x1f\x7f]", text) is None:
        return text
    return "".join(quote(mark, safe="") if re.match(r"[\s%\x00-\x1f\x7f]", mark) else mark for mark in text)
