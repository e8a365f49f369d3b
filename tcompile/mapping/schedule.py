"""Schedules: which tile of weights meets which word of the window, row block after row block.

Tiles that hold no weight have no entry and no word in the weight memory; of the tiles that are kept, Booth digits that
are all zero have no entry. A row block without any entry has one that adds nothing, since its sum must still go out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw.block import Bus
from hw.engine import Engine, Entry, booth_digits
from tcompile.mapping.folding import Fold
from tcompile.mapping.geometry import Geometry, engine_block
from tcompile.mapping.linear import Linear

__all__ = ["Schedule", "engine_geometry", "linear_engine", "pool_schedule", "schedule", "tiled"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """Entries of one position, and the tiles they use.

    Parameters
    ----------
    entries : tuple of Entry
    tiles : int64 array (kept, PE, SIMD)
        Weights, or where the fold has them coded the digits of each entry. A row block in which no tile is kept has one of zeros.
    tiles_all : int
        Tiles of the layer after padding.
    """

    entries: tuple[Entry, ...]
    tiles: np.ndarray
    tiles_all: int

    @property
    def words(self) -> int:
        """Words of the weight memory."""
        return len(self.tiles)

    @property
    def shortest(self) -> int:
        """Entries of the shortest row block: results never follow each other faster."""
        ends = [k for k, e in enumerate(self.entries) if e.last]
        return min(b - a for a, b in zip([-1, *ends], ends, strict=False))


def engine_geometry(layer: Linear, fold: Fold) -> Geometry:
    """The window of an engine over the grid of its words, padded and packed."""
    if layer.is_packed(fold):
        grid = (*layer.padded_grid[:-1], layer.out[-1])
        words = -(-layer.kernel[-1] * layer.channels // fold.simd)
        kernel, strides, dilations = ((*part[:-1], 1) for part in (layer.kernel, layer.strides, layer.dilations))
        return Geometry(grid, kernel, strides, dilations, words)
    words = -(-layer.groups * layer.channels // layer.lanes_in(fold))
    return Geometry(layer.padded_grid, layer.kernel, layer.strides, layer.dilations, words)


def linear_engine(
    layer: Linear, fold: Fold, i: Bus, o: Bus, *, entries: int, shortest: int, words: int, tiles: int
) -> Engine:
    """The engine of a linear layer, with room for its schedule and its weights, or for all that may be loaded.

    Parameters
    ----------
    i, o : Bus
    entries, shortest : int
        Of the schedule, and of its shortest row block.
    words, tiles : int
        Of the weight memory, and all tiles.
    """
    if layer.bits:
        entries, shortest, words = tiles * layer.planes, 1, tiles * (layer.planes if fold.coded else 1)
    return engine_block(
        "lane" if layer.is_depthwise else "dot", i, o, engine_geometry(layer, fold), entries, shortest,
        tiles=words, weight_width=layer.width, doubles=layer.doubles, coded=fold.coded,
        tree=fold.tree,
    )  # fmt: skip


def tiled(layer: Linear, fold: Fold, weights: np.ndarray | None = None) -> np.ndarray:
    """Weights cut into tiles: (row blocks, groups' taps x channel words in window order, PE, SIMD).

    A depthwise layer's row block is PE channels with one weight each per tap. A packed layer's taps along the last
    axis are channels.

    Parameters
    ----------
    weights : array (groups, rows, taps, channels), optional
        Something about each weight, to be cut in their place.
    """
    weights = layer.weights if weights is None else weights
    if layer.is_depthwise:
        w = weights[:, 0, :, 0]
        w = np.pad(w, [(0, -len(w) % fold.pe), (0, 0)])
        return w.reshape(-1, fold.pe, w.shape[1]).transpose(0, 2, 1)[..., None]
    groups, rows, taps, channels = weights.shape
    if layer.is_packed(fold):
        taps, channels = taps // layer.kernel[-1], channels * layer.kernel[-1]
        weights = weights.reshape(groups, rows, taps, channels)
    w = np.pad(weights, [(0, 0), (0, -rows % fold.pe), (0, 0), (0, -channels % fold.simd)])
    w = w.reshape(groups, -1, fold.pe, taps, w.shape[3] // fold.simd, fold.simd)
    return np.asarray(w.transpose(0, 1, 3, 4, 2, 5).reshape(groups * w.shape[1], -1, fold.pe, fold.simd))


def schedule(layer: Linear, fold: Fold, geometry: Geometry) -> Schedule:
    """The schedule of a linear layer; `geometry` is that of the window after padding and packing."""
    tiles = tiled(layer, fold)
    offsets = _offsets(layer, fold, geometry, len(tiles))
    passes = np.stack([(booth_digits(tiles, d) != 0).any(axis=(2, 3)) for d in range(layer.planes)], axis=-1)
    entries: list[Entry] = []
    kept = []
    for block in range(len(tiles)):
        row = []
        for column in np.flatnonzero(passes[block].any(axis=1)):
            digits = np.flatnonzero(passes[block, column])
            offset = int(offsets[block, column])
            row += [Entry(offset, int(d), last=False, next=fold.coded or bool(d == digits[-1])) for d in digits]
            kept += (
                [booth_digits(tiles[block, column], int(d)) for d in digits] if fold.coded else [tiles[block, column]]
            )
        if not row:
            row, kept = [Entry(0, last=False)], [*kept, np.zeros_like(tiles[block, 0])]
        entries += _row_block(row)
    last = max(k for k, e in enumerate(entries) if e.next)
    entries[last] = entries[last]._replace(next=False)
    stored = np.array(kept, np.int64).reshape(-1, *tiles.shape[2:])
    return Schedule(tuple(entries), stored, tiles.shape[0] * tiles.shape[1])


def _row_block(row: list[Entry]) -> list[Entry]:
    row[-1] = row[-1]._replace(last=True)
    return row


def _offsets(layer: Linear, fold: Fold, geometry: Geometry, blocks: int) -> np.ndarray:
    """Word of the window for each tile: (row blocks, columns)."""
    taps = np.array(geometry.taps)
    if layer.is_depthwise:
        return np.asarray(np.arange(blocks)[:, None] + taps)
    per_group = geometry.words // layer.groups
    group = np.repeat(np.arange(layer.groups), blocks // layer.groups)
    within = (taps[:, None] + np.arange(per_group)).reshape(-1)
    return np.asarray(group[:, None] * per_group + within)


def pool_schedule(geometry: Geometry) -> Schedule:
    """The schedule of a pool: for each word of channels, all taps."""
    entries: list[Entry] = []
    for word in range(geometry.words):
        entries += _row_block([Entry(tap + word, last=False, next=False) for tap in geometry.taps])
    return Schedule(tuple(entries), np.zeros((0, 0, 0), np.int64), 0)
