"""Real-number level: the network as the ONNX file says it, one dataclass per operation.

Class and field names are those of ONNX (opset 25), so that reading and writing are one rule for all: a class is an
operator, a field is an attribute, inputs are in ONNX's order. Shapes are static; what ONNX passes as constant input
and hardware needs to know (axes, slices, pads, shapes) is a field here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tcompile.ir.graph import Level, Node, Tensor, TensorType

__all__ = [
    "OPS", "Abs", "Add", "And", "ArgMax", "Atan", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Celu",
    "Clip", "Concat", "Const", "Conv", "Cos", "DequantizeLinear", "Div", "Elementwise", "Elu", "Equal", "Erf", "Exp",
    "Floor", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "Input", "Layout", "LeakyRelu", "Less", "LessOrEqual", "Linear", "Log", "LogSoftmax", "MatMul",
    "Max", "MaxPool", "Min", "Mish", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear", "RealNode",
    "Reciprocal", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Slice",
    "Softmax", "Softplus", "Softsign", "Sqrt", "Sub", "Swish", "Tanh", "ThresholdedRelu", "TopIndex", "Transpose",
    "Where",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RealNode(Node):
    """An operation on real numbers (or on the codes between a quantizer and its dequantizer)."""

    level: ClassVar[Level] = "real"
    type: TensorType


@dataclass(frozen=True, kw_only=True)
class Input(RealNode):
    """An input of the network."""


@dataclass(frozen=True, kw_only=True)
class Const(RealNode):
    """A constant."""

    value: Tensor


class Linear(RealNode):
    """Products with weights, summed."""


class Layout(RealNode):
    """Moves elements, computes nothing."""


class Elementwise(RealNode):
    """Each output element depends on the elements at the same place (after broadcasting) only."""


@dataclass(frozen=True, kw_only=True)
class Conv(Linear):
    """Convolution; inputs x (N, C, H, W), weight (M, C/group, kh, kw)[, bias (M)]. Any number of spatial axes."""

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int = 1


@dataclass(frozen=True, kw_only=True)
class Gemm(Linear):
    """alpha·A·B + beta·C with optional transposes."""

    alpha: float = 1.0
    beta: float = 1.0
    transA: int = 0
    transB: int = 0


@dataclass(frozen=True, kw_only=True)
class MatMul(Linear):
    """Matrix product."""


@dataclass(frozen=True, kw_only=True)
class MaxPool(RealNode):
    """Largest element of a window."""

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil_mode: int = 0


@dataclass(frozen=True, kw_only=True)
class AveragePool(RealNode):
    """Mean of a window."""

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil_mode: int = 0
    count_include_pad: int = 0


@dataclass(frozen=True, kw_only=True)
class GlobalAveragePool(RealNode):
    """Mean over all positions."""


@dataclass(frozen=True, kw_only=True)
class GlobalMaxPool(RealNode):
    """Largest over all positions."""


@dataclass(frozen=True, kw_only=True)
class ReduceMean(RealNode):
    """Mean over axes."""

    axes: tuple[int, ...]
    keepdims: int = 1


@dataclass(frozen=True, kw_only=True)
class ReduceSum(RealNode):
    """Sum over axes."""

    axes: tuple[int, ...]
    keepdims: int = 1


@dataclass(frozen=True, kw_only=True)
class ArgMax(RealNode):
    """Index of the largest element along an axis; the first of equals."""

    axis: int = 0
    keepdims: int = 1
    select_last_index: int = 0


@dataclass(frozen=True, kw_only=True)
class TopIndex(RealNode):
    """The index output of TopK with k = 1."""

    axis: int = -1
    largest: int = 1


@dataclass(frozen=True, kw_only=True)
class Softmax(RealNode):
    """exp(x) / Σ exp(x) along an axis."""

    axis: int = -1


@dataclass(frozen=True, kw_only=True)
class LogSoftmax(RealNode):
    """log of Softmax."""

    axis: int = -1


@dataclass(frozen=True, kw_only=True)
class Concat(RealNode):
    """Inputs one behind the other along an axis."""

    axis: int


@dataclass(frozen=True, kw_only=True)
class Reshape(Layout):
    """The same elements in the same order in another shape (Flatten, Squeeze, Unsqueeze too)."""


@dataclass(frozen=True, kw_only=True)
class Transpose(Layout):
    """Axes permuted."""

    perm: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Slice(Layout):
    """Every step-th element from start on; one triple per axis, starts and steps normalized, sizes from the type."""

    starts: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Pad(Layout):
    """Constant padding; pads are all begins, then all ends (non-negative)."""

    pads: tuple[int, ...]
    value: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BatchNormalization(Elementwise):
    """(x - mean) / sqrt(var + epsilon) · scale + bias; inputs x, scale, bias, mean, var; channels on axis 1."""

    epsilon: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class QuantizeLinear(Elementwise):
    """saturate(round half to even(x / scale) + zero point); inputs x, scale[, zero point]; the type is the code's."""

    axis: int = 1


@dataclass(frozen=True, kw_only=True)
class DequantizeLinear(Elementwise):
    """(q - zero point) · scale; inputs q, scale[, zero point]."""

    axis: int = 1


@dataclass(frozen=True, kw_only=True)
class Cast(Elementwise):
    """Conversion to the type's element type."""


@dataclass(frozen=True, kw_only=True)
class LeakyRelu(Elementwise):
    """x where x >= 0, else alpha·x."""

    alpha: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Elu(Elementwise):
    """x where x >= 0, else alpha·(exp(x) - 1)."""

    alpha: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Celu(Elementwise):
    """max(0, x) + min(0, alpha·(exp(x / alpha) - 1))."""

    alpha: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Swish(Elementwise):
    """x / (1 + exp(-alpha·x))."""

    alpha: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Selu(Elementwise):
    """Scaled Elu."""

    alpha: float = 1.6732632423543772
    gamma: float = 1.0507009873554805


@dataclass(frozen=True, kw_only=True)
class ThresholdedRelu(Elementwise):
    """x where x > alpha, else 0."""

    alpha: float = 1.0


@dataclass(frozen=True, kw_only=True)
class HardSigmoid(Elementwise):
    """max(0, min(1, alpha·x + beta))."""

    alpha: float = 0.2
    beta: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Gelu(Elementwise):
    """Gaussian error linear unit."""

    approximate: str = "none"


def _plain(name: str, doc: str) -> type[Elementwise]:
    """An elementwise operation without attributes."""
    cls = type(name, (Elementwise,), {"__doc__": doc, "__module__": __name__})
    return dataclass(frozen=True, kw_only=True)(cls)


Relu = _plain("Relu", "max(x, 0)")
Clip = _plain("Clip", "min(max(x, low), high); inputs x[, low][, high]")
Add = _plain("Add", "a + b")
Sub = _plain("Sub", "a - b")
Mul = _plain("Mul", "a · b")
Div = _plain("Div", "a / b")
Pow = _plain("Pow", "a ** b")
Max = _plain("Max", "largest of the inputs")
Min = _plain("Min", "smallest of the inputs")
PRelu = _plain("PRelu", "x where x >= 0, else slope·x")
Neg = _plain("Neg", "-x")
Abs = _plain("Abs", "|x|")
Sign = _plain("Sign", "-1, 0 or 1")
Floor = _plain("Floor", "rounds down")
Ceil = _plain("Ceil", "rounds up")
Round = _plain("Round", "rounds half to even")
Sqrt = _plain("Sqrt", "square root")
Reciprocal = _plain("Reciprocal", "1 / x")
Exp = _plain("Exp", "exponential")
Log = _plain("Log", "natural logarithm")
Erf = _plain("Erf", "error function")
Sigmoid = _plain("Sigmoid", "1 / (1 + exp(-x))")
Tanh = _plain("Tanh", "hyperbolic tangent")
Softplus = _plain("Softplus", "log(1 + exp(x))")
Softsign = _plain("Softsign", "x / (1 + |x|)")
Sin = _plain("Sin", "sine")
Cos = _plain("Cos", "cosine")
Atan = _plain("Atan", "arc tangent")
HardSwish = _plain("HardSwish", "x · max(0, min(1, x/6 + 1/2))")
Mish = _plain("Mish", "x · tanh(softplus(x))")
Greater = _plain("Greater", "a > b")
GreaterOrEqual = _plain("GreaterOrEqual", "a >= b")
Less = _plain("Less", "a < b")
LessOrEqual = _plain("LessOrEqual", "a <= b")
Equal = _plain("Equal", "a == b")
And = _plain("And", "a and b")
Or = _plain("Or", "a or b")
Not = _plain("Not", "not a")
Where = _plain("Where", "a where the condition holds, else b")

OPS: dict[str, type[RealNode]] = {
    name: cls
    for name, cls in dict(globals()).items()
    if isinstance(cls, type) and issubclass(cls, RealNode) and cls not in (RealNode, Linear, Layout, Elementwise)
}
