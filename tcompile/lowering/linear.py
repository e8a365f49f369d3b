"""Convolutions and matrix products: integer weights, the interval of the sum, the scale it stands for."""

from __future__ import annotations

import numpy as np

from tcompile.ir import integer as I
from tcompile.ir import real as R
from tcompile.ir.graph import IntType, Tensor, identifier
from tcompile.lowering.builder import CONSTANT, Builder, Refusal, node_name
from tcompile.lowering.grid import Grid
from tcompile.lowering.lifted import (
    AccumulatorStart,
    Lifted,
)
from tcompile.lowering.operands import bias_of, weights_of

__all__ = ["conv", "dense"]


def conv(b: Builder, node: R.Conv) -> Lifted:
    source, grid = b.on_grid(b.source(node))
    _constant_weights(b, node)
    weights = weights_of(b.graph, node.inputs[1], 0)
    per_tap = weights.codes.reshape(len(weights.codes), -1)
    padded = any(node.pads)
    start, lo, hi = _accumulate(b, node, source, grid, weights.codes, weights.scale, per_tap, padded)
    kind = IntType(node.type.shape, int(lo.min()), int(hi.max()))
    name = identifier(node_name(node), b.taken)
    assert isinstance(source.base, str)
    b.emit(
        I.Conv(
            name=name, inputs=(source.base,), type=kind, origin=node.origin,
            weight=_weight_tensor(weights.codes), strides=node.strides, pads=node.pads,
            dilations=node.dilations, group=node.group, pad_code=grid.zero,
        )
    )  # fmt: skip
    return _accumulator(b, node, name, start, lo, hi, 1)


def dense(b: Builder, node: R.Gemm | R.MatMul) -> Lifted:
    source, grid = b.on_grid(b.source(node))
    _constant_weights(b, node)
    rank = len(b.graph[node.inputs[1]].type.shape)
    if rank != 2:
        hint = "give the weights two axes, inputs and outputs"
        raise Refusal("matmul-rank", f"must have a matrix of weights, not a tensor of {rank} axes", hint)
    rows = 1
    alpha = 1.0
    if isinstance(node, R.Gemm):
        if node.transA:
            raise Refusal("transposed-activations", "must not transpose its activations", "transpose before it")
        rows, alpha = (0 if node.transB else 1), node.alpha
    weights = weights_of(b.graph, node.inputs[1], rows)
    scale = weights.scale * alpha
    start, lo, hi = _accumulate(b, node, source, grid, weights.codes, scale, weights.codes, False)
    kind = IntType(node.type.shape, int(lo.min()), int(hi.max()))
    name = identifier(node_name(node), b.taken)
    assert isinstance(source.base, str)
    b.emit(
        I.Dense(name=name, inputs=(source.base,), type=kind, origin=node.origin, weight=_weight_tensor(weights.codes))
    )
    return _accumulator(b, node, name, start, lo, hi, len(node.type.shape) - 1)


def _constant_weights(b: Builder, node: R.RealNode) -> None:
    if any(b.states[i] != CONSTANT for i in node.inputs[1:] if i):
        raise Refusal("unknown-weights", "must have constant weights: nothing here multiplies two unknowns")


def _accumulate(
    b: Builder,
    node: R.Conv | R.Gemm | R.MatMul,
    source: Lifted,
    grid: Grid,
    codes: np.ndarray,
    scale: np.ndarray,
    matrix: np.ndarray,
    padded: bool,
) -> tuple[AccumulatorStart, np.ndarray, np.ndarray]:
    """Scales and the interval of the integer sum per channel."""
    q_lo, q_hi = int(source.lo.min()), int(source.hi.max())
    if padded:
        q_lo, q_hi = min(q_lo, grid.zero), max(q_hi, grid.zero)
    positive, negative = np.maximum(matrix, 0).sum(axis=1), np.minimum(matrix, 0).sum(axis=1)
    lo, hi = positive * q_lo + negative * q_hi, positive * q_hi + negative * q_lo
    largest = max(abs(q_lo - grid.zero), abs(q_hi - grid.zero))
    unit = scale * grid.step
    floats, bias_code = np.zeros(len(codes)), None
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = bias_of(b.graph, node.inputs[2], unit)
        floats, bias_code = bias.floats * (node.beta if isinstance(node, R.Gemm) else 1.0), bias.codes
    start = AccumulatorStart(
        node.name, unit, matrix.sum(axis=1) * grid.zero, floats, np.abs(matrix).sum(axis=1) * largest,
        matrix.shape[1], node_name(node), grid.step, scale, bias_code,
    )  # fmt: skip
    return start, lo, hi


def _accumulator(
    b: Builder, node: R.RealNode, base: str, start: AccumulatorStart, lo: np.ndarray, hi: np.ndarray, axis: int
) -> Lifted:
    b.place(node, "accelerator", b.nodes[-1].op)
    lifted = Lifted(base, start, node.name, lo, hi, b.graph, (), axis, len(lo))
    b.probes[base] = lifted
    return lifted


def _weight_tensor(codes: np.ndarray) -> Tensor:
    kind = np.int8 if codes.min(initial=0) >= -128 and codes.max(initial=0) <= 127 else np.int16
    return Tensor.of(codes.astype(kind))
