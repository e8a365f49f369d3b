"""Which channel of a position is the largest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import C, Module, Mux, Signal
from amaranth.lib import wiring

from hw.arithmetic import below, delayed, elements
from hw.block import Beats, Block, Bus, Words
from hw.outbox import Outbox, outbox_depth
from hw.timing import Channel, Program, Queue, outbox

__all__ = ["ArgMax"]


@dataclass(frozen=True)
class ArgMax(Block):
    """Index of the largest element among the channels of each position; of equals, the first.

    A tree of comparators finds the largest of a beat, a register keeps the largest so far. Takes a beat per cycle and
    gives one per position; filling lanes are ignored.

    Parameters
    ----------
    i : Bus
    o : Bus
        One unsigned element, wide enough for an index.
    channels : int
        Elements of a position.
    outbox : int
        Places of the queue at the end; 0 for as many as keep an unstalled pipeline going.
    """

    i: Bus
    o: Bus
    channels: int
    outbox: int = 0

    def __post_init__(self) -> None:
        if self.channels < 1 or self.outbox < 0:
            raise ValueError(f"channels must be at least 1 and the outbox 0, not {self.channels}, {self.outbox}")
        if self.o.lanes != 1 or self.channels - 1 >= 1 << (self.o.width - self.o.signed):
            raise ValueError(f"one element of the output must hold {self.channels - 1}, not {self.o}")

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.i,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.o,)

    @property
    def beats(self) -> int:
        """Beats of a position."""
        return -(-self.channels // self.i.lanes)

    @property
    def levels(self) -> int:
        """Levels of the tree of comparators."""
        return (self.i.lanes - 1).bit_length()

    @property
    def latency(self) -> int:
        return self.levels + 3

    @property
    def places(self) -> int:
        """Places of the queue at the end."""
        return self.outbox or outbox_depth(self.latency, self.beats)

    def component(self) -> wiring.Component:
        return _ArgMax(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        x = np.asarray(inputs[0], np.int64)
        positions = x[: len(x) // self.beats * self.beats].reshape(-1, self.beats * self.i.lanes)
        return (positions[:, : self.channels].argmax(axis=1)[:, None].astype(np.int64),)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        results, credits = Queue(), Queue()
        return (self._take(i[0], results, credits), outbox(o[0], results, credits))

    def _take(self, i: Channel, results: Queue, credits: Queue) -> Program:
        """Only the last beat of a position waits for a place in the outbox."""
        p = Program()
        t, free = p.time(-1), p.time()
        credits.spare = self.places
        with p.forever():
            with p.times(self.beats - 1):
                p.get(i, t, t + 1)
            p.recv(credits, free)
            p.get(i, t, t + 1, free)
            p.send(results, t + self.latency)
        return p


class _ArgMax(wiring.Component):
    def __init__(self, block: ArgMax) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        block = self.block
        m.submodules.outbox = box = Outbox(block.o.bits, block.places)
        wiring.connect(m, box.o, wiring.flipped(self.o))
        take, last = Signal(), Signal()
        beat = Signal(range(block.beats))
        m.d.comb += [
            last.eq(beat == block.beats - 1),
            self.i.ready.eq(~last | box.may),
            take.eq(self.i.valid & self.i.ready),
            box.take.eq(take & last),
        ]
        with m.If(take):
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))
        value, lane = self._largest(m, delayed(m, self.i.payload, 1), delayed(m, last, 1))
        here, ends = (delayed(m, flag, block.levels + 1, reset_less=False) for flag in (take, take & last))
        m.d.comb += box.data.eq(self._running(m, here, ends, value, lane))
        m.d.comb += box.push.eq(delayed(m, ends, 1, reset_less=False))
        return m

    def _largest(self, m: Module, payload: Any, last: Any) -> tuple[Any, Any]:
        """The largest element of a beat and its lane, `levels` cycles later."""
        block = self.block
        filled = block.channels - (block.beats - 1) * block.i.lanes
        nodes = [
            (x, C(k, range(block.i.lanes)), C(1) if k < filled else ~last)
            for k, x in enumerate(elements(payload, block.i))
        ]
        for _ in range(block.levels):
            pairs = [nodes[k : k + 2] for k in range(0, len(nodes), 2)]
            nodes = [tuple(delayed(m, part, 1) for part in _larger(pair)) for pair in pairs]
        return nodes[0][0], nodes[0][1]

    def _running(self, m: Module, here: Any, ends: Any, value: Any, lane: Any) -> Any:
        """The index of the largest element since the last end, a cycle later."""
        block = self.block
        best, index = Signal(value.shape(), reset_less=True), Signal(block.o.width, reset_less=True)
        before, first = Signal(block.o.width), Signal(init=1)
        with m.If(here):
            m.d.sync += [first.eq(ends), before.eq(Mux(ends, 0, before + block.i.lanes))]
            with m.If(first | below(best, value)):
                m.d.sync += [best.eq(value), index.eq(before + lane)]
        return index


def _larger(nodes: Sequence[tuple[Any, Any, Any]]) -> tuple[Any, Any, Any]:
    """The larger of a pair of (value, lane, there); the first where they are equal."""
    if len(nodes) == 1:
        return nodes[0]
    (a, lane_a, there), (b, lane_b, also) = nodes
    second = also & below(a, b)
    return Mux(second, b, a), Mux(second, lane_b, lane_a), there
