"""Real level to ONNX: the same operators, opset 25, IR version 13.

Used for ``model.lowered.onnx``, for the host's two models, and for the pieces that lowering replays in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tcompile.frontend.protos import Names
from tcompile.ir import real as R
from tcompile.ir.graph import Graph, Tensor, TensorType

__all__ = ["IR_VERSION", "OPSET", "element_type", "export", "model_of", "to_tensor_proto"]

OPSET = 25
IR_VERSION = 13
COMMON = {"name", "inputs", "type", "origin"}
AS_INPUT = {"axes", "starts", "steps", "pads", "value", "perm"}
PACKED: dict[str, Any] = {
    "int2": ml_dtypes.int2, "uint2": ml_dtypes.uint2, "int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4,
}  # fmt: skip


def element_type(dtype: str) -> int:
    """ONNX element type of a dtype name."""
    return {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16}.get(
        dtype
    ) or int(TensorProto.DataType.Value(dtype.upper()))


def to_tensor_proto(tensor: Tensor, name: str) -> TensorProto:
    """A constant as an initializer; sub-byte types are packed."""
    array = tensor.array
    if tensor.dtype in PACKED:
        array = array.astype(PACKED[tensor.dtype])
    return numpy_helper.from_array(np.array(array, order="C"), name)


class _Writer:
    def __init__(self, rename: Mapping[str, str], titles: Mapping[str, str]) -> None:
        self.rename = rename
        self.titles = titles
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []

    def value(self, name: str) -> str:
        return self.rename.get(name, name) if name else ""

    def constant(self, name: str, array: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, name: str, values: Sequence[int]) -> str:
        return self.constant(name, np.array(values, np.int64))

    def add(self, node: R.RealNode, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        title = self.titles.get(node.name, node.name)
        self.nodes.append(helper.make_node(op, inputs, outputs, name=title, **attributes))

    def write(self, node: R.RealNode) -> None:
        inputs = [self.value(i) for i in node.inputs]
        out = [self.value(node.name)]
        match node:
            case R.Const():
                self.initializers.append(to_tensor_proto(node.value, self.value(node.name)))
            case R.Reshape():
                self.add(node, "Reshape", [*inputs, self.ints(f"{node.name}__shape", node.type.shape)], out)
            case R.Slice():
                self._slice(node, inputs, out)
            case R.Pad():
                pads = self.ints(f"{node.name}__pads", node.pads)
                value = self.constant(f"{node.name}__value", _scalar(node.value, node.type))
                self.add(node, "Pad", [*inputs, pads, value], out)
            case R.ReduceMean() | R.ReduceSum():
                axes = self.ints(f"{node.name}__axes", node.axes)
                self.add(node, node.op, [*inputs, axes], out, keepdims=node.keepdims)
            case R.TopIndex():
                k = self.ints(f"{node.name}__k", [1])
                self.add(node, "TopK", [*inputs, k], [f"{out[0]}__value", *out], axis=node.axis, largest=node.largest)
            case R.Cast():
                self.add(node, "Cast", inputs, out, to=element_type(node.type.dtype))
            case R.QuantizeLinear():
                # With a zero point its type says it all, and onnxruntime's signed-to-unsigned rewrite trips over both.
                extra = {} if len(inputs) > 2 and inputs[2] else {"output_dtype": element_type(node.type.dtype)}
                self.add(node, "QuantizeLinear", inputs, out, axis=node.axis, **extra)
            case _:
                names = [f.name for f in fields(node) if f.name not in COMMON and not _needless(node, f.name)]
                self.add(node, node.op, inputs, out, **{n: _attribute(getattr(node, n)) for n in names})

    def _slice(self, node: R.Slice, inputs: list[str], out: list[str]) -> None:
        stops = []
        for start, step, size in zip(node.starts, node.steps, node.type.shape, strict=True):
            stop = start + step * size
            stops.append(stop if stop >= 0 else -(1 << 62))
        columns = (node.starts, stops, range(len(stops)), node.steps)
        words = ("starts", "ends", "axes", "steps")
        extra = [self.ints(f"{node.name}__{w}", list(c)) for w, c in zip(words, columns, strict=True)]
        self.add(node, "Slice", [*inputs, *extra], out)


def _needless(node: R.RealNode, name: str) -> bool:
    """Dilations of 1 on an average: onnxruntime's fused kernel does not know the attribute."""
    return name == "dilations" and isinstance(node, R.AveragePool) and set(node.dilations) <= {1}


def _attribute(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _scalar(value: float, kind: TensorType) -> np.ndarray:
    return np.array(value, np.dtype(kind.dtype))


def _info(name: str, kind: TensorType) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type(kind.dtype), list(kind.shape))


def model_of(
    nodes: Sequence[R.RealNode],
    inputs: Mapping[str, TensorType],
    outputs: Mapping[str, TensorType],
    rename: Mapping[str, str] | None = None,
    name: str = "network",
    titles: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """A model from nodes in topological order.

    Parameters
    ----------
    nodes : sequence of RealNode
        Operations and constants; `Input` nodes are not written.
    inputs, outputs : mapping of str to TensorType
        Values that enter and leave.
    rename : mapping of str to str, optional
        Names in the file for values of the IR.
    titles : mapping of str to str, optional
        Names in the file for nodes; those of their values where left out.
    """
    rename = rename or {}
    writer = _Writer(rename, titles or {})
    for node in nodes:
        if not isinstance(node, R.Input):
            writer.write(node)
    graph = helper.make_graph(
        writer.nodes,
        name,
        [_info(rename.get(n, n), t) for n, t in inputs.items()],
        [_info(rename.get(n, n), t) for n, t in outputs.items()],
        writer.initializers,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="tcompile"
    )


def export(graph: Graph) -> onnx.ModelProto:
    """The whole graph; inputs, outputs and nodes keep their names in the file."""
    nodes = [n for n in graph if isinstance(n, R.RealNode)]
    inputs = {n.name: n.type for n in nodes if isinstance(n, R.Input)}
    kinds = {n.name: n.type for n in nodes}
    outputs = {o: kinds[o] for o in graph.outputs}
    return model_of(nodes, inputs, outputs, port_names(graph, [*inputs, *outputs]), titles=node_names(nodes))


def node_names(nodes: Sequence[R.RealNode]) -> dict[str, str]:
    """Unique names for the nodes of a file by their values: those of the ONNX nodes that they come from.

    A pass may make several nodes of one. That of the same operator keeps the name, else the first; the others add their
    operator to it.
    """
    made = [n for n in nodes if n.origin.nodes and not isinstance(n, R.Const | R.Input)]
    result, taken = dict[str, str](), set[str]()
    same = [(n, next((name for name, op in reversed(n.origin.nodes) if op == n.op), "")) for n in made]
    for node, name in (*same, *((n, n.origin.names[-1]) for n in made)):
        if name and node.name not in result and name not in taken:
            result[node.name] = name
            taken.add(name)
    others = [n for n in nodes if n.name not in result and not isinstance(n, R.Const | R.Input)]
    names = Names(taken)
    for node in others:
        result[node.name] = names.fresh(f"{node.origin.names[-1]}_{node.op}" if node.origin.nodes else node.name)
    return result


def port_names(graph: Graph, values: Sequence[str]) -> dict[str, str]:
    """File names of values that carry an ONNX tensor's name."""
    return {v: graph[v].origin.tensor for v in values if graph[v].origin.tensor}
