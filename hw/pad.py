"""Filling around a frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import wiring

from hw.block import Beats, Block, Bus, Words, pack
from hw.routing import both_sides, check_code, check_extends, every, extend, odometer, within
from hw.timing import Channel, Program

__all__ = ["Pad"]


@dataclass(frozen=True)
class Pad(Block):
    """Puts a frame into a larger one that is filled with `code`.

    Axes are counted in beats, slowest first; the last one counts the beats of a position.

    Parameters
    ----------
    bus : Bus
        Beats taken.
    out : Bus
        Beats given: the same lanes; elements are extended to its width.
    grid : tuple of int
        Sizes of the frame given.
    before : tuple of int
        Places before the frame taken, per axis.
    inner : tuple of int
        Sizes of the frame taken.
    code : int
        Every element of the filling.

    Notes
    -----
    Holds one input beat; it is valid in the cycle after it was taken if its place has come. One output beat per cycle;
    the filling does not wait for input, except the one at the beginning of a frame, which waits for the frame's first
    beat. The next input beat is taken at the earliest in the cycle in which the held one leaves: ``i.ready`` depends on
    ``o.ready`` in the same cycle.
    """

    bus: Bus
    out: Bus
    grid: tuple[int, ...]
    before: tuple[int, ...]
    inner: tuple[int, ...]
    code: int

    def __post_init__(self) -> None:
        if not len(self.grid) == len(self.before) == len(self.inner):
            raise ValueError(f"grid, before and inner must have as many axes: {self.grid}, {self.before}, {self.inner}")
        for n, before, inner in zip(self.grid, self.before, self.inner, strict=True):
            if before < 0 or inner < 1 or before + inner > n:
                raise ValueError(f"{inner} places after {before} must lie in an axis of {n}")
        if self.bus.lanes != self.out.lanes:
            raise ValueError(f"the output must have the {self.bus.lanes} lanes of the input, not {self.out.lanes}")
        check_extends(self.bus, self.out)
        check_code(self.code, self.out)

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.out,)

    @property
    def latency(self) -> int:
        return 1

    @property
    def inside(self) -> np.ndarray:
        """Which beats of a frame given, in order, are input beats."""
        inside = np.zeros(self.grid, bool)
        inside[tuple(slice(b, b + n) for b, n in zip(self.before, self.inner, strict=True))] = True
        return inside.reshape(-1)

    def component(self) -> wiring.Component:
        return _Pad(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        frames = inputs[0].reshape(-1, prod(self.inner), self.bus.lanes)
        padded = np.full((len(frames), prod(self.grid), self.out.lanes), self.code, np.int64)
        padded[:, self.inside] = frames
        return (padded.reshape(-1, self.out.lanes),)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        return both_sides(i[0], o[0], self.inside, np.ones(prod(self.grid), bool))


class _Pad(wiring.Component):
    def __init__(self, block: Pad) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        block = self.block
        have = Signal()
        held = Signal(block.bus.bits)
        step = self.o.valid & self.o.ready
        axes = odometer(m, block.grid, step)
        inside, first = Signal(), Signal(init=1)
        filling = Const(pack([block.code] * block.out.lanes, block.out.width), block.out.bits)
        m.d.comb += [
            inside.eq(every(within(m, *axis) for axis in zip(axes, block.before, block.inner, strict=True))),
            self.o.valid.eq(have | ~(inside | first)),
            self.o.payload.eq(Mux(inside, extend(held, block.bus, block.out), filling)),
            self.i.ready.eq(~have | (inside & self.o.ready)),
        ]
        with m.If(step):
            m.d.sync += first.eq(every(axis.last for axis in axes))
        with m.If(self.i.ready):
            m.d.sync += [have.eq(self.i.valid), held.eq(self.i.payload)]
        return m
