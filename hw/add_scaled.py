"""The sum of two streams, each times a constant, with adders only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring

from hw.arithmetic import cut, delayed, elements, multiples, signed_digits, sum_latency, summed
from hw.block import Beats, Block, Bus, Words
from hw.outbox import Outbox, outbox_depth
from hw.timing import Channel, Program, Queue, outbox

__all__ = ["AddScaled"]


@dataclass(frozen=True)
class AddScaled(Block):
    """``factors[0] * a + factors[1] * b``, modulo ``2**o.width``.

    Each input waits in a register of its own for the other; a beat per cycle. One adder per signed digit of the
    factors but the first, at most two between registers.

    Parameters
    ----------
    i0, i1, o : Bus
        Of equal lanes.
    factors : (int, int)
        Neither is 0.
    outbox : int
        Places of the queue at the end; 0 for as many as keep an unstalled pipeline going.
    """

    i0: Bus
    i1: Bus
    o: Bus
    factors: tuple[int, int]
    outbox: int = 0

    def __post_init__(self) -> None:
        if not self.i0.lanes == self.i1.lanes == self.o.lanes:
            raise ValueError(f"lanes must be equal, not {self.i0.lanes}, {self.i1.lanes} and {self.o.lanes}")
        if 0 in self.factors:
            raise ValueError(f"no factor may be 0, not {self.factors}")
        if self.outbox < 0:
            raise ValueError(f"the outbox must be at least 0, not {self.outbox}")

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.i0, self.i1)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.o,)

    @property
    def work(self) -> int:
        """Cycles from both beats being there to the result."""
        return sum_latency(sum(len(signed_digits(factor)) for factor in self.factors)) + 1

    @property
    def latency(self) -> int:
        return 1 + self.work

    @property
    def places(self) -> int:
        """Places of the queue at the end."""
        return self.outbox or outbox_depth(self.work)

    def component(self) -> wiring.Component:
        return _AddScaled(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        beats = min(len(inputs[0]), len(inputs[1]))
        a, b = (np.asarray(x, np.int64)[:beats] for x in inputs)
        return (cut(self.factors[0] * a + self.factors[1] * b, self.o),)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        there, free, results, credits = (Queue(), Queue()), (Queue(), Queue()), Queue(), Queue()
        return (
            *(_waiting(*parts) for parts in zip(i, there, free, strict=True)),
            self._join(there, free, results, credits),
            outbox(o[0], results, credits),
        )

    def _join(self, there: Sequence[Queue], free: Sequence[Queue], results: Queue, credits: Queue) -> Program:
        p = Program()
        times = p.time(), p.time(), p.time()
        t = p.time()
        credits.spare = self.places
        with p.forever():
            for queue, time in zip((*there, credits), times, strict=True):
                p.recv(queue, time)
            p.set(t, *times)
            p.send(results, t + self.work)
            for queue in free:
                p.send(queue, t)
        return p


def _waiting(i: Channel, there: Queue, free: Queue) -> Program:
    """One input: its register is free for the next beat in the cycle in which the beat in it is used."""
    p = Program()
    t = p.time()
    with p.forever():
        p.get(i, t, t)
        p.send(there, t + 1)
        p.recv(free, t)
    return p


class _AddScaled(wiring.Component):
    def __init__(self, block: AddScaled) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        block = self.block
        m.submodules.outbox = box = Outbox(block.o.bits, block.places)
        wiring.connect(m, box.o, wiring.flipped(self.o))
        go = Signal()
        full, held = zip(*(self._wait(m, i, go) for i in (self.i0, self.i1)), strict=True)
        m.d.comb += [go.eq(full[0] & full[1] & box.may), box.take.eq(go)]
        for lane, (a, b) in enumerate(zip(elements(held[0], block.i0), elements(held[1], block.i1), strict=True)):
            terms = [*multiples(a, block.factors[0]), *multiples(b, block.factors[1])]
            total = summed(m, terms, block.o.width)
            m.d.comb += box.data[lane * block.o.width : (lane + 1) * block.o.width].eq(total)
        m.d.comb += box.push.eq(delayed(m, go, block.work - 1, reset_less=False))
        return m

    def _wait(self, m: Module, i: Any, go: Any) -> tuple[Any, Any]:
        """A register in which a beat waits until `go`."""
        full, held = Signal(), Signal(i.payload.shape(), reset_less=True)
        m.d.comb += i.ready.eq(~full | go)
        with m.If(i.ready):
            m.d.sync += [full.eq(i.valid), held.eq(i.payload)]
        return full, held
