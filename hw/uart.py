"""Bytes on two wires: 8 data bits, no parity, one stop bit, least significant bit first.

A line rests high. A byte is a start bit (low), eight data bits and a stop bit (high), each `bit_clocks` clocks long. The
length of a bit is an input of the components, constant while they work, so that one gateware serves every speed.
`received` and `levels` are the models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = [
    "COUNTER_BITS",
    "LEAST_CLOCKS",
    "MOST_ERROR",
    "Receiver",
    "Transmitter",
    "baud_error",
    "bit_clocks",
    "levels",
    "received",
]

COUNTER_BITS = 16  # of the length of a bit in clocks
LEAST_CLOCKS = 4  # with fewer the middle of a bit cannot be hit
MOST_ERROR = Fraction(2, 100)  # of the speed; both ends together may be 4 % apart, a receiver bears 5 % on its last bit
FRAME_BITS = 10  # start, data, stop


def bit_clocks(clock_hz: Fraction | int, baud: int) -> int:
    """The whole number of clocks that comes closest to a bit.

    Parameters
    ----------
    clock_hz : Fraction or int
    baud : int
        Bits per second.

    Raises
    ------
    ValueError
        No whole number of clocks is within `MOST_ERROR`, or it is below `LEAST_CLOCKS` or beyond the counter.
    """
    if baud < 1:
        raise ValueError(f"baud must be at least 1, not {baud}")
    exact = Fraction(clock_hz) / baud
    clocks = max(1, (2 * exact + 1).__floor__() // 2)
    if not LEAST_CLOCKS <= clocks < 1 << COUNTER_BITS:
        raise ValueError(
            f"a bit must last {LEAST_CLOCKS} to {(1 << COUNTER_BITS) - 1} clocks, not {float(exact):.6g} "
            f"({baud} baud at {float(Fraction(clock_hz) / 10**6):.6g} MHz)"
        )
    error = baud_error(clock_hz, baud, clocks)
    if error > MOST_ERROR:
        raise ValueError(
            f"{baud} baud must be met within {float(MOST_ERROR):.0%}, and {clocks} clocks of "
            f"{float(Fraction(clock_hz) / 10**6):.6g} MHz are {float(error):.2%} off"
        )
    return clocks


def baud_error(clock_hz: Fraction | int, baud: int, clocks: int) -> Fraction:
    """How far bits of so many clocks are off, as a share of the speed."""
    return abs(Fraction(clock_hz) / clocks - baud) / baud


def levels(data: Iterable[int], clocks: int) -> list[int]:
    """Levels of a line, clock by clock, that carries bytes without pause."""
    bits = (bit for byte in data for bit in (0, *(byte >> k & 1 for k in range(8)), 1))
    return [bit for bit in bits for _ in range(clocks)]


def received(line: Sequence[int], clocks: int) -> list[int | None]:
    """What a `Receiver` makes of a line's levels, clock by clock: bytes, None where a stop bit is missing.

    A bit is looked at in its middle. A start bit that is over by then was noise. After a missing stop bit the line must
    rest before a byte can begin.
    """
    found: list[int | None] = []
    at = 0
    while at < len(line):
        middle = at + clocks // 2
        places = [middle + k * clocks for k in range(FRAME_BITS)]
        if line[at] or middle >= len(line):
            at += 1
        elif line[middle]:
            at = middle + 1
        elif places[-1] >= len(line):
            break
        elif line[places[-1]]:
            found.append(sum(line[p] << k for k, p in enumerate(places[1:-1])))
            at = places[-1] + 1
        else:
            found.append(None)
            at = next((k for k in range(places[-1] + 1, len(line)) if line[k]), len(line)) + 1
    return found


@dataclass(frozen=True)
class Receiver:
    """Takes bytes from a line. Two flip-flops stand between the line, which no clock is tied to, and all else.

    A byte is given in the middle of its stop bit, so a sender may be a few percent faster or slower.

    Members
    -------
    rx : In(1)
        The line.
    bit_clocks : In(16)
        Clocks of a bit.
    data : Out(8)
    strobe : Out(1)
        One cycle per byte; `data` counts in it only.
    broken : Out(1)
        One cycle where the stop bit is missing; `data` means nothing.
    """

    def component(self) -> wiring.Component:
        """The gateware."""
        return _Receiver()


@dataclass(frozen=True)
class Transmitter:
    """Puts bytes on a line.

    Members
    -------
    i : In(stream)
    bit_clocks : In(16)
        Clocks of a bit.
    tx : Out(1)
        The line, a register. A byte takes 10 bits and one clock, in which the line rests.
    """

    def component(self) -> wiring.Component:
        """The gateware."""
        return _Transmitter()


class _Receiver(wiring.Component):
    def __init__(self) -> None:
        super().__init__(
            {"rx": In(1), "bit_clocks": In(COUNTER_BITS), "data": Out(8), "strobe": Out(1), "broken": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line, busy, waiting = Signal(init=1), Signal(), Signal()
        count, position, bits = Signal(COUNTER_BITS), Signal(range(FRAME_BITS)), Signal(8)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)
        m.d.comb += self.data.eq(bits)
        m.d.sync += [self.strobe.eq(0), self.broken.eq(0)]
        with m.If(waiting):
            m.d.sync += waiting.eq(~line)
        with m.Elif(~busy):
            m.d.sync += [busy.eq(~line), position.eq(0), count.eq((self.bit_clocks >> 1) - 1)]
        with m.Elif(count != 0):
            m.d.sync += count.eq(count - 1)
        with m.Else():
            m.d.sync += [count.eq(self.bit_clocks - 1), position.eq(position + 1)]
            with m.If(position == 0):
                m.d.sync += busy.eq(~line)
            with m.Elif(position == FRAME_BITS - 1):
                m.d.sync += [self.strobe.eq(line), self.broken.eq(~line), waiting.eq(~line), busy.eq(0)]
            with m.Else():
                m.d.sync += bits.eq(Cat(bits[1:], line))
        return m


class _Transmitter(wiring.Component):
    def __init__(self) -> None:
        super().__init__({"i": In(stream.Signature(8)), "bit_clocks": In(COUNTER_BITS), "tx": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line, busy, count = Signal(init=1), Signal(), Signal(COUNTER_BITS)
        left, bits = Signal(range(FRAME_BITS)), Signal(FRAME_BITS - 1, init=-1)
        m.d.comb += [self.tx.eq(line), self.i.ready.eq(~busy)]
        with m.If(~busy):
            m.d.sync += [
                busy.eq(self.i.valid),
                line.eq(~self.i.valid),
                bits.eq(Cat(self.i.payload, Const(1, 1))),
                left.eq(FRAME_BITS - 1),
                count.eq(self.bit_clocks - 1),
            ]
        with m.Elif(count != 0):
            m.d.sync += count.eq(count - 1)
        with m.Else():
            m.d.sync += [
                count.eq(self.bit_clocks - 1),
                left.eq(left - 1),
                line.eq(bits[0]),
                bits.eq(Cat(bits[1:], Const(1, 1))),
                busy.eq(Mux(left == 0, 0, 1)),
            ]
        return m
