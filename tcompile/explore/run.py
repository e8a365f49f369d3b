"""The exploration of a folder: what is done is kept, what is missing is given to workers, and the front is drawn."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tcompile.bundle import replace_file
from tcompile.errors import InternalError, Problem, ToolError, UsageError, printable
from tcompile.explore.evaluate import FAILED, FAULT, Task, evaluate, key, synthesize
from tcompile.explore.front import OBJECTIVES, front, spread
from tcompile.explore.plot import drawing
from tcompile.explore.workers import Work, on_cluster, on_processes
from tcompile.synthesis import find_programs, job

__all__ = ["Exploration", "explore"]

COLUMNS = (
    "model", "options", "forms", "interval", "latency", "clock_mhz", "fps", "lut", "ff", "bram", "bits", "verdict", "accuracy",
    "mismatches", "front", "refused",
)  # fmt: skip
SYNTHESIZED = ("flow", "lut", "ff", "bram", "fmax_mhz", "fps")
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
    synthesized : int
        Points of the front that are synthesized too.
    flow, device : str, str or None
        As of ``synth``.
    """

    folder: Path
    objectives: tuple[str, ...]
    jobs: int = 2
    scheduler: str | None = None
    synthesized: int = 0
    flow: str = "yosys-ecp5"
    device: str | None = None

    def check(self) -> None:
        """Refuse before any work.

        Raises
        ------
        UsageError
            Unknown objectives, flow or device; a folder that holds something else, or cannot be made.
        ToolError
            A tool of the flow is missing.
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
        if self.synthesized:
            job(self.flow, self.device)
            find_programs(self.flow)
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
        rows = [{"synthesis": None, **row, "front": k in best} for k, row in enumerate(rows)]
        document = {"schema": 1, "objectives": list(self.objectives), "points": rows}
        replace_file(self.folder / MARK, _json(document))
        replace_file(self.folder / "explore.csv", _table(rows))
        replace_file(self.folder / "explore.svg", drawing(rows))
        return document


def explore(
    exploration: Exploration, tasks: Sequence[Task], tell: Tell | None = None, say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Make all points that are not there yet, and synthesize some of the front.

    Parameters
    ----------
    tell : callable, optional
        Told each new result, how many are done, and of how many.
    say : callable, optional
        Told what begins, where it takes long.

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
    names = {task: key(task) for task in tasks}
    rows: dict[Task, Row] = {}
    try:
        faults = _fill(rows, exploration, evaluate, names, tell)
    finally:  # also of what was interrupted
        document = exploration.write([rows[t] for t in tasks if t in rows])
    made = [task for task in tasks if task in rows]
    chosen = spread(front([rows[t] for t in made], exploration.objectives), exploration.synthesized)
    if chosen:
        if say is not None:
            say(f"synthesizing {len(chosen)} designs by {exploration.flow}; the files are there already")
        suffix = f".{exploration.flow}" + (f".{_plain(exploration.device)}" if exploration.device else "")
        work = partial(synthesize, flow=exploration.flow, device=exploration.device)
        found: dict[Task, Row] = {}
        try:
            faults += _fill(found, exploration, work, {made[k]: names[made[k]] + suffix for k in chosen}, tell)
        finally:
            document = exploration.write([{**rows[t], "synthesis": found.get(t)} for t in made])
    if faults:
        raise InternalError(faults)
    return document


def _fill(
    rows: dict[Task, Row], exploration: Exploration, work: Work, names: Mapping[Task, str], tell: Tell | None
) -> list[Problem]:
    """Results by task, those that were kept and new ones as they come; returned are faults of tcompile."""
    rows |= {task: row for task, name in names.items() if (row := exploration.kept(name)) is not None}
    faults: list[Problem] = []
    for task, row in exploration.work(work, [task for task in names if task not in rows]):
        if FAILED in row:
            raise ToolError([Problem(code, message, hint=hint) for code, message, hint in row[FAILED]])
        if FAULT in row:
            faults += [Problem("internal", f"{m} (at: {printable(task.point.title)})") for m in row[FAULT]]
            continue
        exploration.keep(names[task], row)
        rows[task] = row
        if tell is not None:
            tell(row | {"title": task.point.title}, len(rows), len(names))
    return faults


def _plain(text: str) -> str:
    """A part of a file's name."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=False) + "\n").encode()


def _table(rows: Sequence[Row]) -> bytes:
    """One line per point; nested values as JSON."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *(f"synthesis_{c}" for c in SYNTHESIZED)])
    for row in rows:
        found = row.get("synthesis") or {}
        table.writerow([_cell(row.get(c)) for c in COLUMNS] + [_cell(found.get(c)) for c in SYNTHESIZED])
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value
