"""The digit-serial adder graph: a constant matrix times a vector, a digit of each number per cycle, lowest first.

An adder is `digit` full adders, their sum bits and their carry in registers: nothing else lies between registers,
whatever the graph. With digits of one bit these are two look-up tables; longer digits lie on carry chains, a few on
each. All numbers are as many digits long as a result of the matrix needs, modulo which sums are taken; the inputs' sign
or zeros fill what they lack. Values that meet an adder at different times wait in registers. Left shifts are delays with
zeros in front. Results are gathered into words, and the pipeline stops as a whole while one waits (`hw.elastic`).

The adders of one level are written as vectors of bits, so that hardware descriptions stay small; vectors are cut where
their lines would become too long for tools that read Verilog.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring

from hw.constant import ConstantMatrix, Node
from hw.elastic import Elastic

__all__ = ["Serial"]

T = TypeVar("T")
LONGEST = 512  # elements of a vector
CHAIN = 16  # bits of an addition that several adders share


@dataclass(frozen=True)
class Serial(ConstantMatrix):
    """A constant matrix times a vector, digit by digit.

    Parameters
    ----------
    i, o, graph
        See `hw.constant.ConstantMatrix`.
    digit : int
        Bits of a digit.

    Notes
    -----
    Takes a vector every `interval` cycles.
    """

    digit: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.digit < 1:
            raise ValueError(f"a digit must have at least 1 bit, not {self.digit}")

    @property
    def interval(self) -> int:
        """Digits of a word."""
        return -(-self.o.width // self.digit)

    @property
    def ticks(self) -> int:
        return self.depth + self.interval

    def component(self) -> wiring.Component:
        return _Serial(self)


class _Serial(wiring.Component):
    def __init__(self, block: Serial) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        b = self.block
        control = Elastic(m, self.i.valid, self.i.ready, self.o.valid, self.o.ready, b.interval, b.ticks)
        graph = _Bits(b, m, control)
        graph.inputs(self.i.payload)
        graph.adders()
        m.d.comb += self.o.payload.eq(graph.words())
        return m


def _cut(items: list[T]) -> Iterator[list[T]]:
    return (items[k : k + LONGEST] for k in range(0, len(items), LONGEST))


class _Bits:
    """Bits of digits by value and by how many ticks after the value's own time they are read."""

    def __init__(self, block: Serial, m: Module, control: Elastic) -> None:
        self.block = block
        self.m = m
        self.control = control
        self.bits: dict[tuple[int, int, int], Value] = {}  # value, delay, bit of the digit
        self.waits = self.needed()

    def source(self, shift: int, bit: int) -> tuple[int, int]:
        """How many ticks ago, and as which bit of its digit, a bit of a shifted value's digit was one of the value."""
        d = self.block.digit
        return -((bit - shift) // d), (bit - shift) % d

    def needed(self) -> dict[tuple[int, int], int]:
        """Longest delay in which each bit of each value is read."""
        b = self.block
        longest: dict[tuple[int, int], int] = defaultdict(int)

        def read(value: int, shift: int, time: int) -> None:
            for bit in range(b.digit):
                back, source = self.source(shift, bit)
                delay = time - b.level(value) + back
                longest[value, source] = max(longest[value, source], delay)

        for node in b.nodes:
            if node.left is not None:
                read(node.left, node.left_shift, node.level - 1)
            read(node.right, node.right_shift, node.level - 1)
        for row in b.rows:
            if row is not None:
                read(row[0], row[1], b.depth)
        return longest

    def read(self, value: int, shift: int, time: int, bit: int) -> Value:
        """A bit of the shifted value's digit whose first one is read `time` ticks after a word's start."""
        back, source = self.source(shift, bit)
        found = self.bits[value, time - self.block.level(value) + back, source]
        return found & ~self.within(time, back) if back else found

    def within(self, time: int, count: int) -> Value:
        """Whether one of the first `count` digits is read now, of those whose first is read at `time`."""
        return Cat(*self.control.started[time : time + count]).any()

    def inputs(self, payload: Value) -> None:
        """Shift registers that give the digits of the elements that are used, with their sign or zeros behind."""
        b = self.block
        used = sorted({value for value, _ in self.waits if value < b.graph.inputs})
        if not used:
            return
        for part in _cut(used):
            self.shifted(payload, part)
        self.delay(used)

    def shifted(self, payload: Value, part: list[int]) -> None:
        """The shift registers of some elements."""
        b, d, width = self.block, self.block.digit, self.block.i.width
        length = -(-width // d) * d
        held = Signal(len(part) * length, name=f"held_{part[0]}", reset_less=True)
        loaded, shifted = [], []
        for k, value in enumerate(part):
            element = payload[value * width : (value + 1) * width]
            sign = element[-1] if b.i.signed else Const(0, 1)
            loaded.append(Cat(element, sign.replicate(length - width)))
            mine = held[k * length : (k + 1) * length]
            fill = mine[-1] if b.i.signed else Const(0, 1)
            shifted.append(Cat(mine[d:], fill.replicate(d)))
            for bit in range(d):
                self.bits[value, 0, bit] = mine[bit]
        with self.m.If(self.control.enable):
            self.m.d.sync += held.eq(Mux(self.control.load, Cat(*loaded), Cat(*shifted)))

    def delay(self, values: list[int]) -> None:
        """Registers for what is read later than it comes."""
        step = 0
        alive = [(v, bit) for v in values for bit in range(self.block.digit) if self.waits.get((v, bit), 0) > 0]
        while alive:
            for n, part in enumerate(_cut(alive)):
                later = Signal(len(part), name=f"wait_{values[0]}_{step}_{n}", reset_less=True)
                with self.m.If(self.control.tick):
                    self.m.d.sync += later.eq(Cat(*(self.bits[v, step, bit] for v, bit in part)))
                for k, (v, bit) in enumerate(part):
                    self.bits[v, step + 1, bit] = later[k]
            step += 1
            alive = [(v, bit) for v, bit in alive if self.waits[v, bit] > step]

    def adders(self) -> None:
        """All levels, each a vector of adders."""
        b = self.block
        by_level: dict[int, list[int]] = defaultdict(list)
        for k, node in enumerate(b.nodes):
            by_level[node.level].append(k)
        for level in sorted(by_level):
            for n, part in enumerate(_cut(by_level[level])):
                self.level(level, part, f"{level}_{n}")
            self.delay([b.graph.inputs + place for place in by_level[level]])

    def level(self, level: int, which: list[int], name: str) -> None:
        """Adders of one level: sum bits and carries of all of them, registered."""
        b, m, tick = self.block, self.m, self.control.tick
        nodes = [b.nodes[k] for k in which]
        subtracts = Const(sum(n.subtract << k for k, n in enumerate(nodes)), len(nodes))
        kept = Signal(len(nodes), name=f"carry_{name}", init=subtracts.value, reset_less=True)
        total = Signal(len(nodes) * b.digit, name=f"sum_{name}", reset_less=True)
        sums, carries = (
            self.tables(nodes, kept, subtracts) if b.digit == 1 else self.chains(nodes, kept, f"chain_{name}")
        )
        with m.If(tick):
            m.d.sync += total.eq(sums)
        with m.If(tick & self.control.resting[level - 1]):  # before each word, also after none
            m.d.sync += kept.eq(subtracts)
        with m.Elif(tick):
            m.d.sync += kept.eq(carries)
        for k, place in enumerate(which):
            for bit in range(b.digit):
                self.bits[b.graph.inputs + place, 0, bit] = total[k * b.digit + bit]

    def tables(self, nodes: list[Node], kept: Value, subtracts: Const) -> tuple[Value, Value]:
        """Sums and carries of digits of one bit: two look-up tables each."""
        left = Cat(*(self.digits(n.left, n.left_shift, n.level) for n in nodes))
        right = Cat(*(self.digits(n.right, n.right_shift, n.level) for n in nodes)) ^ subtracts
        return left ^ right ^ kept, (left & right) | (kept & (left | right))

    def chains(self, nodes: list[Node], kept: Value, name: str) -> tuple[Value, Value]:
        """Sums and carries of longer digits: some digits in one addition, or one subtraction, on a carry chain.

        Below each digit stands a place both of whose operands are the carry that the digit begins with: it sends that
        carry up whatever comes from below, and its sum is what came, the carry out of the digit below it.
        """
        d = self.block.digit
        sums: list[Value] = [Const(0)] * len(nodes)
        carries: list[Value] = [Const(0)] * len(nodes)
        size = max(1, CHAIN // (d + 1))
        for subtract in (False, True):
            alike = [k for k, n in enumerate(nodes) if n.subtract == subtract]
            for part in (alike[k : k + size] for k in range(0, len(alike), size)):
                left, right = [], []
                for k in part:
                    n = nodes[k]
                    left += [kept[k], self.digits(n.left, n.left_shift, n.level)]
                    right += [kept[k] ^ subtract, self.digits(n.right, n.right_shift, n.level)]
                a, b = Cat(*left, Const(0, 1)), Cat(*right, Const(subtract, 1))  # a subtraction inverts `b`
                chain = Signal(len(a), name=f"{name}_{part[0]}")
                self.m.d.comb += chain.eq(a - b if subtract else a + b)
                for place, k in enumerate(part):
                    first = place * (d + 1) + 1
                    sums[k], carries[k] = chain[first : first + d], chain[first + d]
        return Cat(*sums), Cat(*carries)

    def digits(self, value: int | None, shift: int, level: int) -> Value:
        """An operand's digit as an adder of a level reads it."""
        if value is None:
            return Const(0, self.block.digit)
        return Cat(*(self.read(value, shift, level - 1, bit) for bit in range(self.block.digit)))

    def words(self) -> Value:
        """The results, gathered digit by digit."""
        b, m = self.block, self.m
        words = []
        for k, row in enumerate(b.rows):
            if row is None:
                words.append(Const(0, b.o.width))
                continue
            word = Signal(b.interval * b.digit, name=f"word_{k}", reset_less=True)
            digit = Cat(*(self.read(row[0], row[1], b.depth, bit) for bit in range(b.digit)))
            with m.If(self.control.tick):
                m.d.sync += word.eq(Cat(word[b.digit :], digit))
            words.append(word[: b.o.width])
        return Cat(*words)
