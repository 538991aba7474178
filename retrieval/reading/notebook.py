"""Jupyter notebooks (ipynb) in, prose, code and printed results in order out."""

import json
import re
from typing import Any

from retrieval.passages import Heading, Scalar
from retrieval.reading.building import Builder, Parsed
from retrieval.reading.normalising import normalise, one_line
from retrieval.reading.plain import encoding_note, markdown_headings, source_text
from retrieval.reading.refusal import Refusal

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def parse_ipynb(data: bytes) -> Parsed:
    """Markdown cells as they are (with their headings), code cells and text results as fenced blocks.

    Pictures and widgets are left out; HTML results too, for the text form stands beside them.
    Raises Refusal: "corrupt", "no-text".
    """
    text, decoded, removed = source_text(data)
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise Refusal("corrupt", "is a damaged notebook (no valid JSON); open and save it in Jupyter.") from problem
    if not isinstance(notebook, dict):
        raise Refusal("corrupt", "is no notebook; correct its suffix.")
    cells = notebook.get("cells")
    if cells is None:  # format 3 kept them in worksheets
        sheets = notebook.get("worksheets")
        cells = (
            [cell for sheet in sheets if isinstance(sheet, dict) for cell in sheet.get("cells", [])] if sheets else None
        )
    if not isinstance(cells, list):
        raise Refusal("corrupt", "is no notebook (it has no cells); correct its suffix.")
    metadata, language = _describe(notebook)
    out = Builder(removed)
    out.warnings += decoded.warnings()
    for cell in cells:
        if isinstance(cell, dict):
            _cell(cell, language, out)
    parsed = out.build("ipynb", metadata=metadata | encoding_note(decoded))
    if not parsed.text.strip():
        raise Refusal("no-text", "is a notebook without text or code.")
    return parsed


def _describe(notebook: dict[str, Any]) -> tuple[dict[str, Scalar], str]:
    about = notebook.get("metadata")
    about = about if isinstance(about, dict) else {}
    spec = about.get("kernelspec")
    info = about.get("language_info")
    language = ""
    for source, key in ((info, "name"), (spec, "language")):
        if isinstance(source, dict) and isinstance(source.get(key), str):
            language = language or one_line(source[key], 40)
    authors = about.get("authors")
    metadata: dict[str, Scalar] = {"code_language": language} if language else {}
    if isinstance(authors, list):
        names = [str(a["name"]) for a in authors if isinstance(a, dict) and isinstance(a.get("name"), str)]
        if names:
            metadata["author"] = one_line(", ".join(names))
    return metadata, language


def _cell(cell: dict[str, Any], language: str, out: Builder) -> None:
    source = normalise(_joined(cell.get("source", cell.get("input", ""))), out.removed)
    kind = cell.get("cell_type")
    if kind == "heading":  # format 3
        level = cell.get("level", 1)
        out.block(source, heading=level if isinstance(level, int) and 1 <= level <= 6 else 1)
    elif kind == "code":
        if source.strip():
            out.block(_fenced(source, language))
        results = [_result(output) for output in cell.get("outputs", []) if isinstance(output, dict)]
        shown = "\n".join(filter(None, (result.strip("\n") for result in results)))
        if shown.strip():
            out.block(_fenced(shown, "text"))
    elif source.strip():
        headings = markdown_headings(source) if kind == "markdown" else []
        out.include(Parsed(source.rstrip(), "md", headings=_within(headings, len(source.rstrip()))))


def _within(headings: list[Heading], length: int) -> list[Heading]:
    return [heading for heading in headings if heading.start < length]


def _result(output: dict[str, Any]) -> str:
    kind = output.get("output_type")
    if kind == "stream":
        return _ANSI.sub("", _joined(output.get("text", "")))
    if kind in ("error", "pyerr"):
        return f"{output.get('ename', 'Error')}: {output.get('evalue', '')}"
    data = output.get("data")
    source = data if isinstance(data, dict) else output
    return _joined(source.get("text/plain", source.get("text/markdown", "")))


def _joined(source: Any) -> str:
    if isinstance(source, list):
        return "".join(part for part in source if isinstance(part, str))
    return source if isinstance(source, str) else ""


def _fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
