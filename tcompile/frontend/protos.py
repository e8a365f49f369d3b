"""Small helpers around ONNX messages that the whole frontend shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from tcompile.errors import ModelError, Problem, printable

__all__ = [
    "CHANNELS_LAST",
    "DEFAULT_DOMAINS",
    "IR_VERSION",
    "MICROSOFT",
    "OPSET",
    "QONNX_DOMAINS",
    "Names",
    "attributes",
    "elements",
    "excerpt",
    "graph_inputs",
    "opset_of",
    "raise_all",
    "shown",
    "static_shape",
    "tensor_type",
    "tensors_of",
    "to_array",
]

OPSET = 25  # the first with INT2 tensors
IR_VERSION = 13
DEFAULT_DOMAINS = ("", "ai.onnx")
MICROSOFT = "com.microsoft"
CHANNELS_LAST = "qonnx.custom_op.channels_last"
QONNX_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")

_EXCERPT = 300  # characters of a library's message that we repeat


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes of a node as Python values; strings are decoded."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for k, v in values.items()}


def shown(node: NodeProto) -> str:
    """Operator and name of a node, for a message."""
    return f"{printable(node.op_type)} (node {printable(node.name)})"


def excerpt(error: BaseException) -> str:
    """Return the printable beginning of a library's error message, on one line."""
    text = " ".join(str(error).split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"


def raise_all(problems: Iterable[Problem]) -> None:
    """Raise one `ModelError` that lists every problem, or return if there is none."""
    found = tuple(dict.fromkeys(problems))
    if found:
        raise ModelError(found)


def tensor_type(elem_type: int, shape: Iterable[int]) -> TypeProto:
    """Type of a tensor with a static shape."""
    return helper.make_tensor_type_proto(elem_type, list(shape))


def static_shape(value_type: TypeProto | None) -> tuple[int, ...] | None:
    """Shape of a tensor type, or None unless it is a tensor whose rank and dimensions are all known."""
    if value_type is None or not value_type.HasField("tensor_type") or not value_type.tensor_type.HasField("shape"):
        return None
    dims = value_type.tensor_type.shape.dim
    if not all(d.HasField("dim_value") and d.dim_value >= 0 for d in dims):
        return None
    return tuple(int(d.dim_value) for d in dims)


def elements(shape: Iterable[int]) -> int:
    """Count the elements of a shape exactly, in Python integers."""
    count = 1
    for dim in shape:
        count *= dim
    return count


def to_array(tensor: TensorProto) -> np.ndarray:
    """Values of a tensor whose data is inside the message."""
    return np.asarray(numpy_helper.to_array(tensor))


def tensors_of(graph: GraphProto) -> Iterator[tuple[TensorProto, NodeProto | None]]:
    """Yield every dense tensor of a graph: its initializers, then the attributes of its nodes with the node."""
    for tensor in graph.initializer:
        yield tensor, None
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t, node
            for tensor in attribute.tensors:
                yield tensor, node


def graph_inputs(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    """Inputs that the user feeds: those that are no initializers."""
    constant = {t.name for t in graph.initializer}
    return [value for value in graph.input if value.name not in constant]


def opset_of(model: ModelProto) -> int | None:
    """Version of the default operator set, or None if the model does not say."""
    versions = [entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS]
    return max(versions) if versions else None


class Names:
    """A set of used names that makes new ones unique by a numeric suffix."""

    def __init__(self, used: Iterable[str] = ()) -> None:
        self._used = set(used)
        self._next: dict[str, int] = {}

    def fresh(self, wanted: str) -> str:
        """Return ``wanted`` if it is free, else ``wanted_1``, ``wanted_2`` ..., and mark it used."""
        name, count = wanted, self._next.get(wanted, 0)
        while name in self._used:
            count += 1
            name = f"{wanted}_{count}"
        self._next[wanted] = count
        self._used.add(name)
        return name
