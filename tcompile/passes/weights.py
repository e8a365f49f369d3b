"""Layers with constant float weights, and the form in which integer weights are written.

Written form: codes -> DequantizeLinear(scale 1, no zero point) -> Conv | Gemm | MatMul -> Mul(scale) [-> Add(bias)].
Products with codes of integer weights and power-of-two activations are exact in float32 up to 2^24, whatever the
order of the sum; the channel's own scale and bias come after the sum. onnxruntime's defaults fuse no quantizer into
the layer, because the Mul is always there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tcompile.errors import printable
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Origin, Tensor, TensorType, identifier

__all__ = [
    "Layer",
    "Names",
    "constant",
    "float_layers",
    "integer_dtype",
    "layer_name",
    "with_weight",
    "written",
]

RANGES = {"int2": (-2, 1), "int4": (-8, 7), "int8": (-128, 127)}


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear operation with constant float weights.

    Parameters
    ----------
    node : Conv, Gemm or MatMul
        The operation.
    weight : float64 array (MH, Cin / group, kernel...) or (MH, MW)
        Weights, output channel first.
    rows : int
        Axis of the output channel in the operand itself.
    group : int
        Groups of channels.
    """

    node: R.Conv | R.Gemm | R.MatMul
    weight: np.ndarray
    rows: int
    group: int

    @property
    def name(self) -> str:
        """ONNX node name, else the value's."""
        return layer_name(self.node)


class Names:
    """Makes value names that the graph does not have yet."""

    def __init__(self, graph: Graph) -> None:
        self.taken = set(graph.by_name)

    def __call__(self, stem: str, suffix: str) -> str:
        return identifier(f"{stem[:28]}_{suffix}", self.taken)


def layer_name(node: R.RealNode) -> str:
    """ONNX node name of an operation, else the value's."""
    return node.origin.nodes[0][0] if node.origin.nodes else node.name


def constant(name: str, array: np.ndarray, dtype: str, origin: Origin) -> R.Const:
    """A constant that a pass makes; it carries no tensor of the file."""
    tensor = Tensor(array, dtype)
    return R.Const(name=name, value=tensor, type=TensorType(dtype, tensor.shape), origin=Origin(origin.nodes))


def float_layers(graph: Graph) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Layers whose weights are constant floats, and why each other one is left alone."""
    layers, notes = [], []
    for node in graph.all(R.Linear):
        assert isinstance(node, R.Conv | R.Gemm | R.MatMul)
        reason = _left_alone(graph, node)
        if reason:
            notes.append(f"{printable(layer_name(node))} left alone: {reason}")
        else:
            layers.append(_layer(graph, node))
    return tuple(layers), tuple(notes)


def _left_alone(graph: Graph, node: R.RealNode) -> str:
    weight = graph[node.inputs[1]]
    if not isinstance(weight, R.Const):
        quantized = _from_codes(graph, weight.name)
        return "its weights are quantized already" if quantized else "its weights are not constant"
    if weight.type.is_integer or isinstance(graph[node.inputs[0]], R.Const):
        return "its first input must be activations and its second floats"
    if not isinstance(node, R.Conv) and len(weight.type.shape) != 2:
        return f"its weights have {len(weight.type.shape)} axes, not 2"
    bias = graph[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None
    plain = isinstance(node, R.Gemm) and node.beta == 1
    if bias is not None and not isinstance(bias, R.Const) and not plain:
        return "its bias is not a constant"
    return ""


def _from_codes(graph: Graph, value: str) -> bool:
    node = graph[value]
    if isinstance(node, R.DequantizeLinear):
        return True
    return bool(node.uses) and isinstance(node, R.Layout | R.Elementwise) and _from_codes(graph, node.uses[0])


def _layer(graph: Graph, node: R.Conv | R.Gemm | R.MatMul) -> Layer:
    const = graph[node.inputs[1]]
    assert isinstance(const, R.Const)
    rows = 0 if isinstance(node, R.Conv) or (isinstance(node, R.Gemm) and node.transB) else 1
    weight = np.ascontiguousarray(np.moveaxis(const.value.array, rows, 0)).astype(np.float64)
    return Layer(node, weight, rows, node.group if isinstance(node, R.Conv) else 1)


def with_weight(graph: Graph, layer: Layer, weight: np.ndarray, names: Names) -> tuple[R.RealNode, ...]:
    """The layer with other float weights (output channel first)."""
    old = graph[layer.node.inputs[1]]
    assert isinstance(old, R.Const)
    array = np.moveaxis(weight, 0, layer.rows).astype(old.value.array.dtype)
    const = constant(names(old.name, "pruned"), array, old.value.dtype, old.origin)
    x, _, *rest = layer.node.inputs
    return const, replace(layer.node, inputs=(x, const.name, *rest))


def integer_dtype(codes: np.ndarray) -> str:
    """Narrowest of INT2, INT4 and INT8 that holds the codes."""
    lo, hi = int(codes.min(initial=0)), int(codes.max(initial=0))
    return next(dtype for dtype, (low, high) in RANGES.items() if low <= lo and hi <= high)


def written(
    graph: Graph,
    layer: Layer,
    codes: np.ndarray,
    scale: np.ndarray,
    names: Names,
    bias: np.ndarray | None = None,
) -> tuple[R.RealNode, ...]:
    """The layer with integer weights in the written form; its last node defines the layer's value.

    Parameters
    ----------
    codes : int array like `layer.weight`
        Integer weights.
    scale : float64 array (MH,) or ()
        Weight = code · scale.
    bias : float64 array (MH,), optional
        What is added after the scale, in place of the layer's own bias.
    """
    node, origin = layer.node, layer.node.origin
    bare = Origin(origin.nodes)
    dtype = integer_dtype(codes)
    stored = constant(names(node.name, "codes"), np.moveaxis(codes, 0, layer.rows).astype(np.int8), dtype, origin)
    one = constant(names(node.name, "unit"), np.array(1.0, np.float32), "float32", origin)
    kind = TensorType("float32", stored.type.shape)
    weight = R.DequantizeLinear(name=names(node.name, "weight"), inputs=(stored.name, one.name), type=kind, origin=bare)
    linear = replace(node, name=names(node.name, "sum"), inputs=(node.inputs[0], weight.name), origin=bare)
    if isinstance(linear, R.Gemm):
        scale = scale * linear.alpha
        linear = replace(linear, alpha=1.0, beta=1.0)
    factor = constant(names(node.name, "scale"), _per_channel(node, scale), "float32", origin)
    scaled = R.Mul(name=node.name, inputs=(linear.name, factor.name), type=node.type, origin=origin)
    nodes = (stored, one, weight, linear, factor)
    if bias is None:
        offset = _bias(graph, node, names)
    else:
        offset = constant(names(node.name, "bias"), _per_channel(node, bias), "float32", origin)
    if offset is None:
        return (*nodes, scaled)
    scaled = replace(scaled, name=names(node.name, "scaled"), origin=bare)
    added = R.Add(name=node.name, inputs=(scaled.name, offset.name), type=node.type, origin=origin)
    return (*nodes, scaled, *((offset,) if isinstance(offset, R.Const) else ()), added)


def _per_channel(node: R.RealNode, values: np.ndarray) -> np.ndarray:
    """One float32 per output channel, shaped to broadcast against the layer's output."""
    values = np.asarray(values, np.float64).astype(np.float32)
    if values.ndim == 0 or not isinstance(node, R.Conv):
        return values
    return values.reshape(-1, *(1,) * (len(node.type.shape) - 2))


def _bias(graph: Graph, node: R.RealNode, names: Names) -> R.RealNode | None:
    """What is added after the scale."""
    if len(node.inputs) < 3 or not node.inputs[2]:
        return None
    given = graph[node.inputs[2]]
    if not isinstance(given, R.Const):
        assert isinstance(given, R.RealNode)
        return given
    beta = node.beta if isinstance(node, R.Gemm) else 1.0
    bias = _per_channel(node, given.value.array.astype(np.float64) * beta)
    return constant(names(node.name, "bias"), bias, "float32", node.origin)
