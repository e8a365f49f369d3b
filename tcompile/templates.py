"""Where the templates lie, and how they are rendered."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render", "template_folder"]


def template_folder() -> Path:
    """The folder of templates: inside the package in a wheel, beside it in a checkout."""
    packed = Path(__file__).parent / "_templates"
    return packed if packed.is_dir() else Path(__file__).parent.parent / "templates"


@cache
def _environment(escape: bool) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(template_folder()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=escape,
    )


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
