"""Whole windows out of a stream of positions: delay lines in registers and memories, every element of a window at once.

The words of the stream run through a chain of delays, one move per word taken; the words of a window stand at fixed
places of the chain. A window is complete when its last word is in, and is offered in the next cycle; it is held, and
the chain with it, until it is taken. Stride, frames and what lies between windows are a matter of counting, as in
`hw.engine`: `moves` and `frame` say by how many words the window moves on. Padding is put into the stream before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory as Ram

from hw.block import Beats, Block, Bus, Words
from hw.routing import odometer
from hw.sliding import Sliding
from hw.timing import Channel, Program

__all__ = ["Window"]

SHORT = 4  # words of delay up to which registers are used


@dataclass(frozen=True)
class Window(Sliding, Block):
    """Gives windows of a stream.

    Parameters
    ----------
    i : Bus
        One word.
    offsets : tuple of int
        Places of the window's words in the stream, rising, counted from the window's first word: the first is 0.
    moves : tuple of (count, words)
        Positions along each axis, innermost first, and by how many words the window moves on along it.
    frame : int
        Words from the window of a frame's last position to the next frame's first.
    rests : bool
        Whether a cycle passes between that in which a window leaves and the next word.

    Notes
    -----
    Takes a word per cycle, except while a window waits; ``i.ready`` depends on ``o.ready`` in the same cycle. A block
    that `rests` takes none in the cycle in which a window leaves, and its ``i.ready`` is a register: no path leads through it.
    """

    i: Bus
    offsets: tuple[int, ...]
    moves: tuple[tuple[int, int], ...]
    frame: int
    rests: bool = False

    def __post_init__(self) -> None:
        if not self.offsets or self.offsets[0] != 0 or any(a >= b for a, b in pairwise(self.offsets)):
            raise ValueError(f"the places of a window's words must rise from 0, not be {self.offsets}")
        steps = [words for count, words in self.moves if count > 1]
        if min([self.frame, *steps]) < 1:
            raise ValueError(f"a window must move on by at least one word, not by {self.frame} and {steps}")

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.i,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (Bus(self.i.lanes * len(self.offsets), self.i.width, self.i.signed),)

    @property
    def span(self) -> int:
        """Words from the first to the last of a window, both counted."""
        return self.offsets[-1] + 1

    @property
    def latency(self) -> int:
        return 1

    def component(self) -> wiring.Component:
        return _Window(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        x, bases, base = inputs[0], [], 0
        for move in self.advances():
            if base + self.span > len(x):
                break
            bases.append(base)
            base += move
        at = np.array(bases, np.int64)[:, None] + np.array(self.offsets, np.int64)
        return (x[at].reshape(len(bases), -1),)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        return (self._slide(i[0], o[0]),)

    def _slide(self, i: Channel, o: Channel) -> Program:
        p = Program()
        t = p.time(-self.rests)
        with p.forever():
            p.get(i, t, t + self.rests)
            with p.times(self.moved - 1, [self.span - 1]):
                p.get(i, t, t + 1)
            p.put(o, t, t + 1)
        return p


class _Window(wiring.Component):
    def __init__(self, block: Window) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        full, take = Signal(), Signal()
        m.d.comb += [
            self.o.valid.eq(full),
            self.i.ready.eq(~full if self.block.rests else ~full | self.o.ready),
            take.eq(self.i.valid & self.i.ready),
            self.o.payload.eq(Cat(*self.words(m, take))),
        ]
        complete = self.complete(m, take)
        with m.If(self.i.ready):
            m.d.sync += full.eq(take & complete)
        if self.block.rests:
            with m.If(full & self.o.ready):
                m.d.sync += full.eq(0)
        return m

    def complete(self, m: Module, take: Value) -> Value:
        """Whether the word that is taken completes a window."""
        b = self.block
        need = Signal(range(max(b.span, b.frame, *(w for _, w in b.moves)) + 1), init=b.span)
        complete = Signal(init=b.span == 1)  # `need` is 1
        axes = odometer(m, [count for count, _ in reversed(b.moves)], take & complete)
        move: Value = Const(b.frame, len(need))
        single: Value = Const(b.frame == 1, 1)
        for (_, words), axis in zip(reversed(b.moves), axes, strict=True):
            move, single = Mux(axis.last, move, words), Mux(axis.last, single, words == 1)
        with m.If(take):
            m.d.sync += [need.eq(Mux(complete, move, need - 1)), complete.eq(Mux(complete, single, need == 2))]
        return complete

    def words(self, m: Module, take: Value) -> list[Value]:
        """The window's words, first to last; each is the one behind it, some words later."""
        b = self.block
        newest = Signal(b.i.bits, name="word_0", reset_less=True)
        with m.If(take):
            m.d.sync += newest.eq(self.i.payload)
        words: list[Value] = [newest]
        places: dict[int, tuple[Signal, Signal]] = {}
        for k, (low, high) in enumerate(reversed(list(pairwise(b.offsets))), start=1):
            gap = high - low
            if gap > SHORT:
                word = self.through_memory(m, words[-1], gap, take, places, k)
            else:
                word = words[-1]
                for step in range(gap):
                    later = Signal(
                        b.i.bits, name=f"word_{k}" if step == gap - 1 else f"gap_{k}_{step}", reset_less=True
                    )
                    with m.If(take):
                        m.d.sync += later.eq(word)
                    word = later
            words.append(word)
        return words[::-1]

    def through_memory(
        self, m: Module, word: Value, gap: int, take: Value, places: dict[int, tuple[Signal, Signal]], k: int
    ) -> Value:
        """A delay of `gap` words: written at one place of a ring, read at the next; the memory's output is the last."""
        if gap not in places:
            at, ahead = Signal(range(gap), name=f"at_{gap}"), Signal(range(gap), name=f"ahead_{gap}", init=1)
            with m.If(take):
                m.d.sync += [at.eq(ahead), ahead.eq(Mux(ahead == gap - 1, 0, ahead + 1))]
            places[gap] = at, ahead
        at, ahead = places[gap]
        m.submodules[f"line_{k}"] = line = Ram(shape=unsigned(self.block.i.bits), depth=gap, init=[])
        into, out = line.write_port(), line.read_port()
        m.d.comb += [into.addr.eq(at), into.data.eq(word), into.en.eq(take), out.addr.eq(ahead), out.en.eq(take)]
        return out.data
