"""A document's row in a collection in, the file it was read from out, if that file still is what was read.

Knows no format; a file that changed, moved or was never there is a reason, not another text.
"""

from pathlib import Path

from retrieval.errors import ReadingError
from retrieval.reading.folder import Loaded, load, source_file
from retrieval.storage.catalogue import DocumentRow


def original(row: DocumentRow, max_bytes: int) -> Loaded:
    """The file, read whole; its bytes hash to what is stored.

    Raises ReadingError with reason "none" (the document came from no file), "changed", or what keeps the file from
    being read: "vanished", "permission", "symlink", "not-a-file", "too-large", "io".
    """
    uri = row.source.uri
    if not row.path:
        raise ReadingError(uri, "none", "was not read from a file of this machine.")
    loaded = load(source_file(Path(row.path), uri), max_bytes)
    if loaded.content_hash != row.content_hash:
        raise ReadingError(uri, "changed", "was changed after it was indexed; sync again to see it as it is now.")
    return loaded
