"""The end of a pipeline that never stops: results fall into a queue with a place reserved for each of them.

A block *takes* a place when it starts a piece of work and *pushes* the result a fixed number of cycles later. The
pipeline between needs no enable, and ``ready`` never runs backwards through it.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

__all__ = ["Outbox", "outbox_depth"]


def outbox_depth(latency: int, interval: int = 1) -> int:
    """Places with which work that starts every `interval` cycles is never held up by an empty consumer.

    Parameters
    ----------
    latency : int
        Cycles from taking a place to ``valid`` of the result.
    """
    return -(-(latency + 1) // interval)


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
        m.submodules.queue = queue = SyncFIFO(width=self.width, depth=self.depth)
        reserved = Signal(range(self.depth + 1))
        popped = self.o.valid & self.o.ready
        with m.If(self.take & ~popped):
            m.d.sync += reserved.eq(reserved + 1)
        with m.Elif(~self.take & popped):
            m.d.sync += reserved.eq(reserved - 1)
        m.d.comb += [
            self.may.eq(reserved != self.depth),
            queue.w_en.eq(self.push),
            queue.w_data.eq(self.data),
            self.o.valid.eq(queue.r_rdy),
            self.o.payload.eq(queue.r_data),
            queue.r_en.eq(self.o.ready),
        ]
        return m
