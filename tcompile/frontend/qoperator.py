"""Rewrites operators on codes as dequantizers, the operator on real numbers and a quantizer, as QDQ files have them.

The operator keeps the node's name, so that onnxruntime's integer kernel, which the reference runs, is found by it:
its integers are reproduced (`tcompile.lowering.lifted.IntegerKernelStart`), not those of the real numbers between.
``ConvInteger`` and ``MatMulInteger`` are sums of codes: scales of 1, and the sum as int32.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from tcompile.frontend.modernize import windowed
from tcompile.frontend.parts import Context, Parts, Rule
from tcompile.frontend.protos import MICROSOFT, attributes

__all__ = ["RULES"]


def _dequantized(
    parts: Parts, x: str, scale: np.ndarray, zero: np.ndarray | None, axis: int, what: str, *, known: bool = False
) -> str:
    """A dequantizer of a code tensor; scale and zero point of a channel each, or one for all.

    Parameters
    ----------
    known : bool
        Whether the codes must be constant.
    """
    if known and parts.context.constant(x) is None:
        raise parts.refused(f"its {what} must be constant: nothing here multiplies two unknowns")
    zeros = np.zeros((), np.int64) if zero is None else zero
    size = max(scale.size, zeros.size)
    if any(p.size not in (1, size) for p in (scale, zeros)) or (size > 1 and parts.context.shape(x)[axis] != size):
        raise parts.misfit(f"{what} has {scale.size} scales and {zeros.size} zero points")
    shape = () if size == 1 else (size,)
    names = [parts.constant(f"{what}_scale", np.broadcast_to(scale.ravel(), (size,)).reshape(shape), np.float32)]
    if zero is not None:
        whole = np.broadcast_to(zero.ravel(), (size,)).reshape(shape)
        names.append(parts.constant(f"{what}_zero", whole, zero.dtype))
    return parts.add("DequantizeLinear", [x, *names], axis=axis)


def _operand(parts: Parts, first: int, what: str, axis: int = 0, *, known: bool = False) -> tuple[str, np.ndarray]:
    """The operand whose codes, scale and zero point begin at an input; with its scale."""
    scale, zero = parts.known(first + 1, f"scale of {what}"), None
    if parts.given(first + 2):
        zero = parts.known(first + 2, f"zero point of {what}")
    if not known and scale.size > 1:
        raise parts.refused(f"its {what} must have one scale, not {scale.size}")
    return _dequantized(parts, parts.given(first), scale, zero, axis, what, known=known), scale


def _quantized(parts: Parts, y: str, first: int) -> list[NodeProto]:
    """A quantizer with the scale and zero point that begin at an input; codes are uint8 without the latter."""
    scale = parts.known(first, "output scale")
    zero = parts.known(first + 1, "output zero point") if parts.given(first + 1) else np.zeros((), np.uint8)
    if scale.size != 1 or zero.size != 1:
        raise parts.refused("its output must have one scale")
    names = [
        parts.constant("y_scale", scale.reshape(()), np.float32),
        parts.constant("y_zero", zero.reshape(()), zero.dtype),
    ]
    return parts.done(parts.add("QuantizeLinear", [y, *names]))


def _bias(parts: Parts, index: int, x_scale: np.ndarray, w_scale: np.ndarray) -> list[str]:
    """The bias in units of the sum."""
    name = parts.given(index)
    if not name:
        return []
    unit = x_scale.astype(np.float32).reshape(()) * w_scale.astype(np.float32).ravel()
    return [_dequantized(parts, name, unit, None, 0, "bias", known=True)]


def _channels_first(parts: Parts) -> None:
    if parts.integer("channels_last", 0):
        raise parts.refused("its channels must be axis 1, not the last one", "export it with channels first")


def _conv(node: NodeProto, context: Context) -> list[NodeProto]:
    """QLinearConv(x, w, bias): weights per output channel."""
    parts = Parts(node, context)
    _channels_first(parts)
    (node,) = windowed(node, context)  # of onnxruntime's own domain it has not been
    x, x_scale = _operand(parts, 0, "input")
    w, w_scale = _operand(parts, 3, "weights", known=True)
    values = {k: v for k, v in attributes(node).items() if k not in ("auto_pad", "channels_last")}
    y = parts.add("Conv", [x, w, *_bias(parts, 8, x_scale, w_scale)], main=True, **values)
    return _quantized(parts, y, 6)


def _matmul(node: NodeProto, context: Context) -> list[NodeProto]:
    """QLinearMatMul(a, b): the second operand constant, scales per column."""
    parts = Parts(node, context)
    a, _ = _operand(parts, 0, "input")
    b, _ = _operand(parts, 3, "weights", len(context.shape(parts.given(3))) - 1, known=True)
    return _quantized(parts, parts.add("MatMul", [a, b], main=True), 6)


def _gemm(node: NodeProto, context: Context) -> list[NodeProto]:
    """QGemm(a, b, c): without an output scale the result is real."""
    parts = Parts(node, context)
    flipped = parts.integer("transB", 0)
    a, a_scale = _operand(parts, 0, "input")
    b, b_scale = _operand(parts, 3, "weights", 0 if flipped else 1, known=True)
    alpha = float(attributes(node).get("alpha", 1.0))
    more = _bias(parts, 6, a_scale * np.float32(alpha), b_scale)
    y = parts.add("Gemm", [a, b, *more], main=True, alpha=alpha, transA=parts.integer("transA", 0), transB=flipped)
    return _quantized(parts, y, 7) if parts.given(7) else parts.done(y)


def _binary(op_type: str) -> Rule:
    def rule(node: NodeProto, context: Context) -> list[NodeProto]:
        parts = Parts(node, context)
        operands = [_operand(parts, first, what)[0] for first, what in ((0, "first input"), (3, "second input"))]
        return _quantized(parts, parts.add(op_type, operands, main=True), 6)

    rule.__doc__ = f"{op_type} of two code tensors."
    return rule


def _unary(op_type: str, *kept: str) -> Rule:
    def rule(node: NodeProto, context: Context) -> list[NodeProto]:
        parts = Parts(node, context)
        x, _ = _operand(parts, 0, "input")
        values = {k: v for k, v in attributes(node).items() if k in kept}
        return _quantized(parts, parts.add(op_type, [x], main=True, **values), 3)

    rule.__doc__ = f"{op_type} of a code tensor."
    return rule


def _table(op_type: str, *kept: str) -> Rule:
    inner = _unary(op_type, *kept)

    def rule(node: NodeProto, context: Context) -> list[NodeProto]:
        if len(node.input) < 5:
            raise Parts(node, context).refused(
                "its output must have a zero point: onnxruntime ends without", "give it one of 0"
            )
        return inner(node, context)

    rule.__doc__ = inner.__doc__
    return rule


def _pool(op_type: str, *kept: str) -> Rule:
    inner = _unary(op_type, *kept)

    def rule(node: NodeProto, context: Context) -> list[NodeProto]:
        parts = Parts(node, context)
        _channels_first(parts)
        return inner(node, context)

    rule.__doc__ = inner.__doc__
    return rule


def _concat(node: NodeProto, context: Context) -> list[NodeProto]:
    """QLinearConcat: the output's scale and zero point come first."""
    parts = Parts(node, context)
    if len(node.input) < 5 or len(node.input) % 3 != 2:
        raise parts.misfit(f"it must have 2 inputs and 3 more for each part, not {len(node.input)}")
    if not all(node.input[4::3]):
        raise parts.refused("each part must have a zero point: onnxruntime ends without", "give it one of 0")
    inputs = [_operand(parts, first, "input")[0] for first in range(2, len(node.input), 3)]
    return _quantized(parts, parts.add("Concat", inputs, main=True, axis=parts.integer("axis", 1)), 0)


def _sum(op_type: str) -> Rule:
    def rule(node: NodeProto, context: Context) -> list[NodeProto]:
        parts, one = Parts(node, context), np.ones((), np.float32)
        rows = 0 if op_type == "Conv" else len(context.shape(parts.given(1))) - 1
        zeros = [parts.known(k, w) if parts.given(k) else None for k, w in ((2, "zero point"), (3, "zero points"))]
        if zeros[0] is not None and zeros[0].size > 1:
            raise parts.refused("its input must have one zero point")
        x = _dequantized(parts, parts.given(0), one, zeros[0], 0, "input")
        w = _dequantized(parts, parts.given(1), one, zeros[1], rows, "weights", known=True)
        values = {k: v for k, v in attributes(node).items() if k != "auto_pad"}
        y = parts.add(op_type, [x, w], main=True, **values)
        return parts.done(parts.add("Cast", [y], to=TensorProto.INT32))

    rule.__doc__ = f"{op_type} of codes less their zero points."
    return rule


def _dynamic(node: NodeProto, context: Context) -> list[NodeProto]:
    """A scale that is known at run time only has no hardware here."""
    raise Parts(node, context).refused(
        "its scale would be computed from every frame", "quantize statically: scales must be known at compile time"
    )


_WINDOW = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode", "count_include_pad", "auto_pad")
RULES: dict[tuple[str, str], Rule] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    ("", "ConvInteger"): _sum("Conv"),
    ("", "MatMulInteger"): _sum("MatMul"),
    ("", "DynamicQuantizeLinear"): _dynamic,
    (MICROSOFT, "QLinearConv"): _conv,
    (MICROSOFT, "QGemm"): _gemm,
    (MICROSOFT, "QLinearAdd"): _binary("Add"),
    (MICROSOFT, "QLinearMul"): _binary("Mul"),
    (MICROSOFT, "QLinearConcat"): _concat,
    (MICROSOFT, "QLinearLeakyRelu"): _table("LeakyRelu", "alpha"),
    (MICROSOFT, "QLinearSigmoid"): _table("Sigmoid"),
    (MICROSOFT, "QLinearSoftmax"): _unary("Softmax", "axis"),
    (MICROSOFT, "QLinearAveragePool"): _pool("AveragePool", *_WINDOW),
    (MICROSOFT, "QLinearGlobalAveragePool"): _pool("GlobalAveragePool"),
    (MICROSOFT, "DynamicQuantizeMatMul"): _dynamic,
    (MICROSOFT, "DynamicQuantizeLSTM"): _dynamic,
}
"""By domain and operator."""
