"""The points of an exploration: products of lists of options, from a TOML file or the usual ones."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from tcompile.accelerator import build_options
from tcompile.data import read_text
from tcompile.errors import Problem, UsageError, printable
from tcompile.options import BuildOptions

__all__ = ["Point", "points", "read_grids", "usual_grids"]

LANES = (1, 2, 4, 8, 16)
BUDGETS = range(4, 18)  # cycles of a frame, as powers of two, that rates are taken from
Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Point:
    """A design to be made.

    Parameters
    ----------
    model : str
        Path of the ONNX file.
    text : str
        Names and values of `BuildOptions` as JSON, in alphabetical order.
    """

    model: str
    text: str

    @classmethod
    def of(cls, model: str, options: Mapping[str, Any]) -> Point:
        """A point with some options."""
        return cls(model, json.dumps(options, sort_keys=True))

    @property
    def options(self) -> dict[str, Any]:
        """Names and values."""
        found: dict[str, Any] = json.loads(self.text)
        return found

    @property
    def title(self) -> str:
        """Options as they are given to ``build``."""
        return " ".join(_words(name, value) for name, value in self.options.items()) or "as build has it"

    def build_options(self) -> BuildOptions:
        """The options, checked."""
        return build_options(self.options)


def _words(name: str, value: Any) -> str:
    option = {"from_node": "from", "until_node": "until"}.get(name, name).replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option} {value:g}" if isinstance(value, float) else f"--{option} {value}"


def usual_grids(clock_mhz: float) -> list[Grid]:
    """Engines of all sizes, graphs of adders, and what ``--fps`` chooses for rates that are factors of two apart."""
    rates = [clock_mhz * 1e6 / (1 << k) for k in BUDGETS]
    return [{"form": ["engine"], "pe": LANES, "simd": LANES}, {"form": ["serial", "parallel"]}, {"fps": rates}]


def read_grids(path: Path) -> list[Grid]:
    """Grids of a TOML file: tables ``[[grid]]`` of options, each with a list of values or a single one.

    Raises
    ------
    UsageError
        It is no such file.
    """
    name, hint = printable(str(path)), "such as: [[grid]] with the lines  pe = [4, 8]  and  simd = [4, 8]"
    try:
        document = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(Problem("bad-config", f"{name} must be a TOML file: {error}", hint=hint)) from error
    grids = document.pop("grid", None)
    if document or not isinstance(grids, list) or not grids or not all(isinstance(g, dict) for g in grids):
        raise UsageError(Problem("bad-config", f"{name} must hold tables [[grid]] and nothing else", hint=hint))
    made: list[Grid] = [{k: v if isinstance(v, list) else [v] for k, v in grid.items()} for grid in grids]
    empty = [key for grid in made for key, values in grid.items() if not values]
    if empty:
        raise UsageError(Problem("bad-config", f"{printable(empty[0])} in {name} must have at least one value"))
    return made


def points(models: Sequence[str], grids: Sequence[Grid], common: Mapping[str, Any]) -> list[Point]:
    """All points, each once, in order.

    Parameters
    ----------
    models : sequence of str
        ONNX files: the same task, such as one network at several sparsities.
    common : mapping
        Options of all points that a grid does not vary.

    Raises
    ------
    UsageError
        Every combination of options that cannot be.
    """
    found = list(dict.fromkeys(_points(models, grids, common)))
    problems: dict[str, Problem] = {}
    for point in found:
        try:
            point.build_options()
        except UsageError as error:
            for p in error.problems:
                text = f"{p.message} (in: {printable(point.title)})"
                problems.setdefault(p.message, Problem(p.code, text, p.where, p.hint))
    if problems:
        raise UsageError(problems.values())
    return found


def _points(models: Sequence[str], grids: Sequence[Grid], common: Mapping[str, Any]) -> Iterator[Point]:
    for model, grid in product(models, grids):
        for values in product(*grid.values()):
            yield Point.of(model, {**common, **dict(zip(grid, values, strict=True))})
