# amaranth: UnusedElaboratable=no
"""The frame port, with an accelerator made of Python: commands, frames, refusals, and recovery from all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from hw.frame_port import ERROR, RESULT, Command, FramePort, Model, Port, Refusal
from hw.packets import decode, encode

ONE = FramePort((Port(0, 8, 4),), (Port(0, 16, 2),), 8)  # frames of 4 bytes in, of 2 beats with 2 bytes out
TWO = FramePort((Port(0, 8, 3), Port(2, 24, 2)), (Port(0, 8, 5), Port(1, 32, 1)), 9)
PATIENCE = 100  # cycles without a byte from the chip after which it has said all
LONGEST = 60_000


@dataclass
class Accelerator:
    """What stands at the AXI ports: `answer` makes the frames of the outputs from those of the inputs.

    `slow`: cycles for which it takes and gives nothing after each beat; `held`: it gives no frame.
    """

    port: FramePort
    answer: Callable[[list[bytes]], list[bytes]]
    slow: int = 0
    held: bool = False
    registers: dict[int, int] = field(default_factory=dict)
    taken: list[list[bytes]] = field(default_factory=list)
    resets: int = 0
    _parts: list[bytearray] = field(default_factory=list)
    _due: list[list[tuple[bytes, bool]]] = field(default_factory=list)
    _done: int = 0
    _rest: int = 0
    _bus: dict[str, int] = field(default_factory=dict)
    _on: bool = False

    def cycle(self, ctx: Any, dut: Any) -> None:
        """One clock: sees the transfers of this cycle, prepares the next."""
        if not ctx.get(dut.ap_rst_n):
            self._clear(ctx, dut)
            return
        if not self._on:
            self._on, self.resets = True, self.resets + 1
        self._bus_cycle(ctx, dut)
        self._rest = max(0, self._rest - 1)
        for k, p in enumerate(self.port.inputs):
            name = f"s_axis_{p.number}"
            ready = getattr(dut, f"{name}_tready")
            ctx.set(ready, self._rest == 0)
            if ctx.get(getattr(dut, f"{name}_tvalid")) and ctx.get(ready):
                self._rest = self.slow
                self._parts[k] += ctx.get(getattr(dut, f"{name}_tdata")).to_bytes(p.beat_bytes, "little")
                last = bool(ctx.get(getattr(dut, f"{name}_tlast")))
                assert last == (len(self._parts[k]) == p.frame_bytes), "TLAST must mark the last beat"
                if last:
                    self.taken[k].append(bytes(self._parts[k]))
                    self._parts[k].clear()
        while all(len(t) > self._done for t in self.taken):
            for k, frame in enumerate(self.answer([t[self._done] for t in self.taken])):
                self._queue(k, frame)
            self._done += 1
        for k, p in enumerate(self.port.outputs):
            self._give(ctx, dut, k, p)

    def _queue(self, k: int, frame: bytes) -> None:
        size = self.port.outputs[k].beat_bytes
        beats = [frame[n : n + size] for n in range(0, len(frame), size)]
        assert len(beats) == self.port.outputs[k].beats
        self._due[k] += [(beat, n == len(beats) - 1) for n, beat in enumerate(beats)]

    def _give(self, ctx: Any, dut: Any, k: int, p: Port) -> None:
        name, due = f"m_axis_{p.number}", self._due[k]
        offered = bool(due) and not self.held
        ctx.set(getattr(dut, f"{name}_tvalid"), offered)
        ctx.set(getattr(dut, f"{name}_tdata"), int.from_bytes(due[0][0], "little") if offered else 0)
        ctx.set(getattr(dut, f"{name}_tlast"), due[0][1] if offered else 0)
        if offered and ctx.get(getattr(dut, f"{name}_tready")):
            due.pop(0)

    def _bus_cycle(self, ctx: Any, dut: Any) -> None:
        """AXI4-Lite, each channel in its turn; a register that is not there is answered by an error."""
        bus, s = self._bus, "s_axi_control_"
        for channel, fields in (("ar", ["addr"]), ("aw", ["addr"]), ("w", ["data", "strb"])):
            ctx.set(getattr(dut, f"{s}{channel}ready"), channel not in bus)
            if channel not in bus and ctx.get(getattr(dut, f"{s}{channel}valid")):
                bus[channel] = 1
                bus |= {channel + f: ctx.get(getattr(dut, s + channel + f)) for f in fields}
        found = self.registers.get(bus.get("araddr", 0))
        for channel, due in (("r", "ar" in bus), ("b", "aw" in bus and "w" in bus)):
            ctx.set(getattr(dut, f"{s}{channel}valid"), due)
        ctx.set(getattr(dut, f"{s}rdata"), found or 0)
        ctx.set(getattr(dut, f"{s}rresp"), 0 if found is not None else 2)
        ctx.set(getattr(dut, f"{s}bresp"), 0)
        if "ar" in bus and ctx.get(getattr(dut, f"{s}rready")):
            del bus["ar"]
        if "aw" in bus and "w" in bus and ctx.get(getattr(dut, f"{s}bready")):
            assert bus["wstrb"] == 15
            self.registers[bus["awaddr"]] = bus["wdata"]
            del bus["aw"], bus["w"]

    def _clear(self, ctx: Any, dut: Any) -> None:
        self._on, self._done, self._rest, self._bus = False, 0, 0, {}
        self.taken = [[] for _ in self.port.inputs]
        self._parts = [bytearray() for _ in self.port.inputs]
        self._due = [[] for _ in self.port.outputs]
        for p in self.port.outputs:
            ctx.set(getattr(dut, f"m_axis_{p.number}_tvalid"), 0)
        for channel in ("r", "b"):
            ctx.set(getattr(dut, f"s_axi_control_{channel}valid"), 0)


def said(
    accelerator: Accelerator, packets: Sequence[bytes | list[int | None]], *, wait: bool = True, ready: str = "1"
) -> list[bytes | None]:
    """Bodies that the port says to what the host sends: raw bytes, packets already; `wait` for silence after each."""
    dut, line = accelerator.port.component(), bytearray()

    async def drive(ctx):  # type: ignore[no-untyped-def]
        async def tick(cycle: int) -> bool:
            ctx.set(dut.o.ready, int(ready[cycle % len(ready)]))
            accelerator.cycle(ctx, dut)
            spoke = ctx.get(dut.o.valid) and ctx.get(dut.o.ready)
            if spoke:
                line.append(ctx.get(dut.o.payload))
            await ctx.tick()
            return bool(spoke)

        cycle = 0
        for n, packet in enumerate(packets):
            for byte in packet:
                ctx.set(dut.strobe, byte is not None), ctx.set(dut.broken, byte is None), ctx.set(dut.data, byte or 0)
                await tick(cycle := cycle + 1)
                ctx.set(dut.strobe, 0), ctx.set(dut.broken, 0)
                await tick(cycle := cycle + 1)
            quiet = 0
            while (wait or n == len(packets) - 1) and quiet < PATIENCE:
                assert cycle < LONGEST
                quiet = 0 if await tick(cycle := cycle + 1) else quiet + 1

    m = Module()
    m.submodules.dut = dut
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    return decode(bytes(line))


def doubled(frames: list[bytes]) -> list[bytes]:
    """The answer of an accelerator with one input of 4 bytes, one output of 4."""
    return [bytes((2 * b) % 256 for b in frames[0])]


def joined(frames: list[bytes]) -> list[bytes]:
    """Of one with inputs of 3 and 6 bytes, outputs of 5 and 4."""
    return [(frames[0] + frames[1])[:5], (frames[1] + frames[0])[-4:]]


def one(**options: Any) -> Accelerator:
    return Accelerator(ONE, doubled, **options)


def frame(number: int, content: bytes, port: int = 0) -> bytes:
    return encode(bytes([Command.FRAME, port, number % 256]) + content)


def contents(count: int, size: int = 4) -> list[bytes]:
    return [np.random.default_rng(k).bytes(size) for k in range(count)]


STATUS, RESET = encode(bytes([Command.STATUS])), encode(bytes([Command.RESET]))


@pytest.mark.parametrize("ready, slow", [("1", 0), ("1", 5), ("100", 0), ("0000100", 7)])
def test_frames_give_results_under_stalls(ready, slow):
    sent = contents(4)
    found = said(one(slow=slow), [frame(k, c) for k, c in enumerate(sent)], wait=False, ready=ready)
    assert found == [bytes([RESULT, 0, k]) + doubled([c])[0] for k, c in enumerate(sent)]


@pytest.mark.parametrize("ready, slow", [("1", 0), ("0001", 4)])
def test_several_ports_take_and_give_in_turns(ready, slow):
    sent = list(zip(contents(3, 3), contents(3, 6), strict=True))
    packets = [frame(k, c, port) for k, pair in enumerate(sent) for port, c in zip((0, 2), pair, strict=True)]
    found = said(Accelerator(TWO, joined, slow=slow), packets, wait=False, ready=ready)
    results = [joined(list(pair)) for pair in sent]
    assert found == [bytes([RESULT, k, n]) + results[n][k] for n in range(3) for k in range(2)]


@pytest.mark.exhaustive
def test_frames_are_numbered_modulo_256():
    packets = [frame(k, bytes([k % 251] * 4)) for k in range(258)]
    found = said(one(), packets, wait=False)
    assert [f[2] for f in found if f] == [k % 256 for k in range(258)]


REGISTERS = {0x00: 0x54434D50, 0x0C: 1, 0x20: 0xFFFFFFFF}


def packet(*body: int) -> bytes:
    return encode(bytes(body))


PACKETS = {
    "status": STATUS,
    "read": packet(Command.READ, 0x20, 0),
    "read nothing": packet(Command.READ, 0x40, 0),
    "read beyond": packet(Command.READ, 0x20, 1),
    "write": packet(Command.WRITE, 0x0C, 0, 0x7E, 0x7D, 3, 4),
    "show": packet(Command.SHOW, 19),
    "reset": RESET,
    "frame": frame(0, b"\x7e\x01\x7d\x02"),
    "short frame": frame(0, b"\1\2\3"),
    "long frame": frame(0, b"\1\2\3\4\5"),
    "very long frame": frame(0, bytes(300)),
    "no port": packet(Command.FRAME),
    "no number": packet(Command.FRAME, 0),
    "other port": frame(0, b"\1\2\3\4", 1),
    "other number": frame(7, b"\1\2\3\4"),
    "other command": packet(99, 1, 2),
    "long status": packet(Command.STATUS, 1),
    "short read": packet(Command.READ, 0),
    "bad checksum": packet(Command.STATUS)[:-2] + bytes([packet(Command.STATUS)[-2] ^ 1, 0x7E]),
    "byte from nowhere": bytes([0x55, *STATUS]),
    "lost flag": frame(0, b"\1\2\3\4")[:-1] + STATUS[1:],
}


def modelled(port: FramePort, lines: Sequence[bytes], registers: dict[int, int]) -> tuple[list[bytes], list[bytes]]:
    model = Model(port, dict(registers))
    answers = [model.receive(body) for body in decode(b"".join(lines))]
    return [a for a in answers if a is not None], model.frames[0]


def answers(found: Sequence[bytes | None]) -> list[bytes | None]:
    """All but results."""
    return [f for f in found if f is None or f[0] != RESULT]


@pytest.mark.parametrize("name", PACKETS)
def test_each_packet_is_answered_as_by_the_model(name):
    lines = [PACKETS[name], STATUS, frame(0, b"abcd"), STATUS]
    mine = one(registers=dict(REGISTERS), held=True)
    found = said(mine, lines)
    assert (found, mine.taken[0]) == modelled(ONE, lines, REGISTERS)


@pytest.mark.parametrize("seed", range(2))
def test_any_packets_are_answered_as_by_the_model(seed):
    generator = np.random.default_rng(seed)
    lines = [list(PACKETS.values())[k] for k in generator.integers(0, len(PACKETS), 25)]
    mine = one(registers=dict(REGISTERS), held=True)
    found = said(mine, [*lines, STATUS])
    assert (found, mine.taken[0]) == modelled(ONE, [*lines, STATUS], REGISTERS)


@pytest.mark.parametrize("lost", range(1, 11))
def test_a_lost_byte_of_a_frame_is_refused_and_the_frame_may_come_again(lost):
    whole = frame(0, b"abcd")
    found = said(one(), [whole[:lost] + whole[lost + 1 :], whole])
    assert found == [bytes([ERROR, Refusal.CHECKSUM, 0]), bytes([RESULT, 0, 0]) + doubled([b"abcd"])[0]]


def test_the_accelerator_never_sees_a_broken_frame():
    mine = one()
    broken = bytearray(frame(0, b"abcd"))
    broken[5] ^= 4
    found = said(mine, [bytes(broken), frame(0, b"abcd")])
    assert mine.taken == [[b"abcd"]]
    assert len(found) == 2


def test_a_byte_that_was_not_received_well_breaks_its_packet_only():
    whole = list[int | None](frame(0, b"abcd"))
    found = said(one(), [[*whole[:4], None, *whole[5:]], frame(0, b"wxyz")])
    assert found == [bytes([ERROR, Refusal.CHECKSUM, 0]), bytes([RESULT, 0, 0]) + doubled([b"wxyz"])[0]]


def test_frames_beyond_the_queue_are_refused(monkeypatch):
    port = FramePort((Port(0, 8, 200),), (Port(0, 8, 1),), 8)
    monkeypatch.setattr("hw.frame_port.QUEUE", 512)
    mine = Accelerator(port, lambda frames: [frames[0][:1]], slow=10**6)
    found = said(mine, [frame(k, bytes(200)) for k in range(3)], wait=False)
    assert found == [bytes([ERROR, Refusal.FULL, 0])]


def test_a_second_question_before_the_answer_is_refused():
    found = said(one(), [STATUS, STATUS, STATUS], wait=False, ready="0" * 120 + "1" * 2000)
    assert found.count(bytes([ERROR, Refusal.BUSY, Command.STATUS])) == 1
    assert len(found) == 3


@pytest.mark.parametrize("ready", ["1", "0001"])
@pytest.mark.parametrize("sent", [0, 3])
def test_a_reset_in_the_middle_of_a_frame_begins_anew(sent, ready):
    mine = one(slow=15)
    before = b"".join(frame(k, c) for k, c in enumerate(contents(sent)))
    found = said(mine, [before + frame(sent, b"abcd")[:6] + RESET, frame(0, b"wxyz")], ready=ready)
    assert mine.resets == 2
    assert found[-2:] == [bytes([ANSWERED_RESET]), bytes([RESULT, 0, 0]) + doubled([b"wxyz"])[0]]


ANSWERED_RESET = 0x80 | Command.RESET


@pytest.mark.parametrize("ready", ["01", "011"])
def test_a_reset_in_any_cycle_of_a_result_begins_anew(ready):
    packets = [q for k in range(20) for q in (frame(0, b"abcd") + b"\x7e" * k + RESET, frame(0, b"wxyz"), RESET)]
    found = said(one(), packets, ready=ready)
    assert found.count(bytes([RESULT, 0, 0]) + doubled([b"wxyz"])[0]) == 20


def test_a_reset_frees_a_port_that_waits_for_its_accelerator():
    mine = one(held=True)
    found = said(mine, [frame(0, b"abcd"), RESET, STATUS])
    assert found == [bytes([ANSWERED_RESET]), bytes([0x81, 1, 0, 0, 0])]


def test_a_result_that_a_reset_cuts_off_is_no_result():
    port = FramePort((Port(0, 8, 1),), (Port(0, 8, 200),), 8)
    mine = Accelerator(port, lambda frames: [frames[0] * 200])
    found = said(mine, [frame(0, b"a"), RESET, frame(0, b"b")], wait=False, ready="0001")
    whole = bytes([RESULT, 0, 0]) + b"b" * 200
    assert found[-2:] == [bytes([ANSWERED_RESET]), whole]
    assert all(f is None or len(f) < len(whole) for f in found[:-2])


@pytest.mark.parametrize("bits, beats", [(0, 1), (12, 1), (8, 0)])
def test_a_port_that_cannot_be_wrong(bits, beats):
    with pytest.raises(ValueError, match="whole bytes"):
        Port(0, bits, beats)


def test_an_accelerator_without_ports_wrong():
    with pytest.raises(ValueError, match="an input and an output"):
        FramePort((), (Port(0, 8, 1),), 8)


def test_small_frames_may_be_many():
    assert [Port(0, 8, n).window for n in (1, 64, 1000, 5000)] == [64, 32, 2, 2]
