"""Layers of networks of real numbers: each takes a value and returns what it made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from tests.fuzz.draft import Dice, Draft, Skip, Value
from tests.fuzz.layouts import Layouts
from tests.fuzz.styles import Style

__all__ = ["Layers", "window"]

LARGEST_LAYER = 512  # weights


def window(
    dice: Dice, grid: Sequence[int], *, most: int = 3, dilated: bool = True, padded: bool = True
) -> dict[str, Any]:
    """Attributes of a window that has a place on the grid."""
    kernel, strides, before, after, dilations = [], [], [], [], []
    pads, far = padded and dice.chance(0.6), dilated and dice.chance(0.3)
    for n in grid:
        extent = dice.integer(1, most)
        dilation = dice.integer(1, 2) if far else 1
        border = dice.integer(0, min(extent - 1, 2)) if pads and extent > 1 else 0
        rear = dice.integer(0, min(extent - 1, 2)) if pads and extent > 1 else 0
        while (extent - 1) * dilation + 1 > n + border + rear:
            extent, dilation, border, rear = (
                max(1, extent - 1),
                1,
                min(border, max(0, extent - 2)),
                min(rear, max(0, extent - 2)),
            )
        kernel.append(extent)
        strides.append(dice.pick([1, 1, 1, 2, 3]))
        before.append(border)
        after.append(rear)
        dilations.append(dilation)
    found: dict[str, Any] = {"kernel_shape": kernel}
    if max(strides) > 1 or dice.chance(0.5):
        found["strides"] = strides
    if max(dilations) > 1:
        found["dilations"] = dilations
    if max(before + after) > 0:
        found["pads"] = before + after
    elif padded and max(dilations) == 1 and dice.chance(0.15):
        found["auto_pad"] = dice.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
    return found


@dataclass(eq=False)
class Layers:
    """Steps of a network in the making."""

    dice: Dice
    draft: Draft
    style: Style
    small: bool
    open: list[Value] = field(default_factory=list)

    def steps(self) -> list[Callable[[Value], list[Value]]]:
        """What can come next, likely ones several times."""
        linear = [self.conv] * 6 + [self.dense] * 4 + [self.transposed_conv]
        windows = [self.max_pool] * 2 + [self.average_pool] * 2 + [self.global_pool] * 2
        several = [self.add] * 3 + [self.concat] * 2 + [self.split]
        return [*linear, *windows, *several, self.chain, self.chain, self.layout, self.layout, self.resize]

    def codes(self, x: Value, share: float = 1.0) -> Value:
        """The value, quantized with some probability if it is not."""
        if x.scale or not self.dice.chance(share):
            return self.style.again(x) if x.scale else x
        return self.style.activation(x)

    def settled(self, y: Value) -> list[Value]:
        """What follows a layer: perhaps a chain, mostly a quantizer."""
        for _ in range(self.dice.pick([0, 0, 1, 1, 2, 3])):
            y = self.elementwise(y)
        return [self.codes(y, 0.9)]

    # Linear layers

    def conv(self, x: Value) -> list[Value]:
        if x.rank not in (3, 4):
            raise Skip("no image")
        x = self.codes(x)
        channels = x.shape[1]
        group = self.dice.pick([1, 1, channels, *[g for g in range(1, channels + 1) if channels % g == 0]])
        rows = group * self.dice.integer(1, 3 if group > 1 else 6)
        slid = window(self.dice, x.shape[2:])
        terms = channels // group * prod(slid["kernel_shape"])
        if rows * terms > LARGEST_LAYER:
            raise Skip("too large")
        weight = self.style.weight((rows, channels // group, *slid["kernel_shape"]), 0, x, terms)
        bias = self.style.bias(rows, x, weight)
        if group > 1 or self.dice.chance(0.2):
            slid["group"] = group
        return self.settled(self.draft.op("Conv", x, weight.name, *([bias] if bias else []), **slid))

    def transposed_conv(self, x: Value) -> list[Value]:
        if x.rank not in (3, 4):
            raise Skip("no image")
        x = self.codes(x)
        channels = x.shape[1]
        group = self.dice.pick([1, 1, channels])
        rows = self.dice.integer(1, 3)
        slid = window(self.dice, x.shape[2:])
        slid.pop("auto_pad", None)
        if max(slid.get("strides", [1])) > 1 and self.dice.chance(0.3):
            slid["output_padding"] = [s - 1 for s in slid["strides"]]
        weight = self.style.weight((channels, rows, *slid["kernel_shape"]), 1, x, channels // group)
        if group > 1:
            slid["group"] = group
            if weight.scales.ndim:
                raise Skip("scales per channel mean something else with groups")
        bias = self.style.bias(rows * group, x, weight) if group == 1 or not weight.scales.ndim else ""
        return self.settled(self.draft.op("ConvTranspose", x, weight.name, *([bias] if bias else []), **slid))

    def dense(self, x: Value) -> list[Value]:
        if x.rank > 2 and self.dice.chance(0.7):
            x = self.flat(self.codes(x))
        x = self.codes(x)
        size, rows = x.shape[-1], self.dice.integer(1, 8)
        if size * rows > LARGEST_LAYER:
            raise Skip("too large")
        gemm = x.rank == 2 and self.dice.chance(0.6)
        turned = gemm and self.dice.chance(0.7)
        weight = self.style.weight((rows, size) if turned else (size, rows), 0 if turned else 1, x, size)
        bias = self.style.bias(rows, x, weight)
        if gemm:
            scaling = {"alpha": 0.5, "beta": 2.0} if self.dice.chance(0.05) else {}
            if self.draft.opset < 11 and not bias:
                bias = self.draft.const(np.zeros(rows))
            return self.settled(
                self.draft.op("Gemm", x, weight.name, *([bias] if bias else []), transB=int(turned), **scaling)
            )
        y = self.draft.op("MatMul", x, weight.name)
        return self.settled(self.draft.op("Add", *((y, bias) if self.dice.chance(0.8) else (bias, y))) if bias else y)

    def flat(self, x: Value) -> Value:
        """The value with one axis beside that of frames; its grid stays."""
        y = self.draft.op("Flatten", x, axis=1) if self.dice.chance(0.7) else self.reshaped(x, [1, -1])
        return replace(y, scale=x.scale, zero=x.zero)

    def reshaped(self, x: Value, shape: Sequence[int]) -> Value:
        return self.draft.op("Reshape", x, self.draft.const(list(shape), "int64"))

    # Windows

    def max_pool(self, x: Value) -> list[Value]:
        if x.rank not in (3, 4):
            raise Skip("no image")
        x = self.codes(x, 0.7)
        slid = window(self.dice, x.shape[2:], dilated=self.draft.opset >= 10)
        if self.draft.opset >= 10 and "auto_pad" not in slid and self.dice.chance(0.3):
            slid["ceil_mode"] = 1
        if x.codes and self.draft.opset >= 12 and self.dice.chance(0.15):
            return [self.coded(x, lambda codes: self.draft.op("MaxPool", codes, **slid))]
        y = self.draft.op("MaxPool", x, **slid)
        return (
            [self.codes(y, 0.9)] if not x.scale or self.dice.chance(0.4) else [replace(y, scale=x.scale, zero=x.zero)]
        )

    def average_pool(self, x: Value) -> list[Value]:
        if x.rank not in (3, 4):
            raise Skip("no image")
        slid = window(self.dice, x.shape[2:], dilated=self.draft.opset >= 19, padded=self.dice.chance(0.5))
        if self.draft.opset >= 10 and "auto_pad" not in slid and self.dice.chance(0.2):
            slid["ceil_mode"] = 1
        if "pads" in slid and self.dice.chance(0.7):
            slid["count_include_pad"] = 1
        return self.settled(self.draft.op("AveragePool", self.codes(x, 0.9), **slid))

    def global_pool(self, x: Value) -> list[Value]:
        if x.rank not in (3, 4):
            raise Skip("no image")
        kind = self.dice.pick(["GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"])
        x = self.codes(x, 0.9)
        if kind.startswith("Global"):
            return self.settled(self.draft.op(kind, x))
        axes = list(range(2, x.rank)) if self.dice.chance(0.9) else [self.dice.integer(1, x.rank - 1)]
        axes = [a - x.rank for a in axes] if self.dice.chance(0.3) and self.draft.opset >= 11 else axes
        return self.settled(self.reduced(kind, x, axes, self.dice.chance(0.6)))

    def reduced(self, kind: str, x: Value, axes: list[int], keep: bool) -> Value:
        """A reduction, whose axes are an input since operator set 18."""
        if self.draft.opset >= 18:
            return self.draft.op(kind, x, self.draft.const(axes, "int64"), keepdims=int(keep))
        return self.draft.op(kind, x, axes=axes, keepdims=int(keep))

    # Branches

    def branch(self, x: Value) -> Value:
        """Another value of the same shape: one that is there, or made of this one."""
        same = [v for v in self.open if v.shape == x.shape and v.name != x.name and v.frames.dtype == x.frames.dtype]
        if same and self.dice.chance(0.7):
            return self.dice.pick(same)
        if x.rank in (3, 4) and self.dice.chance(0.7):
            x = self.codes(x)
            weight = self.style.weight((x.shape[1], x.shape[1], *[1] * (x.rank - 2)), 0, x, x.shape[1])
            return self.draft.op("Conv", x, weight.name, kernel_shape=[1] * (x.rank - 2))
        return self.elementwise(x)

    def add(self, x: Value) -> list[Value]:
        x = self.codes(x, 0.95)
        pair = [x, self.codes(self.branch(x), 0.95)]
        if self.dice.chance(0.4):
            pair.reverse()
        return self.settled(self.draft.op(self.dice.pick(["Add", "Add", "Add", "Sub"]), *pair))

    def concat(self, x: Value) -> list[Value]:
        x = self.codes(x, 0.95)
        axis = self.dice.integer(1, x.rank - 1)
        rest = [n for k, n in enumerate(x.shape) if k != axis]
        fitting = [
            v for v in self.open
            if v.rank == x.rank and [n for k, n in enumerate(v.shape) if k != axis] == rest and v.name != x.name
        ]  # fmt: skip
        parts = [x]
        for _ in range(self.dice.integer(1, 2)):
            other = self.dice.pick(fitting) if fitting and self.dice.chance(0.7) else self.branch(x)
            parts += [self.codes(other, 0.95)]
        self.dice.random.shuffle(parts)  # type: ignore[arg-type]
        return [self.codes(self.draft.op("Concat", *parts, axis=axis), 0.9)]

    def split(self, x: Value) -> list[Value]:
        x = self.codes(x, 0.8)
        axis = self.dice.integer(1, x.rank - 1)
        n = x.shape[axis]
        if n < 2:
            raise Skip("nothing to split")
        cut = self.dice.integer(1, n - 1)
        sizes = [cut, n - cut]
        if self.draft.opset >= 13:
            parts = self.draft.several("Split", 2, x, self.draft.const(sizes, "int64"), axis=axis)
        else:
            parts = self.draft.several("Split", 2, x, axis=axis, split=sizes)
        return [replace(p, scale=x.scale, zero=x.zero) for p in parts]

    # Elementwise operations

    def chain(self, x: Value) -> list[Value]:
        return self.settled(self.elementwise(self.codes(x, 0.7)))

    def constant(self, x: Value, low: float, high: float, *, positive: bool = False) -> str:
        """A constant, one number or one per channel."""
        shape: tuple[int, ...] = ()
        if x.rank > 1 and self.dice.chance(0.5):
            shape = (x.shape[1], *[1] * (x.rank - 2))
        array = self.dice.real(low, high, shape)
        if self.style.dialect == "integer":
            array = np.rint(array * 4)
        elif self.style.powers and self.dice.chance(0.7):
            array = np.rint(array * 16) / 16
        if positive:
            array = np.maximum(np.abs(array), 0.25)
        return self.draft.const(array)

    def elementwise(self, x: Value) -> Value:
        """One operation, or a few that belong together."""
        simple = [self.relu, self.relu, self.clip, self.arithmetic, self.arithmetic, self.normalization]
        if self.style.dialect == "integer":
            return self.dice.pick(simple)(x)
        return self.dice.pick([*simple, self.leaky, self.sigmoid, self.curved, self.odd])(x)

    def relu(self, x: Value) -> Value:
        return self.draft.op("Relu", x)

    def clip(self, x: Value) -> Value:
        lo, hi = self.dice.pick([(0.0, 6.0), (-1.0, 1.0), (-2.5, 3.0), (0.0, 1.0)])
        return self.style.clip(x, lo, hi)

    def arithmetic(self, x: Value) -> Value:
        kind = self.dice.pick(["Mul", "Add", "Sub", "Div", "Sub from", "Min", "Max"])
        constant = self.constant(x, -2, 2, positive=kind == "Div")
        if kind == "Sub from":
            return self.draft.op("Sub", constant, x)
        if kind in ("Min", "Max") and self.draft.opset < 8:
            return self.relu(x)
        turned = kind in ("Mul", "Add") and self.dice.chance(0.3)
        return self.draft.op(kind, *((constant, x) if turned else (x, constant)))

    def normalization(self, x: Value) -> Value:
        if x.rank < 2 or x.rank > 4:
            return self.relu(x)
        channels = (x.shape[1],)
        gamma = self.dice.real(-0.5 if self.dice.chance(0.3) else 0.3, 1.5, channels)
        beta, mean = self.dice.real(-1, 1, channels), self.dice.real(-1, 1, channels)
        values = [self.draft.const(v) for v in (gamma, beta, mean, self.dice.real(0.2, 3, channels))]
        return self.draft.op("BatchNormalization", x, *values)

    def leaky(self, x: Value) -> Value:
        if self.dice.chance(0.5):
            return self.draft.op("LeakyRelu", x, alpha=float(self.dice.pick([0.01, 0.1, 0.125, 0.3])))
        shape = (x.shape[1], *[1] * (x.rank - 2)) if x.rank > 1 else ()
        return self.draft.op("PRelu", x, self.draft.const(self.dice.real(-0.2, 0.5, shape)))

    def sigmoid(self, x: Value) -> Value:
        kind = self.dice.pick(["Sigmoid", "Tanh", "HardSigmoid", "Softsign"])
        slope = {"alpha": 0.2, "beta": 0.4} if kind == "HardSigmoid" and self.dice.chance(0.5) else {}
        return self.draft.op(kind, x, **slope)

    def curved(self, x: Value) -> Value:
        """Functions that do not only rise: of codes, mostly."""
        x = self.codes(x, 0.85)
        kind = self.dice.pick(["HardSwish", "SiLU", "Gelu", "Abs", "Neg"])
        if kind == "SiLU":
            return self.draft.op("Mul", x, self.draft.op("Sigmoid", x))
        if kind == "HardSwish" and self.draft.opset < 14:
            return self.draft.op("Mul", x, self.draft.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))
        if kind == "Gelu" and self.draft.opset < 20:
            erf = self.draft.op("Erf", self.draft.op("Div", x, self.draft.const(np.float32(np.sqrt(2)))))
            half = self.draft.op("Mul", x, self.draft.op("Add", erf, self.draft.const(1.0)))
            return self.draft.op("Mul", half, self.draft.const(0.5))
        approximate = {"approximate": self.dice.pick(["none", "tanh"])} if kind == "Gelu" else {}
        return self.draft.op(kind, x, **approximate)

    def odd(self, x: Value) -> Value:
        kind = self.dice.pick(["Elu", "Selu", "Floor", "Round", "Ceil", "Square"])
        if kind == "Square":
            x = self.codes(x)
            return self.draft.op("Mul", x, x)
        return self.draft.op(kind, x)

    # Layouts

    def coded(self, x: Value, step: Callable[[Value], Value], *, bare: bool = False) -> Value:
        """A step on the codes behind a value, in front of its dequantizer; `bare` for without that."""
        node = next((n for n in self.draft.nodes if n.output[0] == x.name), None)
        if (
            node is None
            or node.op_type != "DequantizeLinear"
            or node.input[0] != x.codes
            or x.codes in self.draft.inputs
        ):
            raise Skip("no codes")
        kind = self.draft.kinds.get(node.input[2], "") if len(node.input) > 2 else "uint8"
        if not kind.endswith("t8"):
            raise Skip("packed")
        codes = (np.rint(x.frames / np.float32(x.scale)) + x.zero).astype(kind)
        made = step(replace(x, name=x.codes, frames=codes))
        if bare:
            return made
        y = self.draft.op("DequantizeLinear", made, *node.input[1:])
        return replace(y, scale=x.scale, zero=x.zero)

    def layout(self, x: Value) -> list[Value]:
        x = self.codes(x, 0.8)
        if x.codes and self.dice.chance(0.15):
            return [self.coded(x, Layouts(self.dice, self.draft))]
        y = Layouts(self.dice, self.draft)(x)
        same = x.scale and (self.style.dialect != "qdq" or self.dice.chance(0.5))
        return [replace(y, scale=x.scale, zero=x.zero) if same else self.codes(y, 0.9)]

    def resize(self, x: Value) -> list[Value]:
        if x.rank not in (3, 4) or self.draft.opset < 11:
            raise Skip("no image")
        factors = [self.dice.pick([1, 2, 2, 3, 1.5, 0.5]) for _ in x.shape[2:]]
        mode = self.dice.pick(["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"])
        nearest = self.dice.pick(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
        x = self.codes(x, 0.9)
        inputs = [x, self.draft.const([]) if self.draft.opset < 13 else "", self.draft.const([1, 1, *factors])]
        if self.dice.chance(0.3):
            sizes = [1, x.shape[1], *[max(1, int(n * f)) for n, f in zip(x.shape[2:], factors, strict=True)]]
            inputs = [
                x,
                *([self.draft.const([])] * 2 if self.draft.opset < 13 else ["", ""]),
                self.draft.const(sizes, "int64"),
            ]
        attributes = {"mode": "nearest", "coordinate_transformation_mode": mode, "nearest_mode": nearest}
        y = self.draft.op("Resize", *inputs, **attributes)
        return [replace(y, scale=x.scale, zero=x.zero)]
