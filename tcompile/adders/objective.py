"""What the search for an adder graph tries to keep small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Bounds", "Objective"]

Bounds = tuple[int, int] | tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Objective:
    """What to minimise, within which depth, and how hard to try.

    Parameters
    ----------
    cost : "adders", "bits" or "serial"
        Number of adders; bits of all adders, for whole words; flip-flops of the bit-serial form: sum and carry of each
        adder, and what delays values until they are used. A negated output counts as an adder.
    bounds : (int, int) or tuple of (int, int)
        Smallest and largest value of every input, or of each. Only "bits" looks at it.
    depth : int, optional
        Levels allowed beyond the least possible; None for no limit.
    effort : int
        0 takes the first graph found; from 1 on, time for improving it grows in proportion. 1 is about a quarter of a
        millisecond per non-zero digit of the matrix.
    """

    cost: Literal["adders", "bits", "serial"] = "adders"
    bounds: Bounds = (0, 15)
    depth: int | None = 0
    effort: int = 1

    def __post_init__(self) -> None:
        if self.cost not in ("adders", "bits", "serial"):
            raise ValueError(f"cost must be 'adders', 'bits' or 'serial', not {self.cost!r}")
        if self.depth is not None and self.depth < 0:
            raise ValueError(f"depth must be at least 0 or None, not {self.depth}")
        if self.effort < 0:
            raise ValueError(f"effort must be at least 0, not {self.effort}")

    def bounds_of(self, inputs: int) -> Sequence[tuple[int, int]]:
        """Smallest and largest value of each of so many inputs."""
        pairs = [(int(lo), int(hi)) for lo, hi in np.array(self.bounds, dtype=object).reshape(-1, 2)]
        every = pairs * inputs if len(pairs) == 1 else pairs
        if len(every) != inputs or any(lo > hi for lo, hi in every):
            raise ValueError(f"there must be bounds (lo, hi) with lo <= hi for {inputs} inputs, not {self.bounds!r}")
        return every
