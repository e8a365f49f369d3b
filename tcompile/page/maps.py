"""Maps of weights: for each layer which tiles, or single weights of a graph, are kept; and what that saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tcompile.page.cells import Cell, Row, cut, figure, rows_of, share, word
from tcompile.page.stages import Kept, Stage

__all__ = ["Map", "Meter", "Zeros", "zeros"]

COLUMNS, ROWS = 64, 24  # most cells of a map
SHADES = 4  # of cells that stand for several tiles, by the share of these that is kept
WIDTH, HEIGHT, LARGEST = 320, 120, 14  # pixels of a map, and of a cell at most
NAME = 32


@dataclass(frozen=True)
class Meter:
    """A bar of `share`, between 0 and 1, of its track."""

    label: str
    share: float
    text: str


@dataclass(frozen=True)
class Map:
    """Cells of a map: `shades` are paths of horizontal strokes in units of cells, for each shade that there is.

    Parameters
    ----------
    label : str
        All that it shows, in words.
    cell : float
        Pixels of a cell.
    stands : str
        What a cell is.
    """

    label: str
    columns: int
    rows: int
    cell: float
    shades: tuple[tuple[int, str], ...]
    stands: str


@dataclass(frozen=True)
class Zeros:
    """A layer: its map, and what zeros save."""

    name: Cell
    form: str
    map: Map | None
    meters: tuple[Meter, ...]


def zeros(report: Row, stages: Sequence[Stage]) -> tuple[Zeros, ...]:
    """Layers with weights; without maps where the network is not at hand."""
    kept = {s.name: s.kept for s in stages if s.kind == "layer"}
    found = []
    for row in rows_of(report, "layers"):
        meters = tuple(_meters(row))
        if meters:
            part = kept.get(str(row.get("name")))
            name = cut(word(row.get("name")), NAME)
            found.append(Zeros(name, str(row.get("form") or ""), None if part is None else _map(name, part), meters))
    return tuple(found)


def _meters(row: Row) -> list[Meter]:
    pairs = (("Tiles kept", "tiles_kept", "tiles"), ("Additions of dense", "additions_done", "additions_dense"))
    return [
        Meter(label, min(1.0, round(row[part] / row[whole], 4)), f"{figure(row[part]).text} of {figure(row[whole]).text} ({share(row[part], row[whole])})")
        for label, part, whole in pairs
        if row.get(part) is not None and row.get(whole)
    ]  # fmt: skip


def _map(name: Cell, kept: Kept) -> Map:
    shares, tall, broad = gathered(kept.cells)
    rows, columns = shares.shape
    levels = np.ceil(shares * SHADES).astype(int)
    shades = tuple((level, _strokes(levels == level)) for level in range(1, SHADES + 1) if (levels == level).any())
    count, held = kept.cells.size, int(kept.cells.sum())
    stands = f"a cell is one {kept.unit}" if tall * broad == 1 else f"a cell is up to {tall} × {broad} {kept.unit}s"
    blocks = ("row blocks", "places in the window") if kept.unit == "tile" else ("outputs", "weights")
    label = (
        f"Map of {name.full or name.text}: {kept.cells.shape[0]} {blocks[0]} by {kept.cells.shape[1]} {blocks[1]};"
        f" {held:,} of {count:,} {kept.unit}s are kept, {share(held, count)}"
    )
    return Map(label, columns, rows, round(min(LARGEST, WIDTH / columns, HEIGHT / rows), 3), shades, stands)


def gathered(cells: np.ndarray) -> tuple[np.ndarray, int, int]:
    """A map small enough to be seen.

    Parameters
    ----------
    cells : bool array (rows, columns)

    Returns
    -------
    shares : float array
        Of every block of cells the share that is true.
    tall, broad : int
        Cells of a block; those at the lower and right edge may have fewer.
    """
    tall, broad = (-(-n // most) for n, most in zip(cells.shape, (ROWS, COLUMNS), strict=True))
    sums = cells.astype(np.int64)
    counts = np.ones_like(sums)
    for axis, step in enumerate((tall, broad)):
        places = np.arange(0, sums.shape[axis], step)
        sums, counts = np.add.reduceat(sums, places, axis), np.add.reduceat(counts, places, axis)
    return sums / counts, tall, broad


def _strokes(marked: np.ndarray) -> str:
    """Runs of marked cells as horizontal lines through their middle."""
    parts = []
    for y, row in enumerate(marked):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        parts += [f"M{a} {y}h{b - a}" for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)]
    return "".join(parts)
