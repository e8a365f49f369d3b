"""The digit-serial adder graph: a constant matrix times a vector, a digit of each number per cycle, lowest first.

An adder is `digit` full adders, their sum bits and their carry in registers: nothing else lies between registers,
whatever the graph. With digits of one bit these are two look-up tables; longer digits lie on carry chains, a few on
each. All numbers are as many digits long as a result of the matrix needs, modulo which sums are taken; the inputs' sign
or zeros fill what they lack. Values that meet an adder at different times wait in registers. Left shifts are delays with
zeros in front. Results are gathered into words, and the pipeline stops as a whole when one has to wait (`hw.elastic`).

The registers are planned in `hw.digits`, adders of one level as vectors of bits: gateware and Verilog are made of the same
plan. Elaborating a graph of thousands of adders would take seconds, so that its Verilog is rendered (`tcompile.emit.graphs`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring

from hw.constant import ConstantMatrix
from hw.digits import Bit, Level, Plan, plan
from hw.elastic import Elastic

__all__ = ["Serial"]


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
    def digits(self) -> int:
        """Digits of an element, which are read one after the other."""
        return min(-(-self.i.width // self.digit), self.interval)

    @property
    def repeats(self) -> bool:
        """Whether signs are to be read behind the last of them."""
        return self.i.signed and self.digits < self.interval

    @property
    def ticks(self) -> int:
        return self.depth + self.interval

    @cached_property
    def plan(self) -> Plan:
        """All registers but those of the control."""
        return plan(self, self.digit, self.digits, repeats=self.repeats)

    def component(self) -> wiring.Component:
        return _Serial(self)


class _Serial(wiring.Component):
    def __init__(self, block: Serial) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        b = self.block
        handshakes = (self.i.valid, self.i.ready, self.o.valid, self.o.ready)
        control = Elastic(m, *handshakes, b.interval, b.ticks, b.digits, repeats=b.repeats)
        body = _Body(b, m, control)
        body.inputs(self.i.payload)
        body.graph()
        m.d.comb += self.o.payload.eq(body.words())
        return m


class _Body:
    """Gateware of the registers of a plan."""

    def __init__(self, block: Serial, m: Module, control: Elastic) -> None:
        self.block = block
        self.plan = block.plan
        self.m = m
        self.control = control
        starts = {f"carry_{v.name}": v.start for v in self.plan.levels}
        self.registers = {
            name: Signal(width, name=name, init=starts.get(name, 0), reset_less=True)
            for name, width in self.plan.widths.items()
        }
        self.reading = {(time, skip): self.begun(time, skip) for time, skip in self.plan.skips()}

    def begun(self, time: int, skip: int) -> Signal:
        """Whether one of the first `skip` digits is read now, of those whose first is read at `time`."""
        signal = Signal(name=f"begun_{time}_{skip}")
        self.m.d.comb += signal.eq(Cat(*self.control.started[time : time + skip]).any())
        return signal

    def read(self, bits: Iterable[Bit | None]) -> Value:
        return Cat(*map(self.bit, bits))

    def bit(self, bit: Bit | None) -> Value:
        if bit is None:
            return Const(0, 1)
        found = self.registers[bit.register][bit.index]
        return found & ~self.reading[bit.time, bit.skip] if bit.skip else found

    def inputs(self, payload: Value) -> None:
        """Registers of the elements' digits."""
        with self.m.If(self.control.enable):
            for held in self.plan.held:
                digits: list[Value] = [
                    Cat(*(Const(0, 1) if k is None else payload[k] for k in digit)) for digit in held.digits
                ]
                if held.behind is not None:
                    digits.append(self.registers[held.behind])
                self.m.d.sync += self.registers[held.name].eq(self.control.chosen(digits))

    def graph(self) -> None:
        """All that moves with a tick but the results."""
        steps = [self.registers[d.name].eq(self.read(d.source)) for d in self.plan.delays]
        for level in self.plan.levels:
            kept = self.registers[f"carry_{level.name}"]
            sums, carries = (self.chains if level.chains else self.tables)(level, kept)
            steps += [self.registers[f"sum_{level.name}"].eq(sums), kept.eq(carries)]
        with self.m.If(self.control.tick):
            self.m.d.sync += steps
        for level in self.plan.levels:
            if level.chains and self.block.interval > 1:
                with self.m.If(self.control.clears(level.level - 1)):
                    self.m.d.sync += self.registers[f"carry_{level.name}"].eq(level.start)

    def tables(self, level: Level, kept: Value) -> tuple[Value, Value]:
        """Sums and carries of digits of one bit: two look-up tables each.

        The carry's table has room for the beginning of a word, before which the adders rest, also when there is none. It is a reset of the
        register in `chains`: with as many resets as levels, sums and carries could not share the slices of an FPGA.
        """
        rests = self.control.rests(level.level - 1, level.name)
        left, right = Signal(len(kept), name=f"left_{level.name}"), Signal(len(kept), name=f"right_{level.name}")
        self.m.d.comb += left.eq(self.read(bit for digit in level.left for bit in digit))
        self.m.d.comb += right.eq(self.read(bit for digit in level.right for bit in digit) ^ level.start)
        carries, begins = (left & right) | (kept & (left | right)), rests.replicate(len(kept))
        return left ^ right ^ kept, (begins & level.start) | (~begins & carries)

    def chains(self, level: Level, kept: Value) -> tuple[Value, Value]:
        """Sums and carries of longer digits: some digits in one addition, or one subtraction, on a carry chain.

        Below each digit stands a place both of whose operands are the carry that the digit begins with: it sends that
        carry up whatever comes from below, and its sum is what came, the carry out of the digit below it. All adders of a
        level share one reset of their carries between words.
        """
        d, count = self.block.digit, len(kept)
        sums: list[Value] = [Const(0)] * (d * count)
        carries: list[Value] = [Const(0)] * count
        for addition in level.chains:
            left, right = [], []
            for k in addition.adders:
                left += [kept[k], self.read(level.left[k])]
                right += [kept[k] ^ addition.subtract, self.read(level.right[k])]
            a, b = Cat(*left, Const(0, 1)), Cat(*right, Const(addition.subtract, 1))  # a subtraction inverts `b`
            chain = Signal(len(a), name=f"chain_{level.name}_{addition.adders[0]}")
            self.m.d.comb += chain.eq(a - b if addition.subtract else a + b)
            for place, k in enumerate(addition.adders):
                first = place * (d + 1) + 1
                for bit in range(d):
                    sums[bit * count + k] = chain[first + bit]
                carries[k] = chain[first + d]
        if self.block.interval > 1:
            return Cat(*sums), Cat(*carries)
        return Cat(*sums), Mux(self.control.resting[level.level - 1], level.start, Cat(*carries))

    def words(self) -> Value:
        """The results: gathered digit by digit, and moved with their last one to where they are offered."""
        b, rows = self.block, []
        gathered = (b.interval - 1) * b.digit
        for word in self.plan.words:
            if word is None:
                rows.append(Const(0, b.o.width))
                continue
            whole, before = self.read(word.digit), Signal(gathered, name=f"word_{word.row}", reset_less=True)
            row = Signal(b.o.width, name=f"row_{word.row}", reset_less=True)
            with self.m.If(self.control.fill if gathered else self.control.tick):
                self.m.d.sync += row.eq(Cat(before, whole))
            with self.m.If(self.control.tick):
                self.m.d.sync += before.eq(Cat(before, whole) >> b.digit)
            rows.append(row)
        return Cat(*rows)
