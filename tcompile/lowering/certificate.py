"""The exactness certificate: which steps of the requantizers onnxruntime could place elsewhere, and by how much.

The integers of the accelerator are those of onnxruntime if its floating-point sum stays on the right side of every
step. Two ways to know:

exact
    Every term is an integer multiple of one unit and Σ|terms| < 2**24 units: float32 sums without rounding, in any
    order. The unit comes from the scales as fractions, so that 0.75 counts as 3 quarters.
bounded
    The rounding of any summation order is at most ``γ · Σ|terms|`` with ``γ = k·u / (1 - k·u)``, ``u = 2**-24`` and k
    the roundings that a term can meet. A step is at risk if its chain, started that much below the integer that
    reaches it (or above the one that does not), gives another code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

import numpy as np

from tcompile.ir import real as R
from tcompile.ir.requantizers import Steps
from tcompile.lowering.grid import grid_of
from tcompile.lowering.lifted import (
    AccumulatorStart,
    CodeStart,
    ConcatStart,
    GridStart,
    IntegerKernelStart,
    KernelStart,
    Lifted,
    PairStart,
    PoolStart,
    RelaidStart,
    Start,
    TableStart,
    evaluate,
)
from tcompile.lowering.pairs import Pairing
from tcompile.lowering.steps import chain_direction, direction

__all__ = ["Entry", "Risk", "certify", "certify_arg_max", "certify_output", "certify_pair", "error_bound", "exact_sum"]

LISTED = 20
SMALLEST, LARGEST = Fraction(1, 1 << 126), Fraction(1 << 127)  # float32 rounds relatively between these
UNSTEADY = (  # onnxruntime: an element's value depends on its place in the tensor
    R.Atan, R.Celu, R.Cos, R.Elu, R.Log, R.Mish, R.Pow, R.Selu, R.Sin, R.Softplus,
)  # fmt: skip
UNIT = Fraction(1, 1 << 24)  # half a unit in the last place of 1.0 in float32


@dataclass(frozen=True)
class Risk:
    """A step that a floating-point sum in another order could miss.

    Parameters
    ----------
    layer : str
        ONNX node of the layer.
    channel : int
        Output channel.
    accumulator : int
        Integer sum next to the step.
    codes : (int, int)
        Code of this integer, and the code on the other side of the step.
    margin : float
        Distance from the sum's real value to the step, in the units of the layer's output.
    bound : float
        Largest error of the floating-point sum.
    """

    layer: str
    channel: int
    accumulator: int
    codes: tuple[int, int]
    margin: float
    bound: float


@dataclass(frozen=True)
class Entry:
    """Verdict on one requantizer."""

    layer: str
    method: str  # exact | bounded | kernel | pairs | assumed
    steps: int
    at_risk: int
    risks: tuple[Risk, ...] = ()

    @property
    def proved(self) -> bool:
        """Whether no step is at risk."""
        return self.at_risk == 0


def _odd(scale: float) -> int:
    """Odd part of a float's numerator: the scale is this integer times a power of two."""
    numerator = Fraction(scale).numerator
    return abs(numerator) // (numerator & -numerator) if numerator else 0


def exact_sum(start: AccumulatorStart) -> np.ndarray:
    """Per channel whether float32 sums are exact in every order, with the bias if there is one inside."""
    x = Fraction(start.x_scale)
    result = np.zeros(len(start.scale), bool)
    for c, (scale, size, bias) in enumerate(zip(start.w_scale, start.magnitude, start.bias, strict=True)):
        unit = _unit(x) * _unit(Fraction(float(scale)))
        terms = int(size) * _odd(start.x_scale) * _odd(float(scale))
        offset = Fraction(float(bias)) / unit
        total = terms + abs(offset)
        result[c] = offset.denominator == 1 and total < 1 << 24 and unit >= SMALLEST and total * unit < LARGEST
    return result


def _unit(scale: Fraction) -> Fraction:
    """Power of two such that the scale is an odd multiple of it."""
    return abs(scale) / _odd(float(scale)) if scale else Fraction(1)


def error_bound(start: AccumulatorStart) -> np.ndarray:
    """Largest error of the linear operation's output per channel, any summation order; float64, rounded up."""
    roundings = start.terms + 5  # x, w and their product, the bias, the replay's own start; terms - 1 additions
    gamma = roundings * UNIT / (1 - roundings * UNIT)
    size = start.magnitude * np.abs(start.scale) + np.abs(start.bias)
    bound = size * float(gamma) * (1 + 2.0**-40) + roundings * float(SMALLEST)
    return np.asarray(np.where(size < float(LARGEST), bound, np.inf))


@dataclass(frozen=True, eq=False)
class _Raw(Start):
    """Floats given as they are."""

    value: str

    def feed(self, n: np.ndarray) -> dict[str, np.ndarray]:
        return {self.value: n.astype(np.float32)}


def certify(lifted: Lifted, steps: Steps, layer: str) -> Entry:
    """Verdict on a requantizer with one input.

    Parameters
    ----------
    lifted : Lifted
        The chain that the steps were read from.
    steps : Steps
        Its exact steps.
    layer : str
        ONNX node for reports.
    """
    count = sum(len(s) - 1 for s in steps.starts)
    start = lifted.start
    if _unsteady(lifted):
        return Entry(layer, "assumed", count, max(1, count))
    if isinstance(start, IntegerKernelStart | TableStart) or (
        isinstance(start, KernelStart) and isinstance(start.inner, PairStart)
    ):
        return Entry(layer, "kernel", count, 0)
    if isinstance(start, KernelStart):
        assert isinstance(start.inner, PoolStart)
        entry = _pool(start.inner, layer, count)
        return entry if entry.proved else _kernel_pool(start, start.inner, steps, layer)
    if isinstance(start, PoolStart):
        return _pool(start, layer, count, lifted, steps)
    if isinstance(start, RelaidStart):
        return replace(certify(start.previous, steps, layer)) if not lifted.chain else _relaid(lifted, steps, layer)
    if isinstance(start, AccumulatorStart):
        exact = exact_sum(start)
        if exact.all():
            return Entry(layer, "exact", count, 0)
        if direction(lifted) is None:
            return Entry(layer, "assumed", count, count)
        return _bounded(lifted, steps, layer, np.where(exact, 0.0, error_bound(start)), np.sign(start.scale))
    return Entry(layer, "exact", count, 0)


def _unsteady(lifted: Lifted) -> bool:
    """Whether onnxruntime may give an element another value at another place, here or in what the chain starts from."""
    if any(isinstance(node, UNSTEADY) for node in lifted.chain):
        return True
    match lifted.start:
        case RelaidStart(previous=inner) | PoolStart(source=inner):
            return _unsteady(inner)
        case PairStart(left=left, right=right):
            return _unsteady(left) or _unsteady(right)
        case ConcatStart(parts=parts):
            return any(_unsteady(part) for part in parts)
    return False


def _relaid(lifted: Lifted, steps: Steps, layer: str) -> Entry:
    """A chain that goes on behind a layout: at risk if any of its sums is inexact."""
    count = sum(len(s) - 1 for s in steps.starts)
    safe = _safe(lifted.start)
    return Entry(layer, "exact" if safe else "assumed", count, 0 if safe else count)


def _safe(start: Start) -> bool:
    """Whether the floats at the head of a chain are a function of the integers, whatever the order of the sums."""
    if isinstance(start, RelaidStart):
        return _safe(start.previous.start)
    if isinstance(start, AccumulatorStart):
        return bool(exact_sum(start).all())
    if isinstance(start, PoolStart):
        return _pool(start, "", 0).method == "exact"
    if isinstance(start, ConcatStart):
        return all(_safe(part.start) for part in start.parts)
    return isinstance(start, (CodeStart, GridStart, IntegerKernelStart, TableStart))


def _pool(start: PoolStart, layer: str, count: int, lifted: Lifted | None = None, steps: Steps | None = None) -> Entry:
    """An average is exact if its sum is; the division that follows rounds one known number."""
    low, high = int(start.source.lo.min()), int(start.source.hi.max())
    codes = np.arange(low, high + 1, dtype=np.int64)[:, None]
    floats = evaluate(start.source, codes).astype(np.float64)
    if not np.isfinite(floats).all():
        return Entry(layer, "assumed", count, count)
    terms = prod(start.window)
    unit = min((_unit(Fraction(v)) for v in floats.ravel() if v), default=Fraction(1))
    if Fraction(float(np.abs(floats).max())) * terms / unit < 1 << 24:
        return Entry(layer, "exact", count, 0)
    if lifted is None or steps is None or chain_direction(lifted) is None:
        return Entry(layer, "assumed", count, count)
    gamma = float((terms + 3) * UNIT / (1 - (terms + 3) * UNIT))
    bound = np.full(len(steps.starts), float(np.abs(floats).max()) * gamma)
    return _bounded(lifted, steps, layer, bound, np.ones(1))


def _kernel_pool(kernel: KernelStart, start: PoolStart, steps: Steps, layer: str) -> Entry:
    """An averaging kernel sums dequantized floats: a step is at risk where the real average is too close to it.

    The average of codes that sum to n is x_scale · (n - K·zero) / K, a step is an odd half of y_scale.
    """
    grid, terms = grid_of(start.source), prod(start.window)
    assert grid is not None
    y_scale = Fraction(kernel.kernel.output_scale)
    ratio = Fraction(grid.step) / (y_scale * terms)
    largest = max(abs(int(start.source.lo.min()) - grid.zero), abs(int(start.source.hi.max()) - grid.zero))
    roundings = (terms + 8) * UNIT
    bound = roundings / (1 - roundings) * largest * Fraction(grid.step)
    risks, at_risk = [], 0
    for c, first in enumerate(steps.starts):
        for n in map(int, first[1:]):
            near = {k: _to_half(ratio * (k - terms * grid.zero)) * y_scale for k in (n - 1, n)}
            k = min(near, key=lambda k: near[k])
            if near[k] <= bound:
                at_risk += 1
                codes = (_code(steps, c, k), _code(steps, c, 2 * n - 1 - k))
                risks.append(Risk(layer, c, k, codes, float(near[k]), float(bound)))
    risks.sort(key=lambda r: r.margin)
    return Entry(layer, "bounded", sum(len(s) - 1 for s in steps.starts), at_risk, tuple(risks[:LISTED]))


def _to_half(x: Fraction) -> Fraction:
    """Distance to the nearest odd half."""
    return abs(x - Fraction(2 * (x.numerator // x.denominator) + 1, 2))


def _bounded(lifted: Lifted, steps: Steps, layer: str, bound: np.ndarray, slope: np.ndarray) -> Entry:
    """Start the chain off by the bound on both sides of every step, and see whether its value changes.

    `slope` is the sign, per channel, with which the chain's start follows the integers.
    """
    channels = len(steps.starts)
    bound, slope = np.broadcast_to(bound, (channels,)), np.broadcast_to(slope, (channels,))
    count = sum(len(s) - 1 for s in steps.starts)
    raw = replace(lifted, start=_Raw(lifted.start.value))
    reach, first, last = _padded(steps)
    risks: list[Risk] = []
    at_risk = np.zeros(reach.shape, bool)
    for integers, beyond, live in ((reach, reach - 1, first), (reach - 1, reach, last)):
        towards = slope * (beyond - integers)
        value = np.broadcast_to(next(iter(lifted.start.feed(integers).values())), reach.shape).astype(np.float64)
        here = np.broadcast_to(evaluate(raw, value), reach.shape)
        there = np.broadcast_to(evaluate(raw, _outward(value + towards * bound, towards)), reach.shape)
        crossing = live & (here != there) & (bound > 0)
        at_risk |= crossing
        risks += _risks(raw, layer, steps, (integers, beyond), value, here, towards * bound, crossing)
    risks.sort(key=lambda r: r.margin / r.bound)
    return Entry(layer, "bounded", count, int(at_risk.sum()), tuple(risks[:LISTED]))


def _outward(value: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """float32 at or beyond the value in the direction of the sign."""
    rounded = value.astype(np.float32)
    short = np.where(sign > 0, rounded < value, rounded > value)
    end = np.where(sign > 0, np.float32(np.inf), np.float32(-np.inf))
    return np.where(short, np.nextafter(rounded, end), rounded).astype(np.float64)


def _padded(steps: Steps) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Borders of all pieces as a matrix (borders, channels): the first integers, and one beyond the last.

    Which of them have a reachable integer on their upper and on their lower side: the smallest integer has no neighbour
    below, the one beyond the largest none above, but rounding may carry a sum across a step there, too.
    """
    rows = max(len(s) for s in steps.starts) + 1
    reach = np.zeros((rows, len(steps.starts)), np.int64)
    above, below = np.zeros(reach.shape, bool), np.zeros(reach.shape, bool)
    for c, (start, hi) in enumerate(zip(steps.starts, steps.hi, strict=True)):
        count = len(start)
        reach[:, c] = start[0]
        reach[:count, c] = start
        reach[count, c] = hi + 1
        above[:count, c] = True
        below[1 : count + 1, c] = True
    return reach, above, below


def _risks(
    raw: Lifted,
    layer: str,
    steps: Steps,
    integers: tuple[np.ndarray, np.ndarray],
    value: np.ndarray,
    here: np.ndarray,
    reach: np.ndarray,
    crossing: np.ndarray,
) -> list[Risk]:
    """The listed steps with their margins, found by bisection over the floats between value and value + reach.

    `integers` are those on this side of each step and on the other.
    """
    if not crossing.any():
        return []
    near, far = value, value + reach
    for _ in range(40):
        middle = (near + far) / 2
        same = np.broadcast_to(evaluate(raw, middle), here.shape) == here
        near, far = np.where(same, middle, near), np.where(same, far, middle)
    margin, bound = np.abs(far - value), np.abs(reach)
    rows, columns = np.nonzero(crossing)
    order = np.argsort(margin[rows, columns] / bound[rows, columns], kind="stable")[:LISTED]
    return [
        Risk(
            layer,
            int(c),
            int(integers[0][r, c]),
            (_code(steps, int(c), int(integers[0][r, c])), _code(steps, int(c), int(integers[1][r, c]))),
            float(margin[r, c]),
            float(bound[r, c]),
        )
        for r, c in zip(rows[order], columns[order], strict=True)
    ]


def _code(steps: Steps, channel: int, integer: int) -> int:
    piece = int(np.searchsorted(steps.starts[channel], integer, side="right")) - 1
    return int(steps.values[channel][max(0, piece)])


def certify_output(start: AccumulatorStart, layer: str) -> Entry:
    """Verdict on sums that leave the accelerator: onnxruntime's floats must round to the same integers.

    Each channel counts as one step; it is at risk if the rounding of some order of summation reaches half a unit.
    """
    bound = np.where(exact_sum(start), 0.0, error_bound(start))
    unit = np.abs(start.scale)
    # float32 also rounds the sum that is to be decoded; the bound counts that rounding as one of its own
    wrong = np.flatnonzero(bound >= unit / 2)
    risks = tuple(Risk(layer, int(c), 0, (0, 1), float(unit[c] / 2), float(bound[c])) for c in wrong[:LISTED])
    return Entry(layer, "exact" if not bound.any() else "bounded", len(unit), len(wrong), risks)


def certify_arg_max(lifted: Lifted, layer: str) -> Entry:
    """Verdict on the place of the largest value: equal integers must be equal floats, or another one comes first.

    Each two integers next to each other count as one step; all are at risk if the floats depend on the order of a sum.
    """
    count = max(1, lifted.span - 1)
    safe = _safe(lifted.start) and not _unsteady(lifted)
    return Entry(layer, "exact" if safe else "assumed", count, 0 if safe else count)


def certify_pair(pair: Pairing, layer: str, ratio: float) -> Entry:
    """Verdict on a requantizer behind two codes: every pair was run, so only the exceptions are wrong.

    That holds if what the two codes stand for is known; sums that round are not.
    """
    count = sum(len(s) - 1 for s in pair.steps.starts)
    risks = tuple(
        Risk(layer, 0, pair.factors[0] * a + pair.factors[1] * b, (wanted, got), 0.0, abs(ratio))
        for a, b, wanted, got in pair.exceptions[:LISTED]
    )
    if not (_safe(pair.start.left.start) and _safe(pair.start.right.start)):
        return Entry(layer, "assumed", count, max(count, len(pair.exceptions)), risks)
    return Entry(layer, "pairs", count, len(pair.exceptions), risks)
