"""The AXI4-Stream ports of an accelerator: where frames enter and leave.

TDATA is the payload of the stream inside, filled up at the top to whole bytes; TLAST marks the last beat of a frame.
The blocks here have one stream inside and one side of AXI4-Stream signals, ``s_...`` or ``m_...``, which are listed in
`external`; `axi_in` or `axi_out` tells the shape of a beat there. Model and timing treat the AXI side as a stream like
any other: it is input 0 of `AxisIn` and output 0 of `AxisOut`. Both pass a beat per cycle through two registers, so that
no combinational path leads from one side to the other, neither forwards nor backwards.

Each port tells what happens by `events`, outputs of one bit for the counters of `hw.axi_lite`, a cycle after the fact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.block import Beats, Block, Bus, Words
from hw.timing import Channel, Program, Queue, dispatch, outbox

__all__ = ["INPUT_EVENTS", "OUTPUT_EVENTS", "AxisIn", "AxisOut", "Pins", "resynchronised", "tdata_width"]

Pins = dict[str, tuple[str, int]]  # name: ("input" or "output", width)

INPUT_EVENTS = ("error_early", "error_late", "frame_in", "stalled", "begun")
OUTPUT_EVENTS = ("frame_out", "stalled")
PLACES = 2  # registers of a port


def tdata_width(bus: Bus) -> int:
    """Bits of TDATA: the payload in whole bytes."""
    return -(-bus.bits // 8) * 8


def resynchronised(words: Sequence[int], lasts: Sequence[bool], beats: int) -> tuple[list[int], int, int]:
    """What an `AxisIn` makes of transfers whose TLAST may be wrong.

    Parameters
    ----------
    words : sequence of int
        Payloads of the transfers.
    lasts : sequence of bool
        TLAST of each.
    beats : int
        Beats of one frame.

    Returns
    -------
    tuple of (list of int, int, int)
        Payloads inside, number of early TLASTs, number of frames without TLAST at their last beat.
    """
    inside: list[int] = []
    early, late, dropping = 0, 0, False
    for word, last in zip(words, lasts, strict=True):
        if dropping:
            dropping = not last
            continue
        inside.append(word)
        missing = -len(inside) % beats
        if last and missing:
            inside += [0] * missing
            early += 1
        elif not last and not missing:
            late += 1
            dropping = True
    return inside, early, late


@dataclass(frozen=True)
class AxisIn(Block):
    """An AXI4-Stream port that takes frames of `beats` beats.

    The first beat is taken in cycle 1 after reset at the earliest, then one per cycle. TREADY is a register and is low
    during reset. A TLAST at the wrong beat is reported and mended: after one that comes early the frame is filled up
    with zeros, a beat per cycle, while what follows waits; after a last beat without TLAST all transfers up to and
    including the next TLAST are dropped. Frames behind the mended one are whole again. All this is done behind the
    port's registers, where the beats are needed: what is at the pins knows nothing of frames.

    Members
    -------
    s_tdata, s_tvalid, s_tlast : In
    s_tready : Out(1)
        The AXI4-Stream port. Filling bits of ``s_tdata`` are ignored.
    o : Out(stream)
    error_early, error_late : Out(1)
        A cycle after a beat was given inside whose TLAST came before the last beat of a frame; which was a last beat without TLAST.
    frame_in : Out(1)
        A cycle after a frame's last beat was given inside.
    stalled : Out(1)
        A cycle after one with TVALID but no TREADY.
    begun : Out(1)
        A beat of a frame is taken, and the frame's last one not given inside.
    """

    bus: Bus
    beats: int

    def __post_init__(self) -> None:
        _check(self.beats)

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return ()

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def axi_in(self) -> Bus | None:
        """Shape of a beat that is taken from outside."""
        return self.bus

    @property
    def axi_out(self) -> Bus | None:
        """Nothing is given to the outside."""
        return None

    @property
    def external(self) -> Pins:
        """The AXI4-Stream signals by port name."""
        return {
            "s_tdata": ("input", tdata_width(self.bus)),
            "s_tvalid": ("input", 1),
            "s_tready": ("output", 1),
            "s_tlast": ("input", 1),
        }

    @property
    def events(self) -> tuple[str, ...]:
        """Outputs of one bit for the counters."""
        return INPUT_EVENTS

    @property
    def signature(self) -> dict[str, wiring.Member]:
        return super().signature | _members(self.external, self.events)

    @property
    def latency(self) -> int:
        return 1

    def component(self) -> wiring.Component:
        return _AxisIn(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        """Beats inside for beats at the AXI side with right TLAST; `resynchronised` for others."""
        return (inputs[0],)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        """Timing with right TLAST; ``i[0]`` is the AXI side."""
        results, credits = Queue(), Queue()
        return (_accept(i[0], results, credits), outbox(o[0], results, credits))


@dataclass(frozen=True)
class AxisOut(Block):
    """An AXI4-Stream port that gives frames of `beats` beats, TLAST at the last one.

    All outputs of the port are registers; TVALID does not wait for TREADY.

    Members
    -------
    i : In(stream)
    m_tdata, m_tvalid, m_tlast : Out
    m_tready : In(1)
        The AXI4-Stream port. Filling bits of ``m_tdata`` are zero.
    frame_out : Out(1)
        A cycle after a frame's last beat was accepted outside.
    stalled : Out(1)
        A cycle after one with TVALID but no TREADY.
    """

    bus: Bus
    beats: int

    def __post_init__(self) -> None:
        _check(self.beats)

    @property
    def inputs(self) -> tuple[Bus, ...]:
        return (self.bus,)

    @property
    def outputs(self) -> tuple[Bus, ...]:
        return ()

    @property
    def axi_in(self) -> Bus | None:
        """Nothing is taken from outside."""
        return None

    @property
    def axi_out(self) -> Bus | None:
        """Shape of a beat that is given to the outside."""
        return self.bus

    @property
    def external(self) -> Pins:
        """The AXI4-Stream signals by port name."""
        return {
            "m_tdata": ("output", tdata_width(self.bus)),
            "m_tvalid": ("output", 1),
            "m_tready": ("input", 1),
            "m_tlast": ("output", 1),
        }

    @property
    def events(self) -> tuple[str, ...]:
        """Outputs of one bit for the counters."""
        return OUTPUT_EVENTS

    @property
    def signature(self) -> dict[str, wiring.Member]:
        return super().signature | _members(self.external, self.events)

    @property
    def latency(self) -> int:
        return 1

    def component(self) -> wiring.Component:
        return _AxisOut(self)

    def model(self, inputs: Sequence[Beats], memories: Mapping[str, Words]) -> tuple[Beats, ...]:
        """Beats at the AXI side."""
        return (inputs[0],)

    def processes(self, i: Sequence[Channel], o: Sequence[Channel]) -> Iterable[Program]:
        """``o[0]`` is the AXI side."""
        results, credits = Queue(), Queue()
        return (dispatch(i[0], results, credits, PLACES, 1), outbox(o[0], results, credits))


def _check(beats: int) -> None:
    if beats < 1:
        raise ValueError(f"a frame must have at least 1 beat, not {beats}")


def _members(external: Pins, events: Iterable[str]) -> dict[str, wiring.Member]:
    pins = {name: (In if way == "input" else Out)(width) for name, (way, width) in external.items()}
    return pins | {name: Out(1) for name in events}


def _accept(i: Channel, results: Queue, credits: Queue) -> Program:
    """`hw.timing.dispatch` that sleeps in cycle 0."""
    return dispatch(i, results, credits, PLACES, 1, first=1)


class _Pair(wiring.Component):
    """Two registers: the one that is offered, and a spare one for the beat that comes while the first is held up.

    What comes while ``i.ready`` is low is not looked at; `holds` says whether that is low in the next cycle.
    """

    def __init__(self, width: int) -> None:
        super().__init__({"i": In(stream.Signature(width)), "o": Out(stream.Signature(width)), "holds": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spare = Signal.like(self.i.payload)
        spare_full = Signal()
        stays, some = self.o.valid & ~self.o.ready, self.i.valid | spare_full
        m.d.comb += [self.i.ready.eq(~spare_full), self.holds.eq(stays & some)]
        m.d.sync += spare_full.eq(self.holds)
        with m.If(~stays):
            m.d.sync += [self.o.valid.eq(some), self.o.payload.eq(Mux(spare_full, spare, self.i.payload))]
        with m.If(~spare_full):  # whatever comes: it counts only once `spare_full` is set
            m.d.sync += spare.eq(self.i.payload)
        return m


class _AxisIn(wiring.Component):
    def __init__(self, block: AxisIn) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits, beats = self.block.bus.bits, self.block.beats
        m.submodules.pair = pair = _Pair(bits + 1)
        filling, dropping = Signal(), Signal()
        position, last = Signal(range(max(2, beats))), Signal(init=beats == 1)
        ends, given, early, late = pair.o.payload[bits], Signal(), Signal(), Signal()
        m.d.sync += self.s_tready.eq(~pair.holds)
        m.d.comb += [
            pair.i.valid.eq(self.s_tvalid & self.s_tready),
            pair.i.payload.eq(Cat(self.s_tdata[:bits], self.s_tlast)),
            pair.o.ready.eq(dropping | (self.o.ready & ~filling)),
            self.o.valid.eq(filling | (pair.o.valid & ~dropping)),
            self.o.payload.eq(Mux(filling, 0, pair.o.payload[:bits])),
            self.begun.eq((position != 0) | self.o.valid),
            given.eq(self.o.valid & self.o.ready),
            early.eq(given & ~filling & ends & ~last),
            late.eq(given & ~filling & ~ends & last),
        ]
        with m.If(given):
            m.d.sync += [position.eq(Mux(last, 0, position + 1)), last.eq(beats == 1 or position == beats - 2)]
            m.d.sync += filling.eq(early | (filling & ~last))
        with m.If(late):
            m.d.sync += dropping.eq(1)
        with m.Elif(pair.o.valid & ends):
            m.d.sync += dropping.eq(0)
        m.d.sync += [
            self.error_early.eq(early),
            self.error_late.eq(late),
            self.frame_in.eq(given & last),
            self.stalled.eq(self.s_tvalid & ~self.s_tready),
        ]
        return m


class _AxisOut(wiring.Component):
    def __init__(self, block: AxisOut) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.block.bus.bits
        m.submodules.pair = pair = _Pair(bits + 1)
        position = Signal(range(max(2, self.block.beats)))
        last = Signal()
        m.d.comb += [
            last.eq(position == self.block.beats - 1),
            pair.i.valid.eq(self.i.valid),
            pair.i.payload[:bits].eq(self.i.payload),
            pair.i.payload[bits].eq(last),
            self.i.ready.eq(pair.i.ready),
            self.m_tvalid.eq(pair.o.valid),
            self.m_tdata.eq(pair.o.payload[:bits]),
            self.m_tlast.eq(pair.o.payload[bits]),
            pair.o.ready.eq(self.m_tready),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += position.eq(Mux(last, 0, position + 1))
        m.d.sync += [
            self.frame_out.eq(self.m_tvalid & self.m_tready & self.m_tlast),
            self.stalled.eq(self.m_tvalid & ~self.m_tready),
        ]
        return m
