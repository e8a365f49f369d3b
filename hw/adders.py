"""A constant matrix as a network of two-input adders and subtracters, the hand-over between search and gateware.

Values are numbered: the inputs first, then the adders in an order in which operands come before their users. An operand
is a value shifted left by a constant. This is data: `hw.parallel` and `hw.serial` make hardware of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Adder", "AdderGraph", "Output"]

CHUNK = 1024  # values whose rows are held at once
EXACT = 1 << 62  # factors below it are counted in 64 bits


@dataclass(frozen=True, slots=True)
class Adder:
    """``(left << left_shift) + (right << right_shift)``, or minus the right one.

    Parameters
    ----------
    left, right : int
        Numbers of values.
    left_shift, right_shift : int
        At least 0.
    subtract : bool
        Whether the right operand is subtracted.
    """

    left: int
    right: int
    left_shift: int = 0
    right_shift: int = 0
    subtract: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """A row of the matrix: ``±(value << shift)``, or 0 where `value` is None."""

    value: int | None = None
    shift: int = 0
    negative: bool = False


@dataclass(frozen=True)
class AdderGraph:
    """A network of adders.

    Parameters
    ----------
    inputs : int
        Columns of the matrix.
    adders : tuple of Adder
    outputs : tuple of Output
        Rows of the matrix.
    """

    inputs: int
    adders: tuple[Adder, ...]
    outputs: tuple[Output, ...]

    def __post_init__(self) -> None:
        for k, a in enumerate(self.adders, start=self.inputs):
            if not (0 <= a.left < k and 0 <= a.right < k and min(a.left_shift, a.right_shift) >= 0):
                raise ValueError(f"value {k} must be made of earlier ones with shifts of at least 0, not by {a}")
        for o in self.outputs:
            if o.value is not None and not (0 <= o.value < self.inputs + len(self.adders) and o.shift >= 0):
                raise ValueError(f"an output must be a value that exists with a shift of at least 0, not {o}")

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Adders on the longest way from an input to each value."""
        levels = [0] * self.inputs
        for a in self.adders:
            levels.append(1 + max(levels[a.left], levels[a.right]))
        return tuple(levels)

    @cached_property
    def used(self) -> frozenset[int]:
        """Values that an output needs."""
        wanted = [o.value for o in self.outputs if o.value is not None]
        found: set[int] = set()
        while wanted:
            value = wanted.pop()
            if value not in found:
                found.add(value)
                if value >= self.inputs:
                    adder = self.adders[value - self.inputs]
                    wanted += [adder.left, adder.right]
        return frozenset(found)

    def trimmed(self) -> AdderGraph:
        """The same matrix without adders that no output needs."""
        place = {k: k for k in range(self.inputs)}
        kept: list[Adder] = []
        for k, a in enumerate(self.adders, start=self.inputs):
            if k in self.used:
                place[k] = self.inputs + len(kept)
                kept.append(Adder(place[a.left], place[a.right], a.left_shift, a.right_shift, a.subtract))
        outputs = (o if o.value is None else Output(place[o.value], o.shift, o.negative) for o in self.outputs)
        return AdderGraph(self.inputs, tuple(kept), tuple(outputs))

    @property
    def depth(self) -> int:
        """Adders on the longest way to an output; the negation of an output is not counted."""
        return max((self.levels[o.value] for o in self.outputs if o.value is not None), default=0)

    @property
    def negations(self) -> int:
        """Values that an output needs negated: an adder more each, in hardware."""
        return len({o.value for o in self.outputs if o.value is not None and o.negative})

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """Outputs (n, rows) of inputs (n, columns), int64."""
        values: list[np.ndarray] = list(np.asarray(x, np.int64).T)
        for a in self.adders:
            right = values[a.right] << a.right_shift
            values.append((values[a.left] << a.left_shift) + (-right if a.subtract else right))
        zero = np.zeros(len(x), np.int64)
        rows = [
            zero if o.value is None else (values[o.value] << o.shift) * (-1 if o.negative else 1) for o in self.outputs
        ]
        return np.stack(rows, axis=1) if rows else np.zeros((len(x), 0), np.int64)

    def matrix(self) -> np.ndarray:
        """The matrix that the network computes: int64 (rows, columns)."""
        m = np.zeros((len(self.outputs), self.inputs), np.int64)
        rows = np.array([r for r, o in enumerate(self.outputs) if o.value is not None], np.int64)
        ends = [o for o in self.outputs if o.value is not None]
        values = np.array([o.value for o in ends], np.int64)
        factors = np.array([(-1 if o.negative else 1) << o.shift for o in ends], np.int64)
        for part in np.array_split(np.arange(len(rows)), -(-len(rows) // CHUNK) or 1):
            which, column, factor = self._expand(values[part])
            m[rows[part][which], column] = factor * factors[part][which]
        return m

    def ranges(self, bounds: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Smallest and largest of every value when each input lies within its bounds, exact: by the value's own row."""
        if len(bounds) != self.inputs:
            raise ValueError(f"{self.inputs} inputs need as many bounds, not {len(bounds)}")
        count = self.inputs + len(self.adders)
        lo, hi = np.array(bounds, dtype=object).reshape(-1, 2).T
        lows, highs = np.zeros((2, count), object)
        for part in np.array_split(np.arange(count), -(-count // CHUNK) or 1):
            which, column, factor = self._expand(part)
            factor = factor.astype(object)
            np.add.at(lows, part[which], factor * np.where(factor > 0, lo[column], hi[column]))
            np.add.at(highs, part[which], factor * np.where(factor > 0, hi[column], lo[column]))
        return tuple(zip(lows.tolist(), highs.tolist(), strict=True))

    @cached_property
    def _operands(self) -> tuple[np.ndarray, ...]:
        """Left and right value of each value, and the factors of the two; 0 for inputs."""
        none = [(0, 0, 0, 0)] * self.inputs
        rows = [(a.left, a.right, 1 << a.left_shift, (-1 if a.subtract else 1) << a.right_shift) for a in self.adders]
        left, right, by_left, by_right = np.array(none + rows, dtype=object).reshape(-1, 4).T
        reach = [1] * self.inputs
        for a in self.adders:
            reach.append((reach[a.left] << a.left_shift) + (reach[a.right] << a.right_shift))
        kind = object if max(reach, default=1) >= EXACT else np.int64
        return left.astype(np.int64), right.astype(np.int64), by_left.astype(kind), by_right.astype(kind)

    def _expand(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which of some values has which input how often, each pair once; level by level, so that memory is bounded."""
        levels = np.array(self.levels, np.int64)
        left, right, by_left, by_right = self._operands
        which, value, factor = np.arange(len(values)), values, np.ones(len(values), by_left.dtype)
        for level in range(int(levels[values].max(initial=0)), 0, -1):
            now = levels[value] == level
            w, v, f = _merged(which[now], value[now], factor[now])
            which = np.concatenate([which[~now], w, w])
            value = np.concatenate([value[~now], left[v], right[v]])
            factor = np.concatenate([factor[~now], f * by_left[v], f * by_right[v]])
        return _merged(which, value, factor)


def _merged(which: np.ndarray, value: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factors of equal pairs added; pairs of factor 0 left out."""
    if not len(which):
        return which, value, factor
    order = np.lexsort((value, which))
    which, value = which[order], value[order]
    first = np.flatnonzero(np.append(True, (which[1:] != which[:-1]) | (value[1:] != value[:-1])))
    total = np.add.reduceat(factor[order], first)
    kept = total != 0
    return which[first][kept], value[first][kept], total[kept]
