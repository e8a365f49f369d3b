"""Runs the tests of one mutant in a copy of the project; the checkout is only read."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Literal, TypeVar

from tests.mutation.mutants import Mutant, mutated_source

__all__ = ["BaselineError", "Outcome", "Result", "Runner", "copy_project", "time_limit"]

Item = TypeVar("Item")
Value = TypeVar("Value")
Outcome = Literal["killed", "timeout", "survived", "untested"]

COPIED = ("tcompile", "hw", "templates", "examples", "docs", "tests", "pyproject.toml", "Makefile", ".ci", "README.md")
SECONDS_AT_LEAST = 30.0  # a machine that is busy with something else kills no mutant
SLOWDOWN = 5.0
BASELINE_SECONDS = 300.0  # tests of one module that take longer are of no use here
MEMORY_KIB = 8 << 20  # a mutant that asks for more has failed
SETUP = 'ulimit -v "$1" 2>/dev/null; shift; exec "$@"'


class BaselineError(RuntimeError):
    """The tests fail, or there are none, before any fault is planted."""


@dataclass(frozen=True)
class Result:
    """What became of one mutant; seconds are left out of comparisons."""

    mutant: Mutant
    outcome: Outcome
    seconds: float = 0.0

    @property
    def killed(self) -> bool:
        """Whether the tests noticed; running without end is noticed too."""
        return self.outcome in {"killed", "timeout"}


def copy_project(root: Path, to: Path) -> Path:
    """Copy what the tests need, without build outputs."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*_cache", ".hypothesis")
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=ignore)
        elif source.exists():
            shutil.copy2(source, to / name)
    return to


class Runner:
    """Tries mutants, each in one of ``jobs`` copies of the project.

    Parameters
    ----------
    root : Path
        The project.
    jobs : int
        Copies, and test runs at a time.
    """

    def __init__(self, root: Path, *, jobs: int) -> None:
        self.root = root
        self.jobs = jobs
        self._trees: SimpleQueue[Path] = SimpleQueue()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    @contextmanager
    def copies(self) -> Iterator[None]:
        """Make the copies, and take them away whatever happens."""
        with TemporaryDirectory(prefix="mutation-") as folder:
            for number in range(self.jobs):
                self._trees.put(copy_project(self.root, Path(folder, str(number))))
            try:
                yield
            finally:
                self.stop()

    def stop(self) -> None:
        """End every test run that is going on; none starts afterwards."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)

    def baselines(self, test_lists: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        """Seconds that each list of tests takes without a fault.

        Raises
        ------
        BaselineError
            The tests of a list do not pass as they are.
        """
        seconds = self._in_parallel(self._baseline, test_lists)
        return dict(zip(test_lists, seconds, strict=True))

    def run(
        self, work: Sequence[tuple[Mutant, tuple[str, ...], float]], report: Callable[[Result], None]
    ) -> list[Result]:
        """Try mutants against their tests within a number of seconds; results in the order of ``work``."""

        def one(item: tuple[Mutant, tuple[str, ...], float]) -> Result:
            result = self._try(*item)
            report(result)
            return result

        return self._in_parallel(one, work)

    def _in_parallel(self, function: Callable[[Item], Value], items: Sequence[Item]) -> list[Value]:
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                self.stop()
                pool.shutdown(cancel_futures=True)
                raise

    def _baseline(self, tests: tuple[str, ...]) -> float:
        with self._tree() as tree:
            start = time.monotonic()
            status, output = self._pytest(tree, tests, BASELINE_SECONDS)
        if status != 0:
            ending = f"takes more than {BASELINE_SECONDS:g} s" if status is None else f"ends with {status}:\n{output}"
            raise BaselineError(f"without any fault, pytest {' '.join(tests)} {ending}")
        return time.monotonic() - start

    def _try(self, mutant: Mutant, tests: tuple[str, ...], limit: float) -> Result:
        if not tests:
            return Result(mutant, "untested")
        with self._tree() as tree:
            target = tree / mutant.path
            original = target.read_text(encoding="utf-8")
            start = time.monotonic()
            target.write_text(mutated_source(mutant, original), encoding="utf-8")
            try:
                status, _ = self._pytest(tree, tests, limit)
            finally:
                target.write_text(original, encoding="utf-8")
        outcome: Outcome = "timeout" if status is None else "survived" if status == 0 else "killed"
        return Result(mutant, outcome, time.monotonic() - start)

    @contextmanager
    def _tree(self) -> Iterator[Path]:
        tree = self._trees.get()
        try:
            yield tree
        finally:
            self._trees.put(tree)

    def _pytest(self, tree: Path, tests: tuple[str, ...], limit: float) -> tuple[int | None, str]:
        """Exit status of pytest (None: it took longer than ``limit`` seconds) and the end of what it printed."""
        pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        command = [
            "sh",
            "-c",
            SETUP,
            "sh",
            str(MEMORY_KIB),
            *pytest,
            f"--basetemp={tree.parent}/tmp-{tree.name}",
            *tests,
        ]
        environment = os.environ | {
            "PYTHONPATH": str(tree),
            "PYTHONDONTWRITEBYTECODE": "1",  # two mutants may be of one size and one second
            "PYTHONHASHSEED": "0",
            "HYPOTHESIS_PROFILE": "mutation",
        }
        with self._lock:
            if self._stopped:
                raise InterruptedError("mutation run was stopped")
            process = subprocess.Popen(
                command,
                cwd=tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            output, _ = process.communicate(timeout=limit)
            return process.returncode, output.decode(errors="replace")[-2000:]
        except subprocess.TimeoutExpired:
            _kill(process)
            process.communicate()
            return None, ""
        finally:
            with self._lock:
                self._running.discard(process)


def time_limit(baseline: float) -> float:
    """Seconds that a mutant may take when the tests take ``baseline`` seconds without it."""
    return SECONDS_AT_LEAST + SLOWDOWN * baseline


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a test run and everything that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
