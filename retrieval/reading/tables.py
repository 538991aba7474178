"""CSV and TSV in, one Markdown table out; the delimiter is found, no cell is dropped."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from retrieval.reading.building import MAX_FILLED, Builder, Parsed
from retrieval.reading.plain import encoding_note, source_text

_DELIMITERS = ",;\t|"
_SAMPLE_LINES = 50
# A quote that is never closed swallows the rest of the file into one cell; no genuine cell has this many lines.
_MAX_CELL_LINES = 500
_NO_LIMIT = 1 << 30


def parse_csv(data: bytes, *, delimiter: str = "") -> Parsed:
    """A table whose first row is its header. `delimiter` "" finds it among comma, semicolon, tab and bar."""
    csv.field_size_limit(_NO_LIMIT)  # one setting for the whole process, 131,072 by default
    text, decoded, removed = source_text(data)
    warnings = decoded.warnings()
    if text.startswith("sep=") and len(text) > 5 and text[5] == "\n":  # Excel's own way to say it
        delimiter, text = text[4], text[6:]
    delimiter = delimiter or _find_delimiter(text)
    quoting = csv.QUOTE_MINIMAL
    width = _width(text, delimiter, quoting)
    if width is None:
        warnings.append("a quotation mark is never closed; cells were cut at every delimiter and line break instead")
        quoting = csv.QUOTE_NONE
        width = _width(text, delimiter, quoting) or 0
    out = Builder(removed)
    out.warnings += warnings
    out.block("\n".join(_markdown(_rows(text, delimiter, quoting), width)))
    parsed = out.build("tsv" if delimiter == "\t" else "csv", metadata=encoding_note(decoded))
    parsed.metadata["rows"] = max(0, parsed.text.count("\n") - 1)
    return parsed


def parse_tsv(data: bytes) -> Parsed:
    """Tab-separated values; a file that has no tab at all is read as CSV."""
    return parse_csv(data, delimiter="\t" if b"\t" in data else "")


def _rows(text: str, delimiter: str, quoting: int) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]


def _width(text: str, delimiter: str, quoting: int) -> int | None:
    """Cells of the longest row, or None if a cell is too long to be meant."""
    width = 0
    for row in _rows(text, delimiter, quoting):
        width = max(width, len(row))
        if quoting != csv.QUOTE_NONE and row and max(map(len, row)) > _MAX_CELL_LINES:
            if any(cell.count("\n") > _MAX_CELL_LINES for cell in row):
                return None
    return width


def _markdown(rows: Iterable[Sequence[str]], width: int) -> Iterator[str]:
    """building.markdown_table, line by line: a table of five million cells does not fit into the memory limit."""
    first = True
    for row in rows:
        joined = "".join(row)
        if not joined.strip():
            continue
        cells = list(map(str.strip, row))
        if "|" in joined or "\n" in joined:
            cells = [cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells]
        line = "| " + " | ".join(cells) + " |"
        # Cells that a row lacks are filled up, but not a hundred thousand per row.
        yield line + "  |" * (width - len(cells)) if width <= MAX_FILLED else line
        if first:
            first = False
            yield "|" + " --- |" * width


def _find_delimiter(text: str) -> str:
    """The delimiter that cuts the first lines into the same number of cells, more than one; comma if none does."""
    sample = text[:65_536].split("\n")[:_SAMPLE_LINES]
    best, best_score = ",", 0.0
    for delimiter in _DELIMITERS:
        widths = [len(row) for row in csv.reader(io.StringIO("\n".join(sample)), delimiter=delimiter) if row]
        if not widths or max(widths) < 2:
            continue
        usual = max(set(widths), key=widths.count)
        agreement = widths.count(usual) / len(widths)
        score = agreement * (1 + min(usual, 20) / 100) if usual > 1 else 0.1 * agreement
        if score > best_score:
            best, best_score = delimiter, score
    return best
