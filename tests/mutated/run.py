"""One spoilt file through the tool: compiled, refused with a reason, or a failure of the tool."""

from __future__ import annotations

import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tcompile.errors import InternalError, TcompileError
from tcompile.options import BuildOptions
from tcompile.pipeline import compile_file, plan
from tcompile.verify import random_inputs
from tests.command import DIGITS, tcompile, tree
from tests.fuzz.draft import Dice
from tests.fuzz.run import FAILED, PASSED, REFUSED, Failure, check_integers
from tests.mutated.bases import bases
from tests.mutated.spoil import spoilt

__all__ = ["FAILED", "PASSED", "REFUSED", "SECONDS", "Outcome", "examined", "file_of", "warm"]

SECONDS = 20.0  # that a file may take
MEMORY = 2 << 30  # bytes that a file may take
FRAMES = 2
EVERY = 16  # of so many files one is built by the command, and one checked by it


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Parameters
    ----------
    base, changes : str, tuple of str
        The sound file it was made of, and how.
    way : str
        ``check``: compiled in this process; ``command`` and ``build``: by the command line.
    codes : tuple of str
        Of a refusal: codes of its problems; of a failure: what failed.
    text : str
        What was said.
    """

    seed: int
    base: str
    changes: tuple[str, ...]
    way: str
    status: str
    codes: tuple[str, ...] = ()
    text: str = ""
    seconds: float = 0.0


class _Late(BaseException):
    """The time is over; no ``except Exception`` keeps it."""


def file_of(seed: int) -> tuple[bytes, Outcome]:
    """The file of a seed, and an outcome that still says it failed."""
    dice = Dice([seed, 3])
    names = list(bases())
    name = dice.pick([n for n in names if "-" not in n] if dice.chance(0.4) else names)  # more of those made by hand
    data, changes = spoilt(bases()[name], dice)
    way = {0: "build", 1: "command"}.get(dice.integer(0, EVERY - 1), "check")
    return data, Outcome(seed, name, changes, way, FAILED)


def warm() -> None:
    """Compile what Numba compiles once, so that no file's time holds it."""
    with tempfile.TemporaryDirectory() as folder:
        tcompile("build", DIGITS, "-o", Path(folder) / "build", "-q")


def examined(seed: int) -> Outcome:
    """What becomes of the file of a seed, in this process."""
    data, found = file_of(seed)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        path = Path(folder) / "in" / "model.onnx"
        path.parent.mkdir()
        path.write_bytes(data)
        _forget_peak()
        try:
            with _within(SECONDS):
                found = _judged(found, path)
        except _Late:
            found = replace(found, status=FAILED, codes=("hang",), text="".join(traceback.format_exc()))
        found = _checked(found, path, data, said)
    return replace(found, seconds=time.monotonic() - start)


def _judged(found: Outcome, path: Path) -> Outcome:
    ways: dict[str, Callable[[Outcome, Path], Outcome]] = {"build": _command, "command": _command, "check": _check}
    try:
        return ways[found.way](found, path)
    except Failure as error:
        return replace(found, status=FAILED, codes=(error.kind,), text=str(error))
    except Exception as error:  # noqa: BLE001 a fault of the tool
        return replace(found, status=FAILED, codes=(type(error).__name__,), text=traceback.format_exc())


def _check(found: Outcome, path: Path) -> Outcome:
    """Compiled and planned; a few frames compared with onnxruntime."""
    try:
        compiled = compile_file(path, BuildOptions())
        plan(compiled, BuildOptions())
    except InternalError:
        raise
    except TcompileError as error:
        text = "; ".join(f"[{p.code}] {p.message}" for p in error.problems)
        status = REFUSED if error.exit_code == 2 else FAILED
        return replace(found, status=status, codes=tuple(dict.fromkeys(p.code for p in error.problems)), text=text)
    check_integers(compiled, random_inputs(compiled.network, FRAMES, 1))
    return replace(found, status=PASSED)


def _command(found: Outcome, path: Path) -> Outcome:
    """By the command line, which writes all or nothing."""
    target = path.parent.parent / "out" / "build"
    argv = ["build", path, "-o", target] if found.way == "build" else ["check", path, "--explain"]
    result = tcompile(*argv)
    text = f"{result.out}\n{result.err}"
    left = target.parent.exists() and (result.code != 0 or found.way != "build" or len(tree(target.parent)) < 2)
    codes = tuple(dict.fromkeys(result.codes))
    status = {0: PASSED, 2: REFUSED}.get(result.code, FAILED)
    wrong = [f"exit code {result.code}"] * (status == FAILED) + ["files left"] * left
    wrong += ["traceback"] * ("Traceback" in result.err) + ["system"] * ("system" in codes)
    wrong += ["nothing said"] * (status == REFUSED and not codes)
    return (
        replace(found, status=FAILED, codes=tuple(wrong), text=text)
        if wrong
        else replace(found, status=status, codes=codes, text=text)
    )


def _checked(found: Outcome, path: Path, data: bytes, said: list[warnings.WarningMessage]) -> Outcome:
    """What is wrong whatever came out: warnings, memory, changes beside the file."""
    if found.status == FAILED:
        return found
    peak = _peak()
    if said:
        lines = "\n".join(f"{w.filename}:{w.lineno}: {w.message}" for w in said)
        return replace(found, status=FAILED, codes=("warning",), text=lines)
    if peak > MEMORY:
        return replace(found, status=FAILED, codes=("memory",), text=f"{peak >> 20} MiB; {found.text}")
    if tree(path.parent) != {"model.onnx": data}:
        return replace(found, status=FAILED, codes=("input folder",), text=str(list(tree(path.parent))))
    return found


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise `_Late` once the time is over; ends between two steps of Python only."""

    def late(number: int, frame: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _forget_peak() -> None:
    """Let the peak of this process's memory begin anew, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak() -> int:
    """Bytes of memory that this process has held at most."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
