"""One stream to several takers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring

from hw.block import Beats, Block, Bus, Words
from hw.routing import every
from hw.timing import Channel, Program, Queue

__all__ = ["Fork"]


@dataclass(frozen=True)
class Fork(Block):
    """Gives every beat to each of `copies` outputs, each as soon as that one takes it.

    Holds one beat, valid at all outputs in the cycle after it was taken. The next one is taken at the earliest in the
    cycle in which the last output takes its copy: one beat per cycle; ``i.ready`` depends on every ``o.ready`` in the
    same cycle.

    Parameters
    ----------
    bus : Bus
        Beats of the input and of all outputs.
    copies : int
        Outputs.
    """

    bus: Bus
    copies: int

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise ValueError(f"a fork must have at least 1 output, not {self.copies}")

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.bus,) * self.copies

    @property
    def latency(self) -> int:
        return 1

    def component(self) -> wiring.Component:
        return _Fork(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        return (inputs[0],) * self.copies

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        taken = [Queue() for _ in o]
        given = [Queue() for _ in o]
        return (_take(i[0], taken, given), *map(_give, o, taken, given))


def _take(i: Channel, taken: Sequence[Queue], given: Sequence[Queue]) -> Program:
    p = Program()
    t, other = p.time(), p.time()
    with p.forever():
        p.get(i, t, t)
        for queue in taken:
            p.send(queue, t)
        for queue in given:
            p.recv(queue, other)
            p.set(t, t, other)
    return p


def _give(o: Channel, taken: Queue, given: Queue) -> Program:
    p = Program()
    t = p.time()
    with p.forever():
        p.recv(taken, t)
        p.put(o, t, t + 1)
        p.send(given, t)
    return p


class _Fork(wiring.Component):
    def __init__(self, block: Fork) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        full = Signal()
        held = Signal(self.block.bus.bits)
        done = Signal(self.block.copies)
        outputs = [getattr(self, name) for name in self.block.output_names]
        m.d.comb += self.i.ready.eq(~full | every(done[k] | o.ready for k, o in enumerate(outputs)))
        for k, o in enumerate(outputs):
            m.d.comb += [o.valid.eq(full & ~done[k]), o.payload.eq(held)]
            with m.If(full & o.ready):
                m.d.sync += done[k].eq(1)
        with m.If(self.i.ready):
            m.d.sync += [full.eq(self.i.valid), held.eq(self.i.payload), done.eq(0)]
        return m
