"""Files in memory, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tcompile.errors import Problem, UsageError, printable

__all__ = ["MARK", "Bundle"]

MARK = "report.json"  # what a build directory of ours always has
PREFIX = 60  # characters of a name that its temporary neighbours bear


@dataclass(frozen=True)
class Bundle:
    """Relative paths and contents; the same input gives the same bytes."""

    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents."""
        total = hashlib.sha256()
        for name in sorted(self.files):
            total.update(f"{name}\0{len(self.files[name])}\0".encode())
            total.update(self.files[name])
        return total.hexdigest()

    def write(self, directory: Path, *, force: bool = False) -> None:
        """Write all files to a directory that does not exist yet.

        A temporary neighbour is filled first and then renamed, so that an interruption or a full disk leaves nothing.

        Parameters
        ----------
        directory : Path
            Target.
        force : bool
            Replace a build directory that is there.

        Raises
        ------
        UsageError
            The directory exists, or cannot be written.
        """
        check_target(directory, force=force)
        directory = directory.absolute()
        made = [p for p in directory.parents if not p.exists()]  # nearest first
        staging: Path | None = None
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{directory.name[:PREFIX]}.", dir=directory.parent))
            self._fill(staging)
            _replace(staging, directory)
        except OSError as error:
            raise _unwritable(directory, error) from error
        finally:
            if staging is not None:
                shutil.rmtree(staging, ignore_errors=True)
            if not directory.exists():
                _remove_empty(made)

    def _fill(self, staging: Path) -> None:
        for name, content in self.files.items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        staging.chmod(0o777 & ~_mask())


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_target(directory: Path, *, force: bool) -> None:
    """Refuse a target that must not be written, before any work is done.

    Raises
    ------
    UsageError
        It exists and is not to be replaced, or is not a build directory.
    """
    name = printable(str(directory))
    try:
        if not (directory.exists() or directory.is_symlink()):
            return
        if not directory.is_dir() or directory.is_symlink():
            message = f"the output {name} must be a directory, and it is a file or a link"
            raise UsageError(Problem("output-exists", message, hint="give another"))
        if not any(directory.iterdir()):
            return
    except OSError as error:
        raise _unwritable(directory, error) from error
    if not force:
        raise UsageError(
            Problem(
                "output-exists", f"the output directory {name} must not exist", hint="give another, or -f to replace it"
            )
        )
    if not _is_build(directory):
        message = f"{name} is not a build directory (no {MARK} of tcompile); -f does not replace it"
        raise UsageError(Problem("output-exists", message, hint="give another, or remove it yourself"))


def _is_build(directory: Path) -> bool:
    try:
        report = json.loads((directory / MARK).read_bytes())
        return "schema" in report and "tcompile" in report["tools"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _replace(staging: Path, directory: Path) -> None:
    """Put the staged directory in the target's place; an old one is moved aside first and removed last."""
    if not directory.exists():
        staging.rename(directory)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name[:PREFIX]}.old.", dir=directory.parent))
    old = aside / "old"
    try:
        directory.rename(old)
        staging.rename(directory)
    except BaseException:  # an interruption too
        if old.exists() and not directory.exists():
            old.rename(directory)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_empty(folders: Iterable[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def replace_file(path: Path, content: bytes) -> None:
    """Replace one file atomically.

    Raises
    ------
    UsageError
        The file cannot be written.
    """
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
            temporary = Path(handle.name)
            handle.write(content)
        temporary.chmod(0o666 & ~_mask())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        Problem(
            "cannot-write",
            f"{printable(str(path))} cannot be written: {error.strerror or error}; nothing was left behind",
        )
    )
