"""Constant operands of linear operations: integer codes and scales of weights, biases."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from tcompile.ir import real as R
from tcompile.ir.graph import Graph
from tcompile.lowering.grid import even_step
from tcompile.lowering.lifted import ChainError, constant_floats

__all__ = ["Bias", "Weights", "bias_of", "weights_of"]

LARGEST = 255  # weight codes reach 9 bits once a zero point is folded in


@dataclass(frozen=True, eq=False)
class Weights:
    """Weight = codes · scale[row].

    Parameters
    ----------
    codes : int64 array (M, ...)
        Zero points folded in; output channel first.
    scale : float64 array (M,)
        Scales, each a float32.
    bits : int
        Bits of the file's element type.
    """

    codes: np.ndarray
    scale: np.ndarray
    bits: int


@dataclass(frozen=True, eq=False)
class Bias:
    """Bias as onnxruntime's floats, and as integers in units of the sum where the file has them."""

    floats: np.ndarray
    codes: np.ndarray | None


def weights_of(graph: Graph, name: str, rows: int) -> Weights:
    """Codes and scales of a weight operand; axis `rows` is the output channel.

    Raises
    ------
    ChainError
        The weights are not on a grid per output channel.
    """
    found = _structural(graph, name)
    if found is None:
        return _numeric(np.moveaxis(constant_floats(graph, name), rows, 0))
    codes, scales, bits = found
    codes, scales = np.moveaxis(codes, rows, 0), np.moveaxis(scales, rows, 0)
    flat = scales.reshape(len(scales), -1)
    if (flat != flat[:, :1]).any():
        raise ChainError("its weight scale varies within an output channel")
    return Weights(np.ascontiguousarray(codes), flat[:, 0].astype(np.float64), bits)


def _structural(graph: Graph, name: str) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Codes and full-shape scales through dequantization and layout operations; None if there is another operation."""
    node = graph[name]
    if isinstance(node, R.DequantizeLinear):
        codes = graph[node.inputs[0]]
        if not isinstance(codes, R.Const):
            return None
        return _dequantized(graph, node, codes)
    if not isinstance(node, R.Layout) or isinstance(node, R.Pad):
        return None
    inner = _structural(graph, node.inputs[0])
    if inner is None:
        return None
    codes_, scales, bits = inner
    return _moved(node, codes_), _moved(node, scales), bits


def _moved(node: R.Layout, x: np.ndarray) -> np.ndarray:
    match node:
        case R.Reshape():
            return x.reshape(node.type.shape)
        case R.Transpose():
            return x.transpose(node.perm)
        case R.Slice():
            stops = [s + t * n for s, t, n in zip(node.starts, node.steps, node.type.shape, strict=True)]
            window = tuple(
                slice(a, b if b >= 0 else None, t) for a, b, t in zip(node.starts, stops, node.steps, strict=True)
            )
            return x[window]
        case _:
            raise ChainError(f"its weights pass through {node.op}")


def _dequantized(graph: Graph, node: R.DequantizeLinear, codes: R.Const) -> tuple[np.ndarray, np.ndarray, int]:
    shape = codes.type.shape
    axis = node.axis % len(shape) if shape else 0

    def spread(array: np.ndarray) -> np.ndarray:
        if array.size == 1:
            return np.broadcast_to(array.reshape(()), shape)
        if array.ndim != 1:
            raise ChainError(f"its scale has shape {list(array.shape)}, not one per channel")
        return np.broadcast_to(array.reshape([-1 if k == axis else 1 for k in range(len(shape))]), shape)

    scale = constant_floats(graph, node.inputs[1])
    values = codes.value.array.astype(np.int64)
    if len(node.inputs) > 2 and node.inputs[2]:
        values = values - spread(_zero_points(graph, node.inputs[2]))
    return values, spread(scale.astype(np.float64)), int("".join(c for c in codes.type.dtype if c.isdigit()))


def _zero_points(graph: Graph, name: str) -> np.ndarray:
    """Zero points; onnxruntime hands out no packed tensors, so that a constant is not asked for."""
    node = graph[name]
    array = node.value.array if isinstance(node, R.Const) else constant_floats(graph, name)
    return array.astype(np.int64)


def _numeric(weight: np.ndarray) -> Weights:
    """Codes of float weights that already lie on a grid per row, found from the values themselves."""
    flat = weight.reshape(len(weight), -1)
    codes = np.zeros(flat.shape, np.int64)
    scale = np.ones(len(flat))
    for k, row in enumerate(flat):
        step = _step(row)
        if step is None:
            raise ChainError("its weights are floating point, not on a grid")
        scale[k] = step
        codes[k] = np.rint(row.astype(np.float64) / step).astype(np.int64)
    bits = int(np.abs(codes).max(initial=1)).bit_length() + 1
    return Weights(codes.reshape(weight.shape), scale, bits)


def _step(row: np.ndarray) -> float | None:
    """Largest float32 step such that every element is float32(integer · step) with small integers."""
    sizes = np.unique(np.abs(row[row != 0])).astype(np.float32)
    return even_step(sizes, LARGEST) if len(sizes) else 1.0


def bias_of(graph: Graph, name: str, scale: np.ndarray) -> Bias:
    """A bias operand, one value per output channel; `scale` are the units of the sum."""
    count, shape = len(scale), graph[name].type.shape
    if prod(shape) not in (1, count) or (prod(shape) > 1 and (shape[-1] != count)):
        raise ChainError(f"its bias of shape {list(shape)} is not one for each of {count} output channels")
    floats = np.broadcast_to(constant_floats(graph, name).reshape(-1), (count,)).astype(np.float64)
    node = graph[name]
    codes = None
    if isinstance(node, R.DequantizeLinear):
        inner = graph[node.inputs[0]]
        if isinstance(inner, R.Const):
            codes = np.broadcast_to(inner.value.array.reshape(-1), (count,)).astype(np.int64)
    return Bias(floats, codes)
