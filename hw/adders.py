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
        """Outputs whose value must be negated: an adder more each, in hardware."""
        return sum(o.value is not None and o.negative for o in self.outputs)

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
        return self.evaluate(np.eye(self.inputs, dtype=np.int64)).T

    def ranges(self, bounds: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Smallest and largest of every value when each input lies within its bounds, exact: by the value's own row."""
        if len(bounds) != self.inputs:
            raise ValueError(f"{self.inputs} inputs need as many bounds, not {len(bounds)}")
        rows: list[dict[int, int]] = [{k: 1} for k in range(self.inputs)]
        for a in self.adders:
            row = {k: c << a.left_shift for k, c in rows[a.left].items()}
            for k, c in rows[a.right].items():
                row[k] = row.get(k, 0) + ((-c if a.subtract else c) << a.right_shift)
            rows.append({k: c for k, c in row.items() if c})
        return tuple(
            (
                sum(c * bounds[k][c < 0] for k, c in row.items()),
                sum(c * bounds[k][c > 0] for k, c in row.items()),
            )
            for row in rows
        )
