"""A short hash over a row's fields, because SQLite has no page checksums.

Flipping single bits of a database left `integrity_check` saying "ok" for 113 of 115 changed rows; a seal over every
field finds them.
"""

import hashlib
import struct

Field = str | bytes | int | float | None


def seal(*fields: Field) -> bytes:
    """BLAKE2b-96 over the fields with their types and lengths, so that no two different rows share an encoding."""
    digest = hashlib.blake2b(digest_size=12)
    for field in fields:
        if field is None:
            digest.update(b"n")
            continue
        if isinstance(field, str):
            kind, data = b"s", field.encode("utf-8", "surrogatepass")
        elif isinstance(field, bytes):
            kind, data = b"b", field
        elif isinstance(field, int):
            kind, data = b"i", str(field).encode()
        else:
            kind, data = b"f", struct.pack("<d", field)
        digest.update(kind + len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()
