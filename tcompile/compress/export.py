"""A trained network as a real graph in the form that is proved exact, and as an ONNX file.

A site becomes codes -> DequantizeLinear(1) -> Conv | Gemm | MatMul -> Mul -> Add (`tcompile.passes.weights.written`):
with codes k, their scale s and the folded normalization (f, o) of `Norm.folded`, the normalized sum of s·k·x is
(s·f)·Σ k·x + o. Both factors are rounded to float32 once, here. A quantizer becomes QuantizeLinear [-> Clip] ->
DequantizeLinear with a power of two, behind an addition of half a step where it rounds up.

Σ |k|·|x| in steps of x must stay below 2^24, so that float32 adds exactly in any order; otherwise the layer is refused.
The graph that is returned, evaluated by `tcompile.compress.network`, *is* the network's arithmetic: accuracies are
measured on it, and its integers are those of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from tcompile.compress.activations import Quantizer
from tcompile.compress.prepare import Prepared, Site
from tcompile.errors import ModelError, Problem, printable
from tcompile.frontend.export import export
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Origin
from tcompile.passes.quantize_activations import inserted, quantized
from tcompile.passes.weights import Names, constant, layer_name, written

__all__ = ["EXACT", "exported", "sum_bounds", "to_onnx"]

EXACT = 1 << 24  # integers below are exact in float32, and so are their sums
CARRIERS = (R.Layout, R.MaxPool, R.GlobalMaxPool, R.Concat, R.Relu)


def exported(prepared: Prepared, instead: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The network as it is now, in integers and power-of-two steps.

    Parameters
    ----------
    instead : mapping of str to int array, optional
        Other integer weights than those of now, by the name of the layer.

    Raises
    ------
    ModelError
        Layers whose sums are not sure to be exact.
    """
    graph = _with_codes(prepared.graph, prepared.sites, instead or {})
    graph, points = _shifted(graph, prepared.quantizers)
    graph = quantized(graph, {value: q.step for value, q in points.items()})
    _refuse_inexact(graph)
    return graph


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """The graph as a standard ONNX model, checked.

    Raises
    ------
    ModelError
        It is not valid ONNX.
    """
    model = export(graph)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(Problem("invalid-export", f"the written model must be valid ONNX: {reason}")) from error
    return model


def _with_codes(graph: Graph, sites: tuple[Site, ...], instead: Mapping[str, np.ndarray]) -> Graph:
    names = Names(graph)
    new = {}
    for site in sites:
        codes, scale = site.codes()
        factor, offset = site.norm.folded()
        whole = instead.get(site.name, codes.cpu().numpy().round().astype(np.int64))
        scales = scale.detach().cpu().double().numpy().reshape(-1 if scale.numel() > 1 else ())
        new[site.node.name] = written(graph, site.layer, whole, scales * factor, names, offset)
    return graph.with_nodes([n for node in graph for n in new.get(node.name, (node,))])


def _shifted(graph: Graph, quantizers: Mapping[str, Quantizer]) -> tuple[Graph, dict[str, Quantizer]]:
    """The graph with a share of a step added in front of quantizers that ask for it, and where these then stand."""
    names = Names(graph)

    def share_behind(node: R.RealNode) -> tuple[R.RealNode, ...]:
        quantizer = quantizers.get(node.name)
        if quantizer is None or not quantizer.shift:
            return ()
        part = np.array(quantizer.step.scale * quantizer.shift, np.float32)
        share = constant(names(node.name, "share"), part, "float32", node.origin)
        origin = Origin(node.origin.nodes)
        return share, R.Add(
            name=names(node.name, "raised"), inputs=(node.name, share.name), type=node.type, origin=origin
        )

    graph, instead = inserted(graph, share_behind)
    return graph, {instead.get(v, v): q for v, q in quantizers.items()}


def sum_bounds(graph: Graph) -> dict[str, int]:
    """For each linear layer on codes of power-of-two steps the largest sum of |k|·|x| over its channels, in steps.

    Layers go by the names of their ONNX nodes.
    """
    bounds: dict[str, int] = {}
    for node in graph.all(R.Linear):
        assert isinstance(node, R.Conv | R.Gemm | R.MatMul)
        weight = graph[node.inputs[1]]
        reach = _reach(graph, node.inputs[0])
        if reach is None or not isinstance(weight, R.DequantizeLinear):
            continue
        codes = graph[weight.inputs[0]]
        if isinstance(codes, R.Const):
            rows = 0 if isinstance(node, R.Conv) or (isinstance(node, R.Gemm) and node.transB) else -1
            sizes = np.abs(np.moveaxis(codes.value.array.astype(np.int64), rows, 0))
            most = int(sizes.reshape(len(sizes), -1).sum(axis=1).max())
            name = layer_name(node)
            bounds[name] = max(bounds.get(name, 0), int(most * reach[0] / reach[1]))
    return bounds


def _reach(graph: Graph, value: str) -> tuple[float, float] | None:
    """Largest size of a value, and the step of the grid it lies on; None if that is not a power of two."""
    node = graph[value]
    if isinstance(node, CARRIERS):
        parts = [_reach(graph, i) for i in node.uses]
        known = [p for p in parts if p is not None]
        return (max(k[0] for k in known), min(k[1] for k in known)) if known and len(known) == len(parts) else None
    if not isinstance(node, R.DequantizeLinear):
        return None
    scale, zero = graph[node.inputs[1]], graph[node.inputs[2]] if len(node.inputs) > 2 else None
    if not isinstance(scale, R.Const) or scale.value.array.size != 1 or not isinstance(zero, R.Const | None):
        return None
    step = float(scale.value.array.reshape(-1)[0])
    origin = 0 if zero is None else int(zero.value.array.reshape(-1)[0])
    low, high = _code_range(graph, node.inputs[0])
    power = step > 0 and np.frexp(step)[0] == 0.5
    return (max(abs(low - origin), abs(high - origin)) * step, step) if power else None


def _code_range(graph: Graph, value: str) -> tuple[int, int]:
    node = graph[value]
    assert isinstance(node, R.RealNode)
    if isinstance(node, R.Clip):
        low, high = (graph[i] for i in node.inputs[1:])
        assert isinstance(low, R.Const) and isinstance(high, R.Const)
        return int(low.value.array.reshape(-1)[0]), int(high.value.array.reshape(-1)[0])
    bits, signed = int(node.type.dtype.lstrip("uint")), not node.type.dtype.startswith("u")
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _refuse_inexact(graph: Graph) -> None:
    problems = []
    for name, bound in sum_bounds(graph).items():
        if bound >= EXACT:
            message = (
                f"the sums of {printable(name)} must stay below 2^24 to be exact in float32, and may reach {bound}"
            )
            hint = "give its input fewer bits (--act-bits, or input_bits in a recipe), or prune it more"
            problems.append(Problem("sum-too-large", message, (name,), hint))
    if problems:
        raise ModelError(problems)
