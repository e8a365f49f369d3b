"""Static types of a node's outputs.

The default domain is inferred by onnx itself, node by node, so that one bad node hides no other. The operators of
``com.microsoft`` that quantizing tools write, and QONNX's quantizers, have no schema there; their rules are here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, helper, shape_inference

from tcompile.errors import ModelError, Problem, printable
from tcompile.frontend.protos import (
    MICROSOFT,
    OPSET,
    QONNX_DOMAINS,
    attributes,
    elements,
    excerpt,
    shown,
    static_shape,
    tensor_type,
)
from tcompile.frontend.tensors import MAX_ELEMENTS, MAX_RANK

__all__ = ["check_static", "output_types"]

_REFUSALS = (
    onnx.defs.SchemaError,
    onnx.checker.ValidationError,
    shape_inference.InferenceError,
    RuntimeError,
    ValueError,
)
_OPSETS = [helper.make_opsetid("", OPSET)]
_LIKE_FIRST = {"QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QuickGelu", "BiasGelu", "Gelu", "FastGelu"}
_BROADCAST = {"QLinearAdd": 3, "QLinearMul": 3}
_POOLS = {"QLinearAveragePool": "AveragePool", "QLinearGlobalAveragePool": "GlobalAveragePool"}
_PLAIN = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul"}
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def output_types(
    node: NodeProto, types: Mapping[str, TypeProto], data: Mapping[str, TensorProto]
) -> dict[str, TypeProto]:
    """Types of the outputs of a node in the form of `OPSET`.

    Parameters
    ----------
    node : NodeProto
    types : mapping
        Static types of all inputs of the node.
    data : mapping
        Values of those inputs that are small constants; shapes may depend on them.

    Returns
    -------
    dict
        Type by output name; a dimension that cannot be known is left out.

    Raises
    ------
    ModelError
        The inputs do not fit the operator.
    """
    if node.domain in QONNX_DOMAINS:
        return {node.output[0]: _pooled(node, types) if node.op_type == "QuantAvgPool2d" else types[node.input[0]]}
    if node.domain == MICROSOFT:
        return _microsoft(node, types, data)
    return _standard(node, types, data)


def _pooled(node: NodeProto, types: Mapping[str, TypeProto]) -> TypeProto:
    """Type of an image behind QONNX's average."""
    values = attributes(node)
    kernel, stride = ([max(int(values.get(name, 1)), 1)] * 2 for name in ("kernel", "stride"))
    probe = helper.make_node("AveragePool", node.input[:1], ["y"], node.name, kernel_shape=kernel, strides=stride)
    return _standard(probe, types, {})["y"]


def _standard(node: NodeProto, types: Mapping[str, TypeProto], data: Mapping[str, TensorProto]) -> dict[str, TypeProto]:
    try:
        schema = onnx.defs.get_schema(node.op_type, OPSET, "")
        inputs = {name: types[name] for name in node.input if name}
        _check_sizes(node, [static_shape(types[name]) if name else None for name in node.input])
        values = {name: data[name] for name in node.input if name in data}
        outputs = shape_inference.infer_node_outputs(schema, node, inputs, values, opset_imports=_OPSETS)
        _check_operand(node, [static_shape(types[name]) if name else None for name in node.input], outputs)
    except _REFUSALS as error:
        raise _misfit(node, excerpt(error)) from error
    if node.op_type in ("Reshape", "Flatten"):
        before, after = static_shape(types[node.input[0]]), static_shape(outputs.get(node.output[0]))
        if before is not None and after is not None and elements(before) != elements(after):
            raise _misfit(node, f"{before} has not as many elements as {after}")
    return outputs


def _misfit(node: NodeProto, reason: str) -> ModelError:
    hint = "if a shape looks wrong, fix the input's with --shape"
    return ModelError(Problem("invalid-shape", f"{shown(node)} does not fit its inputs: {reason}", (node.name,), hint))


def _check_window(node: NodeProto, x: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    """A window must fit into its padded input once; onnx's inference is silent where it does not."""
    values, rank = attributes(node), len(x) - 2
    if values.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return
    pads = tuple(values.get("pads") or (0,) * 2 * rank)
    dilations = tuple(values.get("dilations") or (1,) * rank)
    if not len(kernel) == len(dilations) == len(pads) / 2 == rank:
        return  # onnx's inference says so
    for k, size in enumerate(x[2:]):
        room, reach = size + pads[k] + pads[rank + k], (kernel[k] - 1) * dilations[k] + 1
        if reach > room:
            raise _misfit(node, f"a window over {reach} elements on {room} along axis {k + 2}")


def _check_sizes(node: NodeProto, shapes: list[tuple[int, ...] | None]) -> None:
    """Check what onnx's inference leaves to the runtime: channels of weights and of parameters."""
    x = shapes[0] if shapes else None
    if x is None:
        return
    values = attributes(node)
    if node.op_type in ("MaxPool", "AveragePool"):
        _check_window(node, x, tuple(values.get("kernel_shape") or ()))
    if node.op_type == "Conv" and (w := shapes[1]) is not None:
        group = int(values.get("group", 1))
        if len(w) != len(x) or group < 1 or w[0] % group or x[1] != w[1] * group:
            raise _misfit(node, f"weights of shape {w} in {group} groups on {x}")
        _check_window(node, x, w[2:])
    elif node.op_type == "BatchNormalization":
        channels = x[1] if len(x) > 1 else 1
        if any(shape != (channels,) for shape in shapes[1:5]):
            raise _misfit(node, f"parameters of shapes {shapes[1:5]} on {channels} channels")
    elif node.op_type in _QUANTIZERS and (s := shapes[1]) is not None and len(s) == 1 and s != (1,):
        axis = int(values.get("axis", 1))
        if not -len(x) <= axis < len(x) or x[axis] != s[0]:
            raise _misfit(node, f"{s[0]} scales along axis {axis} of {x}")


def _check_operand(node: NodeProto, shapes: list[tuple[int, ...] | None], outputs: Mapping[str, TypeProto]) -> None:
    """A bias or a slope must not be larger than what it is added to or multiplies."""
    index = {"Gemm": 2, "PRelu": 1}.get(node.op_type)
    if index is None or index >= len(shapes) or (operand := shapes[index]) is None:
        return
    result = static_shape(outputs.get(node.output[0])) if node.op_type == "Gemm" else shapes[0]
    if result is None:
        return
    try:
        fits = np.broadcast_shapes(operand, result) == result
    except ValueError:
        fits = False
    if not fits:
        raise _misfit(node, f"an operand of shape {operand} on {result}")


def _microsoft(
    node: NodeProto, types: Mapping[str, TypeProto], data: Mapping[str, TensorProto]
) -> dict[str, TypeProto]:
    first, out = types[node.input[0]], node.output[0]
    op_type, values = node.op_type, attributes(node)
    if op_type in _QUANTIZERS or op_type in _PLAIN:
        plain = helper.make_node(_PLAIN.get(op_type, op_type), node.input, node.output[:1], node.name)
        plain.attribute.extend(a for a in node.attribute if _is_standard(plain.op_type, a.name))
        return _standard(plain, types, data)
    if op_type in _LIKE_FIRST:
        return {out: first}
    if op_type in _BROADCAST:
        other = types[node.input[_BROADCAST[op_type]]]
        probe = helper.make_node("Add", ["a", "b"], [out], node.name)
        real = {n: tensor_type(TensorProto.FLOAT, static_shape(t) or ()) for n, t in (("a", first), ("b", other))}
        shape = static_shape(_standard(probe, real, {})[out]) or ()
        return {out: tensor_type(first.tensor_type.elem_type, shape)}
    if op_type == "QLinearConcat":
        return {out: _concatenated(node, types, int(values["axis"]))}
    if op_type in _POOLS and not values.get("channels_last"):
        probe = helper.make_node(_POOLS[op_type], ["x"], [out], node.name)
        probe.attribute.extend(a for a in node.attribute if a.name != "channels_last")
        real = {"x": tensor_type(TensorProto.FLOAT, static_shape(first) or ())}
        shape = static_shape(_standard(probe, real, {})[out]) or ()
        return {out: tensor_type(first.tensor_type.elem_type, shape)}
    message = f"{printable(op_type)} of domain {MICROSOFT!r} (node {printable(node.name)}) is not supported"
    raise ModelError(Problem("unsupported-op", message, (node.name,)))


def _is_standard(op_type: str, attribute: str) -> bool:
    return attribute in onnx.defs.get_schema(op_type, OPSET, "").attributes


def _concatenated(node: NodeProto, types: Mapping[str, TypeProto], axis: int) -> TypeProto:
    parts = [static_shape(types[name]) or () for name in node.input[2::3]]
    joined = list(parts[0])
    joined[axis] = sum(part[axis] for part in parts)
    return tensor_type(types[node.input[2]].tensor_type.elem_type, joined)


def check_static(node: NodeProto, types: Mapping[str, TypeProto]) -> Problem | None:
    """Return the problem of an output whose shape is unknown or too large."""
    for name in node.output:
        shape = static_shape(types.get(name)) if name else ()
        if shape is None:
            message = f"the shape of {printable(name)}, computed by {shown(node)}, depends on the data"
            return Problem("dynamic-shape", message, (node.name,), "export the network with constant shapes")
        if len(shape) > MAX_RANK:
            message = f"{printable(name)}, computed by {shown(node)}, must have at most {MAX_RANK} dimensions, not {len(shape)}"
            return Problem("too-large", message, (node.name,))
        if elements(shape) > MAX_ELEMENTS:
            message = (
                f"{printable(name)}, computed by {shown(node)}, must have at most 2^31 elements, not {elements(shape)}"
            )
            return Problem("too-large", message, (node.name,))
    return None
