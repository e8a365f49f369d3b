"""What stands between the pins of a board and an accelerator: serial line, frame port, lights, reset."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import AsyncFFSynchronizer
from amaranth.lib.wiring import In, Out

from hw.axi_stream import Pins
from hw.frame_port import FramePort
from hw.uart import COUNTER_BITS, Receiver, Transmitter

__all__ = ["LIGHTS", "Board", "ResetBridge", "heartbeat_bits"]

LIGHTS = 8


def heartbeat_bits(clock_hz: Fraction | int) -> int:
    """Bits of a counter that goes round in half a second to a second."""
    return max(1, int(clock_hz).bit_length() - 1)


@dataclass(frozen=True)
class Board:
    """An accelerator's ports on a serial line.

    Parameters
    ----------
    port : FramePort
    heartbeat : int
        Bits of the counter whose highest one is the heartbeat.

    Members
    -------
    rx : In(1)
    tx : Out(1)
        The line; see `hw.uart`.
    bit_clocks : In(16)
        Clocks of a bit.
    lights : Out(8)
        Heartbeat, busy, error, and from bit 3 on the value that the host shows; all registers.
    s_axis_<k>_*, m_axis_<k>_*, s_axi_control_*, ap_rst_n : In or Out
        The accelerator; see `hw.frame_port.FramePort`.
    """

    port: FramePort
    heartbeat: int

    @property
    def pins(self) -> Pins:
        """The signals to the accelerator."""
        return self.port.pins

    def component(self) -> wiring.Component:
        """The gateware."""
        return _Board(self)


@dataclass(frozen=True)
class ResetBridge:
    """Passes a reset on at once, and its end in step with the clock.

    Members
    -------
    i : In(1)
        No clock is tied to it.
    o : Out(1)
    """

    def component(self) -> wiring.Component:
        """The gateware."""
        return _ResetBridge()


class _Board(wiring.Component):
    def __init__(self, board: Board) -> None:
        self.board = board
        pins = {n: (In if way == "input" else Out)(width) for n, (way, width) in board.pins.items()}
        line = {"rx": In(1), "tx": Out(1), "bit_clocks": In(COUNTER_BITS), "lights": Out(LIGHTS)}
        super().__init__(pins | line)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver = receiver = Receiver().component()
        m.submodules.transmitter = transmitter = Transmitter().component()
        m.submodules.port = port = self.board.port.component()
        beat = Signal(self.board.heartbeat)
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            *(block.bit_clocks.eq(self.bit_clocks) for block in (receiver, transmitter)),
            *(getattr(port, n).eq(getattr(receiver, n)) for n in ("data", "strobe", "broken")),
        ]
        wiring.connect(m, port.o, transmitter.i)
        for name, (way, _) in self.board.pins.items():
            inner, outer = getattr(port, name), getattr(self, name)
            m.d.comb += outer.eq(inner) if way == "output" else inner.eq(outer)
        m.d.sync += [beat.eq(beat + 1), self.lights.eq(Cat(beat[-1], port.busy, port.error, port.shown))]
        return m


class _ResetBridge(wiring.Component):
    def __init__(self) -> None:
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.bridge = AsyncFFSynchronizer(self.i, self.o)
        return m
