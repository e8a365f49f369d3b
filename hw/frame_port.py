"""The frame port: an accelerator's AXI ports behind a stream of bytes.

A host sends packets (`hw.packets`) whose first byte is a command, and gets packets back:

============ =========================== ===========================================================================
command      body behind it              answer
============ =========================== ===========================================================================
``STATUS``                               version, errors so far, next number of each input, of each output
``READ``     address (2)                 address (2), data (4), response: a read of ``s_axi_control``
``WRITE``    address (2), data (4)       address (2), response: a write
``RESET``                                nothing; accelerator, queues and numbers begin anew
``SHOW``     value                       value, which is on the LEDs from then on
``FRAME``    port, number, beats         none now; when the accelerator is done a ``RESULT`` of each output
============ =========================== ===========================================================================

An answer's first byte is the command's with bit 7 set. Numbers of several bytes are little-endian. Frames are numbered
modulo 256 at each port; one with another number than the next is refused, so that the order holds whatever gets lost.
A frame is kept back until it is there as a whole and its checksum is right: the accelerator never sees a broken one.
What is refused is answered by ``ERROR``, a code of `Refusal` and one more byte, and has no other effect.

`Model` is the model: packets in, answers out, frames delivered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from amaranth.hdl import Array, Cat, Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.axi_stream import Pins
from hw.block import Bus
from hw.fifo import Fifo
from hw.packet_queue import PacketQueue
from hw.packets import BYTE_OF_PACKET, PacketReader, PacketWriter

__all__ = ["ANSWER", "RESULT", "VERSION", "Command", "FramePort", "Model", "Port", "Refusal"]

VERSION = 1
ANSWER = 0x80  # set in the first byte of what is sent to the host
HEADER = 2  # bytes between command and beats: port and number
QUEUE = 2048  # bytes at least, one block RAM: so many small frames may be under way that a slow host is no brake
RESTART = 8  # cycles that the accelerator is held in reset
SHOWN = 5  # bits


class Command(IntEnum):
    """First bytes of what a host sends."""

    STATUS = 1
    READ = 2
    WRITE = 3
    RESET = 4
    SHOW = 5
    FRAME = 6


RESULT = ANSWER | Command.FRAME
ERROR = ANSWER | 0x0F


class Refusal(IntEnum):
    """Why a packet is refused, and what the byte behind says."""

    CHECKSUM = 1  # broken on its way; 0
    COMMAND = 2  # there is no such command; the command
    LENGTH = 3  # not the length of the command, or of a frame; the command
    PORT = 4  # there is no such input; the port
    NUMBER = 5  # not the next number of the input; the next number
    FULL = 6  # the queue of the input is full; the port
    BUSY = 7  # the command before is not answered yet; the command


BODY = {Command.STATUS: 0, Command.READ: 2, Command.WRITE: 6, Command.RESET: 0, Command.SHOW: 1}
ARGUMENTS = max(BODY.values())


@dataclass(frozen=True)
class Port:
    """An AXI4-Stream port: its number, bits of TDATA and beats of a frame."""

    number: int
    bits: int
    beats: int

    def __post_init__(self) -> None:
        if self.bits < 8 or self.bits % 8 or self.beats < 1 or not 0 <= self.number < 256:
            raise ValueError(f"a port must have whole bytes, a beat or more and a number below 256, not {self}")

    @property
    def beat_bytes(self) -> int:
        """Bytes of a beat."""
        return self.bits // 8

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return self.beats * self.beat_bytes

    @property
    def queue_bytes(self) -> int:
        """Depth of an input's queue: two frames, or more where they are small."""
        return max(2 * self.frame_bytes, QUEUE)

    @property
    def window(self) -> int:
        """Frames that a host may send without a result; what is beyond may be refused as `FULL`."""
        return min(self.queue_bytes // self.frame_bytes, 64)


@dataclass(frozen=True)
class FramePort:
    """Commands, queues of whole frames, and the accelerator's ports.

    Parameters
    ----------
    inputs, outputs : tuple of Port
        The accelerator's AXI4-Stream ports.
    address_width : int
        Bits of an address of ``s_axi_control``.

    Members
    -------
    data, strobe, broken : In
        Bytes of the host; see `hw.packets.PacketReader`.
    o : Out(stream)
        Bytes for the host.
    s_axis_<k>_*, m_axis_<k>_*, s_axi_control_*, ap_rst_n : In or Out
        The ports of the accelerator, seen from the other side. All outputs but ``s_axi_control_*valid`` are registers or
        depend on registers only.
    busy : Out(1)
        A frame is in a queue, or its result has not begun to leave.
    error : Out(1)
        Something was refused since the last reset.
    shown : Out(5)
        The value of the last `SHOW`.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    address_width: int

    def __post_init__(self) -> None:
        if not self.inputs or not self.outputs:
            raise ValueError("an accelerator must have an input and an output")

    @property
    def pins(self) -> Pins:
        """The signals to the accelerator by their names there; ways are seen from the frame port."""
        pins: Pins = {"ap_rst_n": ("output", 1)}
        for ports, name, way, back in (
            (self.inputs, "s_axis", "output", "input"),
            (self.outputs, "m_axis", "input", "output"),
        ):
            for port in ports:
                widths = {"tdata": port.bits, "tvalid": 1, "tlast": 1}
                pins |= {f"{name}_{port.number}_{signal}": (way, width) for signal, width in widths.items()}
                pins[f"{name}_{port.number}_tready"] = (back, 1)
        address = {"addr": self.address_width, "prot": 3}
        for channel, way, fields in (
            ("aw", "output", address),
            ("w", "output", {"data": 32, "strb": 4}),
            ("b", "input", {"resp": 2}),
            ("ar", "output", address),
            ("r", "input", {"data": 32, "resp": 2}),
        ):
            pins |= {f"s_axi_control_{channel}{n}": (way, w) for n, w in (fields | {"valid": 1}).items()}
            pins[f"s_axi_control_{channel}ready"] = ("input" if way == "output" else "output", 1)
        return pins

    @property
    def signature(self) -> dict[str, wiring.Member]:
        """Ports of the component."""
        host = {"data": In(8), "strobe": In(1), "broken": In(1), "o": Out(stream.Signature(8))}
        lights = {"busy": Out(1), "error": Out(1), "shown": Out(SHOWN)}
        return host | lights | {n: (In if way == "input" else Out)(w) for n, (way, w) in self.pins.items()}

    def component(self) -> wiring.Component:
        """The gateware."""
        return _FramePort(self)


@dataclass
class Model:
    """The frame port, packet by packet: for a host that waits for each answer, and queues that are never emptied.

    Attributes
    ----------
    frames : list of list of bytes
        What each input's queue has let out since the last reset.
    registers : dict of int to int
        What a read finds at an address; a write there is kept.
    """

    port: FramePort
    registers: dict[int, int] = field(default_factory=dict)
    frames: list[list[bytes]] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    errors: int = 0
    shown: int = 0

    def __post_init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self.frames = [[] for _ in self.port.inputs]
        self.given = [0] * len(self.port.outputs)
        self.errors = 0

    def receive(self, body: bytes | None) -> bytes | None:
        """The answer to a packet, None for a frame that is taken; the packet is None where it was broken."""
        refusal = self._refusal(body)
        if refusal is not None:
            self.errors = min(self.errors + 1, 255)
            return bytes([ERROR, *refusal])
        assert body is not None
        return self._done(Command(body[0]), body)

    def _refusal(self, body: bytes | None) -> tuple[Refusal, int] | None:
        if body is None:
            return Refusal.CHECKSUM, 0
        if body[0] == Command.FRAME:
            return self._refused_frame(body)
        if body[0] not in BODY:
            return Refusal.COMMAND, body[0]
        return None if len(body) == 1 + BODY[Command(body[0])] else (Refusal.LENGTH, body[0])

    def _refused_frame(self, body: bytes) -> tuple[Refusal, int] | None:
        if len(body) < 1 + HEADER:
            return Refusal.LENGTH, body[0]
        numbers = [p.number for p in self.port.inputs]
        if body[1] not in numbers:
            return Refusal.PORT, body[1]
        k = numbers.index(body[1])
        port = self.port.inputs[k]
        if len(body) != 1 + HEADER + port.frame_bytes:
            return Refusal.LENGTH, body[0]
        if body[2] != len(self.frames[k]) % 256:
            return Refusal.NUMBER, len(self.frames[k]) % 256
        full = (len(self.frames[k]) + 1) * port.frame_bytes > port.queue_bytes
        return (Refusal.FULL, body[1]) if full else None

    def _done(self, command: Command, body: bytes) -> bytes | None:
        answer, address = bytes([ANSWER | command]), body[1:3]
        if command == Command.STATUS:
            return answer + bytes([VERSION, self.errors, *(len(f) % 256 for f in self.frames), *self.given])
        if command == Command.READ:
            found = self.registers.get(int.from_bytes(address, "little"))
            return answer + address + (found or 0).to_bytes(4, "little") + bytes([0 if found is not None else 2])
        if command == Command.WRITE:
            self.registers[int.from_bytes(address, "little")] = int.from_bytes(body[3:], "little")
            return answer + address + b"\0"
        if command == Command.RESET:
            self._restart()
            return answer
        if command == Command.SHOW:
            self.shown = body[1]
            return answer + body[1:]
        self.frames[[p.number for p in self.port.inputs].index(body[1])].append(body[1 + HEADER :])
        return None


class _FramePort(wiring.Component):
    def __init__(self, block: FramePort) -> None:
        self.block = block
        super().__init__(block.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        restarting, left = Signal(), Signal(range(RESTART))
        m.submodules.commands = commands = _Commands(self.block)
        m.submodules.answers = answers = _Answers(self.block)
        m.d.comb += [
            *(getattr(commands, n).eq(getattr(self, n)) for n in ("data", "strobe", "broken")),
            restarting.eq(left != 0),
            answers.restarting.eq(restarting | commands.restart),
            self.shown.eq(answers.shown),
            self.error.eq(commands.errors != 0),
            self.busy.eq(Cat(a != b for a in commands.numbers for b in answers.numbers).any()),
            commands.answering.eq(answers.answering),
            commands.told.eq(answers.told),
            *(a.eq(c) for a, c in zip(answers.given_numbers, commands.numbers, strict=True)),
            *(getattr(answers, n).eq(getattr(commands, n)) for n in _ASKED),
        ]
        m.d.sync += self.ap_rst_n.eq(~restarting)
        with m.If(commands.restart):
            m.d.sync += left.eq(RESTART - 1)
        with m.Elif(restarting):
            m.d.sync += left.eq(left - 1)
        m.d.comb += commands.restarting.eq(restarting)
        self._ports(m, commands, answers, restarting)
        wiring.connect(m, answers.o, wiring.flipped(self.o))
        for name in self.block.pins:
            if name.startswith("s_axi_control"):
                ours = getattr(answers, name)
                outer = getattr(self, name)
                m.d.comb += outer.eq(ours) if self.block.pins[name][0] == "output" else ours.eq(outer)
        return m

    def _ports(self, m: Module, commands: wiring.Component, answers: wiring.Component, restarting: Value) -> None:
        """Queues and converters between bytes and beats; all of them begin anew with the accelerator."""
        anew = ResetInserter(restarting)
        for k, port in enumerate(self.block.inputs):
            beats = _Beats(port)
            m.submodules[f"queue_{k}"] = anew(queue := PacketQueue(port.queue_bytes).component())
            m.submodules[f"beats_{k}"] = anew(beats)
            m.d.comb += [
                queue.data.eq(commands.body),
                queue.push.eq(commands.push[k]),
                queue.commit.eq(commands.commit[k]),
                queue.discard.eq(commands.discard),
                commands.refused[k].eq(queue.refused),
            ]
            wiring.connect(m, queue.o, beats.i)
            for signal in ("tdata", "tvalid", "tlast"):
                m.d.comb += getattr(self, f"s_axis_{port.number}_{signal}").eq(getattr(beats, signal))
            m.d.comb += beats.tready.eq(getattr(self, f"s_axis_{port.number}_tready"))
        for k, port in enumerate(self.block.outputs):
            octets = _Octets(port)
            m.submodules[f"octets_{k}"] = anew(octets)
            self._output(m, k, port, octets, anew)
            wiring.connect(m, octets.o, answers.results[k])

    def _output(self, m: Module, k: int, port: Port, octets: wiring.Component, anew: ResetInserter) -> None:
        """Where there are several outputs, each but the first keeps a frame, or one that waits could stop another."""
        outer = {s: getattr(self, f"m_axis_{port.number}_{s}") for s in ("tdata", "tvalid", "tlast", "tready")}
        if k == 0:
            m.d.comb += [
                *(getattr(octets, s).eq(outer[s]) for s in ("tdata", "tvalid", "tlast")),
                outer["tready"].eq(octets.tready),
            ]
            return
        m.submodules[f"kept_{k}"] = anew(kept := Fifo(Bus(1, port.bits + 1), max(2, port.beats)).component())
        m.d.comb += [
            kept.i.payload.eq(Cat(outer["tdata"], outer["tlast"])),
            kept.i.valid.eq(outer["tvalid"]),
            outer["tready"].eq(kept.i.ready),
            Cat(octets.tdata, octets.tlast).eq(kept.o.payload),
            octets.tvalid.eq(kept.o.valid),
            kept.o.ready.eq(octets.tready),
        ]


_ASKED = ("asked", "arguments", "refusal", "refusal_detail", "errors", "restart")


class _Commands(wiring.Component):
    """Judges packets: what becomes of a frame, what is asked, what is refused."""

    def __init__(self, block: FramePort) -> None:
        self.block = block
        count = len(block.inputs)
        self.numbers = [Signal(8, name=f"next_{k}") for k in range(count)]
        super().__init__(
            {
                "data": In(8), "strobe": In(1), "broken": In(1), "restarting": In(1),
                "body": Out(8), "push": Out(count), "commit": Out(count), "discard": Out(1), "refused": In(count),
                "asked": Out(8), "arguments": Out(8 * ARGUMENTS), "answering": In(1), "restart": Out(1),
                "refusal": Out(8), "refusal_detail": Out(8), "told": In(1), "errors": Out(8),
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = reader = PacketReader().component()
        m.d.comb += [getattr(reader, n).eq(getattr(self, n)) for n in ("data", "strobe", "broken")]
        inputs = self.block.inputs
        longest = max(ARGUMENTS + 1, 1 + HEADER + max(p.frame_bytes for p in inputs)) + 1
        length = Signal(range(longest + 1))
        head = Array(Signal(8, name=f"head_{k}") for k in range(1 + ARGUMENTS))
        at_port, ended = Signal(len(inputs)), Signal(2)
        m.d.sync += [at_port.eq(Cat(head[1] == p.number for p in inputs)), ended.eq(Cat(reader.end, ended))]
        m.d.comb += self.body.eq(reader.body)
        with m.If(reader.body_strobe):
            m.d.sync += length.eq(Mux(length == longest, longest, length + 1))
            with m.If(length <= ARGUMENTS):
                m.d.sync += head[length].eq(reader.body)
            with m.If((head[0] == Command.FRAME) & (length > HEADER)):
                m.d.comb += self.push.eq(at_port)
        with m.If(ended[1]):
            m.d.sync += length.eq(0)
        self._judge(m, reader.good, head, length, at_port, ended[1])
        return m

    def _judge(self, m: Module, good: Value, head: Array, length: Value, at_port: Value, ended: Value) -> None:
        """Facts in the cycle behind a packet's end, what is refused in the next; the packet after it is not there yet."""
        inputs = self.block.inputs
        lengths = [length == 1 + HEADER + p.frame_bytes for p in inputs]
        facts = {
            "broken": ~good,
            "is_frame": head[0] == Command.FRAME,
            "short": length <= HEADER,
            "known": Cat(head[0] == c for c in BODY).any(),
            "right": Cat((head[0] == c) & (length == 1 + n) for c, n in BODY.items()).any(),
            "right_frame": Cat(at_port[k] & right for k, right in enumerate(lengths)).any(),
            "number": _chosen(at_port, self.numbers),
            "full": (self.refused & at_port).any(),
            "is_reset": head[0] == Command.RESET,
        }
        now = {name: Signal(len(fact), name=name) for name, fact in facts.items()}
        m.d.sync += [now[name].eq(fact) for name, fact in facts.items()]
        refusal, detail = Signal(8), Signal(8)
        is_frame = now["is_frame"]
        m.d.sync += [refusal.eq(0), detail.eq(head[0])]
        with m.If(now["broken"]):
            m.d.sync += [refusal.eq(Refusal.CHECKSUM), detail.eq(0)]
        with m.Elif(is_frame & now["short"]):
            m.d.sync += refusal.eq(Refusal.LENGTH)
        with m.Elif(is_frame & ~at_port.any()):
            m.d.sync += [refusal.eq(Refusal.PORT), detail.eq(head[1])]
        with m.Elif(is_frame & ~now["right_frame"]):
            m.d.sync += refusal.eq(Refusal.LENGTH)
        with m.Elif(is_frame & (head[2] != now["number"])):
            m.d.sync += [refusal.eq(Refusal.NUMBER), detail.eq(now["number"])]
        with m.Elif(is_frame & now["full"]):
            m.d.sync += [refusal.eq(Refusal.FULL), detail.eq(head[1])]
        with m.Elif(~is_frame & ~now["known"]):
            m.d.sync += refusal.eq(Refusal.COMMAND)
        with m.Elif(~is_frame & ~now["right"]):
            m.d.sync += refusal.eq(Refusal.LENGTH)
        with m.Elif(~is_frame & ~now["is_reset"] & ((self.asked != 0) | self.restarting)):
            m.d.sync += refusal.eq(Refusal.BUSY)
        self._act(m, ended, refusal, detail, head, is_frame, at_port)

    def _act(
        self, m: Module, end: Value, refusal: Value, detail: Value, head: Array, is_frame: Value, at_port: Value
    ) -> None:
        with m.If(self.told):
            m.d.sync += self.refusal.eq(0)
        with m.If(self.answering):
            m.d.sync += self.asked.eq(0)
        m.d.sync += self.restart.eq(0)
        with m.If(end & (refusal != 0)):
            m.d.comb += self.discard.eq(1)
            m.d.sync += [self.refusal.eq(refusal), self.refusal_detail.eq(detail)]
            m.d.sync += self.errors.eq(Mux(self.errors == 255, 255, self.errors + 1))
        with m.Elif(end & is_frame):
            m.d.comb += self.commit.eq(at_port)
            m.d.sync += [n.eq(n + at_port[k]) for k, n in enumerate(self.numbers)]
        with m.Elif(end):
            m.d.sync += [self.asked.eq(head[0]), self.arguments.eq(Cat(head[1 + k] for k in range(ARGUMENTS)))]
            with m.If(head[0] == Command.RESET):
                m.d.sync += [self.restart.eq(1), self.errors.eq(0), self.refusal.eq(0)]
                m.d.sync += [n.eq(0) for n in self.numbers]


class _Answers(wiring.Component):
    """Sends what is due, a packet at a time: a refusal, an answer, or the next result."""

    def __init__(self, block: FramePort) -> None:
        self.block = block
        self.numbers = [Signal(8, name=f"result_{k}") for k in range(len(block.outputs))]
        self.given_numbers = [Signal(8, name=f"given_{k}") for k in range(len(block.inputs))]
        pins = {n: (In if w == "input" else Out)(b) for n, (w, b) in block.pins.items() if n.startswith("s_axi_")}
        super().__init__(
            pins
            | {
                "asked": In(8), "arguments": In(8 * ARGUMENTS), "answering": Out(1), "restart": In(1),
                "refusal": In(8), "refusal_detail": In(8), "told": Out(1), "errors": In(8), "restarting": In(1),
                "shown": Out(SHOWN), "o": Out(stream.Signature(8)),
                "results": In(stream.Signature(BYTE_OF_PACKET)).array(len(block.outputs)),
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.writer = writer = PacketWriter().component()
        wiring.connect(m, writer.o, wiring.flipped(self.o))
        status = [Const(VERSION, 8), self.errors, *self.given_numbers, *self.numbers]
        most = max(8, 1 + len(status))
        self.line, self.left = Signal(8 * most), Signal(range(most + 1))
        self.turn = Signal(range(max(2, len(self.numbers))))
        self.is_result, self.cut = Signal(), Signal()
        with m.If(self.restart):
            m.d.sync += [self.turn.eq(0), self.cut.eq(1), *(n.eq(0) for n in self.numbers)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += self.is_result.eq(0)
                self._choose(m, status)
            with m.State("READ"):
                self._read(m)
            with m.State("WRITE"):
                self._write(m)
            with m.State("SEND"):
                self._send(m, writer)
            with m.State("RESULT"):
                self._result(m, writer)
        return m

    def _say(self, m: Module, *octets: Value) -> None:
        m.d.sync += [self.line.eq(Cat(*octets)), self.left.eq(sum(len(o) for o in octets) // 8)]
        m.next = "SEND"

    def _choose(self, m: Module, status: Sequence[Value]) -> None:
        answer = Cat(self.asked[:7], Const(1, 1))
        ports = [Const(p.number, 8) for p in self.block.outputs]
        with m.If(self.restarting):
            pass
        with m.Elif(self.refusal != 0):
            m.d.comb += self.told.eq(1)
            self._say(m, Const(ERROR, 8), self.refusal, self.refusal_detail)
        with m.Elif(self.asked == Command.READ):
            m.next = "READ"
        with m.Elif(self.asked == Command.WRITE):
            m.next = "WRITE"
        with m.Elif(self.asked != 0):
            m.d.comb += self.answering.eq(1)
            self._say(m, answer)
            with m.If(self.asked == Command.STATUS):
                self._say(m, answer, *status)
            with m.If(self.asked == Command.SHOW):
                m.d.sync += self.shown.eq(self.arguments)
                self._say(m, answer, self.arguments[:8])
        with m.Elif(_chosen_index(self.turn, [r.valid for r in self.results])):
            m.d.sync += [self.is_result.eq(1), self.cut.eq(0)]
            self._say(m, Const(RESULT, 8), _chosen_index(self.turn, ports), _chosen_index(self.turn, self.numbers))

    def _read(self, m: Module) -> None:
        """A read of a register; an address beyond the port's width is answered like one without a register."""
        taken, address = Signal(), self.arguments[:16]
        m.d.comb += [
            self.s_axi_control_araddr.eq(address),
            self.s_axi_control_arvalid.eq(~taken & ~self.restarting),
            self.s_axi_control_rready.eq(1),
        ]
        with m.If(self.s_axi_control_arvalid & self.s_axi_control_arready):
            m.d.sync += taken.eq(1)
        with m.If(self.restarting):
            m.d.sync += taken.eq(0)
            m.next = "IDLE"
        with m.Elif(self.s_axi_control_rvalid):
            m.d.sync += taken.eq(0)
            m.d.comb += self.answering.eq(1)
            beyond = (address >> self.block.address_width) != 0
            data = Mux(beyond, 0, self.s_axi_control_rdata)
            response = Mux(beyond, 2, self.s_axi_control_rresp)
            self._say(m, Const(ANSWER | Command.READ, 8), address, data, Cat(response, Const(0, 6)))

    def _write(self, m: Module) -> None:
        address, data = self.arguments[:16], self.arguments[16:]
        addressed, written = Signal(), Signal()
        beyond = (address >> self.block.address_width) != 0
        m.d.comb += [
            self.s_axi_control_awaddr.eq(address),
            self.s_axi_control_wdata.eq(data),
            self.s_axi_control_wstrb.eq(Mux(beyond, 0, 15)),
            self.s_axi_control_awvalid.eq(~addressed & ~self.restarting),
            self.s_axi_control_wvalid.eq(~written & ~self.restarting),
            self.s_axi_control_bready.eq(1),
        ]
        with m.If(self.s_axi_control_awvalid & self.s_axi_control_awready):
            m.d.sync += addressed.eq(1)
        with m.If(self.s_axi_control_wvalid & self.s_axi_control_wready):
            m.d.sync += written.eq(1)
        with m.If(self.restarting):
            m.d.sync += [addressed.eq(0), written.eq(0)]
            m.next = "IDLE"
        with m.Elif(self.s_axi_control_bvalid):
            m.d.sync += [addressed.eq(0), written.eq(0)]
            m.d.comb += self.answering.eq(1)
            response = Mux(beyond, 2, self.s_axi_control_bresp)
            self._say(m, Const(ANSWER | Command.WRITE, 8), address, Cat(response, Const(0, 6)))

    def _send(self, m: Module, writer: wiring.Component) -> None:
        m.d.comb += [
            writer.i.valid.eq(1),
            writer.i.payload.data.eq(self.line[:8]),
            writer.i.payload.last.eq((self.left == 1) & ~self.is_result),
        ]
        with m.If(writer.i.ready):
            m.d.sync += [self.line.eq(self.line >> 8), self.left.eq(self.left - 1)]
            with m.If(self.left == 1):
                m.next = "IDLE"
                with m.If(self.is_result):
                    m.next = "RESULT"

    def _result(self, m: Module, writer: wiring.Component) -> None:
        """The bytes of a frame; after a reset in the middle the packet ends at once, too short to be taken for one."""
        for k, result in enumerate(self.results):
            with m.If(self.turn == k):
                m.d.comb += [
                    writer.i.valid.eq(result.valid | self.cut),
                    writer.i.payload.eq(result.payload),
                    result.ready.eq(writer.i.ready & ~self.cut),
                ]
        with m.If(self.cut):
            m.d.comb += [writer.i.payload.data.eq(0), writer.i.payload.last.eq(1)]
        with m.If(writer.i.valid & writer.i.ready & writer.i.payload.last):
            m.next = "IDLE"
            with m.If(~self.cut & ~self.restart):
                m.d.sync += self.turn.eq(Mux(self.turn == len(self.numbers) - 1, 0, self.turn + 1))
                m.d.sync += [n.eq(n + (self.turn == k)) for k, n in enumerate(self.numbers)]


class _Beats(wiring.Component):
    """Bytes to beats, the first one in the low bits."""

    def __init__(self, port: Port) -> None:
        self.port = port
        axi = {"tdata": Out(port.bits), "tvalid": Out(1), "tlast": Out(1), "tready": In(1)}
        super().__init__(axi | {"i": In(stream.Signature(8))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        octet, beat = Signal(range(max(2, self.port.beat_bytes))), Signal(range(max(2, self.port.beats)))
        ends, last = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~self.tvalid),
            ends.eq(octet == self.port.beat_bytes - 1),
            last.eq(beat == self.port.beats - 1),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                self.tdata.eq(Cat(self.tdata, self.i.payload) >> 8),
                octet.eq(Mux(ends, 0, octet + 1)),
                self.tvalid.eq(ends),
                self.tlast.eq(last),
            ]
            with m.If(ends):
                m.d.sync += beat.eq(Mux(last, 0, beat + 1))
        with m.Elif(self.tready):
            m.d.sync += self.tvalid.eq(0)
        return m


class _Octets(wiring.Component):
    """Beats to bytes, the low bits first."""

    def __init__(self, port: Port) -> None:
        self.port = port
        axi = {"tdata": In(port.bits), "tvalid": In(1), "tlast": In(1), "tready": Out(1)}
        super().__init__(axi | {"o": Out(stream.Signature(BYTE_OF_PACKET))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held, left, last = Signal(self.port.bits), Signal(range(self.port.beat_bytes + 1)), Signal()
        m.d.comb += [
            self.tready.eq(left == 0),
            self.o.valid.eq(left != 0),
            self.o.payload.data.eq(held[:8]),
            self.o.payload.last.eq(last & (left == 1)),
        ]
        with m.If(self.tready & self.tvalid):
            m.d.sync += [held.eq(self.tdata), last.eq(self.tlast), left.eq(self.port.beat_bytes)]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += [held.eq(held >> 8), left.eq(left - 1)]
        return m


def _chosen(which: Value, values: Sequence[Value]) -> Value:
    """The value whose bit is set, 0 if none is."""
    result: Value = Const(0, 8)
    for k, value in enumerate(values):
        result = result | Mux(which[k], value, 0)
    return result


def _chosen_index(index: Value, values: Sequence[Value]) -> Value:
    """The value of an index."""
    return Array(values)[index] if len(values) > 1 else values[0]
