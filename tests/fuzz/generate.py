"""A random small network from a seed: valid ONNX of some dialect, with scales that fit what flows through it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from tests.fuzz.draft import Dice, Draft, Skip, Value
from tests.fuzz.layers import Layers
from tests.fuzz.qoperator import QOperators
from tests.fuzz.styles import Style, fitted
from tests.models import code_range

__all__ = ["Case", "generate"]

FRAMES = 6  # on which scales are fitted
ATTEMPTS = 12  # steps that are tried for one that fits
OUTPUTS = 3
LIKELY = ("qdq", "qdq", "qdq", "qcdq", "qcdq", "qonnx", "qonnx", "qoperator", "qoperator", "integer")


@dataclass(frozen=True, eq=False)
class Case:
    """A network and frames for it.

    Parameters
    ----------
    frames : mapping of str to ndarray (frames, *shape)
        Inputs by name: drawn at random, at the ends of their ranges, and on ties between codes.
    """

    seed: int
    dialect: str
    model: onnx.ModelProto
    frames: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Source:
    """An input: its shape, and what its values are rounded to; kind ``float32`` or that of its codes."""

    shape: tuple[int, ...]
    kind: str
    scale: float
    zero: int
    lo: int
    hi: int

    def frames(self, dice: Dice, count: int) -> np.ndarray:
        """One frame all high, one all low, some of corners only, the others random; a third of them ties."""
        shape = (count, *self.shape)
        codes = dice.random.integers(self.lo, self.hi + 1, shape).astype(np.float64)
        codes[:1], codes[1:2] = self.hi, self.lo
        corners = np.where(dice.random.random(shape) < 0.5, self.lo, self.hi)
        codes[2:4] = corners[2:4]
        if self.kind != "float32":
            return codes.astype(self.kind)
        ties = dice.random.random((count, *[1] * len(self.shape))) < 0.33
        codes += np.where(ties, dice.pick([0.5, -0.5]), dice.random.uniform(-0.5, 0.5, shape))
        return ((codes - self.zero) * np.float32(self.scale)).astype(np.float32)


def generate(seed: int, *, small: bool = False, frames: int = 12, avoid: Collection[str] = ()) -> Case:
    """The network of a seed.

    Parameters
    ----------
    small : bool
        For hardware in a simulator: fewer and smaller layers.
    frames : int
        Frames to run.
    avoid : collection of str
        Operators and dialects that it is not to hold.
    """
    return _Maker(seed, small, frozenset(avoid)).case(frames)


class _Maker:
    def __init__(self, seed: int, small: bool, avoid: frozenset[str]) -> None:
        self.seed, self.small = seed, small
        self.dice = Dice([seed, int(small)])
        self.dialect = self.dice.pick([d for d in LIKELY if d not in avoid])
        self.draft = Draft(self._opset(), avoid)
        self.style = Style(self.dice, self.draft, self.dialect)
        self.kind = self.dice.pick(["uint8", "uint8", "int8"])
        self.sources: dict[str, _Source] = {}
        self.layers: Layers | QOperators
        if self.dialect == "qoperator":
            self.layers = QOperators(self.dice, self.draft, self.style, small, self.kind)
        else:
            self.layers = Layers(self.dice, self.draft, self.style, small)

    def _opset(self) -> int:
        old = {"qoperator": 10, "integer": 10}.get(self.dialect)
        if old is not None and self.dice.chance(0.3):
            return self.dice.integer(old, 12)
        return 25 if self.dice.chance(0.1) else self.dice.integer(13, 21)

    def case(self, frames: int) -> Case:
        shape = self._shape()
        self.layers.open.append(self._input(shape))
        if self.dice.chance(0.15):
            self.layers.open.append(self._input(shape if self.dice.chance(0.7) else self._shape()))
        for _ in range(self.dice.integer(1, 4) if self.small else self.dice.integer(2, 8)):
            self._step()
        model = self.draft.model(self._outputs())
        dice = Dice([self.seed, 2])
        given = {name: source.frames(dice, frames) for name, source in self.sources.items()}
        return Case(self.seed, self.dialect, model, {i.name: given[i.name] for i in model.graph.input})

    # Inputs

    def _shape(self) -> tuple[int, ...]:
        rank = self.dice.pick([0, 1, 2, 2, 2])
        most = (8, 6, 4)[rank] if self.small else (24, 18, 9)[rank]
        channels = [self.dice.integer(1, 4)] if rank else []
        return (1, *channels, *(self.dice.integer(1, most) for _ in range(max(1, rank))))

    def _input(self, shape: tuple[int, ...]) -> Value:
        """An input, quantized: codes, or numbers whose first operation quantizes them."""
        coded = self.dialect in ("qdq", "qcdq", "qoperator") and self.dice.chance(0.25)
        return self._codes(shape) if coded else self._numbers(shape)

    def _codes(self, shape: tuple[int, ...]) -> Value:
        kind = self.kind if self.dialect == "qoperator" else self.dice.pick(["uint8", "int8"])
        lo, hi = code_range(kind)
        scale, zero = fitted(
            self.dice, self.dice.real(-2, 2, (FRAMES, *shape)), lo, hi,
            powers=self.style.powers, symmetric=self.style.symmetric,
        )  # fmt: skip
        source = _Source(shape, kind, scale, zero, lo, hi)
        x = self.draft.input(source.frames(self.dice, FRAMES), scale, zero)
        self.sources[x.name] = source
        if self.dialect == "qoperator":
            return x
        grid = [self.draft.const(scale), self.draft.const(zero, kind)]
        return replace(self.draft.op("DequantizeLinear", x, *grid), scale=scale, zero=zero, codes=x.name)

    def _numbers(self, shape: tuple[int, ...]) -> Value:
        if self.dialect == "integer":
            x = self.draft.input(np.rint(self.dice.real(0, 255, (FRAMES, *shape))))
            self.sources[x.name] = _Source(shape, "float32", 1.0, 0, 0, 255)
            return self.style.on(x, 1.0, 0, "uint8")
        x = self.draft.input(self.dice.real(*self.dice.pick([(-2, 2), (0, 1), (-1, 3)]), (FRAMES, *shape)))
        y = x
        if self.dice.chance(0.1):  # on the host
            y = self.draft.op("Sub", y, self.draft.const(self.dice.real(-0.5, 0.5)))
        if self.dialect == "qoperator":
            assert isinstance(self.layers, QOperators)
            y = self.layers.quantized(y)
        else:
            y = self.style.activation(y)
        lo, hi = (0, 255) if y.zero >= 0 and y.frames.dtype.kind != "i" else (-128, 127)
        self.sources[x.name] = _Source(shape, "float32", y.scale, y.zero, lo, hi)
        return y

    # Layers

    def _step(self) -> None:
        """One layer over a recent value; what does not fit is taken back."""
        for _ in range(ATTEMPTS):
            x = self.dice.pick([v for v in self.layers.open[-3:] if v.rank > 1] or self.layers.open)
            if x.rank < 2:
                continue
            mark = self.draft.mark()
            try:
                made = self.dice.pick(self.layers.steps())(x)
                self.draft.check(made)
            except Skip:
                self.draft.back(mark)
                continue
            self.layers.open += made
            return

    def _outputs(self) -> list[Value]:
        """The last values that nothing uses, each perhaps behind a last operation."""
        used = self.draft.used()
        loose = [v for v in self.layers.open if v.name not in used][-OUTPUTS:]
        found = []
        for x in loose:
            mark = self.draft.mark()
            try:
                found.append(self._end(x))
            except Skip:
                self.draft.back(mark)
                found.append(x)
        if self.dice.chance(0.1):
            found += self._inner([v.name for v in found])
        return found

    def _inner(self, taken: list[str]) -> list[Value]:
        """A value that is used inside as well."""
        inner = [v for v in self.layers.open if v.name not in taken and v.name not in self.draft.inputs]
        return [self.dice.pick(inner)] if inner else []

    def _end(self, x: Value) -> Value:
        draft = self.draft
        if self.dialect == "qoperator" and x.frames.dtype.kind in "iu" and self.dice.chance(0.6):
            assert isinstance(self.layers, QOperators)
            x = draft.op("DequantizeLinear", x, *self.layers.parameters(x))
        kind = self.dice.pick(["plain"] * 5 + ["codes", "ArgMax", "Softmax", "TopK"])
        if kind == "codes" and isinstance(self.layers, Layers):
            return self.layers.coded(x, lambda codes: codes, bare=True)
        if kind == "ArgMax" and x.rank > 1:
            axis = self.dice.integer(1, x.rank - 1)
            return draft.op("ArgMax", x, axis=axis, keepdims=self.dice.integer(0, 1))
        if kind == "Softmax" and x.frames.dtype.kind == "f":
            return draft.op("Softmax", x, axis=x.rank - 1)
        if kind == "TopK" and x.rank > 1 and x.frames.dtype.kind == "f":
            one = draft.const([1], "int64")
            return draft.several("TopK", 2, x, one, axis=self.dice.integer(1, x.rank - 1))[1]
        return x
