"""What other flows need to take an accelerator in: IP-XACT, Vivado, FuseSoC, C and PYNQ.

All of it is rendered from one description, `Integration`; no name of the model is in it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from hw.axi_lite import Control, Field, Register, Registers, fields
from hw.axi_stream import tdata_width
from tcompile.emit.loading import loading_file
from tcompile.emit.top import Rtl
from tcompile.mapping.design import Design, Edge
from tcompile.simulate.netlist import CONTROL, Pin, control_of
from tcompile.templates import render
from tcompile.version import __version__

__all__ = ["Integration", "integration_files"]

TEMPLATES = {
    "component.xml": "integrate/component.xml.j2",
    "{top}.core": "integrate/fusesoc.core.j2",
    "synth/vivado.tcl": "integrate/vivado.tcl.j2",
    "host/tcompile.h": "integrate/tcompile.h.j2",
    "host/driver.py": "integrate/driver.py.j2",
}


@dataclass(frozen=True)
class StreamPort:
    """An AXI4-Stream port.

    Parameters
    ----------
    name : str
    mode : str
        ``slave`` takes frames, ``master`` gives them.
    elements : int
        Of a beat, element 0 in the low bits.
    bits : int
        Of an element.
    signed : bool
    beats : int
        Of a frame.
    channels, positions : int
        Elements of a position, which begins a new beat, and positions of a frame.
    tdata_bytes : int
    pins : tuple of (str, str)
        Name in the AXI4-Stream standard and name at the top level.
    """

    name: str
    mode: str
    elements: int
    bits: int
    signed: bool
    beats: int
    channels: int
    positions: int
    tdata_bytes: int
    pins: tuple[tuple[str, str], ...]

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame in memory, beats without gaps."""
        return self.beats * self.tdata_bytes


@dataclass(frozen=True)
class MappedRegister:
    """A register, its bits and what it holds after reset."""

    name: str
    offset: int
    access: str
    description: str
    reset: int
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Integration:
    """An accelerator from outside.

    Parameters
    ----------
    top : str
        The top module.
    version : str
        Of tcompile.
    pins : tuple of Pin
        Those of the top level, without clock and reset.
    ports : tuple of StreamPort
    control : str
        Name of the AXI4-Lite port.
    control_pins : tuple of (str, str)
        As those of `StreamPort`.
    registers : tuple of MappedRegister
    address_bits : int
    sources, memories : tuple of str
        Verilog and contents of memories, relative to the build directory.
    identity : tuple of int
        Eight words of 32 bits.
    """

    top: str
    version: str
    pins: tuple[Pin, ...]
    ports: tuple[StreamPort, ...]
    control: str
    control_pins: tuple[tuple[str, str], ...]
    registers: tuple[MappedRegister, ...]
    address_bits: int
    sources: tuple[str, ...]
    memories: tuple[str, ...]
    identity: tuple[int, ...]

    @classmethod
    def of(cls, design: Design, rtl: Rtl) -> Integration:
        """The description of a design whose Verilog was written."""
        pins = rtl.netlist.pins
        control = control_of(design)
        return cls(
            top=design.name,
            version=__version__,
            pins=pins,
            ports=(
                *(_port(design, "s_axis", "slave", e, pins) for e in design.inputs),
                *(_port(design, "m_axis", "master", e, pins) for e in design.outputs),
            ),
            control=CONTROL,
            control_pins=_mapped(CONTROL, pins),
            registers=tuple(_register(r, control, rtl.identity) for r in control.registers),
            address_bits=control.address_width,
            sources=tuple(n for n in rtl.files if n.endswith(".v")),
            memories=tuple(n for n in rtl.files if n.endswith(".mem")),
            identity=rtl.identity,
        )


def integration_files(design: Design, rtl: Rtl) -> dict[str, bytes]:
    """Files by relative path; the same design gives the same bytes."""
    found = Integration.of(design, rtl)
    files = {
        name.format(top=found.top): render(template, found, escape="html" if name.endswith(".xml") else "none")
        for name, template in TEMPLATES.items()
    }
    if design.loadable:
        files["host/weights.bin"] = loading_file(rtl.netlist, control_of(design))
    return files | {"host/registers.json": _registers_json(found)}


def _port(design: Design, kind: str, mode: str, edge: Edge, pins: tuple[Pin, ...]) -> StreamPort:
    stream = design.streams[edge.stream]
    bus, name = stream.bus, f"{kind}_{edge.port}"
    return StreamPort(
        name, mode, bus.lanes, bus.width, bus.signed, stream.beats, edge.layout.channels, edge.layout.positions,
        tdata_width(bus) // 8, _mapped(name, pins),
    )  # fmt: skip


def _mapped(port: str, pins: tuple[Pin, ...]) -> tuple[tuple[str, str], ...]:
    own = [p.name for p in pins if p.name.startswith(f"{port}_")]
    return tuple((name.removeprefix(f"{port}_").upper(), name) for name in own)


def _register(register: Register, control: Control, identity: tuple[int, ...]) -> MappedRegister:
    reset, _ = Registers(control, identity).read(register.offset)
    return MappedRegister(*register, reset, tuple(fields(register, control.inputs)))


def _registers_json(found: Integration) -> bytes:
    data: dict[str, Any] = {"identity": list(found.identity), "registers": []}
    for row in found.registers:
        data["registers"].append(asdict(row) | {"fields": [f._asdict() for f in row.fields]})
    return (json.dumps(data, indent=1) + "\n").encode()
