"""File names and first bytes in, the name of a format out. Knows no parser; light enough for a folder walk."""

import io
import zipfile

# Formats by suffix. A format is also the name of its parser in worker.py; every programming language shares "code".
_PLAIN = "txt text log"
_SUFFIXES: dict[str, str] = {
    **dict.fromkeys(_PLAIN.split(), "txt"),
    **dict.fromkeys("md markdown mdown mkd mdx qmd rmd".split(), "md"),
    **dict.fromkeys("rst rest".split(), "rst"),
    **dict.fromkeys("html htm xhtml".split(), "html"),
    "pdf": "pdf",
    **dict.fromkeys("docx docm dotx".split(), "docx"),
    **dict.fromkeys("pptx pptm ppsx potx".split(), "pptx"),
    **dict.fromkeys("xlsx xlsm xltx".split(), "xlsx"),
    "csv": "csv",
    **dict.fromkeys("tsv tab".split(), "tsv"),
    **dict.fromkeys("json geojson jsonld".split(), "json"),
    **dict.fromkeys("jsonl ndjson".split(), "jsonl"),
    "eml": "eml",
    "epub": "epub",
    "ipynb": "ipynb",
}

# Suffix -> language, as Document.format. "text" languages have no functions to find (code.py leaves them as they are).
LANGUAGES: dict[str, str] = {
    **dict.fromkeys("py pyi pyw".split(), "python"),
    **dict.fromkeys("js mjs cjs jsx".split(), "javascript"),
    **dict.fromkeys("ts tsx mts cts".split(), "typescript"),
    **dict.fromkeys("c h".split(), "c"),
    **dict.fromkeys("cc cpp cxx hpp hh hxx cu cuh".split(), "cpp"),
    "java": "java",
    **dict.fromkeys("kt kts".split(), "kotlin"),
    "scala": "scala",
    "cs": "csharp",
    "go": "go",
    "rs": "rust",
    "rb": "ruby",
    "php": "php",
    "swift": "swift",
    "lua": "lua",
    "jl": "julia",
    "r": "r",
    "pl": "perl",
    "pm": "perl",
    **dict.fromkeys("sh bash zsh".split(), "shell"),
    "ps1": "powershell",
    "sql": "sql",
    "tex": "latex",
    **dict.fromkeys("css scss less xml xsl xsd svg yaml yml toml ini cfg conf proto graphql".split(), "text"),
    **dict.fromkeys("adoc org textile bib srt vtt po properties cmake gradle vue".split(), "text"),
}

# Files that are known by name, because they carry no suffix.
_NAMES: dict[str, str] = dict.fromkeys(
    "readme license licence copying notice changes changelog authors contributors install todo news makefile "
    "dockerfile jenkinsfile gemfile rakefile".split(),
    "txt",
)

_FIRST_BYTES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\x00", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"ID3", "an MP3 file"),
    (b"OggS", "an Ogg file"),
    (b"fLaC", "a FLAC file"),
    (b"\x00asm", "a WebAssembly program"),
    (b"wOFF", "a font"),
    (b"wOF2", "a font"),
    (b"\x00\x01\x00\x00\x00", "a font"),
)
# A text may begin with these letters; only a following non-text byte makes them a file signature.
_AMBIGUOUS = (b"BZh", b"ID3", b"wOFF", b"wOF2", b"OggS", b"fLaC")

_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def suffix_of(name: str) -> str:
    """The lower-case suffix of a file name, without the dot; "" where there is none."""
    stem, dot, suffix = name.rsplit("/", 1)[-1].rpartition(".")
    return suffix.lower() if dot and stem else ""


def format_of(name: str) -> str | None:
    """The format a file name promises ("code" for every programming language), or None if Fathom reads no such file."""
    suffix = suffix_of(name)
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix in LANGUAGES:
        return "code"
    if not suffix:
        return _NAMES.get(name.rsplit("/", 1)[-1].lower())
    return None


def sniff(data: bytes) -> str | None:
    """What the first bytes say: "pdf", "docx", "pptx", "xlsx", "epub", "zip", "old-office", "encrypted-office",
    "binary: …" with the kind in words, or None for anything that may be text."""
    if data.lstrip(b"\xef\xbb\xbf\r\n\t \x00")[:5] == b"%PDF-":
        return "pdf"
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _sniff_zip(data)
    if data.startswith(_OLD_OFFICE):
        # An encrypted docx/xlsx/pptx is an OLE file with a stream of this name ([MS-OFFCRYPTO] 1.3.2).
        return "encrypted-office" if "EncryptedPackage".encode("utf-16-le") in data else "old-office"
    for signature, kind in _FIRST_BYTES:
        if data.startswith(signature) and (signature not in _AMBIGUOUS or _has_controls(data[:64])):
            return f"binary: {kind}"
    if data[:4] == b"RIFF" and data[8:12] in (b"WAVE", b"AVI ", b"WEBP"):
        return "binary: a sound, film or picture"
    if data[4:8] == b"ftyp":
        return "binary: a film or picture"
    return None


def _sniff_zip(data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = set(archive.namelist())
            is_epub = "mimetype" in names and b"epub+zip" in archive.open("mimetype").read(64)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError):
        return "zip"
    if is_epub:
        return "epub"
    for member, name in (("word/", "docx"), ("ppt/", "pptx"), ("xl/", "xlsx")):
        if "[Content_Types].xml" in names and any(entry.startswith(member) for entry in names):
            return name
    return "zip"


def _has_controls(head: bytes) -> bool:
    return any(byte < 9 or 13 < byte < 27 or 27 < byte < 32 for byte in head)
