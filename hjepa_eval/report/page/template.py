"""Templates of HTML pages: one Jinja environment, and our own styles and scripts with what the page's policy allows."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
from hjepa_eval.results.text import visible

_FOLDER = "report/page/templates"


def template_environment() -> Environment:
    """Return the environment of all pages: names of data are escaped, and a name that nothing sets is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("hjepa_eval", _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """Return what an expression of a template shows: text from data with its unseen characters as escapes."""
    # Markup is ours, and a script's or a style's line must not change.
    return visible(value) if type(value) is str else value


def page_parts(*, style: str, script: str = "") -> dict[str, Any]:
    """Return what `head.html` and the end of a page need: `style`, `script` and the script's `script_hash`.

    The script that switches between light and dark comes before the page's own.

    Args:
        style: name of the stylesheet.
        script: name of the script; without one the page only switches between light and dark.
    """
    from markupsafe import Markup

    code = own_file("theme.js") + (own_file(script) if script else "")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return {"style": Markup(own_file(style)), "script": Markup(code), "script_hash": f"sha256-{digest}"}


def own_file(name: str) -> str:
    """Return one of our own styles or scripts; line ends are newlines, as a browser has them when it hashes."""
    return files("hjepa_eval").joinpath(_FOLDER).joinpath(name).read_text(encoding="utf-8")
