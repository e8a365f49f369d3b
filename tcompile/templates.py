"""Where the templates lie, and how they are rendered."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render", "tcl_word", "template_folder", "yaml_text"]

TCL_PLAIN = re.compile(r"[A-Za-z0-9_./-]")


def template_folder() -> Path:
    """The folder of templates: inside the package in a wheel, beside it in a checkout."""
    packed = Path(__file__).parent / "_templates"
    return packed if packed.is_dir() else Path(__file__).parent.parent / "templates"


@cache
def _environment(escape: bool) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(template_folder()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=escape,
    )
    found.filters |= {"tcl": tcl_word, "yaml": yaml_text}
    return found


def yaml_text(text: str) -> str:
    """A string of YAML in double quotes, in ASCII."""
    return '"' + "".join(json.dumps(c)[1:-1] if c < "\U00010000" else f"\\U{ord(c):08x}" for c in text) + '"'


def tcl_word(text: str) -> str:
    """One word of Tcl whose value is the text, whatever is in it."""
    escaped = "".join(c if TCL_PLAIN.match(c) else f"\\u{ord(c):04x}" if c < " " else f"\\{c}" for c in text)
    return escaped or "{}"


def render(name: str, context: Any, *, escape: bool = False) -> bytes:
    """Render one template.

    Parameters
    ----------
    name : str
        Path below `template_folder`, such as ``rtl/top.v.j2``.
    context : dataclass
        Its fields are the names that the template knows; any other name is an error.
    escape : bool
        Whether values are escaped for HTML.
    """
    values = {field.name: getattr(context, field.name) for field in fields(context)}
    return _environment(escape).get_template(name).render(values).encode()
