"""The terminal: tables, progress, errors. The only module that knows rich; results go to stdout, all else to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tcompile.errors import InternalError, MismatchError, Problem, TcompileError, ToolError, printable
from tcompile.verify import Progress as Tell

__all__ = ["Screen"]

WIDE = 200  # columns of tables that go to a file or a pipe
SHOWN = 6  # places listed per problem


class Screen:
    """What a command shows.

    Parameters
    ----------
    as_json : bool
        Whether stdout carries one JSON document and nothing else.
    verbosity : int
        -1 quiet, 0 normal, 1 all notes.
    """

    def __init__(self, *, as_json: bool = False, verbosity: int = 0) -> None:
        self.as_json = as_json
        self.verbosity = verbosity
        self.out = Console(highlight=False, soft_wrap=True)
        if not self.out.is_terminal:
            self.out.width = WIDE
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)

    def json(self, document: Mapping[str, Any]) -> None:
        """Write the result as JSON."""
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """One line of the result; not with ``--json`` or ``-q``."""
        if not self.as_json and self.verbosity >= 0:
            self.out.print(escape(text))

    def document(self, text: str) -> None:
        """The result as it is: a text of several lines."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """One line beside the result."""
        if self.verbosity >= 0:
            self.err.print(f"[dim]note[/dim] {escape(text)}")

    def progress_line(self, text: str) -> None:
        """One line of progress that stays, on stderr."""
        if self.verbosity >= 0:
            self.err.print(f"[dim]{escape(text)}[/dim]")

    def detail(self, text: str) -> None:
        """One line for those who asked for more."""
        if self.verbosity > 0:
            self.err.print(f"[dim]{escape(text)}[/dim]")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table of the result; numbers to the right."""
        if self.as_json or self.verbosity < 0:
            return
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for k, column in enumerate(columns):
            numeric = all(isinstance(r[k], (int, float)) or r[k] in ("", "-") for r in rows)
            table.add_column(column, justify="right" if numeric and rows else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(_cell(c)) for c in row))
        self.out.print(table)

    @contextmanager
    def stage(self, what: str) -> Iterator[None]:
        """Say on a terminal what is being done, for as long as it takes."""
        if self.verbosity < 0 or not self.err.is_terminal:
            yield
            return
        with self.err.status(what):
            yield

    @contextmanager
    def stages(self) -> Iterator[Callable[[str], None]]:
        """Work of several stages: a function that is told each when it begins; how long each took stays on the screen."""
        begun: list[tuple[str, float]] = []
        bars = Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=self.err, transient=True)
        shown = self.verbosity >= 0 and self.err.is_terminal

        def end() -> None:
            for what, at in begun:
                self.progress_line(f"{what}: {time.monotonic() - at:.0f} s")
            begun.clear()
            for task in bars.task_ids:
                bars.remove_task(task)

        def tell(what: str) -> None:
            end()
            begun.append((what, time.monotonic()))
            bars.add_task(escape(what), total=None)

        with bars if shown else nullcontext():
            yield tell
            end()

    @contextmanager
    def progress(self) -> Iterator[Tell | None]:
        """Progress of long work; a function (what, done, total)."""
        if self.verbosity < 0 or not self.err.is_terminal:
            yield self._lines()
            return
        bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=self.err, transient=True,
        )  # fmt: skip
        with bars:
            tasks: dict[str, Any] = {}

            def tell(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total)
                bars.update(tasks[what], completed=done)

            yield tell

    def _lines(self) -> Tell | None:
        """Without a terminal: a line for every quarter of long work."""
        if self.verbosity < 0:
            return None
        told: set[tuple[str, int]] = set()

        def tell(what: str, done: int, total: int) -> None:
            quarter = 4 * done // total
            if total >= 1000 and quarter and (what, quarter) not in told:
                told.add((what, quarter))
                self.err.print(f"[dim]{escape(what)}: {done} of {total} frames[/dim]")

        return tell

    def error(self, error: TcompileError) -> None:
        """All problems of an error, then how many there were."""
        if self.as_json and not isinstance(error, MismatchError):  # whose report is there already
            self.json({"error": type(error).__name__, "exit_code": error.exit_code, "problems": problems_json(error)})
        for problem in error.problems:
            self._problem(problem)
        count = len(error.problems)
        late = isinstance(error, (ToolError, InternalError, MismatchError)) or error.problems[0].code == "system"
        tail = "stopped" if late else "nothing was written"
        self.err.print(f"{count} problem{'s' if count != 1 else ''}; {tail}")
        if isinstance(error, InternalError):
            self.err.print("This is a fault of tcompile: please report it with the model, if you can share it.")

    def _problem(self, problem: Problem) -> None:
        self.err.print(f"[bold red]error[/bold red][red]\\[{escape(problem.code)}][/red]: {escape(problem.message)}")
        if problem.where:
            places = ", ".join(printable(w) for w in problem.where[:SHOWN])
            more = len(problem.where) - SHOWN
            self.err.print(f"  from  {escape(places)}" + (f" and {more} more" if more > 0 else ""))
        if problem.hint:
            self.err.print(f"  try   {escape(problem.hint)}")


def problems_json(error: TcompileError) -> list[dict[str, Any]]:
    """Problems as JSON objects."""
    return [{"code": p.code, "message": p.message, "where": list(p.where), "hint": p.hint} for p in error.problems]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "".join(c if c.isprintable() else "�" for c in str(value))
