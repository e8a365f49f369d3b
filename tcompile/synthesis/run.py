"""Runs the Makefile of a build directory, tells its stages, and says what went wrong."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tcompile.errors import InternalError, Problem, TcompileError, ToolError, UsageError, printable
from tcompile.process import running
from tcompile.synthesis.flows import Job
from tcompile.synthesis.tools import Programs

__all__ = ["run"]

STAGE = "stage: "
TAIL = 20  # lines of a failed tool that are shown
NAMED = 8  # cells that multiply that are named
UTILISATION = re.compile(r"^Info:\s+(\w+):\s+(\d+)/\s*(\d+)\s+(\d+)%", re.MULTILINE)
Tell = Callable[[str], None]


def run(directory: Path, job: Job, programs: Programs, tell: Tell | None = None) -> None:
    """Run a flow in a build directory; what is there already and still fits is not made again.

    Parameters
    ----------
    tell : callable, optional
        Is told the name of each stage when it begins.

    Raises
    ------
    UsageError
        There are no scripts, or the device is too small.
    ToolError
        A tool failed.
    InternalError
        The accelerator multiplies.
    """
    folder = directory / "synth"
    if not (folder / "Makefile").is_file():
        message = f"{printable(str(directory))} must hold scripts of synthesis, and has no synth/Makefile"
        raise UsageError(Problem("no-build", message, hint="build it again"))
    told = {**programs.variables(), **job.variables()}
    command = [programs.make, "--no-print-directory", job.flow, *(f"{name}={value}" for name, value in told.items())]
    with tempfile.TemporaryFile() as errors:
        with running(
            command,
            cwd=folder,
            env=programs.environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(STAGE) and tell is not None:
                    tell(line.removeprefix(STAGE).strip())
            code = process.wait()
        if code != 0:
            raise _reason(directory, job, errors)


def _reason(directory: Path, job: Job, errors: IO[bytes]) -> TcompileError:
    """Why make failed."""
    folder = directory / "synth"
    netlist = folder / job.netlist_folder
    if found := [name for file in ("operators.txt", "multipliers.txt") for name in _lines(netlist / file)]:
        message = f"the accelerator must multiply nothing, and yosys finds {len(found)} cells that do"
        return InternalError(Problem("multiplier", message, tuple(found[:NAMED])))
    if job.is_routed and (full := _full(folder / job.route_folder, job)):
        return full
    errors.seek(0)
    said = [line for line in errors.read().decode(errors="replace").splitlines() if not line.startswith("make")]
    text = "\n".join(said[-TAIL:])
    hint = f"make -C {shlex.quote(str(folder))} {job.flow}, and the logs in synth/build-..."
    return ToolError(
        Problem("synthesis-failed", f"{job.flow} must run to its end, and failed; its last lines:\n{text}", hint=hint)
    )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split() if path.is_file() else []


def _full(folder: Path, job: Job) -> UsageError | None:
    """The device is too small, if that is what nextpnr says."""
    for seed in job.seeds:
        log = folder / f"seed-{seed}.log"
        if (folder / f"seed-{seed}.bit").is_file() or not log.is_file():
            continue
        parts = UTILISATION.findall(log.read_text(encoding="utf-8", errors="replace"))
        over = [f"{name} {used} of {there} ({share} %)" for name, used, there, share in parts if int(used) > int(there)]
        if over and job.device is not None:
            message = f"the accelerator must fit {job.device.name}, and needs {', '.join(over)}"
            hint = "a larger --device, or build with --target for a design that fits, or with fewer --fps or smaller folding"
            return UsageError(Problem("does-not-fit", message, hint=hint))
    return None
