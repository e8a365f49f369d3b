"""The ``rtl`` folder: the top level, the modules of memories and resets, one file per distinct block, contents of memories."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from hw.block import pack
from tcompile.emit.memories import memory_files
from tcompile.emit.verilog import Module, Written, modules
from tcompile.mapping.design import Design
from tcompile.simulate.netlist import Cell, Net, Netlist, Pin, netlist
from tcompile.templates import render

__all__ = ["Rtl", "identity_of", "rtl", "rtl_files"]


@dataclass(frozen=True)
class Rtl:
    """The ``rtl`` folder.

    Parameters
    ----------
    files : dict of str to bytes
        By relative path.
    netlist : Netlist
        The top level: its name, its pins, its identity.
    """

    files: dict[str, bytes]
    netlist: Netlist

    @property
    def identity(self) -> tuple[int, ...]:
        """As words of 32 bits."""
        return tuple(self.netlist.identity >> 32 * k & 0xFFFFFFFF for k in range(8))


@dataclass(frozen=True)
class _Cell:
    module: str
    name: str
    wires: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Rom:
    name: str
    width: int
    depth: int
    address_width: int
    file: str
    address: str
    data: str
    enable: str


@dataclass(frozen=True)
class _Top:
    name: str
    pins: tuple[Pin, ...]
    nets: tuple[Net, ...]
    cells: tuple[_Cell, ...]
    roms: tuple[_Rom, ...]
    resets: tuple[str, ...]
    identity: str
    loadable: bool


@dataclass(frozen=True)
class _Block:
    text: str


@dataclass(frozen=True)
class _Nothing:
    pass


def rtl_files(design: Design) -> dict[str, bytes]:
    """Files below ``rtl`` by relative path."""
    return rtl(design).files


def rtl(design: Design) -> Rtl:
    """Files below ``rtl``, and what the top level looks like from outside; its file is named after the design.

    The identity that the control registers show is the SHA-256 of everything else in the folder, without the contents of memories
    that can be loaded.
    """
    net = netlist(design, (0,) * 8)
    written = modules(c.block for c in net.cells)
    memories, names = memory_files(net.roms, loadable=net.loadable)
    files = {f"rtl/{m.name}.v": render("rtl/block.v.j2", _Block(m.text)) for m in written.values()}
    kind = "ram" if net.loadable else "rom"
    files |= {f"rtl/tc_{module}.v": render(f"rtl/{module}.v.j2", _Nothing()) for module in (kind, "reset")}
    contents = {f"rtl/{name}": content for name, content in memories.items()}
    fixed = files if net.loadable else files | contents
    identity = identity_of({**fixed, "top": render("rtl/top.v.j2", _top(net, written, names))})
    known = replace(net, identity=pack(identity, 32))
    files |= contents | {f"rtl/{design.name}.v": render("rtl/top.v.j2", _top(known, written, names))}
    return Rtl({name: files[name] for name in sorted(files, key=PurePosixPath)}, known)


def identity_of(files: dict[str, bytes]) -> tuple[int, ...]:
    """SHA-256 over names and contents as eight words of 32 bits."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name}\0{len(files[name])}\0".encode())
        total.update(files[name])
    digest = total.digest()
    return tuple(int.from_bytes(digest[k : k + 4], "big") for k in range(0, 32, 4))


def _top(net: Netlist, written: dict[Written, Module], names: dict[str, str]) -> _Top:
    return _Top(
        net.name,
        net.pins,
        net.nets,
        tuple(_cell(c, written[c.block]) for c in net.cells),
        tuple(
            _Rom(r.name, r.shape.width, len(r.words), r.shape.address_width, names[r.name], r.address, r.data, r.enable)
            for r in net.roms
        ),
        net.resets,
        f"{net.identity:064x}",
        net.loadable,
    )


def _cell(cell: Cell, module: Module) -> _Cell:
    wires = {**cell.wires, "clk": "ap_clk"}
    return _Cell(module.name, f"u_{cell.name}", tuple((port, wires[port]) for port in sorted(module.ports)))
