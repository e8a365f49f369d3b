"""Puts activations on power-of-two grids: x -> QuantizeLinear [-> Clip] -> DequantizeLinear.

Power-of-two steps keep every product and sum of codes exact in float32, so the certificate is a proof. There are no zero
points, except at inputs with values of both signs, whose codes are shared out in the ratio of their ends.

Ranges come from values that occur. ``minmax`` clips none of them; ``percentile`` takes the range between two percentiles
and clips the rest; ``mse`` takes the step of the least squared error. (At 8 bits, ResNet-20, ResNet-8 and
DS-CNN have a tenth to a third less error at their outputs with mse than with minmax; percentiles were not compared.)

A value must be codes where a linear layer, an average, the meeting of two branches or a Concat uses it; layout
operations and max pools hand that need on to what they move. A region is a value that is not codes (an input of the
network, a linear layer, an average, a sum of two branches) with the elementwise operations behind it; the quantizer
stands where a region ends in such a need. What no such operation follows, the region before the outputs, stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log2
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np

from tcompile.errors import Problem, UsageError, printable
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Origin, TensorType
from tcompile.passes.base import PassResult
from tcompile.passes.calibration import Observed, calibrate
from tcompile.passes.weights import Names, constant

__all__ = [
    "QuantizeActivations",
    "Ranges",
    "Step",
    "choose_step",
    "from_input",
    "inserted",
    "quantization_points",
    "quantized",
]

CARRIERS = (R.Layout, R.MaxPool, R.GlobalMaxPool, R.Concat)
AVERAGES = (R.AveragePool, R.GlobalAveragePool, R.ReduceMean, R.ReduceSum)
EXPONENTS = (-126, 126)
CLIPPED = 8  # steps below the one that clips nothing
PERCENTILE = 99.99
HALF = 0.5 + 2.0**-16  # of a step, and the rounding of float32
Ranges = Literal["minmax", "percentile", "mse"]


@dataclass(frozen=True)
class Step:
    """A grid: 2^exponent · code, codes in lo .. hi."""

    exponent: int
    lo: int
    hi: int

    @property
    def scale(self) -> float:
        """2^exponent."""
        return 2.0**self.exponent

    @property
    def dtype(self) -> str:
        """Narrowest whole-byte ONNX type of the codes."""
        if self.zero:
            return "uint8"
        bits = 8 if self.lo >= -128 and self.hi <= (127 if self.lo < 0 else 255) else 16
        return f"{'int' if self.lo < 0 else 'uint'}{bits}"

    @property
    def zero(self) -> int:
        """Zero point: what is added to a code so that 8 bits hold it."""
        fits = self.lo >= 0 or (self.lo >= -128 and self.hi <= 127) or self.hi - self.lo > 255
        return 0 if fits else -self.lo

    @property
    def full(self) -> bool:
        """Whether the codes are all that their type holds."""
        bits = int(self.dtype.lstrip("uint"))
        return self.hi - self.lo + 1 == 1 << bits

    def values(self, x: np.ndarray) -> np.ndarray:
        """What becomes of real numbers."""
        return np.asarray(np.clip(np.rint(x / self.scale), self.lo, self.hi) * self.scale)


def _codes(lo: float, bits: int) -> tuple[int, int]:
    if lo >= 0:
        return 0, (1 << bits) - 1
    return -max(1, 1 << bits - 1), max(1, (1 << bits - 1) - 1)


def _shared(lo: float, hi: float, bits: int) -> tuple[int, int]:
    """Codes in the ratio of the ends; those of `_codes` where these are as good."""
    top = (1 << bits) - 1
    low = -round(top * -lo / (hi - lo)) if lo < 0 < hi else 0
    usual = _codes(lo, bits)
    return (low, top + low) if low < 0 and not (usual[0] <= low and top + low <= usual[1]) else usual


def _covering(lo: float, hi: float, low: int, high: int, rounded: float = 0.0) -> int:
    """Smallest exponent whose grid holds lo and hi, once they are rounded by so many steps at most."""
    need = max(hi / (high + rounded), lo / (low - rounded) if low else 0.0)
    exponent = ceil(log2(need)) if need > 0 else 0
    while need > 2.0**exponent:
        exponent += 1
    return min(max(exponent, EXPONENTS[0]), EXPONENTS[1])


def choose_step(lo: float, hi: float, bits: int, sample: np.ndarray | None = None, shared: bool = False) -> Step:
    """Grid for values between lo and hi; unsigned if none is negative.

    Without a sample the finest power of two that clips nothing; with one the power of two of the least squared error,
    of equals the coarsest. `shared`: the codes need not be symmetric about 0, and an end may be rounded.
    """
    low, high = _shared(lo, hi, bits) if shared else _codes(lo, bits)
    top = _covering(lo, hi, low, high, HALF if shared else 0.0)
    if sample is None or not len(sample):
        return Step(top, low, high)
    steps = [Step(e, low, high) for e in range(top, max(top - CLIPPED, EXPONENTS[0]) - 1, -1)]
    return min(steps, key=lambda s: float(((s.values(sample) - sample) ** 2).sum()))


def quantization_points(graph: Graph) -> tuple[str, ...]:
    """Values that must become codes and are not, in order."""
    bases = _bases(graph)
    ready: dict[str, bool] = {}
    for node in graph:
        assert isinstance(node, R.RealNode)
        ready[node.name] = _is_codes(node, ready, bases)
    needed = _needed(graph, bases)
    floats = {n.name for n in graph if isinstance(n, R.RealNode) and n.type.dtype == "float32"}
    return tuple(
        n.name for n in graph
        if n.name in needed and n.name in floats and not ready[n.name] and not isinstance(n, CARRIERS)
    )  # fmt: skip


def _bases(graph: Graph) -> dict[str, str]:
    """For each value the operation whose result its elementwise chain works on; empty for constants."""
    bases: dict[str, str] = {}
    for node in graph:
        sources = {bases[i] for i in node.uses} - {""}
        if isinstance(node, R.Const) or (node.uses and not sources):
            bases[node.name] = ""
        elif isinstance(node, R.Elementwise) and len(sources) == 1:
            bases[node.name] = sources.pop()
        else:
            bases[node.name] = node.name
    return bases


def _is_codes(node: R.RealNode, ready: Mapping[str, bool], bases: Mapping[str, str]) -> bool:
    """Whether a value lies on a grid already: constants, codes, dequantized codes, and those moved."""
    if bases[node.name] == "" or node.type.is_integer or isinstance(node, R.DequantizeLinear):
        return True
    return isinstance(node, (*CARRIERS, R.Relu)) and all(ready[i] for i in node.uses)


def _needed(graph: Graph, bases: Mapping[str, str]) -> set[str]:
    needed: set[str] = set()
    for node in reversed(graph.nodes):
        joins = isinstance(node, R.Elementwise) and len({bases[i] for i in node.uses} - {""}) > 1
        if (
            joins
            or isinstance(node, (R.Linear, *AVERAGES, R.Concat))
            or (isinstance(node, CARRIERS) and node.name in needed)
        ):
            needed.update(node.uses)
    return needed


@dataclass(frozen=True)
class QuantizeActivations:
    """Quantizes activations to few bits with power-of-two steps.

    Parameters
    ----------
    bits : int
        Bits of an activation, 1 to 8 (a signed one takes at least -1, 0, 1).
    samples : mapping of str to array (N, ...)
        Calibration frames by the name of the input's ONNX tensor.
    ranges : mapping of str to (float, float)
        Smallest and largest value by ONNX tensor (or value) name; they need no samples.
    input_bits : int
        Bits of the network's inputs, 1 to 16.
    method : {"minmax", "percentile", "mse"}
        How ranges come from samples.
    percentile : float
        Of the values, the share in percent below the upper end of the range, 50 to 100; and above the lower end.
    """

    name: ClassVar[str] = "quantize-activations"
    bits: int
    samples: Mapping[str, np.ndarray] = field(default_factory=lambda: MappingProxyType({}), repr=False, compare=False)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    input_bits: int = 8
    method: Ranges = "mse"
    percentile: float = PERCENTILE

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.bits <= 8:
            problems.append(Problem("activation-bits", f"activations must have 1 to 8 bits, not {self.bits!r}"))
        if not 1 <= self.input_bits <= 16:
            problems.append(Problem("input-bits", f"inputs must have 1 to 16 bits, not {self.input_bits!r}"))
        if self.method not in ("minmax", "percentile", "mse"):
            problems.append(Problem("range-method", f"ranges are minmax, percentile or mse, not {self.method!r}"))
        if not 50 < self.percentile <= 100:
            problems.append(Problem("percentile", f"a percentile must be above 50, to 100, not {self.percentile!r}"))
        problems += [
            Problem("activation-range", f"a range must be finite and not empty, not {(lo, hi)!r}", (name,))
            for name, (lo, hi) in self.ranges.items()
            if not (np.isfinite([lo, hi]).all() and lo <= hi)
        ]
        if problems:
            raise UsageError(problems)

    def run(self, graph: Graph) -> PassResult:
        """Quantize every region of `graph` that is not yet.

        Raises
        ------
        UsageError
            A range is needed, and there are neither samples nor a range.
        """
        points = quantization_points(graph)
        if not points:
            return PassResult(graph, False)
        steps, notes = self._steps(graph, points)
        return PassResult(quantized(graph, steps), True, notes)

    def _steps(self, graph: Graph, points: tuple[str, ...]) -> tuple[dict[str, Step], tuple[str, ...]]:
        given = {v: r for v in points if (r := self.ranges.get(v) or self.ranges.get(graph[v].origin.tensor))}
        open_points = tuple(v for v in points if v not in given)
        if open_points and not self.samples:
            raise UsageError(
                Problem(
                    "calibration-needed",
                    f"calibration data is needed: {len(open_points)} values get their range from values that occur",
                    tuple(graph[v].origin.tensor or v for v in open_points[:8]),
                    "give --calib X.npz with an array (N, ...) per input; some dozen frames of those in use do",
                )
            )
        seen = calibrate(graph, self.samples, open_points) if open_points else {}
        steps, notes = {}, []
        for value in points:
            bits = self._bits(graph, value)
            if value in given:
                step = choose_step(*given[value], bits)
                clipped = ""
            else:
                o = seen[value]
                step = self._chosen(o, bits, from_input(graph, value) and bits <= 8)
                top = (o.sample > step.hi * step.scale) | (o.sample < step.lo * step.scale)
                clipped = f", {100 * float(top.mean()):.2f} % of the values clipped"
            steps[value] = step
            title = printable(graph[value].origin.tensor or value)
            notes.append(f"{title}: codes {step.lo} .. {step.hi}, step 2^{step.exponent}{clipped}")
        return steps, tuple(notes)

    def _chosen(self, observed: Observed, bits: int, shared: bool) -> Step:
        lo, hi = observed.lo, observed.hi
        if self.method == "percentile":
            ends = np.percentile(observed.sample, [100 - self.percentile, self.percentile])
            lo, hi = min(float(ends[0]), 0.0) if lo < 0 else lo, float(ends[1])
        return choose_step(lo, hi, bits, observed.sample if self.method == "mse" else None, shared)

    def _bits(self, graph: Graph, value: str) -> int:
        """Input bits for what is computed from an input without a linear layer."""
        return self.input_bits if from_input(graph, value) else self.bits


def from_input(graph: Graph, value: str) -> bool:
    """Whether a value is an input of the network, moved or changed element by element."""
    node = graph[value]
    while isinstance(node, R.Elementwise | R.Layout):
        moving = [graph[i] for i in node.uses if not isinstance(graph[i], R.Const)]
        if len(moving) != 1:
            break
        node = moving[0]
    return isinstance(node, R.Input)


def quantized(graph: Graph, steps: Mapping[str, Step]) -> Graph:
    """The graph with quantizers behind values; all their users get the dequantized value, outputs stay."""
    names = Names(graph)
    return inserted(graph, lambda node: _quantizer(node, steps[node.name], names) if node.name in steps else ())[0]


def inserted(graph: Graph, behind: Callable[[R.RealNode], Sequence[R.RealNode]]) -> tuple[Graph, dict[str, str]]:
    """The graph with nodes behind some of its own, of which users get the last in their place; and who stands in for whom."""
    instead: dict[str, str] = {}
    nodes: list[R.RealNode] = []
    for node in graph:
        assert isinstance(node, R.RealNode)
        nodes.append(replace(node, inputs=tuple(instead.get(i, i) for i in node.inputs)))
        added = behind(node)
        if added:
            nodes += added
            instead[node.name] = added[-1].name
    return graph.with_nodes(nodes), instead


def _quantizer(node: R.RealNode, step: Step, names: Names) -> list[R.RealNode]:
    origin = Origin(node.origin.nodes)
    scale = constant(names(node.name, "step"), np.array(step.scale, np.float32), "float32", origin)
    kind = TensorType(step.dtype, node.type.shape)
    nodes: list[R.RealNode] = [scale]
    grid: tuple[str, ...] = (scale.name,)
    if step.zero:
        zero = constant(names(node.name, "zero"), np.array(step.zero, step.dtype), step.dtype, origin)
        nodes.append(zero)
        grid = (scale.name, zero.name)
    codes: R.RealNode = R.QuantizeLinear(
        name=names(node.name, "quantized"), inputs=(node.name, *grid), type=kind, origin=origin
    )
    nodes.append(codes)
    if not step.full:
        bounds = [
            constant(names(node.name, word), np.array(bound + step.zero, step.dtype), step.dtype, origin)
            for word, bound in (("low", step.lo), ("high", step.hi))
        ]
        inputs = (codes.name, *(b.name for b in bounds))
        codes = R.Clip(name=names(node.name, "clipped"), inputs=inputs, type=kind, origin=origin)
        nodes += [*bounds, codes]
    value = R.DequantizeLinear(name=names(node.name, "real"), inputs=(codes.name, *grid), type=node.type, origin=origin)
    return [*nodes, value]
