"""Two codes meet: a function of the pair becomes a step function of a·q1 + b·q2 with small integer factors."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tcompile.ir.requantizers import Steps, signed_digits
from tcompile.lowering.lifted import Lifted, PairStart, evaluate, pair_codes

__all__ = ["Pairing", "pairing"]

LARGEST = 1 << 12  # denominators tried


@dataclass(frozen=True, eq=False)
class Pairing:
    """y = steps(factors[0]·q1 + factors[1]·q2), but for `exceptions` pairs (q1, q2, wanted, got)."""

    start: PairStart
    factors: tuple[int, int]
    steps: Steps
    exceptions: tuple[tuple[int, int, int, int], ...]


def pairing(lifted: Lifted, start: PairStart, ratio: Fraction) -> Pairing:
    """Find factors for a chain that starts where two codes meet.

    Every pair of codes is run through onnxruntime. Factors approximate the ratio of the two scales; the cheapest (in
    signed digits) that reproduces every pair is taken, else the one with the fewest exceptions.

    Parameters
    ----------
    lifted : Lifted
        Chain that ends in codes.
    start : PairStart
        Where the two meet.
    ratio : Fraction
        First scale over second, with the sign of the operation.
    """
    n = np.arange(int(lifted.hi.max()) + 1, dtype=np.int64)[:, None]
    q1, q2 = (q[:, 0] for q in pair_codes(start.left, start.right, n))
    table = evaluate(lifted, n).astype(np.int64)
    best: Pairing | None = None
    for a, b in _factors(ratio):
        found = _fit(start, a, b, q1, q2, table)
        if best is None or len(found.exceptions) < len(best.exceptions):
            best = found
        if not best.exceptions:
            break
    assert best is not None
    return best


def _factors(ratio: Fraction) -> list[tuple[int, int]]:
    """Pairs (a, b) with a / b ever closer to the ratio, small denominators first, then cheap ones."""
    sign = -1 if ratio < 0 else 1
    result: list[tuple[int, int]] = []
    error = None
    for b in range(1, LARGEST + 1):
        a = round(abs(ratio) * b)
        new = abs(Fraction(a, b) - abs(ratio))
        if a and (error is None or new < error):
            error = new
            result.append((a, sign * b))
    for k in range(4, 13):
        b = 1 << k
        result.append((max(1, round(abs(ratio) * b)), sign * b))
    inverse = 1 / abs(ratio)
    result += [(1 << k, sign * max(1, round(inverse * (1 << k)))) for k in range(13)]
    unique = dict.fromkeys(result)
    return sorted(unique, key=lambda f: (signed_digits(f[0]) + signed_digits(f[1]), abs(f[0]) + abs(f[1])))


def _fit(start: PairStart, a: int, b: int, q1: np.ndarray, q2: np.ndarray, table: np.ndarray) -> Pairing:
    """Best step function of a·q1 + b·q2, channel by channel."""
    v = a * q1 + b * q2
    order = np.argsort(v, kind="stable")
    points, first = np.unique(v[order], return_index=True)
    starts, values, wrong = [], [], []
    for column in table.T:
        threshold, value = _column(points, first, column[order])
        starts.append(threshold)
        values.append(value)
        got = value[np.searchsorted(threshold, v, side="right") - 1]
        bad = np.flatnonzero(got != column)
        wrong += [(int(q1[k]), int(q2[k]), int(column[k]), int(got[k])) for k in bad]
    steps = Steps(tuple(starts), tuple(values), (int(points[-1]),) * len(starts))
    return Pairing(start, (a, b), steps, tuple(wrong))


def _column(points: np.ndarray, first: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of one channel: any function where each point has one value, else the best rising or falling one."""
    lowest, highest = np.minimum.reduceat(y, first), np.maximum.reduceat(y, first)
    if (lowest == highest).all():
        change = np.flatnonzero(np.diff(lowest, prepend=lowest[0] - 1))
        return points[change], lowest[change]
    if y[-1] >= y[0]:
        return _thresholds(points, first, y)
    starts, values = _thresholds(points, first, -y)
    return starts, -values


def _thresholds(points: np.ndarray, first: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of the rising step function with the fewest wrong elements; y is sorted by its point."""
    levels = np.unique(y)
    starts, values = [points[0]], [levels[0]]
    for level in levels[1:]:
        at_least = np.concatenate([[0], np.cumsum(y >= level)])
        total = at_least[-1]
        # pieces start at a point: all before count as below, all from it on as reached
        below = at_least[first]
        reached = (len(y) - first) - (total - below)
        k = int(np.argmin(below + reached))
        start = max(int(points[k]), int(starts[-1]))
        if start == starts[-1]:
            values[-1] = level
        else:
            starts.append(start)
            values.append(level)
    return np.array(starts, np.int64), np.array(values, np.int64)
