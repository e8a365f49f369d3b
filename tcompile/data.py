"""Data files: archives of plain arrays."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from tcompile.errors import Problem, UsageError, printable

__all__ = ["read_npz", "read_text", "test_split"]

NOT_ARRAYS = (  # what numpy raises on files that are no archives of arrays
    OSError, ValueError, AttributeError, EOFError, KeyError, TypeError, MemoryError, RuntimeError, SyntaxError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a data file; objects are never unpickled.

    Raises
    ------
    UsageError
        The file is missing or holds something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except FileNotFoundError as error:
        raise UsageError(Problem("no-file", f"the data file {printable(str(path))} does not exist")) from error
    except NOT_ARRAYS as error:
        reason = printable(" ".join(str(error).split())[:200])[1:-1]
        message = f"{printable(str(path))} must be an .npz file of plain arrays: {reason or type(error).__name__}"
        raise UsageError(Problem("not-npz", message, hint="write it with numpy.savez(path, x=..., y=...)")) from error


def test_split(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The test part of a data file for training; any other file as it is."""
    if "x" in arrays or "x_test" not in arrays:
        return arrays
    return {"x": arrays["x_test"]} | ({"y": arrays["y_test"]} if "y_test" in arrays else {})


def read_text(path: str | Path) -> str:
    """A text file that the user named.

    Raises
    ------
    UsageError
        It is missing, or no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is no UTF-8 text"
        raise UsageError(Problem("no-file", f"{printable(str(path))} cannot be read: {reason}")) from error
