"""Files of scripts and styles in, elements for a page's head out: the page then asks for no further file."""

from pathlib import Path

_FOLDER = Path(__file__).parent
VIEWER_FILES = (_FOLDER / "viewer.js", _FOLDER / "viewer.css")
UPLOAD_FILES = (_FOLDER / "upload.js", _FOLDER / "upload.css")

_ELEMENTS = {".js": "script", ".css": "style"}


def head(*files: Path) -> str:
    """One element per file, in their order."""
    parts = []
    for file in files:
        name = _ELEMENTS[file.suffix]
        parts.append(f"<{name}>{file.read_text(encoding='utf-8')}</{name}>")
    return "".join(parts)
