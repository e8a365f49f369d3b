"""Where the templates lie, and how they are rendered."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render", "tcl_word", "template_folder", "yaml_text"]

TCL_PLAIN = re.compile(r"[A-Za-z0-9_./-]")


def template_folder() -> Path:
    """The folder of templates: inside the package in a wheel, beside it in a checkout."""
    packed = Path(__file__).parent / "_templates"
    return packed if packed.is_dir() else Path(__file__).parent.parent / "templates"


Escape = Literal["none", "html", "markdown"]
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
MEANT = re.compile(  # what can make more than text of a text within a line of Markdown
    r"[\\`*\[\]{}|#~$@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=/)|(?<=www)\."
)


@cache
def _environment(escape: Escape) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(template_folder()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=escape != "none",
        finalize=_plain_markdown if escape == "markdown" else None,
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


def _plain_markdown(value: Any) -> Any:
    """A value as text within a line of Markdown; results of macros are Markdown already."""
    from markupsafe import Markup

    return value if isinstance(value, Markup) else Markup(MEANT.sub(r"\\\g<0>", str(value).translate(ENTITIES)))


def render(name: str, context: Any, *, escape: Escape = "none") -> bytes:
    """Render one template.

    Parameters
    ----------
    name : str
        Path below `template_folder`, such as ``rtl/top.v.j2``.
    context : dataclass
        Its fields are the names that the template knows; any other name is an error.
    escape : {"none", "html", "markdown"}
        What values are escaped for.
    """
    values = {field.name: getattr(context, field.name) for field in fields(context)}
    return _environment(escape).get_template(name).render(values).encode()
