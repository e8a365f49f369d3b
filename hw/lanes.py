"""The lanes of an engine: a word of elements meets a tile of weights, a tree adds what a PE gets, a register keeps sums.

A lane has no multiplier and almost no logic: a register takes the element, and its synchronous reset makes it 0 where
the weight is. Signs cost nothing either, since an adder that also subtracts is as large as an adder. So a tree adds
numbers without regard to the sign of its first lane; each other lane k says whether it is subtracted in the one adder
where it is the first of the right operand, which is where it meets lane ``k & (k - 1)``; the sign of lane 0 says whether
the accumulator adds or subtracts what the tree gives. A tile of ternary weights is kept in this form.

Weights of more bits take several passes; pass p uses their radix-4 Booth digit p, one of -2 .. 2:
``-2·b[2p+1] + b[2p] + b[2p-1]``. Its sum is shifted by 2p and accumulated. Either a word of the weight memory holds a tile of
weights, and lanes find the digit of the pass in it; or it holds the digits of one pass in the form of ternary weights, with a flag
for ±2 besides (`coded`): lanes are smaller, and the memory has a word per pass, of 3 bits a lane instead of all bits of the weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.block import Bus, Words

__all__ = ["Flags", "Kind", "Lanes", "booth_digits", "extended"]

Kind = Literal["dot", "lane", "sum", "max"]


def booth_digits(weights: np.ndarray, digit: int) -> np.ndarray:
    """Radix-4 Booth digit number `digit` of two's complement integers: ``-2·b[2d+1] + b[2d] + b[2d-1]``."""
    low = (weights >> (2 * digit - 1)) & 1 if digit else np.zeros_like(weights)
    return -2 * ((weights >> (2 * digit + 1)) & 1) + ((weights >> (2 * digit)) & 1) + low


@dataclass(frozen=True)
class Lanes:
    """Description of the lanes.

    Parameters
    ----------
    kind : {"dot", "lane", "sum", "max"}
        What a lane does.
    i : Bus
        SIMD lanes for ``dot``, else PE lanes.
    o : Bus
        PE lanes; sums are taken modulo its width.
    weight_width : int
        Bits of a weight; 0 for pooling.
    doubles : bool
        Whether any digit is 2 or -2.
    coded : bool
        Whether words of the weight memory hold digits of one pass.
    tree : int
        Levels of adders between registers.
    """

    kind: Kind
    i: Bus
    o: Bus
    weight_width: int = 0
    doubles: bool = False
    coded: bool = False
    tree: int = 2

    @property
    def simd(self) -> int:
        """Elements that a PE takes per cycle."""
        return self.i.lanes if self.kind == "dot" else 1

    @property
    def passes(self) -> int:
        """Booth digits of a weight."""
        return max(1, (self.weight_width + 1) // 2)

    @property
    def digit_width(self) -> int:
        """Bits of the number of a pass."""
        return (self.passes - 1).bit_length()

    @property
    def is_ternary(self) -> bool:
        """Whether weights are -1, 0 and 1, and stored as two flags."""
        return self.weight_width == 2 and not self.doubles

    @property
    def is_flagged(self) -> bool:
        """Whether a word holds flags of digits: whether they are 0, subtracted, and where there are such, ±2."""
        return self.is_ternary or self.coded

    @property
    def lane_width(self) -> int:
        """Bits of a lane in a word of the weight memory."""
        return 2 + self.doubles if self.is_flagged else self.weight_width

    @property
    def tile_width(self) -> int:
        """Bits of a word of the weight memory."""
        return self.o.lanes * self.simd * self.lane_width

    @property
    def tree_stages(self) -> int:
        """Registers in the tree that adds a PE's SIMD terms."""
        return -(-(self.simd - 1).bit_length() // self.tree)

    @property
    def latency(self) -> int:
        """Cycles from a word to the sums."""
        return 1 + (self.weight_width > 0) + self.tree_stages + (self.passes > 1) + (self.kind == "max")

    def encode(self, tiles: np.ndarray) -> tuple[int, ...]:
        """Words of the weight memory: tiles (n, PE, SIMD) of weights, or of digits where these are coded.

        Raises
        ------
        ValueError
            A weight that its bits cannot hold.
        """
        high = 1 + self.doubles if self.is_flagged else (1 << (self.weight_width - 1)) - 1
        low = -high if self.is_flagged else -high - 1
        if tiles.size and not low <= tiles.min() <= tiles.max() <= high:
            raise ValueError(f"weights must be {low} to {high}, not {tiles.min()} to {tiles.max()}")
        flags = (tiles == 0) | self._relative(tiles < 0) << 1 | (np.abs(tiles) == 2) << 2
        codes = flags if self.is_flagged else tiles
        bits = (codes[..., None] >> np.arange(self.lane_width) & 1).astype(np.uint8)
        rows = np.packbits(bits.reshape(len(tiles), -1), axis=1, bitorder="little")
        return tuple(int.from_bytes(row.tobytes(), "little") for row in rows)

    def decode(self, words: Words) -> np.ndarray:
        """Tiles (n, PE, SIMD) of a weight memory: of weights, or of digits where these are coded."""
        size = -(-self.tile_width // 8)
        rows = np.frombuffer(b"".join(word.to_bytes(size, "little") for word in words), np.uint8).reshape(-1, size)
        bits = np.unpackbits(rows, axis=1, count=self.tile_width, bitorder="little").astype(np.int64)
        bits = bits.reshape(-1, self.o.lanes, self.simd, self.lane_width)
        if self.is_flagged:
            signs = 1 - 2 * self._absolute(bits[..., 1])
            return np.where(bits[..., 0], 0, signs << bits[..., 2] if self.doubles else signs)
        place = 1 << np.arange(self.weight_width)
        place[-1] *= -1
        return np.asarray(bits @ place)

    def _relative(self, minus: np.ndarray) -> np.ndarray:
        """Of each lane's sign: whether it differs from that of the lane which it meets in the tree; lane 0 as it is."""
        met = np.arange(self.simd) & np.arange(-1, self.simd - 1)
        others = minus[..., met] & (np.arange(self.simd) > 0)
        return np.asarray((minus ^ others).astype(np.int64))

    def _absolute(self, relative: np.ndarray) -> np.ndarray:
        """The signs again."""
        minus = relative.copy()
        for k in range(1, self.simd):
            minus[..., k] ^= minus[..., k & (k - 1)]
        return minus

    def component(self) -> _Lanes:
        """The gateware."""
        return _Lanes(self)


@dataclass(frozen=True)
class Flags:
    """What travels with an entry through the pipeline."""

    first: Value
    last: Value
    digit: Value
    go: Value

    def delayed(self, m: Module, cycles: int, name: str) -> Flags:
        """The same, some cycles later."""
        flags = self
        for k in range(cycles):
            new = [flags.later(f.name, f"{f.name}_{name}_{k}") for f in fields(flags)]
            m.d.sync += [s.eq(getattr(flags, f.name)) for s, f in zip(new, fields(flags), strict=True)]
            flags = Flags(*new)
        return flags

    def later(self, field: str, name: str) -> Signal:
        """A register for a field; only what starts or ends work needs a reset."""
        return Signal(len(getattr(self, field)), name=name, reset_less=field not in ("go", "last"))


@dataclass(frozen=True)
class _Term:
    """A number of known range on its way through the tree, and whether it is subtracted where it is added."""

    value: Value
    minus: Value
    low: int
    high: int

    def held(self, m: Module, name: str) -> _Term:
        """The same, a cycle later."""
        value = Signal(self.value.shape(), name=name, reset_less=True)
        m.d.sync += value.eq(self.value)
        return _Term(value, _register(m, self.minus, f"{name}_minus"), self.low, self.high)


class _Lanes(wiring.Component):
    """Elements, terms, trees and accumulators, in the order of the flow.

    ``results`` and ``done`` hold in the cycle in which the last entry's sums reach the accumulators.
    """

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        super().__init__(
            {
                "word": In(lanes.i.bits),
                "weights": In(lanes.tile_width),  # a cycle after the word
                "first": In(1),
                "last": In(1),
                "go": In(1),
                "digit": In(lanes.digit_width),
                "results": Out(lanes.o.bits),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m, d = Module(), self.lanes
        flags = Flags(self.first, self.last, self.digit, self.go)
        word = Signal.like(self.word, reset_less=True)
        m.d.sync += word.eq(self.word)
        flags = flags.delayed(m, 1, "word")
        x = [_element(word.word_select(k, d.i.width), d.i.signed) for k in range(d.i.lanes)]
        if d.kind == "max":
            self.largest(m, x, flags)
        elif d.kind == "sum":
            self.accumulate(m, [_Term(e, Const(0, 1), *self.range) for e in x], flags)
        else:
            rows = self.terms(m, x, flags.digit)
            sums = [self.add(m, terms, pe) for pe, terms in enumerate(rows)]
            self.accumulate(m, sums, flags.delayed(m, 1 + d.tree_stages, "tree"))
        return m

    def terms(self, m: Module, x: Sequence[Value], digit: Value) -> list[list[_Term]]:
        """What each PE adds, a cycle after the word.

        In the tree's first level the left operand comes right out of a register, to be a plain input of the carry
        chain; the right one is made in the look-up tables of the adder.
        """
        d = self.lanes
        later = [_register(m, e, f"element_{k}") if d.simd > 1 and k % 2 else e for k, e in enumerate(x)]
        rows = []
        for pe in range(d.o.lanes):
            row = []
            for k, (zero, two, minus) in enumerate(self.digits(pe, digit)):
                name, element = f"term_{pe}_{k}", k if d.kind == "dot" else pe
                if k % 2:
                    zero, two = _register(m, zero, f"{name}_zero"), _register(m, two, f"{name}_two")
                    value = self.size(m.d.comb, m, later[element], zero, two, name)
                else:
                    value = self.size(m.d.sync, m, x[element], zero, two, name)
                row.append(_Term(value, _register(m, minus, f"{name}_minus"), *self.range))
            rows.append(row)
        return rows

    def size(self, domain: Any, m: Module, x: Value, zero: Value, two: Value, name: str) -> Signal:
        """An element, twice it, or 0.

        The tables that choose a size have room for the zero too. Where nothing is chosen it is the reset of the register, if there is
        one, which saves a table for each bit; but a tile of an FPGA takes few resets, and a device almost full of them is hard to place.
        """
        size = Mux(two, x << 1, x) if self.lanes.doubles else x
        value = Signal(size.shape(), name=name, reset_less=True)
        if self.lanes.doubles:
            domain += value.eq(size & (~zero).replicate(len(size)))
        else:
            domain += value.eq(size)
            with m.If(zero):
                domain += value.eq(0)
        return value

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest term."""
        d = self.lanes
        low = -1 << (d.i.width - 1) if d.i.signed else 0
        return low << d.doubles, (low + (1 << d.i.width) - 1) << d.doubles

    def digits(self, pe: int, digit: Value) -> list[tuple[Value, Value, Value]]:
        """Of each weight: whether its digit is 0, whether it is ±2, and whether it is subtracted in the tree."""
        d = self.lanes
        weights = [self.weights.word_select(pe * d.simd + k, d.lane_width) for k in range(d.simd)]
        if d.is_flagged:
            return [(w[0], w[2] if d.doubles else Const(0, 1), w[1]) for w in weights]
        found = []
        for w in weights:
            padded = Cat(Const(0, 1), w, w[-1] if d.weight_width % 2 else Const(0, 0))
            low, mid, high = padded.bit_select(digit << 1 if d.passes > 1 else Const(0), 3)
            found.append(((low == mid) & (mid == high), (low == mid) & (mid != high), high))
        return [
            (zero, two, minus ^ found[k & (k - 1)][2] if k else minus) for k, (zero, two, minus) in enumerate(found)
        ]

    def add(self, m: Module, terms: list[_Term], pe: int) -> _Term:
        """A PE's terms added in a tree."""
        level = 0
        while len(terms) > 1:
            level += 1
            terms = [self.pair(m, terms[k : k + 2], f"sum_{pe}_{level}_{k}") for k in range(0, len(terms), 2)]
            if level % self.lanes.tree == 0 or len(terms) == 1:
                terms = [t.held(m, f"held_{pe}_{level}_{k}") for k, t in enumerate(terms)]
        return terms[0]

    def pair(self, m: Module, terms: Sequence[_Term], name: str) -> _Term:
        """The right one added to the left one, or subtracted from it."""
        if len(terms) == 1:
            return terms[0]
        a, b = terms
        low, high = min(a.low + b.low, a.low - b.high), max(a.high + b.high, a.high - b.low)
        width = min(Shape.cast(range(low, high + 1)).width, self.lanes.o.width)
        value = Signal(signed(width), name=name)
        m.d.comb += value.eq(_plus_minus(a.value, b.value, b.minus, width))
        return _Term(value, a.minus, low, high)

    def accumulate(self, m: Module, sums: Iterable[_Term], flags: Flags) -> None:
        """Adds an entry's sums to the accumulators; those of a row block's last entry go out, and 0 takes their place."""
        d = self.lanes
        if d.passes > 1:
            sums = [self.shifted(m, term, flags.digit, pe) for pe, term in enumerate(sums)]
            flags = flags.delayed(m, 1, "shift")
        results = []
        for pe, term in enumerate(sums):
            total = Signal(d.o.width, name=f"total_{pe}")
            result = Signal(d.o.width, name=f"result_{pe}")
            m.d.comb += result.eq(_plus_minus(total, term.value, term.minus, d.o.width))
            with m.If(flags.last):
                m.d.sync += total.eq(0)
            with m.Elif(flags.go):
                m.d.sync += total.eq(result)
            results.append(result)
        m.d.comb += [self.done.eq(flags.last), self.results.eq(Cat(*results))]

    def largest(self, m: Module, x: Iterable[Value], flags: Flags) -> None:
        """Keeps the largest of a row block's elements."""
        d = self.lanes
        totals = [Signal(d.o.width, name=f"largest_{pe}", reset_less=True) for pe in range(d.o.lanes)]
        for mine, total in zip(x, totals, strict=True):
            with m.If(flags.go & (flags.first | (mine > _element(total, d.o.signed)))):
                m.d.sync += total.eq(mine)
        m.d.comb += [self.done.eq(flags.delayed(m, 1, "done").last), self.results.eq(Cat(*totals))]

    def shifted(self, m: Module, term: _Term, digit: Value, pe: int) -> _Term:
        """A sum times 4 to the power of `digit`."""
        value = Signal(signed(self.lanes.o.width), name=f"shifted_{pe}", reset_less=True)
        with m.Switch(digit):
            for d in range(self.lanes.passes):
                with m.Case(d):
                    m.d.sync += value.eq(term.value << (2 * d))
        return _Term(value, _register(m, term.minus, f"shifted_{pe}_minus"), term.low, term.high)


def _register(m: Module, value: Value, name: str) -> Value:
    """A value a cycle later; a constant is its own."""
    if isinstance(value, Const):
        return value
    later = Signal(value.shape(), name=name, reset_less=True)
    m.d.sync += later.eq(value)
    return later


def _element(value: Value, is_signed: bool) -> Value:
    """A field of bits as a number."""
    return value.as_signed() if is_signed else value.as_unsigned()


def extended(value: Value, width: int) -> Value:
    """The low `width` bits of a number."""
    sign = value[-1] if value.shape().signed else Const(0, 1)
    return Cat(value, sign.replicate(max(0, width - len(value))))[:width]


def _plus_minus(a: Value, b: Value, minus: Value, width: int) -> Value:
    """a + b, or a - b where `minus` is 1, in one adder, signed.

    It is written as a difference, so that synthesis knows which operand goes unchanged into the carry chain: what is
    subtracted is b or its complement, -b - 1; the bit below the lowest borrows what the complement lacks.
    """
    if isinstance(minus, Const):
        return (extended(a, width) + extended(b, width))[:width].as_signed()
    right = extended(b, width) ^ (~minus).replicate(width)
    return (Cat(minus, extended(a, width)) - Cat(Const(1, 1), right))[1 : width + 1].as_signed()
