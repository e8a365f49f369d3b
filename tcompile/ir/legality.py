"""What a graph of each level may hold: one table of rules per level, for use after every pass.

The integer table is the product's guarantee: of all its operations only `Conv` and `Dense` multiply, and only by
constants of at most 9 bits that belong to the operation. Nothing multiplies two unknowns. Its intervals are
recomputed from those of the inputs, channel by channel, so that every declared width is known to suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from math import prod
from typing import Any

import numpy as np

from tcompile.errors import InternalError, Problem, printable
from tcompile.ir import integer as I
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, IntType, Node
from tcompile.ir.interpret import apply
from tcompile.ir.requantizers import Comparators, Division, Requantizer, Shift, Table

__all__ = ["COMMON", "INTEGER", "REAL", "Rule", "check", "interval"]

WIDEST = 64  # bits of any value
WEIGHT = (-256, 255)  # 9 bits
FLOATS = ("float16", "float32", "float64")
QUANTIZED = ("int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16")
DEQUANTIZED = (*QUANTIZED, "int32")

INPUTS: Mapping[str, tuple[int, float]] = {
    "Input": (0, 0), "Const": (0, 0), "Conv": (2, 3), "Gemm": (2, 3), "MatMul": (2, 2), "Concat": (1, np.inf),
    "BatchNormalization": (5, 5), "QuantizeLinear": (2, 3), "DequantizeLinear": (2, 3), "Clip": (1, 3),
    "Add": (2, 2), "Sub": (2, 2), "Mul": (2, 2), "Div": (2, 2), "Pow": (2, 2), "Max": (1, np.inf), "Min": (1, np.inf),
    "PRelu": (2, 2), "Greater": (2, 2), "GreaterOrEqual": (2, 2), "Less": (2, 2), "LessOrEqual": (2, 2),
    "Equal": (2, 2), "And": (2, 2), "Or": (2, 2), "Where": (3, 3),
}  # fmt: skip
CONDITIONS = (R.Greater, R.GreaterOrEqual, R.Less, R.LessOrEqual, R.Equal, R.And, R.Or, R.Not)
WINDOWED = (R.Conv, R.MaxPool, R.AveragePool)


@dataclass(frozen=True)
class Rule:
    """What must hold for every node of some kinds.

    Parameters
    ----------
    text : str
        What must hold, to follow "must".
    kinds : tuple of types
        Nodes that the rule is for.
    holds : callable of (Graph, Node) to bool
        May assume that the rules before it hold.
    """

    text: str
    kinds: tuple[type[Node], ...]
    holds: Callable[[Graph, Any], bool]


def check(graph: Graph) -> None:
    """Make sure that a graph is legal at its level.

    Raises
    ------
    InternalError
        Every broken rule with its node. A node's later rules are not looked at, and nothing of a level's own table
        while the common rules are broken.
    """
    problems = [*_order(graph), *_broken(graph, COMMON)]
    if not problems:
        problems = _broken(graph, REAL if graph.level == "real" else INTEGER)
    if not problems and graph.level == "integer":
        problems = _intervals(graph)
    if problems:
        raise InternalError(problems)


def _problem(node: Node, text: str) -> Problem:
    return Problem("illegal-graph", f"{node.op} {printable(node.name)} must {text}", (node.name, *node.origin.names))


def _order(graph: Graph) -> list[Problem]:
    """What concerns the graph as a whole: every value defined once, before its uses; outputs among them."""
    problems, known = [], set[str]()
    for node in graph:
        if node.name in known:
            problems.append(_problem(node, "define a value that no other node defines"))
        if unknown := [i for i in node.uses if i not in known]:
            problems.append(_problem(node, f"use values that are defined before it, not {printable(unknown[0])}"))
        known.add(node.name)
    if not graph.outputs or len(set(graph.outputs)) != len(graph.outputs) or not known.issuperset(graph.outputs):
        names = ", ".join(map(printable, graph.outputs)) or "none"
        problems.append(Problem("illegal-graph", f"Outputs must be values of the graph, each once, not {names}"))
    return problems


def _broken(graph: Graph, rules: tuple[Rule, ...]) -> list[Problem]:
    problems = []
    for node in graph:
        rule = next((r for r in rules if isinstance(node, r.kinds) and not r.holds(graph, node)), None)
        if rule is not None:
            problems.append(_problem(node, rule.text))
    return problems


# Both levels


def _named(graph: Graph, node: Node) -> bool:
    return node.name.isidentifier() and node.name.isascii() and node.name != "_"


def _static(graph: Graph, node: Node) -> bool:
    return all(type(d) is int and d > 0 for d in node.type.shape)


COMMON = (
    Rule("be an operation of the graph's level", (Node,), lambda g, n: n.level == g.level and _is_op(n)),
    Rule("have a plain identifier as name", (Node,), _named),
    Rule("have a static shape of positive dimensions", (Node,), _static),
)


def _is_op(node: Node) -> bool:
    return (R.OPS if node.level == "real" else I.OPS).get(node.op) is type(node)


# Real level


def _dtype(graph: Graph, node: R.RealNode, index: int) -> str:
    kind = graph[node.inputs[index]].type
    return str(getattr(kind, "dtype", ""))


def _counted(graph: Graph, node: R.RealNode) -> bool:
    low, high = INPUTS.get(node.op, (1, 1))
    required = node.inputs[: min(low, len(node.inputs))]
    return low <= len(node.inputs) <= high and all(required)


def _scales_match(graph: Graph, node: R.QuantizeLinear | R.DequantizeLinear) -> bool:
    """Zero point of the codes' type and the scale's shape; one per channel if not a scalar."""
    codes = node.type.dtype if isinstance(node, R.QuantizeLinear) else _dtype(graph, node, 0)
    scale = graph[node.inputs[1]].type.shape
    shape = graph[node.inputs[0]].type.shape
    per_channel = prod(scale) == 1 or (len(scale) == 1 and scale[0] == shape[node.axis % len(shape)])
    if len(node.inputs) < 3 or not node.inputs[2]:
        return per_channel
    zero = graph[node.inputs[2]].type.shape
    return per_channel and _dtype(graph, node, 2) == codes and (zero == scale or prod(zero) == prod(scale) == 1)


def _window_ranks(graph: Graph, node: R.Conv | R.MaxPool | R.AveragePool) -> bool:
    rank = len(node.type.shape) - 2
    lengths = (len(node.kernel_shape), len(node.strides), len(node.dilations), len(node.pads) / 2)
    positive = (*node.kernel_shape, *node.strides, *node.dilations)
    return set(lengths) == {rank} and min(positive, default=1) > 0 and min(node.pads, default=0) >= 0


def _conv_shapes(graph: Graph, node: R.Conv) -> bool:
    x, w = (graph[i].type.shape for i in node.inputs[:2])
    return (
        len(w) == len(x) == len(node.type.shape)
        and node.group > 0
        and x[1] == w[1] * node.group
        and w[0] % node.group == 0
        and node.type.shape[1] == w[0]
        and w[2:] == node.kernel_shape
    )


def _same_dtype(graph: Graph, node: R.RealNode) -> bool:
    return all(_dtype(graph, node, k) == node.type.dtype for k, name in enumerate(node.inputs) if name)


def _same_elements(graph: Graph, node: R.RealNode) -> bool:
    return prod(graph[node.inputs[0]].type.shape) == prod(node.type.shape)


def _permuted(graph: Graph, node: R.Transpose | I.Transpose) -> bool:
    shape = graph[node.inputs[0]].type.shape
    return sorted(node.perm) == list(range(len(shape))) and node.type.shape == tuple(shape[p] for p in node.perm)


def _slice_inside(graph: Graph, node: R.Slice | I.Slice) -> bool:
    shape = graph[node.inputs[0]].type.shape
    if not len(shape) == len(node.starts) == len(node.steps) == len(node.type.shape):
        return False
    return all(
        step and 0 <= start < size and 0 <= start + step * (count - 1) < size
        for start, step, size, count in zip(node.starts, node.steps, shape, node.type.shape, strict=True)
    )


def _pad_shape(graph: Graph, node: R.Pad | I.Pad) -> bool:
    shape = graph[node.inputs[0]].type.shape
    rank = len(shape)
    if len(node.pads) != 2 * rank or min(node.pads, default=0) < 0:
        return False
    return node.type.shape == tuple(n + node.pads[k] + node.pads[rank + k] for k, n in enumerate(shape))


def _concat_shape(graph: Graph, node: R.Concat | I.Concat) -> bool:
    shapes = [graph[i].type.shape for i in node.inputs]
    rank = len(node.type.shape)
    if any(len(s) != rank for s in shapes) or not -rank <= node.axis < rank:
        return False
    axis = node.axis % rank
    alike = {(*s[:axis], *s[axis + 1 :]) for s in (*shapes, node.type.shape)}
    return len(alike) == 1 and sum(s[axis] for s in shapes) == node.type.shape[axis]


def _spelled(graph: Graph, node: R.Const) -> bool:
    return node.value.dtype == node.type.dtype and node.value.shape == node.type.shape


REAL = (
    Rule("have as many inputs as the operator takes", (R.RealNode,), _counted),
    Rule("have the type of its value", (R.Const,), _spelled),
    Rule("turn floats", (R.QuantizeLinear,), lambda g, n: _dtype(g, n, 0) in FLOATS),
    Rule("make integer codes of 2 to 16 bits", (R.QuantizeLinear,), lambda g, n: n.type.dtype in QUANTIZED),
    Rule("turn integer codes", (R.DequantizeLinear,), lambda g, n: _dtype(g, n, 0) in DEQUANTIZED),
    Rule("make floats", (R.DequantizeLinear,), lambda g, n: n.type.dtype in FLOATS),
    Rule(
        "have a scale for all or for each channel, and a zero point like it of the codes' type",
        (R.QuantizeLinear, R.DequantizeLinear),
        _scales_match,
    ),
    Rule("have inputs and output of one float type", (R.Linear, R.BatchNormalization, R.AveragePool), _same_dtype),
    Rule("have floats", (R.Linear, R.BatchNormalization, R.AveragePool), lambda g, n: n.type.dtype in FLOATS),
    Rule("have inputs and output of one type", (R.Layout, R.Concat, R.MaxPool, R.Relu, R.Clip), _same_dtype),
    Rule("have inputs and output of one type", (R.Add, R.Sub, R.Mul, R.Div, R.Max, R.Min), _same_dtype),
    Rule("make truth values", CONDITIONS, lambda g, n: n.type.dtype == "bool"),
    Rule("choose by truth values", (R.Where,), lambda g, n: _dtype(g, n, 0) == "bool"),
    Rule("make int64", (R.ArgMax, R.TopIndex), lambda g, n: n.type.dtype == "int64"),
    Rule("have one positive window entry per spatial axis, and pads of 0 or more", WINDOWED, _window_ranks),
    Rule("have weights (M, C/group, *kernel) for its channels", (R.Conv,), _conv_shapes),
    Rule("keep the number of elements", (R.Reshape,), _same_elements),
    Rule("permute the axes", (R.Transpose,), _permuted),
    Rule("stay inside its input", (R.Slice,), _slice_inside),
    Rule("be as large as its input and its border", (R.Pad,), _pad_shape),
    Rule("be as long as its inputs together, and else like each of them", (R.Concat,), _concat_shape),
)


# Integer level: shapes and parameters


def _arity(graph: Graph, node: I.IntNode) -> bool:
    low, high = {"Input": (0, 0), "Concat": (1, np.inf), "AddScaled": (2, 2)}.get(node.op, (1, 1))
    return low <= len(node.inputs) <= high and all(node.inputs)


def _integral(graph: Graph, node: I.Conv | I.Dense) -> bool:
    weight = node.weight.array
    return weight.dtype.kind in "iu" and bool(weight.min() >= WEIGHT[0] and weight.max() <= WEIGHT[1])


def _fits(graph: Graph, node: I.IntNode) -> bool:
    return node.type.lo <= node.type.hi and node.type.width <= WIDEST


def _window(node: I.Conv | I.SumPool | I.MaxPool) -> tuple[int, ...]:
    return node.weight.shape[2:] if isinstance(node, I.Conv) else node.kernel


def _slid(graph: Graph, node: I.Conv | I.SumPool | I.MaxPool) -> bool:
    """Sizes of the spatial axes by ONNX's formula, rounded down."""
    shape = graph[node.inputs[0]].type.shape
    kernel, rank = _window(node), len(shape) - 2
    if {len(kernel), len(node.strides), len(node.dilations), len(node.pads) / 2} != {rank} or shape[0] != 1:
        return False
    if min((*kernel, *node.strides, *node.dilations), default=1) < 1 or min(node.pads, default=0) < 0:
        return False
    size = tuple(
        (n + node.pads[k] + node.pads[rank + k] - (kernel[k] - 1) * node.dilations[k] - 1) // node.strides[k] + 1
        for k, n in enumerate(shape[2:])
    )
    channels = node.weight.shape[0] if isinstance(node, I.Conv) else shape[1]
    return node.type.shape == (1, channels, *size)


def _grouped(graph: Graph, node: I.Conv) -> bool:
    rows, share = node.weight.shape[:2]
    return node.group > 0 and rows % node.group == 0 and graph[node.inputs[0]].type.shape[1] == share * node.group


def _covered(graph: Graph, node: I.MaxPool) -> bool:
    reach = [(k - 1) * d + 1 for k, d in zip(node.kernel, node.dilations, strict=True)]
    return all(p < r for p, r in zip(node.pads, reach + reach, strict=True))


def _matrix(graph: Graph, node: I.Dense) -> bool:
    shape = graph[node.inputs[0]].type.shape
    weight = node.weight.shape
    return len(weight) == 2 and shape[-1:] == weight[1:] and node.type.shape == (*shape[:-1], weight[0])


def _added(graph: Graph, node: I.AddScaled) -> bool:
    return all(graph[i].type.shape == node.type.shape for i in node.inputs)


def _channelled(graph: Graph, node: I.Requantize) -> bool:
    shape = graph[node.inputs[0]].type.shape
    return node.type.shape == shape and 0 <= node.axis < len(shape) and node.form.channels in (1, shape[node.axis])


def _reduced(graph: Graph, node: I.ArgMax) -> bool:
    shape = graph[node.inputs[0]].type.shape
    if not 0 <= node.axis < len(shape):
        return False
    before, after = shape[: node.axis], shape[node.axis + 1 :]
    return node.type.shape in ((*before, *after), (*before, 1, *after))


INTEGER = (
    Rule("have as many inputs as the operation takes", (I.IntNode,), _arity),
    Rule(f"have an interval of at most {WIDEST} bits", (I.IntNode,), _fits),
    Rule("have integer weights of at most 9 bits", (I.Conv, I.Dense), _integral),
    Rule("have weights (M, C/group, *kernel) for its channels", (I.Conv,), _grouped),
    Rule("have weights (M, K) for the last axis, and the shape that follows", (I.Dense,), _matrix),
    Rule("have the shape that its window gives", (I.Conv, I.SumPool, I.MaxPool), _slid),
    Rule("see at least one element in every window", (I.MaxPool,), _covered),
    Rule("have constant integer factors", (I.AddScaled,), lambda g, n: [type(f) for f in n.factors] == [int, int]),
    Rule("have inputs of its own shape", (I.AddScaled,), _added),
    Rule("have its input's shape, and parameters for each of its channels or for all", (I.Requantize,), _channelled),
    Rule("be as long as its inputs together, and else like each of them", (I.Concat,), _concat_shape),
    Rule("stay inside its input", (I.Slice,), _slice_inside),
    Rule("be as large as its input and its border", (I.Pad,), _pad_shape),
    Rule("keep the number of elements", (I.Reshape,), _same_elements),
    Rule("permute the axes", (I.Transpose,), _permuted),
    Rule("reduce its axis", (I.ArgMax,), _reduced),
)


# Integer level: intervals

Interval = tuple[np.ndarray, np.ndarray]  # smallest and largest value, arrays that broadcast to the value's shape


class _RangeError(Exception):
    """A value or an intermediate result is beyond what there is for it; the message says what must hold."""


def _intervals(graph: Graph) -> list[Problem]:
    """Recompute every interval from the inputs' and compare it with the declared one."""
    problems: list[Problem] = []
    found: dict[str, Interval] = {}
    for node in graph:
        assert isinstance(node, I.IntNode)
        inputs = [found[i] for i in node.inputs]
        try:
            lo, hi = _interval(node, inputs, [_type(graph[i]) for i in node.inputs])
        except _RangeError as reason:
            problems.append(_problem(node, str(reason)))
            lo, hi = _declared(node)
        low, high = int(lo.min()), int(hi.max())
        if low < node.type.lo or high > node.type.hi:
            declared = f"[{node.type.lo}, {node.type.hi}]"
            problems.append(_problem(node, f"declare the interval of its values, [{low}, {high}], not {declared}"))
            lo, hi = _declared(node)
        found[node.name] = lo, hi
    return problems


def interval(node: I.IntNode, types: Sequence[IntType]) -> tuple[int, int]:
    """Smallest and largest value that an operation makes of inputs of these types."""
    ends = [(np.full((1,) * len(t.shape), t.lo), np.full((1,) * len(t.shape), t.hi)) for t in types]
    lo, hi = _interval(node, ends, list(types))
    return int(lo.min()), int(hi.max())


def _type(node: Node) -> IntType:
    assert isinstance(node.type, IntType)
    return node.type


def _declared(node: I.IntNode) -> Interval:
    rank = (1,) * len(node.type.shape)
    return np.full(rank, node.type.lo), np.full(rank, node.type.hi)


def _per_channel(bound: np.ndarray, shape: tuple[int, ...], axis: int, smallest: bool) -> np.ndarray:
    """One entry per element of an axis."""
    other = tuple(k for k in range(len(shape)) if k != axis)
    reduced = bound.min(axis=other) if smallest else bound.max(axis=other)
    return np.broadcast_to(reduced, (shape[axis],))


@singledispatch
def _interval(node: I.IntNode, inputs: list[Interval], types: list[IntType]) -> Interval:
    """Operations that only move elements move their bounds."""
    ends = []
    for k in (0, 1):
        full = [np.broadcast_to(bounds[k], kind.shape)[None] for bounds, kind in zip(inputs, types, strict=True)]
        ends.append(apply(node, full, types)[0])
    return ends[0], ends[1]


@_interval.register
def _(node: I.Input, inputs: list[Interval], types: list[IntType]) -> Interval:
    return _declared(node)


def _channel_interval(
    node: I.Conv | I.SumPool | I.MaxPool, bounds: Interval, kind: IntType, code: int | None
) -> Interval:
    """Bounds per channel, padding included."""
    lo, hi = (_per_channel(b, kind.shape, 1, k == 0) for k, b in enumerate(bounds))
    return (np.minimum(lo, code), np.maximum(hi, code)) if any(node.pads) and code is not None else (lo, hi)


def _shaped(bounds: Interval, rank: int) -> Interval:
    shape = (1, -1, *(1,) * (rank - 2))
    return bounds[0].reshape(shape), bounds[1].reshape(shape)


def _weighted(weight: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> Interval:
    """Bounds of rows (M, K) times elements within [lo, hi], each (K,) or (M, K)."""
    largest = max(abs(int(lo.min())), abs(int(hi.max())), abs(int(lo.max())), abs(int(hi.min())))
    weight = weight.astype(np.int64)
    if int(np.abs(weight).sum(axis=1).max()) * largest >= 1 << WIDEST - 1:
        raise _RangeError(f"stay within {WIDEST} bits")
    plus, minus = np.maximum(weight, 0), np.minimum(weight, 0)
    return (plus * lo + minus * hi).sum(axis=1), (plus * hi + minus * lo).sum(axis=1)


@_interval.register
def _(node: I.Conv, inputs: list[Interval], types: list[IntType]) -> Interval:
    lo, hi = _channel_interval(node, inputs[0], types[0], node.pad_code)
    weight = node.weight.array
    rows, share = weight.shape[0] // node.group, weight.shape[1]
    spread = [
        np.repeat(np.repeat(b.reshape(node.group, share), rows, axis=0), prod(weight.shape[2:]), axis=1)
        for b in (lo, hi)
    ]
    return _shaped(_weighted(weight.reshape(len(weight), -1), *spread), len(node.type.shape))


@_interval.register
def _(node: I.Dense, inputs: list[Interval], types: list[IntType]) -> Interval:
    axis = len(types[0].shape) - 1
    lo, hi = (_per_channel(b, types[0].shape, axis, k == 0) for k, b in enumerate(inputs[0]))
    bounds = _weighted(node.weight.array, lo, hi)
    shape = (*(1,) * axis, -1)
    return bounds[0].reshape(shape), bounds[1].reshape(shape)


@_interval.register
def _(node: I.SumPool, inputs: list[Interval], types: list[IntType]) -> Interval:
    lo, hi = _channel_interval(node, inputs[0], types[0], node.pad_code)
    count = prod(node.kernel)
    if count * max(abs(int(lo.min())), abs(int(hi.max()))) >= 1 << WIDEST - 1:
        raise _RangeError(f"stay within {WIDEST} bits")
    return _shaped((lo * count, hi * count), len(node.type.shape))


@_interval.register
def _(node: I.MaxPool, inputs: list[Interval], types: list[IntType]) -> Interval:
    return _shaped(_channel_interval(node, inputs[0], types[0], None), len(node.type.shape))


@_interval.register
def _(node: I.AddScaled, inputs: list[Interval], types: list[IntType]) -> Interval:
    sizes = [max(abs(int(lo.min())), abs(int(hi.max()))) for lo, hi in inputs]
    if sum(abs(f) * size for f, size in zip(node.factors, sizes, strict=True)) >= 1 << WIDEST - 1:
        raise _RangeError(f"stay within {WIDEST} bits")
    total: list[np.ndarray] = [np.zeros(1, np.int64), np.zeros(1, np.int64)]
    for factor, (lo, hi) in zip(node.factors, inputs, strict=True):
        ends = (lo, hi) if factor >= 0 else (hi, lo)
        total = [t + factor * e for t, e in zip(total, ends, strict=True)]
    return total[0], total[1]


@_interval.register
def _(node: I.Requantize, inputs: list[Interval], types: list[IntType]) -> Interval:
    shape = types[0].shape
    lo, hi = (_per_channel(b, shape, node.axis, k == 0) for k, b in enumerate(inputs[0]))
    low, high = (_linear_image if isinstance(node.form, Division | Shift) else _selected_image)(node.form, lo, hi)
    along = tuple(-1 if k == node.axis else 1 for k in range(len(shape)))
    return low.reshape(along), high.reshape(along)


@_interval.register
def _(node: I.ArgMax, inputs: list[Interval], types: list[IntType]) -> Interval:
    rank = (1,) * len(node.type.shape)
    return np.zeros(rank, np.int64), np.full(rank, types[0].shape[node.axis] - 1)


@_interval.register
def _(node: I.Pad, inputs: list[Interval], types: list[IntType]) -> Interval:
    full = [np.broadcast_to(bound, types[0].shape)[None] for bound in inputs[0]]
    return apply(node, full[:1], types)[0], apply(node, full[1:], types)[0]


def _selected_image(form: Requantizer, lo: np.ndarray, hi: np.ndarray) -> Interval:
    """Smallest and largest value that comparators or a table select, for the inputs [lo, hi] of each channel."""
    assert isinstance(form, Comparators | Table)
    ends = []
    for channel, bounds in enumerate(zip(lo, hi, strict=True)):
        own = channel if form.channels > 1 else 0
        if isinstance(form, Comparators):
            first, last = np.searchsorted(form.thresholds[own], bounds, side="right")
        else:
            first, last = (int(b) - int(form.base[own]) for b in bounds)
            if first < 0 or last >= form.values[own].size:
                raise _RangeError(f"have a table for [{bounds[0]}, {bounds[1]}], the inputs of channel {channel}")
        values = form.values[own][first : last + 1]
        ends.append((int(values.min()), int(values.max())))
    low, high = np.array(ends, np.int64).T
    return low, high


def _linear_image(form: Requantizer, lo: np.ndarray, hi: np.ndarray) -> Interval:
    """Smallest and largest value of a division or shift: it is monotone but for its exceptions."""
    assert isinstance(form, Division | Shift)
    if form.numerator_width(lo.tolist(), hi.tolist()) > WIDEST:
        raise _RangeError(f"have a numerator of at most {WIDEST} bits")
    rows = [lo, hi]
    for channel, exceptions in enumerate(form.exceptions):
        for exception in exceptions:
            row = lo.copy()
            reached = slice(None) if len(form.exceptions) == 1 else slice(channel, channel + 1)
            row[reached] = np.clip(exception, lo[reached], hi[reached])
            rows.append(row)
    values = form(np.stack(rows), 1)
    return values.min(axis=0), values.max(axis=0)
