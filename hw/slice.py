"""A part of a frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring

from hw.block import Beats, Block, Bus, Words
from hw.routing import every, odometer, within
from hw.timing import Channel, Program, Queue

__all__ = ["Slice"]


@dataclass(frozen=True)
class Slice(Block):
    """Passes the beats whose coordinate on every axis is ``start + j * step`` for a j below ``size``; drops the others.

    A register at the end: a beat that is kept is valid in the cycle after it was taken. Takes a beat per cycle; one
    that is kept waits for the one before it to leave, ``i.ready`` depending on ``o.ready`` in the same cycle; one that
    is dropped waits for nothing.

    Parameters
    ----------
    bus : Bus
        Beats taken and given.
    grid : tuple of int
        Sizes of the frame taken, in beats, slowest first.
    starts, steps, sizes : tuple of int
        Per axis: the first coordinate kept, the distance to the next one, how many.
    """

    bus: Bus
    grid: tuple[int, ...]
    starts: tuple[int, ...]
    steps: tuple[int, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.grid) == len(self.starts) == len(self.steps) == len(self.sizes):
            raise ValueError(f"grid, starts, steps and sizes must have as many axes as the grid {self.grid}")
        for n, start, step, size in zip(self.grid, self.starts, self.steps, self.sizes, strict=True):
            if start < 0 or step < 1 or size < 1 or start + (size - 1) * step >= n:
                raise ValueError(f"{size} places from {start} in steps of {step} must lie in an axis of {n}")

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def latency(self) -> int:
        return 1

    @property
    def kept(self) -> np.ndarray:
        """Which beats of a frame taken, in order, are passed on."""
        kept = np.zeros(self.grid, bool)
        axes = zip(self.starts, self.steps, self.sizes, strict=True)
        kept[tuple(slice(start, start + step * size, step) for start, step, size in axes)] = True
        return kept.reshape(-1)

    def component(self) -> wiring.Component:
        return _Slice(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        frames = inputs[0].reshape(-1, prod(self.grid), self.bus.lanes)
        return (frames[:, self.kept].reshape(-1, self.bus.lanes),)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        taken, left = Queue(), Queue()
        return _take(i[0], taken, left, self.kept), _give(o[0], taken, left)


def _take(i: Channel, taken: Queue, left: Queue, kept: np.ndarray) -> Program:
    p = Program()
    t, free, zero = p.time(-1), p.time(), p.time()
    left.spare = 1
    with p.forever():
        p.set(free, zero)
        with p.times(kept):
            p.recv(left, free)
        p.get(i, t, t + 1, free)
        with p.times(kept):
            p.send(taken, t)
    return p


def _give(o: Channel, taken: Queue, left: Queue) -> Program:
    p = Program()
    t = p.time()
    with p.forever():
        p.recv(taken, t)
        p.put(o, t, t + 1)
        p.send(left, t)
    return p


class _Slice(wiring.Component):
    def __init__(self, block: Slice) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        full, keep = Signal(), Signal()
        held = Signal(self.block.bus.bits)
        take = self.i.valid & self.i.ready
        m.d.comb += [
            keep.eq(every(self._conditions(m, take))),
            self.o.valid.eq(full),
            self.o.payload.eq(held),
            self.i.ready.eq(~keep | ~full | self.o.ready),
        ]
        with m.If(take & keep):
            m.d.sync += [full.eq(1), held.eq(self.i.payload)]
        with m.Elif(self.o.ready):
            m.d.sync += full.eq(0)
        return m

    def _conditions(self, m: Module, take: Value) -> Iterable[Value]:
        block = self.block
        axes = odometer(m, block.grid, take)
        for axis, start, step, size in zip(axes, block.starts, block.steps, block.sizes, strict=True):
            end = start + (size - 1) * step
            yield within(m, axis, start, end + 1 - start)
            if step > 1 and size > 1:
                phase, hit = Signal(range(step)), Signal(init=1)
                again = axis.last | (axis.counter < start) | (phase == step - 1)
                with m.If(axis.moves):
                    m.d.sync += [phase.eq(Mux(again, 0, phase + 1)), hit.eq(again)]
                yield hit
