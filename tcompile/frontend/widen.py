"""Models in half precision (or double) as the same model in float32, in which all references compute."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper

from tcompile.frontend.protos import tensors_of, to_array

__all__ = ["in_float32"]

_OTHERS: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "precision", "stash_type")


def in_float32(model: ModelProto) -> list[str]:
    """Let every floating-point value of a model be float32; in place.

    Values of half precision stay as they are, those of double precision are rounded; sums are not rounded to half
    precision any more.

    Returns
    -------
    list of str
        A note, if anything changed.
    """
    graph, found = model.graph, set[str]()
    for tensor, _ in tensors_of(graph):
        if tensor.data_type in _OTHERS:
            found.add(_OTHERS[tensor.data_type])
            with np.errstate(over="ignore"):
                wide = to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    for value in (*graph.input, *graph.output):
        found |= _widened(value)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _OTHERS:
                found.add(_OTHERS[attribute.i])
                attribute.i = TensorProto.FLOAT
    return [f"values of {' and '.join(sorted(found))} are computed in float32"] if found else []


def _widened(value: ValueInfoProto) -> set[str]:
    kind = value.type.tensor_type
    if kind.elem_type not in _OTHERS:
        return set()
    name = _OTHERS[kind.elem_type]
    kind.elem_type = TensorProto.FLOAT
    return {name}
