"""Integer level: what the accelerator computes, one dataclass per operation.

Every value has an interval (`IntType`) that it never leaves. Shapes are those of the ONNX file, leading 1 included;
the interpreter adds a frame axis in front. Weights are constants of the operation: nothing here multiplies two values
that are both unknown at compile time, and nothing rounds but `Requantize`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tcompile.ir.graph import IntType, Level, Node, Tensor
from tcompile.ir.requantizers import Requantizer

__all__ = [
    "OPS", "AddScaled", "ArgMax", "Concat", "Conv", "Dense", "Input", "IntNode", "MaxPool", "Pad", "Requantize",
    "Reshape", "Slice", "SumPool", "Transpose",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class IntNode(Node):
    """An operation on integers."""

    level: ClassVar[Level] = "integer"
    type: IntType


@dataclass(frozen=True, kw_only=True)
class Input(IntNode):
    """Integers that the host sends."""


@dataclass(frozen=True, kw_only=True)
class Conv(IntNode):
    """Σ weight · window; weight (M, C/group, kh, kw); places outside the image hold `pad_code`.

    Where other weights may be loaded, `bits` is how many each of them may have; else 0.
    """

    weight: Tensor
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int = 1
    pad_code: int = 0
    bits: int = 0


@dataclass(frozen=True, kw_only=True)
class Dense(IntNode):
    """Σ weight · x over the last axis; weight (M, K); `bits` as that of `Conv`."""

    weight: Tensor
    bits: int = 0


@dataclass(frozen=True, kw_only=True)
class SumPool(IntNode):
    """Sum of a window; places outside the image hold `pad_code`."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    pad_code: int = 0


@dataclass(frozen=True, kw_only=True)
class MaxPool(IntNode):
    """Largest element of a window; places outside the image never win."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class AddScaled(IntNode):
    """factors[0] · a + factors[1] · b with constant factors (signed digits in hardware)."""

    factors: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Requantize(IntNode):
    """A step function of each element; parameters per channel along `axis`, or shared by all channels.

    Where other steps may be loaded, `levels` is how many values each channel's function may have; else 0.
    """

    form: Requantizer = field()
    axis: int = 1
    levels: int = 0


@dataclass(frozen=True, kw_only=True)
class Concat(IntNode):
    """Inputs one behind the other along an axis."""

    axis: int


@dataclass(frozen=True, kw_only=True)
class Slice(IntNode):
    """Every step-th element from start on, per axis; sizes are the type's."""

    starts: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Pad(IntNode):
    """Border of `code`; pads are all begins, then all ends."""

    pads: tuple[int, ...]
    code: int


@dataclass(frozen=True, kw_only=True)
class Reshape(IntNode):
    """The same elements in the same order in another shape."""


@dataclass(frozen=True, kw_only=True)
class Transpose(IntNode):
    """Axes permuted."""

    perm: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ArgMax(IntNode):
    """Index of the largest element along an axis, the first of equals; keepdims follows from the type."""

    axis: int


OPS: dict[str, type[IntNode]] = {
    name: cls
    for name, cls in dict(globals()).items()
    if isinstance(cls, type) and issubclass(cls, IntNode) and cls is not IntNode
}
