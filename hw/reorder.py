"""The elements of a frame in another order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory as AmaranthMemory

from hw.block import Beats, Block, Bus, Memory, Words
from hw.outbox import Outbox, outbox_depth
from hw.timing import Channel, Program, Queue, outbox

__all__ = ["Reorder"]

READING = 3  # cycles from the address in the order to a valid output: order, frame, outbox


@dataclass(frozen=True)
class Reorder(Block):
    """Gives the elements of each frame in the order that its memory `order` holds: as the k-th the one of ``order[k]``.

    Two frames are held: one is taken while the other is given, each an element per cycle. The first element of a frame
    is valid `latency` cycles after the frame's last one was taken. The first element of the next frame but one is
    taken at the earliest a cycle after the last one was looked up, `READING` cycles before that is valid.

    Parameters
    ----------
    bus : Bus
        One element per beat.
    beats : int
        Elements of a frame.
    """

    bus: Bus
    beats: int

    def __post_init__(self) -> None:
        if self.bus.lanes != 1:
            raise ValueError(f"a beat must be 1 element, not {self.bus.lanes}")
        if self.beats < 1:
            raise ValueError(f"a frame must have at least 1 element, not {self.beats}")

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def memories(self) -> dict[str, Memory]:
        """``order``: for each output element its place in the frame taken."""
        return {"order": Memory(self.beats, max(1, (self.beats - 1).bit_length()))}

    @property
    def latency(self) -> int:
        """Cycles from a frame's last input to its first output."""
        return 1 + READING

    def words(self, order: Sequence[int]) -> tuple[int, ...]:
        """Contents of the memory.

        Raises
        ------
        ValueError
            Not one place inside of the frame for each output element.
        """
        if len(order) != self.beats or not all(0 <= k < self.beats for k in order):
            raise ValueError(f"the order must be {self.beats} places from 0 to {self.beats - 1}")
        return tuple(int(k) for k in order)

    def component(self) -> wiring.Component:
        return _Reorder(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        frames = inputs[0].reshape(-1, self.beats)
        return (frames[:, np.array(memories["order"], np.int64)].reshape(-1, 1),)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        filled, freed, results, credits = Queue(), Queue(), Queue(), Queue()
        return (
            self._write(i[0], filled, freed),
            self._read(filled, freed, results, credits),
            outbox(o[0], results, credits),
        )

    def _write(self, i: Channel, filled: Queue, freed: Queue) -> Program:
        p = Program()
        t, free = p.time(-1), p.time()
        freed.spare = 2
        with p.forever():
            p.recv(freed, free)
            with p.times(self.beats):
                p.get(i, t, t + 1, free)
            p.send(filled, t + 1)
        return p

    def _read(self, filled: Queue, freed: Queue, results: Queue, credits: Queue) -> Program:
        p = Program()
        t, there, free = p.time(-1), p.time(), p.time()
        credits.spare = outbox_depth(READING)
        with p.forever():
            p.recv(filled, there)
            p.set(t, t, there - 1)
            with p.times(self.beats):
                p.recv(credits, free)
                p.set(t, t + 1, free)
                p.send(results, t + READING)
            p.send(freed, t + 1)
        return p


class _Reorder(wiring.Component):
    """Writing and reading the frames' memory are both a cycle late, so a place is never read while it is written."""

    def __init__(self, block: Reorder) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        block = self.block
        bits = block.memories["order"].width
        m.submodules.frames = frames = AmaranthMemory(shape=block.bus.bits, depth=(1 << bits) + block.beats, init=[])
        m.submodules.outbox = box = Outbox(block.bus.bits, outbox_depth(READING))
        to, of = frames.write_port(), frames.read_port()
        put, get = Signal(bits), Signal(bits)  # places in the frame taken, in the order given
        put_half, get_half, of_half = Signal(), Signal(), Signal()
        full = Signal(2)  # frames held whole
        issued = Signal(2)  # one bit per cycle of an element's way to the outbox
        take, issue = self.i.valid & self.i.ready, Signal()
        put_last = put == block.beats - 1
        get_last = get == block.beats - 1
        m.d.comb += [
            self.i.ready.eq(full != 2),
            issue.eq((full != 0) & box.may),
            self.order_addr.eq(get),
            of.addr.eq(Cat(self.order_data, of_half)),
            box.take.eq(issue),
            box.push.eq(issued[1]),
            box.data.eq(of.data),
        ]
        wiring.connect(m, wiring.flipped(self.o), box.o)
        m.d.sync += [
            to.addr.eq(Cat(put, put_half)),
            to.data.eq(self.i.payload),
            to.en.eq(take),
            of_half.eq(get_half),
            issued.eq(Cat(issue, issued[0])),
            full.eq(full + (take & put_last) - (issue & get_last)),
        ]
        with m.If(take):
            m.d.sync += [put.eq(Mux(put_last, 0, put + 1)), put_half.eq(put_half ^ put_last)]
        with m.If(issue):
            m.d.sync += [get.eq(Mux(get_last, 0, get + 1)), get_half.eq(get_half ^ get_last)]
        return m
