"""A queue of beats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered

from hw.block import Beats, Block, Bus, Words
from hw.outbox import Places
from hw.timing import Channel, Program, Queue, dispatch, outbox

__all__ = ["Fifo"]

LUT_DEPTH = 64  # deeper queues are worth a block RAM, which reads a cycle later


@dataclass(frozen=True)
class Fifo(Block):
    """A first-in first-out queue of `depth` beats.

    Takes a beat per cycle while fewer than `depth` are inside; a place is free again in the cycle after its beat left.
    """

    bus: Bus
    depth: int

    def __post_init__(self) -> None:
        if self.depth < 2:
            raise ValueError(f"a queue must hold at least 2 beats, not {self.depth}")

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def latency(self) -> int:
        return 1 if self.depth <= LUT_DEPTH else 2

    def component(self) -> wiring.Component:
        return _Fifo(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        return (inputs[0],)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        results, credits = Queue(), Queue()
        return (
            dispatch(i[0], results, credits, self.depth, self.latency),
            outbox(o[0], results, credits),
        )


class _Fifo(wiring.Component):
    def __init__(self, block: Fifo) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.block.latency == 1:
            m.submodules.queue = places = Places(self.block.bus.bits, self.block.depth)
            wiring.connect(m, wiring.flipped(self.i), places.i)
            wiring.connect(m, places.o, wiring.flipped(self.o))
            return m
        m.submodules.queue = queue = SyncFIFOBuffered(width=self.block.bus.bits, depth=self.block.depth)
        m.d.comb += [
            queue.w_data.eq(self.i.payload),
            queue.w_en.eq(self.i.valid),
            self.i.ready.eq(queue.w_rdy),
            self.o.payload.eq(queue.r_data),
            self.o.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o.ready),
        ]
        return m
