"""Records → what the page shows of each question: cleaned, cut, with its citations placed; the best and worst first.

Every kind of part writes its records in its own words. Those known here get a place of their own; whatever else a
record holds is shown by its name, so that a new kind of part needs no line here.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from eval.figures.measures import better
from eval.report.text import SHORTENED, as_json, line, listed, mapping, number, plain
from eval.runs.parts import Record
from retrieval.support import MARKER

MOST_BYTES = 8_000_000
"""Of all questions together, as JSON: browsers open such a page at once, and it can still be sent by mail."""
QUESTION, ANSWER, GOLD, PASSAGE, FACT = 1_000, 4_000, 600, 900, 1_200
"""Most characters shown of each."""
MOST_MISSES = 200
"""So many did not fit: looking through the rest would cost more than it finds."""
AROUND = 240
"""Characters kept on both sides of what is cited, where a passage is too long to be shown whole."""
MOST_PASSAGES, MOST_RANKED, MOST_GOLDS, MOST_FACTS, MOST_ROWS = 20, 10, 8, 24, 20
GOLDS = ("golds", "gold", "gold_answers", "answers", "references", "reference", "human", "expected", "correct")
ANSWERS = ("answer", "response", "rewritten", "rewrite", "predicted", "prediction", "chosen")
PASSAGES = ("passages", "hits")
_SHOWN = {"id", "text", "cluster", "metrics", "timings", "error", "refused", "citations", "evidence", "spans"}
_TOLD = {*_SHOWN, *GOLDS, *ANSWERS, *PASSAGES}


@dataclass(frozen=True, slots=True)
class Selection:
    """`items` ready for JSON, and how many of the run's records are not among them."""

    items: list[dict[str, Any]]
    left_out: int
    total: int


def value_of(metric: Any) -> float | None:
    """A record's figure as one number: a pair is divided; what is no number, or divided by 0, is None."""
    if isinstance(metric, list | tuple):
        above, below = (number(part) for part in metric) if len(metric) == 2 else (None, None)
        return None if above is None or not below else above / below
    return number(metric)


def values_of(record: Record) -> dict[str, float | None]:
    """All figures of a record."""
    return {str(name): value_of(metric) for name, metric in mapping(record.get("metrics")).items()}


def gain(metric: str, before: float | None, now: float | None) -> float | None:
    """By how much `now` is better than `before`; negative where it is worse, whichever way the metric points."""
    if before is None or now is None:
        return None
    return now - before if better(metric) == "higher" else before - now


def select(
    parts: Sequence[tuple[str | None, Mapping[str, Record], Mapping[str, Record]]], *, most_bytes: int = MOST_BYTES
) -> Selection:
    """Questions of all parts, each (headline metric, records, records of the run it is compared with or nothing).

    Errors come first, then by turns the worst, the greatest losses and the best, until `most_bytes` are used.
    """
    total = sum(len(records) for _, records, _ in parts)
    orders = [_by_turns(records, before, metric) for metric, records, before in parts]
    chosen: list[tuple[int, str, dict[str, Any]]] = []
    used, misses = 0, 0
    for identifiers in zip_longest(*orders):
        if misses > MOST_MISSES:
            break
        for place, identifier in enumerate(identifiers):
            if identifier is None:
                continue
            metric, records, before = parts[place]
            shown = item(records[identifier], place, metric, before.get(identifier))
            size = len(json.dumps(shown, ensure_ascii=False).encode("utf-8", "replace"))
            if used + size > most_bytes:
                misses += 1
                continue  # a smaller one may still fit
            used += size
            chosen.append((place, identifier, shown))
    positions = [{identifier: at for at, identifier in enumerate(records)} for _, records, _ in parts]
    chosen.sort(key=lambda entry: (entry[0], positions[entry[0]][entry[1]]))
    return Selection([shown for _, _, shown in chosen], total - len(chosen), total)


def _by_turns(records: Mapping[str, Record], before: Mapping[str, Record], metric: str | None) -> Iterator[str]:
    """Identifiers, each once: errors, then one of the worst, one of the greatest losses, one of the best, …"""
    figures = {identifier: values_of(record).get(metric or "") for identifier, record in records.items()}
    errors = [identifier for identifier, record in records.items() if record.get("error")]
    known = [identifier for identifier in records if figures[identifier] is not None]
    lower = metric is not None and better(metric) == "lower"
    worst = sorted(known, key=lambda identifier: figures[identifier] or 0.0, reverse=lower)
    losses: list[tuple[float, str]] = []
    for identifier in known:
        other = before.get(identifier)
        change = gain(metric, values_of(other).get(metric), figures[identifier]) if metric and other else None
        if change is not None and change < 0:
            losses.append((change, identifier))
    turns = zip_longest(worst, [identifier for _, identifier in sorted(losses)], reversed(worst))
    seen: set[str] = set()
    for identifier in (*errors, *(one for turn in turns for one in turn if one is not None), *records):
        if identifier not in seen:
            seen.add(identifier)
            yield identifier


def item(record: Record, part: int, metric: str | None, before: Record | None) -> dict[str, Any]:
    """One question for the page: short keys, for there may be thousands (page.js names them)."""
    figures = values_of(record)
    shown: dict[str, Any] = {"p": part, "i": short_id(record.get("id")), "q": plain(record.get("text"), QUESTION)}
    if record.get("error"):
        shown["e"] = plain(record["error"], FACT)
    if record.get("refused"):
        shown["r"] = 1
    answer = answer_of(record)
    found = next((entries for name in PASSAGES if isinstance(entries := record.get(name), list) and entries), [])
    relevant = mapping(record.get("relevant"))
    passages = [as_passage(entry, place, relevant) for place, entry in enumerate(found[:MOST_PASSAGES], 1)]
    cited = [mapping(citation) for citation in listed(record.get("citations"))]
    if answer is not None:
        shown["a"] = with_badges(plain(answer, ANSWER), {str(n): s for n, s in _supports(cited).items()}, passages)
    if golds := golds_of(record):
        shown["g"] = golds
    if figures:
        shown["m"] = {line(name, 60): None if v is None else float(f"{v:.5g}") for name, v in figures.items()}
    if timings := {
        line(k, 40): round(v, 2) for k, raw in mapping(record.get("timings")).items() if (v := number(raw)) is not None
    }:
        shown["t"] = timings
    if passages:
        spans = gold_spans(record)
        shown["ps"] = [place_citations(passage, cited, spans) for passage in passages]
    if facts := list(_facts(record)):
        shown["f"] = facts
    if before is not None:
        was = values_of(before)
        change = gain(metric, was.get(metric), figures.get(metric)) if metric else None
        if change is not None:
            shown["d"] = round(change, 5)
        if metric and was.get(metric) is not None:
            shown["w"] = was[metric]
        if (earlier := answer_of(before)) is not None and earlier != answer:
            shown["b"] = plain(earlier, GOLD)
    return shown


def short_id(identifier: Any) -> str:
    """An id in one line."""
    return line(identifier, 120)


def answer_of(record: Record) -> str | None:
    """What the system wrote, under whichever of its names."""
    for name in ANSWERS:
        found = record.get(name)
        found = found.get("text") if isinstance(found, Mapping) else found
        if isinstance(found, str):
            return found
    return None


def golds_of(record: Record) -> list[str]:
    """What was expected, each once."""
    texts: dict[str, None] = {}
    for name in GOLDS:
        for entry in listed(record.get(name)):
            text = entry.get("text") if isinstance(entry, Mapping) else entry
            if isinstance(text, str | int | float) and text != "":
                texts[plain(text, GOLD)] = None
    return list(texts)[:MOST_GOLDS]


def gold_spans(record: Record) -> list[tuple[str, int, int]]:
    """Where the evidence stands, as (document, start, end); alternatives are taken together."""
    spans = []
    for entry in _flat([record.get("evidence"), record.get("spans")]):
        whole = mapping(entry)
        place = [whole.get(name) for name in ("document", "start", "end")] if whole else entry
        if isinstance(place, list) and len(place) == 3 and isinstance(place[0], str):
            start, end = number(place[1]), number(place[2])
            if start is not None and end is not None:
                spans.append((place[0], int(start), int(end)))
    return spans


def _flat(value: Any, depth: int = 0) -> Iterator[Any]:
    """What nested lists hold; a list that begins with a text is a span itself."""
    if not isinstance(value, list) or (value and isinstance(value[0], str)):
        yield value
    elif depth < 4:
        for inner in value:
            yield from _flat(inner, depth + 1)


def _facts(record: Record) -> Iterator[list[str]]:
    """Everything else a record holds, by name."""
    relevant = mapping(record.get("relevant"))
    kept = 0
    for name, value in record.items():
        known = name in _TOLD and not (name in PASSAGES and isinstance(value, Mapping))
        if known or value is None or value in ("", [], {}) or kept == MOST_FACTS:
            continue
        kept += 1
        yield [line(name, 40).replace("_", " "), plain(_told(value, relevant), FACT)]


def _told(value: Any, relevant: Mapping[str, Any]) -> str:
    """Any value in words: rankings and rows a line each, lists and pairs in one line, else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        if all(isinstance(entry, list) for entry in value.values()):
            return "\n".join(f"{line(name, 40)}: {_ranked(entries, relevant)}" for name, entries in value.items())
        if not any(isinstance(entry, Mapping | list) for entry in value.values()):
            return " · ".join(f"{line(name, 60)} {_short(entry)}" for name, entry in list(value.items())[:MOST_ROWS])
    elif isinstance(value, list):
        if all(isinstance(entry, Mapping) for entry in value):
            return "\n".join(_row(entry) for entry in value[:MOST_ROWS])
        return _ranked(value, relevant)
    return as_json(value)


def _ranked(entries: list[Any], relevant: Mapping[str, Any]) -> str:
    """The first of a ranking, what is relevant marked: entries are ids, or [id, score]."""
    names = [entry[0] if isinstance(entry, list) and entry else entry for entry in entries]
    shown = [
        _short(name) + (" ✓" if isinstance(name, str) and relevant.get(name) else "") for name in names[:MOST_RANKED]
    ]
    rest = len(names) - len(shown)
    return " · ".join(shown) + (f" · … ({rest:,} more)" if rest else "")


def _row(entry: Mapping[str, Any]) -> str:
    if set(entry) == {"role", "text"}:
        return f"{line(entry['role'], 20)}: {line(entry['text'], 400)}"
    told = [f"{line(name, 30)} {_short(value)}" for name, value in entry.items() if value not in (None, "", [], {})]
    return " · ".join(told)


def _short(value: Any) -> str:
    found = number(value)
    return f"{found:.5g}" if found is not None else line(value, 200)


def _supports(citations: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    return {
        int(n): support
        for citation in citations
        if (n := number(citation.get("n"))) is not None
        and (support := citation.get("supported")) in ("yes", "partly", "no")
    }


def with_badges(answer: str, supports: Mapping[str, str], passages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The answer as text and [n, support] by turns; only numbers of passages become badges."""
    known = {passage["n"] for passage in passages}
    pieces: list[Any] = []
    position = 0
    for found in MARKER.finditer(answer):
        numbers = [int(n) for n in found[1].replace("，", ",").split(",") if n.strip().isdigit()]
        if not numbers or not set(numbers) <= known:
            continue
        pieces.append(answer[position : found.start()])
        pieces.extend([n, supports.get(str(n), "")] for n in numbers)
        position = found.end()
    pieces.append(answer[position:])
    return [piece for piece in pieces if piece]


def as_passage(entry: Any, place: int, relevant: Mapping[str, Any]) -> dict[str, Any]:
    """A passage of a record, under whichever names; `n` is the number that answers cite it by. `relevant` are grades
    of documents."""
    whole = mapping(entry)
    inner = mapping(whole.get("passage")) or whole
    source = mapping(whole.get("source"))
    n = number(whole.get("n"))
    text = entry if isinstance(entry, str) else inner.get("text")
    page = number(inner.get("page"))
    document = whole.get("document") or whole.get("uri") or source.get("uri") or whole.get("id")
    return {
        "n": place if n is None else int(n),
        "text": text if isinstance(text, str) else "",
        "start": int(number(inner.get("start")) or 0),
        "document": document,
        "title": line(whole.get("title") or source.get("title") or document, 120),
        "where": " · ".join(
            [*([line(document, 90)] if document and whole.get("title") else []), *([f"p. {page:.0f}"] if page else [])]
        ),
        "gold": bool(whole.get("gold") or (isinstance(document, str) and relevant.get(document))),
    }


def place_citations(
    passage: Mapping[str, Any], citations: Iterable[Mapping[str, Any]], golds: Iterable[tuple[str, int, int]]
) -> dict[str, Any]:
    """The passage cut into segments [text, cited, gold], with quotes found by offset, or by their words where the
    offsets do not hold them; what is cited of it but not in it is listed apart."""
    text: str = passage["text"]
    spans: list[tuple[int, int, str]] = []
    apart: list[str] = []
    for citation in citations:
        if number(citation.get("n")) != passage["n"]:
            continue
        span = _span(text, passage["start"], citation)
        quote = citation.get("quote")
        if span is not None:
            spans.append((*span, "c"))
        elif isinstance(quote, str) and quote.strip():
            apart.append(plain(quote, GOLD))
    for document, start, end in golds:
        if document == passage["document"]:
            begin, stop = max(0, start - passage["start"]), min(len(text), end - passage["start"])
            if begin < stop:
                spans.append((begin, stop, "g"))
    shown: dict[str, Any] = {"n": passage["n"], "h": passage["title"], "s": segments(text, spans)}
    if passage["where"]:
        shown["w"] = passage["where"]
    if passage["gold"]:
        shown["g"] = 1
    if apart:
        shown["x"] = list(dict.fromkeys(apart))
    return shown


def _span(text: str, begin: int, cited: Mapping[str, Any]) -> tuple[int, int] | None:
    start, end, quote = number(cited.get("start")), number(cited.get("end")), cited.get("quote")
    if start is not None and end is not None:
        found = int(start) - begin, int(end) - begin
        if 0 <= found[0] < found[1] <= len(text) and (not isinstance(quote, str) or text[slice(*found)] == quote):
            return found
    if isinstance(quote, str) and quote.strip() and (at := text.find(quote)) >= 0:
        return at, at + len(quote)
    return None


def segments(text: str, spans: Sequence[tuple[int, int, str]]) -> list[list[str]]:
    """`text` as [piece, marks] in order, marks being "", "c" (cited), "g" (gold) or "cg"; long stretches that
    nothing marks are shortened, and said so. Pieces are cleaned one by one: offsets stay true."""
    cuts = sorted({0, len(text), *(end for start, stop, _ in spans for end in (start, stop))})
    pieces: list[list[str]] = []
    room = PASSAGE
    for start, end in zip(cuts, cuts[1:], strict=False):
        marks = "".join(kind for kind in "cg" if any(a <= start and end <= b for a, b, what in spans if what == kind))
        piece = text[start:end]
        keep = 3 * PASSAGE if marks else min(room, PASSAGE if not spans else 2 * AROUND)
        if len(piece) <= keep:
            kept = plain(piece)
        elif marks or not start:
            # Before the first mark its neighbourhood matters, after the last its beginning.
            near = bool(spans) and not marks
            kept = SHORTENED.strip() + " " + plain(piece[-AROUND:]) if near else plain(piece, max(keep, 1))
        elif end == len(text):
            kept = plain(piece, AROUND)
        else:
            kept = plain(piece[:AROUND]) + SHORTENED + " " + plain(piece[-AROUND:])
        room -= 0 if marks else min(len(kept), room)
        if kept:
            pieces.append([kept, marks])
    return pieces
