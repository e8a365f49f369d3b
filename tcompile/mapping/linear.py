"""Convolutions and dense layers as one thing: a matrix per group, its columns taps of a window, channels fastest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from hw.engine import booth_digits
from tcompile.ir import integer as I
from tcompile.ir.requantizers import signed_width
from tcompile.mapping.folding import Fold, Form
from tcompile.mapping.layout import Layout, channels_last

__all__ = ["Linear", "linear"]


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer over the grid of its input.

    Parameters
    ----------
    weights : int64 array (groups, rows, taps, channels)
        Rows and channels of one group; taps with the last axis fastest.
    grid, kernel, strides, dilations : tuple of int
        Axes slowest first; the grid without padding.
    before, after : tuple of int
        Padding of each axis, filled with `code`.
    needs : Layout or None
        Layout that the input must have; None where any will do.
    bits : int
        Bits that weights may have where others can be loaded; 0 where these stay.
    """

    weights: np.ndarray
    grid: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    code: int
    needs: Layout | None = None
    bits: int = 0

    @property
    def groups(self) -> int:
        return int(self.weights.shape[0])

    @property
    def rows(self) -> int:
        """Output channels of a group."""
        return int(self.weights.shape[1])

    @property
    def channels(self) -> int:
        """Input channels of a group."""
        return int(self.weights.shape[3])

    @property
    def MH(self) -> int:
        """Output channels."""
        return self.groups * self.rows

    @property
    def MW(self) -> int:
        """Weights of an output channel."""
        return prod(self.kernel) * self.channels

    @property
    def padded_grid(self) -> tuple[int, ...]:
        return tuple(n + a + b for n, a, b in zip(self.grid, self.before, self.after, strict=True))

    @property
    def out(self) -> tuple[int, ...]:
        """Positions of the output."""
        return tuple(
            (n - (k - 1) * d - 1) // s + 1
            for n, k, s, d in zip(self.padded_grid, self.kernel, self.strides, self.dilations, strict=True)
        )

    @property
    def is_depthwise(self) -> bool:
        """Whether every output channel has an input channel of its own."""
        return self.groups > 1 and self.rows == self.channels == 1

    @cached_property
    def width(self) -> int:
        """Bits of a weight, at least 2: a ternary weight is one Booth digit."""
        return max(2, self.bits, signed_width(int(self.weights.min(initial=0)), int(self.weights.max(initial=0))))

    @property
    def planes(self) -> int:
        """Booth digits of a weight: passes over a tile."""
        return (self.width + 1) // 2

    @cached_property
    def doubles(self) -> bool:
        """Whether a Booth digit may be 2 or -2."""
        return self.planes > 1 or bool((self.weights == -2).any())

    @cached_property
    def nonzero(self) -> tuple[np.ndarray, ...]:
        """For each plane, which weights' Booth digits are not zero."""
        return tuple(booth_digits(self.weights, d) != 0 for d in range(self.planes))

    @property
    def digits(self) -> int:
        """Booth digits of all weights that are not zero."""
        return sum(int(np.count_nonzero(plane)) for plane in self.nonzero)

    def is_packed(self, fold: Fold) -> bool:
        """Whether a row of the window comes as one position, since its channels alone do not fill the lanes."""
        return fold.form == "engine" and self.groups == 1 and self.kernel[-1] > 1 and fold.simd > self.channels

    def lanes_in(self, fold: Fold) -> int:
        """Elements of a beat of the input as the hardware takes it."""
        return fold.pe if self.is_depthwise and fold.form == "engine" else fold.simd

    def limits(self, form: Form = "engine") -> tuple[int, int]:
        """Largest PE and SIMD."""
        if form != "engine":
            return self.MH, self.groups * self.channels
        if self.is_depthwise:
            return self.groups, 1
        packed = self.groups == 1 and self.kernel[-1] > 1
        return self.rows, self.channels * (self.kernel[-1] if packed else 1)

    def legal(self, pe: int, simd: int, form: Form = "engine") -> bool:
        """Whether lanes can be so many.

        Rows and channels of an ungrouped engine are padded to whole tiles; a graph gives its rows in equal parts.
        """
        largest_pe, largest_simd = self.limits(form)
        if not (1 <= pe <= largest_pe and 1 <= simd <= largest_simd):
            return False
        if form != "engine":
            return self.MH % pe == 0
        if self.groups > 1 and not self.is_depthwise:
            return self.rows % pe == 0 and self.channels % simd == 0
        return True

    def fit(self, pe: int, simd: int, form: Form = "engine") -> Fold:
        """The largest legal folding within PE and SIMD."""
        largest_pe, largest_simd = self.limits(form)
        pe, simd = min(pe, largest_pe), min(simd, largest_simd)
        if form != "engine":
            return Fold(max(n for n in range(1, pe + 1) if self.MH % n == 0), simd, form)
        if self.groups > 1 and not self.is_depthwise:
            pe = max(n for n in range(1, pe + 1) if self.rows % n == 0)
            simd = max(n for n in range(1, simd + 1) if self.channels % n == 0)
        return Fold(pe, simd)


def linear(node: I.Conv | I.Dense, source: Layout) -> Linear:
    """A layer over what comes in `source`."""
    return _conv(node, source) if isinstance(node, I.Conv) else _dense(node, source)


def _conv(node: I.Conv, source: Layout) -> Linear:
    codes = node.weight.array.astype(np.int64)
    kernel = codes.shape[2:]
    rank, groups = len(kernel), node.group
    weights = codes.reshape(groups, codes.shape[0] // groups, codes.shape[1], prod(kernel)).transpose(0, 1, 3, 2)
    needs = channels_last(source.shape, 1)
    return Linear(
        weights,
        needs.grid,
        kernel,
        node.strides,
        node.dilations,
        node.pads[:rank],
        node.pads[rank:],
        node.pad_code,
        needs,
        node.bits,
    )


def _dense(node: I.Dense, source: Layout) -> Linear:
    codes = node.weight.array.astype(np.int64)
    rows, columns = codes.shape
    if prod(source.shape[:-1]) > 1:
        needs = channels_last(source.shape, -1)
        weights, grid, kernel = codes.reshape(1, rows, 1, columns), needs.grid, (1,) * len(needs.grid)
    else:  # the whole frame is one vector, whatever the order of its elements
        needs = None
        weights = codes[:, source.order].reshape(1, rows, source.positions, source.channels)
        grid = kernel = source.grid
    ones, zeros = (1,) * len(grid), (0,) * len(grid)
    return Linear(weights, grid, kernel, ones, ones, zeros, zeros, 0, needs, node.bits)
