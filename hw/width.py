"""More or fewer lanes: the elements of a position in beats of another size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring

from hw.block import Beats, Block, Bus, Words
from hw.routing import odometer
from hw.timing import Channel, Program

__all__ = ["Narrow", "Widen"]


def _check(wide: int, narrow: int, channels: int) -> None:
    if narrow < 1 or wide % narrow:
        raise ValueError(f"the lanes of the narrow side must divide those of the wide side: {narrow}, {wide}")
    if channels < 1:
        raise ValueError(f"a position must have at least 1 channel, not {channels}")


def _pieces(channels: int, wide: int, narrow: int) -> list[int]:
    """Narrow beats in each wide beat of a position."""
    ratio = wide // narrow
    beats, last = divmod(-(-channels // narrow) - 1, ratio)
    return [ratio] * beats + [last + 1]


@dataclass(frozen=True)
class Narrow(Block):
    """Cuts each beat into beats of `lanes` elements; those that hold no element of the position are left out.

    Parameters
    ----------
    bus : Bus
        Beats taken.
    lanes : int
        Elements of a beat given; divides ``bus.lanes``.
    channels : int
        Elements of a position: ceil(channels / bus.lanes) beats in, ceil(channels / lanes) beats out.
    rests : bool
        Whether a cycle passes between the last part of a beat and the next beat.

    Notes
    -----
    Holds one input beat. Its first part is valid in the cycle after it was taken; a part follows in each cycle. The
    next input beat is taken at the earliest in the cycle in which the last part leaves, so output beats follow each
    other without gap; ``i.ready`` depends on ``o.ready`` in the same cycle. A block that `rests` takes it at the earliest
    in the cycle after that one, and its ``i.ready`` is a register: no path leads through it.
    """

    bus: Bus
    lanes: int
    channels: int
    rests: bool = False

    def __post_init__(self) -> None:
        _check(self.bus.lanes, self.lanes, self.channels)

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (Bus(self.lanes, self.bus.width, self.bus.signed),)

    @property
    def pieces(self) -> list[int]:
        """Output beats of each input beat of a position."""
        return _pieces(self.channels, self.bus.lanes, self.lanes)

    @property
    def latency(self) -> int:
        """1 for the first part of an input beat."""
        return 1

    def component(self) -> wiring.Component:
        return _Narrow(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        positions = inputs[0].reshape(-1, len(self.pieces) * self.bus.lanes)
        return (positions[:, : sum(self.pieces) * self.lanes].reshape(-1, self.lanes),)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        return (self._cut(i[0], o[0]),)

    def _cut(self, i: Channel, o: Channel) -> Program:
        p = Program()
        t = p.time(-self.rests)
        with p.forever():
            p.get(i, t, t + self.rests)
            with p.times(self.pieces):
                p.put(o, t, t + 1)
        return p


@dataclass(frozen=True)
class Widen(Block):
    """Gathers beats into beats of `lanes` elements; the last one of a position is filled up with zeros.

    Parameters
    ----------
    bus : Bus
        Beats taken.
    lanes : int
        Elements of a beat given; a multiple of ``bus.lanes``.
    channels : int
        Elements of a position: ceil(channels / bus.lanes) beats in, ceil(channels / lanes) beats out.
    rests : bool
        Whether nothing is taken in the cycle in which a beat leaves.

    Notes
    -----
    Takes a beat per cycle. An output beat is valid in the cycle after its last part was taken; while it waits nothing
    is taken, and the first part of the next one at the earliest in the cycle in which it leaves: ``i.ready`` depends on
    ``o.ready`` in the same cycle. A block that `rests` takes that part at the earliest in the cycle after, and its
    ``i.ready`` is a register: no path leads through it.
    """

    bus: Bus
    lanes: int
    channels: int
    rests: bool = False

    def __post_init__(self) -> None:
        _check(self.lanes, self.bus.lanes, self.channels)

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (Bus(self.lanes, self.bus.width, self.bus.signed),)

    @property
    def pieces(self) -> list[int]:
        """Input beats of each output beat of a position."""
        return _pieces(self.channels, self.lanes, self.bus.lanes)

    @property
    def latency(self) -> int:
        return 1

    def component(self) -> wiring.Component:
        return _Widen(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        positions = inputs[0].reshape(-1, sum(self.pieces) * self.bus.lanes)
        filling = len(self.pieces) * self.lanes - positions.shape[1]
        return (np.pad(positions, [(0, 0), (0, filling)]).reshape(-1, self.lanes),)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        return (self._gather(i[0], o[0]),)

    def _gather(self, i: Channel, o: Channel) -> Program:
        p = Program()
        t = p.time(-self.rests)
        with p.forever():
            p.get(i, t, t + self.rests)
            with p.times([count - 1 for count in self.pieces]):
                p.get(i, t, t + 1)
            p.put(o, t, t + 1)
        return p


class _Narrow(wiring.Component):
    def __init__(self, block: Narrow) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pieces = self.block.pieces
        ratio = self.block.bus.lanes // self.block.lanes
        full = Signal()
        held = Signal(self.block.bus.bits)
        left = Signal(range(max(2, ratio)))
        [axis] = odometer(m, [len(pieces)], self.i.valid & self.i.ready)
        ending = Signal()  # `left` is 0
        m.d.comb += [
            self.o.valid.eq(full),
            self.o.payload.eq(held),
            self.i.ready.eq(~full if self.block.rests else ~full | (self.o.ready & ending)),
        ]
        with m.If(self.i.ready):
            m.d.sync += [
                full.eq(self.i.valid),
                held.eq(self.i.payload),
                left.eq(Mux(axis.last, pieces[-1] - 1, ratio - 1)),
                ending.eq(Mux(axis.last, pieces[-1] == 1, ratio == 1)),
            ]
        with m.Elif(self.o.ready):
            m.d.sync += [held.eq(held >> len(self.o.payload)), left.eq(left - 1), ending.eq(left == 1)]
            if self.block.rests:
                m.d.sync += full.eq(~ending)
        return m


class _Widen(wiring.Component):
    def __init__(self, block: Widen) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pieces, bits = self.block.pieces, self.block.bus.bits
        ratio = self.block.lanes // self.block.bus.lanes
        full = Signal()
        held = Signal(self.block.lanes * self.block.bus.width)
        part = Signal(ratio, init=1)  # a bit for each part, set where the next one goes: enables come out of registers
        take = self.i.valid & self.i.ready
        complete, short = Signal(), Const(0, 1)
        if pieces[-1] < ratio:
            [axis] = odometer(m, [len(pieces)], take & complete)
            short = part[pieces[-1] - 1] & axis.last
        m.d.comb += [
            self.o.valid.eq(full),
            self.o.payload.eq(held),
            self.i.ready.eq(~full if self.block.rests else ~full | self.o.ready),
            complete.eq(part[-1] | short),
        ]
        with m.If(self.i.ready):
            m.d.sync += full.eq(self.i.valid & complete)
        if self.block.rests:
            with m.Elif(self.o.ready):
                m.d.sync += full.eq(0)
        with m.If(take):
            m.d.sync += part.eq(Cat(complete, part[:-1]))
            if pieces[-1] < ratio:
                m.d.sync += part[pieces[-1]].eq(part[pieces[-1] - 1] & ~short)
        first = part[0] & self.i.ready  # while a beat waits, `part` is at the first one
        for k in range(ratio):
            with m.If(part[k] if k else first):  # whatever comes: it stays where it is until a beat was taken
                m.d.sync += held[k * bits : (k + 1) * bits].eq(self.i.payload)
            if k >= pieces[-1]:
                with m.Elif(first):
                    m.d.sync += held[k * bits : (k + 1) * bits].eq(0)
        return m
