"""What went wrong between us and a server → a sentence: what was found, what to do. It never quotes a key."""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retrieval.errors import BusyError, FathomError, MissingError, UsageError

if TYPE_CHECKING:
    from app.engines.generating import TimeLimits

_TOO_LONG = re.compile(r"context (?:length|window|size)|maximum context|too long|too many tokens|max_model_len", re.I)
_NO_MODEL = re.compile(r"\bmodel\b", re.I)
WORDS = 300
"""Characters of a server's own words that are passed on."""


class NoSuchAddress(MissingError):
    """The server is there and has nothing at this path."""


def unreachable(url: str, error: BaseException, seconds: float) -> MissingError:
    """No connection, or none in time."""
    reason = " ".join(str(error).split())[:WORDS] or f"nothing answered within {seconds:.0f} s"
    return MissingError(
        f"the server at {url} cannot be reached ({reason}); start it, or correct [engine] url or the address given"
    )


def cut_off(url: str, tokens: int) -> FathomError:
    """The connection ended before the answer did."""
    when = f"after {tokens:,} tokens of the answer" if tokens else "before it wrote anything"
    return FathomError(f"the server at {url} closed the connection {when}; see its log, then ask again")


def not_the_protocol(url: str, found: str) -> FathomError:
    """Something answers, but it does not speak as it should."""
    return FathomError(
        f"what the server at {url} sent is not an answer of the OpenAI protocol: {_clean(found)}; give the address of "
        "an OpenAI-compatible server, which usually ends in /v1"
    )


def too_slow(limits: "TimeLimits", waiting: bool, problem: str) -> FathomError:
    """A time limit was passed; `problem` is what kept the last attempt from success, if anything."""
    if problem:
        return BusyError(f"{problem} (still so after {limits.first_token:g} s)")
    if waiting and limits.first_token <= limits.total:
        return FathomError(
            f"the language model wrote nothing for {limits.first_token:g} s (its limit); ask with fewer passages, or "
            "raise [engine] first_token_seconds"
        )
    return FathomError(
        f"the language model was still writing after {limits.total:g} s (its limit); ask for a shorter answer, or "
        "raise [engine] total_seconds"
    )


def refused(
    url: str,
    status: int,
    body: bytes | Mapping[str, Any],
    headers: Mapping[str, str],
    models: tuple[str, ...],
    key: str | None,
) -> FathomError:
    """The server's no. `body` is its JSON, or whatever it sent."""
    words = _words(body)
    if key:
        words = words.replace(key, "***")
    said = f": {words}" if words else ""
    if status in (401, 403):
        do = "did not accept the key in" if key else "wants a key; set"
        return UsageError(f"the server at {url} {do} FATHOM_ENGINE_API_KEY ({status}{said})")
    if status == 404 and _NO_MODEL.search(words):
        there = f"it has {', '.join(models)}" if models else "ask it for its models at /models"
        return MissingError(f"the server at {url} has no such model ({words}); {there}")
    if status == 404:
        return NoSuchAddress(f"the server at {url} knows no such address (404); it usually ends in /v1")
    if status in (400, 413, 422) and _TOO_LONG.search(words):
        return UsageError(
            f"the prompt is longer than the model reads ({words}); ask with fewer passages (--k), a shorter question, "
            "or a model with a larger window"
        )
    if status in (429, 503):
        return BusyError(f"the server at {url} is busy ({status}{said}); try again in a moment")
    if 300 <= status < 400:
        to = _clean(headers.get("location", "")).partition("?")[0]
        return FathomError(f"the server at {url} points to {to or 'another address'} ({status}); give that address")
    code = "" if status == 200 else f" {status}"
    return FathomError(f"the server at {url} answered with an error{code}{said}; see its log")


def _words(body: bytes | Mapping[str, Any]) -> str:
    """The message inside an error, whichever of the usual shapes it has; a page of HTML has none."""
    if isinstance(body, bytes):
        try:
            parsed = json.loads(body)
        except (ValueError, RecursionError):
            text = body[: 4 * WORDS].decode("utf-8", "replace")
            return "" if "<" in text else _clean(text)
    else:
        parsed = body
    for _ in range(3):
        if not isinstance(parsed, Mapping):
            break
        parsed = parsed.get("error") or parsed.get("message") or parsed.get("detail") or ""
    return _clean(parsed if isinstance(parsed, str) else json.dumps(parsed, ensure_ascii=False)[: 4 * WORDS])


def _clean(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 8 * WORDS]).split())[:WORDS]
