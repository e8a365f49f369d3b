"""Groups of weights that live and die together, whatever their shape: an integer per weight says to which it belongs.

========  ==========================================================================================================
tile      PE output by SIMD input channels of one kernel tap, or of all: what an engine skips (`TileView`)
slice     one output channel by Tn input channels, all taps
filter    one output channel
channel   one input channel (of one group of a grouped convolution), all taps
column    one column of the MH x MW matrix: an input channel at one tap
weight    a single weight (unstructured)
========  ==========================================================================================================

Rows and channels that do not divide leave tiles and slices of fewer weights (the hardware pads them with zeros). To
compare fairly, a group's strength is the root mean square of the weights it has; its *fair norm* is that times the
square root of the size of the layer's largest group, which is the plain norm where all groups have one size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tcompile.errors import Problem, UsageError
from tcompile.ir.graph import Graph
from tcompile.passes.tile_view import TileView
from tcompile.passes.weights import Layer

__all__ = ["Groups", "Shape", "groups_of", "groups_of_layer"]

Shape = Literal["tile", "tile-over-taps", "slice", "filter", "channel", "column", "weight"]


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of one layer's weights.

    Parameters
    ----------
    ids : int64 tensor like the weights
        Group of each weight, 0 to count - 1.
    count : int
        Number of groups; none is empty.
    """

    ids: Tensor
    count: int

    def __post_init__(self) -> None:
        sizes = torch.bincount(self.ids.reshape(-1), minlength=self.count)
        if self.ids.dtype != torch.int64 or len(sizes) != self.count or not bool((sizes > 0).all()):
            message = f"groups must be int64 numbers from 0 to {self.count - 1}, each with a weight"
            raise UsageError(Problem("bad-groups", message, hint="make them with groups_of"))

    def to(self, device: torch.device | str) -> Groups:
        """The same groups on a device."""
        return Groups(self.ids.to(device), self.count)

    @cached_property
    def sizes(self) -> Tensor:
        """Weights of each group: int64 (count,)."""
        return torch.bincount(self.ids.reshape(-1), minlength=self.count)

    @cached_property
    def largest(self) -> int:
        """Weights of the largest group."""
        return int(self.sizes.max())

    def sums(self, values: Tensor) -> Tensor:
        """Sum over each group of a tensor like the weights: (count,)."""
        return values.new_zeros(self.count).index_add(0, self.ids.reshape(-1), values.reshape(-1))

    def norms(self, weight: Tensor) -> Tensor:
        """Euclidean norm of each group: (count,); its gradient at a group of zeros is zero, not infinite."""
        squares = self.sums(weight**2)
        alive = squares > 0
        return torch.where(alive, squares, torch.ones_like(squares)).sqrt() * alive

    def strengths(self, weight: Tensor) -> Tensor:
        """Root mean square of each group: (count,)."""
        return self.norms(weight) / self.sizes.to(weight.dtype).sqrt()

    def fair_norms(self, weight: Tensor) -> Tensor:
        """Norm that each group would have if it were as large as the largest: (count,)."""
        return self.strengths(weight) * sqrt(self.largest)

    def alive(self, weight: Tensor) -> Tensor:
        """Which groups hold a weight that is not zero: bool (count,)."""
        return self.sums((weight != 0).to(torch.int64)) > 0

    def spread(self, values: Tensor) -> Tensor:
        """One value per group as a tensor like the weights."""
        return values[self.ids]

    def without(self, weight: Tensor, dropped: Tensor) -> Tensor:
        """The weights with the groups marked in the bool tensor `dropped` (count,) set to zero."""
        return weight.masked_fill(self.spread(dropped), 0)


def groups_of(
    shape: Shape,
    weights: tuple[int, ...],
    *,
    pe: int = 8,
    simd: int = 8,
    group: int = 1,
    image: tuple[int, ...] | None = None,
) -> Groups:
    """Groups of a shape for weights (MH, Cin / group, kernel...) or (MH, MW).

    Parameters
    ----------
    shape : Shape
        One of those above.
    weights : tuple of int
        Shape of the weights.
    pe, simd : int
        Size of tiles; `simd` also the input channels of a slice.
    group : int
        Groups of a grouped convolution.
    image : tuple of int, optional
        Channels and axes of the image that a dense layer's input was before it was flattened.

    Raises
    ------
    UsageError
        A shape that does not exist, or sizes below 1.
    """
    problems = []
    if shape not in get_args(Shape):
        message = f"groups are one of {', '.join(get_args(Shape))}, not {shape!r}"
        problems.append(Problem("unknown-group", message))
    if pe < 1 or simd < 1:
        message = f"a tile must have at least one row and column, not {pe} x {simd}"
        problems.append(Problem("tile-size", message))
    if problems:
        raise UsageError(problems)
    if shape in ("tile", "tile-over-taps"):
        ids = _tiles(TileView.of(weights, pe, simd, group, image), weights, over_taps=shape == "tile-over-taps")
    elif shape == "slice":
        view = TileView(weights, 1, simd, group)
        ids = _tiles(view, weights, over_taps=True)
    else:
        ids = _lines(shape, weights, group)
    return Groups(torch.from_numpy(ids), int(ids.max()) + 1)


def groups_of_layer(shape: Shape, graph: Graph, layer: Layer, *, pe: int = 8, simd: int = 8) -> Groups:
    """Groups of a layer of a graph, cut as `build` would cut it into tiles; arguments as `groups_of`."""
    if shape in ("tile", "tile-over-taps"):
        view = TileView.of_layer(graph, layer, pe, simd)
        ids = _tiles(view, layer.weight.shape, over_taps=shape == "tile-over-taps")
        return Groups(torch.from_numpy(ids), int(ids.max()) + 1)
    return groups_of(shape, layer.weight.shape, pe=pe, simd=simd, group=layer.group)


def _tiles(view: TileView, weights: tuple[int, ...], *, over_taps: bool) -> np.ndarray:
    """The tile of each weight; over all taps if asked."""
    ids = view.ids(weights)
    if not over_taps:
        return ids
    _, _, taps, words = view.blocks(np.zeros(weights, np.int8)).shape[:4]
    return np.asarray(ids // (taps * words) * words + ids % words)


def _lines(shape: str, weights: tuple[int, ...], group: int) -> np.ndarray:
    """Groups that are products of axes: (matrix of the group, output channel, input channel, tap)."""
    rows, channels, taps = weights[0] // group, weights[1], prod(weights[2:])
    matrix, row, channel, tap = np.indices((group, rows, channels, taps))
    ids = {
        "filter": matrix * rows + row,
        "channel": matrix * channels + channel,
        "column": (matrix * channels + channel) * taps + tap,
        "weight": ((matrix * rows + row) * channels + channel) * taps + tap,
    }[shape]
    return np.asarray(ids.reshape(weights).astype(np.int64))
