"""Rewrites one node of an operator set from 7 on into the form of `OPSET`.

Each rule states in its docstring what changed between the versions. An operator without a rule passes if its definition
is the same, or if only its types were widened; otherwise it is refused. Padding by ``auto_pad``, kernel shapes, strides
and dilations become explicit, whatever the version.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from tcompile.errors import ModelError, Problem
from tcompile.frontend.parts import Context, Rule
from tcompile.frontend.protos import MICROSOFT, OPSET, attributes, elements, shown

__all__ = ["modernize", "windowed"]


_WIDENED = {
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "AveragePool",
    "BitShift", "Cast", "CastLike", "Ceil", "Celu", "Concat", "ConstantOfShape", "Conv", "ConvTranspose", "Cos",
    "Cosh", "CumSum", "DepthToSpace", "DequantizeLinear", "Det", "Div", "Einsum", "Elu", "Equal", "Erf", "Exp",
    "Expand", "EyeLike", "Flatten", "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gemm",
    "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish",
    "Hardmax", "Identity", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "MaxRoiPool", "MaxUnpool", "Mean",
    "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "NonMaxSuppression", "NonZero", "Not", "OneHot",
    "Or", "PRelu", "Pow", "QLinearMatMul", "QuantizeLinear", "RNN", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike", "Range", "Reciprocal", "Relu", "Reshape", "ReverseSequence", "RoiAlign",
    "Round", "ScatterElements", "ScatterND", "Selu", "Shape", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Softplus",
    "Softsign", "SpaceToDepth", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Tile", "Transpose", "Trilu",
    "Unique", "Where", "Xor",
}  # fmt: skip
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_MATRIX_RANK = 2


def modernize(node: NodeProto, context: Context) -> list[NodeProto]:
    """Return the nodes that compute the outputs of ``node`` in the form of `OPSET`.

    Parameters
    ----------
    node : NodeProto
        Node of the default domain in the form of ``context.opset``.
    context : Context
        The graph around it.

    Raises
    ------
    ModelError
        The operator means something else now and has no rule, or is in training mode.
    """
    if node.domain == MICROSOFT and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return [_in_default_domain(node)]
    if node.domain:
        return [node]
    rule = _RULES.get(node.op_type)
    if rule is not None:
        return rule(node, context)
    old = onnx.defs.get_schema(node.op_type, context.opset, "")
    same = onnx.defs.has(node.op_type, OPSET, "") and (
        old.since_version == onnx.defs.get_schema(node.op_type, OPSET, "").since_version
    )
    if not same and node.op_type not in _WIDENED:
        message = f"{shown(node)} of operator set {context.opset} has no form in operator set {OPSET} here"
        raise ModelError(
            Problem("unsupported-op", message, (node.name,), "convert the file with onnx.version_converter")
        )
    return [node]


def _copy(node: NodeProto, **changes: Any) -> NodeProto:
    """Copy a node; attributes given here are set, those given as None are removed."""
    result = NodeProto()
    result.CopyFrom(node)
    kept = [a for a in result.attribute if a.name not in changes]
    result.ClearField("attribute")
    result.attribute.extend(kept)
    result.attribute.extend(helper.make_attribute(k, v) for k, v in changes.items() if v is not None)
    return result


def _with_inputs(node: NodeProto, inputs: list[str]) -> NodeProto:
    result = _copy(node)
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    result.ClearField("input")
    result.input.extend(inputs)
    return result


def _in_default_domain(node: NodeProto) -> NodeProto:
    """16-bit and 4-bit codes, for which this domain was used, are standard since 21."""
    result = _copy(node)
    result.domain = ""
    return result


def _integers(node: NodeProto, context: Context, what: str, values: Any) -> str:
    return context.add_constant(f"{node.name}_{what}", np.asarray(values, dtype=np.int64))


def _only_first_output(node: NodeProto, context: Context) -> list[NodeProto]:
    """Drop outputs after the first if nothing uses them."""
    result = _copy(node)
    if not any(name and context.is_used(name) for name in node.output[1:]):
        del result.output[1:]
    return [result]


def _clip(node: NodeProto, context: Context) -> list[NodeProto]:
    """Bounds are inputs since 11."""
    if context.opset >= 11:
        return [node]
    values, bounds = attributes(node), []
    for key in ("min", "max"):
        value = values.get(key)
        bounds.append(
            "" if value is None else context.add_constant(f"{node.name}_{key}", np.asarray(value, dtype=np.float32))
        )
    return [_with_inputs(_copy(node, min=None, max=None), [node.input[0], *bounds])]


def _slice(node: NodeProto, context: Context) -> list[NodeProto]:
    """Starts, ends and axes are inputs since 10."""
    if context.opset >= 10:
        return [node]
    values = attributes(node)
    parts = [_integers(node, context, k, values[k]) for k in ("starts", "ends", "axes") if k in values]
    return [_with_inputs(_copy(node, starts=None, ends=None, axes=None), [node.input[0], *parts])]


def _pad(node: NodeProto, context: Context) -> list[NodeProto]:
    """Pads and value are inputs since 11."""
    if context.opset >= 11:
        return [node]
    values = attributes(node)
    pads = _integers(node, context, "pads", values["pads"])
    value = context.add_constant(f"{node.name}_value", np.asarray(values.get("value", 0.0), dtype=np.float32))
    return [_with_inputs(_copy(node, pads=None, value=None), [node.input[0], pads, value])]


def _axes_input(since: int) -> Rule:
    def rule(node: NodeProto, context: Context) -> list[NodeProto]:
        values = attributes(node)
        if context.opset >= since or "axes" not in values:
            return [node]
        return [_with_inputs(_copy(node, axes=None), [node.input[0], _integers(node, context, "axes", values["axes"])])]

    rule.__doc__ = f"Axes are an input since {since}."
    return rule


def _softmax(node: NodeProto, context: Context) -> list[NodeProto]:
    """Before 13 the tensor was seen as a matrix, split at the axis (default 1); since then along one axis only."""
    if context.opset >= 13:
        return [node]
    shape = context.shape(node.input[0])
    axis = attributes(node).get("axis", 1)
    axis += len(shape) if axis < 0 else 0
    if not 0 <= axis < max(len(shape), 1):
        raise ModelError(Problem("invalid-shape", f"{shown(node)} has no axis {axis} in shape {shape}", (node.name,)))
    if axis == len(shape) - 1:
        return [_copy(node, axis=-1)]
    flat = context.fresh(f"{node.input[0]}_matrix")
    result = context.fresh(f"{node.output[0]}_matrix")
    matrix = [elements(shape[:axis]), elements(shape[axis:])]
    before = [node.input[0], _integers(node, context, "matrix", matrix)]
    after = [result, _integers(node, context, "shape", shape)]
    core = helper.make_node(node.op_type, [flat], [result], node.name, axis=-1)
    return [
        helper.make_node("Reshape", before, [flat], context.fresh(f"{node.name}_to_matrix")),
        core,
        helper.make_node("Reshape", after, list(node.output), context.fresh(f"{node.name}_from_matrix")),
    ]


def _split(node: NodeProto, context: Context) -> list[NodeProto]:
    """Sizes are an input since 13; the number of equal parts is an attribute since 18."""
    values = attributes(node)
    if context.opset < 13 and "split" in values:
        return [
            _with_inputs(_copy(node, split=None), [node.input[0], _integers(node, context, "split", values["split"])])
        ]
    if context.opset < 18 and (len(node.input) < 2 or not node.input[1]):
        return [_copy(node, num_outputs=len(node.output))]
    return [node]


def _topk(node: NodeProto, context: Context) -> list[NodeProto]:
    """k is an input since 10."""
    if context.opset >= 10:
        return [node]
    k = _integers(node, context, "k", [attributes(node)["k"]])
    return [_with_inputs(_copy(node, k=None), [node.input[0], k])]


def _batch_normalization(node: NodeProto, context: Context) -> list[NodeProto]:
    """``spatial`` went in 9; outputs after the first are for training."""
    values = attributes(node)
    if values.get("training_mode") or any(name and context.is_used(name) for name in node.output[1:]):
        raise ModelError(
            Problem("training-mode", f"{shown(node)} is in training mode", (node.name,), "export for inference")
        )
    if not values.get("spatial", 1) and len(context.shape(node.input[0])) > _MATRIX_RANK:
        raise ModelError(Problem("unsupported-op", f"{shown(node)} has spatial=0", (node.name,)))
    return _only_first_output(_copy(node, spatial=None, training_mode=None, momentum=None), context)


def _dropout(node: NodeProto, context: Context) -> list[NodeProto]:
    """Ratio is an input since 12; in inference it does nothing."""
    training = context.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.False_
    if any(name and context.is_used(name) for name in node.output[1:]):
        raise ModelError(Problem("unsupported-op", f"{shown(node)}: its mask must not be used", (node.name,)))
    if training is None or bool(training):
        raise ModelError(
            Problem("training-mode", f"{shown(node)} is in training mode", (node.name,), "export for inference")
        )
    return [helper.make_node("Identity", node.input[:1], node.output[:1], node.name)]


def _upsample(node: NodeProto, context: Context) -> list[NodeProto]:
    """Resize in asymmetric coordinates, rounding down."""
    values = attributes(node)
    mode = values.get("mode", "nearest")
    if context.opset < 9:
        scales = context.add_constant(f"{node.name}_scales", np.asarray(values["scales"], dtype=np.float32))
    else:
        scales = node.input[1]
    return [_asymmetric(node, context, scales, "linear" if mode in ("linear", "bilinear") else mode)]


def _asymmetric(node: NodeProto, context: Context, scales: str, mode: str) -> NodeProto:
    factors = context.constant(scales)
    if factors is None or (factors < 1).any():
        raise ModelError(Problem("unsupported-op", f"{shown(node)} must enlarge by constant factors", (node.name,)))
    return helper.make_node(
        "Resize", [node.input[0], "", scales], list(node.output), node.name,
        mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip


def _resize(node: NodeProto, context: Context) -> list[NodeProto]:
    """Version 10 was `Upsample`; since 13 exactly one of scales and sizes is given."""
    values = attributes(node)
    if context.opset < 11:
        return [_asymmetric(node, context, node.input[1], values.get("mode", "nearest"))]
    if values.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        raise ModelError(Problem("unsupported-op", f"{shown(node)} has mode tf_half_pixel_for_nn", (node.name,)))
    inputs = list(node.input) + [""] * (4 - len(node.input))
    kept = [name if name and elements(context.shape(name)) else "" for name in inputs[1:]]
    return [_with_inputs(node, [inputs[0], *kept])]


def _scatter(node: NodeProto, context: Context) -> list[NodeProto]:
    """Renamed in 11."""
    result = _copy(node)
    result.op_type = "ScatterElements"
    return [result]


def windowed(node: NodeProto, context: Context) -> list[NodeProto]:
    """Write kernel shape, strides, dilations and pads in full."""
    values, shape = attributes(node), context.shape(node.input[0])
    rank = len(shape) - 2
    if rank < 1:
        raise ModelError(
            Problem("invalid-shape", f"{shown(node)} must have spatial axes, not shape {shape}", (node.name,))
        )
    weight = 3 if node.op_type == "QLinearConv" else 1
    has_weight = node.op_type in ("Conv", "ConvInteger", "QLinearConv")
    kernel = list(values.get("kernel_shape") or (context.shape(node.input[weight])[2:] if has_weight else ()))
    strides, dilations = list(values.get("strides") or [1] * rank), list(values.get("dilations") or [1] * rank)
    mode = values.get("auto_pad", "NOTSET")
    pads = list(values.get("pads") or [0] * 2 * rank) if mode == "NOTSET" else [0] * 2 * rank
    lengths = {len(kernel), len(strides), len(dilations), len(pads) - rank}
    if lengths != {rank} or min(strides + dilations + kernel) < 1 or mode not in _PADDINGS:
        message = f"{shown(node)}: kernel {kernel}, strides {strides}, dilations {dilations}, pads {pads} do not fit"
        raise ModelError(Problem("invalid-onnx", f"{message} {rank} spatial axes", (node.name,)))
    if mode.startswith("SAME"):
        pads = _same_pads(node, shape[2:], kernel, strides, dilations, upper=mode == "SAME_UPPER")
    changed = _copy(node, kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads, auto_pad=None)
    return _only_first_output(changed, context) if node.op_type == "MaxPool" else [changed]


_PADDINGS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def _same_pads(
    node: NodeProto,
    size: tuple[int, ...],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    *,
    upper: bool,
) -> list[int]:
    """Pads that make the output the input's size divided by the strides; none where windows end before the input does.

    There onnxruntime 1.32 fails on pools, or crops codes: such pools are refused.
    """
    totals = [
        (-(-n // s) - 1) * s + (k - 1) * d + 1 - n for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    if min(totals) < 0 and "Pool" in node.op_type:
        message = f"{shown(node)} must write its pads: with auto_pad, windows {kernel} at strides {strides} would crop {list(size)}"
        raise ModelError(Problem("unsupported-op", message, (node.name,), "give pads of 0 in place of auto_pad"))
    totals = [max(t, 0) for t in totals]
    begin = [t // 2 if upper else t - t // 2 for t in totals]
    return begin + [t - b for t, b in zip(totals, begin, strict=True)]


_RULES: dict[str, Rule] = {
    "Clip": _clip,
    "Slice": _slice,
    "Pad": _pad,
    "Squeeze": _axes_input(13),
    "Unsqueeze": _axes_input(13),
    "ReduceSum": _axes_input(13),
    **{f"Reduce{kind}": _axes_input(18) for kind in _REDUCTIONS},
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Hardmax": _softmax,
    "Split": _split,
    "TopK": _topk,
    "BatchNormalization": _batch_normalization,
    "Dropout": _dropout,
    "Upsample": _upsample,
    "Resize": _resize,
    "Scatter": _scatter,
    "Conv": windowed,
    "ConvInteger": windowed,
    "QLinearConv": windowed,
    "MaxPool": windowed,
    "AveragePool": windowed,
}
