"""Excel files (xlsx) in, one heading per sheet and its cells as Markdown tables out."""

import datetime
import io
import re
from collections.abc import Iterator
from typing import Any

from retrieval.reading.archive import check_all_xml, core_properties, open_archive, read_member
from retrieval.reading.building import Builder, Parsed
from retrieval.reading.limits import ArchiveLimits
from retrieval.reading.refusal import Refusal

# A formula whose result was never calculated (files written by programs): its own text is all there is to show.
_BARE_FORMULA = re.compile(rb"</f>\s*(?:</c>|<v\s*/>|<v></v>)|<f[^>]*/>\s*</c>")


def parse_xlsx(data: bytes, limits: ArchiveLimits) -> Parsed:
    """A workbook: values as saved, dates in ISO form, formulas only where no value was saved with them.

    Raises Refusal: "corrupt", "bomb", "encrypted", "no-text".
    """
    with open_archive(data, limits) as archive:
        check_all_xml(archive)  # openpyxl has a parser of its own
        metadata = core_properties(archive)
        sheets = [name for name in archive.namelist() if name.startswith("xl/worksheets/")]
        bare = any(_BARE_FORMULA.search(read_member(archive, name) or b"") for name in sheets)
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    out = Builder()
    try:
        values = load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
        formulas = load_workbook(io.BytesIO(data), read_only=True, keep_links=False) if bare else None
        for sheet in values.worksheets:
            twin = formulas[sheet.title] if formulas is not None else None
            _sheet(sheet, twin, out)
    except (InvalidFileException, KeyError, ValueError, TypeError, AttributeError, IndexError, OSError) as problem:
        # openpyxl meets damaged parts with whatever exception the damage leads to
        raise Refusal("corrupt", f"is a damaged workbook ({type(problem).__name__}); save it again.") from problem
    title = str(metadata.pop("title", ""))
    parsed = out.build("xlsx", title or " ", metadata)
    parsed.title = title  # a sheet's name ("Sheet1") is no title
    if not parsed.text:
        raise Refusal("no-text", "is a workbook without a filled cell; nothing to index.")
    return parsed


def _sheet(sheet: Any, twin: Any, out: Builder) -> None:
    written = False
    for rows in _tables(sheet, twin):
        if not written:
            out.block(sheet.title, heading=1)
            written = True
        out.table(rows)


def _tables(sheet: Any, twin: Any) -> Iterator[list[list[str]]]:
    """The sheet's filled stretches, cut at empty rows."""
    sheet.reset_dimensions()  # the size a file claims may be a million columns of nothing
    if twin is not None:
        twin.reset_dimensions()
    twins = twin.iter_rows() if twin is not None else None
    table: list[list[str]] = []
    for cells in sheet.iter_rows():
        others = next(twins, ()) if twins is not None else ()
        row = [_shown(cell) for cell in cells]
        for column, other in enumerate(others):
            if column < len(row) and not row[column] and isinstance(other.value, str):
                row[column] = other.value
        if any(row):
            table.append(row)
        elif table:
            yield table
            table = []
    if table:
        yield table


def _shown(cell: Any) -> str:
    """A cell as a person sees it, more or less: dates in ISO form, percentages as such, no trailing .0."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.date().isoformat() if midnight else value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, float | int) and "%" in (cell.number_format or ""):
        return f"{value * 100:.10g}%"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"
    return str(value)
