"""The real command, in this process and in one of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tcompile.cli import main
from tests.conftest import ROOT

DIGITS = ROOT / "examples" / "digits" / "digits.int2.onnx"
DIGITS_DATA = DIGITS.with_name("digits.npz")


@dataclass(frozen=True)
class Result:
    """Exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)

    @property
    def codes(self) -> list[str]:
        """Kinds of the problems on stderr."""
        return [line.split("[")[1].split("]")[0] for line in self.err.splitlines() if line.startswith("error[")]


def tcompile(*argv: object) -> Result:
    """Run ``tcompile`` in this process; ``verify`` without hardware, unless a simulator is named."""
    if argv[:1] == ("verify",) and "--simulator" not in argv:
        argv = (*argv, "--simulator", "model")
    out, err, code = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", ["tcompile", *map(str, argv)]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def process(*argv: object, cwd: Path | None = None) -> Result:
    """Run ``tcompile`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tcompile", *map(str, argv)], capture_output=True, text=True, cwd=cwd, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> dict[str, bytes]:
    """Every path below a folder and what it holds."""
    return {
        str(p.relative_to(folder)): b"" if p.is_dir() or p.is_symlink() else p.read_bytes()
        for p in sorted(folder.rglob("*"))
    }


def refused(folder: Path, argv: Sequence[object], code: int = 2) -> Result:
    """Run a command that must be refused: exit code, no traceback, nothing written."""
    before = tree(folder)
    result = tcompile(*argv)
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    assert result.err.rstrip().splitlines()[-1].split(";")[0].endswith(("problem", "problems")), result.err
    assert tree(folder) == before
    return result
