"""Two runs over the same questions → Markdown with some of their answers side by side, drawn and not picked."""

import random
import re
from typing import TYPE_CHECKING

from eval.runs.parts import Record
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from eval.runs.executing import RunResult

DRAWN = 10
"""Questions shown where nobody says how many."""
LONGEST = 600
"""Characters of an answer shown."""


def side_by_side(
    a: "RunResult", b: "RunResult", *, part_a: str, part_b: str, drawn: int = DRAWN, seed: int = 0, titles: str = ""
) -> str:
    """Markdown: a heading a question, below it what was expected and what either run answered.

    `drawn` questions at random, the same for the same seed, in the order of the file. Raises UsageError for parts that
    have no answers in common.
    """
    before, after = a.parts[part_a].records, b.parts[part_b].records
    shared = [key for key in before if key in after and "answer" in before[key] and "answer" in after[key]]
    if not shared:
        raise UsageError(f"'{a.name}' and '{b.name}' have no answers to the same questions; run 'fathom eval answers'")
    chosen = set(random.Random(f"{seed} beside").sample(shared, min(drawn, len(shared))))
    lines = [titles or f"# {a.name} beside {b.name}", ""]
    lines += [f"{len(chosen)} of {len(shared)} questions, drawn at random (seed {seed})."]
    for key in filter(chosen.__contains__, shared):
        one, other = before[key], after[key]
        lines += ["", f"## {_plain(one.get('text') or key)}", ""]
        lines += [f"- Expected: {_expected(one)}", f"- **{_plain(a.name)}**: {_said(one)}"]
        lines += [f"- **{_plain(b.name)}**: {_said(other)}"]
    return "\n".join(lines) + "\n"


def _expected(record: Record) -> str:
    if not record.get("answerable", True):
        return "*no answer: the documents hold none*"
    golds = record.get("golds") or ()
    return _plain(golds[0]) if golds else "–"


def _said(record: Record) -> str:
    text = _plain(record.get("answer") or record.get("error") or "–")
    right = record.get("metrics", {}).get("F1")
    score = "" if right is None else f" (F1 {right:.2f})"
    return ("*refused* " if record.get("refused") else "") + text + score


def _plain(text: object) -> str:
    """On one line, cut, with nothing that Markdown or HTML would take for its own: a model wrote it."""
    line = " ".join(str(text).split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
    line = line.replace("&", "&amp;")
    for sign in "\\`*_{}[]<>#|!~":
        line = line.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return re.sub(r"\\\[(\d+)\\\](?![(\[:])", r"[\1]", line)  # a citation's number, which is no link
