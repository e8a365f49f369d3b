"""A process that files are examined in: it may die, or hang in code that Python cannot interrupt."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection

from tests.mutated.run import FAILED, SECONDS, Outcome, examined, file_of, warm

__all__ = ["Worker"]

GRACE = 20.0  # seconds after which a process that has not stopped by itself is ended
SPACE = 12 << 30  # bytes of addresses: what asks for more gets a MemoryError


class Worker:
    """Examines files in a process of its own, and starts another where one is lost.

    Parameters
    ----------
    examine : callable
        What to do with a seed; it must be found by its name in another process.
    patience : float
        Seconds to wait for one file.
    """

    def __init__(self, examine: Callable[[int], Outcome] = examined, patience: float = SECONDS + GRACE) -> None:
        self._examine, self.patience = examine, patience
        self._running = False

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._examine), daemon=True)
        self._process.start()
        self._running = True
        other.close()
        self._pipe.recv()  # it is ready

    def __call__(self, seed: int) -> Outcome:
        """What becomes of the file of a seed."""
        if not self._running:
            self._start()
        self._pipe.send(seed)
        lost = "hang"
        if self._pipe.poll(self.patience):
            try:
                found: Outcome = self._pipe.recv()
                return found
            except EOFError:
                lost = "died"
            self._process.join(self.patience)
        self.close()
        code = self._process.exitcode
        return replace(file_of(seed)[1], status=FAILED, codes=(lost,), text=f"the process ended with {code}")

    def close(self) -> None:
        """End the process."""
        if not self._running:
            return
        self._running = False
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, examine: Callable[[int], Outcome]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
    if examine is examined:
        warm()
    pipe.send(None)
    while True:
        pipe.send(examine(pipe.recv()))
