"""Layers of QOperator networks: values are codes, and operators compute on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from tests.fuzz.draft import MICROSOFT, Dice, Draft, Skip, Value
from tests.fuzz.layers import LARGEST_LAYER, window
from tests.fuzz.layouts import Layouts
from tests.fuzz.styles import Style, fitted
from tests.models import code_range

__all__ = ["QOperators"]


@dataclass(eq=False)
class QOperators:
    """Steps of a network in the making; every value has codes of one type."""

    dice: Dice
    draft: Draft
    style: Style
    small: bool
    kind: str
    open: list[Value] = field(default_factory=list)

    def steps(self) -> list[Callable[[Value], list[Value]]]:
        """What can come next, likely ones several times."""
        linear = [self.conv] * 6 + [self.matmul] * 3 + [self.gemm] * 2 + [self.integer] * 2
        others = [self.add] * 3 + [self.concat] * 2 + [self.average] * 2 + [self.max_pool] * 2 + [self.curve]
        return [*linear, *others, self.layout, self.layout, self.real]

    def codes(self, x: Value, share: float = 1.0) -> Value:
        return x

    def grid(self, real: np.ndarray) -> tuple[float, int]:
        """Scale and zero point of a result, known as real numbers."""
        lo, hi = code_range(self.kind)
        return fitted(self.dice, real, lo, hi, powers=self.style.powers, symmetric=self.style.symmetric)

    def parameters(self, x: Value) -> list[str]:
        return [self.draft.const(x.scale), self.draft.const(x.zero, self.kind)]

    def number(self, x: Value) -> Value:
        """The real numbers of codes, for trials."""
        return replace(x, name="trial", frames=x.real)

    def put(
        self, op: str, inputs: Sequence[Value | str], grid: tuple[float, int], domain: str = "", **more: Any
    ) -> Value:
        """An operator whose result has this grid."""
        y = self.draft.op(op, *inputs, domain=domain, **more)
        return replace(y, scale=grid[0], zero=grid[1])

    def weights(
        self, shape: Sequence[int], axis: int, x: Value, terms: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes, scales, and the real numbers they stand for."""
        if prod(shape) > LARGEST_LAYER:
            raise Skip("too large")
        codes = self.style.codes(shape)
        scales = self.style.scales(codes, axis, x, terms)
        spread = scales.reshape([-1 if k == axis else 1 for k in range(len(shape))]) if scales.ndim else scales
        return codes, scales, (codes * spread).astype(np.float32)

    def biases(self, count: int) -> np.ndarray | None:
        if self.dice.chance(0.3):
            return None
        return np.rint(self.dice.real(-500, 500, (count,)) * self.dice.pick([0.01, 1.0]))

    def conv(self, x: Value) -> list[Value]:
        if x.rank not in (3, 4):
            raise Skip("no image")
        channels = x.shape[1]
        group = self.dice.pick([1, 1, channels])
        rows = group * self.dice.integer(1, 3 if group > 1 else 6)
        slid = window(self.dice, x.shape[2:]) | {"group": group}
        shape = (rows, channels // group, *slid["kernel_shape"])
        codes, scales, real = self.weights(shape, 0, x, prod(shape[1:]))
        bias = self.biases(rows)
        offset = (np.zeros(rows) if bias is None else bias) * (x.scale * scales)
        draft, constant = self.draft, self.draft.const
        trial = draft.tried("Conv", self.number(x), constant(real), constant(offset), **slid)
        grid = self.grid(trial)
        inputs = [
            x, *self.parameters(x), constant(codes, "int8"), constant(scales), constant(np.zeros(scales.shape), "int8"),
            constant(grid[0]), constant(grid[1], self.kind), *([] if bias is None else [constant(bias, "int32")]),
        ]  # fmt: skip
        return [self.put("QLinearConv", inputs, grid, **slid)]

    def flat(self, x: Value) -> Value:
        return replace(self.draft.op("Flatten", x, axis=1), scale=x.scale, zero=x.zero) if x.rank > 2 else x

    def matmul(self, x: Value) -> list[Value]:
        x = self.flat(x) if self.dice.chance(0.7) else x
        size, rows = x.shape[-1], self.dice.integer(1, 8)
        codes, scales, real = self.weights((size, rows), 1, x, size)
        if scales.ndim and self.dice.chance(0.7):
            scales, real = scales[:1].reshape(()), (codes * scales[0]).astype(np.float32)
        grid = self.grid(self.draft.tried("MatMul", self.number(x), self.draft.const(real)))
        constant = self.draft.const
        inputs = [
            x, *self.parameters(x), constant(codes, "int8"), constant(scales), constant(np.zeros(scales.shape), "int8"),
            constant(grid[0]), constant(grid[1], self.kind),
        ]  # fmt: skip
        return [self.put("QLinearMatMul", inputs, grid)]

    def gemm(self, x: Value) -> list[Value]:
        x = self.flat(x)
        if x.rank != 2:
            raise Skip("no matrix")
        size, rows = x.shape[-1], self.dice.integer(1, 8)
        codes, scales, real = self.weights((rows, size), 0, x, size)
        bias, constant = self.biases(rows), self.draft.const
        total = self.draft.tried("Gemm", self.number(x), constant(real), constant(np.zeros(rows)), transB=1)
        offset = (np.zeros(rows) if bias is None else bias) * (x.scale * scales)
        grid = self.grid(total + offset.astype(np.float32))
        inputs = [
            x, *self.parameters(x), constant(codes, "int8"), constant(scales), constant(np.zeros(scales.shape), "int8"),
            "" if bias is None else constant(bias, "int32"), constant(grid[0]), constant(grid[1], self.kind),
        ]  # fmt: skip
        return [self.put("QGemm", inputs, grid, MICROSOFT, transB=1)]

    def integer(self, x: Value) -> list[Value]:
        """ConvInteger or MatMulInteger, scaled and quantized in floating point."""
        draft, constant = self.draft, self.draft.const
        zero = constant(x.zero, self.kind)
        if x.rank in (3, 4) and self.dice.chance(0.6):
            slid = window(self.dice, x.shape[2:])
            shape = (self.dice.integer(1, 5), x.shape[1], *slid["kernel_shape"])
            codes, scales, _ = self.weights(shape, 0, x, prod(shape[1:]))
            y = draft.op("ConvInteger", x, constant(codes, "int8"), zero, **slid)
            scales = scales.reshape(-1, *[1] * (x.rank - 2)) if scales.ndim else scales
        else:
            x = self.flat(x)
            codes, scales, _ = self.weights((x.shape[-1], self.dice.integer(1, 8)), 1, x, x.shape[-1])
            y = draft.op("MatMulInteger", x, constant(codes, "int8"), zero)
        y = draft.op("Cast", y, to=1)
        y = draft.op("Mul", y, constant(scales * np.float32(x.scale)))
        if self.dice.chance(0.5):
            y = draft.op("Add", y, constant(self.dice.real(-1, 1, scales.shape)))
        return [self.quantized(draft.op("Relu", y) if self.dice.chance(0.5) else y)]

    def quantized(self, y: Value) -> Value:
        grid = self.grid(y.frames)
        return self.put("QuantizeLinear", [y, self.draft.const(grid[0]), self.draft.const(grid[1], self.kind)], grid)

    def branch(self, x: Value) -> Value:
        same = [v for v in self.open if v.shape == x.shape and v.name != x.name]
        if same and self.dice.chance(0.7):
            return self.dice.pick(same)
        return self.real(x)[0]

    def add(self, x: Value) -> list[Value]:
        other = self.branch(x)
        kind = self.dice.pick(["QLinearAdd", "QLinearAdd", "QLinearAdd", "QLinearMul"])
        real = x.real + other.real if kind == "QLinearAdd" else x.real * other.real
        grid = self.grid(real)
        last = [self.draft.const(grid[0]), self.draft.const(grid[1], self.kind)]
        return [self.put(kind, [x, *self.parameters(x), other, *self.parameters(other), *last], grid, MICROSOFT)]

    def concat(self, x: Value) -> list[Value]:
        parts = [x, *(self.branch(x) for _ in range(self.dice.integer(1, 2)))]
        grid = self.grid(np.concatenate([p.real for p in parts]))
        inputs: list[Value | str] = [self.draft.const(grid[0]), self.draft.const(grid[1], self.kind)]
        for part in parts:
            inputs += [part, *self.parameters(part)]
        return [self.put("QLinearConcat", inputs, grid, MICROSOFT, axis=self.dice.integer(1, x.rank - 1))]

    def average(self, x: Value) -> list[Value]:
        if x.rank not in (3, 4):
            raise Skip("no image")
        real, more = self.number(x), {}
        if self.dice.chance(0.5):
            grid = self.grid(self.draft.tried("GlobalAveragePool", real))
            op, more = "QLinearGlobalAveragePool", {"channels_last": 0}
        else:
            more = window(self.dice, x.shape[2:], dilated=False) | (
                {"count_include_pad": 1} if self.dice.chance(0.5) else {}
            )
            grid, op = self.grid(self.draft.tried("AveragePool", real, **more)), "QLinearAveragePool"
        last = [self.draft.const(grid[0]), self.draft.const(grid[1], self.kind)]
        return [self.put(op, [x, *self.parameters(x), *last], grid, MICROSOFT, **more)]

    def max_pool(self, x: Value) -> list[Value]:
        if x.rank not in (3, 4):
            raise Skip("no image")
        slid = window(self.dice, x.shape[2:], dilated=self.draft.opset >= 10)
        if self.draft.opset >= 10 and "auto_pad" not in slid and self.dice.chance(0.3):
            slid["ceil_mode"] = 1
        return [self.put("MaxPool", [x], (x.scale, x.zero), **slid)]

    def curve(self, x: Value) -> list[Value]:
        kind, more = self.dice.pick([("LeakyRelu", {"alpha": 0.1}), ("Sigmoid", {})])
        grid = self.grid(self.draft.tried(kind, self.number(x), **more))
        last = [self.draft.const(grid[0]), self.draft.const(grid[1], self.kind)]
        return [self.put(f"QLinear{kind}", [x, *self.parameters(x), *last], grid, MICROSOFT, **more)]

    def real(self, x: Value) -> list[Value]:
        """An operation on real numbers, between a dequantizer and a quantizer."""
        y = self.draft.op("DequantizeLinear", x, *self.parameters(x))
        kind = self.dice.pick(["Relu", "Mul", "Add", "Sigmoid"])
        constant = [] if kind in ("Relu", "Sigmoid") else [self.draft.const(self.dice.real(0.5, 2.0))]
        return [self.quantized(self.draft.op(kind, y, *constant))]

    def layout(self, x: Value) -> list[Value]:
        y = Layouts(self.dice, self.draft)(x)
        return [replace(y, scale=x.scale, zero=x.zero)]
