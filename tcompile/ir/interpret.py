"""Runs an integer graph in numpy, exactly, on many frames at once.

Matrix products run in floating point where that is exact: in float32 while no sum of magnitudes reaches 2**24, in
float64 below 2**53 (`Σ|w|·max|x|`, from the intervals of the types). Beyond, in Python's own integers of 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import singledispatch
from math import prod

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tcompile.ir import integer as I
from tcompile.ir.graph import Graph, IntType, Node

__all__ = ["interpret"]

Values = Mapping[str, np.ndarray]
BLOCK = 1 << 24  # elements of one window matrix held at a time


def interpret(
    graph: Graph,
    feeds: Values,
    *,
    keep: Callable[[Node], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Run frames through an integer graph.

    Parameters
    ----------
    graph : Graph
        A graph of the integer level.
    feeds : mapping of str to ndarray
        For each input an integer array of shape (frames, *shape).
    keep : callable, optional
        Says which inner values to return as well.
    progress : callable, optional
        Called with the number of frames done.

    Returns
    -------
    dict of str to ndarray
        Outputs (and kept values), int64, shape (frames, *shape).

    Raises
    ------
    ValueError
        An input is not of integers, lies outside its interval or has another shape.
    """
    frames = len(next(iter(feeds.values())))
    wanted = [n.name for n in graph if n.name in graph.outputs or (keep is not None and keep(n))]
    step = max(1, BLOCK // max(prod(n.type.shape) for n in graph))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for first in range(0, max(1, frames), step):
        chunk = {name: _checked(graph[name], x[first : first + step]) for name, x in feeds.items()}
        values = _run(graph, chunk, set(wanted))
        for name in wanted:
            parts[name].append(values[name])
        if progress is not None:
            progress(min(frames, first + step))
    return {name: np.concatenate(part) for name, part in parts.items()}


def _checked(node: Node, x: np.ndarray) -> np.ndarray:
    kind = node.type
    assert isinstance(kind, IntType)
    x = np.asarray(x)
    if x.dtype.kind not in "iub":
        raise ValueError(f"Input {node.name} must be integers, not {x.dtype}")
    x = x.astype(np.int64)
    if x.shape[1:] != kind.shape:
        raise ValueError(f"Input {node.name} must have shape {kind.shape} per frame, not {x.shape[1:]}")
    if x.size and not (kind.lo <= x.min() and x.max() <= kind.hi):
        raise ValueError(f"Input {node.name} must lie in [{kind.lo}, {kind.hi}], not [{x.min()}, {x.max()}]")
    return x


def _run(graph: Graph, feeds: Values, wanted: set[str]) -> dict[str, np.ndarray]:
    left = {name: len(users) for name, users in graph.consumers.items()}
    values: dict[str, np.ndarray] = {}
    for node in graph:
        if isinstance(node, I.Input):
            values[node.name] = feeds[node.name]
            continue
        inputs = [values[i] for i in node.inputs]
        values[node.name] = apply(node, inputs, [_interval(graph[i]) for i in node.inputs])
        for used in set(node.inputs):
            left[used] -= 1
            if not left[used] and used not in wanted:
                del values[used]
    return values


def _interval(node: Node) -> IntType:
    assert isinstance(node.type, IntType)
    return node.type


@singledispatch
def apply(node: Node, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    """Apply one operation to arrays of shape (frames, *shape)."""
    raise TypeError(f"{node.op} is not an operation of the integer level")


def _dot(rows: np.ndarray, weight: np.ndarray, largest: int) -> np.ndarray:
    """rows (..., K) times weight (M, K) transposed, exactly; |rows| <= largest."""
    bound = int(np.abs(weight.astype(np.int64)).sum(axis=1).max(initial=0)) * largest
    if bound < 1 << 24:
        kind: type = np.float32
    elif bound < 1 << 53:
        kind = np.float64
    else:
        kind = np.int64
    return np.asarray(rows.astype(kind) @ weight.astype(kind).T).astype(np.int64)


def _largest(*bounds: int) -> int:
    return max(abs(b) for b in bounds)


@apply.register
def _(node: I.Dense, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    return _dot(inputs[0], node.weight.array, _largest(types[0].lo, types[0].hi))


def _windows(x: np.ndarray, kernel: tuple[int, ...], node: I.Conv | I.SumPool | I.MaxPool, fill: int) -> np.ndarray:
    """Windows of the spatial axes: (frames, 1, C, *out, *kernel), no copy but for padding."""
    rank = len(kernel)
    border = [(0, 0)] * 3 + list(zip(node.pads[:rank], node.pads[rank:], strict=True))
    if any(node.pads):
        x = np.pad(x, border, constant_values=fill)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, node.dilations, strict=True))
    view = sliding_window_view(x, reach, axis=tuple(range(3, 3 + rank)))
    inner = tuple(slice(None, None, d) for d in node.dilations)
    view = view[(slice(None),) * 3 + tuple(slice(None, None, s) for s in node.strides) + inner]
    size = node.type.shape[2:]
    return view[(slice(None),) * 3 + tuple(slice(0, n) for n in size)]


@apply.register
def _(node: I.Conv, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    weight = node.weight.array
    kernel = weight.shape[2:]
    rank = len(kernel)
    windows = _windows(inputs[0], kernel, node, node.pad_code)
    frames, _, channels = windows.shape[:3]
    size = windows.shape[3 : 3 + rank]
    largest = _largest(types[0].lo, types[0].hi, node.pad_code)
    share, rows = channels // node.group, weight.shape[0] // node.group
    windows = windows.reshape(frames, node.group, share, *size, *kernel)
    order = (0, 1, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank))
    out = np.empty((frames, node.group, rows, prod(size)), np.int64)
    for g in range(node.group):
        matrix = windows[:, g : g + 1].transpose(order).reshape(frames, prod(size), -1)
        part = weight[g * rows : (g + 1) * rows].reshape(rows, -1)
        out[:, g] = _dot(matrix, part, largest).transpose(0, 2, 1)
    return out.reshape(frames, 1, node.group * rows, *size)


@apply.register
def _(node: I.SumPool, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    rank = len(node.kernel)
    windows = _windows(inputs[0], node.kernel, node, node.pad_code)
    return np.asarray(windows.sum(axis=tuple(range(-rank, 0)), dtype=np.int64))


@apply.register
def _(node: I.MaxPool, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    rank = len(node.kernel)
    windows = _windows(inputs[0], node.kernel, node, types[0].lo)
    return np.asarray(windows.max(axis=tuple(range(-rank, 0))))


@apply.register
def _(node: I.AddScaled, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    return np.asarray(node.factors[0] * inputs[0] + node.factors[1] * inputs[1])


@apply.register
def _(node: I.Requantize, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    return node.form(inputs[0], node.axis + 1)


@apply.register
def _(node: I.Concat, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    return np.concatenate(inputs, axis=node.axis + 1)


@apply.register
def _(node: I.Slice, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    window = [slice(None)]
    for start, step, size in zip(node.starts, node.steps, node.type.shape, strict=True):
        stop: int | None = start + step * size
        window.append(slice(start, stop if stop is not None and stop >= 0 else None, step))
    return np.asarray(inputs[0][tuple(window)])


@apply.register
def _(node: I.Pad, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    rank = len(node.pads) // 2
    border = [(0, 0), *zip(node.pads[:rank], node.pads[rank:], strict=True)]
    return np.pad(inputs[0], border, constant_values=node.code)


@apply.register
def _(node: I.Reshape, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    return inputs[0].reshape(len(inputs[0]), *node.type.shape)


@apply.register
def _(node: I.Transpose, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    return inputs[0].transpose(0, *(p + 1 for p in node.perm))


@apply.register
def _(node: I.ArgMax, inputs: list[np.ndarray], types: list[IntType]) -> np.ndarray:
    index = np.argmax(inputs[0], axis=node.axis + 1)
    return np.asarray(index.reshape(len(index), *node.type.shape), np.int64)
