"""Checks of the tensors inside a model: type, dimensions, amount of data, finite values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from tcompile.errors import Problem, printable
from tcompile.frontend.protos import elements, shown, tensors_of, to_array

__all__ = ["MAX_ELEMENTS", "MAX_RANK", "byte_count", "dims_problem", "tensor_problems"]

MAX_ELEMENTS = 2**31  # of one tensor
MAX_RANK = 32  # dimensions of one tensor; numpy has 64

_T = TensorProto
_BITS: dict[int, int] = {
    _T.FLOAT: 32, _T.DOUBLE: 64, _T.FLOAT16: 16, _T.BFLOAT16: 16, _T.COMPLEX64: 64, _T.COMPLEX128: 128, _T.BOOL: 8,
    _T.INT8: 8, _T.UINT8: 8, _T.INT16: 16, _T.UINT16: 16, _T.INT32: 32, _T.UINT32: 32, _T.INT64: 64, _T.UINT64: 64,
    _T.FLOAT8E4M3FN: 8, _T.FLOAT8E4M3FNUZ: 8, _T.FLOAT8E5M2: 8, _T.FLOAT8E5M2FNUZ: 8, _T.FLOAT8E8M0: 8,
    _T.INT4: 4, _T.UINT4: 4, _T.FLOAT4E2M1: 4, _T.INT2: 2, _T.UINT2: 2,
}  # fmt: skip
_FLOATS = {_T.FLOAT, _T.DOUBLE, _T.FLOAT16, _T.BFLOAT16, *range(_T.FLOAT8E4M3FN, _T.FLOAT8E5M2FNUZ + 1)}
_FIELDS: dict[int, str] = {
    _T.FLOAT: "float_data", _T.COMPLEX64: "float_data", _T.DOUBLE: "double_data", _T.COMPLEX128: "double_data",
    _T.INT64: "int64_data", _T.UINT64: "uint64_data", _T.UINT32: "uint64_data",
}  # fmt: skip
_COMPLEX = (_T.COMPLEX64, _T.COMPLEX128)


def byte_count(tensor: TensorProto) -> int:
    """Bytes that the elements of ``tensor`` take; elements below 8 bits are packed."""
    return -(-elements(tensor.dims) * _BITS[tensor.data_type] // 8)


def dims_problem(tensor: TensorProto) -> Problem | None:
    """Return what is wrong with element type and dimensions, looked at before anything is allocated."""
    if tensor.data_type not in _BITS:
        kind = "strings" if tensor.data_type == _T.STRING else f"type {tensor.data_type}"
        return Problem("unsupported-type", f"tensor {printable(tensor.name)} holds {kind}, not numbers", (tensor.name,))
    if any(dim < 0 for dim in tensor.dims):
        return Problem("invalid-onnx", f"tensor {printable(tensor.name)} has a negative dimension", (tensor.name,))
    if len(tensor.dims) > MAX_RANK:
        message = f"tensor {printable(tensor.name)} must have at most {MAX_RANK} dimensions, not {len(tensor.dims)}"
        return Problem("too-large", message, (tensor.name,))
    if elements(tensor.dims) > MAX_ELEMENTS:
        count = elements(tensor.dims)
        return Problem(
            "too-large", f"tensor {printable(tensor.name)} must have at most 2^31 elements, not {count}", (tensor.name,)
        )
    return None


def tensor_problems(graph: GraphProto) -> Iterator[Problem]:
    """Yield every problem of the tensors of a graph; their data must be inside the model by now."""
    users = _users(graph)
    for tensor, owner in tensors_of(graph):
        problem = dims_problem(tensor) or _amount_problem(tensor)
        if problem is not None:
            yield problem
        elif tensor.data_type in _FLOATS and not np.isfinite(array := _values(tensor)).all():
            name = tensor.name if owner is None else owner.output[0]
            consumers = users.get(name, [])
            if np.isnan(array).any() or not all(_is_clip_bound(node, name) for node in consumers) or not consumers:
                yield _not_finite(name, array, consumers)


def _values(tensor: TensorProto) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return to_array(tensor).astype(np.float64)


def _amount_problem(tensor: TensorProto) -> Problem | None:
    count, field = elements(tensor.dims), _FIELDS.get(tensor.data_type, "int32_data")
    if tensor.HasField("raw_data"):
        found, expected, unit = len(tensor.raw_data), byte_count(tensor), "bytes"
    else:
        found, unit = len(getattr(tensor, field)), "values"
        expected = 2 * count if tensor.data_type in _COMPLEX else count
        if _BITS[tensor.data_type] < 8:
            expected = byte_count(tensor)
    if found == expected:
        return None
    message = f"tensor {printable(tensor.name)} must hold {expected} {unit} for its shape, not {found}"
    return Problem("invalid-onnx", message, (tensor.name,), "the file may be truncated; export it again")


def _users(graph: GraphProto) -> dict[str, list[NodeProto]]:
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            users.setdefault(name, []).append(node)
    return users


def _is_clip_bound(node: NodeProto, name: str) -> bool:
    return node.op_type == "Clip" and name not in node.input[:1]


def _not_finite(name: str, array: np.ndarray, users: list[NodeProto]) -> Problem:
    bad = int(array.size - np.isfinite(array).sum())
    used = f", used by {shown(users[0])}" if users else ""
    return Problem(
        "not-finite",
        f"tensor {printable(name)} must hold finite numbers; {bad} of {array.size} are NaN or infinite{used}",
        (name, *(node.name for node in users[:3])),
        "the training probably diverged; export a checkpoint with finite weights",
    )
