"""The exploration of a folder: what is done is kept, what is missing is given to workers, and the front is drawn."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcompile.bundle import replace_file
from tcompile.errors import InternalError, Problem, UsageError, printable
from tcompile.explore.evaluate import FAULT, Task, evaluate, key
from tcompile.explore.front import OBJECTIVES, front
from tcompile.explore.plot import drawing
from tcompile.explore.workers import Work, on_cluster, on_processes

__all__ = ["Exploration", "explore"]

COLUMNS = (
    "model", "options", "forms", "interval", "latency", "clock_mhz", "fps", "lut", "ff", "bram", "bits", "verdict", "accuracy",
    "mismatches", "front", "refused",
)  # fmt: skip
MARK = "explore.json"
Row = dict[str, Any]
Tell = Callable[[Row, int, int], None]


@dataclass(frozen=True)
class Exploration:
    """A folder of results.

    Parameters
    ----------
    folder : Path
        Holds ``points/`` (a file per point), ``explore.json``, ``explore.csv`` and ``explore.svg``.
    objectives : tuple of str
        What the front is about.
    jobs : int
        Processes of this machine.
    scheduler : str or None
        Address of a Dask cluster that works in their place.
    """

    folder: Path
    objectives: tuple[str, ...]
    jobs: int = 2
    scheduler: str | None = None

    def check(self) -> None:
        """Refuse before any work.

        Raises
        ------
        UsageError
            Unknown objectives; a folder that holds something else, or cannot be made.
        """
        problems = [
            Problem("bad-option", f"an objective must be one of {', '.join(OBJECTIVES)}, not {printable(o)}")
            for o in self.objectives
            if o not in OBJECTIVES
        ]
        name = printable(str(self.folder))
        if self.folder.exists() and not self.folder.is_dir():
            problems.append(Problem("output-exists", f"{name} must be a folder, and is a file"))
        elif self.folder.is_dir() and any(self.folder.iterdir()) and not self.points.is_dir():
            message = f"{name} must be empty or hold an exploration, and holds something else"
            problems.append(Problem("output-exists", message, hint="give another folder"))
        if problems:
            raise UsageError(problems)
        try:
            self.points.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(Problem("cannot-write", f"{name} cannot be made: {error.strerror}")) from error

    @property
    def points(self) -> Path:
        return self.folder / "points"

    def kept(self, name: str) -> Row | None:
        """The result of a point, if it was finished before."""
        path = self.points / f"{name}.json"
        if not path.exists():
            return None
        try:
            found: Row = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            message = f"{printable(str(path))} must be a result of this command, and is damaged"
            raise UsageError(Problem("damaged", message, hint="remove it, and the point is made again")) from error
        return found

    def keep(self, name: str, row: Row) -> None:
        """Write a result, whole or not at all."""
        replace_file(self.points / f"{name}.json", _json(row))

    def work(self, work: Work, tasks: Sequence[Task]) -> Iterator[tuple[Task, Row]]:
        """Results as they come."""
        if not tasks:
            return iter(())
        return on_cluster(work, tasks, self.scheduler) if self.scheduler else on_processes(work, tasks, self.jobs)

    def write(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The tables and the picture."""
        best = front(rows, self.objectives)
        rows = [{**row, "front": k in best} for k, row in enumerate(rows)]
        document = {"schema": 1, "objectives": list(self.objectives), "points": rows}
        replace_file(self.folder / MARK, _json(document))
        replace_file(self.folder / "explore.csv", _table(rows))
        replace_file(self.folder / "explore.svg", drawing(rows))
        return document


def explore(exploration: Exploration, tasks: Sequence[Task], tell: Tell | None = None) -> dict[str, Any]:
    """Make all points that are not there yet.

    Parameters
    ----------
    tell : callable, optional
        Told each new row, how many are done, and of how many.

    Returns
    -------
    dict
        ``objectives`` and ``points``: their figures, and ``front``, whether no other point beats it.

    Raises
    ------
    UsageError, ToolError
        See `Exploration`; what was done is kept.
    InternalError
        Some points failed by a fault of tcompile; all others are done and written.
    """
    exploration.check()
    names = [key(task) for task in tasks]
    rows: dict[str, Row] = {n: row for n in names if (row := exploration.kept(n)) is not None}
    missing = [task for task, name in zip(tasks, names, strict=True) if name not in rows]
    tell = tell or (lambda row, done, total: None)
    faults: list[Problem] = []
    for task, row in exploration.work(evaluate, missing):
        if FAULT in row:
            faults += [Problem("internal", f"{m} (at: {printable(task.point.title)})") for m in row[FAULT]]
            continue
        name = key(task)
        exploration.keep(name, row)
        rows[name] = row
        tell(row, len(rows), len(tasks))
    document = exploration.write([rows[n] for n in names if n in rows])
    if faults:
        raise InternalError(faults)
    return document


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=False) + "\n").encode()


def _table(rows: Sequence[Row]) -> bytes:
    """One line per point; nested values as JSON."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([_cell(row.get(c)) for c in COLUMNS] for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value
