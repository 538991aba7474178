"""Source code in, the same text with its classes and functions as headings out. Runs nothing, imports nothing."""

import ast
import re
import warnings as python_warnings

from retrieval.passages import Heading, Scalar
from retrieval.reading.building import Parsed
from retrieval.reading.formats import LANGUAGES, suffix_of
from retrieval.reading.normalising import one_line
from retrieval.reading.plain import encoding_note, line_starts, source_text

# PEP 263, and the declaration of XML and CSS files.
_DECLARED = re.compile(
    rb"""^(?:[^\n]*\n)?[ \t\f]*#.*?coding[:=][ \t]*([-\w.]{1,40})"""
    rb"""|^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})"""
    rb"""|^@charset "([\w-]{1,40})";"""
)

_C_NAMES = r"(?P<name>(?:class|struct|enum|union|namespace|interface|trait)\s+[A-Za-z_]\w*)"
# One line each, anchored at its start: a definition spread over lines is found by its first. Not a parser, on purpose:
# a missed heading costs a little context, and every rule here is linear.
_RULES: dict[str, str] = {
    "javascript": r"^(?P<indent>[ \t]*)(?:export\s+)?(?:default\s+)?(?:abstract\s+)?(?:async\s+)?"
    r"(?P<name>(?:class|function\*?|interface|enum|namespace)\s+[A-Za-z_$][\w$]*)"
    r"|^(?:export\s+)?(?P<name2>(?:const|let|var)\s+[A-Za-z_$][\w$]*)\s*=\s*(?:async\s*)?(?:\([^()\n]{0,200}\)|[\w$]+)\s*=>",
    "go": r"^(?P<indent>)(?P<name>func\s+(?:\([^()\n]{0,100}\)\s*)?[A-Za-z_]\w*|type\s+[A-Za-z_]\w*)",
    "rust": r"^(?P<indent>[ \t]*)(?:pub(?:\([a-z: ]{1,30}\))?\s+)?(?:async\s+|unsafe\s+|const\s+){0,3}"
    r"(?P<name>(?:fn|struct|enum|trait|mod|union)\s+[A-Za-z_]\w*|impl\b[^{\n]{0,120})",
    "java": r"^(?P<indent>[ \t]*)(?:(?:public|protected|private|static|final|abstract|sealed|partial"
    r"|internal|override|open|data|async|virtual|suspend|inline|export)\s+){0,6}(?P<name>(?:class|interface|enum|record|struct|namespace|object|fun|trait"
    r"|func|protocol|extension)\s+[A-Za-z_]\w*)"
    r"|^(?P<indent2>[ \t]+)(?:(?:public|protected|private|static|final|abstract|async|override|virtual)\s+){1,6}"
    r"(?:[\w<>\[\],.?]+\s+)?(?P<name2>[A-Za-z_]\w*)\s*\(",
    "c": rf"^(?P<indent>[ \t]*)(?:template\s*<[^\n]{{0,100}}>\s*)?{_C_NAMES}(?=[^;\n]{{0,200}}$)"
    r"|^(?:[A-Za-z_][\w:<>,*&]{0,80}[ \t*&]+){1,6}(?P<name2>[A-Za-z_~][\w:~]{0,80})\s?\((?=[^;\n]{0,300}$)",
    "ruby": r"^(?P<indent>[ \t]*)(?P<name>(?:class|module|def)\s+[A-Za-z_][\w.:?!=]*)",
    "php": r"^(?P<indent>[ \t]*)(?:(?:public|protected|private|static|final|abstract)\s+){0,4}"
    r"(?P<name>(?:class|interface|trait|function|enum)\s+&?[A-Za-z_]\w*)",
    "lua": r"^(?P<indent>[ \t]*)(?:local\s+)?(?P<name>function\s+[A-Za-z_][\w.:]*)",
    "shell": r"^(?P<indent>[ \t]*)(?P<name>function\s+[\w:.-]+|[A-Za-z_][\w:.-]*\s?\(\))",
    "perl": r"^(?P<indent>[ \t]*)(?P<name>(?:sub|package)\s+[A-Za-z_][\w:]*)",
    "r": r"^(?P<indent>)(?P<name>[A-Za-z_.][\w.]*)\s*(?:<-|=)\s*function\b",
    "julia": r"^(?P<indent>[ \t]*)(?:mutable\s+)?(?P<name>(?:function|struct|module|macro)\s+[A-Za-z_][\w.!]*)",
    "sql": r"^(?P<indent>)(?P<name>CREATE\s+(?:OR\s+REPLACE\s+)?(?:TEMP(?:ORARY)?\s+)?(?:TABLE|VIEW|FUNCTION"
    r"|PROCEDURE|TRIGGER|INDEX)\s+(?:IF\s+NOT\s+EXISTS\s+)?[\w.\"`]+)",
    "latex": r"^(?P<indent>)(?P<name>\\(?:part|chapter|section|subsection|subsubsection)\*?\{[^{}\n]{1,200}\})",
    "powershell": r"^(?P<indent>[ \t]*)(?P<name>(?:function|class)\s+[A-Za-z_][\w-]*)",
}
for _alias, _like in {
    "typescript": "javascript",
    "cpp": "c",
    "kotlin": "java",
    "csharp": "java",
    "scala": "java",
    "swift": "java",
}.items():
    _RULES[_alias] = _RULES[_like]
_GRAMMAR_UP_TO = 4_000_000  # characters; beyond, Python's parser takes minutes and gigabytes
_NOT_NAMES = {"if", "for", "while", "switch", "return", "else", "catch", "sizeof", "defined", "new", "throw", "using"}
_LATEX_LEVEL = {"part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4}


def parse_code(data: bytes, name: str) -> Parsed:
    """Source text as it is; `name` gives the language by its suffix. Document.format is the language ("text" for
    configuration and the like)."""
    declared = _DECLARED.match(data[:512])
    hint = next((group for group in declared.groups() if group), None) if declared else None
    text, decoded, removed = source_text(data, hint.decode("ascii", "replace") if hint else None)
    language = LANGUAGES.get(suffix_of(name), "text")
    headings = _python_headings(text) if language == "python" and len(text) < _GRAMMAR_UP_TO else None
    if headings is None:
        headings = _headings_by_rule(text, language)
    metadata: dict[str, Scalar] = encoding_note(decoded)
    return Parsed(text, language, headings=headings, metadata=metadata, warnings=decoded.warnings(), removed=removed)


def _python_headings(text: str) -> list[Heading] | None:
    """Classes and functions by Python's own grammar; None where the text is not this Python."""
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")  # invalid escapes and the like are not our business
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # MemoryError is also how the parser reports nesting beyond its stack
        return None
    starts = line_starts(text)
    found: list[Heading] = []
    stack: list[tuple[ast.AST, int]] = [(tree, 1)]
    while stack:
        node, level = stack.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                word = "class" if isinstance(child, ast.ClassDef) else "def"
                found.append(Heading(starts[child.lineno - 1], min(level, 6), f"{word} {child.name}"))
                stack.append((child, level + 1))
            elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                stack.append((child, level))  # definitions inside if, try, with
    return sorted(found, key=lambda heading: heading.start)


def _headings_by_rule(text: str, language: str) -> list[Heading]:
    rule = _RULES.get(language)
    if language == "python":
        rule = r"^(?P<indent>[ \t]*)(?:async\s+)?(?P<name>(?:class|def)\s+[A-Za-z_]\w*)"
    if rule is None:
        return []
    found: list[Heading] = []
    indents: list[int] = []
    flags = re.MULTILINE | (re.IGNORECASE if language == "sql" else 0)
    for match in re.finditer(rule, text, flags):
        groups = match.groupdict()
        name = one_line(groups["name"] or groups.get("name2") or "", 120)
        if not name or name.split()[-1] in _NOT_NAMES:
            continue
        start = match.start()
        start = text.rfind("\n", 0, start) + 1
        indent = len((groups.get("indent") or groups.get("indent2") or "").expandtabs(4))
        while indents and indents[-1] >= indent:
            indents.pop()
        indents.append(indent)
        level = min(len(indents), 6)
        if language == "latex":
            command, _, title = name[1:].partition("{")
            level, name = _LATEX_LEVEL.get(command.rstrip("*"), 2), title.rstrip("}")
        found.append(Heading(start, level, name))
    return found
