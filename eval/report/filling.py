"""A template, a style sheet, a script and values → one self-contained HTML page. It knows no figure and no run.

Every expression of a template is cleaned, then escaped. The page's policy lets only this very style and script run.
"""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from eval.report.text import plain

PACKAGE = "eval.report"
"""Where the look that all reports share lies: page.css, page.js, frame.html and pieces.html."""


def packaged(package: str, name: str) -> str:
    """The text of a file beside a package's code."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def filled(package: str, template: str, values: Mapping[str, Any], *, style: str, script: str) -> str:
    """The template of a package with its values; it finds `style`, `script` and their hashes for the policy too, and
    what all reports share: frame.html, the page around, and pieces.html."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: packaged(package if name == template else PACKAGE, name)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        # What is written is cleaned before it is escaped, whoever forgot to.
        finalize=_cleaned,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    return environment.get_template(template).render(
        {
            **values,
            "style": Markup(style),
            "script": Markup(script),
            "style_hash": _hash(style),
            "script_hash": _hash(script),
        }
    )


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline style or script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _cleaned(value: Any) -> Any:
    if isinstance(value, jinja2.Undefined):
        return str(value)  # raises: a name that is missing in the template is our mistake
    return value if isinstance(value, Markup) else plain(value)
