"""A text → the language it is written in (ISO 639-1), "code", or None where it is too short to tell. Works offline.

By py3langid (Barbaresi 2022, after Lui & Baldwin 2012), whose model comes with the package and is no pickle. Source
code has no language of its own: "code" is told apart by its lines.
"""

import difflib
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from retrieval.errors import MissingError, UsageError

CODE = "code"
UNSURE = "und"
LEAST = 10
"""Letters below which an alphabet's text is too short to tell; of Chinese characters and kana, five are enough."""
CONFIDENCE = 0.5
"""Below it a language is not told. Of 4,102 medical questions in English, many of five words with a Latin name among
them, 133 were taken for another language without this, 7 with it; 944 are then not told, and stay."""
_LEAST_CHARACTERS = 5
_SAMPLE = 4_000
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
_LETTER = re.compile(r"[^\W\d_]")
_SIGN = re.compile(r"[{}();=<>\[\]_|&$#*+]")
_CODE_LINE = re.compile(
    r"""\s*(?:
        (?:def|class|elif|except|with|async\ def)\b.*:\s*(?:\#.*)?$
        |(?:if|for|while|else|try|finally)\b[^.?!]*[:{]\s*(?:\#.*|//.*)?$
        |(?:from\s+[\w.]+\s+)?import\s+[\w.{}*,\s"'/()]+;?\s*$
        |(?:return|raise|yield|assert|del|throw|await|break|continue|pass|let|const|var|func|fn|package|using)\b[^.?!]*$
        |(?:public|private|protected|static|void|int|char|double|struct|enum|template)\b[^.?!]*[;{(,]\s*$
        |\#\s*(?:include|define|ifdef|ifndef|endif|pragma)\b.*
        |@[\w.]+(?:\(.*)?$
        |[}\])]+[;,)]*\s*(?:else.*\{)?$
        |[\w.\[\]"']+(?:,\s*[\w.]+)*\s*(?:[-+*/|&%]|<<|>>|:)?=\s*\S.*
        |[\w.]+\([^.?!]*\)\s*[;:{]?\s*$
        |.*[;{]\s*(?://.*)?$
        |</?\w+[^>]*>(?:.*>)?\s*$
        |>>>\s.*
    )""",
    re.VERBOSE,
)


def language(text: str) -> str | None:
    """Told by a sample from the beginning and the middle."""
    sample = text if len(text) <= _SAMPLE else text[: _SAMPLE // 2] + "\n" + text[len(text) // 2 :][: _SAMPLE // 2]
    if is_code(sample):
        return CODE
    letters = len(_LETTER.findall(sample))
    han, kana = len(_HAN.findall(sample)), len(_KANA.findall(sample))
    if han + kana >= max(_LEAST_CHARACTERS, letters / 4):
        # A quarter, since one character says what four letters of the Latin terms between them do.
        return "ja" if kana > (han + kana) / 10 else "zh"
    if letters < LEAST:
        return None
    found = str(_identifier().classify(sample)[0])
    return None if found == UNSURE else found


def is_code(text: str) -> bool:
    """Whether half of the lines look like those of a program, or a quarter while signs are as frequent as in one.

    On one or two lines (packed scripts) the signs alone tell. Comments count against it: a header that is mostly
    comment is prose.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    size = len("".join(text.split()))
    signs = len(_SIGN.findall(text)) / max(size, 1)
    if len(lines) < 3:
        return size >= 100 and signs >= 0.15
    share = sum(bool(_CODE_LINE.match(line[:400])) for line in lines) / len(lines)
    return share >= 0.5 or (share >= 0.25 and signs >= 0.06) or signs >= 0.15


def require_known(names: Sequence[str]) -> None:
    """Raises UsageError for a name that no text will ever be found to be in."""
    known = {"zh", "ja", *_identifier().labels}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name.lower().partition("-")[0], known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"languages: '{name}' is no ISO 639-1 code that can be told, such as en, zh, de{hint}")


def languages_version() -> str:
    """Name and version of what decides."""
    import importlib.metadata

    return f"py3langid {importlib.metadata.version('py3langid')}"


@cache
def _identifier() -> Any:
    """Loaded at the first question, for languages with two letters only: what Wu, Cantonese or Nigerian Pidgin would
    get is given to Chinese and English, as ISO 639-1 does."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingError("telling languages needs py3langid, which is not installed: make install") from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=CONFIDENCE)
    identifier.set_languages([label for label in identifier.labels if len(label) == 2])
    return identifier
