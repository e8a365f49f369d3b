"""Sound files that are spoilt: the demo network, random networks of all dialects, and rarer operators."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import helper

from tests.command import DIGITS
from tests.fuzz.draft import MICROSOFT, QONNX
from tests.fuzz.generate import generate
from tests.models import Net

__all__ = ["bases"]

SEEDS = (0, 1, 2, 3, 4, *range(9, 20))  # of random networks; others are refused, or take seconds
LAST = "qonnx.custom_op.channels_last"


@cache
def bases() -> dict[str, onnx.ModelProto]:
    """Models by name; not to be changed."""
    made = {
        "digits": onnx.load(DIGITS),
        "moved": _moved(),
        "windows": _windows(),
        "qonnx": _qonnx(),
        "qoperator": _qoperator(),
        "sums": _sums(),
        "old": _old(),
    }
    drawn = [generate(seed, small=True) for seed in SEEDS]
    return made | {f"{case.dialect}-{case.seed}": case.model for case in drawn}


def _codes(*shape: int) -> np.ndarray:
    """Ternary weights."""
    return np.random.default_rng(len(shape)).integers(-1, 2, shape)


def _conv(net: Net, x: str, outputs: int, inputs: int) -> str:
    """A ternary convolution, quantized."""
    y = net.op("Conv", x, net.weight(_codes(outputs, inputs, 1, 1), 0.5))
    return net.qdq(y, 0.25, 3)


def _moved() -> onnx.ModelProto:
    """Operators that move elements."""
    net = Net()
    x = net.qdq(net.input((1, 4, 2, 2), "float32"), 0.5, 3)
    x = net.op("DepthToSpace", x, blocksize=2, mode="CRD")
    x = net.op("SpaceToDepth", x, blocksize=2)
    x = net.op("Gather", x, net.const([2, 0, 1], "int64"), axis=1)
    x = net.op("Resize", x, "", net.const([1.0, 1.0, 2.0, 1.0]), mode="nearest", nearest_mode="floor")
    x = net.op("Expand", x, net.const([1, 3, 4, 2], "int64"))
    x = net.op("Tile", x, net.const([1, 1, 1, 2], "int64"))
    x = net.op("Pad", x, net.const([0, 0, 1, 0, 0, 0, 0, 1], "int64"), net.const(0.0))
    x = net.op("Slice", x, *(net.const([k], "int64") for k in (1, 5, 2, 2)))
    x = net.op("Transpose", _conv(net, x, 2, 3), perm=[0, 1, 3, 2])
    return net.model(net.op("Flatten", net.op("Concat", x, x, axis=1), axis=1))


def _windows() -> onnx.ModelProto:
    """Windows that are put together from others, and sums."""
    net = Net()
    x = net.qdq(net.input((1, 2, 4, 4), "float32"), 0.5, 3)
    weight = net.weight(_codes(2, 3, 2, 2), 0.5)
    x = net.op("ConvTranspose", x, weight, strides=[2, 1], output_padding=[1, 0], pads=[0, 1, 0, 0])
    x = net.qdq(net.op("Relu", x), 0.25)
    x = net.op("AveragePool", x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1], ceil_mode=1)
    x = net.qdq(net.op("Sum", x, x, x), 0.5)
    x = net.op("MaxPool", x, kernel_shape=[2, 2], auto_pad="SAME_UPPER")
    x = net.qdq(_conv(net, x, 2, 3), 0.5)
    y = net.op("ReduceMax", x, net.const([2, 3], "int64"), keepdims=0)
    return net.model(y, net.op("ReduceMean", x, net.const([2, 3], "int64"), keepdims=1))


def _qonnx() -> onnx.ModelProto:
    """QONNX's quantizers and operators with channels last."""
    net = Net()

    def quant(x: str, scale: float, bits: float, **values: object) -> str:
        return net.op("Quant", x, net.const(scale), net.const(0.0), net.const(bits), domain=QONNX, **values)

    x = quant(net.input((1, 4, 4, 2), "float32"), 0.25, 4.0, signed=1, narrow=0, rounding_mode="ROUND")
    weight = quant(net.const(_codes(3, 2, 2, 2)), 0.5, 2.0, signed=1, narrow=1, rounding_mode="ROUND")
    x = net.op("Conv", x, net.op("Transpose", weight, perm=[0, 2, 3, 1]), domain=LAST, kernel_shape=[2, 2])
    ones = [net.const(np.full(3, v)) for v in (0.5, 0.25, 0.0, 1.0)]
    x = net.op("BatchNormalization", x, *ones, domain=LAST, epsilon=0.0)
    x = quant(x, 0.125, 6.0, signed=0, rounding_mode="HALF_UP")
    six, four = net.const(6.0), net.const(4.0)
    x = net.op("Trunc", x, net.const(0.125), net.const(0.0), six, four, domain=QONNX, rounding_mode="FLOOR")
    x = net.op("Transpose", net.op("MaxPool", x, domain=LAST, kernel_shape=[2, 2]), perm=[0, 3, 1, 2])
    y = net.op("QuantAvgPool2d", quant(x, 1.0, 4.0, signed=0), domain=QONNX, kernel=2, stride=1, ibits=4, obits=4)
    steps = net.const(np.arange(9).reshape(3, 3))
    z = net.op("MultiThreshold", x, steps, domain=QONNX, out_dtype="UINT2", data_layout="NCHW")
    return _with(net.model(y, net.op("BipolarQuant", z, net.const(0.5), domain=QONNX)), QONNX, LAST)


def _qoperator() -> onnx.ModelProto:
    """Operators on codes."""
    net = Net()
    x = net.input((1, 2, 4, 4))
    grid = [net.const(0.5), net.const(3, "uint8")]
    weight = [net.const(_codes(2, 2, 1, 1), "int8"), net.const([0.5, 0.25]), net.const([0, 0], "int8")]
    y = net.op("QLinearConv", x, *grid, *weight, *grid, net.const([1, -2], "int32"))
    x = net.op("QLinearAdd", x, *grid, y, *grid, *grid, domain=MICROSOFT)
    x = net.op("QLinearConcat", *grid, x, *grid, y, *grid, domain=MICROSOFT, axis=1)
    x = net.op("QLinearLeakyRelu", x, *grid, *grid, domain=MICROSOFT, alpha=0.25)
    x = net.op("QLinearAveragePool", x, *grid, *grid, domain=MICROSOFT, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("QLinearSigmoid", x, *grid, *grid, domain=MICROSOFT)
    x = net.op("QLinearGlobalAveragePool", x, *grid, *grid, domain=MICROSOFT, channels_last=0)
    x = net.op("Flatten", x)
    rows = [net.const(_codes(4, 3), "int8"), net.const(0.5), net.const(0, "int8")]
    x = net.op("QGemm", x, *grid, *rows, net.const([1, 2, 3], "int32"), *grid, domain=MICROSOFT, alpha=1.0, transB=0)
    rows = [net.const(_codes(3, 2), "int8"), net.const(0.5), net.const(0, "int8")]
    y = net.op("QLinearMatMul", x, *grid, *rows, *grid)
    x = net.op("QLinearMul", y, *grid, y, *grid, *grid, domain=MICROSOFT)
    return _with(net.model(net.dq(x, 0.5, 3)), MICROSOFT)


def _sums() -> onnx.ModelProto:
    """Sums of codes."""
    net = Net()
    x, zero = net.input((1, 2, 3, 3)), net.const(3, "uint8")
    x = net.op("ConvInteger", x, net.const(_codes(2, 2, 2, 2), "int8"), zero, net.const(0, "int8"), pads=[1, 0, 0, 1])
    x = net.op("Cast", x, to=onnx.TensorProto.FLOAT)
    x = net.op("QuantizeLinear", net.op("Mul", x, net.const(0.5)), net.const(0.25), zero)
    x = net.op("Reshape", x, net.const([1, -1], "int64"))
    x = net.op("MatMulInteger", x, net.const(_codes(18, 2), "int8"), zero)
    return net.model(net.op("Cast", x, to=onnx.TensorProto.FLOAT))


def _old() -> onnx.ModelProto:
    """Operators as they were before operator set 11."""
    net = Net()
    x = net.qdq(net.input((1, 2, 4, 4), "float32"), 0.5, 3)
    x = net.op("Pad", x, pads=[0, 0, 1, 1, 0, 0, 0, 0], mode="constant", value=0.0)
    x = net.op("Resize", x, net.const([1.0, 1.0, 2.0, 2.0]), mode="nearest")
    x = net.op("Clip", _conv(net, x, 4, 2), min=0.0, max=6.0)
    x = net.op("Dropout", net.qdq(x, 0.25), ratio=0.5)
    x = net.op("Slice", x, *(net.const([k], "int64") for k in (0, 9, 3)))
    ones = [net.const(np.full(4, v)) for v in (0.5, 0.25, 0.0, 1.0)]
    x = net.qdq(net.op("BatchNormalization", x, *ones, epsilon=1e-5), 0.25, 9)
    x = net.op("Squeeze", net.op("GlobalAveragePool", x), axes=[2, 3])
    x = net.op("Gemm", net.qdq(x, 0.25), net.weight(_codes(5, 4), 0.5), net.const(np.arange(5)), transB=1)
    y = net.op("Softmax", net.qdq(x, 0.25, 100), axis=1)
    model = net.model(y, net.op("ArgMax", x, axis=1, keepdims=0))
    for node in model.graph.node:  # before 13 scales along an axis were not known
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.ClearField("attribute")
    model.opset_import[0].version = 10
    return model


def _with(model: onnx.ModelProto, *domains: str) -> onnx.ModelProto:
    model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in domains)
    return model
