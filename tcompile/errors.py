"""Everything that can go wrong, drawn in one place.

::

    TcompileError            exit code
    ├── UserError            2   bad usage, or a model that cannot be compiled
    │   ├── UsageError           the command line, an option, an input file
    │   └── ModelError           the network itself; lists every problem at once
    ├── MismatchError        1   the accelerator's integers differ from the reference
    ├── ToolError            3   an outside tool is missing or failed
    └── InternalError        70  a fault of tcompile; please report it

Only the command line prints these and exits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "InternalError",
    "MismatchError",
    "ModelError",
    "Problem",
    "TcompileError",
    "ToolError",
    "UsageError",
    "UserError",
    "printable",
]

SHOWN_NAME = 80  # characters of an untrusted name that a message shows


def printable(name: str) -> str:
    """Quote an untrusted name for a message: control characters escaped, long names cut."""
    text = name if len(name) <= SHOWN_NAME else name[: SHOWN_NAME - 1] + "…"
    return "'" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) + "'"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what must hold, what was found, where, and what to try.

    Parameters
    ----------
    code : str
        Kebab-case kind, such as ``unsupported-op``.
    message : str
        What must hold and what was found instead. Untrusted names go through `printable`.
    where : tuple of str
        ONNX nodes, tensors or files concerned, untrusted and unquoted.
    hint : str
        What to try; empty if there is nothing to suggest.
    """

    code: str
    message: str
    where: tuple[str, ...] = ()
    hint: str = ""


class TcompileError(Exception):
    """Base of all errors; ``exit_code`` is what the command line returns."""

    exit_code = 70

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("; ".join(p.message for p in self.problems))


class UserError(TcompileError):
    """The input or the way it was asked for is wrong."""

    exit_code = 2


class UsageError(UserError):
    """An option, a path or a data file is wrong."""


class ModelError(UserError):
    """The network cannot be compiled."""


def damaged_build(directory: Path, reason: str) -> UsageError:
    """A build directory whose files are not what was written."""
    shown = printable(" ".join(reason.split())[:200])[1:-1]
    return UsageError(Problem("no-build", f"{printable(str(directory))} is damaged: {shown}", hint="build it again"))


class MismatchError(TcompileError):
    """The accelerator's integers differ from the reference's."""

    exit_code = 1


class ToolError(TcompileError):
    """An outside tool is missing or failed."""

    exit_code = 3


class InternalError(TcompileError):
    """A fault of tcompile itself."""

    exit_code = 70
