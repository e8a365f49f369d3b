"""What stays on the host: the model before the accelerator, the model behind it, and the ports between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx

from tcompile.frontend.export import model_of
from tcompile.host_kernels import with_kernels
from tcompile.ir import real as R
from tcompile.ir.graph import NARROW, Graph, Tensor, TensorType
from tcompile.lowering.lifted import AccumulatorStart, CodeStart, GridStart, Lifted
from tcompile.lowering.lower import Lowered
from tcompile.mapping.permute import Order
from tcompile.reference import Kernel

__all__ = ["HostModels", "Port", "host_models", "ports"]


@dataclass(frozen=True)
class Port:
    """How an integer value of the accelerator relates to a tensor of the ONNX file.

    Parameters
    ----------
    value : str
        Integer-level value.
    tensor : str
        ONNX tensor.
    nodes : tuple of str
        ONNX nodes that make the tensor, last first.
    kind : {"codes", "sums"}
        The tensor's own integers, or ``tensor = (sum - correction) · scale + bias`` in floating point.
    dtype : str
        Element type of the tensor.
    zero : int
        Zero point of codes.
    axis : int
        Channel axis of scale, correction and bias.
    order : Order or None
        How the hardware orders the value's channels, where it is not as in the tensor.
    """

    value: str
    tensor: str
    nodes: tuple[str, ...]
    kind: str
    dtype: str
    zero: int = 0
    axis: int = 0
    scale: tuple[float, ...] = ()
    correction: tuple[int, ...] = ()
    bias: tuple[float, ...] = ()
    order: Order | None = None

    def in_place(self, integers: np.ndarray) -> np.ndarray:
        """Integers (frames, *shape) of the hardware in the order of the tensor."""
        return integers if self.order is None else self.order.restored(integers)

    def decode(self, tensor: np.ndarray) -> np.ndarray:
        """Integers that the tensor (frames, *shape) stands for; a sum is the nearest one."""
        if self.kind == "codes":
            return np.asarray(tensor.astype(np.int64))
        shape = [-1 if k == self.axis + 1 and len(self.scale) > 1 else 1 for k in range(tensor.ndim)]
        scale, bias = (np.array(p).reshape(shape) for p in (self.scale, self.bias))
        whole = np.rint((tensor.astype(np.float64) - bias) / scale).astype(np.int64)
        return np.asarray(whole + np.array(self.correction, np.int64).reshape(shape))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Port:
        """From a JSON object."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        if fields["order"] is not None:
            fields["order"] = Order(tuple(fields["order"]["channels"]), fields["order"]["inner"])
        return cls(**fields)


@dataclass(frozen=True, eq=False)
class HostModels:
    """Models that the host runs: file inputs to codes, and integers to file outputs."""

    pre: onnx.ModelProto
    post: onnx.ModelProto


def ports(lowered: Lowered, graph: Graph, values: Mapping[str, Lifted]) -> tuple[Port, ...]:
    """Ports of some integer values (`Lowered.outputs` or `Lowered.probes`)."""
    result = []
    for value, lifted in values.items():
        node = graph[lifted.start.value]
        tensor = node.origin.tensor
        start = lifted.start
        maker = lowered.graph[value] if value in lowered.graph.by_name else None
        made_by = maker.origin.names if maker is not None else ()
        nodes = tuple(dict.fromkeys((*node.origin.names[::-1], *made_by[::-1], *lowered.heads.get(value, ()))))
        if isinstance(start, AccumulatorStart) and not np.all(start.scale):
            continue  # the tensor does not tell the sums of a channel that is multiplied by zero
        if isinstance(start, AccumulatorStart):
            axis = 1 if isinstance(node, R.Conv) else len(lifted.kind.shape) - 1
            result.append(
                Port(
                    value, tensor, nodes, "sums", lifted.kind.dtype, 0, axis,
                    tuple(map(float, start.scale)), tuple(map(int, start.correction)), tuple(map(float, start.bias)),
                )
            )  # fmt: skip
        elif isinstance(start, GridStart):
            result.append(
                Port(value, tensor, nodes, "sums", lifted.kind.dtype, 0, 0, (start.step,), (start.zero,), (0.0,))
            )
        elif isinstance(start, CodeStart):
            zero = lowered.zeros.get(value, 0)
            result.append(Port(value, tensor, nodes, "codes", start.dtype, zero))
    return tuple(result)


def host_models(lowered: Lowered, graph: Graph, kernels: Mapping[str, Kernel]) -> HostModels:
    """Cut the host's two models out of the real-level graph.

    Parameters
    ----------
    kernels : mapping of str to Kernel
        Integer kernels of the file itself, by name: on the host they run as they are.
    """
    return HostModels(_pre(lowered, graph), _post(lowered, graph, kernels))


def _closure(graph: Graph, targets: Sequence[str], stop: Mapping[str, object]) -> list[R.RealNode]:
    """Nodes that the targets need, in topological order, not looking behind `stop`."""
    needed: set[str] = set()
    stack = [t for t in targets if t not in stop]
    while stack:
        value = stack.pop()
        if value not in needed:
            needed.add(value)
            stack.extend(i for i in graph[value].uses if i not in stop)
    return [n for n in graph if isinstance(n, R.RealNode) and n.name in needed]


def _inner(nodes: Sequence[R.RealNode]) -> dict[str, str]:
    """Names of inner values that no port can have (a plain identifier holds no dot)."""
    return {n.name: f"inner.{n.name}" for n in nodes}


def _kind(graph: Graph, value: str) -> TensorType:
    kind = graph[value].type
    assert isinstance(kind, TensorType)
    return kind


def _const(name: str, array: np.ndarray, dtype: str | None = None) -> R.Const:
    tensor = Tensor.of(np.asarray(array), dtype)
    return R.Const(name=name, value=tensor, type=TensorType(tensor.dtype, tensor.shape))


def _pre(lowered: Lowered, graph: Graph) -> onnx.ModelProto:
    nodes = _closure(graph, list(lowered.inputs.values()), {})
    outputs: dict[str, TensorType] = {}
    rename: dict[str, str] = {}
    for name, value in lowered.inputs.items():
        kind = _kind(graph, value)
        if kind.dtype in NARROW:
            whole = TensorType("float32", kind.shape)
            wide = TensorType(str(np.dtype(NARROW[kind.dtype])), kind.shape)
            one = _const(f"{name}__one", np.array(1, np.float32))
            as_float = R.DequantizeLinear(name=f"{name}__float", inputs=(value, one.name), type=whole)
            nodes += [one, as_float, R.Cast(name=f"{name}__codes", inputs=(as_float.name,), type=wide)]
            value, kind = f"{name}__codes", wide
        elif isinstance(graph[value], R.Input):
            nodes += [graph[value], R.Reshape(name=f"{name}__codes", inputs=(value,), type=kind)]  # type: ignore[list-item]
            value = f"{name}__codes"
        outputs[value] = kind
        rename[value] = name
    inputs = {n.name: n.type for n in nodes if isinstance(n, R.Input)}
    own = {i: graph[i].origin.tensor for i in inputs}
    rename = _inner(nodes) | {v: n for v, n in rename.items() if n not in own.values()} | own
    return model_of(nodes, inputs, outputs, rename, "host_pre")


def _post(lowered: Lowered, graph: Graph, kernels: Mapping[str, Kernel]) -> onnx.ModelProto:
    heads = {lifted.start.value: (name, lifted) for name, lifted in lowered.outputs.items()}
    nodes: list[R.RealNode] = []
    inputs: dict[str, TensorType] = {}
    for value, (name, lifted) in heads.items():
        port = f"{name}__port"
        nodes += _head(graph, value, port, lifted)
        inputs[port] = _port_type(graph, value, lifted)
    rest = _closure(graph, graph.outputs, heads)
    nodes += [n for n in rest if n.name not in heads]
    nodes = _widened_zeros(nodes, heads)
    outputs = {o: _kind(graph, o) for o in graph.outputs}
    own = {o: graph[o].origin.tensor for o in outputs}
    rename = _inner(nodes) | {f"{name}__port": name for name in lowered.outputs if name not in own.values()} | own
    return with_kernels(model_of(nodes, inputs, outputs, rename, "host_post"), rest, graph, kernels)


def _port_type(graph: Graph, value: str, lifted: Lifted) -> TensorType:
    kind = _kind(graph, value)
    if isinstance(lifted.start, CodeStart):
        return TensorType(str(np.dtype(NARROW.get(kind.dtype, kind.dtype))), kind.shape)
    return TensorType("int32", kind.shape)


def _head(graph: Graph, value: str, port: str, lifted: Lifted) -> list[R.RealNode]:
    """From the port's integers to the value that the file's own nodes continue from."""
    start, kind = lifted.start, _kind(graph, value)
    if isinstance(start, CodeStart):
        wide = str(np.dtype(NARROW.get(kind.dtype, kind.dtype)))
        return [R.Cast(name=value, inputs=(port,), type=TensorType(wide, kind.shape))]
    double = TensorType("float64", kind.shape)
    steps: list[R.RealNode] = [R.Cast(name=f"{port}_double", inputs=(port,), type=double)]
    rank = len(kind.shape)

    def then(op: Any, word: str, array: np.ndarray) -> None:
        shape = [1] * rank
        if isinstance(start, AccumulatorStart):
            shape[1 if isinstance(graph[value], R.Conv) else rank - 1] = -1
        const = _const(f"{port}_{word}_value", np.asarray(array, np.float64).reshape(shape if array.size > 1 else ()))
        last = steps[-2].name if isinstance(steps[-1], R.Const) else steps[-1].name
        steps.extend([const, op(name=f"{port}_{word}", inputs=(last, const.name), type=double)])

    if isinstance(start, AccumulatorStart):
        then(R.Sub, "correction", start.correction)
        then(R.Mul, "scale", start.scale)
        then(R.Add, "bias", start.bias)
    elif isinstance(start, GridStart):
        then(R.Sub, "zero", np.array([start.zero]))
        then(R.Mul, "scale", np.array([start.step]))
    return [*steps, R.Cast(name=value, inputs=(steps[-1].name,), type=TensorType("float32", kind.shape))]


def _widened_zeros(nodes: list[R.RealNode], heads: Mapping[str, tuple[str, Lifted]]) -> list[R.RealNode]:
    """Zero points of packed codes grow with the codes at the port."""
    points = {
        n.inputs[2] for n in nodes if isinstance(n, R.DequantizeLinear) and len(n.inputs) > 2 and n.inputs[0] in heads
    }
    result: list[R.RealNode] = []
    for node in nodes:
        if isinstance(node, R.Const) and node.name in points and node.value.dtype in NARROW:
            wide = str(np.dtype(NARROW[node.value.dtype]))
            node = replace(node, value=Tensor(node.value.array, wide), type=TensorType(wide, node.type.shape))
        result.append(node)
    return result
