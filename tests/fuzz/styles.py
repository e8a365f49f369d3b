"""How the dialects of ONNX write quantized activations, weights and biases.

``qdq``
    QuantizeLinear and DequantizeLinear, as onnxruntime and TFLite write them.
``qcdq``
    The same with a Clip of the codes, as Brevitas does.
``qonnx``
    Quant and BipolarQuant.
``integer``
    Floats that hold integers, requantized by Mul, Floor and Clip, as NEMO does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.fuzz.draft import QONNX, Dice, Draft, Value
from tests.models import code_range

__all__ = ["DIALECTS", "Style", "Weight", "fitted"]

DIALECTS = ("qdq", "qcdq", "qonnx", "integer")


@dataclass(frozen=True, eq=False)
class Weight:
    """A quantized constant: its tensor, its codes, and the scales of its channels."""

    name: str
    codes: np.ndarray
    scales: np.ndarray


@dataclass(eq=False)
class Style:
    """The habits of one network."""

    dice: Dice
    draft: Draft
    dialect: str

    def __post_init__(self) -> None:
        self.powers = self.dice.chance(0.4)  # scales are powers of two
        self.symmetric = self.dice.chance(0.4)
        self.per_channel = self.dice.chance(0.5)
        self.most_bits = self.dice.pick([2, 4, 8, 8])
        self.weight_kind = self.dice.pick(["ternary", "ternary", "int4", "int8"])

    # Activations

    def activation(self, x: Value) -> Value:
        """The value, quantized."""
        if self.dialect == "integer":
            return self._floored(x)
        bits = self.dice.integer(2, self.most_bits)
        if self.dialect == "qonnx" and self.most_bits == 2 and self.dice.chance(0.3):
            bits = 1
        if self.dialect == "qonnx":
            return self._quant(x, bits)
        return self._linear(x, bits)

    def _linear(self, x: Value, bits: int) -> Value:
        kind = self.dice.pick(["uint8", "int8"])
        clipped = self.dialect == "qcdq"
        if not clipped and self.draft.opset >= 21 and bits <= 4 and self.dice.chance(0.5):
            kind = kind.replace("8", "4")
        lo, hi = code_range(kind)
        if clipped and bits < 8:
            lo, hi = code_range(f"{kind[:-1]}{bits}")
            lo += self.dice.chance(0.3) and lo < 0
        scale, zero = fitted(self.dice, x.frames, lo, hi, powers=self.powers, symmetric=self.symmetric)
        return self.on(x, scale, zero, kind, (lo, hi) if clipped else None)

    def on(self, x: Value, scale: float, zero: int, kind: str, clip: tuple[int, int] | None = None) -> Value:
        """The value on a certain grid."""
        draft = self.draft
        grid = [draft.const(scale), draft.const(zero, kind)]
        if kind == "uint8" and zero == 0 and self.dice.chance(0.3):
            grid.pop()
        lo, hi = clip or code_range(kind)
        codes = np.clip(np.rint(x.frames / np.float32(scale)) + zero, lo, hi)
        real = ((codes - zero) * np.float32(scale)).astype(np.float32)
        made = draft.given("QuantizeLinear", [x, *grid], codes.astype("int8" if kind[0] == "i" else "uint8"))
        if clip:
            made = draft.given("Clip", [made, draft.const(lo, kind), draft.const(hi, kind)], made.frames)
        made = replace(made, scale=scale, zero=zero)
        return replace(draft.given("DequantizeLinear", [made, *grid], real), scale=scale, zero=zero, codes=made.name)

    def again(self, x: Value) -> Value:
        """A dequantizer of its own for one more consumer, as onnxruntime writes them."""
        node = next((n for n in self.draft.nodes if n.output[0] == x.name), None)
        if node is None or node.op_type != "DequantizeLinear" or not self.dice.chance(0.3):
            return x
        return replace(x, name=self.draft.given("DequantizeLinear", list(node.input), x.frames).name)

    def _quant(self, x: Value, bits: int) -> Value:
        draft, dice = self.draft, self.dice
        if bits == 1:
            scale, _ = fitted(dice, x.frames, -1, 1, powers=self.powers, symmetric=True)
            real = np.where(x.frames >= 0, 1, -1).astype(np.float32) * np.float32(scale)
            made = draft.given("BipolarQuant", [x, draft.const(scale)], real, QONNX)
            return replace(made, scale=scale)
        signed, narrow = dice.chance(0.5), dice.chance(0.3)
        lo, hi = code_range(f"{'' if signed else 'u'}int{bits}")
        lo, hi = (lo + narrow, hi) if signed else (lo, hi - narrow)
        scale, zero = fitted(dice, x.frames, lo, hi, powers=self.powers, symmetric=self.symmetric or dice.chance(0.6))
        zero = 0 if self.symmetric else zero
        mode = dice.pick(
            ["ROUND", "ROUND", "ROUND", "FLOOR", "CEIL", "ROUND_TO_ZERO", "HALF_UP", "HALF_DOWN", "UP", "DOWN"]
        )
        mode = "DOWN" if mode == "ROUND_TO_ZERO" else mode
        codes = np.clip(np.rint(x.frames / np.float32(scale) + zero), lo, hi)
        real = ((codes - zero) * np.float32(scale)).astype(np.float32)
        inputs = [x, draft.const(scale), draft.const(np.float32(zero)), draft.const(np.float32(bits))]
        made = draft.given("Quant", inputs, real, QONNX, signed=int(signed), narrow=int(narrow), rounding_mode=mode)
        return replace(made, scale=scale, zero=zero)

    def _floored(self, x: Value) -> Value:
        """Mul, Floor, Clip; or Mul, Add, Div by a power of two, Floor, Clip."""
        draft, bits = self.draft, self.dice.integer(2, 8)
        high = 2**bits - 1
        top = float(np.percentile(x.frames, 98))
        top = top if top > 1e-3 else max(1.0, float(np.abs(x.frames).max()))
        if self.dice.chance(0.5):
            shift = self.dice.integer(4, 12)
            factor = max(1, round((high / top) * 2**shift))
            x = draft.op("Mul", x, draft.const(float(factor)))
            if self.dice.chance(0.3):
                x = draft.op("Add", x, draft.const(float(1 << (shift - 1))))
            x = draft.op("Div", x, draft.const(float(1 << shift)))
        else:
            factor = high / top
            factor = 2.0 ** round(np.log2(factor)) if self.powers else factor
            x = draft.op("Mul", x, draft.const(np.float32(factor)))
        return replace(self.clip(draft.op("Floor", x), 0.0, float(high)), scale=1.0)

    def clip(self, x: Value, lo: float, hi: float) -> Value:
        """A Clip, whose bounds were attributes before operator set 11."""
        if self.draft.opset < 11:
            return self.draft.op("Clip", x, min=lo, max=hi)
        return self.draft.op("Clip", x, self.draft.const(lo), self.draft.const(hi))

    # Weights

    def codes(self, shape: Sequence[int], kind: str | None = None) -> np.ndarray:
        """Random weight codes with some zeros."""
        kind = kind or self.weight_kind
        low, high = {"ternary": (-1, 1), "int4": (-8, 7), "int8": (-128, 127)}[kind]
        codes = self.dice.random.integers(low + self.dice.chance(0.5) * (low < -1), high + 1, shape)
        codes = codes * (self.dice.random.random(shape) < self.dice.pick([0.3, 0.8, 1.0]))
        if self.dice.chance(0.1):
            codes[self.dice.integer(0, len(codes) - 1)] = 0
        return codes

    def scales(self, codes: np.ndarray, axis: int, x: Value, terms: int) -> np.ndarray:
        """Scales, one or one per channel, that give sums of a few units."""
        spread = float(np.sqrt((x.real.astype(np.float64) ** 2).mean()))
        size = spread * float(np.sqrt((codes.astype(np.float64) ** 2).mean())) * np.sqrt(terms)
        base = self.dice.real(0.5, 4.0) / (size or 1.0)
        shape = (codes.shape[axis],) if self.per_channel and self.dice.chance(0.8) else ()
        scales = base * np.exp(self.dice.random.uniform(-0.7, 0.7, shape))
        scales = np.exp2(np.rint(np.log2(scales))) if self.powers else scales
        return np.asarray(scales, np.float32)

    def weight(self, shape: Sequence[int], axis: int, x: Value, terms: int) -> Weight:
        """A weight for sums of `terms` products with a value."""
        draft = self.draft
        if self.dialect == "integer":
            codes = self.codes(shape)
            return Weight(draft.const(codes.astype(np.float32)), codes, np.float32(1.0))
        if self.dialect == "qonnx":
            return self._quant_weight(shape, axis, x, terms)
        codes = self.codes(shape)
        scales = self.scales(codes, axis, x, terms)
        spread = scales.reshape([-1 if k == axis else 1 for k in range(len(shape))]) if scales.ndim else scales
        real = (codes * spread).astype(np.float32)
        kinds = ["int8"]
        if self.weight_kind != "int8" and draft.opset >= 21:
            kinds.append("int4")
        if self.weight_kind == "ternary" and draft.opset >= 25:
            kinds.append("int2")
        kind = self.dice.pick(kinds)
        grid = [draft.const(scales), draft.const(np.zeros(scales.shape), kind)]
        along = {"axis": axis} if scales.ndim else {}
        if kind == "int8" and self.dice.chance(0.15):  # quantized within the file
            made = draft.computed("QuantizeLinear", [draft.const(real), *grid], codes.astype(np.int8), **along)
            if self.dialect == "qcdq":
                made = draft.computed(
                    "Clip", [made, draft.const(-128, "int8"), draft.const(127, "int8")], codes.astype(np.int8)
                )
        else:
            made = draft.const(codes, kind)
        if self.dialect == "qdq" and self.dice.chance(0.3):
            grid.pop()
        return Weight(draft.computed("DequantizeLinear", [made, *grid], real, **along), codes, scales)

    def _quant_weight(self, shape: Sequence[int], axis: int, x: Value, terms: int) -> Weight:
        draft = self.draft
        bipolar = self.dice.chance(0.2)
        codes = (
            self.dice.pick([-1, 1]) * np.where(self.dice.random.random(shape) < 0.5, -1, 1)
            if bipolar
            else self.codes(shape)
        )
        scales = self.scales(codes, axis, x, terms)
        if bipolar:
            scales = scales.reshape(-1)[:1].reshape(())
        spread = scales.reshape([-1 if k == axis else 1 for k in range(len(shape))]) if scales.ndim else scales
        real = (codes * spread).astype(np.float32)
        if bipolar:
            return Weight(
                draft.computed("BipolarQuant", [draft.const(real), draft.const(spread)], real, QONNX), codes, scales
            )
        bits = {"ternary": 2, "int4": 4, "int8": 8}[self.weight_kind]
        inputs = [draft.const(real), draft.const(spread), draft.const(np.float32(0)), draft.const(np.float32(bits))]
        narrow = int(codes.min() > -(1 << (bits - 1)) and self.dice.chance(0.7))
        made = draft.computed("Quant", inputs, real, QONNX, signed=1, narrow=narrow, rounding_mode="ROUND")
        return Weight(made, codes, scales)

    def bias(self, count: int, x: Value, weight: Weight) -> str:
        """A bias of a linear layer; empty for none."""
        draft, dice = self.draft, self.dice
        kind = dice.pick(["none", "float", "int32"])
        if kind == "none":
            return ""
        unit = np.broadcast_to(np.float32(x.scale or 1.0) * weight.scales, (count,)).astype(np.float32)
        reach = float(dice.pick([3, 40, 500]))
        codes = np.rint(dice.real(-reach, reach, (count,)))
        if self.dialect == "integer":
            return draft.const(codes)
        if kind == "float":
            return draft.const(dice.real(-2, 2, (count,)) if dice.chance(0.7) else codes * unit)
        if self.dialect == "qonnx":
            bits = dice.pick([16, 24, 32])
            inputs = [
                draft.const(codes * unit),
                draft.const(unit),
                draft.const(np.float32(0)),
                draft.const(np.float32(bits)),
            ]
            return draft.computed(
                "Quant", inputs, (codes * unit).astype(np.float32), QONNX, signed=1, narrow=0, rounding_mode="ROUND"
            )
        scales = unit if weight.scales.ndim else unit[0]
        grid = [draft.const(scales), draft.const(np.zeros(np.shape(scales)), "int32")]
        if dice.chance(0.5):
            grid.pop()
        along: dict[str, Any] = {"axis": 0} if weight.scales.ndim else {}
        return draft.computed(
            "DequantizeLinear", [draft.const(codes, "int32"), *grid], (codes * unit).astype(np.float32), **along
        )


def fitted(
    dice: Dice, frames: np.ndarray, lo: int, hi: int, *, powers: bool = False, symmetric: bool = False
) -> tuple[float, int]:
    """Scale and zero point with which codes from `lo` to `hi` are used by most of the values."""
    share = dice.pick([0, 0, 1, 5])
    small, large = (float(np.percentile(frames, p)) for p in (share, 100 - share))
    if symmetric:
        reach = max(abs(small), abs(large))
        scale = reach / max(1, hi)
    else:
        scale = (large - small) / (hi - lo)
    scale = scale if scale > 1e-6 else float(dice.real(0.01, 1.0))
    scale = float(np.float32(2.0 ** round(np.log2(scale)) if powers else scale))
    zero = 0 if symmetric else int(np.clip(round(lo - small / scale), lo, hi))
    if not symmetric and dice.chance(0.1):
        zero = dice.integer(lo, hi)
    return scale, zero
