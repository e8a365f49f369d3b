"""Several streams, one after the other, in turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring

from hw.block import Beats, Block, Bus, Words
from hw.routing import check_extends, extend
from hw.timing import Channel, Program

__all__ = ["Concat"]


@dataclass(frozen=True)
class Concat(Block):
    """Gives ``runs[0]`` beats of the first input, ``runs[1]`` of the second and so on, and begins again.

    A register at the end: a beat is valid in the cycle after it was taken; the next one is taken, from the input whose
    turn it is, at the earliest in the cycle in which it leaves. One beat per cycle; ``ready`` of an input depends on
    ``o.ready`` in the same cycle.

    Parameters
    ----------
    bus_in : tuple of Bus
        Inputs, all with the lanes of the output; widths and signs may differ.
    out : Bus
        Output; elements are extended to its width.
    runs : tuple of int
        Beats of each input's turn.
    """

    bus_in: tuple[Bus, ...]
    out: Bus
    runs: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.bus_in or len(self.runs) != len(self.bus_in) or min(self.runs) < 1:
            raise ValueError(f"each of {len(self.bus_in)} inputs must have a run of at least 1 beat: {self.runs}")
        for bus in self.bus_in:
            if bus.lanes != self.out.lanes:
                raise ValueError(f"inputs must have the {self.out.lanes} lanes of the output, not {bus.lanes}")
            check_extends(bus, self.out)

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return self.bus_in

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.out,)

    @property
    def latency(self) -> int:
        return 1

    def component(self) -> wiring.Component:
        return _Concat(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        turns = [x.reshape(-1, run, self.out.lanes) for x, run in zip(inputs, self.runs, strict=True)]
        return (np.concatenate(turns, axis=1).reshape(-1, self.out.lanes),)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        return (self._turns(i, o[0]),)

    def _turns(self, i: Sequence[Channel], o: Channel) -> Program:
        p = Program()
        t = p.time()
        with p.forever():
            for channel, run in zip(i, self.runs, strict=True):
                with p.times(run):
                    p.get(channel, t, t)
                    p.put(o, t, t + 1)
        return p


class _Concat(wiring.Component):
    def __init__(self, block: Concat) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        block = self.block
        count = len(block.runs)
        full = Signal()
        held = Signal(block.out.bits)
        turn = Signal(range(max(2, count)))
        left = Signal(range(max(2, *block.runs)), init=block.runs[0] - 1)
        free = ~full | self.o.ready
        m.d.comb += [self.o.valid.eq(full), self.o.payload.eq(held)]
        with m.If(free):
            m.d.sync += full.eq(0)
        for k, (name, bus) in enumerate(zip(block.input_names, block.bus_in, strict=True)):
            i = getattr(self, name)
            after = (k + 1) % count
            m.d.comb += i.ready.eq((turn == k) & free)
            with m.If(i.valid & i.ready):
                m.d.sync += [
                    full.eq(1),
                    held.eq(extend(i.payload, bus, block.out)),
                    left.eq(Mux(left == 0, block.runs[after] - 1, left - 1)),
                    turn.eq(Mux(left == 0, after, k)),
                ]
        return m
