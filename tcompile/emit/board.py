"""The ``board`` folder: an accelerator on a board, with clock, reset, serial line and lights, and a bench for all of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from hw.axi_lite import Control, register_map
from hw.axi_stream import tdata_width
from hw.board import Board, ResetBridge, heartbeat_bits
from hw.frame_port import ANSWER, RESULT, VERSION, Command, FramePort, Port
from hw.packets import encode
from hw.uart import bit_clocks
from tcompile.emit.pll import Pll, pll_for
from tcompile.emit.verilog import Module, modules
from tcompile.errors import Problem, UsageError
from tcompile.mapping.design import Design, Edge
from tcompile.simulate.packing import to_bytes
from tcompile.templates import render
from tcompile.yosys import MULTIPLYING

__all__ = ["BOARDS", "BoardName", "BoardPlan", "board_files", "plan_board", "port_of"]

BoardName = Literal["ulx3s"]
QUICK = 8  # clocks of a bit in simulation
GOLDEN = 2  # frames of the bench: as many as any queue takes
BITS = 10  # of a byte on the line
OVERHEAD = 2 + 1 + 2 + 4  # bytes of a packet with a frame: flags, command, port and number, checksum


@dataclass(frozen=True)
class _Pin:
    name: str
    site: str
    pull: str = "NONE"
    is_output: bool = False


@dataclass(frozen=True)
class _Device:
    part: str
    clock_hz: int
    pins: tuple[_Pin, ...]


BOARDS: Mapping[str, _Device] = {
    "ulx3s": _Device(
        "LFE5U-85F-6CABGA381",
        25_000_000,
        (
            _Pin("clk_25mhz", "G2"),
            _Pin("ftdi_txd", "M1", "UP"),
            _Pin("ftdi_rxd", "L4", "UP", True),
            _Pin("button", "R1", "DOWN"),
            _Pin("wifi_gpio0", "L2", "NONE", True),
            *(
                _Pin(f"led[{k}]", site, "NONE", True)
                for k, site in enumerate(("B2", "C2", "C1", "D2", "D1", "E2", "E1", "H3"))
            ),
        ),
    )
}


@dataclass(frozen=True)
class BoardPlan:
    """A board with its clock and the speed of its serial line.

    Parameters
    ----------
    name : str
    pll : Pll
    baud : int
        Bits per second on the line, as the host is told.
    bit_clocks : int
        Clocks of a bit.
    """

    name: BoardName
    pll: Pll
    baud: int
    bit_clocks: int


@dataclass(frozen=True)
class _Net:
    name: str
    width: int


@dataclass(frozen=True)
class _Top:
    baud: int
    bit_clocks: int
    clock_mhz: str
    nets: tuple[_Net, ...]
    reset_module: str
    board_module: str
    accelerator: str


@dataclass(frozen=True)
class _Loop:
    input_mhz: str
    output_mhz: str
    i: int
    f: int
    o: int
    phase: int


@dataclass(frozen=True)
class _Pins:
    pins: tuple[_Pin, ...]


@dataclass(frozen=True)
class _Bench:
    bit_clocks: int
    quick: int
    patience: int


@dataclass(frozen=True)
class _Synth:
    clock_mhz: str
    operators: str


@dataclass(frozen=True)
class _Text:
    text: str


def plan_board(name: BoardName, clock_mhz: float, baud: int) -> BoardPlan:
    """Clock and line of a board, in whole numbers.

    Raises
    ------
    UsageError
        The clock or the speed cannot be had.
    """
    device = BOARDS[name]
    try:
        pll = pll_for(device.clock_hz, Fraction(str(clock_mhz)) * 10**6)
    except ValueError as error:
        raise UsageError(Problem("bad-option", f"clock_mhz: {error}", hint="give another --clock-mhz")) from error
    try:
        return BoardPlan(name, pll, baud, bit_clocks(pll.output_hz, baud))
    except ValueError as error:
        raise UsageError(Problem("bad-option", f"baud: {error}", hint="give another --baud")) from error


def board_files(
    design: Design, golden: Mapping[str, np.ndarray], plan: BoardPlan, identity: Sequence[int], patience: int
) -> dict[str, bytes]:
    """Files below ``board``, and what ``synth`` and ``host`` have for the board, by relative path.

    Parameters
    ----------
    design : Design
    golden : mapping of str to ndarray
        Integer frames (N, *shape) by name of the AXI4-Stream port.
    plan : BoardPlan
    identity : sequence of int
        Words that the accelerator's registers show.
    patience : int
        Cycles without a byte after which the simulated chip has nothing more to say.
    """
    board = Board(_frame_port(design), heartbeat_bits(plan.pll.output_hz))
    written = modules((board, ResetBridge()))
    board_module, reset_module = (written[b] for b in (board, ResetBridge()))
    bench = _Bench(plan.bit_clocks, QUICK, patience)
    host, chip = _conversation(design, golden, identity)
    synth = _Synth(_mhz(plan.pll.output_hz), " ".join(f"t:{kind}" for kind in MULTIPLYING))
    return {
        **{f"board/{m.name}.v": render("rtl/block.v.j2", _Text(m.text)) for m in (board_module, reset_module)},
        "board/pll.v": render("board/pll.v.j2", _loop(plan.pll)),
        f"board/{plan.name}.v": render(
            f"board/{plan.name}.v.j2", _top(design, plan, board, board_module, reset_module)
        ),
        f"board/{plan.name}.lpf": render(f"board/{plan.name}.lpf.j2", _Pins(BOARDS[plan.name].pins)),
        "board/sim/Makefile": render("board/sim/Makefile.j2", bench),
        "board/sim/bench.cpp": render("board/sim/bench.cpp.j2", bench),
        "board/sim/golden/chip.bin": chip,
        "board/sim/golden/host.bin": host,
        "board/sim/pll.v": render("board/sim/pll.v.j2", bench),
        "host/board.json": (json.dumps(_description(design, plan, board.port, identity), indent=1) + "\n").encode(),
        "host/serial_frames.py": render("host/serial_frames.py.j2", bench),
        f"synth/{plan.name}.mk": render(f"synth/{plan.name}.mk.j2", synth),
        f"synth/{plan.name}.ys": render(f"synth/{plan.name}.ys.j2", synth),
    }


def port_of(design: Design, edge: Edge) -> Port:
    """A port of the accelerator as the frame port sees it."""
    stream = design.streams[edge.stream]
    return Port(edge.port, tdata_width(stream.bus), stream.beats)


def _frame_port(design: Design) -> FramePort:
    inputs, outputs = (tuple(port_of(design, e) for e in edges) for edges in (design.inputs, design.outputs))
    return FramePort(inputs, outputs, Control(len(inputs), len(outputs)).address_width)


def _top(design: Design, plan: BoardPlan, board: Board, board_module: Module, reset_module: Module) -> _Top:
    nets = tuple(_Net(name, width) for name, (_, width) in board.pins.items())
    mhz = _mhz(plan.pll.output_hz)
    return _Top(plan.baud, plan.bit_clocks, mhz, nets, reset_module.name, board_module.name, design.name)


def _loop(pll: Pll) -> _Loop:
    return _Loop(_mhz(pll.input_hz), _mhz(pll.output_hz), pll.i, pll.f, pll.o, max(0, pll.o // 2 - 1))


def _mhz(hz: Fraction) -> str:
    return f"{float(hz / 10**6):.9g}"


def _conversation(design: Design, golden: Mapping[str, np.ndarray], identity: Sequence[int]) -> tuple[bytes, bytes]:
    """What a host says to the chip in the bench, and what it must hear: lengths, bodies and masks."""
    registers = {row.name: row.offset for row in register_map(len(design.inputs), len(design.outputs))}
    address = registers["identity_0"].to_bytes(2, "little")
    said = [bytes([Command.RESET]), bytes([Command.READ]) + address]
    heard = [_wanted(bytes([ANSWER | Command.RESET]))]
    heard.append(_wanted(bytes([ANSWER | Command.READ]) + address + identity[0].to_bytes(4, "little") + b"\0"))
    for number in range(GOLDEN):
        for edge in design.inputs:
            frame = golden[f"s_axis_{edge.port}"][number : number + 1]
            said.append(bytes([Command.FRAME, edge.port, number]) + _beats(design, edge, frame))
        for edge in design.outputs:
            head = bytes([RESULT, edge.port, number])
            frame = golden[f"m_axis_{edge.port}"][number : number + 1]
            ones = _beats(design, edge, np.full_like(frame, -1))  # lanes beyond the channels mean nothing
            heard.append(_wanted(head + _beats(design, edge, frame), b"\xff" * len(head) + ones))
    return b"".join(map(encode, said)), b"".join(heard)


def _beats(design: Design, edge: Edge, frame: np.ndarray) -> bytes:
    bus = design.streams[edge.stream].bus
    return to_bytes(edge.layout.to_beats(frame, bus), bus)


def _wanted(body: bytes, mask: bytes | None = None) -> bytes:
    return len(body).to_bytes(4, "little") + body + (mask or b"\xff" * len(body))


def _description(design: Design, plan: BoardPlan, port: FramePort, identity: Sequence[int]) -> dict[str, object]:
    """What the host knows of the board."""
    most = max(p.frame_bytes for p in (*port.inputs, *port.outputs))
    ways = {way: sum(p.frame_bytes + OVERHEAD for p in ports) for way, ports in
            (("in", port.inputs), ("out", port.outputs))}  # fmt: skip
    return {
        "board": plan.name,
        "part": BOARDS[plan.name].part,
        "clock_mhz": float(plan.pll.output_hz / 10**6),
        "baud": plan.baud,
        "bit_clocks": plan.bit_clocks,
        "protocol": VERSION,
        "identity": list(identity),
        "window": min(p.window for p in port.inputs),
        "longest_packet": 2 * (most + OVERHEAD),
        "frames_per_second_at_most": math.floor(100 * plan.baud / BITS / max(ways.values())) / 100,
        "inputs": [{"name": f"s_axis_{p.number}", "port": p.number, "frame_bytes": p.frame_bytes} for p in port.inputs],
        "outputs": [
            {"name": f"m_axis_{p.number}", "port": p.number, "frame_bytes": p.frame_bytes} for p in port.outputs
        ],
    }
