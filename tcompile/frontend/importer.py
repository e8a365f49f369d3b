"""Normalized ONNX to the real level of the IR: every node becomes its dataclass, or a reason why it cannot."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tcompile.errors import ModelError, Problem, printable
from tcompile.ir import real as R
from tcompile.ir.graph import NARROW, Graph, Origin, Tensor, TensorType, identifier

__all__ = ["dtype_name", "form_problem", "from_tensor_proto", "import_model"]

HINTS = {
    "LSTM": "use 1-D convolutions in its place, or leave it to the host: cut the graph with --from or --until",
    "GRU": "use 1-D convolutions in its place, or leave it to the host: cut the graph with --from or --until",
}
DIRECT = frozenset(R.OPS) - {
    "Input", "Const", "Reshape", "Slice", "Pad", "ReduceMean", "ReduceSum", "TopIndex", "Cast", "QuantizeLinear",
}  # fmt: skip
SAME_ORDER = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
OTHERS = frozenset({"Slice", "Pad", "ReduceMean", "ReduceSum", "TopK", "Cast", "QuantizeLinear", "Split"})
IGNORED = {
    "Conv": {"auto_pad"}, "MaxPool": {"auto_pad", "storage_order"}, "AveragePool": {"auto_pad"},
    "BatchNormalization": {"momentum", "training_mode", "spatial"},
    "DequantizeLinear": {"block_size", "output_dtype"}, "QuantizeLinear": {"block_size", "output_dtype", "saturate", "precision"},
    "Cast": {"saturate", "round_mode"}, "Reshape": {"allowzero"}, "TopK": {"sorted"},
}  # fmt: skip


def dtype_name(element_type: int) -> str:
    """Name of an ONNX element type: ``float32``, ``int8``, ``uint4`` ..."""
    name = str(TensorProto.DataType.Name(element_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def from_tensor_proto(proto: TensorProto) -> Tensor:
    """An initializer as a tensor; sub-byte types one per byte."""
    dtype = dtype_name(proto.data_type)
    array = numpy_helper.to_array(proto)
    return Tensor(array.astype(NARROW[dtype]) if dtype in NARROW else array, dtype)


class _Refused(Exception):
    """One node has no counterpart."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


class _Importer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.taken: set[str] = set()
        self.values: dict[str, str] = {}
        self.nodes: dict[str, R.RealNode] = {}
        self.problems: list[Problem] = []
        self.types = {
            info.name: TensorType(
                dtype_name(info.type.tensor_type.elem_type),
                tuple(d.dim_value for d in info.type.tensor_type.shape.dim),
            )
            for info in [*self.graph.input, *self.graph.value_info, *self.graph.output]
        }

    def define(self, tensor: str, make: Callable[[str], R.RealNode]) -> None:
        name = identifier(tensor, self.taken)
        self.values[tensor] = name
        self.nodes[name] = make(name)

    def run(self) -> Graph:
        for info in self.graph.input:
            origin = Origin((), info.name)
            self.define(info.name, lambda n, t=info.name, o=origin: R.Input(name=n, type=self.types[t], origin=o))  # type: ignore[misc]
        for proto in self.graph.initializer:
            self.define(proto.name, lambda n, p=proto: self._const(n, p))  # type: ignore[misc]
        for node in self.graph.node:
            self._node(node)
        if self.problems:
            raise ModelError(self.problems)
        outputs = tuple(self.values[o.name] for o in self.graph.output)
        graph = Graph("real", tuple(self.nodes.values()), outputs)
        return graph.with_nodes(graph.nodes)

    def _const(self, name: str, proto: TensorProto) -> R.Const:
        tensor = from_tensor_proto(proto)
        return R.Const(
            name=name, value=tensor, type=TensorType(tensor.dtype, tensor.shape), origin=Origin((), proto.name)
        )

    def _node(self, proto: onnx.NodeProto) -> None:
        outputs = [o for o in proto.output if o]
        tensor = proto.output[-1] if proto.op_type == "TopK" else proto.output[0]
        origin = Origin(((proto.name, proto.op_type),), tensor)
        try:
            if not all(i in self.values for i in proto.input if i):
                if not _has_form(proto):
                    raise _unsupported(proto.op_type)
                raise _Refused("", "")  # an input's own node was refused; it has said why
            if not _has_form(proto):
                raise _unsupported(proto.op_type)
            if len(outputs) > 1 and proto.op_type not in ("TopK", "Split"):
                raise _Refused(
                    "several-outputs", f"{printable(proto.op_type)} must have one output, not {len(outputs)}"
                )
            if proto.op_type == "Split":
                self._split(proto, origin)
                return
            inputs = tuple(self.values[i] if i else "" for i in proto.input)
            self.define(tensor, lambda n: self._build(n, proto, inputs, self.types[tensor], origin))
        except _Refused as reason:
            self.values.pop(tensor, None)
            if reason.code:
                self.problems.append(Problem(reason.code, reason.message, (proto.name,), reason.hint))

    def _build(
        self, name: str, proto: onnx.NodeProto, inputs: tuple[str, ...], kind: TensorType, origin: Origin
    ) -> R.RealNode:
        op = proto.op_type
        common: dict[str, Any] = {"name": name, "type": kind, "origin": origin}
        attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        for key in IGNORED.get(op, ()):
            attributes.pop(key, None) if key != "block_size" else _refuse_blocks(attributes)
        if min(kind.shape, default=1) < 1:
            raise _Refused(
                "empty-tensor", f"{printable(op)} must not give an empty result, and gives {list(kind.shape)}"
            )
        if proto.domain not in ("", "ai.onnx"):
            raise _unsupported(f"{proto.domain}.{op}")
        if op in SAME_ORDER:
            return R.Reshape(inputs=inputs[:1], **common)
        if op in ("Slice", "Pad"):
            return getattr(self, f"_{op.lower()}")(inputs, attributes, common)  # type: ignore[no-any-return]
        if op in ("ReduceMean", "ReduceSum"):
            return self._reduce(op, inputs, attributes, common)
        if op == "TopK":
            return self._topk(proto, inputs, attributes, common)
        if op == "Cast":
            return R.Cast(inputs=inputs, **common)
        if op == "QuantizeLinear":
            return R.QuantizeLinear(inputs=inputs, axis=int(attributes.get("axis", 1)), **common)
        if op not in DIRECT:
            raise _unsupported(op)
        return self._direct(R.OPS[op], inputs, attributes, common)

    def _direct(
        self, cls: type[R.RealNode], inputs: tuple[str, ...], attributes: dict[str, Any], common: dict[str, Any]
    ) -> R.RealNode:
        known = {f.name for f in fields(cls)} - set(common) - {"inputs"}
        if unknown := sorted(set(attributes) - known):
            raise _Refused("unknown-attribute", f"{cls.__name__} has no attribute {', '.join(map(printable, unknown))}")
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        return cls(inputs=inputs, **common, **{k: _plain(v) for k, v in attributes.items()})

    def _constant(self, value: str, what: str) -> np.ndarray:
        node = self.nodes[value]
        if not isinstance(node, R.Const):
            raise _Refused("not-constant", f"{what} must be constant", "fold it before the export")
        return node.value.array

    def _slice(self, inputs: tuple[str, ...], attributes: dict[str, Any], common: dict[str, Any]) -> R.Slice:
        shape = self.nodes[inputs[0]].type.shape
        rank = len(shape)
        starts, steps = [0] * rank, [1] * rank
        given = self._constant(inputs[1], "the start of a Slice").ravel()
        axes = (
            self._constant(inputs[3], "the axes of a Slice").ravel()
            if len(inputs) > 3 and inputs[3]
            else range(len(given))
        )
        pace = (
            self._constant(inputs[4], "the steps of a Slice").ravel()
            if len(inputs) > 4 and inputs[4]
            else [1] * len(given)
        )
        for axis, start, step in zip(axes, given, pace, strict=True):
            axis, start, step = int(axis) % rank, int(start), int(step)
            size = shape[axis]
            start += size if start < 0 else 0
            starts[axis] = min(max(start, 0), size if step > 0 else size - 1)
            steps[axis] = step
        return R.Slice(inputs=inputs[:1], starts=tuple(starts), steps=tuple(steps), **common)

    def _pad(self, inputs: tuple[str, ...], attributes: dict[str, Any], common: dict[str, Any]) -> R.Pad:
        mode = attributes.get("mode", b"constant").decode()
        if mode != "constant":
            raise _Refused("pad-mode", f"a Pad must fill with a constant, not {printable(mode)}")
        rank = len(self.nodes[inputs[0]].type.shape)
        given = [int(p) for p in self._constant(inputs[1], "the widths of a Pad").ravel()]
        axes = range(rank)
        if len(inputs) > 3 and inputs[3]:
            axes = [int(a) % rank for a in self._constant(inputs[3], "the axes of a Pad").ravel()]  # type: ignore[assignment]
        pads = [0] * (2 * rank)
        for k, axis in enumerate(axes):
            pads[axis], pads[rank + axis] = given[k], given[len(axes) + k]
        if min(pads, default=0) < 0:
            raise _Refused("negative-pad", "a Pad must not crop", "use a Slice")
        filled = (
            self._constant(inputs[2], "the value of a Pad").ravel() if len(inputs) > 2 and inputs[2] else np.zeros(1)
        )
        if filled.size != 1:
            raise _Refused("invalid-onnx", f"the value of a Pad must be one number, not {filled.size}")
        value = float(filled[0])
        return R.Pad(inputs=inputs[:1], pads=tuple(pads), value=value, **common)

    def _reduce(
        self, op: str, inputs: tuple[str, ...], attributes: dict[str, Any], common: dict[str, Any]
    ) -> R.RealNode:
        rank = len(self.nodes[inputs[0]].type.shape)
        given = self._constant(inputs[1], f"the axes of {op}").ravel() if len(inputs) > 1 and inputs[1] else ()
        axes: Sequence[int] = [int(a) % rank for a in given] or range(rank)
        cls = R.ReduceMean if op == "ReduceMean" else R.ReduceSum
        return cls(inputs=inputs[:1], axes=tuple(sorted(axes)), keepdims=int(attributes.get("keepdims", 1)), **common)

    def _topk(
        self, proto: onnx.NodeProto, inputs: tuple[str, ...], attributes: dict[str, Any], common: dict[str, Any]
    ) -> R.TopIndex:
        count = int(self._constant(inputs[1], "the k of TopK").ravel()[0])
        used = {i for n in self.graph.node for i in n.input} | {o.name for o in self.graph.output}
        if count != 1 or proto.output[0] in used:
            raise _Refused(
                "unsupported-op", f"TopK must have k = 1 and only its index used, not k = {count}", "cut before it"
            )
        return R.TopIndex(
            inputs=inputs[:1], axis=int(attributes.get("axis", -1)), largest=int(attributes.get("largest", 1)), **common
        )

    def _split(self, proto: onnx.NodeProto, origin: Origin) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        source = self.values[proto.input[0]]
        rank = len(self.nodes[source].type.shape)
        axis = int(attributes.get("axis", 0)) % rank
        start = 0
        for tensor in proto.output:
            kind = self.types[tensor]
            starts = tuple(start if a == axis else 0 for a in range(rank))
            self.define(
                tensor,
                lambda n, k=kind, s=starts, t=tensor: R.Slice(  # type: ignore[misc]
                    name=n, inputs=(source,), type=k, starts=s, steps=(1,) * rank, origin=Origin(origin.nodes, t)
                ),
            )
            start += kind.shape[axis]


def _refuse_blocks(attributes: dict[str, Any]) -> None:
    if attributes.pop("block_size", 0):
        raise _Refused("block-quantization", "scales must be per tensor or per channel, not per block")


def _has_form(proto: onnx.NodeProto) -> bool:
    known = proto.op_type in DIRECT or proto.op_type in SAME_ORDER or proto.op_type in OTHERS
    return known and proto.domain in ("", "ai.onnx")


def _unsupported(op: str) -> _Refused:
    close = difflib.get_close_matches(op, DIRECT, n=1, cutoff=0.85)
    hint = HINTS.get(op, f"is {close[0]} meant?" if close else "cut the graph before it with --until")
    return _Refused("unsupported-op", f"{printable(op)} has no integer form here", hint)


def form_problem(proto: onnx.NodeProto) -> Problem | None:
    """What is wrong with a node whose operator has no counterpart, whatever its inputs; None if it has one."""
    if _has_form(proto):
        return None
    reason = _unsupported(proto.op_type)
    return Problem(reason.code, reason.message, (proto.name,), reason.hint)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (list, tuple, np.ndarray)):
        return tuple(int(v) for v in value)
    return value


def import_model(model: onnx.ModelProto) -> Graph:
    """Read a normalized model into the real level.

    Raises
    ------
    ModelError
        Some nodes have no counterpart; every one is listed.
    """
    return _Importer(model).run()
