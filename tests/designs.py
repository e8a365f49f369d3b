"""A small accelerator made by hand: out = in + two constants that depend on the place of the beat, modulo 2**width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring

from hw.axi_stream import AxisIn, AxisOut
from hw.block import Beats, Block, Bus, Memory, Words, pack, unpack
from hw.fifo import Fifo
from hw.outbox import Outbox
from hw.timing import Channel, Process, Queue, dispatch, outbox
from tcompile.mapping.design import Design, Edge, Instance, Stream
from tcompile.mapping.layout import Layout, channels_last

SHAPE = (1, 3, 4, 5)  # channels, rows, columns
BUS = Bus(2, 5, signed=True)  # 10 bits in two bytes


@dataclass(frozen=True)
class Adder(Block):
    """Adds word k of a memory to beat k of each frame, element by element."""

    bus: Bus
    beats: int
    places: int = 3

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def memories(self) -> dict[str, Memory]:
        return {"terms": Memory(self.beats, self.bus.bits)}

    @property
    def latency(self) -> int:
        return 2

    def component(self) -> wiring.Component:
        return _Adder(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        terms = np.array([unpack(w, self.bus) for w in memories["terms"]])
        total = inputs[0] + np.tile(terms, (len(inputs[0]) // self.beats, 1))
        return (np.array([unpack(pack(row, self.bus.width), self.bus) for row in total]),)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Process]:
        results, credits = Queue(), Queue()
        return (dispatch(i[0], results, credits, self.places, 2), outbox(o[0], results, credits))


class _Adder(wiring.Component):
    def __init__(self, block: Adder) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.block.bus
        m.submodules.queue = queue = Outbox(bus.bits, self.block.places)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        place, beat = Signal(range(self.block.beats)), Signal(bus.bits)
        m.d.comb += [
            self.terms_addr.eq(place),
            self.i.ready.eq(queue.may),
            queue.take.eq(self.i.valid & queue.may),
            queue.data.eq(
                Cat(
                    (beat.word_select(k, bus.width) + self.terms_data.word_select(k, bus.width))[: bus.width]
                    for k in range(bus.lanes)
                )
            ),
        ]
        m.d.sync += [queue.push.eq(queue.take), beat.eq(self.i.payload)]
        with m.If(queue.take):
            m.d.sync += place.eq(Mux(place == self.block.beats - 1, 0, place + 1))
        return m


LAYOUT = channels_last(SHAPE, 1)
TERMS = tuple((7 * k + 3) % (1 << BUS.bits) for k in range(LAYOUT.beats(BUS.lanes)))


def design(
    name: str = "tiny", bus: Bus = BUS, layout: Layout = LAYOUT, *, broken: bool = False, terms: Sequence[int] = TERMS
) -> Design:
    """AXI in, adder, queue, adder with the same terms, AXI out; `broken`: the queue waits for one frame more."""
    beats = layout.beats(bus.lanes)
    streams = {n: Stream(n, bus, v, beats, layout) for n, v in zip("abcd", ("x", "y", "y", "z"), strict=True)}
    adder, words = Adder(bus, beats), {"terms": tuple(terms)}
    middle = Hoarder(bus, beats) if broken else Fifo(bus, 70)
    return Design(
        name,
        (
            Instance("take", AxisIn(bus, beats), (), ("a",)),
            Instance("add", adder, ("a",), ("b",), words, "first"),
            Instance("queue", middle, ("b",), ("c",)),
            Instance("add_again", adder, ("c",), ("d",), words, "second"),
            Instance("give", AxisOut(bus, beats), ("d",), ()),
        ),
        streams,
        (Edge(0, "a", "x", layout),),
        (Edge(0, "d", "z", layout),),
    )


def inputs(frames: int, seed: int = 0, bus: Bus = BUS, layout: Layout = LAYOUT) -> np.ndarray:
    """Random beats of some frames, zeros beyond the channels."""
    low = -(1 << (bus.width - 1)) if bus.signed else 0
    if not frames:
        return np.zeros((0, bus.lanes), np.int64)
    values = np.random.default_rng(seed).integers(low, low + (1 << bus.width), (frames, *layout.shape))
    return layout.to_beats(values, bus)


def expected(design: Design, beats: np.ndarray) -> dict[str, np.ndarray]:
    """Beats of all inner streams, by the models of the blocks."""
    streams = {design.instances[0].outputs[0]: beats}
    for instance in design.instances[1:-1]:
        outputs = instance.block.model([streams[n] for n in instance.inputs], instance.memories)
        streams |= zip(instance.outputs, outputs, strict=True)
    return streams


@dataclass(frozen=True)
class Hoarder(Fifo):
    """A queue that takes its frames and gives none."""

    def component(self) -> wiring.Component:
        return _Hoarder(self.signature)


class _Hoarder(wiring.Component):
    def elaborate(self, platform: object) -> Module:
        m = Module()
        level = Signal(8)
        m.d.comb += self.i.ready.eq(level != 9)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += level.eq(level + 1)
        return m
