"""An e-mail (eml) in, its headers, body and the names of its attachments out. Attachments themselves are not opened."""

import email
import email.policy
import email.utils
from email.errors import MessageError
from email.header import decode_header
from email.message import Message

from retrieval.passages import Scalar
from retrieval.reading.building import Builder, Parsed
from retrieval.reading.encodings import decode
from retrieval.reading.markup import html_to_parsed
from retrieval.reading.normalising import one_line
from retrieval.reading.refusal import Refusal

_SHOWN = ("From", "To", "Cc", "Date")
_MAX_PARTS = 1_000


def parse_eml(data: bytes) -> Parsed:
    """Subject as title and heading, sender, recipients and date as lines and metadata, then the body.

    compat32 is used because the newer policy raises on malformed headers that real mail has.
    Raises Refusal: "corrupt", "no-text".
    """
    try:
        message = email.message_from_bytes(data, policy=email.policy.compat32)
    except (MessageError, RecursionError, ValueError, LookupError) as problem:
        raise Refusal("corrupt", "is a damaged e-mail that cannot be taken apart; export it again.") from problem
    if not any(message.get(name) for name in ("From", "To", "Subject", "Date", "Received", "Message-ID")):
        raise Refusal("corrupt", "is no e-mail (it has no From, To, Subject or Date line); correct its suffix.")
    out = Builder()
    metadata: dict[str, Scalar] = {}
    subject = _header(message, "Subject")
    out.block(subject, heading=1)
    lines = []
    for name in _SHOWN:
        value = _header(message, name)
        if value:
            lines.append(f"{name}: {value}")
            metadata[name.lower()] = _iso_date(value) if name == "Date" else value
    out.block("\n".join(lines))
    if "from" in metadata:
        metadata["author"] = metadata["from"]
    attachments: list[str] = []
    _body(message, out, attachments)
    if attachments:
        out.block("Attachments: " + ", ".join(attachments))
        metadata["attachments"] = one_line(", ".join(attachments), 1000)
    parsed = out.build("eml", subject, metadata)
    if not parsed.text:
        raise Refusal("no-text", "is an e-mail without subject and text.")
    return parsed


def _body(message: Message, out: Builder, attachments: list[str]) -> None:
    """Every part that a mail program shows; of alternatives the plain text, if it has any."""
    stack = [message]
    seen = 0
    while stack:
        part = stack.pop()
        seen += 1
        if seen > _MAX_PARTS:
            out.warnings.append(f"has more than {_MAX_PARTS:,} parts; the rest was left out")
            return
        kind = part.get_content_type()
        inside = part.get_payload()
        if part.is_multipart() and isinstance(inside, list):
            parts = [piece for piece in inside if isinstance(piece, Message)]
            if kind == "multipart/alternative":
                parts = _best_alternative(parts)
            elif kind == "message/rfc822":
                out.block(
                    "\n".join(
                        f"{name}: {_header(p, name)}" for p in parts for name in ("Subject", *_SHOWN) if p.get(name)
                    )
                )
            stack += reversed(parts)
        elif (
            part.get_content_disposition() == "attachment"
            or part.get_filename()
            or part.get_content_maintype() != "text"
        ):
            attachments.append(one_line(_decoded(part.get_filename() or kind), 200))
        else:
            _text_part(part, kind, out)


def _best_alternative(parts: list[Message]) -> list[Message]:
    plain = [part for part in parts if part.get_content_type() == "text/plain" and _bytes(part).strip()]
    return plain[:1] or parts[-1:]  # RFC 2046: the last is the richest


def _text_part(part: Message, kind: str, out: Builder) -> None:
    raw = _bytes(part)
    if not raw.strip():
        return
    charset = part.get_content_charset()
    try:
        decoded = decode(raw, charset)
    except Refusal as refusal:
        out.warnings.append(f"left out a part that {refusal.message}")
        return
    out.warnings += decoded.warnings()
    if kind == "text/html":
        out.include(html_to_parsed(decoded.text))
    else:
        out.block(decoded.text)


def _bytes(part: Message) -> bytes:
    raw = part.get_payload(decode=True)
    return raw if isinstance(raw, bytes) else b""


def _header(message: Message, name: str) -> str:
    """A header as a person reads it: all its encoded words decoded, on one line."""
    # raw_items, because get() turns a header with raw eight-bit bytes into question marks.
    value = next((value for key, value in message.raw_items() if key.lower() == name.lower()), "")
    return one_line(_decoded(str(value)), 1000)


def _decoded(value: str) -> str:
    parts = []
    try:
        for piece, charset in decode_header(value):
            if isinstance(piece, str):
                parts.append(piece)
                continue
            try:
                parts.append(decode(piece, charset).text if piece else "")
            except Refusal:
                parts.append(piece.decode("latin-1"))
    except (MessageError, ValueError):
        return value
    # Raw eight-bit headers arrive with their bytes as surrogates.
    text = "".join(parts)
    raw = text.encode("utf-8", "surrogateescape") if any("\udc80" <= c <= "\udcff" for c in text) else None
    if raw is None:
        return text
    try:
        return decode(raw).text
    except Refusal:
        return raw.decode("latin-1")


def _iso_date(value: str) -> str:
    try:
        return email.utils.parsedate_to_datetime(value).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return value
