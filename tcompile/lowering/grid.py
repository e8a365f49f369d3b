"""Even grids: what a linear layer needs its input to lie on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tcompile.ir import real as R
from tcompile.ir.requantizers import Steps
from tcompile.lowering.lifted import ChainError, CodeStart, ConcatStart, GridStart, Lifted, RelaidStart, evaluate

__all__ = ["Grid", "dequantizer_grid", "even_step", "grid_of", "regrid"]

TABLE = 1 << 22
CODES = 1 << 16
DIVISORS = range(1, 17)
MANTISSA = 24  # bits of a float32
WORD = 62  # bits that an exact multiple may take


@dataclass(frozen=True)
class Grid:
    """value = step · (code - zero), each product rounded to float32."""

    step: float
    zero: int


def grid_of(lifted: Lifted) -> Grid | None:
    """The grid that a value's integers are on already, if its chain is a dequantizer or nothing."""
    start = lifted.start
    if isinstance(start, RelaidStart) and not lifted.chain:
        return grid_of(start.previous)
    while isinstance(start, RelaidStart) and not start.previous.chain:  # codes that were moved before they became real
        start = start.previous.start
    if isinstance(start, ConcatStart) and start.grid is not None:
        start = start.grid
    if isinstance(start, GridStart) and not lifted.chain:
        return Grid(start.step, start.zero)
    if isinstance(start, CodeStart) and len(lifted.chain) == 1:
        return dequantizer_grid(lifted, lifted.chain[0])
    return None


def dequantizer_grid(lifted: Lifted, node: R.RealNode) -> Grid | None:
    """The grid that a dequantizer of one scale puts codes on; None for anything else."""
    if not isinstance(node, R.DequantizeLinear):
        return None
    scale = lifted.graph[node.inputs[1]]
    zero = lifted.graph[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None
    if not isinstance(scale, R.Const) or scale.value.array.size != 1 or not isinstance(zero, R.Const | None):
        return None
    if zero is not None and zero.value.array.size != 1:
        return None
    step = float(scale.value.array.ravel()[0])
    if step <= 0:
        return None  # larger codes would not be larger values
    return Grid(step, 0 if zero is None else int(zero.value.array.ravel()[0]))


def regrid(lifted: Lifted) -> tuple[Steps, float]:
    """Put the values of any chain on one even grid through zero, if they lie on one.

    Returns
    -------
    (Steps, float)
        Code of every integer, the grid's step.

    Raises
    ------
    ChainError
        They do not.
    """
    if lifted.span > TABLE:
        raise ChainError(f"it takes {lifted.span} values")
    low, high = int(lifted.lo.min()), int(lifted.hi.max())
    rows = np.arange(low, high + 1, dtype=np.int64)[:, None]
    values = evaluate(lifted, rows).astype(np.float64)
    step = _step(np.unique(values))
    table = np.rint(values / step).astype(np.int64)
    channels = table.shape[1]
    highs = np.broadcast_to(lifted.hi, (channels,))
    lows = np.broadcast_to(lifted.lo, (channels,))
    starts, codes = [], []
    for c in range(channels):
        column = table[lows[c] - low : highs[c] - low + 1, c]
        change = np.flatnonzero(np.diff(column, prepend=column[0] - 1))
        starts.append(change + lows[c])
        codes.append(column[change])
    return Steps(tuple(starts), tuple(codes), tuple(int(h) for h in highs)), step


def _step(values: np.ndarray) -> float:
    if not np.isfinite(values).all():
        raise ChainError("it is not finite")
    sizes = np.unique(np.abs(values[values != 0]))
    if not len(sizes):
        return 1.0
    if len(sizes) > CODES:
        raise ChainError(f"it takes {len(sizes)} different values")
    step = even_step(sizes, CODES - 1)
    if step is None:
        raise ChainError(f"its {len(sizes)} values do not lie on an even grid")
    return step


def even_step(sizes: np.ndarray, largest: int) -> float | None:
    """Step such that every size is float32(integer · step), integers up to `largest`; None if none is found.

    Parameters
    ----------
    sizes : float array
        Positive values of float32, the smallest first.
    """
    sizes = sizes.astype(np.float64)
    for step in (*(float(np.float32(sizes[0] / divisor)) for divisor in DIVISORS), _common(sizes)):
        if step == 0 or sizes[-1] / step > largest + 1:
            continue
        whole = np.rint(sizes / step)
        if whole.max() <= largest and ((whole * step).astype(np.float32) == sizes).all():
            return step
    return None


def _common(sizes: np.ndarray) -> float:
    """Greatest common divisor of floats, as exact multiples of a power of two; 0 where these are too many."""
    mantissas, exponents = np.frexp(sizes)
    lowest = int(exponents.min()) - MANTISSA
    if int(exponents.max()) - lowest > WORD:
        return 0.0
    whole = np.ldexp(mantissas, exponents - lowest).astype(np.int64)
    return float(np.ldexp(float(np.gcd.reduce(whole)), lowest))
