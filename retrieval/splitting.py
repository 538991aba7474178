"""A document → passages: spans that end where the text does, fit the embedding model, and together cover every word.

Tokens are counted with the embedding model's own tokenizer: once over the whole text to choose the cuts, then exactly
over what the model will see. It knows no model and no index.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from retrieval.boundaries import Boundaries, Table, code_points, find_boundaries
from retrieval.errors import UsageError
from retrieval.passages import Document, Heading, Span

SPLITTER_VERSION = "1"
"""Changes whenever the same document could give other spans; part of an index's fingerprint."""

CHARACTERS_PER_TOKEN = 24
"""At most so many characters are charged to one token, so that a passage is never longer than this times
`passage_tokens`: WordPiece turns a word of 100,000 letters, and any stretch of spaces, into one token or none."""

_SMALLEST_LIMIT = 24  # tokens of a model below which no useful passage, and hardly one character, fits
_WINDOW = 1 << 16  # characters tokenized at once: some tokenizers need more than linear time in one string
_TITLE = 200  # characters of a title or heading that are looked at for a context
_DEEPEST = 12  # headings in a path
_JOIN = " > "


@dataclass(frozen=True, slots=True)
class SplitSettings:
    """How long passages are, in tokens of the embedding model."""

    passage_tokens: int = 192
    """Tokens of a passage's own text, at most. Longer: fewer passages, each less precise."""
    overlap_tokens: int = 24
    """Whole sentences repeated from the passage before where a paragraph had to be cut, at most so many tokens."""
    context_tokens: int = 32
    """Tokens of the title and headings put before the text when it is embedded, at most; 0 for none."""

    def __post_init__(self) -> None:
        if self.passage_tokens < 8:
            raise UsageError(f"passage_tokens must be at least 8, it is {self.passage_tokens}.")
        if not 0 <= self.overlap_tokens <= self.passage_tokens // 2:
            raise UsageError(
                f"overlap_tokens must lie between 0 and half of passage_tokens ({self.passage_tokens // 2}), "
                f"it is {self.overlap_tokens}."
            )
        if self.context_tokens < 0:
            raise UsageError(f"context_tokens must not be negative, it is {self.context_tokens}.")


class TokenCounter(Protocol):
    """The embedding model's tokenizer, as far as splitting needs it."""

    @property
    def max_tokens(self) -> int:
        """Tokens the model reads, special tokens and passage prefix included."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the model sees a passage: with special tokens and prefix."""
        ...

    def offsets(self, text: str) -> np.ndarray:
        """(n, 2) int: start and end of each token in `text`, in characters; no special tokens, no prefix."""
        ...


def embedding_text(context: str, text: str) -> str:
    """What the embedding model sees of a passage."""
    return f"{context}\n{text}" if context else text


def split(document: Document, counter: TokenCounter, settings: SplitSettings) -> list[Span]:
    """Cut a document into spans in reading order.

    Every character of `document.text` that is not white space lies in a span; starts and ends ascend; no span begins
    or ends with white space; `counter.count([embedding_text(context, text)])` is at most `counter.max_tokens`. Spans
    overlap only by whole sentences within a section. Short neighbouring sections under one heading share a span,
    which carries the headings in force at its first text. Time is linear in the text. Raises UsageError where the
    model reads fewer than 24 tokens, nothing for any document.
    """
    special = counter.count([""])[0]
    room = counter.max_tokens - special
    if room < _SMALLEST_LIMIT:
        raise UsageError(
            f"The embedding model leaves {max(0, room)} tokens for text (limit {counter.max_tokens}, {special} taken "
            f"by special tokens and prefix); splitting needs at least {_SMALLEST_LIMIT}. Choose another model."
        )
    text = _encodable(document.text)
    if not text.strip():
        return []
    splitter = _Splitter(document, text, counter, settings, special, room)
    return splitter.spans()


def _encodable(text: str) -> str:
    """Lone surrogates, which no tokenizer takes, as U+FFFD: same length, same offsets."""
    codes = code_points(text)
    if not ((codes >= 0xD800) & (codes < 0xE000)).any():
        return text
    return "".join("\ufffd" if 0xD800 <= ord(character) < 0xE000 else character for character in text)


@dataclass(frozen=True, slots=True)
class _Section:
    """Text under one heading path; `path` names the headings in force, outermost first."""

    start: int
    end: int
    path: tuple[Heading, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int
    end: int
    section: int  # index of the section whose headings are in force


@dataclass(frozen=True, slots=True)
class _Unit:
    first: int  # section it begins with
    body: int  # section whose text it begins with
    cost: int


class _Splitter:
    def __init__(
        self,
        document: Document,
        text: str,
        counter: TokenCounter,
        settings: SplitSettings,
        special: int,
        room: int,
    ) -> None:
        self.document, self.text, self.counter, self.special = document, text, counter, special
        self.context_budget = min(settings.context_tokens, room // 4)
        self.budget = min(settings.passage_tokens, room - self.context_budget)
        self.limit = min(counter.max_tokens, special + self.context_budget + self.budget)
        self.overlap = min(settings.overlap_tokens, self.budget // 2)
        self.at: Boundaries = find_boundaries(text)
        self.charges = self._charges()
        self.sections = _sections(document, len(text))
        self.section_starts = [section.start for section in self.sections]
        self.heading_starts = np.array(self.section_starts, dtype=np.int64)
        self.contexts: dict[tuple[str, ...], str] = {}

    # What a stretch of text costs

    def _charges(self) -> np.ndarray:
        """Ascending offsets, one per token charged: where tokens start, and every 24 characters where none does."""
        starts = [np.zeros(0, dtype=np.int64)]
        for begin, end in self._windows():
            found = np.asarray(self.counter.offsets(self.text[begin:end]), dtype=np.int64).reshape(-1, 2)
            starts.append(np.clip(np.maximum.accumulate(found[:, 0]) + begin, begin, end - 1))
        tokens = np.concatenate(starts)
        edges = np.concatenate(([0], tokens, [len(self.text)]))
        extra = np.maximum(0, (np.diff(edges) - 1) // CHARACTERS_PER_TOKEN)
        base = np.repeat(edges[:-1], extra)
        nth = np.arange(len(base)) - np.repeat(np.cumsum(extra) - extra, extra) + 1
        return np.sort(np.concatenate((tokens, base + nth * CHARACTERS_PER_TOKEN)))

    def _windows(self) -> Iterator[tuple[int, int]]:
        """Stretches of at most `_WINDOW` characters, cut before a word where there is one in the last half."""
        begin, length = 0, len(self.text)
        while begin < length:
            end = begin + _WINDOW
            if end >= length:
                end = length
            else:
                cut = _last_in(self.at.words, begin + _WINDOW // 2, end)
                end = cut if cut is not None else end
            if self.at.next_ink[begin] < end:
                yield begin, end
            begin = end

    def _cost(self, start: int, end: int) -> int:
        low, high = np.searchsorted(self.charges, (start, end))
        return int(high - low)

    def _reach(self, start: int, tokens: int, end: int) -> int:
        """Furthest offset up to `end` such that no more than `tokens` are charged from `start`."""
        last = int(np.searchsorted(self.charges, start)) + tokens
        return end if last >= len(self.charges) else max(start + 1, min(end, int(self.charges[last])))

    # Where to cut

    def spans(self) -> list[Span]:
        pieces = [piece for start, end, body in self._groups() for piece in self._pack(start, end, body, self.budget)]
        return self._exact(pieces)

    def _groups(self) -> Iterator[tuple[int, int, int]]:
        """Stretches that are packed on their own, as start, end and the index of the section at whose text they
        begin: a section with the bare headings above it, or short neighbours under one heading."""
        small = self.budget // 4
        held = None
        for unit in self._units():
            if held is not None:
                parent = self.sections[held.first].path[:-1]
                kin = self.sections[unit.first].path[:-1][: len(parent)] == parent
                if kin and held.cost + unit.cost <= self.budget and min(held.cost, unit.cost) < small:
                    held = _Unit(held.first, held.body, held.cost + unit.cost)
                    continue
                yield self.sections[held.first].start, self.sections[unit.first].start, held.body
            held = unit
        if held is not None:
            yield self.sections[held.first].start, len(self.text), held.body

    def _units(self) -> Iterator[_Unit]:
        """Sections, each with the bare headings that stand directly above it."""
        held = None
        for index, section in enumerate(self.sections):
            cost = self._cost(section.start, section.end)
            if held is not None:
                above = self.sections[held.body]
                if self._is_bare(above) and len(section.path) > len(above.path):
                    held = _Unit(held.first, index, held.cost + cost)
                    continue
                yield held
            held = _Unit(index, index, cost)
        if held is not None:
            yield held

    def _is_bare(self, section: _Section) -> bool:
        """Whether a section holds no more than its heading's line."""
        ink = int(self.at.next_ink[section.start])
        if ink >= section.end:
            return True
        if not section.path or section.path[-1].start != section.start:
            return False
        line = int(np.searchsorted(self.at.lines, ink, side="right"))
        following = int(self.at.lines[line]) if line < len(self.at.lines) else len(self.text)
        rest = self.text[following : min(following + 200, section.end)].strip()
        return not rest.strip("=-~^*\"'`#+ \n")  # underlines of Markdown and reStructuredText headings

    def _pack(self, start: int, end: int, body: int, budget: int) -> Iterator[_Piece]:
        """Cut [start, end) into pieces of at most `budget`, each as long as a good boundary allows."""
        position = int(self.at.next_ink[start])
        end = int(self.at.last_ink[end])
        done = position  # everything before is covered
        while position < end:
            rest = self._cost(position, end)
            if rest <= budget:
                stop, clean = end, True
            else:
                # The last two pieces share what is left instead of leaving a crumb.
                target = budget if rest >= 2 * budget else min(budget, rest // 2 + budget // 8 + 1)
                stop, clean = self._cut(position, done, self._reach(position, target, end), target)
            piece_end = int(self.at.last_ink[stop])
            yield _Piece(position, piece_end, self._section_at(position, start, body))
            done = int(self.at.next_ink[stop])
            position = done if clean or done >= end else self._overlapped(position, stop, done)

    def _cut(self, start: int, done: int, reach: int, budget: int) -> tuple[int, bool]:
        """The best place to end a piece begun at `start` that must get past `done` and not past `reach`; and whether
        nothing was torn there. A weaker kind of place is taken only where no stronger one fills enough."""
        at = self.at
        kinds = (
            (self.heading_starts, 0.35, True),
            (at.blocks, 0.35, True),
            (at.rows, 0.4, True),
            (at.sentences, 0.4, False),
            (at.lines, 0.5, False),
            (at.clauses, 0.5, False),
            (at.words, 0.0, False),
        )
        for places, fill, clean in kinds:
            low = max(done, self._reach(start, int(budget * fill), reach) if fill else start)
            place = _last_in(places, low, reach)
            if place is not None:
                return place, clean
        return self._between_characters(max(start, done), reach), False

    def _between_characters(self, low: int, reach: int) -> int:
        """`reach`, or a little before so that no accent, joiner or selector is torn from its character."""
        text = self.text
        place = max(reach, low + 1)
        for back in range(min(8, place - low - 1)):
            at = place - back
            if at >= len(text) or not (_attached(text[at]) or text[at - 1] == "\u200d"):
                return at
        return place

    def _overlapped(self, start: int, stop: int, done: int) -> int:
        """Start of the next piece: the earliest sentence of the torn paragraph within `overlap` tokens before
        `done`."""
        if not self.overlap:
            return done
        paragraph = max(
            _last_in(places, 0, stop) or 0 for places in (self.at.blocks, self.at.rows, self.heading_starts)
        )
        low = max(start, paragraph - 1)
        after = int(np.searchsorted(self.at.sentences, low, side="right"))
        before = int(np.searchsorted(self.at.sentences, done))
        first = int(np.searchsorted(self.charges, done)) - self.overlap
        earliest = int(self.charges[first]) if first > 0 else 0
        after = max(after, int(np.searchsorted(self.at.sentences, earliest)))
        return int(self.at.next_ink[self.at.sentences[after]]) if after < before else done

    def _section_at(self, position: int, group_start: int, body: int) -> int:
        """The section in force at `position`; at the head of a group, the one whose text it is."""
        here = bisect_right(self.section_starts, position) - 1
        return max(here, body) if position <= int(self.at.next_ink[group_start]) else here

    # What the model will see

    def _context(self, piece: _Piece) -> str:
        """Title and headings that the piece does not begin with itself, in one line."""
        if not self.context_budget:
            return ""
        path = self.sections[piece.section].path
        title = _one_line(self.document.title)
        names = [_one_line(heading.title) for heading in path if heading.start < piece.start]
        if title and title not in (_one_line(heading.title) for heading in path):
            names.insert(0, title)
        key = tuple(name for name in names if name)
        if key not in self.contexts:
            self.contexts[key] = self._fitted(list(key))
        return self.contexts[key]

    def _fitted(self, names: list[str]) -> str:
        """Names joined within the context's budget: the middle ones go first, then the ends of the others."""
        while names:
            context = _JOIN.join(names)
            if self.counter.count([context])[0] - self.special <= self.context_budget:
                return context
            if len(names) > 2:
                del names[1]
                continue
            longest = max(range(len(names)), key=lambda index: len(names[index]))
            shorter = names[longest][: len(names[longest]) * 3 // 4]
            names[longest] = shorter.rsplit(" ", 1)[0].rstrip() if " " in shorter else shorter
            names = [name for name in names if name]
        return ""

    def _exact(self, pieces: list[_Piece]) -> list[Span]:
        """Count what the model will see; where it is too much, cut again, and at last in half."""
        out: list[Span] = []
        budget = self.budget
        while pieces:
            contexts = [self._context(piece) for piece in pieces]
            headers = [self._header(piece.start) for piece in pieces]
            tried: list[str] = [_JOIN.join(filter(None, pair)) for pair in zip(contexts, headers, strict=True)]
            counts = self._counts(pieces, tried)
            over = [i for i, n in enumerate(counts) if n > self.limit and tried[i] != contexts[i]]
            for i, n in zip(over, self._counts([pieces[i] for i in over], [contexts[i] for i in over]), strict=True):
                tried[i], counts[i] = contexts[i], n
            budget = max(1, budget * 3 // 4)
            again: list[_Piece] = []
            for piece, context, count in zip(pieces, tried, counts, strict=True):
                if count <= self.limit:
                    out.append(self._span(piece, context, count))
                elif piece.end - piece.start > 1:
                    again.extend(self._smaller(piece, budget))
                else:
                    # One character that costs more than a sixth of the model's window: it goes without context.
                    out.append(self._span(piece, "", self._counts([piece], [""])[0]))
            pieces = again
        return _ascending(out)

    def _counts(self, pieces: Sequence[_Piece], contexts: Sequence[str]) -> list[int]:
        texts = [
            embedding_text(context, self.text[piece.start : piece.end])
            for piece, context in zip(pieces, contexts, strict=True)
        ]
        return self.counter.count(texts) if texts else []

    def _smaller(self, piece: _Piece, budget: int) -> Iterator[_Piece]:
        """At least two pieces out of one, without overlap."""
        position, half = piece.start, max(1, (piece.end - piece.start) // 2)
        while position < piece.end:
            reach = min(self._reach(position, budget, piece.end), position + half)
            stop = reach
            if reach < piece.end:
                stop, _ = self._cut(position, position, reach, budget)
            yield _Piece(position, int(self.at.last_ink[stop]), piece.section)
            position = int(self.at.next_ink[stop])

    def _header(self, start: int) -> str:
        """The header row of the table that `start` lies inside of, "" at its first row or elsewhere."""
        table = _table_at(self.at.tables, start)
        return table.header if table and start > int(self.at.next_ink[table.start]) else ""

    def _span(self, piece: _Piece, context: str, tokens: int) -> Span:
        pages = self.document.page_starts
        return Span(
            start=piece.start,
            end=piece.end,
            page=max(1, bisect_right(pages, piece.start)) if pages else None,
            headings=tuple(heading.title for heading in self.sections[piece.section].path),
            context=context,
            tokens=tokens,
        )


def _sections(document: Document, length: int) -> list[_Section]:
    """The whole text by headings; text before the first heading is a section without a path."""
    headings = sorted((h for h in document.headings if 0 <= h.start < length), key=lambda heading: heading.start)
    starts: list[tuple[int, tuple[Heading, ...]]] = [(0, ())]
    path: list[Heading] = []
    for heading in headings:
        while path and path[-1].level >= heading.level:
            path.pop()
        del path[_DEEPEST - 1 :]
        path.append(heading)
        if starts[-1][0] == heading.start:
            starts.pop()
        starts.append((heading.start, tuple(path)))
    ends = [start for start, _ in starts[1:]] + [length]
    return [_Section(start, end, names) for (start, names), end in zip(starts, ends, strict=True)]


def _ascending(spans: list[Span]) -> list[Span]:
    """In reading order, without those that lie within another: a piece cut again may end inside its successor's
    overlap."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if not kept or span.end > kept[-1].end:
            kept.append(span)
    return kept


def _last_in(places: np.ndarray, low: int, high: int) -> int | None:
    """The last of the ascending `places` in (low, high]."""
    index = int(np.searchsorted(places, high, side="right")) - 1
    return int(places[index]) if index >= 0 and places[index] > low else None


def _table_at(tables: tuple[Table, ...], position: int) -> Table | None:
    index = bisect_right(tables, position, key=lambda table: table.start) - 1
    return tables[index] if index >= 0 and position < tables[index].end else None


def _attached(character: str) -> bool:
    """Whether a character belongs to the one before it: combining marks, joiner, variation selector, skin tone."""
    return (
        unicodedata.category(character)[0] == "M" or character == "\u200d" or "\U0001f3fb" <= character <= "\U0001f3ff"
    )


def _one_line(name: str) -> str:
    return " ".join(name[:_TITLE].split())
