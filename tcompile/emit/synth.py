"""The ``synth`` folder: scripts for yosys, a Makefile that runs them and nextpnr, and a shell of registers for timing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tcompile.mapping.design import Design
from tcompile.mapping.devices import DEVICES
from tcompile.simulate.netlist import Netlist
from tcompile.templates import render
from tcompile.yosys import MULTIPLYING, TECHNOLOGIES, Technology

__all__ = ["CLOCK_MHZ", "ROUTED", "SHELL", "layer_module", "synth_files"]

SHELL = "tcompile_shell"
CLOCK_MHZ = 100.0
ROUTED = tuple(name for name, device in DEVICES.items() if device.family == "ecp5")  # devices that nextpnr-ecp5 knows


@dataclass(frozen=True)
class _Nothing:
    pass


@dataclass(frozen=True)
class _Make:
    devices: tuple[str, ...]
    clock_mhz: str


@dataclass(frozen=True)
class _Read:
    top: str
    operators: str


@dataclass(frozen=True)
class _Layer:
    index: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class _Layers:
    top: str
    layers: tuple[_Layer, ...]


@dataclass(frozen=True)
class _Flow:
    top: str
    shell: str
    setup: str
    synth: str
    blocks: str
    multipliers: str


@dataclass(frozen=True)
class _Wire:
    name: str
    wire: str
    low: int
    width: int


@dataclass(frozen=True)
class _Shell:
    name: str
    top: str
    pins: tuple[_Wire, ...]
    driven: int
    taken: int


def synth_files(
    design: Design, net: Netlist, rows: Mapping[str, int], clock_mhz: float = CLOCK_MHZ
) -> dict[str, bytes]:
    """Files below ``synth`` by relative path.

    Parameters
    ----------
    design : Design
    net : Netlist
        Its top level.
    rows : mapping of str to int
        For nodes of the integer network the row of ``layers`` in the report that they belong to.
    clock_mhz : float
        Clock that place and route aim at, where none is given.
    """
    layers = _Layers(net.name, _layers(design, rows))
    return {
        "synth/Makefile": render("synth/Makefile.j2", _Make(ROUTED, f"{clock_mhz:g}")),
        "synth/layers.ys": render("synth/layers.ys.j2", layers),
        "synth/output_registers.py": render("synth/output_registers.py.j2", _Nothing()),
        "synth/read.ys": render("synth/read.ys.j2", _Read(net.name, _kinds(MULTIPLYING))),
        "synth/shell.v": render("synth/shell.v.j2", _shell(net)),
        "synth/whole.ys": render("synth/whole.ys.j2", layers),
        **{f"synth/{name}.ys": _flow(net.name, name, technology) for name, technology in TECHNOLOGIES.items()},
    }


def layer_module(top: str, index: int) -> str:
    """The module of a row of ``layers``."""
    return f"{top}_layer_{index}"


def _layers(design: Design, rows: Mapping[str, int]) -> tuple[_Layer, ...]:
    """Cells of the top level, blocks and their memories, by the row that they belong to; those of no row stay where they are."""
    cells: dict[int, list[str]] = {}
    for instance in design.instances:
        if instance.layer in rows:
            memories = (f"m_{instance.name}_{name}" for name in instance.block.memories)
            cells.setdefault(rows[instance.layer], []).extend([f"u_{instance.name}", *memories])
    return tuple(_Layer(index, tuple(cells[index])) for index in sorted(cells))


def _flow(top: str, name: str, technology: Technology) -> bytes:
    blocks, multipliers = _kinds(technology.bram), _kinds(f"{kind}*" for kind in technology.dsp)
    shell = SHELL if name == "ecp5" else ""
    return render("synth/flow.ys.j2", _Flow(top, shell, technology.setup, technology.command, blocks, multipliers))


def _kinds(names: Iterable[str]) -> str:
    """Cells of some types, as yosys selects them."""
    return " ".join(f"t:{name}" for name in names)


def _shell(net: Netlist) -> _Shell:
    """Each input of the accelerator, and each output, has bits of its own."""
    wires: list[_Wire] = []
    used = {"input": 0, "output": 0}
    for pin in net.pins:
        wire = "drive" if pin.way == "input" else "taken"
        wires.append(_Wire(pin.name, wire, used[pin.way], pin.width))
        used[pin.way] += pin.width
    return _Shell(SHELL, net.name, tuple(wires), used["input"], used["output"])
