"""Hostile text of records → text that can be shown: nothing hidden, reordered or overpainted, lengths capped and said.

It escapes nothing: HTML and JSON are escaped where they are written.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

# Controls, embedding/override/isolate marks (CVE-2021-42574), zero-width characters without a use in any script,
# interlinear marks, Unicode tags. Joiners and the plain direction marks stay: Indic scripts, emoji, Arabic need them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
# Stacked combining marks paint over the lines around them; three are more than any living spelling needs.
_MARKS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_STACKED = re.compile(f"([{_MARKS}]{{3}})[{_MARKS}]+")
SHORTENED = " … (shortened)"


def plain(value: Any, limit: int | None = None) -> str:
    """`value` as text without characters that hide, reorder or overpaint; cut to `limit` characters, and said so."""
    text = value if isinstance(value, str) else "" if value is None else as_json(value)
    if text.isascii() and text.isprintable() and (limit is None or len(text) <= limit):
        return text
    # Removal can only shorten: what is far over the limit need not be cleaned whole.
    head = text if limit is None else text[: 4 * limit + 1000]
    head = head.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    head = _STACKED.sub(r"\1", _UNSEEN.sub("", _SURROGATE.sub("\ufffd", head)))
    if limit is not None and len(head) > limit:
        return head[:limit].rstrip() + SHORTENED
    return head


def line(value: Any, limit: int = 200) -> str:
    """`plain` in one line, with an ellipsis where it was cut."""
    text = " ".join(plain(value, 3 * limit).replace(SHORTENED, "…").split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def as_json(value: Any, *, indent: int | None = None) -> str:
    """Any value a record may hold, as JSON that a reader can read."""
    return json.dumps(value, ensure_ascii=False, indent=indent, default=str)


def number(value: Any) -> float | None:
    """`value` where it is a finite number, else None: files may hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def listed(value: Any) -> list[Any]:
    """`value` where it is a list, else [value], and nothing for None."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def moment(value: Any) -> str:
    """A time stamp (ISO 8601 or seconds since 1970) → "22 Nov 2026, 14:02"; other text as it is."""
    seconds = number(value)
    try:
        when = datetime.fromtimestamp(seconds) if seconds is not None else datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        return line(value, 60)
    return f"{when.day} {when:%b %Y, %H:%M}"


def duration(seconds: float) -> str:
    """75 → "1 min 15 s"; 0.034 → "34 ms"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def milliseconds(value: float | None) -> str:
    """0.42 → "0.42 ms"; 1830 → "1.83 s"."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value / 1000:.2f} s" if value < 60_000 else duration(value / 1000)
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def tick_time(value: float) -> str:
    """A round number of milliseconds at an axis: 1000 → "1 s"."""
    return f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms"


def count(value: float, noun: str, plural: str = "") -> str:
    """2000 → "2,000 items"."""
    return f"{int(value):,} {noun if value == 1 else plural or noun + 's'}"


def probability(p: float) -> str:
    """A p-value as papers write it: "p = .002", "p < .001"."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".") if p < 1 else "p = 1"
