"""The exact steps of a chain: which integers give which code.

A chain is tabulated wherever that is affordable; nothing is then assumed of it. Where it is not, bisection finds the
steps of chains made of operations that are monotone in floating point too (rounding to nearest never swaps two
numbers), which is a proof and not a guess. Other chains over such a range are refused.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tcompile.ir import real as R
from tcompile.ir.graph import TensorType
from tcompile.ir.requantizers import Steps
from tcompile.lowering.lifted import (
    AccumulatorStart,
    ChainError,
    CodeStart,
    GridStart,
    IntegerKernelStart,
    Lifted,
    RelaidStart,
    constant_floats,
    evaluate,
)

__all__ = ["chain_direction", "direction", "steps_of"]

TABLE = 1 << 22  # integers per channel that are always tabulated
TOTAL = 1 << 21  # integers of all channels that are tabulated where bisection would do
WHOLE = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
RISING = (R.Relu, R.Clip, R.Floor, R.Ceil, R.Round, R.Min, R.Max)


def direction(lifted: Lifted) -> np.ndarray | None:
    """+1 or -1 per channel where a chain is monotone by the algebra of its operations, else None."""
    start = lifted.start
    if isinstance(start, RelaidStart):
        sign = direction(start.previous)
    elif isinstance(start, AccumulatorStart):
        sign = _signs(start.scale)
    elif isinstance(start, IntegerKernelStart):
        sign = _signs(start.accumulator.scale)
    elif isinstance(start, (CodeStart, GridStart)):
        sign = np.ones(1, np.int64)
    else:
        return None
    slope = chain_direction(lifted)
    return None if sign is None or slope is None else sign * slope


def chain_direction(lifted: Lifted) -> np.ndarray | None:
    """As `direction`, but of the chain alone, whatever its start is."""
    sign = np.ones(1, np.int64)
    known = lifted.start.value
    unknown = {known, *(node.name for node in lifted.chain)}
    for node in lifted.chain:
        if [i for i in node.uses if i in unknown] != [known]:
            return None  # two branches meet
        factor = _sign(lifted, node, {known})
        if factor is None:
            return None
        sign = sign * factor
        known = node.name
    return sign


def _sign(lifted: Lifted, node: R.RealNode, known: set[str]) -> np.ndarray | None:
    one = np.ones(1, np.int64)
    if node.type.is_integer and isinstance(node, (R.Add, R.Sub, R.Mul, R.Div, R.Neg)):
        return None  # integers wrap around
    if isinstance(node, (R.QuantizeLinear, R.DequantizeLinear)):
        return one if (_constant(lifted, node.inputs[1]) > 0).all() else None
    if isinstance(node, (*RISING, R.Add)):
        return one
    if isinstance(node, R.Sub):
        return one if node.inputs[0] in known else -one
    if isinstance(node, (R.Mul, R.Div)):
        if isinstance(node, R.Div) and node.inputs[0] not in known:
            return None
        other = node.inputs[1] if node.inputs[0] in known else node.inputs[0]
        return _signs(_constant(lifted, other))
    if isinstance(node, R.BatchNormalization):
        return _signs(_constant(lifted, node.inputs[1]))
    if isinstance(node, R.LeakyRelu):
        return one if node.alpha >= 0 else None
    if isinstance(node, R.Neg):
        return -one
    if isinstance(node, R.Cast):
        return one if _fits(lifted, node) else None
    return None


def _fits(lifted: Lifted, cast: R.Cast) -> bool:
    """Whether the values before a Cast are within the range of its type: beyond, they would wrap around."""
    dtype = cast.type.dtype
    if dtype in ("float32", "float64"):
        return True
    if dtype == "bool":
        return False
    info = np.iinfo(dtype)
    node = lifted.graph[cast.inputs[0]]
    while isinstance(node, (R.Floor, R.Ceil, R.Round, R.Relu)):
        node = lifted.graph[node.inputs[0]]
    if not isinstance(node, R.Clip) or len(node.inputs) != 3 or not all(node.inputs):
        kind = node.type
        inner = np.iinfo(kind.dtype) if isinstance(kind, TensorType) and kind.dtype in WHOLE else None
        return inner is not None and info.min <= inner.min and inner.max <= info.max
    low, high = (float(_constant(lifted, i).item()) for i in node.inputs[1:])
    return info.min <= low <= high <= info.max


def _constant(lifted: Lifted, name: str) -> np.ndarray:
    node = lifted.graph[name]
    array = node.value.array if isinstance(node, R.Const) else constant_floats(lifted.graph, name)
    return array.reshape(-1)


def _signs(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, -1, 1).astype(np.int64)


def _codes(lifted: Lifted, n: np.ndarray) -> np.ndarray:
    values = evaluate(lifted, n)
    codes = values.astype(np.int64)
    if values.dtype.kind == "f" and not (codes == values).all():
        raise ChainError("it does not end in integers")
    return codes


def steps_of(lifted: Lifted) -> Steps:
    """The exact step function of a chain that ends in codes.

    Raises
    ------
    ChainError
        The chain is neither small enough to tabulate nor monotone by its algebra.
    """
    channels = max(lifted.channels, len(lifted.lo))
    low = np.broadcast_to(lifted.lo, (channels,)).astype(np.int64)
    high = np.broadcast_to(lifted.hi, (channels,)).astype(np.int64)
    if int((high - low + 1).sum()) <= TOTAL:
        return _tabulate(lifted, low, high)
    if direction(lifted) is not None:
        return _bisect(lifted, low, high)
    if lifted.span <= TABLE:
        return _tabulate(lifted, low, high)
    raise ChainError(
        f"its sum takes {lifted.span} values, more than the {TABLE} that are tabulated, "
        f"and {_not_monotone(lifted)} is not monotone by its algebra"
    )


def _not_monotone(lifted: Lifted) -> str:
    for count, node in enumerate(lifted.chain):
        if chain_direction(replace(lifted, chain=lifted.chain[: count + 1])) is None:
            return node.op
    return "the chain"


def _tabulate(lifted: Lifted, low: np.ndarray, high: np.ndarray) -> Steps:
    """Every integer, in blocks of rows; pieces are found block by block."""
    channels = len(low)
    span = int((high - low).max()) + 1
    rows = max(1, (1 << 23) // channels)
    starts: list[list[np.ndarray]] = [[] for _ in range(channels)]
    values: list[list[np.ndarray]] = [[] for _ in range(channels)]
    previous: np.ndarray | None = None
    for first in range(0, span, rows):
        n = low + np.arange(first, min(span, first + rows), dtype=np.int64)[:, None]
        table = np.broadcast_to(_codes(lifted, np.minimum(n, high)), n.shape)
        before = table[:1] if previous is None else previous
        changed = np.diff(table, axis=0, prepend=before) != 0
        if previous is None:
            changed[0] = True
        for c in range(channels):
            rows_changed = np.flatnonzero(changed[:, c])
            starts[c].append(n[rows_changed, c])
            values[c].append(table[rows_changed, c])
        previous = table[-1:]
    return Steps(
        tuple(np.concatenate(s) for s in starts), tuple(np.concatenate(v) for v in values), tuple(int(h) for h in high)
    )


def _bisect(lifted: Lifted, low: np.ndarray, high: np.ndarray) -> Steps:
    """For every level between the ends the first integer that reaches it, all levels and channels at once."""
    channels = len(low)
    ends = np.broadcast_to(_codes(lifted, np.stack([low, high])), (2, channels))
    rising = ends[1] >= ends[0]
    count = int(np.abs(ends[1] - ends[0]).max()) if channels else 0
    rank = np.arange(1, count + 1, dtype=np.int64)[:, None]
    target = np.where(rising, ends[0] + rank, ends[0] - rank)
    live = rank <= np.abs(ends[1] - ends[0])
    left = np.broadcast_to(low, target.shape).copy()  # not yet reached here
    right = np.broadcast_to(high, target.shape).copy()  # reached here
    while count and ((right - left) > 1).any():
        middle = (left + right) >> 1
        codes = _codes(lifted, middle)
        reached = np.where(rising, codes >= target, codes <= target)
        right = np.where(reached, middle, right)
        left = np.where(reached, left, middle)
    starts, values = [], []
    for c in range(channels):
        first = right[live[:, c], c]
        keep = np.append(first[1:] != first[:-1], True) if len(first) else np.zeros(0, bool)
        starts.append(np.concatenate([low[c : c + 1], first[keep]]))
        values.append(np.concatenate([ends[0, c : c + 1], target[live[:, c], c][keep]]))
    return Steps(tuple(starts), tuple(values), tuple(int(h) for h in high))
