"""A layer as hardware sees it: windows over a grid of positions, and how the window moves over the words of a stream."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import prod

from hw.block import Bus
from hw.engine import Engine, Kind
from hw.outbox import outbox_depth
from tcompile.ir.graph import IntType

__all__ = ["Geometry", "bus_of", "engine_block"]

SLACK = 3  # cycles from the last use of a word until one in its place can be used


@dataclass(frozen=True)
class Geometry:
    """Windows over the grid of a stream, padding already in it; axes slowest first.

    Parameters
    ----------
    grid : tuple of int
        Positions of the input.
    kernel, strides, dilations : tuple of int
    words : int
        Beats of one position.
    """

    grid: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    words: int

    @property
    def out(self) -> tuple[int, ...]:
        """Positions of the output."""
        return tuple(
            (n - (k - 1) * d - 1) // s + 1
            for n, k, s, d in zip(self.grid, self.kernel, self.strides, self.dilations, strict=True)
        )

    @property
    def pitch(self) -> tuple[int, ...]:
        """Words from a position to its neighbour along each axis."""
        return tuple(prod(self.grid[k + 1 :]) * self.words for k in range(len(self.grid)))

    @property
    def taps(self) -> tuple[int, ...]:
        """First word of each tap within the window, last axis fastest."""
        reach = [
            [tap * d * p for tap in range(k)] for k, d, p in zip(self.kernel, self.dilations, self.pitch, strict=True)
        ]
        return tuple(map(sum, product(*reach)))

    @property
    def span(self) -> int:
        """Words from the window's first to its last."""
        return self.taps[-1] + self.words

    @property
    def moves(self) -> tuple[tuple[int, int], ...]:
        """(positions, words to move on) along each axis, innermost first; axes of one position are left out."""
        moves, back = [], 0
        for n, s, p in reversed(list(zip(self.out, self.strides, self.pitch, strict=True))):
            if n > 1:
                moves.append((n, s * p - back))
            back += (n - 1) * s * p
        return tuple(moves) or ((1, 0),)

    @property
    def frame(self) -> int:
        """Words from the last window of a frame to the first of the next."""
        travelled = sum((n - 1) * s * p for n, s, p in zip(self.out, self.strides, self.pitch, strict=True))
        return prod(self.grid) * self.words - travelled

    def ring(self, entries: int) -> int:
        """Words of a ring in which the next window is complete as soon as the present one is done.

        Parameters
        ----------
        entries : int
            Cycles of a window.
        """
        move = max(self.frame, *(words for _, words in self.moves))
        return self.span + move + min(SLACK, max(0, move + SLACK - entries))


def bus_of(kind: object, lanes: int, *more: int) -> Bus:
    """The bus for a value, wide enough for some integers besides."""
    assert isinstance(kind, IntType)
    kind = IntType(kind.shape, min((kind.lo, *more)), max((kind.hi, *more)))
    return Bus(lanes, kind.width, kind.signed)


def engine_block(kind: Kind, i: Bus, o: Bus, geometry: Geometry, entries: int, shortest: int, **weights: int) -> Engine:
    """An engine with room for the next window, and an outbox that never holds it up.

    Parameters
    ----------
    entries, shortest : int
        Of the schedule, and of its shortest row block.
    **weights
        ``tiles``, ``weight_width``, ``doubles``, ``coded`` and ``tree`` where there are weights.
    """
    g = geometry
    block = Engine(kind, i, o, g.ring(entries), g.span, g.moves, g.frame, entries, **weights)  # type: ignore[arg-type]
    return replace(block, places=outbox_depth(block.pipeline, shortest))
