"""The end of a pipeline that never stops: results fall into a queue with a place reserved for each of them.

A block *takes* a place when it starts a piece of work and *pushes* the result a fixed number of cycles later. The
pipeline between needs no enable, and ``ready`` never runs backwards through it.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.routing import onward

__all__ = ["Outbox", "Places", "outbox_depth"]


def outbox_depth(latency: int, interval: int = 1) -> int:
    """Places with which work that starts every `interval` cycles is never held up by an empty consumer.

    Parameters
    ----------
    latency : int
        Cycles from taking a place to ``valid`` of the result.
    """
    return -(-(latency + 1) // interval)


class Places(wiring.Component):
    """A queue of `depth` words in look-up tables, a word later by a cycle; ``i.ready`` and ``o.valid`` are registers.

    Amaranth's queues compare how full they are in the cycle that asks, which is too long a way at 150 MHz.
    """

    def __init__(self, width: int, depth: int) -> None:
        self.depth = depth
        self.width = width
        super().__init__({"i": In(stream.Signature(width)), "o": Out(stream.Signature(width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=unsigned(self.width), depth=self.depth, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        head, tail, level = Signal(range(self.depth)), Signal(range(self.depth)), Signal(range(self.depth + 1))
        free, some = Signal(init=1), Signal()
        push, pop = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(free),
            self.o.valid.eq(some),
            push.eq(self.i.valid & self.i.ready),
            pop.eq(self.o.valid & self.o.ready),
            write.addr.eq(head),
            write.data.eq(self.i.payload),
            write.en.eq(push),
            read.addr.eq(tail),
            self.o.payload.eq(read.data),
        ]
        with m.If(push):
            m.d.sync += head.eq(onward(head, self.depth))
        with m.If(pop):
            m.d.sync += tail.eq(onward(tail, self.depth))
        with m.If(push & ~pop):
            m.d.sync += [level.eq(level + 1), free.eq(level != self.depth - 1), some.eq(1)]
        with m.Elif(~push & pop):
            m.d.sync += [level.eq(level - 1), free.eq(1), some.eq(level != 1)]
        return m


class Outbox(wiring.Component):
    """A queue of `depth` places of `width` bits, reserved before they are filled.

    ``may`` says that a place is free, ``take`` reserves it, ``push`` fills the oldest reserved one with ``data``. The
    result is offered in the cycle after ``push``; a place is free again in the cycle after the transfer.
    """

    def __init__(self, width: int, depth: int) -> None:
        self.depth = depth
        self.width = width
        super().__init__(
            {"may": Out(1), "take": In(1), "push": In(1), "data": In(width), "o": Out(stream.Signature(width))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = Places(self.width, self.depth)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        reserved, may = Signal(range(self.depth + 1)), Signal(init=1)  # `may`: not all are reserved
        popped = self.o.valid & self.o.ready
        with m.If(self.take & ~popped):
            m.d.sync += [reserved.eq(reserved + 1), may.eq(reserved != self.depth - 1)]
        with m.Elif(~self.take & popped):
            m.d.sync += [reserved.eq(reserved - 1), may.eq(1)]
        m.d.comb += [
            self.may.eq(may),
            queue.i.valid.eq(self.push),
            queue.i.payload.eq(self.data),
        ]
        return m
