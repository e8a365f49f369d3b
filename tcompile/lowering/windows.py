"""Pools and layout: the same function of the integers in another shape, sums of windows, the largest of a window."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import prod

import numpy as np

from tcompile.ir import integer as I
from tcompile.ir import real as R
from tcompile.ir.graph import IntType, identifier
from tcompile.lowering.builder import CODES, UNQUANTIZED, Builder, Refusal, State, node_name
from tcompile.lowering.certificate import certify_arg_max
from tcompile.lowering.grid import grid_of
from tcompile.lowering.lifted import (
    ConcatStart,
    GridStart,
    Lifted,
    PoolStart,
    evaluate,
)
from tcompile.lowering.steps import direction

__all__ = ["arg_max", "average", "concat", "layout", "max_pool", "pad"]


def max_pool(b: Builder, node: R.MaxPool | R.GlobalMaxPool) -> State:
    source = b.source(node)
    if _rising(source) is None or (source.axis or 1) > 1:  # a window must not cross channels that differ
        source = b.settled(source)
    if not isinstance(source.base, str):
        raise Refusal("not-quantized", "needs quantized input", UNQUANTIZED)
    spatial = len(node.type.shape) - 2
    if isinstance(node, R.MaxPool):
        kernel, strides, pads, dilations = node.kernel_shape, node.strides, node.pads, node.dilations
    else:
        kernel = source.kind.shape[2:]
        strides, pads, dilations = (1,) * spatial, (0,) * 2 * spatial, (1,) * spatial
    pads = _covering(source.kind.shape, node.type.shape, kernel, strides, pads, dilations)
    if _is_empty(source.kind.shape[2:], node.type.shape[2:], kernel, strides, pads, dilations):
        reason = "must have an element of its input in every window, and some windows hold padding only"
        raise Refusal("max-pool", reason, "give it less padding or dilation")
    make = lambda name, kind: I.MaxPool(  # noqa: E731
        name=name, inputs=(source.base,), type=kind, origin=node.origin,
        kernel=kernel, strides=strides, pads=pads, dilations=dilations,
    )  # fmt: skip
    return b.relaid(node, source, make, axis=source.axis)


def average(b: Builder, node: R.AveragePool | R.GlobalAveragePool | R.ReduceMean | R.ReduceSum) -> State:
    source, grid = b.on_grid(b.source(node))
    shape = source.kind.shape
    spatial = len(shape) - 2
    kernel, strides, pads, dilations = shape[2:], (1,) * spatial, (0,) * 2 * spatial, (1,) * spatial
    if isinstance(node, R.AveragePool):
        kernel, strides, pads, dilations = node.kernel_shape, node.strides, node.pads, node.dilations
        if (any(pads) and not node.count_include_pad) or node.ceil_mode:
            raise Refusal("average-pool", "must divide every window by the same number (no uncounted padding)")
    if isinstance(node, R.ReduceMean | R.ReduceSum):
        if spatial < 1 or not node.axes or node.axes[0] < 2:
            return b.leave(node, f"sums over axes {list(node.axes)}, and not over positions (axes from 2 on)")
        kernel = tuple(n if k in node.axes else 1 for k, n in enumerate(shape))[2:]
    assert isinstance(source.base, str)
    count = prod(kernel)
    lo, hi = b.types[source.base].lo, b.types[source.base].hi
    if any(pads):
        lo, hi = min(lo, grid.zero), max(hi, grid.zero)
    out = node.type.shape
    if isinstance(node, R.ReduceMean | R.ReduceSum):
        out = tuple(1 if k in node.axes else n for k, n in enumerate(shape))
    kind = IntType(out, lo * count, hi * count)
    name = identifier(node_name(node), b.taken)
    b.emit(
        I.SumPool(
            name=name, inputs=(source.base,), type=kind, origin=node.origin,
            kernel=kernel, strides=strides, pads=pads, dilations=dilations, pad_code=grid.zero,
        )
    )  # fmt: skip
    if out != node.type.shape:
        b.emit(
            I.Reshape(
                name=(name := identifier(name, b.taken)), inputs=(b.nodes[-1].name,),
                type=replace(kind, shape=node.type.shape), origin=node.origin,
            )
        )  # fmt: skip
    b.place(node, "accelerator", "SumPool")
    start = PoolStart(node.name, source, node, tuple(kernel))
    return Lifted(name, start, node.name, np.array([kind.lo]), np.array([kind.hi]), b.graph)


def layout(b: Builder, node: R.Reshape | R.Transpose | R.Slice) -> State:
    source = b.source(node)
    axis = _moved_axis(node, source)
    if not isinstance(source.base, str) or (source.axis is not None and axis is None):
        try:
            source = b.settled(source)
        except Refusal as reason:
            return b.leave(node, f"moves values that are not codes ({reason.message})")
        axis = None
    base = source.base
    assert isinstance(base, str)
    common = {"inputs": (base,), "origin": node.origin}

    def make(name: str, kind: IntType) -> I.IntNode:
        match node:
            case R.Reshape():
                return I.Reshape(name=name, type=kind, **common)  # type: ignore[arg-type]
            case R.Transpose():
                return I.Transpose(name=name, type=kind, perm=node.perm, **common)  # type: ignore[arg-type]
            case R.Slice():
                return I.Slice(name=name, type=kind, starts=node.starts, steps=node.steps, **common)  # type: ignore[arg-type]

    return b.relaid(node, source, make, axis=axis)


def pad(b: Builder, node: R.Pad) -> State:
    if node.type.is_integer:
        return _padded_codes(b, node)
    source, grid = b.on_grid(b.source(node))
    code = Fraction(node.value) / Fraction(grid.step) + grid.zero
    if code.denominator != 1:
        near = float(np.float32((round(code) - grid.zero) * Fraction(grid.step)))
        reason = f"must fill with a value on the grid of its input (multiples of {grid.step:.6g}), not {node.value:.6g}"
        raise Refusal("pad-value", reason, f"the nearest is {near:.6g}")
    base = source.base
    assert isinstance(base, str)
    kind = b.types[base]
    lo, hi = min(kind.lo, int(code)), max(kind.hi, int(code))
    make = lambda name, kind: I.Pad(  # noqa: E731
        name=name, inputs=(base,), type=kind, origin=node.origin, pads=node.pads, code=int(code)
    )
    wide = replace(source, lo=np.array([lo]), hi=np.array([hi]))
    if (lo, hi) != (kind.lo, kind.hi):  # perhaps beyond what the file's code type holds
        wide = replace(wide, start=GridStart(source.value, grid.step, grid.zero), chain=())
    return b.relaid(node, wide, make, axis=None)


def _padded_codes(b: Builder, node: R.Pad) -> State:
    """A border around codes of the file, which is a code itself."""
    source, code = b.settled(b.source(node)), int(node.value)
    base = source.base
    assert isinstance(base, str)
    kind = IntType(node.type.shape, min(b.types[base].lo, code), max(b.types[base].hi, code))
    name = identifier(node_name(node), b.taken)
    return _codes(b, node, I.Pad(name=name, inputs=(base,), type=kind, origin=node.origin, pads=node.pads, code=code))


def _codes(b: Builder, node: R.RealNode, made: I.IntNode) -> Lifted:
    """A code tensor of the file that an operation on codes makes."""
    b.emit(made)
    b.place(node, "accelerator", made.op)
    b.codes[node.name] = b.code_tensor(made.name, node.name)
    return b.codes[node.name]


def concat(b: Builder, node: R.Concat) -> State:
    axis = node.axis % len(node.type.shape)
    if any(not isinstance(b.states[i], Lifted) for i in node.uses):
        return b.leave(node, "joins codes with constants")
    if node.type.is_integer:
        return _joined_codes(b, node, axis)
    parts = [b.on_grid(s)[0] for i in node.inputs if isinstance(s := b.states[i], Lifted)]
    lo, hi = min(int(p.lo.min()) for p in parts), max(int(p.hi.max()) for p in parts)
    bases = tuple(p.base for p in parts if isinstance(p.base, str))
    make = lambda name, kind: I.Concat(  # noqa: E731
        name=name, inputs=bases, type=kind, origin=node.origin, axis=axis
    )
    grids = {grid_of(p) for p in parts}
    sizes = tuple(p.kind.shape[axis] for p in parts)
    result = b.relaid(node, replace(parts[0], lo=np.array([lo]), hi=np.array([hi])), make, axis=None)
    grid = grids.pop() if len(grids) == 1 else None
    if grid is not None:
        whole = GridStart(node.name, grid.step, grid.zero)
        return replace(result, start=ConcatStart(node.name, tuple(parts), sizes, whole))
    lows = np.repeat([int(p.lo.min()) for p in parts], sizes)
    highs = np.repeat([int(p.hi.max()) for p in parts], sizes)
    start = ConcatStart(node.name, tuple(parts), sizes)
    return replace(result, start=start, axis=axis, channels=sum(sizes), lo=lows, hi=highs)


def _joined_codes(b: Builder, node: R.Concat, axis: int) -> State:
    """Codes of the file, one behind the other; whose they are, what comes behind does not ask."""
    parts = [b.settled(s) for i in node.inputs if isinstance(s := b.states[i], Lifted)]
    bases = tuple(p.base for p in parts if isinstance(p.base, str))
    kind = IntType(node.type.shape, min(int(p.lo.min()) for p in parts), max(int(p.hi.max()) for p in parts))
    name = identifier(node_name(node), b.taken)
    points = {b.zeros.get(base, 0) for base in bases}
    b.zeros[name] = points.pop() if len(points) == 1 else 0  # pieces of one quantizer share its own
    return _codes(b, node, I.Concat(name=name, inputs=bases, type=kind, origin=node.origin, axis=axis))


def arg_max(b: Builder, node: R.ArgMax | R.TopIndex) -> State:
    source = b.source(node)
    if isinstance(node, R.ArgMax) and node.select_last_index:
        return b.leave(node, "takes the last of equals")
    if isinstance(node, R.TopIndex) and not node.largest:
        return b.leave(node, "takes the smallest")
    if not isinstance(source.base, str) or source.axis is not None or not _injective(source):
        return b.leave(node, "compares values that are not one rising function of integers")
    axis = node.axis % len(source.kind.shape)
    name = identifier(node_name(node), b.taken)
    kind = IntType(node.type.shape, 0, source.kind.shape[axis] - 1)
    b.emit(I.ArgMax(name=name, inputs=(source.base,), type=kind, origin=node.origin, axis=axis))
    b.place(node, "accelerator", "ArgMax")
    entry = certify_arg_max(source, node_name(node))
    if not entry.proved:
        b.entries.append(entry)
    b.codes[node.name] = b.code_tensor(name, node.name)
    return b.codes[node.name]


def _rising(lifted: Lifted) -> bool | None:
    """Whether a chain rises with its integers on all channels."""
    sign = direction(lifted)
    return True if sign is not None and (sign > 0).all() else None


def _injective(lifted: Lifted) -> bool:
    if lifted.span > CODES:
        return False
    values = evaluate(lifted, np.arange(int(lifted.lo.min()), int(lifted.hi.max()) + 1)[:, None])
    return bool((np.diff(values.astype(np.float64), axis=0) > 0).all())


def _moved_axis(node: R.RealNode, source: Lifted) -> int | None:
    """Where the channel axis goes; None if it does not survive."""
    axis = source.axis
    if axis is None:
        return None
    shape, new = source.kind.shape, node.type.shape
    if isinstance(node, R.Transpose):
        return node.perm.index(axis)
    if isinstance(node, R.Slice):
        return axis if shape[axis] == new[axis] and node.steps[axis] == 1 else None
    before, after = prod(shape[:axis]), prod(shape[axis + 1 :])
    for k, size in enumerate(new):
        if size == shape[axis] and prod(new[:k]) == before and prod(new[k + 1 :]) == after:
            return k
    return None


def _is_empty(
    shape: tuple[int, ...],
    out: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
) -> bool:
    """Whether some window lies in the padding on all its points: its largest value is then the type's smallest."""
    return not all(
        any(0 <= k * stride - pad + j * dilation < n for j in range(size))
        for n, count, size, stride, pad, dilation in zip(shape, out, kernel, strides, pads, dilations, strict=False)
        for k in range(count)
    )


def _covering(
    shape: tuple[int, ...],
    out: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[int, ...]:
    """Pads with the end grown where the last window reaches beyond them (ceil_mode)."""
    rank = len(kernel)
    ends = []
    for k in range(rank):
        reach = (out[2 + k] - 1) * strides[k] + (kernel[k] - 1) * dilations[k] + 1
        ends.append(max(pads[rank + k], reach - pads[k] - shape[2 + k]))
    return (*pads[:rank], *ends)
