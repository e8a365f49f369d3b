"""Small ONNX models for tests, and the way from one to integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tcompile import reference
from tcompile.frontend.importer import import_model
from tcompile.frontend.normalize import normalize
from tcompile.ir.graph import Graph
from tcompile.ir.interpret import interpret
from tcompile.ir.legality import check
from tcompile.lowering.branches import parted
from tcompile.lowering.lifted import Lifted, evaluate
from tcompile.lowering.lower import Lowered, lower

ELEMENT = {
    "uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "uint4": TensorProto.UINT4, "int4": TensorProto.INT4,
    "uint2": TensorProto.UINT2, "int2": TensorProto.INT2, "float32": TensorProto.FLOAT, "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL, "int64": TensorProto.INT64,
}  # fmt: skip


def code_range(dtype: str) -> tuple[int, int]:
    bits = int("".join(c for c in dtype if c.isdigit()))
    return (0, (1 << bits) - 1) if dtype.startswith("u") else (-(1 << bits - 1), (1 << bits - 1) - 1)


def tensor(array: Any, dtype: str = "float32", name: str = "t") -> onnx.TensorProto:
    array = np.asarray(array)
    if dtype in ("float32", "int64"):
        return numpy_helper.from_array(array.astype(dtype), name)
    return helper.make_tensor(name, ELEMENT[dtype], array.shape, array.ravel().tolist())


@dataclass
class Net:
    """An ONNX model in the making; every method adds a node and returns its output."""

    inputs: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def input(self, shape: tuple[int, ...], dtype: str = "uint8") -> str:
        name = f"in{len(self.inputs)}"
        self.inputs[name] = (dtype, shape)
        return name

    def const(self, array: Any, dtype: str = "float32") -> str:
        self.constants.append(tensor(array, dtype, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op.lower()}_{len(self.nodes)}", **attributes))
        return name

    def dq(self, codes: str, scale: Any, zero: Any = 0, dtype: str = "uint8", axis: int = 1) -> str:
        points = np.broadcast_to(zero, np.shape(scale))
        return self.op("DequantizeLinear", codes, self.const(scale), self.const(points, dtype), axis=axis)

    def q(self, x: str, scale: Any, zero: Any = 0, dtype: str = "uint8", axis: int = 1) -> str:
        points = np.broadcast_to(zero, np.shape(scale))
        return self.op("QuantizeLinear", x, self.const(scale), self.const(points, dtype), axis=axis)

    def qdq(self, x: str, scale: Any, zero: Any = 0, dtype: str = "uint8") -> str:
        return self.dq(self.q(x, scale, zero, dtype), scale, zero, dtype)

    def weight(self, codes: np.ndarray, scale: Any, dtype: str = "int8", axis: int = 0) -> str:
        return self.dq(self.const(codes, dtype), scale, 0, dtype, axis)

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(n, ELEMENT[d], s) for n, (d, s) in self.inputs.items()],
            [onnx.ValueInfoProto(name=o) for o in outputs],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)


def typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types of its outputs, which `Net` leaves to inference."""
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


RESIDUAL_FOLDS = {"Defaults": {"PE": 4, "SIMD": 2}, "conv_9": {"form": "serial"}}


def residual_network(names: Mapping[str, str] = MappingProxyType({})) -> onnx.ModelProto:
    """Two branches that meet, tiles of zeros, ternary weights; nodes may have other `names`."""
    random, net = np.random.default_rng(7), Net()
    x = net.qdq(net.input((1, 4, 5, 5), "float32"), 0.5, 128)
    first, second = random.integers(-1, 2, (8, 4, 3, 3)), random.integers(-1, 2, (8, 8, 3, 3))
    first[:4, :2] = 0
    y = net.op("Conv", x, net.weight(first, np.float32(1), "int2"), pads=[1] * 4)
    y = net.qdq(net.op("Relu", net.op("Mul", y, net.const(0.25))), 0.25, 0, "uint4")
    z = net.op("Conv", y, net.weight(second, np.float32(1), "int2"), pads=[1] * 4)
    z = net.qdq(net.op("Mul", z, net.const(0.125)), 0.25, 0, "int4")
    model = typed(net.model(net.qdq(net.op("Relu", net.op("Add", y, z)), 0.25, 0, "uint4")))
    for node in model.graph.node:
        node.name = names.get(node.name, node.name)
    return model


def real_graph(model: onnx.ModelProto) -> Graph:
    graph = import_model(normalize(typed(model)))
    check(graph)
    return graph


def integers_of(model: onnx.ModelProto) -> tuple[Graph, Lowered]:
    graph = parted(real_graph(model))
    lowered = lower(graph, "plain", {})
    check(lowered.graph)
    return graph, lowered


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The model with inner values as its outputs; packed codes leave as floats of the same name."""
    wide = onnx.ModelProto()
    wide.CopyFrom(typed(model))
    kinds = {v.name: v for v in [*wide.graph.value_info, *wide.graph.output, *wide.graph.input]}
    del wide.graph.output[:]
    for name in names:
        kind = kinds[name].type.tensor_type.elem_type
        if kind in (TensorProto.INT4, TensorProto.UINT4, TensorProto.INT2, TensorProto.UINT2):
            wide.graph.initializer.append(tensor(1.0, name=f"{name}__one"))
            wide.graph.node.append(
                helper.make_node("DequantizeLinear", [name, f"{name}__one"], [f"{name}__codes"], name=f"{name}__out")
            )
            wide.graph.output.append(helper.make_tensor_value_info(f"{name}__codes", TensorProto.FLOAT, None))
        elif name not in {i.name for i in wide.graph.input}:
            wide.graph.output.append(kinds[name])
    return wide


def replayed(lifted: Lifted, n: np.ndarray) -> np.ndarray:
    """The real values of integers of shape (1, ...)."""
    axis = 1 if lifted.axis is None else lifted.axis
    if n.ndim < 2:
        return evaluate(lifted, n.reshape(-1, 1)).reshape(n.shape)
    moved = np.moveaxis(n, axis, -1)
    flat = evaluate(lifted, moved.reshape(-1, moved.shape[-1]))
    return np.moveaxis(flat.reshape(moved.shape), -1, axis)


def differences(model: onnx.ModelProto, codes: dict[str, np.ndarray]) -> dict[str, int]:
    """How many elements of each code tensor differ between the interpreter and plain onnxruntime.

    Parameters
    ----------
    codes : mapping of str to ndarray
        Frames for each ONNX input, which must be code tensors.
    """
    graph, lowered = integers_of(model)
    feeds = {name: codes[graph[value].origin.tensor] for name, value in lowered.inputs.items()}
    found = interpret(lowered.graph, feeds, keep=lambda n: n.name in lowered.probes)
    probes = {p: lifted for p, lifted in lowered.probes.items() if lifted.kind.is_integer}
    names = {p: graph[lifted.value].origin.tensor for p, lifted in probes.items()}
    inner = {p: t for p, t in names.items() if t and t not in codes}
    session = reference.Session(with_outputs(model, list(dict.fromkeys(inner.values()))), "plain")
    wanted = {k.removesuffix("__codes"): v for k, v in session.frames(codes).items()}
    result = {}
    for probe, name in inner.items():
        got = np.stack([replayed(probes[probe], frame) for frame in found[probe]])
        assert got.shape == wanted[name].shape
        result[probe] = int((got != wanted[name]).sum())
    return result
