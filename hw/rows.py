"""Pixels of a row under a sliding kernel, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring

from hw.block import Beats, Block, Bus, Words, pack
from hw.routing import both_sides, check_code, check_extends, extend, odometer, within
from hw.timing import Channel, Program

__all__ = ["RowPacker"]


@dataclass(frozen=True)
class RowPacker(Block):
    """For every output column x of a row one beat: pixels ``x * stride + tap * dilation - before``, tap by tap.

    Within a tap the channels follow each other. Pixels outside of the row are `code` in all channels.

    Parameters
    ----------
    bus : Bus
        Beats taken: one pixel each, its channels the lanes.
    out : Bus
        Beats given: ``kernel * bus.lanes`` lanes; elements are extended to its width.
    width : int
        Pixels of a row.
    kernel, stride, dilation : int
        Taps, pixels from one output column to the next, pixels from one tap to the next.
    before, after : int
        Pixels of filling at the ends of a row.
    code : int
        Every element of the filling.

    Notes
    -----
    Makes one step per cycle, `steps` per row: a pixel or one of filling enters a window of `span` pixels. An output
    beat is valid in the cycle after its last pixel was taken if that pixel's step has come; a step that gives a beat
    takes place when the beat leaves. One more pixel than was used is taken while steps are made of filling. Filling
    does not wait for pixels, except at the beginning of a row. ``i.ready`` depends on ``o.ready`` in the same cycle.
    """

    bus: Bus
    out: Bus
    width: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    code: int

    def __post_init__(self) -> None:
        if min(self.width, self.kernel, self.stride, self.dilation) < 1 or min(self.before, self.after) < 0:
            raise ValueError(f"width, kernel, stride and dilation must be at least 1, before and after 0: {self}")
        if self.width + self.before + self.after < self.span:
            raise ValueError(f"the kernel spans {self.span} pixels, more than a row with its filling")
        if self.out.lanes != self.kernel * self.bus.lanes:
            raise ValueError(f"the output must have {self.kernel * self.bus.lanes} lanes, not {self.out.lanes}")
        check_extends(self.bus, self.out)
        check_code(self.code, self.out)

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.out,)

    @property
    def span(self) -> int:
        """Pixels from the first to the last tap."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def columns(self) -> int:
        """Output beats of a row."""
        return (self.width + self.before + self.after - self.span) // self.stride + 1

    @property
    def steps(self) -> int:
        """Cycles of a row at full rate; filling after the last output column's last pixel costs none."""
        return max(self.before + self.width, self.span + (self.columns - 1) * self.stride)

    @property
    def latency(self) -> int:
        return 1

    def component(self) -> wiring.Component:
        return _RowPacker(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        rows = inputs[0].reshape(-1, self.width, self.bus.lanes)
        padded = np.pad(rows, [(0, 0), (self.before, self.after), (0, 0)], constant_values=self.code)
        x, tap = np.ix_(range(self.columns), range(self.kernel))
        return (padded[:, x * self.stride + tap * self.dilation].reshape(-1, self.out.lanes),)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        real = [self.before <= p < self.before + self.width for p in range(self.steps)]
        first = self.span - 1
        given = [p >= first and (p - first) % self.stride == 0 for p in range(self.steps)]
        return both_sides(i[0], o[0], real, given)


class _RowPacker(wiring.Component):
    """The held pixel, or filling, is the newest of the window; `until` counts the steps to the next output beat."""

    def __init__(self, block: RowPacker) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        block = self.block
        pixel = Bus(block.bus.lanes, block.out.width, block.out.signed)
        have, real, step, there = Signal(), Signal(), Signal(), Signal()
        held = Signal(block.bus.bits)
        [axis] = odometer(m, [block.steps], step)
        first, give = Signal(init=1), Signal(init=block.span == 1)
        until = Signal(range(max(2, block.span, block.stride)), init=block.span - 1)
        window = [Signal(pixel.bits, name=f"window{k}") for k in range(block.span)]  # newest first
        filling = Const(pack([block.code] * pixel.lanes, pixel.width), pixel.bits)
        m.d.comb += [
            real.eq(within(m, axis, block.before, block.width)),
            there.eq(have | ~(real | first)),
            step.eq(there & (self.o.ready | ~give)),
            window[0].eq(Mux(real, extend(held, block.bus, pixel), filling)),
            self.o.valid.eq(there & give),
            self.o.payload.eq(Cat(*window[:: -block.dilation])),
            self.i.ready.eq(~have | (real & (self.o.ready | ~give))),
        ]
        with m.If(self.i.ready):
            m.d.sync += [have.eq(self.i.valid), held.eq(self.i.payload)]
        with m.If(step):
            m.d.sync += [older.eq(newer) for newer, older in pairwise(window)]
            m.d.sync += [
                first.eq(axis.last),
                until.eq(Mux(axis.last, block.span - 1, Mux(give, block.stride - 1, until - 1))),
                give.eq(Mux(axis.last, block.span == 1, Mux(give, block.stride == 1, until == 1))),
            ]
        return m
