"""Who works on the points: processes of this machine, or a Dask cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from tcompile.errors import Problem, ToolError, printable
from tcompile.explore.evaluate import Task

__all__ = ["Work", "on_cluster", "on_processes"]

Work = Callable[[Task], dict[str, Any]]
PATIENCE = 10  # seconds for a worker to clear up
WAIT = 30  # seconds for a scheduler to answer
AGAIN = "what was done is kept: the same command goes on"


def on_processes(work: Work, tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Results as they come; the processes end with this one, however it ends.

    Raises
    ------
    ToolError
        A process was ended from outside, such as for its memory.
    """
    context = get_context("spawn")
    held, leash = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(max(1, min(jobs, len(tasks))), mp_context=context, initializer=_follow, initargs=(held,))
    try:
        pending = {pool.submit(_worked, work, task): task for task in tasks}
        for future in as_completed(pending):
            yield pending[future], future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        message = "a process that worked on a point was ended from outside; was there enough memory?"
        raise ToolError(Problem("worker-lost", message, hint=f"{AGAIN}; give fewer --jobs")) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        leash.close()


_BUSY = threading.Event()  # in a worker, while it works


def _worked(work: Work, task: Task) -> dict[str, Any]:
    _BUSY.set()
    try:
        return work(task)
    finally:
        _BUSY.clear()


def _follow(held: Connection) -> None:
    """In a worker: end when the other end of the pipe is closed, be it by the death of the first process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the first process's affair
    signal.signal(signal.SIGTERM, _unwind)
    threading.Thread(target=_end_with, args=(held,), daemon=True).start()


def _unwind(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _end_with(held: Connection) -> None:
    """Work is interrupted, so that it ends its programs and removes its folders; what does not listen is ended all the same."""
    held.poll(None)
    if _BUSY.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    while _BUSY.is_set() and time.monotonic() < until:
        time.sleep(0.02)
    os._exit(1)


def on_cluster(work: Work, tasks: Sequence[Task], address: str) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Results as they come. A point whose worker is lost is given to another.

    Parameters
    ----------
    address : str
        Of the Dask scheduler, such as ``tcp://host:8786``. Its workers need tcompile, and see the files under the same paths.

    Raises
    ------
    ToolError
        There is no Dask, no scheduler, or a point whose workers are lost again and again.
    """
    try:
        from distributed import Client, KilledWorker
        from distributed import as_completed as completed
    except ModuleNotFoundError as error:
        message = "--scheduler needs Dask's package distributed, and it is not installed"
        raise ToolError(Problem("no-dask", message, hint="pip install 'tcompile[cluster]'")) from error
    try:
        client = Client(address, timeout=WAIT)
    except (OSError, TimeoutError, ValueError) as error:
        message = f"there must be a Dask scheduler at {printable(address)}, and none answers"
        raise ToolError(Problem("no-scheduler", message, hint="start one with: dask scheduler")) from error
    with client:
        futures = client.map(work, tasks, pure=False)
        pending = {future.key: task for future, task in zip(futures, tasks, strict=True)}
        try:
            for future, result in completed(futures, with_results=True):
                yield pending[future.key], result
        except KilledWorker as error:
            message = "the cluster lost several workers on the same point; have they enough memory?"
            raise ToolError(Problem("worker-lost", message, hint=AGAIN)) from error
        finally:
            client.cancel(futures)
