"""Strange values: numbers at the ends of types, names that shells and languages take for something else, attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tests.fuzz.draft import MICROSOFT, QONNX, Dice

__all__ = ["DOMAINS", "LOCATIONS", "NAMES", "OPERATORS", "attribute", "floats", "integer", "tensor", "text"]

INTEGERS = [
    0,
    0,
    1,
    1,
    2,
    3,
    -1,
    -1,
    -2,
    7,
    8,
    63,
    255,
    256,
    65536,
    10**9,
    2**31 - 1,
    2**31,
    -(2**31),
    2**63 - 1,
    -(2**63),
]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-30, 1e30, 3.4e38, -3.4e38, float("nan"), float("inf"), -float("inf")]
NAMES = [
    "", " ", "x;rm -rf ~", "$(id)", "`id`", "a\nb", "\\escaped ", "module", "x' or 1", '"', "<script>alert(1)</script>",
    "</pre>", "[bold]x[/bold]", "[/]", "../../x", "n" * 5000, "\u202e", "\x00", "\x1b[31m", "{{ 7*7 }}", "%s", "//",
    "*/", "`include \"x\"", "é", "𝒙", "-o", "NUL", "v_1", "clk", "__zero", "t__wide",
]  # fmt: skip
LOCATIONS = ["../../etc/passwd", "/etc/passwd", "model.onnx", ".", "", "a/../model.onnx", "\x00", "C:\\x", "x" * 300]
DOMAINS = ["", "", "ai.onnx", MICROSOFT, QONNX, "qonnx.custom_op.channels_last", "onnx.brevitas", "ai.onnx.ml", "x;y"]
OPERATORS = [
    "QLinearConv", "Resize", "Upsample", "ConvTranspose", "DepthToSpace", "SpaceToDepth", "Gather", "Trunc", "Conv", "MaxPool",
    "BatchNormalization", "Loop", "If", "Scan", "QuantAvgPool2d", "Quant", "BipolarQuant", "MultiThreshold", "QuantizeLinear",
    "DequantizeLinear", "QLinearAdd", "QLinearMul", "QLinearConcat", "QGemm", "QLinearMatMul", "QLinearAveragePool",
    "QLinearSoftmax", "QLinearSigmoid", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "Gemm", "MatMul", "Add", "Mul",
    "Div", "Sub", "Pow", "Clip", "Pad", "Slice", "Split", "Concat", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose",
    "Expand", "Tile", "Sum", "Mean", "ReduceMean", "ReduceSum", "ReduceMax", "ArgMax", "TopK", "Softmax", "Cast", "Shape", "Size",
    "Constant", "ConstantOfShape", "Range", "Where", "Identity", "Dropout", "Relu", "PRelu", "LeakyRelu", "Sigmoid", "Floor",
    "AveragePool", "GlobalAveragePool", "LRN", "LSTM", "Einsum", "NonZero", "RandomNormal", "FusedConv", "FusedGemm", "Sin",
    "GatherND", "OneHot", "CumSum", "Mod", "SequenceConstruct", "Optional", "StringNormalizer", "",
]  # fmt: skip
ATTRIBUTES = [
    "axis", "axes", "keepdims", "group", "auto_pad", "channels_last", "allowzero", "block_size", "kernel_shape", "pads", "strides",
    "dilations", "output_padding", "output_shape", "blocksize", "mode", "ceil_mode", "count_include_pad", "storage_order", "transA",
    "transB", "alpha", "beta", "perm", "noop_with_empty_axes", "to", "epsilon", "rounding_mode", "signed", "narrow", "data_layout",
    "out_scale", "out_bias", "kernel", "stride", "ibits", "obits", "coordinate_transformation_mode", "nearest_mode", "value", "min",
    "max", "split", "num_outputs", "training_mode", "spatial", "output_dtype", "precision", "saturate", "largest", "select_last_index",
    "start", "end", "body", "then_branch", "cubic_coeff_a", "exclude_outside", "extrapolation_value", "value_ints", "x",
]  # fmt: skip
WORDS = [
    "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "nearest", "linear", "cubic", "DCR", "CRD", "ROUND", "FLOOR", "ROUND_TO_ZERO",
    "NCHW", "NHWC", "C", "half_pixel", "align_corners", "tf_crop_and_resize", "asymmetric", "reflect", "edge", "constant",
]  # fmt: skip


def integer(dice: Dice) -> int:
    """A number that some rule has not thought of."""
    return int(dice.pick(INTEGERS)) if dice.chance(0.7) else dice.integer(-4, 9)


def floats(dice: Dice, count: int) -> list[float]:
    """Numbers at the ends of float32, or usual ones."""
    return [float(dice.pick(FLOATS)) if dice.chance(0.5) else float(dice.real(-2, 2)) for _ in range(count)]


def text(dice: Dice) -> str:
    """A word of some attribute, or a hostile name."""
    return str(dice.pick(WORDS if dice.chance(0.6) else NAMES))


def tensor(dice: Dice, name: str) -> TensorProto:
    """A small tensor of some type and shape."""
    shape = [dice.integer(0, 3) for _ in range(dice.integer(0, 3))]
    kind = dice.pick(["float32", "float32", "int64", "int32", "uint8", "int8", "bool", "float64", "float16"])
    with np.errstate(all="ignore"):
        values = np.asarray(floats(dice, int(np.prod(shape)))).reshape(shape)
        if kind[0] in "iu":
            values = np.asarray([integer(dice) % 2**62 for _ in range(values.size)], np.int64).reshape(shape)
        return numpy_helper.from_array(values.astype(kind), name)


def attribute(dice: Dice, name: str = "") -> AttributeProto:
    """An attribute of some type."""
    name = name or dice.pick(ATTRIBUTES)
    kind = dice.pick(["i", "i", "i", "ints", "ints", "f", "floats", "s", "s", "strings", "t", "g", "tensors", "none"])
    count = dice.integer(0, 6)
    values: dict[str, Any] = {
        "i": lambda: helper.make_attribute(name, integer(dice)),
        "ints": lambda: _several(name, "ints", AttributeProto.INTS, [integer(dice) for _ in range(count)]),
        "f": lambda: helper.make_attribute(name, floats(dice, 1)[0]),
        "floats": lambda: _several(name, "floats", AttributeProto.FLOATS, floats(dice, count)),
        "s": lambda: helper.make_attribute(name, text(dice)),
        "strings": lambda: _several(
            name, "strings", AttributeProto.STRINGS, [text(dice).encode() for _ in range(count)]
        ),
        "t": lambda: helper.make_attribute(name, tensor(dice, name)),
        "g": lambda: helper.make_attribute(
            name, helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", [], [])
        ),
        "tensors": lambda: _several(name, "tensors", AttributeProto.TENSORS, [tensor(dice, "t") for _ in range(count)]),
        "none": lambda: AttributeProto(name=name),
    }
    return values[kind]()


def _several(name: str, field: str, kind: int, values: list[Any]) -> AttributeProto:
    made = AttributeProto(name=name, type=kind)
    getattr(made, field).extend(values)
    return made
