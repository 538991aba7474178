"""Where things lie: the workspace folder and the names of collections in it. Only the standard library is needed here,
so that an error can be reported even when nothing else can be imported."""

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from retrieval.errors import UsageError

DEFAULT_COLLECTION = "default"
CHATS = "chats.sqlite"
"""The file of the workspace in which the chat keeps its conversations."""
# 60 characters of up to four UTF-8 bytes stay under the 255 bytes of a file name.
_COLLECTION_NAME = re.compile(r"\w[\w.\-]{0,59}")


def default_workspace(environment: Mapping[str, str]) -> Path:
    """$FATHOM_HOME, else data/workspace of the checkout this file belongs to, else data/workspace here."""
    if environment.get("FATHOM_HOME"):
        return Path(environment["FATHOM_HOME"]).expanduser()
    root = Path(__file__).resolve().parent.parent
    if not (root / "pyproject.toml").is_file():
        root = Path.cwd()
    return root / "data" / "workspace"


def collection_name(text: str) -> str:
    """The name in composed form (NFC), so that one spelling is one folder. Raises UsageError if it is not a name."""
    name = unicodedata.normalize("NFC", text)
    if not _COLLECTION_NAME.fullmatch(name) or name.endswith("."):
        raise UsageError(
            f"{text[:80]!r} cannot name a collection; use up to 60 letters (of any script), digits, '-', '_' and '.', "
            "beginning with a letter or digit"
        )
    return name
