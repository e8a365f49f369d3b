"""Files in memory, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tcompile.errors import Problem, UsageError, printable

__all__ = ["MARK", "Bundle"]

MARK = "report.json"  # what a build directory of ours always has


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
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        except OSError as error:
            raise _unwritable(directory, error) from error
        try:
            self._fill(staging)
            _replace(staging, directory)
        except OSError as error:
            raise _unwritable(directory, error) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _fill(self, staging: Path) -> None:
        for name, content in self.files.items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        mask = os.umask(0)
        os.umask(mask)
        staging.chmod(0o777 & ~mask)


def check_target(directory: Path, *, force: bool) -> None:
    """Refuse a target that must not be written, before any work is done.

    Raises
    ------
    UsageError
        It exists and is not to be replaced, or is not a build directory.
    """
    if not (directory.exists() or directory.is_symlink()):
        return
    name = printable(str(directory))
    if not directory.is_dir() or directory.is_symlink():
        raise UsageError(Problem("output-exists", f"the output {name} must be a directory, and it is a file or a link"))
    if not any(directory.iterdir()):
        return
    if not force:
        raise UsageError(
            Problem(
                "output-exists", f"the output directory {name} must not exist", hint="give another, or -f to replace it"
            )
        )
    if not (directory / MARK).is_file():
        raise UsageError(
            Problem("output-exists", f"{name} is not a build directory (no {MARK}); -f does not replace it")
        )


def _replace(staging: Path, directory: Path) -> None:
    """Put the staged directory in the target's place; an old one is moved aside first and removed last."""
    if not directory.exists():
        staging.rename(directory)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old.", dir=directory.parent))
    try:
        directory.rename(aside / "old")
        try:
            staging.rename(directory)
        except OSError:
            (aside / "old").rename(directory)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def replace_file(path: Path, content: bytes) -> None:
    """Replace one file atomically.

    Raises
    ------
    UsageError
        The file cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
            temporary = Path(handle.name)
            try:
                handle.write(content)
                handle.flush()
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        Problem(
            "cannot-write",
            f"{printable(str(path))} cannot be written: {error.strerror or error}; nothing was left behind",
        )
    )
