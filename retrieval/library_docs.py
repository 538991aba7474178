"""Installed Python packages in, one Document per module with its docstrings out. Knows no index.

A large, real, technical corpus that is already on every machine that runs Fathom. Source files are only parsed
(`ast`), never imported or run; compiled packages are read from their `.pyi` stubs.
"""

import ast
import hashlib
import importlib.metadata
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from retrieval.errors import MissingError, ReadingError
from retrieval.passages import Document, Heading, Scalar

DEFAULT_PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "faiss",
    "gradio",
    "llama_index.core",
    "nncf",
    "numpy",
    "openvino",
    "openvino_genai",
    "peft",
    "sentence_transformers",
    "tantivy",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)
"""Read when the caller names none; those that are not installed are left out."""

DEMO_PACKAGES = ("sentence_transformers", "tokenizers")
"""What `make run` indexes: the parts Fathom itself searches and answers with, under a minute on two cores."""

MAX_FILE_BYTES = (
    4_000_000  # the largest documented module met is faiss/swigfaiss.py, 0.9 MB; beyond are generated tables
)
EXTRACTION_VERSION = "1"  # part of content_hash: raise it when the text made from the same source changes

_SKIPPED_FOLDERS = frozenset(
    {
        "tests",
        "test",
        "testing",
        "_vendor",
        "vendor",
        "_vendored",
        "vendored",
        "third_party",
        "externals",
        "node_modules",
    }
)
_SIGNATURE_LIMIT = 300  # characters; the constructors of transformers' configurations run to thousands


def documents(
    packages: Sequence[str] | None = None,
    *,
    limit: int | None = None,
    on_error: Callable[[ReadingError], None] | None = None,
) -> Iterator[Document]:
    """Yield one Document per module with docstrings of `packages` (import names: "faiss", "llama_index.core").

    Packages come in the order given, modules sorted by path. `limit` counts documents over all packages.
    `content_hash` covers the source bytes, the package's version and the version of this extraction: a change of
    any of them is an update, and nothing else is.

    A file that cannot be read or parsed goes to `on_error` and the rest goes on; without `on_error` the ReadingError
    is raised. Raises MissingError for a package that was named and is not installed.
    """
    left = limit
    for package in installed(DEFAULT_PACKAGES) if packages is None else packages:
        root = _root(package)
        if root is None:
            raise MissingError(
                f"The package {package!r} is not installed in this environment; "
                f"install it, or choose from: {', '.join(installed(DEFAULT_PACKAGES))}."
            )
        version = _version(package)
        for path, module in _modules(root, package):
            if left is not None and left <= 0:
                return
            try:
                document = _document(path, package, module, version)
            except ReadingError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            if document is not None:
                yield document
                left = None if left is None else left - 1


def installed(packages: Sequence[str]) -> tuple[str, ...]:
    """Those of `packages` (import names) that are installed here, in the same order; none is imported."""
    return tuple(package for package in packages if _root(package) is not None)


def extract(source: bytes, module: str) -> tuple[str, tuple[Heading, ...]]:
    """The docstrings of one source file as text, and a heading per documented class and function.

    The text opens with the module's docstring. Each heading's line is the signature, its title the name within the
    module (`Index.add`), its level the depth. Private names are left out.
    Raises SyntaxError, ValueError, RecursionError or MemoryError where `ast.parse` does.
    """
    tree = ast.parse(source, filename=module)
    writer = _Writer()
    if docstring := ast.get_docstring(tree):
        writer.paragraph(docstring)
    _members(tree, "", 1, writer)
    return writer.text(), tuple(writer.headings)


class _Writer:
    """Paragraphs joined by blank lines, with the offset of each known as it is written."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self._parts: list[str] = []
        self._length = 0
        self._seen: set[tuple[str, str]] = set()

    def paragraph(self, text: str) -> None:
        if self._parts:
            self._parts.append("\n\n")
            self._length += 2
        self._parts.append(text)
        self._length += len(text)

    def entry(self, title: str, level: int, signature: str, docstring: str) -> None:
        if (title, docstring) in self._seen:  # overloads and property setters repeat themselves
            return
        self._seen.add((title, docstring))
        start = self._length + (2 if self._parts else 0)
        self.headings.append(Heading(start=start, level=level, title=title))
        self.paragraph(f"{signature}\n{docstring}")

    def text(self) -> str:
        return "".join(self._parts)


def _members(node: ast.AST, prefix: str, level: int, writer: _Writer) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(
            child, ast.If | ast.Try | ast.ExceptHandler
        ):  # definitions guarded by a version or an optional import
            _members(child, prefix, level, writer)
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or _private(child.name):
            continue
        name = f"{prefix}{child.name}"
        docstring = (ast.get_docstring(child) or "").strip()
        if docstring:
            writer.entry(name, level, _signature(child, name), docstring)
        if isinstance(child, ast.ClassDef):
            _members(child, f"{name}.", level + 1, writer)


def _private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def _signature(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        line = f"class {name}"
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        line += f"({bases})" if bases else ""
    else:
        line = f"{name}({ast.unparse(node.args)})"
        line += f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = " ".join(line.split())
    return line if len(line) <= _SIGNATURE_LIMIT else line[: _SIGNATURE_LIMIT - 1] + "…"


def _document(path: Path, package: str, module: str, version: str) -> Document | None:
    source = _read(path)
    try:
        text, headings = extract(source, module)
    except (SyntaxError, ValueError) as error:
        raise ReadingError(str(path), "syntax", f"is not Python that this version can parse ({error}).") from error
    except (RecursionError, MemoryError) as error:
        raise ReadingError(str(path), "nesting", "is nested too deeply to parse.") from error
    if not text:
        return None
    kind = "stub" if path.suffix == ".pyi" else "package" if path.stem == "__init__" else "module"
    metadata: dict[str, Scalar] = {"package": package, "version": version, "module": module, "kind": kind}
    digest = hashlib.blake2b(source, digest_size=16, person=b"library-docs")
    digest.update(f"\0{version}\0{EXTRACTION_VERSION}".encode())
    return Document(
        uri=f"library/{package}/{module}",
        text=text,
        title=module,
        format="docstrings",
        headings=headings,
        metadata=metadata,
        content_hash=digest.hexdigest(),
    )


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ReadingError(str(path), "not a file", "is not a regular file.")
            if status.st_size > MAX_FILE_BYTES:
                raise ReadingError(
                    str(path),
                    "too large",
                    f"has {status.st_size:,} bytes, more than the limit of {MAX_FILE_BYTES:,}.",
                )
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise ReadingError(str(path), "unreadable", f"cannot be read ({error.strerror}).") from error


def _root(package: str) -> Path | None:
    """Where an importable package lives: its folder, its single file, or None. Imports nothing."""
    search: list[str] | None = None
    spec = None
    for end in range(1, package.count(".") + 2):
        # PathFinder does not run a parent's __init__, which importlib.util.find_spec would.
        spec = PathFinder.find_spec(".".join(package.split(".")[:end]), search)
        if spec is None:
            return None
        search = list(spec.submodule_search_locations or [])
    if search:
        return Path(search[0])
    return Path(spec.origin) if spec is not None and spec.origin else None


def _version(package: str) -> str:
    """The version of the installed distribution that holds `package`; empty where none says so."""
    inside = package.replace(".", "/")
    for name in importlib.metadata.packages_distributions().get(package.split(".")[0], ()):
        distribution = importlib.metadata.distribution(name)
        files = (file.as_posix() for file in distribution.files or ())
        if any(file.startswith((f"{inside}/", f"{inside}.")) for file in files):
            return distribution.version
    return ""


def _modules(root: Path, package: str) -> Iterator[tuple[Path, str]]:
    """(file, dotted name) of every module of a package, sorted; no tests, vendored code or links."""
    if not root.is_dir():
        stub = root.with_name(f"{package.split('.')[-1]}.pyi")
        for path in (root, stub):
            if path.suffix in (".py", ".pyi") and path.is_file():
                yield path, package
                return
        return
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS and name.isidentifier())
        inside = Path(folder).relative_to(root).parts
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix not in (".py", ".pyi") or path.is_symlink() or not path.stem.isidentifier():
                continue
            if path.stem.startswith("test_") or path.stem.endswith("_test") or path.stem == "conftest":
                continue
            if path.suffix == ".pyi" and f"{path.stem}.py" in names and _has_docstrings(path.with_suffix(".py")):
                continue  # the source says more than its stub
            if path.suffix == ".py" and f"{path.stem}.pyi" in names and not _has_docstrings(path):
                continue  # a thin wrapper over compiled code: the stub has the words
            yield path, ".".join((package, *inside, *(() if path.stem == "__init__" else (path.stem,))))


def _has_docstrings(path: Path) -> bool:
    try:
        return bool(extract(_read(path), path.stem)[0])
    except (ReadingError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False  # the stub stands in; the file itself is not indexed
